"""What is traced for servers is kept on disk: the same answers to the last bit, and nothing is taken for something
else."""

from dataclasses import replace

import numpy as np
import pytest

from probinfer.predict import mixture
from probinfer.predict.engine import Engine
from probinfer.predict.kept import fingerprint
from probinfer.predict.weights import Weights

from . import models
from .fits import fitted

ROW = {"x": np.array([0.3])}
LEVELS = np.array([[0.1, 0.8]])


@pytest.fixture(scope="module")
def program():
    return fitted(models.line, {"x": models.x, "y": models.y}, models.LINE).program


def test_both_functions_of_a_discrete_law_are_kept(folder):
    binary = fitted(models.logistic, {"X": models.X, "y": models.y > 0}, {"beta": models.draws(3)}).program
    Engine(binary).compile_summary(1, 2)
    assert len(list(folder.iterdir())) == 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBINFER_CACHE", str(tmp_path))
    return tmp_path / "traced"


def answer(program, *, beforehand):
    engine = Engine(program)
    if beforehand:
        engine.compile_summary(1, 2)
    return engine.summarise(ROW, np.zeros(1, np.uint32), LEVELS)


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_kept_functions_answer_the_same_to_the_last_bit_and_are_not_traced_again(program, folder, monkeypatch):
    directly = answer(program, beforehand=False)
    assert not folder.exists()
    assert_equal(answer(program, beforehand=True), directly)
    assert len(list(folder.iterdir())) == 1
    other = replace(program, draws={name: values + 0.5 for name, values in program.draws.items()})
    wanted = answer(other, beforehand=False)
    with monkeypatch.context() as patched:
        patched.setattr(mixture, "summarise", None)  # what is traced would call it
        assert_equal(answer(program, beforehand=True), directly)
        found = answer(other, beforehand=True)
        with pytest.raises(TypeError):
            answer(replace(program, chains=2), beforehand=True)
    assert_equal(found, wanted)
    assert found.mean != directly.mean


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        *(
            pytest.param(damage, marks=pytest.mark.long)
            for damage in (
                lambda content: b"",
                lambda content: content.replace(b"\n", b"\n\n", 1),
                lambda content: b"\xff\n[]\n",
            )
        ),
    ],
    ids=["cut", "empty", "changed", "rubbish"],
)
def test_a_damaged_file_is_made_again(program, folder, damage):
    directly = answer(program, beforehand=True)
    (file,) = folder.iterdir()
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    assert_equal(answer(program, beforehand=True), directly)
    assert file.read_bytes() != damaged


def test_the_fingerprint_sees_what_is_compiled_and_not_the_numbers(program):
    size = program.size
    same = replace(program, draws={name: 2.0 * values for name, values in program.draws.items()}, outcome="z")
    assert fingerprint(same) == fingerprint(program)
    weights = np.arange(1.0, size + 1.0)
    others = [
        program,
        replace(program, chains=2),
        replace(program, draws={name: values[1:] for name, values in program.draws.items()}),
        replace(program, draws={name: values.astype(np.float32) for name, values in program.draws.items()}),
        replace(program, weights=Weights(np.full(size, 1.0 / size), 0.1)),
        replace(program, weights=Weights(np.full(size, 1.0 / size), 0.2)),
        replace(program, weights=Weights(weights / weights.sum(), 0.1)),
        fitted(models.logistic, {"X": models.X, "y": models.y > 0}, {"beta": models.draws(3)}).program,
    ]
    assert len({fingerprint(other) for other in others}) == len(others)


def test_nothing_is_kept_where_the_cache_is_off(program, monkeypatch, tmp_path):
    monkeypatch.setenv("PROBINFER_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    answer(program, beforehand=True)
    assert not list(tmp_path.iterdir())
