"""Random numbers as a pure function of a key and two counters, cheap inside a compiled loop. Imports jax only.

`jax.random` lowers its generator to a loop of its own, which costs more than a gradient of a small model. Here the
twenty rounds of Threefry-2x32 are written out and fuse with what surrounds them. Salmon et al. (2011).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@functools.partial(jax.jit, inline=True)  # so that it is traced once, not at each of its uses
def threefry(key: tuple[jax.Array, jax.Array], x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two words of 32 random bits for each pair of counters (uint32 arrays of one shape)."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + schedule[0], x1 + schedule[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        x0 = x0 + schedule[(i + 1) % 3]
        x1 = x1 + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1


def uniform(bits: jax.Array, dtype: np.dtype) -> jax.Array:
    """Uniform on (0, 1] in steps of 2**-24, from 32 random bits; zero is excluded, so that its logarithm is finite."""
    return ((bits >> np.uint32(8)).astype(dtype) + dtype.type(0.5)) * dtype.type(2.0**-24)


def normal(key: tuple[jax.Array, jax.Array], size: int, dtype: np.dtype) -> jax.Array:
    """`size` standard normal numbers, by inverting the normal CDF at a uniform of full precision."""
    counters = lax.iota(jnp.uint32, size)
    high, low = threefry(key, counters, jnp.full_like(counters, 0xFFFFFFFF))
    if dtype == np.float64:
        fine = ((low >> np.uint32(6)).astype(dtype) + 0.5) * 2.0**-52
        signed = ((high >> np.uint32(5)).astype(dtype) - 2.0**26) * 2.0**-26 + fine
    else:
        signed = ((high >> np.uint32(9)).astype(dtype) - dtype.type(2.0**22 - 0.5)) * dtype.type(2.0**-22)
    return lax.erf_inv(signed) * dtype.type(np.sqrt(2))
