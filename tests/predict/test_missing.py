"""Rows with gaps, marginalised over values that may stand there: against the mixture computed directly."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import optimize, stats

import probinfer as pi
from probinfer.errors import PredictionError
from probinfer.predict import missing
from tests.predict import models as m
from tests.predict.fits import Fit, fitted

STANDING = np.array([-1.0, 0.5, 2.0])
LEVELS = (0.1, 0.9)


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=2)


@pytest.fixture(scope="module")
def gappy(line):
    return line.predict({"x": np.array([0.3, np.nan, -0.7, np.nan])}, quantiles=LEVELS, missing={"x": STANDING})


def test_a_gap_is_the_mixture_over_all_that_may_stand_there(gappy):
    means = m.LINE["slope"] * STANDING[:, None]  # (values, draws)
    sigma = m.LINE["sigma"]
    per_draw = means.mean(axis=0)
    assert np.isclose(gappy.mean[1], means.mean(), rtol=1e-12)
    assert np.isclose(gappy.epistemic_sd[1], per_draw.std(), rtol=1e-12)
    aleatoric = np.mean(sigma**2) + np.mean(means.var(axis=0))
    assert np.isclose(gappy.aleatoric_sd[1] ** 2, aleatoric, rtol=1e-12)

    def cdf(y):
        return stats.norm.cdf((y - means) / sigma).mean()

    exact = [optimize.brentq(lambda y, p=p: cdf(y) - p, -30, 30, xtol=1e-13) for p in LEVELS]
    np.testing.assert_allclose(gappy.quantiles[1], exact, rtol=1e-8)
    # The broken twin fills the gap with the mean of the values and is too sure.
    filled = stats.norm.cdf((exact[1] - m.LINE["slope"] * STANDING.mean()) / sigma).mean()
    assert abs(filled - LEVELS[1]) > 0.01


def test_complete_rows_are_as_without(line, gappy):
    alone = line.predict({"x": np.array([0.3, -0.7])}, quantiles=LEVELS)
    for field in ("mean", "sd", "lower", "upper", "quantiles", "mcse"):
        np.testing.assert_array_equal(getattr(gappy, field)[[0, 2]], getattr(alone, field))


def test_both_gaps_are_alike_and_one_value_is_what_it_says(line, gappy):
    assert gappy.mean[1] == gappy.mean[3]
    assert gappy.upper[1] == gappy.upper[3]
    one = line.predict({"x": np.nan}, missing={"x": [0.25]})
    np.testing.assert_allclose(one.upper, line.predict({"x": 0.25}).upper, rtol=1e-12)


def test_whole_numbers_that_may_stand_leave_other_rows_as_they_are(line):
    alone = line.predict({"x": [0.5, 3.0]}).mean
    for rows in ({"x": [0.5, np.nan]}, {"x": [0.5, None]}, pd.DataFrame({"x": [0.5, np.nan]})):
        found = line.predict(rows, missing={"x": [3, 3]}).mean  # the 0.5 was once taken for 0
        np.testing.assert_allclose(found, alone, rtol=1e-12)


def test_what_may_stand_as_a_table(line):
    rows = {"x": [np.nan, 1.0]}
    expected = line.predict(rows, missing={"x": STANDING})
    for table in (pd.DataFrame({"x": STANDING}, index=[7, 5, 9]), pa.table({"x": STANDING})):
        np.testing.assert_array_equal(line.predict(rows, missing=table).upper, expected.upper)
    with pytest.raises(PredictionError, match="missing came as DataFrame; wanted a dict of inputs"):
        line.predict(rows, missing=pd.DataFrame({"x": []}))


def test_values_of_several_inputs_belong_together():
    predictor = fitted(m.grouped, m.GROUPED_DATA, m.GROUPED)
    x, group = np.array([0.1, 3.0]), np.array([4, 2])
    rows = pd.DataFrame({"x": [np.nan], "group": [None]})
    joint = predictor.predict(rows, missing={"x": x, "group": group})
    each = predictor.predict({"x": x, "group": group})
    assert np.isclose(joint.mean[0], each.mean.mean(), rtol=1e-12)
    half = predictor.predict(pd.DataFrame({"x": [1.0], "group": [np.nan]}), missing={"x": x, "group": group})
    assert np.isclose(half.mean[0], predictor.predict({"x": [1.0, 1.0], "group": group}).mean.mean(), rtol=1e-12)


def test_one_entry_of_a_vector():
    predictor = fitted(m.logistic, {"X": m.X, "y": m.x > 0}, {"beta": m.draws(3)})
    row = {"X[0]": [0.4], "X[1]": [None], "X[2]": [-1.0]}
    found, alike = (predictor.predict(table(row), missing={"X[1]": STANDING}) for table in (pd.DataFrame, pa.table))
    assert np.array_equal(found.probabilities, alike.probabilities)
    rows = np.column_stack([np.full(3, 0.4), STANDING, np.full(3, -1.0)])
    each = predictor.predict({"X": rows})
    assert np.isclose(found.mean[0], each.mean.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.probabilities[0], each.probabilities.mean(axis=0), rtol=1e-12)
    vectors = predictor.predict({"X": np.array([[0.4, np.nan, -1.0]])}, missing={"X": rows[::-1]})
    assert np.isclose(vectors.mean[0], found.mean[0], rtol=1e-12)


@pytest.fixture(scope="module")
def poisson():
    return fitted(m.poisson, {"x": m.x, "y": m.counts}, {"rate": np.exp(0.3 * m.draws())})


def test_counts(poisson):
    predictor = poisson
    each = predictor.predict({"x": STANDING})
    found = predictor.predict({"x": [np.nan]}, missing={"x": STANDING})
    assert np.isclose(found.mean[0], each.mean.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.probabilities[0], each.probabilities.mean(axis=0), rtol=1e-10)


@pytest.mark.long
def test_weighted_draws(poisson):
    small = poisson.compress({"x": m.x}, tolerance=0.02)
    coarse = small.predict({"x": [np.nan]}, missing={"x": STANDING})
    assert np.isclose(coarse.mean[0], small.predict({"x": STANDING}).mean.mean(), rtol=1e-12)


def test_many_gaps_among_labels_raise_no_warning():
    """Python compares floats in another way once it has done so a few times."""
    gaps = np.array([np.nan, "B"] * 500, object)
    for _ in range(20):
        assert missing._empty(gaps).sum() == 500


@pytest.mark.long
def test_raw_columns_of_a_pipeline():
    def model(X, level, J, y=None):
        import numpyro
        import numpyro.distributions as dist

        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        height = numpyro.sample("height", dist.Normal(0, 1).expand([J]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ beta + height[level], 1.0), obs=y)

    raw = {"size": np.exp(m.x), "town": np.resize(["A", "B", "C"], m.ROWS), "price": m.y}
    pipeline = pi.Pipeline(
        model,
        inputs={"X": [pi.Column("size", pi.Log(), pi.Standardise())], "level": pi.Column("town", pi.Ordinal())},
        sizes={"J": "level"},
        outcome={"y": pi.Column("price", pi.Standardise())},
    )
    predictor = pi.Predictor(Fit(pipeline, raw, {"beta": m.draws(1), "height": m.draws(3)}))
    standing = {"size": np.array([1.0, 4.0]), "town": np.array(["C", "A"])}
    found = predictor.predict(pd.DataFrame({"size": [np.nan, 2.0], "town": [None, "B"]}), missing=standing)
    assert np.isclose(found.mean[0], predictor.predict(standing).mean.mean(), rtol=1e-12)
    assert found.mean[1] == predictor.predict({"size": [2.0], "town": ["B"]}).mean[0]


@pytest.mark.parametrize(
    ("rows", "missing", "words"),
    [
        ({"x": [np.nan]}, None, "nan in row 0"),
        ({"x": [np.nan]}, {}, "wanted a dict"),
        ({"x": [np.nan]}, {"z": STANDING}, "missing names z, which the rows lack"),
        ({"x": [np.nan]}, {"x": []}, "no values"),
        ({"x": [np.nan]}, {"x": 1.0}, "no values"),
        ({"x": [np.nan]}, {"x": [1.0, np.nan]}, "missing values itself"),
        ({"x": [np.nan]}, {"x": np.zeros((2, 3))}, r"shape \(3,\)"),
        ({"x": [np.nan]}, {"x": np.zeros(1001)}, "1000 are the most"),
        ({"x": [np.nan]}, {"x": [1.0, np.inf]}, "inf"),
        ({"x": [np.nan]}, {"x": ["a"]}, "text"),
    ],
)
def test_refuses(line, rows, missing, words):
    with pytest.raises(PredictionError, match=words):
        line.predict(rows, missing=missing)


# one value once got around all this
@pytest.mark.parametrize("standing", [pytest.param(STANDING, marks=pytest.mark.long), STANDING[:1]])
def test_refuses_what_it_cannot_answer(line, standing):
    rows, missing = {"x": [np.nan, 1.0]}, {"x": standing}
    with pytest.raises(PredictionError, match=r"HDI is for rows without gaps, .* Ask for Interval\.ETI"):
        line.predict(rows, missing=missing, interval=pi.Interval.HDI)
    calibrated = line.calibrate({"x": m.x + 0.01}, m.y)
    with pytest.raises(PredictionError, match=r"^The predictor was calibrated on rows without gaps, and some rows"):
        calibrated.predict(rows, missing=missing)
    assert len(calibrated.predict({"x": [0.5]}, missing=missing)) == 1  # nothing is missing
    sampled = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(0.3 * m.draws())})
    with pytest.raises(PredictionError, match="without a closed form"):
        sampled.predict(rows, missing=missing)


def test_gaps_that_nothing_stands_for_are_errors():
    predictor = fitted(m.grouped, m.GROUPED_DATA, m.GROUPED)
    rows = {"x": [np.nan, 1.0], "group": np.array([0.0, np.nan])}
    with pytest.raises(PredictionError, match="group is nan in row 1"):
        predictor.predict(rows, missing={"x": STANDING})
    with pytest.raises(PredictionError, match="differ in number"):
        predictor.predict(rows, missing={"x": STANDING, "group": [1, 2]})
