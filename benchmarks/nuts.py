"""NUTS with defaults against NumPyro and PyMC + nutpie on the same models and data, in one run.

    sh benchmarks/peers/install.sh
    python -m benchmarks.nuts [--only TEXT ...] [--repeat 3] [--limit SECONDS] [--dry]

Every sampler runs in its own process (and nutpie in its own environment), in turns. Compiled: the second call in a
process, without compiling; seconds are those of warm-up and sampling. ESS is the smallest bulk or tail ESS of all
latent scalars, by one code for all. A run whose means are more than 4 joint Monte Carlo standard errors from those of
the other samplers, or whose R-hat is above 1.05, does not count. Whole process: from its start to the posterior, and
for probinfer its verdict, with empty and with filled caches.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peers.data import DATA
from benchmarks.results import circumstances, write_section
from probinfer.inference.convergence import Convergence, convergence

ROOT = Path(__file__).parents[1]
NUTPIE = Path(__file__).with_name("peers") / ".envs" / "nutpie" / "bin" / "python"
SAMPLERS = {"probinfer": sys.executable, "numpyro": sys.executable, "nutpie": str(NUTPIE)}
WHOLE = ("eight schools", "hierarchical, 90 parameters")
MAX_Z, MAX_RHAT = 4.0, 1.05
TITLE = "Speed: NUTS against NumPyro and PyMC + nutpie"


def run(sampler: str, model: str, out: str, seed: int, limit: float, caches: Path) -> dict | None:
    """What the runner printed, with the seconds from the start of the process; None if it failed or took too long."""
    environment = {
        **os.environ,
        "PROBINFER_CACHE": str(caches / "probinfer"),
        "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}",
        "NUMBA_CACHE_DIR": str(caches / "numba"),
    }
    command = [SAMPLERS[sampler], "-W", "ignore", "-m", f"benchmarks.peers.run_{sampler}", model, out, str(seed)]
    began = time.time()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"{sampler}, {model}: more than {limit:.0f} s", file=sys.stderr)
        return None
    if done.returncode:
        print(f"{sampler}, {model}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return found | {"whole": found["ready"] - began}


def numbers(path: str) -> tuple[list[str], Convergence]:
    """Convergence statistics of every latent scalar in a file of draws (chain, draw, ...)."""
    names, columns = [], []
    with np.load(path, allow_pickle=False) as file:
        for name in sorted(file.files):
            values = file[name].reshape(*file[name].shape[:2], -1)
            columns.append(np.moveaxis(values, -1, 0))
            names += [f"{name}[{i}]" for i in range(values.shape[-1])]
    return names, convergence(np.concatenate(columns))


def compiled(model: str, repeat: int, limit: float, caches: Path) -> dict[str, dict]:
    """For each sampler that finished: medians over the runs, and whether it agrees with the others."""
    runs: dict[str, list] = {sampler: [] for sampler in SAMPLERS}
    for turn in range(repeat):
        for sampler in SAMPLERS:
            with tempfile.TemporaryDirectory() as folder:
                out = str(Path(folder) / "draws.npz")
                found = run(sampler, model, out, 10 * turn, limit, caches)
                if found is not None:
                    names, n = numbers(out)
                    runs[sampler].append((found, names, n))
    result = {}
    for sampler, mine in runs.items():
        others = [n for other, theirs in runs.items() if other != sampler for _, _, n in theirs]
        if not mine:
            continue
        z, rhat = [], []
        for _, _, n in mine:
            rhat.append(float(n.r_hat.max()))
            for other in others:
                z.append(float(np.max(np.abs(n.mean - other.mean) / np.hypot(n.mcse_mean, other.mcse_mean))))
        ess = [float(min(n.ess_bulk.min(), n.ess_tail.min())) for _, _, n in mine]
        seconds = [found["seconds"] for found, *_ in mine]
        leapfrogs = statistics.median(found["leapfrogs"] for found, *_ in mine)
        rate = statistics.median(e / s for e, s in zip(ess, seconds, strict=True))
        result[sampler] = {
            "ess": statistics.median(ess),
            "seconds": statistics.median(seconds),
            "rate": rate,
            "leapfrogs": leapfrogs,
            "to400": 400 * leapfrogs / statistics.median(ess),
            "z": min(z) if z else float("nan"),
            "rhat": statistics.median(rhat),
            "verdict": mine[0][0].get("verdict", ""),
        }
        result[sampler]["counts"] = bool(result[sampler]["rhat"] <= MAX_RHAT and not result[sampler]["z"] > MAX_Z)
    return result


def whole_process(model: str, repeat: int, limit: float) -> dict[str, tuple[float, float]]:
    """Seconds from the start of a process to the posterior, by sampler: with empty and with filled caches."""
    times: dict[str, list[tuple[float, float]]] = {sampler: [] for sampler in SAMPLERS}
    for turn in range(repeat):
        for sampler, found in times.items():
            with tempfile.TemporaryDirectory() as folder:
                pair = [run(sampler, model, "-", turn, limit, Path(folder)) for _ in range(2)]
            if all(pair):
                found.append(tuple(each["whole"] for each in pair if each))
    return {
        sampler: (statistics.median(c for c, _ in found), statistics.median(w for _, w in found))
        for sampler, found in times.items()
        if found
    }


def import_seconds(repeat: int) -> float:
    """Seconds of a process that imports jax and numpyro and does nothing."""
    spent = []
    for _ in range(repeat):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", "import jax, numpyro"], check=True)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="models whose name contains one of these")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that one process may take")
    parser.add_argument("--dry", action="store_true", help="do not write RESULTS.md")
    options = parser.parse_args()
    chosen = [name for name in DATA if not options.only or any(text in name for text in options.only)]
    lines = [
        "| model | sampler | min ESS | seconds | min ESS/s | leapfrogs | leapfrogs to ESS 400 | R-hat | max abs z |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios: dict[str, dict[str, float]] = {"numpyro": {}, "nutpie": {}}
    fewer: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in chosen:
            found = compiled(model, options.repeat, options.limit, Path(folder))
            for sampler in SAMPLERS:
                if sampler not in found:
                    lines.append(f"| {model} | {sampler} | failed, or over {options.limit:.0f} s | | | | | | |")
                    continue
                r = found[sampler]
                mark = "" if r["counts"] else " (does not count)"
                lines.append(
                    f"| {model} | {sampler}{mark} | {r['ess']:,.0f} | {r['seconds']:.3f} | {r['rate']:,.0f} "
                    f"| {r['leapfrogs']:,.0f} | {r['to400']:,.0f} | {r['rhat']:.3f} | {r['z']:.1f} |"
                )
                print(lines[-1], flush=True)
            ours = found.get("probinfer", {"counts": False})
            for peer, table in ratios.items():
                if peer in found and found[peer]["counts"] and ours["counts"]:
                    table[model] = ours["rate"] / found[peer]["rate"]
            if model in ratios["nutpie"]:
                fewer[model] = ours["to400"] / found["nutpie"]["to400"]
    body = [
        f"`python -m benchmarks.nuts {shlex.join(sys.argv[1:])}`; runs of the samplers in turns, medians.",
        "",
        circumstances("probinfer", "jax", "numpyro"),
        "probinfer with 400 + 1000 draws, NumPyro with 1000 + 1000 (vectorized), nutpie with its defaults; 4 chains, "
        "float64. Compiled: the second call in a process, warm-up and sampling. Leapfrogs: NumPyro's and probinfer's "
        "after warm-up, nutpie's as its statistics count them.",
        "",
        *lines,
        "",
        "| | geometric mean | smallest | goal |",
        "|---|---|---|---|",
    ]
    for peer, goal in (("numpyro", ">= 50"), ("nutpie", ">= 3, none below 1")):
        values = ratios[peer]
        if values:
            least = min(values, key=values.__getitem__)
            mean = geometric_mean(list(values.values()))
            body.append(f"| min ESS/s over {peer}'s | {mean:.1f} | {values[least]:.2f} ({least}) | {goal} |")
    if fewer:
        most = max(fewer, key=fewer.__getitem__)
        mean = geometric_mean(list(fewer.values()))
        body.append(f"| leapfrogs to ESS 400 over nutpie's | {mean:.2f} | largest {fewer[most]:.2f} ({most}) | <= 1 |")
    imports = import_seconds(options.repeat)
    body += [
        "",
        f"Whole process, from its start to the posterior. Importing jax and numpyro alone: {imports:.1f} s.",
        "",
        "| model | sampler | cold, s | warm caches, s |",
        "|---|---|---|---|",
    ]
    for model in [name for name in WHOLE if name in chosen]:
        for sampler, (cold, warm) in whole_process(model, options.repeat, options.limit).items():
            body.append(f"| {model} | {sampler} | {cold:.1f} | {warm:.1f} |")
    text = "\n".join(body)
    print(text)
    if not options.dry:
        write_section(TITLE, text)


if __name__ == "__main__":
    main()
