"""Metrics against closed forms and scikit-learn; intervals by simulation, at stated false-alarm rates."""

import sys

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from sklearn import metrics as known

import probinfer as pi
from probinfer.evaluate import classes, intervals, transform
from probinfer.evaluate.numbers import _squared
from tests.predict.fits import fitted

N = 300
rng = np.random.default_rng(20)
x = rng.normal(size=N)
DRAWS = 50


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(slope * x, sigma), obs=y)


def counts(x, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Poisson(rate * (1 + x**2)), obs=y)


def binary(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)


def three(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=x[:, None] * w), obs=y)


def at(value):
    return np.full(DRAWS, value)


y_line = x + 0.5 * rng.normal(size=N)
y_count = rng.poisson(0.5 * (1 + x**2))
y_binary = (rng.random(N) < 1 / (1 + np.exp(-2 * x))).astype(int)
chances = np.exp(x[:, None] * np.array([-1.0, 0.0, 1.0]))
chances /= chances.sum(axis=1, keepdims=True)
y_three = np.array([rng.choice(3, p=p) for p in chances])


@pytest.fixture(scope="module")
def normal():
    return fitted(line, {"x": x, "y": y_line}, {"slope": at(1.0), "sigma": at(0.5)})


def crps_of_normal(y, mean, sd):
    z = (y - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


def test_numbers_against_closed_forms(normal):
    scores = pi.metrics(normal, {"x": x}, y_line)
    np.testing.assert_allclose(scores.pointwise["crps"], crps_of_normal(y_line, x, 0.5), rtol=1e-6)
    np.testing.assert_allclose(scores.pit, stats.norm.cdf(y_line, x, 0.5), atol=1e-9)
    np.testing.assert_allclose(scores["log_score"].value, stats.norm.logpdf(y_line, x, 0.5).mean())
    np.testing.assert_allclose(scores["mae"].value, known.mean_absolute_error(y_line, x))
    np.testing.assert_allclose(scores["rmse"].value, known.root_mean_squared_error(y_line, x))
    np.testing.assert_allclose(scores["r2"].value, known.r2_score(y_line, x))
    np.testing.assert_allclose(scores["width"].value, 2 * stats.norm.ppf(0.95) * 0.5)
    quantiles = {u: x + 0.5 * stats.norm.ppf(u) for u in (0.05, 0.25, 0.5, 0.75, 0.95)}
    pinball = np.mean([known.mean_pinball_loss(y_line, q, alpha=u) for u, q in quantiles.items()])
    np.testing.assert_allclose(scores["pinball"].value, pinball)
    assert scores["pit_p"].value > 1e-4  # false alarms: one in ten thousand
    assert "crps" in scores
    assert len(scores) == 9


@pytest.mark.long
@pytest.mark.parametrize("far", [-40.0, 0.0, 40.0])
def test_crps_of_a_mixture_far_from_its_outcome(far):
    # twenty normals against E|X - y| - E|X - X'| / 2 in closed form
    means, sds = rng.normal(0, 3, 20), np.exp(rng.normal(0, 1, 20))
    predictor = fitted(line, {"x": x, "y": y_line}, {"slope": means, "sigma": sds})

    def folded(mean, sd):
        return mean * (2 * stats.norm.cdf(mean / sd) - 1) + 2 * sd * stats.norm.pdf(mean / sd)

    pairs = folded(means[:, None] - means, np.sqrt(sds[:, None] ** 2 + sds**2))
    exact = folded(means - far, sds).mean() - pairs.mean() / 2
    found = transform.transform(predictor, {"x": np.ones(1)}, np.array([far]))
    np.testing.assert_allclose(found.crps, exact, rtol=1e-5)


def test_broken_twin_a_crps_without_the_spread_term_is_caught():
    draws = rng.normal(size=(4000, 1))
    exact = crps_of_normal(0.3, 0.0, 1.0)
    error = 5 * 1 / np.sqrt(4000)  # terms have a standard deviation below 1
    assert abs(transform.crps_of_draws(draws, np.array([0.3]))[0] - exact) < error
    assert abs(np.abs(draws - 0.3).mean() - exact) > error


def test_counts_against_sums():
    predictor = fitted(counts, {"x": x, "y": y_count}, {"rate": at(0.5)})
    found = transform.transform(predictor, {"x": x}, y_count.astype(float))
    rate = 0.5 * (1 + x**2)
    k = np.arange(400)
    cdf = stats.poisson.cdf(k, rate[:, None])
    np.testing.assert_allclose(found.crps, ((cdf - (k >= y_count[:, None])) ** 2).sum(axis=1), rtol=1e-6)
    below, upto = stats.poisson.cdf(y_count - 1, rate), stats.poisson.cdf(y_count, rate)
    assert ((found.pit >= below - 1e-9) & (found.pit <= upto + 1e-9)).all()
    assert stats.kstest(found.pit, "uniform").pvalue > 1e-4
    assert stats.kstest(upto, "uniform").pvalue < 1e-4  # broken twin: a PIT of counts that is not randomised


def test_binary_against_scikit_learn():
    predictor = fitted(binary, {"x": x, "y": y_binary}, {"slope": at(2.0)})
    scores = pi.metrics(predictor, {"x": x}, y_binary)
    chance = 1 / (1 + np.exp(-2 * x))
    said = (chance > 0.5).astype(int)
    expected = {
        "accuracy": known.accuracy_score(y_binary, said),
        "precision": known.precision_score(y_binary, said),
        "recall": known.recall_score(y_binary, said),
        "f1": known.f1_score(y_binary, said),
        "roc_auc": known.roc_auc_score(y_binary, chance),
        "log_loss": known.log_loss(y_binary, chance),
        "brier": known.brier_score_loss(y_binary, chance),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name].value, value, err_msg=name)
        assert scores[name].lower <= value <= scores[name].upper
    assert scores.calibration.count.sum() == N


def test_three_classes_against_scikit_learn():
    predictor = fitted(three, {"x": x, "y": y_three}, {"w": np.tile([-1.0, 0.0, 1.0], (DRAWS, 1))})
    scores = pi.metrics(predictor, {"x": x}, y_three)
    np.testing.assert_allclose(scores["log_loss"].value, known.log_loss(y_three, chances))
    np.testing.assert_allclose(scores["roc_auc"].value, known.roc_auc_score(y_three, chances, multi_class="ovr"))
    f1 = known.f1_score(y_three, chances.argmax(axis=1), average="macro")
    np.testing.assert_allclose(scores["f1"].value, f1)
    np.testing.assert_allclose(scores["brier"].value, known.brier_score_loss(y_three, chances, scale_by_half=False))


def covered(make, truth, repeats=400, level=0.9):
    """How often the interval holds the truth."""
    return sum(score.lower <= truth <= score.upper for score in map(make, range(repeats)))


@pytest.mark.long
def test_intervals_cover():
    """400 tables of 200 rows; the number of hits is within the binomial band at a false-alarm rate of 1e-4, where the
    interval's coverage may be 2 points off for being asymptotic."""
    few, many = stats.binom.ppf(5e-5, 400, 0.88), stats.binom.ppf(1 - 5e-5, 400, 0.92)
    area = stats.norm.cdf(1 / np.sqrt(2))

    def auc(seed, factor=1.0):
        rng = np.random.default_rng(seed)
        y = np.repeat([0, 1], 100)
        chance = rng.normal(size=200) + y
        score = classes._delong(known.roc_auc_score(y, chance), y, chance, 0.9)
        lower, upper = (score.value + factor * (end - score.value) for end in (score.lower, score.upper))
        return pi.Score("", score.value, 0, lower, upper, "")

    def r2(seed):
        rng = np.random.default_rng(seed)
        mean = rng.normal(size=200)
        y = mean + rng.normal(size=200)
        return _squared(known, y, mean, 0.9)[1]

    assert few <= covered(auc, area) <= many
    assert few <= covered(r2, 0.5) <= many
    assert covered(lambda seed: auc(seed, 0.7), area) < few  # broken twin: intervals a third too short


def test_what_resampling_cannot_tell_has_no_error():
    """All rows right, or one row: every resample is the same, which says nothing of other rows."""
    for count, names in ((3, ("precision", "recall", "f1", "roc_auc")), (2, ("f1", "roc_auc"))):
        y = np.repeat(np.arange(count), 4)
        labels = np.array(["a", "b", "c"][:count])
        right = pi.PointPredictor(
            lambda X, count=count: np.eye(count)[X[:, 0].astype(int)] * 0.7 + 0.3 / count,
            inputs=["y"],
            classes=labels.tolist(),
        )
        scores = pi.metrics(right, {"y": y}, labels[y])
        for name in names:
            assert scores[name].value == 1.0
            assert np.isnan([scores[name].se, scores[name].lower, scores[name].upper]).all()
            assert scores[name].how.startswith("no error")
        assert scores["accuracy"].lower < 0.85  # exact binomial, as ever


def test_classes_that_are_called_by_numbers_are_read_as_calibrate_reads_them():
    said = pi.PointPredictor(lambda X: np.stack([1 - X[:, 0], X[:, 0]], axis=1), inputs=["p"], classes=["0", "1"])
    rows, y = {"p": [0.2, 0.9, 0.6, 0.3]}, np.array([0, 1, 0, 1])
    for came in (y, y.astype(float), y.astype(str), y.astype(str).tolist()):
        assert pi.metrics(said, rows, came)["accuracy"].value == 0.5
    with pytest.raises(pi.PredictionError, match="wanted"):
        pi.metrics(said, rows, y[:3])


def test_exact_share():
    score = intervals.of_share("coverage", 90, 100, 0.95)
    np.testing.assert_allclose([score.lower, score.upper], [0.8237774, 0.9509953], atol=1e-6)  # R's binom.test


def test_bad_input(normal):
    prediction = normal.predict({"x": x})
    for source, rows, y, text in [
        (normal, {"x": x}, y_line[:-1], "wanted \\(300,\\)"),
        (normal, {"x": x}, np.where(np.arange(N) == 7, np.nan, y_line), "not finite in row 7"),
        (prediction, {"x": x}, y_line, "pass rows=None"),
        ("predictor", None, y_line, "wanted a Predictor"),
        (normal, {"x": x}, {"y": y_line}, "outcomes came as a dict of y; wanted the outcomes of y themselves"),
    ]:
        with pytest.raises(pi.PredictionError, match=text):
            pi.metrics(source, rows, y)
    with pytest.raises(pi.PredictionError, match=r"level is 0\.9, not 0\.5"):
        pi.metrics(prediction, None, y_line, level=0.5)
    with pytest.raises(KeyError, match="no metric 'auc'"):
        pi.metrics(prediction, None, y_line)["auc"]


def test_shown(normal):
    scores = pi.metrics(normal, {"x": x}, y_line)
    assert repr(scores).startswith("Scores of y: 300 rows, 90% intervals")
    assert "<table" in scores._repr_html_()


def test_missing_scikit_learn(normal, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(pi.MissingExtra, match="evaluate"):
        pi.metrics(normal, {"x": x}, y_line)
