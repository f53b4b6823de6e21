"""A traced program run without spreading what is the same along an axis. Imports JAX only.

A discrete site is summed out by running the model with all entries of the site at one value. Written for an entry each,
the model would look the value's parameters up for every entry, and their gradient would be added up over all of them.
Here an array that does not vary along an axis has the size one there for as long as operations allow, so that
`mu[z]` is computed once for each value of z, and one that repeats a few slices has these alone; and a loop whose steps
need not wait for one another is none. The results are the same.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal

from probinfer.inference.exact.dependence import follow
from probinfer.inference.exact.few import Few, different, spread, together
from probinfer.inference.exact.loops import all_at_once
from probinfer.inference.exact.rules import ELEMENTWISE, REDUCTIONS, kept_axes


def evaluate(program: Any, arguments: Sequence[Any]) -> list[jax.Array]:
    """The outputs of a traced program (ClosedJaxpr). `arguments` may have the size one along axes that the program has
    longer: they are then the same all along; or be a `Few`.

    >>> program = jax.make_jaxpr(lambda z, m: m[z] * 2.0)(jnp.zeros(3, int), jnp.zeros(2))
    >>> evaluate(program, [jnp.array([1]), jnp.array([4.0, 5.0])])[0].tolist()
    [10.0, 10.0, 10.0]
    """
    found = _run(program.jaxpr, program.consts, arguments)
    return [_full(value, variable) for value, variable in zip(found, program.jaxpr.outvars, strict=True)]


def _run(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))
    asked = {one for step in jaxpr.eqns for one in step.invars if not isinstance(one, Literal)}
    asked |= {one for one in jaxpr.outvars if not isinstance(one, Literal)}
    for step in jaxpr.eqns:
        inputs = [one.val if isinstance(one, Literal) else known[one] for one in step.invars]
        with step.ctx.manager:
            found = _step(step, inputs, [one in asked for one in step.outvars])
        known.update(zip(step.outvars, found, strict=True))
    return [one.val if isinstance(one, Literal) else known[one] for one in jaxpr.outvars]


def _step(step: Any, inputs: list[Any], asked: list[bool]) -> list[Any]:
    """The outputs of an operation; those that nobody asks for need not be right."""
    name, parameters = step.primitive.name, step.params
    if name in ("jit", "pjit") and "jaxpr" in parameters:
        return _run(parameters["jaxpr"].jaxpr, parameters["jaxpr"].consts, inputs)
    if name == "scan":
        found = all_at_once(step, inputs, asked, follow, _run)
        if found is not None:
            return found
    shapes = [tuple(variable.aval.shape) for variable in step.invars]
    if any(isinstance(value, Few) for value in inputs):
        found = _of_few(step, inputs, shapes)
        if found is not None:
            return [found]
        inputs = [spread(value) for value in inputs]
    short = any(jnp.shape(value) != shape for value, shape in zip(inputs, shapes, strict=True))
    if name == "broadcast_in_dim" and len(inputs) == 1 and not _is_count(inputs[0]):
        return [_spread_later(inputs[0], shapes[0], parameters)]
    if short and name in _SHORT:
        found = _SHORT[name](step, inputs, shapes)
        if found is not None:
            return [found]
    if short:
        inputs = [_full(value, variable) for value, variable in zip(inputs, step.invars, strict=True)]
    return _bind(step, inputs)


def _bind(step: Any, inputs: Sequence[Any]) -> list[Any]:
    if step.primitive.name in _OF_COUNTS and all(map(_is_count, inputs)):
        with jax.ensure_compile_time_eval():  # so that places stay known
            return [step.primitive.bind(*inputs, **step.primitive.get_bind_params(step.params))]
    found = step.primitive.bind(*inputs, **step.primitive.get_bind_params(step.params))
    return list(found) if step.primitive.multiple_results else [found]


def _is_count(value: Any) -> bool:
    return not isinstance(value, Tracer) and jnp.asarray(value).dtype.kind in "bi"


def _of_few(step: Any, inputs: list[Any], shapes: list[tuple[int, ...]]) -> Any:
    """The output of an operation for each of the few different slices of its inputs; None where they do not stay a few,
    or are not next to one another along one axis."""
    name = step.primitive.name
    if name == "gather" and (found := _picked(step, *inputs)) is not None:
        return found
    places = _FEW[name](step, inputs) if name in _FEW else None
    if places is None:
        return None
    out, axes = places  # the axis of the output, and of each input: None for one that has none there
    inputs = list(inputs)
    for i, (value, axis) in enumerate(zip(inputs, axes, strict=True)):
        if isinstance(value, Few) and value.axis != axis:
            return None
        if not isinstance(value, Few) and axis is not None and jnp.shape(value)[axis] != 1:
            if not _is_count(value):
                return None
            inputs[i] = different(np.asarray(value), axis)
    joint = together([value for value in inputs if isinstance(value, Few)])
    if joint is None:
        return None
    values, index = iter(joint[0]), joint[1]
    arrays = [next(values) if isinstance(value, Few) else value for value in inputs]
    if name == "broadcast_in_dim":
        found = _spread_later(arrays[0], shapes[0], step.params)
    else:
        found = _SHORT[name](step, arrays, shapes)
    if found is None:
        return None
    return found if jnp.shape(found)[out] == 1 else Few(found, index, out)


def _picked(step: Any, source: Any, picks: Any) -> Few | None:
    """Entries of an axis with few slices, each at a place that is known."""
    how, sizes, shape = step.params["dimension_numbers"], step.params["slice_sizes"], step.invars[0].aval.shape
    known = isinstance(source, Few) and not isinstance(picks, Few | Tracer) and jnp.ndim(picks) == 2
    if not known or how.start_index_map != (source.axis,) or how.operand_batching_dims:
        return None
    if sizes[source.axis] != 1 or any(sizes[i] != size for i, size in enumerate(shape) if i != source.axis):
        return None
    index = np.asarray(picks)[:, 0]
    if ((index < 0) | (index >= len(source.index))).any():
        return None
    (out,) = [axis for axis in range(step.outvars[0].aval.ndim) if axis not in how.offset_dims]
    after = list(step.outvars[0].aval.shape)
    values = jnp.moveaxis(jnp.asarray(source.values), source.axis, 0)
    rest = [size for axis, size in enumerate(after) if axis != out]
    return Few(jnp.moveaxis(jnp.reshape(values, (len(values), *rest)), 0, out), source.index[index], out)


def _along(step: Any, inputs: list[Any]) -> tuple[int, list[int | None]]:
    axis = next(value.axis for value in inputs if isinstance(value, Few))
    return axis, [axis if variable.aval.shape else None for variable in step.invars]


def _few_concatenated(step: Any, inputs: list[Any]) -> tuple[int, list[int | None]] | None:
    found = _along(step, inputs)
    return None if found[0] == step.params["dimension"] else found


def _few_without(gone: str) -> Any:
    def place(step: Any, inputs: list[Any]) -> tuple[int, list[int | None]] | None:
        (value,) = inputs
        axes = step.params[gone]
        return None if value.axis in axes else (value.axis - sum(axis < value.axis for axis in axes), [value.axis])

    return place


def _few_transposed(step: Any, inputs: list[Any]) -> tuple[int, list[int | None]]:
    return step.params["permutation"].index(inputs[0].axis), [inputs[0].axis]


def _few_reshaped(step: Any, inputs: list[Any]) -> tuple[int, list[int | None]] | None:
    out = kept_axes(tuple(step.invars[0].aval.shape), tuple(step.outvars[0].aval.shape)).get(inputs[0].axis)
    return None if out is None else (out, [inputs[0].axis])


def _few_broadcast(step: Any, inputs: list[Any]) -> tuple[int, list[int | None]] | None:
    return (step.params["broadcast_dimensions"][inputs[0].axis], [inputs[0].axis]) if len(inputs) == 1 else None


def _few_gathered(step: Any, inputs: list[Any]) -> tuple[int, list[int | None]] | None:
    how = step.params["dimension_numbers"]
    source, picks = inputs
    if isinstance(source, Few) and source.axis in how.start_index_map:
        return None
    pairs = dict(zip(how.start_indices_batching_dims, how.operand_batching_dims, strict=True))
    if isinstance(picks, Few):
        at = picks.axis
    else:
        at = next((at for at, axis in pairs.items() if axis == source.axis), None)
    if at is None or at == step.invars[1].aval.ndim - 1:
        return None
    batch = [axis for axis in range(step.outvars[0].aval.ndim) if axis not in how.offset_dims]
    return batch[at], [pairs.get(at), at]


def _full(value: Any, variable: Any) -> Any:
    value = spread(value)
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
    short = {axis: size for axis, size in enumerate(jnp.shape(value)) if size != before[axis]}
    if any(axis not in kept for axis in short):
        return None
    sizes = {kept[axis]: size for axis, size in short.items()}
    return jnp.reshape(value, [sizes.get(j, size) for j, size in enumerate(after)])


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


_OF_COUNTS = "add broadcast_in_dim clamp convert_element_type lt max min reshape select_n sub".split()

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

_FEW = {
    **dict.fromkeys(ELEMENTWISE, _along),
    **dict.fromkeys(REDUCTIONS, _few_without("axes")),
    "broadcast_in_dim": _few_broadcast,
    "concatenate": _few_concatenated,
    "gather": _few_gathered,
    "reshape": _few_reshaped,
    "squeeze": _few_without("dimensions"),
    "transpose": _few_transposed,
}
