"""A predictor in a user's own pickle, and copies of it: the same answers, by the bytes of the artifact alone."""

import copy
import io
import pickle  # noqa: TID251 - that of a user, of which artifacts are no part
import pickletools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import probinfer as pi
from tests.predict import models as m
from tests.predict.fits import fitted

STORED = Path(__file__).parent / "stored"
ROWS = {"x": [0.0, 1.5]}


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE)


def test_it_gives_the_same_numbers(line):
    line.predict(ROWS)  # what is compiled does not go along
    other = pickle.loads(pickle.dumps(line))
    assert repr(other) == repr(line)
    for one, two in zip(line.predict(ROWS).columns().values(), other.predict(ROWS).columns().values(), strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(line.sample(ROWS, 5), other.sample(ROWS, 5))


@pytest.mark.parametrize("path", sorted(STORED.glob("v*[!n]")), ids=lambda path: path.name)
def test_every_kind_of_predictor(path):
    predictor = pi.load_predictor(path)
    other = pickle.loads(pickle.dumps(predictor))
    assert type(other) is type(predictor)
    assert repr(other) == repr(predictor)
    for twin in (copy.copy(predictor), copy.deepcopy(predictor)):
        assert repr(twin) == repr(predictor)
        assert twin is not predictor


def test_a_pickle_calls_one_function_with_bytes(line):
    found = pickletools.genops(pickle.dumps(line, protocol=4))
    names = [operation.name for operation, *_ in found]
    assert names.count("STACK_GLOBAL") == names.count("REDUCE") == 1
    assert pickle.loads(pickle.dumps(line)).outcome == "y"


def test_damage_shows_as_in_a_file(line):
    content = bytearray(pickle.dumps(line))
    place = content.index(b"NUMPY") + 200
    content[place] ^= 0x55
    with pytest.raises(pi.ArtifactError, match="a pickled predictor"):
        pickle.loads(bytes(content))


def test_a_copy_answers_with_what_is_compiled(line, monkeypatch):
    line.predict(ROWS)
    twin = copy.deepcopy(line)
    monkeypatch.setattr("probinfer.predict.engine.kept_programs", None)  # nothing is compiled anew
    assert np.array_equal(twin.predict(ROWS).mean, line.predict(ROWS).mean)


def test_an_onnx_model_that_has_run():
    point = pi.load_predictor(STORED / "v5-point")
    rows = {entry.name: [0.1, 0.2] for entry in point.inputs}
    before = point.predict(rows)
    after = pickle.loads(pickle.dumps(point)).predict(rows)
    assert np.array_equal(before.mean, after.mean)
    assert np.array_equal(copy.deepcopy(point).predict(rows).mean, after.mean)


def test_another_process_answers_by_its_method(line):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(line.predict, ROWS).result()
    assert np.allclose(found.mean, line.predict(ROWS).mean, rtol=1e-12)


def test_the_bytes_are_those_of_a_zip(line, tmp_path):
    _, (content,) = line.__reduce__()
    (tmp_path / "line.zip").write_bytes(content)
    assert pi.load_predictor(tmp_path / "line.zip").outcome == "y"
    assert io.BytesIO(content).read(2) == b"PK"
