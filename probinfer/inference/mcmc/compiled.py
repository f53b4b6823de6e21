"""The programs that Markov chains run."""

import copy
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.batch import BatchControl, machine_of, make_batch
from probinfer.inference.mcmc.block import (
    ROWS,
    BlockControl,
    BlockResult,
    ChainState,
    Layout,
    Row,
    make_block,
)
from probinfer.inference.mcmc.kernel import Kernel
from probinfer.inference.mcmc.metric import Metric
from probinfer.model.target import Target

_WIDTH = 64  # chains of one call on a CPU: the same on any, so that the draws are
_BLOCK_BYTES = 256 * 2**20  # of the draws that a call returns, unless one of each chain is more
# Steps of a batch before it asks whether to end, which costs nothing on a CPU and elsewhere waits for the host.
_TOGETHER = {"cpu": 1}
_ELSEWHERE = 8
_OWN_BYTES = 16 * 2**20  # of the metrics of all chains, beyond which those that are the same are passed once


class _OfTarget:
    """Executables that take the inputs of a target."""

    _target: Target

    def on(self, target: Target) -> Self:
        """The same programs for other inputs."""
        other = copy.copy(self)
        other._target = target
        return other


class Block(_OfTarget):
    """The executable of `make_block` for this target and metrics of this rank, called with trees of NumPy's arrays."""

    def __init__(self, kernel: Kernel, target: Target, rank: int) -> None:
        def shape(*size: int, dtype: Any = target.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype)

        self._target = target
        self._layout = Layout.of(kernel, target.dim, target.dtype)
        density: Any = target.value_and_grad_in_loop if kernel.gradient else target.log_density
        self._in_loop = kernel.gradient and kernel.given is None
        if kernel.given is not None:
            density = kernel.given(target)
        self._program = target.compile(
            f"block {rank} {kernel.name}",
            make_block(kernel, density, self._layout),
            shape(self._layout.numbers.size),
            shape(self._layout.words.size, dtype=jnp.uint32),
            shape(self._layout.control.size, dtype=jnp.int32),
            Metric(shape(target.dim), shape(target.dim, rank), shape(rank)),
            self._inputs,
        )

    @property
    def _inputs(self) -> Any:
        return self._target.loop_inputs if self._in_loop else self._target.inputs

    def __call__(
        self, state: ChainState, control: BlockControl, target_accept: np.ndarray, metric: Metric
    ) -> tuple[ChainState, BlockResult]:
        """The chain's state after the block, and the draws."""
        layout, dtype = self._layout, self._target.dtype
        numbers = layout.numbers.pack((state.q, state.g, state.log_density, state.step, target_accept), dtype)
        words = layout.words.pack((state.key, state.iteration, state.words, np.uint32(0)), np.uint32)
        with self._target.precision():
            found = self._program(numbers, words, layout.control.pack(control, np.int32), metric, self._inputs)
            numbers, words, table = map(np.asarray, found)
        q, g, log_density, step, _ = layout.numbers.unpack(numbers)
        key, iteration, own, done = layout.words.unpack(words)
        row = layout.row.unpack(table[:done])
        return ChainState(q, key, iteration, step, g, log_density, own), BlockResult(np.int32(done), *row)


class Batch(_OfTarget):
    """The executables of `make_batch` for so many chains of this target, for metrics of this rank.

    width: chains that a call advances. max_depth: doublings that there is memory for. packing: of a row of the draws.
    A second executable, for one metric of all chains, is made when it is first wanted, and only where passing it to
    each would cost.
    """

    def __init__(self, kernel: Kernel, target: Target, rank: int, chains: int) -> None:
        self._kernel, self._target, self._rank = kernel, target, rank
        self.width = min(chains, _WIDTH) if jax.default_backend() == "cpu" else chains
        self.max_depth = kernel.limit
        self.packing = Row.packing(target.dim, target.dtype)
        each = target.dim * (rank + 1) * target.dtype.itemsize
        self._heavy = self.width * each > _OWN_BYTES
        self.program(alike=False)

    def shares(self, *, alike: bool) -> bool:
        """Whether `program` wants one metric, and not one for each chain."""
        return alike and self._heavy

    def program(self, *, alike: bool) -> Any:
        """The executable for chains whose metrics are all `alike` or not."""
        shared, width, target = self.shares(alike=alike), self.width, self._target
        together = _TOGETHER.get(jax.default_backend(), _ELSEWHERE)
        dim, dtype = target.dim, target.dtype
        row = width * self.packing.size * dtype.itemsize
        count = min(max(_BLOCK_BYTES // row, 1), ROWS)

        def shape(*size: int, dtype: Any = dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype)

        def vectors(*size: int, dtype: Any = dtype) -> jax.ShapeDtypeStruct:
            return shape(width, *size, dtype=dtype)

        step = steps.DualAveraging(*(vectors() for _ in steps.DualAveraging._fields))
        words, iteration = vectors(2, dtype=jnp.uint32), vectors(dtype=jnp.uint32)
        state = ChainState(vectors(dim), words, iteration, step, vectors(dim), vectors())
        whole = shape(dtype=jnp.int32)
        control = BatchControl(vectors(dtype=jnp.int32), whole, shape(dtype=bool), shape(), whole)
        metric = shape if shared else vectors
        return target.compile(
            f"batch {width} {count} {together} {self._rank} {shared} {self._kernel.name}",
            make_batch(target.value_and_grad, count, shared=shared, together=together),
            machine_of(state, self.max_depth),
            control,
            Metric(metric(dim), metric(dim, self._rank), metric(self._rank)),
            target.inputs,
        )


def compiled_density(target: Target, *, gradient: bool = True) -> Any:
    """The executable of the target's `value_and_grad`, or of its log density alone."""
    point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
    if gradient:
        return target.compile("density", target.value_and_grad, point, target.inputs)
    return target.compile("log density", target.log_density, point, target.inputs)


def value_at(target: Target, *, gradient: bool = True) -> Callable[[np.ndarray], float]:
    """The log density at a point, by the program that found the starting points."""
    density = compiled_density(target, gradient=gradient)

    def value(position: np.ndarray) -> float:
        with target.precision():
            found = density(position.astype(target.dtype), target.inputs)
            return float(found[0] if gradient else found)

    return value
