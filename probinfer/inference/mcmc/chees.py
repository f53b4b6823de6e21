"""The length of trajectories that moves many chains furthest: stochastic ascent of the ChEES criterion.

Hoffman, Radul & Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_RATE, _MEMORY, _SQUARES = 0.05, 0.9, 0.95  # of Adam; the decay of its mean, and of its squares
_SHORTEST, _LONGEST = 0.05, 50.0  # of trajectories, in standard deviations
_CHANGE = 0.35  # of the log of the length in one step, at most


class Length(NamedTuple):
    """The longest trajectory T, in logs; one has the length u T, u in (0, 1). All scalars.

    Ascends E[(|x' - E x'|² - |x - E x|²)² / 4], x and x' the beginning and end of a trajectory where the metric has
    made the posterior round, by Adam in log T.
    """

    log: Any  # of the length to use while it adapts
    average: Any  # of the second half of the steps or so: that of the length to keep
    mean: Any  # Adam's, of the gradient
    square: Any
    count: Any


def start(length: float, dtype: Any) -> Length:
    """Begin at this length."""
    log, zero = np.asarray(np.log(length), dtype), np.zeros((), dtype)
    return Length(log, log, zero, zero, zero)


def learn(length: Length, x: Any, y: Any, velocity: Any, acceptance: Any, share: Any) -> Length:
    """One step, from trajectories x -> y (chains, d) of length share * T with this velocity at the end; none where they
    teach nothing."""
    slope = gradient(length, x, y, velocity, acceptance, share)
    count = length.count + 1
    mean = _MEMORY * length.mean + (1 - _MEMORY) * slope
    square = _SQUARES * length.square + (1 - _SQUARES) * slope**2
    ascent = (mean / (1 - _MEMORY**count)) / jnp.sqrt(square / (1 - _SQUARES**count) + 1e-20)
    log = length.log + jnp.clip(_RATE * ascent, -_CHANGE, _CHANGE)
    log = jnp.clip(log, np.log(_SHORTEST), np.log(_LONGEST))
    weight = jnp.minimum(1.0, 4.0 / (count + 3.0))
    learned = Length(log, (1 - weight) * length.average + weight * log, mean, square, count)
    return jax.tree.map(lambda new, old: jnp.where(jnp.isfinite(square), new, old), learned, length)


def gradient(length: Length, x: Any, y: Any, velocity: Any, acceptance: Any, share: Any) -> Any:
    """Of the criterion with respect to log T; not finite where fewer than two trajectories ended anywhere."""
    usable = (acceptance > 0) & jnp.isfinite(y).all(axis=1) & jnp.isfinite(velocity).all(axis=1)
    y, velocity = (jnp.where(usable[:, None], part, 0.0) for part in (y, velocity))
    weights = jnp.where(usable, acceptance, 0.0)
    weights = weights / weights.sum()
    before, after = x - x.mean(axis=0), y - weights @ y
    growth = (after**2).sum(axis=1) - (before**2).sum(axis=1)
    slope = share * jnp.exp(length.log) * (weights @ (growth * (after * velocity).sum(axis=1)))
    return jnp.where(usable.sum() < 2, jnp.nan, slope)


def halton(index: int) -> float:
    """The index-th number (from 0) of van der Corput's sequence in base 2, in (0, 1)."""
    value, denominator, index = 0.0, 1.0, index + 1
    while index:
        denominator *= 2
        index, bit = divmod(index, 2)
        value += bit / denominator
    return value
