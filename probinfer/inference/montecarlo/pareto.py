"""Pareto smoothed importance sampling: the shape of the largest weights, and weights smoothed by it. NumPy only.

Vehtari, Simpson, Gelman, Yao, Gabry (2024), "Pareto smoothed importance sampling", JMLR 25(72); the generalised Pareto
law is fitted as in Zhang & Stephens (2009), Technometrics 51(3). The numbers are those of ArviZ, whose import takes
longer than the sampling here.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

_FEWEST = 5  # tail values that a shape can be fitted to
_FAR = 2.0  # the largest value over the first of the tail, below which that is no tail: with shape 0.5 it is sqrt(M)
_PRIOR_WEIGHT, _PRIOR_SHAPE = 10, 0.5  # weak prior on the shape, worth ten tail values


class Smoothed(NamedTuple):
    """Normalised log weights (n,), the largest of them smoothed; shape of the tail, NaN if there was none to fit."""

    log_weights: np.ndarray
    khat: float


def smooth(log_weights: np.ndarray) -> Smoothed:
    """Replace the M largest weights by the expected order statistics of the Pareto law fitted to them."""
    lw = np.asarray(log_weights, float) - np.max(log_weights)
    tail = _tail(len(lw))
    order = np.argsort(lw)
    chosen = order[len(lw) - tail :]
    cutoff = float(np.exp(lw[order[len(lw) - tail - 1]])) if tail < len(lw) else 0.0
    far = tail >= _FEWEST and _FAR * cutoff <= 1.0  # the largest is 1
    khat, scale = _fit(np.exp(lw[chosen]) - cutoff) if far else (np.nan, np.nan)
    if np.isfinite(khat) and scale > 0:
        p = (np.arange(tail) + 0.5) / tail
        rise = -np.log1p(-p) if khat == 0 else np.expm1(-khat * np.log1p(-p)) / khat
        lw = lw.copy()
        lw[chosen] = np.minimum(np.log(cutoff + scale * rise), 0.0)
    return Smoothed(lw - logsumexp(lw), khat)


def khat(sizes: np.ndarray) -> float:
    """Tail shape of positive numbers (n,): their moments of order 1 / khat and above do not exist. NaN without a tail.

    A mean has a finite variance, and so an error that its own terms tell, only below 0.5.
    """
    sizes = np.sort(np.asarray(sizes, float))
    tail = _tail(int(np.count_nonzero(sizes)))
    if tail < _FEWEST or tail >= len(sizes) or not np.isfinite(sizes[-1]) or sizes[-1] <= 0:
        return np.nan
    if sizes[-1] < _FAR * sizes[-tail - 1]:
        return np.nan
    excess = (sizes[-tail:] - sizes[-tail - 1]) / sizes[-1]
    excess = excess[excess > 0]  # an atom at the cutoff is no part of the tail
    return _fit(excess)[0] if len(excess) >= _FEWEST else np.nan


def log_tail_shape(logs: np.ndarray) -> float:
    """Tail shape of positive numbers given by their logarithms (n,), however far apart they are: the mean by which the
    largest exceed the first of the tail. Hill (1975), Annals of Statistics 3(5)."""
    logs = np.sort(logs[np.isfinite(logs)])
    tail = _tail(len(logs))
    return float(np.mean(logs[-tail:] - logs[-tail - 1])) if _FEWEST <= tail < len(logs) else 0.0


def worst_khat(terms: np.ndarray) -> float | None:
    """Largest tail shape of the columns of terms (n, k), of distances from the median; None without a tail.

    Terms of one sign that come near to zero end there, and what piles up at that end is no tail: of them the size
    itself counts.
    """
    if not np.isfinite(terms).all():
        return None
    shapes = [khat(_distances(column)) for column in terms.T]
    known = [shape for shape in shapes if not np.isnan(shape)]
    return float(max(known)) if known else None


def _distances(terms: np.ndarray) -> np.ndarray:
    median = float(np.median(terms))
    if median < 0:
        return _distances(-terms)
    if 0 <= terms.min() < median / 2:
        return terms
    return np.abs(terms - median)


def _tail(n: int) -> int:
    return int(3 * np.sqrt(n)) if n > 225 else n // 5


def _fit(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto law, from its sorted draws."""
    n = len(excess)
    quartile = excess[int(n / 4 + 0.5) - 1]
    if (not quartile > excess[0] and not quartile > 0) or excess[-1] <= 0:
        return np.nan, np.nan  # ties: bounded weights, not the tail of a law
    m = 30 + int(np.sqrt(n))
    theta = (1 - np.sqrt(m / (np.arange(m) + 0.5))) / (3 * quartile) + 1 / excess[-1]
    with np.errstate(all="ignore"):
        shape = np.log1p(-theta[:, None] * excess).mean(axis=1)
        profile = n * (np.log(-theta / shape) - shape - 1)
        profile = np.where(np.isfinite(profile), profile, -np.inf)
        weight = np.exp(profile - logsumexp(profile))
        best = float(weight @ theta)
        fitted = float(np.log1p(-best * excess).mean())
    if not np.isfinite(fitted) or best == 0:
        return np.inf, np.nan
    return (n * fitted + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (n + _PRIOR_WEIGHT), -fitted / best
