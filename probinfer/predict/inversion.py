"""Inverting the cdf of a mixture of continuous laws, one component for each posterior draw. Imports jax and families'
functions only.

Shapes: S components, Q levels. Nothing here is random.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from probinfer.predict.family import Family, Support
from probinfer.predict.special import bell, standard_normal_cdf_by_bell
from probinfer.predict.steps import logit, normal_quantile, step_of_order_four
from probinfer.predict.weights import Weights, average

_TOLD_APART = 256.0  # of places in the finest spread: float32 keeps 1e-5 of it
_CLOSE_AT_ONCE = 5e-3  # a step of order four from there ends within 1e-11
_STEPS = 4
_CLOSE, _NARROW_ROUGH = 5e-6, 1e-6
_CLOSE_ROUGH = 5e-4  # far enough below the root of _CLOSE that laws unlike the normal arrive at once, too
_LONGEST, _LONGEST_ROUGH = 200, 30


def continuous_quantile(
    family: Family, parameters: Sequence[Array], level: Array, weights: Weights | None = None
) -> Array:
    """The quantile of one mixture, parameters (S,), at one level."""
    if family.of is not None and family.change is not None:
        return family.change.back(continuous_quantile(family.of, parameters, level, weights), jnp)
    return continuous_quantiles(family, parameters, level[None], weights)[0]


def continuous_quantiles(
    family: Family,
    parameters: Sequence[Array],
    levels: Array,
    weights: Weights | None = None,
    known: Array | None = None,
) -> Array:
    """Quantiles (Q,) of one mixture, parameters (S,): t with F(t) = level, on a scale t that is the whole line. The
    family is no change of another. `known` (Q,): those t that are known already, nan for the others.

    Both ways there solve L(t) = log F(t) - log(1 - F(t)) - logit(level) = 0; L is close to linear in the tails. Of laws
    that are normal on this scale, the quantile of the normal law with the mixture's mean and variance is mostly so
    close that one step of order four ends there (`_normal_quantiles`). Else `_search` finds it.
    """
    if not levels.shape[0]:
        return levels
    location, spread = jnp.broadcast_arrays(*family.locate(*parameters))
    centre = average(location, weights, 0)
    width = jnp.sqrt(average(spread**2, weights, 0) + average((location - centre) ** 2, weights, 0))
    starts = centre + width * normal_quantile(levels)
    found, there = starts, ~(jnp.isfinite(starts) & (width > 0.0))
    if known is not None:
        found, there = jnp.where(jnp.isnan(known), starts, known), there | ~jnp.isnan(known)
    if family.normal:
        stepped, arrived = _normal_quantiles(location, spread, levels, found, there, weights)
        found, there = jnp.where(there, found, stepped), there | arrived
    told_apart = jnp.abs(centre) + 10.0 * width < _TOLD_APART * jnp.min(spread)
    mixture = _Mixture(family, parameters, [p.astype(jnp.float32) for p in parameters], weights, told_apart)
    return to_value(family.support, _search(mixture, levels, starts, width, found, there))[0]


def _normal_quantiles(
    location: Array, spread: Array, levels: Array, starts: Array, there: Array, weights: Weights | None
) -> tuple[Array, Array]:
    """Quantiles of a mixture of normal laws by steps of order four from `starts`, and which of them arrived; those
    that are `there` stay.

    F, the density and its derivatives are sums over the same exp(-z^2 / 2).
    """
    rate = 1.0 / spread
    shift = location * rate

    def closer(s: tuple[Array, Array, Array], level: Array) -> tuple[Array, Array, Array]:
        t, _, turn = s
        z = t * rate - shift
        height = lax.optimization_barrier(bell(z))  # else it is computed anew for each of the sums
        below = average(standard_normal_cdf_by_bell(z, height), weights, 0)
        height = height * rate * (2.0 * jnp.pi) ** -0.5
        density = average(height, weights, 0)
        slope = average(-z * rate * height, weights, 0)
        curve = average((z * z - 1.0) * rate * rate * height, weights, 0)
        step = step_of_order_four(below, density, slope, curve, level)
        return t + step.by, step.small & (jnp.abs(step.miss) < _CLOSE_AT_ONCE), turn + 1

    def quantile(each: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        level, start, arrived = each
        state = start, arrived, jnp.asarray(0)
        return lax.while_loop(lambda s: ~s[1] & (s[2] < _STEPS), lambda s: closer(s, level), state)[:2]

    return lax.map(quantile, (levels, starts, there))


class _Mixture(NamedTuple):
    """The mixture as a function of t, in both precisions.

    told_apart: float32 has enough digits for its densities."""

    family: Family
    parameters: Sequence[Array]
    single: Sequence[Array]
    weights: Weights | None
    told_apart: Array

    def cdf(self, t: Array, *, rough: bool) -> Array:
        """F(t); `rough` in float32, as t then is."""
        x = to_value(self.family.support, t)[0]
        return average(self.family.cdf(x, *self._of(rough)), self.weights, 0)

    def density(self, t: Array, *, rough: bool) -> Array:
        """Density at t, on the scale of t."""
        x, slope = to_value(self.family.support, t)
        return average(jnp.exp(self.family.log_density(x, *self._of(rough))), self.weights, 0) * slope

    def _of(self, rough: bool) -> Sequence[Array]:
        return self.single if rough else self.parameters


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


def _search(mixture: _Mixture, levels: Array, starts: Array, width: Array, found: Array, there: Array) -> Array:
    """t of each level, (Q,): as `found` where it is `there`, else by Newton's method in a shrinking bracket.

    A step from where |L| < 5e-6 squares that error. The search runs in float32 first, several times cheaper, so that
    the full precision is needed once or twice only; and there the density, of which a few digits are enough, stays in
    float32 where it has them. All levels and both precisions are turns of one loop, since a loop costs as much to begin
    as several turns.
    """
    narrow = 8.0 * jnp.finfo(starts.dtype).eps
    numbers = jnp.arange(levels.shape[0])

    single = not mixture.family.traced

    def cdf_and_density(t: Array, rough: Array) -> tuple[Array, Array]:
        if not single:
            return mixture.cdf(t, rough=False), mixture.density(t, rough=False)

        def in_single(function: Callable) -> Array:
            return function(t.astype(jnp.float32), rough=True).astype(t.dtype)

        below = lax.cond(rough, lambda: in_single(mixture.cdf), lambda: mixture.cdf(t, rough=False))
        density = lax.cond(
            rough | mixture.told_apart, lambda: in_single(mixture.density), lambda: mixture.density(t, rough=False)
        )
        return below, density

    def body(s: _Search) -> _Search:
        level = jnp.where(s.rough, jnp.clip(levels[s.at], 1e-5, 1.0 - 1e-5), levels[s.at])
        below, density = cdf_and_density(s.t, s.rough)
        low, high = jnp.where(below < level, s.t, s.low), jnp.where(below < level, s.high, s.t)
        miss = logit(below) - logit(level)
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
        at = jnp.where(done, next_after(s.at), s.at)
        start = starts[jnp.minimum(at, levels.shape[0] - 1)]
        begin = jnp.where(done, start, jnp.where(jnp.isfinite(moved), moved, start))
        infinite = jnp.full_like(moved, jnp.inf)
        return _Search(
            at=at,
            rough=(s.rough ^ arrived) & single,
            t=jnp.where(arrived, begin, moved),
            low=jnp.where(arrived, -infinite, low),
            high=jnp.where(arrived, infinite, high),
            turn=jnp.where(arrived, 0, s.turn + 1),
            found=jnp.where(done & (numbers == s.at), moved, s.found),
        )

    def next_after(at: Array | int) -> Array:
        return jnp.min(jnp.where(~there & (numbers > at), numbers, levels.shape[0]))

    def unfinished(s: _Search) -> Array:
        return s.at < levels.shape[0]

    infinite = jnp.asarray(jnp.inf, starts.dtype)
    first = next_after(-1)
    start = starts[jnp.minimum(first, levels.shape[0] - 1)]
    state = _Search(first, jnp.asarray(single), start, -infinite, infinite, jnp.asarray(0), found)
    return lax.while_loop(unfinished, body, state).found


def to_value(support: Support, t: Array) -> tuple[Array, Array]:
    """The value at t on the search scale, and its derivative."""
    if support is Support.POSITIVE:
        x = jnp.exp(t)
        return x, x
    if support is Support.UNIT:
        x = jax.nn.sigmoid(t)
        return x, x * jax.nn.sigmoid(-t)
    return t, jnp.ones_like(t)
