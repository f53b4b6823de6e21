"""One transition of Hamiltonian Monte Carlo: a trajectory of given length, and a Metropolis test of its end.

Duane et al. (1987), hybrid Monte Carlo; Neal (2011), MCMC using Hamiltonian dynamics.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.mcmc.kernel import MAX_ENERGY_ERROR, Draw, Info
from probinfer.inference.mcmc.leapfrog import Point, at, kinetic, leapfrog
from probinfer.inference.mcmc.metric import Metric


def transition(
    value_and_grad: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: tuple[jax.Array, jax.Array],
    limit: jax.Array,
    *,
    length: float,
    jitter: float,
    max_steps: int,
) -> tuple[Draw, Info]:
    """One draw from `start`.

    The trajectory's length is uniform on `length` (1 - jitter, 1 + jitter), whatever was drawn before, so the
    transition is reversible; it has at most `max_steps` steps, and at most 2**limit.
    """
    dtype = start.q.dtype
    bits_length, bits_accept = threefry(key, jnp.uint32(0), jnp.uint32(1))
    p = metric.momentum(normal(key, start.q.size, dtype))
    point = at(start.q, p, start.g, metric)
    energy = kinetic(point) - start.log_density

    wanted = length * (1.0 + jitter * (2.0 * uniform(bits_length, dtype) - 1.0)) / step_size
    most = jnp.minimum(max_steps, jnp.left_shift(jnp.int32(1), limit))
    count = jnp.clip(jnp.ceil(jnp.minimum(wanted, 2.0**30)).astype(jnp.int32), 1, most)

    def further(state: tuple) -> tuple:
        point, _, _, n = state
        point, log_density = leapfrog(value_and_grad, metric, point, step_size)
        error = kinetic(point) - log_density - energy
        return point, log_density, jnp.where(jnp.isnan(error), jnp.inf, error), n + 1

    def unfinished(state: tuple) -> jax.Array:
        return (state[3] < count) & (state[2] <= MAX_ENERGY_ERROR)

    begin: tuple[Point, jax.Array, jax.Array, jax.Array] = (
        point, start.log_density, jnp.zeros((), dtype), jnp.int32(0),
    )  # fmt: skip
    end, log_density, error, steps = lax.while_loop(unfinished, further, begin)
    diverging = error > MAX_ENERGY_ERROR
    take = ~diverging & (jnp.log(uniform(bits_accept, dtype)) <= -error)
    ratio = jnp.exp(-jnp.abs(error))
    draw = jax.tree.map(lambda a, b: jnp.where(take, a, b), Draw(end.q, end.g, log_density), start)
    return draw, Info(
        acceptance=jnp.where(error > 0, ratio, 1.0),
        symmetric_acceptance=2 * ratio / (1 + ratio),
        steps=steps,
        depth=jnp.int32(0),
        diverging=diverging,
        saturated=(wanted > max_steps) & ~diverging,
        energy=energy + jnp.where(take, error, 0.0),
        energy_error=error,
    )
