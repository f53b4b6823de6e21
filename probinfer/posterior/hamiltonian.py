"""What the statistics of a Hamiltonian sampler say: divergences and where they are, saturated trees, stuck energies."""

import math
from typing import NamedTuple

import numpy as np

from probinfer.inference.convergence import bfmi
from probinfer.posterior.evidence import Evidence
from probinfer.posterior.verdict import Finding, Verdict

# Any divergence is reported, as it may mark a region that the sampler cannot enter (Betancourt 2016). The limits are a
# choice: at 1 in 100 the region is no longer small; up to 1 in 400 all means were right on the reference posteriors
# (non-centred eight schools and surgical, ten runs with up to 7 divergences in 4000 draws: benchmarks/RESULTS.md).
DIVERGENT_DOUBTFUL = 0.0025
DIVERGENT_BAD = 0.01

# Share of trees that ended at the depth limit instead of at a U-turn. It costs efficiency, not correctness: the limit
# truncates trajectories, so a few are harmless.
SATURATED_DOUBTFUL = 0.05

# Betancourt (2016), arXiv:1604.00695, and Stan and ArviZ since: below 0.3 the momentum resampling is the bottleneck.
BFMI_DOUBTFUL = 0.3

# For "concentrated where tau < 0.42": at least so many divergent draws, so large a difference between the shares of
# divergent and other draws on that side, and so small a p-value (Kolmogorov-Smirnov, times the number of parameters).
# Divergences come in runs, which makes the p-value too small: hence a threshold far below the usual.
_LOCATE_DRAWS = 5
_LOCATE_DIFFERENCE = 0.3
_LOCATE_P = 1e-4


class Place(NamedTuple):
    """One side of a threshold on one parameter, where divergent draws are over-represented."""

    entry: int
    below: bool
    threshold: float
    share_divergent: float
    share_other: float


def locate(evidence: Evidence, divergent: np.ndarray) -> Place | None:
    """The parameter and threshold that best separate the divergent draws from the rest; None if nothing does.

    Maximises |F_divergent(t) - F_other(t)| over all parameters and thresholds t (the Kolmogorov-Smirnov distance).
    It sees only ranks, so a scale and its logarithm give the same answer. divergent: (chains, draws), true or false.
    """
    flags = np.asarray(divergent, dtype=bool).ravel()
    bad, other = int(flags.sum()), int((~flags).sum())
    if bad < _LOCATE_DRAWS or other < _LOCATE_DRAWS:
        return None
    best = None
    latents = [e for e in range(evidence.entries) if evidence.variable_of(e).latent]
    for entry in latents:
        x = evidence.block(entry, entry + 1).ravel()
        if not np.isfinite(x).all():
            continue
        order = np.argsort(x)
        ordered, hit = x[order], flags[order]
        here, rest = np.cumsum(hit) / bad, np.cumsum(~hit) / other
        step = np.append(ordered[1:] > ordered[:-1], False)  # a threshold must lie between two different values
        difference = np.where(step, here - rest, 0.0)
        at = int(np.argmax(np.abs(difference)))
        if best is None or abs(difference[at]) > best[0]:
            below = bool(difference[at] > 0)
            threshold = float((ordered[at] + ordered[min(at + 1, x.size - 1)]) / 2)
            shares = (here[at], rest[at]) if below else (1 - here[at], 1 - rest[at])
            best = abs(difference[at]), Place(entry, below, threshold, float(shares[0]), float(shares[1]))
    if best is None:
        return None
    distance, place = best
    p_value = 2 * math.exp(-2 * distance**2 * bad * other / (bad + other)) * len(latents)
    return place if distance >= _LOCATE_DIFFERENCE and p_value < _LOCATE_P else None


def divergences(evidence: Evidence) -> list[Finding]:
    """Draws whose trajectory left the energy surface, and the region where it happened."""
    flags = np.asarray(evidence.stats.get("diverging", np.zeros((1, 0), bool)), dtype=bool)
    count, total = int(flags.sum()), flags.size
    if not count:
        return []
    share = count / total
    severity = _grade(share, DIVERGENT_DOUBTFUL, DIVERGENT_BAD)
    place = locate(evidence, flags)
    what = f"{count} of {total} draws diverged"
    if place is None:
        where = "spread over the posterior: no single parameter sets the divergent draws apart"
        if count < _LOCATE_DRAWS:
            where = "too few to say where"
    else:
        where = f"{evidence.label(place.entry)} {'<' if place.below else '>'} {place.threshold:.3g}"
        what += (
            f", concentrated where {where} ({place.share_divergent:.0%} of the divergent draws are there, "
            f"{place.share_other:.0%} of the others)"
        )
    accept = evidence.settings.get("target_accept")
    raised = f" from {accept:g} to {1 - (1 - accept) / 4:.3g}" if isinstance(accept, float) and accept < 0.99 else ""
    form = "the non-centred form, theta = mu + tau * z with z ~ Normal(0, 1), or "
    if "recentred" in evidence.attrs:
        form = ""  # the chains had it, where it was the better one
    advice = (
        f"Raise target_accept{raised}. If they remain, the posterior is too sharply curved there: a group whose scale "
        f"can come close to zero wants {form}a prior that keeps the scale away from zero."
    )
    if severity is Verdict.GOOD:
        advice = f"So few hardly bias anything. To be sure, raise target_accept{raised} and see them vanish."
    return [Finding(what, where, severity, advice, float(share))]


def tree_depth(evidence: Evidence) -> list[Finding]:
    """Trajectories cut off by the depth limit."""
    flags = np.asarray(evidence.stats.get("reached_max_treedepth", np.zeros((1, 0), bool)), dtype=bool)
    share = float(flags.mean()) if flags.size else 0.0
    if share <= SATURATED_DOUBTFUL:
        return []
    depth = evidence.settings.get("max_tree_depth")
    limit = f" of {depth}" if depth is not None else ""
    worst = ", ".join(str(c) for c in np.flatnonzero(flags.mean(axis=1) > SATURATED_DOUBTFUL))
    return [
        Finding(
            f"{share:.0%} of the trajectories were cut off by the tree depth limit{limit}",
            f"chain {worst}" if worst else "all chains",
            Verdict.DOUBTFUL,
            "The draws are valid but dear. Standardise predictors, decorrelate parameters, warm up for longer so that "
            f"the metric fits{f', or set max_tree_depth={depth + 2}' if isinstance(depth, int) else ''}.",
            share,
        )
    ]


def energy(evidence: Evidence) -> list[Finding]:
    """Chains whose energy diffuses too slowly to reach the tails."""
    if "energy" not in evidence.stats:
        return []
    fractions = bfmi(evidence.stats["energy"])
    low = np.flatnonzero(fractions < BFMI_DOUBTFUL)
    if not low.size:
        return []
    worst = float(np.nanmin(fractions))
    return [
        Finding(
            f"The energy moves too slowly to reach the tails: E-BFMI is {worst:.2f}, wanted {BFMI_DOUBTFUL:g} or more",
            "chain " + ", ".join(f"{c} ({fractions[c]:.2f})" for c in low),
            Verdict.DOUBTFUL,
            "Heavy tails or a funnel: use the non-centred form of the hierarchy, tighten heavy-tailed priors, "
            "or warm up for longer.",
            worst,
        )
    ]


def _grade(value: float, doubtful: float, bad: float) -> Verdict:
    return Verdict.BAD if value > bad else Verdict.DOUBTFUL if value > doubtful else Verdict.GOOD
