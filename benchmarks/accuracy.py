"""NUTS with its defaults against 26 trusted posteriors.

    python -m benchmarks.accuracy [--only NAME ...] [--seeds 0 1 2 3 4] [--dry]

For every scalar parameter: z = difference of means over the joint Monte Carlo standard error, d = difference of means
over the reference's standard deviation, and the ratio of the widths of the 90% intervals. A model matches when every
scalar has |z| <= 4 or d <= 0.1, and every width lies within 20% of the reference's. The table shows the first seed in
full and how often the others succeed. The exit status is 1 when a posterior does not match and its verdict says GOOD.
Writes a section of RESULTS.md unless --dry or --only. The posteriors are not in the repository: see
reference/registry.py.
"""

import argparse
import json
import sys
from dataclasses import dataclass

import numpy as np
from arviz_stats.base import array_stats

import probinfer as pi
from benchmarks.reference.registry import REGISTRY, Entry, scalars
from benchmarks.results import circumstances, write_section

MAX_Z, MAX_D, MAX_WIDTH = 4.0, 0.1, 0.2
TITLE = "Accuracy: NUTS with defaults on 26 reference posteriors"


@dataclass(frozen=True)
class Result:
    """One model's comparison; arrays have one entry per scalar."""

    name: str
    seed: int
    verdict: str
    findings: tuple[str, ...]
    z: np.ndarray
    d: np.ndarray
    width: np.ndarray
    ess: np.ndarray
    divergences: int
    leapfrogs: int
    seconds: dict[str, float]

    @property
    def matches(self) -> bool:
        """Means within 4 joint MCSE or 0.1 sd, widths within 20%; NaN never matches."""
        means = (np.abs(self.z) <= MAX_Z) | (self.d <= MAX_D)
        return bool(np.all(means & (np.abs(np.log(self.width)) <= np.log1p(MAX_WIDTH))))

    @property
    def succeeds(self) -> bool:
        """Right, and known to be right."""
        return self.matches and self.verdict == "GOOD"

    def row(self) -> str:
        """Its cells of the table."""
        stages = " / ".join(f"{self.seconds.get(stage, np.nan):.1f}" for stage in ("compile", "warmup", "sampling"))
        return (
            f"| {self.name} | {len(self.z)} | {'yes' if self.matches else '**NO**'} | {self.verdict} |"
            f" {np.max(np.abs(self.z)):.1f} | {np.max(self.d):.3f} | {self.width.min():.2f}-{self.width.max():.2f} |"
            f" {self.ess.min():.0f} | {self.divergences} | {self.leapfrogs:,} | {stages}"
        )


HEADER = (
    "| model | scalars | matches | verdict | max abs z | max d | width ratio | min ESS | divergent | leapfrogs |"
    " seconds: compile / warmup / sampling | matches and GOOD |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def compare(draws: dict[str, np.ndarray], reference: dict[str, dict[str, float]]) -> dict[str, np.ndarray]:
    """z, d, width ratio and bulk ESS of every reference scalar; draws (chain, draw) by scalar."""
    columns = {"z": [], "d": [], "width": [], "ess": []}
    for name, trusted in reference.items():
        values = draws[name]
        mcse = float(array_stats.mcse(values, chain_axis=0, draw_axis=1, method="mean"))
        difference = values.mean() - trusted["mean"]
        low, high = np.quantile(values, [0.05, 0.95])
        columns["z"].append(difference / np.hypot(mcse, trusted["mcse_mean"]))
        columns["d"].append(abs(difference) / trusted["sd"])
        columns["width"].append((high - low) / (trusted["q95"] - trusted["q05"]))
        columns["ess"].append(float(array_stats.ess(values, chain_axis=0, draw_axis=1, method="bulk")))
    return {name: np.array(values) for name, values in columns.items()}


def run(entry: Entry, seed: int, float64: bool = True) -> Result:
    """Infer with NUTS and its defaults, and compare."""
    model = pi.Model(entry.model, coords=entry.coords, dims=entry.dims)
    posterior = pi.infer(model, entry.data(), pi.NUTS(float64=float64), seed=seed, progress=False)
    reference = entry.reference()
    variables = posterior.tree["posterior"].data_vars
    draws = scalars({name: variables[name].values for name in entry.draws()}, sample_axes=2)
    stats = posterior.tree["sample_stats"]
    return Result(
        name=entry.name,
        seed=seed,
        verdict=posterior.report.verdict.name,
        findings=tuple(f"{finding.where}: {finding.what}" for finding in posterior.report.findings),
        **compare(draws, reference),
        divergences=int(stats["diverging"].sum()),
        leapfrogs=int(stats["n_steps"].sum()),
        seconds=json.loads(posterior.tree.attrs["seconds"]),
    )


def row(results: list[Result]) -> str:
    """The table's line for one model: its first seed, and how many seeds succeed."""
    return f"{results[0].row()} | {sum(result.succeeds for result in results)} of {len(results)} |"


def summary(models: list[list[Result]]) -> str:
    """What the table says, and every run that did not both match and call itself GOOD."""
    runs = [result for results in models for result in results]
    matching = sum(all(result.matches for result in results) for results in models)
    silent = sum(not result.matches and result.verdict == "GOOD" for result in runs)
    lines = [
        f"{sum(result.matches for result in runs)} of {len(runs)} runs match, {matching} of {len(models)} models with"
        f" every seed. Wrong but called GOOD: {silent}.",
        "",
    ]
    for result in runs:
        if not result.succeeds:
            state = "matches" if result.matches else "does not match"
            findings = "; ".join(result.findings) or "no findings"
            lines.append(f"- {result.name}, seed {result.seed}: {state}, verdict {result.verdict}. {findings}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=sorted(REGISTRY), metavar="NAME", help="these models alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--float32", action="store_true", help="in single precision; a section of its own")
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    print(HEADER)
    models = []
    for name in options.only or REGISTRY:
        models.append([run(REGISTRY[name], seed, not options.float32) for seed in options.seeds])
        print(row(models[-1]), flush=True)
    print("\n" + summary(models))
    if not options.dry and not options.only:
        flag = " --float32" if options.float32 else ""
        body = [
            f"`python -m benchmarks.accuracy --seeds {' '.join(map(str, options.seeds))}{flag}`",
            circumstances("probinfer", "jax", "numpyro"),
            "Matches: every mean within 4 joint Monte Carlo standard errors or 0.1 sd of the reference, every 90%"
            " interval within 20% of its width. Leapfrogs are those after warm-up. The references are posteriordb's"
            " (BSD 3-Clause) and long runs of its Stan programs.",
            "\n".join([HEADER, *map(row, models)]),
            summary(models),
        ]
        write_section(TITLE + (", single precision" if options.float32 else ""), "\n\n".join(body))
    return int(any(not result.matches and result.verdict == "GOOD" for results in models for result in results))


if __name__ == "__main__":
    sys.exit(main())
