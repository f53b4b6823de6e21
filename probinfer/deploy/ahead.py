"""Work ahead: items are made in a thread and worked on in others, so that reading, predicting and writing overlap.
Knows no tables."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    waiting: queue.Queue[Any] = queue.Queue(_DEPTH)
    stop = threading.Event()

    def put(future: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(future, timeout=_LOOK)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(workers.submit(work, item)):
                    break
            else:
                put(_END)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            failed: Future[R] = Future()
            failed.set_exception(error)
            put(failed)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def taken() -> Iterator[R]:
        while (future := waiting.get()) is not _END:
            yield future.result()

    workers = ThreadPoolExecutor(_WORKERS, "probinfer-ahead")
    thread = threading.Thread(target=make, name="probinfer-ahead", daemon=True)
    try:
        thread.start()
        yield taken()
    finally:
        stop.set()
        workers.shutdown(wait=False, cancel_futures=True)  # what nobody will ask for is not begun
        try:
            thread.join()
        finally:  # Ctrl-C may come again while the reader is waited for
            workers.shutdown()
