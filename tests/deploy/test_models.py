"""Versions that come while the server works: none is left out for ever because another one follows it."""

import asyncio

import numpy as np
import pytest

from probinfer.deploy.batcher import Batcher
from probinfer.deploy.meter import Meter
from probinfer.deploy.models import Models, Slot
from probinfer.deploy.served import load, version_of
from probinfer.deploy.worker import Worker
from tests.predict import models as m
from tests.predict.fits import fitted


def save(path, shift):
    draws = {**m.LINE, "slope": m.LINE["slope"] + shift}
    fitted(m.line, {"x": m.x, "y": m.y}, draws, chains=4).save(path)
    return version_of(path)


@pytest.mark.parametrize("name", ["line", "line.zip"])
def test_a_version_that_is_replaced_while_it_loads_is_served_until_the_next_look(tmp_path, name):
    path = tmp_path / name
    save(path, 0.0)
    models = Models({"line": Slot(load("line", path), Batcher(Worker("test")))}, Meter(["line"]), 1)
    second, third = save(path, 1.0), ""

    def loaded(name, where):
        nonlocal third
        found = load(name, where)
        third = third or save(path, 2.0)
        return found

    models._loaded = loaded
    slot = models.slots["line"]
    asyncio.run(models.look("line"))
    assert slot.served.version == second
    asyncio.run(models.look("line"))
    assert slot.served.version == third
    assert not slot.changed()


def test_a_version_of_the_same_program_is_not_compiled_again(tmp_path):
    path = tmp_path / "line"
    save(path, 0.0)
    models = Models({"line": Slot(load("line", path), Batcher(Worker("test")))}, Meter(["line"]), 1)
    slot = models.slots["line"]
    asyncio.run(models.warm())
    first = slot.served
    known = dict(first.answers._few.engine._compiled)
    save(path, 1.0)
    asyncio.run(models.look("line"))
    assert slot.served is not first
    assert known == slot.served.answers._few.engine._compiled
    question = first.question({"x": [0.5]}, 1)
    before, after = (served.answer([question])[0].answer.mean for served in (first, slot.served))
    np.testing.assert_allclose(after - before, 0.5)


@pytest.mark.long
def test_a_version_of_another_program_shares_nothing(tmp_path):
    path = tmp_path / "line"
    save(path, 0.0)
    models = Models({"line": Slot(load("line", path), Batcher(Worker("test")))}, Meter(["line"]), 1)
    slot = models.slots["line"]
    asyncio.run(models.warm())
    known = dict(slot.served.answers._few.engine._compiled)
    fitted(m.line, {"x": m.x, "y": m.y}, {name: values[:-4] for name, values in m.LINE.items()}, chains=4).save(path)
    asyncio.run(models.look("line"))
    assert slot.served.answers._few.engine._compiled.keys().isdisjoint(known)
