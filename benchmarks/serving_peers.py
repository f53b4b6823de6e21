"""`probinfer serve` next to MLServer, BentoML, LitServe and MLflow's server: the same one-row request, the same model.

    sh benchmarks/peers/install.sh mlserver bentoml litserve mlflow
    python -m benchmarks.serve --peers [FAMILY ...] [--seconds 4] [--repeat 3] [--dry]

Every server answers with the artifact that `probinfer serve` is given, by `predictor.predict` at level 0.9 in its
handler (benchmarks/peers/serve_*.py; MLflow by what `probinfer.mlflow.save_model` saves), and with the same six
columns, which are compared with the predictor's own before anything is measured. All have uvloop, httptools and no
access log. One process computes; LitServe has one more for HTTP, and BentoML one that watches. Those that batch are
measured with their batching and without. All are started first; while one is loaded the others are stopped (SIGSTOP).
A server that is not installed is left out; with families named, only theirs are measured and nothing is written.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import probinfer as pi
from benchmarks.ending import end_with_parent
from benchmarks.http_load import closed, generator, message
from benchmarks.results import circumstances
from benchmarks.serve import free_port

TITLE = "Serving next to MLServer, BentoML, LitServe and MLflow"
ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
CONNECTIONS = 16
COLUMNS = ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse")
GOALS = {"MLServer": 5.0, "BentoML": 5.0, "MLflow": 5.0, "LitServe": 3.0}
BARE_GOAL = 1.25
BARE, OURS = "bare ASGI application", "probinfer serve"


@dataclasses.dataclass(frozen=True)
class Server:
    """How one server is started and asked.

    family       whose it is
    way          how it answers, as the table says it
    environment  folder under benchmarks/peers/.envs; None is ours
    command      from a folder of its own, the artifact and a port
    path         of the request
    content      the request's JSON for one row
    numbers      the columns in the answer's JSON, by name
    """

    family: str
    way: str
    environment: str | None
    command: Callable[[Path, Path, int], list[str]]
    path: str
    content: Callable[[list[float]], Any]
    numbers: Callable[[Any], dict[str, float]]

    @property
    def name(self) -> str:
        return f"{self.family}, {self.way}" if self.way else self.family

    @property
    def installed(self) -> bool:
        return self.environment is None or (PEERS / ".envs" / self.environment / "bin" / "python").exists()


def _ours(program: list[str]) -> Callable[[Path, Path, int], list[str]]:
    return lambda folder, artifact, port: [
        part.format(artifact=artifact, port=port) for part in [sys.executable, "-m", *program]
    ]


def _mlserver(batched: bool) -> Callable[[Path, Path, int], list[str]]:
    def command(folder: Path, artifact: Path, port: int) -> list[str]:
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": 0,
            "debug": False,
            "use_structured_logging": False,
        }
        model: dict[str, Any] = {"name": "m", "implementation": "serve_mlserver.Served"}
        if batched:
            model |= {"max_batch_size": 64, "max_batch_time": 0.001}
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        return ["mlserver", "start", str(folder)]

    return command


def _bentoml(service: str) -> Callable[[Path, Path, int], list[str]]:
    return lambda folder, artifact, port: [
        *("bentoml", "serve", f"serve_bentoml:{service}", "--working-dir", str(PEERS)),
        *("--host", "127.0.0.1", "--port", str(port), "--quiet"),
    ]


def _litserve(way: str) -> Callable[[Path, Path, int], list[str]]:
    return lambda folder, artifact, port: ["python", str(PEERS / "serve_litserve.py"), str(port), way]


def _mlflow(folder: Path, artifact: Path, port: int) -> list[str]:
    import probinfer.mlflow

    predictor = pi.load_predictor(artifact)
    probinfer.mlflow.save_model(predictor, folder / "model")
    command = ["mlflow", "models", "serve", "--model-uri", str(folder / "model"), "--env-manager", "local"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def _tensor(row: list[float]) -> Any:
    return {"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 3], "data": row}]}


def _frame(row: list[float]) -> Any:
    return {"dataframe_split": {"columns": ["X[0]", "X[1]", "X[2]"], "data": [row]}}


def _record(row: list[float]) -> Any:
    return {"records": [{"X": row}], "level": 0.9}


def _plain(answer: Any) -> dict[str, float]:
    return {name: answer[name] for name in COLUMNS}


def _prediction(answer: Any) -> dict[str, float]:
    return _plain(answer["predictions"][0])


def _lists(answer: Any) -> dict[str, float]:
    return {name: answer[name][0] for name in COLUMNS}


def _tensors(answer: Any) -> dict[str, float]:
    return {output["name"]: output["data"][0] for output in answer["outputs"]}


def _array(answer: Any) -> dict[str, float]:
    return dict(zip(COLUMNS, answer[0], strict=True))


SERVERS = [
    Server(
        BARE, "", None, _ours(["benchmarks.serve", "--bare", "{artifact}", "--port", "{port}"]),
        "/predict", _record, _prediction,
    ),
    Server(
        OURS, "", None, _ours(["probinfer", "serve", "m={artifact}", "--port", "{port}", "--reload", "0"]),
        "/predict", _record, _prediction,
    ),
    Server("MLServer", "one by one", "mlserver", _mlserver(False), "/v2/models/m/infer", _tensor, _tensors),
    Server("MLServer", "batching", "mlserver", _mlserver(True), "/v2/models/m/infer", _tensor, _tensors),
    Server("BentoML", "one by one", "bentoml", _bentoml("Single"), "/predict", lambda row: {"X": [row]}, _lists),
    Server("BentoML", "batching", "bentoml", _bentoml("Batched"), "/predict", lambda row: {"X": [row]}, _array),
    Server("LitServe", "one by one", "litserve", _litserve("single"), "/predict", lambda row: {"X": row}, _plain),
    Server("LitServe", "batching", "litserve", _litserve("batched"), "/predict", lambda row: {"X": row}, _plain),
    Server("MLflow", "one by one", "mlflow", _mlflow, "/invocations", _frame, _prediction),
]  # fmt: skip


class Running:
    """A server in a session of its own, stopped unless it is `awake`."""

    def __init__(self, server: Server, artifact: Path, folder: Path) -> None:
        self.server, self.port = server, free_port()
        folder.mkdir()
        command = server.command(folder, artifact, self.port)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{PEERS}", "PROBINFER_MODEL": str(artifact)}
        environment |= {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
        if server.environment is not None:
            programs = PEERS / ".envs" / server.environment / "bin"
            environment["PATH"] = f"{programs}:{environment['PATH']}"
            command[0] = str(programs / command[0])
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=folder, preexec_fn=end_with_parent
            )
        self.log = folder / "log"

    def ask(self, row: list[float]) -> dict[str, float]:
        body = json.dumps(self.server.content(row)).encode()
        address = f"http://127.0.0.1:{self.port}{self.server.path}"
        asked = urllib.request.Request(address, body, {"content-type": "application/json"})
        return self.server.numbers(json.loads(urllib.request.urlopen(asked, timeout=60).read()))

    def ready(self, predictor: Any) -> None:
        """Wait for it, and see that it says what the predictor says."""
        row, until = [0.3, -0.2, 1.1], time.monotonic() + 180
        while True:
            try:
                found = self.ask(row)
                break
            except (OSError, urllib.error.URLError) as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    told = self.log.read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"{self.server.name} did not start: {error}\n{told}") from None
                time.sleep(0.1)
        expected = predictor.predict({"X": np.array([row])})
        for name in COLUMNS:
            np.testing.assert_allclose(found[name], getattr(expected, name)[0], rtol=1e-6, err_msg=self.server.name)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it and what it started: first asked, then not."""
        family = family_of(self.process.pid)
        for sign, patience in ((signal.SIGCONT, 0.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
            for pid in family if sign is signal.SIGKILL else family[:1] if sign is signal.SIGTERM else family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)

    def _signal(self, sign: signal.Signals) -> None:
        for pid in family_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)


def family_of(pid: int) -> list[int]:
    """A process, and all that it and its children started, by their ids."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
    return found


def measure(
    artifact: Path, servers: list[Server], seconds: float, repeat: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[float]]]:
    """Answers a second, 99th percentiles of the latency, and the share refused, by server, one for each turn."""
    predictor = pi.load_predictor(artifact)
    rng = np.random.default_rng(0)
    asked = rng.normal(size=(100, 3)).round(2).tolist()
    rates: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    refused: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running = []
        for number, server in enumerate(servers):
            began = time.perf_counter()
            one = Running(server, artifact, Path(folder) / str(number))
            stack.callback(one.end)
            one.ready(predictor)
            with one.awake():
                closed([message(server.path, server.content(row)) for row in asked], one.port, 4, 1.0)
            running.append(one)
            print(f"{server.name} is ready after {time.perf_counter() - began:.1f} s", flush=True)
        for turn in range(repeat):
            for one in running[turn % len(running) :] + running[: turn % len(running)]:
                server = one.server
                messages = [message(server.path, server.content(row)) for row in asked]
                with one.awake():
                    closed(messages, one.port, CONNECTIONS, min(0.5, seconds), refusals=True)
                    found = closed(messages, one.port, CONNECTIONS, seconds, refusals=server.family not in (BARE, OURS))
                rates.setdefault(server.name, []).append(found.rate)
                refused.setdefault(server.name, []).append(found.refused)
                tails.setdefault(server.name, []).append(1000 * found.tail)
                print(f"{server.name}: {found.rate:.0f} requests/s, {found.refused:.0%} refused", flush=True)
    return rates, tails, refused


def told(
    rates: dict[str, list[float]], tails: dict[str, list[float]], refused: dict[str, list[float]]
) -> tuple[str, str]:
    """The table, and the goals."""
    ours = rates[OURS]

    def times(name: str) -> float:
        return float(np.median([a / b for a, b in zip(ours, rates[name], strict=True)]))

    rows = [f"| server | requests/s, {CONNECTIONS} connections | p99 ms | {OURS} answers |", "|---|---|---|---|"]
    for name, values in rates.items():
        more = "" if name == OURS else f"{times(name):.1f} times as many"
        if share := np.median(refused[name]):
            more += f"; it refused {share:.0%}, which are not counted"
        rows.append(f"| {name} | {np.median(values):.0f} | {np.median(tails[name]):.1f} | {more} |")
    goals = []
    for family, goal in GOALS.items():
        names = [server.name for server in SERVERS if server.family == family and server.name in rates]
        if not names:
            goals.append(f"- {family}: not installed, not measured")
            continue
        best = max(names, key=lambda name: np.median(rates[name]))
        verdict = "met" if times(best) >= goal else "missed"
        goals.append(f"- {best}, its faster way: {times(best):.1f} times as many requests, goal {goal:g}: {verdict}")
    cost = 1 / times(BARE)
    verdict = "met" if cost <= BARE_GOAL else "missed"
    goals.append(f"- cost of a request next to the {BARE}: {cost:.2f} times, goal at most {BARE_GOAL:g}: {verdict}")
    return "\n".join(rows), "\n".join(goals)


def compare(artifact: Path, families: Sequence[str], seconds: float, repeat: int) -> str:
    """Body of the section."""
    wanted = {BARE, OURS, *(families or GOALS)}
    servers = [server for server in SERVERS if server.installed and server.family in wanted]
    table, goals = told(*measure(artifact, servers, seconds, repeat))
    command = f"`python -m benchmarks.serve --peers --seconds {seconds:g} --repeat {repeat}`, load by {generator()}"
    words = " ".join(__doc__.split("\n\n")[2].split())
    return "\n\n".join([command, circumstances("probinfer", "jax", "uvicorn"), _versions(), words, table, goals])


def _versions() -> str:
    found = []
    for name in dict.fromkeys(server.environment for server in SERVERS if server.environment and server.installed):
        python = PEERS / ".envs" / name / "bin" / "python"
        code = "import platform, sys, importlib.metadata as m; print(m.version(sys.argv[1]), platform.python_version())"
        said = subprocess.run([python, "-c", code, name], capture_output=True, text=True, check=True).stdout.strip()
        version, python_version = said.split()
        found.append(f"{name} {version} on Python {python_version}")
    return "Peers: " + ", ".join(found) + "."
