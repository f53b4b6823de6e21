"""Markov chains find posteriors whose exact law is known; a model that is subtly wrong fails the very same check.

Each case is a model, its data, and the exact marginal law of each site. `defect`, an argument of every model, is 0 in
the right model and 1 in its twin: the same compiled program with one thing wrong. All comparisons of one test share a
false-alarm rate of 1e-6; `resolution` makes sure that the draws could tell.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import probinfer as pi
from tests.inference.statistics import assert_moments, assert_within_mcse

RESOLUTION = 0.25


def draw(model, data, method=pi.NUTS, **settings) -> dict[str, np.ndarray]:
    """Draws (chain, draw, *shape) by site."""
    posterior = pi.infer(model, data, method(**settings), seed=0, progress=False)
    return {name: variable.values for name, variable in posterior.tree["posterior"].data_vars.items()}


@dataclass(frozen=True)
class Case:
    model: Callable
    data: dict
    exact: dict  # site -> frozen scipy distribution, vectorised over the site's shape
    settings: dict = field(default_factory=dict)  # of NUTS


def normal_mean() -> Case:
    """y ~ Normal(mu, 2), mu ~ Normal(1, 3): prior and data weighed by precision. The twin's noise is 20% off."""
    y = np.random.default_rng(0).normal(2.0, 2.0, size=12)

    def model(y, defect):
        mu = numpyro.sample("mu", dist.Normal(1, 3))
        numpyro.sample("y", dist.Normal(mu, 2 + 0.4 * defect), obs=y)

    precision = 1 / 9 + len(y) / 4
    return Case(model, {"y": y}, {"mu": stats.norm((1 / 9 + y.sum() / 4) / precision, precision**-0.5)})


def normal_mean_and_scale() -> Case:
    """y ~ Normal(mu, sigma), density 1/sigma on mu and sigma: Student's t for mu, gamma for the precision.

    The twin forgets the exponential transform's Jacobian, sigma.
    """
    y = np.random.default_rng(1).normal(5.0, 3.0, size=8)

    def model(y, defect):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
        numpyro.factor("prior", -(1 + defect) * jnp.log(sigma))
        numpyro.deterministic("precision", sigma**-2)
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

    n, s2 = len(y), y.var(ddof=1)
    exact = {
        "mu": stats.t(n - 1, y.mean(), np.sqrt(s2 / n)),
        "precision": stats.gamma((n - 1) / 2, scale=2 / (n - 1) / s2),
    }
    return Case(model, {"y": y}, exact)


def beta_bernoulli() -> Case:
    """p ~ Beta(2, 3) and 3 successes out of 20. The twin forgets the logistic transform's Jacobian, p (1 - p)."""
    y = np.repeat([1, 0], [3, 17])

    def model(y, defect):
        p = numpyro.sample("p", dist.Beta(2, 3))
        numpyro.factor("no_jacobian", -defect * (jnp.log(p) + jnp.log1p(-p)))
        numpyro.sample("y", dist.Bernoulli(p), obs=y)

    return Case(model, {"y": y}, {"p": stats.beta(5, 20)})


def gamma_poisson() -> Case:
    """rate ~ Gamma(3, 0.5) and six counts. The twin forgets the exponential transform's Jacobian, the rate."""
    y = np.array([2, 0, 3, 1, 1, 4])

    def model(y, defect):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 0.5))
        numpyro.factor("no_jacobian", -defect * jnp.log(rate))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    return Case(model, {"y": y}, {"rate": stats.gamma(3 + y.sum(), scale=1 / (0.5 + len(y)))})


def dirichlet_multinomial() -> Case:
    """A simplex of four: p ~ Dirichlet(1, 1, 2, 3) and counts. The twin drops a factor p[1]."""
    prior, counts = np.array([1.0, 1.0, 2.0, 3.0]), np.array([0, 4, 2, 9])

    def model(counts, defect):
        p = numpyro.sample("p", dist.Dirichlet(prior))
        numpyro.factor("dropped", -defect * jnp.log(p[1]))
        numpyro.sample("counts", dist.Multinomial(15, p), obs=counts)

    a = prior + counts
    return Case(model, {"counts": counts}, {"p": stats.beta(a, a.sum() - a)})


def order_statistics() -> Case:
    """The order statistics of three exponentials are an ordered positive vector with known marginals.

    Their spacings are independent exponentials with rates 3, 2, 1. The twin counts the Jacobian of the first one twice.
    """

    def model(defect):
        x = numpyro.sample("x", dist.ImproperUniform(constraints.positive_ordered_vector, (), (3,)))
        numpyro.factor("exponential", -x.sum() + defect * jnp.log(x[0]))
        numpyro.deterministic("spacings", jnp.diff(x, prepend=0.0))

    exact = {"spacings": stats.expon(scale=1 / np.array([3.0, 2.0, 1.0]))}
    # at 0.8 it diverges near zero, of other samplers too, and a chain may hang there for hundreds of draws
    return Case(model, {}, exact, {"target_accept": 0.95})


def linear_regression() -> Case:
    """Known noise, flat coefficients: Normal((X'X)^-1 X'y, s^2 (X'X)^-1). The twin's noise is 20% off."""
    rng = np.random.default_rng(2)
    X = np.column_stack([np.ones(30), 5 + rng.normal(size=30), rng.normal(size=30)])
    y = X @ np.array([1.0, 2.0, -3.0]) + 1.5 * rng.normal(size=30)

    def model(X, y, defect):
        beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (3,)))
        numpyro.sample("y", dist.Normal(X @ beta, 1.5 + 0.3 * defect), obs=y)

    covariance = 1.5**2 * np.linalg.inv(X.T @ X)
    exact = stats.norm(np.linalg.solve(X.T @ X, X.T @ y), np.sqrt(np.diag(covariance)))
    return Case(model, {"X": X, "y": y}, {"beta": exact})


CASES = (
    normal_mean,
    normal_mean_and_scale,
    beta_bernoulli,
    gamma_poisson,
    dirichlet_multinomial,
    order_statistics,
    linear_regression,
)


def assert_exact(case: Case, defect: float, method: type) -> None:
    settings = case.settings if method is pi.NUTS else {}
    draws = draw(case.model, {**case.data, "defect": defect}, method, draws=4000, **settings)
    for site, law in case.exact.items():
        assert_moments(draws[site], law.mean(), law.std(), quantile=law.ppf, resolution=RESOLUTION, names=site)


METHODS = (pi.NUTS, pi.HMC, pi.Metropolis)
QUICK = {  # of the supports one each: the line, above zero, a simplex, in order
    pi.NUTS: (normal_mean_and_scale, beta_bernoulli, order_statistics),
    pi.HMC: (dirichlet_multinomial,),
    pi.Metropolis: (linear_regression,),
}
PAIRS = [
    pytest.param(make, method, id=f"{make.__name__}-{method.__name__}", marks=() if quick else pytest.mark.long)
    for make in CASES
    for method in METHODS
    for quick in [make in QUICK[method]]
]


@pytest.mark.parametrize(("make", "method"), PAIRS)
def test_posterior_is_exact_and_a_defective_twin_is_not(make, method):
    case = make()
    assert_exact(case, 0.0, method)
    with pytest.raises(AssertionError, match="tolerance"):
        assert_exact(case, 1.0, method)


def gaussian(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Cholesky factor of a correlated normal law with scales over two orders of magnitude."""
    rng = np.random.default_rng(dim)
    factor = np.linalg.cholesky(0.3 * np.eye(dim) + 0.7 * np.ones((dim, dim)))
    return rng.normal(size=dim), np.geomspace(0.1, 10.0, dim)[:, None] * factor


def assert_gaussian(draws: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> None:
    """Whitened draws are independent standard normals: means, variances, quantiles, and products of neighbours."""
    z = np.linalg.solve(factor, (draws - mean)[..., None])[..., 0]
    assert_moments(z, 0.0, 1.0, quantile=stats.norm.ppf, resolution=RESOLUTION, names="z")
    if z.shape[-1] > 1:
        assert_within_mcse(z[..., 1:] * z[..., :-1], 0.0, names="covariance of neighbours")


@pytest.mark.parametrize("method", [pi.NUTS, *(pytest.param(each, marks=pytest.mark.long) for each in METHODS[1:])])
@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.long), 10])
def test_correlated_gaussian(dim, method):
    mean, factor = gaussian(dim)

    def log_density(x, scale):
        return -0.5 * jnp.sum((jnp.linalg.solve(factor, x - mean) / scale) ** 2)

    target = pi.LogDensity(log_density, dim=dim)
    assert_gaussian(draw(target, {"scale": 1.0}, method, draws=2000)["x"], mean, factor)
    with pytest.raises(AssertionError, match="tolerance"):
        assert_gaussian(draw(target, {"scale": 1.1}, method, draws=2000)["x"], mean, factor)


def autoregressive(x, rho=0.7):
    """Log density of a stationary autoregression: every x[i] is standard normal, neighbours correlate at rho."""
    innovations = (x[1:] - rho * x[:-1]) / np.sqrt(1 - rho**2)
    return -0.5 * (x[0] ** 2 + jnp.sum(innovations**2))


def assert_autoregressive(x: np.ndarray, rho: float = 0.7) -> None:
    assert_moments(x, 0.0, 1.0, resolution=RESOLUTION, names="x")
    assert_within_mcse(x[..., 1:] * x[..., :-1], rho, resolution=RESOLUTION, names="covariance of neighbours")


@pytest.mark.long
@pytest.mark.parametrize("dim", [100, 1000])
def test_many_dimensions(dim):
    assert_autoregressive(draw(pi.LogDensity(autoregressive, dim=dim), {})["x"])


@pytest.mark.long
def test_autoregressive_twin_with_weaker_correlation_is_noticed():
    weaker = draw(pi.LogDensity(lambda x: autoregressive(x, rho=0.6), dim=100), {})["x"]
    with pytest.raises(AssertionError, match="tolerance"):
        assert_autoregressive(weaker)
