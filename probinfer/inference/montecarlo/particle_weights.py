"""Weights of particles, from their logarithms. Imports jax only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from probinfer.inference.montecarlo.cumulated import greatest, sums


class Weights(NamedTuple):
    """What is known of log weights (n,). One that is NaN counts as none; where none is left, the weights are even."""

    relative: Any  # (n,) weights, the greatest of them 1
    total: Any  # their sum
    log_total: Any  # log of the sum of the weights themselves; -inf where none is left
    ess: Any  # effective number; 0 where none is left
    undefined: Any  # whether some are NaN

    def normal(self, log_weights: jax.Array) -> jax.Array:
        """The log weights, normalised."""
        shares = _without_nan(log_weights) - self.log_total
        return jnp.where(self.ess > 0, shares, -jnp.log(float(len(log_weights))))


def weighed(log_weights: jax.Array) -> Weights:
    """Weights of log weights (n,)."""
    # a greatest number is NaN where any is: to ask each of them would be a pass of its own
    first = greatest(log_weights)
    undefined = jnp.isnan(first)
    most = lax.cond(undefined, lambda: greatest(_without_nan(log_weights)), lambda: first)
    alive = most > -jnp.inf
    relative = jnp.exp(_without_nan(log_weights) - jnp.where(alive, most, 0.0))
    relative = jnp.where(alive, relative, 1.0)
    total, squares = sums(lambda each: (each, each**2), relative)
    ess = jnp.where(alive, total**2 / squares, 0.0)
    return Weights(relative, total, jnp.where(alive, most + jnp.log(total), -jnp.inf), ess, undefined)


def _without_nan(log_weights: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
