"""The ONNX file of a model with a pipeline takes raw columns: each kind of step, and rows that cannot be predicted."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import onnx
import onnxruntime
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OrdinalEncoder

import probinfer as pi
from probinfer.cli import main
from probinfer.model.pipeline.raw import Kind, Place
from probinfer.predict.onnx_ops import OPSET, Graph, value_info
from probinfer.predict.onnx_pipeline import ML, ML_OPSET, Preparation, refuse_steps
from tests.predict.fits import Fit

DRAWS, ROWS = 60, 50
rng = np.random.default_rng(12)
RAW = pd.DataFrame(
    {
        "size": rng.lognormal(1.0, 0.5, ROWS),
        "speed": rng.normal(20.0, 4.0, ROWS),
        "town": rng.choice(["A", "B", "C"], ROWS),
        "floor": rng.choice([0, 1, 2], ROWS),
        "county": rng.choice(["X", "Y"], ROWS),
        "income": np.where(np.arange(ROWS) % 6 == 0, np.nan, rng.normal(50.0, 9.0, ROWS)),
        "fuel": np.where(np.arange(ROWS) % 7 == 0, None, rng.choice(["gas", "oil"], ROWS)),
        "price": rng.lognormal(1.0, 0.5, ROWS),
        "sold": rng.choice(["no", "yes"], ROWS),
        "day": pd.date_range("2024-01-01", periods=ROWS),
    }
)
STEPS = {
    "as it is": [pi.Column("speed")],
    "standardised": [pi.Column("speed", pi.Standardise())],
    "scaled": [pi.Column("speed", pi.ScaleToRange(-1.0, 1.0))],
    "logarithm": [pi.Column("size", pi.Log(0.5), pi.Standardise())],
    "Box-Cox": [pi.Column("size", pi.BoxCox(-0.4)), pi.Column("speed", pi.BoxCox(0.0))],
    "Yeo-Johnson": [pi.Column("speed", pi.Standardise(), pi.YeoJohnson(0.6)), pi.Column("size", pi.YeoJohnson(2.0))],
    "one-hot": [pi.Column("town", pi.OneHot(drop_first=True)), pi.Column("floor", pi.OneHot(unseen=pi.Unseen.ZEROS))],
    "ordinal in a matrix": [pi.Column("town", pi.Ordinal()), pi.Column("floor", pi.Ordinal(), pi.Standardise())],
    "imputed": [
        pi.Column("income", pi.Impute(indicator=True), pi.Standardise()),
        pi.Column("fuel", pi.Impute(pi.Fill.MODE, indicator=True), pi.OneHot()),
        pi.Column("fuel", pi.Impute("none"), pi.Ordinal()),
    ],
    "codes of scikit-learn": ColumnTransformer(
        [("codes", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["town", "county"])]
    ).fit(RAW.assign(town=RAW.town.replace("C", "A"))),
}
NEW = {name: RAW[name].to_numpy()[[0, 1, 7, 6, 14]] for name in RAW}


def prepared_of(columns):
    made = pi.Pipeline(line, inputs={"X": columns}, outcome={"y": pi.Column("price")})
    return made.settle(RAW).fitted.prepared(None)


def prepare(columns, rows):
    """The design matrix by ONNX Runtime and which rows are bad, and the design matrix of the good ones by `apply`."""
    prepared, graph = prepared_of(columns), Graph("w")
    preparation = Preparation(graph)
    matrix, bad = preparation.arguments(prepared)["X"], preparation.bad
    kinds = {name: np.dtype(float if kind is Kind.NUMBER else object) for name, kind in prepared.columns.items()}
    built = graph.built(
        "g",
        [value_info(name, kind, ["rows"]) for name, kind in kinds.items()],
        [value_info(matrix, np.dtype(float), None), value_info(bad, np.dtype(bool), None)],
    )
    sets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(ML, ML_OPSET)]
    content = onnx.helper.make_model(built, opset_imports=sets, ir_version=8).SerializeToString()
    found, bad = run(content, rows).values()
    kept = {name: np.asarray(rows[name], object)[~bad] for name in prepared.columns}
    return found[~bad], bad, prepared.apply(kept, Place(pi.PredictionError))[0]["X"], prepared


def line(X, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


def run(model, rows):
    """The outputs of the file in ONNX Runtime on raw columns: text with "" where a label is missing."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = {}
    for entry in session.get_inputs():
        values = rows[entry.name]
        text = entry.type == "tensor(string)"
        given[entry.name] = (
            np.array(["" if v is None or v != v else str(v) for v in values], object)
            if text
            else np.asarray(values, float)
        )
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))


@pytest.mark.parametrize("name", STEPS)
def test_each_step_gives_what_it_gives_in_python(name):
    found, bad, expected, _ = prepare(STEPS[name], NEW)
    assert not bad.any()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("as it is", "speed", np.inf),
        ("standardised", "speed", np.nan),
        ("logarithm", "size", -0.5),
        ("Box-Cox", "size", 0.0),
        ("one-hot", "town", "D"),
        ("one-hot", "town", None),
        ("one-hot", "floor", None),
        ("ordinal in a matrix", "town", "D"),
        ("imputed", "income", np.inf),
        ("imputed", "fuel", "coal"),
        ("codes of scikit-learn", "town", None),
    ],
)
def test_a_row_that_predict_refuses_is_marked_and_no_other(name, column, value):
    values = np.array(NEW[column], object)
    values[2] = value
    _, bad, _, prepared = prepare(STEPS[name], {**NEW, column: values})
    assert bad.tolist() == [False, False, True, False, False]
    with pytest.raises(pi.PredictionError, match=column):
        prepared.apply({**{n: NEW[n] for n in prepared.columns}, column: values}, Place(pi.PredictionError))


def test_new_labels_are_zeros_or_the_reserve_where_declared():
    columns = [STEPS["one-hot"][1], pi.Column("town", pi.Ordinal(unseen=pi.Unseen.RESERVE))]
    found, bad, expected, _ = prepare(
        columns, {"floor": [0, 9, 1, None, 1], "town": np.array(["A", "D", "B", "A", None], object)}
    )
    assert bad.tolist() == [False, False, False, True, True]
    assert found[1].tolist() == expected[1].tolist() == [0.0, 0.0, 0.0, 3.0]


def test_what_onnx_cannot_express_is_refused_by_name():
    dates = pi.Column("day", pi.DateParts([pi.DatePart.MONTH]))
    with pytest.raises(pi.ExportError, match=r"'day' goes through a step .*: month of a date"):
        refuse_steps(prepared_of([STEPS["one-hot"][0], dates]))
    with pytest.raises(pi.ExportError, match="'fuel' has the empty text as a label"):
        refuse_steps(prepared_of([pi.Column("fuel", pi.Impute(""), pi.OneHot())]))
    for columns in STEPS.values():
        refuse_steps(prepared_of(columns))


# whole predictors ----------------------------------------------------------------------------------------------------


def groups(X, county, J, y=None):
    level = numpyro.sample("level", dist.Normal(0, 1).expand([J]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(level[county] + X @ beta, 0.3), obs=y)


def classes(X, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)


def assert_same(found, prediction, rows):
    for name, values in found.items():
        expected = np.asarray(getattr(prediction, name))
        np.testing.assert_allclose(values[rows], expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.long
def test_raw_rows_in_and_the_outcomes_own_units_out(tmp_path):
    """A saved predictor with groups and an outcome whose logarithm the model has; bad rows are nan, the others not."""
    X = [*STEPS["imputed"][:2], STEPS["Yeo-Johnson"][0]]
    county = pi.Column("county", pi.Ordinal())
    made = pi.Pipeline(
        groups, inputs={"X": X, "county": county}, sizes={"J": "county"}, outcome={"y": pi.Column("price", pi.Log())}
    )
    predictor = pi.Predictor(Fit(made, RAW, {"level": rng.normal(size=(60, 2)), "beta": rng.normal(size=(60, 6))}))
    predictor.save(tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), "--onnx", str(tmp_path / "y.onnx"), "--quantiles", "0.1,0.7"]) == 0
    rows = {entry.name: NEW[entry.name] for entry in predictor.inputs}
    found = run(str(tmp_path / "y.onnx"), rows)
    assert found["quantiles"].shape == (5, 2)
    assert_same(found, predictor.predict(rows, quantiles=(0.1, 0.7)), slice(None))
    bad = run(str(tmp_path / "y.onnx"), {**rows, "county": np.array(["X", "Z", "Y", "X", None], object)})
    for name, values in bad.items():
        assert np.isnan(values[[1, 4]]).all(), name
        assert (values[0] == found[name][0]).all(), name


def test_the_classes_of_text_outcomes_are_in_the_file(tmp_path):
    made = pi.Pipeline(classes, inputs={"X": STEPS["one-hot"]}, outcome={"y": pi.Column("sold", pi.Ordinal())})
    predictor = pi.Predictor(Fit(made, RAW, {"beta": rng.normal(size=(60, 5))}))
    predictor.export_onnx(tmp_path / "y.onnx")
    rows = {entry.name: NEW[entry.name] for entry in predictor.inputs}
    found = run(str(tmp_path / "y.onnx"), rows)
    assert_same(found, predictor.predict(rows), slice(None))
    words = {p.key: p.value for p in onnx.load(tmp_path / "y.onnx").metadata_props}
    bad = run(str(tmp_path / "y.onnx"), {**rows, "town": np.array(["A", "D", "B", "A", None], object)})
    assert np.isnan(bad["probabilities"]).all(axis=1).tolist() == [False, True, False, False, True]
    assert words["probinfer.classes"] == '["no", "yes"]'
