"""The server as clients that others wrote see it: a client of the Open Inference Protocol, a fuzzer of its OpenAPI
document, and a browser."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy.settings import ServeSettings
from tests.deploy.browser import PROGRAM, browsing
from tests.deploy.serving import running
from tests.predict import models as m
from tests.predict.fits import fitted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "grouped"
    fitted(m.grouped, m.GROUPED_DATA, m.GROUPED).save(path)
    return path


@pytest.fixture(scope="module")
def client(folder):
    with running(ServeSettings((("grouped", folder),), max_batch=2, max_rows=50, reload=0.0, drain=0.0)) as (client, _):
        yield client


@pytest.fixture(scope="module")
def address(client):
    return f"127.0.0.1:{client.base_url.port}"


def test_a_client_of_the_protocol_from_elsewhere(folder, address):
    http = pytest.importorskip("tritonclient.http")
    triton = http.InferenceServerClient(address)
    try:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("grouped")
        metadata = triton.get_model_metadata("grouped")
        rows = {"x": np.array([0.5, -1.0]), "group": np.array([4, 0])}
        inputs = []
        for entry in metadata["inputs"]:
            values = rows[entry["name"]]
            inputs.append(http.InferInput(entry["name"], list(values.shape), entry["datatype"]))
            inputs[-1].set_data_from_numpy(values, binary_data=False)
        names = ["mean", "upper", "quantiles", "samples"]
        wanted = [http.InferRequestedOutput(name, binary_data=False) for name in names]
        parameters = {"level": 0.8, "quantiles": "0.1,0.5", "num_samples": 7, "seed": 5}
        found = triton.infer("grouped", inputs, outputs=wanted, request_id="one", parameters=parameters)
        predictor = pi.load_predictor(folder)
        expected = predictor.predict(rows, level=0.8, quantiles=(0.1, 0.5))
        assert found.get_response()["id"] == "one"
        for name in names[:-1]:
            np.testing.assert_allclose(found.as_numpy(name), getattr(expected, name), rtol=1e-10)
        np.testing.assert_allclose(found.as_numpy("samples"), predictor.sample(rows, 7, seed=5).T, rtol=1e-10)
        plain = triton.infer("grouped", inputs, model_version=metadata["versions"][0])  # asks for binary outputs
        np.testing.assert_allclose(plain.as_numpy("mean"), expected.mean, rtol=1e-10)
        with pytest.raises(http.InferenceServerException, match="rows lack"):
            triton.infer("grouped", inputs[:1], outputs=wanted)
    finally:
        triton.close()


@pytest.mark.long
def test_a_fuzzer_of_the_openapi_document_finds_nothing(address, tmp_path):
    """Every answer has a status and a form that the document names; nothing invalid is accepted. That valid requests
    are accepted is asked of records only, since no schema says that a tensor's data have its shape; and not of those
    that are made up freely, with numbers which no answer of floating point holds, and which are refused for it."""
    pytest.importorskip("schemathesis")
    config = tmp_path / "schemathesis.toml"  # too many rows are 413, which it does not take for a refusal by itself
    config.write_text("[checks.negative_data_rejection]\nexpected-statuses = [400, 401, 404, 405, 413, 415, 422]\n")
    usual, free = ("--phases", "examples,coverage"), ("--exclude-checks", "positive_data_acceptance")
    records, tensors = ("--exclude-path-regex", "infer"), ("--include-path-regex", "infer")
    every = ("--phases", "examples,coverage,fuzzing")
    for more in ((*records, *usual), (*records, "--phases", "fuzzing", *free), (*tensors, *every, *free)):
        found = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run",
             f"http://{address}/openapi.json", "--max-examples", "30", "--seed", "1", *more],
            capture_output=True, text=True, timeout=900, cwd=tmp_path,  # it leaves a folder behind
        )  # fmt: skip
        assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
        assert re.search(r"[1-9]\d* generated", found.stdout)


@pytest.mark.long
def test_a_browser_shows_the_form_and_the_interval(address, folder):
    """The page as Chromium has it after its script has run."""
    if PROGRAM is None:
        pytest.skip("there is no Chromium here")
    found = subprocess.run(
        [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom",
         f"http://{address}/"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    page = found.stdout
    assert sorted(re.findall(r'data-input="(\w+)"', page)) == ["group", "x"]
    expected = pi.load_predictor(folder).predict({"x": 0.0, "group": 0})
    drawn = [float(text) for text in re.findall(r"<text[^>]*>(-?[\d.]+)</text>", page)]
    np.testing.assert_allclose(drawn, [expected.lower[0], expected.upper[0]], rtol=1e-3)
    assert "<circle" in page
    assert "verdict   GOOD" in page
    assert re.search(r'id="problem"[^>]*></p>', page)


@pytest.mark.long
def test_a_number_that_is_changed_in_the_form_moves_the_interval(address, folder, tmp_path):
    """Typed into Chromium, and Enter pressed: the page asks again, and draws what the predictor says of that row."""
    predictor = pi.load_predictor(folder)
    texts = "[...document.querySelectorAll('svg text')].map((one) => one.textContent).join('; ')"

    def ends(shown):
        return [float(text) for text in shown.split("; ") if not text.startswith("mean")]

    with browsing(f"http://{address}/", tmp_path) as page:
        shown = page.until(texts)
        for selector, typed, row, level in (
            (None, "", {"x": 0.0, "group": 0}, 0.9),
            ('[data-input="x"]', "2.5", {"x": 2.5, "group": 0}, 0.9),
            ("#level", "0.5", {"x": 2.5, "group": 0}, 0.5),
            ('[data-input="group"]', "4", {"x": 2.5, "group": 4}, 0.5),
        ):
            if selector is not None:
                page.type(selector, typed)
                shown = page.until(f"{texts} !== {json.dumps(shown)} && {texts}")
            expected = predictor.predict(row, level=level)
            np.testing.assert_allclose(ends(shown), [expected.lower[0], expected.upper[0]], rtol=1e-3)
        page.type('[data-input="group"]', "99")  # no level of training: the form does not ask
        assert page.evaluate("document.querySelector('[data-input=group]').validity.rangeOverflow")
        assert page.evaluate(texts) == shown
