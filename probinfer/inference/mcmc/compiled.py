"""The programs that a Markov chain runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.block import BlockControl, ChainState, make_block
from probinfer.inference.mcmc.kernel import Kernel
from probinfer.inference.mcmc.metric import Metric
from probinfer.model.target import Target


def compiled_block(kernel: Kernel, target: Target, rank: int) -> Any:
    """The executable of `make_block` for this target."""

    def shape(*size: int, dtype: Any = target.dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype)

    with target.precision():
        step = jax.eval_shape(lambda: steps.start(kernel.first_step, target.dtype))
    words, iteration = shape(2, dtype=jnp.uint32), shape(dtype=jnp.uint32)
    own = shape(kernel.words, 2, dtype=jnp.uint32) if kernel.words else ()
    state = ChainState(shape(target.dim), words, iteration, step, shape(target.dim), shape(), own)
    whole = shape(dtype=jnp.int32)
    control = BlockControl(whole, whole, shape(dtype=bool), shape(*np.shape(kernel.first_step)), whole)
    metric = Metric(shape(target.dim), shape(target.dim, rank), shape(rank))
    density: Any = target.value_and_grad_in_loop if kernel.gradient else target.log_density
    if kernel.given is not None:
        density = kernel.given(target)
    block = make_block(kernel, density, target.dim)
    return target.compile(f"block {rank} {kernel.name}", block, state, control, metric, target.inputs)


def compiled_density(kernel: Kernel, target: Target) -> Any:
    """The executable of the target's `value_and_grad`, or of its log density where the kernel uses no gradient."""
    point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
    if kernel.gradient:
        return target.compile("density", target.value_and_grad, point, target.inputs)
    return target.compile("log density", target.log_density, point, target.inputs)
