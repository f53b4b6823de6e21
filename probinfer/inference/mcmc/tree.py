"""One NUTS transition: the trajectory is doubled until it turns back, one gradient per step of the inner loop.

Multinomial sampling within a subtree, biased progressive sampling between subtrees, and the generalised no-U-turn
rule, checked on every balanced subtree with memory logarithmic in its length.

Hoffman & Gelman (2014), the No-U-Turn sampler; Betancourt (2017), a conceptual introduction, appendix A.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.mcmc.kernel import MAX_ENERGY_ERROR, Draw, Info
from probinfer.inference.mcmc.leapfrog import Point, at, kinetic, leapfrog
from probinfer.inference.mcmc.metric import Metric
from probinfer.model.loop_sums import sum_all


class _Subtree(NamedTuple):
    edge: Point
    proposal: Draw
    error: jax.Array
    log_weight: jax.Array
    rho: jax.Array
    length: jax.Array
    turning: jax.Array
    diverging: jax.Array
    acceptance: jax.Array
    symmetric_acceptance: jax.Array
    v_saved: jax.Array
    middle_saved: jax.Array


class _Tree(NamedTuple):
    ends: Point  # each field (2, d): the left end and the right one
    proposal: Draw
    error: jax.Array
    log_weight: jax.Array
    rho: jax.Array
    depth: jax.Array
    steps: jax.Array
    done: jax.Array
    turning: jax.Array
    diverging: jax.Array
    acceptance: jax.Array
    symmetric_acceptance: jax.Array


def transition(
    value_and_grad: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: tuple[jax.Array, jax.Array],
    depth_limit: jax.Array,
    *,
    max_depth: int,
) -> tuple[Draw, Info]:
    """One draw of NUTS from `start`.

    `value_and_grad` maps q (d,) to the log density and its gradient; `key` is two words of 32 bits, spent here. The
    trajectory is doubled at most `depth_limit` times, a number known at run time and not above `max_depth`.
    """
    dim, dtype = start.q.size, start.q.dtype
    # Behind a barrier random numbers are computed once; else XLA computes them anew in every kernel they go into.
    noise = lax.optimization_barrier(normal(key, dim, dtype))
    directions, _ = _bits(key, jnp.uint32(0), 1)  # bit n: the direction of doubling n
    p = metric.momentum(noise)
    point = at(start.q, p, start.g, metric)
    energy = kinetic(point) - start.log_density
    zero, never = jnp.zeros((), dtype), jnp.zeros((), bool)

    def double(tree: _Tree) -> _Tree:
        side = ((directions >> tree.depth.astype(jnp.uint32)) & np.uint32(1)).astype(jnp.int32)
        edge = jax.tree.map(lambda both: lax.dynamic_index_in_dim(both, side, keepdims=False), tree.ends)
        signed_step = jnp.where(side == 1, step_size, -step_size)
        target_length = jnp.left_shift(jnp.int32(1), tree.depth)
        sub = _grow(value_and_grad, metric, edge, signed_step, energy, target_length, tree.steps, key, max_depth)

        complete = ~(sub.turning | sub.diverging)
        _, bits_merge = _bits(key, tree.depth + 1, 1)
        accept = complete & (jnp.log(uniform(bits_merge, dtype)) <= sub.log_weight - tree.log_weight)
        accept = lax.optimization_barrier(accept)
        ends = jax.tree.map(lambda both, new: lax.dynamic_update_index_in_dim(both, new, side, 0), tree.ends, sub.edge)
        rho = tree.rho + sub.rho
        turning = sub.turning | _turning(rho - 0.5 * (ends.p[0] + ends.p[1]), ends.v[0], ends.v[1])
        depth = tree.depth + 1
        return _Tree(
            ends=ends,
            proposal=jax.tree.map(lambda a, b: jnp.where(accept, a, b), sub.proposal, tree.proposal),
            error=jnp.where(accept, sub.error, tree.error),
            log_weight=jnp.logaddexp(tree.log_weight, sub.log_weight),
            rho=rho,
            depth=depth,
            steps=tree.steps + sub.length,
            done=~complete | turning | (depth >= depth_limit),
            turning=turning,
            diverging=sub.diverging,
            acceptance=tree.acceptance + sub.acceptance,
            symmetric_acceptance=tree.symmetric_acceptance + sub.symmetric_acceptance,
        )

    count = jnp.int32(0)
    tree = lax.while_loop(
        lambda tree: ~tree.done,
        double,
        _Tree(
            jax.tree.map(lambda one: jnp.stack([one, one]), point),
            start,
            zero,
            zero,
            p,
            count,
            count,
            never,
            never,
            never,
            zero,
            zero,
        ),
    )
    steps = tree.steps.astype(dtype)
    info = Info(
        acceptance=tree.acceptance / steps,
        symmetric_acceptance=tree.symmetric_acceptance / steps,
        steps=tree.steps,
        depth=tree.depth,
        diverging=tree.diverging,
        saturated=(tree.depth >= depth_limit) & ~tree.turning & ~tree.diverging,
        energy=energy + tree.error,
        energy_error=tree.error,
    )
    return tree.proposal, info


def _grow(
    value_and_grad: Callable,
    metric: Metric,
    edge: Point,
    signed_step: jax.Array,
    energy: jax.Array,
    target_length: jax.Array,
    steps_before: jax.Array,
    key: tuple[jax.Array, jax.Array],
    max_depth: int,
) -> _Subtree:
    """Extend the trajectory from `edge` by `target_length` leapfrog steps, or until a subtree turns or diverges."""
    dtype = edge.q.dtype
    zero, never = jnp.zeros((), dtype), jnp.zeros((), bool)
    # One row more than is ever checked: odd leaves write there, so that the buffers are updated in place.
    saved = jnp.zeros((max_depth + 1, edge.q.size), dtype)

    def leaf(sub: _Subtree) -> _Subtree:
        end, log_density = leapfrog(value_and_grad, metric, sub.edge, signed_step)
        q, p, v, g, _ = end
        error = kinetic(end) - log_density - energy
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        log_weight = jnp.logaddexp(sub.log_weight, -error)
        bits, _ = _bits(key, steps_before + sub.length, 2)
        take = jnp.log(uniform(bits, dtype)) <= -error - log_weight
        rho = sub.rho + p
        middle = rho - 0.5 * p  # summed momentum, the end counted half: so differences of two are what turning looks at

        # Leaf n closes a balanced subtree for each trailing one of n in binary; the even leaf that opened it was saved.
        n = sub.length
        even = (n & 1) == 0
        row = lax.population_count(n >> 1)
        closed = jnp.where(even, 0, lax.population_count((n ^ (n + 1)) >> 1))
        write = jnp.where(even, row, max_depth)
        v_saved = lax.dynamic_update_index_in_dim(sub.v_saved, v, write, 0)
        middle_saved = lax.dynamic_update_index_in_dim(sub.middle_saved, middle, write, 0)

        def check(state: tuple) -> tuple:
            row, _ = state
            opened = lax.dynamic_index_in_dim(middle_saved, row, keepdims=False)
            return row - 1, _turning(middle - opened, lax.dynamic_index_in_dim(v_saved, row, keepdims=False), v)

        last = row - closed
        _, turning = lax.while_loop(lambda state: (state[0] > last) & ~state[1], check, (row, never))
        ratio = jnp.exp(-jnp.abs(error))
        return _Subtree(
            edge=end,
            proposal=jax.tree.map(lambda a, b: jnp.where(take, a, b), Draw(q, g, log_density), sub.proposal),
            error=jnp.where(take, error, sub.error),
            log_weight=log_weight,
            rho=rho,
            length=n + 1,
            turning=turning,
            diverging=error > MAX_ENERGY_ERROR,
            acceptance=sub.acceptance + jnp.where(error > 0, ratio, 1.0),
            symmetric_acceptance=sub.symmetric_acceptance + 2 * ratio / (1 + ratio),
            v_saved=v_saved,
            middle_saved=middle_saved,
        )

    return lax.while_loop(
        lambda sub: (sub.length < target_length) & ~sub.turning & ~sub.diverging,
        leaf,
        _Subtree(
            edge=edge,
            proposal=Draw(edge.q, edge.g, zero),
            error=zero,
            log_weight=jnp.full((), -jnp.inf, dtype),
            rho=jnp.zeros_like(edge.p),
            length=jnp.int32(0),
            turning=never,
            diverging=never,
            acceptance=zero,
            symmetric_acceptance=zero,
            v_saved=saved,
            middle_saved=saved,
        ),
    )


def _turning(middle: jax.Array, v_left: jax.Array, v_right: jax.Array) -> jax.Array:
    """Whether a trajectory has begun to come back: `middle` is its summed momentum (d,), the two ends counted half."""
    return (sum_all(middle * v_left) <= 0) | (sum_all(middle * v_right) <= 0)


def _bits(key: tuple[jax.Array, jax.Array], counter: jax.Array, stream: int) -> tuple[jax.Array, jax.Array]:
    return threefry(key, counter.astype(jnp.uint32), jnp.uint32(stream))
