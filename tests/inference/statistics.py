"""Assertions about random numbers, each with a false-alarm rate that the caller states.

An assertion here fails a right program with probability `false_alarm` at most, divided by Bonferroni over `checks`
comparisons. It says nothing when its tolerance is too wide, so the caller may also state the `resolution` that it must
have: then a run that is too short fails instead of passing for want of evidence. Imports numpy, scipy, arviz-stats.
"""

from collections.abc import Callable

import numpy as np
from arviz_stats.base import array_stats
from scipy import stats

FALSE_ALARM = 1e-6


def effective_size(draws: np.ndarray) -> np.ndarray:
    """Effective number of draws for the mean, by scalar: draws (chain, draw, *shape) -> shape.

    Never more than the draws there are: where chains alternate around the mean the estimate may exceed them, but it is
    then so noisy that a tolerance from it gives false alarms several times too often.
    """
    chains, length = draws.shape[:2]
    flat = draws.reshape(chains, length, -1)
    sizes = [array_stats.ess(flat[..., i], chain_axis=0, draw_axis=1, method="mean") for i in range(flat.shape[-1])]
    return np.minimum(sizes, chains * length).reshape(draws.shape[2:])


def assert_within_mcse(
    draws: np.ndarray,
    exact: np.ndarray | float,
    *,
    ess: np.ndarray | None = None,
    checks: int | None = None,
    false_alarm: float = FALSE_ALARM,
    error: np.ndarray | float = 0.0,
    resolution: float | None = None,
    names: str = "",
) -> None:
    """The draws' means agree with the exact expectations, within Monte Carlo error.

    |mean - exact| <= t * sqrt(sd^2 / ess + error^2), t the two-sided quantile of Student's t at
    false_alarm / checks with ess / 4 degrees of freedom. (A quarter, because an ESS is itself estimated: chains of 250
    draws with autocorrelation up to 0.97 keep the stated rate, see test_statistics.py.)

    draws: (chain, draw, *shape); of a function of the parameters, if its expectation is what is known: an indicator
    for a probability, a squared deviation for a variance. exact: broadcastable to shape. ess: shape, found from the
    draws when left out. checks: comparisons that share false_alarm; the number of scalars here when left out.
    error: standard error of `exact`, when it is itself the answer of a long run.
    resolution: largest tolerance allowed, in standard deviations of the draws.
    """
    draws = np.asarray(draws, dtype=np.float64)
    exact = np.broadcast_to(np.asarray(exact, dtype=np.float64), draws.shape[2:])
    assert np.isfinite(draws).all(), f"{names}: {np.sum(~np.isfinite(draws))} of {draws.size} draws are not finite"
    ess = effective_size(draws) if ess is None else np.broadcast_to(ess, exact.shape)
    sd = draws.std(axis=(0, 1), ddof=1)
    assert (sd > 0).all(), f"{names}: {np.sum(sd == 0)} of {sd.size} scalars never moved"
    checks = max(exact.size, 1) if checks is None else checks
    bound = stats.t.isf(false_alarm / checks / 2, df=np.maximum(ess / 4, 1))
    tolerance = bound * np.sqrt(sd**2 / ess + np.square(error))
    if resolution is not None:
        coarse = np.max(tolerance / sd)
        assert coarse <= resolution, (
            f"{names}: the tolerance is {coarse:.3g} sd where {resolution:.3g} was asked for: too few effective draws"
            f" ({ess.min():.0f}) to say anything"
        )
    excess = np.abs(draws.mean(axis=(0, 1)) - exact) / tolerance
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    index = list(map(int, worst)) or ""
    assert excess[worst] <= 1, (
        f"{names}{index}: mean {draws.mean(axis=(0, 1))[worst]:.6g}, exact {exact[worst]:.6g}, tolerance"
        f" {tolerance[worst]:.3g} at ESS {ess[worst]:.0f} (false alarm {false_alarm:g} over {checks} checks);"
        f" {np.sum(excess > 1)} of {excess.size} out of tolerance"
    )


def assert_moments(
    draws: np.ndarray,
    mean: np.ndarray | float,
    sd: np.ndarray | float,
    *,
    quantile: Callable[[float], np.ndarray | float] | None = None,
    false_alarm: float = FALSE_ALARM,
    resolution: float | None = None,
    names: str = "",
) -> None:
    """Mean, variance and (where the exact quantile function is given) the 5%, 50%, 95% points of the draws are right.

    All comparisons of one call share false_alarm.
    """
    size = max(int(np.prod(draws.shape[2:])), 1)
    levels = (0.05, 0.5, 0.95) if quantile is not None else ()
    shared = {
        "checks": size * (2 + len(levels)),
        "false_alarm": false_alarm,
        "resolution": resolution,
    }
    assert_within_mcse(draws, mean, names=f"mean of {names}", **shared)
    squared = ((draws - mean) / sd) ** 2
    assert_within_mcse(squared, 1.0, names=f"variance ratio of {names}", **shared)
    for level in levels:
        below = (draws <= quantile(level)).astype(np.float64)
        assert_within_mcse(below, level, names=f"probability below the {level:.0%} point of {names}", **shared)


def assert_law(
    sample: np.ndarray,
    cdf: Callable[[np.ndarray], np.ndarray],
    *,
    checks: int = 1,
    false_alarm: float = FALSE_ALARM,
    names: str = "",
) -> None:
    """Independent draws (n,) follow the law with this distribution function: Kolmogorov-Smirnov, exact p-value."""
    result = stats.kstest(sample, cdf)
    assert result.pvalue >= false_alarm / checks, (
        f"{names}: the law is off by {result.statistic:.4f} at {result.statistic_location:.4g}, p = {result.pvalue:.2g}"
        f" (false alarm {false_alarm:g} over {checks} checks, {len(sample)} draws)"
    )


def assert_uniform_ranks(
    ranks: np.ndarray,
    largest: int,
    *,
    bins: int = 16,
    checks: int | None = None,
    false_alarm: float = FALSE_ALARM,
    names: str = "",
) -> None:
    """Simulation-based calibration: ranks (replication, *shape) in 0..largest are uniform.

    Three tests, which share false_alarm with each other and with all scalars: chi-square over bins (any shape), the
    mean rank (bias) and the mean squared distance from the middle (too wide, too narrow); the latter two are where a
    wrong posterior shows first. Talts et al. (2018), arXiv:1804.06788.
    """
    ranks = np.asarray(ranks).reshape(len(ranks), -1)
    assert (largest + 1) % bins == 0, f"{largest + 1} possible ranks do not divide into {bins} bins"
    assert len(ranks) >= 10 * bins, f"{len(ranks)} replications are too few for {bins} bins: 10 a bin at least"
    assert ranks.min() >= 0, "a rank is negative"
    assert ranks.max() <= largest, f"a rank is above {largest}"
    limit = false_alarm / (3 * (checks or ranks.shape[1]))
    n = len(ranks)
    values = (np.arange(largest + 1) + 0.5) / (largest + 1) - 0.5
    for i in range(ranks.shape[1]):
        counts = np.bincount(ranks[:, i] * bins // (largest + 1), minlength=bins)
        u = values[ranks[:, i]]
        p = {
            "bias": 2 * stats.norm.sf(abs(u.mean()) / (values.std() / np.sqrt(n))),
            "spread": 2 * stats.norm.sf(abs((u**2).mean() - (values**2).mean()) / ((values**2).std() / np.sqrt(n))),
            "shape (chi-square)": stats.chisquare(counts).pvalue,
        }
        for kind, value in p.items():
            assert value >= limit, (
                f"{names}[{i}]: ranks are not uniform in {kind}, p = {value:.2g}, limit {limit:.2g};"
                f" bin counts {counts}"
            )
