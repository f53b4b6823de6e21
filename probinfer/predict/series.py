"""Quantiles of a mixture of normal laws that lie close together, by a series with a proved bound. Imports jax only.

Shapes: M mixtures, S components, Q levels. Nothing here is random.
"""

import math

import jax.numpy as jnp
from jax import Array, lax

from probinfer.predict.steps import normal_quantile, step_of_order_four
from probinfer.predict.weights import Weights, average

_ORDERS = 18
_PROMISING = 1e-8  # of the part of the spread that the centres have, to the power of _ORDERS
_UNEQUAL = 0.06  # of v, its root mean square; the series goes on by powers of v, and those of its tail count
_OFF = 1e-9  # of the mixture's sd: how far off a quantile may be
_STEPS, _LAST_STEP = 3, 1e-4  # of order four: the one after would be 1e-16
_CRAMER = 1.0865 / (2.0 * math.pi) ** 0.5


def normal_quantiles(location: Array, spread: Array, levels: Array, weights: Weights | None = None) -> Array:
    """Quantiles (M, Q) of mixtures of normal laws (M, S) at levels (Q,) or (M, Q); nan where they are not proved.

    Around the normal law with the mixture's mean c and sd tau, each component is a series in its own distance
    d = (location - c) / tau and v = (spread / tau)^2 - 1, z = (t - c) / tau:

        F_s(t) = Phi(z) - phi(z) sum_n m_n / n! He_(n-1)(z),    m_0 = 1, m_1 = d, m_(n+1) = d m_n + n v m_(n-1).

    So that of the mixture needs the average of each m_n, one pass over the draws for all levels, and no exponential
    function. After N orders what is left out is at most 0.434 exp(-z^2 / 4) sum_(n>N) b_n / sqrt(n), with
    b_n = average |m_n| / sqrt(n!), since |He_n(z)| phi(z) <= 0.434 sqrt(n!) exp(-z^2 / 4) (Cramér); and from the
    recurrence b_(n+1) <= A b_n + B b_(n-1), A = max |d| / sqrt(N + 1), B = max |v|, so that for A + B < 1

        sum_(n>N) b_n <= (A b_N + B (b_(N-1) + b_N)) / (1 - A - B).

    A quantile is proved if this is within 1e-9 of the sd, for its density there (measured: 3e-11). Where the centres
    of the components are spread wider than about a third of the sd, or v by more than 0.06, none is, and the pass is
    not made.
    Abramowitz & Stegun (1964), 22.14.17 (the bound); Petrov (1975), chapter VI (such series of sums of laws).
    """
    centre = average(location, weights)
    apart = average((location - centre[:, None]) ** 2, weights)
    within = average(spread**2, weights)
    width = jnp.sqrt(within + apart)
    unequal = average(spread**4, weights) / width**4 - 2.0 * within / width**2 + 1.0  # average of v^2
    promising = ((apart / width**2) ** (_ORDERS / 2) < _PROMISING) & (unequal < _UNEQUAL**2)  # False for nan

    def of_row(row: tuple[Array, ...]) -> Array:
        location, spread, centre, width, promising = row

        def none() -> Array:
            return jnp.full(_ORDERS + 4, jnp.nan, location.dtype)

        return lax.cond(
            promising, lambda: _averages((location - centre) / width, (spread / width) ** 2 - 1.0, weights), none
        )

    found = lax.map(of_row, (location, spread, centre, width, promising))
    coefficients, (last, before, far, wide) = found[:, :_ORDERS].T[..., None], found[:, _ORDERS:].T
    far = far / (_ORDERS + 1.0) ** 0.5
    rest = (far * last + wide * (before + last)) / (1.0 - far - wide)
    left_out = _CRAMER * jnp.where(far + wide < 1.0, rest, jnp.inf)[:, None]
    levels = jnp.broadcast_to(levels, (location.shape[0], levels.shape[-1]))

    def closer(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        around = lax.optimization_barrier(_around(coefficients, state[0]))  # else each use of it compiles it anew
        step = step_of_order_four(*around, levels)
        return state[0] + step.by, step.small & (jnp.abs(step.by) < _LAST_STEP), around[1]

    z = normal_quantile(levels)
    # a loop, since the body is long and would be compiled once for each step
    z, arrived, density = lax.fori_loop(0, _STEPS, closer, (z, jnp.zeros(z.shape, bool), jnp.zeros_like(z)))
    close = arrived & (left_out * jnp.exp(-0.25 * z * z) < _OFF * density)
    return jnp.where(close, centre[:, None] + width[:, None] * z, jnp.nan)


def _averages(d: Array, v: Array, weights: Weights | None) -> Array:
    """Averages of m_n / n!, n = 1, …, N; then b_N and b_(N-1), max |d| and max |v|."""
    before = jnp.ones_like(d) / d.shape[0] if weights is None else jnp.asarray(weights.values, d.dtype)
    here = d * before
    terms = [here]
    for n in range(1, _ORDERS):
        before, here = here, d * here + (n * v) * before
        terms.append(here)
    terms += [jnp.abs(terms[-1]), jnp.abs(terms[-2])]
    zeros = (jnp.zeros((), d.dtype),) * len(terms)
    # one pass: sums of their own would go through the recurrence anew for each
    sums = lax.reduce(tuple(terms), zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (0,))
    factors = [1.0 / math.factorial(n) for n in range(1, _ORDERS + 1)]
    factors += [math.factorial(n) ** -0.5 for n in (_ORDERS, _ORDERS - 1)]
    return jnp.concatenate([jnp.stack(sums) * jnp.asarray(factors), jnp.stack([jnp.max(jnp.abs(x)) for x in (d, v)])])


def _around(coefficients: Array, z: Array) -> tuple[Array, Array, Array, Array]:
    """Cdf, density and its first two derivatives by the series, at z (M, Q); coefficients (N, M, 1)."""
    polynomials = [jnp.ones_like(z), z]
    for n in range(1, _ORDERS + 2):
        polynomials.append(z * polynomials[n] - n * polynomials[n - 1])

    def total(shift: int) -> Array:
        terms = [c * he for c, he in zip(coefficients, polynomials[1 + shift :], strict=False)]
        return sum(terms, polynomials[shift] if shift >= 0 else jnp.zeros_like(z))

    height = jnp.exp(-0.5 * z * z) * (2.0 * jnp.pi) ** -0.5
    below = 0.5 * lax.erfc(-z * 0.5**0.5) - height * total(-1)
    return below, height * total(0), -height * total(1), height * total(2)
