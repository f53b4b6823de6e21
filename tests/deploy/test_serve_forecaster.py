"""Forecasters served: the library's own numbers whatever was observed since, nothing remembered between requests, and
words for everything that does not fit."""

import asyncio
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax.numpy as jnp
import jsonschema
import numpy as np
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.deploy.asking import Limits, Reply
from probinfer.deploy.batcher import Batcher
from probinfer.deploy.forecast_requests import read_infer, read_predict
from probinfer.deploy.forecasts import MOST_TIMES, ForecastAnswers, ServedForecaster
from probinfer.deploy.meter import Meter
from probinfer.deploy.models import Models, Slot
from probinfer.deploy.openapi import document
from probinfer.deploy.records import write_predictions
from probinfer.deploy.served import load, version_of
from probinfer.deploy.settings import ServeSettings
from probinfer.deploy.worker import Worker
from probinfer.model.series import Series
from probinfer.predict import outlook, particle_motion
from probinfer.predict.predictor import load_row_predictor
from tests.deploy.browser import browsing
from tests.deploy.serving import metric, running, tensor
from tests.predict import models as m
from tests.predict.fits import Fit, fitted
from tests.predict.test_forecaster import NEW, Q, Y, general, linear

OBSERVED = [1.0, None, 2.5, 0.1]  # NEW, as JSON has it
NAMES = ("mean", "sd", "lower", "upper", "epistemic_sd", "aleatoric_sd", "mcse")
MOST_ROWS = 600


DRAWS = {"q": np.linspace(Q.min(), Q.max(), 80)}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few particles, and few sizes to compile: what is compared is compared with the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(particle_motion, "FUTURES", 1_200)
        patch.setattr(outlook, "_PATHS", (32, 256))
        yield


def rainy():
    fit = Fit(general(lambda x: dist.Bernoulli(logits=x)), np.array([0, 1, 1, 0]), {"q": np.tile(Q, 3)}, chains=2)
    return pi.Forecaster(fit, particles=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`sales`, exact; `rain`, of zeros and ones, by particles; `line`, a model of rows."""
    place = tmp_path_factory.mktemp("models")
    pi.Forecaster(Fit(linear(), Y, DRAWS)).save(place / "sales")
    rainy().save(place / "rain")
    fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4).save(place / "line")
    return place


def settings(folder, **more):
    models = tuple((name, folder / name) for name in ("sales", "rain", "line"))
    return ServeSettings(models, **{"max_batch": 4, "reload": 0.0, "drain": 0.0, "max_rows": MOST_ROWS, **more})


@pytest.fixture(scope="module")
def server(folder):
    with running(settings(folder)) as (client, service):
        yield client, service


@pytest.fixture(scope="module")
def sales(server, folder):
    """The library's own, with what the server has compiled."""
    return with_programs(server, "sales", pi.load_predictor(folder / "sales"))


@pytest.fixture(scope="module")
def rain(server, folder):
    return with_programs(server, "rain", pi.load_predictor(folder / "rain"))


def with_programs(server, name, forecaster):
    motion = forecaster.motion.lent(server[1].models.slots[name].served.predictor.motion)
    return pi.Forecaster.from_standing(motion, forecaster.standing, forecaster.about)


def told(answer, name):
    return [row[name] for row in answer["predictions"]]


def predict(client, name="sales", **body):
    answer = client.post(f"/predict/{name}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def infer(client, name, inputs, **more):
    answer = client.post(f"/v2/models/{name}/infer", json={"inputs": inputs, **more})
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["outputs"]
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in outputs}, answer.json()


# the same numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observed", [None, [], OBSERVED])
def test_records_are_the_forecasters_numbers(client, sales, observed):
    body = {"steps": 3, "level": 0.8, "quantiles": [0.05, 0.5]} | ({} if observed is None else {"observed": observed})
    found = predict(client, **body)
    now = sales.observe(NEW) if observed else sales
    expected = now.predict(3, level=0.8, quantiles=(0.05, 0.5))
    assert found["level"] == 0.8
    assert (found["model"], found["outcome"], found["interval"]) == ("sales", "observations", "equal-tailed")
    assert told(found, "time") == expected.times.tolist()
    for name in NAMES:
        assert told(found, name) == getattr(expected, name).tolist(), name
    assert [list(each.values()) for each in told(found, "quantiles")] == expected.quantiles.tolist()
    assert list(found["predictions"][0]["quantiles"]) == ["0.05", "0.5"]
    assert (found["verdict"], found["report"]) == (now.report.verdict.name, str(now.report))
    assert found == client.post("/predict", json=body).json()  # it is the first model
    # the twin: had the server forgotten what was observed, or an order, the numbers would be others
    assert not observed or told(found, "mean") != sales.predict(3, level=0.8).mean.tolist()
    assert not observed or told(found, "mean") != sales.observe(NEW[::-1]).predict(3, level=0.8).mean.tolist()


def test_tensors_are_the_forecasters_numbers_and_draws(client, rain):
    classes = ["probabilities", "most_probable", "entropy", "mutual_information"]
    names = ["time", *NAMES, "quantiles", *classes, "in_set", "samples"]
    found, answer = infer(
        client,
        "rain",
        [tensor("steps", [2], "INT64"), tensor("observed", [1, None, 0])],
        outputs=[{"name": name} for name in names],
        parameters={"level": 0.5, "quantiles": "0.25,0.75", "num_samples": 20, "seed": 3},
        id="seven",
    )
    now = rain.observe([1, np.nan, 0])
    expected = now.predict(2, level=0.5, quantiles=(0.25, 0.75), seed=3)
    assert list(found) == names
    assert found["time"].tolist() == [7, 8]
    np.testing.assert_array_equal(found["in_set"], expected.sets)
    for name in names[1:-2]:
        np.testing.assert_array_equal(found[name], getattr(expected, name), err_msg=name)
    drawn = now.sample(2, draws=20, seed=3)
    np.testing.assert_array_equal(found["samples"], np.moveaxis(drawn, 0, 1))
    types = {each["name"]: each["datatype"] for each in answer["outputs"]}
    assert (types["time"], types["samples"], types["mean"]) == ("INT64", "INT64", "FP64")
    assert answer["id"] == "seven"
    assert answer["parameters"] == {
        "level": 0.5, "interval": "equal-tailed", "quantiles": "0.25,0.75", "num_samples": 20, "seed": 3,
        "verdict": now.report.verdict.name, "report": str(now.report),
    }  # fmt: skip
    other, _ = infer(client, "rain", [tensor("steps", [2], "INT64")], parameters={"seed": 4})
    assert other["mean"].tolist() != found["mean"].tolist()


def test_draws_alone_are_those_of_the_library_and_carry_the_report(client, sales):
    found = predict(client, steps=3, observed=OBSERVED, outputs=["samples"], num_samples=130, seed=5)
    now = sales.observe(NEW)
    np.testing.assert_array_equal(told(found, "samples"), np.moveaxis(now.sample(3, draws=130, seed=5), 0, 1))
    assert found["predictions"][0].keys() == {"samples"}
    assert (found["num_samples"], found["seed"], found["report"]) == (130, 5, str(now.report))


def test_a_long_question_is_worked_off_in_pieces_and_is_the_same(client, sales):
    before = metric(client, 'probinfer_batch_requests_count{model="sales"}')
    observed = np.cos(np.arange(30.0))
    found = predict(client, steps=20, observed=observed.tolist(), quantiles=[0.1])
    expected = sales.observe(observed).predict(20, quantiles=(0.1,))
    for name in NAMES:
        assert told(found, name) == getattr(expected, name).tolist(), name
    assert metric(client, 'probinfer_batch_requests_count{model="sales"}') - before >= 50 / 4


def test_nothing_is_remembered_between_requests(client, folder, sales):
    """Whichever worker answers, and whoever asked before: a second server of the folder says the same."""
    first = predict(client, steps=2)
    predict(client, steps=2, observed=OBSERVED)
    client.post("/feedback/sales", json={"y": [1.0], "observed": OBSERVED})
    assert predict(client, steps=2) == first
    with ThreadPoolExecutor(8) as pool:
        lengths = [number % 5 for number in range(20)]
        found = list(pool.map(lambda n: predict(client, steps=1, observed=OBSERVED[:n]), lengths))
    for length, answer in zip(lengths, found, strict=True):
        now = sales.observe(NEW[:length]) if length else sales
        assert told(answer, "mean") == now.predict(1).mean.tolist()
    other = load("sales", folder / "sales")
    other.answers.share(ForecastAnswers(sales))
    assert other.predictor.time == sales.time == 6
    question = other.answers.question(None, 2, 0.9, (), 0)
    assert other.answer([question])[0].answer.mean.tolist() == told(first, "mean")


def test_several_numbers_a_time_may_be_missing_one_by_one(tmp_path):
    model = pi.StateSpace.linear_gaussian(
        np.zeros(2), np.eye(2), 0.9 * np.eye(2), 0.3 * np.eye(2), np.array([[1.0, 0.0], [1.0, 1.0]]),
        lambda t, params: params["r"] * np.eye(2), prior={"r": dist.HalfNormal(1.0)},
    )  # fmt: skip
    forecaster = pi.Forecaster(Fit(model, np.ones((3, 2)), {"r": np.array([0.5, 1.0])}))
    forecaster.save(tmp_path / "pair")

    served = load("pair", tmp_path / "pair")
    expected = forecaster.observe([[1.0, np.nan], [np.nan, np.nan]]).predict(2, quantiles=(0.3,))
    body = {"steps": 2, "observed": [[1.0, None], None], "quantiles": [0.3]}
    tensors = [tensor("steps", [2], "INT64"), tensor("observed", [1.0, None, None, None], shape=[2, 2])]
    for read, sent in (
        (read_predict, body),
        (read_infer, {"inputs": tensors, "parameters": {"quantiles": "0.3"}}),
        (read_infer, {"inputs": [tensors[0], tensor("observed", [[1.0, None], [None, None]], shape=[2, 2])],
                      "parameters": {"quantiles": "0.3"}}),
    ):  # fmt: skip
        asked = read(served, json.dumps(sent).encode(), Limits())
        found = json.loads(write_predictions(asked, Reply(served.answer([asked.question])[0], None)))
        assert told(found, "upper") == expected.upper.tolist()
        assert [each["0.3"] for each in told(found, "quantiles")] == expected.quantiles[..., 0].tolist()
    for observed in ([1.0, 2.0], [[1.0, 2.0, 3.0]], [[1.0], [1.0, 2.0]]):
        with pytest.raises(pi.PredictionError, match="observed"):
            read_predict(served, json.dumps({"steps": 2, "observed": observed}).encode(), Limits())


# what is refused -----------------------------------------------------------------------------------------------------

WRONG = {
    "no steps": ({}, 400, "lacks steps, how many times to predict"),
    "rows": ({"records": [{"x": 1}]}, 400, "sales is a forecaster: it predicts times, not rows. Send no records"),
    "no steps at all": ({"steps": 0}, 400, "steps is 0; wanted a whole number of at least 1"),
    "negative": ({"steps": -3}, 400, "steps is -3; wanted"),
    "a fraction": ({"steps": 2.5}, 400, "steps is 2.5; wanted a whole number"),
    "text": ({"steps": "12"}, 400, "steps is '12'; wanted a whole number"),
    "null": ({"steps": None}, 400, "steps is None; wanted"),
    "true": ({"steps": True}, 400, "steps is True; wanted"),
    "too many": ({"steps": MOST_ROWS + 1}, 413, f"steps is {MOST_ROWS + 1}; one request may have {MOST_ROWS}"),
    "far too many": ({"steps": 10**100}, 413, "steps is 1000"),
    "observed too often": ({"steps": 1, "observed": [1.0] * (MOST_ROWS + 1)}, 413, "observed has 601 times"),
    "observed is no list": ({"steps": 1, "observed": 3.0}, 400, "observed is no list"),
    "observed is an object": ({"steps": 1, "observed": {"a": 1}}, 400, "observed is no list"),
    "observed is text": ({"steps": 1, "observed": [1.0, "a"]}, 422, "observed holds text, for example 'a'"),
    "observed is true": ({"steps": 1, "observed": [1.0, True]}, 422, "observed holds true or false"),
    "observed is an object in a list": ({"steps": 1, "observed": [{"y": 1}]}, 422, "observed is {'y': 1}, not a"),
    "observed of a wrong shape": ({"steps": 1, "observed": [[1.0, 2.0]]}, 422, "observed: observations have the shape"),
    "observed unevenly": ({"steps": 1, "observed": [[1.0], 2.0]}, 422, "observed cannot be read as one array"),
    "observed deep": ({"steps": 1, "observed": [[[1.0]]]}, 422, "observed is nested too deeply"),
    "observed huge": ({"steps": 1, "observed": [10**30]}, 422, "observed is a whole number beyond 64 bits"),
    "level": ({"steps": 1, "level": 1.0}, 422, "level has 1.0; wanted probabilities"),
    "quantile": ({"steps": 1, "quantiles": [2]}, 422, "quantiles has 2"),
    "output": ({"steps": 1, "outputs": ["men"]}, 400, "no output called 'men'; sales has time, mean"),
    "draws": ({"steps": 1, "num_samples": 1001}, 400, "may have 1000 draws"),
    "numbers": ({"steps": 600, "num_samples": 200, "outputs": ["samples"]}, 200, ""),
    "typo": ({"steps": 1, "levle": 0.9}, 400, "unknown field `levle`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(client, name):
    body, status, text = WRONG[name]
    answer = client.post("/predict/sales", json=body)
    assert answer.status_code == status
    assert status == 200 or text in answer.json()["error"]
    assert status == 200 or len(answer.content) < 3_000


def test_depth_is_no_trouble(client):
    for depth in (100, 900, 5_000, 20_000):
        nest = b"[" * depth + b"1" + b"]" * depth
        body = b'{"steps": 1, "observed": ' + nest + b"}"
        assert client.post("/predict/sales", content=body).status_code in (400, 422), depth
        inputs = (
            b'{"inputs": [{"name": "steps", "shape": [1], "datatype": "INT64", "data": [1]}, {"name": "observed", '
            b'"shape": [1], "datatype": "FP64", "data": ' + nest.replace(b"1", b"null") + b"}]}"
        )
        assert client.post("/v2/models/sales/infer", content=inputs).status_code in (200, 400, 422), depth


STEPS = tensor("steps", [2], "INT64")
TENSORS = {
    "no steps": ([tensor("observed", [1.0])], 422, "lack steps, how many times to predict: INT64 of the shape [1]"),
    "rows": ([tensor("x", [1.0])], 422, "sales is a forecaster and takes no 'x'; its inputs are steps"),
    "two": ([tensor("steps", [1, 2], "INT64")], 400, "steps has the shape [2]; wanted one number"),
    "a fraction": ([tensor("steps", [1.5])], 400, "steps is 1.5"),
    "text": ([tensor("steps", ["a"], "BYTES")], 400, "steps has the shape [1]; wanted one number"),
    "true": ([tensor("steps", [True], "BOOL")], 400, "steps is True"),
    "none": ([tensor("steps", [0], "INT64")], 400, "steps is 0"),
    "text observed": ([STEPS, tensor("observed", ["a"], "BYTES")], 422, "observed holds text"),
    "strings": ([STEPS, tensor("observed", ["a", None])], 400, "observed holds something else than numbers"),
    "another number": ([STEPS, tensor("observed", [1.0, None], shape=[3])], 400, "its shape [3] needs 3"),
    "a wide one": ([STEPS, tensor("observed", [1.0, 2.0], shape=[1, 2])], 422, "observations have the shape"),
    "booleans": ([STEPS, tensor("observed", [None, True], "FP64")], 400, "observed is FP64 and holds true or false"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_wrong_tensor_is_told_what_is_wrong(client, name):
    inputs, status, text = TENSORS[name]
    answer = client.post("/v2/models/sales/infer", json={"inputs": inputs})
    assert text in answer.json()["error"]
    assert answer.status_code == status


def test_a_column_and_a_whole_number_in_double_precision_are_taken(client, sales):
    column = tensor("observed", [1.0, None], shape=[2, 1])
    found, _ = infer(client, "sales", [tensor("steps", [[2.0]], shape=[1, 1]), column])
    assert found["mean"].tolist() == sales.observe([1.0, np.nan]).predict(2).mean.tolist()


def test_what_a_law_cannot_give_is_refused(client):
    for observed, text in (([1.5], "wanted whole numbers, 0 or 1"), ([2], "wanted whole numbers, 0 or 1")):
        answer = client.post("/predict/rain", json={"steps": 1, "observed": observed})
        assert (answer.status_code, text in answer.json()["error"]) == (422, True)


def test_a_model_of_rows_beside_it_says_what_it_takes(client):
    answer = client.post("/predict/line", json={"steps": 12})
    assert (answer.status_code, "unknown field `steps`" in answer.json()["error"]) == (400, True)


@pytest.fixture
def driven(tmp_path):
    """Of a model that knows eight times, six of which have been."""
    driver = jnp.asarray(np.arange(8.0))
    pi.Forecaster(Fit(linear(lambda t: driver[t]), Y, {"q": Q})).save(tmp_path / "driven")
    return tmp_path / "driven"


def test_times_that_the_model_does_not_know_are_refused_and_not_offered(driven):

    served = load("driven", driven)
    for body in ({"steps": 3}, {"steps": 2, "observed": [1.0]}, {"steps": 1, "observed": [1.0] * 3}):
        with pytest.raises(pi.PredictionError, match="ends with time 7"):
            read_predict(served, json.dumps(body).encode(), Limits())
    said = document([served], "1", Limits(), False)
    predict = said["components"]["schemas"]["driven.PredictRequest"]["properties"]
    assert predict["steps"]["maximum"] == 2
    example = said["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert example["steps"] == 2
    assert len(said["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["example"]) > 3
    served.predictor.observe([0.0, 0.0]).save(driven)
    at_the_end = document([load("driven", driven)], "1", Limits(), False)
    content = at_the_end["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    assert "example" not in content


def test_a_law_that_is_no_number_is_that_questions_error(sales):
    mean, cov = sales.standing.state
    away = replace(sales.standing, state=(mean + np.inf, cov))
    answers = ForecastAnswers(pi.Forecaster.from_standing(sales.motion, away, sales.about))
    (error,) = answers.answer([answers.question(None, 2, 0.9, (), 0)])
    assert "At time 6, 1 ahead, the model's laws are not numbers" in str(error)
    assert isinstance(error, pi.PredictionError)


# who waits for whom --------------------------------------------------------------------------------------------------


def test_everything_is_compiled_before_the_first_request(server, client):
    compiled = server[1].models.slots["rain"].served.answers.forecaster.motion._compiled
    known = set(compiled)
    for quantiles in ([0.5], [0.1, 0.2, 0.3], np.linspace(0.05, 0.95, 19).tolist()):
        predict(client, "rain", steps=2, quantiles=quantiles, observed=[1, None])
    for draws in (1, 33, 200):
        predict(client, "rain", steps=1, num_samples=draws)
    assert set(compiled) == known


def test_rows_are_answered_while_a_forecast_is_made(client):
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(predict, client, "rain", steps=100)
        between = 0
        while not long.done():
            assert client.post("/predict/line", json={"records": [{"x": 1.0}]}).status_code == 200
            between += 1
        assert len(long.result()["predictions"]) == 100
    assert between > 3


def test_a_question_that_is_too_late_goes_no_further(server, client):
    late = client.post("/predict/rain", json={"steps": MOST_ROWS}, headers={"x-timeout-ms": "60"})
    assert late.status_code == 504
    batcher = server[1].models.slots["rain"].batcher
    gone = metric(client, 'probinfer_batch_rows_sum{model="rain"}')
    end = time.monotonic() + 30
    while not batcher.idle or batcher._running:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert metric(client, 'probinfer_batch_rows_sum{model="rain"}') - gone <= 2 * MOST_TIMES


def test_the_parts_of_a_question_go_on_where_the_one_before_stopped(sales):
    answers = ForecastAnswers(sales)
    observed = Series(np.nan_to_num(NEW), ~np.isnan(NEW))
    question = answers.question(observed, 3, 0.8, (0.5,), 0)
    assert len(question.hashes) == 7
    parts = [answers.answer([question.part(start, start + 3)])[0] for start in (0, 3, 6)]
    assert parts[:2] == [None, None]
    found, expected = answers.join(parts, question), sales.observe(NEW).predict(3, level=0.8, quantiles=(0.5,))
    np.testing.assert_array_equal(found.upper, expected.upper)
    np.testing.assert_array_equal(found.quantiles, expected.quantiles)


# what the server says of it ------------------------------------------------------------------------------------------


def test_metadata_lists_what_goes_in_and_comes_out(client, server):
    found = client.get("/v2/models/sales").json()
    assert found["inputs"] == [
        {"name": "steps", "datatype": "INT64", "shape": [1], "parameters": {"minimum": 1}},
        {"name": "observed", "datatype": "FP64", "shape": [-1], "parameters": {"missing": True}},
    ]
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in found["outputs"]}
    assert list(outputs)[:2] == ["time", "mean"]
    assert outputs["time"] == ("INT64", [-1])
    assert outputs["quantiles"] == outputs["samples"] == ("FP64", [-1, -1])
    assert client.get("/v2/models/sales/ready").json() == {"name": "sales", "ready": True}
    listed, answer = infer(client, "rain", [STEPS], outputs=[{"name": name} for name in metadata_names(client)])
    assert list(listed) == metadata_names(client)
    assert {each["name"]: each["datatype"] for each in answer["outputs"]} == {
        each["name"]: each["datatype"] for each in client.get("/v2/models/rain").json()["outputs"]
    }


def metadata_names(client):
    return [each["name"] for each in client.get("/v2/models/rain").json()["outputs"]]


def test_the_openapi_documents_examples_are_real_and_follow_its_schemas(client):
    said = client.get("/openapi.json").json()
    checked = 0
    for path, operations in said["paths"].items():
        post = operations.get("post")
        sent = post and post["requestBody"]["content"]["application/json"]
        if not sent or "example" not in sent:
            continue
        answered = post["responses"]["200"]["content"]["application/json"]
        answer = client.post(path, json=sent["example"])
        assert answer.json() == answered["example"]
        for value, schema in ((sent["example"], sent["schema"]), (answer.json(), answered["schema"])):
            jsonschema.Draft202012Validator({**schema, "components": said["components"]}).validate(value)
        checked += 1
    assert checked == 10
    predict = said["components"]["schemas"]["sales.PredictRequest"]
    assert predict["required"] == ["steps"]
    assert predict["properties"]["steps"]["maximum"] == MOST_ROWS
    validator = jsonschema.Draft202012Validator({**predict, "components": said["components"]})
    assert validator.is_valid({"steps": 1, "observed": [1.0, None]})
    for wrong in ({"steps": 0}, {"steps": 1, "observed": ["a"]}, {"records": []}, {"steps": 1.5}):
        assert not validator.is_valid(wrong)
    rain = jsonschema.Draft202012Validator(said["components"]["schemas"]["rain.Feedback"])
    assert rain.is_valid({"y": [0, 1, None]})
    assert not rain.is_valid({"y": [2]})


def test_models_and_page_know_the_next_time(client, sales):
    first, _, third = client.get("/models").json()["models"]
    assert (first["time"], first["verdict"], first["report"]) == (6, "GOOD", str(sales.report))
    assert first["card"].startswith("Forecaster ")
    assert first["example"] == {"steps": 12, "observed": [], "level": 0.9}
    assert client.post("/predict/sales", json=first["example"]).status_code == 200
    assert "time" not in third
    page = client.get("/page.js").text
    assert "observed since" in page


def test_metrics_and_feedback_count_times(client, sales):
    names = {
        "requests": 'probinfer_requests_total{model="sales",route="predict",status="200"}',
        "times": 'probinfer_batch_rows_sum{model="sales"}',
        "shares": 'probinfer_epistemic_share_count{model="sales"}',
        "width": 'probinfer_interval_width_sum{model="sales",level="0.8"}',
        "told": 'probinfer_feedback_total{model="sales",level="0.8"}',
        "covered": 'probinfer_feedback_covered_total{model="sales",level="0.8"}',
        "expected": 'probinfer_feedback_expected_total{model="sales",level="0.8"}',
    }
    before = {key: metric(client, name) for key, name in names.items()}
    predict(client, steps=3, level=0.8, observed=OBSERVED)
    after = {key: metric(client, name) - before[key] for key, name in names.items()}
    expected = sales.observe(NEW).predict(3, level=0.8)
    assert (after["requests"], after["times"], after["shares"]) == (1, 7, 3)
    np.testing.assert_allclose(after["width"], np.sum(expected.upper - expected.lower), rtol=1e-6)
    y = [float(expected.mean[0]), None, 1e3]
    answer = client.post("/feedback/sales", json={"observed": OBSERVED, "y": y, "level": 0.8})
    assert answer.json()["covered"] == [True, None, False]
    after = {key: metric(client, name) - before[key] for key, name in names.items()}
    assert (after["told"], after["covered"]) == (2, 1)
    np.testing.assert_allclose(after["expected"], 1.6)
    for body, text in (
        ({"observed": OBSERVED}, "lacks y, what came after"),
        ({"records": [{"y": 1}]}, "it predicts times, not rows"),
        ({"y": ["a"]}, "y holds text"),
        ({"y": []}, "lacks y"),
    ):
        refused = client.post("/feedback/sales", json=body)
        assert text in refused.json()["error"]
        assert refused.status_code in (400, 422)


# versions ------------------------------------------------------------------------------------------------------------


def test_a_new_version_goes_on_from_its_own_time_with_what_is_compiled(folder, server, tmp_path, sales):
    path = shutil.copytree(folder / "sales", tmp_path / "sales")
    slot = Slot(load("sales", path), Batcher(Worker("test")))
    models = Models({"sales": slot}, Meter(["sales"]), 1)
    slot.served.answers.share(server[1].models.slots["sales"].served.answers)
    compiled = slot.served.answers.forecaster.motion._compiled
    known = set(compiled)
    sales.observe(NEW).save(path)
    asyncio.run(models.look("sales"))
    assert slot.served.version == version_of(path)
    assert isinstance(slot.served, ServedForecaster)
    assert slot.served.predictor.time == 10
    assert slot.served.answers.forecaster.motion._compiled is compiled
    answers = slot.served.answers
    (found,) = answers.answer([answers.question(None, 2, 0.9, (), 0)])
    assert found.answer.mean.tolist() == sales.observe(NEW).predict(2).mean.tolist()
    assert set(compiled) == known
    # of another model nothing is shared: its matrices are others
    other = ForecastAnswers(pi.Forecaster(Fit(linear(lambda t: 1.0), Y, DRAWS)))
    other.share(answers)
    assert other.forecaster.motion._compiled is not compiled
    # rows in its place are refused, and the old version goes on
    shutil.rmtree(path)
    shutil.copytree(folder / "line", path)
    for _ in range(2):
        asyncio.run(models.look("sales"))
    assert slot.served.predictor.time == 10
    assert "has one outcome, and sales is served with a forecaster. Start the server again" in slot.problem


def test_a_table_is_refused_and_told_where_to_go(folder):

    with pytest.raises(pi.PredictionError, match=r"to_frame\(\); over HTTP, probinfer serve .*sales"):
        load_row_predictor(folder / "sales")


# a browser -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_browser_draws_the_intervals_over_time(client, sales, tmp_path):
    with browsing(f"http://127.0.0.1:{client.base_url.port}/", tmp_path) as page:
        rows = "[...document.querySelectorAll('table.times tr')].slice(1).map((one) => one.innerText).join('; ')"
        page.until(rows)
        page.type("#steps", "3")
        shown = page.until(f"{rows}.split('; ').length === 3 && {rows}")

        def means(shown):
            return [float(row.split("\t")[1]) for row in shown.split("; ")]

        np.testing.assert_allclose(means(shown), sales.predict(3).mean, rtol=1e-3)
        assert page.evaluate("document.querySelectorAll('#answer svg circle').length") == 3
        page.evaluate("document.querySelector('#observed').value = '1.0, , 2.5, 0.1'")
        page.type("#level", "0.5")
        shown = page.until(f"{rows} !== {json.dumps(shown)} && {rows}")
        np.testing.assert_allclose(means(shown), sales.observe(NEW).predict(3).mean, rtol=1e-3)
        assert shown.startswith("10\t")
        assert "4 observations since" in page.evaluate("document.querySelector('.report').innerText")
        page.evaluate("document.querySelector('#observed').value = '1.0, many'")
        page.type("#level", "0.6")
        assert "observed holds text, for example 'many'" in page.until("document.querySelector('#problem').innerText")
        assert page.evaluate("document.querySelector('#answer').innerText") == ""  # not what came before
        page.evaluate("document.querySelector('#observed').value = ''")
        page.narrow(360)
        page.type("#level", "0.7")
        page.until(rows)
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_calibrated_forecaster_is_served_with_its_intervals(tmp_path):
    """The library's numbers, its guarantee, and no more steps than it is calibrated for."""
    y = 3.0 * np.cos(np.arange(40.0) ** 2)
    forecaster = pi.Forecaster(Fit(linear(), Y, {"q": np.tile(Q, 20)})).calibrate(y, 3)
    forecaster.save(tmp_path / "sales")
    with running(ServeSettings((("sales", tmp_path / "sales"),), reload=0.0, drain=0.0)) as (client, service):
        mine = with_programs((client, service), "sales", forecaster)
        now = pi.Forecaster.from_standing(mine.motion, mine.standing, mine.about, forecaster.calibration)
        expected = now.observe(NEW).predict(3, level=0.8, quantiles=(0.1, 0.5))
        outputs = ["lower", "upper", "quantiles", "mean", "calibration_rows"]
        found = predict(client, steps=3, observed=OBSERVED, level=0.8, quantiles=[0.1, 0.5], outputs=outputs)
        for name in ("lower", "upper", "mean", "calibration_rows"):
            assert told(found, name) == getattr(expected, name).tolist(), name
        assert [list(each.values()) for each in told(found, "quantiles")] == expected.quantiles.tolist()
        assert found["guarantee"] == expected.guarantee
        assert "calibrated on 40 past forecasts for up to 3 steps" in found["report"]
        plain = mine.observe(NEW).predict(3, level=0.8)
        assert plain.upper.tolist() != told(found, "upper")  # the twin: the calibration is not looked at
        tensors, answer = infer(client, "sales", [tensor("steps", [2], "INT64")], outputs=[{"name": "upper"}])
        np.testing.assert_array_equal(tensors["upper"], now.predict(2).upper)
        assert answer["parameters"]["guarantee"] == now.predict(2).guarantee
        for body, text in (
            ({"steps": 4}, "calibrated for 3. Ask for at most 3"),
            ({"steps": 2, "level": 0.99}, "past forecasts 1 ahead to calibrate by, too few"),
        ):
            refusal = client.post("/predict", json=body)
            assert refusal.status_code == 422
            assert text in refusal.text
        document = client.get("/openapi.json").json()
        assert '"maximum": 3' in json.dumps(document)
