"""A thread that computes, so that the event loop does not. Imports the standard library."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

from probinfer.deploy.refusals import Busy, TooLate


class Worker:
    """One thread that does what it is given, in order, and tells the event loop what came of it."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; results are handed to `loop`."""
        self._loop = loop
        self._thread.start()

    def do(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Call `work` in the thread and `done` with its result in the event loop. `work` catches its own errors."""
        self._tasks.put((work, done))

    def stop(self) -> None:
        """End after what was given so far."""
        self._tasks.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, done = task
            result = work()
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(done, result)
            except RuntimeError:  # the loop has ended: nobody waits any more
                return


class Lane:
    """Work that is not shared between requests, such as predictive draws: one at a time, beside the batches, so that it
    holds up only its own kind. Bounded."""

    def __init__(self, worker: Worker, most_waiting: int) -> None:
        self._worker = worker
        self._most = most_waiting
        self.waiting = 0

    async def run(self, work: Callable[[], Any], deadline: float) -> Any:
        """The result of `work`. Raises Busy when too many wait, TooLate past the deadline, and what `work` raises."""
        loop = asyncio.get_running_loop()
        if self.waiting >= self._most:
            raise Busy(
                f"{self.waiting} requests for predictive draws are waiting, the most that may. Try again in a second, "
                "or ask for quantiles, which are exact and cost less.",
                retry_after=1,
            )
        future: asyncio.Future[Any] = loop.create_future()

        def guarded() -> tuple[bool, Any]:
            if future.done():  # given up meanwhile
                return True, None
            try:
                return True, work()
            except Exception as error:  # noqa: BLE001 - handed to the request that asked for it
                return False, error

        def done(result: tuple[bool, Any]) -> None:
            self.waiting -= 1
            fine, value = result
            if future.done():
                return
            if fine:
                future.set_result(value)
            else:
                future.set_exception(value)

        self.waiting += 1
        self._worker.do(guarded, done)
        try:
            return await asyncio.wait_for(future, max(0.0, deadline - loop.time()))
        except TimeoutError:
            raise TooLate(
                "The draws were not ready in time. Ask for fewer draws or rows, or allow more time."
            ) from None
