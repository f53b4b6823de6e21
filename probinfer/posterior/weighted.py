"""What the weights of an approximation's draws say about these draws, which are kept as they are: how far off they are.

The Pareto shape sees an approximation that is too narrow. One that is too wide, or that reaches where the posterior has
no mass, has weights without a tail; only a comparison of the draws with and without their weights shows it.
"""

from typing import NamedTuple

import numpy as np

from probinfer.inference.montecarlo.pareto import smooth
from probinfer.posterior.evidence import Evidence
from probinfer.posterior.verdict import Finding, Verdict

# Errors of an approximation's means, in posterior standard deviations, and of its standard deviations, as a factor
# either way; more draws do not lessen them. At the limits of GOOD a parameter lies beyond an end of a 90% interval 6.1%
# or 6.7% of the time instead of 5%, at those of BAD 13%. Markov chains with 100 effective draws have means with an
# error of 0.1 sd, and four of them are DOUBTFUL with less than 0.05. A mean that is off by 0.1 sd is also what
# benchmarks/accuracy.py calls wrong.
SHIFT_DOUBTFUL, SHIFT_BAD = 0.1, 0.5
FACTOR_DOUBTFUL, FACTOR_BAD = 1.1, 1.5

# Share of the draws at which the posterior has no mass at all: as of the mass that lies at other modes.
NO_MASS_DOUBTFUL, NO_MASS_BAD = 0.01, 0.1

# Effective number of weighted draws below which they do not tell the error of those without weights: one comparison of
# means is then uncertain by 0.1 sd, as much as is looked for.
ESS_DOUBTFUL = 100

_SURE = 2.0  # standard errors that an error has to exceed the limit of BAD by
_HALF_SURE = 2.5  # those by which one that exceeds the limit of GOOD has to exceed half of it
_ENTRIES = 256  # compared at a time
_ROUNDING = 1e-13  # range of an entry over its size, up to which it is constant


class Errors(NamedTuple):
    """Of each entry (d,): shift of the mean in weighted sd, log of the factor of the sd, and the error of each."""

    shift: np.ndarray
    shift_error: np.ndarray
    log_factor: np.ndarray
    log_factor_error: np.ndarray


def unweighted(evidence: Evidence) -> list[Finding]:
    """Findings on draws that were weighted and kept all the same, whatever their weights."""
    log_weights = evidence.stats.get("log_weight")
    if log_weights is None or evidence.settings.get("resample") or "resample" not in evidence.settings:
        return []
    log_weights = np.asarray(log_weights, float)
    usable = np.isfinite(log_weights)
    if usable.sum() < 2:
        return []  # the Pareto shape is infinite, and has been told
    findings = _no_mass(float(1 - usable.mean()))
    weights = np.exp(smooth(np.where(usable, log_weights, -np.inf)).log_weights)
    size = float(1 / np.sum(weights**2))
    if size < ESS_DOUBTFUL:
        return [*findings, _uneven(size, len(weights))]
    return findings + _compared(evidence, weights)


def compare(values: np.ndarray, weights: np.ndarray) -> Errors:
    """Draws (d, n) without weights against the same with weights (n,), which sum to one.

    shift = (m - m_w) / s_w and log(s / s_w), m and s the means and standard deviations. Their errors are those of the
    weighted and the unweighted averages together, from the influence of each draw on the difference:
    (x - m) / n - w (x - m_w) on the means, half of ((x - m)² / s² - 1) / n - w ((x - m_w)² / s_w² - 1) on log(s / s_w).
    NaN for entries that are constant but for rounding, as the first of a Cholesky factor of correlations.
    """
    n = values.shape[1]
    constant = np.ptp(values, axis=1) <= _ROUNDING * np.max(np.abs(values), axis=1)
    values = np.where(constant[:, None], np.nan, values)
    with np.errstate(all="ignore"):
        own, weighted = values - values.mean(axis=1, keepdims=True), values - (values @ weights)[:, None]
        s2 = np.mean(own**2, axis=1, keepdims=True)
        s2_weighted = (weighted**2 @ weights)[:, None]
        mean_influence = (own / n - weights * weighted) / np.sqrt(s2_weighted)
        scale_influence = ((own**2 / s2 - 1) / n - weights * (weighted**2 / s2_weighted - 1)) / 2
        return Errors(
            (values.mean(axis=1) - values @ weights) / np.sqrt(s2_weighted[:, 0]),
            np.sqrt(np.sum(mean_influence**2, axis=1)),
            np.log(s2[:, 0] / s2_weighted[:, 0]) / 2,
            np.sqrt(np.sum(scale_influence**2, axis=1)),
        )


def _compared(evidence: Evidence, weights: np.ndarray) -> list[Finding]:
    parts = [
        compare(evidence.block(start, min(start + _ENTRIES, evidence.entries))[:, 0], weights)
        for start in range(0, evidence.entries, _ENTRIES)
    ]
    errors = Errors(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    findings = []
    shift = _certain(errors.shift, errors.shift_error)
    off = np.flatnonzero(_beyond(errors.shift, errors.shift_error, SHIFT_DOUBTFUL))
    if off.size:
        off = off[np.lexsort([-np.abs(errors.shift[off]), -shift[off]])]
        worst = float(errors.shift[off[0]])
        findings.append(
            Finding(
                f"The draws are off: the mean of {evidence.label(int(off[0]))} is {abs(worst):.2g} posterior standard "
                f"deviations too {'high' if worst > 0 else 'low'}, as their weights tell",
                evidence.names(off),
                Verdict.BAD if shift[off[0]] > SHIFT_BAD else Verdict.DOUBTFUL,
                _ADVICE,
                abs(worst),
            )
        )
    log_factor = _certain(errors.log_factor, errors.log_factor_error)
    off = np.flatnonzero(_beyond(errors.log_factor, errors.log_factor_error, np.log(FACTOR_DOUBTFUL)))
    if off.size:
        off = off[np.lexsort([-np.abs(errors.log_factor[off]), -log_factor[off]])]
        worst = float(np.exp(errors.log_factor[off[0]]))
        findings.append(
            Finding(
                f"The draws are too {'wide' if worst > 1 else 'narrow'}: the standard deviation of "
                f"{evidence.label(int(off[0]))} is {worst:.2f} times that of the posterior, as their weights tell",
                evidence.names(off),
                Verdict.BAD if log_factor[off[0]] > np.log(FACTOR_BAD) else Verdict.DOUBTFUL,
                _ADVICE,
                worst,
            )
        )
    return findings


_ADVICE = "Set resample=True, which keeps draws by their weights; or use a richer approximation, or pi.NUTS()."


def _no_mass(share: float) -> list[Finding]:
    if share <= NO_MASS_DOUBTFUL:
        return []
    return [
        Finding(
            f"The posterior has no mass at {share:.1%} of the draws",
            "all parameters",
            Verdict.BAD if share > NO_MASS_BAD else Verdict.DOUBTFUL,
            _ADVICE,
            share,
        )
    ]


def _uneven(size: float, draws: int) -> Finding:
    return Finding(
        f"The weights are too uneven to tell how far off the draws are: {size:.0f} of {draws} are effective, "
        f"{ESS_DOUBTFUL} are needed",
        "all parameters",
        Verdict.DOUBTFUL,
        "Use a richer approximation or pi.NUTS().",
        size,
    )


def _beyond(values: np.ndarray, errors: np.ndarray, limit: float) -> np.ndarray:
    """Which values are beyond a limit as far as anybody can tell, and beyond half of it for sure: one that is as large
    as the limit passes half the time, one that is not there hardly ever."""
    size = np.abs(values)
    return (size > limit) & (size - _HALF_SURE * errors > limit / 2)


def _certain(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The size that values have at least, in view of their errors; 0 for entries that are constant or undefined."""
    least = np.abs(values) - _SURE * errors
    return np.where(np.isfinite(least), least, 0.0)
