"""Everyday regressions with groups: how many runs of `pi.infer` with its defaults end in the verdict GOOD.

    python -m benchmarks.groups [--only NAME ...] [--repeat 4] [--dry]

Formulas on tables drawn from the model itself, few groups of many rows and many of few, seeds 0, 1, …; next to
`NUTS(target_accept=0.8, recentre=False)`, which keeps the coordinates of the formula and the acceptance. Writes a
section of RESULTS.md unless --dry or --only.
"""

import json
from typing import Any, NamedTuple

import numpy as np

import probinfer as pi
from benchmarks.results import measure_table

TITLE = "Regressions with groups: verdicts with the defaults"
HEADER = (
    "| groups × rows | formula | GOOD | divergent | min ESS | leapfrogs | sampler, s | kept as written: GOOD"
    " | divergent | min ESS | leapfrogs | sampler, s |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)
WORDS = (
    "The first lines of the module say what is compared. Runs of 4 chains with 400 + 1000 draws; divergent draws of "
    "4,000, the least bulk or tail ESS, leapfrogs after warm-up and seconds of warm-up and sampling are medians."
)
KEPT = pi.NUTS(target_accept=0.8, recentre=False)


class Case(NamedTuple):
    """Groups with effects of standard deviation `sd` on the intercept and `slope` on x, of so many rows each, whose
    noise has `noise`; `other` groups cross them, or lie within them with `nested`."""

    formula: str
    groups: int
    rows: int
    sd: float = 1.0
    slope: float = 0.0
    noise: float = 1.0
    family: pi.Family = pi.Family.GAUSSIAN
    other: int = 0
    nested: bool = False

    def table(self) -> dict[str, np.ndarray]:
        """The columns g, h, x and y."""
        generator = np.random.default_rng(self.groups * self.rows)
        group = np.repeat(np.arange(self.groups), self.rows)
        x = generator.normal(size=len(group))
        effect, slope = generator.normal(size=(2, self.groups))
        eta = 1.0 + self.sd * effect[group] + (0.5 + self.slope * slope[group]) * x
        columns = {"g": group.astype(str), "x": x}
        if self.nested:
            columns["h"] = (np.arange(len(group)) % self.rows * self.other // self.rows).astype(str)
        elif self.other:
            inside = generator.integers(0, self.other, len(group))
            eta += 2.0 * generator.normal(size=self.other)[inside]
            columns["h"] = inside.astype(str)
        if self.family is pi.Family.POISSON:
            return {**columns, "y": generator.poisson(np.exp(0.3 * eta))}
        if self.family is pi.Family.BERNOULLI:
            return {**columns, "y": (generator.uniform(size=len(eta)) < 1 / (1 + np.exp(-eta))).astype(int)}
        return {**columns, "y": eta + self.noise * generator.normal(size=len(eta))}


ONE, SLOPES = "y ~ x + (1 | g)", "y ~ x + (x | g)"
CASES = {
    "4 × 75": Case(ONE, 4, 75),
    "8 × 1,000": Case(ONE, 8, 1000),
    "18 × 10": Case(SLOPES, 18, 10, sd=25.0, slope=6.0, noise=25.0),
    "100 × 5": Case(ONE, 100, 5, sd=0.3),
    "100 × 100": Case(SLOPES, 100, 100, slope=0.5),
    "3 × 10": Case(ONE, 3, 10),
    "30 × 20, counts": Case(ONE, 30, 20, family=pi.Family.POISSON),
    "20 × 50, yes or no": Case(ONE, 20, 50, family=pi.Family.BERNOULLI),
    "20 × 30, crossed": Case("y ~ x + (1 | g) + (1 | h)", 20, 30, other=12),
    "6 × 60, nested": Case("y ~ x + (1 | g) + (1 | g:h)", 6, 60, other=5, nested=True),
    "50 × 200": Case(ONE, 50, 200),
    "5 × 200, no effects": Case(ONE, 5, 200, sd=0.01),
}


def run(case: Case, table: Any, method: pi.NUTS, seed: int) -> tuple[bool, int, float, int, float]:
    posterior = pi.infer(pi.formula(case.formula, family=case.family), table, method, seed=seed, progress=False)
    stats, summary = posterior.tree["sample_stats"], posterior.summary()
    seconds = json.loads(posterior.tree.attrs["seconds"])
    return (
        posterior.report.verdict is pi.Verdict.GOOD,
        int(stats["diverging"].sum()),
        float(min(summary["ess_bulk"].min(), summary["ess_tail"].min())),
        int(stats["n_steps"].sum()),
        seconds["warmup"] + seconds["sampling"],
    )


def rows(name: str, repeat: int) -> list[str]:
    case = CASES[name]
    table, cells = case.table(), []
    for method in (pi.NUTS(), KEPT):
        found = [run(case, table, method, seed) for seed in range(repeat)]
        divergent, ess, leapfrogs, seconds = np.median([each[1:] for each in found], axis=0)
        good = sum(each[0] for each in found)
        cells += [f"{good} of {repeat}", f"{divergent:.0f}", f"{ess:,.0f}", f"{leapfrogs:,.0f}", f"{seconds:.2f}"]
    formula = case.formula.replace("|", "\\|")
    return [f"| {name} | `{formula}` | {' | '.join(cells)} |"]


if __name__ == "__main__":
    measure_table("benchmarks.groups", TITLE, HEADER, list(CASES), rows, WORDS, repeat=4)
