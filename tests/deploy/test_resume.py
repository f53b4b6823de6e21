"""Runs that are killed at any moment go on, and no row is lost or doubled; what cannot be resumed is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy import score as scoring
from probinfer.deploy.chunk import Position
from probinfer.deploy.parts import Parts
from probinfer.deploy.score import score
from tests.deploy.houses import rows
from tests.deploy.test_tables import assert_predicted, read, write

COUNT = 1_200


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(scoring, "PART_ROWS", 100)


class Died(Exception):
    """Stands for a process that ends."""


def dying_at(monkeypatch, moment: int):
    """Have the run die at the `moment`-th step of writing, and leave the disk as a killed process would."""
    steps = iter(range(10**6))

    def counted(method):
        def run(self, *arguments):
            if next(steps) == moment:
                raise Died
            return method(self, *arguments)

        return run

    for name in ("write", "commit", "finish"):
        monkeypatch.setattr(Parts, name, counted(getattr(Parts, name)))
    monkeypatch.setattr("os.replace", lambda *a, real=os.replace: real(*a) if next(steps) != moment else _die())
    monkeypatch.setattr(Parts, "abandon", left_behind)


def _die():
    raise Died


def left_behind(parts):
    """What the system does for a dead process: its lock is free, its files are closed, nothing is removed."""
    parts._journal.close()
    for file, writer in parts._file._open.values() if parts._file is not None else ():
        if not file.closed:
            writer.close()
            file.close()


@pytest.mark.parametrize(
    ("suffix", "target"),
    [(".parquet", "out.csv"), (".csv", "out.parquet"), (".arrow", "folder/"), (".jsonl", "lines.jsonl/")],
)
def test_a_run_that_dies_at_any_step_goes_on_to_the_same_rows(quick, tmp_path, target, suffix):
    table = rows(COUNT)
    broken = table.astype({"group": float})
    broken.loc[[3, 555, 1199], "group"] = 7.0
    source = write(broken if suffix != ".csv" else broken.astype({"group": int}), tmp_path / f"in{suffix}")
    options = {"keep": ["id", "name"], "chunk_rows": 64, "resume": True, "rejects": tmp_path / "bad.jsonl"}
    output, chance, deaths = f"{tmp_path}/{target}", random.Random(f"{target}{suffix}"), 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            dying_at(patch, chance.randrange(25))
            try:
                done = score(quick, source, output, **options)
                break
            except Died:
                deaths += 1
                assert deaths < 200
                assert not (tmp_path / target.rstrip("/")).exists()
    assert deaths >= 2
    assert (done.rows, done.rejected) == (COUNT - 3, 3)
    assert_predicted(quick, read(tmp_path / target.rstrip("/")), table.drop(index=[3, 555, 1199]))
    assert [json.loads(line)["row"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()] == [3, 555, 1199]
    left = {path.name for path in tmp_path.iterdir()} - {target.rstrip("/"), source.name, "bad.jsonl"}
    assert left == set()


def test_without_the_journal_rows_would_be_doubled(quick, tmp_path, monkeypatch):
    """The twin: parts that count without being entered."""
    table = rows(COUNT)
    source = write(table, tmp_path / "in.parquet")
    with pytest.MonkeyPatch.context() as patch:
        dying_at(patch, 20)
        with pytest.raises(Died):
            score(quick, source, f"{tmp_path}/out/", keep=["id"], chunk_rows=64, resume=True)
    monkeypatch.setattr(Parts, "_remove_what_is_not_entered", lambda self: None)
    monkeypatch.setattr(Position, "rows", 0, raising=False)
    work = tmp_path / "out.parts"
    (work / "part-900000.parquet").write_bytes((work / "part-000000.parquet").read_bytes())  # written, not entered
    score(quick, source, f"{tmp_path}/out/", keep=["id"], chunk_rows=64, resume=True)
    assert len(read(tmp_path / "out")) > COUNT


SCRIPT = """
    import sys
    from probinfer.deploy import score as scoring
    scoring.PART_ROWS = 1_000
    done = scoring.score({path!r}, {source!r}, {output!r}, keep=["id", "name"], chunk_rows=500, resume=True)
    print(done.rows, done.resumed)
"""


def test_killed_for_real(quick, tmp_path):
    table = rows(20_000)
    source = write(table, tmp_path / "in.parquet")
    script = textwrap.dedent(SCRIPT).format(path=str(quick), source=str(source), output=str(tmp_path / "out.parquet"))
    process = subprocess.Popen([sys.executable, "-c", script])
    journal, deadline = tmp_path / "out.parquet.parts/_journal", time.monotonic() + 200
    while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size > 2_200):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not (tmp_path / "out.parquet").exists()
    done = score(quick, source, tmp_path / "out.parquet", keep=["id", "name"], resume=True)
    assert done.rows == 20_000
    assert 1_000 <= done.resumed < 20_000
    assert done.resumed % 500 == 0
    assert_predicted(quick, read(tmp_path / "out.parquet"), table)


def interrupted(quick, source, output, **options):
    with pytest.MonkeyPatch.context() as patch:
        dying_at(patch, 30)
        with pytest.raises(Died):
            score(quick, source, output, chunk_rows=64, resume=True, **options)


def test_another_run_is_refused_with_what_differs(quick, tmp_path):
    source = write(rows(COUNT), tmp_path / "in.parquet")
    interrupted(quick, source, tmp_path / "out.csv")
    with pytest.raises(pi.CheckpointError, match=r"is of another run. level: 0.9 there, 0.8 now"):
        score(quick, source, tmp_path / "out.csv", resume=True, level=0.8)
    write(rows(COUNT - 1), tmp_path / "in.parquet")
    with pytest.raises(pi.CheckpointError, match=r"is of another run. input"):
        score(quick, source, tmp_path / "out.csv", resume=True)
    assert (tmp_path / "out.csv.parts").is_dir()
    assert score(quick, source, tmp_path / "out.csv").rows == COUNT - 1  # not to resume is to begin anew


def test_two_processes_do_not_write_the_same_parts(quick, tmp_path):
    source = write(rows(COUNT), tmp_path / "in.parquet")
    asked = {"a": 1}
    first = Parts(tmp_path / "out.csv", folder=False, asked=asked, lasting=True, metadata={})
    first.open()
    with pytest.raises(pi.CheckpointError, match="in use by another process"):
        score(quick, source, tmp_path / "out.csv", resume=True)
    first.abandon()


def test_a_part_that_is_gone_is_said(quick, tmp_path):
    source = write(rows(COUNT), tmp_path / "in.parquet")
    interrupted(quick, source, tmp_path / "out.csv")
    (tmp_path / "out.csv.parts/part-000001.arrow").unlink()
    with pytest.raises(pi.DataError, match=r"lacks part-000001.arrow.*remove the folder to begin anew"):
        score(quick, source, tmp_path / "out.csv", resume=True)


def test_a_run_that_dies_while_it_removes_its_parts_can_be_repeated(quick, tmp_path, monkeypatch):
    table = rows(COUNT)
    source, target = write(table, tmp_path / "in.csv"), tmp_path / "out.parquet"

    def removed(folder):
        next(folder.glob("part-*")).unlink()
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", removed)
        with pytest.raises(Died):
            score(quick, source, target, keep=["id", "name"], chunk_rows=50, resume=True)
    for _ in range(2):
        assert_predicted(quick, read(target), table)
        score(quick, source, target, keep=["id", "name"], chunk_rows=50, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.parquet"]


def test_rejects_that_are_gone_are_said(quick, tmp_path):
    source = write(rows(COUNT).assign(group=np.arange(COUNT) % 5), tmp_path / "in.parquet")
    interrupted(quick, source, tmp_path / "out.csv", rejects=tmp_path / "bad")
    (tmp_path / "bad.partial").unlink()
    with pytest.raises(pi.DataError, match=r"bad.partial has 0 bytes; an earlier run wrote \d+"):
        score(quick, source, tmp_path / "out.csv", resume=True, rejects=tmp_path / "bad")


@pytest.mark.parametrize("moment", range(3))
def test_a_disk_that_fills_costs_nothing_that_was_committed(quick, tmp_path, monkeypatch, moment):
    table = rows(COUNT)
    source = write(table, tmp_path / "in.parquet")
    calls = iter(range(10**6))

    def full(handle, real=os.fsync):
        if next(calls) == 7 + moment:  # of a part, of its folder, of the journal
            raise OSError(28, "No space left on device")
        return real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises((OSError, pi.CheckpointError), match="No space left on device"):
            score(quick, source, tmp_path / "out.csv", keep=["id", "name"], chunk_rows=64, resume=True)
    assert not (tmp_path / "out.csv").exists()
    done = score(quick, source, tmp_path / "out.csv", keep=["id", "name"], chunk_rows=64, resume=True)
    assert 0 < done.resumed < COUNT
    assert_predicted(quick, read(tmp_path / "out.csv"), table)


def test_columns_of_a_resumed_run_are_those_of_its_beginning(quick, tmp_path):
    """`note` is empty in the first half: as text there, so as text in the rest too."""
    table = rows(COUNT)
    lines = [
        json.dumps({"id": i, "name": n, "x": x, "group": g, "note": None if k < 700 else k})
        for k, (i, n, g, x) in enumerate(table.itertuples(index=False))
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    interrupted(quick, tmp_path / "in.jsonl", tmp_path / "out.parquet", keep=["id", "name", "note"])
    score(
        quick, tmp_path / "in.jsonl", tmp_path / "out.parquet", keep=["id", "name", "note"], chunk_rows=64, resume=True
    )
    found = read(tmp_path / "out.parquet")
    assert_predicted(quick, found, table)
    assert found["note"][800] == "800"


def test_columns_that_change_their_type_are_said(quick, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"x": 1, "group": 1, "note": 1}\n{"x": 1, "group": 1, "note": "a"}\n')
    with pytest.raises(pi.DataError, match="columns kept of the input change their types"):
        score(quick, tmp_path / "in.jsonl", tmp_path / "out.parquet", keep=["note"], chunk_rows=1)
    assert not (tmp_path / "out.parquet").exists()
