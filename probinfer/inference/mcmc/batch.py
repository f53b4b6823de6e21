"""Blocks of draws of many chains as one compiled program: NUTS as a machine whose every step is one gradient.

`tree.transition` is two loops, one in the other, and side by side all chains would wait for the longest tree. Here a
step of a chain is a leapfrog, whatever else is due with it: the start of a draw before, the end of a subtree, of a
doubling and of a draw after. So each chain is in its own place of its own tree, and none waits. The random numbers are
those of `tree.transition`, by the same names: a chain draws the same here and there, up to the rounding of sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.block import ChainState, Row
from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.mcmc.kernel import MAX_ENERGY_ERROR, Draw, Info, Value
from probinfer.inference.mcmc.leapfrog import Point, at, kinetic, leapfrog
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.step_size import DualAveraging
from probinfer.inference.mcmc.tree import _bits, _turning


class Tree(NamedTuple):
    """The trajectory so far, of one chain. Where it has not `started`, only `proposal` counts, where the chain is."""

    started: Value
    proposal: Draw
    left: Point
    right: Point
    key: Value  # (2,) uint32, of this draw
    size: Value  # of a step
    energy: Value  # at the start
    error: Value
    log_weight: Value
    rho: Value
    depth: Value
    steps: Value
    acceptance: Value
    symmetric_acceptance: Value


class Subtree(NamedTuple):
    """What the doubling under way has added so far; of `length` 0 nothing in it counts."""

    length: Value
    edge: Point
    proposal: Draw
    error: Value
    log_weight: Value
    rho: Value
    v_saved: Value
    middle_saved: Value


class Machine(NamedTuple):
    """Chains in the middle of their draws, each field with one row for each chain. The first three are as after the
    last whole draw; where that was, its row in the block says: the trajectory under way may have a proposal already."""

    key: Value
    iteration: Value
    step: DualAveraging
    tree: Tree
    sub: Subtree


class BatchControl(NamedTuple):
    """Run-time settings of a block of many chains."""

    wanted: Value  # (n,) int32, draws of each chain
    budget: Value  # steps, each a gradient of every chain, after which to return early
    adapt: Value
    target_accept: Value
    limit: Value


def machine_of(state: ChainState, max_depth: int) -> Machine:
    """A machine at the start of a draw, from the states of n chains, stacked: of arrays, or of their shapes."""
    n, dim = state.q.shape
    dtype = state.q.dtype
    shapes = isinstance(state.q, jax.ShapeDtypeStruct)

    def zeros(*shape: int, dtype: Any = dtype) -> Any:
        return jax.ShapeDtypeStruct((n, *shape), dtype) if shapes else np.zeros((n, *shape), dtype)

    def point() -> Point:
        return Point(*(zeros(dim) for _ in Point._fields))

    here, whole = Draw(state.q, state.g, state.log_density), np.int32
    tree = Tree(
        started=zeros(dtype=bool),
        proposal=here,
        left=point(),
        right=point(),
        key=zeros(2, dtype=np.uint32),
        size=zeros(),
        energy=zeros(),
        error=zeros(),
        log_weight=zeros(),
        rho=zeros(dim),
        depth=zeros(dtype=whole),
        steps=zeros(dtype=whole),
        acceptance=zeros(),
        symmetric_acceptance=zeros(),
    )
    sub = Subtree(
        length=zeros(dtype=whole),
        edge=point(),
        proposal=Draw(zeros(dim), zeros(dim), zeros()),
        error=zeros(),
        log_weight=zeros(),
        rho=zeros(dim),
        v_saved=zeros(max_depth, dim),
        middle_saved=zeros(max_depth, dim),
    )
    return Machine(state.key, state.iteration, state.step, tree, sub)


def make_batch(
    value_and_grad: Callable, rows: int, *, shared: bool, together: int = 1
) -> Callable[..., tuple[Machine, jax.Array, jax.Array, jax.Array]]:
    """The function to compile: block(machine, control, metric, inputs) -> machine, table, done, steps taken.

    The table has `rows` packed rows for each chain, of which 0..done-1 are filled. `shared` says whether there is one
    metric for all chains, or one for each. The block ends early when a chain has filled its rows and wants more.
    So many steps are taken `together` before it is asked whether that is so, or all have what they want.
    """

    def block(
        machine: Machine, control: BatchControl, metric: Metric, inputs: Any
    ) -> tuple[Machine, jax.Array, jax.Array, jax.Array]:
        n, dim = machine.tree.rho.shape
        packing = Row.packing(dim, machine.tree.rho.dtype)

        def density(q: jax.Array) -> Any:
            return value_and_grad(q, inputs)

        def one(machine: Machine, table: jax.Array, done: jax.Array, wanted: jax.Array, metric: Metric) -> Any:
            machine, row, ends = _step(density, machine, done < jnp.minimum(wanted, rows), metric, control)
            # What is not a draw goes beyond the table, where it is dropped.
            table = table.at[jnp.where(ends, done, rows)].set(packing.pack(row, table.dtype), mode="drop")
            return machine, table, done + ends.astype(jnp.int32)

        every = jax.vmap(one, in_axes=(0, 0, 0, 0, None if shared else 0))

        def step(carry: tuple) -> tuple:
            *chains, taken = carry
            return *every(*chains, control.wanted, metric), taken + 1

        def several(carry: tuple) -> tuple:
            return lax.fori_loop(0, together, lambda _, inner: step(inner), carry) if together > 1 else step(carry)

        def unfinished(carry: tuple) -> jax.Array:
            _, _, done, taken = carry
            more = done < control.wanted
            return (taken < control.budget) & more.any() & ~(more & (done == rows)).any()

        table = jnp.zeros((n, rows, packing.size), machine.tree.rho.dtype)
        start = (machine, table, jnp.zeros(n, jnp.int32), jnp.int32(0))
        return lax.while_loop(unfinished, several, start)

    return block


def _step(
    density: Callable, machine: Machine, active: jax.Array, metric: Metric, control: BatchControl
) -> tuple[Machine, Row, jax.Array]:
    """One gradient of one chain, and all that is due with it: the chain then, the row of its draw, and whether that
    draw ended here. A chain that is not `active` has its draws already."""
    tree, sub = machine.tree, machine.sub
    tree = _where(active & ~tree.started, _begun(machine, metric, control), tree)
    key = (tree.key[0], tree.key[1])
    directions, _ = _bits(key, jnp.uint32(0), 1)  # bit n: the direction of doubling n
    right = lax.optimization_barrier(((directions >> tree.depth.astype(jnp.uint32)) & np.uint32(1)) == 1)
    sub = _where(sub.length == 0, _subtree(sub, _where(right, tree.right, tree.left)), sub)
    # A chain that has its draws stays where it is: a step on from there might be the dearest of all.
    signed_step = jnp.where(active, jnp.where(right, tree.size, -tree.size), 0.0)
    sub, sums, turning, diverging = _leaf(density, metric, sub, tree, signed_step, key)
    tree = tree._replace(
        acceptance=tree.acceptance + sums[0],
        symmetric_acceptance=tree.symmetric_acceptance + sums[1],
        steps=tree.steps + 1,
    )
    full = sub.length == jnp.left_shift(jnp.int32(1), tree.depth)
    merged, turned = _merged(tree, sub, right, ~(turning | diverging), key)
    turned = turned | turning
    whole = active & (full | turning | diverging)
    tree = _where(whole, merged, tree)
    sub = sub._replace(length=jnp.where(whole | ~active, 0, sub.length))
    ends = whole & (turned | diverging | (tree.depth >= control.limit))

    count = tree.steps.astype(tree.size.dtype)
    info = Info(
        acceptance=tree.acceptance / count,
        symmetric_acceptance=tree.symmetric_acceptance / count,
        steps=tree.steps,
        depth=tree.depth,
        diverging=diverging,
        saturated=(tree.depth >= control.limit) & ~turned & ~diverging,
        energy=tree.energy + tree.error,
        energy_error=tree.error,
    )
    adapted = steps.update(machine.step, info.symmetric_acceptance, control.target_accept)
    step = _where(ends & control.adapt, adapted, machine.step)
    iteration = machine.iteration + ends.astype(jnp.uint32)
    tree = tree._replace(started=tree.started & ~ends)
    here = tree.proposal
    row = Row(here.q, here.g, here.log_density, tree.size, info)
    return Machine(machine.key, iteration, step, tree, sub), row, ends


def _begun(machine: Machine, metric: Metric, control: BatchControl) -> Tree:
    """The trajectory of the next draw, which is its start alone."""
    here, step = machine.tree.proposal, machine.step
    dim, dtype = here.q.size, here.q.dtype
    key = threefry((machine.key[0], machine.key[1]), machine.iteration, jnp.uint32(0))
    p = metric.momentum(lax.optimization_barrier(normal(key, dim, dtype)))
    point = at(here.q, p, here.g, metric)
    zero, count = jnp.zeros((), dtype), jnp.int32(0)
    return Tree(
        started=jnp.ones((), bool),
        proposal=here,
        left=point,
        right=point,
        key=jnp.stack(key),
        size=jnp.exp(jnp.where(control.adapt, step.log_step, step.log_average)),
        energy=kinetic(point) - here.log_density,
        error=zero,
        log_weight=zero,
        rho=p,
        depth=count,
        steps=count,
        acceptance=zero,
        symmetric_acceptance=zero,
    )


def _subtree(before: Subtree, edge: Point) -> Subtree:
    """A subtree that grows from `edge`; what was saved for the one before is overwritten before it is read."""
    zero = jnp.zeros((), edge.q.dtype)
    return Subtree(
        length=jnp.int32(0),
        edge=edge,
        proposal=Draw(edge.q, edge.g, zero),
        error=zero,
        log_weight=jnp.full_like(zero, -jnp.inf),
        rho=jnp.zeros_like(edge.p),
        v_saved=before.v_saved,
        middle_saved=before.middle_saved,
    )


def _leaf(
    density: Callable, metric: Metric, sub: Subtree, tree: Tree, signed_step: jax.Array, key: tuple
) -> tuple[Subtree, tuple[jax.Array, jax.Array], jax.Array, jax.Array]:
    """The subtree with one more leaf, what that adds to the sums of acceptances, and whether it turns or diverges."""
    end, log_density = leapfrog(density, metric, sub.edge, signed_step)
    q, p, v, g, _ = end
    error = kinetic(end) - log_density - tree.energy
    error = jnp.where(jnp.isnan(error), jnp.inf, error)
    log_weight = jnp.logaddexp(sub.log_weight, -error)
    bits, _ = _bits(key, tree.steps, 2)
    take = lax.optimization_barrier(jnp.log(uniform(bits, q.dtype)) <= -error - log_weight)
    rho = sub.rho + p
    middle = rho - 0.5 * p  # summed momentum, the end counted half

    # As in tree.py: which rows hold the openings of the subtrees that leaf n closes.
    n = sub.length
    even = (n & 1) == 0
    row = lax.population_count(n >> 1)
    last = row - lax.population_count((n ^ (n + 1)) >> 1)
    rows = lax.iota(jnp.int32, sub.v_saved.shape[0])
    write = (even & (rows == row))[:, None]
    v_saved = jnp.where(write, v, sub.v_saved)
    middle_saved = jnp.where(write, middle, sub.middle_saved)
    closes = ~even & (rows > last) & (rows <= row)
    turning = (closes & jax.vmap(_turning, in_axes=(0, 0, None))(middle - middle_saved, v_saved, v)).any()
    ratio = jnp.exp(-jnp.abs(error))
    grown = Subtree(
        length=n + 1,
        edge=end,
        proposal=_where(take, Draw(q, g, log_density), sub.proposal),
        error=jnp.where(take, error, sub.error),
        log_weight=log_weight,
        rho=rho,
        v_saved=v_saved,
        middle_saved=middle_saved,
    )
    sums = jnp.where(error > 0, ratio, 1.0), 2 * ratio / (1 + ratio)
    return grown, sums, turning, error > MAX_ENERGY_ERROR


def _merged(tree: Tree, sub: Subtree, right: jax.Array, complete: jax.Array, key: tuple) -> tuple[Tree, jax.Array]:
    """The trajectory with a subtree at its end, and whether the whole of it turns."""
    _, bits = _bits(key, tree.depth + 1, 1)
    accept = complete & (jnp.log(uniform(bits, tree.rho.dtype)) <= sub.log_weight - tree.log_weight)
    accept = lax.optimization_barrier(accept)
    left, right_end = _where(right, tree.left, sub.edge), _where(right, sub.edge, tree.right)
    rho = tree.rho + sub.rho
    merged = tree._replace(
        proposal=_where(accept, sub.proposal, tree.proposal),
        left=left,
        right=right_end,
        error=jnp.where(accept, sub.error, tree.error),
        log_weight=jnp.logaddexp(tree.log_weight, sub.log_weight),
        rho=rho,
        depth=tree.depth + 1,
    )
    return merged, _turning(rho - 0.5 * (left.p + right_end.p), left.v, right_end.v)


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
