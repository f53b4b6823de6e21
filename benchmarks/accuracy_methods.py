"""Every method but NUTS against reference posteriors: whether it fits, matches, and knows when it does not.

    python -m benchmarks.accuracy_methods [--method NAME ...] [--only NAME ...] [--seed 0] [--dry]

A cell is the verdict, with `=` where the draws match as `benchmarks.accuracy` has it (every mean within 4 joint Monte
Carlo standard errors or 0.1 sd, every width of a 90% interval within 20%), `x` where they do not, `-` where the method
refuses the model. What counts is `x` under GOOD: wrong, and not known to be. The exit status is 1 if there is one.
Writes a section of RESULTS.md unless --dry, --method or --only.
"""

import argparse
import sys
import time
from collections import Counter

import numpy as np

import probinfer as pi
from benchmarks.accuracy import MAX_D, MAX_WIDTH, MAX_Z, compare
from benchmarks.reference.registry import REGISTRY, Entry, scalars
from benchmarks.results import circumstances, write_section
from probinfer.inference.method import Method

TITLE = "Accuracy: the other methods on reference posteriors"
METHODS = {
    "HMC": pi.HMC(),
    "Metropolis": pi.Metropolis(),
    "Gibbs": pi.Gibbs(),
    "ManyChains": pi.ManyChains(),
    "SMC": pi.SMC(),
    "Tempering": pi.Tempering(),
    "MeanField": pi.MeanField(),
    "FullRank": pi.FullRank(),
    "LowRank": pi.LowRank(),
    "Flow": pi.Flow(),
    "Laplace": pi.Laplace(),
    "Pathfinder": pi.Pathfinder(),
    "Importance": pi.Importance(),
    "Exact": pi.Exact(),
}
PROBLEMS = (
    "eight_schools_noncentered",
    "arK",
    "garch11",
    "low_dim_gauss_mix",
    "earn_height",
    "kidscore_interaction",
    "sblri",
    "dugongs",
    "glm_poisson",
    "wells_daae",
)


def outcome(entry: Entry, method: Method, seed: int) -> str:
    """The cell of one method on one problem."""
    model = pi.Model(entry.model, coords=entry.coords, dims=entry.dims)
    try:
        posterior = pi.infer(model, entry.data(), method, seed=seed, progress=False)
    except (pi.MethodError, pi.ModelError):
        return "-"
    latents = posterior.tree["posterior"].data_vars
    values = {name: latents[name].values for name in entry.draws()}
    chained = "chain" in latents[next(iter(values))].dims
    draws = {name: value if chained else value[None] for name, value in values.items()}
    found = compare(scalars(draws, sample_axes=2), entry.reference())
    right = (np.abs(found["z"]) <= MAX_Z) | (found["d"] <= MAX_D)
    matches = np.all(right & (np.abs(np.log(found["width"])) <= np.log1p(MAX_WIDTH)))
    return f"{posterior.report.verdict.name} {'=' if matches else 'x'}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy_methods", description=__doc__.split("\n")[0])
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--only", nargs="+", choices=sorted(REGISTRY), default=list(PROBLEMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    lines = [
        f"| method | {' | '.join(options.only)} | matches and GOOD | wrong and GOOD | seconds |",
        f"|{'---|' * (len(options.only) + 4)}",
    ]
    print("\n".join(lines))
    wrong = []
    for name in options.method:
        began = time.perf_counter()
        cells = [outcome(REGISTRY[problem], METHODS[name], options.seed) for problem in options.only]
        counts = Counter(cells)
        wrong += [f"{name} on {p}" for p, cell in zip(options.only, cells, strict=True) if cell == "GOOD x"]
        seconds = time.perf_counter() - began
        lines.append(
            f"| {name} | {' | '.join(cells)} | {counts['GOOD =']} | {counts['GOOD x'] or '0'} | {seconds:.0f} |"
        )
        print(lines[-1], flush=True)
    said = f"Wrong and GOOD: {', '.join(wrong) or 'none'}."
    print("\n" + said)
    if not options.dry and options.method == list(METHODS) and options.only == list(PROBLEMS):
        text = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
        body = ["`python -m benchmarks.accuracy_methods`", circumstances("probinfer", "jax", "numpyro"), text]
        write_section(TITLE, "\n\n".join([*body, "\n".join(lines), said]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
