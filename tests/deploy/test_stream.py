"""Redis streams: every message answered, each answer written once, whatever dies."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer import cli
from probinfer.deploy import broker
from probinfer.deploy import stream as streaming
from probinfer.deploy.stream import score_stream
from probinfer.errors import DataError
from tests.deploy import raw_rows
from tests.deploy.conftest import LOADED
from tests.deploy.raw_rows import RECORDS

redis = pytest.importorskip("redis")
if shutil.which("redis-server") is None:
    pytest.skip("there is no redis-server here (Debian: redis-server)", allow_module_level=True)


class Broker:
    """A Redis server of the tests' own, which writes every command to its disk."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self, *more):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
             "--save", "", "--appendonly", "yes", "--appendfsync", "always", *more],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.client = redis.Redis(port=self.port, decode_responses=True)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                if self.client.ping():
                    return
            except redis.exceptions.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("the broker did not start")

    def stop(self, sig=signal.SIGTERM):
        self.client.close()
        self.process.send_signal(sig)
        self.process.wait(30)

    def url(self, stream):
        return f"redis://127.0.0.1:{self.port}/{stream}"

    def entries(self, stream):
        return [fields for _, fields in self.client.xrange(stream)]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    made = Broker(tmp_path_factory.mktemp("redis"))
    yield made
    made.stop()


@pytest.fixture
def server(own):
    own.client.flushall()
    return own


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    monkeypatch.setattr(streaming, "load_predictor", LOADED)


def put(server, count, stream="in", first=0):
    """Messages with an id, an x and a group; their keys."""
    pipe = server.client.pipeline(transaction=False)
    for i in range(first, first + count):
        pipe.xadd(stream, {"id": i, "x": i / 100, "group": i % 4})
    return pipe.execute()


def answers(server, stream="out"):
    """Of each key the record, none twice."""
    found = server.entries(stream)
    keys = [entry["key"] for entry in found]
    assert len(set(keys)) == len(keys)
    return {entry["key"]: json.loads(entry["record"]) for entry in found}


def run(server, quick, **more):
    usual = {"keep": ["id"], "until_empty": True, "idle": 0.3}
    return score_stream(quick, server.url("in"), server.url("out"), **{**usual, **more})


def test_every_message_is_answered_with_the_predictors_numbers(server, quick):
    keys = put(server, 700)
    done = run(server, quick, level=0.8, quantiles=(0.25,), chunk_rows=300)
    found = answers(server)
    assert (done.rows, done.rejected, done.again) == (700, 0, 0)
    assert list(found) == keys
    i = np.arange(700)
    expected = LOADED(quick).predict({"x": i / 100, "group": i % 4}, level=0.8, quantiles=(0.25,))
    assert [record["id"] for record in found.values()] == [str(n) for n in range(700)]
    np.testing.assert_allclose([record["upper"] for record in found.values()], expected.upper)
    np.testing.assert_allclose([record["q0.25"] for record in found.values()], expected.quantiles[:, 0])
    assert server.client.xinfo_groups("in")[0]["pending"] == 0
    assert server.client.xinfo_consumers("in", "probinfer") == []
    put(server, 3, first=700)
    assert run(server, quick).rows == 3  # goes on where it was
    assert run(server, quick, group="another").rows == 703  # a group of its own reads all


@pytest.mark.long
def test_raw_rows_as_fields_and_as_json(server, tmp_path):
    raw_rows.prices().save(tmp_path / "price")
    server.client.xadd("in", {name: "" if value is None else str(value) for name, value in RECORDS[0].items()})
    server.client.xadd("in", {"record": json.dumps(RECORDS[1])})
    assert run(server, tmp_path / "price", keep=()).rows == 2
    rows = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
    expected = raw_rows.prices().predict(rows)
    np.testing.assert_allclose([record["mean"] for record in answers(server).values()], expected.mean, rtol=1e-10)


def test_a_vector_is_a_list_or_a_field_for_each_entry(server, tmp_path):
    def line(X, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ slope, 0.5), obs=y)

    X = np.random.default_rng(0).normal(size=(20, 3))
    path = tmp_path / "line"
    pi.Predictor(pi.infer(line, {"X": X, "y": X.sum(axis=1)}, pi.Exact(draws=200), progress=False)).save(path)
    for fields in [
        {"record": '{"X": [1, 2, 3]}'},
        {"X": "[1, 2, 3]"},
        {"X[0]": "1", "X[1]": "+2", "X[2]": "3."},
        {"record": '{"X": [1, 2]}'},
    ]:
        server.client.xadd("in", fields)
    done = run(server, path, keep=())
    assert (done.rows, done.rejected) == (3, 1)
    expected = LOADED(path).predict({"X": [[1.0, 2.0, 3.0]]})
    np.testing.assert_allclose([record["mean"] for record in answers(server).values()], expected.mean.repeat(3))
    assert server.entries("out.rejects")[0]["reason"] == "X has 2 entries; wanted 3."


def test_numbers_as_text_may_be_written_as_people_write_them(server, quick):
    for x, group in ((".5", "01"), ("+0.5", "1.0"), ("00.5", "1")):
        server.client.xadd("in", {"id": "7", "x": x, "group": group})
    assert run(server, quick, keep="id").rows == 3
    expected = LOADED(quick).predict({"x": [0.5], "group": [1]})
    np.testing.assert_allclose([record["mean"] for record in answers(server).values()], expected.mean.repeat(3))


def test_messages_that_cannot_be_predicted_are_rejected_with_the_reason(server, quick):
    bad = [
        ({"x": "abc", "group": "1"}, 'x is "abc"; wanted a number'),
        ({"x": "1", "group": "9"}, "a level that the model has never seen"),
        ({"group": "1"}, "x is"),
        ({"record": "[1]"}, "holds a list; wanted an object"),
        ({"record": "{"}, "the line is no JSON"),
        ({b"x": b"\xff", "group": "1"}, "wanted a number"),
    ]
    for place, (fields, _) in enumerate(bad):
        server.client.xadd("in", fields)
        put(server, 1, first=place)
    done = run(server, quick)
    assert (done.rows, done.rejected) == (len(bad), len(bad))
    assert len(answers(server)) == len(bad)
    rejects = server.entries("out.rejects")
    for entry, (fields, reason) in zip(rejects, bad, strict=True):
        assert reason in entry["reason"]
        assert set(json.loads(entry["held"])) == {n if isinstance(n, str) else n.decode() for n in fields}


def test_a_message_read_again_is_not_answered_twice(server, quick, monkeypatch):
    """The consumer dies between writing and acknowledging; another takes its messages over."""
    put(server, 50)

    def died(self, keys):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(broker.Reader, "acknowledge", died)
        with pytest.raises(KeyboardInterrupt):
            run(server, quick, consumer="first")
    assert server.client.xinfo_groups("in")[0]["pending"] == 50
    done = run(server, quick, consumer="second")
    assert (done.rows, done.again) == (0, 50)
    assert len(answers(server)) == 50
    with monkeypatch.context() as patch:  # the twin: without the memory of keys every answer is there twice
        patch.setattr(broker, "_ADD", broker._ADD.replace("== 0 then", ">= 0 then"))
        server.client.xgroup_setid("in", "probinfer", "0")
        run(server, quick)
    assert len(server.entries("out")) == 100


def test_a_message_that_ends_its_consumers_is_put_aside(server, quick):
    put(server, 3)
    server.client.xgroup_create("in", "probinfer", id="0")
    ((_, entries),) = server.client.xreadgroup("probinfer", "dead", {"in": ">"}, count=1)
    for _ in range(5):
        server.client.xclaim("in", "probinfer", "dead", 0, [entries[0][0]])
    done = run(server, quick)
    assert (done.rows, done.rejected) == (2, 1)
    (entry,) = server.entries("out.rejects")
    assert entry["key"] == entries[0][0]
    assert "without an answer" in entry["reason"]


@pytest.mark.parametrize("sig", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL])
def test_a_broker_that_restarts_loses_and_doubles_nothing(tmp_path, quick, sig):
    server = Broker(tmp_path)
    stop, done = threading.Event(), []
    thread = threading.Thread(
        target=lambda: done.append(run(server, quick, stop=stop, until_empty=False, chunk_rows=7))
    )
    try:
        put(server, 300)
        thread.start()
        until = time.monotonic() + 60
        while not server.client.exists("out") and time.monotonic() < until:
            time.sleep(0.01)
        server.stop(sig)
        time.sleep(0.5)
        server.start()
        put(server, 100, first=300)
        while server.client.xlen("out") < 400 and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join(60)
        found = answers(server)
        server.stop()
    assert sorted(int(record["id"]) for record in found.values()) == list(range(400))
    assert done[0].rows + done[0].again >= 400 - 7


def test_a_full_broker_is_waited_for(server, quick):
    put(server, 40)
    server.client.config_set("maxmemory", "1mb")
    timer = threading.Timer(1.0, lambda: redis.Redis(port=server.port).config_set("maxmemory", "0"))
    timer.start()
    try:
        run(server, quick)
    finally:
        timer.join()
        server.client.config_set("maxmemory", "0")
    assert len(answers(server)) == 40


def test_wrong_calls_are_refused_before_anything_is_read(server, quick, capsys):
    put(server, 1)
    server.client.set("text", "no stream")
    for change, text in [
        ({"input": "redis://127.0.0.1"}, "names no stream"),
        ({"input": f"{server.url('in')}?x=1"}, "has x; wanted db=N"),
        ({"output": server.url("in")}, "both input and output"),
        ({"chunk_rows": 0}, "chunk_rows is 0"),
        ({"idle": 0.0}, "idle is 0.0"),
        ({"input": server.url("text")}, "WRONGTYPE"),
    ]:
        call = {"input": server.url("in"), "output": server.url("out"), "until_empty": True, **change}
        with pytest.raises(DataError, match=text):
            score_stream(quick, **call)
    with pytest.raises(pi.PredictionError, match="level"):
        run(server, quick, level=2.0)
    assert "***" in broker.StreamAddress("redis://ann:s3cret@h/in").shown
    assert cli.main(["score", str(quick), server.url("in"), server.url("out"), "--resume"]) == cli.WRONG
    assert "--resume is nothing for a stream" in capsys.readouterr().err
    assert cli.main(["score", str(quick), "in.csv", "out.csv", "--group", "g"]) == cli.WRONG
    assert server.client.xlen("out") == 0


def test_a_wrong_password_is_an_error_and_not_waited_for(server, quick, monkeypatch):
    put(server, 1)
    server.client.config_set("requirepass", "the right one")
    try:
        for password in (None, "a wrong one"):
            if password is not None:
                monkeypatch.setenv("REDISCLI_AUTH", password)
            with pytest.raises(DataError, match="refuses the user or password") as raised:
                run(server, quick)
            assert "a wrong one" not in str(raised.value)
        monkeypatch.setenv("REDISCLI_AUTH", "the right one")
        assert run(server, quick).rows == 1
    finally:
        server.client.config_set("requirepass", "")
    assert not issubclass(redis.exceptions.ConnectionError, broker.denied())  # the twin: a loss is waited for


def test_a_broker_that_never_was_there_is_not_waited_for_without_end(server, quick, monkeypatch, capsys):
    monkeypatch.setattr(streaming, "_FIRST", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens
        port = free.getsockname()[1]
        nowhere = f"redis://127.0.0.1:{port}/s"
        for ends in [(nowhere, server.url("out")), (server.url("in"), nowhere)]:
            began = time.monotonic()
            assert cli.main(["score", str(quick), *ends, "--until-empty"]) == cli.REFUSED
            assert time.monotonic() - began < 10.0
            assert f"No broker answers at 127.0.0.1:{port}" in capsys.readouterr().err
    with pytest.raises(DataError, match="names no port"):
        broker.StreamAddress("redis://127.0.0.1:99999/s")


@pytest.mark.long
def test_consumers_killed_at_any_time_lose_and_double_nothing(server, quick):
    """Two processes share a group; one after the other is killed with -9 in the middle, and replaced."""
    count = 3000
    put(server, count)
    script = (
        "import sys; from probinfer.deploy.stream import score_stream; "
        "score_stream(*sys.argv[1:4], keep=['id'], chunk_rows=11, idle=1.0, until_empty=True, most_deliveries=100)"
    )

    def started():
        return subprocess.Popen(
            [sys.executable, "-c", script, str(quick), server.url("in"), server.url("out")], env=os.environ
        )

    processes = [started(), started()]
    try:
        for kill in range(4):
            before, until = server.client.xlen("out"), time.monotonic() + 120
            while server.client.xlen("out") < before + 100 and time.monotonic() < until:
                time.sleep(0.01)
            processes[kill % 2].kill()
            processes[kill % 2].wait()
            processes[kill % 2] = started()
        for process in processes:
            assert process.wait(240) == 0
    finally:
        for process in processes:
            process.kill()
    assert sorted(int(record["id"]) for record in answers(server).values()) == list(range(count))
