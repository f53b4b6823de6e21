"""The continuous outcome families. Formulas: Johnson, Kotz & Balakrishnan, Continuous Univariate Distributions
(1994/95)."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy import special

from probinfer.predict.family import Family, Support
from probinfer.predict.special import (
    half_gamma_ratio,
    log_gamma,
    lower_beta,
    student_t_cdf,
    upper_gamma,
)

_EULER = 0.5772156649015329
_LOG_SQRT_2PI = 0.9189385332046727


def _shape(*parameters: Array) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(jnp.shape(p) for p in parameters))


def _dtype(*parameters: Array) -> jnp.dtype:
    return jnp.result_type(float, *parameters)


def _inside(allowed: Array, value: Array) -> Array:
    return jnp.where(allowed, value, -jnp.inf)


# location and scale ------------------------------------------------------------------------------------------------


def _normal_cdf(y: Array, loc: Array, scale: Array) -> Array:
    return 0.5 * jax.lax.erfc((loc - y) / scale * (0.5**0.5))


def _normal_log_density(y: Array, loc: Array, scale: Array) -> Array:
    z = (y - loc) / scale
    return -0.5 * z * z - jnp.log(scale) - _LOG_SQRT_2PI


NORMAL = Family(
    "Normal",
    ("loc", "scale"),
    Support.REAL,
    mean=lambda loc, scale: loc + 0.0 * scale,
    variance=lambda loc, scale: scale * scale + 0.0 * loc,
    cdf=_normal_cdf,
    log_density=_normal_log_density,
    sample=lambda key, loc, scale: loc + scale * jax.random.normal(key, _shape(loc, scale), _dtype(loc, scale)),
    locate=lambda loc, scale: (loc, scale),
    normal=True,
)


def _t_mean(df: Array, loc: Array, scale: Array) -> Array:
    return jnp.where(df > 1.0, loc + 0.0 * scale, jnp.nan)


def _t_variance(df: Array, loc: Array, scale: Array) -> Array:
    finite = scale * scale / (1.0 - 2.0 / jnp.where(df > 2.0, df, 3.0)) + 0.0 * loc
    return jnp.where(df > 2.0, finite, jnp.where(df > 1.0, jnp.inf, jnp.nan))


def _t_log_density(y: Array, df: Array, loc: Array, scale: Array) -> Array:
    z = (y - loc) / scale
    df = jnp.minimum(df, jnp.finfo(jnp.result_type(z)).max ** 0.25)
    constant = jnp.log(half_gamma_ratio(0.5 * df) / (scale * jnp.sqrt(jnp.pi * df)))
    return constant - 0.5 * (df + 1.0) * jnp.log1p(z * z / df)


def _t_sample(key: Array, df: Array, loc: Array, scale: Array) -> Array:
    shape, dtype = _shape(df, loc, scale), _dtype(df, loc, scale)
    return loc + scale * jax.random.t(key, jnp.broadcast_to(jnp.minimum(df, 1e12), shape), shape, dtype)


STUDENT_T = Family(
    "StudentT",
    ("df", "loc", "scale"),
    Support.REAL,
    mean=_t_mean,
    variance=_t_variance,
    cdf=lambda y, df, loc, scale: student_t_cdf((y - loc) / scale, df),
    log_density=_t_log_density,
    sample=_t_sample,
    locate=lambda df, loc, scale: (loc, scale),
)


def _laplace_cdf(y: Array, loc: Array, scale: Array) -> Array:
    z = (y - loc) / scale
    tail = 0.5 * jnp.exp(-jnp.abs(z))
    return jnp.where(z > 0.0, 1.0 - tail, tail)


LAPLACE = Family(
    "Laplace",
    ("loc", "scale"),
    Support.REAL,
    mean=lambda loc, scale: loc + 0.0 * scale,
    variance=lambda loc, scale: 2.0 * scale * scale + 0.0 * loc,
    cdf=_laplace_cdf,
    log_density=lambda y, loc, scale: -jnp.abs((y - loc) / scale) - jnp.log(2.0 * scale),
    sample=lambda key, loc, scale: loc + scale * jax.random.laplace(key, _shape(loc, scale), _dtype(loc, scale)),
    locate=lambda loc, scale: (loc, 1.4 * scale),
)

LOGISTIC = Family(
    "Logistic",
    ("loc", "scale"),
    Support.REAL,
    mean=lambda loc, scale: loc + 0.0 * scale,
    variance=lambda loc, scale: (jnp.pi * scale) ** 2 / 3.0 + 0.0 * loc,
    cdf=lambda y, loc, scale: jax.nn.sigmoid((y - loc) / scale),
    log_density=lambda y, loc, scale: (
        jax.nn.log_sigmoid((y - loc) / scale) + jax.nn.log_sigmoid((loc - y) / scale) - jnp.log(scale)
    ),
    sample=lambda key, loc, scale: loc + scale * jax.random.logistic(key, _shape(loc, scale), _dtype(loc, scale)),
    locate=lambda loc, scale: (loc, 1.8 * scale),
)

GUMBEL = Family(
    "Gumbel",
    ("loc", "scale"),
    Support.REAL,
    mean=lambda loc, scale: loc + _EULER * scale,
    variance=lambda loc, scale: (jnp.pi * scale) ** 2 / 6.0 + 0.0 * loc,
    cdf=lambda y, loc, scale: jnp.exp(-jnp.exp((loc - y) / scale)),
    log_density=lambda y, loc, scale: (loc - y) / scale - jnp.exp((loc - y) / scale) - jnp.log(scale),
    sample=lambda key, loc, scale: loc + scale * jax.random.gumbel(key, _shape(loc, scale), _dtype(loc, scale)),
    locate=lambda loc, scale: (loc + _EULER * scale, 1.3 * scale),
)


# above zero ----------------------------------------------------------------------------------------------------------


def _positive(y: Array) -> Array:
    return jnp.where(y > 0.0, y, 1.0)


LOG_NORMAL = Family(
    "LogNormal",
    ("loc", "scale"),
    Support.POSITIVE,
    mean=lambda loc, scale: jnp.exp(loc + 0.5 * scale * scale),
    variance=lambda loc, scale: jnp.expm1(scale * scale) * jnp.exp(2.0 * loc + scale * scale),
    cdf=lambda y, loc, scale: jnp.where(y > 0.0, _normal_cdf(jnp.log(_positive(y)), loc, scale), 0.0),
    log_density=lambda y, loc, scale: _inside(
        y > 0.0, _normal_log_density(jnp.log(_positive(y)), loc, scale) - jnp.log(_positive(y))
    ),
    sample=lambda key, loc, scale: jnp.exp(NORMAL.sample(key, loc, scale)),
    locate=lambda loc, scale: (loc, scale),
    normal=True,
)


def _gamma_log_density(y: Array, concentration: Array, rate: Array) -> Array:
    density = special.xlogy(concentration, rate) + special.xlogy(concentration - 1.0, jnp.maximum(y, 0.0))
    return _inside(y >= 0.0, density - rate * y - log_gamma(concentration))


def _gamma_sample(key: Array, concentration: Array, rate: Array) -> Array:
    shape, dtype = _shape(concentration, rate), _dtype(concentration, rate)
    return jax.random.gamma(key, jnp.broadcast_to(concentration, shape), shape, dtype) / rate


GAMMA = Family(
    "Gamma",
    ("concentration", "rate"),
    Support.POSITIVE,
    mean=lambda concentration, rate: concentration / rate,
    variance=lambda concentration, rate: concentration / (rate * rate),
    cdf=lambda y, concentration, rate: 1.0 - upper_gamma(concentration, rate * jnp.maximum(y, 0.0)),
    log_density=_gamma_log_density,
    sample=_gamma_sample,
    locate=lambda concentration, rate: (
        jnp.log(concentration / rate) - 0.5 / concentration,
        jnp.sqrt(1.0 + 1.0 / concentration) / jnp.sqrt(concentration),
    ),
)

EXPONENTIAL = Family(
    "Exponential",
    ("rate",),
    Support.POSITIVE,
    mean=lambda rate: 1.0 / rate,
    variance=lambda rate: 1.0 / (rate * rate),
    cdf=lambda y, rate: -jnp.expm1(-rate * jnp.maximum(y, 0.0)),
    log_density=lambda y, rate: _inside(y >= 0.0, jnp.log(rate) - rate * y),
    sample=lambda key, rate: jax.random.exponential(key, jnp.shape(rate), _dtype(rate)) / rate,
    locate=lambda rate: (-jnp.log(rate) - _EULER, jnp.full_like(rate, 1.3)),
)


def _weibull_variance(scale: Array, concentration: Array) -> Array:
    first = log_gamma(1.0 + 1.0 / concentration)
    second = log_gamma(1.0 + 2.0 / concentration)
    return scale * scale * jnp.exp(2.0 * first) * jnp.expm1(second - 2.0 * first)


def _weibull_log_density(y: Array, scale: Array, concentration: Array) -> Array:
    log_z = jnp.log(_positive(y) / scale)
    density = jnp.log(concentration / scale) + (concentration - 1.0) * log_z - jnp.exp(concentration * log_z)
    return _inside(y > 0.0, density)


WEIBULL = Family(
    "Weibull",
    ("scale", "concentration"),
    Support.POSITIVE,
    mean=lambda scale, concentration: scale * jnp.exp(log_gamma(1.0 + 1.0 / concentration)),
    variance=_weibull_variance,
    cdf=lambda y, scale, concentration: -jnp.expm1(-((jnp.maximum(y, 0.0) / scale) ** concentration)),
    log_density=_weibull_log_density,
    sample=lambda key, scale, concentration: (
        scale
        * jax.random.exponential(key, _shape(scale, concentration), _dtype(scale, concentration))
        ** (1.0 / concentration)
    ),
    locate=lambda scale, concentration: (jnp.log(scale) - _EULER / concentration, 1.3 / concentration),
)

HALF_NORMAL = Family(
    "HalfNormal",
    ("scale",),
    Support.POSITIVE,
    mean=lambda scale: scale * (2.0 / jnp.pi) ** 0.5,
    variance=lambda scale: scale * scale * (1.0 - 2.0 / jnp.pi),
    cdf=lambda y, scale: jax.lax.erf(jnp.maximum(y, 0.0) / scale * (0.5**0.5)),
    log_density=lambda y, scale: _inside(y >= 0.0, _normal_log_density(y, jnp.zeros_like(scale), scale) + jnp.log(2.0)),
    sample=lambda key, scale: jnp.abs(NORMAL.sample(key, 0.0, scale)),
    locate=lambda scale: (jnp.log(scale) - 0.6, jnp.full_like(scale, 1.1)),
)


# between 0 and 1 -----------------------------------------------------------------------------------------------------


def _beta_variance(a: Array, b: Array) -> Array:
    return (a / (a + b)) * (b / (a + b)) / (a + b + 1.0)


def _beta_cdf(y: Array, a: Array, b: Array) -> Array:
    y = jnp.clip(y, 0.0, 1.0)
    return lower_beta(a, b, y, 1.0 - y, skewed=False)


def _beta_log_density(y: Array, a: Array, b: Array) -> Array:
    inside = (y >= 0.0) & (y <= 1.0)
    y = jnp.where(inside, y, 0.5)
    # JAX's betaln is off by 1e-6; this loses digits only where a + b is beyond 1e9
    constant = log_gamma(a + b) - log_gamma(a) - log_gamma(b)
    return _inside(inside, special.xlogy(a - 1.0, y) + special.xlog1py(b - 1.0, -y) + constant)


def _beta_sample(key: Array, a: Array, b: Array) -> Array:
    shape, dtype = _shape(a, b), _dtype(a, b)
    return jax.random.beta(key, jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape), shape, dtype)


BETA = Family(
    "Beta",
    ("concentration1", "concentration0"),
    Support.UNIT,
    mean=lambda a, b: a / (a + b),
    variance=_beta_variance,
    cdf=_beta_cdf,
    log_density=_beta_log_density,
    sample=_beta_sample,
    locate=lambda a, b: (jnp.log(a / b), jnp.sqrt((1.0 + 1.0 / a) / a + (1.0 + 1.0 / b) / b)),
)
