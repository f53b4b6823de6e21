"""The discrete outcome families. Formulas: Johnson, Kemp & Kotz, Univariate Discrete Distributions (2005)."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid

from probinfer.predict.continuous import GAMMA
from probinfer.predict.family import Family, Support
from probinfer.predict.special import log_poisson, lower_beta, upper_gamma


def _whole(k: Array) -> Array:
    return (k >= 0) & (k == jnp.floor(k))


def _counted(key: Array, rate: Array) -> Array:
    return jax.random.poisson(key, rate, jnp.shape(rate)).astype(jnp.result_type(float, rate))


# yes or no ---------------------------------------------------------------------------------------------------------


def _bernoulli_log_density(y: Array, logits: Array) -> Array:
    log_p = jnp.where(y == 1, log_sigmoid(logits), log_sigmoid(-logits))
    return jnp.where((y == 0) | (y == 1), log_p, -jnp.inf)


def rarer_odds(logits: Array) -> Array:
    """Odds of the less probable of the two. Chances, variance and entropy are all made of them, so that there is one
    exponential for all: it is what takes the time."""
    return jnp.exp(-jnp.abs(logits))


def _chance(logits: Array) -> Array:
    odds = rarer_odds(logits)
    return jnp.where(logits >= 0.0, 1.0, odds) / (1.0 + odds)


def _chance_of_none(logits: Array) -> Array:
    odds = rarer_odds(logits)
    return jnp.where(logits >= 0.0, odds, 1.0) / (1.0 + odds)


def _bernoulli_variance(logits: Array) -> Array:
    odds = rarer_odds(logits)
    return odds / ((1.0 + odds) * (1.0 + odds))


BERNOULLI = Family(
    "Bernoulli",
    ("logits",),
    Support.BINARY,
    mean=_chance,
    variance=_bernoulli_variance,
    cdf=lambda y, logits: jnp.where(y < 0, 0.0, jnp.where(y < 1, _chance_of_none(logits), 1.0)),
    log_density=_bernoulli_log_density,
    sample=lambda key, logits: (
        jax.random.uniform(key, jnp.shape(logits), jnp.result_type(float, logits)) < sigmoid(logits)
    ).astype(jnp.result_type(float, logits)),
)


# counts --------------------------------------------------------------------------------------------------------------


def _binomial_cdf(k: Array, total: Array, logits: Array) -> Array:
    k = jnp.floor(k)
    partial = (k >= 0) & (k < total)
    a = jnp.where(partial, total - k, 1.0)
    b = jnp.where(partial, k + 1.0, 1.0)
    return jnp.where(partial, lower_beta(a, b, sigmoid(-logits), sigmoid(logits)), jnp.where(k < 0, 0.0, 1.0))


def _binomial_log_density(k: Array, total: Array, logits: Array) -> Array:
    # Loader (2000): C(n, k) p^k q^(n-k) as three Poisson probabilities, exact for large n too
    inside = _whole(k) & (k <= total)
    k = jnp.where(inside, k, 0.0)
    yes = log_poisson(k, total * sigmoid(logits))
    no = log_poisson(total - k, total * sigmoid(-logits))
    return jnp.where(inside, yes + no - log_poisson(total, total), -jnp.inf)


def _binomial_sample(key: Array, total: Array, logits: Array) -> Array:
    shape = jnp.broadcast_shapes(jnp.shape(total), jnp.shape(logits))
    dtype = jnp.result_type(float, total, logits)
    return jax.random.binomial(key, total.astype(dtype), sigmoid(logits).astype(dtype), shape, dtype)


BINOMIAL = Family(
    "Binomial",
    ("total_count", "logits"),
    Support.COUNT,
    mean=lambda total, logits: total * sigmoid(logits),
    variance=lambda total, logits: total * sigmoid(logits) * sigmoid(-logits),
    cdf=_binomial_cdf,
    log_density=_binomial_log_density,
    sample=_binomial_sample,
    first=lambda total, logits: jnp.where(total > 0, total * log_sigmoid(-logits), 0.0),
    ratio=lambda k, total, logits: jnp.maximum(total - k, 0.0) / (k + 1.0) * jnp.exp(logits),
)


def _poisson_cdf(k: Array, rate: Array) -> Array:
    k = jnp.floor(k)
    return jnp.where(k < 0, 0.0, upper_gamma(jnp.maximum(k, 0.0) + 1.0, rate))


POISSON = Family(
    "Poisson",
    ("rate",),
    Support.COUNT,
    mean=lambda rate: rate,
    variance=lambda rate: rate,
    cdf=_poisson_cdf,
    log_density=lambda k, rate: jnp.where(_whole(k), log_poisson(jnp.maximum(k, 0.0), rate), -jnp.inf),
    sample=_counted,
    first=lambda rate: -rate,
    ratio=lambda k, rate: rate / (k + 1.0),
)


def _negative_binomial_cdf(k: Array, concentration: Array, rate: Array) -> Array:
    k = jnp.floor(k)
    p, q = 1.0 / (1.0 + 1.0 / rate), 1.0 / (1.0 + rate)  # rate is inf where the mean is zero
    return jnp.where(k < 0, 0.0, lower_beta(concentration, jnp.maximum(k, 0.0) + 1.0, p, q))


def _negative_binomial_log_density(k: Array, concentration: Array, rate: Array) -> Array:
    # c / (c + k) times the binomial probability of c out of c + k, Loader (2000)
    inside = _whole(k)
    k = jnp.where(inside, k, 0.0)
    total = concentration + k
    yes = log_poisson(concentration, total / (1.0 + 1.0 / rate))
    no = log_poisson(k, total / (1.0 + rate))
    log_pmf = jnp.log(concentration / total) + yes + no - log_poisson(total, total)
    return jnp.where(inside, log_pmf, -jnp.inf)


def _negative_binomial_sample(key: Array, concentration: Array, rate: Array) -> Array:
    key_rate, key_count = jax.random.split(key)
    return _counted(key_count, GAMMA.sample(key_rate, concentration, rate))


NEGATIVE_BINOMIAL = Family(
    "NegativeBinomial",
    (
        "concentration",
        "rate",
    ),  # a Poisson whose rate is Gamma(concentration, rate): mean concentration / rate
    Support.COUNT,
    mean=lambda concentration, rate: concentration / rate,
    variance=lambda concentration, rate: concentration / rate * (1.0 + 1.0 / rate),
    cdf=_negative_binomial_cdf,
    log_density=_negative_binomial_log_density,
    sample=_negative_binomial_sample,
    first=lambda concentration, rate: -concentration * jnp.log1p(1.0 / rate),
    ratio=lambda k, concentration, rate: (concentration + k) / (k + 1.0) / (1.0 + rate),
)


def _zero_inflated(base: Family) -> Family:
    """The law of a count of `base` that is turned into 0 with probability `gate`."""

    def variance(gate: Array, *parameters: Array) -> Array:
        mean = base.mean(*parameters)
        return (1.0 - gate) * (base.variance(*parameters) + gate * mean * mean)

    def log_density(k: Array, gate: Array, *parameters: Array) -> Array:
        log_p = jnp.log1p(-gate) + base.log_density(k, *parameters)
        return jnp.where(k == 0, jnp.logaddexp(jnp.log(gate), log_p), log_p)

    def sample(key: Array, gate: Array, *parameters: Array) -> Array:
        key_gate, key_base = jax.random.split(key)
        values = base.sample(key_base, *parameters)
        return jnp.where(jax.random.uniform(key_gate, jnp.shape(values), values.dtype) < gate, 0.0, values)

    def ratio(k: Array, gate: Array, *parameters: Array) -> Array:
        zero = (1.0 - gate) * jnp.exp(base.first(*parameters))  # the share of P(Y = 0) that is the base's own
        return base.ratio(k, *parameters) * jnp.where(k == 0, zero / (gate + zero), 1.0)

    return Family(
        f"ZeroInflated{base.name}",
        ("gate", *base.parameters),
        Support.COUNT,
        mean=lambda gate, *parameters: (1.0 - gate) * base.mean(*parameters),
        variance=variance,
        cdf=lambda k, gate, *parameters: jnp.where(k < 0, 0.0, gate + (1.0 - gate) * base.cdf(k, *parameters)),
        log_density=log_density,
        sample=sample,
        first=lambda gate, *parameters: jnp.logaddexp(jnp.log(gate), jnp.log1p(-gate) + base.first(*parameters)),
        ratio=ratio,
    )


ZERO_INFLATED_POISSON = _zero_inflated(POISSON)
ZERO_INFLATED_NEGATIVE_BINOMIAL = _zero_inflated(NEGATIVE_BINOMIAL)


# classes -------------------------------------------------------------------------------------------------------------


def _codes(log_p: Array) -> Array:
    return jnp.arange(log_p.shape[-1], dtype=log_p.dtype)


def _class_variance(log_p: Array) -> Array:
    gap = _codes(log_p) - _class_mean(log_p)[..., None]
    return jnp.sum(jnp.exp(log_p) * gap * gap, axis=-1)


def _class_mean(log_p: Array) -> Array:
    return jnp.sum(jnp.exp(log_p) * _codes(log_p), axis=-1)


def _class_log_density(y: Array, log_p: Array) -> Array:
    inside = _whole(y) & (y < log_p.shape[-1])
    shape = jnp.broadcast_shapes(jnp.shape(y), log_p.shape[:-1])
    code = jnp.broadcast_to(jnp.where(inside, y, 0), shape).astype(int)
    picked = jnp.take_along_axis(jnp.broadcast_to(log_p, (*shape, log_p.shape[-1])), code[..., None], axis=-1)
    return jnp.where(inside, picked[..., 0], -jnp.inf)


CATEGORICAL = Family(
    "Categorical",
    ("log_probabilities",),
    Support.CLASSES,
    mean=_class_mean,
    variance=_class_variance,
    cdf=lambda y, log_p: jnp.sum(jnp.exp(log_p) * (_codes(log_p) <= jnp.asarray(y)[..., None]), axis=-1),
    log_density=_class_log_density,
    sample=lambda key, log_p: jax.random.categorical(key, log_p).astype(log_p.dtype),
)
