"""Calibrated forecasts cover about as often as they say, with models that are wrong; and what must not be calibrated is
refused.

Each band has a false-alarm rate of one in ten thousand, for scores that are exchangeable: the noise of these models is
wrong by one factor everywhere, so their filters weigh observations rightly, and errors of forecasts that do not overlap
are independent.
"""

import json
import subprocess
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.predict import artifact
from probinfer.predict.series_calibration import SeriesCalibration, _at_most
from tests.predict.fits import Fit
from tests.predict.test_artifact import change_array, rewrite

ALARM = 1e-4
A, Q, R = 0.9, 0.5, 0.49
STEPS = 4
COLUMNS = ("lower", "upper", "quantiles", "calibration_rows", "mean", "sd")


def linear(r=R, q=lambda params: params["q"]):
    return pi.StateSpace.linear_gaussian(
        [0.0],
        [[1.0]],
        [[A]],
        lambda t, params: q(params) * jnp.eye(1),
        [[1.0]],
        [[r]],
        prior={"q": dist.HalfNormal(1.0)},
    )


def series(count, factor, seed, drift=0.0):
    """What the model says, but for its noise, whose sd is `factor` times as large, and grows."""
    rng = np.random.default_rng(seed)
    sd = factor * (1.0 + drift * np.arange(count) / count)
    x, y = rng.normal(), np.empty(count)
    for t in range(count):
        x = A * x + sd[t] * Q**0.5 * rng.normal() if t else sd[0] * x
        y[t] = x + sd[t] * R**0.5 * rng.normal()
    return y


def forecaster_of(y, draws=2):
    return pi.Forecaster(Fit(linear(), y, {"q": np.full(draws, Q)}))


WRONG = series(820, 3.0, 1)


@pytest.fixture(scope="module")
def plain():
    """It takes the noise to be a third of what it is."""
    return forecaster_of(WRONG[:20])


@pytest.fixture(scope="module")
def calibrated(plain):
    return plain.calibrate(WRONG[20:420], STEPS)


def band(new, kept, level):
    """Hits among `new` outcomes, lowest and highest expected, of a two-sided interval by `kept` others."""
    outside = int(np.floor((kept + 1) * (1 - level) / 2 + 1e-9)) * 2
    law = stats.betabinom(new, kept + 1 - outside, outside)
    return law.ppf(ALARM / 2), law.ppf(1 - ALARM / 2)


def hits(forecaster, y, level, steps=STEPS, every=STEPS):
    """How many outcomes were in their intervals, of forecasts that do not overlap, at each of the steps."""
    found, count = np.zeros(steps, int), 0
    for start in range(0, len(y) - steps + 1, every):
        forecast = forecaster.predict(steps, level)
        inside = (forecast.lower <= y[start : start + steps]) & (y[start : start + steps] <= forecast.upper)
        found, count = found + inside, count + 1
        forecaster = forecaster.observe(y[start : start + every])
    return found, count


@pytest.mark.parametrize("level", [pytest.param(0.5, marks=pytest.mark.long), 0.9])
def test_a_wrong_model_covers_at_every_step_once_calibrated(plain, calibrated, level):
    """Scores of forecasts that overlap say at least as much as those of every fourth, which do not."""
    found, count = hits(calibrated, WRONG[420:], level)
    low, high = band(count, 400 // STEPS, level)
    assert np.all((low <= found) & (found <= high))
    before, _ = hits(plain.observe(WRONG[20:420]), WRONG[420:], level)
    assert np.all(before < low)  # the twin: the calibration is not looked at


@pytest.mark.long
def test_ranks_count_the_new_outcome_too(plain):
    """500 series with 19 outcomes to calibrate by and one to be covered: 90%. The twin takes quantiles of the 19."""
    covered, twin = 0, 0
    for seed in range(500):
        y = series(40, 3.0, 1000 + seed)
        before, y = plain.observe(y[:20]), y[20:]
        forecast = before.calibrate(y[:19]).predict(1)
        covered += int(forecast.lower[0] <= y[19] <= forecast.upper[0])
        scores = before.calibrate(y).calibration.lower[:, 0]
        lower, upper = np.quantile(scores[:19], [0.05, 0.95])
        twin += int(lower <= scores[19] <= upper)
    low, high = stats.binom(500, 0.9).ppf([ALARM / 2, 1 - ALARM / 2])
    assert low <= covered <= high
    assert twin < low


def test_every_step_is_calibrated_by_its_own_scores():
    """The model takes noise for a walk: the farther ahead, the more its intervals are too wide."""
    y = np.random.default_rng(4).normal(size=560)
    model = pi.StateSpace.linear_gaussian(
        [0.0],
        [[1.0]],
        [[1.0]],
        lambda t, params: params["q"] * jnp.eye(1),
        [[1.0]],
        [[0.01]],
        prior={"q": dist.HalfNormal(1.0)},
    )
    right = pi.Forecaster(Fit(model, y[:20], {"q": np.full(2, 1.0)})).calibrate(y[20:200], 6)
    of_first = np.repeat(right.calibration.lower[:, :1], 6, axis=1)
    wrong = pi.Forecaster.from_standing(
        right.motion, right.standing, right.about, replace(right.calibration, lower=of_first, upper=of_first)
    )
    low, high = band(60, 29, 0.5)
    (found, count), (twin, _) = (hits(each, y[200:], 0.5, 6, 6) for each in (right, wrong))
    assert count == 60
    assert np.all((low <= found) & (found <= high))
    assert found[0] == twin[0]
    assert twin[-1] > high


def test_scores_are_the_places_of_what_came_in_the_forecasts_of_every_time(plain):
    y = series(60, 1.0, 5)
    plain, y = plain.observe(y[:20]), y[20:]
    y[7] = np.nan
    found = plain.calibrate(y, 3, level=0.8)
    scores = found.calibration.lower
    assert scores.shape == (40, 3)
    missing = np.zeros((40, 3), bool)
    missing[[7, 6, 5], [0, 1, 2]] = True
    missing[[39, 38, 39], [1, 2, 2]] = True
    np.testing.assert_array_equal(np.isnan(scores), missing)
    np.testing.assert_array_equal(found.calibration.behind, [39, 38, 37])
    for place, step in ((0, 0), (0, 2), (9, 1), (39, 0)):
        now = plain.observe(y[:place]) if place else plain
        law = now.predict(step + 1)
        place_of = stats.norm(law.mean[step], law.sd[step]).cdf(y[place + step])
        np.testing.assert_allclose(1 / (1 + np.exp(-scores[place, step])), place_of, rtol=1e-6)
    # it stands where `observe` leads, and an interval's end is the quantile at the score of its rank
    after = plain.observe(y)
    np.testing.assert_array_equal(found.standing.state[0], after.standing.state[0])
    np.testing.assert_array_equal(found.standing.log_weights, after.standing.log_weights)
    forecast, law = found.predict(3, 0.8, quantiles=(0.25, 0.5, 0.9)), after.predict(3)
    np.testing.assert_array_equal(forecast.mean, law.mean)
    for step in range(3):
        ordered = np.sort(scores[:, step])
        count = 39 - step
        ranks = [np.floor((count + 1) * 0.1 + 1e-9), np.ceil((count + 1) * 0.9 - 1e-9)]
        ends = stats.norm(law.mean[step], law.sd[step]).ppf(1 / (1 + np.exp(-ordered[np.array(ranks, int) - 1])))
        np.testing.assert_allclose([forecast.lower[step], forecast.upper[step]], ends, rtol=1e-6)
    assert np.all(np.diff(forecast.quantiles, axis=1) > 0)
    assert "calibrated on 37 to 39 past forecasts of each horizon: about 80% of outcomes" in forecast.guarantee
    assert forecast.guarantee in repr(forecast)


def test_outcomes_beyond_all_floating_point_are_placed_and_covered(plain):
    """A thousand sds out the cdf is 1; intervals are finite, and as wide as they must be."""
    y = 1000.0 * np.random.default_rng(6).normal(size=200)
    found = plain.calibrate(y, 2)
    forecast = found.predict(2)
    assert np.isfinite(found.calibration.lower[:199]).all()
    assert np.all((forecast.upper - forecast.lower > 2000) & (forecast.upper - forecast.lower < 8000))


# laws of other kinds -------------------------------------------------------------------------------------------------


def general(observe):
    return pi.StateSpace(
        initial=lambda params: dist.Normal(0.0, 0.3),
        transition=lambda x, t, params: dist.Normal(0.5 * x, 0.2),
        observation=lambda x, t, params: observe(x, params),
        prior={"a": dist.Normal(0.0, 1.0)},
    )


def by_particles(observe, y, **latents):
    fit = Fit(general(observe), y, latents or {"a": np.full(4, 0.0)})
    return pi.Forecaster(fit, particles=60)


@pytest.fixture
def few(monkeypatch):
    """Few simulated states: what is looked at does not depend on how many."""
    monkeypatch.setattr("probinfer.predict.particle_motion.FUTURES", 400)


@pytest.mark.long
@pytest.mark.usefixtures("few")
def test_counts_cover_at_least():
    """They vary far more than the model says."""
    rng = np.random.default_rng(7)
    y = rng.negative_binomial(0.3, 0.3 / 6.3, 180)
    plain = by_particles(lambda x, params: dist.Poisson(jnp.exp(params["a"] + x)), y[:20], a=np.full(4, np.log(6.0)))
    found = plain.calibrate(y[20:120], 2)
    low, _ = band(60, 100, 0.8)
    (covered, count), (before, _) = (hits(each, y[120:], 0.8, 1, 1) for each in (found, plain))
    assert count == 60
    assert covered[0] >= low > before[0]
    forecast = found.predict(2, 0.8, quantiles=(0.2, 0.5, 0.9))
    for places in (forecast.lower, forecast.upper, forecast.quantiles):
        np.testing.assert_array_equal(places, np.floor(places))
    assert np.all(np.diff(forecast.quantiles, axis=1) >= 0)
    assert found.predict(1, interval=pi.Interval.UPPER).lower[0] == 0


@pytest.mark.usefixtures("few")
def test_sets_of_classes_cover():
    rng = np.random.default_rng(8)
    logits = np.array([0.0, 0.5, 1.0])
    y = rng.choice(3, 440, p=np.exp(logits) / np.exp(logits).sum())

    def observe(x, params):  # far too sure of the last class
        return dist.Categorical(logits=jnp.stack([0.0 * x, 0.0 * x, 5.0 + 0.0 * x]))

    plain = by_particles(observe, y[:20])
    found = plain.calibrate(y[20:240], 1)
    inside = found.predict(1).sets[0]
    assert inside[y[240:]].sum() >= stats.betabinom(200, 199, 22).ppf(ALARM)
    assert plain.predict(1).sets[0].tolist() == [False, False, True]
    assert (found.predict(1).lower[0], found.predict(1).upper[0]) == (np.flatnonzero(inside)[0], 2)
    for kind in (pi.Interval.LOWER, pi.Interval.HDI):
        with pytest.raises(pi.PredictionError, match=f"Interval.{kind.name} "):
            found.predict(1, interval=kind)


class Own(dist.Normal):
    """A law that no table has: answered from draws."""


@pytest.mark.long
@pytest.mark.usefixtures("few")
def test_a_law_without_a_closed_form_covers():
    y = np.random.default_rng(9).normal(0.0, 3.0, 620)
    plain = by_particles(lambda x, params: Own(x, 1.0), y[:20])
    found = plain.calibrate(y[20:220], 1)
    low, high = band(400, 200, 0.9)
    (covered, count), (before, _) = (hits(each, y[220:], 0.9, 1, 1) for each in (found, plain))
    assert count == 400
    assert low <= covered[0] <= high
    assert before[0] < low


def test_every_number_of_a_time_is_covered_on_its_own():
    rng = np.random.default_rng(10)
    y = rng.normal(0.0, [0.1, 0.5], size=(400, 2))
    y[30, 1] = np.nan
    model = pi.StateSpace.linear_gaussian(
        np.zeros(2), np.eye(2), 0 * np.eye(2), 0.01 * np.eye(2), np.eye(2),
        lambda t, params: params["r"] * jnp.eye(2), prior={"r": dist.HalfNormal(1.0)},
    )  # fmt: skip
    plain = pi.Forecaster(Fit(model, y[:20], {"r": np.full(2, 0.04)}))
    found = plain.calibrate(y[20:120], 2)
    np.testing.assert_array_equal(found.calibration.counts, [[100, 99], [99, 98]])
    np.testing.assert_array_equal(found.calibration.behind, [99, 98])
    forecast = found.predict(2)
    inside = ((forecast.lower[0] <= y[120:]) & (y[120:] <= forecast.upper[0])).sum(axis=0)
    low, high = band(280, 100, 0.9)
    assert np.all((low <= inside) & (inside <= high))
    assert np.isnan(found.calibration.lower[10, 0]).tolist() == [False, True]


# what is told --------------------------------------------------------------------------------------------------------


def test_the_report_says_whether_forecasts_go_on_erring_as_they_did(plain):
    steady, worse = (plain.calibrate(series(420, 1.0, 11, drift)[20:]) for drift in (0.0, 6.0))
    text = "past forecasts for up to 1 steps"
    assert text in steady.report.headline
    assert text not in plain.report.headline
    assert steady.calibration.later.chance > 1e-3
    assert "later half" not in str(steady.report)
    later = worse.calibration.later
    assert (later.count, later.chance < 1e-6) == (200, True)
    found = [finding for finding in worse.report.findings if finding.where == "intervals"]
    assert f"{later.covered} of 200 outcomes were in intervals of 90%" in found[0].what
    assert found[0].severity is pi.Verdict.DOUBTFUL
    assert plain.calibrate(series(60, 1.0, 12)[20:57]).calibration.later is None  # 18 are too few for 90%
    for covered in (0, 7, 40):
        np.testing.assert_allclose(_at_most(covered, 40, 18, 3), stats.betabinom(40, 18, 3).cdf(covered), rtol=1e-9)


def test_the_calibration_of_an_earlier_fit(plain, calibrated):
    everything = forecaster_of(WRONG[:420]).calibrated_by(calibrated.calibration)
    forecast = everything.predict(STEPS)
    assert "past forecasts of another fit of each horizon" in forecast.guarantee
    np.testing.assert_allclose(forecast.upper, calibrated.predict(STEPS).upper, rtol=1e-6)  # the same parameters
    for wrong, text in (
        (calibrated, "calibration came as Forecaster"),
        (SeriesCalibration(np.zeros((9, 1, 2)), np.zeros((9, 1, 2)), "Normal"), r"shape \(2,\); wanted \(\)"),
        (
            replace(calibrated.calibration, law="Poisson"),
            "of forecasts by Poisson, and this forecaster's are by Normal",
        ),
        (replace(calibrated.calibration, law=""), "of forecasts by a law without closed form"),
    ):
        with pytest.raises(pi.PredictionError, match=text):
            plain.calibrated_by(wrong)


def test_what_is_not_calibrated_stays(plain, calibrated):
    after = plain.observe(WRONG[20:420])
    np.testing.assert_array_equal(after.sample(3, 5), calibrated.sample(3, 5))
    np.testing.assert_array_equal(after.log_score([1.0]), calibrated.log_score([1.0]))
    assert plain.calibration is None
    assert calibrated.observe([0.1]).calibration is calibrated.calibration
    assert after.predict(STEPS).guarantee is None
    frame = calibrated.predict(2).to_frame()
    assert frame["calibration_rows"].tolist() == [400, 399]


# on disk -------------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, probinfer as pi
found = pi.load_predictor(sys.argv[1]).observe([0.5]).predict(3, 0.8, quantiles=(0.1, 0.5))
print(json.dumps([found.lower.tolist(), found.upper.tolist(), found.quantiles.tolist(), found.guarantee]))
print(sorted({"numpyro", "scipy.stats"} & set(sys.modules)))
"""


def test_saved_and_loaded(calibrated, tmp_path):
    calibrated.save(tmp_path / "f")
    loaded = pi.load_predictor(tmp_path / "f")
    here, there = (each.predict(STEPS, 0.8, quantiles=(0.1, 0.5)) for each in (calibrated, loaded))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert (here.guarantee, str(loaded.report)) == (there.guarantee, str(calibrated.report))
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest["format_version"] == artifact.CALIBRATED_SERIES_VERSION == 10
    assert "calibration-upper.npy" not in manifest["files"]  # both ends have the same scores
    assert "calibrated on past forecasts from 400 times, up to 4 ahead" in artifact.card(tmp_path / "f")
    loaded.calibrated_by(loaded.calibration).save(tmp_path / "g")
    assert pi.load_predictor(tmp_path / "g").calibration.carried
    assert "forecasts of another fit from 400 times" in artifact.card(tmp_path / "g")


@pytest.mark.long
def test_loaded_in_another_process(calibrated, tmp_path):
    calibrated.save(tmp_path / "f")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "f")], capture_output=True, text=True, timeout=300, check=True
    )
    numbers, heavy = done.stdout.splitlines()
    found = calibrated.observe([0.5]).predict(3, 0.8, quantiles=(0.1, 0.5))
    expected = [found.lower.tolist(), found.upper.tolist(), found.quantiles.tolist(), found.guarantee]
    assert json.loads(numbers) == expected
    assert heavy == "[]"


def test_without_a_calibration_the_format_is_as_it_was(plain, tmp_path):
    plain.save(tmp_path / "f")
    assert json.loads((tmp_path / "f" / "manifest.json").read_text())["format_version"] == artifact.SERIES_VERSION == 8


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a[:-1], "shape"),
        (lambda a: a[:, :2], "shape"),
        (lambda a: np.full_like(a, np.nan), "missing"),
        (lambda a: a[..., None], "shape"),
    ],
    ids=["shorter", "fewer steps", "none", "another form"],
)
def test_scores_that_do_not_fit_are_refused(calibrated, tmp_path, change, text):
    calibrated.save(tmp_path / "f")
    change_array(tmp_path / "f", "calibration-lower.npy", change)
    with pytest.raises(pi.ArtifactError, match=f"calibration does not fit the forecaster.*{text}"):
        pi.load_predictor(tmp_path / "f")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("calibration_of"),
        lambda m: m["calibration_of"].update(carried=1),
        lambda m: m["calibration_of"].update(law="Poisson"),
        lambda m: m["calibration_of"].update(steps=True),
        lambda m: m["calibration_of"].update(times=0),
        lambda m: m["calibration"].update(other=m["calibration"]["lower"]),
        lambda m: m["calibration"].pop("lower"),
    ],
    ids=range(7),
)
def test_words_that_do_not_fit_are_refused(calibrated, tmp_path, change):
    calibrated.save(tmp_path / "f")
    rewrite(tmp_path / "f", change)
    with pytest.raises(pi.ArtifactError):
        pi.load_predictor(tmp_path / "f")


# refusals ------------------------------------------------------------------------------------------------------------


def refused(error, text, call, *args, **kwargs):
    with pytest.raises(error, match=text):
        call(*args, **kwargs)


def test_too_few_observations_say_how_many_are_needed(plain, calibrated):
    y = series(60, 3.0, 13)[20:]
    text = r"y has 20 times, which gives 18 forecasts 3 ahead .*90% need 19 or more, and for 3 steps .* y of 21 times"
    refused(pi.PredictionError, text, plain.calibrate, y[:20], 3)
    plain.calibrate(y[:21], 3)
    plain.calibrate(y[:20], 3, level=0.8)
    refused(pi.PredictionError, "0 forecasts 2 ahead", plain.calibrate, y[:1], 2, level=0.01)
    gap = np.where(np.arange(21) == 9, np.nan, y[:21])
    text = "21 times, 1 of them with a missing observation, which gives 18 forecasts 3 ahead .* y of 22 times"
    refused(pi.PredictionError, text, plain.calibrate, gap, 3)
    text = r"There are 400 past forecasts 1 ahead .* no more than 0.05% .* wanted 1999 or more\. Ask for a lower level"
    refused(pi.PredictionError, text, calibrated.predict, 2, 0.999)
    refused(pi.PredictionError, "for 4. Ask for at most 4, or calibrate with steps=5", calibrated.predict, 5)
    refused(pi.PredictionError, "Interval.HDI of a calibrated", calibrated.predict, 1, interval=pi.Interval.HDI)


def test_observations_of_the_inference_are_refused(plain):
    y, before = series(60, 3.0, 13), WRONG[:20]
    text = "observations 0 to 4 of y .* are among those .* from time 20 on"
    refused(pi.PredictionError, text, plain.calibrate, np.concatenate([before, y]))
    refused(pi.PredictionError, "observations 40 to 44 of y", plain.calibrate, np.concatenate([y[20:], before[10:]]))
    plain.calibrate(np.concatenate([before[:4], y[20:]]))  # four in a row may be chance
    rounded = forecaster_of(np.round(before))
    assert rounded.about["training"] is None
    rounded.calibrate(np.concatenate([np.round(before), np.round(y)]))
    loaded = pi.Forecaster.from_standing(plain.motion, plain.standing, {})  # of an earlier release
    loaded.calibrate(np.concatenate([before, y]))


@pytest.mark.usefixtures("few")
def test_wrong_calls_are_refused_in_words(plain):
    y = series(60, 3.0, 13)[20:]
    refused(pi.MethodError, "calibrate: steps", plain.calibrate, y, 0)
    refused(pi.PredictionError, "level has 90", plain.calibrate, y, level=90)
    refused(pi.PredictionError, "shape", plain.calibrate, np.zeros((30, 2)))
    positive = by_particles(lambda x, params: dist.Gamma(2.0, jnp.exp(x)), np.exp(y[:9]))
    out = np.where(np.arange(25) == 3, -1.0, 2.0)
    refused(
        pi.PredictionError, "y is -1 at time 12, where the model only gives numbers above zero", positive.calibrate, out
    )
    mean, cov = plain.standing.state
    away = pi.Forecaster.from_standing(plain.motion, replace(plain.standing, state=(mean + np.nan, cov)), plain.about)
    refused(pi.PredictionError, "At time 20, 1 ahead, the model's laws are not numbers", away.calibrate, y)
