"""Draws and densities of many particles' laws: the normal law's made where they are used, all others by NumPyro.

`jax.random.normal` with a key for each of 100,000 particles measured 80 ns a number on one core, most of it in a rolled
loop of the generator and in the inverse error function in double precision; this takes 6 ns. Imports jax, numpyro.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import distributions as dist

from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.montecarlo.particle_keys import key_of

_SIGNED = (dist.constraints.positive, dist.constraints.nonnegative, dist.constraints.softplus_positive)
_TAG = 0x5151  # second counter: tells these words from those of other uses of threefry

# The inverse error function over its argument, in single precision. In w - 2.5 for w < 5: Giles (2012), "Approximating
# the erfinv function". In sqrt(w) - 3 beyond: fitted for the relative error, out to w = 22.2.
_CENTRE = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_TAIL = (
    *(3.67934198e-05, -0.000152175527, -2.43144543e-05, 0.00128400226, -0.0035660592),
    *(0.00577247329, -0.00765288253, 0.00943257554, 1.0016762, 2.83297712),
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


def density(law: Any, value: Any) -> jax.Array:
    """Log density of a NumPyro distribution, as its `log_prob` has it; a normal one's with the logarithm of the scale
    alone, for `with_plain_logarithms`."""
    if type(law) is dist.Normal:
        scale = jnp.asarray(law.scale, float)
        return -0.5 * ((value - law.loc) / scale) ** 2 - (jnp.log(scale) + 0.5 * np.log(2 * np.pi))
    if type(law) is dist.Independent and type(law.base_dist) is dist.Normal:
        each = density(law.base_dist, value)
        return jnp.sum(each, axis=tuple(range(-law.reinterpreted_batch_ndims, 0)))
    return law.log_prob(value)


def impossible(law: Any) -> jax.Array:
    """Whether a NumPyro distribution has parameters that are NaN, negative where they must not be, or no probabilities.

    Zero is let pass: a scale of zero is a law that puts all its mass at one point.
    """
    found = jnp.zeros((), bool)
    while law is not None:
        given = vars(law)
        for name, constraint in type(law).arg_constraints.items():
            value = given.get(name)
            if not isinstance(value, jax.Array | np.ndarray | float | int) or not jnp.issubdtype(
                jnp.result_type(value), jnp.floating
            ):
                continue
            if constraint in _SIGNED:
                value = jnp.where(value >= 0, value, jnp.nan)
            elif constraint is dist.constraints.unit_interval:
                value = jnp.where((value >= 0) & (value <= 1), value, jnp.nan)
            found = found | jnp.any(jnp.isnan(value))
        law = given.get("base_dist")
    return found


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
    # the barrier keeps this from being compiled into one loop with what follows in double precision, whose vectors
    # have half as many entries
    return lax.optimization_barrier(jnp.where(bits & np.uint32(1) == 1, size, -size)).astype(float)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    value = jnp.full_like(x, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value
