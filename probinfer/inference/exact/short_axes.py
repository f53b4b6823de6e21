"""A traced program run without spreading what is the same along an axis. Imports JAX only.

A discrete site is summed out by running the model with all entries of the site at one value. Written for an entry each,
the model would look the value's parameters up for every entry, and their gradient would be added up over all of them.
Here an array that does not vary along an axis has the size one there for as long as operations allow, so that
`mu[z]` is computed once for each value of z; and a loop whose steps need not wait for one another is none. The results
are the same.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from probinfer.inference.exact.dependence import follow
from probinfer.inference.exact.loops import all_at_once
from probinfer.inference.exact.rules import ELEMENTWISE, REDUCTIONS, kept_axes


def evaluate(program: Any, arguments: Sequence[Any]) -> list[jax.Array]:
    """The outputs of a traced program (ClosedJaxpr). `arguments` may have the size one along axes that the program has
    longer: they are then the same all along.

    >>> program = jax.make_jaxpr(lambda z, m: m[z] * 2.0)(jnp.zeros(3, int), jnp.zeros(2))
    >>> evaluate(program, [jnp.array([1]), jnp.array([4.0, 5.0])])[0].tolist()
    [10.0, 10.0, 10.0]
    """
    found = _run(program.jaxpr, program.consts, arguments)
    return [_full(value, variable) for value, variable in zip(found, program.jaxpr.outvars, strict=True)]


def _run(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))
    for step in jaxpr.eqns:
        inputs = [one.val if isinstance(one, Literal) else known[one] for one in step.invars]
        with step.ctx.manager:
            known.update(zip(step.outvars, _step(step, inputs), strict=True))
    return [one.val if isinstance(one, Literal) else known[one] for one in jaxpr.outvars]


def _step(step: Any, inputs: list[Any]) -> list[Any]:
    name, parameters = step.primitive.name, step.params
    if name in ("jit", "pjit") and "jaxpr" in parameters:
        return _run(parameters["jaxpr"].jaxpr, parameters["jaxpr"].consts, inputs)
    if name == "scan":
        found = all_at_once(step, inputs, follow, _run)
        if found is not None:
            return found
    shapes = [tuple(variable.aval.shape) for variable in step.invars]
    short = any(jnp.shape(value) != shape for value, shape in zip(inputs, shapes, strict=True))
    if name == "broadcast_in_dim" and len(inputs) == 1:
        return [_spread_later(inputs[0], shapes[0], parameters)]
    if short and name in _SHORT:
        found = _SHORT[name](step, inputs, shapes)
        if found is not None:
            return [found]
    if short:
        inputs = [_full(value, variable) for value, variable in zip(inputs, step.invars, strict=True)]
    return _bind(step, inputs)


def _bind(step: Any, inputs: Sequence[Any]) -> list[Any]:
    found = step.primitive.bind(*inputs, **step.primitive.get_bind_params(step.params))
    return list(found) if step.primitive.multiple_results else [found]


def _full(value: Any, variable: Any) -> Any:
    shape = tuple(variable.aval.shape)
    return value if jnp.shape(value) == shape else jnp.broadcast_to(value, shape)


def _spread_later(value: Any, shape: tuple[int, ...], parameters: Any) -> Any:
    """The axes of a broadcast, with the size one where it would only repeat."""
    sizes = [1] * len(parameters["shape"])
    for axis, at in enumerate(parameters["broadcast_dimensions"]):
        sizes[at] = jnp.shape(value)[axis] if shape[axis] == parameters["shape"][at] else 1
    return jax.lax.broadcast_in_dim(jnp.asarray(value), sizes, parameters["broadcast_dimensions"])


def _agreed(inputs: Sequence[Any], shapes: Sequence[tuple[int, ...]], apart: int | None = None) -> list[Any]:
    """Arrays of one rank spread to the shape that they need together; along the axis `apart` each to its own."""
    arrays = [jnp.shape(value) for value, shape in zip(inputs, shapes, strict=True) if shape]
    joint = [max(sizes) for sizes in zip(*arrays, strict=True)]

    def spread(value: Any, shape: tuple[int, ...]) -> Any:
        if not shape:
            return value
        return jnp.broadcast_to(value, [shape[i] if i == apart else size for i, size in enumerate(joint)])

    return [spread(value, shape) for value, shape in zip(inputs, shapes, strict=True)]


def _elementwise(step: Any, inputs: list[Any], shapes: list[tuple[int, ...]]) -> Any:
    return _bind(step, _agreed(inputs, shapes))[0]


def _reduce(step: Any, inputs: list[Any], shapes: list[tuple[int, ...]]) -> Any:
    value, shape = inputs[0], shapes[0]
    gone = step.params["axes"]
    sizes = [shape[i] if i in gone else size for i, size in enumerate(jnp.shape(value))]
    return _bind(step, [jnp.broadcast_to(value, sizes)])[0]


def _as_it_is(step: Any, inputs: list[Any], shapes: list[tuple[int, ...]]) -> Any:
    return _bind(step, inputs)[0]


def _reshape(step: Any, inputs: list[Any], shapes: list[tuple[int, ...]]) -> Any:
    value, before, after = inputs[0], shapes[0], tuple(step.outvars[0].aval.shape)
    kept = kept_axes(before, after)
    short = [axis for axis, size in enumerate(jnp.shape(value)) if size != before[axis]]
    if any(axis not in kept for axis in short):
        return None
    return jnp.reshape(value, [1 if j in {kept[axis] for axis in short} else size for j, size in enumerate(after)])


def _concatenate(step: Any, inputs: list[Any], shapes: list[tuple[int, ...]]) -> Any:
    return _bind(step, _agreed(inputs, shapes, step.params["dimension"]))[0]


def _gather(step: Any, inputs: list[Any], shapes: list[tuple[int, ...]]) -> Any:
    how = step.params["dimension_numbers"]
    source, picks = inputs
    alike = [jnp.shape(source)[axis] == 1 < shapes[0][axis] for axis in how.start_index_map]
    if alike and all(alike) and not how.operand_batching_dims and _same_everywhere(step):
        kept = [size for axis, size in enumerate(jnp.shape(source)) if axis not in how.collapsed_slice_dims]
        sizes = [1] * len(step.outvars[0].aval.shape)
        for at, size in zip(how.offset_dims, kept, strict=True):
            sizes[at] = size
        return jnp.reshape(source, sizes)
    wide, many = list(shapes[0]), [*jnp.shape(picks)[:-1], shapes[1][-1]]
    for axis, at in zip(how.operand_batching_dims, how.start_indices_batching_dims, strict=True):
        wide[axis] = many[at] = max(jnp.shape(source)[axis], jnp.shape(picks)[at])
    return _bind(step, [jnp.broadcast_to(source, wide), jnp.broadcast_to(picks, many)])[0]


def _same_everywhere(step: Any) -> bool:
    """Whether a gather takes entries of an axis, or all of it, and never what is outside."""
    how, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    shape = step.invars[0].aval.shape
    entries = set(how.start_index_map) == set(how.collapsed_slice_dims)
    whole = all(sizes[axis] == size for axis, size in enumerate(shape) if axis not in how.collapsed_slice_dims)
    return entries and whole and step.params["mode"] is not jax.lax.GatherScatterMode.FILL_OR_DROP


_SHORT = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "concatenate": _concatenate,
    "gather": _gather,
    "reshape": _reshape,
    "squeeze": _as_it_is,
    "stack": _elementwise,
    "transpose": _as_it_is,
}
