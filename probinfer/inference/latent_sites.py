"""What is known of a model's latent sites before they have values: shapes, laws, the values of the discrete ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from probinfer.model.target import Target

_MOST_VALUES = 1000


class About(NamedTuple):
    """What is known of a site before it has a value. values: of a discrete site, if they are few and the same for all
    entries; least: the lowest, if it is without end."""

    law: str
    support: Any
    shape: tuple[int, ...]
    vectors: bool
    values: np.ndarray | None
    least: int


def describe(target: Target) -> dict[str, About]:
    """All latent sites, from an abstract run of the model."""
    found: dict[str, About] = {}

    def look(inputs: Mapping[str, Any]) -> list:
        trace = target.bound.simulate({}, inputs)
        for name in target.layout_names:
            fn = trace[name]["fn"]
            discrete = name in target.bound.discrete
            values, least = (_values(fn), _least(fn)) if discrete and not fn.event_dim else (None, 0)
            shape = tuple(jnp.shape(trace[name]["value"]))
            found[name] = About(_family(fn), fn.support, shape, bool(fn.event_dim), values, least)
        return []

    with target.precision():
        jax.eval_shape(look, target.inputs)
    return found


def _family(fn: Any) -> str:
    """The name of a law's family, in a plate too."""
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return type(fn).__name__


def _values(fn: Any) -> np.ndarray | None:
    try:
        with jax.ensure_compile_time_eval():
            values = np.asarray(fn.enumerate_support(expand=False), float).ravel()
    except (NotImplementedError, ValueError, TypeError, jax.errors.JAXTypeError):
        return None
    return values if 2 <= len(values) <= _MOST_VALUES else None


def _least(fn: Any) -> int:
    try:
        return int(np.max(np.asarray(getattr(fn.support, "lower_bound", 0))))
    except jax.errors.JAXTypeError:
        return 0
