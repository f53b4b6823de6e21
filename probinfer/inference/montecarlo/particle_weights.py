"""Weights of particles, from their logarithms. Imports jax only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Weights(NamedTuple):
    """What is known of log weights (n,); where all of them are -inf, the weights are even."""

    relative: Any  # (n,) weights, the greatest of them 1
    total: Any  # their sum
    log_total: Any  # log of the sum of the weights themselves; -inf where none is left
    ess: Any  # effective number; 0 where none is left

    def normal(self, log_weights: jax.Array) -> jax.Array:
        """The log weights, normalised."""
        return jnp.where(self.ess > 0, log_weights - self.log_total, -jnp.log(float(len(log_weights))))


def weighed(log_weights: jax.Array) -> Weights:
    """Weights of log weights (n,)."""
    most = jnp.max(log_weights)
    alive = most > -jnp.inf
    relative = jnp.where(alive, jnp.exp(log_weights - jnp.where(alive, most, 0.0)), 1.0)
    total = jnp.sum(relative)
    ess = jnp.where(alive, total**2 / jnp.sum(relative**2), 0.0)
    return Weights(relative, total, jnp.where(alive, most + jnp.log(total), -jnp.inf), ess)
