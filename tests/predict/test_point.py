"""Any model as a predictor: coverage on rows that were not used, ONNX on disk, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression

import probinfer as pi
from probinfer.deploy.score import score
from probinfer.errors import ArtifactError, ModelError, PredictionError
from probinfer.predict import artifact
from probinfer.predict.artifact import card
from probinfer.predict.point_together import answer_points
from probinfer.predict.together import Question


def data(count, seed):
    """Two inputs, a number that is noisier at the site 1, and a class."""
    rng = np.random.default_rng(seed)
    a, b, site = rng.normal(size=count), rng.uniform(size=count), rng.integers(0, 2, count)
    y = 2 * a - b + np.where(site == 1, 2.0, 0.5) * rng.standard_t(4, count)
    kind = np.array(["low", "mid", "top"])[np.digitize(a + rng.logistic(0, 0.5, count), [-0.7, 0.7])]
    return pd.DataFrame({"b": b, "site": site, "a": a, "y": y, "kind": kind})


TRAIN, KEPT, NEW = data(400, 0), data(999, 1), data(4000, 2)


def graph(nodes, outputs, *weights, width=2, kind=TensorProto.FLOAT):
    inputs = [helper.make_tensor_value_info("X", kind, ["n", width])]
    made = [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs]
    tensors = [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, made, tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    return model


LINEAR = graph(
    [helper.make_node("MatMul", ["X", "W"], ["y"])], [("y", ["n", 1])], ("W", [[2.0], [-1.0]])
).SerializeToString()
SOFTMAX = graph(
    [helper.make_node("MatMul", ["X", "W"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)],
    [("p", ["n", 3])],
    ("W", [[-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]),
).SerializeToString()


@pytest.fixture(scope="module")
def fitted():
    return LinearRegression().fit(TRAIN[["a", "b"]], TRAIN.y)


@pytest.fixture(scope="module")
def linear():
    return pi.PointPredictor(LINEAR, inputs=["a", "b"]).calibrate(KEPT, KEPT.y)


@pytest.fixture(scope="module")
def classes():
    return pi.PointPredictor(SOFTMAX, inputs=["a", "b"], outcome="kind", classes=["low", "mid", "top"])


def band(covered, count, kept, level):
    """Whether so many of `count` new rows covered is likely, at a false alarm rate of 1e-6.

    Given a calibration set of n rows the coverage is Beta(k, n + 1 - k) distributed, k the ranks within, here exactly.
    """
    inside = round((kept + 1) * level)
    law = stats.betabinom(count, inside, kept + 1 - inside)
    return min(law.cdf(covered), law.sf(covered - 1)) > 0.5e-6


# coverage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pi.Interval.ETI, pi.Interval.LOWER, pi.Interval.UPPER])
def test_intervals_cover_as_they_say(fitted, kind):
    predictor = pi.PointPredictor(fitted).calibrate(KEPT, KEPT.y)
    p = predictor.predict(NEW, level=0.8, interval=kind)
    assert np.allclose(p.mean, fitted.predict(NEW[["a", "b"]]), rtol=1e-12)  # the matrix is laid out in another way
    assert band(int(((p.lower <= NEW.y) & (NEW.y <= p.upper)).sum()), len(NEW), len(KEPT), 0.8)
    assert "calibrated on 999 rows: at least 80%" in p.guarantee


def test_calibrating_on_the_rows_of_training_is_found_out():
    """The twin: a model that knows its rows by heart, calibrated on them."""

    def by_heart(X):
        distance = np.abs(X[:, :1] - TRAIN.a.to_numpy()) + np.abs(X[:, 1:] - TRAIN.b.to_numpy())
        return TRAIN.y.to_numpy()[np.argmin(distance, axis=1)]

    predictor = pi.PointPredictor(by_heart, inputs=["a", "b"])
    for rows, fine in ((KEPT, True), (TRAIN, False)):
        p = predictor.calibrate(rows, rows.y).predict(NEW, level=0.8)
        assert band(int(((p.lower <= NEW.y) & (NEW.y <= p.upper)).sum()), len(NEW), len(rows), 0.8) == fine


def test_each_group_is_covered_when_calibrated_on_its_own(fitted):
    together = pi.PointPredictor(fitted).calibrate(KEPT, KEPT.y).predict(NEW, level=0.8)
    apart = pi.PointPredictor(fitted).calibrate(KEPT, KEPT.y, groups="site").predict(NEW, level=0.8)
    for site in (0, 1):
        here, kept = NEW.site == site, int((KEPT.site == site).sum())
        for p, fine in ((apart, True), (together, False)):
            covered = int(((p.lower <= NEW.y) & (NEW.y <= p.upper))[here].sum())
            law = stats.betabinom(int(here.sum()), 0.8 * (kept + 1), 0.2 * (kept + 1))
            assert (min(law.cdf(covered + 8), law.sf(covered - 9)) > 0.5e-6) == fine  # ranks are rounded outward
    assert len(np.unique(np.round(apart.upper - apart.lower, 9))) == 2


def test_quantiles_and_sd_are_those_of_the_errors(linear):
    p = linear.predict(NEW, quantiles=(0.1, 0.5, 0.99))
    errors = np.sort(KEPT.y - (2 * KEPT.a - KEPT.b))
    point = 2 * NEW.a - NEW.b
    assert np.allclose(p.quantiles - point.to_numpy()[:, None], errors[[99, 499, 989]], atol=1e-5)
    assert np.allclose(p.sd, np.sqrt(np.mean(errors**2)), atol=1e-5)
    assert np.isnan(p.epistemic_sd).all()
    assert np.allclose([p.lower - point, p.upper - point], [[errors[49]], [errors[949]]], atol=1e-5)


def test_sets_of_classes_cover(classes):
    predictor = classes.calibrate(KEPT, KEPT.kind)
    p = predictor.predict(NEW, level=0.8)
    codes = np.searchsorted(["low", "mid", "top"], NEW.kind)
    covered = p.sets[np.arange(len(NEW)), codes].mean()
    assert covered > 0.8 - 5 * np.sqrt(0.16 * (1 / 1000 + 1 / 4000))
    assert p.most_probable[0] in ("low", "mid", "top")
    assert np.allclose(p.probabilities.sum(axis=1), 1)
    few = NEW.iloc[:100]
    scores = pi.metrics(predictor.predict(few), None, few.kind)
    assert scores["accuracy"].value == np.mean(p.most_probable[:100] == few.kind)
    assert classes.predict(NEW).guarantee is None


def test_a_classifier_knows_its_classes():
    model = LogisticRegression().fit(TRAIN[["b", "a"]], TRAIN.kind)
    predictor = pi.PointPredictor(model).calibrate(KEPT, KEPT.kind)
    assert predictor.predict(NEW).classes.tolist() == ["low", "mid", "top"]
    assert np.allclose(predictor.predict(NEW).probabilities, model.predict_proba(NEW[["b", "a"]]))


# rows ----------------------------------------------------------------------------------------------------------------


def test_a_row_has_the_same_answer_in_any_batch(linear):
    together = linear.predict(NEW).upper
    assert np.allclose(linear.predict(NEW.iloc[10:11]).upper, together[10:11])
    shuffled = NEW[["y", "a", "site", "b"]].iloc[::-1]
    assert np.allclose(linear.predict(shuffled).upper, together[::-1])
    assert linear.predict({"a": 0.5, "b": 1.0}).mean.tolist() == [0.0]
    assert len(linear.predict(NEW.iloc[:0])) == 0


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda p: p.predict(NEW.drop(columns="a")), "The rows lack a"),
        (lambda p: p.predict(NEW.assign(a=np.nan)), "a is nan in row 0"),
        (lambda p: p.predict(NEW, level=1.0), "wanted probabilities"),
        (lambda p: p.predict(NEW, level=0.9999), "There are 999 calibration rows, too few"),
        (lambda p: p.predict(NEW, interval=pi.Interval.HDI), "a point model has Interval.ETI"),
        (lambda p: p.calibrate(KEPT, KEPT.y.iloc[:5]), "y has the shape"),
        (lambda p: p.calibrate(KEPT.iloc[:0], KEPT.y.iloc[:0]), "no rows to calibrate with"),
        (lambda p: pi.PointPredictor(LINEAR, inputs=["a", "b"]).predict(NEW), "before it is calibrated"),
        (lambda p: p.calibrate(KEPT, KEPT.y, groups="site").predict({"a": 0.0, "b": 0.0, "site": 7}), "the group '7'"),
    ],
)
def test_wrong_calls_are_named(linear, ask, text):
    with pytest.raises(PredictionError, match=text):
        ask(linear)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda X: 1.0, "gave the one number 1 for 4000 rows; wanted a number for each"),
        (lambda X: ["low"] * len(X), "gave list, which is no array of numbers, for 4000 rows"),
        (lambda X: X, "shape \\(4000, 2\\) for 4000 rows"),
        (lambda X: X[:, 0] / 0.0, "prediction in row 0 is not a finite number"),
    ],
    ids=["one number", "text", "matrix", "infinite"],
)
def test_predictions_that_are_none_are_named(model, text):
    with pytest.raises(PredictionError, match=text), np.errstate(all="ignore"):
        pi.PointPredictor(model, inputs=["a", "b"]).calibrate(NEW, NEW.y)


def test_scores_that_are_no_probabilities_are_named():
    predictor = pi.PointPredictor(lambda X: X, inputs=["a", "b"], classes=["u", "v"])
    with pytest.raises(PredictionError, match="no probabilities"):
        predictor.predict(NEW)


def inverse():
    """A model that has no finite prediction where a is 0."""
    with np.errstate(all="ignore"):
        predictor = pi.PointPredictor(lambda X: 1.0 / X[:, 0], inputs=["a"])
        return predictor.calibrate({"a": np.arange(1.0, 40.0)}, np.zeros(39))


def asked(a, first_row=0):
    return Question({"a": np.array(a)}, np.zeros(len(a), np.uint32), first_row=first_row)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_piece_of_a_question_names_its_rows_by_their_numbers_in_the_whole():
    predictor = inverse()
    whole = asked([1.0, 2.0, 3.0, 0.0])
    (error,) = answer_points(predictor, [whole.part(1, 4).part(1, 3)])
    assert "prediction in row 3 is not a finite number" in str(error)
    one, two, three = answer_points(predictor, [asked([4.0, 5.0]), asked([1.0, 0.0], 70), asked([2.0])])
    assert "prediction in row 71 is not" in str(two)  # and the others have their answers
    assert one.answer.mean.tolist() == [0.25, 0.2]
    assert three.answer.mean.tolist() == [0.5]


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_long_table_names_its_rows_by_their_numbers_in_the_whole(linear, tmp_path):
    with pytest.raises(PredictionError, match="prediction in row 12 is not a finite number"):
        inverse().predict({"a": [1.0, 2.0, 0.0]}, first_row=10)
    grouped = linear.calibrate(KEPT, KEPT.y, groups="site")
    grouped.save(tmp_path / "predictor")
    NEW[:900].assign(site=[*np.zeros(800, int), *np.full(100, 0.5)]).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(PredictionError, match=r"site is 0\.5 in row 800"):
        score(tmp_path / "predictor", tmp_path / "in.parquet", tmp_path / "out.parquet", chunk_rows=300)


# models --------------------------------------------------------------------------------------------------------------


def external():
    model = graph([helper.make_node("MatMul", ["X", "W"], ["y"])], [("y", ["n", 1])], ("W", [[2.0], [-1.0]]))
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model.SerializeToString()


TWO = graph([helper.make_node("Identity", ["X"], ["y"])], [("y", ["n", 2])], kind=TensorProto.INT64)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (b"not onnx", "no ONNX model|refuses the model"),
        (external(), "keeps weights in other files"),
        (TWO.SerializeToString(), "wanted one matrix of numbers"),
        (3, "model came as int"),
    ],
    ids=["no onnx", "external", "integers", "number"],
)
def test_models_that_cannot_be_used_are_refused(model, text):
    with pytest.raises(ModelError, match=text):
        pi.PointPredictor(model, inputs=["a", "b"])


def test_what_is_no_fitted_model_is_told_apart_from_inputs_without_names():
    with pytest.raises(ModelError, match="The LogisticRegression is not fitted; wanted one after LogisticRegression"):
        pi.PointPredictor(LogisticRegression())
    with pytest.raises(ModelError, match="model came as NoneType; wanted the path of an ONNX file"):
        pi.PointPredictor(None)
    nameless = LogisticRegression().fit(TRAIN[["b", "a"]].to_numpy(), TRAIN.kind)
    with pytest.raises(ModelError, match="wanted the different names"):
        pi.PointPredictor(nameless)


def test_inputs_have_to_be_known():
    with pytest.raises(ModelError, match="wanted the different names"):
        pi.PointPredictor(lambda X: X)
    with pytest.raises(ModelError, match="takes 2 inputs, and 3 are named"):
        pi.PointPredictor(LINEAR, inputs=["a", "b", "site"]).calibrate(KEPT, KEPT.y)


# on disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("point")
    (folder / "linear.onnx").write_bytes(LINEAR)
    predictor = pi.PointPredictor(folder / "linear.onnx", inputs=["a", "b"]).calibrate(KEPT, KEPT.y, groups="site")
    predictor.save(folder / "predictor")
    return folder / "predictor"


def test_saved_loaded_and_scored_are_the_same(saved, tmp_path):
    expected = pi.PointPredictor(LINEAR, inputs=["a", "b"]).calibrate(KEPT, KEPT.y, groups="site").predict(NEW)
    loaded = pi.load_predictor(saved)
    p = loaded.predict(NEW)
    assert np.array_equal(p.mean, expected.mean)
    assert np.array_equal(p.lower, expected.lower)
    NEW.to_parquet(tmp_path / "in.parquet")
    score(saved, tmp_path / "in.parquet", tmp_path / "out.parquet", chunk_rows=700)
    assert np.allclose(pd.read_parquet(tmp_path / "out.parquet").upper, expected.upper)
    assert "run by ONNX Runtime" in card(saved)
    assert "split conformal in each group by site" in card(saved)


def test_saved_classes_keep_their_labels(classes, tmp_path):
    classes.calibrate(KEPT, KEPT.kind).save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    assert loaded.classes == ("low", "mid", "top")
    assert np.array_equal(loaded.predict(NEW).sets, classes.calibrate(KEPT, KEPT.kind).predict(NEW).sets)


@pytest.mark.parametrize("name", ["LinearRegression", "function"])
def test_what_needs_pickle_is_not_saved(fitted, name, tmp_path):
    model = fitted if name == "LinearRegression" else lambda X: X[:, 0]
    with pytest.raises(ModelError, match=f"A {name} cannot be stored without pickle"):
        pi.PointPredictor(model, inputs=["a", "b"]).save(tmp_path / "predictor")
    assert not (tmp_path / "predictor").exists()


def test_a_damaged_model_is_refused(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "predictor")
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-3] ^= 1
    (folder / "model.onnx").write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="damaged or was changed"):
        pi.load_predictor(folder)


@pytest.mark.parametrize(
    "change",
    [{"model": "../model.onnx"}, {"inputs": ["a", "a"]}, {"inputs": 3}, {"outcome": {}}, {"format_version": 99}],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, tmp_path, change):
    folder = shutil.copytree(saved, tmp_path / "predictor")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_bytes(artifact.sealed({**manifest, **change}))
    with pytest.raises(ArtifactError):
        pi.load_predictor(folder)
