"""The other methods next to their peers: accuracy per second in alternating runs, and the time that compiling takes.

    sh benchmarks/peers/install.sh numpyro blackjax
    python -m benchmarks.methods [PART ...] [--repeat 5] [--dry]

Parts, each with its section of RESULTS.md: smc, many and pathfinder (BlackJAX's tempered SMC, ChEES and MEADS,
multi-path Pathfinder), mclmc (our NUTS next to BlackJAX's MCLMC, to see whether that method is worth having), gibbs
(NumPyro's DiscreteHMCGibbs and HMCGibbs) and compile (every method on eight schools, next to NumPyro's NUTS). Integrals
against scipy and vegas are in benchmarks/montecarlo.py.

A peer has an environment and, for each model, a process of its own, which first compiles and then draws when it is its
turn. Accuracy is counted in effective draws: the number of independent draws whose means would have the squared error
that was seen, 1 / mean of ((mean - reference) / sd)² over the scalars and the runs, the reference's own error taken
off. References are runs of NUTS with 80,000 draws. For Gibbs, whose chains can be judged one by one, it is the least
effective sample size. Seconds of the sampler: the method's work for probinfer, which traces the model anew in every
call; the whole call, compiled as one program, for the others. Writes nothing with --dry.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from arviz_stats.base import array_stats

from benchmarks import nuts
from benchmarks.nuts import Worker, geometric, scalars, smallest_ess
from benchmarks.results import circumstances, write_section

SCRIPT = "methods"
COMMON = ("eight_schools", "logistic_1k", "radon")
METHODS = (
    *("NUTS", "HMC", "Metropolis", "Gibbs", "ManyChains", "Tempering", "SMC", "Laplace", "MeanField", "FullRank"),
    *("LowRank", "Flow", "Pathfinder", "Importance", "Rejection"),
)


class Part(NamedTuple):
    """A section: its title, the models, and who runs: (label, environment, method), probinfer first."""

    title: str
    models: tuple[str, ...]
    runners: tuple[tuple[str, str, str], ...]
    settings: str


PARTS = {
    "smc": Part(
        "SMC next to BlackJAX's adaptive tempered SMC",
        COMMON,
        (("probinfer SMC", "probinfer", "SMC"), ("BlackJAX tempered SMC", "blackjax", "SMC")),
        "4,000 particles each (probinfer: 8 chains of 500), from draws of the prior, half of them effective at each"
        " level. BlackJAX: 10 moves of 4 leapfrogs a level, mass matrix and step size from the particles.",
    ),
    "many": Part(
        "ManyChains next to BlackJAX's ChEES and MEADS",
        COMMON,
        (
            ("probinfer ManyChains", "probinfer", "ManyChains"),
            ("BlackJAX ChEES", "blackjax", "ChEES"),
            ("BlackJAX MEADS", "blackjax", "MEADS"),
        ),
        "128 chains each; 200 + 100 draws, MEADS 1,000 + 1,000 of one leapfrog. ChEES: diagonal metric, Adam 0.05.",
    ),
    "pathfinder": Part(
        "Pathfinder next to BlackJAX's multi-path Pathfinder",
        COMMON,
        (("probinfer Pathfinder", "probinfer", "Pathfinder"), ("BlackJAX multipathfinder", "blackjax", "Pathfinder")),
        "8 paths and 4,000 draws each, resampled by Pareto smoothed weights (probinfer keeps one draw for five"
        " effective ones). Neither is exact: the error holds the bias.",
    ),
    "mclmc": Part(
        "NUTS next to BlackJAX's MCLMC",
        (*COMMON, "ar1_200"),
        (
            ("probinfer NUTS", "probinfer", "NUTS"),
            ("BlackJAX MCLMC", "blackjax", "MCLMC"),
            ("BlackJAX adjusted MCLMC", "blackjax", "adjusted MCLMC"),
        ),
        "4 chains each, warm-up in the seconds. MCLMC: 10,000 steps of two gradients a chain, all kept, and its own"
        " tuning before them (energy error 5e-4, diagonal metric, L from the effective sample size); it is not exact,"
        " and the error holds its bias. Adjusted: 4,000 draws a chain, acceptance 0.9, random lengths. sd off: how far"
        " the standard deviations are from the reference's, root mean square over the scalars of their mean over runs.",
    ),
    "gibbs": Part(
        "Gibbs next to NumPyro's DiscreteHMCGibbs and HMCGibbs",
        ("clusters", "groups"),
        (("probinfer Gibbs", "probinfer", "Gibbs"), ("NumPyro Gibbs", "numpyro", "Gibbs")),
        "4 chains of 400 + 1,000 turns. clusters: 200 numbers of two kinds, the kinds latent; groups: a normal"
        " hierarchy with gamma precisions, whose conditional laws probinfer finds and NumPyro is given by hand.",
    ),
}


class Reference(NamedTuple):
    """Mean and sd of every scalar, and the variance of the mean in units of the sd's square."""

    mean: np.ndarray
    sd: np.ndarray
    error: np.ndarray


def reference(model: str, folder: str, settings: Mapping[str, str] | None = None) -> Reference:
    if model in nuts.TRUTH:
        ones = np.ones(int(model.split("_")[-1]))
        return Reference(0 * ones, ones, 0 * ones)
    worker = Worker("probinfer", model, folder, "Reference", script=SCRIPT, settings=settings)
    path = Path(folder) / "reference.npz"
    worker.compile()
    if worker.draw(12345, path) is None:
        raise RuntimeError(f"no reference for {model}: {worker.failure}")
    worker.close()
    draws = scalars(path)
    sd = np.array([values.std() for values in draws.values()])
    ess = [float(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean")) for values in draws.values()]
    return Reference(np.array([values.mean() for values in draws.values()]), sd, 1 / np.array(ess))


def effective(runs: list[dict[str, np.ndarray]], truth: Reference) -> float:
    """Independent draws that would have the squared error of these runs' means."""
    means = np.array([[values.mean() for values in draws.values()] for draws in runs])
    squares = np.mean(((means - truth.mean) / truth.sd) ** 2)
    return float(1 / max(squares - truth.error.mean(), 0.1 * squares))


def sd_off(runs: list[dict[str, np.ndarray]], truth: Reference) -> float:
    """Root mean square, over the scalars, of the relative error of the standard deviation that the runs agree on."""
    sds = np.array([[values.std() for values in draws.values()] for draws in runs]).mean(axis=0)
    return float(np.sqrt(np.mean((sds / truth.sd - 1) ** 2)))


def measure(part: Part, model: str, repeat: int) -> dict[str, dict]:
    """By runner: effective draws, median seconds, or why it failed."""
    runs: dict[str, list[dict[str, np.ndarray]]] = {label: [] for label, *_ in part.runners}
    seconds: dict[str, list[tuple[float, ...]]] = {label: [] for label in runs}
    gradients: dict[str, list[int]] = {label: [] for label in runs}
    gibbs = part.runners[0][2] == "Gibbs"
    with tempfile.TemporaryDirectory() as folder:
        truth = None if gibbs else reference(model, folder)
        workers = {label: Worker(peer, model, folder, name, script=SCRIPT) for label, peer, name in part.runners}
        first = {label: worker.compile() for label, worker in workers.items()}
        for seed in range(1, repeat + 1):
            for label, worker in workers.items():
                path = Path(folder) / "draws.npz"
                figures = worker.draw(seed, path)
                if figures is not None:
                    runs[label].append(scalars(path))
                    seconds[label].append((figures["seconds"], figures.get("in_hand", figures["call"]), figures["cpu"]))
                    gradients[label] += [figures["gradients"]] if "gradients" in figures else []
        for worker in workers.values():
            worker.close()
    found = {}
    for label, worker in workers.items():
        if len(runs[label]) < repeat:
            found[label] = {"failure": worker.failure}
            continue
        draws = float(np.median([smallest_ess(run) for run in runs[label]])) if gibbs else effective(runs[label], truth)
        sampler, call, cpu = (float(each) for each in np.median(seconds[label], axis=0))
        found[label] = {
            **{"draws": draws, "seconds": sampler, "call": call, "cpu": cpu, "first": first[label][0]},
            **{"rate": draws / sampler, "call_rate": draws / call},
        }
        if gradients[label]:
            found[label] |= {"gradient_rate": 1000 * draws / np.median(gradients[label])}
            found[label] |= {"cpu_rate": draws / cpu, "sd_off": sd_off(runs[label], truth)}
    return found


def section(part: Part, name: str, table: dict[str, dict[str, dict]], repeat: int) -> str:
    ours = part.runners[0][0]
    counted = "least effective sample size" if name == "gibbs" else "effective draws by error"
    extra = name == "mclmc"
    more = " a thousand gradients | sd off |" if extra else ""
    head = f"| model | | {counted} | seconds: sampler / call | CPU s with report | a second | first call, s |{more}"
    lines = [head, "|---|---|---|---|---|---|---|" + "---|---|" * extra]
    for model, found in table.items():
        for label, r in found.items():
            if "failure" in r:
                lines.append(f"| {model} | {label} | {r['failure']} | | | | |" + " | |" * extra)
            else:
                times = f"{r['seconds']:.3f} / {r['call']:.3f} | {r['cpu']:.3f}"
                numbers = f"{r['draws']:,.0f} | {times} | {r['rate']:,.0f} | {r['first']:.1f}"
                beside = f" {r['gradient_rate']:.1f} | {100 * r['sd_off']:.1f}% |" if extra else ""
                lines.append(f"| {model} | {label} | {numbers} |{beside}")
    ratios = []
    for label, *_ in part.runners[1:]:
        more_rates = (("cpu_rate", "processor", False), ("gradient_rate", "gradients", False)) if extra else ()
        for rate, of, goal in (("rate", "sampler", True), ("call_rate", "whole call", False), *more_rates):
            both = [model for model, found in table.items() if rate in found[ours] and rate in found[label]]
            lost = [model for model in both if table[model][label]["draws"] < 1]  # to be faster there is no merit
            each = {model: table[model][ours][rate] / table[model][label][rate] for model in both if model not in lost}
            if each:
                listed = ", ".join(f"{model} {ratio:.2f}" for model, ratio in each.items())
                listed += f"; not {', '.join(lost)}, where it has less than one effective draw" * bool(lost)
                mean = geometric(each.values())
                state = f" Goal >= 1: {'met' if mean >= 1 else '**missed**'}." if goal else ""
                ratios.append(f"- {label}, {of}: geometric mean {mean:.2f} ({listed}).{state}")
    return "\n\n".join(
        [
            f"`python -m benchmarks.methods {name} --repeat {repeat}`",
            circumstances("probinfer", "jax", "numpyro") + f" {repeat} runs in turns, seeds 1, 2, ….",
            part.settings + " Double precision; processes that have compiled before. See the first lines of"
            " benchmarks/methods.py for how accuracy is counted.",
            "\n".join(lines),
            "Accuracy per second, probinfer over each peer:\n\n" + "\n".join(ratios),
        ]
    )


def compile_times(repeat: int) -> dict[str, tuple[float, float, float]]:
    """Seconds of the first call less those of the fastest later one, the same of the processor, and the seconds of that
    later one, on eight schools; medians of processes with empty caches, the methods in turns."""
    asked = [("NumPyro NUTS", "numpyro", "NUTS"), *((f"probinfer {m}", "probinfer", m) for m in METHODS)]
    seen: dict[str, list[tuple[float, float, float]]] = {label: [] for label, *_ in asked}
    for _ in range(repeat):
        for label, peer, method in asked:
            with tempfile.TemporaryDirectory() as folder:
                worker = Worker(peer, "eight_schools", folder, method, script=SCRIPT)
                first, busy = worker.compile()
                # with the seed of the first call: the same work, where that depends on the draws
                again = [worker.draw(0, Path(folder) / "draws.npz") for _ in range(2)]
                worker.close()
            later, cpu = (min((f[name] for f in again if f), default=np.nan) for name in ("call", "cpu"))
            seen[label].append((first - later, busy - cpu, later))
            print(label, f"{first - later:.2f} CPU {busy - cpu:.2f}, later {later:.2f}", flush=True)
    return {label: tuple(np.median(pairs, axis=0)) for label, pairs in seen.items()}


def compile_section(found: dict[str, tuple[float, float, float]], repeat: int) -> str:
    limit = found["NumPyro NUTS"][0]
    lines = ["| method | compiling, s | CPU s | over NumPyro NUTS | a later call, s |", "|---|---|---|---|---|"]
    lines += [
        f"| {label} | {own:.2f} | {cpu:.2f} | {own / limit:.2f} | {later:.2f} |"
        for label, (own, cpu, later) in found.items()
    ]
    slower = [label for label, (own, *_) in found.items() if own > limit]
    state = "met" if not slower else f"**missed** by {', '.join(slower)}"
    return "\n\n".join(
        [
            f"`python -m benchmarks.methods compile --repeat {repeat}`",
            circumstances("probinfer", "jax", "numpyro"),
            "Eight schools. Compiling: seconds of the first call of a process with empty caches, less those of its"
            f" fastest later call; medians of {repeat}. Tracing, and whatever else happens once, is in it; importing is"
            " not. Calls include the report. NumPyro: a plain `MCMC.run`, which compiles in every call; its later calls"
            " are inside `jax.jit`.",
            "\n".join(lines),
            f"Compiling every method in less time than NumPyro's NUTS: {state}.",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.split("\n")[0])
    names = [*PARTS, "compile"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--only", nargs="+", choices=(*COMMON, "ar1_200", "clusters", "groups"), metavar="MODEL")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    parser.add_argument("--limit", type=float, default=nuts.LIMIT, help="seconds a call may take, compiling included")
    options = parser.parse_args(arguments)
    nuts.LIMIT = options.limit
    unknown = set(options.parts) - set(names)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    dry = options.dry or options.only is not None
    for name in options.parts or names:
        if name == "compile":
            times = compile_times(min(options.repeat, 2))
            title, text = "Compiling: every method on eight schools", compile_section(times, min(options.repeat, 2))
        else:
            part, table = PARTS[name], {}
            for model in part.models:
                if options.only is None or model in options.only:
                    table[model] = measure(part, model, options.repeat)
                    print(name, model, table[model], flush=True)
            title, text = part.title, section(part, name, table, options.repeat)
        print(text, flush=True)
        if not dry:
            write_section(title, text)


if __name__ == "__main__":
    main()
