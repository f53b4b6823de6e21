"""`probinfer serve`: predictors behind HTTP, in one process or several, that stop without losing a request.

Imports uvicorn where it is used; `serve` says which extra is missing.
"""

import asyncio
import gc
import importlib.util
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from probinfer.deploy.served import load
from probinfer.deploy.settings import ServeSettings
from probinfer.errors import MissingExtra

_NEEDED = ("starlette", "uvicorn", "httptools", "msgspec")
_SWITCH = 0.0005  # seconds for which one thread may keep Python from another: loop and computing thread alternate
_BACKLOG = 2048
_FRESH = 0.5  # seconds in which a connection made at the last moment may still send its request


class _Stopped(Exception):
    """SIGTERM came."""


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    After SIGTERM the server says that it is not ready, and answers `settings.drain` seconds longer, closing each
    connection with its answer; then it stops listening and finishes what it has begun.

    Raises:
        MissingExtra: without the packages of `probinfer[serve]`.
        ArtifactError: a folder holds no predictor that can be loaded.
        ServerFailed: the address is taken, certificate and key do not serve for TLS, or a worker could not start.
        OSError: the certificate or its key cannot be read.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"Serving needs {', '.join(missing)}: pip install 'probinfer[serve]'.")
    from probinfer.deploy.refusals import ServerFailed

    _check_tls(settings)
    try:
        listener = _listening(settings)
    except (OSError, UnicodeError) as error:  # the latter of a host that cannot be a name
        text = f"The server cannot listen on {settings.host}:{settings.port}: {error}."
        raise ServerFailed(text) from None
    with listener:
        if settings.workers == 1:
            _serve_here(settings, listener)
        else:
            _serve_in_workers(settings, listener)


def _check_tls(settings: ServeSettings) -> None:
    """Raises where certificate and key are not what TLS needs; what OpenSSL says names no file."""
    if settings.certificate is None or settings.key is None:
        return
    import ssl

    from probinfer.deploy.refusals import ServerFailed

    locked = f"{settings.key} is encrypted; wanted a key without a password, which nobody is there to type."

    def password() -> str:
        raise ServerFailed(locked)

    for file in (settings.certificate, settings.key):
        file.open("rb").close()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key, password)
    except ssl.SSLError as error:
        raise ServerFailed(
            f"{settings.certificate} and {settings.key} cannot be used for TLS: {error.reason or error}. Wanted a "
            "certificate, with those between it and its authority, and the key that belongs to it, both in PEM."
        ) from None


def _listening(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError:
        listener.close()
        raise
    return listener


def _serve_in_workers(settings: ServeSettings, listener: socket.socket) -> None:
    from probinfer.deploy.logs import log_to_stderr
    from probinfer.deploy.workers import Supervisor

    log_to_stderr()
    for name, path in settings.models:
        load(name, path)  # what cannot be loaded is found here, and not by each worker
    counts = Path(tempfile.mkdtemp(prefix="probinfer-serve-"))
    try:
        work = partial(_serve_here, replace(settings, counts=counts))
        grace = settings.drain + settings.shutdown_timeout + 10.0
        _tell_address(settings, listener)
        Supervisor(work, listener, settings.workers, grace).run()
    finally:
        shutil.rmtree(counts, ignore_errors=True)


def _serve_here(settings: ServeSettings, listener: socket.socket) -> None:
    """Load the predictors and serve in this process, until SIGTERM."""
    from probinfer.deploy.app import Service
    from probinfer.deploy.logs import log_to_stderr

    def stop(number: int, frame: object) -> None:
        raise _Stopped

    log_to_stderr()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    switch = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        service = Service(settings, compiled=gc.freeze)  # else a full collection takes 70 ms
        if settings.counts is None:
            _tell_address(settings, listener)
        _server(settings, service).run([listener])
    except _Stopped:  # before the server ran, or raised again by uvicorn when it had finished
        pass
    finally:
        sys.setswitchinterval(switch)
        gc.unfreeze()
        if main:
            signal.signal(signal.SIGTERM, before)


def _tell_address(settings: ServeSettings, listener: socket.socket) -> None:
    import logging

    scheme = "https" if settings.certificate is not None else "http"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("probinfer.serve").info("listening", extra={"address": f"{scheme}://{shown}:{port}"})


def _server(settings: ServeSettings, service: Any) -> Any:
    import uvicorn

    from probinfer.deploy.connection import GuardedProtocol

    def _fresh(connection: Any) -> bool:
        return isinstance(connection, GuardedProtocol) and not connection.asked

    paths = {path.encode(): path for path in service.routes}

    class Protocol(GuardedProtocol):
        seconds = settings.body_timeout
        most = settings.connections
        refused = staticmethod(service.unread)
        routes: Mapping[bytes, str] = paths
        at_once = staticmethod(service.at_once)

    class Server(uvicorn.Server):
        """uvicorn's server that lets its clients go before it stops listening."""

        async def shutdown(self, sockets: Any = None) -> None:
            service.draining = True
            await self._pause(settings.drain, lambda: False)
            for server in self.servers:
                server.close()
            await self._pause(_FRESH, lambda: not any(map(_fresh, self.server_state.connections)))
            await super().shutdown(sockets)

        async def _pause(self, seconds: float, enough: Callable[[], bool]) -> None:
            loop = asyncio.get_running_loop()
            until = loop.time() + seconds
            while loop.time() < until and not enough() and not self.force_exit:
                await asyncio.sleep(0.02)

    config = uvicorn.Config(
        service,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    return Server(config)
