"""A scikit-learn Pipeline as a predictor: raw rows in, the pipeline's own predictions out, stored without pickle."""

import json
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeRegressor

import probinfer as pi
from probinfer.errors import ArtifactError, MissingExtra, ModelError, PredictionError
from probinfer.model.pipeline import sklearn_steps
from probinfer.predict import artifact, point_conversion
from probinfer.predict.artifact import card
from tests.predict.test_point import band, graph, helper

RAW = ["town", "kind", "pool", "grade", "size", "income", "heat"]


def houses(count, seed):
    """Text, categories, booleans, whole numbers as labels, numbers with gaps; a price, noisier in York; and a class."""
    rng = np.random.default_rng(seed)
    town = rng.choice(["Aix", "Ulm", "York"], count)
    frame = pd.DataFrame(
        {
            "town": town,
            "kind": pd.Categorical(rng.choice(["flat", "house"], count)),
            "pool": rng.uniform(size=count) < 0.3,
            "grade": rng.choice([1, 2, 10], count),
            "size": rng.lognormal(4, 0.4, count),
            "income": np.where(rng.uniform(size=count) < 0.2, np.nan, rng.normal(50, 9, count)),
            "heat": pd.Series(np.where(rng.uniform(size=count) < 0.2, np.nan, rng.choice([1.0, 3.0], count))),
            "nothing": 1.0,
        }
    )
    noise = np.where(town == "York", 30.0, 8.0) * rng.standard_t(5, count)
    frame["y"] = 2 * frame["size"] + 40 * frame.pool + 5 * frame.grade + noise
    frame["sold"] = np.where(frame["size"] + rng.normal(0, 15, count) > 55, "yes", "no")
    return frame


TRAIN, KEPT, NEW = houses(300, 0), houses(999, 1), houses(2000, 2)


def preparation(**settings):
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["size", "income"]),
            ("labels", OneHotEncoder(sparse_output=False), ["town", "pool", "grade"]),
            ("kind", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["kind"]),
            ("heat", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(drop="first")), ["heat"]),
        ],
        sparse_threshold=0.0,
        **settings,
    )


def pipeline(model, *between, outcome="y"):
    steps = [("prepare", preparation()), *between, ("model", model)]
    return Pipeline(steps).fit(TRAIN[[*RAW, "nothing"]], TRAIN[outcome])


@pytest.fixture(scope="module")
def boosted():
    return pipeline(GradientBoostingRegressor(n_estimators=30, random_state=0))


@pytest.fixture(scope="module")
def ridge():
    return pipeline(Ridge())


@pytest.fixture(scope="module")
def predictor(boosted):
    return pi.PointPredictor(boosted).calibrate(KEPT, KEPT.y)


# in memory -----------------------------------------------------------------------------------------------------------


def test_raw_rows_give_what_the_pipeline_gives(predictor, boosted, ridge):
    assert np.array_equal(predictor.predict(NEW).mean, boosted.predict(NEW))
    linear = pi.PointPredictor(ridge).calibrate(KEPT, KEPT.y).predict(NEW)
    assert np.allclose(linear.mean, ridge.predict(NEW), rtol=1e-13)
    assert {entry.name: entry.dtype for entry in predictor.inputs} == {
        "size": "float64", "income": "float64", "town": "text", "pool": "text", "grade": "text", "kind": "text",
        "heat": "text",
    }  # fmt: skip


def test_intervals_of_raw_rows_cover(predictor):
    p = predictor.predict(NEW, level=0.8)
    assert band(int(((p.lower <= NEW.y) & (NEW.y <= p.upper)).sum()), len(NEW), len(KEPT), 0.8)


def test_a_pipeline_calibrated_on_its_rows_of_training_is_found_out():
    """The twin: a tree that knows its rows by heart."""
    tree = pi.PointPredictor(pipeline(DecisionTreeRegressor(random_state=0)))
    for rows, fine in ((KEPT, True), (TRAIN, False)):
        p = tree.calibrate(rows, rows.y).predict(NEW, level=0.8)
        assert band(int(((p.lower <= NEW.y) & (NEW.y <= p.upper)).sum()), len(NEW), len(rows), 0.8) == fine


def test_groups_by_a_column_of_text(boosted, predictor):
    apart = pi.PointPredictor(boosted).calibrate(KEPT, KEPT.y, groups="town")
    one, all_rows = apart.predict(NEW, level=0.8), predictor.predict(NEW, level=0.8)
    for p, fine in ((one, True), (all_rows, False)):
        here, kept = NEW.town == "York", int((KEPT.town == "York").sum())
        covered = int(((p.lower <= NEW.y) & (NEW.y <= p.upper))[here].sum())
        law = stats.betabinom(int(here.sum()), 0.8 * (kept + 1), 0.2 * (kept + 1))
        assert (min(law.cdf(covered + 8), law.sf(covered - 9)) > 0.5e-6) == fine  # ranks are rounded outward
    with pytest.raises(PredictionError, match=r"town is 'Rome' in row 0|the group 'Rome'"):
        apart.predict(NEW.assign(town="Rome"))


def test_a_classifier_of_raw_rows_has_sets():
    model = pipeline(LogisticRegression(C=0.1), outcome="sold")
    predictor = pi.PointPredictor(model, outcome="sold").calibrate(KEPT, KEPT.sold)
    p = predictor.predict(NEW, level=0.9)
    assert p.classes.tolist() == ["no", "yes"]
    assert np.allclose(p.probabilities, model.predict_proba(NEW), rtol=1e-12)
    covered = p.sets[np.arange(len(NEW)), (NEW.sold == "yes").to_numpy(int)].mean()
    assert covered > 0.9 - 5 * np.sqrt(0.09 * (1 / 1000 + 1 / 2000))
    assert pi.metrics(p, None, NEW.sold)["accuracy"].value == np.mean(p.most_probable == NEW.sold)


# rows ----------------------------------------------------------------------------------------------------------------


def test_rows_in_another_form_have_the_same_answer(predictor):
    few = NEW.iloc[:40]
    expected = predictor.predict(few).upper
    forms: list[Any] = [
        few[list(reversed(few.columns))],
        few[RAW].assign(further="x"),
        few.assign(town=few.town.astype("category"), kind=few.kind.astype(object), grade=few.grade.astype(float)),
        few.assign(grade=few.grade.astype(str), pool=few.pool.astype(str), income=few.income.astype("Float64")),
        pa.Table.from_pandas(few),
        {name: few[name].tolist() for name in RAW},
        {name: few[name].to_numpy() for name in [*RAW, "nothing", "y"]},
    ]
    for rows in forms:
        assert np.array_equal(predictor.predict(rows).upper, expected)
    record = {name: few[name].iloc[3] for name in RAW}
    assert predictor.predict(record).upper == expected[3:4]
    assert len(predictor.predict(few.iloc[:0])) == 0


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (NEW.drop(columns=["size", "town"]), "The rows lack size, town; they have kind, pool"),
        (NEW.assign(town="Rome"), "town is 'Rome' in row 0 and 1999 more (the first row is row 0): a label that"),
        (NEW.assign(town=None), "town is missing in row 0 and 1999 more"),
        (NEW.assign(size="large"), "size is 'large' in row 0 and 1999 more (the first row is row 0); wanted a number"),
        (NEW.assign(size=np.inf), "size is inf in row 0"),
        (NEW.assign(size=pd.Timestamp("2024-01-01")), "size holds dates"),
        ({"sise": [1.0]}, "The rows lack size, income"),
        ({**{name: NEW[name] for name in RAW}, "sise": NEW.y}, "Nothing is known of 'sise'"),
    ],
)
def test_rows_that_do_not_fit_are_refused_as_by_any_predictor(predictor, rows, text):
    with pytest.raises(PredictionError) as error:
        predictor.predict(rows)
    assert text in str(error.value)


def test_labels_that_are_new_are_what_the_encoder_says(boosted, predictor):
    new = NEW.iloc[:20].assign(kind="tent")
    assert np.array_equal(predictor.predict(new).mean, boosted.predict(new))


def test_a_category_for_missing_values_is_a_label():
    towns = TRAIN.assign(town=np.where(TRAIN["size"] < 40, None, TRAIN.town))
    model = make_pipeline(ColumnTransformer([("hot", OneHotEncoder(), ["town"])]), Ridge()).fit(towns, towns.y)
    kept = KEPT.assign(town=np.where(KEPT["size"] < 40, None, KEPT.town))
    predictor = pi.PointPredictor(model).calibrate(kept, kept.y)
    assert np.allclose(predictor.predict(kept).mean, model.predict(kept), rtol=1e-12)


# which steps, which models -------------------------------------------------------------------------------------------


def test_a_chain_of_known_steps_is_read():
    numbers = ["size", "grade"]
    for model in (
        make_pipeline(SimpleImputer(), StandardScaler(), Ridge()).fit(TRAIN[numbers], TRAIN.y),
        make_pipeline(StandardScaler(), PCA(2), Ridge()).fit(TRAIN[numbers], TRAIN.y),
        make_pipeline(StandardScaler(), Ridge()).set_output(transform="pandas").fit(TRAIN[numbers], TRAIN.y),
    ):
        p = pi.PointPredictor(model).calibrate(KEPT, KEPT.y).predict(NEW)
        assert np.allclose(p.mean, model.predict(NEW[numbers]), rtol=1e-12)
    unnamed = make_pipeline(StandardScaler(), Ridge()).fit(TRAIN[numbers].to_numpy(), TRAIN.y)
    p = pi.PointPredictor(unnamed, inputs=numbers).calibrate(KEPT, KEPT.y).predict(NEW)
    assert np.allclose(p.mean, unnamed.predict(NEW[numbers].to_numpy()), rtol=1e-12)
    scaled = pipeline(Ridge(), ("again", StandardScaler()))
    assert np.allclose(pi.PointPredictor(scaled).calibrate(KEPT, KEPT.y).predict(NEW).mean, scaled.predict(NEW))


def test_a_pipeline_of_named_numbers_is_stored_as_a_whole(tmp_path):
    names = ["size", "grade"]
    model = make_pipeline(PolynomialFeatures(2), Ridge()).fit(TRAIN[names], TRAIN.y)
    with pytest.raises(ModelError, match=r"is a PolynomialFeatures, .* name them, and it is converted as a whole"):
        pi.PointPredictor(model).calibrate(KEPT, KEPT.y).save(tmp_path / "predictor")
    pi.PointPredictor(model, inputs=names).calibrate(KEPT, KEPT.y).save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    assert np.allclose(loaded.predict(NEW).mean, model.predict(NEW[names]), rtol=1e-6)
    assert json.loads((tmp_path / "predictor" / "manifest.json").read_text())["format_version"] == 5


def test_a_search_is_its_best_pipeline():
    search = GridSearchCV(
        Pipeline([("prepare", preparation()), ("model", Ridge())]), {"model__alpha": [0.1, 1.0]}, cv=2
    )
    search.fit(TRAIN[RAW], TRAIN.y)
    predictor = pi.PointPredictor(search).calibrate(KEPT, KEPT.y)
    assert np.allclose(predictor.predict(NEW).mean, search.predict(NEW), rtol=1e-12)


def doubled(frame):
    return frame[["size"]].assign(more=2.0 * frame["size"])


OWN = make_pipeline(FunctionTransformer(doubled), Ridge()).fit(TRAIN[RAW], TRAIN.y)
WITHIN = TransformedTargetRegressor(Pipeline([("prepare", preparation()), ("model", Ridge())])).fit(TRAIN[RAW], TRAIN.y)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (OWN, "The Pipeline answers in this process, and cannot be saved. There is a FunctionTransformer with the "
              "function doubled"),
        (WITHIN, "The TransformedTargetRegressor answers in this process, and cannot be saved. A Transformed"),
    ],
    ids=["own step", "transformer inside"],
)  # fmt: skip
def test_a_pipeline_with_a_step_of_its_own_answers_and_is_not_saved(model, text, tmp_path):
    predictor = pi.PointPredictor(model).calibrate(KEPT, KEPT.y, groups="town")
    assert np.array_equal(predictor.predict(NEW).mean, model.predict(NEW[RAW]))
    rows = {name: NEW[name].to_numpy() for name in RAW}
    assert np.array_equal(predictor.predict(rows).mean, model.predict(NEW[RAW]))
    with pytest.raises(PredictionError, match="The rows lack size"):
        predictor.predict(NEW.drop(columns="size"))
    with pytest.raises(ModelError) as error:
        predictor.save(tmp_path / "predictor")
    assert text in str(error.value)
    assert not (tmp_path / "predictor").exists()


def test_probabilities_calibrated_around_a_pipeline_are_answered():
    inner = Pipeline([("prepare", preparation()), ("model", LogisticRegression(C=0.1))])
    model = CalibratedClassifierCV(inner, cv=2).fit(TRAIN[RAW], TRAIN.sold)
    predictor = pi.PointPredictor(model, outcome="sold").calibrate(KEPT, KEPT.sold)
    assert np.allclose(predictor.predict(NEW).probabilities, model.predict_proba(NEW[RAW]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: pi.PointPredictor(LINE, inputs=OWN[:-1]), "There is a FunctionTransformer with the function doubled"),
        (lambda: pi.PointPredictor(LINE, inputs=preparation()), "The ColumnTransformer is not fitted on a data frame"),
        (lambda: pi.PointPredictor(LINE, inputs=settled(pi.Column("size"))), "takes 2 inputs, and 1 are named or"),
        (lambda: pi.PointPredictor(LINE, inputs=declared(pi.Column("size"))), "settle it with the rows of training"),
        (lambda: pi.PointPredictor(Pipeline([("p", preparation()), ("m", Ridge())])), "not fitted on a data frame"),
        (lambda: pi.PointPredictor(OWN, inputs=["a"]), "the Pipeline was fitted on the columns town, kind"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(make, text):
    with pytest.raises(ModelError, match=text):
        make()


def test_steps_that_are_read_wrongly_are_caught(ridge, monkeypatch):
    """A twin that takes the largest value for the standard deviation."""
    monkeypatch.setitem(
        sklearn_steps._CONVERSIONS,
        "StandardScaler",
        lambda step, count: [[sklearn_steps.Affine(0.0, 2.0)] for _ in range(count)],
    )
    with pytest.raises(
        ModelError, match="The Pipeline gives other numbers than its steps as they are known here: size"
    ):
        pi.PointPredictor(ridge).calibrate(KEPT, KEPT.y)


def test_calibration_rows_that_the_transformer_cannot_read_are_named(ridge):
    rows = KEPT.assign(grade=KEPT.grade.astype(str))  # a label here, an unknown category there
    with pytest.raises(PredictionError, match="The Pipeline itself cannot prepare the calibration rows: Found unknown"):
        pi.PointPredictor(ridge).calibrate(rows, KEPT.y)


def test_a_frame_of_single_precision_is_no_other_preparation(ridge):
    rows = KEPT.astype({"size": np.float32, "income": np.float32})
    predictor = pi.PointPredictor(ridge).calibrate(rows, KEPT.y)
    assert np.allclose(predictor.predict(rows).mean, ridge.predict(rows), rtol=1e-5)


# a file whose inputs are prepared ------------------------------------------------------------------------------------

LINE = graph(
    [helper.make_node("MatMul", ["X", "W"], ["y"])], [("y", ["n", 1])], ("W", [[2.0], [-1.0]])
).SerializeToString()


def declared(*columns):
    return pi.Pipeline(lambda X: None, inputs={"X": list(columns)})


def settled(*columns):
    return declared(*columns).settle(TRAIN)


def test_a_file_is_asked_what_a_transformer_prepares(tmp_path):
    transformer = ColumnTransformer([("a", StandardScaler(), ["size"]), ("b", OrdinalEncoder(), ["town"])]).fit(TRAIN)
    predictor = pi.PointPredictor(LINE, inputs=transformer).calibrate(KEPT, KEPT.y)
    p = predictor.predict(NEW)
    assert np.allclose(p.mean, transformer.transform(NEW) @ [2.0, -1.0], atol=1e-5)
    predictor.save(tmp_path / "predictor")
    assert np.array_equal(pi.load_predictor(tmp_path / "predictor").predict(NEW).upper, p.upper)


def test_a_file_is_asked_what_a_pipeline_of_ours_prepares(tmp_path):
    """Dates too, which scikit-learn has no step for."""
    days = TRAIN.assign(day=pd.date_range("2024-01-01", periods=len(TRAIN)))
    columns = [pi.Column("size", pi.Log(), pi.Standardise()), pi.Column("day", pi.DateParts([pi.DatePart.DAY_OF_WEEK]))]
    fitted = declared(*columns).settle(days)
    predictor = pi.PointPredictor(LINE, inputs=fitted).calibrate(days, days.y)
    assert np.allclose(predictor.predict(days).mean, fitted.transform(days)["X"] @ [2, -1], atol=1e-5)
    log = np.log(days["size"])
    rows = pd.DataFrame({"day": ["2026-11-25", "2026-11-26T12:00"], "size": [40.0, 80.0]})
    expected = 2 * (np.log(rows["size"]) - log.mean()) / log.std(ddof=0) - [2, 3]
    assert np.allclose(predictor.predict(rows).mean, expected, atol=1e-5)
    predictor.save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    assert np.allclose(loaded.predict(rows).mean, expected, atol=1e-5)
    assert [entry.dtype for entry in loaded.inputs] == ["float64", "date"]
    with pytest.raises(PredictionError, match="day is 'tomorrow' in row 0"):
        loaded.predict(rows.assign(day="tomorrow"))


# on disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(boosted, tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "predictor"
    pi.PointPredictor(boosted).calibrate(KEPT, KEPT.y, groups="town").save(path)
    return path


def test_saved_and_loaded_it_answers_raw_rows_as_the_pipeline(saved, boosted):
    loaded, few = pi.load_predictor(saved), NEW.assign(kind="tent")
    p = loaded.predict(few)
    expected = pi.PointPredictor(boosted).calibrate(KEPT, KEPT.y, groups="town").predict(few)
    assert np.allclose(p.mean, boosted.predict(few), rtol=1e-6)
    assert np.allclose(p.upper, expected.upper, rtol=1e-6)
    assert [(entry.name, entry.dtype) for entry in loaded.inputs] == [(e.name, e.dtype) for e in loaded.program.asked]
    assert json.loads((saved / "manifest.json").read_text())["format_version"] == 9
    assert "town: labels, for X (3 columns): one-hot of Aix, Ulm, York" in card(saved)
    with pytest.raises(PredictionError, match="pool is 'maybe' in row 0"):
        loaded.predict(NEW.assign(pool="maybe"))


@pytest.mark.parametrize(
    ("model", "outcome"),
    [
        (Ridge(), "y"),
        (LogisticRegression(C=0.1), "sold"),
        (GradientBoostingClassifier(n_estimators=10, random_state=0), "sold"),
        (make_pipeline(PCA(4), Ridge()), "y"),
    ],
    ids=["linear", "logistic", "boosted classes", "with a step that is converted"],
)
def test_models_are_stored_as_onnx(model, outcome, tmp_path):
    fitted = pipeline(model, outcome=outcome)
    predictor = pi.PointPredictor(fitted, outcome=outcome).calibrate(KEPT, KEPT[outcome])
    predictor.save(tmp_path / "predictor")
    ours, theirs = predictor.predict(NEW), pi.load_predictor(tmp_path / "predictor").predict(NEW)
    if outcome == "y":
        assert np.allclose(theirs.mean, fitted.predict(NEW), rtol=1e-6)
    else:
        assert np.allclose(theirs.probabilities, fitted.predict_proba(NEW), rtol=1e-6, atol=1e-6)
        assert (theirs.sets != ours.sets).mean() < 1e-3
    pi.load_predictor(tmp_path / "predictor").save(tmp_path / "again")
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (tmp_path / "predictor" / "model.onnx").read_bytes()


def test_a_fresh_process_answers_the_same(saved, tmp_path):
    NEW.iloc[:50].to_parquet(tmp_path / "new.parquet")
    code = (
        "import json, sys, pyarrow.parquet as pq\n"
        "from probinfer.predict.predictor import load_predictor\n"
        f"p = load_predictor({str(saved)!r}).predict(pq.read_table({str(tmp_path / 'new.parquet')!r}))\n"
        "assert 'sklearn' not in sys.modules and 'numpyro' not in sys.modules\n"
        "print(json.dumps([p.mean.tolist(), p.upper.tolist()]))\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    p = pi.load_predictor(saved).predict(NEW.iloc[:50])
    assert json.loads(result.stdout) == [p.mean.tolist(), p.upper.tolist()]


def test_what_was_not_compared_is_not_saved(boosted, predictor, tmp_path, monkeypatch):
    refused = tmp_path / "predictor"
    with pytest.raises(ModelError, match="A GradientBoostingRegressor cannot be stored without pickle, but as ONNX"):
        pi.PointPredictor(boosted).save(refused)
    half = pi.PointPredictor(pipeline(Ridge())).calibrate(KEPT, KEPT.y)
    (rows,) = half.calibration_rows
    half.calibration_rows = (rows._replace(values=rows.values + 1e-4 * KEPT.y.std()),)  # the twin
    with pytest.raises(ModelError, match=r"The Ridge cannot be saved: .* on the calibration rows it differs by up to"):
        half.save(refused)
    nearest = pi.PointPredictor(lambda X: X[:, 0], inputs=["size"]).calibrate(KEPT, KEPT.y)
    with pytest.raises(ModelError, match="A function cannot be stored without pickle"):
        nearest.save(refused)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(MissingExtra, match=r"needs skl2onnx, .* pip install 'probinfer\[convert\]'"):
        predictor.save(refused)
    assert not refused.exists()


def test_a_model_without_a_conversion_is_refused_by_name(tmp_path):
    class Nearest(KNeighborsRegressor):
        pass

    predictor = pi.PointPredictor(pipeline(Nearest())).calibrate(KEPT, KEPT.y)
    with pytest.raises(ModelError, match=r"The Nearest cannot be saved: .* \(inputs=pipeline\[:-1\]"):
        predictor.save(tmp_path / "predictor")


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m["prepared"]["inputs"][0]["columns"].pop(),
        lambda m: m["prepared"]["inputs"][0]["columns"][0]["steps"][0][0].update(step="os.system"),
        lambda m: m["inputs"].pop(),
        lambda m: m["prepared"].update(outcome={"argument": "y", "column": "y", "holds": "numbers", "steps": []}),
        lambda m: m.pop("prepared"),
    ],
    ids=["column", "no step", "input", "outcome", "none"],
)
def test_preprocessing_that_was_tampered_with_is_refused(saved, tmp_path, damage):
    folder = shutil.copytree(saved, tmp_path / "predictor")
    manifest = json.loads((folder / "manifest.json").read_text())
    damage(manifest)
    (folder / "manifest.json").write_bytes(artifact.sealed(manifest))
    with pytest.raises(ArtifactError):
        pi.load_predictor(folder)


# PyTorch -------------------------------------------------------------------------------------------------------------


def test_a_module_of_pytorch_needs_no_function_around_it(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, and no dependency")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    net.train()
    predictor = pi.PointPredictor(net, inputs=["size", "grade"]).calibrate(KEPT, KEPT.y)
    p = predictor.predict(NEW)
    assert net.training  # the module itself is as it was
    with torch.no_grad():
        expected = net.eval()(torch.tensor(NEW[["size", "grade"]].to_numpy(np.float32)))[:, 0].numpy()
    assert p.mean.dtype == np.float64
    assert np.array_equal(p.mean, expected.astype(float))
    pytest.importorskip("onnxscript", reason="PyTorch's export to ONNX needs onnxscript")
    predictor.save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    assert np.allclose(loaded.predict(NEW).mean, p.mean, rtol=1e-5)
    assert np.allclose(loaded.predict(NEW.iloc[:1]).upper, p.upper[:1], rtol=1e-5)


def test_a_module_without_the_exporter_says_what_to_install(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, and no dependency")
    predictor = pi.PointPredictor(torch.nn.Linear(1, 1), inputs=["size"]).calibrate(KEPT, KEPT.y)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match="pip install onnxscript"):
        predictor.save(tmp_path / "predictor")


def test_the_check_of_a_conversion_is_the_same_for_all(monkeypatch, tmp_path):
    """A converter that gives another model is found out."""
    fitted = make_pipeline(StandardScaler(), Ridge()).fit(TRAIN[["size", "grade"]], TRAIN.y)
    predictor = pi.PointPredictor(fitted).calibrate(KEPT, KEPT.y)
    monkeypatch.setattr(point_conversion, "_ways", lambda model: lambda *_: iter([lambda: LINE]))
    with pytest.raises(ModelError, match="it differs by up to"):
        predictor.save(tmp_path / "predictor")
