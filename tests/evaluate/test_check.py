"""Predictive checks against closed forms, at stated false-alarm rates; each with data drawn wrongly on purpose."""

import sys

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.evaluate.check import _usual
from probinfer.evaluate.replicate import replicate
from tests.evaluate import conjugate

N = 60
x, y = conjugate.rows(N, seed=3)
DATA = {"x": x, "y": y}
EVERY = np.arange(N)
DRAWS = 2000


@pytest.fixture(scope="module")
def posterior():
    return pi.infer(conjugate.line, DATA, pi.Exact(draws=DRAWS), progress=False)


@pytest.fixture(scope="module")
def check(posterior):
    return pi.posterior_check(posterior, draws=DRAWS, statistics={"mean": np.mean, "max": np.max})


def law_of_mean(mean, covariance):
    """Of the mean of y_rep: normal, whatever the parameters' normal law."""
    centre = x.mean(axis=0)
    return stats.norm(centre @ mean, np.sqrt(centre @ covariance @ centre + conjugate.SIGMA**2 / N))


def means_of(check):
    return check.tree[check.group]["y"].to_numpy().reshape(DRAWS, N).mean(axis=1)


def assert_p(value, exact, rate=1e-6):
    assert abs(value - exact) <= stats.norm.isf(rate / 2) * np.sqrt(exact * (1 - exact) / DRAWS)


def test_posterior_check_against_the_closed_form(check):
    law = law_of_mean(*conjugate.posterior(x, y))
    assert stats.kstest(means_of(check), law.cdf).pvalue > 1e-6
    assert_p(check["mean"].p, law.sf(y.mean()))
    np.testing.assert_allclose([check["mean"].lower, check["mean"].upper], np.quantile(means_of(check), [0.05, 0.95]))
    assert check["max"].observed == y.max()
    assert "Posterior predictive check of y: 2000 data sets" in repr(check)
    assert "<table" in check._repr_html_()
    assert {"posterior", "posterior_predictive", "observed_data", "log_likelihood"} <= set(check.tree.children)


def test_broken_twins_of_replication_are_caught(posterior):
    law = law_of_mean(*conjugate.posterior(x, y))
    bound = posterior.model.bind(posterior.data)
    made = replicate(bound, posterior.latents, 0)["y"]
    mean = posterior.latents["beta"] @ x.T
    noise = made - mean
    assert stats.kstest(noise.ravel() / conjugate.SIGMA, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 5 / np.sqrt(noise.size)
    for wrong in (mean, mean + noise[0]):  # no noise; one noise for all draws
        assert stats.kstest(wrong.mean(axis=1), law.cdf).pvalue < 1e-6


def test_loo_pit_against_the_closed_form(check):
    exact = np.empty(N)
    for i in EVERY:
        mean, covariance = conjugate.posterior(np.delete(x, i, 0), np.delete(y, i))
        exact[i] = stats.norm.cdf(y[i], x[i] @ mean, np.sqrt(conjugate.SIGMA**2 + x[i] @ covariance @ x[i]))
    # weights cost draws: the tolerance is that of a quarter of them
    error = stats.norm.isf(1e-6 / N / 2) * np.sqrt(exact * (1 - exact) / (DRAWS / 4)) + 1 / DRAWS
    assert (np.abs(check.pit - exact) < error).all()
    assert check.pit_p > 1e-4


def test_the_pit_of_a_row_that_no_parameter_moves():
    """A row of zeros has the same density at every draw: its weights are alike, and have no tail to smooth."""
    with_zeros, came = x.copy(), y.copy()
    with_zeros[0], came[0] = 0.0, 0.5
    posterior = pi.infer(conjugate.line, {"x": with_zeros, "y": came}, pi.Exact(draws=DRAWS), progress=False)
    check = pi.posterior_check(posterior, draws=DRAWS)
    assert_p(check.pit[0], stats.norm.cdf(0.5 / conjugate.SIGMA))


def test_a_model_without_the_slope_is_found_out():
    wide = {"x": x, "y": 3 * y}
    other = pi.infer(conjugate.line, wide, pi.Exact(draws=500), progress=False)
    check = pi.posterior_check(other, draws=500)
    assert check["sd"].extreme
    assert check["sd"].p == 0.0
    assert check.pit_p < 1e-4


def test_prior_check_against_the_closed_form():
    check = pi.prior_check(conjugate.line, DATA, draws=DRAWS, seed=1)
    law = law_of_mean(np.zeros(2), np.eye(2))
    assert stats.kstest(means_of(check), law.cdf).pvalue > 1e-6
    assert_p(check["mean"].p, law.sf(y.mean()))
    prior = check.tree["prior"]["beta"].to_numpy().reshape(DRAWS, 2)
    assert stats.kstest(prior.ravel(), "norm").pvalue > 1e-6
    assert check.pit is None
    # broken twin: the posterior's law instead of the prior's
    assert stats.kstest(means_of(check), law_of_mean(*conjugate.posterior(x, y)).cdf).pvalue < 1e-6


def test_usual_statistics_of_counts_and_classes():
    def model(kind, y=None):
        p = numpyro.sample("p", dist.Beta(2, 2))
        law = [dist.Poisson(p), dist.Bernoulli(p), dist.Categorical(probs=np.ones(3) / 3)][kind]
        with numpyro.plate("rows", 12):
            numpyro.sample("y", law, obs=y)

    data = np.resize([0, 1, 1, 0], 12)
    names = [list(_usual(pi.Model(model).bind({"kind": kind, "y": data}), "y", data)) for kind in range(3)]
    assert names == [["mean", "sd", "max", "zeros"], ["mean", "changes"], ["share of 0", "share of 1"]]


@pytest.mark.long
def test_plot(check, monkeypatch):
    assert check.plot() is not None
    monkeypatch.setitem(sys.modules, "arviz_plots", None)
    with pytest.raises(pi.MissingExtra, match="plot"):
        check.plot()


def test_bad_input(posterior):
    def flat(y=None):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    with pytest.raises(pi.ModelError, match="has no prior to draw from"):
        pi.prior_check(flat, {"y": y})
    with pytest.raises(pi.PredictionError, match="wanted one finite number"):
        pi.posterior_check(posterior, statistics={"all": lambda y: y}, draws=10)
    with pytest.raises(pi.PredictionError, match="draws is 0"):
        pi.posterior_check(posterior, draws=0)
    with pytest.raises(pi.ModelError, match="there is no outcome 'z'; the model has observed y"):
        pi.posterior_check(posterior, outcome="z")
    with pytest.raises(KeyError, match="no statistic 'skew'"):
        pi.posterior_check(posterior, draws=10)["skew"]
