"""`probinfer serve` as a process of its own: stopped under load, with a worker killed, and what it says and keeps to
itself."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest

import probinfer as pi
from tests.deploy.serving import metric, until_ready
from tests.predict import models as m
from tests.predict.fits import fitted

KEY = "a key for this test"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "line"
    fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4).save(path)
    return path


class Process:
    """The server, its log as it comes, and its address."""

    def __init__(self, *arguments):
        self.lines = []
        environment = {**os.environ, "PROBINFER_API_KEY": KEY}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "probinfer", "serve", "--port", "0", *map(str, arguments)],
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.popen.stderr:
            self.lines.append(json.loads(line))

    def events(self, name):
        return [line for line in self.lines if line["event"] == name]

    def until(self, name, count=1, seconds=400.0):
        end = time.monotonic() + seconds
        while len(self.events(name)) < count:
            assert time.monotonic() < end, (name, self.lines[-5:])
            assert self.popen.poll() is None, self.lines[-5:]
            time.sleep(0.02)
        return self.events(name)

    @property
    def address(self):
        return self.until("listening")[0]["address"]

    def stop(self):
        self.popen.send_signal(signal.SIGTERM)
        status = self.popen.wait(60)
        self._reader.join(10)
        return status


@contextlib.contextmanager
def process(*arguments):
    made = Process(*arguments)
    try:
        yield made
    finally:
        if made.popen.poll() is None:
            made.popen.kill()
        made.popen.wait(30)
        made.popen.stderr.close()


class Load:
    """Clients that ask one row after the other on connections of their own, until the server refuses connections.

    answers  (x, mean) of each answer
    cut      requests that were sent on a connection which had answered before, and got no answer
    fresh    requests that got none on a new connection: the server may have closed while it was made
    """

    def __init__(self, address, clients):
        self.port = int(address.rpartition(":")[2])
        self.answers, self.cut, self.fresh, self.wrong = [], [], [], []
        self.stopped = False
        self.threads = [threading.Thread(target=self._client, args=(i,), daemon=True) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def _client(self, number):
        connection, used, turn = None, False, 0
        while not self.stopped:
            turn += 1
            x = 7700.0 + number + turn / 1000.0
            if connection is None:
                connection, used = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30), False
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
                except OSError:  # reset between connect and its answer: closed while it was made
                    connection = None
                    continue
            try:
                body = json.dumps({"records": [{"x": x}]})
                connection.request("POST", "/predict", body, {"x-api-key": KEY})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                (self.cut if used else self.fresh).append(repr(error))
                connection.close()
                connection = None
                continue
            if response.status == 200:
                self.answers.append((x, json.loads(content)["predictions"][0]["mean"]))
            else:
                self.wrong.append((response.status, content))
            used = True
            if response.getheader("connection") == "close":
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def finish(self):
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)

    def check(self, artifact):
        x, mean = np.array(self.answers).T
        np.testing.assert_allclose(mean, pi.load_predictor(artifact).predict({"x": x}).mean, rtol=1e-9, atol=1e-12)
        assert self.wrong == []


def test_sigterm_under_load_loses_no_request(artifact):
    with process(artifact, "--max-batch", "4", "--drain", "1.5", "--log-requests") as server:
        with httpx.Client(base_url=server.address, headers={"x-api-key": KEY}) as client:
            until_ready(client)
            load = Load(server.address, 4)
            time.sleep(0.5)
            before = len(load.answers)
            assert before > 0
            server.popen.send_signal(signal.SIGTERM)
            seen = [200]
            with contextlib.suppress(httpx.TransportError):  # until the port closes
                while seen[-1] == 200:
                    seen.append(client.get("/v2/health/ready").status_code)
            assert seen[-1] == 503
        assert server.popen.wait(60) == 0
        load.finish()
        assert load.cut == []
        assert len(load.fresh) <= 4  # at most what each client had begun when the port closed
        assert len(load.answers) > before
        load.check(artifact)
        assert server.events("request")
        assert not re.search(r"records|770\d\.", json.dumps(server.events("request")))  # no payloads
        assert KEY not in json.dumps(server.lines)


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_the_others_go_on(artifact):
    arguments = (artifact, "--workers", "2", "--max-batch", "8", "--drain", "0.2", "--reload", "0")
    with process(*arguments) as server:
        first = {line["process"] for line in server.until("ready", 2)}
        assert len(first) == 2
        load = Load(server.address, 4)
        time.sleep(0.5)
        victim = int(first.pop())
        os.kill(victim, signal.SIGKILL)
        server.until("worker died")
        answered = len(load.answers)
        ready = server.until("ready", 3)
        assert int(ready[-1]["process"]) != victim
        end = time.monotonic() + 30
        while len(load.answers) <= answered:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert len(load.cut) + len(load.fresh) <= 4  # what the dead one had in hand, one of each client at most
        with httpx.Client(base_url=server.address, headers={"x-api-key": KEY}) as client:
            counted = metric(client, 'probinfer_requests_total{model="line",route="predict",status="200"}')
            assert counted >= answered  # those of the dead worker too
        load.stopped = True
        load.finish()
        assert server.stop() == 0
        load.check(artifact)


def test_what_cannot_be_served_is_said_in_one_line(artifact, tmp_path, capsys):
    from probinfer import cli

    assert cli.main(["serve", f"a={tmp_path}", "--port", "0"]) == 2
    assert "it is no saved predictor" in capsys.readouterr().err.replace(str(tmp_path), "it")
    assert cli.main(["serve", f"a={artifact}", f"a={artifact}"]) == 2
    assert "Two predictors are called a" in capsys.readouterr().err
    assert cli.main(["serve", str(artifact), "--api-key-file", str(tmp_path / "none")]) == 1
    (tmp_path / "key").write_bytes(b"\xff\xfe a key that is no text")
    for arguments, text in [
        (["--port", "99999"], "port is 99999; wanted one up to 65535"),
        (["--host", ""], "host is empty"),
        (["--host", "a" * 70], "cannot listen on aaa"),
        (["--api-key-file", str(tmp_path / "key")], "is no text in UTF-8; wanted a file whose first line"),
    ]:
        assert cli.main(["serve", str(artifact), *arguments]) == 2
        assert text in capsys.readouterr().err
    pems = ["--certificate", str(tmp_path / "none.pem"), "--key", str(tmp_path / "key")]
    assert cli.main(["serve", str(artifact), *pems]) == 1
    assert "none.pem" in capsys.readouterr().err
    assert cli.main(["serve", str(artifact), *pems, "--certificate", str(tmp_path / "key")]) == 2
    assert f"{tmp_path / 'key'} cannot be used for TLS" in capsys.readouterr().err
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["serve", str(artifact), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
