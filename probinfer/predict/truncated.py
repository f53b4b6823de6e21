"""The normal law between bounds. Formulas: Johnson, Kotz & Balakrishnan, Continuous Univariate Distributions 1 (1994),
section 10.1. Imports jax only.

Everything is said about the mirrored law where the bounds lie to the right, so that tails are small numbers, which
have all their digits, and not differences from one; and in logarithms, so that bounds may lie far out.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr, ndtri

from probinfer.predict.family import Family, Support

_LOG_SQRT_2PI = 0.9189385332046727
_FAR = -30.0  # from here on the tail is exponential to a thousandth


def _log_mass(a: Array, b: Array) -> Array:
    """log P(a < Z < b) of a standard normal Z, a <= b, both finite or not, best where a + b <= 0."""
    upper, lower = log_ndtr(b), log_ndtr(a)
    gap = jnp.where(jnp.isneginf(lower), jnp.inf, upper - lower)
    return upper + jnp.log(-jnp.expm1(-gap))


def _mirrored(loc: Array, scale: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Standardised bounds a <= b with a + b <= 0, and -1 where the law is mirrored for that, else 1."""
    a, b = jnp.broadcast_arrays((low - loc) / scale, (high - loc) / scale)
    flip = a + b > 0.0  # False for two infinite bounds
    return jnp.where(flip, -b, a), jnp.where(flip, -a, b), jnp.where(flip, -1.0, 1.0).astype(a.dtype)


def _over_mass(end: Array, log_mass: Array) -> Array:
    """The density at an end over the mass; 0 at infinity."""
    safe = jnp.where(jnp.isinf(end), 0.0, end)
    return jnp.where(jnp.isinf(end), 0.0, jnp.exp(-0.5 * safe * safe - _LOG_SQRT_2PI - log_mass))


def _mean(loc: Array, scale: Array, low: Array, high: Array) -> Array:
    a, b, sign = _mirrored(loc, scale, low, high)
    log_mass = _log_mass(a, b)
    return loc + scale * sign * (_over_mass(a, log_mass) - _over_mass(b, log_mass))


def _variance(loc: Array, scale: Array, low: Array, high: Array) -> Array:
    a, b, _ = _mirrored(loc, scale, low, high)
    log_mass = _log_mass(a, b)
    at_a, at_b = _over_mass(a, log_mass), _over_mass(b, log_mass)
    first = at_a - at_b
    second = jnp.where(jnp.isinf(a), 0.0, a) * at_a - jnp.where(jnp.isinf(b), 0.0, b) * at_b
    return scale * scale * jnp.maximum(1.0 + second - first * first, 0.0)


def _cdf(y: Array, loc: Array, scale: Array, low: Array, high: Array) -> Array:
    a, b, sign = _mirrored(loc, scale, low, high)
    z = jnp.clip(sign * (y - loc) / scale, a, b)
    part = jnp.exp(_log_mass(a, z) - _log_mass(a, b))
    return jnp.where(sign > 0.0, part, 1.0 - part)


def _log_density(y: Array, loc: Array, scale: Array, low: Array, high: Array) -> Array:
    a, b, _ = _mirrored(loc, scale, low, high)
    z = (y - loc) / scale
    value = -0.5 * z * z - jnp.log(scale) - _LOG_SQRT_2PI - _log_mass(a, b)
    return jnp.where((y >= low) & (y <= high), value, -jnp.inf)


def _sample(key: Array, loc: Array, scale: Array, low: Array, high: Array) -> Array:
    a, b, sign = _mirrored(loc, scale, low, high)
    shape = jnp.broadcast_shapes(a.shape, jnp.shape(loc), jnp.shape(scale))
    u = jax.random.uniform(key, shape, a.dtype, minval=jnp.finfo(a.dtype).tiny)
    below = jnp.exp(log_ndtr(a))
    near = ndtri(below + u * (jnp.exp(log_ndtr(b)) - below))
    far = jnp.minimum(b, _FAR)
    z = jnp.clip(jnp.where(b < _FAR, far - jnp.log(u) / far, near), a, b)
    return jnp.clip(loc + scale * sign * z, low, high)


TRUNCATED_NORMAL = Family(
    "TruncatedNormal",
    ("loc", "scale", "low", "high"),  # of the law before truncation; a bound may be infinite
    Support.REAL,
    mean=_mean,
    variance=_variance,
    cdf=_cdf,
    log_density=_log_density,
    sample=_sample,
    locate=lambda *parameters: (_mean(*parameters), jnp.sqrt(_variance(*parameters))),
)
