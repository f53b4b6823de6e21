"""Where the seconds of NUTS's sampler go: gradients, and what two cores wait for.

    python -m benchmarks.idle [--only MODEL ...] [--repeat 7] [--dry]

Warm-up and sampling of `pi.infer` with its defaults, in a process that has compiled before; medians over the seeds
1, 2, … Every block of draws is a call of a compiled program on a thread; from when calls begin and end follows for how
long two, one or none were under way. The last columns are the same run with one thread. Writes a section of RESULTS.md
unless --dry or --only.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import probinfer as pi
from benchmarks.nuts import PEERS
from benchmarks.results import measure_table
from probinfer.inference.mcmc import chains as chains_module
from probinfer.inference.mcmc import run as run_module
from probinfer.inference.mcmc.compiled import Block
from probinfer.inference.mcmc.warmup import _History

sys.path.insert(0, str(PEERS))
import data
import models_numpyro

MODELS = ["eight_schools", "logistic_1k", "radon", "ar1_200", "gp", "mixture"]
TITLE = "Where the seconds of NUTS's sampler go"
HEADER = (
    "| model | sampler, ms | two blocks | one | none | metrics fitted | scouts | blocks | gradients | µs each"
    " | on one thread: sampler, ms | µs each |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


class Watch:
    """When calls of a few functions began and ended, by name, and the gradients of blocks."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[float, float]]] = {"block": [], "fit": [], "scouts": []}
        self.gradients = 0

    def around(self, name: str, function: Callable) -> Callable:
        """The function, watched."""

        @functools.wraps(function)
        def watched(*arguments: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            found = function(*arguments, **settings)
            self.spans[name].append((began, time.perf_counter()))
            if name == "block":
                self.gradients += int(found[1].info.steps.sum())
            return found

        return watched

    def seconds(self, name: str) -> float:
        """In all calls together."""
        return sum(end - began for began, end in self.spans[name])

    def under_way(self) -> tuple[float, float]:
        """Seconds in which two blocks were, and in which one was."""
        edges = sorted(
            (moment, step) for span in self.spans["block"] for moment, step in zip(span, (1, -1), strict=True)
        )
        spent, count, last = [0.0, 0.0, 0.0], 0, edges[0][0]
        for moment, step in edges:
            spent[min(count, 2)] += moment - last
            count, last = count + step, moment
        return spent[2], spent[1]


@contextmanager
def watching(threads: int | None) -> Iterator[Watch]:
    """What happens inside is watched; with so many threads, if said."""
    watch, cores = Watch(), chains_module._cores
    places = [(Block, "__call__", "block"), (_History, "fit", "fit"), (run_module, "look_elsewhere", "scouts")]
    before = [getattr(place, name) for place, name, _ in places]
    for (place, name, kind), function in zip(places, before, strict=True):
        setattr(place, name, watch.around(kind, function))
    if threads is not None:
        chains_module._cores = lambda: threads
    try:
        yield watch
    finally:
        chains_module._cores = cores
        for (place, name, _), function in zip(places, before, strict=True):
            setattr(place, name, function)


def sampler(name: str, seed: int, threads: int | None) -> list[float]:
    """Milliseconds of a run: of all, of two blocks, one, none, of fits and scouts; blocks, gradients, µs of each."""
    with watching(threads) as watch:
        posterior = pi.infer(models_numpyro.MODELS[name], data.MODELS[name][0](), pi.NUTS(), seed=seed, progress=False)
    seconds = json.loads(posterior.tree.attrs["seconds"])
    whole = seconds["warmup"] + seconds["sampling"]
    two, one = watch.under_way()
    spent = [whole, two, one, whole - two - one, watch.seconds("fit"), watch.seconds("scouts")]
    each = 1e6 * watch.seconds("block") / watch.gradients
    return [*(1e3 * each for each in spent), len(watch.spans["block"]), watch.gradients, each]


def rows(name: str, repeat: int) -> list[str]:
    sampler(name, 0, None)  # compiles
    runs = [(sampler(name, seed, None), sampler(name, seed, 1)) for seed in range(1, repeat + 1)]
    both, alone = np.median(runs, axis=0)
    numbers = [f"{value:.1f}" for value in both[:6]] + [f"{value:,.0f}" for value in both[6:8]]
    return [f"| {name} | {' | '.join(numbers)} | {both[8]:.2f} | {alone[0]:.1f} | {alone[8]:.2f} |"]


WORDS = (
    "The first lines of the module say what is measured. Two, one, none: milliseconds with so many blocks under way. "
    "A metric is fitted while no chain draws; chains wait for the last of them at the end of each of up to nine "
    "windows of the warm-up and of the run; a call takes 0.1 to 0.3 ms whatever it computes, which is most of `none` "
    "in models whose gradients take a microsecond. Scouts: twenty draws of six chains from other starting points, "
    "which look for modes that no chain has been to. µs each: of a block's seconds, by its gradients: two side by side "
    "share caches and, on a virtual machine, often a core."
)


if __name__ == "__main__":
    measure_table("benchmarks.idle", TITLE, HEADER, MODELS, rows, WORDS, repeat=7)
