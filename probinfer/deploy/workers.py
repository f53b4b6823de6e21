"""Worker processes behind one socket: started, started again when they die, and let go in order. Standard library only.

A worker that dies takes the requests that it was answering with it; their clients see the connection close. The socket
stays open, so no other request notices. A worker whose supervisor is gone stops as it does on SIGTERM.
"""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from probinfer.deploy.refusals import ServerFailed

logger = logging.getLogger("probinfer.serve")

_LONGEST_PAUSE = 30.0  # seconds before a worker that keeps dying is started again


class Supervisor:
    """Keeps `count` processes running `work(socket)`.

    Args:
        work: run in each process, in its main thread; importable, and its arguments can be pickled.
        grace: seconds that a worker may take to stop before it is killed.
    """

    def __init__(
        self, work: Callable[[socket.socket], None], listener: socket.socket, count: int, grace: float
    ) -> None:
        self._work, self._listener, self._count, self._grace = work, listener, count, grace
        self._context = multiprocessing.get_context("spawn")
        self._stop = threading.Event()
        self._deaths = [0] * count  # in a row, each soon after its start
        self._begun = [0.0] * count
        self._due: list[float | None] = [None] * count  # when to start again
        self._processes: list[BaseProcess] = []

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises ServerFailed if every worker keeps failing from the beginning."""
        before = {sig: signal.signal(sig, self._told) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._processes = [self._started(place) for place in range(self._count)]
            while not self._stop.is_set():
                wait([process.sentinel for process in self._processes if process.exitcode is None], timeout=0.2)
                self._look()
        finally:
            self._end()
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def _told(self, number: int, frame: object) -> None:
        self._stop.set()

    def _started(self, place: int) -> BaseProcess:
        process = self._context.Process(target=_in_worker, args=(self._work, self._listener), daemon=False)
        process.start()
        self._begun[place] = time.monotonic()
        return process

    def _look(self) -> None:
        now = time.monotonic()
        for place, process in enumerate(self._processes):
            if process.exitcode is None or self._stop.is_set():
                continue
            due = self._due[place]
            if due is None:
                soon = now - self._begun[place] < 60.0
                self._deaths[place] = self._deaths[place] + 1 if soon else 1
                pause = 0.0 if self._deaths[place] == 1 else min(_LONGEST_PAUSE, 2.0 ** (self._deaths[place] - 2))
                self._due[place] = now + pause
                extra = {"worker": process.pid, "exit": process.exitcode, "again_in": pause}
                logger.error("worker died", extra=extra)
                if min(self._deaths) >= 3:
                    raise ServerFailed("Every worker died three times soon after its start; the log says why.")
            elif due <= now:
                self._due[place] = None
                self._processes[place] = self._started(place)

    def _end(self) -> None:
        running = [process for process in self._processes if process.exitcode is None and process.pid is not None]
        for process in running:
            os.kill(process.pid or 0, signal.SIGTERM)
        self._listener.close()  # the workers have their own
        until = time.monotonic() + self._grace
        for process in running:
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                logger.error("worker killed", extra={"worker": process.pid})
                process.kill()
                process.join()


def _in_worker(work: Callable[[socket.socket], None], listener: socket.socket) -> None:
    supervisor = multiprocessing.parent_process()

    def follow() -> None:
        if supervisor is not None:
            wait([supervisor.sentinel])
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="probinfer-supervisor", daemon=True).start()
    work(listener)
