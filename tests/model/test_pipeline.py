"""Preprocessing: each step against scikit-learn or a formula, raw columns of every kind, and what is refused."""

import datetime
import json
import re

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import preprocessing as sk
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

import probinfer as pi
from probinfer.errors import DataError, ModelError, PredictionError
from probinfer.model.pipeline import sklearn_steps
from probinfer.model.pipeline.change import Change
from probinfer.model.pipeline.fitted import Affine, Codes, date_part, pack_step, unpack_step
from probinfer.model.pipeline.prepared import FittedColumn
from probinfer.model.pipeline.raw import Kind, Place, dates

ROWS = 60
rng = np.random.default_rng(3)
FRAME = pd.DataFrame(
    {
        "age": rng.uniform(18, 90, ROWS),
        "size": rng.lognormal(0, 1, ROWS),
        "gain": rng.normal(1, 2, ROWS),
        "town": rng.choice(["north", "south", "east"], ROWS),
        "grade": rng.choice([1, 2, 10], ROWS),
        "day": pd.date_range("2023-12-20 07:45", periods=ROWS, freq="31h"),
        "y": rng.normal(size=ROWS),
    }
)
FRAME["income"] = np.where(np.arange(ROWS) % 5 == 0, np.nan, rng.normal(50, 9, ROWS))


def model(X, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


def design(*columns, frame=FRAME):
    """The design matrix of these columns, and the fitted input."""
    pipeline = pi.Pipeline(model, inputs={"X": list(columns)}, outcome={"y": "y"})
    bound = pipeline.bind(frame)
    return np.asarray(bound.arrays["X"]), bound.pipeline.inputs[0]


# steps ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "theirs", "column"),
    [
        (pi.Standardise(), sk.StandardScaler(), "age"),
        (pi.ScaleToRange(-1, 3), sk.MinMaxScaler((-1, 3)), "age"),
        (pi.Log(), sk.FunctionTransformer(np.log), "size"),
        (pi.Log(1), sk.FunctionTransformer(np.log1p), "size"),
        (pi.OneHot(), sk.OneHotEncoder(sparse_output=False), "town"),
        (pi.OneHot(drop_first=True), sk.OneHotEncoder(sparse_output=False, drop="first"), "town"),
        (pi.OneHot(), sk.OneHotEncoder(sparse_output=False), "grade"),  # by size, not by the alphabet: 1, 2, 10
        (pi.Ordinal(), sk.OrdinalEncoder(), "grade"),
        (pi.Impute(), SimpleImputer(strategy="median"), "income"),
        (pi.Impute(pi.Fill.MEAN, indicator=True), SimpleImputer(strategy="mean", add_indicator=True), "income"),
    ],
    ids=repr,
)
def test_a_step_is_scikit_learns(step, theirs, column):
    ours, _ = design(pi.Column(column, step))
    assert np.allclose(ours, theirs.fit_transform(FRAME[[column]]), rtol=1e-12)


@pytest.mark.parametrize(
    ("step", "method", "column"), [(pi.BoxCox(), "box-cox", "size"), (pi.YeoJohnson(), "yeo-johnson", "gain")]
)
def test_powers_are_as_likely_as_scikit_learns(step, method, column):
    ours, fitted = design(pi.Column(column, step, pi.Standardise()))
    theirs = sk.PowerTransformer(method=method).fit(FRAME[[column]])
    assert fitted.columns[0].flat[0].lmbda == pytest.approx(theirs.lambdas_[0], abs=1e-3)
    assert np.allclose(ours, theirs.transform(FRAME[[column]]), atol=1e-3)


@pytest.mark.parametrize("lmbda", [-1.5, 0.0, 1e-9, 0.5, 1.0, 2.0, 3.0])
def test_powers_are_scipys(lmbda):
    from scipy import stats

    assert np.allclose(design(pi.Column("size", pi.BoxCox(lmbda)))[0][:, 0], stats.boxcox(FRAME["size"], lmbda))
    assert np.allclose(design(pi.Column("gain", pi.YeoJohnson(lmbda)))[0][:, 0], stats.yeojohnson(FRAME.gain, lmbda))


def test_date_parts_are_pandas():
    when, days = FRAME.day.to_numpy(), FRAME.day.dt
    expected = [days.year, days.month, days.day, days.day_of_week, days.day_of_year, days.hour, days.minute]
    for part, values in zip(list(pi.DatePart)[:-1], expected, strict=True):
        assert np.array_equal(date_part(when, part), values), part
    assert date_part(np.array(["1970-01-03T12"], "datetime64[us]"), pi.DatePart.DAYS) == 2.5
    early = np.array(["1969-12-31T23:59", "1900-02-28"], "datetime64[us]")  # before the epoch
    assert date_part(early, pi.DatePart.DAY_OF_WEEK).tolist() == [2, 2]
    assert date_part(early, pi.DatePart.MINUTE).tolist() == [59, 0]


def test_cyclic_parts_close_their_circle():
    matrix, fitted = design(pi.Column("day", pi.DateParts([pi.DatePart.HOUR, pi.DatePart.YEAR], cyclic=True)))
    assert fitted.names == ["day.hour.sin", "day.hour.cos", "day.year"]
    assert np.allclose(matrix[:, 0] ** 2 + matrix[:, 1] ** 2, 1)
    assert np.allclose(np.arctan2(matrix[:, 0], matrix[:, 1]) % (2 * np.pi), FRAME.day.dt.hour / 24 * 2 * np.pi)


def test_a_chain_runs_in_its_order_and_spares_the_indicator():
    matrix, fitted = design(pi.Column("income", pi.Impute(indicator=True), pi.Standardise()), pi.Column("age"))
    filled = FRAME.income.fillna(FRAME.income.median()).to_numpy()
    assert fitted.names == ["income", "income missing", "age"]
    assert np.allclose(matrix[:, 0], (filled - filled.mean()) / filled.std())
    assert np.array_equal(matrix[:, 1], FRAME.income.isna())
    assert np.array_equal(matrix[:, 2], FRAME.age)


def test_a_step_after_several_columns_is_fitted_to_each():
    matrix, _ = design(pi.Column("town", pi.OneHot(), pi.Standardise()))
    assert np.allclose(matrix.mean(axis=0), 0)
    assert np.allclose(matrix.std(axis=0), 1)


def test_missing_labels_can_be_a_label():
    frame = FRAME.assign(town=FRAME.town.where(FRAME.index % 4 != 0))
    matrix, fitted = design(pi.Column("town", pi.Impute("none"), pi.OneHot()), frame=frame)
    assert fitted.names == ["town=east", "town=none", "town=north", "town=south"]
    assert np.array_equal(matrix[:, 1], frame.town.isna())
    matrix, fitted = design(pi.Column("town", pi.Impute(pi.Fill.MODE), pi.OneHot()), frame=frame)
    assert len(fitted.names) == 3
    assert matrix.sum() == ROWS


def test_every_step_is_json_and_back():
    _, fitted = design(
        pi.Column("income", pi.Impute(indicator=True), pi.Standardise()),
        pi.Column("size", pi.BoxCox()),
        pi.Column("gain", pi.YeoJohnson(), pi.ScaleToRange()),
        pi.Column("age", pi.Log(0.5)),
        pi.Column("town", pi.OneHot(unseen=pi.Unseen.ZEROS)),
        pi.Column("grade", pi.Ordinal(unseen=pi.Unseen.RESERVE)),
        pi.Column("day", pi.DateParts()),
    )
    for column in fitted.columns:
        assert FittedColumn.unpack(json.loads(json.dumps(column.pack()))) == column


@pytest.mark.parametrize(
    "packed",
    [
        {"step": "os.system", "command": "true"},
        {"step": "affine", "shift": 0.0},
        {"step": "affine", "shift": 0.0, "scale": 0.0},
        {"step": "affine", "shift": float("nan"), "scale": 1.0},
        {"step": "affine", "shift": "0", "scale": 1.0},
        {"step": "codes", "levels": ["a", "a"], "reserve": False},
        {"step": "codes", "levels": [1, 2], "reserve": False},
        {"step": "calendar", "parts": ["century"], "cyclic": False},
        {"step": "filled", "fill": None, "indicator": False},
    ],
    ids=lambda packed: json.dumps(packed)[:40],
)
def test_what_is_no_step_is_refused(packed):
    with pytest.raises((ValueError, KeyError, TypeError)):
        unpack_step(packed)


def test_steps_that_do_not_fit_one_another_are_refused():
    step = pack_step(Affine(0.0, 1.0))
    with pytest.raises(ValueError, match="one step for each column"):
        FittedColumn.unpack({"column": "x", "holds": "numbers", "steps": [[step, step]]})


def test_combinations_of_labels_are_packed_as_what_they_are():
    column = FittedColumn("g:h", Kind.LABEL, ((Codes(("a:1", "a:2", r"b\:c:1")),),), ("g", "h"))
    packed = column.pack()
    assert FittedColumn.unpack(json.loads(json.dumps(packed))) == column
    assert [own.codes.levels for own in column.of_each()] == [("a", "b:c"), ("1", "2")]
    raw = {"g": np.array(["b:c", "a"], object), "h": np.array([1.0, 2.0])}
    place = Place(pi.PredictionError)
    assert column.apply(column.of_raw(raw, place), place)[0].values.tolist() == [2.0, 1.0]
    for change in ({"joined": ["g"]}, {"joined": []}, {"joined": 3}, {"steps": []}):
        with pytest.raises((ValueError, KeyError, TypeError)):
            FittedColumn.unpack({**packed, **change})


# raw columns ---------------------------------------------------------------------------------------------------------

COLUMNS = (
    pi.Column("age", pi.Standardise()),
    pi.Column("income", pi.Impute(indicator=True)),
    pi.Column("town", pi.OneHot()),
    pi.Column("grade", pi.Ordinal()),
    pi.Column("day", pi.DateParts((pi.DatePart.MONTH, pi.DatePart.DAYS))),
)


def objects(frame):
    return pd.DataFrame({name: pd.Series(list(frame[name]), dtype=object) for name in frame})


FORMS = {
    "columns in another order": lambda f: f[list(reversed(f.columns))],
    "further columns": lambda f: f.assign(further="text", another=np.nan),
    "dict of arrays": lambda f: {name: f[name].to_numpy() for name in ("age", "income", "town", "grade", "day", "y")},
    "dict of lists": lambda f: {name: list(f[name]) for name in ("age", "income", "town", "grade", "day", "y")},
    "arrow table": lambda f: pa.Table.from_pandas(f),
    "arrow batch": lambda f: pa.RecordBatch.from_pandas(f),
    "objects": objects,
    "nullable numbers": lambda f: f.assign(income=f.income.astype("Float64"), grade=f.grade.astype("Int64")),
    "categories": lambda f: f.assign(town=f.town.astype("category"), grade=f.grade.astype("category")),
    "float labels": lambda f: f.assign(grade=f.grade.astype(float)),
    "text labels": lambda f: f.assign(grade=f.grade.astype(str), town=f.town.astype("string")),
    "time zone": lambda f: f.assign(day=f.day.dt.tz_localize("Asia/Tokyo")),
    "arrow time zone": lambda f: pa.Table.from_pandas(f.assign(day=f.day.dt.tz_localize("Asia/Tokyo"))),
    "dates as text": lambda f: f.assign(day=f.day.astype(str)),
    "dates in seconds": lambda f: f.assign(day=f.day.astype("datetime64[s]")),
    "None for nan": lambda f: f.assign(income=pd.Series([None if np.isnan(v) else v for v in f.income], dtype=object)),
}


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_the_same_rows_in_another_form_are_the_same(change):
    expected, fitted = design(*COLUMNS)
    bound = pi.Pipeline(model, inputs={"X": list(COLUMNS)}, outcome={"y": "y"}).bind(change(FRAME))
    assert np.array_equal(bound.arrays["X"], expected)
    assert bound.pipeline.inputs[0] == fitted


def test_single_values_are_one_row():
    prepared = pi.Pipeline(model, inputs={"X": list(COLUMNS)}, outcome={"y": "y"}).bind(FRAME).pipeline.prepared("y")
    first = FRAME.iloc[0].to_dict()
    rows = {name: first[name] for name in ("age", "income", "town", "grade", "day")}
    arrays, count = prepared.apply(rows, Place(PredictionError))
    assert count == 1
    assert np.array_equal(arrays["X"], design(*COLUMNS)[0][:1])


def changed(**columns):
    return FRAME.assign(**columns)


def with_value(name, value, row=7):
    values = list(FRAME[name])
    values[row] = value
    return changed(**{name: pd.Series(values, dtype=object)})


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (FRAME.drop(columns=["age", "town"]), "The rows lack age, town; they have size, gain"),
        (
            with_value("age", None),
            "age is missing in row 7 (the first row is row 0); every row needs a value, or declare",
        ),
        (with_value("age", "old"), "age is 'old' in row 7"),
        (with_value("age", np.inf), "age is inf in row 7 (the first row is row 0); wanted finite numbers."),
        (with_value("town", "west"), "town is 'west' in row 7 (the first row is row 0): a label that training has not"),
        (with_value("town", None), "town is missing in row 7"),
        (with_value("town", 2j), "town is 2j in row 7"),
        (with_value("grade", 3), "It knows 1, 2, 10."),
        (with_value("day", "soon"), "day is 'soon' in row 7 (the first row is row 0); wanted a date"),
        (with_value("day", "2024-01-01T00:00+02:00"), "without a time zone."),
        (with_value("day", pd.NaT), "day is missing in row 7"),
        (changed(age="text"), "wanted a number"),
        (changed(day=1.0), "day holds float64; wanted dates"),
        ({**{n: FRAME[n] for n in ("age", "income", "town", "grade", "day")}, "agee": 1}, "Nothing is known of 'agee'"),
        ({**{n: FRAME[n] for n in ("income", "town", "grade", "day")}, "age": 3.0}, "age is a single value"),
        ({**{n: FRAME[n] for n in ("income", "town", "grade", "day")}, "age": [3.0]}, "age has 1, income has 60"),
        (pd.concat([FRAME, FRAME[["age"]]], axis=1), "more than one column called age"),
        ([1, 2], "rows came as list; wanted a table (pandas, polars, pyarrow), or a dict of columns"),
    ],
)
def test_rows_that_do_not_fit_are_named(frame, text):
    prepared = pi.Pipeline(model, inputs={"X": list(COLUMNS)}, outcome={"y": "y"}).bind(FRAME).pipeline.prepared("y")
    with pytest.raises(PredictionError) as error:
        prepared.apply(frame, Place(PredictionError))
    assert text in str(error.value)


def test_errors_count_rows_of_the_whole_table():
    prepared = pi.Pipeline(model, inputs={"X": list(COLUMNS)}, outcome={"y": "y"}).bind(FRAME).pipeline.prepared("y")
    with pytest.raises(PredictionError, match="age is missing in row 1007 "):
        prepared.apply(with_value("age", None), Place(PredictionError, 1000))


def test_unseen_labels_have_the_answer_that_was_asked_for():
    columns = (
        pi.Column("town", pi.OneHot(unseen=pi.Unseen.ZEROS)),
        pi.Column("grade", pi.Ordinal(unseen=pi.Unseen.RESERVE)),
    )
    _, fitted = design(*columns)
    row = fitted.apply({"town": np.array(["moon"], object), "grade": np.array([99])}, Place(PredictionError))
    assert row.tolist() == [[0.0, 0.0, 0.0, 3.0]]


def test_times_keep_their_wall_clock():
    zone = datetime.timezone(datetime.timedelta(hours=9))
    came = np.array([datetime.datetime(2024, 1, 1, 5, tzinfo=zone), datetime.date(2024, 1, 2), None], object)
    found = dates("t", came, Place(DataError))
    assert found.astype(str).tolist() == ["2024-01-01T05:00:00.000000", "2024-01-02T00:00:00.000000", "NaT"]


# fitted on training rows, and only there ------------------------------------------------------------------------------


def test_the_rows_left_out_have_no_influence():
    pipeline = pi.Pipeline(
        model, inputs={"X": list(COLUMNS)}, outcome={"y": pi.Column("y", pi.YeoJohnson(), pi.Standardise())}
    )
    train, out = FRAME.iloc[:40], FRAME.iloc[40:]
    wild = pd.concat([train, out.assign(age=1e6, income=-1e6, y=1e3)])
    alone = pipeline.settle(train).fitted
    assert pipeline.settle(wild.iloc[:40]).fitted == alone
    assert pipeline.settle(wild).fitted != alone  # what a leak would look like
    raw = pipeline.bind(train).raw
    assert pipeline.settle(raw).fitted == alone  # a posterior keeps the raw columns: to bind again is to fit the same


def test_a_settled_pipeline_only_transforms():
    settled = pi.Pipeline(model, inputs={"X": [pi.Column("age", pi.Standardise())]}, outcome={"y": "y"}).settle(FRAME)
    shifted = settled.bind(FRAME.assign(age=FRAME.age + 1000))
    assert np.asarray(shifted.arrays["X"]).mean() == pytest.approx(1000 / FRAME.age.std(ddof=0))


# the outcome's change -------------------------------------------------------------------------------------------------

CHANGES = {
    "log": (pi.Log(),),
    "shifted log": (pi.Log(2), pi.Standardise()),
    "box-cox": (pi.BoxCox(0.3), pi.Standardise()),
    "square": (pi.BoxCox(2.0),),
    "yeo-johnson": (pi.YeoJohnson(0.4), pi.Standardise()),
    "yeo-johnson 0": (pi.Standardise(), pi.YeoJohnson(0.0), pi.Standardise()),
    "yeo-johnson 2": (pi.YeoJohnson(2.0), pi.ScaleToRange()),
    "linear": (pi.Standardise(), pi.ScaleToRange(1, 2)),
}


@pytest.mark.parametrize("steps", CHANGES.values(), ids=CHANGES)
def test_a_change_is_its_steps_and_back(steps):
    pipeline = pi.Pipeline(model, inputs={"X": ["age"]}, outcome={"y": pi.Column("size", *steps)})
    bound = pipeline.bind(FRAME)
    change, y = bound.pipeline.outcomes[0].change, FRAME["size"].to_numpy()
    z = change.forward(y)
    assert np.allclose(z, bound.arrays["y"], rtol=1e-12, atol=1e-12)
    assert np.allclose(change.back(z), y, rtol=1e-10)
    numeric = (change.forward(y * 1.00001) - change.forward(y / 1.00001)) / (y * 1.00001 - y / 1.00001)
    assert np.allclose(change.log_slope(y), np.log(numeric), atol=1e-7)
    assert Change.unpack(json.loads(json.dumps(change.pack()))) == change


def test_a_power_ends_where_it_does_not_reach():
    change = Change.of([step.fit("y", np.array([1.0, 2.0]), Place(DataError)) for step in (pi.BoxCox(0.5),)])
    assert change.back(np.array([-2.0, -3.0])).tolist() == [0.0, 0.0]
    assert change.forward(np.array([0.0, -1.0])).tolist() == [-2.0, -2.0]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pi.Column("size", pi.Log(), pi.YeoJohnson(1.5)), "it has two curved steps"),
        (pi.Column("size", pi.BoxCox(-0.5)), "lmbda is -0.5"),
        (pi.Column("size", pi.YeoJohnson(2.5)), "lmbda is 2.5"),
        (pi.Column("town", pi.OneHot()), "an outcome is one column"),
        (pi.Column("town", pi.Ordinal(unseen=pi.Unseen.RESERVE)), "no class for labels that are new"),
    ],
)
def test_outcomes_without_a_way_back_are_refused(column, text):
    with pytest.raises(ModelError, match=text):
        pi.Pipeline(model, inputs={"X": ["age"]}, outcome={"y": column}).bind(FRAME)


# declarations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda: pi.Column("age", pi.Standardise), "wanted Standardise\\(\\)"),
        (lambda: pi.Column("age", "log"), "wanted a step"),
        (lambda: pi.Column(3), "the name is 3"),
        (lambda: pi.Column("age", pi.Log(), pi.OneHot()), "OneHot reads labels, and comes after"),
        (lambda: pi.OneHot(unseen=pi.Unseen.RESERVE), "wanted Unseen.ERROR or Unseen.ZEROS"),
        (lambda: pi.Ordinal(levels=["a", "a"]), "wanted different labels"),
        (lambda: pi.ScaleToRange(1, 1), "wanted low below high"),
        (lambda: pi.DateParts(["year"]), "wanted different DatePart"),
        (lambda: pi.Log("1"), "wanted a finite number"),
        (lambda: pi.Pipeline(model, inputs=["age"]), "inputs came as list; wanted a dict"),
        (lambda: pi.Pipeline(model, inputs={"X": []}), "empty list"),
        (lambda: pi.Pipeline(model, inputs={"X": 3}), "the input 'X' came as int"),
        (lambda: pi.Pipeline(model, inputs={"X": "age"}, outcome={"X": "y"}), "declares X twice"),
        (lambda: pi.Pipeline(model, inputs={"X": "age"}, sizes={"J": "X"}), "sizes has 'J': 'X'"),
        (lambda: pi.Pipeline(model, inputs={"X": "a"}, outcome={"y": pi.Column("y", pi.Impute())}), "is imputed"),
        (lambda: pi.Pipeline(pi.LogDensity(lambda x: 0.0, 1), inputs={}), "model came as LogDensity"),
    ],
)
def test_declarations_check_themselves(declare, text):
    with pytest.raises(ModelError, match=text):
        declare()


@pytest.mark.parametrize(
    ("column", "frame", "text"),
    [
        (pi.Column("age", pi.Standardise()), changed(age=3.0), "age is 3 in every row of training"),
        (pi.Column("gain", pi.Log()), FRAME, "a logarithm wants numbers above 0"),
        (pi.Column("gain", pi.BoxCox()), FRAME, "a Box-Cox transform wants numbers above 0"),
        (pi.Column("income", pi.Standardise()), FRAME, "income is missing in row 0 and 11 more"),
        (pi.Column("town", pi.Impute(pi.Fill.MEAN), pi.OneHot()), FRAME, "labels, which have no mean"),
        (pi.Column("age", pi.Impute("none")), FRAME, "holds numbers and is to be filled with 'none'"),
        (pi.Column("income", pi.Impute()), changed(income=np.nan), "income has no value in any row"),
        (pi.Column("town", pi.Ordinal(levels=["north", "south"])), FRAME, "levels= has north, south"),
        (pi.Column("town", pi.Standardise()), FRAME, "Text is coded by OneHot"),
        (pi.Column("age"), FRAME.iloc[:0], "The data have no rows"),
    ],
)
def test_training_rows_that_no_step_can_use_are_named(column, frame, text):
    with pytest.raises(DataError, match=text):
        design(column, frame=frame)


# scikit-learn ---------------------------------------------------------------------------------------------------------


def transformer(*more, **settings):
    return ColumnTransformer(
        [
            ("scaled", make_pipeline(SimpleImputer(), sk.StandardScaler()), ["income", "age"]),
            ("power", sk.PowerTransformer(), ["gain"]),
            ("box", sk.PowerTransformer("box-cox", standardize=False), slice("size", "size")),
            ("range", sk.MinMaxScaler(), [0]),
            ("robust", sk.RobustScaler(), ["age", "gain"]),
            ("most", sk.MaxAbsScaler(), ["gain"]),
            ("logs", sk.FunctionTransformer(np.log10), ["size", "age"]),
            ("hot", make_pipeline(sk.OneHotEncoder(sparse_output=False), sk.StandardScaler()), ["town", "grade"]),
            ("codes", sk.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=3), ["town"]),
            ("other", sk.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["town"]),
            ("dropped", "drop", ["day"]),
            *more,
        ],
        **settings,
    )


def test_a_column_transformer_is_read_and_agrees():
    fitted = transformer().fit(FRAME.drop(columns="y"))
    bound = pi.Pipeline(model, inputs={"X": fitted}, outcome={"y": "y"}).bind(FRAME)
    assert np.allclose(bound.arrays["X"], fitted.transform(FRAME), rtol=1e-12, atol=1e-12)
    new = FRAME.sample(20, random_state=0)
    ours = bound.pipeline.inputs[0].apply({name: new[name].to_numpy() for name in new}, Place(PredictionError))
    assert np.allclose(ours, fitted.transform(new), rtol=1e-12, atol=1e-12)


def test_the_remainder_can_be_passed_through():
    fitted = ColumnTransformer([("log", sk.FunctionTransformer(np.log1p), ["size"])], remainder="passthrough")
    fitted.fit(FRAME[["gain", "size", "age"]])
    bound = pi.Pipeline(model, inputs={"X": fitted}, outcome={"y": "y"}).bind(FRAME)
    assert np.allclose(bound.arrays["X"], fitted.transform(FRAME))


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (PCA(1), "a PCA, which cannot be stored without pickle"),
        (sk.FunctionTransformer(np.sin), "the function sin"),
        (sk.FunctionTransformer(lambda x: x), "the function <lambda>"),
        (sk.MinMaxScaler(clip=True), "clip=True"),
        (sk.OneHotEncoder(min_frequency=30, handle_unknown="infrequent_if_exist"), "infrequent categories"),
        (sk.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), "unknown_value=nan"),
        (SimpleImputer(add_indicator=True), "add_indicator=True"),
    ],
)
def test_a_step_that_cannot_be_stored_is_refused_by_name(step, text):
    column = "grade" if type(step).__name__ in ("OneHotEncoder", "OrdinalEncoder") else "age"
    fitted = ColumnTransformer([("mine", step, [column])]).fit(FRAME)
    with pytest.raises(ModelError, match=text):
        pi.Pipeline(model, inputs={"X": fitted})


def test_an_unfitted_column_transformer_is_refused():
    with pytest.raises(ModelError, match="not fitted on a data frame"):
        pi.Pipeline(model, inputs={"X": transformer()})
    with pytest.raises(ModelError, match="not fitted on a data frame"):
        pi.Pipeline(model, inputs={"X": ColumnTransformer([("a", sk.StandardScaler(), [0])]).fit(np.eye(3))})


def test_a_conversion_that_is_wrong_is_caught(monkeypatch):
    monkeypatch.setitem(sklearn_steps._CONVERSIONS, "RobustScaler", sklearn_steps._max_abs)
    fitted = transformer().fit(FRAME.drop(columns="y"))
    with pytest.raises(ModelError, match="gives other numbers than its steps as they are known here: age differs"):
        pi.Pipeline(model, inputs={"X": fitted}, outcome={"y": "y"}).bind(FRAME)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (1e9 + 1e-6 * np.arange(4.0), "differs from row to row only in the last digits of numbers such as 1e+09"),
        (np.array([1.0, 2.0]) * 1e-200, "differs from row to row only in the last digits"),
        (np.array([-1e300, 1e300]), "has numbers up to 1e+300, too large to be scaled"),
        (np.full(3, 0.1), "is 0.1 in every row of training"),
    ],
)
def test_a_column_without_a_spread_to_scale_by_is_told_why(values, said):
    with pytest.raises(pi.DataError, match=re.escape(said)):
        pi.Standardise().fit("x", values, Place(DataError))
