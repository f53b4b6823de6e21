"""One step of the leapfrog integrator, with one gradient and one product with the inverse mass matrix."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from probinfer.inference.mcmc.metric import Metric
from probinfer.model.loop_sums import sum_all


class Point(NamedTuple):
    """A point in phase space, each (d,): position, momentum, velocity, gradient of the log density, its acceleration.

    Velocity and acceleration are the inverse mass matrix times momentum and gradient. Carrying both costs one product
    with that matrix per step, not two.
    """

    q: jax.Array
    p: jax.Array
    v: jax.Array
    g: jax.Array
    a: jax.Array


def at(q: jax.Array, p: jax.Array, g: jax.Array, metric: Metric) -> Point:
    """The point with this position, momentum and gradient."""
    return Point(q, p, metric.velocity(p), g, metric.velocity(g))


def kinetic(point: Point) -> jax.Array:
    """Kinetic energy p v / 2. Where numbers have grown so large that rounding makes it negative, infinity: such a point
    must not look like one of low energy."""
    energy = 0.5 * sum_all(point.p * point.v)
    return jnp.where(energy >= 0, energy, jnp.inf)


def leapfrog(value_and_grad: Callable, metric: Metric, start: Point, step: jax.Array) -> tuple[Point, jax.Array]:
    """The point a signed `step` further on, and the log density there."""
    q, p, v, g, a = start
    half = 0.5 * step
    q = q + step * (v + half * a)
    log_density, new_g = value_and_grad(q)
    new_a = metric.velocity(new_g)
    p = p + half * (g + new_g)
    v = v + half * (a + new_a)
    return Point(q, p, v, new_g, new_a), log_density
