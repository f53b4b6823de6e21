"""Random keys of particles. Imports jax only."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def key_of(words: Any) -> jax.Array:
    """A key for `jax.random` and for NumPyro's `sample` from two words (2,) uint32, whatever JAX's default is."""
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def keys_of(key: jax.Array, count: int) -> jax.Array:
    """A key for each of `count` particles, without hashing: the first word of a fresh key counted up."""
    words = jnp.broadcast_to(jax.random.key_data(key), (count, 2))
    return key_of(words.at[:, 0].add(jnp.arange(count, dtype=jnp.uint32)))


def words_of(words: tuple[jax.Array, jax.Array], count: int) -> jax.Array:
    """Words (2, count) of each of `count` particles, without hashing: the first of two fresh words counted up."""
    # What makes the two words is not to be compiled into the loop over particles: LLVM's vectoriser takes a time that
    # is exponential in the length of a chain of numbers which are the same for all of them, and never came back.
    first, second = lax.optimization_barrier(words)
    return jnp.stack([first + lax.iota(jnp.uint32, count), jnp.broadcast_to(second, (count,))])
