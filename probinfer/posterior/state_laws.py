"""Laws of the states over time, Gaussian or a cloud of particles: moments, quantiles, and the laws of times to come."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import ndtr, ndtri

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.particle import compiled
from probinfer.inference.montecarlo.particle_keys import key_of, keys_of
from probinfer.inference.montecarlo.weights import systematic
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import StateSpace

# Futures drawn for a forecast: the 5% point is then off by 0.02 sd.
FUTURES = 20_000


class Gaussian(NamedTuple):
    """Normal laws of every entry."""

    mean: np.ndarray  # (T, d)
    sd: np.ndarray  # (T, d)
    mcse: None = None

    def quantiles(self, levels: np.ndarray) -> np.ndarray:
        """(levels, T, d)."""
        return self.mean + ndtri(levels)[:, None, None] * self.sd


class Mixture(NamedTuple):
    """Normal laws of every entry, one for each of S sets of parameters, which count alike."""

    mean: np.ndarray  # (T, d)
    sd: np.ndarray  # (T, d), within and between sets
    mcse: np.ndarray  # (T, d), of the mean
    means: np.ndarray  # (S, T, d)
    sds: np.ndarray  # (S, T, d)

    def quantiles(self, levels: np.ndarray) -> np.ndarray:
        """(levels, T, d), by bisection of the mixture's distribution function."""
        sds = np.maximum(self.sds, 1e-300)
        low, high = (np.broadcast_to(end, (len(levels), *self.mean.shape)) for end in self._ends())
        for _ in range(60):
            middle = (low + high) / 2
            below = np.stack([ndtr((x - self.means) / sds).mean(axis=0) for x in middle])
            under = below < levels[:, None, None]
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return (low + high) / 2

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        return (self.means - 10 * self.sds).min(axis=0), (self.means + 10 * self.sds).max(axis=0)


def mixture_of(means: np.ndarray, sds: np.ndarray) -> Mixture:
    """The mixture of normal laws (S, T, d)."""
    error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    return Mixture(means.mean(axis=0), np.sqrt((sds**2).mean(axis=0) + means.var(axis=0)), error, means, sds)


class Cloud(NamedTuple):
    """Weighted particles of several runs, which count alike."""

    mean: np.ndarray  # (T, *shape)
    sd: np.ndarray  # (T, *shape), within and between runs
    mcse: np.ndarray  # (T, *shape), of the mean; NaN for one run
    particles: np.ndarray  # (R, T or 1, N, *shape)
    weights: np.ndarray  # (R, T or 1, N), summing to one

    def quantiles(self, levels: np.ndarray) -> np.ndarray:
        """(levels, T, *shape): the smallest particle whose cumulated weight reaches the level."""
        runs, times, n = self.weights.shape
        if times < len(self.mean):
            raise MethodError(
                "Quantiles and intervals need all particles, and only the last ones were kept; filter again with "
                "pi.ParticleFilter(keep=True), or with fewer particles."
            )
        x = np.moveaxis(self.particles.reshape(runs, times, n, -1), 1, 0).reshape(times, runs * n, -1)
        w = np.moveaxis(self.weights, 1, 0).reshape(times, runs * n) / runs
        out = np.empty((len(levels), times, x.shape[-1]))
        for t, j in np.ndindex(times, x.shape[-1]):
            order = np.argsort(x[t, :, j])
            cumulated = np.cumsum(w[t, order])
            at = np.minimum(np.searchsorted(cumulated, levels * cumulated[-1]), runs * n - 1)
            out[:, t, j] = x[t, order[at], j]
        return out.reshape(len(levels), times, *self.particles.shape[3:])


def cloud_of(means: np.ndarray, variances: np.ndarray, particles: np.ndarray, weights: np.ndarray) -> Cloud:
    """A cloud from the means and variances (R, T, *shape) of its runs."""
    runs = len(means)
    error = means.std(axis=0, ddof=1) / np.sqrt(runs) if runs > 1 else np.full(means.shape[1:], np.nan)
    return Cloud(means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0)), error, particles, weights)


def cloud_of_draws(draws: np.ndarray) -> Cloud:
    """Equally weighted particles (R, T, N, *shape)."""
    weights = np.full(draws.shape[:3], 1 / draws.shape[2])
    return cloud_of(draws.mean(axis=2), draws.var(axis=2), draws, weights)


def future_gaussian(
    model: StateSpace, params: Parameters, mean: np.ndarray, cov: np.ndarray, first: int, steps: int
) -> tuple[Gaussian, Gaussian]:
    """States and observations to come, exactly, from the moments of the last state."""
    linear = model.linear
    assert linear is not None
    found: list[list[np.ndarray]] = [[], [], [], []]
    with jax.enable_x64(True):
        for t in range(first, first + steps):
            step = jax.tree.map(np.asarray, linear.step(t, params))
            mean = step.transition @ mean + step.transition_offset
            cov = step.transition @ cov @ step.transition.T + step.transition_cov
            spread = step.observation @ cov @ step.observation.T + step.observation_cov
            parts = (mean, np.diag(cov), step.observation @ mean + step.observation_offset, np.diag(spread))
            for values, part in zip(found, parts, strict=True):
                values.append(part)
    x, vx, y, vy = map(np.stack, found)
    return Gaussian(x, np.sqrt(vx)), Gaussian(y, np.sqrt(vy))


def future_cloud(
    model: StateSpace, params: Parameters, last: Cloud, key: np.ndarray, first: int, steps: int
) -> tuple[Cloud, Cloud]:
    """States and observations to come: particles of the last time moved on, each with an observation of its own.

    params: a first axis of runs on every array.
    """
    generator = np.random.default_rng(key)
    runs = len(last.weights)
    count = max(FUTURES // runs, 1)
    chosen = [x[-1][systematic(w[-1], count, generator)] for x, w in zip(last.particles, last.weights, strict=True)]
    words = generator.integers(0, 2**32, 2, dtype=np.uint32)
    sets = {name: np.repeat(value, count, axis=0) for name, value in params.items()}

    def simulate(params: Any, x: Any, words: Any, times: Any) -> tuple:
        root = key_of(words)

        def advance(x: Any, t: Any) -> tuple:
            moved, seen = (keys_of(each, len(x)) for each in jax.random.split(jax.random.fold_in(root, t)))
            x = jax.vmap(lambda k, x, params: model.transition(x, t, params).sample(k))(moved, x, params)
            return x, (x, jax.vmap(lambda k, x, params: model.observation(x, t, params).sample(k))(seen, x, params))

        return lax.scan(advance, x, times)[1]

    with jax.enable_x64(True):
        arguments = jax.tree.map(jnp.asarray, (sets, np.concatenate(chosen), words, np.arange(first, first + steps)))
        x, y = map(np.asarray, compiled(model, ("future",), simulate, *arguments)(*arguments))
    split = [np.moveaxis(part.reshape(steps, runs, count, *part.shape[2:]), 0, 1) for part in (x, y)]
    return cloud_of_draws(split[0]), cloud_of_draws(split[1])
