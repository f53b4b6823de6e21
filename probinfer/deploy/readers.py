"""How a model is asked, by what it is: in rows, or in times to come. Imports msgspec."""

from collections.abc import Callable
from typing import Any, NamedTuple

from probinfer.deploy import forecast_requests, open_inference, records
from probinfer.deploy.forecasts import ServedForecaster


class Reader(NamedTuple):
    """What reads bodies of requests, `(served, body, limits)`, and makes examples of them.

    predict, infer  to what is asked
    feedback        to what came
    example, tensors  of a request `(served, most_rows)` that is answered, and in tensors `(served, most_rows, outputs)`
    """

    predict: Callable[..., Any]
    infer: Callable[..., Any]
    feedback: Callable[..., Any]
    example: Callable[..., dict[str, Any]]
    tensors: Callable[..., dict[str, Any]]


_ROWS = Reader(
    records.read_predict,
    open_inference.read_infer,
    records.read_feedback,
    lambda served, most_rows: records.example_records(served),
    lambda served, most_rows, outputs: open_inference.example_request(served, outputs),
)
_TIMES = Reader(
    forecast_requests.read_predict,
    forecast_requests.read_infer,
    forecast_requests.read_feedback,
    forecast_requests.example_body,
    forecast_requests.example_infer,
)


def reader_of(served: Any) -> Reader:
    """That of a version of a model."""
    return _TIMES if isinstance(served, ServedForecaster) else _ROWS
