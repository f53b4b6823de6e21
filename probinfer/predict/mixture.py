"""Exact summaries of a mixture of outcome laws, one component for each posterior draw, of equal weight or not.

Imports jax and the families only. Shapes: M mixtures (rows), S components (draws), Q levels; parameters come as (M,
S), those of CLASSES as (M, S, K). Nothing here is random: the same parameters give the same answer on every machine,
up to rounding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from probinfer.predict.family import Family, Support
from probinfer.predict.special import standard_normal_cdf
from probinfer.predict.weights import Weights, average, log_average

_TIE = 1e-12  # F(k) may miss a level by rounding: P(Y <= 0) = 0.5 is at level 0.5
_TOLD_APART = 256.0  # of places in the finest spread: float32 keeps 1e-5 of it
_CLOSE, _NARROW_ROUGH = 5e-6, 1e-6
_CLOSE_ROUGH = 5e-4  # far enough below the root of _CLOSE that laws unlike the normal arrive at once, too
_LONGEST, _LONGEST_ROUGH = 200, 30
_LONGEST_SUM = 2000  # counts are summed one by one up to here; beyond, the cdf is searched


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
) -> Summary:
    """Mean, both parts of the variance, Monte Carlo error of the mean, and quantiles at `levels`.

    Law of total variance over the draws: aleatoric = E[Var(Y | theta)], epistemic = Var(E[Y | theta]), the latter
    computed in two passes. They add up to the variance of the mixture. `chains` says how the draws are ordered: see
    `mean_mcse`; for weighted draws it is not looked at. `defined` is False where a parameter is nan, that is, where
    the model itself gives no law for the row.
    """
    means = family.mean(*parameters)
    mean = average(means, weights)
    epistemic = average((means - mean[:, None]) ** 2, weights)
    defined = jnp.ones(mean.shape, bool)
    for parameter in parameters:
        defined &= ~jnp.any(jnp.isnan(parameter), axis=tuple(range(1, parameter.ndim)))
    return Summary(
        mean=mean,
        aleatoric_variance=average(family.variance(*parameters), weights),
        epistemic_variance=epistemic,
        mcse=mean_mcse(means, chains) if weights is None else weights.mean_error * jnp.sqrt(epistemic),
        quantiles=quantiles(family, parameters, levels, weights, search_counts=search_counts),
        defined=defined,
    )


def mean_mcse(values: Array, chains: int | None) -> Array:
    """Monte Carlo standard error of the mean of values (M, S) over the draws.

    `chains=None`: independent draws, sd / sqrt(S). Else the S draws are `chains` runs of equal length n, one after
    the other, and are autocorrelated: replicated batch means with batches of b = floor(sqrt(n)) draws,
        mcse^2 = sum_k (batch_k - grand mean)^2 / (B (B - 1)),   B = chains * floor(n / b).
    Chains that disagree raise it. Too small when the autocorrelation reaches beyond b draws; nan for a single batch.
    Flegal & Jones (2010), Annals of Statistics 38; over chains: Gupta & Vats (2020), Annals of Statistics 48.
    """
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
    return _each(continuous_quantiles, family, parameters, levels, weights)


def _each(
    solve: Callable, family: Family, parameters: Sequence[Array], levels: Array, weights: Weights | None
) -> Array:
    """One row at a time, with all its levels: each stops when it has converged, and its draws stay in the cache (5
    times faster)."""
    each = tuple(jnp.broadcast_arrays(*parameters))
    levels = jnp.asarray(levels)
    if levels.ndim == 2:
        return lax.map(lambda both: solve(family, both[0], both[1], weights), (each, levels))
    return lax.map(lambda one: solve(family, one, levels, weights), each)


def continuous_quantile(
    family: Family, parameters: Sequence[Array], level: Array, weights: Weights | None = None
) -> Array:
    """The quantile of one mixture, parameters (S,), at one level."""
    return continuous_quantiles(family, parameters, level[None], weights)[0]


class _Search(NamedTuple):
    """Where the search is: at t, between low and high, for the level number `at`; `turn` counts its steps.

    rough: it runs in float32, to find where the full precision starts. found (Q,): the results."""

    at: Array
    rough: Array
    t: Array
    low: Array
    high: Array
    turn: Array
    found: Array


def continuous_quantiles(
    family: Family, parameters: Sequence[Array], levels: Array, weights: Weights | None = None
) -> Array:
    """Quantiles (Q,) of one mixture, parameters (S,): t with F(t) = level, on a scale t that is the whole line.

    Newton's method on log F - log(1 - F), which is close to linear in the tails, kept inside a shrinking bracket. A
    step from where |logit F - logit level| < 5e-6 squares that error. The search runs in float32 first, several times
    cheaper, so that the full precision is needed once or twice only; and there the density, of which a few digits are
    enough, stays in float32 where it has them. All levels and both precisions are turns of one loop, since a loop
    costs as much to begin as several turns.
    """
    if family.of is not None and family.change is not None:
        return family.change.back(continuous_quantiles(family.of, parameters, levels, weights), jnp)
    location, spread = jnp.broadcast_arrays(*family.locate(*parameters))
    centre = average(location, weights, 0)
    width = jnp.sqrt(average(spread**2, weights, 0) + average((location - centre) ** 2, weights, 0))
    starts = centre + width * _normal_quantile(levels)
    if not levels.shape[0]:
        return starts
    single = [p.astype(jnp.float32) for p in parameters]
    told_apart = jnp.abs(centre) + 10.0 * width < _TOLD_APART * jnp.min(spread)
    narrow = 8.0 * jnp.finfo(starts.dtype).eps
    numbers = jnp.arange(levels.shape[0])

    def cdf_at(t: Array, parameters: Sequence[Array]) -> Array:
        x = _to_value(family.support, t)[0]
        return average((family.near or family.cdf)(x, *parameters), weights, 0).astype(starts.dtype)

    def density_at(t: Array, parameters: Sequence[Array]) -> Array:
        x, slope = _to_value(family.support, t)
        return (average(jnp.exp(family.log_density(x, *parameters)), weights, 0) * slope).astype(starts.dtype)

    def both(t: Array, rough: Array) -> tuple[Array, Array]:
        low_t = t.astype(jnp.float32)
        below = lax.cond(rough, lambda: cdf_at(low_t, single), lambda: cdf_at(t, parameters))
        in_single = rough | told_apart
        return below, lax.cond(in_single, lambda: density_at(low_t, single), lambda: density_at(t, parameters))

    def body(s: _Search) -> _Search:
        level = jnp.where(s.rough, jnp.clip(levels[s.at], 1e-5, 1.0 - 1e-5), levels[s.at])
        below, density = both(s.t, s.rough)
        low, high = jnp.where(below < level, s.t, s.low), jnp.where(below < level, s.high, s.t)
        miss = jnp.log(below) - jnp.log1p(-below) - (jnp.log(level) - jnp.log1p(-level))
        step = -miss * below * (1.0 - below) / density
        reach = width * 2.0 ** jnp.minimum(s.turn, 60)
        newton = (s.t + step > low) & (s.t + step < high) & (jnp.abs(step) <= reach)  # False for nan
        bounded = jnp.isfinite(low) & jnp.isfinite(high)
        outward = jnp.where(below < level, s.t + reach, s.t - reach)
        moved = jnp.where(newton, s.t + step, jnp.where(bounded, 0.5 * (low + high), outward))
        moved = jnp.where(below == level, s.t, moved)
        arrived = newton & (jnp.abs(miss) < jnp.where(s.rough, _CLOSE_ROUGH, _CLOSE))
        arrived |= (high - low <= jnp.where(s.rough, _NARROW_ROUGH, narrow) * jnp.abs(s.t)) | (below == level)
        arrived |= s.turn + 1 >= jnp.where(s.rough, _LONGEST_ROUGH, _LONGEST)

        done = arrived & ~s.rough
        following = jnp.minimum(s.at + 1, levels.shape[0] - 1)
        begin = jnp.where(done, starts[following], jnp.where(jnp.isfinite(moved), moved, starts[s.at]))
        infinite = jnp.full_like(moved, jnp.inf)
        return _Search(
            at=jnp.where(done, s.at + 1, s.at),
            rough=s.rough ^ arrived,
            t=jnp.where(arrived, begin, moved),
            low=jnp.where(arrived, -infinite, low),
            high=jnp.where(arrived, infinite, high),
            turn=jnp.where(arrived, 0, s.turn + 1),
            found=jnp.where(done & (numbers == s.at), moved, s.found),
        )

    def unfinished(s: _Search) -> Array:
        return s.at < levels.shape[0]

    usable = jnp.isfinite(centre) & (width > 0.0)
    infinite = jnp.asarray(jnp.inf, starts.dtype)
    zero = jnp.asarray(0)
    first = jnp.where(usable, zero, levels.shape[0])
    state = _Search(first, jnp.asarray(True), starts[0], -infinite, infinite, zero, starts)
    return _to_value(family.support, lax.while_loop(unfinished, body, state).found)[0]


def _normal_quantile(level: Array) -> Array:
    """Where a search starts: the quantile of a standard normal to 1e-4, at most 4 from zero. Winitzki (2008), and a
    step of Newton's method."""
    log = jnp.log(4.0 * level * (1.0 - level))
    half = 2.0 / (jnp.pi * 0.147) + 0.5 * log
    distance = jnp.sqrt(2.0 * (jnp.sqrt(half * half - log / 0.147) - half))
    z = jnp.sign(level - 0.5) * jnp.minimum(distance, 4.0)
    step = (standard_normal_cdf(z) - level) * jnp.exp(0.5 * z * z) * (2.0 * jnp.pi) ** 0.5
    return z - jnp.where(jnp.abs(z) < 3.5, step, 0.0)


def _to_value(support: Support, t: Array) -> tuple[Array, Array]:
    """The value at t on the search scale, and its derivative."""
    if support is Support.POSITIVE:
        x = jnp.exp(t)
        return x, x
    if support is Support.UNIT:
        x = jax.nn.sigmoid(t)
        return x, x * jax.nn.sigmoid(-t)
    return t, jnp.ones_like(t)


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
    width = 1.0 + jnp.sqrt(variance)
    start = jnp.maximum(jnp.floor(centre + width * _normal_quantile(level)), 0.0)
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
