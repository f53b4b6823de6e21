"""Sums written as XLA's loops on a CPU want them. Imports JAX and NumPy only.

Sums by group, as gradients of `level[group]` need them. XLA makes one kernel of a whole loop, inner loops included,
unless an operation in it has no plain code, and its scatter has none. Then every step of a sampler's loop is some forty
kernels, handed out to several threads: on a hierarchical model with 919 rows that took twice the time of the gradient.
The same sum as a loop over the rows costs less than the scatter and keeps the sampler's loop whole.

Sums of many numbers. XLA adds them one after the other, each waiting for the one before; eight sums side by side are
made of vectors.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.model.loop_products import table_of, turned_product
from probinfer.model.rewriting import evaluate

_PARTS, _LANES = 4, 8  # sums side by side: of the rows by group, of all numbers
_FEW = 8  # numbers of a row that are added one by one
_MANY = 64  # numbers, from which on their sum is worth it
MOST_ROWS = 10_000  # beyond which a gradient takes so long that the way it is started does not matter


def with_loop_sums(program: Any) -> Callable[..., list[jax.Array]]:
    """A traced program (ClosedJaxpr) as a function of its arguments, for the body of a loop on a CPU.

    The values are the same up to rounding. What is inside loops and conditions of the program is left as it is.
    `turned` gives, by their places, those of the arguments that are `turnable` a second time, transposed.

    >>> program = jax.make_jaxpr(jax.grad(lambda level: level[jnp.array([0, 1, 1])].sum()))(jnp.zeros(2))
    >>> with_loop_sums(program)(jnp.zeros(2))[0].tolist()
    [1.0, 2.0]
    """

    def run(*arguments: Any, turned: Mapping[int, jax.Array] | None = None) -> list[jax.Array]:
        known = {id(arguments[place]): table for place, table in (turned or {}).items()}
        return evaluate(program.jaxpr, program.consts, arguments, functools.partial(_step, known))

    return run


def _step(turned: Mapping[int, jax.Array], step: Any, inputs: list) -> list | None:
    name = step.primitive.name
    if name == "scatter-add" and _adds_rows(step):
        return [_sum_rows(*inputs, mode=step.params["mode"])]
    if name == "reduce_sum" and _adds_all(step):
        return [sum_all(*inputs)]
    if name == "reduce_sum" and _adds_few(step):
        return [_sum_last(*inputs)]
    if turned and name == "dot_general" and (table := table_of(step)) is not None and id(inputs[table]) in turned:
        return [turned_product(step, inputs, table, turned[id(inputs[table])])]
    return None


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
    """Each quarter of the rows is added to sums of its own: rows of one group often follow each other, and an addition
    to the number that was written just before has to wait for it."""
    count, n = operand.shape[0], rows.shape[0]
    place = indices[:, 0]
    if mode in (lax.GatherScatterMode.FILL_OR_DROP, lax.GatherScatterMode.CLIP, None):
        inside = (place >= 0) & (place < count)
        place = jnp.clip(place, 0, count - 1)
        if mode is not lax.GatherScatterMode.CLIP:
            rows = jnp.where(inside.reshape(-1, *(1,) * (rows.ndim - 1)), rows, jnp.zeros((), rows.dtype))
    # Without a sign, the indices need no test for negative ones, which would take longer than the addition.
    place = place.astype(jnp.uint32)
    parts = _PARTS if operand.size <= rows.size else 1
    length = n // parts

    def add(row: Any, sums: jax.Array) -> jax.Array:
        where = _row(place, row)
        new = _row(sums, where) + _row(rows, row)
        return lax.dynamic_update_slice(sums, new[None], (where, *_zeros(sums.ndim - 1)))

    def add_to_each(row: jax.Array, sums: tuple) -> tuple:
        return tuple(add(row + np.uint32(part * length), each) for part, each in enumerate(sums))

    start = (operand, *(jnp.zeros_like(operand),) * (parts - 1))
    first, *others = lax.fori_loop(np.uint32(0), np.uint32(length), add_to_each, start)
    for row in range(parts * length, n):
        first = add(np.uint32(row), first)
    return sum(others, start=first)


def _row(array: jax.Array, row: Any) -> jax.Array:
    size = (1, *array.shape[1:])
    return lax.dynamic_slice(array, (row, *_zeros(array.ndim - 1)), size).reshape(size[1:])


def _zeros(count: int) -> tuple:
    return (np.uint32(0),) * count


def _adds_all(step: Any) -> bool:
    """Whether it adds up all of many numbers."""
    (numbers,) = (one.aval for one in step.invars)
    everything = len(step.params["axes"]) == numbers.ndim
    return bool(everything and numbers.size >= _MANY and jnp.issubdtype(numbers.dtype, jnp.floating))


def _adds_few(step: Any) -> bool:
    """Whether it adds up the few numbers of each row."""
    (rows,) = (one.aval for one in step.invars)
    last = rows.ndim > 1 and tuple(step.params["axes"]) == (rows.ndim - 1,)
    return bool(last and 0 < rows.shape[-1] <= _FEW and jnp.issubdtype(rows.dtype, jnp.floating))


def _sum_last(rows: jax.Array) -> jax.Array:
    """The sum of each row, as additions of its columns."""
    first, *others = (rows[..., j] for j in range(rows.shape[-1]))
    return sum(others, start=first)


def sum_all(numbers: jax.Array) -> jax.Array:
    """The sum of all entries, many of them in sums side by side."""
    if numbers.size < _MANY:
        return jnp.sum(numbers)
    flat = numbers.reshape(-1)
    whole = len(flat) // _LANES * _LANES
    lanes = flat[:whole].reshape(-1, _LANES).sum(0)
    return lanes.sum() + flat[whole:].sum()
