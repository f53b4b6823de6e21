"""The shortest interval of a mixture that holds a given probability. Imports jax and numpy.

Of a continuous law: among the intervals from q(p) to q(p + level), 0 <= p <= 1 - level, the width is least at an end,
or where the density at both ends is equal, as dw/dp = 1/f(q(p + level)) - 1/f(q(p)). A grid of p finds the
neighbourhood, so that with several peaks the shortest of all is found, and a bracketed secant solves for p there.
Chen & Shao (1999), Journal of Computational and Graphical Statistics 8, for draws in place of a cdf.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from probinfer.predict.family import Family, Support
from probinfer.predict.mixture import continuous_quantile
from probinfer.predict.weights import Weights, log_average

_GRID = 24
_STEPS = 60
_TIE = 1e-12


def shortest(family: Family, parameters: Sequence[Array], levels: Array, weights: Weights | None = None) -> Array:
    """Both ends, (M, 2), of continuous mixtures with a level each, (M,)."""
    each = tuple(jnp.broadcast_arrays(*parameters))
    return lax.map(lambda both: _shortest(family, both[0], both[1], weights), (each, levels))


def _shortest(family: Family, parameters: tuple[Array, ...], level: Array, weights: Weights | None) -> Array:
    bottom, top = ends_of(family.support)
    tiny = jnp.asarray(1e-13, level.dtype)

    def ends(p: Array) -> tuple[Array, Array]:
        low, high = jnp.clip(p, tiny, 1.0 - tiny), jnp.clip(p + level, tiny, 1.0 - tiny)
        both = [continuous_quantile(family, parameters, at, weights) for at in (low, high)]
        return both[0], both[1]

    def log_density(x: Array) -> Array:
        return log_average(family.log_density(x, *parameters), weights)

    def slope(p: Array) -> Array:
        low, high = ends(p)
        return log_density(low) - log_density(high)  # of the sign of dw/dp

    grid = (1.0 - level) * jnp.arange(_GRID + 1) / _GRID
    low, high = lax.map(ends, grid)
    low, high = low.at[0].set(bottom), high.at[-1].set(top)
    best = jnp.argmin(high - low)
    start = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _GRID)]

    def body(state: tuple) -> tuple:
        a, b, at_a, at_b, turn = state
        secant = a - at_a * (b - a) / (at_b - at_a)
        inside = (secant > a) & (secant < b) & (turn % 3 < 2)  # False for nan; every third step halves
        p = jnp.where(inside, secant, 0.5 * (a + b))
        value = slope(p)
        left = value < 0.0
        return (
            jnp.where(left, p, a),
            jnp.where(left, b, p),
            jnp.where(left, value, at_a),
            jnp.where(left, at_b, value),
            turn + 1,
        )

    def unfinished(state: tuple) -> Array:
        return (state[1] - state[0] > 1e-12) & (state[4] < _STEPS)

    infinite = jnp.asarray(jnp.inf, level.dtype)
    a, b, *_ = lax.while_loop(unfinished, body, (*start, -infinite, infinite, jnp.asarray(0)))
    found_low, found_high = ends(0.5 * (a + b))
    lows, highs = jnp.stack([found_low, low[0], low[-1]]), jnp.stack([found_high, high[0], high[-1]])
    widths = highs - lows
    chosen = jnp.where(widths[1:].min() <= widths[0], 1 + jnp.argmin(widths[1:]), 0)
    return jnp.stack([lows[chosen], highs[chosen]])


def shortest_of_draws(pooled: Array, levels: Array) -> Array:
    """Both ends, (m, 2), of the shortest interval with ceil(level R) of R sorted draws (m, R), levels (m,)."""
    size = pooled.shape[1]
    first = jnp.arange(size)
    last = first + jnp.ceil(levels[:, None] * size - 1e-9).astype(int) - 1
    high = jnp.take_along_axis(pooled, jnp.minimum(last, size - 1), axis=1)
    begin = jnp.argmin(jnp.where(last < size, high - pooled, jnp.inf), axis=1)[:, None]
    return jnp.concatenate([jnp.take_along_axis(a, begin, axis=1) for a in (pooled, high)], axis=1)


def shortest_run(below: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of the first and last of the fewest neighbouring values that hold the probability `level`.

    below (rows, k + 1): P(Y < value) of k neighbouring values, and P(Y <= the last). Of equally many values those with
    the most probability, then the smallest. The most probability that w values hold grows with w, so w is found by
    halving.
    """
    rows, size = below.shape[0], below.shape[1] - 1
    few, enough = np.zeros(rows, int), np.full(rows, size)
    while np.any(enough - few > 1):
        middle = np.where(enough - few > 1, (few + enough) // 2, enough)
        reached = _masses(below, middle).max(axis=1) >= level - _TIE
        few, enough = np.where(reached, few, middle), np.where(reached, middle, enough)
        few = np.minimum(few, enough - 1)
    masses = _masses(below, enough)
    first = np.argmax(masses >= masses.max(axis=1, keepdims=True) - _TIE, axis=1)
    return first, first + enough - 1


def _masses(below: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Probability of `width` neighbours (rows,), from every first one (rows, k); -1 where there are not as many."""
    size = below.shape[1] - 1
    last = np.arange(size) + width[:, None]
    held = np.take_along_axis(below, np.minimum(last, size), axis=1) - below[:, :-1]
    return np.where(last <= size, held, -1.0)


def ends_of(support: Support | None) -> tuple[float, float]:
    """The outcome's range; of classes its end is the number of classes less one, which the support does not know."""
    if support is Support.UNIT:
        return 0.0, 1.0
    return (-np.inf if support in (Support.REAL, None) else 0.0), np.inf
