"""Sums by group, as gradients of `level[group]` need them, written as loops. Imports JAX only.

XLA on a CPU makes one kernel of a whole loop, inner loops included, unless an operation in it has no plain code, and
its scatter has none. Then every step of a sampler's loop is some forty kernels, handed out to several threads: on a
hierarchical model with 919 rows that took twice the time of the gradient. The same sum as a loop over the rows costs
what the scatter costs and keeps the sampler's loop whole.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

MOST_ROWS = 10_000  # beyond which a gradient takes so long that the way it is started does not matter


def with_group_sums(program: Any) -> Callable[..., list[jax.Array]]:
    """A traced program (ClosedJaxpr) as a function of its arguments, its scatter-adds of rows written as loops.

    The values are the same up to rounding. What is inside loops and conditions of the program is left as it is.

    >>> program = jax.make_jaxpr(jax.grad(lambda level: level[jnp.array([0, 1, 1])].sum()))(jnp.zeros(2))
    >>> with_group_sums(program)(jnp.zeros(2))[0].tolist()
    [1.0, 2.0]
    """
    return lambda *arguments: _evaluate(program.jaxpr, program.consts, arguments)


def _evaluate(jaxpr: Any, constants: Any, arguments: Any) -> list[jax.Array]:
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))
    for step in jaxpr.eqns:
        inputs = [one.val if isinstance(one, Literal) else known[one] for one in step.invars]
        with step.ctx.manager:
            found = _step(step, inputs)
        known.update(zip(step.outvars, found, strict=True))
    return [one.val if isinstance(one, Literal) else known[one] for one in jaxpr.outvars]


def _step(step: Any, inputs: list) -> list:
    name = step.primitive.name
    if name == "scatter-add" and _adds_rows(step):
        return [_sum_rows(*inputs, mode=step.params["mode"])]
    if name in ("jit", "pjit") and "jaxpr" in step.params:
        inner = step.params["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, inputs)
    found = step.primitive.bind(*inputs, **step.primitive.get_bind_params(step.params))
    return list(found) if step.primitive.multiple_results else [found]


def _adds_rows(step: Any) -> bool:
    """Whether it adds rows (n, ...) to the rows of an array that n indices (n, 1) name."""
    operand, indices, rows = (one.aval for one in step.invars)
    how = step.params["dimension_numbers"]
    plain = (
        tuple(how.inserted_window_dims) == tuple(how.scatter_dims_to_operand_dims) == (0,)
        and tuple(how.update_window_dims) == tuple(range(1, rows.ndim))
        and not how.operand_batching_dims
    )
    return bool(
        plain
        and operand.ndim >= 1
        and indices.ndim == 2
        and 0 < rows.shape[0] <= MOST_ROWS
        and rows.shape[1:] == operand.shape[1:]
        and rows.dtype == operand.dtype
    )


def _sum_rows(operand: jax.Array, indices: jax.Array, rows: jax.Array, *, mode: Any) -> jax.Array:
    count = operand.shape[0]
    place = indices[:, 0]
    if mode in (lax.GatherScatterMode.FILL_OR_DROP, lax.GatherScatterMode.CLIP, None):
        inside = (place >= 0) & (place < count)
        place = jnp.clip(place, 0, count - 1)
        if mode is not lax.GatherScatterMode.CLIP:
            rows = jnp.where(inside.reshape(-1, *(1,) * (rows.ndim - 1)), rows, jnp.zeros((), rows.dtype))

    def add(n: jax.Array, sums: jax.Array) -> jax.Array:
        where = lax.dynamic_index_in_dim(place, n, keepdims=False)
        new = lax.dynamic_index_in_dim(sums, where, keepdims=False) + lax.dynamic_index_in_dim(rows, n, keepdims=False)
        return lax.dynamic_update_index_in_dim(sums, new, where, 0)

    return lax.fori_loop(0, rows.shape[0], add, operand)
