"""Dynamic batching with a model that only echoes: who shares a call, who waits, who is refused."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from probinfer.deploy import batcher as batching
from probinfer.deploy.batcher import Batcher
from probinfer.deploy.refusals import Busy, TooLate
from probinfer.deploy.worker import Lane, Worker
from probinfer.errors import PredictionError
from probinfer.predict.engine import Answer
from probinfer.predict.interval import Answered
from probinfer.predict.together import Question, join

LATER = 1e9


def asking(*values, level=0.9):
    return Question({"x": np.array(values, float)}, np.zeros(len(values), np.uint32), level=level)


class Echo:
    """Answers each row with itself and the question's level; remembers who shared a call. `gate` holds calls up."""

    def __init__(self):
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, questions):
        self.gate.wait(10)
        self.calls.append([question.columns["x"].tolist() for question in questions])
        return [self.one(question) for question in questions]

    def join(self, parts, question):
        return join(parts, None)

    def one(self, question):
        x = question.columns["x"]
        if np.any(x == -1.0):
            return PredictionError("minus one")
        if np.any(x == -2.0):
            raise RuntimeError("the whole call breaks")
        level = np.full(len(x), question.level)
        return Answered(Answer(*[x] * 9), x, level, x[:, None])


@pytest.fixture
def echo():
    return Echo()


def run(body, **settings):
    """Run a test's coroutine with a batcher."""

    async def whole():
        worker = Worker("test")
        worker.start(asyncio.get_running_loop())
        try:
            return await asyncio.wait_for(body(Batcher(worker, **settings)), 20)
        finally:
            worker.stop()

    return asyncio.run(whole())


def test_what_a_tick_brings_is_one_call_and_what_comes_meanwhile_the_next(echo):
    async def body(batcher):
        echo.gate.clear()
        first = [batcher.ask(echo, asking(i, level=0.1 + i / 100), LATER) for i in range(5)]
        await asyncio.sleep(0.05)
        later = [batcher.ask(echo, asking(10 + i, level=0.5), LATER) for i in range(3)]
        echo.gate.set()
        answers = await asyncio.gather(*first, *later)
        assert [answer.lower.tolist() for answer in answers] == [[0], [1], [2], [3], [4], [10], [11], [12]]
        np.testing.assert_allclose([answer.upper[0] for answer in answers[:5]], [0.1, 0.11, 0.12, 0.13, 0.14])
        await asyncio.sleep(0.1)
        assert batcher.idle
        assert batcher.rows == 0

    run(body)
    assert echo.calls == [[[0], [1], [2], [3], [4]], [[10], [11], [12]]]


def test_a_long_question_leaves_room_for_others(echo):
    async def body(batcher):
        long = batcher.ask(echo, asking(*range(40)), LATER)
        short = [batcher.ask(echo, asking(100 + i), LATER) for i in range(3)]
        await asyncio.gather(*short)
        assert not long.done()
        assert (await long).lower.tolist() == list(range(40))

    run(body, max_batch=8)
    assert echo.calls[0] == [[0, 1, 2, 3], [100], [101], [102]]
    assert max(sum(map(len, call)) for call in echo.calls) <= 8


def test_a_broken_question_fails_alone(echo):
    async def body(batcher):
        asked = [batcher.ask(echo, asking(value), LATER) for value in (1, -1, 2, -2, 3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [answer.lower.tolist() for answer in answers if isinstance(answer, Answered)] == [[1], [2], [3]]
        assert isinstance(answers[1], PredictionError)
        assert isinstance(answers[3], RuntimeError)

    run(body)


def test_a_long_question_that_breaks_late_is_dropped_whole(echo):
    async def body(batcher):
        asked = batcher.ask(echo, asking(*range(10), -1, *range(20)), LATER)
        with pytest.raises(PredictionError):
            await asked
        await batcher.ask(echo, asking(1), LATER)
        await asyncio.sleep(0.1)
        assert batcher.rows == 0
        assert batcher.idle

    run(body, max_batch=8)


def test_the_queue_is_bounded_and_says_when_to_come_back(echo):
    async def body(batcher):
        echo.gate.clear()
        running = batcher.ask(echo, asking(0), LATER)
        await asyncio.sleep(0.02)
        waiting = [batcher.ask(echo, asking(i), LATER) for i in range(4)]
        with pytest.raises(Busy, match="4 rows are waiting and 1 came; 4 may wait") as refused:
            batcher.ask(echo, asking(5), LATER)
        assert refused.value.retry_after >= 1
        echo.gate.set()
        await asyncio.gather(running, *waiting)
        assert (await batcher.ask(echo, asking(6), LATER)).lower.tolist() == [6]

    run(body, max_queue=4)


def test_deadlines_hold_while_waiting_and_while_running(echo, monkeypatch):
    async def body(batcher):
        loop = asyncio.get_running_loop()
        echo.gate.clear()
        running = batcher.ask(echo, asking(0), loop.time() + 0.2)
        await asyncio.sleep(0.02)
        waiting = batcher.ask(echo, asking(1), loop.time() + 0.2)
        patient = batcher.ask(echo, asking(2), LATER)
        monkeypatch.setattr(time, "time", lambda: 4e9)  # the wall clock jumps: deadlines do not follow it
        began = loop.time()
        for asked in (running, waiting):
            with pytest.raises(TooLate):
                await asked
        assert 0.1 < loop.time() - began < 5.0
        assert not patient.done()
        echo.gate.set()
        assert (await patient).lower.tolist() == [2]

    run(body)
    assert [1] not in echo.calls[-1]  # nobody waited for it any more


def test_questions_to_an_older_version_are_answered_by_it(echo):
    async def body(batcher):
        newer = Echo()
        echo.gate.clear()
        first = batcher.ask(echo, asking(0), LATER)
        await asyncio.sleep(0.02)
        old, new = batcher.ask(echo, asking(1), LATER), batcher.ask(newer, asking(2), LATER)
        echo.gate.set()
        await asyncio.gather(first, old, new)
        assert echo.calls == [[[0]], [[1]]]
        assert newer.calls == [[[2]]]

    run(body)


def test_a_call_waits_for_more_only_when_told_to(echo):
    async def body(batcher):
        first = batcher.ask(echo, asking(0), LATER)
        await asyncio.sleep(0.02)
        await asyncio.gather(first, batcher.ask(echo, asking(1), LATER))

    run(body, max_wait=0.2)
    assert echo.calls == [[[0], [1]]]


def test_a_request_that_was_given_up_is_not_computed(echo):
    async def body(batcher):
        echo.gate.clear()
        first = batcher.ask(echo, asking(0), LATER)
        await asyncio.sleep(0.02)
        batcher.ask(echo, asking(1), LATER).cancel()
        last = batcher.ask(echo, asking(2), LATER)
        echo.gate.set()
        await asyncio.gather(first, last)

    run(body)
    assert echo.calls == [[[0]], [[2]]]


def test_short_calls_run_in_the_loop_and_long_ones_beside_it(monkeypatch):
    """A model that becomes slow holds the loop up once; a new version, of which nothing is known, not at all. The clock
    goes as the model says: a machine that pauses changes nothing."""
    threads, loop_thread = [], threading.get_ident()
    now = 0.0
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=lambda: now))

    class Watched(Echo):
        seconds = 1e-6

        def answer(self, questions):
            nonlocal now
            threads.append(threading.get_ident() == loop_thread)
            now += self.seconds * sum(len(question.hashes) for question in questions)
            return super().answer(questions)

    async def body(batcher):
        model = Watched()
        for _ in range(100):
            await batcher.ask(model, asking(1), LATER)
        assert not threads[0]
        assert threads[-1]
        await batcher.ask(model, asking(*range(100_000)), LATER)
        assert not threads[-1]  # as far as is known, so many rows take long
        for _ in range(100):
            await batcher.ask(model, asking(1), LATER)
        assert threads[-1]
        model.seconds = 0.02
        for _ in range(5):
            await batcher.ask(model, asking(1), LATER)
        assert threads[-5:] == [True, False, False, False, False]
        newer = Watched()
        await batcher.ask(newer, asking(1), LATER)
        assert not threads[-1]

    run(body, max_batch=100_000, max_queue=200_000)


def test_many_clients_lose_nothing(echo):
    async def body(batcher):
        async def client(number):
            for turn in range(50):
                value, rows = 1000.0 * number + turn, 1 + (number + turn) % 5
                answer = await batcher.ask(echo, asking(*[value] * rows, level=0.5), LATER)
                assert answer.lower.tolist() == [value] * rows

        await asyncio.gather(*[client(number) for number in range(20)])

    run(body, max_batch=16)
    assert len(echo.calls) < 20 * 50 / 2  # they shared


def test_the_lane_is_bounded_and_gives_up_in_time():
    async def whole():
        worker, gate = Worker("test"), threading.Event()
        loop = asyncio.get_running_loop()
        worker.start(loop)
        lane = Lane(worker, 2)
        slow = asyncio.create_task(lane.run(lambda: gate.wait(10), LATER))
        late = asyncio.create_task(lane.run(lambda: 1, loop.time() + 0.05))
        await asyncio.sleep(0.01)
        with pytest.raises(Busy):
            await lane.run(lambda: 2, LATER)
        with pytest.raises(TooLate):
            await late
        gate.set()
        assert await slow is True
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 / 0, LATER)
        worker.stop()

    asyncio.run(whole())
