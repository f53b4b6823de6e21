"""Scoring a table: the same numbers as predicting it, in bounded memory, and an output that is complete or absent."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import probinfer as pi
from probinfer import cli
from probinfer.deploy import score as scoring
from probinfer.deploy.score import score
from tests.deploy import raw_rows
from tests.deploy.conftest import LOADED

ROWS = 1_000


def model(x, X, group, J, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([J]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(a[group] + x + X @ b, 1.0), obs=y)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=60), "X": rng.normal(size=(60, 2)), "group": np.arange(60) % 4, "J": 4}
    data["y"] = data["x"] + rng.normal(size=60)
    made = pi.Predictor(pi.infer(model, data, pi.Exact(draws=1000), progress=False))
    path = tmp_path_factory.mktemp("model") / "predictor"
    made.save(path)
    return path


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "name": [f"row {i}, with a comma" for i in range(ROWS)],
            "X[1]": rng.normal(size=ROWS),
            "group": rng.integers(0, 4, ROWS),
            "X[0]": rng.normal(size=ROWS),
            "x": rng.normal(size=ROWS),
        }
    )


def write(table, path):
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


def read(path):
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_no_library_that_is_not_needed_is_imported(predictor, table, tmp_path, ending):
    """Each of these takes as long as to predict some hundred thousand rows."""
    source = write(table, tmp_path / f"in{ending}")
    script = f"""
        import sys
        from probinfer.deploy.score import score
        score({str(predictor)!r}, {str(source)!r}, {str(tmp_path / f"out{ending}")!r}, keep=["name"], progress=False)
        print([name for name in ("pandas", "xarray", "arviz", "numpyro", "duckdb") if name in sys.modules])
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("source", [".csv", ".parquet"])
@pytest.mark.parametrize("target", [".csv", ".parquet"])
def test_scores_are_the_predictions_whatever_the_format_and_chunk(predictor, table, tmp_path, source, target):
    done = score(
        predictor,
        write(table, tmp_path / f"in{source}"),
        tmp_path / f"out{target}",
        level=0.8,
        quantiles=(0.25,),
        keep=["name"],
        chunk_rows=333,
    )
    assert done.rows == ROWS
    found = read(tmp_path / f"out{target}")
    expected = LOADED(predictor).predict(table, level=0.8, quantiles=(0.25,))
    assert found["name"].tolist() == table["name"].tolist()
    for name, values in expected.columns().items():
        np.testing.assert_allclose(found[name], values, rtol=1e-10, err_msg=name)
    assert (found["level"] == 0.8).all()
    assert not list(tmp_path.glob("*.partial"))


def test_a_table_without_rows_becomes_one_with_the_same_columns(predictor, table, tmp_path):
    for suffix in (".csv", ".parquet"):
        source = write(table.iloc[:0].astype({"x": float}), tmp_path / f"none{suffix}")
        assert score(predictor, source, tmp_path / f"out{suffix}").rows == 0
        assert list(read(tmp_path / f"out{suffix}").columns)[:4] == ["mean", "sd", "lower", "upper"]


def test_a_column_that_looks_like_integers_at_first_is_read_as_the_model_needs_it(predictor, table, tmp_path):
    mixed = table.assign(x=[1] * 900 + [0.5] * 100).astype({"x": object})
    done = score(predictor, write(mixed, tmp_path / "in.csv"), tmp_path / "out.csv", chunk_rows=100)
    assert done.rows == ROWS


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda t: t.drop(columns="x"), pi.PredictionError, "rows lack x"),
        (lambda t: t.drop(columns="X[1]"), pi.PredictionError, r"rows lack X\[1\]"),
        (lambda t: t.assign(group=np.where(np.arange(ROWS) == 700, 4, t["group"])), pi.PredictionError, "700"),
        (lambda t: t.assign(x=np.where(np.arange(ROWS) == 701, np.nan, t["x"])), pi.PredictionError, "701"),
        (lambda t: t.assign(x=["a"] * ROWS), (pi.DataError, pi.PredictionError), "x|a"),
    ],
    ids=["missing", "missing part", "unseen group", "nan", "text"],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_bad_row_is_named_and_nothing_is_written(predictor, table, tmp_path, suffix, change, error, text):
    source, target = write(change(table), tmp_path / f"in{suffix}"), tmp_path / "out.csv"
    target.write_text("what was here before")
    with pytest.raises(error, match=text):
        score(predictor, source, target, chunk_rows=300)
    assert target.read_text() == "what was here before"
    assert not list(tmp_path.glob("*.partial"))


def test_calls_that_are_refused_before_any_work(predictor, table, tmp_path):
    source = write(table, tmp_path / "in.csv")
    with pytest.raises(pi.DataError, match=r"out.xlsx ends in .xlsx; wanted .csv or .parquet"):
        score(predictor, source, tmp_path / "out.xlsx")
    with pytest.raises(pi.DataError, match="is both input and output"):
        score(predictor, source, source)
    with pytest.raises(pi.DataError, match="no column 'id' to keep; it has name"):
        score(predictor, source, tmp_path / "out.csv", keep=["id"])
    with pytest.raises(pi.DataError, match="chunk_rows is 0"):
        score(predictor, source, tmp_path / "out.csv", chunk_rows=0)
    with pytest.raises(FileNotFoundError):
        score(predictor, tmp_path / "nowhere.csv", tmp_path / "out.csv")
    (tmp_path / "not.parquet").write_text("x,y\n1,2\n")
    with pytest.raises(pi.DataError, match=r"not.parquet cannot be read as the table"):
        score(predictor, tmp_path / "not.parquet", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def run(script):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("suffix", [".csv", pytest.param(".parquet", marks=pytest.mark.long)])
def test_a_disk_that_fills_leaves_nothing_that_looks_finished(predictor, table, tmp_path, suffix):
    many = pd.concat([table] * 6, ignore_index=True).assign(x=np.linspace(-2, 2, 6 * ROWS))  # no two rows are equal
    source = write(many, tmp_path / "in.parquet")
    process = run(
        f"""
        import resource, signal
        from probinfer.deploy.score import score
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            score({str(predictor)!r}, {str(source)!r}, {str(tmp_path / f"out{suffix}")!r}, chunk_rows=1000)
        except OSError as error:
            print("refused:", error)
        """
    )
    out, err = process.communicate(timeout=300)
    assert out.startswith("refused:"), err
    assert f"out{suffix}" in out  # the system does not say itself where it could not write
    assert not (tmp_path / f"out{suffix}").exists()


def test_ctrl_c_leaves_nothing_that_looks_finished(predictor, table, tmp_path):
    many = pd.concat([table] * 200, ignore_index=True)
    source = write(many, tmp_path / "in.parquet")
    process = run(
        f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest in the background of a shell ignores Ctrl-C
        from probinfer.deploy.score import score
        score({str(predictor)!r}, {str(source)!r}, {str(tmp_path / "out.csv")!r}, chunk_rows=500)
        """
    )
    partial, deadline = tmp_path / "out.csv.partial", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        if partial.exists() and partial.stat().st_size > 0:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in err
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "out.csv.partial").exists()


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="a signal would end the tests")
def test_sigterm_leaves_nothing_that_looks_finished(predictor, table, tmp_path, monkeypatch, capsys):
    source, predicted = write(table, tmp_path / "in.parquet"), scoring.Job.predicted

    def ended(job, chunk):
        if chunk.first >= 100:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.0)
        return predicted(job, chunk)

    monkeypatch.setattr(scoring.Job, "predicted", ended)
    before = signal.getsignal(signal.SIGTERM)
    call = ["score", str(predictor), str(source), str(tmp_path / "out.csv"), "--rejects", str(tmp_path / "bad.jsonl")]
    assert cli.main([*call, "--chunk-rows", "50"]) == cli.TERMINATED == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("probinfer: terminated\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
    assert signal.getsignal(signal.SIGTERM) == before


def peak_memory(predictor, source, target, rows):
    """Largest size in MB that a process scoring `rows` rows had."""
    with pq.ParquetWriter(source, pa.schema({"x": "f8", "X[0]": "f8", "X[1]": "f8", "group": "i8"})) as writer:
        for start in range(0, rows, 20_000):
            size = min(20_000, rows - start)
            numbers = {name: np.linspace(0, 1, size) for name in ("x", "X[0]", "X[1]")}
            writer.write_table(pa.table({**numbers, "group": np.arange(size) % 4}, schema=writer.schema))
    process = run(
        f"""
        import resource
        from probinfer.deploy.score import score
        score({str(predictor)!r}, {str(source)!r}, {str(target)!r}, chunk_rows=2000)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        """
    )
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return int(out)


@pytest.mark.long
def test_memory_does_not_grow_with_the_table(predictor, tmp_path):
    """Sixteen times the rows: the draws of their predictions, were they held, would be 600 MB more."""
    small = peak_memory(predictor, tmp_path / "a.parquet", tmp_path / "a.csv", 5_000)
    large = peak_memory(predictor, tmp_path / "b.parquet", tmp_path / "b.csv", 80_000)
    assert large < small + 50, (small, large)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_point_model_scores_raw_columns(tmp_path, suffix):
    raw_rows.points().save(tmp_path / "point")
    houses = raw_rows.HOUSES.assign(pool=np.arange(raw_rows.ROWS) % 3 == 0)
    score(tmp_path / "point", write(houses, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", chunk_rows=25)
    found, expected = read(tmp_path / f"out{suffix}"), raw_rows.points().predict(houses)
    for name in ("mean", "lower", "upper"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-12)
    strange = write(houses.assign(town="Rom"), tmp_path / f"strange{suffix}")
    with pytest.raises(pi.PredictionError, match=r"'Rom'"):
        score(tmp_path / "point", strange, tmp_path / f"none{suffix}")
