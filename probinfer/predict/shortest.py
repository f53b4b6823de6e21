"""The shortest interval of a mixture that holds a given probability. Imports jax and numpy.

Of a continuous law: among the intervals from q(p) to q(p + level), 0 <= p <= 1 - level, the width is least at an end,
or where the density at both ends is equal, as dw/dp = 1/f(q(p + level)) - 1/f(q(p)). A grid of p finds the
neighbourhood, so that with several peaks the shortest of all is found, and a bracketed secant solves for p there.
Chen & Shao (1999), Journal of Computational and Graphical Statistics 8, for draws in place of a cdf.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from probinfer.predict.family import Family, Support
from probinfer.predict.inversion import continuous_quantile
from probinfer.predict.weights import Weights, log_average

_GRID = 24
_STEPS = 60
_TIE = 1e-12


def shortest(family: Family, parameters: Sequence[Array], levels: Array, weights: Weights | None = None) -> Array:
    """Both ends, (M, 2), of continuous mixtures with a level each, (M,)."""
    each = tuple(jnp.broadcast_arrays(*parameters))
    return lax.map(lambda both: _shortest(family, both[0], both[1], weights), (each, levels))


class _Solving(NamedTuple):
    """Where the search is: first along the grid, then in the bracket a < p < b, whose ends have the slopes `at`.

    found: the interval looked at last. edges (2, 2): those from the bottom and to the top. best: of the grid."""

    turn: Array
    a: Array
    b: Array
    at_a: Array
    at_b: Array
    found: Array
    edges: Array
    best: Array
    width: Array


def _shortest(family: Family, parameters: tuple[Array, ...], level: Array, weights: Weights | None) -> Array:
    """Grid and bracket are turns of one loop, so that the quantile, a large program, is compiled once."""
    tiny = jnp.asarray(1e-13, level.dtype)
    bottom, top = (jnp.asarray(end, level.dtype) for end in ends_of(family.support))
    grid = (1.0 - level) * jnp.arange(_GRID + 1) / _GRID

    def end(p: Array) -> tuple[Array, Array]:
        x = continuous_quantile(family, parameters, jnp.clip(p, tiny, 1.0 - tiny), weights)
        return x, log_average(family.log_density(x, *parameters), weights)

    def body(s: _Solving) -> _Solving:
        secant = s.a - s.at_a * (s.b - s.a) / (s.at_b - s.at_a)
        inside = (secant > s.a) & (secant < s.b) & (s.turn % 3 < 2)  # False for nan; every third step halves
        on_grid = s.turn <= _GRID
        p = jnp.where(inside, secant, 0.5 * (s.a + s.b))
        p = jnp.where(on_grid, grid[jnp.minimum(s.turn, _GRID)], p)
        found, log_density = lax.map(end, jnp.stack([p, p + level]))
        slope = log_density[0] - log_density[1]  # of the sign of dw/dp

        first, last = s.turn == 0, s.turn == _GRID
        whole = jnp.stack([jnp.where(first, bottom, found[0]), jnp.where(last, top, found[1])])
        edges = jnp.where(jnp.stack([first, last])[:, None], whole, s.edges)
        better = on_grid & (whole[1] - whole[0] < s.width)
        best = jnp.where(better, s.turn, s.best)
        width = jnp.where(better, whole[1] - whole[0], s.width)

        left = slope < 0.0
        a, b = jnp.where(left, p, s.a), jnp.where(left, s.b, p)
        at_a, at_b = jnp.where(left, slope, s.at_a), jnp.where(left, s.at_b, slope)
        a = jnp.where(on_grid, grid[jnp.maximum(best - 1, 0)], a)
        b = jnp.where(on_grid, grid[jnp.minimum(best + 1, _GRID)], b)
        at_a, at_b = jnp.where(on_grid, -jnp.inf, at_a), jnp.where(on_grid, jnp.inf, at_b)
        return _Solving(s.turn + 1, a, b, at_a, at_b, found, edges, best, width)

    def unfinished(s: _Solving) -> Array:
        return (s.turn <= _GRID) | ((s.b - s.a > 1e-12) & (s.turn <= _GRID + _STEPS))

    zero, infinite = jnp.zeros_like(level), jnp.full_like(level, jnp.inf)
    start = _Solving(
        jnp.asarray(0),
        *(zero, zero, -infinite, infinite),
        jnp.zeros(2, level.dtype),
        jnp.zeros((2, 2), level.dtype),
        jnp.asarray(0),
        infinite,
    )
    end_state = lax.while_loop(unfinished, body, start)
    choices = jnp.concatenate([end_state.found[None], end_state.edges])
    widths = choices[:, 1] - choices[:, 0]
    return choices[jnp.where(widths[1:].min() <= widths[0], 1 + jnp.argmin(widths[1:]), 0)]


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
