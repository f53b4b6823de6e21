"""Tables of forecasts: the library's own numbers, whatever order the rows come in, and words for what does not fit."""

import json
import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

import probinfer as pi
from probinfer import cli
from probinfer.deploy.score import score
from probinfer.deploy.table_sink import IfExists
from tests.predict import models as m
from tests.predict.fits import Fit, fitted
from tests.predict.test_forecaster import NEW, Q, Y, linear


@pytest.fixture(scope="module")
def forecaster():
    return pi.Forecaster(Fit(linear(), Y, {"q": np.linspace(Q.min(), Q.max(), 60)}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, forecaster):
    """`sales`; `stores`, with `a` and `7`, which has seen more; `line`, of rows."""
    place = tmp_path_factory.mktemp("scored")
    forecaster.save(place / "sales")
    (place / "stores").mkdir()
    forecaster.save(place / "stores" / "a")
    forecaster.observe([0.5]).save(place / "stores" / "7")
    fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4).save(place / "line")
    return place


def same(table, forecast):
    for name, values in forecast.columns().items():
        np.testing.assert_allclose(table[name], values, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_table_of_what_came_gives_one_of_what_comes(folder, forecaster, tmp_path, suffix):
    since = pd.DataFrame({"other": list("abcd"), "observations": NEW})
    write = {"csv": since.to_csv, "parquet": since.to_parquet}
    if suffix == "jsonl":
        since.to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    else:
        write[suffix](tmp_path / f"in.{suffix}", index=False)
    out = tmp_path / "out.parquet"
    done = score(folder / "sales", tmp_path / f"in.{suffix}", out, steps=3, level=0.8, quantiles=(0.1, 0.5))
    table, now = pd.read_parquet(out), forecaster.observe(NEW)
    expected = now.predict(3, 0.8, (0.1, 0.5))
    same(table, expected)
    assert (done.rows, done.output, done.rejected) == (3, out, 0)
    assert list(table)[:4] == ["time", "ahead", "mean", "sd"]
    assert table["ahead"].tolist() == [1, 2, 3]
    assert set(table["verdict"]) == {now.report.verdict.name}
    # the twin: what came in another order, or not at all
    for wrong in (forecaster.observe(NEW[::-1]), forecaster):
        assert not np.allclose(table["mean"], wrong.predict(3).mean)


def test_times_put_rows_in_order_and_pass_over_what_was_seen(folder, forecaster, tmp_path):
    times = np.array([9, 3, 6, 8, 5])  # 7 is left out; the forecaster's next is 6
    values = np.array([0.1, 99.0, 1.0, 2.5, 99.0])
    pd.DataFrame({"time": times, "observations": values}).to_csv(tmp_path / "in.csv", index=False)
    score(folder / "sales", tmp_path / "in.csv", tmp_path / "out.csv", steps=2)
    same(pd.read_csv(tmp_path / "out.csv"), forecaster.observe(NEW).predict(2))
    pd.DataFrame({"time": [3, 5], "observations": [1.0, 2.0]}).to_csv(tmp_path / "in.csv", index=False)
    score(folder / "sales", tmp_path / "in.csv", tmp_path / "out.csv", steps=2)
    same(pd.read_csv(tmp_path / "out.csv"), forecaster.predict(2))


def test_without_rows_the_forecast_is_from_where_it_stands(folder, forecaster, tmp_path):
    (tmp_path / "in.csv").write_text("observations\n")
    (tmp_path / "in.jsonl").write_text("")
    for name in ("in.csv", "in.jsonl"):
        score(folder / "sales", tmp_path / name, tmp_path / "out.parquet", steps=2)
        same(pd.read_parquet(tmp_path / "out.parquet"), forecaster.predict(2))


def test_several_series_each_by_its_own_forecaster(folder, forecaster, tmp_path):
    rows = {"store": ["a", "a", "a"], "observations": [1.0, None, 2.5]}
    pa.parquet.write_table(pa.table(rows), tmp_path / "in.parquet")
    done = score(folder / "stores", tmp_path / "in.parquet", tmp_path / "out.parquet", steps=2, series="store")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert done.rows == 4
    assert table["store"].tolist() == ["7", "7", "a", "a"]
    same(table[2:], forecaster.observe([1.0, np.nan, 2.5]).predict(2))
    same(table[:2], forecaster.observe([0.5]).predict(2))
    rows = {"store": [7, 7], "observations": [1.0, 2.0]}  # a number is called as it is written
    pa.parquet.write_table(pa.table(rows), tmp_path / "in.parquet")
    score(folder / "stores", tmp_path / "in.parquet", tmp_path / "out.parquet", steps=2, series="store")
    same(pd.read_parquet(tmp_path / "out.parquet")[:2], forecaster.observe([0.5, 1.0, 2.0]).predict(2))


@pytest.mark.long
def test_several_numbers_a_time(tmp_path):
    model = pi.StateSpace.linear_gaussian(
        np.zeros(2), np.eye(2), 0.5 * np.eye(2), np.eye(2), np.eye(2), np.eye(2),
        prior=linear().prior,
    )  # fmt: skip
    forecaster = pi.Forecaster(Fit(model, np.zeros((4, 2)), {"q": Q}))
    forecaster.save(tmp_path / "f")
    pd.DataFrame({"observations[1]": [2.0, 3.0], "observations[0]": [1.0, np.nan]}).to_csv(tmp_path / "in.csv")
    expected = forecaster.observe([[1.0, 2.0], [np.nan, 3.0]]).predict(2)
    score(tmp_path / "f", tmp_path / "in.csv", tmp_path / "out.csv", steps=2)
    same(pd.read_csv(tmp_path / "out.csv"), expected)
    (tmp_path / "in.jsonl").write_text('{"observations": [1.0, 2.0]}\n{"observations": [null, 3.0]}\n')
    score(tmp_path / "f", tmp_path / "in.jsonl", tmp_path / "out.csv", steps=2)
    same(pd.read_csv(tmp_path / "out.csv"), expected)


def test_from_a_query_to_a_database(folder, forecaster, tmp_path):
    pd.DataFrame({"sold": [2.5, 1.0], "week": [8, 6]}).to_csv(tmp_path / "in.csv", index=False)
    place, query = f"sqlite:///{tmp_path / 'out.db'}", "SELECT sold AS observations, week AS time FROM input"
    score(folder / "sales", tmp_path / "in.csv", place, steps=2, query=query, table="comes")
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        found = database.execute("SELECT time, mean, verdict FROM comes ORDER BY time").fetchall()
    expected = forecaster.observe([1.0, np.nan, 2.5]).predict(2)
    np.testing.assert_allclose([row[1] for row in found], expected.mean)
    with pytest.raises(pi.DataError, match="comes"):
        score(folder / "sales", tmp_path / "in.csv", place, steps=2, query=query, table="comes")
    more = {"steps": 1, "query": query, "table": "comes", "if_exists": IfExists.REPLACE}
    assert score(folder / "sales", tmp_path / "in.csv", place, **more).rows == 1


def test_the_command(folder, forecaster, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"observations": 1.0}\n{"observations": null}\n')
    place, out = str(folder / "sales"), tmp_path / "out.jsonl"
    assert cli.main(["score", place, str(tmp_path / "in.jsonl"), str(out), "--steps", "2", "--level", "0.8"]) == 0
    assert "2 rows in" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = forecaster.observe([1.0, np.nan]).predict(2, 0.8)
    assert [row["upper"] for row in rows] == expected.upper.tolist()
    assert cli.main(["score", place, str(tmp_path / "in.jsonl"), str(out)]) == 2
    assert "holds a forecaster, and steps is missing" in capsys.readouterr().err


REFUSED = {
    "rows' options": ("sales", {"steps": 2, "keep": ["x"]}, "keep is for rows"),
    "resume": ("sales", {"steps": 2, "resume": True}, "resume is for rows"),
    "no steps": ("sales", {}, "steps is missing"),
    "steps of none": ("sales", {"steps": 0}, "steps is 0"),
    "a model of rows": ("line", {"steps": 2}, "steps and series are for forecasters, and .*line holds none"),
    "one series": ("sales", {"steps": 2, "series": "store"}, "holds one forecaster"),
    "which series": ("stores", {"steps": 2}, "say which column of the input names the series"),
    "no such column": ("stores", {"steps": 2, "series": "shop"}, "no column 'shop'"),
    "a series without": ("stores", {"steps": 2, "series": "store"}, "series 'b', and .* it has '7', 'a'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_call_is_told_what_is_wrong(folder, tmp_path, name):
    place, more, text = REFUSED[name]
    pd.DataFrame({"store": ["a", "b"], "observations": [1.0, 2.0]}).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(pi.DataError, match=text):
        score(folder / place, tmp_path / "in.csv", tmp_path / "out.csv", **more)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        ({"sold": [1.0]}, pi.PredictionError, "lack observations; they have sold"),
        ({"observations": ["much"]}, pi.PredictionError, "observations is 'much' in row 0"),
        ({"observations": [1.0, np.inf]}, pi.PredictionError, "infinite"),
        ({"observations": [1.0, 2.0], "time": [7, 7]}, pi.DataError, "more than one row of the time 7"),
        ({"observations": [1.0, 2.0], "time": ["7", ""]}, pi.DataError, "time is missing in row 1"),
        ({"observations": [1.0], "time": [1732665600]}, pi.DataError, "counted from the first observation"),
    ],
    ids=["no column", "text", "infinite", "twice", "no time", "seconds"],
)
def test_rows_that_do_not_fit(folder, tmp_path, rows, error, text):
    pd.DataFrame(rows).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(error, match=text):
        score(folder / "sales", tmp_path / "in.csv", tmp_path / "out.csv", steps=2)
    assert not (tmp_path / "out.csv").exists()
