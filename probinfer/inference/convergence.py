"""How well the chains agree and how much their draws are worth, for many parameters at once. Imports no xarray.

The numbers are those of Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), "Rank-normalization, folding, and
localization: an improved R-hat", Bayesian Analysis 16(2), as ArviZ computes them; one loop over parameters there is one
array operation here, which is what makes thousands of parameters affordable.
"""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

# Fewer draws in a chain cannot be split into halves that have a variance.
MIN_DRAWS = 4

# Probability of each tail in which `ess_tail` counts; Vehtari et al. (2021), sec. 4.3.
TAIL = 0.05

# Relative spread, in units of the draws' own precision, up to which an entry is a constant computed with rounding: the
# ones on the diagonal of L @ L.T are 1 give or take a few units. Their R-hat would be that of the rounding errors.
ROUNDING = 64

# Parameters worked on at a time: 16 x 4000 draws are half a megabyte, so that a step's arrays stay in the cache.
_BLOCK = 16

_DOUBLE = float(np.finfo(float).eps)


class Convergence(NamedTuple):
    """One row per scalar parameter ("entry"), in the order in which they came.

    mean, sd         (n,) mean and standard deviation (n - 1 in the denominator) of all draws
    ess_bulk         (n,) effective sample size of the rank-normalised draws: how well the location is known
    ess_tail         (n,) the smaller of the effective sizes of the 5% and the 95% quantile
    r_hat            (n,) the larger of the rank-normalised and the folded split R-hat
    mcse_mean        (n,) Monte Carlo standard error of `mean`
    mcse_sd          (n,) Monte Carlo standard error of `sd`
    finite           (n,) every draw is a finite number
    stuck            (n, chains) the chain has one value only
    constant         (n,) all draws of all chains are one value, give or take rounding

    An entry that is constant or not finite has NaN in the columns ess_*, r_hat and mcse_*: there is no such number.
    """

    mean: np.ndarray
    sd: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    r_hat: np.ndarray
    mcse_mean: np.ndarray
    mcse_sd: np.ndarray
    finite: np.ndarray
    stuck: np.ndarray
    constant: np.ndarray


def convergence(
    draws: np.ndarray, *, independent: bool = False, superchains: int = 0, errors: bool = True, sizes: bool = True
) -> Convergence:
    """Convergence statistics of draws (entries, chains, draws per chain); see `Convergence` for what they are.

    independent: the draws are known to be independent (exact or variational): then the effective sizes are the
    number of draws, the Monte Carlo errors are the textbook ones, and R-hat, which compares chains, is NaN.
    One chain is split into halves, so R-hat exists and shows drift, but never a second mode.
    superchains: the chains are so many groups, one after the other, each from one starting point: R-hat is then the
    nested one, which compares the groups and stays sharp for chains of a few draws. Margossian et al. (2024).
    errors: without them the Monte Carlo errors are NaN, and a third of the time is saved.
    sizes: without them and the errors the effective sizes are NaN, and most of the rest is saved.
    """
    draws = np.asarray(draws)
    return convergence_of_blocks(
        lambda start, stop: draws[start:stop],
        len(draws),
        independent=independent,
        superchains=superchains,
        errors=errors,
        sizes=sizes,
    )


def convergence_of_blocks(
    block: Callable[[int, int], np.ndarray],
    entries: int,
    *,
    independent: bool = False,
    superchains: int = 0,
    errors: bool = True,
    sizes: bool = True,
    precision: float = _DOUBLE,
) -> Convergence:
    """`convergence` for draws which are fetched piece by piece: `block(start, stop)` -> (stop - start, chains, draws).

    precision: relative rounding error of the draws, larger than a double's if they were computed in single precision.

    Keeps memory at a few megabytes however many parameters there are, and uses the cores: NumPy's sorts and
    transforms release the interpreter lock.
    """
    grouped = functools.partial(_chain_statistics, superchains=superchains, errors=errors, sizes=sizes)
    statistics = _independent_statistics if independent else grouped
    spans = [(start, min(start + _BLOCK, entries)) for start in range(0, entries, _BLOCK)]

    def work(span: tuple[int, int]) -> Convergence:
        return _describe(np.asarray(block(*span), dtype=float), statistics, precision)

    if len(spans) < 2:
        results: Iterable[Convergence] = [work(span) for span in spans or [(0, 0)]]
        return Convergence(*(np.concatenate(column) for column in zip(*results, strict=True)))
    with ThreadPoolExecutor(max_workers=min(len(spans), os.cpu_count() or 1)) as pool:
        results = list(pool.map(work, spans))
    return Convergence(*(np.concatenate(column) for column in zip(*results, strict=True)))


def bfmi(energy: np.ndarray) -> np.ndarray:
    """Estimated Bayesian fraction of missing information of each chain, from energies (chains, draws) -> (chains,).

    mean((E_t - E_(t-1))^2) / var(E): how far one new momentum moves the energy, against how far it has to move.
    Small means that the tails are explored by a slow random walk. NaN for a chain whose energy never changed.
    Betancourt (2016), "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo", arXiv:1604.00695.
    """
    energy = np.asarray(energy, dtype=float)
    if energy.shape[1] < MIN_DRAWS:
        return np.full(len(energy), np.nan)
    variance = energy.var(axis=1, ddof=1)
    moved = np.square(np.diff(energy, axis=1)).mean(axis=1)
    return np.divide(moved, variance, out=np.full(len(energy), np.nan), where=variance > 0)


def split_chains(draws: np.ndarray) -> np.ndarray:
    """First and last half of every chain as chains of their own: (n, c, d) -> (n, 2c, d // 2)."""
    half = draws.shape[-1] // 2
    return np.concatenate([draws[..., :half], draws[..., draws.shape[-1] - half :]], axis=-2)


# ---------------------------------------------------------------------------------------------------------------------


class _Statistics(NamedTuple):
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    r_hat: np.ndarray
    mcse_mean: np.ndarray
    mcse_sd: np.ndarray


def _describe(x: np.ndarray, statistics: Callable[[np.ndarray], _Statistics], precision: float) -> Convergence:
    entries, chains, draws = x.shape
    if chains * draws == 0:
        nothing = np.full(entries, np.nan)
        no, yes = np.zeros(entries, bool), np.ones(entries, bool)
        return Convergence(*([nothing] * 7), finite=yes, stuck=np.zeros((entries, chains), bool), constant=no)
    lowest, highest = x.min(axis=2), x.max(axis=2)  # NaN and infinity survive both
    finite = np.isfinite(lowest).all(axis=1) & np.isfinite(highest).all(axis=1)
    stuck = lowest == highest
    bottom, top = lowest.min(axis=1), highest.max(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # an entry with infinities has no mean: NaN is the answer
        constant = top - bottom <= ROUNDING * precision * np.maximum(np.abs(bottom), np.abs(top))
        constant |= bottom == top
        mean = np.where(constant, x[:, 0, 0], x.mean(axis=(1, 2)))
        sd = np.full(entries, np.nan) if chains * draws < 2 else np.where(constant, 0.0, x.std(axis=(1, 2), ddof=1))
    columns = np.full((5, entries), np.nan)
    usable = finite & ~constant
    if draws >= MIN_DRAWS and usable.any():
        columns[:, usable] = statistics(x if usable.all() else x[usable])
    return Convergence(mean, sd, *columns, finite=finite, stuck=stuck, constant=constant)


def _independent_statistics(x: np.ndarray) -> _Statistics:
    """sd / sqrt(n) for the mean; for the sd the delta method, sqrt((m4 - m2^2) / n) / (2 sqrt(m2))."""
    entries, chains, draws = x.shape
    total = np.full(entries, float(chains * draws))
    return _Statistics(total, total, np.full(entries, np.nan), *_errors(x, total, total))


def _chain_statistics(x: np.ndarray, superchains: int = 0, *, errors: bool = True, sizes: bool = True) -> _Statistics:
    split = split_chains(x)
    ordered, order = _sort(split)
    ranked = _scatter(_normal_scores(ordered), order, split.shape)
    folded = _folded_scores(ordered, order, split.shape)
    compare = functools.partial(_nested_r_hat, superchains=superchains) if superchains else _r_hat
    r_hat = np.fmax(compare(ranked), compare(folded))  # two balanced values fold into one, which says nothing: NaN
    if not (sizes or errors):
        unknown = np.full(len(x), np.nan)
        return _Statistics(unknown, unknown, r_hat, unknown, unknown)
    if x.shape[2] % 2:  # splitting left the middle draw of each chain out, the quantiles of all draws need it
        ordered = np.sort(x.reshape(len(x), -1), axis=1)
    tails = [_ess(split_chains((x <= _quantile(ordered, p)[:, None, None]).astype(float))) for p in (TAIL, 1 - TAIL)]
    mcse_mean = mcse_sd = np.full(len(x), np.nan)
    if errors:
        squared = np.square(x - x.mean(axis=(1, 2), keepdims=True))
        mcse_mean, mcse_sd = _errors(x, _ess(split), _ess(split_chains(squared)))
    return _Statistics(_ess(ranked), np.minimum(*tails), r_hat, mcse_mean, mcse_sd)


def _errors(x: np.ndarray, ess_mean: np.ndarray, ess_square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Monte Carlo standard errors of mean and sd, given the effective sizes of x and of (x - mean)^2."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # squares that are zero or infinite: not known
        deviation = np.square(x - x.mean(axis=(1, 2), keepdims=True))
        second, fourth = deviation.mean(axis=(1, 2)), np.square(deviation).mean(axis=(1, 2))
        mcse_mean = x.std(axis=(1, 2), ddof=1) / np.sqrt(ess_mean)
        mcse_sd = np.sqrt(np.maximum(fourth - second**2, 0.0) / ess_square / second / 4)
    return mcse_mean, mcse_sd


def _quantile(ordered: np.ndarray, probability: float) -> np.ndarray:
    """Linear interpolation of order statistics, in NumPy's own arithmetic so that ties fall on the same side."""
    position = (ordered.shape[1] - 1) * probability
    below = int(np.floor(position))
    weight = position - below
    low, high = ordered[:, below], ordered[:, min(below + 1, ordered.shape[1] - 1)]
    step = high - low
    return high - step * (1 - weight) if weight >= 0.5 else low + step * weight


def _sort(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = x.reshape(len(x), -1)
    order = np.argsort(flat, axis=1)
    return np.take_along_axis(flat, order, axis=1), order


def _scatter(ordered: np.ndarray, order: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty_like(ordered)
    np.put_along_axis(out, order, ordered, axis=1)
    return out.reshape(shape)


def _normal_scores(ordered: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks of sorted rows; equal values share their average rank."""
    table = _score_table(ordered.shape[1])
    tied = ordered[:, 1:] == ordered[:, :-1]
    scores = np.broadcast_to(table[::2], ordered.shape).copy()
    rows = tied.any(axis=1)
    if rows.any():
        scores[rows] = table[_twice_average_rank(tied[rows]) - 2]
    return scores


def _twice_average_rank(tied: np.ndarray) -> np.ndarray:
    """Twice the average rank (so an integer) of sorted values; `tied` (n, m - 1) says which equal their predecessor."""
    n, m = tied.shape[0], tied.shape[1] + 1
    position = np.broadcast_to(np.arange(m), (n, m))
    edge = np.ones((n, 1), bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, ~tied]), position, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([~tied, edge]), position, m)[:, ::-1], axis=1)[:, ::-1]
    return first + last + 2


@functools.lru_cache(maxsize=8)
def _score_table(m: int) -> np.ndarray:
    """Normal scores of the ranks 1, 1.5, 2, …, m by Blom's formula, Phi^-1((rank - 3/8) / (m + 1/4))."""
    table = ndtri((np.arange(2, 2 * m + 1) / 2 - 3 / 8) / (m + 1 / 4))
    table.setflags(write=False)
    return table


def _folded_scores(ordered: np.ndarray, order: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Normal scores of |x - median|. Distances of sorted values fall and then rise: merging two runs sorts them."""
    m = ordered.shape[1]
    median = (ordered[:, (m - 1) // 2] + ordered[:, m // 2]) / 2
    distance = np.abs(ordered - median[:, None])
    merge = np.argsort(distance, axis=1, kind="stable")
    scores = _normal_scores(np.take_along_axis(distance, merge, axis=1))
    return _scatter(scores, np.take_along_axis(order, merge, axis=1), shape)


def _r_hat(x: np.ndarray) -> np.ndarray:
    """sqrt((B / W + n - 1) / n), B and W the variance between and within the chains of x (entries, chains, n)."""
    n = x.shape[2]
    between = n * x.mean(axis=2).var(axis=1, ddof=1)
    within = x.var(axis=2, ddof=1).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that each stand still on their own value: infinity
        return np.sqrt((between / within + n - 1) / n)


def _nested_r_hat(x: np.ndarray, superchains: int) -> np.ndarray:
    """sqrt(1 + B / W): B the variance of the means of superchains; W, within one, that of its chains' means plus the
    mean variance in a chain. x (entries, 2 c, n): the first and then the last halves of all chains."""
    halves = x.reshape(len(x), 2, -1, x.shape[2])
    chains = np.moveaxis(halves, 1, 2).reshape(len(x), superchains, -1, 2 * x.shape[2])
    means = chains.mean(axis=3)
    within = (means.var(axis=2, ddof=1) + chains.var(axis=3, ddof=1).mean(axis=2)).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(1 + means.mean(axis=2).var(axis=1, ddof=1) / within)


def _ess(x: np.ndarray) -> np.ndarray:
    """Effective sample size of the mean of x (entries, chains, n), by Geyer's initial monotone sequence.

    c n / (-1 + 2 sum rho_t), the autocorrelations rho_t pooled over chains and cut off where the sum of a pair of
    neighbours first turns negative, pairs made non-increasing. Geyer (1992); Vehtari et al. (2021), sec. 3.2.
    """
    entries, chains, n = x.shape
    total = chains * n
    covariance = _mean_autocovariance(x)
    within = covariance[:, 0] * n / (n - 1.0)
    spread = covariance[:, 0] + (x.mean(axis=2).var(axis=1, ddof=1) if chains > 1 else 0.0)
    constant = x.min(axis=(1, 2)) == x.max(axis=(1, 2))
    spread = np.where(constant, 1.0, spread)

    pairs = max((n - 3) // 2, 0) + 1
    rho = 1.0 - (within[:, None] - covariance[:, : 2 * pairs]) / spread[:, None]
    rho[:, 0] = 1.0
    even, sums = rho[:, ::2], rho[:, ::2] + rho[:, 1::2]
    negative = sums <= 0
    cut = np.where(negative.any(axis=1), negative.argmax(axis=1), pairs - 1)
    kept = np.arange(pairs) < cut[:, None]
    monotone = np.minimum.accumulate(np.where(kept, sums, 0.0), axis=1)
    rows = np.arange(entries)
    last = np.where((sums[rows, cut] >= 0) | (even[rows, cut] > 0), even[rows, cut], 0.0)
    time = np.maximum(-1.0 + 2.0 * monotone.sum(axis=1) + last, 1 / np.log10(total))
    return np.where(constant, float(total), total / time)


def _mean_autocovariance(x: np.ndarray) -> np.ndarray:
    """Autocovariance (1/n) sum_t x_t x_(t+lag) of centred chains, averaged over the chains: (entries, n lags).

    The power spectra are added before the transform back: one inverse transform for all the chains of an entry.
    """
    n = x.shape[2]
    length = _smooth_length(2 * n)
    spectrum = np.fft.rfft(x - x.mean(axis=2, keepdims=True), n=length, axis=2)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)).sum(axis=1)
    return np.fft.irfft(power, n=length, axis=1)[:, :n] / (n * x.shape[1])


@functools.lru_cache(maxsize=64)
def _smooth_length(at_least: int) -> int:
    """The smallest even length >= at_least whose prime factors are 2, 3 and 5: fast to transform."""
    length = at_least + at_least % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2
