"""Where the search of a quantile begins, and its step of order four. Imports jax only."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from probinfer.predict.special import standard_normal_cdf

_SMALL_TERM = 1e-5


class Step(NamedTuple):
    """A step, by how much L misses zero before it, and whether the terms after Newton's are small: not where laws lie
    in heaps."""

    by: Array
    miss: Array
    small: Array


def step_of_order_four(below: Array, density: Array, slope: Array, curve: Array, level: Array) -> Step:
    """Towards L(t) = log F(t) - log(1 - F(t)) - logit(level) = 0, of the cdf, the density and its derivatives at t.

    With u = -L / L', a = L'' / (2 L'), b = L''' / (6 L'), reverting the series of L gives u - a u^2 + (2 a^2 - b) u^3.
    """
    miss = logit(below) - logit(level)
    odds, skew = 1.0 / (below * (1.0 - below)), 1.0 - 2.0 * below
    first = odds * density
    second = odds * slope - skew * first**2
    third = odds * curve - 3.0 * skew * odds**2 * density * slope
    third += 2.0 * (1.0 + skew**2 * odds) * odds**2 * density**3
    u, a, b = -miss / first, second / (2.0 * first), third / (6.0 * first)
    second_term, third_term = a * u, (2.0 * a * a - b) * u * u
    small = (second_term**2 < _SMALL_TERM) & (jnp.abs(third_term) < _SMALL_TERM)
    return Step(u * (1.0 - second_term + third_term), miss, small)


def logit(p: Array) -> Array:
    """log p - log(1 - p)."""
    return jnp.log(p) - jnp.log1p(-p)


def normal_quantile(level: Array) -> Array:
    """Where a search starts: the quantile of a standard normal to 1e-4, at most 4 from zero. Winitzki (2008), and a
    step of Newton's method."""
    log = jnp.log(4.0 * level * (1.0 - level))
    half = 2.0 / (jnp.pi * 0.147) + 0.5 * log
    distance = jnp.sqrt(2.0 * (jnp.sqrt(half * half - log / 0.147) - half))
    z = jnp.sign(level - 0.5) * jnp.minimum(distance, 4.0)
    step = (standard_normal_cdf(z) - level) * jnp.exp(0.5 * z * z) * (2.0 * jnp.pi) ** 0.5
    return z - jnp.where(jnp.abs(z) < 3.5, step, 0.0)
