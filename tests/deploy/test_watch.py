"""The monitor in an artifact, as the server goes on with it: the same evidence as offline, and its alarms."""

import json
import struct
import time

import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy.meter import Meter
from probinfer.deploy.served import load
from probinfer.deploy.settings import ServeSettings
from probinfer.deploy.watch import Watch
from tests.deploy.serving import metric, running
from tests.predict import models as m
from tests.predict.fits import fitted
from tests.predict.test_point_raw import KEPT, NEW, Ridge, pipeline

LEVEL, FALSE_ALARM = 0.9, 0.01
rng = np.random.default_rng(5)
REFERENCE = rng.normal(size=300)


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, line):
    """A watched line, and an unwatched one."""
    place = tmp_path_factory.mktemp("watched")
    pi.Monitor(line, {"x": REFERENCE}, level=LEVEL, false_alarm=FALSE_ALARM).attached().save(place / "line")
    line.save(place / "plain")
    return place


@pytest.fixture(scope="module")
def server(folder):
    models = (("line", folder / "line"),)
    with running(ServeSettings(models, max_batch=4, reload=0.0, drain=0.0)) as (client, service):
        yield client, service


def value(client, name, watched=None):
    labels = 'model="line"' + (f',watched="{watched}"' if watched else "")
    return metric(client, f"probinfer_monitor_{name}{{{labels}}}")


def until(seen, seconds=60.0):
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(client, x):
    rows = {"records": [{"x": float(each)} for each in x], "level": LEVEL}
    assert client.post("/predict/line", json=rows).status_code == 200


def test_an_artifact_carries_the_monitor_and_goes_on_from_there(folder, line, tmp_path):
    loaded = pi.load_predictor(folder / "line")
    monitor = pi.Monitor.of(loaded)
    rows = {"x": rng.normal(size=50)}
    offline = pi.Monitor(line, {"x": REFERENCE}, level=LEVEL, false_alarm=FALSE_ALARM)
    assert monitor.update(rows).to_plain() == offline.update(rows).to_plain()
    monitor.attached().save(tmp_path / "later")
    assert pi.Monitor.of(pi.load_predictor(tmp_path / "later")).status.rows == 50
    assert pi.Monitor.of(line) is None
    np.testing.assert_array_equal(loaded.predict(rows).upper, line.predict(rows).upper)


def test_the_server_has_the_evidence_that_the_monitor_has_offline(server, line):
    client, _ = server
    same, shifted = rng.normal(size=60), rng.normal(2.0, 1.0, size=120)
    offline = pi.Monitor(line, {"x": REFERENCE}, level=LEVEL, false_alarm=FALSE_ALARM)
    ask(client, same)
    until(lambda: value(client, "rows_total") == 60)
    until(lambda: value(client, "evidence", "inputs") > 0)
    found = offline.update({"x": same})
    assert value(client, "evidence", "inputs") == pytest.approx(found["x"].evidence / found["x"].threshold, rel=1e-6)
    assert value(client, "alarm", "inputs") == 0.0
    for part in np.split(shifted, 4):
        ask(client, part)
    until(lambda: value(client, "rows_total") == 180)
    found = offline.update({"x": shifted})
    assert found["x"].since is not None
    until(lambda: value(client, "alarm", "inputs") == 1.0)
    assert value(client, "evidence", "inputs") == pytest.approx(found["x"].evidence / found["x"].threshold, rel=1e-6)
    share = found["epistemic share"]
    assert value(client, "evidence", "epistemic share") == pytest.approx(share.evidence / share.threshold, rel=1e-6)


def test_outcomes_are_looked_at_and_their_rows_not_again(server, line):
    client, _ = server
    rows, outcomes = value(client, "rows_total"), value(client, "outcomes_total")
    x = rng.normal(size=80)
    y = 5.0 + x  # outside of nearly all intervals
    told = {"records": [{"x": float(a), "y": float(b)} for a, b in zip(x, y, strict=True)], "level": LEVEL}
    assert client.post("/feedback/line", json=told).status_code == 200
    assert (
        client.post("/feedback/line", json={**told, "level": 0.5}).status_code == 200
    )  # of another level: not counted
    until(lambda: value(client, "outcomes_total") == outcomes + 80)
    until(lambda: value(client, "alarm", "coverage") == 1.0)
    assert value(client, "rows_total") == rows
    offline = pi.Monitor(line, {"x": REFERENCE}, level=LEVEL, false_alarm=FALSE_ALARM)
    found = offline.update_outcomes({"x": x}, y)
    for name in ("calibration", "coverage"):
        assert value(client, "evidence", name) == pytest.approx(found[name].evidence / found[name].threshold, rel=1e-6)


def test_outcomes_that_are_classes_have_the_places_that_the_monitor_gives_them(tmp_path):
    binary = fitted(m.logistic, {"X": m.X, "y": m.y > 0}, {"beta": m.draws(3)})
    binary = binary.calibrate({"X": rng.normal(size=(60, 3))}, rng.integers(0, 2, 60))
    X, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    offline = pi.Monitor(binary, {"X": X})
    offline.attached().save(tmp_path / "binary")
    served = load("binary", tmp_path / "binary")
    watch = Watch(Meter(["binary"]), "binary")
    watch.begin(served)
    question = served.question({"X": X}, 40)
    watch.came(question._replace(again=True), served.answer([question])[0], y.astype(float))
    watch.look(served)
    found, exact = watch._monitor.status, offline.update_outcomes({"X": X}, y)
    assert found.coverage == exact.coverage
    for name in ("calibration", "coverage"):
        assert found[name].evidence == pytest.approx(exact[name].evidence, rel=1e-6)


def test_a_point_model_is_watched_as_offline(tmp_path):
    raw = pi.PointPredictor(pipeline(Ridge())).calibrate(KEPT, KEPT.y, groups="town")
    raw.save(tmp_path / "unwatched")
    stored = pi.load_predictor(tmp_path / "unwatched")
    offline = pi.Monitor(stored, KEPT)
    offline.attached().save(tmp_path / "houses")
    served = load("houses", tmp_path / "houses")
    watch = Watch(Meter(["houses"]), "houses")
    watch.begin(served)
    assert watch.watches
    few = NEW[:40]
    names = [field.name for field in served.fields]
    question = served.question({name: few[name].to_numpy() for name in names}, 40)
    found = served.answer([question])[0]
    watch.answered(question, found)
    watch.came(question._replace(again=True), found, few.y.to_numpy())
    watch.look(served)
    status, exact = watch._monitor.status, offline.update(few, few.y)
    assert (status.rows, status.outcomes, status.coverage) == (40, 40, exact.coverage)
    assert "town=Ulm" in [one.name for one in status.watched]
    for one in exact.watched:
        assert status[one.name].evidence == pytest.approx(one.evidence, rel=1e-6), one.name


def test_a_model_without_a_monitor_is_not_watched(folder):
    watch = Watch(Meter(["plain"]), "plain")
    watch.begin(load("plain", folder / "plain"))
    assert not watch.watches


def test_more_rows_than_a_look_holds_are_left_out_and_told(server):
    client, service = server
    watch = service._watches["line"][""]
    before = value(client, "rows_total"), value(client, "skipped_total")
    for _ in range(40):
        ask(client, rng.normal(size=60))
    until(lambda: not watch.waiting)
    until(lambda: value(client, "rows_total") + value(client, "skipped_total") == sum(before) + 2400)


def test_a_monitor_that_is_none_is_told_and_the_model_served(line, tmp_path, caplog):
    about = {**line.about, "monitor": {"probinfer_monitor": 1, "columns": {"z": 0}}}
    line.from_program(line.program, about).save(tmp_path / "line")
    watch = Watch(Meter(["line"]), "line")
    watch.begin(load("line", tmp_path / "line"))
    assert not watch.watches
    assert "monitor not read" in caplog.text


def test_workers_share_the_chance_of_a_false_alarm(folder):
    loaded = pi.load_predictor(folder / "line")
    alone, of_four = pi.Monitor.of(loaded), pi.Monitor.of(loaded, shared_by=4)
    rows = {"x": rng.normal(size=5)}
    thresholds = [monitor.update(rows)["x"].threshold for monitor in (alone, of_four)]
    assert thresholds[1] == pytest.approx(4 * thresholds[0])


def test_evidence_of_processes_is_not_added_up(tmp_path):
    meter = Meter(["m"], tmp_path)
    meter.put("probinfer_monitor_evidence", "m", "inputs", value=0.3)
    meter.put("probinfer_queue_rows", "m", value=2.0)
    place = meter._places["probinfer_monitor_evidence", ("m", "inputs")]
    queue = meter._places["probinfer_queue_rows", ("m",)]
    cells = [0.0] * len(meter.cells)
    cells[place], cells[queue] = 0.5, 1.0
    (tmp_path / "1.counts").write_bytes(struct.pack(f"{len(cells)}d", *cells))  # process 1 is alive
    text = meter.text()
    assert 'probinfer_monitor_evidence{model="m",watched="inputs"} 0.5' in text
    assert 'probinfer_queue_rows{model="m"} 3' in text


def test_a_watched_predictor_keeps_its_state_as_plain_data(folder):
    manifest = json.loads((folder / "line" / "manifest.json").read_bytes())
    assert manifest["format_version"] == 1  # earlier releases read it, and know nothing of a monitor
    assert set(manifest["about"]["monitor"]["columns"]) == {"x", "epistemic share"}
