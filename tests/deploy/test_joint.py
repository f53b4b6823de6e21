"""Several outcomes in one run: a table with columns of each, the same numbers as predicting it."""

import numpy as np
import pandas as pd
import pytest

import probinfer as pi
from probinfer.cli import main
from probinfer.deploy.score import score
from probinfer.deploy.served import load
from tests.predict import models as m
from tests.predict.test_joint_artifact import NAMES, fit

FRAME = pd.DataFrame({"id": np.arange(6), "x": m.x[:6]})


@pytest.fixture(scope="module")
def joint():
    return pi.Predictor(fit(), outcome=NAMES)


@pytest.fixture(scope="module")
def path(joint, tmp_path_factory):
    path = tmp_path_factory.mktemp("joint") / "predictor"
    joint.save(path)
    return path


def test_a_table_is_scored_with_columns_of_each_outcome(joint, path, tmp_path, capsys):
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    files = [str(tmp_path / name) for name in ("rows.csv", "out.csv")]
    assert main(["score", str(path), *files, "--keep", "id", "--level", "0.8"]) == 0
    found = pd.read_csv(files[1])
    expected = joint.predict(FRAME, level=0.8).to_frame()
    assert list(found) == ["id", *expected]
    assert "height.upper" in expected
    pd.testing.assert_frame_equal(found[[*expected]], expected, rtol=1e-12, check_dtype=False)
    assert main(["inspect", str(path)]) == 0
    assert "outcomes  2, from the same posterior draws" in capsys.readouterr().out


def test_rows_that_one_outcome_cannot_take_are_rejected(path, tmp_path):
    bad = FRAME.assign(x=[*m.x[:2], np.nan, *m.x[3:5], np.inf])
    bad.to_parquet(tmp_path / "rows.parquet")
    done = score(
        path, tmp_path / "rows.parquet", tmp_path / "out.parquet", rejects=tmp_path / "rejects.jsonl", progress=False
    )
    assert (done.rows, done.rejected) == (4, 2)
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 4


@pytest.mark.parametrize("outcome", ["ill", pytest.param("height", marks=pytest.mark.long)])
def test_each_outcome_is_served_under_a_name_that_ends_in_it(joint, path, outcome):
    rows = {"x": m.x[:3]}
    served = load(f"persons.{outcome}", path)
    assert served.outcome == outcome
    question = served.question(rows, 3, level=0.8)
    found = served.answer([question])[0]
    assert not isinstance(found, Exception)
    np.testing.assert_allclose(found.lower, joint[outcome].predict(rows, level=0.8).lower, rtol=1e-12)
    drawn = joint.sample(rows, 8, seed=5)[outcome]
    np.testing.assert_array_equal(served.answers.sample(question, 8, 5), drawn)  # joint by the same seed


def test_an_onnx_file_has_one_outcome(path, tmp_path, capsys):
    assert main(["export", str(path), "--onnx", str(tmp_path / "file.onnx")]) == 2
    assert "Write a file for each: predictor['height']" in capsys.readouterr().err
