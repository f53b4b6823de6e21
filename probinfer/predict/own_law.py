"""A NumPyro law that is in no table as a family of its own: from its cdf, density and moments, if they agree.

What NumPyro's class or a user's says of itself is used only after a look: on some rows and draws, the slope of the cdf
must be the density, and the law's own draws must be spread as the cdf says. Else the law is answered from draws.
Imports numpyro, so a loaded predictor never comes here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.discrete import (
    GeometricLogits,
    GeometricProbs,
    HurdleLogits,
    HurdlePoisson,
    HurdleProbs,
    ZeroInflatedLogits,
    ZeroInflatedPoisson,
    ZeroInflatedProbs,
)

from probinfer.predict.family import Family, Support
from probinfer.predict.laws import unwrapped
from probinfer.predict.own_moments import moments_of
from probinfer.predict.program import CDF, DENSITY
from probinfer.predict.traced import traced_family

_ROWS, _DRAWS, _SAMPLED = 8, 3, 400  # what the look is at
_FALSE_ALARM = 1e-9
_SLOPE_RTOL, _SLOPES_RIGHT = 1e-2, 0.95  # a few points may lie next to a kink
_MOST_NUMBERS = 64
_CANNOT = (
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    ImportError,
)  # of what is not there

_ZERO_INFLATED = (ZeroInflatedProbs, ZeroInflatedLogits, ZeroInflatedPoisson)
_HURDLE = (HurdleProbs, HurdleLogits, HurdlePoisson)


@dataclass(frozen=True)
class OwnLaw:
    """One law's functions of its numbers.

    moments  law -> mean and variance, then the numbers that it consists of, each ()
    cdf, log_density  (value, *numbers), all ()
    count    how many numbers there are
    """

    name: str
    support: Support
    moments: Callable[[Any], tuple[Array, ...]]
    cdf: Callable[..., Array]
    log_density: Callable[..., Array]
    count: int

    def export(self, platforms: tuple[str, ...]) -> tuple[Family, dict[str, Any]]:
        """The family, and the programs that it is made of."""
        (k,) = jax.export.symbolic_shape("k")
        spec = [jax.ShapeDtypeStruct((k,), np.float64)] * (1 + self.count)
        programs = {}
        for role, function in ((CDF, self.cdf), (DENSITY, self.log_density)):
            inlined = jax.jit(function, inline=True)  # as outcome.py has it: NumPyro looks at shapes
            programs[role] = jax.export.export(jax.jit(jax.vmap(inlined)), platforms=platforms)(*spec)
        return traced_family(self.name, self.support, programs), programs


def own_law(
    law_of: Callable[..., Any], draws: Mapping[str, np.ndarray], fixed: Mapping, rows: Mapping[str, np.ndarray]
) -> OwnLaw | None:
    """The law of one number for one row, `law_of(draw, fixed, row)`, if it has a cdf that agrees with its density and
    its draws, and moments; else None."""
    few = {k: v[_spread(len(v), _DRAWS)] for k, v in draws.items()}
    some = {k: v[_spread(len(v), _ROWS)] for k, v in rows.items()}
    first = ({k: v[0] for k, v in few.items()}, dict(fixed), {k: v[0] for k, v in some.items()})
    try:
        found = _taken_apart(law_of, first)
        if found is None or not _agrees(found, law_of, few, dict(fixed), some):
            return None
    except _CANNOT:
        return None
    return found


def _spread(size: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, most).astype(int))


def _taken_apart(law_of: Callable[..., Any], first: tuple) -> OwnLaw | None:
    """The law as functions of the arrays in it, which NumPyro keeps as leaves of a pytree."""
    seen: list[tuple] = []

    def look(*arguments: Any) -> list[Array]:
        law = unwrapped(law_of(*arguments))
        leaves, tree = jax.tree.flatten(law)
        arrays = [jnp.asarray(leaf) for leaf in leaves]
        seen.append((type(law).__name__, _support(law), tree, [(a.shape, a.dtype) for a in arrays]))
        return arrays

    jax.eval_shape(look, *first)
    name, support, tree, kinds = seen[0]
    sizes = [int(np.prod(shape, dtype=int)) for shape, _ in kinds]
    if support is None or sum(sizes) > _MOST_NUMBERS or not sum(sizes):
        return None

    def law_from(numbers: tuple[Array, ...]) -> Any:
        ends = np.cumsum([0, *sizes])
        leaves = [
            jnp.stack([jnp.asarray(n, float) for n in numbers[start:stop]]).reshape(shape).astype(dtype)
            if stop > start
            else jnp.zeros(shape, dtype)
            for start, stop, (shape, dtype) in zip(ends[:-1], ends[1:], kinds, strict=True)
        ]
        return jax.tree.unflatten(tree, leaves)

    def moments(law: Any) -> tuple[Array, ...]:
        law = unwrapped(law)
        numbers = [n for leaf in jax.tree.leaves(law) for n in jnp.ravel(jnp.asarray(leaf, float))]
        return (*(m.astype(float).reshape(()) for m in moments_of(law)), *numbers)

    def cdf(value: Array, *numbers: Array) -> Array:
        law = law_from(numbers)
        low, high = _ends(law)
        inside = _inside(value, low, high)
        below = jnp.clip(_cdf(law, _as(support, inside)).reshape(()).astype(float), 0.0, 1.0)
        below = jnp.where(value >= high, 1.0, below)  # nan stays
        return jnp.where((value < low) | ((value <= low) & (not support.discrete)), 0.0, below)

    def log_density(value: Array, *numbers: Array) -> Array:
        law = law_from(numbers)
        low, high = _ends(law)
        inside = _inside(value, low, high)
        density = law.log_prob(_as(support, inside)).reshape(()).astype(float)
        possible = (value >= low) & (value <= high) & ((value == jnp.floor(value)) if support.discrete else True)
        return jnp.where(possible, density, -jnp.inf)

    return OwnLaw(name, support, moments, cdf, log_density, sum(sizes))


def _as(support: Support, value: Array) -> Array:
    return value[None].astype(int) if support.discrete else value[None]


def _ends(law: Any) -> tuple[Array, Array]:
    """The ends of the law's support; infinite where it has none."""
    # Levy loses its support as a pytree (NumPyro 0.22)
    support = constraints.greater_than(law.loc) if type(law) is dist.Levy else law.support
    low, high = getattr(support, "lower_bound", -jnp.inf), getattr(support, "upper_bound", jnp.inf)
    return jnp.asarray(low, float).reshape(-1)[0], jnp.asarray(high, float).reshape(-1)[0]


def _inside(value: Array, low: Array, high: Array) -> Array:
    """The value, or what stands for it outside: a number within the support."""
    between = jnp.where(jnp.isfinite(high), 0.5 * (low + high), low + 1.0)
    between = jnp.where(jnp.isfinite(low), between, jnp.where(jnp.isfinite(high), high - 1.0, 0.0))
    return jnp.where((value > low) & (value < high) | (value == jnp.floor(value)) & (value >= low) & (value <= high),
                     value, between)  # fmt: skip


def _support(law: Any) -> Support | None:
    """Where the search for quantiles runs; None for an outcome that is no single number, or may be a negative count."""
    support = law.support
    if law.event_dim or support is None or getattr(support, "event_dim", 0):
        return None
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    number = isinstance(low, int | float | np.number)
    if law.is_discrete:
        return None if low is None or (number and low < 0) else Support.COUNT
    if number and low == 0.0:
        if high is None:
            return Support.POSITIVE
        if isinstance(high, int | float | np.number) and high == 1.0:
            return Support.UNIT
    return Support.REAL


def _cdf(law: Any, value: Array) -> Array:
    """P(Y <= value): what NumPyro says, or a formula for laws that NumPyro leaves without."""
    kind = type(law)
    if kind in _ZERO_INFLATED:
        return law.gate + (1.0 - law.gate) * _cdf(unwrapped(law.base_dist), value)
    if kind in _HURDLE and law.is_discrete:
        base = unwrapped(law.base_dist)
        none = jnp.exp(base.log_prob(jnp.zeros_like(value)))
        return law.gate + (1.0 - law.gate) * jnp.maximum(_cdf(base, value) - none, 0.0) / (1.0 - none)
    if kind in (GeometricProbs, GeometricLogits):
        return -jnp.expm1((value + 1.0) * jnp.log1p(-law.probs))
    if kind is dist.Kumaraswamy:
        return -jnp.expm1(law.concentration0 * jnp.log1p(-(value**law.concentration1)))
    return law.cdf(value)


# the look ------------------------------------------------------------------------------------------------------------


def _agrees(found: OwnLaw, law_of: Callable[..., Any], draws: dict, fixed: dict, rows: dict) -> bool:
    """Whether cdf, density and draws are of the same law, on every row and draw looked at together.

    The slope is a difference of the cdf over a hundred-thousandth of the spread. Draws: Kolmogorov and Smirnov's
    distance of P(Y < y) + v P(Y = y), v uniform, from the uniform law, with a false alarm in 1e9.
    """

    def of_pair(draw: dict, row: dict, key: Array) -> tuple[Array, ...]:
        law = law_of(draw, fixed, row)
        moments = found.moments(law)
        numbers = moments[2:]
        y = law.expand((1,)).sample(key, (_SAMPLED,)).reshape(_SAMPLED).astype(float)
        low = _ends(unwrapped(law))[0]
        ordered = jnp.sort(y)
        step = 1e-5 * (ordered[(3 * _SAMPLED) // 4] - ordered[_SAMPLED // 4])
        points = jnp.stack([y, y - 1.0, y] if found.support.discrete else [y, y - step, y + step])
        below = jax.vmap(jax.vmap(lambda value: found.cdf(value, *numbers)))(points)
        density = jnp.exp(jax.vmap(lambda value: found.log_density(value, *numbers))(y))
        if found.support.discrete:
            return below[0], below[1], below[0] - below[1], density, moments[1], low
        return below[0], below[0], (below[2] - below[1]) / (2.0 * step), density, moments[1], low

    size, count = len(next(iter(draws.values()))), len(next(iter(rows.values())))
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), (size, count))
    each = jax.vmap(jax.vmap(of_pair, (None, 0, 0)), (0, None, 0))
    upto, below, slope, density, variance, low = (np.asarray(a) for a in jax.jit(each)(draws, rows, keys))
    if np.isnan(upto).any() or not (variance[~np.isnan(variance)] >= 0.0).all():
        return False
    if found.support.discrete and (low.min() < 0.0 or low.min() < low.max()):
        return False  # some row not looked at might have numbers below zero
    right = np.isclose(slope, density, rtol=_SLOPE_RTOL, atol=1e-6)
    if right.mean() < _SLOPES_RIGHT:
        return False
    v = np.random.default_rng(0).random(upto.shape)
    place = np.sort((below + v * (upto - below)).ravel())
    steps = np.arange(len(place) + 1) / len(place)
    distance = max(np.max(steps[1:] - place), np.max(place - steps[:-1]))
    return bool(distance < np.sqrt(-0.5 * np.log(_FALSE_ALARM / 2.0) / len(place)))
