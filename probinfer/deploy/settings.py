"""What a server is told: which predictors, where it listens, and how much it takes on. Imports the errors only."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from probinfer.errors import MethodError
from probinfer.predict.plain_files import SUFFIX

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")
_LAST_PORT = 65_535


@dataclass(frozen=True)
class ServeSettings:
    """Settings of `probinfer serve`, checked.

    models            name and folder of each predictor; the first also answers where no name is given
    host, port        address; port 0 takes a free one
    workers           processes; each loads the predictors for itself
    max_batch         most rows in one call; what arrives while a call runs waits for the next one
    max_wait_ms       how long a call waits for more rows to come; 0 takes what is there
    max_queue         most rows waiting; more are refused with 429
    max_body          most bytes of a request's body
    max_rows          most rows of a request; of a forecaster most steps, and most observations
    max_samples       most predictive draws of each row
    timeout           seconds until a request is answered with 504
    body_timeout      seconds until a request's headers, and then its body, must have come
    drain             seconds after SIGTERM in which requests on open connections are still taken
    shutdown_timeout  seconds that requests in work may take after that
    reload            seconds between looks at the folders for a new version; 0 never looks
    connections       most open connections of a process; more are refused with 503
    api_key           what clients must send, as `Authorization: Bearer KEY` or `X-API-Key: KEY`
    certificate, key  PEM files for TLS
    cors_origin       origins whose web pages may ask, such as https://example.org; "*" for all
    log_requests      one line in the log for every request, not only for those refused
    counts            folder where the workers keep their counts, so that each can tell those of all
    """

    models: tuple[tuple[str, Path], ...]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    max_batch: int = 512
    max_wait_ms: float = 0.0
    max_queue: int = 16_384
    max_body: int = 2**20
    max_rows: int = 10_000
    max_samples: int = 1_000
    timeout: float = 30.0
    body_timeout: float = 10.0
    drain: float = 1.0
    shutdown_timeout: float = 30.0
    reload: float = 1.0
    connections: int = 1_000
    api_key: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    cors_origin: tuple[str, ...] = ()
    log_requests: bool = False
    counts: Path | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise MethodError("No predictor to serve; wanted the folder of at least one.")
        names = [name for name, _ in self.models]
        for name in names:
            if not _NAME.fullmatch(name):
                raise MethodError(
                    f"{name!r} cannot be a model's name in an address; wanted letters, digits, '_', '-' and '.'. Give "
                    "one with NAME=PATH."
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise MethodError(f"Two predictors are called {', '.join(twice)}; name one of them with NAME=PATH.")
        for name, least in (
            ("workers", 1), ("max_batch", 1), ("max_queue", 1), ("max_body", 1), ("max_rows", 1), ("max_samples", 1),
            ("connections", 1), ("port", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise MethodError(f"{name} is {getattr(self, name)}; wanted a whole number of at least {least}.")
        if self.port > _LAST_PORT:
            raise MethodError(f"port is {self.port}; wanted one up to {_LAST_PORT}, or 0 for a free one.")
        if not self.host.strip():
            raise MethodError("host is empty; wanted an address such as 127.0.0.1, or 0.0.0.0 for all of the machine.")
        for name in ("max_wait_ms", "drain", "reload"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise MethodError(f"{name} is {getattr(self, name)}; wanted a number of at least 0.")
        for name in ("timeout", "body_timeout", "shutdown_timeout"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise MethodError(f"{name} is {getattr(self, name)}; wanted a number of seconds above 0.")
        for origin in self.cors_origin:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise MethodError(
                    f"cors_origin has {origin!r}; wanted a scheme and a host as a browser sends them, in small letters "
                    "and without a path, such as https://example.org or http://localhost:3000, or '*'."
                )
        if (self.certificate is None) != (self.key is None):
            raise MethodError("TLS needs both a certificate and its key; one of them came alone.")
        if self.api_key is not None and len(self.api_key) < 8:
            raise MethodError("The API key has fewer than 8 characters; choose one that cannot be guessed.")


def named(paths: list[str]) -> tuple[tuple[str, Path], ...]:
    """Names and places from what the command line has: PATH, or NAME=PATH.

    >>> named(["radon", "b=models/radon", "c.zip"])
    (('radon', PosixPath('radon')), ('b', PosixPath('models/radon')), ('c', PosixPath('c.zip')))
    """
    models = []
    for text in paths:
        name, equals, path = text.partition("=")
        # a link such as `current` keeps its name whatever it points to
        own = Path(os.path.abspath(text)).name.removesuffix(SUFFIX)
        models.append((name, Path(path)) if equals else (own, Path(text)))
    return tuple(models)
