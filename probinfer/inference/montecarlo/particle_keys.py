"""Random keys of particles. Imports jax only."""

from typing import Any

import jax
import jax.numpy as jnp


def key_of(words: Any) -> jax.Array:
    """A key for `jax.random` and for NumPyro's `sample` from two words (2,) uint32, whatever JAX's default is."""
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def keys_of(key: jax.Array, count: int) -> jax.Array:
    """A key for each of `count` particles, without hashing: the first word of a fresh key counted up."""
    words = jnp.broadcast_to(jax.random.key_data(key), (count, 2))
    return key_of(words.at[:, 0].add(jnp.arange(count, dtype=jnp.uint32)))
