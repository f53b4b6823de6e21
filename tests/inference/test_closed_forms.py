"""Conjugate posteriors against their textbook laws and evidence, and what is not conjugate refused.

Each assertion about random numbers has a false-alarm rate of 1e-6.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import probinfer as pi

FALSE_ALARM = 1e-6
GENERATOR = np.random.default_rng(11)
COUNTS = GENERATOR.poisson(3.0, 25)
TIMES = GENERATOR.exponential(0.5, 30)
NUMBERS = GENERATOR.normal(1.0, 2.0, 15)
X = GENERATOR.normal(size=(30, 3))
Y = X @ np.array([1.0, -1.0, 0.5]) + 0.5 * GENERATOR.normal(size=30)


def infer(model, data=None, **settings):
    return pi.infer(model, data, pi.Exact(**settings), progress=False)


def poisson(y=None):
    rate = numpyro.sample("theta", dist.Gamma(2.0, 1.5))
    numpyro.sample("y", dist.Poisson(rate).expand([len(y)]).to_event(1), obs=y)


def exponential(y=None):
    rate = numpyro.sample("theta", dist.Gamma(0.5, 0.1))
    numpyro.sample("y", dist.Exponential(rate).expand([len(y)]).to_event(1), obs=y)


def binomial(n, y=None):
    p = numpyro.sample("theta", dist.Beta(0.5, 2.0))
    numpyro.sample("y", dist.Binomial(n, p), obs=y)


def variance(y=None):
    theta = numpyro.sample("theta", dist.InverseGamma(3.0, 4.0))
    numpyro.sample("y", dist.Normal(1.0, jnp.sqrt(theta)).expand([len(y)]).to_event(1), obs=y)


GAMMA_POISSON = stats.gamma(2.0 + COUNTS.sum(), scale=1 / (1.5 + len(COUNTS)))
GAMMA_EXPONENTIAL = stats.gamma(0.5 + len(TIMES), scale=1 / (0.1 + TIMES.sum()))
INVERSE_GAMMA = stats.invgamma(3.0 + len(NUMBERS) / 2, scale=4.0 + np.sum((NUMBERS - 1.0) ** 2) / 2)


def ratio_evidence(prior, likelihood, posterior, at: float) -> float:
    """log p(y) by Bayes' theorem at one point."""
    return float(prior.logpdf(at) + np.sum(likelihood(at)) - posterior.logpdf(at))


CASES = {
    "Gamma-Poisson": (
        poisson,
        {"y": COUNTS},
        GAMMA_POISSON,
        ratio_evidence(stats.gamma(2.0, scale=1 / 1.5), lambda t: stats.poisson(t).logpmf(COUNTS), GAMMA_POISSON, 3.0),
    ),
    "Gamma-Exponential": (
        exponential,
        {"y": TIMES},
        GAMMA_EXPONENTIAL,
        ratio_evidence(
            stats.gamma(0.5, scale=10.0), lambda t: stats.expon(scale=1 / t).logpdf(TIMES), GAMMA_EXPONENTIAL, 2.0
        ),
    ),
    "Beta-Binomial": (
        binomial,
        {"n": 40, "y": np.array(31)},
        stats.beta(31.5, 11.0),
        stats.betabinom(40, 0.5, 2.0).logpmf(31),
    ),
    "inverse gamma": (
        variance,
        {"y": NUMBERS},
        INVERSE_GAMMA,
        ratio_evidence(
            stats.invgamma(3.0, scale=4.0), lambda t: stats.norm(1.0, np.sqrt(t)).logpdf(NUMBERS), INVERSE_GAMMA, 3.0
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_parameter(name):
    model, data, law, log_evidence = CASES[name]
    posterior = infer(model, data)
    draws = np.asarray(posterior.tree["posterior"]["theta"])
    assert stats.kstest(draws, law.cdf).pvalue > FALSE_ALARM
    assert stats.kstest(draws, lambda x: law.cdf(x / 1.1)).pvalue < FALSE_ALARM, "blind to a scale that is off by 10%"
    assert posterior.tree.attrs["log_evidence"] == pytest.approx(log_evidence, abs=1e-6)
    assert posterior.report.verdict is pi.Verdict.GOOD


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, 0.5).to_event(1), obs=y)


def test_linear_regression():
    covariance = np.linalg.inv(X.T @ X / 0.25 + np.eye(3))
    mean = covariance @ X.T @ Y / 0.25
    posterior = infer(regression, {"x": X, "y": Y})
    draws = np.asarray(posterior.tree["posterior"]["b"])
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    assert stats.kstest(np.sum(white**2, axis=0), stats.chi2(3).cdf).pvalue > FALSE_ALARM
    assert all(stats.kstest(part, stats.norm.cdf).pvalue > FALSE_ALARM / 3 for part in white)
    assert stats.kstest(1.1 * white[0], stats.norm.cdf).pvalue > FALSE_ALARM  # 10% of a scale at 4000 draws: not seen
    assert stats.kstest(white[0] + 0.2, stats.norm.cdf).pvalue < FALSE_ALARM
    exact = stats.multivariate_normal(np.zeros(30), X @ X.T + 0.25 * np.eye(30)).logpdf(Y)
    assert posterior.tree.attrs["log_evidence"] == pytest.approx(exact, abs=1e-6)


def test_dirichlet():
    counts = np.array([5, 0, 12, 3])

    def model(y):
        p = numpyro.sample("p", dist.Dirichlet(jnp.array([0.5, 1.0, 2.0, 1.0])))
        numpyro.sample("y", dist.Multinomial(20, p), obs=y)

    posterior = infer(model, {"y": counts})
    alpha = counts + np.array([0.5, 1.0, 2.0, 1.0])
    draws = np.asarray(posterior.tree["posterior"]["p"])
    for k, a in enumerate(alpha):
        assert stats.kstest(draws[:, k], stats.beta(a, alpha.sum() - a).cdf).pvalue > FALSE_ALARM / 4
    prior = alpha - counts
    coefficient = special.gammaln(21) - special.gammaln(counts + 1).sum()
    evidence = coefficient + special.gammaln(alpha).sum() - special.gammaln(alpha.sum())
    evidence -= special.gammaln(prior).sum() - special.gammaln(prior.sum())
    assert posterior.tree.attrs["log_evidence"] == pytest.approx(evidence, abs=1e-6)


def test_parts_of_different_kinds_and_a_plate():
    def model(x, y, counts):
        regression(x, y)
        with numpyro.plate("site", 2):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
            numpyro.sample("counts", dist.Poisson(rate), obs=counts)

    counts = np.array([4, 0])
    posterior = infer(model, {"x": X, "y": Y, "counts": counts})
    assert posterior.tree.attrs["laws"] == "normal in 3 dimensions, gamma (2)"
    rate = np.asarray(posterior.tree["posterior"]["rate"])
    for k, y in enumerate(counts):
        assert stats.kstest(rate[:, k], stats.gamma(2 + y, scale=1 / 2.5).cdf).pvalue > FALSE_ALARM / 2
    both = stats.nbinom(2, 1.5 / 2.5).logpmf(counts).sum()
    exact = stats.multivariate_normal(np.zeros(30), X @ X.T + 0.25 * np.eye(30)).logpdf(Y)
    assert posterior.tree.attrs["log_evidence"] == pytest.approx(exact + both, abs=1e-6)


def test_nearly_normal_is_not_normal():
    x = np.random.default_rng(0).normal(size=20_000)
    y = (np.random.default_rng(1).random(20_000) < special.expit(0.5 * x)).astype(int)

    def logistic(x, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Bernoulli(logits=b * x).to_event(1), obs=y)

    with pytest.raises(pi.MethodError, match="is no product of normal"):
        infer(logistic, {"x": x, "y": y})


def test_what_depends_on_one_another_is_refused():
    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        theta = numpyro.sample("theta", dist.InverseGamma(3.0, 4.0))
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(theta)).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(pi.MethodError, match=r"Use pi\.NUTS"):
        infer(model, {"y": NUMBERS})


def test_other_supports_are_refused():
    def model():
        numpyro.sample("angle", dist.Uniform(1.0, 2.0))

    with pytest.raises(pi.MethodError, match="site angle has the support"):
        infer(model)


def test_settings_out_of_range():
    with pytest.raises(pi.MethodError, match="draws"):
        pi.Exact(draws=0)
