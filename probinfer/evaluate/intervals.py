"""Standard errors and intervals of metrics, over rows that are independent. Imports numpy and scipy."""

from collections.abc import Callable

import numpy as np
import scipy

from probinfer.evaluate.scores import Score

RESAMPLES = 1000


def of_mean(name: str, values: np.ndarray, level: float) -> Score:
    """Mean of independent numbers: se = sd / sqrt(n), interval by Student's t with n - 1 degrees of freedom."""
    with np.errstate(invalid="ignore", over="ignore"):  # a term that is infinite is said to be
        return of_influence(name, float(np.mean(values)), values - np.mean(values), level, "mean ± t se")


def of_influence(name: str, value: float, influence: np.ndarray, level: float, how: str = "delta method") -> Score:
    """A smooth function of means with the influence of each row (mean zero): se = sd(influence) / sqrt(n)."""
    count = len(influence)
    se = float(np.std(influence, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    if not np.isfinite(se):
        return Score(name, value, float("nan"), float("nan"), float("nan"), "no error: too few or infinite terms")
    half = float(scipy.stats.t.ppf((1 + level) / 2, count - 1)) * se
    return Score(name, value, se, value - half, value + half, how)


def of_series(name: str, values: np.ndarray, overlap: int, level: float) -> Score:
    """Mean of numbers in time, of which `overlap` next to each other depend on one another by how they are made.

    se^2 = (g_0 + 2 sum_k (1 - k / (m + 1)) g_k) / n with the autocovariances g_k up to the lag m, one and a half times
    the overlap or n^(1/3), whichever is more; Student's t with n / m - 1 degrees of freedom. Too small where the series
    remembers for longer. Newey & West (1987), Econometrica 55; Diebold & Mariano (1995).
    """
    count, value = len(values), float(np.mean(values))
    lags = max(int(np.ceil(1.5 * (overlap - 1))), int(count ** (1 / 3)))
    freedom = count // max(lags, 1) - 1
    if freedom < 1 or not np.isfinite(values).all():
        return Score(name, value, float("nan"), float("nan"), float("nan"), "no error: too few or infinite terms")
    gaps = values - value
    sums = [float(gaps[k:] @ gaps[: count - k]) / count for k in range(lags + 1)]
    variance = sums[0] + 2.0 * sum((1.0 - k / (lags + 1)) * sums[k] for k in range(1, lags + 1))
    se = float(np.sqrt(max(variance, 0.0) / count))
    half = float(scipy.stats.t.ppf((1 + level) / 2, freedom)) * se
    return Score(name, value, se, value - half, value + half, f"mean ± t se, {lags} lags")


def of_share(name: str, hits: int, count: int, level: float) -> Score:
    """Share of independent trials: exact interval of Clopper and Pearson (1934), se = sqrt(p (1 - p) / n)."""
    if count == 0:
        return Score(name, float("nan"), float("nan"), 0.0, 1.0, "no trials")
    share = hits / count
    lower, upper = share_interval(hits, count, level)
    return Score(name, share, float(np.sqrt(share * (1 - share) / count)), lower, upper, "exact binomial")


def share_interval(hits: int, count: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval."""
    interval = scipy.stats.binomtest(hits, count).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def of_resamples(
    name: str,
    value: float,
    again: Callable[[np.ndarray], float],
    count: int,
    level: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> Score:
    """Bootstrap over rows: `again(rows drawn with replacement)`; percentile interval, se the resamples' sd.

    A resample in which the metric does not exist (nan) is left out. If it is the same in all of them (one row, every
    row right), resampling says nothing of its error. Efron (1979).
    """
    rng = np.random.default_rng(seed)
    values = np.array([again(rng.integers(count, size=count)) for _ in range(resamples)])
    values = values[np.isfinite(values)]
    if len(values) < resamples / 2:
        return Score(name, value, float("nan"), float("nan"), float("nan"), "no error: undefined in most resamples")
    if np.ptp(values) == 0:
        return Score(name, value, float("nan"), float("nan"), float("nan"), "no error: the same in every resample")
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Score(name, value, float(np.std(values, ddof=1)), float(lower), float(upper), f"bootstrap, {resamples}")
