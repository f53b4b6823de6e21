"""Work ahead: an iterator run in a thread, so that reading, predicting and writing overlap. Knows no tables."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

_LOOK = 0.1  # seconds after which a thread that waits looks whether it is still wanted


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


@contextlib.contextmanager
def ahead[T](items: Iterator[T], depth: int = 2) -> Generator[Iterator[T]]:
    """The same items in the same order, made in a thread up to `depth` before they are asked for.

    An error in `items` is raised where its item would have come. On leaving, the thread is told to stop, and `items` is
    closed in it.

    >>> with ahead(iter(range(3))) as numbers:
    ...     list(numbers)
    [0, 1, 2]
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=_LOOK)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    break
            else:
                put(_END)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            put(_Failure(error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def taken() -> Iterator[T]:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item

    thread = threading.Thread(target=work, name="probinfer-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()
