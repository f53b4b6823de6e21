"""Variational inference next to NumPyro's SVI and PyMC's ADVI: seconds to the same evidence lower bound.

    python -m benchmarks.variational [--repeat 3] [--rows 100000] [--small | --large] [--dry]

probinfer's bound is that of its optimum. NumPyro (AutoDiagonalNormal and AutoMultivariateNormal, Adam with step 0.01,
one particle, in this process, single precision as is its default) runs in blocks of 500 steps until its bound is within
0.1 nats of it, 50,000 steps at most; measuring its bound does not count. PyMC (ADVI and FullRankADVI, Adam with step
0.01, in the environment of nutpie) goes the same way in a process of its own, double precision. First call: compilation
included. Later calls: the same again in the same process. Writes a section of RESULTS.md unless --dry.

The second section is a logistic regression with `--rows` rows and 20 predictors, full-rank: probinfer with all rows,
with 500 rows a step, and NumPyro with a subsampling plate of 500 rows (Adam with step 0.002, its full-rank guide), in
turns. Bounds are measured in the same way, with all rows at 200 draws of each law, which does not count; nor do
probinfer's own weights, which NumPyro has none of, but they are shown.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO, autoguide
from numpyro.optim import Adam

import probinfer as pi
from benchmarks.peers.data import MODELS as DATA
from benchmarks.peers.models_numpyro import MODELS
from benchmarks.results import circumstances, write_section

TITLE = "Variational inference next to NumPyro's SVI and PyMC's ADVI"
PEERS = Path(__file__).parent / "peers"
ROWS_TITLE = "Variational inference from minibatches next to NumPyro's SVI with a subsampling plate"
NAMES = ("eight_schools", "logistic_1k", "radon")
FAMILIES = (
    (pi.MeanField, autoguide.AutoDiagonalNormal),
    (pi.FullRank, autoguide.AutoMultivariateNormal),
)
BLOCK, MOST, NEAR = 500, 50_000, 0.1
PREDICTORS, BATCH, CHECKED = 20, 500, 200
PATIENCE = 30.0  # seconds after which NumPyro's bound is taken as it is


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


class PyMC:
    """PyMC's ADVI on one model and family, in a process of its own."""

    def __init__(self, name: str, method: Any) -> None:
        python, script = PEERS / ".envs" / "nutpie" / "bin" / "python", PEERS / "peer_pymc_vi.py"
        self._process = subprocess.Popen(
            [str(python), str(script), name, method.__name__.lower()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PEERS)},
        )

    def __call__(self, wanted: float, seed: int) -> tuple[float, float, int]:
        """As `Peer`."""
        self._process.stdin.write(f"{seed} {wanted} {NEAR} {MOST}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["bound"], answer["steps"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)


def measure(name: str, method: Any, guide: Any, repeat: int) -> list[str]:
    """Rows of the table, one for each peer."""
    pymc = PyMC(name, method)
    peers = {"NumPyro": Peer(name, guide), "PyMC": pymc}
    ours, theirs = [], {peer: [] for peer in peers}
    for seed in range(repeat + 1):
        ours.append(probinfer(name, method, seed))
        for peer, run in peers.items():
            theirs[peer].append(run(ours[-1][1], seed))
    pymc.close()
    later = slice(1, None)
    own, shape = (float(np.median([run[i] for run in ours[later]])) for i in (0, 2))
    lines = []
    for peer, runs in theirs.items():
        seconds = float(np.median([run[0] for run in runs[later]]))
        ratio = float(np.median([run[0] / mine[0] for run, mine in zip(runs[later], ours[later], strict=True)]))
        reached = sum(run[1] >= mine[1] - NEAR for run, mine in zip(runs[later], ours[later], strict=True))
        steps = int(np.median([run[2] for run in runs[later]]))
        lines.append(
            f"| {name} | {method.__name__} | {peer} | {ours[0][0]:.2f} | {runs[0][0]:.2f} | {own:.3f} | {seconds:.3f} |"
            f" {ratio:.1f} | {ours[-1][1]:.2f} | {runs[-1][1]:.2f} | {reached} of {repeat} | {steps} | {shape:.2f} |"
        )
    return lines


def many_rows(rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(rows, PREDICTORS))
    slopes = generator.normal(size=PREDICTORS) / 2
    return {"x": x, "y": (generator.random(rows) < 1 / (1 + np.exp(0.5 - x @ slopes))).astype(int)}


def logistic(x: Any, y: Any = None, batch: int | None = None) -> None:
    """With `batch`, NumPyro's estimate from so many rows."""
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 2.5))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([PREDICTORS]).to_event(1))
    with numpyro.plate("row", x.shape[0], subsample_size=batch) as chosen:
        x, y = (x, y) if batch is None else (x[chosen], y[chosen])
        numpyro.sample("y", dist.Bernoulli(logits=alpha + x @ beta), obs=y)


class Subsampled:
    """NumPyro's SVI with a subsampling plate; its compiled block is kept, as its users would."""

    def __init__(self, data: dict[str, np.ndarray]) -> None:
        self.data = {name: jnp.asarray(value, None if name == "y" else float) for name, value in data.items()}
        self.guide = autoguide.AutoMultivariateNormal(lambda x, y=None: logistic(x, y, BATCH))
        self.svi = SVI(lambda x, y=None: logistic(x, y, BATCH), self.guide, Adam(0.002), Trace_ELBO())
        self.state = self.svi.init(jax.random.key(0), **self.data)

        def block(state: Any, data: Any) -> Any:
            return jax.lax.fori_loop(0, BLOCK, lambda _, s: self.svi.update(s, **data)[0], state)

        def bound(key: Any, params: Any, data: Any) -> Any:
            one = Trace_ELBO()
            return jnp.mean(
                jax.lax.map(
                    lambda key: -one.loss(key, params, logistic, self.guide, **data), jax.random.split(key, CHECKED)
                )
            )

        self.block, self.bound = jax.jit(block), jax.jit(bound)

    def __call__(self, wanted: float, seed: int, patience: float) -> tuple[float, float, int]:
        """Seconds to within NEAR of the wanted bound, the bound, steps; given up after `patience` seconds."""
        state = self.svi.init(jax.random.key(seed), **self.data)
        began, measuring, steps, bound = time.perf_counter(), 0.0, 0, -np.inf
        while time.perf_counter() - began - measuring < patience and not bound >= wanted - NEAR:
            state = jax.block_until_ready(self.block(state, self.data))
            steps += BLOCK
            paused = time.perf_counter()
            bound = float(self.bound(jax.random.key(1000 + steps), self.svi.get_params(state), self.data))
            measuring += time.perf_counter() - paused
        return time.perf_counter() - began - measuring, bound, steps


def measure_rows(rows: int, repeat: int) -> list[str]:
    """Rows of the second table."""
    data = many_rows(rows)
    peer = Subsampled(data)
    methods = {
        "all rows": pi.FullRank(draws=CHECKED),
        f"{BATCH} rows a step": pi.FullRank(minibatch=BATCH, draws=CHECKED),
    }
    found: dict[str, list[tuple]] = {name: [] for name in (*methods, "NumPyro")}
    for seed in range(repeat + 1):
        for name, method in methods.items():
            if name == "all rows" and seed > 1:
                continue  # a run takes as long as all others together
            posterior = pi.infer(logistic, data, method, seed=seed, progress=False)
            attrs, spent = posterior.tree.attrs, json.loads(posterior.tree.attrs["seconds"])
            fit = float(spent["trace"] + spent["fit"])
            found[name].append((fit, float(attrs["elbo"]), int(attrs.get("steps", 0)), float(spent["sampling"])))
            print(name, found[name][-1], flush=True)
        found["NumPyro"].append((*peer(found[f"{BATCH} rows a step"][-1][1], seed, PATIENCE), 0.0))
        print("NumPyro", found["NumPyro"][-1], flush=True)
    wanted = float(np.median([run[1] for run in found[f"{BATCH} rows a step"]]))
    lines = []
    for name, runs in found.items():
        later = runs[1:]
        reached = sum(run[1] >= wanted - NEAR for run in later)
        seconds, bound, steps, weights = (float(np.median([run[i] for run in later])) for i in range(4))
        lines.append(
            f"| {name} | {runs[0][0]:.2f} | {seconds:.2f} | {weights:.2f} | {bound:.2f} | {reached} of {len(later)} | "
            f"{steps:.0f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variational", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--small", action="store_true", help="the first section only")
    parser.add_argument("--large", action="store_true", help="the second section only")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    if not options.large:
        small(options)
    if not options.small:
        large(options)


def small(options: argparse.Namespace) -> None:
    """The section of small models."""
    rows = []
    for name in NAMES:
        for method, guide in FAMILIES:
            rows += measure(name, method, guide, options.repeat)
            print("\n".join(rows[-2:]), flush=True)
    columns = (
        "model",
        "family",
        "peer",
        "ours, first call s",
        "the peer's, first call s",
        "ours, later s",
        "the peer's, later s",
        "times faster",
        "our bound",
        "the peer's bound",
        "reached",
        "the peer's steps",
        "our k-hat",
    )
    header = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    body = [
        f"`python -m benchmarks.variational --repeat {options.repeat}`",
        circumstances("probinfer", "jax", "numpyro"),
        f"Seconds until the peer's bound is within {NEAR} nats of ours, {MOST} steps at most; medians of "
        f"{options.repeat} runs in turns after the first. Ours include two to six fits until they agree, 4,000 draws, "
        "weights and the report, which peers have none of: on a small model these take most of the time. A peer's "
        "bound is that of its last iterate. Where k-hat is above 0.7 the family does "
        "not fit the posterior, and the verdict is BAD.",
        "\n".join([header, *rows]),
    ]
    if not options.dry:
        write_section(TITLE, "\n\n".join(body))


def large(options: argparse.Namespace) -> None:
    """The section of many rows."""
    lines = measure_rows(options.rows, options.repeat)
    columns = ("full-rank", "first call s", "later s", "weights s", "bound", "reached", "steps")
    header = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    body = [
        f"`python -m benchmarks.variational --large --rows {options.rows} --repeat {options.repeat}`",
        circumstances("probinfer", "jax", "numpyro"),
        f"Logistic regression, {options.rows} rows, {PREDICTORS} predictors. Seconds until the bound is within {NEAR} "
        f"nats of that of {BATCH} rows a step, {PATIENCE:.0f} at most for NumPyro; medians of {options.repeat} runs in "
        "turns after the first, of all rows one run. probinfer "
        f"computes in double precision, NumPyro in single. Weights of {CHECKED} draws, which the verdict comes from, "
        "take all rows and are in a column of their own.",
        "\n".join([header, *lines]),
    ]
    if not options.dry:
        write_section(ROWS_TITLE, "\n\n".join(body))


if __name__ == "__main__":
    main()
