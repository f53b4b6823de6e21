"""The bootstrap particle filter next to the package `particles`, at 10³ to 10⁶ particles.

    sh benchmarks/peers/install.sh particles
    python -m benchmarks.particle [--repeat 5] [--dry]

Two models with states of one number, volatility and level; systematic resampling below an effective share of one
half, one run. Runs alternate; the medians of wall and of processor time are given as steps (times) a second and as
nanoseconds a particle and step. The log likelihoods must agree. Writes a section of RESULTS.md unless --dry. dynamax
is left out: its filters for such models are Kalman's, extended and unscented, without particles.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinfer as pi
from benchmarks.results import circumstances, write_section

PEERS = Path(__file__).parent / "peers"
TITLE = "Particle filter next to particles"
GOAL = 5  # times the steps a second of `particles`
TIMES = {10**3: 200, 10**4: 200, 10**5: 50, 10**6: 10}

MODELS = {
    "volatility": pi.StateSpace(
        lambda params: dist.Normal(-1.0, 0.3 / (1 - 0.9**2) ** 0.5),
        lambda x, t, params: dist.Normal(-1.0 + 0.9 * (x + 1.0), 0.3),
        lambda x, t, params: dist.Normal(0.0, jnp.exp(0.5 * x)),
    ),
    "level": pi.StateSpace(
        lambda params: dist.Normal(0.0, 1.0),
        lambda x, t, params: dist.Normal(0.9 * x, 0.5),
        lambda x, t, params: dist.Normal(x, 0.7),
    ),
}


def simulate() -> np.ndarray:
    """A series of each model, (2, 200)."""
    generator = np.random.default_rng(0)
    x, z, rows = generator.normal(-1, 0.69), generator.normal(), np.empty((2, 200))
    for t in range(200):
        rows[:, t] = np.exp(x / 2) * generator.normal(), z + 0.7 * generator.normal()
        x, z = -1 + 0.9 * (x + 1) + 0.3 * generator.normal(), 0.9 * z + 0.5 * generator.normal()
    return rows


def probinfer(name: str, count: int, y: np.ndarray, seed: int) -> dict[str, float]:
    method = pi.ParticleFilter(particles=count, runs=1, keep=False)
    began, cpu = time.perf_counter(), time.process_time()
    found = pi.filter(MODELS[name], y, method, seed=seed)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"log_likelihood": found.log_likelihood, "seconds": seconds, "cpu": cpu}


class Particles:
    """`particles` in its own environment, for all the runs."""

    def __init__(self, series: Path) -> None:
        command = [str(PEERS / ".envs" / "particles" / "bin" / "python"), str(PEERS / "peer_particles.py"), str(series)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, name: str, count: int, y: np.ndarray, seed: int) -> dict[str, float]:
        self._process.stdin.write(f"{name} {count} {len(y)} {seed}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


def measure(name: str, count: int, y: np.ndarray, peers: dict, repeat: int) -> tuple[list[str], list[float], float]:
    """A row for each peer, their log likelihoods, and how often as fast as `particles` we are; peers run in turns."""
    found: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    for peer in peers.values():
        peer(name, count, y, repeat)  # warm: compiled, imported
    for seed in range(repeat):
        for label, peer in peers.items():
            found[label].append(peer(name, count, y, seed))
    medians = {
        label: {key: float(np.median([run[key] for run in runs])) for key in ("seconds", "cpu", "log_likelihood")}
        for label, runs in found.items()
    }
    base = medians.get("particles")
    rows = []
    for label, each in medians.items():
        ratios = " | " if base is None else f"{base['seconds'] / each['seconds']:.1f} | {base['cpu'] / each['cpu']:.1f}"
        rows.append(
            f"| {name} | {count:,} | {label} | {len(y) / each['seconds']:,.0f} | "
            f"{1e9 * each['seconds'] / count / len(y):.1f} | {1e9 * each['cpu'] / count / len(y):.1f} | "
            f"{each['log_likelihood']:.2f} | {ratios} |"
        )
    ratio = np.nan if base is None else base["seconds"] / medians["probinfer"]["seconds"]
    return rows, [each["log_likelihood"] for each in medians.values()], ratio


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.particle", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    series = simulate()
    peers = {"probinfer": probinfer}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.txt"
        np.savetxt(path, series)
        peer = Particles(path) if (PEERS / ".envs" / "particles").exists() else None
        if peer is not None:
            peers["particles"] = peer
        rows, slower = [], []
        for row, name in enumerate(MODELS):
            for count, times in TIMES.items():
                lines, values, ratio = measure(name, count, series[row, :times], peers, options.repeat)
                rows += lines
                slower += [f"{name} with {count:,} ({ratio:.1f})"] if ratio < GOAL else []
                print("\n".join(lines), flush=True)
                # a run at 1,000 particles scatters by about 0.4
                assert np.ptp(values) < 40 / count**0.5, f"the log likelihoods disagree: {values}"
        if peer is not None:
            peer.close()
    header = (
        "| model | particles | peer | steps/s | ns a particle and step | of processor time | log likelihood | times as "
        "fast as particles | in processor time |\n|---|---|---|---|---|---|---|---|---|"
    )
    state = f"**missed** at {', '.join(slower)}" if slower else "met"
    body = [
        f"`python -m benchmarks.particle --repeat {options.repeat}`",
        circumstances("probinfer", "jax"),
        "One bootstrap filter with systematic resampling below half, the whole call; medians of runs in turns."
        + ("" if peer else " particles was not installed."),
        "\n".join([header, *rows]),
        *([f"Goal >= {GOAL} times the steps a second: {state}."] if peer else []),
    ]
    if not options.dry:
        write_section(TITLE, "\n\n".join(body))


if __name__ == "__main__":
    main()
