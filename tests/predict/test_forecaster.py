"""Forecasts against Kalman's recursion by hand, particles against the exact answer, and what is refused.

Each statistical assertion has a false-alarm rate of 1e-6, shared by its comparisons.
"""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.mlflow import save_model
from probinfer.model.series import Series
from probinfer.predict import outlook, particle_motion
from probinfer.predict.artifact import card
from probinfer.predict.motion_programs import motion_of
from probinfer.predict.predictor import load_row_predictor
from probinfer.predict.standing import Standing, follow
from tests.predict.fits import Fit

FALSE_ALARM = 1e-6
A, R, M, P = 0.9, 0.5, 0.3, 2.0
Q = np.array([0.2, 0.7, 1.3, 0.4])
Y = np.array([0.4, -0.3, np.nan, 1.1, 2.0, -0.6])
NEW = np.array([1.0, np.nan, 2.5, 0.1])
LEVELS = (0.025, 0.5, 0.9)
MANY = 200


def linear(last=lambda t: 0.0):
    """x_t = A x_t-1 + N(0, q) + `last(t)`, y_t = x_t + N(0, R)."""
    return pi.StateSpace.linear_gaussian(
        [M],
        [[P]],
        [[A]],
        lambda t, params: params["q"] * jnp.eye(1),
        [[1.0]],
        [[R]],
        transition_offset=lambda t, params: jnp.full(1, last(t)),
        prior={"q": dist.HalfNormal(1.0)},
    )


def general(observe=lambda x: dist.Normal(x, R**0.5)):
    """The same model, or another law of the observation, in words that are not known to be linear."""
    return pi.StateSpace(
        initial=lambda params: dist.Normal(M, P**0.5),
        transition=lambda x, t, params: dist.Normal(A * x, jnp.sqrt(params["q"])),
        observation=lambda x, t, params: observe(x),
        prior={"q": dist.HalfNormal(1.0)},
    )


def by_hand(y, q, steps=0):
    """Kalman's filter in scalars: mean and variance of the last state, the log density of every observation, and mean
    and variance of the observations `steps` ahead."""
    mean, var, logs, ahead = M, P, [], []
    for t, seen in enumerate(y):
        if t:
            mean, var = A * mean, A * A * var + q
        logs.append(0.0 if np.isnan(seen) else stats.norm(mean, (var + R) ** 0.5).logpdf(seen))
        if not np.isnan(seen):
            gain = var / (var + R)
            mean, var = mean + gain * (seen - mean), (1 - gain) * var
    last = mean, var
    for _ in range(steps):
        mean, var = A * mean, A * A * var + q
        ahead.append((mean, var + R))
    return last, np.array(logs), np.array(ahead).reshape(-1, 2)


@pytest.fixture(scope="module")
def exact():
    return pi.Forecaster(Fit(linear(), Y, {"q": Q}))


@pytest.fixture(scope="module")
def particles():
    """Of one value of the parameter: what the draws differ by is the noise of their particles."""
    return pi.Forecaster(Fit(general(), Y, {"q": np.full(MANY, Q[1])}), particles=500)


@pytest.fixture(scope="module")
def counts():
    fit = Fit(general(lambda x: dist.Poisson(jnp.exp(x))), np.array([0, 2, 1, 4]), {"q": np.tile(Q, 15)}, chains=2)
    return pi.Forecaster(fit, particles=100)


# exact ---------------------------------------------------------------------------------------------------------------


def test_a_linear_forecast_is_the_mixture_of_those_by_hand(exact):
    found = exact.predict(3, level=0.8, quantiles=LEVELS)
    laws = np.stack([by_hand(Y, q, 3)[2] for q in Q])  # (draws, steps, 2)
    means, variances = laws[..., 0], laws[..., 1]
    np.testing.assert_allclose(found.mean, means.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.epistemic_sd, means.std(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.aleatoric_sd**2, variances.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.sd**2, variances.mean(axis=0) + means.var(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(found.times, [6, 7, 8])
    places = np.column_stack([found.lower, found.upper, found.quantiles])
    for step, row in enumerate(places):
        below = stats.norm.cdf(row[:, None], means[:, step], np.sqrt(variances[:, step])).mean(axis=1)
        np.testing.assert_allclose(below, [0.1, 0.9, *LEVELS], atol=1e-9)
    assert list(found.columns())[:3] == ["time", "mean", "sd"]
    one = exact.predict(1, level=0.8, quantiles=LEVELS)
    np.testing.assert_array_equal(one.quantiles, found.quantiles[:1])


def test_many_quantiles_and_few_futures_are_computed_in_few_shapes_and_are_the_same(exact, monkeypatch):
    levels = np.linspace(0.05, 0.95, 11)
    found = exact.predict(2, quantiles=levels).quantiles
    for number in (0, 5, 10):
        np.testing.assert_allclose(found[:, number], exact.predict(2, quantiles=(levels[number],)).quantiles[:, 0])
    padded = exact.sample(2, draws=5, seed=1)
    assert padded.shape == (5, 2)
    monkeypatch.setattr(outlook, "_PATHS", ())
    np.testing.assert_allclose(exact.sample(2, draws=5, seed=1), padded, rtol=1e-12)


def test_scores_and_weights_are_those_of_the_filter_by_hand(exact):
    logs = np.stack([by_hand(np.concatenate([Y, NEW]), q)[1][len(Y) :] for q in Q])
    weights, expected = np.full(4, 0.25), []
    for one in logs.T:
        weights = weights * np.exp(one)
        expected.append(np.log(weights.sum()))
        weights = weights / weights.sum()
    np.testing.assert_allclose(exact.log_score(NEW), expected, atol=1e-12)
    after = exact.observe(NEW)
    np.testing.assert_allclose(after.standing.weights, weights, rtol=1e-10)
    np.testing.assert_allclose(after.ess, 1 / np.sum(weights**2), rtol=1e-10)
    laws = np.stack([by_hand(np.concatenate([Y, NEW]), q, 1)[2][0] for q in Q])
    found = after.predict(1)
    np.testing.assert_allclose(found.mean, weights @ laws[:, 0], rtol=1e-10)
    between = weights @ (laws[:, 0] - weights @ laws[:, 0]) ** 2
    np.testing.assert_allclose(found.sd**2, weights @ laws[:, 1] + between, rtol=1e-10)
    assert exact.time == 6  # the forecaster itself stays where it is
    # the twin: draws that count alike after the observations
    stale = replace(after.standing, log_weights=exact.standing.log_weights)
    twin = pi.Forecaster.from_standing(exact.motion, stale, exact.about).predict(1)
    assert not np.allclose(twin.mean, weights @ laws[:, 0], rtol=1e-10)


def test_observations_in_parts_are_those_at_once_and_those_of_the_filter(exact):
    whole = exact.observe(NEW)
    parts = exact.observe(NEW[:1]).observe(NEW[1:, None])
    assert parts.time == whole.time == 10
    np.testing.assert_array_equal(parts.standing.log_weights, whole.standing.log_weights)
    for a, b in zip(parts.standing.state, whole.standing.state, strict=True):
        np.testing.assert_array_equal(a, b)
    for s, q in enumerate(Q):
        states = pi.filter(linear(), np.concatenate([Y, NEW]), parameters={"q": q})
        np.testing.assert_allclose(whole.standing.state[0][s], states.mean[-1], atol=1e-10)
        np.testing.assert_allclose(np.sqrt(whole.standing.state[1][s, 0]), states.sd[-1], atol=1e-10)


@pytest.mark.long
def test_several_numbers_a_time_of_which_some_are_missing():
    f, h = np.array([[0.9, 0.2], [0.0, 0.8]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    model = pi.StateSpace.linear_gaussian(
        np.zeros(2),
        np.eye(2),
        f,
        0.3 * np.eye(2),
        h,
        lambda t, params: params["r"] * np.eye(2),
        prior={"r": dist.HalfNormal(1.0)},
    )
    y = np.random.default_rng(1).normal(size=(5, 2))
    y[2, 0] = np.nan
    forecaster = pi.Forecaster(Fit(model, y, {"r": np.array([0.5, 1.0])}))
    after = forecaster.observe([[1.0, np.nan]])
    found = after.predict(2)
    weights = after.standing.weights
    every = [pi.filter(model, np.vstack([y, [1.0, np.nan]]), parameters={"r": r}).forecast(2) for r in (0.5, 1.0)]
    mean = sum(w * each.mean for w, each in zip(weights, every, strict=True))
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)
    assert found.lower.shape == (2, 2)
    assert "mean[1]" in found.columns()
    assert after.sample(3, draws=4).shape == (4, 3, 2)


@pytest.mark.long
def test_simulated_futures_have_the_moments_of_the_forecast():
    forecaster = pi.Forecaster(Fit(linear(), Y, {"q": Q[:1]}))
    paths = forecaster.sample(3, draws=4000, seed=1)
    found = forecaster.predict(3)
    z = (paths.mean(axis=0) - found.mean) / (found.sd / np.sqrt(4000))
    assert np.abs(z).max() < stats.norm.isf(FALSE_ALARM / 6)
    # of the sum of three times the variance is known: the times of a future belong together
    (mean, var), q = by_hand(Y, Q[0])[0], Q[0]
    del mean
    loads = np.array([A + A**2 + A**3, 1 + A + A**2, 1 + A, 1.0])
    exact = loads**2 @ [var, q, q, q] + 3 * R
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 3999) / 3999
    assert low < paths.sum(axis=1).var(ddof=1) / exact < high
    shuffled = np.column_stack([np.roll(paths[:, t], t) for t in range(3)])  # the twin: each time on its own
    assert not low < shuffled.sum(axis=1).var(ddof=1) / exact < high


# particles -----------------------------------------------------------------------------------------------------------


def agree(found, q=Q[1]):
    """Whether the means of a forecast are those by hand, within the Monte Carlo error it says."""
    exact = by_hand(Y, q, len(found))[2]
    bound = stats.t.isf(FALSE_ALARM / 2 / len(found), MANY - 1)
    return bool((np.abs(found.mean - exact[:, 0]) <= bound * found.mcse).all())


def test_particles_forecast_what_kalman_does(particles, monkeypatch):
    found = particles.predict(3, level=0.8)
    exact = by_hand(Y, Q[1], 3)[2]
    assert agree(found)
    assert found.mcse.max() < 0.02 * found.sd.min()
    np.testing.assert_allclose(found.sd, np.sqrt(exact[:, 1]), rtol=0.03)
    np.testing.assert_allclose(found.upper, stats.norm.ppf(0.9, exact[:, 0], np.sqrt(exact[:, 1])), atol=0.05)
    # all draws have the same parameters, and what their particles differ by is no doubt about parameters
    assert found.epistemic_sd.max() < 3 * found.mcse.max()
    right = particle_motion._scatter
    first = lambda motion, x, logs, words, *, count: right(motion, x, 0 * logs, words, count=count)  # noqa: E731
    monkeypatch.setattr(particle_motion, "_scatter", first)  # the twin: every particle counts alike
    assert not agree(particles.predict(3, level=0.8))


def scores_agree(forecaster):
    """Whether every draw's p(new | y) is on average that by hand."""
    mover, now = particle_motion.ParticleMover(), forecaster.standing
    exact = np.exp(by_hand(np.concatenate([Y, NEW[:1]]), Q[1])[1][-1])
    seen = mover.observe(forecaster.motion, now.state, now.time, NEW[0], np.array(True), np.array([1, 2], np.uint32))
    ratio = np.exp(seen.log_density) / exact
    error = ratio.std(ddof=1) / np.sqrt(MANY)
    assert error < 0.01
    return abs(ratio.mean() - 1) < stats.t.isf(FALSE_ALARM / 2, MANY - 1) * error


@pytest.mark.long
def test_particles_score_what_kalman_does(particles, monkeypatch):
    assert scores_agree(particles)
    expected = by_hand(np.concatenate([Y, NEW]), Q[1])[1][len(Y) :]
    np.testing.assert_allclose(particles.log_score(NEW), expected, atol=0.02)
    right = particle_motion.weighed
    twin = replace(particles.motion, _compiled={})
    monkeypatch.setattr(particle_motion, "weighed", lambda logs: right(1.1 * logs))
    assert not scores_agree(pi.Forecaster.from_standing(twin, particles.standing, particles.about))


def test_particles_in_parts_are_those_at_once(particles):
    whole, parts = particles.observe(NEW), particles.observe(NEW[:2]).observe(NEW[2:])
    np.testing.assert_array_equal(parts.predict(2).mean, whole.predict(2).mean)
    assert not np.array_equal(whole.predict(2, seed=1).mean, whole.predict(2).mean)
    assert whole.standing.ess < whole.standing.state[1].shape[1]


@pytest.mark.long
def test_counts_have_probabilities_that_fit_the_mean(counts):
    found = counts.predict(2, level=0.2, quantiles=(0.5,))
    assert found.probabilities is not None
    assert found.quantiles is not None
    assert found.probabilities.shape == (2, 11)
    below = np.cumsum(found.probabilities, axis=1)
    assert (found.upper < 11).all()
    np.testing.assert_array_equal(found.lower, [np.argmax(b >= 0.4) for b in below])
    np.testing.assert_array_equal(found.upper, [np.argmax(b >= 0.6) for b in below])
    np.testing.assert_array_equal(found.quantiles[:, 0], [np.argmax(b >= 0.5) for b in below])
    assert (found.mean > (found.probabilities * np.arange(11)).sum(axis=1)).all()
    paths = counts.sample(2, draws=50)
    assert paths.dtype == np.int64
    assert paths.min() >= 0
    assert np.isfinite(counts.observe([3, 0]).predict(1).sd).all()
    assert counts.predict(1, interval=pi.Interval.LOWER).upper[0] == np.inf
    refused(pi.PredictionError, "Interval.HDI is for", counts.predict, 1, interval=pi.Interval.HDI)
    refused(pi.PredictionError, "whole numbers, 0, 1, 2", counts.observe, [0, -1])
    refused(pi.PredictionError, "in row 1; wanted whole", counts.observe, [0, 1.5])


class Own(dist.Normal):
    """A law that no table has: answered from draws."""


@pytest.mark.long
def test_a_law_without_a_closed_form_is_answered_from_draws(particles):
    fit = Fit(general(lambda x: Own(x, R**0.5)), Y, {"q": np.full(MANY, Q[1])})
    found = pi.Forecaster(fit, particles=500).predict(3, level=0.8)
    exact = by_hand(Y, Q[1], 3)[2]
    assert agree(found)
    np.testing.assert_allclose(found.sd, np.sqrt(exact[:, 1]), rtol=0.05)
    np.testing.assert_allclose(found.lower, stats.norm.ppf(0.1, exact[:, 0], np.sqrt(exact[:, 1])), atol=0.1)
    assert found.epistemic_sd.max() < 3 * found.mcse.max()


# verdicts and refusals -----------------------------------------------------------------------------------------------


def test_the_report_says_when_few_draws_or_particles_are_left():
    q = np.linspace(0.01, 3.0, 100)
    forecaster = pi.Forecaster(Fit(linear(), Y, {"q": q}))
    assert forecaster.report.verdict is pi.Verdict.GOOD
    after = forecaster.observe(50.0 * (-1.0) ** np.arange(20))
    assert after.ess < 10
    assert after.report.verdict is pi.Verdict.BAD
    assert "Infer again from all observations" in str(after.report)
    assert "after 20 observations" in str(after.report)


def test_an_observation_that_nothing_explains_is_told(particles):
    after = particles.observe([1.0, 1e6, 1.0])
    assert after.report.verdict is pi.Verdict.BAD
    assert "At time 7" in str(after.report)
    assert np.isfinite(after.predict(1).mean).all()


def test_times_that_the_model_does_not_know_are_refused():
    driver = jnp.asarray(np.arange(8.0))
    forecaster = pi.Forecaster(Fit(linear(lambda t: driver[t]), Y, {"q": Q}))
    assert forecaster.motion.horizon == 8
    with pytest.raises(pi.PredictionError, match=r"times 6 to 8 .* ends with time 7"):
        forecaster.predict(3)
    with pytest.raises(pi.PredictionError, match="ends with time 7"):
        forecaster.observe([0.0, 0.0, 0.0])
    drives = pi.StateSpace(
        initial=lambda params: dist.Normal(0.0, 1.0),
        transition=lambda x, t, params: dist.Normal(x, params["q"]),
        observation=lambda x, t, params: dist.Normal(x + driver[t // 2], 1.0),
        prior={"q": dist.HalfNormal(1.0)},
    )
    with jax.enable_x64(True):
        motion = motion_of(drives, drives.series(Y), {"q": Q}, None)
    assert motion.horizon == 16


@pytest.mark.long
def test_up_to_its_end_an_array_drives_the_forecast():
    driver = jnp.asarray(np.arange(8.0))
    model = linear(lambda t: driver[t])
    every = [pi.filter(model, Y, parameters={"q": q}).forecast(2).mean[:, 0] for q in Q]
    found = pi.Forecaster(Fit(model, Y, {"q": Q})).predict(2)
    np.testing.assert_allclose(found.mean, np.mean(every, axis=0), rtol=1e-10)


@pytest.mark.long
def test_the_shortest_interval_of_a_forecast(exact):
    found = exact.predict(2, level=0.8, interval=pi.Interval.HDI)
    laws = np.stack([by_hand(Y, q, 2)[2] for q in Q])
    means, sds = laws[..., 0], np.sqrt(laws[..., 1])
    ends = np.stack([found.lower, found.upper])
    held = np.diff(stats.norm.cdf(ends[:, None], means, sds).mean(axis=1), axis=0)
    np.testing.assert_allclose(held, 0.8, atol=1e-8)
    low, high = stats.norm.pdf(ends[:, None], means, sds).mean(axis=1)
    np.testing.assert_allclose(low, high, rtol=1e-5)  # of the shortest both ends are as probable


def refused(error, text, call, *args, **kwargs):
    with pytest.raises(error, match=text):
        call(*args, **kwargs)


def test_futures_that_are_no_numbers_are_refused_with_the_time(exact):
    """As `predict` refuses them."""
    mean, cov = exact.standing.state
    away = pi.Forecaster.from_standing(exact.motion, replace(exact.standing, state=(mean + np.inf, cov)), exact.about)
    for call in (away.sample, away.predict):
        refused(pi.PredictionError, "At time 6, 1 ahead, the model's laws are not numbers, or go beyond 1e308", call, 3)


LAWLESS = {
    "a rate that is none": lambda x, t: dist.Poisson(jnp.where(t > 6, jnp.nan, jnp.exp(x))),
    "no law's own number": lambda x, t: dist.GeometricProbs(jnp.where(t > 6, 0.0, 0.5)),
}


@pytest.mark.parametrize("name", [pytest.param("a rate that is none", marks=pytest.mark.long), "no law's own number"])
def test_whole_numbers_are_not_made_of_what_is_none(name):
    """Poisson's sampler gives -1 for a rate that is none, and infinity as a whole number is -2**63."""
    model = pi.StateSpace(
        initial=lambda params: dist.Normal(0.0, 1.0),
        transition=lambda x, t, params: dist.Normal(x, params["q"]),
        observation=lambda x, t, params: LAWLESS[name](x, t),
        prior={"q": dist.HalfNormal(1.0)},
    )
    forecaster = pi.Forecaster(Fit(model, np.arange(6), {"q": Q}), particles=2)
    assert forecaster.sample(1, 2).dtype == np.int64
    refused(pi.PredictionError, r"At time 7, 2 ahead, .* or go beyond 2\*\*63", forecaster.sample, 3, 2)


def test_wrong_calls_are_refused_in_words(exact, tmp_path):
    refused(pi.MethodError, "steps", exact.predict, 0)
    refused(pi.MethodError, "steps", exact.sample, 2.5)
    refused(pi.MethodError, "draws", exact.sample, 2, 0)
    refused(pi.PredictionError, "level", exact.predict, 1, level=1.0)
    refused(pi.PredictionError, "interval is 'hdi'", exact.predict, 1, interval="hdi")
    refused(pi.PredictionError, r"shape \(2, 2\).*wanted \(n,\)", exact.observe, np.zeros((2, 2)))
    refused(pi.PredictionError, r"shape \(\)", exact.observe, 1.0)
    refused(pi.PredictionError, "shape", exact.observe, [])
    refused(pi.PredictionError, "infinite at time 1", exact.log_score, [0.0, np.inf])
    refused(pi.PredictionError, "numbers", exact.observe, ["a"])
    fit = Fit(linear(), Y, {"q": Q})
    refused(pi.MethodError, "linear Gaussian and needs no particles", pi.Forecaster, fit, particles=10)
    refused(pi.MethodError, "filter is 3", pi.Forecaster, Fit(general(), Y, {"q": Q}), filter=3)
    refused(pi.MethodError, "draws", pi.Forecaster, fit, draws=0)
    refused(pi.PredictionError, "accept is 1", pi.Forecaster, fit, 1)
    refused(pi.PredictionError, "posterior came as int", pi.Forecaster, 1)
    refused(pi.ModelError, "without its model or data", pi.Forecaster, Fit(None, None, {"q": Q}))
    rows = Fit(pi.Model(lambda x: None), {"x": Y}, {"q": Q})
    refused(pi.ModelError, r"pi\.Predictor\(posterior\)", pi.Forecaster, rows)
    doubtful = replace(fit, verdict=pi.Verdict.DOUBTFUL)
    refused(pi.UnreliablePosterior, "Forecaster.posterior, accept=Verdict.DOUBTFUL", pi.Forecaster, doubtful)
    assert "has the verdict DOUBTFUL" in str(pi.Forecaster(doubtful, pi.Verdict.DOUBTFUL).report)
    refused(pi.PredictionError, "An MLflow model answers rows", save_model, exact, tmp_path / "m")
    exact.save(tmp_path / "f")
    refused(pi.PredictionError, "holds a forecaster, which predicts times", load_row_predictor, tmp_path / "f")


# in a file -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, probinfer as pi
forecaster = pi.load_predictor(sys.argv[1])
after = forecaster.observe(json.loads(sys.argv[2]))
found = after.predict(2, quantiles=(0.3,))
print(json.dumps([found.mean.tolist(), found.quantiles.tolist(), after.ess, sorted({"numpyro"} & set(sys.modules))]))
"""


@pytest.mark.parametrize("name", ["exact", pytest.param("counts", marks=pytest.mark.long)])
def test_a_fresh_process_goes_on_with_the_same_numbers(name, request, tmp_path):
    forecaster, y = request.getfixturevalue(name), [1.0, 2.0]
    forecaster.save(tmp_path / "f")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "f"), json.dumps(y)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    mean, quantiles, ess, heavy = json.loads(done.stdout)
    after = forecaster.observe(y)
    found = after.predict(2, quantiles=(0.3,))
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.quantiles, quantiles)
    assert (after.ess, heavy) == (ess, [])
    text = card(tmp_path / "f")
    assert f"{forecaster.time} is next" in text
    assert "observations ~ " in text


@pytest.mark.long
def test_a_loaded_forecaster_is_saved_again_and_shown(counts, tmp_path):
    counts.observe([1]).save(tmp_path / "f")
    loaded = pi.load_predictor(tmp_path / "f")
    loaded.save(tmp_path / "g")
    again = pi.load_predictor(tmp_path / "g")
    np.testing.assert_array_equal(again.log_score([1, 3]), counts.observe([1]).log_score([1, 3]))
    np.testing.assert_array_equal(again.sample(2, 5), counts.observe([1]).sample(2, 5))
    text = card(tmp_path / "f")
    for words in ("observations ~ Poisson", "5 is next", "60 (2 chains)"):
        assert words in text


# the long way --------------------------------------------------------------------------------------------------------


def grid_posterior(y, grid):
    """Weights of the values of q, of even weight before, by Kalman's filter in scalars for all of them at once."""
    mean, var, logs = np.full_like(grid, M), np.full_like(grid, P), np.zeros_like(grid)
    for t, seen in enumerate(y):
        if t:
            mean, var = A * mean, A * A * var + grid
        logs += stats.norm.logpdf(seen, mean, np.sqrt(var + R))
        gain = var / (var + R)
        mean, var = mean + gain * (seen - mean), (1 - gain) * var
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


@pytest.mark.long
def test_intervals_cover_as_often_as_they_say():
    rng, level, series, grid = np.random.default_rng(3), 0.8, 400, np.linspace(0.02, 2.0, 100)
    base = pi.Forecaster(Fit(linear(), Y, {"q": np.full(50, 1.0)}))
    start = (np.full((50, 1), M), np.full((50, 1, 1), P))
    held = {"right": 0, "stale": 0}
    for _ in range(series):
        q, x, y = rng.choice(grid), rng.normal(M, P**0.5), []
        for t in range(14):
            x = A * x + rng.normal(0, q**0.5) if t else x
            y.append(x + rng.normal(0, R**0.5))
        draws = rng.choice(grid, 50, p=grid_posterior(y[:8], grid))
        motion = replace(base.motion, draws={"q": draws})
        even = np.full(50, -np.log(50))
        rows = np.array(y[:8]), np.ones(8, bool)
        before, _ = follow(motion, Standing(0, 8, even, start, base.standing.words), Series(*rows))
        forecaster = pi.Forecaster.from_standing(motion, replace(before, log_weights=even), base.about)
        for name, seen in (("right", y[8:12]), ("stale", [np.nan] * 4)):
            found = forecaster.observe(seen).predict(2, level=level)
            if name == "stale":  # the twin: what came since is not looked at, and the times go on from there
                found = forecaster.predict(2, level=level)
            held[name] += int(found.lower[1] <= y[13] <= found.upper[1])
    low, high = stats.binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], series, level)
    assert low <= held["right"] <= high
    assert not low <= held["stale"] <= high
