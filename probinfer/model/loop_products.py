"""Products of data and parameters as XLA's loops on a CPU want them: with the data turned. Imports JAX only.

A regression's X @ beta goes through X row by row, and a row of few numbers is no vector. With the columns of X one
after the other in memory the product is a sum of vectors: two to five times as fast, as is that of its gradient.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

MOST_BYTES = 64 * 2**20  # of data that are kept a second time


def turnable(program: Any) -> tuple[int, ...]:
    """Which arguments of a traced program (ClosedJaxpr) are tables that are multiplied by vectors.

    >>> program = jax.make_jaxpr(lambda b, x: jnp.exp(x @ b).sum())(jnp.zeros(3), jnp.zeros((10, 3)))
    >>> turnable(program)
    (1,)
    """
    places = {variable: place for place, variable in enumerate(program.jaxpr.invars)}
    return tuple(sorted(set(_found(program.jaxpr, places))))


def _found(jaxpr: Any, places: dict[Any, int]) -> Iterator[int]:
    for step in jaxpr.eqns:
        if step.primitive.name in ("jit", "pjit") and "jaxpr" in step.params:
            inner = step.params["jaxpr"].jaxpr
            pairs = zip(inner.invars, step.invars, strict=True)
            known = {own: places[one] for own, one in pairs if not isinstance(one, Literal) and one in places}
            yield from _found(inner, known)
        elif step.primitive.name == "dot_general" and (side := table_of(step)) is not None:
            table = step.invars[side]
            if not isinstance(table, Literal) and table in places:
                yield places[table]


def table_of(step: Any) -> int | None:
    """Which operand of a `dot_general` is a table that is multiplied by a vector; None for any other product."""
    _, (left_batch, right_batch) = step.params["dimension_numbers"]
    left, right = (one.aval for one in step.invars)
    if left_batch or right_batch or {left.ndim, right.ndim} != {1, 2}:
        return None
    table = 0 if left.ndim == 2 else 1
    known = jnp.issubdtype(step.invars[table].aval.dtype, jnp.floating) and left.dtype == right.dtype
    return table if known and left.size and right.size else None


def turned_product(step: Any, inputs: list, table: int, turned: jax.Array) -> jax.Array:
    """The product of a step with its table given as the transposed one."""
    ((left, right), _) = step.params["dimension_numbers"]
    contracted = [tuple(left), tuple(right)]
    contracted[table] = (1 - contracted[table][0],)
    operands = list(inputs)
    operands[table] = turned
    numbers = ((contracted[0], contracted[1]), ((), ()))
    precision, kind = step.params["precision"], step.params["preferred_element_type"]
    return lax.dot_general(*operands, numbers, precision=precision, preferred_element_type=kind)
