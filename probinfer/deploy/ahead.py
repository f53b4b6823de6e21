"""Work ahead: items are made in a thread and worked on in others, so that reading, predicting and writing overlap.
Knows no tables."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_LOOK = 0.1  # seconds after which a thread that waits looks whether it is still wanted
_WORKERS = 2  # while one prepares its item, or puts its answer together, the cores have the other's to compute
_DEPTH = 4  # items between being made and being asked for

_END = object()


@contextlib.contextmanager
def ahead[T, R](items: Iterator[T], work: Callable[[T], R]) -> Generator[Iterator[R]]:
    """`work` of each item, in the order of the items, some of them before they are asked for.

    An error in `items` or `work` is raised where its item would have come. On leaving, the threads are told to stop,
    and `items` is closed in its own.

    >>> with ahead(iter(range(3)), lambda number: number + 1) as numbers:
    ...     list(numbers)
    [1, 2, 3]
    """
    # What is done waits in a queue of its own for each item, these in one in the order of the items, and only as many
    # are there as there are places. The thread that takes them may be where Ctrl-C comes; futures and other queues
    # could be left locked by it, and the other threads would wait for them without end.
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    places: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(_DEPTH):
        places.put(None)
    wanted = True

    def placed() -> bool:
        while wanted:
            try:
                places.get(timeout=_LOOK)
                return True
            except queue.Empty:
                continue
        return False

    def worked(item: T, done: queue.SimpleQueue[Any]) -> None:
        try:
            done.put((work(item), None))
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            done.put((None, error))

    def make() -> None:
        try:
            for item in items:
                done: queue.SimpleQueue[Any] = queue.SimpleQueue()
                workers.submit(worked, item, done)
                waiting.put(done)
                if not placed():
                    break
            else:
                waiting.put(_END)
        except BaseException as error:  # noqa: BLE001 - as above
            failed: queue.SimpleQueue[Any] = queue.SimpleQueue()
            failed.put((None, error))
            waiting.put(failed)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def taken() -> Iterator[R]:
        while (done := waiting.get()) is not _END:
            result, error = done.get()
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # whose frames hold this one
            places.put(None)
            yield result

    workers = ThreadPoolExecutor(_WORKERS, "probinfer-ahead")
    thread = threading.Thread(target=make, name="probinfer-ahead", daemon=True)
    try:
        thread.start()
        yield taken()
    finally:
        wanted = False
        workers.shutdown(wait=False, cancel_futures=True)  # what nobody will ask for is not begun
        try:
            thread.join()
        finally:  # Ctrl-C may come again while the reader is waited for
            workers.shutdown()
