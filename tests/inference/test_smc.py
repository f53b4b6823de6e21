"""Sequential Monte Carlo against closed forms: evidence, moments, the shares of modes; and twins that must fail.

Each assertion has a false-alarm rate of 1e-6, shared by its comparisons (Bonferroni).
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import probinfer as pi
from probinfer.inference.montecarlo import smc
from probinfer.posterior.evidence import Evidence
from probinfer.posterior.improper import heavier_tails
from tests.inference.statistics import assert_moments, assert_within_mcse

FALSE_ALARM = 1e-6
NOISE = 0.5
GENERATOR = np.random.default_rng(20)
X = GENERATOR.normal(size=(30, 3))
X[:, 1] += 0.8 * X[:, 0]
DATA = {"x": X, "y": X @ np.array([1.0, -1.0, 0.5]) + NOISE * GENERATOR.normal(size=30)}
COVARIANCE = np.linalg.inv(X.T @ X / NOISE**2 + np.eye(3))
MEAN = COVARIANCE @ X.T @ DATA["y"] / NOISE**2
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(30), X @ X.T + NOISE**2 * np.eye(30)).logpdf(DATA["y"])
SHARES = np.array([0.25, 0.75])


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, NOISE).to_event(1), obs=y)


def two_peaks():
    x = numpyro.sample("x", dist.Normal(0, 5))
    peaks = dist.Normal(jnp.array([-4.0, 4.0]), 0.5).log_prob(x)
    numpyro.factor("peaks", jnp.logaddexp(*(jnp.log(jnp.array(SHARES)) + peaks)))


def improper():
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.factor("normal", -(x**2) / 2)


def infer(model, data, method=None):
    return pi.infer(model, data, method or pi.SMC(), progress=False)


def evidence_agrees(posterior, exact: float) -> bool:
    attrs = posterior.tree.attrs
    assert attrs["log_evidence_mcse"] < 0.1, "too coarse to say anything"
    bound = stats.t.isf(FALSE_ALARM / 2, posterior.tree["posterior"].sizes["chain"] - 1) * attrs["log_evidence_mcse"]
    return abs(attrs["log_evidence"] - exact) < bound


@pytest.fixture(scope="module")
def conjugate():
    return infer(regression, DATA, pi.SMC(chains=16))


def test_conjugate_moments(conjugate):
    draws = np.asarray(conjugate.tree["posterior"]["b"])
    assert_moments(draws, MEAN, np.sqrt(np.diag(COVARIANCE)))
    assert conjugate.report.verdict is pi.Verdict.GOOD


def test_conjugate_evidence(conjugate):
    assert evidence_agrees(conjugate, LOG_EVIDENCE)


def test_wrong_increments_are_noticed(monkeypatch):
    right = smc._increments
    monkeypatch.setattr(smc, "_increments", lambda log_weights, rise: 0.9 * right(log_weights, rise))
    assert not evidence_agrees(infer(regression, DATA, pi.SMC(chains=16)), LOG_EVIDENCE)


def test_both_modes_in_their_shares():
    posterior = infer(two_peaks, {}, pi.SMC(particles=2000))
    x = np.asarray(posterior.tree["posterior"]["x"])
    assert_within_mcse((x > 0).astype(float), SHARES[1], resolution=0.5)
    with pytest.raises(AssertionError):
        assert_within_mcse((x > 0).astype(float), 0.5)
    assert posterior.report.verdict is not pi.Verdict.BAD
    law = stats.norm(0, np.sqrt(25.25))
    assert evidence_agrees(posterior, float(np.log(SHARES @ law.pdf([-4.0, 4.0]))))


@pytest.mark.long
def test_chains_do_not_find_both():
    nuts = infer(two_peaks, {}, pi.NUTS(chains=8, draws=500))
    assert nuts.report.verdict is pi.Verdict.BAD


@pytest.mark.long
def test_a_positive_site_and_its_jacobian():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("n", 20):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.random.default_rng(3).poisson(3.0, 20)
    posterior = infer(model, {"y": y})
    law = stats.gamma(2 + y.sum(), scale=1 / 21)
    assert_moments(np.asarray(posterior.tree["posterior"]["rate"]), law.mean(), law.std())


def test_without_a_prior_a_proposal_is_asked_for():
    with pytest.raises(pi.MethodError, match=r"pi\.SMC\(proposal="):
        infer(improper, {})


@pytest.mark.long
def test_a_proposal_serves_instead_of_a_prior():
    posterior = infer(improper, {}, pi.SMC(proposal=dist.Normal(1.0, 2.0)))
    assert evidence_agrees(posterior, np.log(2 * np.pi) / 2)
    assert_moments(np.asarray(posterior.tree["posterior"]["x"]), 0.0, 1.0)


def test_a_likelihood_that_no_particle_meets():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("far", jnp.where(x > 40, 0.0, -jnp.inf))

    with pytest.raises(pi.MethodError, match="the density is zero at 4000 of 4000 particles"):
        infer(model, {})


def test_the_same_seed_gives_the_same_draws():
    method = pi.SMC(particles=100)
    first, second = (np.asarray(infer(regression, DATA, method).tree["posterior"]["b"]) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "settings", [{"particles": 3}, {"chains": 1}, {"target_ess": 1.5}, {"max_moves": 0}], ids=lambda s: next(iter(s))
)
def test_settings_out_of_range(settings):
    with pytest.raises(pi.MethodError, match=next(iter(settings))):
        pi.SMC(**settings)


def test_a_heavy_tail_of_the_last_weights_is_remarked_upon():
    def remarks(attrs):
        return heavier_tails(Evidence((), ("chain", "draw"), {}, attrs))

    assert "Pareto shape 0.80" in remarks({"last_khat": 0.8, "moved_khat": 0.6})[0].what
    assert remarks({"last_khat": 0.8})[0].severity is pi.Verdict.GOOD
    assert remarks({"last_khat": 0.3, "moved_khat": 1.2})[0].severity is pi.Verdict.DOUBTFUL
    assert not remarks({"last_khat": 0.3, "moved_khat": 0.6})
    assert not remarks({})


@pytest.mark.parametrize(
    ("law", "begin", "verdict"),
    [
        (dist.Cauchy(0.0, 1.0), dist.Normal(0.0, 1.0), pi.Verdict.DOUBTFUL),
        (dist.Normal(0.0, 1.0), dist.Normal(0.0, 3.0), pi.Verdict.GOOD),
        (dist.Normal(0.0, 1.0), dist.StudentT(3.0, 0.0, 3.0), pi.Verdict.GOOD),
    ],
    ids=["lighter", "as light", "heavier"],
)
def test_the_tails_of_a_beginning(law, begin, verdict):
    posterior = infer(lambda: numpyro.sample("x", law), {}, pi.SMC(particles=500, proposal={"x": begin}))
    assert posterior.report.verdict is verdict, posterior.report
    assert any("heavier tails" in found.what for found in posterior.report.findings) is (verdict is not pi.Verdict.GOOD)
