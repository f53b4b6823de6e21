"""Backtests against forecasts that are made one by one, and closed forms of their scores."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.evaluate import backtest as module
from probinfer.evaluate.backtest import _crps_of_draws
from probinfer.evaluate.intervals import of_series
from probinfer.predict.outlook import outcomes_ahead
from tests.predict.fits import Fit
from tests.predict.test_series_calibration import by_particles, forecaster_of, series

Y = series(90, 1.0, 21)
STEPS = 3


@pytest.fixture(scope="module")
def forecaster():
    return forecaster_of(Y[:20])


@pytest.fixture(scope="module")
def found(forecaster):
    y = Y[20:60].copy()
    y[5] = np.nan
    return pi.backtest(forecaster, y, STEPS, level=0.8)


def by_hand(forecaster, y, steps, level):
    """Scores of every forecast, by steps ahead: normal laws, whose CRPS has a closed form."""
    rows = [[] for _ in range(steps)]
    for start in range(len(y)):
        law = (forecaster.observe(y[:start]) if start else forecaster).predict(steps, level)
        for h in range(min(steps, len(y) - start)):
            seen, mean, sd = y[start + h], law.mean[h], law.sd[h]
            if np.isnan(seen):
                continue
            z = (seen - mean) / sd
            crps = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)
            inside = law.lower[h] <= seen <= law.upper[h]
            rows[h].append(
                [abs(seen - mean), crps, stats.norm.logpdf(seen, mean, sd), inside, law.upper[h] - law.lower[h]]
            )
    return [np.array(each, float) for each in rows]


def test_scores_are_those_of_forecasts_made_one_by_one(forecaster, found):
    y = Y[20:60].copy()
    y[5] = np.nan
    expected = by_hand(forecaster, y, STEPS, 0.8)
    assert [scores.rows for scores in found] == [39, 38, 37]
    names = ["mae", "crps", "log_score", "coverage", "width"]
    for h, rows in enumerate(expected):
        for name, values in zip(names, rows.T, strict=True):
            np.testing.assert_allclose(found[h + 1].pointwise[name], values, rtol=1e-6, err_msg=f"{name} {h + 1}")
            np.testing.assert_allclose(found[h + 1][name].value, values.mean(), rtol=1e-6)
        assert found[h + 1].pit.shape == (len(rows),)
    np.testing.assert_allclose(found[1].pointwise["log_score"][:5], forecaster.log_score(y[:5]), rtol=1e-6)
    frame = found.to_frame()
    assert list(frame.columns) == ["forecasts", *names, "coverage_lower", "coverage_upper"]
    assert frame.index.tolist() == [1, 2, 3]
    assert "from 40 times, 80% intervals" in repr(found)
    with pytest.raises(KeyError, match="those 1 to 3 ahead"):
        found[4]


def test_broken_twin_a_forecast_that_has_seen_what_it_is_scored_by(forecaster, found, monkeypatch):
    right = module.origins

    def peeking(motion, standing, series, steps, words):
        for before, after in pairwise(right(motion, standing, series, steps, words)):
            left = min(steps, len(series.values) - before.place)
            yield before._replace(ahead=outcomes_ahead(motion, after.standing, left, words))

    monkeypatch.setattr(module, "origins", peeking)
    twin = pi.backtest(forecaster, Y[20:25], 1, level=0.8)
    for name in ("mae", "crps", "log_score"):
        assert not np.allclose(twin[1].pointwise[name], found[1].pointwise[name][:5], rtol=1e-3)


def test_every_other_time_is_part_of_all(forecaster, found):
    few = pi.backtest(forecaster, Y[20:60], 2, every=4)
    assert few.origins == 10
    np.testing.assert_allclose(few[1].pointwise["mae"][:1], found[1].pointwise["mae"][:1])
    assert few[2]["coverage"].how == "exact binomial"  # two ahead from every fourth time do not overlap
    assert found[3]["coverage"].how == "exact binomial, as of 12 forecasts that do not overlap"


def test_of_a_calibrated_forecaster_intervals_are_calibrated_and_the_rest_is_the_models(forecaster):
    after, calibrated = forecaster.observe(Y[20:60]), forecaster.calibrate(Y[20:60], 2)
    plain, moved = (pi.backtest(each, Y[60:], 2) for each in (after, calibrated))
    np.testing.assert_array_equal(plain[1].pointwise["crps"], moved[1].pointwise["crps"])
    assert not np.array_equal(plain[1].pointwise["width"], moved[1].pointwise["width"])
    forecast = calibrated.predict(1)
    np.testing.assert_allclose(moved[1].pointwise["width"][0], forecast.upper[0] - forecast.lower[0])
    assert moved[1]["crps"].how.endswith("of the model, not calibrated")
    with pytest.raises(pi.PredictionError, match="calibrated for 2"):
        pi.backtest(calibrated, Y[60:], 3)


@pytest.mark.long
def test_counts_and_classes(monkeypatch):
    monkeypatch.setattr("probinfer.predict.particle_motion.FUTURES", 400)
    rng = np.random.default_rng(22)
    counts = by_particles(lambda x, params: dist.Poisson(3.0 + 0.0 * x), rng.poisson(3.0, 10), a=np.zeros(2))
    y = np.array([2, 5, 3, 0])
    found = pi.backtest(counts, y)
    k = np.arange(200)[:, None]
    crps = ((stats.poisson(3.0).cdf(k) - (k >= y)) ** 2).sum(axis=0)
    np.testing.assert_allclose(found[1].pointwise["crps"], crps, rtol=1e-6)
    np.testing.assert_allclose(found[1].pointwise["log_score"], stats.poisson(3.0).logpmf(y), rtol=1e-9)
    assert np.all((found[1].pit >= stats.poisson(3.0).cdf(y - 1)) & (found[1].pit <= stats.poisson(3.0).cdf(y)))

    chance = np.array([0.2, 0.5, 0.3])
    law = lambda x, params: dist.Categorical(jnp.broadcast_to(chance, (*jnp.shape(x), 3)))  # noqa: E731
    classes = by_particles(law, np.array([0, 1, 2, 1]), a=np.zeros(2))
    found = pi.backtest(classes, [1, 2], level=0.7)
    parts = found[1].pointwise
    np.testing.assert_allclose(parts["log_loss"], -np.log([0.5, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(parts["brier"], [0.04 + 0.25 + 0.09, 0.04 + 0.25 + 0.49], rtol=1e-6)
    assert (parts["accuracy"].tolist(), parts["coverage"].tolist(), parts["width"].tolist()) == ([1, 0], [1, 1], [2, 2])


@pytest.mark.long
def test_large_counts(monkeypatch):
    monkeypatch.setattr("probinfer.predict.particle_motion.FUTURES", 400)
    rng = np.random.default_rng(24)
    many = by_particles(lambda x, params: dist.Poisson(1e5 + 0.0 * x), rng.poisson(1e5, 10), a=np.zeros(2))
    law = stats.norm(1e5, 1e5**0.5)
    z = (100_100 - 1e5) / 1e5**0.5
    expected = 1e5**0.5 * (z * (2 * law.cdf(100_100) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)
    np.testing.assert_allclose(pi.backtest(many, [100_100])[1].pointwise["crps"], [expected], rtol=2e-3)


def test_crps_of_weighted_draws():
    x, weights, y = np.array([[1.0, 4.0], [2.0, -1.0]]), np.array([0.7, 0.3]), 1.5
    each, flat = np.repeat(weights / 2, 2), x.ravel()
    expected = each @ np.abs(flat - y) - 0.5 * each @ np.abs(flat[:, None] - flat) @ each
    np.testing.assert_allclose(_crps_of_draws(x, weights, y), expected)


def test_errors_of_means_heed_that_forecasts_overlap():
    """Sums of h successive numbers: the variance of their mean is h times as large as of independent ones. The twin
    takes them for independent."""
    rng, h, n = np.random.default_rng(23), 6, 400
    inside, twin = 0, 0
    for _ in range(300):
        values = np.convolve(rng.normal(size=n + h - 1), np.ones(h), "valid")
        score = of_series("mae", values, h, 0.9)
        inside += int(score.lower <= 0.0 <= score.upper)
        score = of_series("mae", values[rng.permutation(n)], 1, 0.9)
        twin += int(score.lower <= 0.0 <= score.upper)
    assert 0.82 < inside / 300 < 0.95  # such intervals are known to cover a little less
    assert twin / 300 < 0.75


def test_wrong_calls_are_refused_in_words(forecaster):
    model = pi.StateSpace.linear_gaussian(
        np.zeros(2), np.eye(2), np.eye(2), np.eye(2), np.eye(2),
        lambda t, params: params["r"] * jnp.eye(2), prior={"r": dist.HalfNormal(1.0)},
    )  # fmt: skip
    wide = pi.Forecaster(Fit(model, np.zeros((4, 2)), {"r": np.ones(2)}))
    for error, text, *arguments in (
        (pi.PredictionError, "forecaster came as int", 1, Y),
        (pi.PredictionError, r"shape \(2,\); backtest scores one number a time", wide, np.zeros((5, 2))),
        (pi.PredictionError, "are among those that the parameters were inferred from", forecaster, Y),
        (pi.PredictionError, "no observation 3 ahead", forecaster, Y[20:22], 3),
        (pi.MethodError, "steps", forecaster, Y[20:], 0),
    ):
        with pytest.raises(error, match=text):
            pi.backtest(*arguments)
    with pytest.raises(pi.MethodError, match="every"):
        pi.backtest(forecaster, Y[20:], every=0)
    with pytest.raises(pi.PredictionError, match="level has 2"):
        pi.backtest(forecaster, Y[20:], level=2)
