"""Kinds of intervals against exact answers."""

import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from scipy import optimize, stats

import probinfer as pi
from probinfer.predict import shortest
from tests.predict import models as m
from tests.predict.fits import fitted

ONE = 20  # equal draws: the mixture is one law


def predictor_of(law, latents):
    def model(x, y=None):
        values = {name: numpyro.sample(name, dist.LogNormal(0, 1)) for name in latents}
        numpyro.sample("y", law(x, **values), obs=y)

    draws = {name: np.asarray(values, float) for name, values in latents.items()}
    return fitted(model, {"x": m.x, "y": np.full(m.ROWS, 0.3)}, draws)


def brute(law, level):
    """The shortest interval by minimising its width over 20,001 positions, then more finely around the best."""
    p = np.linspace(1e-9, 1 - level - 1e-9, 20001)
    best = p[np.argmin(law.ppf(p + level) - law.ppf(p))]
    ends = max(best - 1e-4, 1e-12), min(best + 1e-4, 1 - level - 1e-12)
    width = lambda p: law.ppf(p + level) - law.ppf(p)  # noqa: E731
    near = optimize.minimize_scalar(width, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    return np.array([law.ppf(near), law.ppf(near + level)])


LAWS = {
    "normal": (lambda x, a: dist.Normal(x, a), stats.norm(0.0, 1.3), 1.3),
    "gamma": (lambda x, a: dist.Gamma(a + 0 * x, 1.0), stats.gamma(2.5), 2.5),
    "beta": (lambda x, a: dist.Beta(a + 0 * x, 4.0), stats.beta(1.7, 4.0), 1.7),
    "log normal": (lambda x, a: dist.LogNormal(x, a), stats.lognorm(0.8), 0.8),
}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        pytest.param(name, level, marks=[] if name == "log normal" and level == 0.9 else pytest.mark.long)
        for name in LAWS
        for level in (0.5, 0.9)
    ],
)
def test_the_shortest_interval_of_one_law(name, level):
    law, exact, a = LAWS[name]
    prediction = predictor_of(law, {"a": np.full(ONE, a)}).predict({"x": [0.0]}, level, interval=pi.Interval.HDI)
    low, high = prediction.lower[0], prediction.upper[0]
    assert exact.cdf(high) - exact.cdf(low) == pytest.approx(level, abs=1e-8)
    assert exact.logpdf(low) == pytest.approx(exact.logpdf(high), abs=1e-6)
    np.testing.assert_allclose([low, high], brute(exact, level), rtol=1e-4, atol=1e-4)
    if name != "normal":  # broken twin: the equal-tailed one
        assert exact.ppf((1 + level) / 2) - exact.ppf((1 - level) / 2) > (high - low) * 1.01


@pytest.mark.long
def test_a_density_that_only_falls_or_rises_has_an_end_of_the_range():
    falling = predictor_of(lambda x, a: dist.Exponential(a + 0 * x), {"a": np.full(ONE, 2.0)})
    prediction = falling.predict({"x": [0.0]}, 0.9, interval=pi.Interval.HDI)
    assert prediction.lower[0] == 0.0
    assert prediction.upper[0] == pytest.approx(-np.log(0.1) / 2, rel=1e-8)
    rising = predictor_of(lambda x, a: dist.Beta(a + 0 * x, 0.9), {"a": np.full(ONE, 3.0)})
    prediction = rising.predict({"x": [0.0]}, 0.8, interval=pi.Interval.HDI)
    assert prediction.upper[0] == 1.0
    assert prediction.lower[0] == pytest.approx(stats.beta(3.0, 0.9).ppf(0.2), rel=1e-8)


def test_mixtures_with_several_peaks():
    """A broad peak of 40% and a narrow one of 60%: half of the probability is shortest in the narrow one."""
    a, sd = np.repeat([5.0, 1.0], [8, 12]), np.repeat([2.0, 0.1], [8, 12])
    predictor = predictor_of(lambda x, a, sd: dist.Normal(x + a, sd), {"a": a, "sd": sd})
    prediction = predictor.predict({"x": [0.0]}, 0.5, interval=pi.Interval.HDI)
    low, high = prediction.lower[0], prediction.upper[0]
    inside = stats.norm.cdf(high, a, sd).mean() - stats.norm.cdf(low, a, sd).mean()
    assert inside == pytest.approx(0.5, abs=1e-8)
    grid = np.linspace(-3, 12, 300_001)
    cdf = np.mean([stats.norm.cdf(grid, *one) for one in zip(a, sd, strict=True)], axis=0)
    later = np.searchsorted(cdf, cdf + 0.5 - 1e-12)
    widths = np.where(later < len(grid), grid[np.minimum(later, len(grid) - 1)] - grid, np.inf)
    assert high - low == pytest.approx(widths.min(), abs=2e-4)
    assert low == pytest.approx(grid[np.argmin(widths)], abs=0.01)


@pytest.mark.parametrize("rate", [4.0, *(pytest.param(rate, marks=pytest.mark.long) for rate in (0.3, 300.0))])
def test_the_fewest_counts(rate):
    predictor = fitted(m.poisson, {"x": m.x, "y": m.counts}, {"rate": rate * np.exp(0.2 * m.draws())})
    prediction = predictor.predict({"x": [0.0, 0.2]}, 0.9, interval=pi.Interval.HDI)
    k = np.arange(1500)
    for row, x in enumerate((0.0, 0.2)):
        pmf = stats.poisson.pmf(k[:, None], rate * np.exp(0.2 * m.draws() + x)).mean(1)
        cdf = np.r_[0.0, np.cumsum(pmf)]
        width = next(w for w in range(1, 1500) if np.max(cdf[w:] - cdf[:-w]) >= 0.9)
        assert prediction.upper[row] - prediction.lower[row] + 1 == width
        assert prediction.lower[row] == np.argmax(cdf[width:] - cdf[:-width])


def test_counts_that_spread_too_far_are_refused():
    predictor = fitted(m.poisson, {"x": m.x, "y": m.counts}, {"rate": 1e6 * np.exp(m.draws())})
    with pytest.raises(pi.PredictionError, match=r"found among up to 4096\. Ask for Interval\.ETI"):
        predictor.predict({"x": [0.0]}, interval=pi.Interval.HDI)


def test_the_shortest_run():
    chances = np.array([[0.1, 0.5, 0.3, 0.1], [0.4, 0.1, 0.1, 0.4], [0.25, 0.25, 0.25, 0.25]])
    below = np.concatenate([np.zeros((3, 1)), np.cumsum(chances, axis=1)], axis=1)
    for level, expected in ((0.8, [[1, 2], [0, 3], [0, 3]]), (0.5, [[1, 1], [0, 1], [0, 1]]), (0.99, [[0, 3]] * 3)):
        np.testing.assert_array_equal(np.stack(shortest.shortest_run(below, level), axis=1), expected)


@pytest.mark.long
def test_classes_and_laws_without_a_cdf():
    classes = fitted(m.categorical, {"X": m.X, "y": m.classes}, {"W": m.draws(3, 4)})
    prediction = classes.predict({"X": m.X[:6]}, 0.6, interval=pi.Interval.HDI)
    ends = zip(prediction.probabilities, prediction.lower, prediction.upper, strict=True)
    assert min(chances[int(low) : int(high) + 1].sum() for chances, low, high in ends) >= 0.6 - 1e-9
    assert classes.predict({"X": m.X[:2]}, interval=pi.Interval.LOWER).upper.tolist() == [3.0, 3.0]
    geometric = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.full(m.DRAWS, 3.0)})
    prediction = geometric.predict({"x": [0.0]}, 0.8, interval=pi.Interval.HDI)
    assert prediction.lower[0] == 0.0  # the probabilities fall
    assert abs(prediction.upper[0] - stats.nbinom(1, 0.25).ppf(0.8)) <= 1
    several = fitted(m.multivariate, {"x": m.x, "y": m.wide}, m.MULTIVARIATE)
    both = [several.predict({"x": m.x[:3]}, interval=kind) for kind in (pi.Interval.HDI, pi.Interval.ETI)]
    assert both[0].lower.shape == (3, 3)
    assert np.all(both[0].upper - both[0].lower <= (both[1].upper - both[1].lower) * 1.001)


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE)


def test_bounds_from_one_side(line):
    predictor = line
    rows = {"x": np.array([0.5, -2.0])}
    lower, upper = (predictor.predict(rows, 0.9, interval=k) for k in (pi.Interval.LOWER, pi.Interval.UPPER))
    known = predictor.predict(rows, quantiles=(0.1, 0.9)).quantiles
    np.testing.assert_allclose(lower.lower, known[:, 0], rtol=1e-9)
    np.testing.assert_allclose(upper.upper, known[:, 1], rtol=1e-9)
    assert np.all(lower.upper == np.inf)
    assert np.all(upper.lower == -np.inf)
    assert repr(lower).startswith("Prediction of y: 2 rows, 90% lower bound\n")
    narrowest = predictor.predict(rows, interval=pi.Interval.HDI)
    assert "90% shortest interval (HDI)" in repr(narrowest)
    assert narrowest.interval is pi.Interval.HDI


@pytest.mark.long
def test_calibrated_bounds_cover_and_the_shortest_is_refused():
    """Of 2000 new rows, beta-binomial band with a false alarm rate of one in ten thousand."""
    rng = np.random.default_rng(70)
    predictor = fitted(m.line, {"x": m.x, "y": m.y}, {"slope": np.ones(m.DRAWS), "sigma": np.full(m.DRAWS, 0.2)})
    x = rng.normal(size=2399)
    y = rng.normal(x, 1.0)
    calibrated = predictor.calibrate({"x": x[:399]}, y[:399])
    low, high = stats.betabinom(2000, 360, 40).ppf([5e-5, 1 - 5e-5])
    new = {"x": x[399:]}
    assert low <= np.sum(y[399:] <= calibrated.predict(new, 0.9, interval=pi.Interval.UPPER).upper) <= high
    assert low <= np.sum(y[399:] >= calibrated.predict(new, 0.9, interval=pi.Interval.LOWER).lower) <= high
    assert np.sum(y[399:] <= predictor.predict(new, 0.9, interval=pi.Interval.UPPER).upper) < low
    with pytest.raises(pi.PredictionError, match=r"Interval\.HDI of a calibrated predictor is not offered"):
        calibrated.predict(new, interval=pi.Interval.HDI)
    with pytest.raises(pi.PredictionError, match="interval is 'hdi'; wanted an Interval"):
        predictor.predict(new, interval="hdi")


def test_a_rows_shortest_interval_does_not_depend_on_its_batch(line):
    predictor = line
    together = predictor.predict({"x": m.x}, interval=pi.Interval.HDI)
    alone = predictor.predict({"x": m.x[:1]}, interval=pi.Interval.HDI)
    assert alone.lower[0] == pytest.approx(together.lower[0], rel=1e-9)
    assert len(predictor.predict({"x": []}, interval=pi.Interval.HDI)) == 0
