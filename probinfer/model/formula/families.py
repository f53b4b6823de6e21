"""Families of outcomes: what values they have, the law given the linear predictor, and their own parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr
from numpyro.distributions import transforms

from probinfer.errors import ModelError


class Link(Enum):
    """What of the outcome's mean is linear in the predictors: `link(mean) = Intercept + X @ coefficients + …`."""

    IDENTITY = "identity"
    LOG = "log"
    LOGIT = "logit"
    PROBIT = "probit"
    CLOGLOG = "cloglog"


class Family(Enum):
    """The law of an outcome given its predictors, for `pi.formula`.

    GAUSSIAN                        numbers: Normal(mu, sigma)
    STUDENT_T                       numbers with outliers: StudentT(nu, mu, sigma)
    GAMMA                           numbers above zero: Gamma with mean mu and shape alpha
    BETA                            numbers between 0 and 1: Beta(mu kappa, (1 - mu) kappa)
    BERNOULLI                       0 and 1, or two labels, of which the second is predicted
    BINOMIAL                        successes among trials, `proportion(successes, trials) ~ …`
    POISSON                         counts
    NEGATIVE_BINOMIAL               counts with the variance mu + mu^2 / alpha
    ZERO_INFLATED_POISSON           counts, zero with the probability zero_inflation besides
    ZERO_INFLATED_NEGATIVE_BINOMIAL the same
    CATEGORICAL                     labels without order: a linear predictor for each but the first
    CUMULATIVE                      labels in order: P(y <= k) = logistic(threshold_k - linear predictor)
    """

    GAUSSIAN = "gaussian"
    STUDENT_T = "student_t"
    GAMMA = "gamma"
    BETA = "beta"
    BERNOULLI = "bernoulli"
    BINOMIAL = "binomial"
    POISSON = "poisson"
    NEGATIVE_BINOMIAL = "negative_binomial"
    ZERO_INFLATED_POISSON = "zero_inflated_poisson"
    ZERO_INFLATED_NEGATIVE_BINOMIAL = "zero_inflated_negative_binomial"
    CATEGORICAL = "categorical"
    CUMULATIVE = "cumulative"


class Values(Enum):
    """What values an outcome may have."""

    REAL = "numbers"
    POSITIVE = "numbers above zero"
    UNIT = "numbers between 0 and 1, the ends not among them"
    BINARY = "0 and 1, True and False, or two labels"
    COUNT = "whole numbers, 0 or more"
    CLASSES = "labels"


@dataclass(frozen=True)
class Law:
    """What a family is.

    links    that it may have, the usual one first
    own      names of its own parameters
    law      (mean or logits, own parameters, trials) -> the distribution
    """

    values: Values
    links: tuple[Link, ...]
    own: tuple[str, ...]
    law: Callable[..., Any]


def _cloglog(eta: Any) -> Any:
    """logit of P = 1 - exp(-t), t = exp(eta): log(exp(t) - 1) = log t + log((exp(t) - 1) / t), whose last term is the
    series t / 2 + t^2 / 24 where t is small, to the last digit, and t + log(1 - exp(-t)) in all else."""
    few = eta < -10.0
    t = jnp.exp(eta)
    middle = jnp.where(few, 1.0, t)  # so that no gradient comes from the side that is not taken
    return jnp.where(few, eta + t / 2.0 + t * t / 24.0, middle + jnp.log(-jnp.expm1(-middle)))


_MEANS: dict[Link, Callable[[Any], Any]] = {Link.IDENTITY: lambda eta: eta, Link.LOG: jnp.exp}
_LOGITS: dict[Link, Callable[[Any], Any]] = {
    Link.LOGIT: lambda eta: eta,
    Link.PROBIT: lambda eta: log_ndtr(eta) - log_ndtr(-eta),
    Link.CLOGLOG: _cloglog,
}
_BINARY = (Link.LOGIT, Link.PROBIT, Link.CLOGLOG)


def _negative_binomial(eta: Any, own: Mapping[str, Any], link: Link) -> Any:
    return dist.NegativeBinomial2(_MEANS[link](eta), own["alpha"])


def _inflated(base: Any, own: Mapping[str, Any]) -> Any:
    return dist.ZeroInflatedDistribution(base, gate=own["zero_inflation"])


def _beta(eta: Any, own: Mapping[str, Any], link: Link) -> Any:
    mean = 1.0 / (1.0 + jnp.exp(-_LOGITS[link](eta)))
    return dist.Beta(mean * own["kappa"], (1.0 - mean) * own["kappa"])


def _categorical(eta: Any) -> Any:
    return dist.Categorical(logits=jnp.concatenate([jnp.zeros((*eta.shape[:-1], 1)), eta], axis=-1))


LAWS: dict[Family, Law] = {
    Family.GAUSSIAN: Law(
        Values.REAL, (Link.IDENTITY,), ("sigma",), lambda eta, own, link, trials: dist.Normal(eta, own["sigma"])
    ),
    Family.STUDENT_T: Law(
        Values.REAL,
        (Link.IDENTITY,),
        ("sigma", "nu"),
        lambda eta, own, link, trials: dist.StudentT(own["nu"], eta, own["sigma"]),
    ),
    Family.GAMMA: Law(
        Values.POSITIVE,
        (Link.LOG,),
        ("alpha",),
        lambda eta, own, link, trials: dist.Gamma(own["alpha"], own["alpha"] * jnp.exp(-eta)),
    ),
    Family.BETA: Law(
        Values.UNIT, (Link.LOGIT, Link.PROBIT), ("kappa",), lambda eta, own, link, trials: _beta(eta, own, link)
    ),
    Family.BERNOULLI: Law(
        Values.BINARY, _BINARY, (), lambda eta, own, link, trials: dist.Bernoulli(logits=_LOGITS[link](eta))
    ),
    Family.BINOMIAL: Law(
        Values.COUNT,
        _BINARY,
        (),
        lambda eta, own, link, trials: dist.Binomial(
            total_count=jnp.asarray(trials).astype(int), logits=_LOGITS[link](eta)
        ),
    ),
    Family.POISSON: Law(
        Values.COUNT, (Link.LOG,), (), lambda eta, own, link, trials: dist.Poisson(_MEANS[link](eta))
    ),
    Family.NEGATIVE_BINOMIAL: Law(
        Values.COUNT, (Link.LOG,), ("alpha",), lambda eta, own, link, trials: _negative_binomial(eta, own, link)
    ),
    Family.ZERO_INFLATED_POISSON: Law(
        Values.COUNT,
        (Link.LOG,),
        ("zero_inflation",),
        lambda eta, own, link, trials: _inflated(dist.Poisson(_MEANS[link](eta)), own),
    ),
    Family.ZERO_INFLATED_NEGATIVE_BINOMIAL: Law(
        Values.COUNT,
        (Link.LOG,),
        ("alpha", "zero_inflation"),
        lambda eta, own, link, trials: _inflated(_negative_binomial(eta, own, link), own),
    ),
    Family.CATEGORICAL: Law(
        Values.CLASSES, (Link.LOGIT,), (), lambda eta, own, link, trials: _categorical(eta)
    ),
    Family.CUMULATIVE: Law(
        Values.CLASSES,
        (Link.LOGIT,),
        ("threshold",),
        lambda eta, own, link, trials: dist.OrderedLogistic(jnp.asarray(eta), own["threshold"]),
    ),
}  # fmt: skip


def check_family(family: Any, link: Any) -> Link:
    """The family's link. Raises ModelError for what is no family, and a link that it does not have."""
    if not isinstance(family, Family):
        raise ModelError(f"family is {family!r}; wanted a pi.Family, such as pi.Family.POISSON.")
    law = LAWS[family]
    if link is None:
        return law.links[0]
    if not isinstance(link, Link) or link not in law.links:
        raise ModelError(
            f"link is {link!r}; {family} has {' or '.join(f'pi.{each}' for each in law.links)}, or leave it out."
        )
    return link


def scale_of(law: Law, link: Link, y: np.ndarray, offset: np.ndarray) -> tuple[float, float]:
    """Where the linear predictor is, and its scale, for weakly informative priors: mean and sd of a real outcome, the
    logarithm of the mean and 1 with a log link, else 0 and 1."""
    if law.values is Values.REAL:
        return float(np.mean(y - offset)), float(np.std(y))
    if link is Link.LOG:
        least = 0.5 / len(y) if law.values is Values.COUNT else 0.0  # counts may all be zero
        exposure = np.logaddexp.reduce(offset) - np.log(len(y))  # the logarithm of the mean of exp(offset)
        return float(np.log(max(np.mean(y), least)) - exposure), 1.0
    return 0.0, 1.0


def own_priors(law: Law, scale: float, classes: int) -> dict[str, Any]:
    """The default priors of a family's own parameters; `scale` is the sd of a real outcome."""
    found = {
        "sigma": dist.Exponential(1.0 / scale),
        "nu": dist.Gamma(2.0, 0.1),
        "alpha": dist.HalfCauchy(1.0),
        "kappa": dist.HalfCauchy(1.0),
        "zero_inflation": dist.Beta(1.0, 1.0),
        "threshold": dist.TransformedDistribution(
            dist.Dirichlet(jnp.ones(max(classes, 2))), transforms.SimplexToOrderedTransform(0.0)
        ),
    }
    return {name: found[name] for name in law.own}
