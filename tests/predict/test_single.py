"""Predictors with draws in single precision: half the size, the same answers within what was measured."""

import json

import numpy as np
import pytest

import probinfer as pi
from probinfer.predict import artifact
from tests.predict import models as m
from tests.predict.fits import fitted

ROWS = {"x": np.linspace(-2.0, 2.0, 40)}


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4)


@pytest.fixture(scope="module")
def small(line):
    return line.round({"x": m.x})


def test_the_error_is_measured_and_small(line, small):
    assert 0.0 < small.rounding.error < 1e-6 < small.rounding.tolerance
    before, after = line.predict(ROWS), small.predict(ROWS)
    for name in ("mean", "sd", "lower", "upper", "epistemic_sd", "aleatoric_sd"):
        moved = np.abs(getattr(before, name) - getattr(after, name)) / before.sd
        assert 0.0 < moved.max() < 1e-6  # 6e-8 of parameters that are at most some sds
    assert line.rounding is None


def test_saved_it_takes_half_and_answers_the_same_bit_for_bit(line, small, tmp_path):
    line.save(tmp_path / "double")
    small.save(tmp_path / "single")
    sizes = [(tmp_path / name / "draws-0.npy").stat().st_size - 128 for name in ("double", "single")]
    assert sizes[0] == 2 * sizes[1]
    loaded = pi.load_predictor(tmp_path / "single")
    before, after = small.predict(ROWS, quantiles=(0.3,)), loaded.predict(ROWS, quantiles=(0.3,))
    for name, values in before.columns().items():
        np.testing.assert_array_equal(values, after.columns()[name])
    np.testing.assert_array_equal(small.sample(ROWS, 3), loaded.sample(ROWS, 3))
    assert loaded.rounding == small.rounding
    assert "single precision" in artifact.card(tmp_path / "single")
    manifest = json.loads((tmp_path / "single" / "manifest.json").read_text())
    assert manifest["format_version"] == 6
    loaded.calibrate(ROWS, ROWS["x"]).save(tmp_path / "again")
    assert pi.load_predictor(tmp_path / "again").rounding == small.rounding


def test_numbers_that_cancel_are_refused():
    """The year as it is: intercept and slope times year are both near 2,000 times what they add up to."""

    def trend(year, y=None):
        import numpyro
        import numpyro.distributions as dist

        start = numpyro.sample("start", dist.Normal(0, 1e6))
        slope = numpyro.sample("slope", dist.Normal(0, 1e3))
        numpyro.sample("y", dist.Normal(start + slope * year, 1e-3), obs=y)

    slope = 5.0 + 1e-6 * m.draws()
    year = 2000.0 + np.arange(m.ROWS)
    predictor = fitted(trend, {"year": year, "y": m.y}, {"start": -2000.0 * slope, "slope": slope})
    with pytest.raises(pi.PredictionError, match=r"would move by .* of a row's sd .*: some parameter is large"):
        predictor.round({"year": year})
    rounded = predictor.round({"year": year}, tolerance=0.9)  # the tolerance decides, and the cost is told
    assert rounded.rounding.error > 1e-4


def test_wrong_calls(line, small):
    with pytest.raises(pi.PredictionError, match="tolerance is 0"):
        line.round(ROWS, tolerance=0)
    with pytest.raises(pi.PredictionError, match="There are no rows"):
        line.round({"x": []})
    with pytest.raises(pi.PredictionError, match="Round first, then calibrate"):
        small.calibrate(ROWS, ROWS["x"]).round(ROWS)
    huge = fitted(m.line, {"x": m.x, "y": m.y}, {**m.LINE, "slope": m.LINE["slope"] + 1e39})
    with pytest.raises(pi.PredictionError, match="slope has draws beyond 3e38"):
        huge.round(ROWS)
    sampled = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(m.draws())})
    with pytest.raises(pi.PredictionError, match="answered from predictive draws"):
        sampled.round(ROWS)
