"""A block of draws of one chain as one compiled program; how many draws is decided at run time, so it compiles once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.mcmc.kernel import Draw, Info, Kernel, Value
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.packing import Packing
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


def stacked(states: list[ChainState]) -> ChainState:
    """The states of several chains as one, whose arrays have an axis for the chains in front."""
    return jax.tree.map(lambda *rows: np.stack(rows), *states)


def one(states: ChainState, chain: int) -> ChainState:
    """That of one of several chains."""
    return jax.tree.map(lambda column: column[chain], states)


def restart(state: ChainState, log_step: Any) -> ChainState:
    """Forget the acceptance seen so far, and begin at this step size; of one chain or of several."""
    return state._replace(step=steps.afresh(log_step))


class BlockControl(NamedTuple):
    """Run-time settings of a block."""

    count: Value  # draws wanted, at most ROWS
    budget: Value  # gradients after which to return early, with fewer draws
    adapt: Value  # bool: let the step size adapt
    limit: Value  # doublings of a trajectory


class BlockResult(NamedTuple):
    """Rows 0..done-1 are filled, with the gradients and log densities of the draws."""

    done: Value
    q: Value
    g: Value
    log_density: Value
    step_size: Value
    info: Info


class Row(NamedTuple):
    """What is kept of a draw."""

    q: Value
    g: Value
    log_density: Value
    step_size: Value
    info: Info

    @classmethod
    def packing(cls, dim: int, dtype: Any, sizes: tuple[int, ...] = ()) -> Packing:
        """Rows as vectors of `dtype`, whose whole numbers are below 2**24, so that single precision holds them; step
        sizes of the shape `sizes`, () for one."""

        def shape(*size: int, dtype: Any = dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, np.dtype(dtype))

        scalar, whole, flag = shape(), shape(dtype=np.int32), shape(dtype=bool)
        info = Info(scalar, shape(*sizes), whole, whole, flag, flag, scalar, scalar)
        return Packing(cls(shape(dim), shape(dim), scalar, shape(*sizes), info))


class Layout(NamedTuple):
    """How the states, settings and draws of the chains of a kernel are packed: each a vector, or a table of rows."""

    numbers: Packing  # of a state (q, g, log density, step), then the acceptances to aim at
    words: Packing  # of a state (key, iteration, words), then the draws made in this block
    control: Packing
    row: Packing

    @classmethod
    def of(cls, kernel: Kernel, dim: int, dtype: Any) -> "Layout":
        """That of a target with so many dimensions and this type."""
        sizes = np.shape(kernel.first_step)
        scalar, vector, size = np.zeros((), dtype), np.zeros(dim, dtype), np.zeros(sizes, dtype)
        step = DualAveraging(*(size for _ in DualAveraging._fields))
        word = np.uint32(0)
        own = np.zeros((kernel.words, 2), np.uint32) if kernel.words else ()
        whole = np.int32(0)
        return cls(
            Packing((vector, vector, scalar, step, size)),
            Packing((np.zeros(2, np.uint32), word, own, word)),
            Packing(BlockControl(whole, whole, np.bool_(False), whole)),
            Row.packing(dim, dtype, sizes),
        )


def make_block(kernel: Kernel, target_density: Callable, layout: Layout) -> Callable[..., tuple]:
    """The function to compile, for a density of (q, inputs) such as the kernel wants: block(numbers, words, control,
    metric, inputs) -> (numbers, words, table), packed as the layout has it, the table with ROWS rows."""

    def block(numbers: jax.Array, words: jax.Array, control: jax.Array, metric: Metric, inputs: Any) -> tuple:
        settings: BlockControl = layout.control.unpack(control)
        dtype = numbers.dtype

        def density(q: jax.Array) -> Any:
            return target_density(q, inputs)

        def draw(carry: tuple) -> tuple:
            numbers, words, table, gradients = carry
            q, g, log_density, step, accept = layout.numbers.unpack(numbers)
            key, iteration, own, done = layout.words.unpack(words)
            named = threefry((key[0], key[1]), iteration, jnp.uint32(0))
            size = jnp.exp(jnp.where(settings.adapt, step.log_step, step.log_average))
            here, info = kernel.transition(density, metric, Draw(q, g, log_density, own), size, named, settings.limit)
            adapted = steps.update(step, info.symmetric_acceptance, accept)
            step = jax.tree.map(lambda new, old: jnp.where(settings.adapt, new, old), adapted, step)
            row = layout.row.pack(Row(here.q, here.g, here.log_density, size, info), dtype)
            numbers = layout.numbers.pack((here.q, here.g, here.log_density, step, accept), dtype)
            words = layout.words.pack((key, iteration + 1, here.words, done + 1), jnp.uint32)
            return numbers, words, table.at[done].set(row), gradients + info.steps

        def unfinished(carry: tuple) -> jax.Array:
            _, words, _, gradients = carry
            return (words[-1].astype(jnp.int32) < settings.count) & (gradients < settings.budget)

        table = jnp.zeros((ROWS, layout.row.size), dtype)
        numbers, words, table, _ = lax.while_loop(unfinished, draw, (numbers, words, table, jnp.int32(0)))
        return numbers, words, table

    return block
