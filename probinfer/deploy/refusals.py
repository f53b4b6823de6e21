"""Why a request is not answered, and the one table from exception to HTTP status. Imports the errors only.

Each text says what came, what was wanted, and what to do. No refusal leaves the server as a Python exception.
"""

from collections.abc import Mapping

from probinfer.errors import PredictionError, ProbinferError


class ServerFailed(ProbinferError, RuntimeError):
    """The server could not listen, or its workers could not start. The only one here that leaves as an exception."""


class Refusal(ProbinferError):
    """Base class. `retry_after`: seconds after which trying again makes sense; None where it does not."""

    def __init__(self, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Malformed(Refusal):
    """The body is no JSON, or not of the form that the route takes."""


class Unauthorised(Refusal):
    """No API key came, or another one than the server's."""


class Unknown(Refusal):
    """There is no such model, version or route."""


class TooLarge(Refusal):
    """More bytes, rows or draws than one request may have."""


class Unsupported(Refusal):
    """A content encoding that the server does not read."""


class TooSlow(Refusal):
    """The body did not arrive in time."""


class Busy(Refusal):
    """The queue is full: the request was not begun."""


class NotReady(Refusal):
    """The server is starting or stopping: the request was not begun."""


class Crowded(Refusal):
    """More connections are open than the server takes: the request was not begun."""


class TooLate(Refusal):
    """The deadline passed before the answer was there."""


STATUS: Mapping[type[Exception], int] = {
    Malformed: 400,
    Unauthorised: 401,
    Unknown: 404,
    TooSlow: 408,
    TooLarge: 413,
    Unsupported: 415,
    PredictionError: 422,
    Busy: 429,
    NotReady: 503,
    Crowded: 503,
    TooLate: 504,
}
INTERNAL = 500
HEADERS_TOO_LARGE = 431


def status_of(error: BaseException) -> int:
    """HTTP status of an error; 500 for one that is not in the table.

    >>> status_of(Busy("full")), status_of(PredictionError("x")), status_of(KeyError("x"))
    (429, 422, 500)
    """
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), INTERNAL)
