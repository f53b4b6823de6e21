"""NUTS of probinfer next to NumPyro, PyMC + nutpie, Stan and BlackJAX: the same models and data, in turns, in one run.

    sh benchmarks/peers/install.sh
    python -m benchmarks.nuts [--heavy] [--only MODEL ...] [--peers PEER ...] [--repeat 3] [--dry]

Each peer has an environment and, for each model, a process of its own, which first compiles in a call that is not
counted and then draws when it is its turn. The effective sample sizes, tail and bulk, are computed here for everybody.
A peer that cannot run a model, or takes longer than LIMIT for a call, is recorded as failing. The models that take
minutes have a section of their own, written with --heavy. Writes a section of RESULTS.md unless --dry, --only or
--peers.
"""

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from arviz_stats.base import array_stats

from benchmarks.results import circumstances, write_section

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
NAMES = ["probinfer", "nutpie", "numpyro", "numpyro_run", "stan", "blackjax"]
RUN_AGAIN = "numpyro_run"  # NumPyro as it is used: MCMC.run on one object again and again
MODELS = [
    "eight_schools",
    "logistic_1k",
    "logistic_100k",
    "radon",
    "ar1_200",
    "ar1_1000",
    "gp",
    "ode",
    "volatility",
    "volatility_centred",
    "mixture",
    "eight_schools_centred",
]
WHOLE = ["eight_schools", "radon", "logistic_1k"]
HEAVY = ["ode", "volatility", "volatility_centred", "ar1_1000", "logistic_100k"]  # one run each
HEAVY_PEERS = ["nutpie", "numpyro", "blackjax"]
ESS_ONLY = {"eight_schools_centred"}  # nobody is right here: shown, and in no mean
TRUTH = {"ar1_200", "ar1_1000"}  # every mean is 0
LIMIT, MAX_Z, MIN_ESS = 120.0, 4.0, 100.0
PROCESSES = 1  # whole processes of each kind: they take long
TITLE = "Speed: NUTS next to NumPyro, nutpie, Stan and BlackJAX"
HEAVY_TITLE = "Speed: NUTS on models that take minutes"


def environment(caches: str) -> dict[str, str]:
    """Every cache that outlives a process is in this folder; JAX's own is off, as it is by default."""
    settings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PROBINFER_CACHE": f"{caches}/probinfer",
        "PYTENSOR_FLAGS": f"base_compiledir={caches}/pytensor",
        "NUMBA_CACHE_DIR": f"{caches}/numba",
        "XDG_CACHE_HOME": f"{caches}/stan",
    }
    settings.pop("JAX_COMPILATION_CACHE_DIR", None)
    return settings


def command(peer: str, model: str, *flags: str, script: str = "peer") -> list[str]:
    if peer == RUN_AGAIN:
        peer, flags = "numpyro", (*flags, "--plain")
    python = sys.executable if peer == "probinfer" else str(PEERS / ".envs" / peer / "bin" / "python")
    return [python, str(PEERS / f"{script}_{peer}.py"), model, *flags]


class Worker:
    """A peer's process for one model; `failure` says why it ended before its time."""

    def __init__(
        self,
        peer: str,
        model: str,
        folder: str,
        *flags: str,
        script: str = "peer",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.failure = ""
        self._errors = Path(folder) / f"{'_'.join((peer, *flags))}.err"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                command(peer, model, *flags, script=script),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Stan takes a minute or more to compile, which is not counted here: once for all runs.
                env=environment(folder)
                | {"XDG_CACHE_HOME": str(PEERS / ".envs" / "stan" / "programs"), **(settings or {})},
            )

    def compile(self) -> tuple[float, float]:
        """Wait for the call that compiles, which began with the process; its seconds and those of the processor, NaN
        when it failed."""
        answer = self._answer()
        return (np.nan, np.nan) if answer is None else (answer["first"], answer["first_cpu"])

    def draw(self, seed: int, path: Path) -> dict | None:
        """Its figures; the draws are then in the file. None when it has failed."""
        if self.failure:
            return None
        self._process.stdin.write(f"{seed} {path}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict | None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ready = selector.select(LIMIT)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        last = [line for line in self._errors.read_text().splitlines() if line.strip()][-1:]
        self.failure = f"over {LIMIT:.0f} s" if not ready else "failed: " + "".join(last)[:150]
        self._process.kill()
        return None

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


def scalars(path: Path) -> dict[str, np.ndarray]:
    """Draws (chain, draw) of every latent scalar."""
    with np.load(path, allow_pickle=False) as file:
        flat = {name: file[name].reshape(*file[name].shape[:2], -1) for name in file.files}
    return {f"{name}[{i}]": values[..., i] for name, values in flat.items() for i in range(values.shape[-1])}


def smallest_ess(draws: dict[str, np.ndarray]) -> float:
    methods = ({"method": "bulk"}, {"method": "tail", "prob": (0.05, 0.95)})
    return min(
        float(array_stats.ess(values, chain_axis=0, draw_axis=1, **method))
        for values in draws.values()
        for method in methods
    )


def means(runs: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Monte Carlo variance of every scalar over runs."""
    each = np.array([[values.mean() for values in draws.values()] for draws in runs])
    errors = [
        [float(array_stats.mcse(values, chain_axis=0, draw_axis=1, method="mean")) for values in draws.values()]
        for draws in runs
    ]
    return each.mean(0), np.square(errors).sum(0) / len(runs) ** 2


def largest_z(model: str, peer: str, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> float:
    """Of the peer's means against the mean of the other peers' means; against the truth where it is known."""
    mean, variance = found[peer]
    if model in TRUTH:
        return float(np.max(np.abs(mean) / np.sqrt(variance)))
    others = [values for other, values in found.items() if other != peer]
    if not others:
        return np.nan
    reference = np.mean([other for other, _ in others], axis=0)
    joint = variance + np.sum([errors for _, errors in others], axis=0) / len(others) ** 2
    return float(np.max(np.abs(mean - reference) / np.sqrt(joint)))


def measure(model: str, peers: list[str], repeat: int) -> dict[str, dict]:
    """Medians over the runs for each peer, or {"failure": why}."""
    runs: dict[str, list[dict]] = {peer: [] for peer in peers}
    draws: dict[str, list] = {peer: [] for peer in peers}
    with tempfile.TemporaryDirectory() as folder:
        workers = {}
        for peer in peers:
            workers[peer] = Worker(peer, model, folder)
            if model in HEAVY:  # whose first calls, side by side, would take longer than LIMIT
                workers[peer].compile()
        if model not in HEAVY:
            for worker in workers.values():
                worker.compile()
        for seed in range(1, repeat + 1):
            for peer, worker in workers.items():
                path = Path(folder) / f"{peer}.npz"
                figures = worker.draw(seed, path)
                if figures is not None:
                    draws[peer].append(scalars(path))
                    runs[peer].append({**figures, "ess": smallest_ess(draws[peer][-1])})
        for worker in workers.values():
            worker.close()
    found = {peer: means(draws[peer]) for peer in peers if draws[peer]}
    result = {}
    for peer in peers:
        if len(runs[peer]) < repeat:
            result[peer] = {"failure": workers[peer].failure}
            continue

        def middle(figure, peer=peer):
            return float(np.median([figure(run) for run in runs[peer]]))

        z = largest_z(model, peer, found)
        result[peer] = {
            "ess": middle(lambda run: run["ess"]),
            "seconds": middle(lambda run: run["seconds"]),
            "call": middle(lambda run: run["call"]),
            "rate": middle(lambda run: run["ess"] / run["seconds"]),
            "call_rate": middle(lambda run: run["ess"] / run["call"]),
            "steps": middle(lambda run: run["steps"]),
            "total": middle(lambda run: run["steps"] + run["warmup_steps"]),
            "step_us": middle(lambda run: 1e6 * run["seconds"] / (run["steps"] + run["warmup_steps"])),
            "per_ess": middle(lambda run: (run["steps"] + run["warmup_steps"]) / run["ess"]),
            "to_400": middle(lambda run: 400 * run["steps"] / run["ess"]),
            "memory": middle(lambda run: run["memory"]),
            "z": z,
            "verdict": "/".join(run["verdict"] for run in runs[peer]) if peer == "probinfer" else "",
            "counts": bool(z <= MAX_Z) and middle(lambda run: run["ess"]) >= MIN_ESS and model not in ESS_ONLY,
        }
    return result


HEADER = (
    "| model | sampler | min ESS | seconds: sampler / call | min ESS/s | leapfrogs after warm-up | with warm-up |"
    " µs per leapfrog | leapfrogs to ESS 400 | max abs z | peak MB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def rows(model: str, found: dict[str, dict]) -> list[str]:
    lines = []
    for peer, r in found.items():
        if "failure" in r:
            lines.append(f"| {model} | {peer} | {r['failure']} | | | | | | | | |")
            continue
        mark = "" if r["counts"] else " (not counted)"
        lines.append(
            f"| {model} | {peer}{mark} | {r['ess']:,.0f} | {r['seconds']:.3f} / {r['call']:.3f} | {r['rate']:,.0f} |"
            f" {r['steps']:,.0f} | {r['total']:,.0f} | {r['step_us']:.2f} | {r['to_400']:,.0f} | {r['z']:.1f} |"
            f" {r['memory']:,.0f} |"
        )
    return lines


def once(arguments: list[str], caches: str, answers: bool = True) -> float:
    """Seconds from the start of the process to its answer, or to its end; NaN when it fails."""
    began = time.time()
    try:
        done = subprocess.run(
            arguments, env=environment(caches), capture_output=True, text=True, timeout=LIMIT, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return np.nan
    return (json.loads(done.stdout)["ready"] if answers else time.time()) - began


def whole(models: list[str], peers: list[str], repeat: int) -> tuple[float, dict[str, dict[str, tuple[float, float]]]]:
    """Seconds to import jax and numpyro; by model and peer the median seconds of a process, cold and warm."""
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {}
    imports = []
    for _ in range(repeat):
        for model in models:
            imports.append(once([sys.executable, "-c", "import jax, numpyro"], "", answers=False))
            for peer in peers:
                with tempfile.TemporaryDirectory() as caches:
                    cold = once(command(peer, model, "--once"), caches)
                    pair = (cold, once(command(peer, model, "--once"), caches) if peer != "numpyro" else np.nan)
                spent.setdefault((model, peer), []).append(pair)
    table: dict[str, dict] = {model: {} for model in models}
    for (model, peer), pairs in spent.items():
        table[model][peer] = tuple(np.median(pairs, axis=0))
    return float(np.median(imports)), table


def geometric(values) -> float:
    return float(np.exp(np.mean(np.log(list(values))))) if values else np.nan


def goal(name: str, ratios: dict[str, float], wanted: str, met: Callable[[float, float, float], bool] | None) -> str:
    """A line of the table of goals; `ratios` by model; `met` of their mean, least and most, None where none is set."""
    if not ratios:
        return f"| {name} | no model counts | | | {wanted} | not measured |"
    low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    mean = geometric(ratios.values())
    state = "" if met is None else "met" if met(mean, ratios[low], ratios[high]) else "**missed**"
    return (
        f"| {name} | {mean:.2f} ({len(ratios)} models) | {ratios[low]:.2f} ({low}) | {ratios[high]:.2f} ({high}) |"
        f" {wanted} | {state} |"
    )


def ratios(table: dict[str, dict], peer: str, figure: str) -> dict[str, float]:
    """probinfer's figure over the peer's, where both count."""
    return {
        model: found["probinfer"][figure] / found[peer][figure]
        for model, found in table.items()
        if found["probinfer"].get("counts") and found.get(peer, {}).get("counts")
    }


def goals(table: dict[str, dict], imports: float, processes: dict[str, dict]) -> list[str]:
    """What the numbers come to."""
    lines = ["| probinfer over peer | geometric mean | least | most | goal | |", "|---|---|---|---|---|---|"]

    def over(name, peer, figure, wanted, met):
        lines.append(goal(name, ratios(table, peer, figure), wanted, met))

    over("min ESS/s, NumPyro", "numpyro", "rate", ">= 50", lambda mean, low, high: mean >= 50)
    over("min ESS/s, Stan", "stan", "rate", "none", None)
    over("min ESS/s, BlackJAX", "blackjax", "rate", "none", None)
    over("min ESS/s, nutpie", "nutpie", "rate", ">= 3, none below 1", lambda mean, low, high: mean >= 3 and low >= 1)
    for peer in ("numpyro", "nutpie"):
        name = f"min ESS/s over the whole second call, {peer}"
        lines.append(goal(name, ratios(table, peer, "call_rate"), "none", None))
    again = ratios(table, RUN_AGAIN, "call_rate")
    if again:
        lines.append(goal("min ESS/s over the whole second call, NumPyro's MCMC.run", again, "none", None))
    for peer in ("numpyro", "nutpie"):  # what the ratios of min ESS/s are made of
        lines.append(
            goal(
                f"of it: leapfrogs with warm-up to an effective draw, {peer}",
                ratios(table, peer, "per_ess"),
                "none",
                None,
            )
        )
        lines.append(goal(f"of it: µs per leapfrog, {peer}", ratios(table, peer, "step_us"), "none", None))
    over("peak memory, NumPyro", "numpyro", "memory", "<= 1", lambda mean, low, high: mean <= 1)
    over("leapfrogs to min ESS 400, nutpie", "nutpie", "to_400", "<= 1", lambda mean, low, high: mean <= 1)
    cold = {
        model: min(found[peer][0] for peer in ("numpyro", "nutpie") if peer in found) / found["probinfer"][0]
        for model, found in processes.items()
    }
    warm = {model: found["probinfer"][1] / imports for model, found in processes.items()}
    if processes:
        name = "cold process: the faster of NumPyro and nutpie over probinfer"
        lines.append(goal(name, cold, ">= 4", lambda mean, low, high: mean >= 4))
        name = "warm process: probinfer over importing jax and numpyro"
        lines.append(goal(name, warm, "<= 1.5", lambda mean, low, high: mean <= 1.5))
    return lines


def report(
    table: dict[str, dict], wanted: list[str], imports: float, processes: dict[str, dict], flags: str, runs: str
) -> str:
    """The section; `wanted` are the models that are to be in it."""
    verdicts = [
        f"{model} {found['probinfer']['verdict']}"
        for model, found in table.items()
        if set(found["probinfer"].get("verdict", "").split("/")) - {"GOOD", ""}
    ]
    process_lines = ["| model | sampler | cold | warm |", "|---|---|---|---|"]
    for model, found in processes.items():
        for peer, (cold, warm) in found.items():
            process_lines.append(
                f"| {model} | {peer} | {cold:.1f} | {'as cold' if np.isnan(warm) else f'{warm:.1f}'} |"
            )
    missing = [model for model in wanted if model not in table]
    body = [
        f"`python -m benchmarks.nuts {flags}`",
        circumstances("probinfer", "jax", "numpyro"),
        "Four chains each, double precision. probinfer with its defaults (400 + 1000 draws), nutpie with its defaults"
        " (400 + 1000, both cores), NumPyro and BlackJAX 1000 + 1000 vectorised."
        f" {runs}, in a process that has compiled before. Seconds of"
        " the sampler: warm-up and sampling for probinfer; the whole call for the others. The second number is the"
        " whole call for everybody,"
        " with probinfer's report. A second MCMC.run of NumPyro compiles again: numpyro_run is that, numpyro is all of"
        " it inside one jax.jit, which does not. Min ESS: the least bulk or tail ESS of all"
        " latent scalars. z: means over all runs against those of the other samplers (ar1: the truth)."
        " Stan: 1000 + 1000 by PyStan, whose call hands the draws through a local server and JSON."
        f" Not counted: |z| above {MAX_Z:.0f}, a min ESS below {MIN_ESS:.0f}, and the centred eight schools."
        f" Stopped: a call that takes longer than {LIMIT:.0f} s.",
        "\n".join([HEADER, *(row for model, found in table.items() for row in rows(model, found))]),
        *([f"Not measured, the run was stopped: {', '.join(missing)}."] if missing else []),
        "Verdicts of probinfer other than GOOD, by run: " + ("; ".join(verdicts) or "none") + ".",
    ]
    if processes:
        body += [
            f"Whole process, seconds from its start to the draws in hand, medians of {PROCESSES}. Cold: empty caches."
            " Warm: the caches that the first process left (NumPyro leaves none)."
            f" Importing jax and numpyro alone: {imports:.2f} s.",
            "\n".join(process_lines),
        ]
    body.append("\n".join(goals(table, imports, processes)))
    return "\n\n".join(body)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nuts", description=__doc__.split("\n")[0])
    parser.add_argument("--heavy", action="store_true", help="the models that take minutes, and them alone")
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="MODEL", help="these models alone")
    parser.add_argument("--peers", nargs="+", choices=NAMES[1:], metavar="PEER", help="these peers alone")
    parser.add_argument("--repeat", type=int, default=None, help="3, and 1 with --heavy")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    repeat = options.repeat or (1 if options.heavy else 3)
    wanted = HEAVY if options.heavy else [model for model in MODELS if model not in HEAVY]
    peers = ["probinfer", *(options.peers or (HEAVY_PEERS if options.heavy else NAMES[1:]))]
    flags = f"--heavy --repeat {repeat}" if options.heavy else f"--repeat {repeat}"
    runs = f"Medians of {repeat} runs in turns, seeds 1, 2, …" if repeat > 1 else "One run each"
    imports, processes, table = [], {}, {}

    def say() -> str:
        text = report(table, wanted, float(np.median(imports or [np.nan])), processes, flags, runs)
        if not (options.dry or options.only or options.peers):
            write_section(HEAVY_TITLE if options.heavy else TITLE, text)
        return text

    for model in options.only or wanted:
        table[model] = measure(model, peers, repeat)
        print("\n".join(rows(model, table[model])), flush=True)
        say()
    for model in [model for model in WHOLE if model in table]:
        apart = (RUN_AGAIN, "stan", "blackjax")  # not what their users would start a process for
        seconds, found = whole([model], [peer for peer in peers if peer not in apart], PROCESSES)
        imports.append(seconds)
        processes |= found
        print(model, seconds, found, flush=True)
        say()
    print(say())


if __name__ == "__main__":
    main()
