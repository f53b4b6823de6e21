"""Checkpoints: a process killed at any moment loses nothing, and what follows is bit for bit what would have come."""

import errno
import os
import zlib

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.checkpoint import MAGIC, Journal
from probinfer.inference.mcmc import chains
from probinfer.inference.mcmc.record import SAMPLING
from tests.inference.killing import kill_twice

X = np.random.default_rng(5).normal(size=(300, 12))
DATA = {"X": X, "y": (X[:, 0] > 0.3).astype(int)}
METHOD = pi.NUTS(chains=2, draws=300, warmup=100)


def logistic(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([X.shape[1]]))
    numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def run(checkpoint=None, method=METHOD, data=DATA, model=logistic, **options):
    return pi.infer(model, data, method, checkpoint=checkpoint, progress=False, **options)


def draws(posterior):
    return posterior.tree["posterior"]["b"].values


@pytest.fixture(scope="module")
def expected():
    return draws(run())


@pytest.fixture
def often(monkeypatch):
    """Blocks as short as on a slow model: many records."""
    monkeypatch.setattr(chains, "_PAUSE", 1e-9)
    monkeypatch.setattr(chains, "_PATIENCE", 200)


def test_a_checkpoint_changes_no_draw_and_a_finished_one_gives_them_back(tmp_path, expected, monkeypatch):
    path = tmp_path / "run.checkpoint"
    np.testing.assert_array_equal(draws(run(path)), expected)
    monkeypatch.setattr(chains.Chains, "_run", lambda *_: pytest.fail("drew again"))
    again = run(path)
    np.testing.assert_array_equal(draws(again), expected)
    assert again.report.verdict is run(path).report.verdict
    assert os.listdir(tmp_path) == ["run.checkpoint"]


SCRIPT = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_checkpoint import run
from probinfer.inference.mcmc import chains
from probinfer.inference.mcmc.record import SAMPLING

chains._PAUSE, chains._PATIENCE = 1e-9, 200
run(sys.argv[1])
"""


def test_killed_at_any_moment(tmp_path, expected):
    path = tmp_path / "run.checkpoint"
    kill_twice(SCRIPT, path, grown=20_000)
    np.testing.assert_array_equal(draws(run(path)), expected)


@pytest.mark.parametrize("cuts", [2, pytest.param(20, marks=pytest.mark.long)])
def test_cut_anywhere_and_with_rubbish_at_the_end(cuts, tmp_path, expected, often):
    path = tmp_path / "run.checkpoint"
    run(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for cut in [5, len(MAGIC), len(MAGIC) + 7, len(whole) - 1, *generator.integers(30, len(whole), cuts)]:
        path.write_bytes(whole[:cut] + generator.bytes(int(generator.integers(0, 40)) if cut > 500 else 0))
        np.testing.assert_array_equal(draws(run(path)), expected)
        assert path.read_bytes().startswith(MAGIC)


def test_a_changed_byte_is_noticed_and_drawn_again(tmp_path, expected, often):
    path = tmp_path / "run.checkpoint"
    run(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(draws(run(path)), expected)


def test_without_its_checksum_a_changed_byte_would_show(tmp_path, expected, often, monkeypatch):
    """The broken twin: a journal that believes what it reads."""
    path = tmp_path / "run.checkpoint"
    run(path)
    content = bytearray(path.read_bytes())
    monkeypatch.setattr("probinfer.inference.checkpoint.zlib.crc32", lambda _: 0)
    last = _without_checksums(content)
    state = 8 * (12 + 5 + 12 + 1) + 8 + 4 + 1  # q, step, g, log density; key; iteration; kept
    first_draw = last + 12 + state + 4
    content[first_draw + 6] ^= 0x10
    path.write_bytes(content)
    assert not np.array_equal(draws(run(path)), expected)


def _without_checksums(content: bytearray) -> int:
    """Set every checksum to zero; where the payload of the last record of the sampling begins."""
    at, last = len(MAGIC), 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        content[at + 8 : at + 12] = bytes(4)
        if at > len(MAGIC) and int.from_bytes(content[at + 12 : at + 16], "little") == SAMPLING:
            last = at + 12
        at += 12 + length
    return last


def test_a_stop_rule_goes_on_from_a_checkpoint(tmp_path, often):
    path = tmp_path / "run.checkpoint"
    first = run(path, until=pi.Until(ess=1e9, draws=150))
    assert first.report.outcome is pi.Outcome.OUT_OF_BUDGET
    longer = run(path, until=pi.Until(draws=400))
    np.testing.assert_array_equal(draws(longer), draws(run(until=pi.Until(draws=400))))
    shorter = run(path, until=pi.Until(draws=77))
    np.testing.assert_array_equal(draws(shorter), draws(longer)[:, :77])


def test_another_run_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "run.checkpoint"
    run(path)
    before = path.read_bytes()

    def other(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 3).expand([X.shape[1]]))
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)

    for options, text in [
        ({"data": {**DATA, "y": 1 - DATA["y"]}}, "data_hash: "),
        ({"model": other}, "model_fingerprint: "),
        ({"method": pi.NUTS(chains=2, draws=301, warmup=100)}, "NUTS.draws: 300 there, 301 now"),
        ({"method": pi.NUTS(chains=2, draws=300, warmup=100, target_accept=0.9)}, "NUTS.target_accept: nothing there"),
        ({"seed": 7}, "seed: "),
    ]:
        with pytest.raises(pi.CheckpointError, match=f"is of another run. .*{text}.*remove this one"):
            run(path, **options)
    assert path.read_bytes() == before


def test_another_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    run(path)
    monkeypatch.setattr("probinfer.inference.draw._versions", lambda: {"jax": "99"})
    with pytest.raises(pi.CheckpointError, match=r"version of jax: .* there, 99 now"):
        run(path)


def test_what_is_no_checkpoint(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("something dear")
    with pytest.raises(pi.CheckpointError, match="is no checkpoint that this version can read"):
        run(notes)
    assert notes.read_text() == "something dear"
    with pytest.raises(pi.CheckpointError, match="is a folder; wanted the path of a file"):
        run(tmp_path)
    with pytest.raises(pi.CheckpointError, match=r"the folder .* does not exist; make it first"):
        run(tmp_path / "nowhere" / "run.checkpoint")


@pytest.mark.parametrize("path", [3, True, b"run", "run\0", "x" * 300])
def test_what_no_file_can_be_at(path):
    with pytest.raises(pi.CheckpointError, match=r"^checkpoint (came as .*; wanted the path of a file|x+ cannot be)"):
        run(path)


def test_a_damaged_first_record_is_not_taken_for_an_empty_file(tmp_path):
    path = tmp_path / "run.checkpoint"
    Journal(path, {"seed": 1}).close()
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-2] ^= 1
    no_object = MAGIC + (2).to_bytes(8, "little") + zlib.crc32(b"[]").to_bytes(4, "little") + b"[]"
    for content in (bytes(changed), no_object):
        path.write_bytes(content)
        with pytest.raises(pi.CheckpointError, match="is damaged in its first record"):
            Journal(path, {"seed": 1})
        assert path.read_bytes() == content
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # no lock is left


def test_numbers_of_numpy_are_the_numbers_that_they_are(tmp_path, expected):
    path = tmp_path / "run.checkpoint"
    own = pi.NUTS(chains=np.int64(2), draws=np.int32(300), warmup=np.int64(100), target_accept=np.float64(0.8))
    plain = pi.NUTS(chains=2, draws=300, warmup=100, target_accept=0.8)
    np.testing.assert_array_equal(draws(run(path, method=own)), expected)
    np.testing.assert_array_equal(draws(run(path, method=plain)), expected)


def test_two_processes_do_not_share_a_checkpoint(tmp_path):
    path = tmp_path / "run.checkpoint"
    journal = Journal(path, {})
    with pytest.raises(pi.CheckpointError, match="in use by another process"):
        run(path)
    journal.close()
    Journal(path, {}).close()


def test_a_full_disk_costs_nothing_that_was_written(tmp_path, expected, often, monkeypatch):
    path = tmp_path / "run.checkpoint"
    write = Journal._write
    written = []

    class Full:
        """A file on a disk that is full after half a record."""

        def __init__(self, file):
            self._file = file

        def write(self, content):
            if len(written) > 10 and len(content) > 100:
                self._file.write(content[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(content)

        def __getattr__(self, name):
            return getattr(self._file, name)

    def failing(self, content):
        if not isinstance(self._file, Full):
            self._file = Full(self._file)
        written.append(len(content))
        write(self, content)

    monkeypatch.setattr(Journal, "_write", failing)
    with pytest.raises(pi.CheckpointError, match=r"No space left on device.*make room and run again"):
        run(path)
    monkeypatch.setattr(Journal, "_write", write)
    assert path.stat().st_size == sum(written[:10])
    np.testing.assert_array_equal(draws(run(path)), expected)
