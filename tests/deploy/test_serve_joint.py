"""Several outcomes served as one model: each outcome's own numbers, draws that are joint, and outcomes reported one by
one."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy.batcher import Batcher
from probinfer.deploy.fields import Field, fields_together
from probinfer.deploy.meter import Meter
from probinfer.deploy.models import Models, Slot
from probinfer.deploy.served import Several, load, version_of
from probinfer.deploy.settings import ServeSettings
from probinfer.deploy.several import SeveralAnswers
from probinfer.deploy.worker import Worker
from tests.deploy.browser import browsing
from tests.deploy.serving import metric, running, tensor
from tests.predict import models as m
from tests.predict.test_joint_artifact import NAMES, fit

X = np.array([0.3, -1.5, 3.0])
ROWS = {"x": X}
RECORDS = [{"x": float(value)} for value in X]
FALSE_ALARM = 4.5  # standard errors: one run in 100,000


@pytest.fixture(scope="module")
def joint():
    both = pi.Predictor(fit(), outcome=NAMES)
    return both.calibrate({"x": m.x + 9.0}, {"height": m.y})


@pytest.fixture(scope="module")
def said(joint):
    """What the predictor says of ROWS, by level: always in the same shape, which is compiled once."""
    return lambda level, x=X: joint.predict({"x": x}, level=level, quantiles=(0.1, 0.5))


@pytest.fixture(scope="module")
def drawn(joint):
    """Of seed 5; the first of them are those of fewer."""
    return joint.sample(ROWS, 1000, seed=5)


@pytest.fixture(scope="module")
def folder(joint, tmp_path_factory):
    path = tmp_path_factory.mktemp("joint") / "child"
    joint.save(path)
    return path


@pytest.fixture(scope="module")
def server(folder):
    settings = ServeSettings((("child", folder),), max_batch=2, reload=0.0, drain=0.0, max_rows=20)
    with running(settings) as (client, service):
        yield client, service


def predict(client, **more):
    return client.post("/predict", json={"records": RECORDS, **more}).json()


def infer(client, **more):
    answer = client.post("/v2/models/child/infer", json={"inputs": [tensor("x", X.tolist())], **more}).json()
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in answer["outputs"]}, answer


# the same numbers ----------------------------------------------------------------------------------------------------


def test_records_have_an_object_for_each_outcome(client, said):
    found = predict(client, level=0.8, quantiles=[0.1, 0.5])
    expected = said(0.8)
    assert found["outcomes"] == NAMES
    assert found["guarantee"] == {"height": expected["height"].guarantee}
    for outcome in NAMES:
        rows = [row[outcome] for row in found["predictions"]]
        for name in ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse"):
            np.testing.assert_allclose([row[name] for row in rows], getattr(expected[outcome], name), rtol=1e-10)
        quantiles = [[row["quantiles"][q] for q in ("0.1", "0.5")] for row in rows]
        np.testing.assert_allclose(quantiles, expected[outcome].quantiles, rtol=1e-10)
    chances = [row["ill"]["probabilities"] for row in found["predictions"]]
    np.testing.assert_allclose(chances, expected["ill"].probabilities, rtol=1e-10)


def test_tensors_are_named_by_their_outcome(client, said):
    found, answer = infer(client, parameters={"level": 0.8})
    usual = ["mean", "sd", "lower", "upper", "epistemic_sd", "mcse"]  # what a model of one outcome gives by default
    classes = ["ill.probabilities", "ill.most_probable"]
    assert list(found) == [*(f"{outcome}.{name}" for outcome in NAMES for name in usual), *classes]
    expected = said(0.8)
    for outcome in NAMES:
        np.testing.assert_allclose(found[f"{outcome}.upper"], expected[outcome].upper, rtol=1e-10)
    assert answer["parameters"]["height.guarantee"] == expected["height"].guarantee
    chosen, _ = infer(client, outputs=[{"name": "ill.most_probable"}, {"name": "height.sd"}])
    assert list(chosen) == ["ill.most_probable", "height.sd"]
    np.testing.assert_array_equal(chosen["ill.most_probable"], expected["ill"].most_probable)


def test_the_metadata_lists_every_output_with_its_type_and_shape(client):
    metadata = client.get("/v2/models/child").json()
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["outputs"]}
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1]}]
    assert outputs["height.mean"] == ("FP64", [-1])
    assert outputs["height.calibration_rows"] == ("INT64", [-1])
    assert outputs["ill.probabilities"] == ("FP64", [-1, 2])
    assert outputs["ill.samples"] == ("INT64", [-1, -1])
    assert not {"ill.calibration_rows", "height.probabilities", "mean"} & set(outputs)
    asked = [{"name": name} for name in outputs]  # all that is listed is there, as it was listed
    found, answer = infer(client, outputs=asked, parameters={"num_samples": 1000})
    assert {each["name"]: each["datatype"] for each in answer["outputs"]} == {n: t for n, (t, _) in outputs.items()}
    for name, (_, shape) in outputs.items():
        assert len(shape) == found[name].ndim
        assert all(wanted in (-1, came) for wanted, came in zip(shape, found[name].shape, strict=True))


# joint draws ---------------------------------------------------------------------------------------------------------


def test_draws_of_all_outcomes_are_joint(client, drawn):
    """Row 2 has x = 3, where both outcomes hang on the slope: Cov[height, ill] = Cov_s(3 s, P(ill | s))."""
    outputs = [{"name": f"{name}.samples"} for name in NAMES]
    found, _ = infer(client, outputs=outputs, parameters={"num_samples": 1000, "seed": 5})
    for outcome in NAMES:
        np.testing.assert_array_equal(found[f"{outcome}.samples"], drawn[outcome].T)
    slope, shift = fit().latents["slope"], fit().latents["shift"]
    exact = np.cov(3.0 * slope, 1.0 / (1.0 + np.exp(-3.0 * slope - shift)), bias=True)[0, 1]

    def off(height, ill):
        products = (height - height.mean()) * (ill - ill.mean())
        return abs(products.mean() - exact) / (products.std() / np.sqrt(len(products)))

    assert off(found["height.samples"][2], found["ill.samples"][2]) < FALSE_ALARM
    other, _ = infer(client, outputs=outputs[1:], parameters={"num_samples": 1000, "seed": 6})
    assert off(found["height.samples"][2], other["ill.samples"][2]) > FALSE_ALARM  # the twin: draws of its own for each


def test_draws_and_summaries_of_some_outcomes(client, drawn, said):
    found = predict(client, outputs=["height.samples", "ill.mean"], num_samples=200, seed=5)
    assert found["num_samples"] == 200
    assert [list(row["height"]) for row in found["predictions"]] == [["samples"]] * 3
    rows = np.array([row["height"]["samples"] for row in found["predictions"]])
    np.testing.assert_array_equal(rows, drawn["height"][:200].T)
    np.testing.assert_allclose([r["ill"]["mean"] for r in found["predictions"]], said(0.9)["ill"].mean)
    assert "ill" not in predict(client, outputs=["height.mean"])["predictions"][0]


# requests that share calls -------------------------------------------------------------------------------------------


def test_requests_at_once_keep_their_own_answers_and_a_bad_one_is_alone(server, said):
    client, service = server
    before = metric(client, 'probinfer_batch_rows_sum{model="child"}')
    levels = np.linspace(0.2, 0.95, 12)

    def one(number):
        if number % 4 == 3:
            return client.post("/predict", json={"records": [{"x": 1.0}], "level": 0.99999999}).status_code
        answer = client.post("/predict/child", json={"records": RECORDS[: 1 + number % 3], "level": levels[number]})
        return [[row[outcome]["upper"] for outcome in NAMES] for row in answer.json()["predictions"]]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(one, range(12)))
    assert found[3::4] == [422] * 3  # too few calibration rows of one outcome for such a level
    for number, uppers in enumerate(found):
        if number % 4 != 3:
            expected = said(levels[number], X[: 1 + number % 3])
            np.testing.assert_allclose(uppers, np.column_stack([expected[n].upper for n in NAMES]), rtol=1e-10)
    assert metric(client, 'probinfer_batch_rows_sum{model="child"}') > before
    assert service.models.slots["child"].batcher.idle


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"records": RECORDS, "outputs": ["mean"]}, 400, "There is no output called 'mean'; child has height.mean"),
        ({"records": RECORDS, "outputs": ["ill.calibration_rows"]}, 400, "no output called 'ill.calibration_rows'"),
        ({"records": [{}]}, 422, "The rows lack x"),
        ({"records": [{"x": 1.0, "z": 1.0}]}, 422, "The model knows nothing called 'z'; rows need x"),
        ({"records": [{"x": True}]}, 422, "x is true or false"),
        ({"records": RECORDS * 7}, 413, "21 rows came; one request may have 20"),
        ({"records": RECORDS, "level": 1.5}, 422, "level"),
        ({"records": RECORDS, "quantiles": [5e-324]}, 422, "There are 40 calibration rows, too few"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(client, body, status, text):
    answer = client.post("/predict/child", json=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]


# outcomes that came --------------------------------------------------------------------------------------------------


def test_outcomes_are_reported_as_they_come_and_counted_by_name(client, said):
    def counts():
        names = ("total", "covered_total", "expected_total")
        labels = [f'{{model="child",outcome="{outcome}",level="0.5"}}' for outcome in NAMES]
        return np.array([[metric(client, f"probinfer_feedback_{name}{label}") for name in names] for label in labels])

    before = counts()
    y = said(0.5)
    rows = [
        {**RECORDS[0], "height": y["height"].mean[0], "ill": 1},
        {**RECORDS[1], "height": y["height"].upper[1] + 1.0},
        {**RECORDS[2], "ill": 0},
    ]
    answer = client.post("/feedback", json={"records": rows, "level": 0.5})
    inside = [bool(y["ill"].lower[i] <= came <= y["ill"].upper[i]) for i, came in ((0, 1), (2, 0))]
    assert answer.json()["covered"] == [{"height": True, "ill": inside[0]}, {"height": False}, {"ill": inside[1]}]
    np.testing.assert_allclose(counts() - before, [[2, 1, 1.0], [2, sum(inside), 1.0]])


@pytest.mark.parametrize(
    ("records", "status", "text"),
    [
        ([{"x": 1.0, "height": 1.0}, {"x": 1.0}], 400, "Record 1 (the first is record 0) lacks all of height, ill"),
        ([{"x": 1.0, "height": "tall"}], 422, "height"),
        ([{"height": 1.0}], 422, "The rows lack x"),
        ([{"x": 1.0, "weight": 3.0, "ill": 1}], 422, "knows nothing called 'weight'"),
    ],
)
def test_reports_that_do_not_fit_are_refused_and_not_counted(client, records, status, text):
    total = 'probinfer_feedback_total{model="child",outcome="height",level="0.9"}'
    before = metric(client, total)
    answer = client.post("/feedback", json={"records": records})
    assert answer.status_code == status
    assert text in answer.json()["error"]
    assert metric(client, total) == before


def test_doubt_is_counted_for_each_outcome(client):
    shares = [f'probinfer_epistemic_share_count{{model="child",outcome="{outcome}"}}' for outcome in NAMES]
    widths = [f'probinfer_interval_width_count{{model="child",outcome="{outcome}",level="0.8"}}' for outcome in NAMES]
    before = [metric(client, line) for line in (*shares, *widths)]
    predict(client, level=0.8, outputs=["ill.lower"])
    np.testing.assert_array_equal(np.subtract([metric(client, n) for n in (*shares, *widths)], before), [0, 3, 0, 3])


# what it says of itself ----------------------------------------------------------------------------------------------


def test_the_document_has_examples_that_were_answered_and_fit_its_schemas(client):
    document = client.get("/openapi.json").json()
    seen = 0
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" not in content:
            continue
        seen += 1
        answer = client.post(path, json=content["example"]).json()
        shown = operations["post"]["responses"]["200"]["content"]["application/json"]
        assert answer == shown["example"], path
        for value, schema in ((content["example"], content["schema"]), (answer, shown["schema"])):
            jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)
    assert seen == 4  # two routes of records, two of tensors
    feedback = document["components"]["schemas"]["child.Feedback"]
    valid = jsonschema.Draft202012Validator(feedback)
    assert valid.is_valid({"records": [{"x": 1.0, "ill": 1}]})
    assert not valid.is_valid({"records": [{"x": 1.0}]})
    assert not valid.is_valid({"records": [{"height": 1.0, "ill": 1}]})


def test_the_page_is_told_every_outcome(client):
    (described,) = client.get("/models").json()["models"]
    assert [each["name"] for each in described["outcomes"]] == NAMES
    assert [each["classes"] for each in described["outcomes"]] == [0, 2]
    assert "outcome" not in described
    assert described["verdict"] == "GOOD"
    assert described["example"] == {"x": 0.0}
    assert "outcomes  2" in described["card"]


@pytest.mark.long
def test_the_page_draws_every_outcome_and_asks_again(client, joint, tmp_path):
    """In Chromium: an interval of the number, bars of the classes, each as the predictor says, before and after."""
    part = "document.querySelector('[data-outcome={}] {}')"
    height, ill = part.format("height", "svg"), part.format("ill", "svg")
    with browsing(str(client.base_url), tmp_path) as page:
        shown = page.until(f"{ill} && {height}.textContent + {ill}.textContent")
        texts = "JSON.stringify([...{}.querySelectorAll('text')].map((one) => one.textContent))"
        for x in (0.0, 2.5):
            if x:
                page.type('[data-input="x"]', str(x))
                shown = page.until(
                    f"{height}.textContent + {ill}.textContent !== {json.dumps(shown)} && {height}.textContent"
                )
            expected = joint.predict({"x": x})
            ends = [text for text in json.loads(page.evaluate(texts.format(height))) if not text.startswith("mean")]
            wanted = [expected["height"].lower[0], expected["height"].upper[0]]
            np.testing.assert_allclose([float(text) for text in ends], wanted, rtol=1e-3)
            bars = json.loads(page.evaluate(texts.format(ill)))
            assert bars[::2] == ["class 0", "class 1"]
            chances = [float(text) for text in bars[1::2]]
            np.testing.assert_allclose(chances, expected["ill"].probabilities[0], rtol=1e-3)
        guarantee = page.evaluate(part.format("height", ".guarantee") + ".textContent")
        assert guarantee == expected["height"].guarantee
        assert "height, ill · verdict GOOD" in page.evaluate("document.getElementById('about').textContent")


# versions ------------------------------------------------------------------------------------------------------------


def shifted():
    other = fit()
    other.latents["slope"] = other.latents["slope"] + 1.0
    return pi.Predictor(other, outcome=NAMES)


def served_from(path):
    meter = Meter(["child"], outcomes={"child": NAMES})
    return Models({"child": Slot(load("child", path), Batcher(Worker("test")))}, meter, 1)


def test_a_new_version_replaces_all_outcomes_at_once_and_one_of_other_outcomes_is_refused(
    joint, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(SeveralAnswers, "compile", lambda self, most_rows, threads: None)
    path = tmp_path / "child"
    joint.save(path)
    models = served_from(path)
    slot, first = models.slots["child"], models.slots["child"].served
    shifted().save(path)
    asyncio.run(models.look("child"))
    second = slot.served
    assert second is not first
    assert [part.version for part in second.parts.values()] == [version_of(path)] * 2
    joint["ill"].save(path)
    for _ in range(3):
        asyncio.run(models.look("child"))
    assert slot.served is second
    assert "has one outcome, and child is served with the outcomes height, ill" in slot.problem
    assert "new version refused" in caplog.text


@pytest.mark.long
def test_a_new_version_of_the_same_programs_is_not_compiled_again(joint, tmp_path):
    path = tmp_path / "child"
    pi.Predictor(fit(), outcome=NAMES).save(path)
    models = served_from(path)
    slot = models.slots["child"]
    asyncio.run(models.warm())
    compiled = {name: dict(slot.served.parts[name].answers._few.engine._compiled) for name in NAMES}
    other = shifted()
    other.save(path)
    asyncio.run(models.look("child"))
    expected = other.predict({"x": [1.0]})
    for name, part in slot.served.parts.items():
        assert part.answers._few.engine._compiled == compiled[name]
        found = part.answer([part.question({"x": [1.0]}, 1)])[0]
        np.testing.assert_allclose(found.answer.mean, expected[name].mean)


@pytest.mark.long
def test_a_monitor_of_one_outcome_is_that_outcomes(joint, tmp_path):
    watched = pi.Monitor(joint["ill"], {"x": m.x}).attached()
    both = pi.JointPredictor.of({"height": joint["height"], "ill": watched})
    assert "monitor" not in both.about
    both.save(tmp_path / "child")
    served = load("child", tmp_path / "child")
    assert isinstance(served, Several)
    assert [pi.Monitor.of(served.parts[name].predictor) is not None for name in NAMES] == [False, True]


# fields that outcomes share ------------------------------------------------------------------------------------------


def test_a_field_of_several_outcomes_is_what_all_of_them_take():
    level = [Field("group", "int64", low=low, high=high, example=low) for low, high in ((0, 4), (1, 9))]
    labels = [Field("site", "text", choices=c, closed=closed) for c, closed in (("ab", False), ("bc", True))]
    found = {field.name: field for field in fields_together([*level, *labels, Field("x", "float64")])}
    assert list(found) == ["group", "site", "x"]
    assert (found["group"].low, found["group"].high, found["group"].example) == (1, 4, 1)
    assert (found["site"].choices, found["site"].closed, found["site"].example) == (("b", "c"), True, "b")
    with pytest.raises(pi.PredictionError, match="something else for one outcome"):
        fields_together([Field("x", "float64"), Field("x", "text")])
    apart = [Field("site", "text", choices=(label,), closed=True) for label in "ab"]
    with pytest.raises(pi.PredictionError, match="no label that every outcome takes"):
        fields_together(apart)


def test_a_misspelt_outcome_in_a_name_is_not_the_name_of_all(folder):
    with pytest.raises(
        pi.ArtifactError, match=r"none is what the name child.heigth ends in. Did you mean child.height"
    ):
        load("child.heigth", folder)
    assert isinstance(load("child.v2", folder), Several)
