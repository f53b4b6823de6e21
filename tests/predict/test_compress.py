"""Compressed predictors: far fewer draws, the same answers, and a cost that is what it says."""

import json
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

import probinfer as pi
from probinfer.deploy.answerer import PosteriorAnswers
from probinfer.predict import artifact, compress, mixture
from probinfer.predict.families import FAMILIES
from probinfer.predict.nearest import nearest_combinations
from probinfer.predict.rows import content_hashes, read_rows
from probinfer.predict.sampling import _picked
from probinfer.predict.together import Question
from probinfer.predict.weights import Weights
from tests.predict import models as m
from tests.predict.fits import fitted

DRAWS = 1000
rng = np.random.default_rng(3)
GROUPS = np.repeat(np.arange(m.GROUPS), 24)
X = rng.normal(size=len(GROUPS))
SLOPE, SCALE = 0.5 * rng.normal(size=DRAWS), np.exp(0.1 * rng.normal(size=DRAWS))


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, {"slope": SLOPE, "sigma": SCALE}, chains=4)


@pytest.fixture(scope="module")
def small(line):
    return line.compress({"x": X})


@pytest.fixture(scope="module")
def counts():
    predictor = fitted(m.poisson, {"x": m.x, "y": m.counts}, {"rate": np.exp(0.3 * rng.normal(size=DRAWS) + 1)})
    return predictor, predictor.compress({"x": X}, tolerance=0.02)


def worst(full, fewer, rows, level=0.9, quantiles=(0.02, 0.5, 0.97)):
    """The largest difference of a number of two predictions, in units of the full one's sd."""
    a, b = (p.predict(rows, level, quantiles) for p in (full, fewer))
    names = ("mean", "sd", "epistemic_sd", "aleatoric_sd", "lower", "upper")
    found = [np.max(np.abs(getattr(a, n) - getattr(b, n)) / a.sd) for n in names]
    return max(*found, np.max(np.abs(a.quantiles - b.quantiles) / a.sd[:, None]))


# what it keeps -------------------------------------------------------------------------------------------------------


def test_every_summary_is_kept_on_new_rows(line, small):
    """New rows are of the law of the rows given. They had no part in choosing, so the error may be somewhat larger
    than on the rows held out, which the search stopped at."""
    assert small.compression.before == DRAWS
    assert small.program.size == small.compression.after <= DRAWS / 10
    new = {"x": np.random.default_rng(4).normal(size=len(X))}
    assert worst(line, small, new) <= 0.012
    assert worst(line, small, {"x": X}) == pytest.approx(small.compression.error, rel=0.7)
    assert small.compression.error <= 0.01


@pytest.mark.long
def test_as_many_draws_taken_at_random_do_not_keep_them(line, small):
    some = np.random.default_rng(5).permutation(DRAWS)[: small.program.size]
    random = fitted(m.line, {"x": m.x, "y": m.y}, {"slope": SLOPE[some], "sigma": SCALE[some]})
    assert worst(line, random, {"x": X}) > 0.03
    unweighted = pi.Predictor.from_program(
        compress._subset(small.program, np.arange(len(some)), np.full(len(some), 1.0 / len(some)), 0.0), {}
    )
    assert worst(line, unweighted, {"x": X}) > 0.03


@pytest.mark.long
def test_a_smaller_tolerance_takes_more_draws(line, small):
    finer = line.compress({"x": X}, tolerance=0.003)
    assert small.program.size < finer.program.size < DRAWS / 4
    assert finer.compression.error <= 0.003


@pytest.mark.long
def test_counts_keep_their_probabilities(counts):
    full, fewer = counts
    assert fewer.program.size <= DRAWS / 10
    rows = {"x": np.random.default_rng(6).normal(size=40)}
    a, b = full.predict(rows), fewer.predict(rows)
    np.testing.assert_allclose(a.probabilities, b.probabilities, atol=0.02)
    rates = np.exp(rows["x"])[:, None] * full.program.draws["rate"]
    for ends, level in ((b.lower, 0.05), (b.upper, 0.95)):
        assert np.all(stats.poisson.cdf(ends[:, None], rates).mean(axis=1) >= level - 0.021)
        assert np.all(stats.poisson.cdf(ends[:, None] - 1, rates).mean(axis=1) < level + 0.021)
    assert set(fewer.compression.errors) == {"mean", "sd", "epistemic_sd", "aleatoric_sd", "cdf", "probabilities"}


@pytest.mark.long
def test_several_numbers_and_classes():
    W = 0.3 * np.random.default_rng(8).normal(size=(DRAWS, 3, 4))
    full = fitted(m.categorical, {"X": m.X, "y": m.classes}, {"W": W})
    rows = {"X": np.random.default_rng(9).normal(size=(90, 3))}
    fewer = full.compress(rows, tolerance=0.05)
    np.testing.assert_allclose(full.predict(rows).probabilities, fewer.predict(rows).probabilities, atol=0.05)
    assert fewer.predict(rows).probabilities.sum(axis=-1) == pytest.approx(1.0)


# what else a predictor does ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_samples_follow_the_weights(small):
    """The mean over 40,000 draws, each posterior draw as often as its weight says: noise of the rows alone."""
    draws = small.sample({"x": [1.5]}, draws=40_000, seed=2)
    prediction = small.predict({"x": [1.5]})
    assert abs(draws.mean() - prediction.mean[0]) < 5.6 * prediction.aleatoric_sd[0] / 200
    assert draws.std() == pytest.approx(prediction.sd[0], rel=0.02)
    np.testing.assert_array_equal(draws[:, 0], small.sample({"x": [1.5]}, draws=40_000, seed=2)[:, 0])
    weights = small.program.weights
    often = np.bincount(weights.pick(1000, 0.3), minlength=len(weights.values))
    assert np.all(np.abs(often - 1000 * weights.values) < 1.0)


def test_the_first_of_many_draws_are_those_of_fewer(small):
    """Also over the end of a round, and from a server, which makes more than were asked for."""
    rows = {"x": X[:3]}
    many = small.sample(rows, draws=300, seed=5)
    np.testing.assert_array_equal(small.sample(rows, draws=140, seed=5), many[:140])
    columns, count = read_rows(rows, small.program)
    question = Question(columns, content_hashes(columns, count))
    np.testing.assert_array_equal(PosteriorAnswers(small).sample(question, 5, 5), many[:5])


def test_draws_are_taken_as_often_as_their_weights_say():
    """In every round of 128 each as often as its weight says, rounded up or down; on average over where a round begins
    exactly as often."""
    values = np.random.default_rng(11).dirichlet(np.full(40, 0.5))
    weights = Weights(values / values.sum(), 0.1)

    def off(picked):
        often = np.stack([np.bincount(part, minlength=40) for part in picked.reshape(-1, 128)])
        return np.abs(often - 128 * weights.values).max()

    with jax.enable_x64(True):
        picked = _picked(SimpleNamespace(weights=weights, size=40), jax.random.key(2), 5 * 128)
    assert off(picked) < 1.0
    assert len({part.tobytes() for part in picked.reshape(-1, 128)}) == 5  # each in an order of its own
    assert off(np.random.default_rng(3).choice(40, 5 * 128, p=weights.values)) > 1.0  # the twin: each on its own
    starts = (np.arange(1000) + 0.5) / 1000
    often = np.mean([np.bincount(weights.pick(128, start), minlength=40) for start in starts], axis=0)
    np.testing.assert_allclose(often / 128, weights.values, atol=1 / 128_000)
    assert weights.pick(128, np.nextafter(1.0, 0.0)).max() == 39


def test_scores_follow_the_weights(line, small):
    rows, y = {"x": X[:8]}, X[20:28]
    np.testing.assert_allclose(small.log_score(rows, y), line.log_score(rows, y), atol=0.05)


@pytest.mark.long
def test_shortest_intervals_and_metrics_follow_the_weights(line, small):
    rows, y = {"x": X[:8]}, X[20:28]
    ends = [p.predict(rows, interval=pi.Interval.HDI) for p in (line, small)]
    np.testing.assert_allclose(ends[0].upper, ends[1].upper, atol=0.1)
    crps = [pi.metrics(p, rows, y)["crps"].value for p in (line, small)]
    assert crps[0] == pytest.approx(crps[1], rel=0.01)


@pytest.mark.long
def test_the_monte_carlo_error_is_that_of_the_draws_before(line, small):
    """Never below the full predictor's on the reference rows, and no more than the worst of them."""
    before, after = line.predict({"x": X}), small.predict({"x": X})
    assert np.all(after.mcse >= 0.9 * before.mcse)
    assert np.max(after.mcse / after.epistemic_sd) == pytest.approx(np.max(before.mcse / before.epistemic_sd), rel=0.05)


@pytest.mark.long
def test_it_is_calibrated_afterwards(line, small):
    y = 2 * np.random.default_rng(7).normal(size=len(X))
    wide = small.calibrate({"x": X}, y)
    assert np.all(wide.predict({"x": X}).upper > small.predict({"x": X}).upper + 0.5)
    with pytest.raises(pi.PredictionError, match="Compress first, then calibrate"):
        line.calibrate({"x": X}, y).compress({"x": X})


def test_it_is_saved_with_what_it_cost(small, tmp_path):
    small.save(tmp_path / "small")
    loaded = pi.load_predictor(tmp_path / "small")
    for name, values in small.predict({"x": X}).columns().items():
        np.testing.assert_array_equal(values, loaded.predict({"x": X}).columns()[name])
    np.testing.assert_array_equal(small.sample({"x": X}, 5), loaded.sample({"x": X}, 5))
    assert loaded.compression == small.compression
    assert f"{small.program.size} draws for {DRAWS}, within" in repr(loaded)
    assert json.loads((tmp_path / "small" / "manifest.json").read_text())["format_version"] == 3
    assert f"{small.program.size} weighted draws for {DRAWS}" in artifact.card(tmp_path / "small")
    assert f"{small.program.size} (weighted)" in artifact.card(tmp_path / "small")


# refusals ------------------------------------------------------------------------------------------------------------


def test_refusals(line, small):
    for tolerance in (0, 1, "0.01", float("nan")):
        with pytest.raises(pi.PredictionError, match="tolerance is"):
            line.compress({"x": X}, tolerance)
    with pytest.raises(pi.PredictionError, match="There are 2 different rows; wanted 30 or more"):
        line.compress({"x": np.tile([1.0, 2.0], 50)})
    with pytest.raises(pi.PredictionError, match="There are 0 different rows; wanted 30 or more"):
        line.compress({"x": []})
    with pytest.raises(pi.PredictionError, match="compressed already"):
        small.compress({"x": X})
    geometric = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(m.draws())})
    with pytest.raises(pi.PredictionError, match="has a law without a closed form"):
        geometric.compress({"x": X})


@pytest.mark.long
def test_a_tolerance_that_takes_all_draws_is_refused(line):
    with pytest.raises(pi.PredictionError, match="No half of the 1000 draws was found to keep every summary"):
        line.compress({"x": X}, 1e-9)


@pytest.mark.parametrize("values", [[0.5, 0.6], [1.2, -0.2], [[1.0]], [1.0, 0.0], [np.nan, 1.0]])
def test_weights_are_weights(values):
    with pytest.raises(ValueError, match="weights are positive numbers that add up to one"):
        Weights(np.array(values), 0.1)


# the parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "search"),
    [
        ("Normal", ([[0.0, 2.0]], [[1.0, 0.5]]), False),
        pytest.param("Poisson", ([[2.0, 6.0]],), False, marks=pytest.mark.long),
        ("Poisson", ([[2.0, 6.0]],), True),
        pytest.param("Bernoulli", ([[0.5, -2.0]],), False, marks=pytest.mark.long),
    ],
)
def test_weighted_mixtures_are_mixtures_with_repeated_draws(name, parameters, search):
    """Weights 1/4, 3/4 are one draw and three equal ones."""
    family, levels = FAMILIES[name], np.array([0.05, 0.4, 0.9])
    given = [np.array(p) for p in parameters]
    weights = Weights(np.array([0.25, 0.75]), 0.5)
    summarise = partial(mixture.summarise, family, levels=levels, chains=None, search_counts=search)
    with jax.enable_x64(True):
        weighted = jax.jit(partial(summarise, weights=weights))(given)
        repeated = jax.jit(summarise)([p[:, [0, 1, 1, 1]] for p in given])
    for field in ("mean", "aleatoric_variance", "epistemic_variance", "quantiles"):
        np.testing.assert_allclose(getattr(weighted, field), getattr(repeated, field), rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(weighted.mcse, 0.5 * np.sqrt(repeated.epistemic_variance), rtol=1e-9)


def test_the_nearest_point_of_a_polytope():
    """Against SciPy's nonnegative least squares; the origin is inside or not."""
    from scipy.optimize import nnls

    for shift in (0.0, 1.5):
        corners = np.random.default_rng(1).normal(size=(6, 60)) + shift
        steps = list(nearest_combinations(corners))
        last = steps[-1]
        heavy = np.vstack([corners, np.full(60, 1e4)])
        best = nnls(heavy, np.array([0, 0, 0, 0, 0, 0, 1e4]))[0]
        assert np.linalg.norm(corners @ last) == pytest.approx(np.linalg.norm(corners @ best), abs=1e-3)
        assert last.sum() == pytest.approx(1.0)
        assert np.all(last >= 0)
        assert np.count_nonzero(last) <= 7
        lengths = [np.linalg.norm(corners @ step) for step in steps]
        assert np.all(np.diff(lengths) <= 1e-9)
