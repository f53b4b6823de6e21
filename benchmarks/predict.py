"""Prediction: one row, 1,000 rows, a table of a million rows, a fresh process, and the artifact's size, next to peers.

    sh benchmarks/peers/install.sh bambi        # optional: PyMC and Bambi
    python -m benchmarks.predict [--repeat 7] [--heavy] [--dry]

The posteriors are given: 4,000 draws of a linear and of a logistic regression with 20 features, so that everybody
answers from the same draws. Everybody gives mean, sd, a 90% interval and three quantiles of each row; ours are
exact and have the epistemic and aleatoric parts besides, those of the peers are of one predictive draw for each
posterior draw.
--heavy adds a million rows (minutes), once with all summaries and once with mean and sd alone, in a process of its own,
whose largest memory is told. Writes a section of RESULTS.md unless --dry.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Predictive
from scipy.special import expit

import probinfer as pi
from benchmarks.results import circumstances, write_section
from probinfer.errors import ProbinferError
from probinfer.predict.engine import Engine
from probinfer.predict.predictor import Predictor
from tests.predict.fits import fitted

PEERS = Path(__file__).parent / "peers"
TITLE = "Prediction next to NumPyro, PyMC and Bambi"
DRAWS, FEATURES, TRAINING = 4000, 20, 1000
LEVELS = (0.05, 0.5, 0.95)
ROWS = (1, 1000)


def linear(X, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def logistic(X, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)


MODELS = {"linear": linear, "logistic": logistic}


class Found(NamedTuple):
    """What was measured of a model.

    medians   seconds, by peer and number of rows
    tail      99th percentile over median of our calls with one row
    fewer     draws before compressing to 1% over those after
    crps      mean CRPS of 500 new rows after compressing over that before; of yes and no it is the Brier score
    """

    medians: dict[tuple[str, int], float]
    tail: float
    fewer: float
    crps: float


def posterior(name: str) -> tuple[dict, dict]:
    """Data, and draws of the normal approximation of the posterior."""
    rng = np.random.default_rng(0)
    X, truth = rng.normal(size=(TRAINING, FEATURES)), rng.normal(scale=0.5, size=FEATURES)
    chance = expit(X @ truth)
    weights = chance * (1 - chance) if name == "logistic" else np.ones(TRAINING)
    covariance = np.linalg.inv(X.T @ (X * weights[:, None]) + np.eye(FEATURES))
    latents = {"beta": truth + rng.normal(size=(DRAWS, FEATURES)) @ np.linalg.cholesky(covariance).T}
    if name == "logistic":
        return {"X": X, "y": (rng.random(TRAINING) < chance).astype(int)}, latents
    latents["sigma"] = np.exp(rng.normal(scale=0.02, size=DRAWS))
    return {"X": X, "y": X @ truth + rng.normal(size=TRAINING)}, latents


def numpyro_predictive(name: str, latents: dict) -> Callable:
    """As its documentation shows it, with the summaries by NumPy."""
    samples = {k: jnp.asarray(v, jnp.float32) for k, v in latents.items()}
    predictive = Predictive(MODELS[name], samples)

    def predict(X: np.ndarray) -> np.ndarray:
        drawn = np.asarray(predictive(jax.random.key(0), X=jnp.asarray(X, jnp.float32))["y"])
        return np.stack([drawn.mean(0), drawn.std(0), *np.quantile(drawn, LEVELS, axis=0)])

    return predict


def numpyro_jitted(name: str, latents: dict) -> Callable:
    """By hand inside one jit, summaries too: what a careful user gets."""
    samples = {k: jnp.asarray(v, jnp.float32) for k, v in latents.items()}
    predictive = Predictive(MODELS[name], samples)

    @jax.jit
    def run(key: jax.Array, X: jax.Array) -> jax.Array:
        drawn = predictive(key, X=X)["y"].astype(float)
        return jnp.concatenate(
            [drawn.mean(0)[None], drawn.std(0)[None], jnp.quantile(drawn, jnp.array(LEVELS), axis=0)]
        )

    return lambda X: np.asarray(run(jax.random.key(0), jnp.asarray(X, jnp.float32)))


def ours(predictor: Predictor) -> Callable:
    return lambda X: predictor.predict({"X": X}, level=0.9, quantiles=LEVELS)


def times(call: Callable, X: np.ndarray, repeat: int, longest: float = 20.0) -> np.ndarray:
    """Seconds of each call, warm; stops early when they take too long."""
    call(X)
    call(X)
    found, began = [], time.perf_counter()
    while len(found) < repeat and (len(found) < 3 or time.perf_counter() - began < longest):
        start = time.perf_counter()
        call(X)
        found.append(time.perf_counter() - start)
    return np.array(found)


def crps_of(name: str, predictors: list[Predictor], count: int = 500) -> list[float]:
    """The mean CRPS of each predictor, of the same new rows with outcomes of the true coefficients."""
    rng = np.random.default_rng(0)
    rng.normal(size=(TRAINING, FEATURES))  # as in `posterior`
    truth = rng.normal(scale=0.5, size=FEATURES)
    rng = np.random.default_rng(5)
    X = rng.normal(size=(count, FEATURES))
    if name == "logistic":
        y = rng.random(count) < expit(X @ truth)
        return [float(np.mean((predictor.predict({"X": X}).mean - y) ** 2)) for predictor in predictors]
    y = X @ truth + rng.normal(size=count)
    return [pi.metrics(predictor, {"X": X}, y)["crps"].value for predictor in predictors]


def measured(name: str, repeat: int) -> tuple[list[str], Found]:
    """Rows of the table, and what the goals are about."""
    data, latents = posterior(name)
    predictor = fitted(MODELS[name], data, latents, chains=4)
    small = predictor.compress({"X": data["X"]})
    callers = {
        "probinfer": ours(predictor),
        f"probinfer, compressed to {small.program.size} draws": ours(small),
        "NumPyro Predictive": numpyro_predictive(name, latents),
        "NumPyro in one jit": numpyro_jitted(name, latents),
    }
    lines, medians, tail = [], {}, np.nan
    for count in ROWS:
        X = np.random.default_rng(1).normal(size=(count, FEATURES))
        found = {label: times(call, X, 200 * repeat if count == 1 else repeat) for label, call in callers.items()}
        if count == 1:
            tail = float(np.quantile(found["probinfer"], 0.99) / np.median(found["probinfer"]))
        for label, seconds in found.items():
            medians[label.partition(",")[0] if "compressed" not in label else "compressed", count] = np.median(seconds)
            p99 = f"{1e3 * np.quantile(seconds, 0.99):.3g}" if len(seconds) >= 100 else ""
            lines.append(f"| {name} | {count:,} | {label} | {1e3 * np.median(seconds):.3g} | {p99} |")
    for label, count, seconds in peer_times(name):
        medians[label, count] = seconds
        lines.append(f"| {name} | {count:,} | {label} | {1e3 * seconds:.3g} | |")
    before, after = crps_of(name, [predictor, small])
    return lines, Found(medians, tail, predictor.program.size / small.program.size, after / before)


def peer_times(name: str) -> list[tuple[str, int, float]]:
    """PyMC and Bambi, in their environment; none if it is not installed."""
    python = PEERS / ".envs" / "bambi" / "bin" / "python"
    if not python.exists():
        return []
    data, latents = posterior(name)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/given.npz", **data, **{f"draw {k}": v for k, v in latents.items()})
        command = [str(python), str(PEERS / "peer_bambi.py"), f"{folder}/given.npz", name, *map(str, ROWS)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if result.returncode != 0:
        print(result.stderr[-2000:], file=sys.stderr)
        return []
    return [tuple(entry) for entry in json.loads(result.stdout.splitlines()[-1])]


FRESH = """
import sys, time
began = time.perf_counter()
import jax
imported = time.perf_counter()
from probinfer import load_predictor
import numpy as np
load_predictor(sys.argv[1]).predict({"X": np.zeros((1, 20))})
answered = time.perf_counter()
assert "numpyro" not in sys.modules
print(imported - began, answered - began)
"""


def fresh_process(repeat: int) -> tuple[float, float, float]:
    """Seconds of importing jax, and to the first answer with warm caches; artifact bytes over float32 draws."""
    data, latents = posterior("linear")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictor"
        fitted(linear, data, latents, chains=4).round({"X": data["X"]}).save(path)
        size = sum(file.stat().st_size for file in path.iterdir()) / sum(v.size * 4 for v in latents.values())
        runs = []
        for _ in range(repeat + 1):
            command = [sys.executable, "-c", FRESH, str(path)]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append([float(word) for word in result.stdout.split()])
    imported, answered = np.median(runs[1:], axis=0)
    return imported, answered, size


def heavy_in_its_own_process(rows: int) -> list[str]:
    """`heavy`, where nothing else has taken memory before."""
    command = [sys.executable, "-m", "benchmarks.predict", "--heavy-job", str(rows)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    return result.stdout.strip().splitlines()


def heavy(rows: int) -> list[str]:
    """All summaries against mean and sd alone, and the largest memory of the process."""
    data, latents = posterior("logistic")
    engine = Engine(fitted(logistic, data, latents, chains=4).program)
    X = np.random.default_rng(2).normal(size=(rows, FEATURES))
    hashes, lines, seconds = np.zeros(rows, np.uint32), [], {}
    for label, levels in (("mean and sd", ()), ("all summaries", (0.05, 0.95, *LEVELS))):
        engine.summarise({"X": X[:2048]}, hashes[:2048], np.array(levels))
        began = time.perf_counter()
        engine.summarise({"X": X}, hashes, np.array(levels))
        seconds[label] = time.perf_counter() - began
        lines.append(f"| logistic | {rows:,} | {label} | {seconds[label]:.1f} s | |")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ratio = seconds["all summaries"] / seconds["mean and sd"]
    return [
        *lines,
        f"| logistic | {rows:,} | ratio {ratio:.2f} (goal <= 1.5); largest memory {most:.2f} GB (goal < 1) | | |",
    ]


def goals(found: dict[str, Found], process: tuple[float, float, float]) -> list[str]:
    imported, answered, size = process
    rows = []
    for name, (medians, tail, fewer, crps) in found.items():
        rows.append((f"{name}, one row: 99th percentile over median", tail, 3, False))
        rows.append((f"{name}: draws over those compressed to 1% (CRPS times {crps:.5f})", fewer, 10, True))
        rows.append(
            (
                f"{name}, one row: NumPyro Predictive over ours",
                medians["NumPyro Predictive", 1] / medians["probinfer", 1],
                300,
                True,
            )
        )
        if ("Bambi", 1) in medians:
            rows.append((f"{name}, one row: Bambi over ours", medians["Bambi", 1] / medians["probinfer", 1], 500, True))
        peers = [
            seconds
            for (label, count), seconds in medians.items()
            if count == 1000 and label not in ("probinfer", "compressed")
        ]
        rows.append((f"{name}, 1,000 rows: the best peer over ours", min(peers) / medians["probinfer", 1000], 10, True))
    rows.append(
        (
            f"fresh process: first answer ({answered:.2f} s) over importing jax ({imported:.2f} s)",
            answered / imported,
            2,
            False,
        )
    )
    rows.append(("artifact bytes over those of its draws as float32", size, 1.1, False))
    lines = []
    for what, value, goal, least in rows:
        met = value >= goal if least else value <= goal
        lines.append(f"| {what} | {value:.3g} | {'>=' if least else '<='} {goal} | {'met' if met else '**missed**'} |")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--heavy", action="store_true", help="a million rows too: minutes")
    parser.add_argument("--heavy-job", type=int, metavar="ROWS", help="that alone: its part of the table")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of --heavy")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    if options.heavy_job is not None:
        print("\n".join(heavy(options.heavy_job)))
        return
    lines, found = [], {}
    for name in MODELS:
        new, found[name] = measured(name, options.repeat)
        lines += new
        print("\n".join(new), flush=True)
    if options.heavy:
        lines += heavy_in_its_own_process(options.rows)
        print("\n".join(lines[-3:]), flush=True)
    ends = goals(found, fresh_process(min(options.repeat, 5)))
    print("\n".join(ends))
    body = [
        f"`python -m benchmarks.predict --repeat {options.repeat}{' --heavy' if options.heavy else ''}`",
        circumstances("probinfer", "jax", "numpyro"),
        f"{DRAWS:,} draws, {FEATURES} features; mean, sd, 90% interval and quantiles at {LEVELS}; warm, in process. "
        "Peers answer from one predictive draw for each posterior draw, NumPyro in float32, ours exactly in float64.",
        "| model | rows | by | median ms | p99 ms |\n|---|---|---|---|---|\n" + "\n".join(lines),
        "| | ratio | goal | |\n|---|---|---|---|\n" + "\n".join(ends),
    ]
    if not options.dry:
        write_section(TITLE, "\n\n".join(body))


if __name__ == "__main__":
    try:
        main()
    except ProbinferError as error:
        raise SystemExit(str(error)) from None
