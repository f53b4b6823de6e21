"""Mean and variance of one NumPyro law: NumPyro's, or integrals of its quantile function. Imports numpyro.

    E[Y^k] = ∫ Q(u)^k du  over 0 < u < 1

From e to 1 - e by Gauss and Legendre's rule in logit u; beyond, Q is taken as the power of u or 1 - u that it is near
there, which has its integral in closed form, and an infinite one where the power says so: tails that fall like a
power are met exactly, lighter ones up to a share of what little is beyond.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpyro import distributions as dist

_BEYOND = 1e-11
_FARTHER = 1e-9  # the power is that between here and there
_PANELS, _NODES = 64, 4
_TRUNCATED = (dist.TwoSidedTruncatedDistribution, dist.LeftTruncatedDistribution, dist.RightTruncatedDistribution)


def moments_of(law: Any) -> tuple[Array, Array]:
    """Mean and variance, inf where they are infinite. Raises NotImplementedError where NumPyro has neither them nor
    quantiles."""
    if type(law) not in _TRUNCATED:  # NumPyro calls those of a truncated Cauchy law nan, bounded or not
        try:
            return law.mean, law.variance
        except NotImplementedError:
            pass
    return _integrals(lambda u: law.icdf(u[None]).reshape(()))


def _integrals(quantile: Any) -> tuple[Array, Array]:
    far = jnp.log(1.0 / _BEYOND)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = jnp.linspace(-far, far, _PANELS + 1)
    half = 0.5 * (edges[1] - edges[0])
    at = ((edges[:-1] + half)[:, None] + half * nodes).reshape(-1)
    share = jnp.tile(jnp.asarray(weights), _PANELS) * half
    middle = quantile(jnp.asarray(0.5))

    def each(total: tuple[Array, Array], node: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        u = jax.nn.sigmoid(node[0])
        weight = node[1] * u * jax.nn.sigmoid(-node[0])
        gap = quantile(u) - middle
        return (total[0] + weight * gap, total[1] + weight * gap * gap), None

    (first, second), _ = lax.scan(each, (jnp.zeros(()), jnp.zeros(())), (at, share))
    low, high = _tails(quantile, middle, upper=False), _tails(quantile, middle, upper=True)
    first, second = first + low[0] + high[0], second + low[1] + high[1]
    mean = middle + first
    return mean, jnp.where(jnp.isnan(mean), jnp.nan, jnp.where(jnp.isinf(second), jnp.inf, second - first * first))


def _tails(quantile: Any, middle: Array, *, upper: bool) -> tuple[Array, Array]:
    """The integrals of the gap from the middle and of its square over the last `_BEYOND` of the probability."""

    def gap(tail: float) -> Array:
        return quantile(jnp.asarray(1.0 - tail if upper else tail)) - middle

    end, before = gap(_BEYOND), gap(_FARTHER)
    index = jnp.log(jnp.abs(end / before)) / np.log(_FARTHER / _BEYOND)
    index = jnp.where(jnp.isfinite(index), index, 0.0)

    def beyond(k: int) -> Array:
        return jnp.where(k * index < 1.0, end**k * _BEYOND / (1.0 - k * index), jnp.sign(end) ** k * jnp.inf)

    return beyond(1), beyond(2)
