"""HTTP load on loopback from a process of its own: closed loops and open ones, latencies back. Standard library, NumPy
and uvloop."""

import asyncio
import json
import multiprocessing
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.ending import end_with_parent


def message(path: str, content: Any) -> bytes:
    """A POST of JSON as it goes over the wire."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answered(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"refused: {head!r}")
    length = re.search(rb"content-length: (\d+)", head, re.I)
    assert length is not None, head
    await reader.readexactly(int(length[1]))


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


async def open_loop(messages: Sequence[bytes], port: int, rate: float, seconds: float) -> list[float]:
    """Requests at fixed times; latency counts from the time at which one was due."""
    latencies: list[float] = []
    free: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
    for _ in range(64):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))

    async def one(number: int, due: float) -> None:
        reader, writer = await free.get()
        writer.write(messages[number % len(messages)])
        await answered(reader)
        latencies.append(time.perf_counter() - due)
        free.put_nowait((reader, writer))

    began = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return latencies


def _loaded(queue: Any, kind: str, *arguments: Any) -> None:
    import uvloop

    end_with_parent()
    work = closed_loop if kind == "closed" else open_loop
    queue.put(uvloop.run(work(*arguments)))


def load(kind: str, *arguments: Any) -> np.ndarray:
    """Latencies in seconds of a "closed" or "open" loop with these arguments, made by a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_loaded, args=(queue, kind, *arguments), daemon=True)
    process.start()
    found = queue.get(timeout=300)
    process.join(30)
    return np.array(found)
