"""Which entries of an array a computed value depends on, read from a traced program. Imports JAX only.

The program is followed operation by operation. Of every value it is known which axis goes along with an axis of the
array asked about: entry n of the one depends on entry n of the other alone, or on entry index[n]. What an operation
does to that is a rule in this module; an operation without a rule counts as mixing everything. So what is found may be
more than there is, never less.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal


class Along(NamedTuple):
    """An axis of a value whose entry n depends on one entry of an array's axis: n, or index[n] (negative: on none)."""

    axis: int
    index: np.ndarray | None = None

    def same(self, other: "Along | None") -> bool:
        """Whether both say the same."""
        if other is None or self.axis != other.axis:
            return False
        if self.index is None or other.index is None:
            return self.index is other.index
        return np.array_equal(self.index, other.index)


# By array that matters, by axis of that array. An axis that is missing: every entry may depend on all along it.
Dependence = Mapping[str, Mapping[int, Along]]


class _Value(NamedTuple):
    """depends: on what. known: gives the value, where data alone determine it."""

    depends: Dependence
    known: Callable[[], Any] | None = None


def data_values(program: Any, arguments: Sequence[Any | None]) -> list[Any | None]:
    """The outputs of a traced program that data alone determine, None for the others. `arguments` as below."""
    inputs = [_data(argument) if argument is not None else _Value({}) for argument in arguments]
    return [value.known() if value.known else None for value in _follow(program.jaxpr, program.consts, inputs)]


def dependence(program: Any, arguments: Sequence[str | Any | None]) -> list[Dependence]:
    """For each output of a traced program (a ClosedJaxpr), which of its arguments it depends on, and how.

    arguments: for each input, in order, its name if it is one that is asked about, its value if it is data, else None.

    >>> import jax.numpy as jnp
    >>> program = jax.make_jaxpr(lambda z, m: (m[z] + 1.0, m[z].sum()))(jnp.zeros(3, int), jnp.zeros(2))
    >>> dependence(program, ["z", None])
    [{'z': {0: Along(axis=0, index=None)}}, {'z': {}}]
    """
    inputs = []
    for variable, argument in zip(program.jaxpr.invars, arguments, strict=True):
        if isinstance(argument, str):
            axes = {i: Along(i) for i in range(len(variable.aval.shape))}
            inputs.append(_Value({argument: axes}))
        else:
            inputs.append(_data(argument) if argument is not None else _Value({}))
    return [value.depends for value in _follow(program.jaxpr, program.consts, inputs)]


def _data(value: Any) -> _Value:
    return _Value({}, lambda: value)


def _follow(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[_Value]) -> list[_Value]:
    seen: dict[Any, _Value] = dict(zip(jaxpr.constvars, map(_data, constants), strict=True))
    seen.update(zip(jaxpr.invars, inputs, strict=True))

    def look_up(variable: Any) -> _Value:
        return _data(variable.val) if isinstance(variable, Literal) else seen[variable]

    for step in jaxpr.eqns:
        seen.update(zip(step.outvars, _step(step, [look_up(variable) for variable in step.invars]), strict=True))
    return [look_up(variable) for variable in jaxpr.outvars]


def _step(step: Any, inputs: list[_Value]) -> list[_Value]:
    inner = next((step.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in step.params), None)
    if step.primitive.name in _CALLS and inner is not None:
        closed = hasattr(inner, "consts")
        return _follow(inner.jaxpr if closed else inner, inner.consts if closed else (), inputs)
    count = len(step.outvars)
    if all(value.known for value in inputs):
        run = functools.cache(lambda: _run(step, [value.known() for value in inputs if value.known]))
        return [_Value({}, functools.partial(lambda i: run()[i], i)) for i in range(count)]
    if not any(value.depends for value in inputs):
        return [_Value({})] * count
    rule = _RULES.get(step.primitive.name)
    found = rule(step, inputs) if rule else None
    if found is None:  # no rule, or none for this use
        found = {name: {} for value in inputs for name in value.depends}
    return [_Value(found)] * count


def _run(step: Any, values: list[Any]) -> list[Any]:
    with jax.ensure_compile_time_eval():
        found = step.primitive.bind(*values, **step.primitive.get_bind_params(step.params))
    return list(found) if step.primitive.multiple_results else [found]


# what operations do to dependence -------------------------------------------------------------------------------------


def _joined(parts: Sequence[Dependence]) -> Dependence:
    """Of a value that is made entry by entry from several: what they agree about."""
    found: dict[str, dict[int, Along]] = {}
    for part in parts:
        for name, axes in part.items():
            if name in found:
                found[name] = {i: along for i, along in found[name].items() if along.same(axes.get(i))}
            else:
                found[name] = dict(axes)
    return found


def _moved(depends: Dependence, to: Mapping[int, int]) -> Dependence:
    """After axis a of a value has become axis to[a]; those that are not there are gone, or mixed."""
    return {
        name: {i: along._replace(axis=to[along.axis]) for i, along in axes.items() if along.axis in to}
        for name, axes in depends.items()
    }


def _picked(depends: Dependence, axis: int, index: np.ndarray, to: int) -> Dependence:
    """The part of the dependence along one axis, after entries `index` of it have become axis `to`."""

    def of(along: Along) -> Along:
        return Along(to, index if along.index is None else along.index[index])

    return {name: {i: of(along) for i, along in axes.items() if along.axis == axis} for name, axes in depends.items()}


def _together(parts: Sequence[Dependence]) -> Dependence:
    """Dependences along different axes of one value, in one."""
    found: dict[str, dict[int, Along]] = {}
    for part in parts:
        for name, axes in part.items():
            found.setdefault(name, {}).update(axes)
    return found


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _elementwise(step: Any, inputs: list[_Value]) -> Dependence | None:
    """Arrays of one shape, single numbers, and axes of the size one, which are spread."""
    out = _shape(step.outvars[0])
    shapes = [_shape(variable) for variable in step.invars]
    if any(shape and len(shape) != len(out) for shape in shapes):
        return None
    kept = [{i: i for i, size in enumerate(shape) if size == out[i]} for shape in shapes]
    return _joined([_moved(value.depends, to) for value, to in zip(inputs, kept, strict=True)])


def _broadcast(step: Any, inputs: list[_Value]) -> Dependence:
    shape, place = _shape(step.invars[0]), step.params["broadcast_dimensions"]
    out = step.params["shape"]
    return _moved(inputs[0].depends, {i: at for i, at in enumerate(place) if shape[i] == out[at]})


def _reshape(step: Any, inputs: list[_Value]) -> Dependence:
    return _moved(inputs[0].depends, kept_axes(_shape(step.invars[0]), _shape(step.outvars[0])))


def kept_axes(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Axes that a reshape leaves whole: of the same size, with as many entries before them."""
    place = {(size, math.prod(after[:j])): j for j, size in enumerate(after) if size != 1}
    found = {i: place.get((size, math.prod(before[:i]))) for i, size in enumerate(before) if size != 1}
    return {i: j for i, j in found.items() if j is not None}


def _squeeze(step: Any, inputs: list[_Value]) -> Dependence:
    return _without(step, inputs, step.params["dimensions"])


def _reduce(step: Any, inputs: list[_Value]) -> Dependence:
    return _without(step, inputs, step.params["axes"])


def _without(step: Any, inputs: list[_Value], gone: Sequence[int]) -> Dependence:
    left = [i for i in range(len(_shape(step.invars[0]))) if i not in gone]
    to = {i: j for j, i in enumerate(left)}
    return _joined([_moved(value.depends, to) for value in inputs])


def _transpose(step: Any, inputs: list[_Value]) -> Dependence:
    return _moved(inputs[0].depends, {i: j for j, i in enumerate(step.params["permutation"])})


def _mixing(*names: str) -> Callable[[Any, list[_Value]], Dependence]:
    """Entries mix along the axes that these parameters name, and along no other."""

    def rule(step: Any, inputs: list[_Value]) -> Dependence:
        mixed: set[int] = set()
        for name in names:
            axes = step.params[name]
            mixed |= set(axes) if isinstance(axes, Sequence) else {axes}
        to = {i: i for i in range(len(_shape(step.outvars[0]))) if i not in mixed}
        return _joined([_moved(value.depends, to) for value in inputs])

    return rule


def _slice(step: Any, inputs: list[_Value]) -> Dependence:
    shape, parameters = _shape(step.invars[0]), step.params
    strides = parameters["strides"] or (1,) * len(shape)
    depends, parts = inputs[0].depends, []
    for axis, size in enumerate(shape):
        picked = np.arange(size)[parameters["start_indices"][axis] : parameters["limit_indices"][axis] : strides[axis]]
        whole = len(picked) == size
        part = _moved(depends, {axis: axis}) if whole else _picked(depends, axis, picked, axis)
        parts.append(part)
    return _together([{name: {} for name in depends}, *parts])


def _concatenate(step: Any, inputs: list[_Value]) -> Dependence:
    axis = step.params["dimension"]
    to = {i: i for i in range(len(_shape(step.outvars[0]))) if i != axis}
    depending = [i for i, value in enumerate(inputs) if value.depends]
    if len(depending) > 1:
        return _joined([_moved(value.depends, to) for value in inputs])
    # one part among constants: entries of the others depend on nothing
    which, sizes = depending[0], [_shape(variable)[axis] for variable in step.invars]
    index = np.full(sum(sizes), -1)
    begin = sum(sizes[:which])
    index[begin : begin + sizes[which]] = np.arange(sizes[which])
    depends = inputs[which].depends
    spread = {
        name: {
            i: Along(axis, np.where(index < 0, -1, index if along.index is None else along.index[index]))
            for i, along in axes.items()
            if along.axis == axis
        }
        for name, axes in depends.items()
    }
    return _together([_moved(depends, to), spread])


def _stack(step: Any, inputs: list[_Value]) -> Dependence:
    new = step.params["axis"]
    to = {i: i + (i >= new) for i in range(len(_shape(step.invars[0])))}
    return _joined([_moved(value.depends, to) for value in inputs])


def _tile(step: Any, inputs: list[_Value]) -> Dependence:
    return _moved(inputs[0].depends, {i: i for i, times in enumerate(step.params["reps"]) if times == 1})


def _pad(step: Any, inputs: list[_Value]) -> Dependence:
    to = {i: i for i, how in enumerate(step.params["padding_config"]) if tuple(how) == (0, 0, 0)}
    return _joined([_moved(inputs[0].depends, to), inputs[1].depends])


def _dot(step: Any, inputs: list[_Value]) -> Dependence:
    (left_sum, right_sum), (left_batch, right_batch) = step.params["dimension_numbers"]
    parts, start = [], len(left_batch)
    for value, variable, summed, batch in zip(
        inputs, step.invars, (left_sum, right_sum), (left_batch, right_batch), strict=True
    ):
        free = [i for i in range(len(_shape(variable))) if i not in (*summed, *batch)]
        to = {**{i: j for j, i in enumerate(batch)}, **{i: start + j for j, i in enumerate(free)}}
        parts.append(_moved(value.depends, to))
        start += len(free)
    return _joined(parts)


def _batched(trailing: int) -> Callable[[Any, list[_Value]], Dependence | None]:
    """Matrices are taken each on its own: leading axes stay."""

    def rule(step: Any, inputs: list[_Value]) -> Dependence | None:
        lead = _shape(step.invars[0])[:-trailing]
        if any(_shape(variable)[: len(lead)] != lead for variable in (*step.invars, *step.outvars)):
            return None
        return _joined([_moved(value.depends, {i: i for i in range(len(lead))}) for value in inputs])

    return rule


def _gather(step: Any, inputs: list[_Value]) -> Dependence:
    how, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    source, picks = inputs
    shape, pick_shape = _shape(step.invars[0]), _shape(step.invars[1])
    batch = [axis for axis in range(len(_shape(step.outvars[0]))) if axis not in how.offset_dims]
    from_picks = _moved(picks.depends, {i: batch[i] for i in range(len(pick_shape) - 1)})
    if not source.depends:
        return from_picks
    gone = (*how.collapsed_slice_dims, *how.operand_batching_dims)
    window = dict(zip([i for i in range(len(shape)) if i not in gone], how.offset_dims, strict=True))
    whole = {i: at for i, at in window.items() if sizes[i] == shape[i] and i not in how.start_index_map}
    pairs = zip(how.operand_batching_dims, how.start_indices_batching_dims, strict=True)
    whole |= {i: batch[at] for i, at in pairs}
    parts = [{name: {} for name in source.depends}, _moved(source.depends, whole)]
    if picks.known:
        for number, axis in enumerate(how.start_index_map):
            found = _one_way(np.asarray(picks.known())[..., number]) if axis in how.collapsed_slice_dims else None
            if found is not None:
                at, index = found
                parts.append(_picked(source.depends, axis, np.clip(index, 0, shape[axis] - 1), batch[at]))
    return _joined([_together(parts), from_picks])


def _one_way(index: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The only axis along which an array of indices varies, and the indices along it."""
    varies = [i for i in range(index.ndim) if index.shape[i] > 1 and (index != index.take([0], axis=i)).any()]
    long = [i for i in range(index.ndim) if index.shape[i] > 1]
    axis = varies[0] if len(varies) == 1 else long[0] if not varies and len(long) == 1 else None
    if axis is None:
        return None
    at: tuple[Any, ...] = tuple(slice(None) if i == axis else 0 for i in range(index.ndim))
    return axis, index[at]


_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call"}

# Operations on each entry alone, and sums over axes.
ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp convert_element_type
copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag
integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma population_count
pow real reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
""".split()
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")

_RULES: dict[str, Callable[[Any, list[_Value]], Dependence | None]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _mixing("axis")),
    **dict.fromkeys(("cholesky", "triangular_solve", "eigh", "lu", "qr"), _batched(2)),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dot_general": _dot,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _mixing("dimensions"),
    "slice": _slice,
    "sort": _mixing("dimension"),
    "split": _mixing("axis"),
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
