"""Resampling: indices of weighted particles, each particle i drawn n w_i times on average. Imports jax only.

Every scheme is `scheme(words, weights) -> indices`, words two uint32, weights (n,) with any positive sum, w_i their
shares in it, indices (n,) int32, in increasing order but for the multinomial draws. Linear in n where it can be:
numbers of copies are cumulated and scattered, which measured ten times as fast as a search for every place.
Douc, Cappé & Moulines (2005), arXiv:cs/0507025.
"""

import enum
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.montecarlo.cumulated import cumulated, entry, greatest_so_far, in_loops

_EXACT = 2**24  # whole numbers up to it are exact in single precision
_TAG = 0x5252  # second counter: tells these words from those of other uses of threefry

Words = tuple[jax.Array, jax.Array]


def systematic(words: Words, weights: jax.Array) -> jax.Array:
    """One uniform number u; the points (j + u) / n fall into the steps of the cumulated shares."""
    n = len(weights)
    return _from_ends(jnp.ceil(_scaled(weights) - _uniform(words, 1, weights.dtype)), n)


def stratified(words: Words, weights: jax.Array) -> jax.Array:
    """A uniform number in each of n equal strata of (0, 1)."""
    n = len(weights)
    u = _uniform(words, n, weights.dtype)
    scaled = _scaled(weights)
    whole = jnp.clip(jnp.floor(scaled), 0, n - 1)
    return _from_ends(whole + (u[whole.astype(jnp.int32)] < scaled - whole), n)


def multinomial(words: Words, weights: jax.Array) -> jax.Array:
    """n independent draws: the most variance; the reference for the others."""
    u = _uniform(words, len(weights), weights.dtype)
    sums = jnp.cumsum(weights)
    return _clipped(jnp.searchsorted(sums, u * sums[-1], side="right"), len(weights))


def residual(words: Words, weights: jax.Array) -> jax.Array:
    """floor(n w_i) copies for certain, the rest by multinomial draws from what is left of the weights."""
    n = len(weights)
    expected = weights * (n / weights.sum())
    whole = jnp.floor(expected)
    left = expected - whole
    certain = jnp.cumsum(whole)
    rest = multinomial(words, jnp.where(left.sum() > 0, left, 1.0))
    return jnp.where(jnp.arange(n) < certain[-1], _places(certain, n), rest)


class Resampling(enum.Enum):
    """How particles are resampled; each is unbiased: particle i is drawn n w_i times on average.

    SYSTEMATIC one random number, the least variance as a rule; STRATIFIED one for each of n strata; RESIDUAL whole
    copies for certain and the rest at random; MULTINOMIAL independent draws.

    >>> Resampling.SYSTEMATIC.name
    'SYSTEMATIC'
    """

    SYSTEMATIC = "systematic"
    STRATIFIED = "stratified"
    RESIDUAL = "residual"
    MULTINOMIAL = "multinomial"

    @property
    def scheme(self) -> Callable[[Words, jax.Array], jax.Array]:
        """The function `(words, weights) -> indices`."""
        return {"systematic": systematic, "stratified": stratified, "residual": residual, "multinomial": multinomial}[
            self.value
        ]


def _scaled(weights: jax.Array) -> jax.Array:
    """n times the cumulated shares."""
    sums = cumulated(weights)
    return sums * (len(weights) / sums[-1])


def _uniform(words: Words, count: int, dtype: np.dtype) -> jax.Array:
    """Uniform numbers (count,) inside (0, 1), of the type's full precision."""
    counter = jnp.arange(count, dtype=jnp.uint32)
    high, low = threefry(words, counter, jnp.full_like(counter, _TAG))
    if dtype == np.float64:
        whole = (high >> np.uint32(6)).astype(dtype) * 2.0**26 + (low >> np.uint32(6)).astype(dtype)
        return (whole + 0.5) * 2.0**-52
    return ((high >> np.uint32(9)).astype(dtype) + dtype.type(0.5)) * dtype.type(2.0**-23)


def _from_ends(ends: jax.Array, n: int) -> jax.Array:
    """Indices from the cumulated numbers of copies, which rounding may leave a copy short."""
    # not `.at[-1].set(n)`: XLA compiles what follows such a slice into a loop four times as slow on a CPU
    return _places(jnp.where(jnp.arange(n) == n - 1, n, jnp.clip(ends, 0, n)), n)


def _places(ends: jax.Array, n: int) -> jax.Array:
    """Index of place j: the number of particles whose copies end at or before it."""
    if in_loops(n):
        return _clipped(greatest_so_far(_marked(ends.astype(jnp.uint32), n)), n)
    kind = jnp.float32 if n < _EXACT else jnp.float64
    counts = jnp.zeros(n + 1, kind).at[ends.astype(jnp.int32)].add(1)
    return _clipped(cumulated(counts)[:n], n)


def _marked(ends: jax.Array, n: int) -> jax.Array:
    """At the place where the copies of a particle begin, its index; 0 elsewhere. The last to be written there is the
    one that has copies."""

    def mark(i: jax.Array, marks: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(marks, i.astype(jnp.int32)[None], (entry(ends, i - np.uint32(1)),))

    return lax.fori_loop(np.uint32(1), np.uint32(n), mark, jnp.zeros(n + 1, jnp.int32))[:n]


def _clipped(indices: jax.Array, n: int) -> jax.Array:
    return jnp.clip(indices, 0, n - 1).astype(jnp.int32)
