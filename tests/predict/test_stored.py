"""Artifacts that were written once and are kept: this version must read them, and answer what they answered then."""

import json
from pathlib import Path

import numpy as np
import pytest

import probinfer as pi
from probinfer.predict import artifact
from tests.predict.stored.make import STORED, answers

FOLDER = Path(__file__).parent / "stored"
SLOW = ("v8-counts",)


def differences(predictor, expected):
    """Names of the numbers that are not those of the file. Rounding differs between processors, draws do not."""
    found = answers(predictor)
    assert found.keys() == expected.keys()
    return [n for n, values in found.items() if not np.allclose(values, expected[n], rtol=1e-9, equal_nan=True)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in SLOW else ()) for n in STORED])
def test_a_stored_artifact_answers_as_it_did(name):
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    predictor = pi.load_predictor(FOLDER / name)
    assert differences(predictor, expected) == []
    manifest = json.loads((FOLDER / name / "manifest.json").read_text())
    assert f"v{manifest['format_version']}" == name.split("-")[0]
    upper = next(name for name in expected if name.endswith("upper"))
    expected[upper][0] *= 1 + 1e-6  # the test would see it
    assert differences(predictor, expected) == [upper]


def test_there_is_one_for_each_format_version():
    assert {int(name[1:].split("-")[0]) for name in STORED} == set(range(1, artifact.FORMAT_VERSION + 1))


def test_a_stored_artifact_is_saved_again_in_its_version(tmp_path):
    for name in STORED:
        pi.load_predictor(FOLDER / name).save(tmp_path / name)
        before, after = (json.loads((p / name / "manifest.json").read_text()) for p in (FOLDER, tmp_path))
        assert after["format_version"] == before["format_version"]
        for kept in ("outcome", "inputs", "about", "draws", "size", "chains", "parts"):
            assert after.get(kept) == before.get(kept)
