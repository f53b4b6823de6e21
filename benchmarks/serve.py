"""`probinfer serve` over loopback: requests a second, latency, batching on and off, next to a bare ASGI application.

    python -m benchmarks.serve [--seconds 4] [--repeat 3] [--peers] [--dry]

One model: a linear regression with 3 inputs and 4,000 posterior draws; a request asks for one row. The load comes
from a process of its own, wrk for closed loops where it is installed, so on two cores it takes a share of them; it is
the same for all. The bare application is uvicorn (httptools, uvloop) and msgspec around `predictor.predict` in the
event loop, without batching, metrics, limits or checks of the protocol, and JAX as it comes. Closed loop: each
connection sends its next request when it has the answer to the last. Open loop: requests are sent at fixed times, at
half of what probinfer's closed loop of 64 connections reached, and latency counts from the time at which a request
was due. The bare application is sent them at the same rate, right after: what it needs over its own call is what the
machine and the load itself cost. Servers run one at a time, in turns; medians of the repeats.
Cold start: from the start of the process to `/v2/health/ready`, with compiled programs in the cache. Writes a section
of RESULTS.md unless --dry. With --peers it compares with other servers of models instead; see serving_peers.py.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist

import probinfer as pi
from benchmarks.ending import end_in_order, end_with_parent
from benchmarks.http_load import closed, generator, message, opened
from benchmarks.results import circumstances, write_section

TITLE = "Serving next to a bare ASGI application"
BARE = "bare ASGI application"
ON, OFF = "probinfer serve", "probinfer serve --max-batch 1"

IMPORTS = "import jax, jax.export, jax.scipy.special, msgspec, starlette.applications, uvicorn"


def model(X: Any, y: Any = None) -> None:
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def save(path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    data = {"X": X, "y": X @ np.array([1.0, -0.5, 0.2]) + rng.normal(size=200)}
    pi.Predictor(pi.infer(model, data, pi.NUTS(chains=4, draws=1000), progress=False)).save(path)


# servers -------------------------------------------------------------------------------------------------------------


def bare(path: str, port: int) -> None:
    """Serve `POST /predict` with as little as can be around the same call."""
    import msgspec
    import uvicorn

    predictor = pi.load_predictor(path)
    decode, encode = msgspec.json.Decoder(dict).decode, msgspec.json.Encoder().encode
    predictor.predict({"X": np.zeros((1, 3))})

    spent = [0.0, 0]  # seconds in calls, and their number

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        if scope["method"] == "GET":
            told = f"probinfer_batch_seconds_sum{{}} {spent[0]}\nprobinfer_batch_seconds_count{{}} {spent[1]}\n"
            body = told.encode() if scope["path"] == "/metrics" else b"{}"
        else:
            asked = decode(message["body"])
            began = time.perf_counter()
            answer = predictor.predict({"X": np.array([asked["records"][0]["X"]])}, level=asked["level"])
            spent[0] += time.perf_counter() - began
            spent[1] += 1
            names = ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse")
            row = {name: float(getattr(answer, name)[0]) for name in names}
            body = encode({"level": asked["level"], "predictions": [row]})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(app, port=port, log_level="error", access_log=False, lifespan="off")


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def serving(name: str, path: Path) -> Iterator[tuple[int, float]]:
    """The port of a server, and the seconds it took to be ready."""
    port = free_port()
    more = {ON: ["--reload", "0"], OFF: ["--reload", "0", "--max-batch", "1"]}
    command = (
        [sys.executable, "-m", "benchmarks.serve", "--bare", str(path), "--port", str(port)]
        if name == BARE
        else [sys.executable, "-m", "probinfer", "serve", f"m={path}", "--port", str(port), *more[name]]
    )
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=end_with_parent)
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).read()
                break
            if process.poll() is not None or time.perf_counter() - began > 300:
                raise SystemExit(f"{name} did not start")
            time.sleep(0.01)
        yield port, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


# load ----------------------------------------------------------------------------------------------------------------


MESSAGES = [
    message("/predict", {"records": [{"X": [0.1, 0.2, n % 100 / 100]}], "level": 0.8 + n % 3 / 20}) for n in range(300)
]


def batch_seconds(port: int) -> float:
    """Mean duration of a call so far."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    parts = [
        float(re.search(rf"^probinfer_batch_seconds_{part}{{[^}}]*}} (\S+)$", text, re.M)[1])  # type: ignore[index]
        for part in ("sum", "count")
    ]
    return parts[0] / parts[1]


def tail_over_calls(port: int, rate: float, seconds: float) -> float:
    """The 99th percentile of latency at a fixed rate, less the mean duration of a call."""
    return float(np.quantile(opened(MESSAGES, port, rate, seconds), 0.99)) - batch_seconds(port)


# measuring -----------------------------------------------------------------------------------------------------------


def measure(path: Path, seconds: float, repeat: int) -> dict[str, Any]:
    rates: dict[tuple[str, int], list[float]] = {}
    p99: dict[tuple[str, int], list[float]] = {}
    over: dict[str, list[float]] = {ON: [], BARE: []}
    starts = []
    for name in (BARE, ON):
        with serving(name, path):
            pass  # compiled programs are in the cache from here on
    for _ in range(repeat):
        for name in (BARE, ON, OFF):
            with serving(name, path) as (port, started):
                closed(MESSAGES, port, 4, min(1.0, seconds))
                for connections in (1, 16, 64):
                    found = closed(MESSAGES, port, connections, seconds)
                    rates.setdefault((name, connections), []).append(found.rate)
                    p99.setdefault((name, connections), []).append(found.tail)
                    print(f"{name}, {connections} connections: {found.rate:.0f} requests/s", flush=True)
                if name == ON:
                    starts.append(started)
                    half = rates[name, 64][-1] / 2
                    over[name].append(tail_over_calls(port, half, seconds))
            if name == ON:
                with serving(BARE, path) as (port, _):
                    closed(MESSAGES, port, 4, min(1.0, seconds))
                    over[BARE].append(tail_over_calls(port, half, seconds))
    imports = []
    for _ in range(repeat):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        imports.append(time.perf_counter() - began)
    return {"rates": rates, "p99": p99, "starts": starts, "over": over, "imports": imports}


def judged(goal: str, met: bool) -> str:
    return f"{goal}: {'met' if met else '**missed**'}"


def told(found: dict[str, Any], seconds: float, repeat: int) -> str:
    rates = {key: float(np.median(values)) for key, values in found["rates"].items()}
    tails = {key: 1000 * float(np.median(values)) for key, values in found["p99"].items()}
    rows = ["| server | connections | requests/s | p99 ms |", "|---|---|---|---|"]
    for (name, connections), rate in rates.items():
        rows.append(f"| {name} | {connections} | {rate:.0f} | {tails[name, connections]:.1f} |")

    def ratio(one: tuple[str, int], other: tuple[str, int]) -> float:
        pairs = zip(found["rates"][one], found["rates"][other], strict=True)
        return float(np.median([a / b for a, b in pairs]))

    start, imported = float(np.median(found["starts"])), float(np.median(found["imports"]))
    tail, machine = (1000 * float(np.median(found["over"][name])) for name in (ON, BARE))
    cost, gain = ratio((BARE, 16), (ON, 16)), ratio((ON, 64), (OFF, 64))
    half = f"{rates[ON, 64] / 2:.0f} requests/s (half of probinfer's 64 connections)"
    facts = [
        "| what | measured | goal |",
        "|---|---|---|",
        f"| cost of a request: rate of the bare application / rate of `{ON}`, 16 connections | {cost:.2f} times | "
        f"{judged('<= 1.25', cost <= 1.25)} |",
        f"| the same, 1 connection | {ratio((BARE, 1), (ON, 1)):.2f} times | |",
        f"| batching: rate of `{ON}` / rate of `{OFF}`, 64 connections each | {gain:.2f} times | "
        f"{judged('>= 2.5', gain >= 2.5)} |",
        f"| p99 at {half}, less the mean duration of a call | {tail:.1f} ms | {judged('<= 5 ms', tail <= 5)} |",
        f"| the bare application's p99 at the same rate, {rates[ON, 64] / 2 / rates[BARE, 64]:.0%} of its own 64 "
        f"connections, less the mean duration of its call | {machine:.1f} ms | what machine and load cost |",
        f"| cold start to ready, warm cache: {start:.1f} s / importing jax, uvicorn, starlette and msgspec, "
        f"{imported:.1f} s | {start / imported:.2f} times | {judged('<= 1.5', start <= 1.5 * imported)} |",
    ]
    command = f"`python -m benchmarks.serve --seconds {seconds:g} --repeat {repeat}`, closed loops by {generator()}"
    return "\n\n".join(
        [command, circumstances("probinfer", "jax", "uvicorn", "starlette"), "\n".join(rows), "\n".join(facts)]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", nargs="*", metavar="FAMILY", help="next to MLServer, BentoML, LitServe and MLflow")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.bare:
        bare(options.bare, options.port)
        return
    end_in_order()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("PROBINFER_CACHE", folder)
        path = Path(folder) / "line"
        save(path)
        if options.peers is not None:
            from benchmarks import serving_peers

            title = serving_peers.TITLE
            body = serving_peers.compare(path, options.peers, options.seconds, options.repeat)
        else:
            title, body = TITLE, told(measure(path, options.seconds, options.repeat), options.seconds, options.repeat)
    print(body)
    if not options.dry and not options.peers:
        write_section(title, body)


if __name__ == "__main__":
    main()
