"""A server in a thread of the test's process, on a free port of this machine, and what tests ask it."""

import contextlib
import socket
import threading
import time

import httpx

from probinfer.deploy.app import Service
from probinfer.deploy.serve import _server


@contextlib.contextmanager
def running(settings, *, wait=True, verify=True):
    """A client of a server with these settings, and the service itself."""
    service = Service(settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = _server(settings, service)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    scheme = "https" if settings.certificate else "http"
    address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=address, timeout=60, verify=verify) as client:
            if wait:
                until_ready(client)
            yield client, service
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until_ready(client, seconds=400.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/v2/health/ready").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")


def tensor(name, values, datatype="FP64", shape=None):
    return {"name": name, "datatype": datatype, "shape": shape or [len(values)], "data": values}


def metric(client, line):
    """The value of one line of /metrics; 0.0 where it is not there."""
    for text in client.get("/metrics").text.splitlines():
        if text.startswith(f"{line} "):
            return float(text.rpartition(" ")[2])
    return 0.0
