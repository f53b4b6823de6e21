"""Replica exchange against closed forms: moments, shares of modes, evidence; and twins that must fail.

Each assertion has a false-alarm rate of 1e-6, shared by its comparisons (Bonferroni).
"""

import json
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import probinfer as pi
from probinfer.inference.montecarlo import exchange, replica
from probinfer.inference.montecarlo.tempering import preconditioner
from probinfer.model import target as target_module
from tests.inference.statistics import assert_moments, assert_within_mcse

FALSE_ALARM = 1e-6
GENERATOR = np.random.default_rng(20)
X = GENERATOR.normal(size=(30, 3))
DATA = {"x": X, "y": X @ np.array([1.0, -1.0, 0.5]) + 0.5 * GENERATOR.normal(size=30)}
COVARIANCE = np.linalg.inv(X.T @ X / 0.25 + np.eye(3))
MEAN = COVARIANCE @ X.T @ DATA["y"] / 0.25
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(30), X @ X.T + 0.25 * np.eye(30)).logpdf(DATA["y"])
SHARES = np.array([0.25, 0.75])
PEAKS_EVIDENCE = float(np.log(SHARES @ stats.norm(0, np.sqrt(25.25)).pdf([-4.0, 4.0])))


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, 0.5).to_event(1), obs=y)


def two_peaks():
    x = numpyro.sample("x", dist.Normal(0, 5))
    peaks = dist.Normal(jnp.array([-4.0, 4.0]), 0.5).log_prob(x)
    numpyro.factor("peaks", jnp.logaddexp(*(jnp.log(jnp.array(SHARES)) + peaks)))


def infer(model, data, method=None):
    return pi.infer(model, data, method or pi.Tempering(chains=8), progress=False)


def evidence_agrees(posterior, exact: float) -> bool:
    attrs = posterior.tree.attrs
    assert attrs["log_evidence_mcse"] < 0.1, "too coarse to say anything"
    bound = stats.t.isf(FALSE_ALARM / 2, posterior.tree["posterior"].sizes["chain"] - 1) * attrs["log_evidence_mcse"]
    return abs(attrs["log_evidence"] - exact) < bound


def assert_shares(posterior):
    x = np.asarray(posterior.tree["posterior"]["x"])
    assert_within_mcse((x > 0).astype(float), SHARES[1], resolution=0.3)
    inside = x - 4 * np.sign(x)
    centre = 4 * 25 / 25.25 - 4
    assert_within_mcse(inside * np.sign(x), centre, resolution=0.3)


def test_conjugate_moments_and_evidence():
    posterior = infer(regression, DATA)
    assert_moments(np.asarray(posterior.tree["posterior"]["b"]), MEAN, np.sqrt(np.diag(COVARIANCE)), resolution=0.3)
    assert evidence_agrees(posterior, LOG_EVIDENCE)
    assert posterior.report.verdict is pi.Verdict.GOOD


def test_both_modes_in_their_shares():
    posterior = infer(two_peaks, {})
    assert_shares(posterior)
    assert evidence_agrees(posterior, PEAKS_EVIDENCE)
    assert posterior.report.verdict is pi.Verdict.GOOD


@pytest.mark.long
def test_an_exchange_by_the_wrong_ratio_is_noticed(monkeypatch):
    right = exchange.exchange_log_ratio
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    monkeypatch.setattr(exchange, "exchange_log_ratio", lambda betas, weight: 0.5 * right(betas, weight))
    with pytest.raises(AssertionError, match="out of tolerance"):
        assert_shares(infer(two_peaks, {}, pi.Tempering(chains=8, draws=2000)))


def test_an_evidence_of_shifted_temperatures_is_noticed(monkeypatch):
    right = replica._log_evidence
    monkeypatch.setattr(replica, "_log_evidence", lambda betas, weight: right(betas**1.1, weight))
    assert not evidence_agrees(infer(regression, DATA), LOG_EVIDENCE)


@pytest.mark.long
def test_a_positive_site_and_its_jacobian():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("n", 20):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.random.default_rng(3).poisson(3.0, 20)
    law = stats.gamma(2 + y.sum(), scale=1 / 21)
    draws = np.asarray(infer(model, {"y": y}).tree["posterior"]["rate"])
    assert_moments(draws, law.mean(), law.std(), quantile=law.ppf, resolution=0.3)


def test_bennett_is_exact_for_shifted_normals():
    """log q above / q below = a x of x ~ Normal(0, 1) and Normal(a, 1): log Z ratio a² / 2."""
    generator, a = np.random.default_rng(9), 1.2
    estimates = [
        replica._bennett(a * generator.normal(size=400), a * (a + generator.normal(size=400))) for _ in range(200)
    ]
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert error < 0.01
    assert abs(np.mean(estimates) - a**2 / 2) < stats.norm.isf(FALSE_ALARM / 2) * error + 1e-3  # bias of order 1 / 400


def test_bennett_takes_weights_of_a_prior_that_is_much_too_wide():
    """Two levels of a step, one of them with log weights down to -1e200: the evidence is that of the sane ones."""
    rng = np.random.default_rng(1)
    below, above = -(10 ** rng.uniform(0, 200, 1000)), rng.normal(-3.0, 0.1, 1000)
    found = replica._bennett(below, above)
    assert np.isfinite(found)
    # at the shift the two sums of the definition are equal
    shares = [1 / (1 + np.exp(np.minimum(found - below, 700))), 1 / (1 + np.exp(above - found))]
    assert np.isclose(shares[0].sum(), shares[1].sum(), rtol=1e-6)


def test_a_prior_that_underflows_to_the_edge_of_its_support():
    """Most draws of this prior are zero in double precision, minus infinity on the real line: they have no weight, and
    the replicas that are finite give the covariance."""
    y = np.array([0.3, -1.1, 0.8, 0.2, -0.6, 1.4, -0.2, 0.9])

    def scatter(y=None):
        tau = numpyro.sample("tau", dist.Gamma(1e-2, 1e-2))
        numpyro.sample("y", dist.Normal(0.0, tau**-0.5).expand([8]).to_event(1), obs=y)

    posterior = infer(scatter, {"y": y}, pi.Tempering(draws=500, warmup=200))
    a, b = 1e-2 + 4, 1e-2 + (y**2).sum() / 2
    assert_moments(np.asarray(posterior.tree["posterior"]["tau"]), a / b, a**0.5 / b, resolution=0.3)


def test_replicas_at_infinity_do_not_shape_the_covariance():
    finite = np.random.default_rng(0).normal(size=(50, 2))
    lost = np.array([[-np.inf, 0.0], [np.nan, 1.0]])
    assert np.array_equal(preconditioner(np.concatenate([finite, lost])), preconditioner(finite))
    assert np.array_equal(preconditioner(lost), np.eye(2))


def test_restarts_are_counted_from_end_to_end():
    names = np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1]])
    # replica 0 comes from the first level to the last in row 2, replica 1 in row 4; nothing else has come so far
    assert replica._restarts(names) == 2


def test_too_short_a_ladder_is_doubtful():
    def sharp():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([10]).to_event(1))
        numpyro.factor("likelihood", -0.5 * jnp.sum((x / 0.001) ** 2))

    report = infer(sharp, {}, pi.Tempering(temperatures=3, draws=200, warmup=160)).report
    assert report.verdict is not pi.Verdict.GOOD
    assert any("replicas came from the prior" in finding.what for finding in report.findings)


def test_the_ladder_grows_to_what_the_posterior_asks_for():
    posterior = infer(regression, DATA, pi.Tempering())
    attrs = posterior.tree.attrs
    betas = np.array(json.loads(attrs["temperatures"]))
    assert betas[0] == 0.0
    assert betas[-1] == 1.0
    assert (np.diff(betas) > 0).all()
    assert attrs["exchange_acceptance"] > 0.4
    assert attrs["restarts"] >= 20


def improper():
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.factor("normal", -(x**2) / 2)


def test_without_a_prior_a_proposal_is_asked_for():
    with pytest.raises(pi.MethodError, match=r"pi\.Tempering\(proposal="):
        infer(improper, {})


@pytest.mark.long
def test_a_proposal_serves_instead_of_a_prior():
    posterior = infer(improper, {}, pi.Tempering(chains=8, proposal=dist.Normal(1.0, 2.0)))
    assert evidence_agrees(posterior, np.log(2 * np.pi) / 2)
    assert_moments(np.asarray(posterior.tree["posterior"]["x"]), 0.0, 1.0)


def test_a_likelihood_that_no_draw_of_the_prior_meets():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("far", jnp.where(x > 40, 0.0, -jnp.inf))

    with pytest.raises(pi.MethodError, match="the density is zero at 2000 of 2000 draws"):
        infer(model, {})


def test_the_same_seed_gives_the_same_draws():
    method = pi.Tempering(draws=100)
    first, second = (np.asarray(infer(regression, DATA, method).tree["posterior"]["b"]) for _ in range(2))
    assert np.array_equal(first, second)


def test_interrupted_draws_are_kept(monkeypatch):
    sweep, calls = replica._Ladders.sweep, []

    def interrupted(self, count):
        if count != replica._PIECE:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
        return sweep(self, count)

    monkeypatch.setattr(replica._Ladders, "sweep", interrupted)
    posterior = infer(regression, DATA)
    assert posterior.tree["posterior"].sizes["draw"] == 300
    assert "interrupted after 300 of 1000 draws" in str(posterior.report)


@pytest.mark.parametrize(
    "settings", [{"chains": 1}, {"draws": 0}, {"warmup": 3}, {"temperatures": 2}], ids=lambda s: next(iter(s))
)
def test_settings_out_of_range(settings):
    with pytest.raises(pi.MethodError, match=next(iter(settings))):
        pi.Tempering(**settings)


@pytest.mark.long
def test_a_density_that_is_no_number_in_places():
    """A normal law cut off at one half by NaN: there the prior has draws, and they count as without weight."""
    cut = pi.LogDensity(lambda x: jnp.where(x[0] > 0.5, jnp.nan, -0.5 * jnp.sum(x**2)), dim=2)
    wide = {"x": dist.Normal(jnp.zeros(2), 2.0).to_event(1)}
    posterior = pi.infer(cut, None, pi.Tempering(draws=300, warmup=200, proposal=wide), progress=False)
    x = np.asarray(posterior.tree["posterior"]["x"])
    assert (x[..., 0] <= 0.5).all()
    law = stats.truncnorm(-np.inf, 0.5)
    assert_within_mcse(x[..., 0], law.mean(), resolution=1.0)
    apart = posterior.tree.attrs["log_evidence"] - np.log(2 * np.pi * stats.norm.cdf(0.5))
    assert abs(apart) < 6 * max(posterior.tree.attrs["log_evidence_mcse"], 0.02)
