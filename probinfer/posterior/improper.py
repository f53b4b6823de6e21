"""Findings on posteriors that have no integral, or are far wider than where the search for them began."""

import json

import numpy as np

from probinfer.posterior.evidence import Evidence, listed
from probinfer.posterior.verdict import Finding, Verdict

# Factor by which the last moves of particles made them wider, which had been weighted for the posterior already: as for
# the standard deviation of an approximation (weighted.py). It is counted from three standard errors below.
WIDENED_DOUBTFUL, WIDENED_BAD = 1.1, 1.5
_ERRORS = 3

# Share of the way from the proposal to the posterior that the last step had still to go. 1e-8 means that the posterior
# is some 10,000 times as wide: more than a proposal that was meant for it is off by, and where it has no integral the
# steps end only with the resolution of the numbers.
REST = 1e-8

# Tail shape of the weights of the last step, above which they have no variance: the evidence misses what lies in the
# tails of the posterior, and the spread of the chains does not show it. A remark where the particles that were weighted
# show it: they end where the beginning does, and of the runs that miss a part they find only some. The moved particles
# reach further. They are of the posterior, under which weights of shape k have shape k / (1 - k); but the moves go a
# part of the way only, so that the limit is below 1. Where the tails are right it was 0.5 at most, 0.2 as a rule.
LAST_KHAT, MOVED_KHAT = 0.5, 0.7

# Standard deviation on the unconstrained scale at which draws without a prior are said to run away. Parameters are to
# be of the order of one, and their logarithms are smaller still.
RUNAWAY = 1000.0


def widened(evidence: Evidence) -> list[Finding]:
    """Of particles led from a proposal to the posterior."""
    attrs = evidence.attrs
    if "widened" not in attrs:
        return []
    factor, rest = float(attrs["widened"]), float(attrs["last_rest"])
    least = factor * float(np.exp(-_ERRORS * float(attrs["widened_error"])))
    endless = rest < REST
    if least <= WIDENED_DOUBTFUL and not endless:
        return []
    bad = least > WIDENED_BAD or (endless and least > WIDENED_DOUBTFUL)
    sites = _improper(evidence)
    cause = (
        f"{', '.join(sites)} has no prior of its own: if the data do not bound it, the posterior has no integral and "
        "there is nothing to infer. Give it a proper prior; if it is bounded, begin"
        if sites
        else "The posterior is far wider than the beginning. Begin"
    )
    return [
        Finding(
            f"The particles still spread: the last moves, which leave the posterior in place, made them {factor:.2g} "
            "times as wide; the evidence is not right",
            str(attrs["widened_site"]),
            Verdict.BAD if bad else Verdict.DOUBTFUL,
            f"{cause} with a wider proposal= or prior, or use pi.NUTS().",
            factor,
        )
    ]


def heavier_tails(evidence: Evidence) -> list[Finding]:
    """Of a posterior whose tails are heavier than those of the proposal that its particles were led from."""
    shape, moved = (float(evidence.attrs.get(name, np.nan)) for name in ("last_khat", "moved_khat"))
    doubtful = moved > MOVED_KHAT
    if not (doubtful or shape > LAST_KHAT):
        return []
    if doubtful:
        tail = f"at the moved particles a tail of Pareto shape {moved:.2f}, it should be below {MOVED_KHAT:g}"
        what = (
            "the posterior has heavier tails than the beginning, and its evidence is too small by more than its error"
        )
    else:
        tail = f"a tail of Pareto shape {shape:.2f}, it should be below {LAST_KHAT:g}"
        what = (
            "the posterior may have heavier tails than the beginning, and its evidence be too small by more than its "
            "error"
        )
    return [
        Finding(
            f"The weights of the last step have {tail}: {what}",
            "all parameters",
            Verdict.DOUBTFUL if doubtful else Verdict.GOOD,
            "Begin with a proposal= of heavier tails, such as dist.StudentT(3.0, 0.0, 2.0) or dist.Cauchy(0.0, 1.0).",
            moved if doubtful else shape,
        )
    ]


def runaway(evidence: Evidence) -> list[Finding]:
    """Parameters without a prior whose draws are enormously spread: a cause to name for what else is found."""
    names = []
    for variable in evidence.variables:
        if variable.site in _improper(evidence) and variable.values.dtype.kind == "f":
            values = variable.values.reshape(-1, variable.entries)
            with np.errstate(all="ignore"):
                wide = np.flatnonzero(~(values.std(axis=0) < RUNAWAY))
            names += [variable.label(int(entry)) for entry in wide]
    if not names:
        return []
    return [
        Finding(
            f"Draws run away of {len(names)} parameter{'' if len(names) == 1 else 's'} without a prior (an "
            "ImproperUniform or a LogDensity): perhaps the posterior has no integral",
            listed(names, len(names)),
            Verdict.DOUBTFUL,
            "Give it a proper prior. If the data do bound it, bring its scale to the order of one.",
            float("nan"),
        )
    ]


def _improper(evidence: Evidence) -> list[str]:
    return list(json.loads(str(evidence.attrs.get("improper", "[]"))))
