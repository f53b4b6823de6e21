"""A block of draws of one chain as one compiled program; how many draws is decided at run time, so it compiles once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.mcmc.kernel import Draw, Info, Kernel, Value
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.step_size import DualAveraging

ROWS = 500  # the most draws that one call returns


class ChainState(NamedTuple):
    """What the next draw of a chain needs; `key` and `iteration`, the draws made so far, name its random numbers."""

    q: Value
    key: Value  # (2,) uint32
    iteration: Value  # uint32
    step: DualAveraging
    g: Value  # (d,) gradient at q; kept, with the log density, so that draws do not depend on where blocks end:
    log_density: Value  # computed anew in another part of the program, they may differ in the last bit
    words: Value = ()  # (n, 2) uint32, of a kernel whose state has random words


class BlockControl(NamedTuple):
    """Run-time settings of a block."""

    count: Value  # draws wanted, at most ROWS
    budget: Value  # gradients after which to return early, with fewer draws
    adapt: Value  # bool: let the step size adapt
    target_accept: Value
    limit: Value  # doublings of a trajectory


class BlockResult(NamedTuple):
    """Rows 0..done-1 are filled, with the gradients and log densities of the draws."""

    done: Value
    q: Value
    g: Value
    log_density: Value
    step_size: Value
    info: Info


def make_block(kernel: Kernel, target_density: Callable, dim: int) -> Callable[..., tuple[ChainState, BlockResult]]:
    """The function to compile, for a density of (q, inputs) such as the kernel wants: block(state, control, metric,
    inputs)."""

    def block(state: ChainState, control: BlockControl, metric: Metric, inputs: Any) -> tuple[ChainState, BlockResult]:
        def density(q: jax.Array) -> Any:
            return target_density(q, inputs)

        dtype = state.q.dtype

        def draw(carry: tuple) -> tuple:
            here, step, iteration, result, gradients = carry
            key = threefry((state.key[0], state.key[1]), iteration, jnp.uint32(0))
            size = jnp.exp(jnp.where(control.adapt, step.log_step, step.log_average))
            here, info = kernel.transition(density, metric, here, size, key, control.limit)
            adapted = steps.update(step, info.symmetric_acceptance, control.target_accept)
            step = jax.tree.map(lambda new, old: jnp.where(control.adapt, new, old), adapted, step)
            row = (here.q, here.g, here.log_density, size, info)
            stored = (result.q, result.g, result.log_density, result.step_size, result.info)
            stored = jax.tree.map(lambda all_, one: all_.at[result.done].set(one), stored, row)
            result = BlockResult(result.done + 1, *stored)
            return here, step, iteration + jnp.uint32(1), result, gradients + info.steps

        def unfinished(carry: tuple) -> jax.Array:
            *_, result, gradients = carry
            return (result.done < control.count) & (gradients < control.budget)

        scalar, vector = jnp.zeros(ROWS, dtype), jnp.zeros((ROWS, dim), dtype)
        flag, whole = jnp.zeros(ROWS, bool), jnp.zeros(ROWS, jnp.int32)
        sizes = jnp.zeros((ROWS, *state.step.log_step.shape), dtype)
        info = Info(scalar, sizes, whole, whole, flag, flag, scalar, scalar)
        empty = BlockResult(jnp.int32(0), vector, vector, scalar, sizes, info)
        start = Draw(state.q, state.g, state.log_density, state.words)
        here, step, iteration, result, _ = lax.while_loop(
            unfinished, draw, (start, state.step, state.iteration, empty, jnp.int32(0))
        )
        return ChainState(here.q, state.key, iteration, step, here.g, here.log_density, here.words), result

    return block
