"""Scoring spread over workers: the same rows as in one process, a model loaded once, nothing lost by a failed run."""

import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest

import probinfer as pi
from probinfer import cli
from probinfer.deploy import score as scoring
from probinfer.deploy.score import score
from probinfer.deploy.spread import UNFINISHED
from tests.deploy.conftest import LOADED
from tests.deploy.houses import rows

FILES, EACH = 7, 30


@pytest.fixture
def folder(tmp_path):
    """Files by region, some in a subfolder that gives a column."""
    whole = rows(FILES * EACH)
    for number in range(FILES):
        place = tmp_path / "in" / f"region={'north' if number < 3 else 'south'}"
        place.mkdir(parents=True, exist_ok=True)
        whole.iloc[number * EACH : (number + 1) * EACH].to_parquet(place / f"{number}.parquet")
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def fresh():
    scoring.loaded.cache_clear()


def read(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


def test_spread_over_threads_is_the_same_as_in_one_piece(folder, quick, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(scoring, "load_predictor", lambda path: loads.append(path) or LOADED(path))
    with ThreadPoolExecutor(2) as pool:
        done = score(quick, folder, f"{tmp_path}/out/", keep=["id", "region"], quantiles=(0.2,), executor=pool)
    whole = score(quick, folder, tmp_path / "whole.parquet", keep=["id", "region"], quantiles=(0.2,))
    assert done.rows == whole.rows == FILES * EACH
    pd.testing.assert_frame_equal(read(tmp_path / "out"), pd.read_parquet(tmp_path / "whole.parquet"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"part-{i:06d}.parquet" for i in range(FILES)]
    assert len(loads) <= 2 + 1 + 1  # the caller's, the workers' own, and that of the run in one piece


def test_a_run_that_fails_keeps_its_parts_and_goes_on(folder, quick, tmp_path):
    bad = sorted(folder.rglob("*.parquet"))[4]
    good = pd.read_parquet(bad)
    good.assign(group=99).to_parquet(bad)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(pi.PredictionError, match="group is 99"):
            score(quick, folder, f"{tmp_path}/out/", executor=pool)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.parts").exists()
        with pytest.raises(pi.PredictionError, match="group is 99"):
            score(quick, folder, f"{tmp_path}/out/", executor=pool, resume=True)
        assert not (tmp_path / "out").exists()
        kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.parts").glob("part-*.parquet")}
        assert 4 <= len(kept) < FILES
        good.to_parquet(bad)
        with pytest.raises(pi.CheckpointError):  # the files have changed: those parts are of another run
            score(quick, folder, f"{tmp_path}/out/", executor=pool, resume=True)


def test_a_run_that_is_broken_off_goes_on_without_losing_or_doubling_a_row(folder, quick, tmp_path, monkeypatch):
    made, score_file = [], scoring.score_file

    def broken(wish, folder, file, part):
        if len(made) == 3:
            raise OSError(28, "No space left on device")
        made.append(file)
        return score_file(wish, folder, file, part)

    with ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "score_file", broken)
            with pytest.raises(OSError, match="No space left"):
                score(quick, folder, f"{tmp_path}/out/", executor=pool, resume=True, keep=["id"])
        done = score(quick, folder, f"{tmp_path}/out/", executor=pool, resume=True, keep=["id"])
    assert (done.rows, done.resumed) == (FILES * EACH, 3 * EACH)
    assert read(tmp_path / "out")["id"].tolist() == rows(FILES * EACH)["id"].tolist()


def test_a_task_that_runs_twice_writes_two_files_and_leaves_one(folder, quick, tmp_path, monkeypatch):
    """As where a worker that seemed lost goes on: two that write one file would damage it."""
    paths, finish, score_file = [], scoring.Output.finish, scoring.score_file

    def lost(sink, position):
        if sink.path in paths:
            raise AssertionError("the file of another task")
        paths.append(sink.path)
        finish(sink, position)

    def twice(wish, folder, file, part):
        (tmp_path / "out.parts" / f"{UNFINISHED}of-one-that-died").touch()
        assert score_file(wish, folder, file, part) == EACH
        return score_file(wish, folder, file, part)

    monkeypatch.setattr(scoring.Output, "finish", lost)
    monkeypatch.setattr(scoring, "score_file", twice)
    with ThreadPoolExecutor(1) as pool:
        assert score(quick, folder, f"{tmp_path}/out/", executor=pool, keep=["id"]).rows == FILES * EACH
    assert len(paths) == 2 * FILES
    assert read(tmp_path / "out")["id"].tolist() == rows(FILES * EACH)["id"].tolist()
    assert len(list((tmp_path / "out").iterdir())) == FILES


def test_calls_that_do_not_fit_are_refused(folder, quick, tmp_path, capsys):
    with ThreadPoolExecutor(1) as pool:
        for call, text in [
            ((folder, tmp_path / "out.parquet"), "wanted a folder of them as input"),
            ((sorted(folder.rglob("*.parquet"))[0], f"{tmp_path}/out/"), "wanted a folder of them as input"),
        ]:
            with pytest.raises(pi.DataError, match=text):
                score(quick, *call, executor=pool)
        with pytest.raises(pi.DataError, match="key came with an executor"):
            score(quick, folder, f"{tmp_path}/out/", key="id", executor=pool)
        with pytest.raises(pi.PredictionError, match="level"):
            score(quick, folder, f"{tmp_path}/out/", level=2.0, executor=pool)
        with pytest.raises(pi.DataError, match=r"lies in .*in, whose files are the input"):
            score(quick, folder, f"{folder}/out/", executor=pool)
        with pytest.raises(pi.DataError, match="executor is 4; wanted one of"):
            score(quick, folder, f"{tmp_path}/out/", executor=4)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        with pytest.raises(pi.DataError, match="is there already"):
            score(quick, folder, f"{tmp_path}/out/", executor=pool)


@pytest.mark.long
def test_dasks_workers_are_an_executor(folder, quick, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        done = score(quick, folder, f"{tmp_path}/out/", keep=["id"], executor=client.get_executor())
    assert done.rows == FILES * EACH
    assert read(tmp_path / "out")["id"].tolist() == rows(FILES * EACH)["id"].tolist()


def test_a_predictor_that_changed_meanwhile_is_noticed_by_the_worker(quick, tmp_path):
    shutil.copytree(quick, tmp_path / "predictor")
    with pytest.raises(pi.ArtifactError, match="another predictor on this worker"):
        scoring.loaded(str(tmp_path / "predictor"), "another fingerprint")


@pytest.mark.long
def test_spread_over_processes(folder, quick, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        score(quick, folder, f"{tmp_path}/out/", keep=["id"], executor=pool)
    found = read(tmp_path / "out")
    whole = rows(FILES * EACH)
    expected = LOADED(quick).predict({"x": whole["x"].to_numpy(), "group": whole["group"].to_numpy()})
    np.testing.assert_allclose(found["mean"], expected.mean, rtol=1e-12)


@pytest.mark.long
def test_the_command_finds_dasks_scheduler(folder, quick, tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        call = ["score", str(quick), str(folder), f"{tmp_path}/out/", "--scheduler", cluster.scheduler_address]
        assert cli.main(call) == cli.DONE
    assert len(read(tmp_path / "out")) == FILES * EACH
    assert cli.main([*call[:-1], "tcp://127.0.0.1:1"]) == cli.WRONG
    assert "Nothing answers" in capsys.readouterr().err
