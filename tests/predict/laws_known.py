"""Every family with SciPy's distribution of the same law, and NumPyro's distributions that lead to it."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats

from probinfer.predict.families import FAMILIES, Family, Support


class Known(NamedTuple):
    """draw: rng, shape -> the family's parameters; scipy, numpyro: parameters -> the law."""

    family: Family
    draw: Callable[[np.random.Generator, tuple], tuple[np.ndarray, ...]]
    scipy: Callable[..., Any]
    numpyro: Callable[..., Any]


def _p(logits):
    return 1 / (1 + np.exp(-logits))


def _between_bounds(loc, scale, start, length):
    """Bounds from sds to the left to sds to the right of the centre."""
    return loc, scale, loc + start * scale, loc + (start + 0.5 + length) * scale


def _row(name, draw, scipy, numpyro):
    return Known(FAMILIES[name], draw, scipy, numpyro)


KNOWN = {
    known.family.name: known
    for known in (
        _row(
            "Normal", lambda g, s: (g.normal(2, 3, s), g.gamma(4, 0.3, s)), lambda m, sd: stats.norm(m, sd), dist.Normal
        ),
        _row(
            "StudentT",
            lambda g, s: (g.gamma(8, 1, s) + 2.5, g.normal(2, 3, s), g.gamma(4, 0.3, s)),
            lambda df, m, sd: stats.t(df, m, sd),
            dist.StudentT,
        ),
        _row(
            "Laplace",
            lambda g, s: (g.normal(2, 3, s), g.gamma(4, 0.3, s)),
            lambda m, b: stats.laplace(m, b),
            dist.Laplace,
        ),
        _row(
            "Logistic",
            lambda g, s: (g.normal(2, 3, s), g.gamma(4, 0.3, s)),
            lambda m, b: stats.logistic(m, b),
            dist.Logistic,
        ),
        _row(
            "Gumbel",
            lambda g, s: (g.normal(2, 3, s), g.gamma(4, 0.3, s)),
            lambda m, b: stats.gumbel_r(m, b),
            dist.Gumbel,
        ),
        _row(
            "LogNormal",
            lambda g, s: (g.normal(0, 0.7, s), g.gamma(4, 0.1, s)),
            lambda m, sd: stats.lognorm(sd, scale=np.exp(m)),
            dist.LogNormal,
        ),
        _row(
            "Gamma",
            lambda g, s: (g.gamma(2, 1, s), g.gamma(4, 0.3, s)),
            lambda a, r: stats.gamma(a, scale=1 / r),
            dist.Gamma,
        ),
        _row("Exponential", lambda g, s: (g.gamma(4, 0.3, s),), lambda r: stats.expon(scale=1 / r), dist.Exponential),
        _row(
            "Weibull",
            lambda g, s: (g.gamma(4, 0.3, s), g.gamma(8, 0.2, s) + 0.3),
            lambda sc, k: stats.weibull_min(k, scale=sc),
            dist.Weibull,
        ),
        _row("HalfNormal", lambda g, s: (g.gamma(4, 0.3, s),), lambda sd: stats.halfnorm(scale=sd), dist.HalfNormal),
        _row(
            "Beta",
            lambda g, s: (g.gamma(2, 1, s) + 0.1, g.gamma(3, 1, s) + 0.1),
            lambda a, b: stats.beta(a, b),
            dist.Beta,
        ),
        _row(
            "TruncatedNormal",
            lambda g, s: _between_bounds(g.normal(2, 3, s), g.gamma(4, 0.3, s), g.normal(0, 1.5, s), g.gamma(2, 1, s)),
            lambda m, sd, low, high: stats.truncnorm((low - m) / sd, (high - m) / sd, m, sd),
            lambda m, sd, low, high: dist.TruncatedNormal(m, sd, low=low, high=high),
        ),
        _row(
            "Bernoulli",
            lambda g, s: (g.normal(0.5, 1.5, s),),
            lambda x: stats.bernoulli(_p(x)),
            lambda x: dist.Bernoulli(logits=x),
        ),
        _row(
            "Binomial",
            lambda g, s: (g.integers(1, 40, s).astype(float), g.normal(0.5, 1.5, s)),
            lambda n, x: stats.binom(n, _p(x)),
            lambda n, x: dist.Binomial(n.astype(int), logits=x),
        ),
        _row("Poisson", lambda g, s: (g.gamma(3, 4, s),), lambda r: stats.poisson(r), dist.Poisson),
        _row(
            "NegativeBinomial",
            lambda g, s: (g.gamma(3, 1, s) + 0.2, g.gamma(3, 0.1, s) + 0.02),
            lambda c, r: stats.nbinom(c, r / (1 + r)),
            dist.GammaPoisson,
        ),
        _row(
            "Categorical",
            lambda g, s: (np.log(g.dirichlet(np.ones(5), s)),),
            None,
            lambda log_p: dist.Categorical(logits=log_p),
        ),
    )
}
for inflated in ("Poisson", "NegativeBinomial"):
    base = KNOWN[inflated]

    def draw(g, s, base=base):
        return (g.beta(2, 4, s), *base.draw(g, s))

    def law(gate, *parameters, base=base):
        return dist.ZeroInflatedDistribution(base.numpyro(*parameters), gate=gate)

    KNOWN[f"ZeroInflated{inflated}"] = Known(FAMILIES[f"ZeroInflated{inflated}"], draw, None, law)
ELEMENTWISE = [name for name, known in KNOWN.items() if known.scipy is not None]
CONTINUOUS = [name for name, known in KNOWN.items() if not known.family.support.discrete]
COUNTS = [name for name, known in KNOWN.items() if known.family.support is Support.COUNT]
QUICK = (
    "Normal",
    "StudentT",
    "Laplace",
    "Gamma",
    "Bernoulli",
    "Binomial",
    "Poisson",
    "Categorical",
    "ZeroInflatedPoisson",
)


def quick_of(names: Iterable[str]) -> list:
    """Names of families, all but those of every kind marked long: each compiles programs of its own."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in names]
