"""A family made of one law's own functions, exported. Imports jax only, so that a loaded predictor has it too.

NumPyro has many laws, and a model may bring one of its own. What all of them say alike is what a prediction needs: cdf,
density, moments. These are exported as functions of a value and of the numbers that the law consists of, once; each
row and draw has such numbers, after its mean and its variance.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from probinfer.predict.family import Family, Support
from probinfer.predict.inversion import to_value
from probinfer.predict.program import CDF, DENSITY, PARAMETERS
from probinfer.predict.steps import normal_quantile

_SUPPORTS = {s.name: s for s in (Support.REAL, Support.POSITIVE, Support.UNIT, Support.COUNT)}
_LOOKED_AT = 64  # of the mixture's components, to see where it lies
_FINEST, _FARTHEST = -30, 60  # powers of two between which it is looked for
_QUARTERS = (0.25, 0.5, 0.75)


def traced_family(name: str, support: Support, programs: Mapping[str, Any]) -> Family:
    """The family of the law called `name`, whose functions are in `programs`: CDF and DENSITY, each of (k,) values and
    of the law's numbers, (k,) each.

    Everything is computed in double precision, in which the programs are. They have no rule for vmap: a family's
    functions take arrays of any shape as they are.
    """
    cdf, density = (_elementwise(programs[role]) for role in (CDF, DENSITY))
    names = tuple(f"number_{i}" for i in range(len(programs[CDF].in_avals) - 1))
    return Family(
        name,
        ("mean", "variance", *names),
        support,
        mean=lambda mean, variance, *numbers: mean,
        variance=lambda mean, variance, *numbers: variance,
        cdf=cdf,
        log_density=density,
        sample=_not_here,
        locate=partial(_locate, cdf, support),
        first=lambda mean, *numbers: jnp.full(jnp.shape(mean), -jnp.inf),  # no recurrence: the cdf is searched
        ratio=lambda k, mean, *numbers: jnp.zeros_like(mean),
        traced=True,
    )


def pack(family: Family) -> dict[str, str] | None:
    """What the manifest says of a traced family; None of another."""
    return {"name": family.name, "support": family.support.name} if family.traced else None


def unpack(words: Any, programs: Mapping[str, Any]) -> Family:
    """The reverse of `pack`. Raises ValueError where the two do not fit."""
    if not isinstance(words, Mapping) or words.get("support") not in _SUPPORTS:
        raise ValueError(f"a law is described by {words!r}; wanted its name and its support, {', '.join(_SUPPORTS)}")
    if not {CDF, DENSITY} <= set(programs):
        raise ValueError(f"it has the programs {sorted(programs)}; wanted {CDF} and {DENSITY}")
    if len(programs[CDF].in_avals) != len(programs[DENSITY].in_avals):
        raise ValueError(f"{CDF} and {DENSITY} are of different laws")
    if PARAMETERS in programs and len(programs[PARAMETERS].out_avals) != 1 + len(programs[CDF].in_avals):
        raise ValueError(f"{PARAMETERS} does not give the numbers that {CDF} takes")
    return traced_family(str(words["name"]), _SUPPORTS[words["support"]], programs)


def _elementwise(exported: Any) -> Callable[..., Array]:
    """The exported function of (value, mean, variance, *numbers), for arrays that broadcast with each other."""

    def function(value: Any, mean: Array, variance: Array, *numbers: Array) -> Array:
        arrays = jnp.broadcast_arrays(jnp.asarray(value, float), mean, *numbers)
        flat = [array.astype(jnp.float64).reshape(-1) for array in (arrays[0], *arrays[2:])]
        return exported.call(*flat).reshape(arrays[0].shape)

    return function


def _not_here(*arguments: Array) -> Array:
    raise NotImplementedError  # a program of its own draws


def _locate(cdf: Callable[..., Array], support: Support, *parameters: Array) -> tuple[Array, Array]:
    """Centre and spread on the search scale: of all components alike, from the quartiles of a few of them, as a law
    need not have moments. The quartiles are looked for among the points 0, ±2^k."""
    count = parameters[0].shape[-1]
    few = [p[..., :: max(1, count // _LOOKED_AT)] for p in parameters]
    powers = (
        2.0 ** jnp.arange(_FINEST, _FARTHEST + 1) if support is Support.REAL else 2.0 ** jnp.arange(-8.0, 9.25, 0.5)
    )
    points = jnp.concatenate([-powers[::-1], jnp.zeros(1), powers])
    below = lax.map(lambda t: jnp.mean(cdf(to_value(support, t)[0], *few), axis=-1), points)
    places = [jnp.minimum(jnp.sum(below < level, axis=0), len(points) - 1) for level in _QUARTERS]
    low, middle, high = (0.5 * (points[jnp.maximum(place - 1, 0)] + points[place]) for place in places)
    apart = points[places[1]] - points[jnp.maximum(places[1] - 1, 0)]
    spread = jnp.maximum((high - low) / (2.0 * normal_quantile(jnp.asarray(0.75))), apart)
    known = ~jnp.isnan(below).any(axis=0)
    centre = jnp.where(known, middle, jnp.nan)
    shape = parameters[0].shape
    return jnp.broadcast_to(centre[..., None], shape), jnp.broadcast_to(spread[..., None], shape)
