"""Integrals: probinfer's quasi-Monte Carlo next to scipy's `qmc_quad` and vegas, at equal numbers of evaluations.

    sh benchmarks/peers/install.sh vegas     # optional
    python -m benchmarks.montecarlo [--repeat 20] [--evaluations 65536] [--dry]

Root mean square error against the exact value over runs with seeds 0, 1, …, and median seconds of a call; the figure of
merit is 1 / (error² seconds), for equal error per second. Writes a section of RESULTS.md unless --dry.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
from scipy import integrate, stats
from scipy.stats import qmc

import probinfer as pi
from benchmarks.peers.integrals import INTEGRALS
from benchmarks.results import circumstances, write_section

PEERS = Path(__file__).parent / "peers"
TITLE = "Integrals: quasi-Monte Carlo next to scipy's qmc_quad and vegas"
RANDOMISATIONS = 16


def probinfer(name: str, evaluations: int, seed: int) -> tuple[float, float]:
    f, dim, _ = INTEGRALS[name]
    law = stats.uniform(np.zeros(dim), np.ones(dim))
    method = pi.QuasiMonteCarlo(points=evaluations // RANDOMISATIONS, randomisations=RANDOMISATIONS)
    began = time.perf_counter()
    estimate = pi.expect(f, law, method, seed=seed, batched=True)
    return estimate.value, time.perf_counter() - began


def qmc_quad(name: str, evaluations: int, seed: int) -> tuple[float, float]:
    f, dim, _ = INTEGRALS[name]
    began = time.perf_counter()
    engine = qmc.Sobol(dim, rng=np.random.default_rng(seed))
    result = integrate.qmc_quad(
        lambda x: f(np.atleast_2d(x.T)),
        np.zeros(dim),
        np.ones(dim),
        n_estimates=RANDOMISATIONS,
        n_points=evaluations // RANDOMISATIONS,
        qrng=engine,
    )
    return float(result.integral), time.perf_counter() - began


class Vegas:
    """vegas in its own environment, for all the runs."""

    def __init__(self) -> None:
        command = [str(PEERS / ".envs" / "vegas" / "bin" / "python"), str(PEERS / "peer_vegas.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, name: str, evaluations: int, seed: int) -> tuple[float, float]:
        self._process.stdin.write(f"{name.replace(' ', '_')} {evaluations} {seed}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["value"], answer["seconds"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


def measure(name: str, peers: dict, evaluations: int, repeat: int) -> list[str]:
    """A row of the table for each peer; the peers run in turns."""
    exact = INTEGRALS[name][2]
    found: dict[str, list[tuple[float, float]]] = {peer: [] for peer in peers}
    for peer in peers.values():
        peer(name, evaluations, repeat)  # warm: compiled, imported
    for seed in range(repeat):
        for label, peer in peers.items():
            found[label].append(peer(name, evaluations, seed))
    lines = []
    for label, runs in found.items():
        error = float(np.sqrt(np.mean([(value / exact - 1) ** 2 for value, _ in runs])))
        seconds = float(np.median([spent for _, spent in runs]))
        lines.append(f"| {name} | {label} | {error:.2e} | {1e3 * seconds:.1f} | {1 / (error**2 * seconds):.2e} |")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.montecarlo", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=2**16, help="a power of two")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    peers = {"probinfer": probinfer, "scipy qmc_quad": qmc_quad}
    vegas = Vegas() if (PEERS / ".envs" / "vegas").exists() else None
    if vegas is not None:
        peers["vegas"] = vegas
    rows = []
    for name in INTEGRALS:
        rows += measure(name, peers, options.evaluations, options.repeat)
        print("\n".join(rows[-len(peers) :]), flush=True)
    if vegas is not None:
        vegas.close()
    header = "| integral | peer | relative rms error | ms a call | 1 / (error² s) |\n|---|---|---|---|---|"
    body = [
        f"`python -m benchmarks.montecarlo --repeat {options.repeat} --evaluations {options.evaluations}`",
        circumstances("probinfer", "scipy"),
        f"{options.evaluations} evaluations of a NumPy function each ({RANDOMISATIONS} scramblings; vegas: half of its"
        f" iterations adapt), {options.repeat} runs in turns." + ("" if vegas else " vegas was not installed."),
        "\n".join([header, *rows]),
    ]
    if not options.dry:
        write_section(TITLE, "\n\n".join(body))


if __name__ == "__main__":
    main()
