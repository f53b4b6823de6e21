"""Variational inference next to NumPyro's SVI: seconds to the same evidence lower bound.

    python -m benchmarks.variational [--repeat 3] [--dry]

probinfer's bound is that of its optimum. NumPyro (AutoDiagonalNormal and AutoMultivariateNormal, Adam with step 0.01,
one particle, in this process, single precision as is its default) runs in blocks of 500 steps until its bound is within
0.1 nats of it, 50,000 steps at most; measuring its bound does not count. First call: compilation included. Second
call: the same again in the same process. Writes a section of RESULTS.md unless --dry.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np
from numpyro.infer import SVI, Trace_ELBO, autoguide
from numpyro.optim import Adam

import probinfer as pi
from benchmarks.peers.data import MODELS as DATA
from benchmarks.peers.models_numpyro import MODELS
from benchmarks.results import circumstances, write_section

TITLE = "Variational inference next to NumPyro's SVI"
NAMES = ("eight_schools", "logistic_1k", "radon")
FAMILIES = (
    (pi.MeanField, autoguide.AutoDiagonalNormal),
    (pi.FullRank, autoguide.AutoMultivariateNormal),
)
BLOCK, MOST, NEAR = 500, 50_000, 0.1


def probinfer(name: str, method: Any, seed: int) -> tuple[float, float, float]:
    """Seconds, bound, Pareto shape."""
    began = time.perf_counter()
    posterior = pi.infer(MODELS[name], DATA[name][0](), method(), seed=seed, progress=False)
    attrs = posterior.tree.attrs
    return time.perf_counter() - began, float(attrs["elbo"]), float(attrs["pareto_khat"])


class Peer:
    """NumPyro's SVI on one model and family; its compiled block is kept, as its users would."""

    def __init__(self, name: str, guide: Any) -> None:
        self.data = DATA[name][0]()
        model = MODELS[name]
        self.guide = guide(model)
        self.svi = SVI(model, self.guide, Adam(0.01), Trace_ELBO())
        self.bound = jax.jit(lambda key, params: -Trace_ELBO(4000).loss(key, params, model, self.guide, **self.data))

        def block(state: Any) -> Any:
            return jax.lax.fori_loop(0, BLOCK, lambda _, s: self.svi.update(s, **self.data)[0], state)

        self.block = jax.jit(block)

    def __call__(self, wanted: float, seed: int) -> tuple[float, float, int]:
        """Seconds to within NEAR of the wanted bound, the bound, steps."""
        began, measuring, steps, bound = time.perf_counter(), 0.0, 0, -np.inf
        state = self.svi.init(jax.random.key(seed), **self.data)
        while steps < MOST and not bound >= wanted - NEAR:
            state = jax.block_until_ready(self.block(state))
            steps += BLOCK
            paused = time.perf_counter()
            bound = float(self.bound(jax.random.key(1000 + steps), self.svi.get_params(state)))
            measuring += time.perf_counter() - paused
        return time.perf_counter() - began - measuring, bound, steps


def measure(name: str, method: Any, guide: Any, repeat: int) -> str:
    """A row of the table."""
    peer = Peer(name, guide)
    ours, theirs, ratios = [], [], []
    for seed in range(repeat + 1):
        ours.append(probinfer(name, method, seed))
        theirs.append(peer(ours[-1][1], seed))
        ratios.append(theirs[-1][0] / ours[-1][0])
    later = slice(1, None)
    seconds = [float(np.median([run[0] for run in runs[later]])) for runs in (ours, theirs)]
    reached = sum(run[1] >= own[1] - NEAR for run, own in zip(theirs[later], ours[later], strict=True))
    steps = int(np.median([run[2] for run in theirs[later]]))
    shape = float(np.median([run[2] for run in ours[later]]))
    return (
        f"| {name} | {method.__name__} | {ours[0][0]:.2f} | {theirs[0][0]:.2f} | {seconds[0]:.3f} | {seconds[1]:.3f} | "
        f"{float(np.median(ratios[later])):.1f} | {ours[-1][1]:.2f} | {theirs[-1][1]:.2f} | {reached} of {repeat} | "
        f"{steps} | {shape:.2f} |"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variational", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    rows = []
    for name in NAMES:
        for method, guide in FAMILIES:
            rows.append(measure(name, method, guide, options.repeat))
            print(rows[-1], flush=True)
    columns = (
        "model",
        "family",
        "ours, first call s",
        "NumPyro, first call s",
        "ours, later s",
        "NumPyro, later s",
        "times faster",
        "our bound",
        "NumPyro's bound",
        "reached",
        "NumPyro's steps",
        "our k-hat",
    )
    header = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    body = [
        f"`python -m benchmarks.variational --repeat {options.repeat}`",
        circumstances("probinfer", "jax", "numpyro") + " The machine was shared with other work.",
        f"Seconds until NumPyro's bound is within {NEAR} nats of ours, {MOST} steps at most; medians of "
        f"{options.repeat} runs in turns after the first. Ours include two to six fits until they agree, 4,000 draws, "
        "weights and the report. NumPyro's bound is that of its last iterate. Where k-hat is above 0.7 the family does "
        "not fit the posterior, and the verdict is BAD.",
        "\n".join([header, *rows]),
    ]
    if not options.dry:
        write_section(TITLE, "\n\n".join(body))


if __name__ == "__main__":
    main()
