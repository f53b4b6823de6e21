"""Compiled programs on disk: found by the next process, switched off by one setting, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from probinfer.model.program_cache import cache_folder, kept_programs

SCRIPT = """
import jax, logging, sys
import jax.numpy as jnp
import probinfer as pi
from probinfer.model.target import Target
before = dict(jax.config.values)
hits = []
class Hits(logging.Handler):
    def emit(self, record): hits.append(record.getMessage())
logger = logging.getLogger("jax._src.compiler"); logger.setLevel(logging.DEBUG); logger.addHandler(Hits())
target = Target(pi.LogDensity(lambda x: -0.5 * jnp.sum(x**2), 3).bind())
point = jax.ShapeDtypeStruct((3,), target.dtype)
target.compile("density", target.value_and_grad, point, target.inputs)
assert dict(jax.config.values) == before, "JAX's settings changed"
print(sum("Persistent compilation cache hit" in hit for hit in hits))
"""


def hits(cache: str) -> int:
    environment = {**os.environ, "PROBINFER_CACHE": cache}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


def test_the_next_process_finds_the_program(tmp_path):
    assert hits(str(tmp_path)) == 0
    assert hits(str(tmp_path)) >= 1


@pytest.mark.long
def test_the_next_process_finds_the_program_that_two_wrote_at_once_even_beside_a_torn_one(tmp_path):
    environment = {**os.environ, "PROBINFER_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, env=environment) for _ in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert hits(str(tmp_path)) >= 1
    for file in stored(tmp_path):  # as a process killed while writing leaves them
        file.write_bytes(file.read_bytes()[:100])
    assert hits(str(tmp_path)) == 0


def test_off_and_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBINFER_CACHE", "off")
    assert cache_folder() is None
    monkeypatch.setenv("PROBINFER_CACHE", str(tmp_path))
    folder = cache_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path)


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("PROBINFER_CACHE", str(file))
    with kept_programs():
        assert jax.config.jax_compilation_cache_dir is None
        assert jax.jit(lambda x: x + 1)(jnp.ones(2)).tolist() == [2.0, 2.0]


def test_the_users_own_cache_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBINFER_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    try:
        with kept_programs():
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert not (tmp_path / "ours").exists()
