"""What NUTS's loop costs beyond its gradients, and what progress, stop rule and checkpoint cost beyond the loop.

    python -m benchmarks.loop [--only MODEL ...] [--repeat 9] [--dry]

One chain on one thread, all figures by turns, medians of processor time. The bare loop does a leapfrog step with an
identity metric and adds up the log densities; the block is what `pi.NUTS` runs, with its fitted metric, of 500 draws as
sampling makes them, the call included. The overhead is that of `pi.infer` with a progress line in a terminal, a stop
rule that is never met and a checkpoint, over `pi.infer` without them: seconds of sampling, 1,000 draws of 4 chains.
Writes a section of RESULTS.md unless --dry or --only.
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

import probinfer as pi
from benchmarks.nuts import PEERS
from benchmarks.results import measure_table
from probinfer.inference.mcmc.block import ROWS
from probinfer.inference.mcmc.chains import Chains
from probinfer.inference.mcmc.record import SAMPLING

sys.path.insert(0, str(PEERS))
import data
import models_numpyro

MODELS = ["eight_schools", "radon", "logistic_1k", "ar1_200", "mixture", "volatility"]
TITLE = "What NUTS's loop costs"
HEADER = (
    "| model | dimensions | bare, µs a leapfrog | block | block over bare | goal | | leapfrogs a draw |"
    " sampling, s | ms more with progress | with stop rule | with checkpoint | with all | overhead | goal |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)
BARE_STEPS = 3_000


class Terminal(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        return True


class Sampled:
    """A model, the arguments of the calls, and the chains of its first run: as they were when sampling began."""

    def __init__(self, model: Any, data: Any) -> None:
        self.model, self.data = model, data
        seen: dict[str, Any] = {}
        advance = Chains.advance

        def watched(chains, count, metrics, drawn, **settings):
            if settings["phase"] == SAMPLING:
                seen.update(chains=chains, metric=metrics[0])
            return advance(chains, count, metrics, drawn, **settings)

        Chains.advance = watched
        try:
            self.sampling()
        finally:
            Chains.advance = advance
        self.chains, target = seen["chains"], seen["chains"]._target
        self.target = target
        self.chains._prepare([seen["metric"]])

    def sampling(self, **settings) -> float:
        """Seconds that a run spends on sampling."""
        posterior = pi.infer(self.model, self.data, pi.NUTS(), seed=1, **{"progress": False, **settings})
        return json.loads(posterior.tree.attrs["seconds"])["sampling"]

    def controlled(self, *, progress: bool = False, rule: bool = False, checkpoint: bool = False) -> float:
        """The same with a progress line, a stop rule that is never met, or a checkpoint."""
        terminal, sys.stderr = sys.stderr, Terminal()
        try:
            with tempfile.TemporaryDirectory() as folder:
                until = pi.Until(rhat=1 + 1e-9, draws=1000) if rule else None
                path = Path(folder) / "run" if checkpoint else None
                return self.sampling(progress=progress, until=until, checkpoint=path)
        finally:
            sys.stderr = terminal

    def block(self) -> tuple[float, float]:
        """Microseconds a leapfrog of the compiled block; leapfrogs a draw."""
        chains = self.chains
        chains._budget = 10**8
        began = time.process_time()
        steps = chains._run(range(1), np.array([ROWS]), False, chains._limit).gradients
        return 1e6 * (time.process_time() - began) / steps, steps / ROWS

    def bare(self) -> Any:
        """A function that takes the time of a leapfrog of the bare loop, in microseconds."""
        target = self.target

        def loop(q: jax.Array, step: jax.Array, count: jax.Array, inputs: Any) -> jax.Array:
            def further(state: tuple) -> tuple:
                n, q, p, g, total = state
                p = p + 0.5 * step * g
                q = q + step * p
                value, g = target.value_and_grad_in_loop(q, inputs)
                return n + 1, q, p + 0.5 * step * g, g, total + value

            return lax.while_loop(lambda s: s[0] < count, further, (0, q, q * 0 + 1.0, q * 0, q[0] * 0))[-1]

        with target.precision():
            q = self.chains.states.q[0]
            program = jax.jit(loop).lower(q, 1e-4, 1, target.loop_inputs).compile(compiler_options=target._options())

        def timed() -> float:
            with target.precision():
                began = time.process_time()
                program(q, 1e-4, BARE_STEPS, target.loop_inputs).block_until_ready()
                return 1e6 * (time.process_time() - began) / BARE_STEPS

        return timed


def rows(name: str, repeat: int) -> list[str]:
    sampled = Sampled(models_numpyro.MODELS[name], data.MODELS[name][0]())
    bare = sampled.bare()
    turns = [(bare(), *sampled.block()) for _ in range(repeat)]
    bare_us, block_us, steps = np.median(turns, axis=0)
    controls = ("progress", "rule", "checkpoint")
    kinds = [(), *((control,) for control in controls), controls]
    spent = [[sampled.controlled(**dict.fromkeys(kind, True)) for kind in kinds] for _ in range(repeat)]
    plain, *others = np.median(spent, axis=0)
    limit = 2 if bare_us >= 5 else 5
    state = "met" if block_us <= limit * bare_us else "**missed**"
    line = (
        f"| {name} | {sampled.target.dim} | {bare_us:.2f} | {block_us:.2f} | {block_us / bare_us:.2f} | <= {limit} |"
        f" {state} | {steps:.1f} | {plain:.3f} | {' | '.join(f'{1e3 * (other - plain):.0f}' for other in others)} |"
        f" {others[-1] / plain - 1:+.1%} | {'met' if others[-1] <= 1.03 * plain else '**missed**'} |"
    )
    return [line]


def main(arguments: list[str] | None = None) -> None:
    words = (
        "The first lines of the module say what is compared. The goal of the overhead is 3%. The columns before it say"
        " what it is made of: most are the looks of a rule that is never met, at 100, 300, 900 and 1,000 draws, whose"
        " cost does not depend on that of a gradient, so that short runs miss the goal and long ones meet it."
        " Block less bare is what the tree costs: turns, sums and random words, much the same for every small model."
    )
    measure_table("benchmarks.loop", TITLE, HEADER, MODELS, rows, words, repeat=9, arguments=arguments)


if __name__ == "__main__":
    main()
