"""Draws of many particles' laws: normal numbers made where they are used, all other laws by NumPyro.

`jax.random.normal` with a key for each of 100,000 particles measured 80 ns a number on one core, most of it in a rolled
loop of the generator and in the inverse error function in double precision; this takes 7 ns. Imports jax, numpyro.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import distributions as dist

from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.montecarlo.particle_keys import key_of

_TAG = 0x5151  # second counter: tells these words from those of other uses of threefry

# Giles (2012), "Approximating the erfinv function", single precision: in w - 2.5 for w < 5, in sqrt(w) - 3 beyond.
_CENTRE = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_TAIL = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def draw(law: Any, words: jax.Array) -> jax.Array:
    """A draw from a NumPyro distribution. words: (2,) uint32, of this particle at this time alone."""
    if type(law) is dist.Normal:
        return law.loc + law.scale * normal(words, law.shape())
    if type(law) is dist.MultivariateNormal:
        z = normal(words, law.shape())
        return law.loc + jnp.sum(law.scale_tril * z[..., None, :], axis=-1)
    if type(law) is dist.LogNormal:
        return jnp.exp(draw(law.base_dist, words))
    if type(law) is dist.Independent:
        return draw(law.base_dist, words)
    return law.sample(key_of(words))


def normal(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers with a relative error of 4e-7, on a grid of 2**32 probabilities: out to 6.3 sd."""
    count = int(np.prod(shape, dtype=int))
    counter = lax.iota(jnp.uint32, count).reshape(shape)
    bits, _ = threefry((words[0], words[1]), counter, jnp.full_like(counter, _TAG))
    # the probability beyond the number, in (0, 1/2), and its side
    beyond = ((bits >> np.uint32(1)).astype(jnp.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    w = -jnp.log(4 * beyond * (1 - beyond))
    centre, tail = _polynomial(_CENTRE, w - 2.5), _polynomial(_TAIL, jnp.sqrt(w) - 3)
    size = jnp.where(w < 5, centre, tail) * (1 - 2 * beyond) * np.float32(np.sqrt(2))
    return jnp.where(bits & np.uint32(1) == 1, size, -size).astype(float)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    value = jnp.full_like(x, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value
