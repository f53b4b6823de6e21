"""Before the chains: about where the posterior is, and how many particles its likelihood wants."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.transforms import biject_to

from probinfer.errors import ModelError
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.montecarlo.marginal import Marginal

VARIANCE = 1.5  # of the log likelihood that the number of particles aims at: Doucet et al. (2015) find 1 to 3 efficient
_FIRST, _MOST = 64, 2**17  # particles
_POINTS, _PER_PARAMETER = 60, 10  # of a round
_ROUNDS = 15
_SHARE = 0.25  # effective share of the points that a round's temper leaves
_PLACES, _REPEATS = 8, 10  # points, and estimates at each, from which the variance


class Pilot(NamedTuple):
    """mean (d,) and cov (d, d) of the parameters, rough and unconstrained; particles; sd of the log likelihood."""

    mean: np.ndarray
    cov: np.ndarray
    particles: int
    sd: float


def find_pilot(marginal: Marginal, generator: np.random.Generator, particles: int | None) -> Pilot:
    """Tempered importance sampling from the prior with normal proposals, then estimates at its mean.

    Raises ModelError if the estimate is zero wherever the prior puts a point.
    """
    count = _POINTS + _PER_PARAMETER * marginal.dim
    few = particles or _FIRST
    points, log_q = _prior_draws(marginal, count, generator)
    mean, cov = points.mean(axis=0), np.cov(points.T).reshape(marginal.dim, marginal.dim)
    arrived = 0
    for _ in range(_ROUNDS):
        values = estimates(marginal, few, points, generator)
        if not np.isfinite(values).any():
            raise ModelError(
                f"The estimate of the likelihood is zero at each of {count} points of the prior, with {few} particles: "
                "no particle explains some observation. Use more particles, a proposal= that sees the observation "
                "(pi.ParticleFilter), an observation law with heavier tails, or a prior nearer to the data."
            )
        weights, beta = _tempered(values - log_q)
        mean = weights @ points
        spread = (points - mean).T @ (weights[:, None] * (points - mean))
        cov = spread + 1e-6 * np.diag(np.diag(spread)) + 1e-12 * np.eye(marginal.dim)
        arrived += beta == 1.0
        if arrived == 2:
            break
        points, log_q = _normal_draws(mean, 1.5 * cov, count, generator)
    if particles is not None:
        return Pilot(mean, cov, particles, _spread(marginal, particles, mean, cov, generator))
    return Pilot(mean, cov, *_choose_particles(marginal, mean, cov, generator))


def estimates(marginal: Marginal, particles: int, points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An estimate of the log density of the parameters at each of the points (n, d)."""
    target = marginal.target
    words = generator.integers(0, 2**32, (len(points), marginal.blocks, 2), dtype=np.uint32)
    program = likelihood_program(marginal, particles)
    padded = np.pad(points, ((0, 0), (0, target.dim - marginal.dim))).astype(target.dtype)

    def one(i: int) -> float:
        with target.precision():
            return float(program(padded[i], words[i], target.inputs))

    with ThreadPoolExecutor(workers(len(points)), thread_name_prefix="probinfer") as pool:
        return np.array(list(pool.map(one, range(len(points)))))


def likelihood_program(marginal: Marginal, particles: int) -> Callable[..., Any]:
    """The executable of `Marginal.log_density`: (z, words, inputs)."""
    target = marginal.target
    point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
    words = jax.ShapeDtypeStruct((marginal.blocks, 2), jnp.uint32)
    return target.compile(
        f"likelihood {particles} {marginal.name}",
        lambda z, words, inputs: marginal.log_density(z, words, inputs, particles),
        point,
        words,
        target.inputs,
    )


def _choose_particles(
    marginal: Marginal, mean: np.ndarray, cov: np.ndarray, generator: np.random.Generator
) -> tuple[int, float]:
    """The least power of sqrt(2) with about VARIANCE, and the sd there; the variance falls as 1 / particles."""
    particles = _FIRST
    while True:
        sd = _spread(marginal, particles, mean, cov, generator)
        if sd**2 <= 1.4 * VARIANCE or particles >= _MOST:
            return particles, sd
        # far above, the log likelihood is not yet nearly normal, and its variance tells little
        wanted = particles * min(sd**2 / VARIANCE, 8.0)
        particles = int(min(2 ** (np.ceil(2 * np.log2(wanted)) / 2), _MOST))


def _spread(
    marginal: Marginal, particles: int, mean: np.ndarray, cov: np.ndarray, generator: np.random.Generator
) -> float:
    """Standard deviation of an estimate over the pilot's law, the worst point left out; infinite if some are zero."""
    points, _ = _normal_draws(mean, cov, _PLACES, generator)
    values = estimates(marginal, particles, np.repeat(points, _REPEATS, axis=0), generator)
    values = values.reshape(_PLACES, _REPEATS)
    variances = np.where(np.isfinite(values).all(axis=1), np.nan_to_num(values, neginf=0.0).var(axis=1, ddof=1), np.inf)
    return float(np.sqrt(np.sort(variances)[:-1].mean()))


def _prior_draws(marginal: Marginal, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, d) of the prior, and its log density there."""
    target, prior = marginal.target, marginal.model.prior

    def one(words: jax.Array) -> tuple:
        parts = []
        for i, law in enumerate(prior.values()):
            key = jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), i)
            parts.append(jnp.ravel(biject_to(law.support).inv(law.sample(key))))
        z = jnp.concatenate([*parts, jnp.zeros(target.dim - marginal.dim)]).astype(target.dtype)
        return z[: marginal.dim], marginal.log_prior(z)

    words = generator.integers(0, 2**32, (count, 2), dtype=np.uint32)
    shape = jax.ShapeDtypeStruct(words.shape, jnp.uint32)
    with target.precision():
        try:
            program = target.compile(f"prior {count}", jax.vmap(one), shape)
        except NotImplementedError:
            raise ModelError(
                "A prior cannot be drawn from, as ImproperUniform cannot; particle methods begin at draws of the "
                "priors. Give every parameter a proper one."
            ) from None
        points, log_q = map(np.asarray, program(words))
    usable = np.isfinite(points).all(axis=1) & np.isfinite(log_q)
    if not usable.any():
        raise ModelError(
            "No draw of the priors is finite in unconstrained space: use proper priors of a moderate width."
        )
    return points[usable].astype(float), log_q[usable].astype(float)


def _normal_draws(
    mean: np.ndarray, cov: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a normal law and its log density there, up to a constant."""
    root = np.linalg.cholesky(cov)
    z = generator.normal(size=(count, len(mean)))
    return mean + z @ root.T, -0.5 * (z**2).sum(axis=1)


def _tempered(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised weights to the largest power up to one at which they are worth _SHARE of the points, and the power."""
    finite = np.isfinite(log_weights)
    centred = np.where(finite, log_weights - log_weights[finite].max(), -np.inf)

    def weights(power: float) -> np.ndarray:
        w = np.where(finite, np.exp(power * np.where(finite, centred, 0.0)), 0.0)
        return w / w.sum()

    def enough(power: float) -> bool:
        return 1 / (weights(power) ** 2).sum() >= min(_SHARE * len(log_weights), 0.9 * finite.sum())

    low, high = 0.0, 1.0
    if enough(1.0):
        return weights(1.0), 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return weights(low), low
