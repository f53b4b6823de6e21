"""What every estimator returns: averages of a function, with their errors and what bears on trusting them."""

from typing import NamedTuple

import numpy as np
import scipy


class Average(NamedTuple):
    """Estimates of k expectations.

    value, mcse, ess: (k,) the estimates, their standard errors, and the number of independent draws from `over` that
        would have the same error (from the distribution that was drawn from, where `over` has not been drawn from).
    dof: degrees of freedom of the standard errors, for Student's t.
    draws: evaluations of the function that the estimates rest on.
    skewness: (k,) skewness of the averaged terms divided by the root of their number: the size of the first
        correction to the normal law of the estimate. 1 / sqrt(hits) for the indicator of a rare event.
    constant: (k,) every term was the same number.
    non_finite: terms that are not finite numbers.
    pareto_khat: tail shape of the terms or of the weights, the worst of all; None where it says nothing.
    acceptance, log_evidence, log_evidence_mcse: where the method has them.
    notes: what else was seen, in whole sentences; each one makes the estimate doubtful.
    faults: the same, where each one makes it wrong.
    """

    value: np.ndarray
    mcse: np.ndarray
    ess: np.ndarray
    dof: float
    draws: int
    skewness: np.ndarray
    constant: np.ndarray
    non_finite: int = 0
    pareto_khat: float | None = None
    acceptance: float | None = None
    log_evidence: float | None = None
    log_evidence_mcse: float | None = None
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def skewness_of_mean(terms: np.ndarray) -> np.ndarray:
    """Skewness of terms (n, k) divided by sqrt(n), absolute; 0 for constant ones."""
    with np.errstate(all="ignore"):
        centred = terms - terms.mean(axis=0)
        scale = np.max(np.abs(centred), axis=0)
        centred = centred / np.where(scale > 0, scale, 1.0)
        squared = centred * centred
        second = squared.mean(axis=0)
        value = np.mean(squared * centred, axis=0) / second**1.5 / np.sqrt(len(terms))
    return np.where(second > 0, np.abs(value), 0.0)


def average_of(terms: np.ndarray, *, parameters: int = 1) -> Average:
    """Mean of independent terms (n, k) with the standard error sd / sqrt(n).

    parameters: numbers fitted to the terms, among them the mean: the variance has n - parameters degrees of freedom.
    """
    n = len(terms)
    with np.errstate(all="ignore"):
        value = terms.mean(axis=0)
        variance = np.sum((terms - value) ** 2, axis=0) / max(n - parameters, 1)
        mcse = np.sqrt(variance / n)
    return Average(
        value=value,
        mcse=mcse,
        ess=np.full(len(value), float(n)),
        dof=float(max(n - parameters, 1)),
        draws=n,
        skewness=skewness_of_mean(terms),
        constant=np.all(terms == terms[:1], axis=0),
        non_finite=int(np.sum(~np.isfinite(terms))),
    )


def t_quantile(level: float, dof: float) -> float:
    """Half width, in standard errors, of the interval of that level."""
    return float(scipy.stats.t.isf((1 - level) / 2, dof) if dof < 1e6 else scipy.stats.norm.isf((1 - level) / 2))
