"""Exact summaries of a mixture of outcome laws, one component for each posterior draw, of equal weight or not.

Imports jax and the families only. Shapes: M mixtures (rows), S components (draws), Q levels; parameters come as (M,
S), those of CLASSES as (M, S, K). Nothing here is random: the same parameters give the same answer on every machine,
up to rounding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from probinfer.predict.discrete import rarer_odds
from probinfer.predict.family import Family, Support
from probinfer.predict.inversion import continuous_quantiles, to_value
from probinfer.predict.series import normal_quantiles
from probinfer.predict.steps import normal_quantile
from probinfer.predict.weights import Weights, average, log_average

_TIE = 1e-12  # F(k) may miss a level by rounding: P(Y <= 0) = 0.5 is at level 0.5
_LONGEST_SUM = 2000  # counts are summed one by one up to here; beyond, the cdf is searched
# Parameters that may be infinite: bounds of truncation and censoring, and chances of 0 or 1.
_ENDLESS = frozenset({"low", "high", "logits", "log_probabilities"})
_NOT_NEGATIVE = frozenset({"scale", "rate", "df", "concentration", "concentration1", "concentration0", "total_count"})
_SHARES, _ROUNDING = frozenset({"gate"}), 1e-9


class Summary(NamedTuple):
    """What a mixture says; all (M,) but for `quantiles` (M, Q)."""

    mean: Array
    aleatoric_variance: Array
    epistemic_variance: Array
    mcse: Array
    quantiles: Array
    defined: Array


def summarise(
    family: Family,
    parameters: Sequence[Array],
    levels: Array,
    chains: int | None,
    weights: Weights | None = None,
    *,
    search_counts: bool = False,
    copies: int = 1,
    repeats: int = 1,
) -> Summary:
    """Mean, both parts of the variance, Monte Carlo error of the mean, and quantiles at `levels`.

    Law of total variance over the draws: aleatoric = E[Var(Y | theta)], epistemic = Var(E[Y | theta]), the latter
    computed in two passes. They add up to the variance of the mixture. `chains` says how the draws are ordered: see
    `mean_mcse`; for weighted draws it is not looked at. `defined` is False where a parameter is nan or infinite, that
    is, where the model itself gives no law for the row, and where a finite answer overflows: see `_defined`.

    With `copies` every draw has so many laws, which are equally probable; (M, copies * S) are all laws of the first
    copy, and so on. What they differ by is aleatoric. `repeats`: see `mean_mcse`.
    """
    apart = family.mean(*parameters)
    apart = apart.reshape(apart.shape[0], copies, -1)
    means = jnp.mean(apart, axis=1)
    mean = average(means, weights)
    epistemic = average((means - mean[:, None]) ** 2, weights)
    every = weights and weights.copied(copies)
    within = average(family.variance(*parameters), every)
    between = average(jnp.var(apart, axis=1), weights) if copies > 1 else 0.0
    aleatoric = jnp.where(jnp.isinf(within), within, within + between)  # between infinite means there is nan
    places = quantiles(family, parameters, levels, every, search_counts=search_counts)
    return Summary(
        mean=mean,
        aleatoric_variance=aleatoric,
        epistemic_variance=epistemic,
        mcse=mean_mcse(means, chains, repeats) if weights is None else weights.mean_error * jnp.sqrt(epistemic),
        quantiles=places,
        defined=_defined(family, parameters, means, epistemic, places, levels),
    )


def _defined(
    family: Family, parameters: Sequence[Array], means: Array, epistemic: Array, places: Array, levels: Array
) -> Array:
    """Which mixtures are laws, with numbers that floating point holds, (M,).

    Moments may be infinite by law. Parameters may not, but for bounds and chances of 0 or 1, and scales, rates and the
    like are not negative; a quantile is finite by law, and so is the variance of finite means: where these are not,
    arithmetic went beyond 1e308. Which of a traced law's numbers are bounds is not known, and it may have no moments.
    """
    found = finite(places, levels) & (jnp.isfinite(epistemic) | ~jnp.isfinite(means).all(axis=1))
    for right in _right(family, parameters):
        # counted: of a number that is the same everywhere XLA knows the sum at once, and an "all" it would work out
        found &= (~right).sum(axis=tuple(range(1, right.ndim))) == 0
    return found


def of_laws(family: Family, parameters: Sequence[Array], drawn: Array) -> Array:
    """Draws, NaN where the parameters, of their shape or with further axes behind, are of no law: most samplers give
    some number there."""
    for right in _right(family, parameters):
        drawn = jnp.where(right.all(axis=tuple(range(drawn.ndim, right.ndim))), drawn, jnp.nan)
    return drawn


def _right(family: Family, parameters: Sequence[Array]) -> list[Array]:
    """Which numbers of each parameter are such that there is a law, of the parameters' shapes."""
    if family.traced:
        return [~jnp.isnan(values) for values in parameters[2:]]
    found = []
    for name, values in zip(family.parameters, parameters, strict=True):
        right = ~jnp.isnan(values) if name in _ENDLESS else jnp.isfinite(values)
        if name in _NOT_NEGATIVE:
            right &= values >= 0.0
        if name in _SHARES:
            right &= (values >= -_ROUNDING) & (values <= 1.0 + _ROUNDING)
        found.append(right)
    return found


def finite(places: Array, levels: Array) -> Array:
    """Whether all quantiles (M, Q) at levels inside (0, 1) are finite, (M,)."""
    return (jnp.isfinite(places) | (levels <= 0.0) | (levels >= 1.0)).all(axis=1)


def mean_mcse(values: Array, chains: int | None, repeats: int = 1) -> Array:
    """Monte Carlo standard error of the mean of values (M, S) over the draws.

    `repeats`: so many values next to one another are of the same draw; their mean counts as its value.

    `chains=None`: independent draws, sd / sqrt(S). Else the S draws are `chains` runs of equal length n, one after
    the other, and are autocorrelated: replicated batch means with batches of b = floor(sqrt(n)) draws,
        mcse^2 = sum_k (batch_k - grand mean)^2 / (B (B - 1)),   B = chains * floor(n / b).
    Chains that disagree raise it. Too small when the autocorrelation reaches beyond b draws; nan for a single batch.
    Flegal & Jones (2010), Annals of Statistics 38; over chains: Gupta & Vats (2020), Annals of Statistics 48.
    """
    if repeats > 1:
        values = jnp.mean(values.reshape(values.shape[0], -1, repeats), axis=2)
    if chains is None:
        batches = values
    else:
        length = values.shape[1] // chains
        size = max(1, int(length**0.5))
        count = length // size
        batches = values.reshape(-1, chains, length)[:, :, length - count * size :]
        batches = batches.reshape(-1, chains * count, size).mean(axis=2)
    number = batches.shape[1]
    gaps = batches - jnp.mean(batches, axis=1, keepdims=True)
    return jnp.sqrt(jnp.sum(gaps * gaps, axis=1) / (number * (number - 1)) if number > 1 else jnp.nan * batches[:, 0])


def log_predictive_density(
    family: Family, parameters: Sequence[Array], y: Array, weights: Weights | None = None
) -> Array:
    """log (1/S) sum_s p(y | theta_s), (M,), for y (M,), by log-sum-exp over the draws."""
    return log_average(family.log_density(y[:, None], *parameters), weights)


def probabilities(
    family: Family, parameters: Sequence[Array], size: int, weights: Weights | None = None
) -> Array | None:
    """P(Y = k) for k = 0, …, size - 1, (M, size); None for a continuous family."""
    if family.support is Support.CLASSES:
        return average(jnp.exp(parameters[0]), weights)
    if family.support is Support.BINARY:
        return jnp.stack([average(p, weights) for p in (family.cdf(0, *parameters), family.mean(*parameters))], axis=1)
    if family.support is not Support.COUNT:
        return None

    def summed() -> Array:
        def step(p: Array, k: Array) -> tuple[Array, Array]:
            return p * family.ratio(k, *parameters), average(p, weights)

        return lax.scan(step, jnp.exp(first), jnp.arange(size, dtype=first.dtype))[1]

    def directly() -> Array:
        return lax.map(lambda k: average(jnp.exp(family.log_density(k, *parameters)), weights), jnp.arange(size) * 1.0)

    first = family.first(*parameters) + jnp.zeros(jnp.broadcast_shapes(*(p.shape for p in parameters)))
    return lax.cond(jnp.min(first) > -600.0, summed, directly).T


def entropies(
    family: Family, parameters: Sequence[Array], weights: Weights | None = None, copies: int = 1
) -> Array | None:
    """Entropy of the mixture over classes, and the mean entropy of its components, (M, 2) in nats; None for numbers.

    H(mean_s p_s) and mean_s H(p_s) with H(p) = -sum_k p_k log p_k. The first is never the smaller; the gap is the
    mutual information of the class and the parameters. `copies` as for `summarise`: a component is the mean over them.
    """
    if family.support is Support.CLASSES:
        logs = parameters[0]
        apart = -jnp.sum(jnp.exp(logs) * jnp.maximum(logs, -1e4), axis=-1)  # e^-10000 is 0
        if copies > 1:
            apart = _entropy(jnp.mean(jnp.exp(logs).reshape(logs.shape[0], copies, -1, logs.shape[-1]), axis=1))
        whole = _entropy(average(jnp.exp(logs), weights and weights.copied(copies)))
        return jnp.stack([whole, average(apart, weights)], axis=1)
    if family.support is not Support.BINARY:
        return None
    chance = family.mean(*parameters)
    if copies > 1:
        chance = jnp.mean(chance.reshape(chance.shape[0], copies, -1), axis=1)
    apart = _entropy_of_two(chance) if copies > 1 else _entropy_of_odds(parameters[0])
    return jnp.stack([_entropy_of_two(average(chance, weights)), average(apart, weights)], axis=1)


def _entropy(chances: Array) -> Array:
    return jnp.sum(_surprise(chances), axis=-1)


def _surprise(p: Array) -> Array:
    """-p log p, 0 at 0."""
    return -p * jnp.log(jnp.where(p > 0.0, p, 1.0))


def _entropy_of_two(p: Array) -> Array:
    """-p log p - (1 - p) log(1 - p), within 1e-14."""
    p = jnp.clip(p, 1e-300, 1.0 - 1e-16)
    q = 1.0 - p
    return -(p * jnp.log(p / q) + jnp.log(q))


def _entropy_of_odds(logits: Array) -> Array:
    """The same of p = 1 / (1 + exp(-logits)), within 1e-15: an exponential and a logarithm, not two and one more for p.
    In the odds alone: whatever else a loop over draws reads makes it twice as long."""
    odds = rarer_odds(logits)
    size = jnp.where(odds > 0.0, jnp.abs(logits), 0.0)
    return jnp.log(1.0 + odds) + size * odds / (1.0 + odds)


# quantiles -----------------------------------------------------------------------------------------------------------


def quantiles(
    family: Family,
    parameters: Sequence[Array],
    levels: Array,
    weights: Weights | None = None,
    *,
    search_counts: bool = False,
) -> Array:
    """The mixture's quantiles, (M, Q): F(x) = level where F is continuous, else the smallest k with F(k) >= level.

    levels (Q,), or (M, Q) where every mixture has its own.

    Quantiles of counts are found by summing P(Y = 0), P(Y = 1), … up to 2000, and are -1 where that does not reach:
    then ask again with `search_counts=True`, which searches the cdf at any size. Apart, as most models never need the
    second program.
    """
    if family.support is Support.CLASSES:
        below = jnp.cumsum(average(jnp.exp(parameters[0]), weights), axis=-1)
        return jnp.sum(below[:, None, :-1] < levels[..., None] - _TIE, axis=-1).astype(below.dtype)
    if family.support is Support.BINARY:
        no = average(family.cdf(0, *parameters), weights)
        return (no[:, None] < levels - _TIE).astype(no.dtype)
    if family.support is Support.COUNT:
        return (
            _each(_count_quantiles, family, parameters, levels, weights)
            if search_counts
            else _sum_counts(family, parameters, levels, weights)
        )
    return _continuous_quantiles(family, parameters, levels, weights)


def _continuous_quantiles(family: Family, parameters: Sequence[Array], levels: Array, weights: Weights | None) -> Array:
    """By the series for normal laws where it is proved to suffice, else row by row by steps and by search."""
    if family.of is not None and family.change is not None:
        return family.change.back(_continuous_quantiles(family.of, parameters, levels, weights), jnp)
    if not family.normal or not levels.shape[-1]:
        return _each(continuous_quantiles, family, parameters, levels, weights)
    known = normal_quantiles(*jnp.broadcast_arrays(*family.locate(*parameters)), levels, weights)

    def others() -> Array:
        return _each(continuous_quantiles, family, parameters, levels, weights, known)

    return lax.cond(jnp.isnan(known).any(), others, lambda: to_value(family.support, known)[0])


def _each(
    solve: Callable,
    family: Family,
    parameters: Sequence[Array],
    levels: Array,
    weights: Weights | None,
    known: Array | None = None,
) -> Array:
    """One row at a time, with all its levels: each stops when it has converged, and its draws stay in the cache (5
    times faster). `known` (M, Q): see `continuous_quantiles`."""
    each = tuple(jnp.broadcast_arrays(*parameters))
    levels = jnp.asarray(levels)
    rows = {"parameters": each, **({"levels": levels} if levels.ndim == 2 else {})}
    rows |= {"known": known} if known is not None else {}

    def one(row: dict) -> Array:
        return solve(family, row.pop("parameters"), row.pop("levels", levels), weights, **row)

    return lax.map(one, rows)


def _sum_counts(family: Family, parameters: Sequence[Array], levels: Array, weights: Weights | None) -> Array:
    """All levels at once by the recurrence of P(Y = k) from k = 0; -1 where P(Y = 0) underflows or k grows too
    large."""
    parameters = jnp.broadcast_arrays(*parameters)
    wanted = jnp.broadcast_to(levels - _TIE, (parameters[0].shape[0], levels.shape[-1]))
    first = family.first(*parameters)

    def body(state: tuple) -> tuple:
        k, p, below, answer = state
        below = below + average(p, weights)
        answer = jnp.where((answer < 0.0) & (below[:, None] >= wanted), k, answer)
        return k + 1.0, p * family.ratio(k, *parameters), below, answer

    def unfinished(state: tuple) -> Array:
        return jnp.any((state[3] < 0.0) & small[:, None]) & (state[0] < _LONGEST_SUM)

    small = (jnp.min(first, axis=1) > -600.0) & (jnp.max(family.mean(*parameters), axis=1) < 0.5 * _LONGEST_SUM)
    start = (
        jnp.zeros((), first.dtype),
        jnp.exp(first),
        jnp.zeros(first.shape[0], first.dtype),
        -jnp.ones_like(wanted),
    )
    return jnp.where(small[:, None], lax.while_loop(unfinished, body, start)[3], -1.0)


def _count_quantiles(family: Family, parameters: Sequence[Array], levels: Array, weights: Weights | None) -> Array:
    return lax.map(lambda level: _count_quantile(family, parameters, level, weights), levels)


def _count_quantile(family: Family, parameters: Sequence[Array], level: Array, weights: Weights | None = None) -> Array:
    """Newton's method as for continuous laws, rounded to integers. F(k) and P(k) give F(k - 1) too, so k proves itself.

    Every 16th draw gives the start for all of them, where they are many and count alike.
    """
    means = family.mean(*parameters)
    centre = average(means, weights, 0)
    variance = average(family.variance(*parameters), weights, 0) + average((means - centre) ** 2, weights, 0)
    endless = jnp.isinf(centre) | jnp.isinf(variance)
    width = jnp.where(endless, 2.0, 1.0 + jnp.sqrt(variance))
    centre = jnp.where(endless, 0.0, centre)
    start = jnp.maximum(jnp.floor(centre + width * normal_quantile(level)), 0.0)
    if means.shape[0] >= 512 and weights is None:
        start = _search_count(family, [p[::16] for p in parameters], level, start, width, None)
    return _search_count(family, parameters, level, start, width, weights)


def _search_count(
    family: Family, parameters: Sequence[Array], level: Array, start: Array, width: Array, weights: Weights | None
) -> Array:
    wanted = jnp.log(level) - jnp.log1p(-level)

    def body(state: tuple) -> tuple:
        k, low, high, _, turn = state  # F(low) < level <= F(high)
        below = average(family.cdf(k, *parameters), weights, 0)
        here = average(jnp.exp(family.log_density(k, *parameters)), weights, 0)
        enough = below >= level - _TIE
        proved = enough & (below - here < level - _TIE)
        low, high = jnp.where(enough, low, k), jnp.where(enough, jnp.where(proved, k, k - 1.0), high)
        miss = jnp.log(below) - jnp.log1p(-below) - wanted
        newton = jnp.ceil(k - miss * below * (1.0 - below) / here)
        bounded = jnp.isfinite(high)
        use = (newton > low) & (newton <= high) & (jnp.abs(newton - k) <= width * 2.0 ** jnp.minimum(turn, 60))
        use &= ~bounded | (turn % 3 < 2)  # every third step halves the bracket
        moved = jnp.where(
            use, newton, jnp.where(bounded, jnp.floor(0.5 * (low + high)), jnp.ceil(k + width * 2.0**turn))
        )
        moved = jnp.clip(moved, low + 1.0, high)
        arrived = proved | (high - low <= 1.0)
        moved = jnp.where(proved, k, jnp.where(high - low <= 1.0, high, moved))
        return moved, low, high, arrived, turn + 1

    def unfinished(state: tuple) -> Array:
        return ~state[3] & (state[4] < 200)

    none, every = jnp.full_like(start, -1.0), jnp.full_like(start, jnp.inf)
    return lax.while_loop(unfinished, body, (start, none, every, ~jnp.isfinite(start), jnp.asarray(0)))[0]
