"""`probinfer serve` for a long time under everything at once: nothing wrong, nothing lost, nothing leaked.

    python -m benchmarks.soak [--requests 1000000] [--reloads N] [--kills N] [--dry]

Two workers, 64 clients on connections of their own, which they renew after 500 requests. One request in seven is
malformed, in one of five ways, and must be refused with 400 or 422. All others ask for one to three rows at one of four
levels; every number of every answer is compared with what the predictor of the version that it names says. Evenly over
the run, new versions with other predictions replace the artifact, and the younger worker is killed (SIGKILL), so that
the older one lives from beginning to end. A request whose connection breaks, or that is told to come again (503 with
Retry-After, from a worker that starts), is sent again; lost is one that is not answered within 20 attempts. The load
goes on until the last of all this has happened and the last version has answered, for twice the requests at most: a
worker that is killed again and again is started after a pause, which a quick server does not wait for. Resident memory
of the supervising process and of the older worker: after the first 1%, after 10% and a first reload, and at the end.
Exits with status 1 if anything is wrong or lost, or memory grows by more than 5% after 10%. Writes a section of
RESULTS.md unless --dry.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpyro
import numpyro.distributions as dist

import probinfer as pi
from benchmarks.ending import end_in_order, end_with_parent
from benchmarks.http_load import message
from benchmarks.results import circumstances, write_section
from benchmarks.serve import free_port
from probinfer.deploy.served import version_of

TITLE = "A soak of the server"
CLIENTS, WORKERS, RENEW, ATTEMPTS, MALFORMED_EVERY = 64, 2, 500, 20, 7
LEVELS, POOL = (0.5, 0.8, 0.9, 0.95), 128
COLUMNS = ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse")
BROKEN = ("{", '{"records": []}', '{"records": [{"X": NaN}]}', '{"records": [{"X": ["a", 1, 2]}]}', "[" * 5_000)
FLAT = 1.05


def model(X: Any, y: Any = None) -> None:
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


class Versions:
    """Saved predictors that differ, and what each says of every row of a pool."""

    def __init__(self, folder: Path, count: int) -> None:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(200, 3))
        self.pool = rng.normal(size=(POOL, 3)).round(3)
        self.paths, self.names, self.expected = [], [], {}
        for number in range(count):
            data = {"X": X, "y": X @ np.array([1.0, -0.5, 0.2]) * (1 + number / 10) + rng.normal(size=200)}
            predictor = pi.Predictor(pi.infer(model, data, pi.Exact(draws=1000), seed=number, progress=False))
            path = folder / f"version{number}"
            predictor.save(path)
            self.paths.append(path)
            self.names.append(version_of(path))
            for level in LEVELS:
                found = predictor.predict({"X": self.pool}, level=level)
                table = np.stack([getattr(found, name) for name in COLUMNS], axis=1)
                self.expected[self.names[-1], level] = table.tolist()

    def install(self, number: int, path: Path) -> None:
        """Put a version in the served place: two renames, as `save` does."""
        new, old = path.with_name("new"), path.with_name("old")
        shutil.copytree(self.paths[number], new)
        if path.exists():
            path.rename(old)
        new.rename(path)
        shutil.rmtree(old, ignore_errors=True)


class Server:
    """`probinfer serve` with workers, and the processes that it is."""

    def __init__(self, path: Path, log: Path) -> None:
        self.port, self.oldest = free_port(), 0
        command = [sys.executable, "-m", "probinfer", "serve", f"m={path}", "--port", str(self.port)]
        with open(log, "wb") as told:
            self.process = subprocess.Popen(
                [*command, "--workers", str(WORKERS), "--reload", "0.5"],
                stderr=told,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def workers(self) -> list[int]:
        """Process ids, the oldest first."""
        pid = self.process.pid
        found = []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{child}/cmdline").read_bytes()
                if b"spawn_main" in words:
                    began = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19])
                    found.append((began, int(child)))
        return [child for _, child in sorted(found)]

    def memory(self) -> tuple[float, float]:
        """MB of the supervising process and of the oldest worker, which nobody kills."""
        oldest = self.workers()[0]
        self.oldest = self.oldest or oldest
        if oldest != self.oldest:
            raise SystemExit("the worker that was to live throughout has died")
        return resident(self.process.pid), resident(oldest)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def resident(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


class Soak:
    """The clients and what they saw."""

    def __init__(self, server: Server, versions: Versions, path: Path, requests: int, reloads: int, kills: int) -> None:
        self.server, self.versions, self.path = server, versions, path
        self.requests, self.reloads, self.kills = requests, reloads, kills
        self.begun = self.done = 0
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.by_version: Counter[str] = Counter()
        self.memory: list[tuple[float, float]] = []
        self.over = asyncio.Event()
        self.settled = False  # all that was to happen beside the requests has

    async def run(self) -> float:
        await self._until_ready()
        began = time.perf_counter()
        control = asyncio.create_task(self._control())
        await asyncio.gather(*[self._client() for _ in range(CLIENTS)])
        seconds = time.perf_counter() - began
        self.over.set()
        await control
        self.memory.append(self.server.memory())
        return seconds

    async def _until_ready(self) -> None:
        until = time.monotonic() + 120
        asked = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ready = 0
        while ready < 10 * WORKERS:  # whichever of the workers answers
            if time.monotonic() > until or self.server.process.poll() is not None:
                raise SystemExit("the server did not start")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                writer.write(asked)
                ready = ready + 1 if b" 200 " in (await reader.read())[:20] else 0
                writer.close()
            await asyncio.sleep(0.05)

    async def _client(self) -> None:
        connection, used = None, 0
        while self.begun < (self.requests if self.settled else 2 * self.requests):
            number = self.begun
            self.begun += 1
            if number % MALFORMED_EVERY == 3:
                question, sent = None, raw(BROKEN[number // MALFORMED_EVERY % len(BROKEN)])
            else:
                rows, level = [(number + 37 * i) % POOL for i in range(1 + number % 3)], LEVELS[number // 5 % 4]
                records = [{"X": self.versions.pool[row].tolist()} for row in rows]
                question, sent = (rows, level), message("/predict", {"records": records, "level": level})
            for _ in range(ATTEMPTS):
                try:
                    async with asyncio.timeout(30):
                        if connection is None:
                            connection, used = await asyncio.open_connection("127.0.0.1", self.server.port), 0
                        connection[1].write(sent)
                        status, closes, body = await answer(connection[0])
                except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                    self.seen[f"broken: {type(error).__name__}"] += 1
                    connection = dropped(connection)
                    continue
                used += 1
                if closes or used >= RENEW:
                    connection = dropped(connection)
                if status == 503:
                    self.seen["told to come again"] += 1
                    connection = dropped(connection)
                    await asyncio.sleep(0.2)
                    continue
                self._judge(question, status, body)
                break
            else:
                self.seen["lost"] += 1
            self.done += 1
        dropped(connection)

    def _judge(self, question: tuple[list[int], float] | None, status: int, body: bytes) -> None:
        if question is None:
            self.seen["malformed"] += 1
            if status not in (400, 422) or b'"error"' not in body:
                self.wrong.append(f"malformed was answered with {status}: {body[:200]!r}")
            return
        rows, level = question
        if status != 200:
            self.wrong.append(f"{status}: {body[:200]!r}")
            return
        found = msgspec.json.decode(body)
        expected = self.versions.expected.get((found["version"], level))
        if expected is None or found["level"] != level or len(found["predictions"]) != len(rows):
            self.wrong.append(f"{found}"[:300])
            return
        for row, prediction in zip(rows, found["predictions"], strict=True):
            for name, wanted in zip(COLUMNS, expected[row], strict=True):
                if abs(prediction[name] - wanted) > 1e-9 * (1 + abs(wanted)):
                    self.wrong.append(f"{name} of row {row} at {level}: {prediction[name]}, wanted {wanted}")
                    return
        self.seen["right"] += 1
        self.by_version[found["version"]] += 1

    async def _control(self) -> None:
        """Reloads, kills and looks at the memory, as the requests go on."""
        due: list[tuple[float, int, Any]] = [(0.01, 0, self._look), (0.1, 0, self._look_after_a_reload)]
        due += [(0.05 + 0.9 * n / self.reloads, 1, n + 1) for n in range(self.reloads)]
        due += [((n + 0.5) / self.kills, 2, self._kill) for n in range(self.kills)]
        for share, kind, what in sorted(due, key=lambda each: each[:2]):
            while self.done < share * self.requests and not self.over.is_set():
                await asyncio.sleep(0.02)
            if kind == 1:
                while not self.by_version[self.versions.names[what - 1]] and not self.over.is_set():
                    await asyncio.sleep(0.02)  # the version before is not even loaded
                await asyncio.to_thread(self.versions.install, what, self.path)
                self.seen["reloads"] += 1
                print(f"{self.done} requests: version {what}", flush=True)
            else:
                await what()
        while self.reloads and not self.by_version[self.versions.names[-1]] and not self.over.is_set():
            await asyncio.sleep(0.02)
        self.settled = True

    async def _look(self) -> None:
        self.memory.append(self.server.memory())

    async def _look_after_a_reload(self) -> None:
        """Two versions side by side take their place once, and then again and again the same."""
        while not self.by_version[self.versions.names[1]] and not self.over.is_set():
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)
        await self._look()

    async def _kill(self) -> None:
        while len(self.server.workers()) < WORKERS and not self.over.is_set():
            await asyncio.sleep(0.1)  # that of the last kill is not back: one that keeps dying is started after a pause
        if self.over.is_set():
            return
        os.kill(self.server.workers()[-1], signal.SIGKILL)
        self.seen["kills"] += 1
        print(f"{self.done} requests: killed a worker; memory {self.server.memory()}", flush=True)


def raw(body: str) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def dropped(connection: Any) -> None:
    if connection is not None:
        connection[1].close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Status, whether the server closes, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head[9:12]), b"connection: close" in head, await reader.readexactly(length)


def told(soak: Soak, seconds: float) -> tuple[str, list[str]]:
    """The body of the section, and what is not as it must be."""
    seen, last = soak.seen, soak.versions.names[-1]
    broken = sum(count for name, count in seen.items() if name.startswith("broken"))
    growth = [end / early for early, end in zip(soak.memory[1], soak.memory[2], strict=True)]
    trouble = [*soak.wrong[:5]]
    if seen["lost"]:
        trouble.append(f"{seen['lost']} requests lost")
    if seen["right"] + seen["malformed"] + seen["lost"] + len(soak.wrong) < soak.begun:
        trouble.append("requests without a verdict")
    if broken > CLIENTS * seen["kills"]:
        trouble.append(f"{broken} connections broke, more than {CLIENTS} for each kill")
    if seen["kills"] < soak.kills or seen["reloads"] < soak.reloads:
        trouble.append(f"{seen['kills']} kills and {seen['reloads']} reloads only")
    if soak.reloads and not soak.by_version[last]:
        trouble.append("the last version never answered")
    trouble += [
        f"memory of the {who} grew to {share:.2f} times that at 10%"
        for who, share in zip(("supervising process", "worker"), growth, strict=True)
        if share > FLAT
    ]
    rows = ["| resident memory, MB | after 1% | after 10% | end | end / 10% |", "|---|---|---|---|---|"]
    for place, who in enumerate(("supervising process", "worker that lived throughout")):
        sizes = " | ".join(f"{each[place]:.0f}" for each in soak.memory)
        rows.append(f"| {who} | {sizes} | {growth[place]:.3f} |")
    facts = [
        f"- {soak.begun} requests from {CLIENTS} clients in {seconds:.0f} s ({soak.begun / seconds:.0f} a "
        "second; the clients and their comparisons share the cores)",
        f"- {seen['right']} answers right, {len(soak.wrong)} wrong, {seen['malformed']} malformed bodies refused, "
        f"{seen['lost']} requests lost",
        f"- {seen['reloads']} reloads, {len(soak.by_version)} versions answered; {seen['kills']} workers killed, by "
        f"which {broken} connections broke; {seen['told to come again']} times a starting worker said to come again",
        f"- {'as it must be' if not trouble else 'NOT as it must be: ' + '; '.join(trouble)}",
    ]
    return "\n".join([*facts, "", *rows]), trouble


def main(arguments: list[str] | None = None) -> None:
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--reloads", type=int, help="one for 50,000 requests if not said, 2 at least")
    parser.add_argument("--kills", type=int, help="one for 100,000 requests if not said, 2 at least")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    reloads = max(2, options.requests // 50_000) if options.reloads is None else options.reloads
    kills = max(2, options.requests // 100_000) if options.kills is None else options.kills
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("PROBINFER_CACHE", str(folder / "cache"))
        versions = Versions(folder, reloads + 1)
        path = folder / "served"
        versions.install(0, path)
        server = Server(path, folder / "log")
        try:
            soak = Soak(server, versions, path, options.requests, reloads, kills)
            seconds = uvloop.run(soak.run())
        except BaseException:
            print((folder / "log").read_text(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            server.end()
        body, trouble = told(soak, seconds)
        if trouble:
            print((folder / "log").read_text(errors="replace")[-3000:], file=sys.stderr)
    print(json.dumps(soak.seen, indent=1))
    print(body)
    if not options.dry:
        command = f"`python -m benchmarks.soak --requests {options.requests}`"
        words = " ".join(__doc__.split("\n\n")[2].split())
        write_section(TITLE, "\n\n".join([command, circumstances("probinfer", "jax", "uvicorn"), words, body]))
    if trouble:
        raise SystemExit(1)


if __name__ == "__main__":
    end_in_order()
    main()
