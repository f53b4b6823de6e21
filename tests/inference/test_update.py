"""An update against the closed form of all the data. False-alarm rate 1e-6 for each assertion about random numbers."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
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
