"""Wrong calls that once gave an error of a library: each says what came and what is wanted, before any work."""

import re

import numpy as np
import numpyro
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpyro import distributions as dist
from sklearn.linear_model import LinearRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probinfer as pi
from probinfer.evaluate.splits import folds_of
from tests.predict import models as m
from tests.predict.fits import Fit, fitted


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE)


@pytest.fixture(scope="module")
def point():
    return pi.PointPredictor(lambda X: X[:, 0], inputs=["x"]).calibrate({"x": m.x}, m.y)


def refuses(error, words, work, *arguments, **more):
    with pytest.raises(error, match=re.escape(words)):
        work(*arguments, **more)


@pytest.mark.parametrize("wrong", [0.5, "0.5", np.array(0.5), {0.5: 1}], ids=["number", "text", "array", "dict"])
def test_quantiles_that_are_no_list(line, point, wrong, tmp_path):
    for predictor in (line, point):
        refuses(pi.PredictionError, f"quantiles came as {wrong!r}", predictor.predict, {"x": [1.0]}, quantiles=wrong)
        refuses(pi.PredictionError, "quantiles has 2", predictor.predict, {"x": [1.0]}, quantiles=(2,))
    refuses(pi.PredictionError, "quantiles came as", line.export_onnx, tmp_path / "x.onnx", quantiles=wrong)
    assert line.predict({"x": [1.0]}, quantiles=np.array([0.5])).quantiles.shape == (1, 1)
    assert point.predict({"x": [1.0]}, quantiles=[np.float32(0.5)]).quantiles.shape == (1, 1)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, None, True])
def test_numbers_of_draws(line, wrong):
    refuses(pi.PredictionError, f"draws is {wrong!r}; wanted a whole number, 1", line.sample, {"x": [1.0]}, draws=wrong)


def test_no_rows_have_no_answers(line):
    assert line.cdf({"x": []}, []).shape == (0, 2)
    assert line.log_score({"x": []}, []).shape == (0,)
    assert line.sample({"x": []}, draws=3).shape == (3, 0)


@pytest.mark.parametrize("wrong", ["a", 1.5, None, True])
def test_numbers_of_the_first_row(line, wrong):
    refuses(pi.PredictionError, f"first_row is {wrong!r}", line.predict, {"x": [1.0]}, first_row=wrong)


@pytest.mark.parametrize("wrong", [None, "a", 3])
def test_what_is_no_posterior_or_predictor(wrong):
    came = type(wrong).__name__
    for work in (pi.Predictor, pi.loo, pi.prior_sensitivity, pi.posterior_check):
        refuses(pi.PredictionError, f"posterior came as {came}; wanted the Posterior", work, wrong)
    refuses(pi.PredictionError, f"predictor came as {came}; wanted a Predictor", pi.Monitor, wrong, {"x": m.x})


def test_statistics_are_functions_by_name():
    fit = Fit(pi.Model(m.line), {"x": m.x, "y": m.y}, m.LINE)
    for wrong in ("mean", ["mean"], {"mean": "mean"}):
        refuses(pi.PredictionError, "statistics came as", pi.posterior_check, fit, statistics=wrong)
        refuses(pi.PredictionError, "statistics came as", pi.prior_check, m.line, fit.data, statistics=wrong)


@pytest.mark.parametrize("wrong", [None, 3])
def test_paths_that_are_none(line, wrong):
    refuses(pi.ArtifactError, f"path is {wrong!r}; wanted the name of a folder", pi.load_predictor, wrong)
    refuses(pi.ArtifactError, f"path is {wrong!r}; wanted the name of a folder", line.save, wrong)
    refuses(pi.ExportError, f"path is {wrong!r}; wanted the name of a file", line.export_onnx, wrong)


def test_an_onnx_file_into_a_folder_or_none(line, tmp_path):
    refuses(pi.ExportError, f"{tmp_path} is a folder; wanted the name of a file", line.export_onnx, tmp_path)
    refuses(pi.ExportError, "none is no folder; make it first", line.export_onnx, tmp_path / "none" / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_seeds_of_metrics_and_parts_of_a_split(line):
    for wrong in ("a", -1, 1.5, None, True):
        refuses(pi.PredictionError, f"seed is {wrong!r}", pi.metrics, line, {"x": m.x}, m.y, seed=wrong)
    for wrong in ("a", None, ("a", "b"), [[0.5], [0.5, 0.1]]):
        refuses(pi.DataError, f"parts is {wrong!r}", pi.split, {"x": m.x}, wrong)


def test_models_as_points():
    refuses(
        pi.ModelError, "the class LinearRegression; wanted a fitted", pi.PointPredictor, LinearRegression, inputs=["x"]
    )
    refuses(pi.ModelError, "none.onnx is no file", pi.PointPredictor, "none.onnx", inputs=["x"])
    unfitted = pi.PointPredictor(LinearRegression(), inputs=["x"])
    refuses(pi.PredictionError, "The LinearRegression is not fitted", unfitted.calibrate, {"x": m.x}, m.y)

    def broken(X):
        raise ValueError("of the model itself")

    refuses(ValueError, "of the model itself", pi.PointPredictor(broken, inputs=["x"]).calibrate, {"x": m.x}, m.y)


def test_estimators_of_other_inputs_or_without_probabilities():
    frame = pd.DataFrame({"a": m.x, "b": m.x**2})
    labels = m.x > 0
    line = LinearRegression().fit(frame, m.y)
    refuses(pi.ModelError, "fitted to the columns a, b, in this order", pi.PointPredictor, line, inputs=["b", "a"])
    line = LinearRegression().fit(frame.to_numpy(), m.y)
    refuses(pi.ModelError, "inputs are 1 numbers of each row, a", pi.PointPredictor, line, inputs=["a"])
    for model in (RidgeClassifier(), make_pipeline(StandardScaler(), RidgeClassifier())):
        model.fit(frame, labels.astype(int))  # whose labels would pass for numbers
        refuses(pi.ModelError, "gives no probabilities", pi.PointPredictor, model)
    several = KNeighborsClassifier().fit(frame, np.stack([labels, ~labels], 1))
    refuses(pi.ModelError, "fitted to several outcomes", pi.PointPredictor, several)


def test_one_model_is_not_compared():
    fit = Fit(pi.Model(m.line), {"x": m.x, "y": m.y}, m.LINE)
    refuses(pi.PredictionError, "models has 1 ('a'); wanted two or more", pi.compare, {"a": fit})
    refuses(pi.PredictionError, "models came as list", pi.compare, [fit, fit])


def test_folds_of_single_numbers_are_none():
    refuses(pi.DataError, "fold 0 is no pair of arrays", folds_of, [(0, 1)], m.y, None, False, 0)
    assert len(folds_of([([0], [1])], m.y, None, False, 0)) == 1


def test_time_series_are_shown_the_way():
    def step(sd):
        return dist.Normal(0.0, sd)

    space = pi.StateSpace(
        initial=lambda params: step(1.0),
        transition=lambda x, t, params: dist.Normal(x, params["sd"]),
        observation=lambda x, t, params: dist.Normal(x, 1.0),
        prior={"sd": dist.HalfNormal(1.0)},
    )
    fit = Fit(space, m.y, {"sd": np.ones(m.DRAWS)})
    refuses(pi.ModelError, "pi.Forecaster(posterior).predict(steps=12)", pi.Predictor, fit)

    def series(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("next", dist.Normal(a * y[:-1], 1.0), obs=y[1:])

    refuses(pi.ModelError, "the data before=y[:-1] and y=y[1:]", fitted, series, {"y": m.y}, {"a": m.draws()})

    def lagged(before, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a * before, 1.0), obs=y)

    predictor = fitted(lagged, {"before": m.y[:-1], "y": m.y[1:]}, {"a": m.draws()})
    assert predictor.predict({"before": [2.0]}).mean[0] == pytest.approx(2.0 * m.draws().mean())


# what newcomers try --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([{"x": 0.1}, {"x": 0.2}], "Of records make a table: pandas.DataFrame(rows)"),
        (pd.Series([0.1], name="x"), "table.iloc[[0]]"),
        ("rows.csv", "Read the file first, as by pandas.read_csv"),
        (np.zeros((3, 1)), "Say which column is which: {'name': rows[:, 0]}"),
        (np.array([(0.1,)], [("x", float)]), "Of a structured array make a table"),
        (pl.LazyFrame({"x": [0.1]}), "rows.collect()"),
        (3, "or a table (pandas, polars, pyarrow)."),
    ],
)
def test_rows_that_are_no_table_say_how_to_make_one(line, rows, text):
    refuses(pi.PredictionError, text, line.predict, rows)


def test_a_column_that_is_there_twice_and_a_gap(line):
    twice = pd.DataFrame([[0.0, 1.0]], columns=["x", "x"])
    refuses(pi.PredictionError, "more than one column called x", line.predict, twice)
    refuses(pi.PredictionError, "finite numbers. For a gap, missing={input: values}", line.predict, {"x": [np.nan]})
    with pytest.raises(pi.PredictionError, match=r"x is inf .* wanted finite numbers\.$"):
        line.predict({"x": [np.inf]})


def test_outcomes_may_be_a_table_of_one_column_and_are_no_name(line):
    rows, y = {"x": m.x[:5] + 0.1}, m.y[:5]
    for table in (pd.DataFrame({"y": y}), pl.DataFrame({"y": y}), pa.table({"y": y})):
        assert np.array_equal(line.log_score(rows, table), line.log_score(rows, y))
        assert pi.metrics(line, rows, table)["mae"] == pi.metrics(line, rows, y)["mae"]
        assert line.calibrate(rows, table).calibration is not None
    refuses(pi.PredictionError, "y came as 'y'; wanted the outcomes themselves", line.calibrate, rows, "y")
    refuses(pi.PredictionError, "y has the shape (5, 1)", line.log_score, rows, y[:, None])


def test_what_is_no_posterior_and_no_artifact_says_what_to_do(line, tmp_path):
    refuses(pi.PredictionError, "pi.load_predictor('p')", pi.Predictor, "p")
    refuses(pi.PredictionError, "A model is fitted first: pi.infer(model, data)", pi.Predictor, m.line)
    line.save(tmp_path / "p")
    line.save(tmp_path / "q.zip")
    refuses(pi.ArtifactError, "There are predictors in it: p, q.zip.", pi.load_predictor, tmp_path)
    (tmp_path / "post.nc").write_bytes(b"\x89HDF")
    refuses(pi.ArtifactError, "pi.load_posterior(path, model, data)", pi.load_predictor, tmp_path / "post.nc")
    refuses(pi.ArtifactError, "Path(path).expanduser()", line.save, "~/nowhere/p")
    with pytest.raises(pi.ArtifactError) as error:
        pi.load_predictor((tmp_path / "q.zip").read_bytes())
    assert len(str(error.value)) < 150
    refuses(pi.PredictionError, "tolerance is 2; wanted a part of the row's sd", line.compress, {"x": m.x}, tolerance=2)


def test_a_column_that_the_model_does_not_take_is_named_before_its_content(line):
    refuses(pi.DataError, "it has no argument 't'", pi.infer, m.line, pd.DataFrame({"x": m.x, "y": m.y, "t": "text"}))
    refuses(pi.DataError, "Of records make a table", pi.infer, m.line, [{"x": 1.0, "y": 2.0}])


def test_groups_by_the_name_of_a_column():
    data = {"x": m.x, "y": m.y, "who": np.resize(["a", "b", "c", "d"], len(m.x))}
    for given in (data, pd.DataFrame(data), pl.DataFrame(data)):
        one, two = (pi.split(given, (0.5, 0.5), groups=by) for by in (data["who"], "who"))
        assert all(np.array_equal(a["y"], b["y"]) for a, b in zip(one, two, strict=True))
        parts = pi.split(given, (0.5, 0.5), stratify="who")
        assert set(np.asarray(parts[0]["who"])) == set("abcd")
    refuses(pi.DataError, "groups names 'whom', which is no column of the data; they", pi.split, data, groups="whom")
