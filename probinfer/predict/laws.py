"""NumPyro distributions as outcome families. Imports numpyro, so a loaded predictor never comes here."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax
from jax.scipy.special import logit
from numpyro import distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.discrete import ZeroInflatedLogits, ZeroInflatedProbs

from probinfer.predict.families import (
    BERNOULLI,
    BETA,
    BINOMIAL,
    CATEGORICAL,
    EXPONENTIAL,
    GAMMA,
    GUMBEL,
    HALF_NORMAL,
    LAPLACE,
    LOG_NORMAL,
    LOGISTIC,
    NEGATIVE_BINOMIAL,
    NORMAL,
    POISSON,
    STUDENT_T,
    TRUNCATED_NORMAL,
    WEIBULL,
    ZERO_INFLATED_NEGATIVE_BINOMIAL,
    ZERO_INFLATED_POISSON,
    Family,
    Support,
)


def _log_of(probabilities: Array) -> Array:
    return jnp.log(jnp.maximum(probabilities, 0.0))  # differences of sigmoids may be -1e-17


# By the exact type: a subclass may have changed anything.
_LAWS: dict[type, tuple[Family, Callable[[Any], tuple]]] = {
    dist.Normal: (NORMAL, lambda d: (d.loc, d.scale)),
    dist.StudentT: (STUDENT_T, lambda d: (d.df, d.loc, d.scale)),
    dist.Cauchy: (STUDENT_T, lambda d: (1.0, d.loc, d.scale)),
    dist.Laplace: (LAPLACE, lambda d: (d.loc, d.scale)),
    dist.Logistic: (LOGISTIC, lambda d: (d.loc, d.scale)),
    dist.Gumbel: (GUMBEL, lambda d: (d.loc, d.scale)),
    dist.LogNormal: (LOG_NORMAL, lambda d: (d.loc, d.scale)),
    dist.Gamma: (GAMMA, lambda d: (d.concentration, d.rate)),
    dist.Chi2: (GAMMA, lambda d: (d.concentration, d.rate)),
    dist.Exponential: (EXPONENTIAL, lambda d: (d.rate,)),
    dist.Weibull: (WEIBULL, lambda d: (d.scale, d.concentration)),
    dist.HalfNormal: (HALF_NORMAL, lambda d: (d.scale,)),
    dist.Beta: (BETA, lambda d: (d.concentration1, d.concentration0)),
    dist.BetaProportion: (BETA, lambda d: (d.concentration1, d.concentration0)),
    dist.BernoulliLogits: (BERNOULLI, lambda d: (d.logits,)),
    dist.BernoulliProbs: (BERNOULLI, lambda d: (logit(d.probs),)),
    dist.BinomialLogits: (BINOMIAL, lambda d: (d.total_count, d.logits)),
    dist.BinomialProbs: (BINOMIAL, lambda d: (d.total_count, logit(d.probs))),
    dist.Poisson: (POISSON, lambda d: (d.rate,)),
    dist.GammaPoisson: (NEGATIVE_BINOMIAL, lambda d: (d.concentration, d.rate)),
    dist.NegativeBinomial2: (NEGATIVE_BINOMIAL, lambda d: (d.concentration, d.rate)),
    dist.NegativeBinomialProbs: (NEGATIVE_BINOMIAL, lambda d: (d.concentration, d.rate)),
    dist.NegativeBinomialLogits: (NEGATIVE_BINOMIAL, lambda d: (d.concentration, d.rate)),
    dist.GeometricProbs: (NEGATIVE_BINOMIAL, lambda d: (1.0, d.probs / (1.0 - d.probs))),
    dist.GeometricLogits: (NEGATIVE_BINOMIAL, lambda d: (1.0, jnp.exp(d.logits))),
    dist.CategoricalLogits: (CATEGORICAL, lambda d: (log_softmax(d.logits, axis=-1),)),
    dist.CategoricalProbs: (CATEGORICAL, lambda d: (_log_of(d.probs),)),
    dist.OrderedLogistic: (CATEGORICAL, lambda d: (_log_of(d.probs),)),
}

_TRUNCATED = (dist.TwoSidedTruncatedDistribution, dist.LeftTruncatedDistribution, dist.RightTruncatedDistribution)
_CENSORED = (dist.LeftCensoredDistribution, dist.RightCensoredDistribution)
_ZERO_INFLATED = (dist.ZeroInflatedPoisson, ZeroInflatedProbs, ZeroInflatedLogits)
_INFLATED = {POISSON: ZERO_INFLATED_POISSON, NEGATIVE_BINOMIAL: ZERO_INFLATED_NEGATIVE_BINOMIAL}


def family_of(distribution: Any) -> Family | None:
    """The family of a NumPyro distribution, looking through `to_event`, `expand` and `mask`; None if it has none.

    Also through censoring: what is predicted is the outcome itself, not whether it would have been seen.
    """
    law = _law_of(unwrapped(distribution))
    return law[0] if law else None


def parameters_of(distribution: Any, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """The family's parameters, each broadcast to the outcome's `shape` (and the classes, where there are such)."""
    base = unwrapped(distribution)
    law = _law_of(base)
    if law is None:
        raise TypeError(f"{type(base).__name__} is no law of a family; family_of says which are.")
    family, read = law
    classes = family.support is Support.CLASSES
    arrays = [jnp.asarray(value, float) for value in read(base)]
    return tuple(jnp.broadcast_to(a, shape + a.shape[-1:] if classes else shape) for a in arrays)


def itself(distribution: Any) -> Any:
    """Of an outcome that is given as two ends between which it lies the law of the outcome; else the law as it is."""
    return distribution.base_dist if type(distribution) is dist.IntervalCensoredDistribution else distribution


def _law_of(distribution: Any) -> tuple[Family, Callable[[Any], tuple]] | None:
    if type(distribution) in _TRUNCATED:
        return (TRUNCATED_NORMAL, _bounded) if type(unwrapped(distribution.base_dist)) is dist.Normal else None
    if type(distribution) not in _ZERO_INFLATED:
        return _LAWS.get(type(distribution))
    base = _LAWS.get(type(unwrapped(distribution.base_dist)))
    if base is None or base[0] not in _INFLATED:
        return None
    return _INFLATED[base[0]], lambda d: (d.gate, *base[1](unwrapped(d.base_dist)))


def _bounded(distribution: Any) -> tuple:
    base = unwrapped(distribution.base_dist)
    return base.loc, base.scale, getattr(distribution, "low", -jnp.inf), getattr(distribution, "high", jnp.inf)


def is_circular(distribution: Any) -> bool:
    """Whether the outcome is an angle, or several."""
    support = distribution.support
    return getattr(support, "base_constraint", support) is constraints.circular


def unwrapped(distribution: Any) -> Any:
    """The law below `to_event`, `expand`, `mask` and censoring."""
    wrapping = dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution
    while isinstance(distribution, wrapping) or type(distribution) in _CENSORED:
        distribution = distribution.base_dist
    return distribution
