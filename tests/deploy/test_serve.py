"""The server over HTTP: the same numbers as the predictor, the protocol in full, and a defined answer to everything."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy import app
from probinfer.deploy.connection import GuardedProtocol
from probinfer.deploy.served import load
from probinfer.deploy.settings import ServeSettings, named
from tests.deploy.serving import metric, running, tensor, until_ready
from tests.predict import models as m
from tests.predict.fits import fitted

MOST_BODY = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two predictors: `line`, a normal outcome, and `classes`, a binary one calibrated in groups by its `site`."""
    place = tmp_path_factory.mktemp("models")
    fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4).save(place / "line")
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    binary = fitted(m.logistic, {"X": m.X, "y": m.y > 0}, {"beta": m.draws(3)})
    binary.calibrate({"X": X, "site": np.resize(["north", "south"], 40)}, y, groups="site").save(place / "classes")
    return place


def settings(folder, **more):
    models = (("line", folder / "line"), ("classes", folder / "classes"))
    usual = {"max_batch": 4, "reload": 0.0, "drain": 0.0, "body_timeout": 1.0, "max_body": MOST_BODY, "max_rows": 500}
    return ServeSettings(models, **{**usual, **more})


@pytest.fixture(scope="module")
def server(folder):
    with running(settings(folder)) as (client, service):
        yield client, service


@pytest.fixture(scope="module")
def line(folder):
    return pi.load_predictor(folder / "line")


@pytest.fixture
def shared(server, monkeypatch):
    """Further servers in the same test use what is compiled already."""
    known = {name: slot.served for name, slot in server[1].models.slots.items()}
    monkeypatch.setattr(app, "load", lambda name, path: known[name])


# the same numbers ----------------------------------------------------------------------------------------------------


def test_records_are_answered_with_the_predictors_numbers(client, line):
    x = [0.3, -1.5, 2.0]
    body = {"records": [{"x": value} for value in x], "level": 0.8, "quantiles": [0.1, 0.5]}
    found = client.post("/predict", json=body).json()
    expected = line.predict({"x": np.array(x)}, level=0.8, quantiles=(0.1, 0.5))
    assert (found["model"], found["outcome"], found["level"]) == ("line", "y", 0.8)
    for name in ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse"):
        np.testing.assert_allclose([row[name] for row in found["predictions"]], getattr(expected, name), rtol=1e-10)
    quantiles = [[row["quantiles"][q] for q in ("0.1", "0.5")] for row in found["predictions"]]
    np.testing.assert_allclose(quantiles, expected.quantiles, rtol=1e-10)
    assert client.post("/predict/line", json=body).json()["predictions"] == found["predictions"]


def test_tensors_are_answered_with_the_predictors_numbers(client, line):
    x = [0.3, -1.5]
    names = ["mean", "sd", "lower", "upper", "aleatoric_sd", "quantiles", "samples"]
    body = {
        "id": "seven",
        "inputs": [tensor("x", x)],
        "outputs": [{"name": name} for name in names],
        "parameters": {"level": 0.5, "quantiles": "0.25,0.75", "num_samples": 20, "seed": 3},
    }
    found = client.post("/v2/models/line/infer", json=body).json()
    assert found["id"] == "seven"
    assert found["model_name"] == "line"
    assert [output["name"] for output in found["outputs"]] == names
    outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in found["outputs"]}
    expected = line.predict({"x": np.array(x)}, level=0.5, quantiles=(0.25, 0.75))
    for name in names[:-1]:
        np.testing.assert_allclose(outputs[name], getattr(expected, name), rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(outputs["samples"], line.sample({"x": np.array(x)}, draws=20, seed=3).T, rtol=1e-10)
    assert found["parameters"] == {
        "level": 0.5, "interval": "equal-tailed", "quantiles": "0.25,0.75", "num_samples": 20, "seed": 3,
    }  # fmt: skip


def test_classes_and_groups(client, folder):
    rows = {"X": np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 0.0]]), "site": np.array(["south", "north"])}
    expected = pi.load_predictor(folder / "classes").predict(rows, level=0.7)
    records = [{"X": rows["X"][i].tolist(), "site": str(rows["site"][i])} for i in range(2)]
    body = {"records": records, "level": 0.7, "outputs": ["probabilities", "most_probable", "in_set"]}
    found = client.post("/predict/classes", json=body).json()
    np.testing.assert_allclose(
        [row["probabilities"] for row in found["predictions"]], expected.probabilities, rtol=1e-10
    )
    assert [row["in_set"] for row in found["predictions"]] == expected.sets.tolist()
    assert [row["most_probable"] for row in found["predictions"]] == expected.most_probable.tolist()
    assert found["guarantee"] == expected.guarantee
    tensors = {
        "inputs": [
            tensor("X", rows["X"].tolist(), "FP32", [2, 3]),  # nested lists are allowed too
            tensor("site", ["south", "north"], "BYTES"),
        ],
        "parameters": {"level": 0.7},
        "outputs": [{"name": "calibration_rows"}, {"name": "in_set"}],
    }
    outputs = client.post("/v2/models/classes/infer", json=tensors).json()["outputs"]
    assert (outputs[0]["datatype"], outputs[0]["data"]) == ("INT64", expected.calibration_rows.tolist())
    assert (outputs[1]["datatype"], outputs[1]["data"]) == ("BOOL", expected.sets.ravel().tolist())
    unknown = {"records": [{"X": [0, 0, 0], "site": "west"}]}
    answer = client.post("/predict/classes", json=unknown)
    assert answer.status_code == 422
    assert "'west'" in answer.json()["error"]


def test_requests_at_once_share_calls_and_keep_their_own_answers(server, line):
    client, service = server
    before = metric(client, 'probinfer_batch_requests_count{model="line"}')
    levels = np.linspace(0.1, 0.95, 40)

    def one(number):
        rows = [{"x": float(number) / 10 + i} for i in range(1 + number % 3)]
        answer = client.post("/predict", json={"records": rows, "level": levels[number]})
        return [row["upper"] for row in answer.json()["predictions"]]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(40)))
    for number, uppers in enumerate(found):
        x = np.array([float(number) / 10 + i for i in range(1 + number % 3)])
        np.testing.assert_allclose(uppers, line.predict({"x": x}, level=levels[number]).upper, rtol=1e-10)
    assert 0 < metric(client, 'probinfer_batch_requests_count{model="line"}') - before <= 40
    assert service.models.slots["line"].batcher.idle


def test_a_long_request_comes_in_one_piece(client, line):
    x = np.linspace(-2, 2, 300)
    found = client.post("/v2/models/line/infer", json={"inputs": [tensor("x", x.tolist())]}).json()
    mean = next(output for output in found["outputs"] if output["name"] == "mean")
    assert mean["shape"] == [300]
    np.testing.assert_allclose(mean["data"], line.predict({"x": x}).mean, rtol=1e-10)


# the protocol --------------------------------------------------------------------------------------------------------


def test_metadata_and_health(client):
    assert client.get("/v2").json() == {"name": "probinfer", "version": pi_version(), "extensions": []}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"] is True
    found = client.get("/v2/models/classes").json()
    assert found["name"] == "classes"
    assert found["platform"] == "probinfer"
    assert found["inputs"] == [
        {"name": "X", "datatype": "FP64", "shape": [-1, 3]},
        {"name": "site", "datatype": "BYTES", "shape": [-1], "labels": ["north", "south"]},
    ]
    outputs = {output["name"]: (output["datatype"], output["shape"]) for output in found["outputs"]}
    assert outputs["probabilities"] == ("FP64", [-1, 2])
    assert outputs["samples"] == ("INT64", [-1, -1])
    (version,) = found["versions"]
    assert client.get(f"/v2/models/classes/versions/{version}").json() == found
    assert client.get(f"/v2/models/classes/versions/{version}/ready").json() == {"name": "classes", "ready": True}
    assert client.get("/v2/models/classes/ready").json()["ready"] is True
    body = {"inputs": [tensor("x", [1.0])]}
    (version,) = client.get("/v2/models/line").json()["versions"]
    answer = client.post(f"/v2/models/line/versions/{version}/infer", json=body).json()
    assert answer["model_version"] == version
    assert "id" not in answer
    for path in ("/v2/models/line/versions/1/infer", "/v2/models/other/infer"):
        refused = client.post(path, json=body)
        assert refused.status_code == 404
        assert set(refused.json()) == {"error"}
    assert client.get("/v2/models/other").status_code == 404
    assert client.get("/v2/models/line/versions/1").status_code == 404
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405


def pi_version():
    from importlib.metadata import version

    return version("probinfer")


def test_openapi_describes_what_is_served_with_answers_that_are_real(client, line):
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    predict = document["paths"]["/predict/line"]["post"]
    example = predict["requestBody"]["content"]["application/json"]["example"]
    assert example == {"records": [{"x": 0.0}], "level": 0.9}
    shown = predict["responses"]["200"]["content"]["application/json"]["example"]
    assert client.post("/predict/line", json=example).json() == shown
    np.testing.assert_allclose(shown["predictions"][0]["mean"], line.predict({"x": 0.0}).mean[0], rtol=1e-10)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            sent = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            if method == "get" or sent is not None:
                assert client.request(method, path, json=sent).status_code == 200, path
    record = document["components"]["schemas"]["classes.Record"]["properties"]
    assert record["site"] == {"type": "string", "enum": ["north", "south"]}
    assert record["X"] == {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number"}}


def test_examples_and_answers_follow_the_documents_own_schemas(client):
    import jsonschema

    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        post = operations.get("post")
        if post is None or "example" not in post["requestBody"]["content"]["application/json"]:
            continue
        sent = post["requestBody"]["content"]["application/json"]
        answer = client.post(path, json=sent["example"])
        for value, schema in (
            (sent["example"], sent["schema"]),
            (answer.json(), post["responses"]["200"]["content"]["application/json"]["schema"]),
        ):
            jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_the_page_has_what_it_needs_and_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert client.get(path).status_code == 200, path
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page.text + client.get("/page.js").text)
    tag = page.headers["etag"]
    assert client.get("/", headers={"if-none-match": tag}).status_code == 304
    described = client.get("/models").json()["models"]
    assert [one["name"] for one in described] == ["line", "classes"]
    assert "verdict   GOOD" in described[0]["card"]
    for one in described:
        assert client.post(f"/predict/{one['name']}", json={"records": [one["example"]]}).status_code == 200


# what is refused -----------------------------------------------------------------------------------------------------

WRONG = {
    "no json": (b"{", 400, "cannot be read as JSON"),
    "text": (b"\xff\xfe", 400, "cannot be read as JSON"),
    "nan": (b'{"records": [{"x": NaN}]}', 400, "JSON has no NaN and no Infinity"),
    "infinity": (b'{"records": [{"x": -Infinity}]}', 400, "JSON has no NaN"),
    "too large a number": (b'{"records": [{"x": 1e999}]}', 400, "out of range"),
    "deep": (b'{"records": [{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}]}", 400, "nested too deeply"),
    "a deep boolean": (
        b'{"records": [{"x": ' + b"[" * 5_000 + b"true" + b"]" * 5_000 + b"}]}",
        422,
        "x is true or false",
    ),
    "a list": (b'[{"x": 1}]', 400, "Expected `object`, got `array`"),
    "no records": (b"{}", 400, "missing required field `records`"),
    "empty": (b'{"records": []}', 400, "No rows came"),
    "typo": (b'{"records": [{"x": 1}], "levle": 0.9}', 400, "unknown field `levle`"),
    "record is no object": (b'{"records": [1]}', 400, "records[0]"),
    "missing input": (b'{"records": [{}]}', 422, "The rows lack x"),
    "ragged records": (b'{"records": [{"x": 1}, {"x": 1}, {"z": 1}]}', 422, "Record 0 (the first is record 0) lacks z"),
    "unknown input": (b'{"records": [{"x": 1, "z": 2}]}', 422, "nothing called 'z'"),
    "text for a number": (b'{"records": [{"x": 1}, {"x": "one"}]}', 422, "x holds text"),
    "null": (b'{"records": [{"x": 1}, {"x": null}]}', 422, "x is missing in row 1"),
    "a list for a number": (b'{"records": [{"x": [1, 2]}]}', 422, "x has the shape (1, 2)"),
    "level": (b'{"records": [{"x": 1}], "level": 1.5}', 422, "level has 1.5; wanted probabilities"),
    "level text": (b'{"records": [{"x": 1}], "level": "high"}', 422, "level has 'high'"),
    "quantile": (b'{"records": [{"x": 1}], "quantiles": [0.5, 2]}', 422, "quantiles has 2"),
    "many quantiles": (b'{"records": [{"x": 1}], "quantiles": [' + b"0.5," * 100 + b"0.5]}", 400, "1 to 100"),
    "output": (b'{"records": [{"x": 1}], "outputs": ["men"]}', 400, "no output called 'men'; line has mean, sd"),
    "no output": (b'{"records": [{"x": 1}], "outputs": []}', 400, "list of outputs is empty"),
    "draws": (b'{"records": [{"x": 1}], "num_samples": 1001}', 400, "may have 1000 draws"),
    "half a draw": (b'{"records": [{"x": 1}], "num_samples": 1.5}', 400, "num_samples is 1.5"),
    "seed": (b'{"records": [{"x": 1}], "num_samples": 5, "seed": -1}', 400, "seed is -1"),
    "rows": (b'{"records": [' + b'{"x":1},' * 500 + b'{"x":1}]}', 413, "501 rows came; one request may have 500"),
    "a boolean": (b'{"records": [{"x": true}]}', 422, "x is true or false in a record"),
    "a boolean among numbers": (b'{"records": [{"x": 1}, {"x": false}]}', 422, "x is true or false"),
    "long name": (b'{"records": [{"x": 1, "' + b"n" * 50_000 + b'": 1}]}', 422, "nnn…'; rows need x"),
    "number and text": (b'{"records": [{"x": 1}, {"x": "a"}]}', 422, "x holds text, for example 'a'"),
    "huge integer": (b'{"records": [{"x": 1' + b"0" * 400 + b"}]}", 422, "x is a whole number beyond 64 bits in row 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(client, name):
    body, status, text = WRONG[name]
    answer = client.post("/predict", content=body)
    assert text in answer.json()["error"]
    assert answer.status_code == status
    assert len(answer.content) < 3_000


@pytest.mark.parametrize("body", [b"", b'{"x": 1}', b'[{"x": 1}]', b'{"instances": [{"x": 1}]}', b"{}"])
def test_a_body_of_another_form_is_shown_one_that_is_answered(client, body):
    """The commonest mistake of all: a bare record, or another server's form."""
    text = client.post("/predict", content=body).json()["error"]
    example = text[text.index('Wanted {"records"') + len("Wanted ") :].removesuffix(".")
    assert client.post("/predict", content=example.encode()).status_code == 200


def test_another_method_is_told_which(client):
    answer = client.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"].endswith("It takes POST.")


def test_a_link_gives_its_own_name_to_the_model(tmp_path):
    """Else the name would be another one after the next start, once `current` points elsewhere."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    assert named([f"{tmp_path}/current", f"{tmp_path}/v1/."]) == (
        ("current", tmp_path / "current"),
        ("v1", tmp_path / "v1"),
    )


def test_a_number_in_a_list_may_not_be_a_boolean_and_text_is_named(client):
    for X, text in [([0.5, True, 1.0], "X is true or false"), ([1, "a", 2], "X holds text, for example 'a'")]:
        answer = client.post("/predict/classes", json={"records": [{"X": X, "site": "true north"}]})
        assert (answer.status_code, text in answer.json()["error"]) == (422, True)


def test_a_slash_too_many_is_told_and_not_sent_elsewhere(client):
    for method, path in [("POST", "/predict/"), ("GET", "/metrics/"), ("GET", "/v2/models/line/")]:
        answer = client.request(method, path)
        assert (answer.status_code, "nothing that this server does" in answer.json()["error"]) == (404, True)
    assert client.get("/v2/").status_code == 200


TENSORS = {
    "datatype": ([{**tensor("x", [1.0]), "datatype": "FP8"}], 400, "datatype 'FP8'"),
    "bytes": ([tensor("x", ["a"], "BYTES")], 422, "x holds text"),
    "shape": ([tensor("x", [1.0, 2.0], shape=[3])], 400, "holds 2 numbers; its shape [3] needs 3"),
    "negative": ([tensor("x", [1.0], shape=[-1])], 400, "shape [-1]"),
    "scalar": ([{**tensor("x", [1.0]), "shape": []}], 400, "wanted the number of rows first"),
    "wide": ([tensor("x", [1.0, 2.0], shape=[1, 2])], 400, "wanted [-1]"),
    "fractions": ([tensor("x", [1.5], "INT32")], 400, "INT32 and holds fractions"),
    "bool": ([tensor("x", [7], "BOOL")], 400, "x is BOOL and holds something else"),
    "bool of a fraction": ([tensor("x", [0.5], "BOOL")], 400, "x is BOOL and holds something else"),
    "uint8": ([tensor("x", [1, 300], "UINT8")], 400, "x is UINT8 and holds 300; wanted 0 to 255"),
    "negative uint8": ([tensor("x", [-1], "UINT8")], 400, "x is UINT8 and holds -1; wanted 0 to 255"),
    "int64": ([tensor("x", [2**63], "INT64")], 400, "x is INT64 and holds 9223372036854775808"),
    "fp16": ([tensor("x", [1e6], "FP16")], 400, "x is FP16 and holds 1000000.0; its largest number is 65504"),
    "fp32": ([tensor("x", [0.0, -1e300], "FP32")], 400, "x is FP32 and holds -1e+300; its largest number is 3.4"),
    "booleans as numbers": ([tensor("x", [1.0, True])], 400, "x is FP64 and holds true or false"),
    "booleans as whole numbers": ([tensor("x", [True], "INT32")], 400, "x is INT32 and holds true or false"),
    "null": ([tensor("x", [None])], 400, "something else than numbers"),
    "twice": ([tensor("x", [1.0]), tensor("x", [1.0])], 400, "came twice: x"),
    "unknown": ([tensor("x", [1.0]), tensor("z", [1.0])], 422, "nothing called 'z'"),
    "lengths": ([tensor("x", [1.0]), tensor("z", [1.0, 2.0])], 400, "x has 1, z has 2"),
    "none": ([], 422, "The rows lack x"),
    "no rows": ([tensor("x", [], shape=[0])], 400, "No rows came"),
    "no whole rows": ([tensor("x", [], "INT64", shape=[0])], 400, "No rows came"),
    "binary apart": (
        [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}],
        400,
        "came as binary data",
    ),
    "no data": ([{"name": "x", "shape": [1], "datatype": "FP64"}], 400, "The data of x are no list"),
    "binary": ([{**tensor("x", [1.0]), "parameters": {"binary_data_size": 8}}], 400, "came as binary data"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_wrong_tensor_is_told_what_is_wrong(client, name):
    inputs, status, text = TENSORS[name]
    answer = client.post("/v2/models/line/infer", json={"inputs": inputs})
    assert text in answer.json()["error"]
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (True, "BOOL"), (1, "BOOL"), (255, "UINT8"), (-128, "INT8"), (2**64 - 1, "UINT64"), (65504.0, "FP16"),
        (3.4028235e38, "FP32"), (7, "FP64"),
    ],
)  # fmt: skip
def test_the_ends_of_a_datatype_are_taken(client, value, datatype):
    assert client.post("/v2/models/line/infer", json={"inputs": [tensor("x", [value], datatype)]}).status_code == 200


def test_parameters_of_other_servers_are_ignored_and_slips_of_the_pen_refused(client):
    body = {"inputs": [tensor("x", [[1.0]], shape=[1, 1])]}
    others = {"binary_data_output": False, "content_type": "np", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    others |= {"sequence_id": 3, "timeout": 5, "x-tenant": "north", "headers": {}, "priority": 1, "request-source": ""}
    fine = client.post("/v2/models/line/infer", json={**body, "parameters": others})
    assert fine.status_code == 200
    for name, meant in {"levle": "level", "Level": "level", "samples": "num_samples", "quantile": "quantiles"}.items():
        refused = client.post("/v2/models/line/infer", json={**body, "parameters": {name: 0.9}})
        assert refused.status_code == 400
        assert f"no parameter '{name}'; did you mean {meant}? There are level" in refused.json()["error"]
    fine = client.post("/v2/models/line/infer", json={**body, "parameters": {"binary_data_output": True}})
    assert isinstance(fine.json()["outputs"][0]["data"], list)


def test_binary_tensors_behind_the_json_are_named(client):
    head = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}]}'
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    answer = client.post("/v2/models/line/infer", content=head + np.ones(1).tobytes(), headers=headers)
    assert answer.status_code == 400
    assert "Tensors came as binary data; wanted JSON alone" in answer.json()["error"]


def test_bodies_are_bounded(client):
    answer = client.post("/predict", content=b" " * 10_000_000)
    assert answer.status_code == 413
    assert f"10000000 bytes came; a body may have {MOST_BODY}" in answer.json()["error"]
    chunks = client.post("/predict", content=(b" " * 20_000 for _ in range(20)))
    assert chunks.status_code == 413
    assert client.post("/predict", content=b"x", headers={"content-encoding": "gzip"}).status_code == 415


def test_a_million_rows_in_a_request_are_refused_and_hold_up_nobody(folder, shared):
    """Bodies may be large here; their rows are counted beside the event loop, which goes on answering."""
    ones = b",".join([b"1"] * 10**6)
    tensors = b'{"inputs": [{"name": "x", "shape": [1000000], "datatype": "FP64", "data": [' + ones + b"]}]}"
    records = b'{"records": [' + b",".join([b'{"x":1}'] * 10**6) + b"]}"
    with running(settings(folder, max_body=2**25, body_timeout=30.0)) as (client, _), ThreadPoolExecutor(2) as pool:
        sent = [
            pool.submit(client.post, path, content=body, timeout=120)
            for path, body in (("/v2/models/line/infer", tensors), ("/predict", records))
        ]
        between = 0
        while not all(answer.done() for answer in sent):
            assert client.post("/predict", json={"records": [{"x": 1}]}).status_code == 200
            between += 1
        for answer in sent:
            assert answer.result().status_code == 413
            assert "1000000 rows came; one request may have 500" in answer.result().json()["error"]
        assert between > 0


def test_numbers_that_are_not_finite_are_null_and_counted():
    from probinfer.deploy.asking import Ask, Reply
    from probinfer.deploy.named_outputs import Form, Output
    from probinfer.deploy.open_inference import write_infer
    from probinfer.deploy.records import write_predictions
    from probinfer.predict.engine import Answer
    from probinfer.predict.interval import Answered
    from probinfer.predict.together import Question

    class Heavy:
        """Stands in for a Student's t with one degree of freedom, whose mean and sd are none."""

        name, version = "heavy", "1"
        form, outcome = Form(), "y"

    one = np.array([1.0])
    answer = Answer(
        *(np.array([value]) for value in (np.nan, np.inf, 1.0, np.inf, 1.0)),  # mean, sd, its two parts, mcse
        one[:, None],
        one[:, None],
        np.array([True]),
        np.zeros((1, 0)),
    )
    question = Question({"x": one}, np.zeros(1, np.uint32))
    asked = Ask(Heavy, question, (Output.MEAN, Output.SD, Output.UPPER))
    reply = Reply(Answered(answer, -one, one, one[:, None]), None)
    assert json.loads(write_predictions(asked, reply))["predictions"] == [{"mean": None, "sd": None, "upper": 1.0}]
    mean, sd, upper = json.loads(write_infer(asked, reply))["outputs"]
    assert (mean["data"], sd["data"], upper["data"]) == ([None], [None], [1.0])
    assert mean["parameters"] == {"not_finite": 1}
    assert "parameters" not in upper


def test_a_request_that_cannot_wait_gets_504_and_a_wrong_limit_400(client):
    body = {"inputs": [tensor("x", [1.0] * 400)]}
    assert client.post("/v2/models/line/infer", json=body, headers={"x-timeout-ms": "soon"}).status_code == 400
    assert client.post("/v2/models/line/infer", json=body, headers={"x-timeout-ms": "000"}).status_code == 400
    for digits in ("9" * 400, "9" * 5000):  # longer than the server waits, whoever asks
        assert client.post("/v2/models/line/infer", json=body, headers={"x-timeout-ms": digits}).status_code == 200
    late = client.post("/v2/models/line/infer", json=body, headers={"x-timeout-ms": "1"})
    assert late.status_code == 504
    assert "not ready in time" in late.json()["error"]


def test_an_error_of_the_server_is_500_without_its_text(server, monkeypatch, caplog):
    client, service = server
    served = service.models.slots["line"].served

    def broken(questions):
        raise RuntimeError("secret of the machine")

    monkeypatch.setitem(service.models.slots["line"].__dict__, "served", Stub(served, broken))
    answer = client.post("/predict", json={"records": [{"x": 1}]})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"].rpartition(" ")[2].rstrip(".") in {getattr(r, "id", "") for r in caplog.records}


class Stub:
    """A model whose calls break."""

    def __init__(self, served, answer):
        self._served, self.answer = served, answer

    def __getattr__(self, name):
        return getattr(self._served, name)


# counting ------------------------------------------------------------------------------------------------------------


def test_metrics_count_requests_doubt_and_coverage(client, line):
    names = {
        "requests": 'probinfer_requests_total{model="line",route="predict",status="200"}',
        "refused": 'probinfer_requests_total{model="line",route="predict",status="422"}',
        "rows": 'probinfer_batch_rows_sum{model="line"}',
        "shares": 'probinfer_epistemic_share_count{model="line"}',
        "share": 'probinfer_epistemic_share_sum{model="line"}',
        "width": 'probinfer_interval_width_sum{model="line",level="0.8"}',
        "told": 'probinfer_feedback_total{model="line",level="0.8"}',
        "covered": 'probinfer_feedback_covered_total{model="line",level="0.8"}',
        "expected": 'probinfer_feedback_expected_total{model="line",level="0.8"}',
    }
    before = {key: metric(client, name) for key, name in names.items()}
    x = [0.0, 1.0]
    client.post("/predict", json={"records": [{"x": value} for value in x], "level": 0.8})
    client.post("/predict", json={"records": [{"x": None}], "level": 0.8})
    expected = line.predict({"x": np.array(x)}, level=0.8)
    middle = {key: metric(client, name) - before[key] for key, name in names.items()}
    assert (middle["requests"], middle["refused"], middle["rows"], middle["shares"]) == (1, 1, 2, 2)
    np.testing.assert_allclose(middle["share"], np.sum(expected.epistemic_sd**2 / expected.sd**2), rtol=1e-6)
    np.testing.assert_allclose(middle["width"], np.sum(expected.upper - expected.lower), rtol=1e-6)
    told = [{"x": 0.0, "y": 0.0}, {"x": 0.0, "y": 100.0}, {"x": 1.0, "y": 0.1}]
    answer = client.post("/feedback", json={"records": told, "level": 0.8})
    assert answer.json()["covered"] == [True, False, True]
    after = {key: metric(client, name) - before[key] for key, name in names.items()}
    assert (after["told"], after["covered"]) == (3, 2)
    np.testing.assert_allclose(after["expected"], 2.4)
    wrong = client.post("/feedback", json={"records": [{"x": 0.0}]})
    assert "lacks y, the outcome that came" in wrong.json()["error"]
    assert client.post("/feedback", json={"records": [{"x": 0.0, "y": "a"}]}).status_code == 422


def test_metrics_are_prometheus_text(client):
    text = client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    told, buckets = [], {}
    for line in text.text.splitlines():
        if line.startswith("#"):
            kind, name = line.split()[1:3]
            if kind == "TYPE":
                told.append(name)
            continue
        match = re.fullmatch(r'(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\S+)', line)
        assert match, line
        assert match[1].startswith(told[-1])  # every series stands under its own heading
        float(match[3])
        if match[1].endswith("_bucket"):
            series = re.sub(r',?le="[^"]*"', "", match[2])
            buckets.setdefault((match[1], series), []).append(float(match[3]))
    assert len(set(told)) == len(told)
    assert buckets
    assert all(counts == sorted(counts) for counts in buckets.values())


# keys, transport, and clients that misbehave -------------------------------------------------------------------------


def test_an_api_key_is_asked_for_everywhere_but_health_and_page(folder, shared):
    with running(settings(folder, api_key="correct horse")) as (client, _):
        body = {"records": [{"x": 1}]}
        for headers in ({}, {"x-api-key": "wrong horse"}, {"authorization": "Basic correct horse"}):
            refused = client.post("/predict", json=body, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert "correct horse" not in refused.text
        for path in ("/metrics", "/models", "/openapi.json", "/v2/models/line"):
            assert client.get(path).status_code == 401
        for headers in ({"x-api-key": "correct horse"}, {"authorization": "Bearer correct horse"}):
            assert client.post("/predict", json=body, headers=headers).status_code == 200
        for path in ("/v2/health/ready", "/v2/health/live", "/", "/page.js"):
            assert client.get(path).status_code == 200
        document = client.get("/openapi.json", headers={"x-api-key": "correct horse"}).json()
        assert document["security"] == [{"bearer": []}, {"header": []}]


def test_tls(folder, shared, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not here")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    import ssl

    trusted = ssl.create_default_context(cafile=str(certificate))
    with running(settings(folder, certificate=certificate, key=key), verify=trusted) as (client, _):
        assert client.post("/predict", json={"records": [{"x": 1}]}).status_code == 200
        idle = trusted.wrap_socket(connect(client), server_hostname="127.0.0.1")
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
    assert time.monotonic() - began < 10.0  # a client that does not read on does not hold up the end
    idle.close()


def connect(client):
    """A socket that gives up after a minute, which is how a server shows that never lets its clients go."""
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)


def everything(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_slow_clients_are_let_go_and_hold_up_nobody(client):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    with connect(client) as silent, connect(client) as in_head, connect(client) as in_body:
        in_head.sendall(head)
        in_body.sendall(head + b"\r\n" + b'{"records"')
        assert client.post("/predict", json={"records": [{"x": 1}]}).status_code == 200
        assert everything(in_body).startswith(b"HTTP/1.1 408")
        assert everything(in_head) == b""
        assert everything(silent) == b""


def test_connections_too_many_are_refused_and_probes_answered(folder, shared):
    with running(settings(folder, connections=4, body_timeout=30.0)) as (client, _), contextlib.ExitStack() as idle:
        for _ in range(6):
            idle.enter_context(connect(client))
        with httpx.Client(base_url=client.base_url) as late:
            for path in ("/v2/health/live", "/v2/health/ready", "/health/live"):
                assert late.get(path).status_code == 200
            answer = late.post("/predict", json={"records": [{"x": 1}]})
            assert (answer.status_code, answer.headers["retry-after"], answer.headers["connection"]) == (
                503,
                "1",
                "close",
            )
            assert "More than 4 connections are open" in answer.json()["error"]
            refused = 'probinfer_requests_total{model="line",route="predict",status="503"}'
            assert metric(late, refused) == 1
        assert client.post("/predict", json={"records": [{"x": 1}]}).status_code == 200  # was there before
        idle.close()
        until = time.monotonic() + 20
        with httpx.Client(base_url=client.base_url) as later:
            while later.post("/predict", json={"records": [{"x": 1}]}).status_code != 200:
                assert time.monotonic() < until
                time.sleep(0.05)


def test_floods_of_headers_are_refused(client):
    unread = 'probinfer_requests_total{model="",route="other",status="%d"}'
    before = {status: metric(client, unread % status) for status in (400, 431)}
    with connect(client) as many:
        many.sendall(b"GET /v2 HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"\r\n")
        assert everything(many).startswith(b"HTTP/1.1 431")
    with connect(client) as endless:
        sent = 0
        with contextlib.suppress(ConnectionError):  # the server closes while it still sends
            endless.sendall(b"GET /v2 HTTP/1.1\r\nX-Long: ")
            while sent < 50_000_000:
                endless.sendall(b"a" * 16_384)
                sent += 16_384
        assert sent < 20_000_000  # what the buffers between the two hold
    with connect(client) as garbage:
        garbage.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert everything(garbage).startswith(b"HTTP/1.1 400")
    assert {status: metric(client, unread % status) - before[status] for status in (400, 431)} == {400: 1, 431: 2}
    assert client.get("/v2/health/live").status_code == 200


def test_what_comes_before_a_head_in_its_piece_is_not_counted_as_head(client):
    """The rest of a body that was refused before it was read, and requests that came before."""
    asked = posted(b"/predict", b'{"records": [{"x": 1}]}')
    with connect(client) as kept:
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kept.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * MOST_BODY))
        assert answer_on(kept)[0].split()[1] == b"413"
        kept.sendall(b" " * (2 * MOST_BODY) + asked[:20])
        time.sleep(0.05)
        kept.sendall(asked[20:])
        assert answer_on(kept)[0].split()[1] == b"200"
    probe = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Long: %b\r\n\r\n" % (b"a" * 10_000)
    with connect(client) as pipelined:
        pipelined.sendall(probe * 5 + probe[:-1])
        time.sleep(0.05)
        pipelined.sendall(probe[-1:])
        for _ in range(6):
            assert answer_on(pipelined)[0].split()[1] == b"200"


def test_pipelined_requests_are_answered_in_order(client):
    bodies = [json.dumps({"inputs": [tensor("x", [float(i)])], "id": f"n{i}"}).encode() for i in range(5)]
    head = b"POST /v2/models/line/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"
    with connect(client) as connection:
        last = len(bodies) - 1
        connection.sendall(
            b"".join(head % (len(b), b"Connection: close\r\n" if i == last else b"") + b for i, b in enumerate(bodies))
        )
        found = re.findall(rb'"id":"(n\d)"', everything(connection))
    assert found == [b"n0", b"n1", b"n2", b"n3", b"n4"]


def posted(path, content, *headers, version=b"1.1"):
    head = [b"POST " + path + b" HTTP/" + version, b"Host: x", b"Content-Length: %d" % len(content), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + content


def without_date(answer):
    """Status and headers, in any order, and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    return status, {line for line in headers if not line.startswith(b"date:")}, body


ONE_PIECE = {
    "an answer": (b'{"records": [{"x": 1}]}', (), 200),
    "what is wrong": (b'{"records": [{"x": "one"}]}', (), 422),
    "no json": (b"{", (), 400),
    "no body": (b"", (), 400),
    "too large": (b" " * (MOST_BODY + 1), (), 413),
    "encoded": (b"x", (b"Content-Encoding: gzip",), 415),
    "a limit that is none": (b'{"records": [{"x": 1}]}', (b"X-Timeout-Ms: soon",), 400),
}


@pytest.mark.parametrize("name", ONE_PIECE)
def test_a_request_in_one_piece_is_answered_as_one_in_many(client, name, monkeypatch):
    """The former goes past ASGI, the latter through it."""
    content, headers, status = ONE_PIECE[name]
    sent = posted(b"/predict", content, b"Connection: close", *headers)
    ways = []
    counted = f'probinfer_requests_total{{model="line",route="predict",status="{status}"}}'
    before = metric(client, counted)
    monkeypatch.setattr(GuardedProtocol, "_answer", noting(GuardedProtocol._answer, ways))
    with connect(client) as whole:
        whole.sendall(sent)
        expected = without_date(everything(whole))
    assert len(ways) == (len(sent) < 2**16)  # the rest is too long for one piece
    with connect(client) as cut:
        cut.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        middle = sent.index(b"\r\n\r\n") - 5
        cut.sendall(sent[:middle])
        time.sleep(0.05)
        cut.sendall(sent[middle : middle + 8])  # the end of the headers, and of the body nothing
        time.sleep(0.05)
        cut.sendall(sent[middle + 8 :])
        assert without_date(everything(cut)) == expected
    assert expected[0].split()[1] == str(status).encode()
    assert b"connection: close" in expected[1]
    assert metric(client, counted) == before + 2


def noting(answer, ways):
    """`answer`, which notes that it was called."""

    def noted(self, whole, headers):
        ways.append(whole.path)
        return answer(self, whole, headers)

    return noted


def answer_on(connection):
    """The next answer on a connection that stays open."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += connection.recv(1)
    length = int(re.search(rb"content-length: (\d+)", came)[1])
    while length:
        piece = connection.recv(length)
        came, length = came + piece, length - len(piece)
    return without_date(came)


def test_a_head_that_came_before_is_not_parsed_again_and_every_answer_is_as_ever(client, monkeypatch):
    parsed = []
    begin = GuardedProtocol.on_message_begin
    monkeypatch.setattr(GuardedProtocol, "on_message_begin", lambda self: (parsed.append(1), begin(self))[1])
    bodies = [b'{"records": [{"x": %d}]}' % x for x in (1, 2, 3)]
    bodies += [b'{"records": [{"x": +}]}', b'{"records": [{"x": 10}]}', b'{"records": [{"y": 4}]}', bodies[0]]
    sent = [posted(b"/predict", body) for body in bodies]
    expected = []
    for message in sent:
        with connect(client) as fresh:
            fresh.sendall(message)
            expected.append(answer_on(fresh))
    assert [status.split()[1] for status, _, _ in expected] == [b"200"] * 3 + [b"400", b"200", b"422", b"200"]
    parsed.clear()
    with connect(client) as kept:
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for message, wanted in zip(sent * 2, expected * 2, strict=True):
            kept.sendall(message)
            assert answer_on(kept) == wanted
        assert len(parsed) == 3  # the first, one of its length that is remembered, and the longer one
        other = posted(b"/predict", bodies[1], b"X-Timeout-Ms: soon")
        kept.sendall(other)
        assert answer_on(kept)[0].split()[1] == b"400"  # another head
        for cut in (len(sent[0]) - 4, sent[0].index(b"\r\n\r\n") + 2):
            kept.sendall(sent[0][:cut])
            time.sleep(0.05)
            kept.sendall(sent[0][cut:] + sent[1] + sent[2])  # a rest, and two at once
            for number in range(3):
                assert answer_on(kept) == expected[number]
        kept.sendall(sent[1] + sent[4])
        assert answer_on(kept) == expected[1]
        assert answer_on(kept) == expected[4]


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")


def test_an_offer_of_another_protocol_is_not_taken_and_the_request_is_answered(client):
    """As Java's HttpClient makes one with every request, and curl with `--http2`."""
    bodies = [b'{"records": [{"x": %d}]}' % x for x in (1, 2, 3)]
    plain = [posted(b"/predict", body) for body in bodies]
    offering = [posted(b"/predict", body, *H2C) for body in bodies]
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (bodies[0][:5], bodies[0][5:], b""))
    chunked = b"\r\n".join([b"POST /predict HTTP/1.1", b"Host: x", b"Transfer-Encoding: chunked", *H2C]) + b"\r\n\r\n"
    with connect(client) as kept:
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expected = []
        for message in plain:
            kept.sendall(message)
            expected.append(answer_on(kept))
        for message, wanted in zip(offering * 2, expected * 2, strict=True):  # the later ones have a head that is known
            kept.sendall(message)
            assert answer_on(kept) == wanted
        for cut in (3, offering[0].index(b"h2c"), offering[0].index(b"\r\n\r\n") + 2, offering[0].index(b"{"), -4):
            kept.sendall(offering[0][:cut])
            time.sleep(0.02)
            kept.sendall(offering[0][cut:] + plain[1] + offering[2])
            for wanted in expected:
                assert answer_on(kept) == wanted
        kept.sendall(chunked)
        time.sleep(0.02)
        kept.sendall(pieces + offering[1])
        assert answer_on(kept)[2] == expected[0][2]
        assert answer_on(kept)[2] == expected[1][2]
        kept.sendall(b"\r\n".join([b"GET /v2/health/live HTTP/1.1", b"Host: x", *H2C]) + b"\r\n\r\n")
        assert answer_on(kept)[2] == b'{"live":true}'
    with connect(client) as last:
        last.sendall(posted(b"/predict", bodies[0], b"Connection: Upgrade, close", b"Upgrade: websocket"))
        assert without_date(everything(last))[2] == expected[0][2]


def test_blanks_around_a_value_are_none_of_it(client):
    body = b'{"records": [{"x": 1}]}'
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Timeout-Ms:\t9000 \t\r\nContent-Length:  %d  \r\n\r\n"
    with connect(client) as kept:
        for _ in range(3):
            kept.sendall(head % len(body) + body)
            assert answer_on(kept)[0].split()[1] == b"200"


def test_a_connection_that_breaks_takes_no_other_answer_with_it(folder, monkeypatch):
    """All in one call: one client sends what is no request after its own, one is gone, and to one nothing can be
    written."""
    write, broken = GuardedProtocol._write, []

    def writing(self, whole, made):
        if b"22" in whole.body:
            broken.append(1)
            raise OSError("nothing can be written")
        write(self, whole, made)

    monkeypatch.setattr(GuardedProtocol, "_write", writing)
    fine = posted(b"/predict", b'{"records": [{"x": 1}]}')
    with running(settings(folder, max_wait_ms=300.0)) as (client, _), contextlib.ExitStack() as opened:
        others = [opened.enter_context(connect(client)) for _ in range(4)]
        others[0].sendall(fine + b"\0\0 no request\r\n\r\n")
        others[1].sendall(fine)
        others[1].close()
        others[2].sendall(posted(b"/predict", b'{"records": [{"x": 22}]}'))
        others[3].sendall(fine)
        with connect(client) as kept:
            kept.sendall(fine)
            assert answer_on(kept)[0].split()[1] == b"200"
        assert answer_on(others[3])[0].split()[1] == b"200"
        assert broken
        assert client.get("/v2/health/ready").status_code == 200


def test_an_idle_connection_is_closed_and_one_that_is_used_or_waits_is_not(folder, shared, monkeypatch):
    made = GuardedProtocol.connection_made

    def impatient(self, transport):
        self.timeout_keep_alive = 0.5
        made(self, transport)

    monkeypatch.setattr(GuardedProtocol, "connection_made", impatient)
    message = posted(b"/predict", b'{"records": [{"x": 1}]}')
    with running(settings(folder)) as (client, _), connect(client) as kept:
        for _ in range(6):
            kept.sendall(message)
            assert answer_on(kept)[0].split()[1] == b"200"
            time.sleep(0.2)
        began = time.monotonic()
        assert kept.recv(1) == b""
        assert 0.1 < time.monotonic() - began < 5.0
    with running(settings(folder, max_wait_ms=900.0)) as (client, _), connect(client) as kept:
        for _ in range(2):  # a call waits for more, longer than a connection may be idle
            kept.sendall(message)
            assert answer_on(kept)[0].split()[1] == b"200"


def test_requests_of_one_call_may_each_name_their_own_outputs(folder, shared, line):
    """Numbers of the rows of one call are listed once for those who ask the same."""
    names = ["mean", "sd", "lower", "upper", "epistemic_sd", "aleatoric_sd", "mcse"]
    asked = [[names[i % 7], *([names[(i + 3) % 7]] if i % 3 else [])] for i in range(24)]
    x = np.linspace(-2, 2, 24)
    expected = line.predict({"x": x})
    with running(settings(folder, max_batch=8, max_wait_ms=200.0)) as (client, _), ThreadPoolExecutor(24) as pool:

        def one(number):
            body = {"records": [{"x": x[number]}] * (1 + number % 3), "outputs": asked[number]}
            return client.post("/predict", json=body).json()["predictions"]

        found = list(pool.map(one, range(24)))
        calls = metric(client, 'probinfer_batch_requests_count{model="line"}')
    assert calls < 24
    for number, rows in enumerate(found):
        assert len(rows) == 1 + number % 3
        for row in rows:
            assert list(row) == asked[number]
            for name, value in row.items():
                np.testing.assert_allclose(value, getattr(expected, name)[number], rtol=1e-10)


def test_fewer_draws_than_usual_may_be_the_most(folder, shared):
    with running(settings(folder, max_samples=20)) as (client, _):
        body = {"records": [{"x": 1}], "outputs": ["samples"]}
        assert client.post("/predict", json={"records": [{"x": 1}], "outputs": ["mean"]}).status_code == 200
        assert len(client.post("/predict", json=body).json()["predictions"][0]["samples"]) == 20
        assert client.post("/predict", json={**body, "num_samples": 21}).status_code == 400


def test_a_connection_lives_as_long_as_its_client_wants(client):
    body = b'{"records": [{"x": 1}]}'
    with connect(client) as kept:
        kept.settimeout(10)
        for path in (b"/predict", b"/predict/line", b"/predict?a=b", b"/predict"):  # that with a query through ASGI
            kept.sendall(posted(path, body))
            answer = b""
            while not answer.endswith(b"}]}"):
                answer += kept.recv(65536)
            status, headers, _ = without_date(answer)
            assert (status, b"connection: close" in headers) == (b"HTTP/1.1 200 OK", False)
    for asks in ([], [b"Connection: keep-alive"]):  # of whom the second would wait for a header that says it is kept
        with connect(client) as old:
            old.sendall(posted(b"/predict", body, *asks, version=b"1.0"))
            assert b"connection: close" in without_date(everything(old))[1]
    with connect(client) as asking:
        asking.sendall(posted(b"/predict", body, b"Expect: 100-continue", b"Connection: close"))
        assert b"HTTP/1.1 200 OK" in everything(asking)
    with connect(client) as waiting:
        head, _, content = posted(b"/predict", body, b"Expect: 100-continue", b"Connection: close").partition(b"{")
        waiting.sendall(head)
        assert waiting.recv(100).startswith(b"HTTP/1.1 100")
        waiting.sendall(b"{" + content)
        assert b"HTTP/1.1 200 OK" in everything(waiting)


def test_a_client_that_goes_away_leaves_nothing_behind(folder, shared, monkeypatch):
    with running(settings(folder)) as (client, service):
        served = service.models.slots["line"].served

        def slow(questions):
            time.sleep(0.2)
            return served.answer(questions)

        monkeypatch.setitem(service.models.slots["line"].__dict__, "served", Stub(served, slow))
        for _ in range(3):
            with connect(client) as gone:
                gone.sendall(posted(b"/predict", b'{"records": [{"x": 1}]}'))
                time.sleep(0.05)
        assert client.post("/predict", json={"records": [{"x": 1}]}).status_code == 200
        until(lambda: service.models.slots["line"].batcher.idle)


PAGE = "https://page.example"


@pytest.mark.parametrize(("allowed", "said"), [((PAGE, "http://b.example"), PAGE), (("*",), "*")])
def test_pages_of_other_origins_may_ask_if_they_are_named(folder, shared, allowed, said):
    """On both ways, in one piece and through ASGI, in answers and refusals; a preflight needs no key."""
    key = {"X-API-Key": "0123456789"}
    with running(settings(folder, cors_origin=allowed, api_key="0123456789")) as (client, _):
        asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
        leave = client.options("/predict", headers=asks)
        assert leave.status_code == 200
        assert "x-api-key" in leave.headers["access-control-allow-headers"].lower()
        body = {"records": [{"x": 1}]}
        for answer, status in (
            (leave, 200),
            (client.post("/predict", json=body, headers={"Origin": PAGE, **key}), 200),
            (client.post("/predict?a=b", json=body, headers={"Origin": PAGE, **key}), 200),
            (client.post("/predict", json={}, headers={"Origin": PAGE, **key}), 400),
            (client.post("/predict", json=body, headers={"Origin": PAGE}), 401),
            (client.get("/v2", headers={"Origin": PAGE, **key}), 200),
        ):
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, said)
        other = client.post("/predict", json=body, headers={"Origin": "https://other.example", **key})
        assert other.headers.get("access-control-allow-origin") == (None if said == PAGE else "*")
        assert said == "*" or other.headers["vary"] == "Origin"


def test_no_other_origin_may_ask_unless_it_is_named(client, folder):
    answer = client.post("/predict", json={"records": [{"x": 1}]}, headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    with pytest.raises(pi.MethodError, match="wanted a scheme and a host"):
        settings(folder, cors_origin=("page.example/",))


def test_a_mark_of_unicode_before_the_json_is_passed_over(client):
    sent = b"\xef\xbb\xbf" + json.dumps({"records": [{"x": 1}]}).encode()
    for path in ("/predict", "/predict?a=b"):
        assert client.post(path, content=sent).status_code == 200


def test_a_full_queue_is_429_with_retry_after(folder, shared, server, monkeypatch):
    with running(settings(folder, max_queue=1)) as (client, service):
        served = service.models.slots["line"].served

        def slow(questions):
            time.sleep(0.3)
            return served.answer(questions)

        monkeypatch.setitem(service.models.slots["line"].__dict__, "served", Stub(served, slow))

        def one(number):
            answer = client.post("/predict", json={"records": [{"x": 1}]})
            return answer.status_code, answer.headers.get("retry-after")

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(one, range(8)))
    statuses = [status for status, _ in found]
    assert set(statuses) == {200, 429}
    assert all(int(after) >= 1 for status, after in found if status == 429)


# versions ------------------------------------------------------------------------------------------------------------


def save(folder, shift):
    draws = {**m.LINE, "slope": m.LINE["slope"] + shift}
    fitted(m.line, {"x": m.x, "y": m.y}, draws, chains=4).save(folder)


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_new_version_is_served_without_dropping_a_request_and_a_corrupt_one_is_not(folder, tmp_path, caplog):
    place = tmp_path / "line"
    shutil.copytree(folder / "line", place)
    answers, stop = [], []

    def ask(client):
        while not stop:
            found = client.post("/predict", json={"records": [{"x": 100.0}]})
            answers.append((found.status_code, found.json().get("version"), found.json()["predictions"][0]["mean"]))

    def version():
        return client.get("/v2/models/line").json()["versions"][0]

    own = ServeSettings((("line", place),), max_batch=1, reload=0.05, drain=0.0)
    with running(own) as (client, _), ThreadPoolExecutor(2) as pool:
        first = version()
        asking = [pool.submit(ask, client) for _ in range(2)]
        try:
            save(place, 7.0)
            until(lambda: version() != first)
            second = version()
            until(lambda: answers[-1][1] == second)
            # a folder that is away for a moment is no trouble
            place.rename(tmp_path / "away")
            time.sleep(0.1)
            (tmp_path / "away").rename(place)
            # one that is corrupt is refused, and said to be
            array = place / "draws-0.npy"
            good = array.read_bytes()
            array.write_bytes(good[:-1] + b"!")
            (place / "manifest.json").touch()
            until(lambda: client.get("/v2/health/ready").json()["models"]["line"].get("problem"))
            assert client.get("/v2/health/ready").status_code == 200
            assert version() == second
            assert metric(client, 'probinfer_artifact_refused{model="line"}') == 1
            assert metric(client, 'probinfer_reloads_total{model="line",outcome="refused"}') == 1
            array.write_bytes(good)
            (place / "manifest.json").touch()
            until(lambda: "problem" not in client.get("/v2/health/ready").json()["models"]["line"])
        finally:
            stop.append(True)
            for one in asking:
                one.result(30)
    means = {version: mean for _, version, mean in answers}
    assert {status for status, _, _ in answers} == {200}
    np.testing.assert_allclose(means[second] - means[first], 700.0, rtol=1e-9)
    assert len({(version, mean) for _, version, mean in answers}) == 2  # no mixture of the two
    refused = [record for record in caplog.records if record.getMessage() == "new version refused"]
    assert "draws-0.npy is damaged" in refused[0].problem


def test_before_it_is_compiled_the_server_is_alive_and_not_ready(folder, monkeypatch):
    import threading

    gate = threading.Event()
    loaded = {name: load(name, folder / name) for name in ("line", "classes")}
    monkeypatch.setattr(app, "load", lambda name, path: loaded[name])
    for served in loaded.values():
        monkeypatch.setattr(served.answers, "compile", lambda rows, threads: gate.wait(20))
    with running(settings(folder), wait=False) as (client, _):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                live = client.get("/v2/health/live")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        assert live.status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        refused = client.post("/predict", json={"records": [{"x": 1}]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert client.get("/v2/models/line/ready").status_code == 503
        gate.set()
        until_ready(client)


# settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"models": ()}, "No predictor to serve"),
        ({"models": named(["a=x", "a=y"])}, "Two predictors are called a"),
        ({"models": named(["a/b=x"])}, "cannot be a model's name"),
        ({"workers": 0}, "workers is 0"),
        ({"max_wait_ms": -1.0}, "max_wait_ms is -1"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"certificate": "c.pem"}, "TLS needs both"),
        ({"api_key": "short"}, "fewer than 8"),
    ],
)
def test_settings_are_checked(more, text):
    with pytest.raises(pi.ProbinferError, match=re.escape(text)):
        ServeSettings(**{"models": named(["a=x"]), **more})


def test_a_folder_that_is_no_predictor_stops_the_server_before_it_listens(tmp_path):
    with pytest.raises(pi.ArtifactError, match=r"missing; .* is no saved predictor"):
        app.Service(ServeSettings((("a", tmp_path),)))
