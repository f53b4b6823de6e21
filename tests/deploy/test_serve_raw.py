"""The server over predictors that prepare raw rows, and over point models: raw rows in, the outcome's own units out."""

import re
import subprocess
import sys

import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy.fields import fields_of
from probinfer.deploy.named_outputs import Output
from probinfer.deploy.served import load
from probinfer.deploy.settings import ServeSettings
from tests.deploy import raw_rows
from tests.deploy.browser import PROGRAM
from tests.deploy.conftest import LOADED
from tests.deploy.raw_rows import HOUSES, RECORDS
from tests.deploy.serving import metric, running, tensor
from tests.predict.test_point import KEPT, LINEAR, SOFTMAX, graph, helper

ROWS = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
TENSORS = [
    tensor("size", ROWS["size"]),
    tensor("town", ROWS["town"], "BYTES"),
    tensor("county", ROWS["county"], "BYTES"),
    tensor("day", ROWS["day"], "BYTES"),
    tensor("income", ROWS["income"]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("raw")
    raw_rows.prices().save(place / "price")
    raw_rows.fates().save(place / "fate")
    point = pi.PointPredictor(LINEAR, inputs=["a", "b"])
    point.calibrate(KEPT, KEPT.y, groups="site").save(place / "point")
    point.save(place / "unsure")
    classes = pi.PointPredictor(SOFTMAX, inputs=["a", "b"], outcome="kind", classes=["low", "mid", "top"])
    classes.save(place / "kind")
    raw_rows.points().save(place / "raw")
    return place


@pytest.fixture(scope="module")
def client(folder):
    models = tuple((name, folder / name) for name in ("price", "fate", "point", "kind", "raw"))
    with running(ServeSettings(models, max_batch=2, reload=0.0, drain=0.0)) as (client, _):
        yield client


def test_raw_records_are_answered_in_the_outcomes_own_units(client, folder):
    body = {"records": RECORDS, "level": 0.8, "quantiles": [0.5]}
    found = client.post("/predict/price", json=body).json()
    expected = LOADED(folder / "price").predict(ROWS, level=0.8, quantiles=(0.5,))
    assert found["outcome"] == "price"
    for name in ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse"):
        np.testing.assert_allclose([row[name] for row in found["predictions"]], getattr(expected, name), rtol=1e-10)
    assert [row["quantiles"]["0.5"] for row in found["predictions"]] == pytest.approx(expected.quantiles[:, 0].tolist())


def test_raw_tensors_are_answered_as_records_are(client, folder):
    names = ("mean", "upper", "samples")
    body = {"inputs": TENSORS, "outputs": [{"name": n} for n in names], "parameters": {"seed": 4, "num_samples": 8}}
    answer = client.post("/v2/models/price/infer", json=body)
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in answer.json()["outputs"]}
    predictor = LOADED(folder / "price")
    expected = predictor.predict(ROWS)
    np.testing.assert_allclose(outputs["mean"], expected.mean, rtol=1e-10)
    np.testing.assert_allclose(outputs["upper"], expected.upper, rtol=1e-10)
    np.testing.assert_allclose(outputs["samples"], predictor.sample(ROWS, 8, seed=4).T, rtol=1e-10)


def test_labels_of_classes_are_answered_as_labels(client, folder):
    wanted = ["probabilities", "most_probable", "in_set"]
    found = client.post("/predict/fate", json={"records": RECORDS, "outputs": wanted}).json()
    expected = LOADED(folder / "fate").predict(ROWS)
    assert found["classes"] == ["kept", "sold"]
    assert [row["most_probable"] for row in found["predictions"]] == expected.most_probable.tolist()
    tensors = {"inputs": TENSORS, "outputs": [{"name": "most_probable"}, {"name": "in_set"}]}
    outputs = client.post("/v2/models/fate/infer", json=tensors).json()["outputs"]
    assert outputs[0] == {"name": "most_probable", "shape": [2], "datatype": "BYTES", "data": [*expected.most_probable]}
    metadata = client.get("/v2/models/fate").json()
    by_class = {output["name"]: output.get("labels") for output in metadata["outputs"]}
    assert by_class["probabilities"] == by_class["in_set"] == ["kept", "sold"]


@pytest.mark.parametrize(
    ("model", "labelled"),
    [("price", {"price": [45.0, 1e6]}), ("fate", {"fate": ["sold", "kept"]})],
)
def test_outcomes_are_reported_in_their_own_units(client, folder, model, labelled):
    ((name, came),) = labelled.items()
    records = [{**record, name: value} for record, value in zip(RECORDS, came, strict=True)]
    answer = client.post(f"/feedback/{model}", json={"records": records, "level": 0.5})
    assert answer.status_code == 200, answer.text
    p = LOADED(folder / model).predict(ROWS, level=0.5)
    numbers = np.array(came) if model == "price" else np.searchsorted(["kept", "sold"], came)
    assert answer.json()["covered"] == ((p.lower <= numbers) & (numbers <= p.upper)).tolist()
    assert metric(client, f'probinfer_feedback_total{{model="{model}",level="0.5"}}') >= 2
    if model == "fate":
        refused = client.post("/feedback/fate", json={"records": [{**RECORDS[0], "fate": "burnt"}]})
        assert refused.status_code == 422
        assert "'burnt'" in refused.json()["error"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"town": "Rom"}, "town is 'Rom' in row 0 (the first row is row 0): a label that training has not seen"),
        ({"size": None}, "size is missing in row 0"),
        ({"size": "big"}, "size is 'big' in row 0 (the first row is row 0); wanted a number"),
        ({"size": -1.0}, "size is -1 in row 0 (the first row is row 0); a logarithm wants numbers above 0"),
        ({"size": [1.0]}, "size is a list in row 0 (the first row is row 0); wanted one value"),
        ({"town": {"a": 1}}, "town is an object in row 0"),
        ({"size": 10**300}, "size is a whole number beyond 64 bits in row 0"),
        ({"day": "tomorrow"}, "day is 'tomorrow' in row 0 (the first row is row 0); wanted a date"),
        ({"day": "today"}, "day is 'today' in row 0 (the first row is row 0); wanted a date"),
        ({"day": "2024-02-03T10:00Z"}, "without a time zone"),
        ({"day": 7}, "wanted dates"),
        ({"sise": 1.0}, "Nothing is known of 'sise'"),
    ],
)
def test_raw_rows_that_do_not_fit_are_refused(client, change, text):
    answer = client.post("/predict/price", json={"records": [{**RECORDS[0], **change}]})
    assert answer.status_code == 422, answer.text
    assert text in answer.json()["error"]


def test_tensors_that_do_not_fit_the_raw_columns_are_refused(client):
    for change, text in [
        (tensor("income", ["a", "b"]), "something else than numbers"),
        (tensor("income", [None, "b"]), "income holds numbers and null; wanted a flat list of 2"),
        (tensor("town", ["Ulm", None], "BYTES"), "town holds texts; wanted a flat list of 2"),
        (tensor("size", [1.0, None]), "size holds something else than numbers"),
    ]:
        inputs = [change if entry["name"] == change["name"] else entry for entry in TENSORS]
        answer = client.post("/v2/models/price/infer", json={"inputs": inputs})
        assert answer.status_code == 400, answer.text
        assert text in answer.json()["error"]


def test_metadata_openapi_and_page_follow_the_raw_schema(client):
    inputs = {entry["name"]: entry for entry in client.get("/v2/models/price").json()["inputs"]}
    assert {name: entry["datatype"] for name, entry in inputs.items()} == {
        "size": "FP64", "town": "BYTES", "income": "FP64", "day": "BYTES", "county": "BYTES",
    }  # fmt: skip
    assert inputs["town"]["labels"] == ["Aix", "Ulm", "Řím"]
    assert inputs["income"]["parameters"] == {"missing": True}
    document = client.get("/openapi.json").json()
    record = document["components"]["schemas"]["price.Record"]["properties"]
    assert record["town"] == {"type": "string", "enum": ["Aix", "Ulm", "Řím"]}
    assert record["county"]["type"] == ["string", "number", "boolean"]  # it takes labels that are new
    assert {"type": "null"} in record["income"]["anyOf"]
    assert "null" not in str(record["size"])
    for name in ("price", "fate", "point", "kind", "raw"):  # every example has an answer of the model
        post = document["paths"][f"/predict/{name}"]["post"]
        request = post["requestBody"]["content"]["application/json"]["example"]
        shown = post["responses"]["200"]["content"]["application/json"]["example"]
        answer = client.post(f"/predict/{name}", json=request).json()
        made, expected = (dict(one["predictions"][0]) for one in (answer, shown))
        assert made.pop("most_probable", None) == expected.pop("most_probable", None)
        assert made.keys() == expected.keys()
        for output in made:
            np.testing.assert_allclose(made[output], expected[output], rtol=1e-9)
    example = document["paths"]["/predict/price"]["post"]["requestBody"]["content"]["application/json"]["example"]
    middle = example["records"][0]
    assert HOUSES["size"].min() < middle["size"] < HOUSES["size"].max()  # not zero, which has no logarithm
    described = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert described["fate"]["labels"] == ["kept", "sold"]
    town = next(entry for entry in described["price"]["inputs"] if entry["name"] == "town")
    assert (town["dtype"], town["closed"], town["missing"]) == ("text", True, False)


# point models --------------------------------------------------------------------------------------------------------


def test_point_models_are_answered_with_their_intervals(client, folder):
    rows = {"a": [0.3, -1.0], "b": [0.5, 0.1], "site": [0, 1]}
    records = [{name: values[i] for name, values in rows.items()} for i in range(2)]
    found = client.post("/predict/point", json={"records": records, "level": 0.8, "quantiles": [0.25]}).json()
    expected = LOADED(folder / "point").predict(rows, level=0.8, quantiles=(0.25,))
    assert set(found["predictions"][0]) == {"mean", "sd", "lower", "upper", "quantiles"}
    for name in ("mean", "sd", "lower", "upper"):
        np.testing.assert_allclose([row[name] for row in found["predictions"]], getattr(expected, name), rtol=1e-12)
    assert found["predictions"][1]["quantiles"]["0.25"] == pytest.approx(expected.quantiles[1, 0])
    assert found["guarantee"] == expected.guarantee
    assert 'probinfer_epistemic_share_count{model="point"} 0' in client.get("/metrics").text


def test_point_models_are_answered_from_raw_fields(client, folder):
    """Text, number, boolean, date and a gap, one of them the group too."""
    records = [
        {"size": 50.0, "town": "Ulm", "pool": True, "day": "2024-02-03", "income": 41.5},
        {"size": 80, "town": "Řím", "pool": False, "day": "2024-02-05T17:30", "income": None},
        {"size": 81.5, "town": "Aix", "pool": "True", "day": "2024-02-07", "income": 30},
    ]  # more than max_batch
    found = client.post("/predict/raw", json={"records": records, "level": 0.6, "quantiles": [0.5]})
    assert found.status_code == 200, found.text
    rows = {name: [record[name] for record in records] for name in records[0]}
    expected = LOADED(folder / "raw").predict(rows, level=0.6, quantiles=(0.5,))
    for name in ("mean", "sd", "lower", "upper"):
        made = [row[name] for row in found.json()["predictions"]]
        np.testing.assert_allclose(made, getattr(expected, name), rtol=1e-12)
    assert len(set(expected.mean)) == 3
    tensors = {name: tensor(name, rows[name]) for name in ("size", "income")}
    tensors |= {name: tensor(name, list(map(str, rows[name])), "BYTES") for name in ("town", "pool", "day")}
    outputs = client.post("/v2/models/raw/infer", json={"inputs": list(tensors.values())}).json()["outputs"]
    np.testing.assert_allclose(outputs[0]["data"], expected.mean, rtol=1e-12)
    inputs = {entry["name"]: entry for entry in client.get("/v2/models/raw").json()["inputs"]}
    assert inputs["pool"]["labels"] == ["False", "True"]
    assert inputs["income"]["parameters"] == {"missing": True}
    for change, text in [
        ({"town": "Rom"}, "town is 'Rom' in row 0|the group 'Rom'"),
        ({"size": None}, "size is missing in row 0"),
        ({"day": "tomorrow"}, "wanted a date"),
        ({"sise": 1.0}, "Nothing is known of 'sise'"),
    ]:
        answer = client.post("/predict/raw", json={"records": [{**records[0], **change}]})
        assert answer.status_code == 422, answer.text
        assert re.search(text, answer.json()["error"])


def test_many_rows_of_a_point_model_come_in_pieces(client, folder):
    rng = np.random.default_rng(0)
    rows = {"a": rng.normal(size=50), "b": rng.normal(size=50), "site": np.arange(50) % 2}
    inputs = [
        tensor("a", rows["a"].tolist()),
        tensor("b", rows["b"].tolist()),
        tensor("site", rows["site"].tolist(), "INT64"),
    ]
    found = client.post("/v2/models/point/infer", json={"inputs": inputs}).json()  # max_batch is 2
    expected = LOADED(folder / "point").predict(rows)
    outputs = {output["name"]: output["data"] for output in found["outputs"]}
    np.testing.assert_allclose(outputs["upper"], expected.upper, rtol=1e-12)
    assert found["parameters"]["guarantee"] == expected.guarantee


def test_a_point_classifier_gives_labels_and_sets(client, folder):
    records = [{"a": 2.0, "b": 0.0}, {"a": 0.1, "b": 1.0}]
    found = client.post(
        "/predict/kind", json={"records": records, "level": 0.9, "outputs": ["most_probable", "in_set"]}
    )
    expected = LOADED(folder / "kind").predict({"a": [2.0, 0.1], "b": [0.0, 1.0]}, level=0.9)
    assert [row["most_probable"] for row in found.json()["predictions"]] == expected.most_probable.tolist()
    assert [row["in_set"] for row in found.json()["predictions"]] == expected.sets.tolist()
    for more, text in [
        ({"quantiles": [0.5]}, "kind has no quantiles"),
        ({"num_samples": 3}, "kind has no samples"),
        ({"outputs": ["mcse"]}, "There is no output called 'mcse'"),
    ]:
        answer = client.post("/predict/kind", json={"records": records, **more})
        assert (answer.status_code, text in answer.json()["error"]) == (400, True)
    fed = client.post("/feedback/kind", json={"records": [{**records[0], "kind": "top"}]})
    assert fed.json()["covered"] == [True]


def test_one_row_that_a_point_model_fails_on_does_not_fail_others(folder):
    served = load("point", folder / "point")
    fine = served.question({"a": [1.0], "b": [0.0], "site": [0]}, 1)
    huge = served.question({"a": [1e39], "b": [0.0], "site": [0]}, 1)  # no float32
    from probinfer.deploy.batcher import _answers

    first, second, third = _answers(served, [fine, huge, fine])
    assert isinstance(second, pi.PredictionError)
    assert "not a finite number" in str(second)
    assert first.lower == third.lower


def test_a_point_model_without_calibration_stops_the_server_before_it_listens(folder):
    with pytest.raises(pi.ArtifactError, match=re.escape("a point model that is not calibrated")):
        load("unsure", folder / "unsure")
    assert Output.QUANTILES not in load("kind", folder / "kind").outputs


def test_the_example_of_a_number_of_which_nothing_is_known_is_one():
    """What a formula takes the logarithm of would be refused at 0, and the page would begin with an error."""
    prepared = pi.Pipeline(lambda X: None, inputs={"X": [pi.Column("size")]}).settle(HOUSES)
    line = graph([helper.make_node("MatMul", ["X", "W"], ["y"])], [("y", ["n", 1])], ("W", np.ones((1, 1))), width=1)
    (field,) = fields_of(pi.PointPredictor(line.SerializeToString(), inputs=prepared, outcome="price"))
    assert field.example == 1.0


# clients that others wrote -------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_browser_shows_the_raw_columns(client, folder):
    """The page as Chromium has it after its script has run."""
    if PROGRAM is None:
        pytest.skip("there is no Chromium here")
    found = subprocess.run(
        [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom",
         f"http://127.0.0.1:{client.base_url.port}/"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    page = found.stdout
    assert sorted(re.findall(r'data-input="(\w+)"', page)) == ["county", "day", "income", "size", "town"]
    assert all(f">{town}</option>" in page for town in ("Aix", "Ulm", "Řím"))
    assert 'type="datetime-local"' in page
    example = load("price", folder / "price").example()
    expected = LOADED(folder / "price").predict(example)
    drawn = [float(text) for text in re.findall(r"<text[^>]*>(-?[\d.]+)</text>", page)]
    np.testing.assert_allclose(drawn, [expected.lower[0], expected.upper[0]], rtol=1e-3)
    assert re.search(r'id="problem"[^>]*></p>', page)


@pytest.mark.long
def test_a_fuzzer_finds_nothing_in_raw_rows(folder, tmp_path):
    """As for rows of numbers: every answer has a form that the document names, and nothing invalid is accepted."""
    pytest.importorskip("schemathesis")
    config = tmp_path / "schemathesis.toml"
    config.write_text("[checks.negative_data_rejection]\nexpected-statuses = [400, 401, 404, 405, 413, 415, 422]\n")
    models = (("price", folder / "price"), ("kind", folder / "kind"))
    with running(ServeSettings(models, max_batch=8, max_rows=50, reload=0.0, drain=0.0)) as (client, _):
        address = f"http://127.0.0.1:{client.base_url.port}/openapi.json"
        found = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", address, "--max-examples", "20",
             "--phases", "examples,coverage,fuzzing", "--seed", "1", "--exclude-path-regex", "infer",
             "--request-timeout", "120",
             "--exclude-checks", "positive_data_acceptance"],  # a date of the right form may be none, 2026-02-31
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert re.search(r"[1-9]\d* generated", found.stdout)
