"""Compiled blocks, kept for the life of the process: the same model on new data of the same shapes compiles once."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.block import BlockControl, ChainState, make_block
from probinfer.inference.mcmc.metric import Metric
from probinfer.model.program_cache import kept_programs
from probinfer.model.target import Target

_KEPT = 64  # programs, each a few hundred kB
_cache: OrderedDict[tuple, Any] = OrderedDict()


def compiled_block(target: Target, rank: int, max_depth: int) -> Any:
    """The executable of `make_block` for this target."""

    def lower() -> Any:
        def shape(*size: int, dtype: Any = target.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype)

        step = jax.eval_shape(lambda: steps.start(1.0, target.dtype))
        words, iteration = shape(2, dtype=jnp.uint32), shape(dtype=jnp.uint32)
        state = ChainState(shape(target.dim), words, iteration, step, shape(target.dim), shape())
        whole = shape(dtype=jnp.int32)
        control = BlockControl(whole, whole, shape(dtype=bool), shape(), whole)
        metric = Metric(shape(target.dim), shape(target.dim, rank), shape(rank))
        block = make_block(target.value_and_grad, target.dim, max_depth)
        return jax.jit(block).lower(state, control, metric, target.inputs)

    return _compiled(target, ("block", rank, max_depth), lower)


def compiled_density(target: Target) -> Any:
    """The executable of the target's `value_and_grad`."""

    def lower() -> Any:
        point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
        return jax.jit(target.value_and_grad).lower(point, target.inputs)

    return _compiled(target, ("density",), lower)


def _compiled(target: Target, what: tuple, lower: Callable[[], Any]) -> Any:
    """What `lower` makes, compiled once. The key is the traced program itself, so it cannot be stale."""
    key = (target.fingerprint, *what, jax.default_backend())
    if key not in _cache:
        with target.precision(), kept_programs():
            _cache[key] = lower().compile(compiler_options=_options(target))
    _cache.move_to_end(key)
    while len(_cache) > _KEPT:
        _cache.popitem(last=False)
    return _cache[key]


def _options(target: Target) -> dict[str, str]:
    """On a CPU, XLA splits every sum into two levels, for the accuracy of long sums in single precision. In double
    precision that buys nothing, and the terms are computed anew for each of the sums they are in."""
    plain_sums = target.float64 and jax.default_backend() == "cpu"
    return {"xla_disable_hlo_passes": "tree_reduction_rewriter"} if plain_sums else {}
