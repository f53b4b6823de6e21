"""HTTP load on loopback from a process of its own: closed loops and open ones.

Closed loops are made by wrk where it is installed (Debian's package of that name), since it takes a tenth of the
processor time that one in Python takes from the server next to it; else by uvloop's streams.
"""

import asyncio
import gc
import inspect
import json
import multiprocessing
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.ending import end_with_parent


def message(path: str, content: Any) -> bytes:
    """A POST of JSON as it goes over the wire."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answered(reader: asyncio.StreamReader) -> None:
    await reader.readexactly(_length(await reader.readuntil(b"\r\n\r\n")))


def _length(head: bytes) -> int:
    """Of the body behind an answer's head. Ends the program if it is a refusal."""
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"refused: {head!r}")
    length = re.search(rb"content-length: (\d+)", head, re.I)
    assert length is not None, head
    return int(length[1])


async def closed_loop(messages: Sequence[bytes], port: int, connections: int, seconds: float) -> list[float]:
    """Each connection sends its message again when it has the answer to it."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = messages[number % len(messages)]
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(sent)
            await answered(reader)
            latencies.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*[client(number) for number in range(connections)])
    return latencies


def open_loop(messages: Sequence[bytes], port: int, rate: float, seconds: float) -> list[float]:
    """Requests at fixed times, on any of 64 connections that is free; latency counts from the time at which one was
    due. In plain system calls: with asyncio the load takes as long as the server, and its timers count milliseconds."""
    free = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    busy: dict[socket.socket, tuple[float, bytes]] = {}  # when what they wait for was due, and what has come of it
    latencies: list[float] = []
    total, sent = int(rate * seconds), 0
    began = time.perf_counter()
    while len(latencies) < total:
        passed = time.perf_counter() - began
        while free and sent < total and sent / rate <= passed:
            connection = free.pop()
            connection.sendall(messages[sent % len(messages)])
            busy[connection] = sent / rate, b""
            sent += 1
        wait = max(0.0, sent / rate - passed) if free and sent < total else None
        for connection in select.select([*busy], [], [], wait)[0]:
            due, came = busy[connection]
            came += connection.recv(65536)
            if not came:
                raise SystemExit("a connection was closed")
            if _whole(came):
                latencies.append(time.perf_counter() - began - due)
                del busy[connection]
                free.append(connection)
            else:
                busy[connection] = due, came
    return latencies


def _whole(came: bytes) -> bool:
    """Whether an answer is there. Ends the program if it is a refusal."""
    head, end, body = came.partition(b"\r\n\r\n")
    return bool(end) and len(body) == _length(head)


class Loaded(NamedTuple):
    """What a closed loop saw."""

    rate: float  # answers a second
    tail: float  # seconds, the 99th percentile of latency
    refused: float = 0.0  # share of the requests; not counted as answers


_WRK = """
local messages = {%s}
local turn = 0
function request()
    turn = turn %% #messages + 1
    return messages[turn]
end
function done(summary, latency, requests)
    local errors = summary.errors
    local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    print(string.format("found %%d %%d %%f %%d", summary.requests, summary.duration, latency:percentile(99), bad))
end
"""


def generator() -> str:
    """What makes closed loops here."""
    return "wrk" if shutil.which("wrk") else "Python"


def closed(messages: Sequence[bytes], port: int, connections: int, seconds: float, *, refusals: bool = False) -> Loaded:
    """Each connection sends the next message when it has the answer to the last. Ends the program if one is refused,
    unless `refusals` may be; without wrk in any case."""
    if generator() != "wrk":
        latencies = _apart(closed_loop, messages, port, connections, seconds)
        return Loaded(len(latencies) / seconds, float(np.quantile(latencies, 0.99)))
    texts = ('"' + "".join(f"\\{byte:03d}" for byte in message) + '"' for message in messages)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK % ",\n".join(texts))
        script.flush()
        # whole seconds alone are understood
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script.name]
        address = f"http://127.0.0.1:{port}/"
        with warnings.catch_warnings():
            # of a fork beside JAX's threads: what follows it is one call
            warnings.simplefilter("ignore", RuntimeWarning)
            said = subprocess.run([*command, address], capture_output=True, text=True, preexec_fn=end_with_parent)
    found = re.search(r"^found (\d+) (\d+) (\S+) (\d+)$", said.stdout, re.M)
    if found is None or said.returncode or (int(found[4]) and not refusals):
        raise SystemExit(f"wrk: {said.stdout}{said.stderr}")
    asked, bad = int(found[1]), int(found[4])
    return Loaded((asked - bad) / (int(found[2]) * 1e-6), float(found[3]) * 1e-6, bad / max(asked, 1))


def opened(messages: Sequence[bytes], port: int, rate: float, seconds: float) -> np.ndarray:
    """Latencies in seconds of requests that are sent at fixed times."""
    return _apart(open_loop, messages, port, rate, seconds)


def _apart(loop: Any, *arguments: Any) -> np.ndarray:
    """Latencies in seconds, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_run, args=(queue, loop, *arguments), daemon=True)
    process.start()
    found = queue.get(timeout=300)
    process.join(30)
    return np.array(found)


def _run(queue: Any, loop: Any, *arguments: Any) -> None:
    import uvloop

    end_with_parent()
    gc.collect()
    gc.freeze()  # a full collection of what was imported takes 70 ms, in which nothing is sent or read
    queue.put(uvloop.run(loop(*arguments)) if inspect.iscoroutinefunction(loop) else loop(*arguments))
