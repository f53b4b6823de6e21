"""A server under everything at once for a while: nothing wrong, nothing lost, nothing leaked."""

import http.client
import json
import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy.settings import ServeSettings
from tests.deploy.serving import running
from tests.predict import models as m
from tests.predict.fits import fitted

CLIENTS = 64
SECONDS = float(os.environ.get("PROBINFER_SOAK_SECONDS", "60"))
MALFORMED = (b"{", b'{"records": []}', b'{"records": [{"x": NaN}]}', b'{"records": [{"x": "a"}]}', b"[" * 5_000)


def version(path, shift):
    draws = {**m.LINE, "slope": m.LINE["slope"] + shift}
    fitted(m.line, {"x": m.x, "y": m.y}, draws, chains=4).save(path)
    return pi.load_predictor(path)


def resident():
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


class Client(threading.Thread):
    """Asks with a level of its own, now and then something malformed; keeps what it was answered."""

    def __init__(self, number, port, stop):
        super().__init__(daemon=True)
        self.number, self.port, self.stop = number, port, stop
        self.lost, self.wrong, self.right = [], [], 0
        self.answers = []

    def run(self):
        level = 0.3 + self.number / 100
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        turn = 0
        while not self.stop.is_set():
            turn += 1
            broken = turn % 7 == self.number % 7
            rows = [{"x": self.number + i / 8} for i in range(1 + turn % 3)]
            body = MALFORMED[turn % 5] if broken else json.dumps({"records": rows, "level": level}).encode()
            try:
                connection.request("POST", "/predict", body)
                response = connection.getresponse()
                content = json.loads(response.read())
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
                continue
            if response.status != 200 and (not broken or response.status not in (400, 422)):
                self.wrong.append((response.status, content))
            elif not broken:
                self.right += 1
                if self.right % 20 == 1:
                    self.answers.append((content["version"], level, rows, content["predictions"]))
        connection.close()


@pytest.mark.long
def test_nothing_is_wrong_lost_or_leaked(tmp_path):
    path = tmp_path / "line"
    predictors = [version(path, 0.0)]
    with running(ServeSettings((("line", path),), max_batch=64, reload=0.2, drain=0.0)) as (client, service):
        stop = threading.Event()
        clients = [Client(number, client.base_url.port, stop) for number in range(CLIENTS)]
        versions = [service.models.slots["line"].served.version]
        for one in clients:
            one.start()
        end, sizes = time.monotonic() + SECONDS, []
        while time.monotonic() < end:
            time.sleep(SECONDS / 12)
            sizes.append(resident())
            predictors.append(version(path, float(len(predictors))))
            until = time.monotonic() + 60
            while service.models.slots["line"].served.version in versions:
                assert time.monotonic() < until, "the new version is not served"
                time.sleep(0.05)
            versions.append(service.models.slots["line"].served.version)
        stop.set()
        for one in clients:
            one.join(60)
        time.sleep(0.2)
        assert service.models.slots["line"].batcher.idle
        assert service.models.slots["line"].batcher.rows == 0
    assert [error for one in clients for error in one.lost] == []
    assert [error for one in clients for error in one.wrong] == []
    assert min(one.right for one in clients) > 0
    by_version = dict(zip(versions, predictors, strict=True))
    for found, level, rows, answers in (answer for one in clients for answer in one.answers):
        expected = by_version[found].predict({"x": np.array([row["x"] for row in rows])}, level=level)
        for name in ("mean", "lower", "upper"):
            np.testing.assert_allclose([row[name] for row in answers], getattr(expected, name), rtol=1e-9, atol=1e-12)
    assert sizes[-1] < 1.15 * sizes[len(sizes) // 2] + 20, (
        sizes
    )  # the clients and predictors to compare with live here too
