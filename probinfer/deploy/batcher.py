"""Dynamic batching: what arrives while a call runs is answered by the next one. Imports numpy.

While nothing runs, a call starts at the end of the event loop's tick, with all that the tick has read. No request
waits for others to come unless `max_wait` says so. Everything here happens in the event loop's thread, also a call that
is short: to hand it over would take as long. A long one runs in the worker's.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from probinfer.deploy.refusals import Busy, TooLate
from probinfer.deploy.several import Answer, Asked
from probinfer.deploy.worker import Worker

_SWEEP = 0.05  # seconds between looks for deadlines that have passed
# Seconds for which a call may hold the event loop. Who comes meanwhile is answered after it in any case, and to hand it
# to the other thread costs 20 to 50 µs a request; only probes and refusals wait that need not.
_SHORT = 0.005


class Answering(Protocol):
    """A version of a model: `Served` with its questions, or `Several`."""

    def answer(self, questions: Any) -> Any:
        """All of them in one call."""
        ...

    def join(self, parts: Any, question: Any) -> Any:
        """One answer from those of the question's parts."""
        ...


class _Job:
    """A question on its way: `taken` rows were given to calls, `parts` are the answers so far."""

    __slots__ = ("deadline", "parts", "question", "rows", "served", "settled", "taken", "then")

    def __init__(self, served: Answering, question: Asked, deadline: float, then: Callable[[Any], None]) -> None:
        self.served, self.question, self.deadline, self.then = served, question, deadline, then
        self.rows, self.taken, self.settled = len(question.hashes), 0, False
        self.parts: list[Answer] = []

    def settle(self, result: Answer | Exception) -> None:
        """Tell who asked, unless they were told."""
        if not self.settled:
            self.settled = True
            self.then(result)


class _Call(NamedTuple):
    """A call that runs: for which jobs, which question of each, and since when."""

    jobs: Sequence[_Job]
    questions: Sequence[Asked]
    began: float


class Batcher:
    """The questions to one model.

    Args:
        worker: computes; may be shared with other models, whose batches then alternate.
        max_batch: most rows in one call. A question with more is answered in pieces, between which others have their
            turn: a long one holds nobody up for longer than one call.
        max_wait: seconds that a call which is not full waits for more.
        max_queue: most rows waiting.
        observe: is told of every finished call: the questions, their results, seconds.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        max_batch: int = 512,
        max_wait: float = 0.0,
        max_queue: int = 16_384,
        observe: Callable[[Sequence[Asked], Sequence[Any], float], None] | None = None,
    ) -> None:
        self._worker = worker
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._observe = observe
        self._queue: deque[_Job] = deque()
        self._live: set[_Job] = set()
        self._running = False
        self._planned: asyncio.Handle | None = None
        self._sweeping = False
        self._rate = 0.0  # rows a second, smoothed
        self._longest = math.inf  # seconds of the longest of the calls of late, of the version that answered them
        self._latest: Answering | None = None
        self.rows = 0  # waiting

    def ask(self, served: Answering, question: Asked, deadline: float) -> asyncio.Future[Answer]:
        """The answer to come, or the exception, as `put` has them."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def told(result: Answer | Exception) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        job = self.put(served, question, deadline, told)
        future.add_done_callback(lambda _: setattr(job, "settled", True))  # also where it was given up
        return future

    def put(
        self, served: Answering, question: Asked, deadline: float, then: Callable[[Answer | Exception], None]
    ) -> _Job:
        """Have a question answered: `then` is called with the answer, in the event loop's thread and not before this
        returns, or with TooLate once the loop's clock has passed `deadline`, or with PredictionError where the question
        cannot be answered. Raises Busy if the queue is full."""
        loop = asyncio.get_running_loop()
        job = _Job(served, question, deadline, then)
        if self.rows and self.rows + job.rows > self._max_queue:
            raise Busy(
                f"{self.rows} rows are waiting and {job.rows} came; {self._max_queue} may wait. Nothing was done: try "
                "again later, or start more workers.",
                retry_after=self.retry_after,
            )
        self._queue.append(job)
        self._live.add(job)
        self.rows += job.rows
        self._plan(loop)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP, self._sweep)
        return job

    @property
    def retry_after(self) -> int:
        """Seconds until what waits now should be done."""
        return min(60, max(1, math.ceil(self.rows / self._rate))) if self._rate else 1

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._live

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that a call starts."""
        if self._running or not self._queue:
            return
        full = self.rows >= self._max_batch
        if self._planned is None:
            waits = self._max_wait > 0.0 and not full
            self._planned = loop.call_later(self._max_wait, self._start) if waits else loop.call_soon(self._start)
        elif full and self._max_wait > 0.0:
            self._planned.cancel()
            self._planned = loop.call_soon(self._start)

    def _start(self) -> None:
        self._planned = None
        loop = asyncio.get_running_loop()
        batch = self._take(loop.time())
        if not batch:
            return
        self._running = True
        served = batch[0][0].served
        questions = [
            job.question if job.rows == stop - start else job.question.part(start, stop) for job, start, stop in batch
        ]
        call = _Call([job for job, _, _ in batch], questions, time.perf_counter())
        if served is not self._latest:
            self._latest, self._longest = served, math.inf
        if self._longest < _SHORT and sum(stop - start for _, start, stop in batch) < _SHORT * self._rate:
            self._finish(call, _answers(served, questions))
        else:
            self._worker.do(lambda: _answers(served, questions), lambda results: self._finish(call, results))

    def _take(self, now: float) -> list[tuple[_Job, int, int]]:
        """Jobs and the rows of each, the next call's: first come first served, and a long one leaves half the room."""
        batch: list[tuple[_Job, int, int]] = []
        again: list[_Job] = []
        room = self._max_batch
        while self._queue and room:
            job = self._queue[0]
            if job.deadline <= now:
                job.settle(_too_late())
            if job.settled:  # answered with an error, too late, or nobody waits
                self._drop(self._queue.popleft())
                continue
            if batch and job.served is not batch[0][0].served:
                break  # a new version: the next call
            self._queue.popleft()
            left = job.rows - job.taken
            size = min(left, room, max(1, self._max_batch // 2) if left > self._max_batch else left)
            batch.append((job, job.taken, job.taken + size))
            job.taken += size
            self.rows -= size
            room -= size
            if job.taken < job.rows:
                again.append(job)
        self._queue.extend(again)
        return batch

    def _drop(self, job: _Job) -> None:
        self.rows -= job.rows - job.taken
        self._live.discard(job)

    def _finish(self, call: _Call, results: Sequence[Any]) -> None:
        seconds = time.perf_counter() - call.began
        self._running = False
        count = sum(len(question.hashes) for question in call.questions)
        self._longest = max(seconds, 0.8 * self._longest) if self._longest < math.inf else seconds
        rate = count / max(seconds, 1e-6)
        self._rate = 0.9 * self._rate + 0.1 * rate if self._rate else rate
        for job, result in zip(call.jobs, results, strict=True):
            if isinstance(result, Exception):
                job.settle(result)
            else:
                job.parts.append(result)
                if job.taken == job.rows and not job.settled:  # the last part, as they run one after the other
                    job.settle(result if len(job.parts) == 1 else job.served.join(job.parts, job.question))
            if job.settled and job.taken == job.rows:
                self._live.discard(job)
        self._plan(asyncio.get_running_loop())
        if self._observe is not None:
            self._observe(call.questions, results, seconds)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for job in [*self._live]:
            if job.deadline <= now:
                job.settle(_too_late())
        self._sweeping = bool(self._live)
        if self._sweeping:
            loop.call_later(_SWEEP, self._sweep)


def _answers(served: Answering, questions: Sequence[Asked]) -> list[Answer | Exception]:
    """Every question's answer or error. If the call for all fails, each is asked alone: only what is broken fails."""
    try:
        return [*served.answer(questions)]
    except Exception as error:  # noqa: BLE001 - it belongs to some question, which is found by asking one by one
        if len(questions) == 1:
            return [error]
    return [answer for question in questions for answer in _answers(served, [question])]


def _too_late() -> TooLate:
    return TooLate("The answer was not ready in time. Send fewer rows, allow more time, or start more workers.")
