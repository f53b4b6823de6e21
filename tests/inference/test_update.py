"""An update against the closed form of all the data. False-alarm rate 1e-6 for each assertion about random numbers."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.inference.montecarlo import smc
from tests.inference.statistics import assert_moments

FALSE_ALARM = 1e-6
RATE = np.random.default_rng(5).poisson(4.0, 40)
BEFORE, NEW = RATE[:25], RATE[25:]
UPDATE = pi.SMC(chains=16, particles=250)


def counts(y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("day", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def log_evidence(y: np.ndarray) -> float:
    at, after = 3.0, stats.gamma(2.0 + y.sum(), scale=1 / (1.0 + len(y)))
    return float(stats.gamma(2.0).logpdf(at) + stats.poisson(at).logpmf(y).sum() - after.logpdf(at))


@pytest.fixture(scope="module")
def before():
    return pi.infer(counts, {"y": BEFORE}, pi.Exact(), progress=False)


@pytest.fixture(scope="module")
def after(before):
    return before.update({"y": NEW}, method=UPDATE, progress=False)


def test_moments(before, after):
    law = stats.gamma(2.0 + RATE.sum(), scale=1 / (1.0 + len(RATE)))
    assert_moments(np.asarray(after.tree["posterior"]["rate"]), law.mean(), law.std())
    with pytest.raises(AssertionError):
        assert_moments(before.latents["rate"][None], law.mean(), law.std())
    assert after.report.verdict is pi.Verdict.GOOD
    assert np.array_equal(after.data["y"], RATE)


def test_evidence(after):
    attrs, exact = after.tree.attrs, log_evidence(RATE) - log_evidence(BEFORE)
    bound = stats.t.isf(FALSE_ALARM / 2, 15) * attrs["log_evidence_increment_mcse"]
    assert bound < 0.5
    assert abs(attrs["log_evidence_increment"] - exact) < bound
    assert attrs["log_evidence"] == pytest.approx(attrs["log_evidence_increment"] + log_evidence(BEFORE), abs=1e-6)


def test_doubts_are_inherited():
    doubtful = pi.infer(counts, {"y": BEFORE}, pi.NUTS(chains=1), progress=False)
    assert doubtful.report.verdict is pi.Verdict.DOUBTFUL
    updated = doubtful.update({"y": NEW}, method=UPDATE, progress=False)
    assert updated.report.verdict is pi.Verdict.DOUBTFUL
    assert "had the verdict DOUBTFUL" in str(updated.report)


def test_a_new_entry_of_a_parameter_is_refused():
    def model(y=None):
        with numpyro.plate("day", len(y)):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    posterior = pi.infer(model, {"y": BEFORE[:3]}, pi.Exact(), progress=False)
    with pytest.raises(pi.ModelError, match="change the shape of rate"):
        posterior.update({"y": NEW}, progress=False)


@pytest.mark.parametrize(
    ("new", "text"),
    [({"z": NEW}, "'z'"), ({}, "nothing"), (NEW, "came as ndarray"), ({"y": NEW[:, None]}, "has shape")],
    ids=["unknown", "empty", "no dict", "shape"],
)
def test_data_that_do_not_fit(before, new, text):
    with pytest.raises(pi.DataError, match=text):
        before.update(new, progress=False)


def test_other_methods_and_loaded_posteriors_are_refused(before, tmp_path):
    with pytest.raises(pi.MethodError, match=r"pi\.SMC"):
        before.update({"y": NEW}, method=pi.NUTS(), progress=False)
    before.save(tmp_path / "posterior.nc")
    with pytest.raises(pi.ModelError, match="without its model"):
        pi.load_posterior(tmp_path / "posterior.nc").update({"y": NEW})


def test_a_proposal_is_no_beginning_of_an_update(before):
    with pytest.raises(pi.MethodError, match="begins at the draws of the posterior before; leave proposal= out"):
        before.update({"y": NEW}, method=pi.SMC(proposal={"rate": dist.Gamma(2.0, 1.0)}), progress=False)


def test_new_data_that_nothing_explains_are_said_to_be_so(before, monkeypatch):
    monkeypatch.setattr(smc, "_LEVELS", 2)
    with pytest.raises(pi.MethodError, match="new data do not go with the old"):
        before.update({"y": np.full(40, 100_000)}, progress=False)


SERIES = np.array([1.2, np.nan, 2.0, 1.1, np.nan, 0.4])
LEVEL = pi.StateSpace.linear_gaussian(
    [0.0],
    [[10.0]],
    [[1.0]],
    lambda t, params: params["sd"].reshape(1, 1) ** 2,
    [[1.0]],
    [[0.5]],
    prior={"sd": dist.HalfNormal(1.0)},
)


def series_evidence(y: np.ndarray) -> float:
    """log p(y) of the level: the filter of one number, integrated over sd."""
    sd = (np.arange(4000) + 0.5) / 500
    mean, variance, log_density = np.zeros_like(sd), np.full_like(sd, 10.0), np.zeros_like(sd)
    for t, seen in enumerate(y):
        variance = variance + sd**2 * (t > 0)
        if not np.isnan(seen):
            log_density += stats.norm(mean, np.sqrt(variance + 0.5)).logpdf(seen)
            gain = variance / (variance + 0.5)
            mean, variance = mean + gain * (seen - mean), (1 - gain) * variance
    return float(np.log(np.sum(np.exp(log_density) * stats.halfnorm.pdf(sd)) / 500))


def test_a_series_goes_on():
    posterior = pi.infer(LEVEL, SERIES[:4], pi.SMC(), progress=False)
    later = posterior.update(SERIES[4:], method=UPDATE, progress=False)
    assert np.array_equal(later.data["observed"][:, 0], ~np.isnan(SERIES))
    attrs, exact = later.tree.attrs, series_evidence(SERIES) - series_evidence(SERIES[:4])
    bound = stats.t.isf(FALSE_ALARM / 2, 15) * attrs["log_evidence_increment_mcse"]
    assert bound < 0.2
    assert abs(attrs["log_evidence_increment"] - exact) < bound
    again = posterior.update({"observations": SERIES[4:]}, method=UPDATE, progress=False)
    np.testing.assert_array_equal(later.latents["sd"], again.latents["sd"])
    with pytest.raises(pi.DataError, match=r"observations has shape \(2, 2\)"):
        posterior.update(np.zeros((2, 2)), progress=False)
