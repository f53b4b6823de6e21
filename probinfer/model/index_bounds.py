"""Which integer data index into an array, and how far they may go. Imports jax only; reads a traced program.

JAX clamps an index that is out of range instead of refusing it, so that a group never seen in training would quietly be
answered with the last group's parameters. Here the traced program is followed from each integer input, through the
operations that leave it an index (reshaping, conversion, adding a constant, JAX's own wrapping of negative indices),
to the gathers it ends in; the gathered axis then tells the valid range.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Literal


class _Index(NamedTuple):
    """This value is input number `source` plus `offset`."""

    source: int
    offset: int


_UNCHANGED = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "expand_dims",
    "reshape",
    "slice",
    "squeeze",
    "stop_gradient",
    "transpose",
}


def index_bounds(jaxpr: Any, names: list[str]) -> dict[str, tuple[int, int]]:
    """Lowest and highest valid value of each input that is used as an index, by name.

    `jaxpr`: a (closed) jaxpr whose inputs are named by `names`. Inputs that index nothing do not appear. An input that
    indexes several arrays gets the narrowest range.
    """
    bounds: dict[int, tuple[int, int]] = {}
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    start = [
        (_Index(i, 0),) if np.issubdtype(variable.aval.dtype, np.integer) else None
        for i, variable in enumerate(inner.invars)
    ]
    _follow(inner, start, bounds)
    return {names[i]: bounds[i] for i in sorted(bounds)}


def _follow(jaxpr: Any, inputs: list, bounds: dict[int, tuple[int, int]]) -> list:
    known = {variable: index for variable, index in zip(jaxpr.invars, inputs, strict=True) if index is not None}

    def look_up(variable: Any) -> tuple[_Index | None, ...] | None:
        return None if isinstance(variable, Literal) else known.get(variable)

    for equation in jaxpr.eqns:
        operands = [look_up(variable) for variable in equation.invars]
        if not any(operands):
            continue
        name, parameters = equation.primitive.name, equation.params
        results: list = [None] * len(equation.outvars)
        inner = parameters.get("jaxpr") or parameters.get("call_jaxpr")
        if inner is not None and hasattr(getattr(inner, "jaxpr", inner), "eqns"):
            inner = getattr(inner, "jaxpr", inner)
            if len(inner.invars) == len(operands):
                results = _follow(inner, operands, bounds)
        elif name in _UNCHANGED:
            results = [operands[0]]
        elif name in ("add", "sub"):
            results = [_shift(equation, operands)]
        elif name == "select_n":
            # JAX writes x[i] as a gather at select(i < 0, i, i + size): the first case is the index as it was given.
            # With another value in one of the cases the model itself decides what an index out of range means.
            results = [operands[1] if all(operands[1:]) else None]
        elif name == "concatenate":
            results = [tuple(entry for case in operands for entry in (case or (None,)))]
        elif name == "gather" and operands[1]:
            _narrow(equation, operands[1], bounds)
        for variable, index in zip(equation.outvars, results, strict=False):
            if index is not None:
                known[variable] = index
    return [look_up(variable) for variable in jaxpr.outvars]


def _shift(equation: Any, operands: list) -> tuple[_Index | None, ...] | None:
    left, right = equation.invars
    sign = -1 if equation.primitive.name == "sub" else 1
    if operands[0] and isinstance(right, Literal) and np.ndim(right.val) == 0:
        return tuple(i and _Index(i.source, i.offset + sign * int(right.val)) for i in operands[0])
    if sign == 1 and operands[1] and isinstance(left, Literal) and np.ndim(left.val) == 0:
        return tuple(i and _Index(i.source, i.offset + int(left.val)) for i in operands[1])
    return None


def _narrow(equation: Any, indices: tuple, bounds: dict[int, tuple[int, int]]) -> None:
    axes = equation.params["dimension_numbers"].start_index_map
    if len(axes) != len(indices):
        return
    shape, slices = equation.invars[0].aval.shape, equation.params["slice_sizes"]
    for axis, index in zip(axes, indices, strict=True):
        if index is not None:
            low, high = -index.offset, shape[axis] - slices[axis] - index.offset
            before = bounds.get(index.source, (low, high))
            bounds[index.source] = (max(low, before[0]), min(high, before[1]))
