"""Chains that take turns on threads: pieces of work with a pause between them for Ctrl-C, a deadline and progress."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

import numpy as np

_READY = 2  # pieces of work for each thread, one of them under way


class Turns:
    """Chains by their numbers, as many at work at once as there are threads for them.

    interrupted: Ctrl-C was pressed, and work under way was finished; the second time it is raised.
    """

    def __init__(self, pool: Executor, workers: int, deadline: float = np.inf) -> None:
        self._pool = pool
        self._workers = workers
        self._deadline = deadline
        self.interrupted = False

    @property
    def late(self) -> bool:
        """Whether the time for drawing is over, on `time.monotonic`'s clock."""
        return time.monotonic() >= self._deadline

    def take_turns(
        self, chains: Iterable[int], work: Callable[[int], Any], finish: Callable[[int, Any], bool], *, hurry: bool
    ) -> None:
        """`work`(chain) on a thread, then `finish`(chain, what it returned) on this one, which says whether the chain
        wants another turn. Nothing new is begun after Ctrl-C, or with `hurry` after the deadline."""
        waiting = list(chains)
        running: dict[Future, int] = {}

        def over() -> bool:
            return self.interrupted or (hurry and self.late)

        def turn(chain: int) -> Any:
            return None if over() else work(chain)

        while waiting or running:
            try:
                # some stand ready, so that no thread waits for this one
                while waiting and not over() and len(running) < _READY * self._workers:
                    chain = waiting.pop(0)
                    running[self._pool.submit(turn, chain)] = chain
                if over() and not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for job in finished:
                    chain, made = running.pop(job), job.result()
                    if made is None or finish(chain, made):
                        waiting.append(chain)
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.interrupted = True
