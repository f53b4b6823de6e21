"""Point models are scored, explained and watched as predictors are: by the law that calibration makes of them."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

import probinfer as pi
from probinfer.evaluate.monitor import Monitor
from probinfer.evaluate.point_watch import frame_columns
from tests.predict import test_point as numbers
from tests.predict import test_point_raw as raw

ALPHA = 0.1


@pytest.fixture(scope="module")
def linear():
    return pi.PointPredictor(numbers.LINEAR, inputs=["a", "b"]).calibrate(numbers.KEPT, numbers.KEPT.y)


@pytest.fixture(scope="module")
def houses():
    """A pipeline of raw rows, calibrated in groups."""
    return pi.PointPredictor(raw.pipeline(raw.Ridge())).calibrate(raw.KEPT, raw.KEPT.y, groups="town")


@pytest.fixture(scope="module")
def sold():
    model = raw.pipeline(LogisticRegression(C=0.1), outcome="sold")
    return pi.PointPredictor(model, outcome="sold").calibrate(raw.KEPT, raw.KEPT.sold)


@pytest.fixture(scope="module")
def own():
    """A pipeline with a function of its own, which is asked for data frames."""
    return pi.PointPredictor(raw.OWN).calibrate(raw.KEPT, raw.KEPT.y)


def noise(seed, count, kept):
    """A model that says 0 of normal numbers, calibrated on `kept` of them, and further ones."""
    rng = np.random.default_rng(seed)
    model = pi.PointPredictor(lambda X: np.zeros(len(X)), inputs=["x"])
    predictor = model.calibrate({"x": np.zeros(kept)}, rng.normal(size=kept))
    return predictor, {"x": np.zeros(count)}, rng.normal(size=count)


# scores --------------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_law_of_the_errors(linear):
    few = numbers.NEW.iloc[:50]
    scores = pi.metrics(linear, few, few.y)
    errors = np.sort(numbers.KEPT.y - (2 * numbers.KEPT.a - numbers.KEPT.b)).astype(float)
    apart = np.abs(errors[:, None] - errors)
    spread = apart.sum() / (len(errors) * (len(errors) - 1)) / 2
    own = (few.y - (2 * few.a - few.b)).to_numpy()
    crps = np.abs(errors[:, None] - own).mean(axis=0) - spread
    assert np.allclose(scores.pointwise["crps"], crps, atol=1e-5)
    place = np.searchsorted(errors, own)
    assert (np.abs(scores.pit * 1000 - place - 0.5) < 0.5 + 1e-3).all()
    p = linear.predict(few, quantiles=(0.05, 0.25, 0.5, 0.75, 0.95))
    assert scores["coverage"].value == np.mean((p.lower <= few.y) & (few.y <= p.upper))
    assert scores["mae"].value == pytest.approx(np.abs(few.y - p.mean).mean())
    assert "log_score" not in scores
    assert "pinball" in scores
    assert scores["crps"].how.endswith("from the errors of 999 calibration rows")


@pytest.mark.parametrize("name", ["houses", "own"])
def test_metrics_of_raw_rows(request, name):
    predictor = request.getfixturevalue(name)
    scores = pi.metrics(predictor, raw.NEW, raw.NEW.y)
    p = predictor.predict(raw.NEW)
    assert scores["rmse"].value == pytest.approx(np.sqrt(np.mean((raw.NEW.y - p.mean) ** 2)))
    assert scores["pit_p"].value > 1e-6
    shifted = pi.metrics(predictor, raw.NEW, raw.NEW.y + 5.0)
    assert shifted["pit_p"].value < 1e-6
    assert ("3 groups" in scores["pit_p"].how) == (name == "houses")


def test_metrics_of_classes_take_labels(sold):
    scores, said = pi.metrics(sold, raw.NEW, raw.NEW.sold), pi.metrics(sold.predict(raw.NEW), None, raw.NEW.sold)
    assert scores.to_frame().equals(said.to_frame())
    assert -sold.log_score(raw.NEW, raw.NEW.sold).mean() == pytest.approx(scores["log_loss"].value)


def test_the_place_of_an_outcome_is_uniform_and_its_test_knows_that_calibration_rows_are_few():
    found, twin = [], []
    for seed in range(200):
        predictor, rows, y = noise(seed, 400, 49)
        scores = pi.metrics(predictor, rows, y)
        found.append(scores["pit_p"].value)
        twin.append(stats.kstest(scores.pit, "uniform").pvalue)  # as if the calibration rows were all there are
    most = stats.binom.ppf(1 - 1e-6, 200, ALPHA)
    assert np.sum(np.array(found) < ALPHA) <= most
    assert np.sum(np.array(twin) < ALPHA) > most
    firsts = [np.mean(noise(seed, 1, 9)[0].cdf({"x": [0.0]}, [0.5])) for seed in range(2000)]
    assert np.mean(firsts) == pytest.approx(0.1 * 0.5 + 0.9 * stats.norm.cdf(0.5), abs=5 * np.std(firsts) / 44)


# explanations --------------------------------------------------------------------------------------------------------


def test_importance_and_dependence_of_a_line(linear):
    few = numbers.NEW.iloc[:300]
    table = pi.permutation_importance(linear, few, few.y).table
    value = table[table["quantity"] == "mean"].set_index("input")["value"]
    for name, slope in (("a", 2.0), ("b", 1.0)):  # sqrt(2) sd, as of the difference of two rows
        assert value[name] == pytest.approx(slope * np.sqrt(2) * few[name].std(), rel=0.1)
    assert table["quantity"].tolist() == ["mean", "mean", "rmse", "rmse"]
    assert table["value"].iloc[2] > table["value"].iloc[3] > 0
    assert table["mcse"].isna().all()
    found = pi.partial_dependence(linear, few, "b", at=[0.0, 0.5]).table
    assert found["value"].tolist() == pytest.approx([2 * few.a.mean(), 2 * few.a.mean() - 0.5], abs=1e-5)
    uncalibrated = pi.PointPredictor(numbers.LINEAR, inputs=["a", "b"])
    assert pi.permutation_importance(uncalibrated, few).table["value"].tolist() == table["value"].tolist()[:2]


@pytest.mark.parametrize("name", ["houses", "own", "sold"])
def test_raw_columns_are_the_inputs(request, name):
    predictor, few = request.getfixturevalue(name), raw.NEW.iloc[:60]
    table = pi.permutation_importance(predictor, few, repeats=2, of=pi.Quantity.MEAN).table.set_index("input")
    assert set(table.index) == set(raw.RAW)
    assert table["value"].idxmax() == "size"
    towns = pi.partial_dependence(predictor, few, "town", of=pi.Quantity.MEAN).table
    for town, value in zip(towns["at"], towns["value"], strict=True):
        values, _ = predictor.with_calibration(None).ask(few.assign(town=town))
        assert value == pytest.approx(predictor.expected(values).mean())
    rules = pi.surrogate_tree(predictor, few, max_depth=2, of=pi.Quantity.MEAN).table["rule"]
    assert rules.str.contains("size").any()


@pytest.mark.parametrize("name", ["houses", "own"])
def test_shares_add_up(request, name):
    predictor, behind = request.getfixturevalue(name), raw.KEPT.iloc[:8]
    found = pi.shap_values(predictor, raw.NEW.iloc[:2], behind).table
    totals = found.groupby("row")["value"].sum() + found.groupby("row")["base"].first()
    assert np.allclose(totals, predictor.predict(raw.NEW.iloc[:2]).mean)
    whole = raw.NEW.assign(income=50.0, heat=3.0)
    near = pi.lime_weights(predictor, whole.iloc[:1], whole, samples=100, repeats=2).table
    assert near.loc[near["input"] == "size", "value"].item() > 10


def test_values_of_a_data_frame_come_back_as_they_came(own):
    from probinfer.evaluate.flat_table import FlatTable

    few = raw.NEW.iloc[:40].assign(town=[None, *raw.NEW.town[1:40]])
    flat = FlatTable(own.program)
    back = flat.columns(flat.read(few))
    for name in raw.RAW:
        came, now = few[name].to_numpy(), back[name]
        assert ((came == now) | (pd.isna(came) & pd.isna(now))).all(), name
        assert now.dtype == came.dtype
    assert flat.labels[raw.RAW.index("town")] == ["Aix", "Ulm", "York"]


def test_a_saved_model_is_explained_and_scored_alike(houses, tmp_path):
    houses.save(tmp_path / "houses")
    loaded, few = pi.load_predictor(tmp_path / "houses"), raw.NEW.iloc[:50]
    for call in (
        lambda p: pi.permutation_importance(p, few, few.y, repeats=2).table["value"],
        lambda p: pi.partial_dependence(p, few, "town").table["value"],
        lambda p: [score.value for score in pi.metrics(p, few, few.y)],
    ):
        assert np.allclose(call(loaded), call(houses), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: pi.permutation_importance(p, numbers.NEW, of=pi.Quantity.SD), "The sd of a point model is that of"),
        (lambda p: pi.shap_values(p, numbers.NEW, numbers.NEW, of=list(pi.Quantity)), "explain Quantity.MEAN, or take"),
        (lambda p: p.log_score(numbers.NEW, numbers.NEW.y), "no log score; pi.metrics"),
        (lambda p: p.sample(numbers.NEW), "no predictive draws; ask for predict"),
        (lambda p: pi.metrics(pi.PointPredictor(numbers.LINEAR, inputs=["a", "b"]), numbers.NEW, 0), "calibrated: pre"),
        (lambda p: pi.metrics(numbers.LINEAR, numbers.NEW, 0), "wanted a Predictor or PointPredictor"),
    ],
)
def test_what_a_point_model_does_not_know_is_refused(linear, call, text):
    with pytest.raises(pi.PredictionError, match=text):
        call(linear)
    with pytest.raises(pi.ExportError, match="exported by saving it"):
        linear.export_onnx("line.onnx")


def test_of_three_classes_one_is_explained_against_the_rest():
    classes = pi.PointPredictor(numbers.SOFTMAX, inputs=["a", "b"], classes=["low", "mid", "top"])
    with pytest.raises(pi.PredictionError, match="one of 3 classes"):
        pi.permutation_importance(classes, numbers.NEW)
    with pytest.raises(pi.PredictionError, match="Classes have no cdf"):
        classes.cdf(numbers.NEW, numbers.NEW.kind)


# monitoring ----------------------------------------------------------------------------------------------------------


def alarms(seed, *, watched=True):
    """Whether calibration or coverage raise an alarm, of 20 calibration rows and 800 outcomes like them."""
    predictor, rows, y = noise(seed, 800, 20)
    monitor = pi.Monitor(predictor, {"x": np.arange(20.0)}, level=0.8, false_alarm=4 * ALPHA / 2)
    if not watched:
        monitor._places = None
    return any(one.name in ("calibration", "coverage") for one in monitor.update_outcomes(rows, y).alarms)


def test_few_calibration_rows_raise_no_false_alarm_however_long_one_watches():
    """Each of both tests may err in one of twenty runs. The twin takes the calibrated level for the true one."""
    most = stats.binom.ppf(1 - 1e-6, 100, ALPHA)
    assert sum(alarms(seed) for seed in range(100)) <= most
    assert sum(alarms(seed, watched=False) for seed in range(100)) > most


@pytest.mark.parametrize("name", ["linear", "houses", "own", "sold"])
def test_a_change_is_found_and_nothing_without_one(request, name):
    predictor, data = request.getfixturevalue(name), numbers if name == "linear" else raw
    outcome = predictor.outcome
    monitor = pi.Monitor(predictor, data.KEPT, false_alarm=1e-3)
    status = monitor.update(data.NEW[:1000], data.NEW[outcome][:1000])
    assert status.alarms == ()
    assert status.coverage_lower < 0.9 < status.coverage_upper
    with pytest.raises(KeyError, match="a point model does not know it; look at 'calibration' and 'coverage'"):
        status["epistemic share"]
    later = data.NEW[outcome][1000:1400]
    changed = later.map({"yes": "no", "no": "yes"}) if name == "sold" else 3 * later
    found = {alarm.name for alarm in monitor.update_outcomes(data.NEW[1000:1400], changed).alarms}
    assert {"calibration", "coverage"} <= found
    moved = {"a": numbers.NEW.a + 1} if name == "linear" else {"town": "Ulm"}
    columns = {"linear": {"a"}, "own": {"town"}}.get(name, {"town=Aix", "town=Ulm", "town=York"})
    assert columns <= {alarm.name for alarm in monitor.update(data.NEW.assign(**moved)).alarms}


@pytest.mark.parametrize("name", ["houses", "sold"])
def test_what_is_watched_goes_through_json_and_an_artifact(request, name, tmp_path):
    predictor = request.getfixturevalue(name)
    outcome = predictor.outcome
    whole, monitor = (pi.Monitor(predictor, raw.KEPT, seed=3) for _ in range(2))
    whole.update(raw.NEW[:90], raw.NEW[outcome][:90])
    for part in (slice(0, 1), slice(1, 40), slice(40, 90)):
        monitor.update(raw.NEW[part], raw.NEW[outcome][part])
        monitor = Monitor.from_state(predictor, json.dumps(monitor.state(), allow_nan=False))
    for a, b in zip(whole.status.watched, monitor.status.watched, strict=True):
        assert (a.name, a.since) == (b.name, b.since)
        np.testing.assert_allclose([a.evidence, a.largest], [b.evidence, b.largest], rtol=1e-9)
    monitor.attached().save(tmp_path / "watched")
    loaded = pi.load_predictor(tmp_path / "watched")
    again = Monitor.of(loaded)
    assert again.status.rows == 90
    assert again.update(raw.NEW[90:], raw.NEW[outcome][90:]).outcomes == len(raw.NEW)
    with pytest.raises(pi.ArtifactError, match="of another calibration of the point model"):
        Monitor.from_state(predictor.calibrate(raw.KEPT[:500], raw.KEPT[outcome][:500]), monitor.state())


def test_a_classifier_that_is_not_calibrated_is_watched_by_its_probabilities():
    x = np.random.default_rng(0).uniform(size=2000)
    y = np.where(np.random.default_rng(1).uniform(size=2000) < x, "b", "a")
    model = pi.PointPredictor(lambda X: np.concatenate([1 - X, X], axis=1), inputs=["x"], classes=["a", "b"])
    monitor = pi.Monitor(model, {"x": x[:1000]}, false_alarm=1e-3)
    assert monitor.update({"x": x[1000:]}, y[1000:]).alarms == ()
    wrong = np.where(y == "a", "b", "a")
    assert "calibration" in {alarm.name for alarm in monitor.update({"x": x[1000:]}, wrong[1000:]).alarms}


def test_columns_of_a_frame_are_numbers():
    found = frame_columns(
        pd.DataFrame({"t": ["u", None, "u"], "n": [1, 2, 3], "d": pd.to_datetime(["2026-01-01"] * 3)})
    )
    assert found["t"][0] == found["t"][2] < found["t"][1]
    assert all(np.isfinite(values).all() for values in found.values())
