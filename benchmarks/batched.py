"""NUTS with hundreds of chains: one program or threads, next to NumPyro vectorised and BlackJAX under vmap.

    sh benchmarks/peers/install.sh numpyro blackjax
    python -m benchmarks.batched [--chains 64 512] [--only MODEL ...] [--repeat 2] [--dry]

All have as many chains, 200 steps of warm-up and 100 draws of each, in double precision. Warm-up is pooled over the
chains by probinfer, and of each chain by itself by the others. A runner has a process of its own for each model and
number of chains, which first compiles and then draws when it is its turn. Counted are the least effective sample size
(bulk and tail) over the seconds of the whole call, without compiling. A run whose means are further from those of
80,000 draws of four chains than 4 standard errors allow does not count. Trees: gradients that the draws took, over
those of a sampler whose chains wait for the longest tree, had it the same trees.

On a GPU, for which the environments of the peers need a JAX too, --chains 64 1024 8192 is what to ask: then one program
is compared with the peers on the same card, and with threads on the processor's cores. It has a section of its own.
Writes nothing with --dry.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from arviz_stats.base import array_stats

from benchmarks import nuts
from benchmarks.methods import Reference, reference
from benchmarks.nuts import MAX_Z, Worker, scalars, smallest_ess
from benchmarks.results import circumstances, write_section

MODELS = ("eight_schools", "logistic_1k")
RUNNERS = (
    ("probinfer, threads", "probinfer", "THREADS"),
    ("probinfer, batch", "probinfer", "BATCH"),
    ("NumPyro, vectorized", "numpyro", "vectorized"),
    ("BlackJAX, vmap", "blackjax", "vmap"),
)
TITLE = "Hundreds of chains: NUTS in one program, on threads, and next to NumPyro and BlackJAX"
ON_A_CARD = "Hundreds of chains on a GPU: NUTS next to NumPyro and BlackJAX"
FEW = 64  # chains, beyond which threads are left out next to a card: they would take minutes
ON_CPU = {"JAX_PLATFORMS": "cpu"}
DEVICE = "import jax; print(jax.default_backend(), jax.devices()[0].device_kind)"
SCRIPT = "batched"


def worst_z(draws: dict[str, np.ndarray], truth: Reference) -> float:
    """The largest error of a mean, in its standard errors."""
    values = list(draws.values())
    ess = np.array([float(array_stats.ess(each, chain_axis=0, draw_axis=1, method="mean")) for each in values])
    off = (np.array([each.mean() for each in values]) - truth.mean) / truth.sd
    return float(np.abs(off / np.sqrt(1 / ess + truth.error)).max())


def measure(runners: list[tuple[str, str, str]], model: str, chains: int, repeat: int, truth: Reference) -> dict:
    """By runner: medians of what was counted, or why it failed."""
    seen: dict[str, list[tuple[float, ...]]] = {label: [] for label, *_ in runners}
    with tempfile.TemporaryDirectory() as folder:
        workers, first = {}, {}
        for label, peer, how in runners:
            settings = ON_CPU if how == "THREADS" else {}
            workers[label] = Worker(peer, model, folder, str(chains), how, script=SCRIPT, settings=settings)
            first[label] = workers[label].compile()[0]  # one after the other: they do not compile side by side
        for seed in range(1, repeat + 1):
            for label, worker in workers.items():
                path = Path(folder) / "draws.npz"
                figures = worker.draw(seed, path)
                if figures is None:
                    continue
                draws = scalars(path)
                z = worst_z(draws, truth)
                if z > MAX_Z:
                    worker.failure = f"not accurate: off by {z:.1f} standard errors"
                    continue
                numbers = (smallest_ess(draws), figures["call"], figures["cpu"], z, figures.get("trees", np.nan))
                seen[label].append(numbers)
        for worker in workers.values():
            worker.close()
    found = {}
    for label, worker in workers.items():
        if len(seen[label]) < repeat:
            found[label] = {"failure": worker.failure}
            continue
        ess, seconds, cpu, z, trees = (float(each) for each in np.median(seen[label], axis=0))
        found[label] = {"ess": ess, "seconds": seconds, "cpu": cpu, "z": z, "trees": trees, "first": first[label]}
    return found


def table(found: dict[tuple[str, int], dict[str, dict]]) -> str:
    columns = "least ESS | seconds | CPU s | ESS a second | ESS a CPU second | worst z | trees | first, s"
    lines = [f"| model | chains | | {columns} |", "|---" * 11 + "|"]
    for (model, chains), runners in found.items():
        for label, r in runners.items():
            if "failure" in r:
                lines.append(f"| {model} | {chains} | {label} | {r['failure']} | | | | | | | |")
                continue
            rates = f"{r['ess'] / r['seconds']:,.0f} | {r['ess'] / r['cpu']:,.0f}"
            trees = f"{r['trees']:.2f}" if np.isfinite(r["trees"]) else ""
            lines.append(
                f"| {model} | {chains} | {label} | {r['ess']:,.0f} | {r['seconds']:.2f} | {r['cpu']:.2f} | {rates} |"
                f" {r['z']:.1f} | {trees} | {r['first']:.1f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batched", description=__doc__.split("\n")[0])
    parser.add_argument("--chains", nargs="+", type=int, default=[64, 512])
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="MODEL", help="these models alone")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    parser.add_argument("--limit", type=float, default=nuts.LIMIT, help="seconds a call may take, compiling included")
    options = parser.parse_args(arguments)
    nuts.LIMIT = options.limit
    # in a process of its own, so that this one holds no memory of the card
    asked_jax = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True, check=True)
    backend, device = asked_jax.stdout.strip().split(" ", 1)
    found = {}
    for model in options.only or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            truth = reference(model, folder, ON_CPU)
        for chains in options.chains:
            runners = [each for each in RUNNERS if backend == "cpu" or chains <= FEW or each[2] != "THREADS"]
            found[model, chains] = measure(runners, model, chains, options.repeat, truth)
            print(table({(model, chains): found[model, chains]}), flush=True)
    asked = f"--chains {' '.join(map(str, options.chains))} --repeat {options.repeat}"
    words = "200 + 100 steps of each chain, double precision; medians. What is counted: the first lines of the module."
    if backend != "cpu":
        words += f" On one {device}; the threads on the processor's cores, up to {FEW} chains."
    command = f"`python -m benchmarks.batched {asked}`"
    text = "\n\n".join([command, circumstances("probinfer", "jax", "numpyro"), words, table(found)])
    print(text)
    if not options.dry and not options.only:
        write_section(TITLE if backend == "cpu" else ON_A_CARD, text)


if __name__ == "__main__":
    main()
