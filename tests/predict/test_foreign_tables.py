"""Tables of other libraries, by Arrow's stream: what is in them means what it means from pandas."""

import datetime
import decimal

import duckdb
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import probinfer as pi
from probinfer.model.data import check_data
from probinfer.model.tables import as_frame, as_table
from tests.predict import models as m
from tests.predict.fits import Fit, fitted

X = [0.0, 1.5, -2.0]
FRAME = pd.DataFrame({"x": X, "other": ["a", "b", "c"]})
KINDS = {
    "polars": lambda frame: pl.from_pandas(frame),
    "duckdb": lambda frame: duckdb.from_arrow(pa.Table.from_pandas(frame, preserve_index=False)),
    "a stream": lambda frame: pa.Table.from_pandas(frame, preserve_index=False).to_reader(),
    "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
}


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE)


def a_slope(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_data_frame(line, kind):
    """Each call reads once: a stream is gone after it."""
    made = KINDS[kind]
    assert np.array_equal(line.predict(made(FRAME)).mean, line.predict(FRAME).mean)
    assert np.array_equal(line.sample(made(FRAME), 3), line.sample(FRAME, 3))
    assert np.array_equal(line.log_score(made(FRAME), X), line.log_score(FRAME, X))
    assert np.array_equal(line.cdf(made(FRAME), X), line.cdf(FRAME, X))


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_in_groups_of_a_column(line, kind):
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"x": rng.normal(size=80), "side": np.resize(["left", "right"], 80)})
    y = rng.normal(size=80)
    one, two = (line.calibrate(given, y, groups="side") for given in (rows, KINDS[kind](rows)))
    new = rows.head(4)
    assert np.array_equal(two.predict(KINDS[kind](new)).lower, one.predict(new).lower)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_are_inferred_from(kind):
    frame = pd.DataFrame({"x": m.x, "y": m.y})
    one, two = (pi.infer(a_slope, data, pi.Exact(draws=50), progress=False) for data in (frame, KINDS[kind](frame)))
    assert np.array_equal(one.latents["slope"], two.latents["slope"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_formula_reads_them(kind):
    frame = pd.DataFrame({"x": m.x, "y": m.y, "side": np.resize(["left", "right"], len(m.x))})
    model = pi.formula("y ~ x + side")
    bound, other = model.bind(frame), model.bind(KINDS[kind](frame))
    for name, values in bound.arrays.items():
        assert np.array_equal(values, other.arrays[name])


@pytest.mark.parametrize("kind", KINDS)
def test_splits_and_gaps(line, kind):
    parts = pi.split(KINDS[kind](FRAME), (0.6, 0.4), seed=0)
    for one, two in zip(parts, pi.split(FRAME, (0.6, 0.4), seed=0), strict=True):
        assert one.equals(two)
    gaps = FRAME.assign(x=[0.0, None, 1.0])
    one, two = (line.predict(given, missing={"x": m.x}) for given in (gaps, KINDS[kind](gaps)))
    assert np.array_equal(one.mean, two.mean)


def test_values_mean_what_they_mean_from_pandas():
    """Of each kind of column the same numbers, or the same refusal."""
    polars = pl.DataFrame(
        {
            "number": [1, 2, 3],
            "gap": [1, None, 3],
            "small": pl.Series([1, 2, 3], dtype=pl.UInt8),
            "single": pl.Series([0.5, 1.5, 2.5], dtype=pl.Float32),
            "text": ["a", "b", "c"],
            "no": [True, False, True],
            "maybe": [True, None, False],
            "day": [datetime.date(2026, 1, day) for day in (1, 2, 3)],
            "time": [datetime.datetime(2026, 1, day) for day in (1, 2, 3)],
            "money": [decimal.Decimal("1.50"), decimal.Decimal("2.25"), decimal.Decimal(-3)],
            "debt": [decimal.Decimal("1.50"), None, decimal.Decimal(-3)],
            "code": pl.Series(["z", "a", "z"], dtype=pl.Categorical),
            "grade": pl.Series(["low", "high", "low"], dtype=pl.Enum(["low", "high"])),
        }
    )
    pandas = as_frame(polars)
    assert pandas["code"].cat.categories.tolist() == ["a", "z"]
    assert pandas["grade"].cat.categories.tolist() == ["low", "high"]
    for name in polars.columns:
        said = []
        for data in (polars.select(name), pandas[[name]], {name: pandas[name]}, pa.table(polars.select(name))):
            try:
                found = check_data(data).arrays[name]
                said.append((found.dtype.name, found.tolist()))
            except pi.DataError as error:
                said.append(str(error))
        assert said[1:] == said[:-1], name
    assert check_data(polars.select("money")).arrays["money"].tolist() == [1.5, 2.25, -3.0]
    for name, text in (("gap", "NaN"), ("maybe", "missing"), ("debt", "missing"), ("day", "date"), ("time", "dates")):
        with pytest.raises(pi.DataError, match=text):
            check_data(polars.select(name))


def test_a_gap_in_a_column_of_labels_is_no_label(line):
    """Arrow's own conversion of such a column to NumPy gives the first label where there is none."""
    rows = pa.table({"x": m.x[:3] + 0.1, "side": pa.array(["left", None, "left"]).dictionary_encode()})
    with pytest.raises(pi.PredictionError, match=r"side is (None|nan) in row 1"):
        line.calibrate(rows, [0.0, 0.1, 0.2], groups="side")


def test_raw_columns_of_a_pipeline():
    def model(age, region, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        effect = numpyro.sample("effect", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(slope * age + effect[region], 1.0), obs=y)

    pipeline = pi.Pipeline(
        model,
        inputs={"age": pi.Column("age", pi.Impute(), pi.Standardise()), "region": pi.Column("region", pi.Ordinal())},
        outcome={"y": pi.Column("y")},
    )
    frame = pd.DataFrame({"age": [41.0, None, 28.0], "region": ["north", "west", "north"], "y": [1.0, 2.0, 3.0]})
    polars = pl.from_pandas(frame)
    draws = {"slope": np.linspace(0, 1, 8), "effect": np.ones((8, 2))}
    predictor = pi.Predictor(Fit(pipeline, frame, draws))
    assert np.array_equal(predictor.predict(polars).mean, predictor.predict(frame).mean)
    assert np.array_equal(pipeline.bind(polars).arrays["age"], pipeline.bind(frame).arrays["age"])
    code = polars.with_columns(pl.col("region").cast(pl.Categorical), pl.col("age").cast(pl.Decimal(10, 2)))
    assert np.array_equal(predictor.predict(code).mean, predictor.predict(frame).mean)


def test_a_column_of_vectors():
    """Lists or arrays of one length are what the columns X[0], X[1] are."""

    def model(X, y=None):
        slopes = numpyro.sample("slopes", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ slopes, 1.0), obs=y)

    X = np.arange(10.0).reshape(5, 2)
    wide = fitted(model, {"X": X, "y": X[:, 0]}, {"slopes": np.linspace(0, 1, 16).reshape(8, 2)})
    lists = X.tolist()
    series = pl.Series("X", lists, dtype=pl.Array(pl.Float64, 2))
    for table in (pl.DataFrame({"X": lists}), series.to_frame(), pd.DataFrame({"X": lists}), pa.table({"X": lists})):
        assert np.array_equal(wide.predict(table).mean, wide.predict({"X": X}).mean)
        assert np.array_equal(check_data(table).arrays["X"], X)
    with pytest.raises(pi.PredictionError, match="are its rows of different lengths"):
        wide.predict(pl.DataFrame({"X": [[1.0, 2.0], [1.0]]}))
    with pytest.raises(pi.PredictionError, match=r"X has the shape \(1, 3\); wanted \(rows, 2\)"):
        wide.predict(pl.DataFrame({"X": [[1.0, 2.0, 3.0]]}))


def test_what_is_no_table_is_refused_as_before(line):
    for rows in (pl.DataFrame(FRAME).lazy(), pl.Series("x", X), 3):
        assert as_table(rows) is rows
        with pytest.raises(pi.PredictionError, match=r"rows came as \w+; wanted a dict of arrays"):
            line.predict(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_more_rows_for_a_posterior(kind):
    frame = pd.DataFrame({"x": m.x, "y": m.y})
    posterior = pi.infer(a_slope, frame, pi.Exact(draws=200), progress=False)
    more = KINDS[kind](frame.head(5))
    assert np.array_equal(*(posterior.update(rows, seed=1).latents["slope"] for rows in (frame.head(5), more)))


# decimals ------------------------------------------------------------------------------------------------------------


def test_decimals_are_numbers(line):
    exact = [decimal.Decimal(str(value)) for value in X]
    for rows in ({"x": exact}, {"x": np.array(exact)}, pd.DataFrame({"x": exact}), pa.table({"x": exact})):
        assert np.array_equal(line.predict(rows).mean, line.predict({"x": X}).mean)
    assert line.predict({"x": exact[0]}).mean.tolist() == line.predict({"x": X[0]}).mean.tolist()
    assert np.array_equal(line.log_score({"x": X}, exact), line.log_score({"x": X}, X))
    assert np.array_equal(check_data({"x": exact, "n": 3}).arrays["x"], X)
    for odd in ("NaN", "sNaN", "Infinity"):
        with pytest.raises(pi.PredictionError, match=r"x is (nan|inf) in row 1"):
            line.predict({"x": [exact[0], decimal.Decimal(odd)]})
    with pytest.raises(pi.PredictionError, match="x is missing in row 1"):
        line.predict({"x": [exact[0], None]})
