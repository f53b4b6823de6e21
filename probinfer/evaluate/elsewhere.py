"""Fits on the workers of an executor: of `concurrent.futures`, or of an engine that offers one, such as Dask's
`distributed.Client(…).get_executor()`. Imports the standard library.

What is asked of a worker, and what it answers, goes through the executor's own serialisation; the model has to be one
that it can send, as a function of a module that the workers can import.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from typing import Any

from probinfer.errors import MethodError


def answers(
    executor: Executor, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """The number and result of each call, as they come. Raises what a call raises; calls that have not begun are then
    given up, as they are when nobody takes more results.

    Raises MethodError for what is no executor.
    """
    if not isinstance(executor, Executor):
        raise MethodError(
            f"executor came as {type(executor).__name__}; wanted one of concurrent.futures, or what Dask's "
            "Client.get_executor() gives."
        )
    running: Mapping[Future[Any], int] = {executor.submit(task, *call): number for number, call in enumerate(calls)}
    try:
        for job in as_completed(running):
            yield running[job], job.result()
    finally:
        for job in running:
            job.cancel()
