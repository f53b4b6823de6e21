"""The MLflow flavour: columns by name, plain files, and answers that are the predictor's own, also over HTTP."""

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

import probinfer as pi
from tests.deploy import raw_rows
from tests.deploy.raw_rows import HOUSES, RECORDS
from tests.predict import models as m
from tests.predict.fits import fitted
from tests.predict.test_joint_artifact import NAMES, fit
from tests.predict.test_point import KEPT, LINEAR

if importlib.util.find_spec("mlflow") is None:
    pytest.skip("mlflow is not installed", allow_module_level=True)

import probinfer.mlflow as flavor

# MLflow warns of its own type hints as it is imported, and of integers in every signature.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]
ROWS = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
SENT = [{**record, "day": f"{record['day']}T00:00"[:16]} for record in RECORDS]  # MLflow wants dates of one form
FRAME = HOUSES[[*ROWS]].head(6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("mlflow") / "prices"
    flavor.save_model(raw_rows.prices(), path, level=0.8, quantiles=(0.5,))
    return path


@pytest.fixture(scope="module")
def pyfunc(saved):
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(saved))


def test_a_pyfunc_answers_as_the_predictor_does(pyfunc):
    expected = raw_rows.prices().predict(FRAME, level=0.8, quantiles=(0.5,)).to_frame()
    pd.testing.assert_frame_equal(pyfunc.predict(FRAME), expected, rtol=1e-10)
    other = pyfunc.predict(FRAME, params={"level": 0.5, "quantiles": [0.1, 0.9]})
    pd.testing.assert_frame_equal(other, raw_rows.prices().predict(FRAME, 0.5, (0.1, 0.9)).to_frame(), rtol=1e-10)


def test_the_signature_is_the_schema(pyfunc):
    inputs = {spec.name: (spec.type.name, spec.required) for spec in pyfunc.metadata.signature.inputs}
    assert inputs == {
        "size": ("double", True), "town": ("string", True), "county": ("string", True), "day": ("datetime", True),
        "income": ("double", False),
    }  # fmt: skip
    outputs = {spec.name: spec.type.name for spec in pyfunc.metadata.signature.outputs}
    assert {"mean": "double", "upper": "double", "q0.5": "double"}.items() <= outputs.items()
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="size"):
        pyfunc.predict(FRAME.drop(columns="size"))
    with pytest.raises(pi.PredictionError, match="a label that training has not seen"):
        pyfunc.predict(FRAME.assign(town="Rom"))
    whole = pyfunc.predict(FRAME.drop(columns="income"))
    pd.testing.assert_frame_equal(whole, pyfunc.predict(FRAME.assign(income=np.nan)))


@pytest.mark.long
def test_vectors_levels_and_groups_are_columns(tmp_path):
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    binary = fitted(m.logistic, {"X": m.X, "y": m.y > 0}, {"beta": m.draws(3)})
    for number, site in enumerate(("site", None)):
        place = np.resize(["north", "south"], 40)
        rows = {"X": X, "site": place} if site else {"X": X}
        predictor = binary.calibrate(rows, y, groups=site or place)
        flavor.save_model(predictor, tmp_path / str(number))
        import mlflow.pyfunc

        frame = pd.DataFrame(X[:4], columns=["X[0]", "X[1]", "X[2]"]).assign(**{site or "groups": place[:4]})
        found = mlflow.pyfunc.load_model(str(tmp_path / str(number))).predict(frame)
        expected = binary.calibrate({"X": X}, y, place).predict({"X": X[:4]}, groups=place[:4]).to_frame()
        pd.testing.assert_frame_equal(found, expected)


def test_what_is_saved_holds_no_pickle_and_loads_as_the_predictor(saved):
    names = {path.name for path in saved.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    assert {"MLmodel", "requirements.txt", "manifest.json"} <= names
    loaded = flavor.load_model(saved)
    np.testing.assert_allclose(loaded.predict(ROWS).mean, raw_rows.prices().predict(ROWS).mean)
    with pytest.raises(pi.ArtifactError, match="is there already"):
        flavor.save_model(raw_rows.prices(), saved)


def test_what_cannot_be_saved_is_refused_and_leaves_no_folder(tmp_path):
    for wrong, more, error, text in [
        (object(), {}, pi.PredictionError, "object came, which answers no rows; wanted a predictor"),
        (raw_rows.prices(), {"quantiles": 0.5}, pi.PredictionError, "wanted a list of probabilities"),
        (raw_rows.prices(), {"level": 90}, pi.PredictionError, "level has 90"),
        (pi.PointPredictor(lambda X: X[:, 0], inputs=["a"], classes=["u", "v"]), {}, pi.ModelError, "without pickle"),
    ]:
        with pytest.raises(error, match=text):
            flavor.save_model(wrong, tmp_path / "model", **more)
        assert not (tmp_path / "model").exists()


@pytest.mark.long
def test_models_are_logged_registered_and_found_again(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path}/runs")
    mlflow.set_experiment("tests")
    point = pi.PointPredictor(LINEAR, inputs=["a", "b"]).calibrate(KEPT, KEPT.y)
    try:
        with mlflow.start_run():
            info = flavor.log_model(point, "linear", metadata={"who": "tests"})
        assert flavor.load_model(info.model_uri).inputs == point.inputs
        found = mlflow.pyfunc.load_model(info.model_uri).predict(pd.DataFrame({"a": [1.0], "b": [0.5]}))
        assert found["mean"][0] == point.predict({"a": [1.0], "b": [0.5]}).mean[0]
    finally:
        mlflow.set_tracking_uri(None)
    with pytest.raises(pi.ModelError, match="without pickle"):
        flavor.save_model(pi.PointPredictor(lambda X: X[:, 0], inputs=["a"], classes=["u", "v"]), tmp_path / "function")


def test_a_model_of_another_flavour_is_refused_by_name(tmp_path):
    (tmp_path / "MLmodel").write_text("flavors:\n  sklearn: {}\n")
    with pytest.raises(pi.ArtifactError, match="is a model of sklearn, not of probinfer"):
        flavor.load_model(tmp_path)


def test_mlflows_scoring_server_answers(pyfunc):
    from mlflow.pyfunc import scoring_server

    bodies = [
        {"dataframe_records": SENT, "params": {"level": 0.5}},
        {"dataframe_records": [{**SENT[0], "size": "big"}]},
    ]

    async def asked():
        transport = httpx.ASGITransport(scoring_server.init(pyfunc))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return [await client.post("/invocations", json=body) for body in bodies]

    answer, refused = asyncio.run(asked())
    assert answer.status_code == 200, answer.text
    expected = raw_rows.prices().predict(ROWS, level=0.5)
    np.testing.assert_allclose([row["upper"] for row in answer.json()["predictions"]], expected.upper, rtol=1e-10)
    assert refused.status_code == 400


@pytest.mark.long
def test_mlflow_models_serve(saved):
    """The command itself, in the environment that is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local"]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where it looks for uvicorn
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "PYTHONWARNINGS": "ignore", "PATH": programs},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and server.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        body = {"dataframe_records": SENT, "params": {"level": 0.5}}
        assert server.poll() is None
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        expected = raw_rows.prices().predict(ROWS, level=0.5)
        np.testing.assert_allclose([row["upper"] for row in answer.json()["predictions"]], expected.upper, rtol=1e-10)
    finally:
        os.killpg(server.pid, 15)  # the command starts a server of its own
        server.wait(30)


@pytest.mark.long
def test_several_outcomes(tmp_path):
    joint = pi.Predictor(fit(), outcome=NAMES)
    flavor.save_model(joint, tmp_path / "persons")
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(tmp_path / "persons"))
    frame = pd.DataFrame({"x": m.x[:3]})
    pd.testing.assert_frame_equal(model.predict(frame), joint.predict(frame).to_frame(), rtol=1e-10)
    assert [spec.name for spec in model.metadata.signature.inputs] == ["x"]
    assert "ill.probability_1" in [spec.name for spec in model.metadata.signature.outputs]
    assert isinstance(flavor.load_model(tmp_path / "persons"), pi.JointPredictor)
