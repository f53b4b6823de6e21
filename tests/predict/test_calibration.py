"""Calibrated intervals cover as often as they say, with models that are wrong; and what must not be calibrated is
refused.

Of m new rows an interval between the scores of ranks a < b of n continuous ones covers BetaBinomial(m, b - a,
n + 1 - b + a): bands are its quantiles, false alarms one in ten thousand each.
"""

import re
import shutil
import subprocess
import sys

import numpy as np
import numpyro
import pandas as pd
import pyarrow as pa
import pytest
from numpyro import distributions as dist
from scipy import stats

import probinfer as pi
from probinfer.deploy.score import score
from probinfer.predict import artifact, conformity, interval
from tests.predict import models as m
from tests.predict.fits import fitted

ALARM = 1e-4


def band(new, kept, level, alarm=ALARM):
    """Hits among `new` rows, lowest and highest expected, of a two-sided interval."""
    outside = int(np.floor((kept + 1) * (1 - level) / 2 + 1e-9)) * 2
    law = stats.betabinom(new, kept + 1 - outside, outside)
    return law.ppf(alarm / 2), law.ppf(1 - alarm / 2)


def hits(prediction, y):
    return int(np.sum((prediction.lower <= y) & (y <= prediction.upper)))


@pytest.fixture(scope="module")
def line():
    """Its noise is a fifth of what it should be, its slope is wrong."""
    x = np.random.default_rng(100).normal(size=m.ROWS)
    y = np.random.default_rng(101).normal(x, 1.0)
    latents = {"slope": 0.7 + 0.05 * m.draws(), "sigma": np.full(m.DRAWS, 0.2)}
    return fitted(m.line, {"x": x, "y": y}, latents)


def line_rows(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=count)
    return {"x": x}, rng.normal(x, 0.5 + np.abs(x))


@pytest.mark.parametrize("level", [pytest.param(0.5, marks=pytest.mark.long), 0.9])
def test_a_wrong_model_covers_once_calibrated(line, level):
    (rows, y), (new, outcomes) = line_rows(399, 1), line_rows(2000, 2)
    low, high = band(2000, 399, level)
    assert low <= hits(line.calibrate(rows, y).predict(new, level), outcomes) <= high
    assert hits(line.predict(new, level), outcomes) < low


@pytest.mark.long
def test_ranks_count_the_new_row_too(line):
    """600 calibration sets of 19 rows, one new row each: exactly 90% are covered. Twin: quantiles of the 19 scores."""
    rows, y = line_rows(600 * 20, 3)
    sets, outcomes = rows["x"].reshape(600, 20), y.reshape(600, 20)
    covered, twin = 0, 0
    lower, upper = line.calibrate(rows, y), None
    scores = conformity.outcome_scores(line._engine, rows, np.zeros(len(y), np.uint32), y)[0].reshape(600, 20)
    for x, out, own in zip(sets, outcomes, scores, strict=True):
        covered += hits(line.calibrate({"x": x[:19]}, out[:19]).predict({"x": x[19:]}, 0.9), out[19:])
        lower, upper = np.quantile(own[:19], [0.05, 0.95])
        twin += lower <= own[19] <= upper
    low, high = stats.binom(600, 0.9).ppf([ALARM / 2, 1 - ALARM / 2])
    assert low <= covered <= high
    assert twin < low


def many(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 0.5), obs=y)


@pytest.fixture
def heart():
    """A predictor that knows its 60 rows of training almost by heart, the rows, and what draws others."""
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(60, 40)), rng.normal(size=60)
    fit = np.linalg.lstsq(X, y)[0]
    return fitted(many, {"X": X, "y": y}, {"b": np.tile(fit, (20, 1))}), X, y, rng


def test_rows_of_the_training_data_are_refused(heart):
    predictor, X, y, rng = heart
    with pytest.raises(pi.PredictionError, match="Rows of the training data came to calibrate with: 60 of the 60"):
        predictor.calibrate({"X": X}, y)
    fresh, outcomes = rng.normal(size=(1000, 40)), rng.normal(size=1000)
    with pytest.raises(pi.PredictionError, match="1 of the 61 rows that could be looked up, row 60 for one"):
        predictor.calibrate({"X": np.r_[fresh[:60], X[7:8]]}, np.r_[outcomes[:60], y[7:8]])


@pytest.mark.long
def test_broken_twin_calibrated_on_the_training_data_it_would_cover_too_rarely(heart):
    predictor, X, y, rng = heart
    fresh, outcomes = rng.normal(size=(1000, 40)), rng.normal(size=1000)
    unknowing = pi.Predictor.from_program(predictor.program, {})
    low, high = band(900, 60, 0.9)
    again = unknowing.calibrate({"X": X}, y).predict({"X": fresh[100:]})
    assert hits(again, outcomes[100:]) < low
    honest = predictor.calibrate({"X": fresh[:60]}, outcomes[:60]).predict({"X": fresh[100:]})
    assert low <= hits(honest, outcomes[100:]) <= high


def test_a_sample_of_many_training_rows_is_kept_and_coincidence_is_no_crime():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=5000), rng.normal(size=5000)
    predictor = fitted(m.line, {"x": x, "y": y}, m.LINE)
    assert len(predictor.about["training"]["smallest"]) == 512
    with pytest.raises(pi.PredictionError, match="Rows of the training data"):
        predictor.calibrate({"x": x[:1000]}, y[:1000])
    predictor.calibrate({"x": x[:1000]}, y[1000:2000])  # other outcomes: other rows
    counts = fitted(m.poisson, {"x": np.ones(40), "y": m.counts}, {"rate": np.exp(m.draws())})
    assert counts.about["training"] is None
    counts.calibrate({"x": np.ones(40)}, m.counts)


def test_each_group_is_covered(line):
    def rows_of(count, seed):
        rng = np.random.default_rng(seed)
        x, group = rng.normal(size=count), np.resize([0, 1], count)
        return {"x": x, "site": group}, rng.normal(x, np.where(group == 1, 3.0, 0.5))

    (rows, y), (new, outcomes) = rows_of(400, 6), rows_of(2000, 7)
    prediction = line.calibrate(rows, y, groups="site").predict(new, 0.8)
    together = line.calibrate({"x": rows["x"]}, y).predict({"x": new["x"]}, 0.8)
    low, high = band(1000, 200, 0.8)
    inside, mixed = (((p.lower <= outcomes) & (outcomes <= p.upper)) for p in (prediction, together))
    for group in (0, 1):
        assert low <= inside[new["site"] == group].sum() <= high
        assert not low <= mixed[new["site"] == group].sum() <= high  # one calibration for both is right for neither
    assert (prediction.calibration_rows == 200).all()
    assert "calibrated on 200 rows of their group" in prediction.guarantee
    other = line.calibrate({"x": rows["x"]}, y, groups=np.array(["a", "b"])[rows["site"]])
    named = other.predict(
        {"x": new["x"]}, level=0.8, groups=pd.Series(np.array(["a", "b"])[new["site"]], dtype="category")
    )
    np.testing.assert_array_equal(named.upper, prediction.upper)
    assert other.calibration.labels == ("a", "b")


OVERDISPERSED = {"rate": np.full(m.DRAWS, 2.0)}


def count_rows(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=0.5, size=count)
    return {"x": x}, rng.negative_binomial(0.7, 0.7 / (0.7 + 2.0 * np.exp(x)))


@pytest.mark.long
def test_counts_cover_at_least(monkeypatch):
    predictor = fitted(m.poisson, {"x": m.x, "y": m.counts}, OVERDISPERSED)
    (rows, y), (new, outcomes) = count_rows(399, 8), count_rows(2000, 9)
    low, _ = band(2000, 399, 0.9)
    calibrated = predictor.calibrate(rows, y)
    prediction = calibrated.predict(new, quantiles=(0.05, 0.3, 0.5, 0.95))
    assert hits(prediction, outcomes) >= low
    assert hits(predictor.predict(new), outcomes) < low
    assert np.isfinite(prediction.upper).all()
    np.testing.assert_array_equal(prediction.upper, np.floor(prediction.upper))
    np.testing.assert_array_equal(prediction.quantiles, np.sort(prediction.quantiles))
    below = [np.mean(outcomes <= q) for q in prediction.quantiles.T]
    assert below[2] >= 0.5 - 5 * np.sqrt(0.25 / 399)
    alike = {"x": np.zeros(2000)}  # every score is shared by many rows
    y = np.random.default_rng(90).negative_binomial(0.7, 0.7 / 2.7, 4000)
    low = stats.betabinom(2000, 1000, 1000).ppf(ALARM)
    calibrated = predictor.calibrate({"x": np.zeros(1999)}, y[:1999])
    assert np.sum(y[2000:] <= calibrated.predict(alike, quantiles=(0.5,)).quantiles[:, 0]) >= low
    one_less = interval.summarise_at  # broken twin: an upper bound at the score instead of above it
    monkeypatch.setattr(interval, "summarise_at", lambda *a: one_less(*a[:4], np.zeros_like(a[4])))
    assert np.sum(y[2000:] <= calibrated.predict(alike, quantiles=(0.5,)).quantiles[:, 0]) < low


def sure(X, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=scale * X), obs=y)


def class_rows(count, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 4))
    return {"X": X}, np.array([rng.choice(4, p=row) for row in np.exp(X) / np.exp(X).sum(1, keepdims=True)])


def in_sets(prediction, y):
    return int(prediction.sets[np.arange(len(y)), np.asarray(y, int)].sum())


def test_sets_of_classes_cover():
    (rows, y), (new, outcomes) = class_rows(399, 10), class_rows(2000, 11)
    predictor = fitted(sure, {"X": rows["X"][:40] + 1, "y": y[:40]}, {"scale": np.full(20, 5.0)})
    calibrated = predictor.calibrate(rows, y)
    outside = 400 - int(np.ceil(400 * 0.8 - 1e-9))
    low, high = stats.betabinom(2000, 400 - outside, outside).ppf([ALARM / 2, 1 - ALARM / 2])
    prediction = calibrated.predict(new, 0.8)
    assert low <= in_sets(prediction, outcomes) <= high
    assert in_sets(predictor.predict(new, 0.8), outcomes) < low
    assert prediction.sets[np.arange(2000), prediction.most_probable].all()
    assert hits(prediction, outcomes) >= in_sets(prediction, outcomes)
    np.testing.assert_array_equal(prediction.probabilities, predictor.predict(new).probabilities)
    frame = prediction.to_frame()
    np.testing.assert_array_equal(frame["in_set_2"], prediction.sets[:, 2])
    assert (frame["calibration_rows"] == 399).all()


@pytest.mark.long
def test_sets_of_two_classes_cover():
    rng = np.random.default_rng(12)
    X = rng.normal(size=(2400, 3))
    y = rng.random(2400) < 1 / (1 + np.exp(-X[:, 0]))
    predictor = fitted(m.logistic, {"X": m.X, "y": m.counts > 2}, {"beta": np.tile([5.0, 0.0, 0.0], (20, 1))})
    low = stats.betabinom(2000, 360, 40).ppf(ALARM)
    prediction = predictor.calibrate({"X": X[:399]}, y[:399]).predict({"X": X[400:]}, 0.9)
    assert in_sets(prediction, y[400:]) >= low
    assert in_sets(predictor.predict({"X": X[400:]}, 0.9), y[400:]) < low


def test_sets_of_the_model_are_the_smallest_that_reach_the_level():
    chances = np.array([[0.5, 0.3, 0.2], [0.05, 0.05, 0.9], [0.4, 0.2, 0.4]])
    np.testing.assert_array_equal(interval.likely_set(chances, 0.8), [[1, 1, 0], [0, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(interval.likely_set(chances, 0.81), [[1, 1, 1], [0, 0, 1], [1, 1, 1]])
    two = np.array([[0.8, 0.2], [0.2, 0.8], [0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_array_equal(interval.likely_set(two, 0.8), [[1, 0], [0, 1], [1, 1], [0, 1]])
    np.testing.assert_array_equal(interval.likely_set(two, 0.5), [[1, 0], [0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(interval.likely_set(two, 0.9), [[1, 1], [1, 1], [1, 1], [0, 1]])
    for several in (chances, two, np.random.default_rng(0).dirichlet(np.ones(7), 5)):
        levels = np.linspace(0.3, 0.9, len(several))
        each = [interval.likely_set(one, level) for one, level in zip(several, levels, strict=True)]
        np.testing.assert_array_equal(interval.likely_set(several, levels), each)
    expected = [[0.25, 0.65, 0.9], [0.925, 0.975, 0.45], [0.2, 0.9, 0.6]]
    np.testing.assert_allclose(conformity.all_class_scores(chances), expected)


@pytest.mark.long
def test_laws_without_a_cdf_cover():
    rng = np.random.default_rng(13)
    geometric = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.full(m.DRAWS, 1.0)})
    x = rng.normal(scale=0.3, size=1400)
    y = rng.geometric(1 / (1 + 6 * np.exp(x))) - 1
    low, _ = band(1000, 399, 0.9)
    assert hits(geometric.calibrate({"x": x[:399]}, y[:399]).predict({"x": x[400:]}), y[400:]) >= low
    assert hits(geometric.predict({"x": x[400:]}), y[400:]) < low
    several = fitted(m.multivariate, {"x": m.x, "y": m.wide}, m.MULTIVARIATE)
    x, wide = rng.normal(size=700), 4 * rng.normal(size=(700, 3))
    prediction = several.calibrate({"x": x[:199]}, wide[:199]).predict({"x": x[200:]})
    low, high = band(500, 199, 0.9, ALARM / 3)
    inside = ((prediction.lower <= wide[200:]) & (wide[200:] <= prediction.upper)).sum(axis=0)
    assert np.all((low <= inside) & (inside <= high))


# there and back ------------------------------------------------------------------------------------------------------


def gamma(x, y=None):
    a = numpyro.sample("a", dist.LogNormal(0, 1))
    numpyro.sample("y", dist.Gamma(a, jnp_exp(x)), obs=y)


def beta(x, y=None):
    a = numpyro.sample("a", dist.LogNormal(0, 1))
    numpyro.sample("y", dist.Beta(a, jnp_exp(x)), obs=y)


def jnp_exp(x):
    import jax.numpy as jnp

    return jnp.exp(x)


A = {"a": np.exp(0.3 * m.draws())}


@pytest.mark.parametrize(
    ("model", "latents", "y"),
    [
        (m.line, m.LINE, [-1e4, -300.0, -3.0, 0.0, 0.5, 4.0, 200.0, 1e6]),
        pytest.param(gamma, A, [1e-60, 1e-8, 0.1, 1.0, 3.0, 50.0, 1e4, 1e9], marks=pytest.mark.long),
        pytest.param(beta, A, [1e-40, 1e-8, 0.1, 0.5, 0.9, 1 - 1e-6, 1 - 1e-9, 1 - 1e-14], marks=pytest.mark.long),
        pytest.param(
            m.poisson,
            {"rate": np.exp(0.1 * m.draws())},
            [0, 1, 2, 5, 30, 400, 9000, 10**6],
            marks=pytest.mark.long,
        ),
        pytest.param(
            m.poisson,
            {"rate": 1e4 * np.exp(0.01 * m.draws())},
            [0, 1, 5000, 9990, 10_000, 10_500, 12_000, 10**5],
            marks=pytest.mark.long,
        ),
        pytest.param(
            m.geometric, {"rate": np.exp(m.draws())}, [0, 1, 2, 5, 30, 400, 9000, 10**5], marks=pytest.mark.long
        ),
    ],
    ids=["real", "positive", "unit", "counts", "large counts", "no cdf"],
)
def test_a_score_leads_back_to_its_outcome(model, latents, y):
    """However far out. Of whole numbers both ends do, and a count less or more has another score."""
    y, rows = np.array(y, float), {"x": np.linspace(-0.1, 0.1, 8)}
    predictor = fitted(model, {"x": m.x, "y": m.counts if y[0] == 0 else np.full(m.ROWS, 0.3)}, latents)
    hashes = np.arange(8, dtype=np.uint32)
    lower, upper = conformity.outcome_scores(predictor._engine, rows, hashes, y)
    ends = np.array([False, True])
    back = conformity.summarise_at(predictor._engine, rows, hashes, np.stack([lower, upper], -1), ends).quantiles
    if not predictor.program.discrete:
        np.testing.assert_allclose(back, y[:, None] * [1, 1], rtol=1e-6, atol=1e-12)
        assert np.isfinite(lower).all()
        return
    if predictor.program.family:
        np.testing.assert_array_equal(back, y[:, None] * [1, 1])
    else:  # between two draws of a sample the count is not determined, but it is inside
        assert np.all(back[:, 0] <= y)
        assert np.all(back[:, 1] >= y)


def test_scores_rise_with_the_outcome(line):
    y = np.sort(np.r_[np.linspace(-30, 30, 400), np.linspace(-1.5, 1.5, 400)])
    scores, _ = conformity.outcome_scores(line._engine, {"x": np.zeros(800)}, np.zeros(800, np.uint32), y)
    assert np.all(np.diff(scores) > 0)


# on disk and in batches ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_site(line):
    rows, y = line_rows(300, 20)
    return line.calibrate({**rows, "site": np.resize(["n", "s", "w"], 300)}, y, groups="site")


def test_saved_and_loaded(line, by_site, tmp_path):
    new = {"x": line_rows(50, 21)[0]["x"], "site": np.resize(["w", "n"], 50)}
    by_site.save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    here, there = (p.predict(new, 0.8, quantiles=(0.1, 0.5)) for p in (by_site, loaded))
    for name, values in here.columns().items():
        np.testing.assert_array_equal(values, there.columns()[name])
    assert here.guarantee == there.guarantee
    assert "calibrated on 300 rows (split conformal in each group by site): n: 100" in artifact.card(
        tmp_path / "predictor"
    )
    assert "calibrated on 300 rows" in repr(loaded)
    assert "calibrated on 100 rows of their group: at least 80% and at most" in repr(there)
    frame = pd.DataFrame({"site": new["site"], "x": new["x"], "id": np.arange(50)})
    frame.to_csv(tmp_path / "in.csv", index=False)
    score(tmp_path / "predictor", tmp_path / "in.csv", tmp_path / "out.csv", level=0.8)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv")["upper"], here.upper)
    np.testing.assert_array_equal(by_site.predict(frame, 0.8).upper, here.upper)
    np.testing.assert_array_equal(by_site.predict(pa.Table.from_pandas(frame), 0.8).upper, here.upper)


@pytest.mark.long
def test_loaded_in_another_process(by_site, tmp_path):
    by_site.save(tmp_path / "predictor")
    code = f"""
import sys, numpy as np, probinfer
p = probinfer.load_predictor({str(tmp_path / "predictor")!r})
print(repr(p.predict({{"x": [0.3], "site": ["s"]}}).upper[0]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert out.strip() == repr(by_site.predict({"x": [0.3], "site": ["s"]}).upper[0])


def test_groups_beside_the_rows_have_no_place_in_a_table(line, tmp_path):
    rows, y = line_rows(60, 22)
    line.calibrate(rows, y, groups=np.resize([1, 2], 60)).save(tmp_path / "predictor")
    pd.DataFrame(rows).to_csv(tmp_path / "in.csv")
    with pytest.raises(pi.DataError, match="groups='column'"):
        score(tmp_path / "predictor", tmp_path / "in.csv", tmp_path / "out.csv")


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_format_is_the_lowest_that_says_all(line, tmp_path, calibrated):
    import json

    rows, y = line_rows(60, 23)
    (line.calibrate(rows, y) if calibrated else line).save(tmp_path / "predictor")
    manifest = json.loads((tmp_path / "predictor" / "manifest.json").read_text())
    assert manifest["format_version"] == (2 if calibrated else 1)
    assert ("calibration" in manifest) == calibrated
    assert (pi.load_predictor(tmp_path / "predictor").calibration is not None) == calibrated


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a[:-1], "shape"),
        (lambda a: a[::-1], "not sorted"),
        (lambda a: np.where(a == a[3], np.nan, a), "shape"),
    ],
    ids=["shorter", "unsorted", "nan"],
)
def test_scores_that_do_not_fit_are_refused(by_site, tmp_path, change, text):
    from tests.predict.test_artifact import change_array

    by_site.save(tmp_path / "predictor")
    change_array(tmp_path / "predictor", "calibration-lower.npy", change)
    with pytest.raises(pi.ArtifactError, match=f"calibration does not fit the predictor.*{text}"):
        pi.load_predictor(tmp_path / "predictor")
    shutil.rmtree(tmp_path / "predictor")


@pytest.mark.long
def test_a_rows_interval_does_not_depend_on_its_batch(by_site):
    x, site = line_rows(72, 24)[0]["x"], np.resize(["n", "s", "w"], 72)
    together = by_site.predict({"x": x, "site": site}, quantiles=(0.3,))
    for i in (0, 9, 63, 71):
        one = by_site.predict({"x": x[i], "site": site[i]}, quantiles=(0.3,))
        for name, values in one.columns().items():
            np.testing.assert_allclose(values[0], together.columns()[name][i], rtol=1e-12, err_msg=name)
    assert len(by_site.predict({"x": [], "site": []})) == 0


def test_only_intervals_and_quantiles_change(line, by_site):
    before, after = line.predict({"x": m.x}), by_site.predict({"x": m.x, "site": ["n"] * m.ROWS})
    for name in ("mean", "sd", "epistemic_sd", "aleatoric_sd", "mcse"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert np.all(after.upper - after.lower > before.upper - before.lower)
    assert line.calibration is None
    assert before.guarantee is None


@pytest.mark.long
def test_metrics_say_what_is_not_calibrated(line, by_site):
    scores = pi.metrics(by_site, {"x": m.x, "site": ["n"] * m.ROWS}, m.y)
    assert scores["crps"].value == pi.metrics(line, {"x": m.x}, m.y)["crps"].value
    assert scores["crps"].how.endswith("of the model, not calibrated")
    assert scores["width"].value > pi.metrics(line, {"x": m.x}, m.y)["width"].value


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x, y: (x, y[:-1]), r"y has the shape \(29,\); wanted \(30,\)"),
        (lambda x, y: (x, np.where(np.arange(30) == 4, np.nan, y)), "y is not finite in row 4"),
        (lambda x, y: (np.where(np.arange(30) == 4, np.nan, x), y), "x is nan in row 4"),
        (lambda x, y: (x[:0], y[:0]), "no rows to calibrate with"),
        (lambda x, y: (x, ["a"] * 30), "y holds text"),
    ],
    ids=["lengths", "nan outcome", "nan input", "empty", "text"],
)
def test_rows_that_cannot_be_calibrated_with(line, change, text):
    rows, y = line_rows(30, 30)
    x, y = change(rows["x"], y)
    with pytest.raises(pi.PredictionError, match=text):
        line.calibrate({"x": x}, y)


def test_too_few_rows_for_a_level(line, by_site):
    rows, y = line_rows(18, 31)
    calibrated = line.calibrate(rows, y)
    with pytest.raises(
        pi.PredictionError, match=re.escape("18 calibration rows, too few for a bound that no more than 5% of")
    ):
        calibrated.predict({"x": 0.0}, 0.9)
    with pytest.raises(pi.PredictionError, match=r"wanted 19 or more\. Ask for a lower level"):
        calibrated.predict({"x": 0.0}, 0.9)
    calibrated.predict({"x": 0.0}, 0.88)
    with pytest.raises(pi.PredictionError, match="100 calibration rows of the group 'w', too few"):
        by_site.predict({"x": 0.0, "site": "w"}, 0.99)


def test_groups_that_do_not_fit(line, by_site):
    rows, y = line_rows(40, 32)
    plain, beside = line.calibrate(rows, y), line.calibrate(rows, y, groups=np.resize([1, 2], 40))
    for predictor, more, text in (
        (line, {"groups": [1] * 40}, "not calibrated"),
        (plain, {"groups": [1] * 40}, "on all rows together"),
        (beside, {}, r"groups '1', '2' on its own: pass groups="),
        (beside, {"groups": [1] * 39}, "39 entries for 40 rows"),
        (beside, {"groups": [1] * 39 + [3]}, "no calibration rows of the group '3'; there are '1', '2'"),
        (beside, {"groups": [1.5] * 40}, "groups is 1.5 in row 0"),
        (by_site, {}, "rows lack site, which holds their groups; they have x"),
    ):
        with pytest.raises(pi.PredictionError, match=text):
            predictor.predict(rows, **more)
    with pytest.raises(pi.PredictionError, match="groups is None in row 3"):
        line.calibrate(rows, y, groups=[1, 1, 1, None] * 10)
    with pytest.raises(pi.PredictionError, match="rows lack site"):
        line.calibrate(rows, y, groups="site")


@pytest.mark.parametrize(
    ("model", "latents", "bad", "text"),
    [
        (gamma, A, 0.0, "y is 0 in row 3 .*only gives numbers above zero"),
        pytest.param(beta, A, 1.0, "numbers between 0 and 1", marks=pytest.mark.long),
        pytest.param(m.poisson, {"rate": A["a"]}, -1, "0, 1, 2", marks=pytest.mark.long),
        (m.poisson, {"rate": A["a"]}, 0.5, "0, 1, 2"),
        pytest.param(m.geometric, {"rate": A["a"]}, 0.5, "whole numbers", marks=pytest.mark.long),
    ],
    ids=["positive", "unit", "negative count", "fraction", "fraction without cdf"],
)
def test_outcomes_that_the_model_cannot_give(model, latents, bad, text):
    counts = model in (m.poisson, m.geometric)
    y = m.counts.astype(float) if counts else np.full(m.ROWS, 0.3)
    predictor = fitted(model, {"x": m.x, "y": y.astype(int) if counts else y}, latents)
    with pytest.raises(pi.PredictionError, match=text):
        predictor.calibrate({"x": m.x + 1}, np.where(np.arange(m.ROWS) == 3, bad, y))
