"""What operations do to dependence: a rule for each, and what a dependence is. Imports JAX only."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.lax import GatherScatterMode

MOST_ENTRIES = 2  # of an array's axis that one entry may depend on and still be told from one that depends on all


class Along(NamedTuple):
    """An axis of a value whose entry n depends on few entries of an array's axis.

    index: None for entry n of it; an array (n,) for entry index[n]; an array (n, 2) for the entries index[n, 0] and
    index[n, 1]. Negative: none.
    """

    axis: int
    index: np.ndarray | None = None

    @property
    def several(self) -> bool:
        """Whether an entry may depend on two."""
        return self.index is not None and self.index.ndim == 2

    def same(self, other: "Along | None") -> bool:
        """Whether both say the same."""
        if other is None or self.axis != other.axis:
            return False
        if self.index is None or other.index is None:
            return self.index is other.index
        return np.array_equal(self.index, other.index)

    def take(self, entries: np.ndarray) -> np.ndarray:
        """The index after these entries of the value's axis were taken; negative: one that depends on nothing."""
        if self.index is None:
            return np.where(entries < 0, -1, entries)
        return np.where((entries < 0).reshape(-1, *[1] * (self.index.ndim - 1)), -1, self.index[entries])

    def joined(self, other: "Along | None") -> "Along | None":
        """Of a value made entry by entry from two; None where an entry may depend on too many."""
        if other is None or self.axis != other.axis:
            return None
        if self.same(other):
            return self
        size = max(len(along.index) for along in (self, other) if along.index is not None)
        rows = np.hstack([along.take(np.arange(size)).reshape(size, -1) for along in (self, other)])
        rows = -np.sort(-rows, axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        rows = -np.sort(-rows, axis=1)
        count = max(1, int((rows >= 0).sum(axis=1).max()))
        if count > MOST_ENTRIES:
            return None
        return Along(self.axis, rows[:, 0] if count == 1 else rows[:, :count])


# By array that matters, by axis of that array. An axis that is missing: every entry may depend on all along it.
Dependence = Mapping[str, Mapping[int, Along]]


class Value(NamedTuple):
    """depends: on what. known: gives the value, where data alone determine it."""

    depends: Dependence
    known: Callable[[], Any] | None = None


def joined(parts: Sequence[Dependence]) -> Dependence:
    """Of a value that is made entry by entry from several: what they agree about."""
    found: dict[str, dict[int, Along]] = {}
    for part in parts:
        for name, axes in part.items():
            if name in found:
                both = {i: along.joined(axes.get(i)) for i, along in found[name].items()}
                found[name] = {i: along for i, along in both.items() if along is not None}
            else:
                found[name] = dict(axes)
    return found


def moved(depends: Dependence, to: Mapping[int, int]) -> Dependence:
    """After axis a of a value has become axis to[a]; those that are not there are gone, or mixed."""
    return {
        name: {i: along._replace(axis=to[along.axis]) for i, along in axes.items() if along.axis in to}
        for name, axes in depends.items()
    }


def _picked(depends: Dependence, axis: int, index: np.ndarray, to: int) -> Dependence:
    """The part of the dependence along one axis, after entries `index` of it have become axis `to`."""
    return {
        name: {i: Along(to, along.take(index)) for i, along in axes.items() if along.axis == axis}
        for name, axes in depends.items()
    }


def _together(parts: Sequence[Dependence]) -> Dependence:
    """Dependences along different axes of one value, in one."""
    found: dict[str, dict[int, Along]] = {}
    for part in parts:
        for name, axes in part.items():
            found.setdefault(name, {}).update(axes)
    return found


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _elementwise(step: Any, inputs: list[Value]) -> Dependence | None:
    """Arrays of one shape, single numbers, and axes of the size one, which are spread."""
    out = _shape(step.outvars[0])
    shapes = [_shape(variable) for variable in step.invars]
    if any(shape and len(shape) != len(out) for shape in shapes):
        return None
    kept = [{i: i for i, size in enumerate(shape) if size == out[i]} for shape in shapes]
    return joined([moved(value.depends, to) for value, to in zip(inputs, kept, strict=True)])


def _broadcast(step: Any, inputs: list[Value]) -> Dependence:
    shape, place = _shape(step.invars[0]), step.params["broadcast_dimensions"]
    out = step.params["shape"]
    return moved(inputs[0].depends, {i: at for i, at in enumerate(place) if shape[i] == out[at]})


def _reshape(step: Any, inputs: list[Value]) -> Dependence:
    return moved(inputs[0].depends, kept_axes(_shape(step.invars[0]), _shape(step.outvars[0])))


def kept_axes(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Axes that a reshape leaves whole: of the same size, with as many entries before them."""
    place = {(size, math.prod(after[:j])): j for j, size in enumerate(after) if size != 1}
    found = {i: place.get((size, math.prod(before[:i]))) for i, size in enumerate(before) if size != 1}
    return {i: j for i, j in found.items() if j is not None}


def _squeeze(step: Any, inputs: list[Value]) -> Dependence:
    return _without(step, inputs, step.params["dimensions"])


def _reduce(step: Any, inputs: list[Value]) -> Dependence:
    return _without(step, inputs, step.params["axes"])


def _without(step: Any, inputs: list[Value], gone: Sequence[int]) -> Dependence:
    left = [i for i in range(len(_shape(step.invars[0]))) if i not in gone]
    to = {i: j for j, i in enumerate(left)}
    return joined([moved(value.depends, to) for value in inputs])


def _transpose(step: Any, inputs: list[Value]) -> Dependence:
    return moved(inputs[0].depends, {i: j for j, i in enumerate(step.params["permutation"])})


def _mixing(*names: str) -> Callable[[Any, list[Value]], Dependence]:
    """Entries mix along the axes that these parameters name, and along no other."""

    def rule(step: Any, inputs: list[Value]) -> Dependence:
        mixed: set[int] = set()
        for name in names:
            axes = step.params[name]
            mixed |= set(axes) if isinstance(axes, Sequence) else {axes}
        to = {i: i for i in range(len(_shape(step.outvars[0]))) if i not in mixed}
        return joined([moved(value.depends, to) for value in inputs])

    return rule


def _slice(step: Any, inputs: list[Value]) -> Dependence:
    shape, parameters = _shape(step.invars[0]), step.params
    strides = parameters["strides"] or (1,) * len(shape)
    depends, parts = inputs[0].depends, []
    for axis, size in enumerate(shape):
        picked = np.arange(size)[parameters["start_indices"][axis] : parameters["limit_indices"][axis] : strides[axis]]
        whole = len(picked) == size
        part = moved(depends, {axis: axis}) if whole else _picked(depends, axis, picked, axis)
        parts.append(part)
    return _together([{name: {} for name in depends}, *parts])


def _concatenate(step: Any, inputs: list[Value]) -> Dependence:
    axis = step.params["dimension"]
    to = {i: i for i in range(len(_shape(step.outvars[0]))) if i != axis}
    sizes = [_shape(variable)[axis] for variable in step.invars]
    begins = np.cumsum([0, *sizes])
    spread = []
    for value, begin, size in zip(inputs, begins, sizes, strict=False):  # entries of the other parts depend on nothing
        index = np.full(begins[-1], -1)
        index[begin : begin + size] = np.arange(size)
        spread.append(_together([moved(value.depends, to), _picked(value.depends, axis, index, axis)]))
    return joined(spread)


def _stack(step: Any, inputs: list[Value]) -> Dependence:
    new = step.params["axis"]
    to = {i: i + (i >= new) for i in range(len(_shape(step.invars[0])))}
    return joined([moved(value.depends, to) for value in inputs])


def _tile(step: Any, inputs: list[Value]) -> Dependence:
    return moved(inputs[0].depends, {i: i for i, times in enumerate(step.params["reps"]) if times == 1})


def _pad(step: Any, inputs: list[Value]) -> Dependence:
    to = {i: i for i, how in enumerate(step.params["padding_config"]) if tuple(how) == (0, 0, 0)}
    return joined([moved(inputs[0].depends, to), inputs[1].depends])


def _dot(step: Any, inputs: list[Value]) -> Dependence:
    (left_sum, right_sum), (left_batch, right_batch) = step.params["dimension_numbers"]
    parts, start = [], len(left_batch)
    for value, variable, summed, batch in zip(
        inputs, step.invars, (left_sum, right_sum), (left_batch, right_batch), strict=True
    ):
        free = [i for i in range(len(_shape(variable))) if i not in (*summed, *batch)]
        to = {**{i: j for j, i in enumerate(batch)}, **{i: start + j for j, i in enumerate(free)}}
        parts.append(moved(value.depends, to))
        start += len(free)
    return joined(parts)


def _batched(trailing: int) -> Callable[[Any, list[Value]], Dependence | None]:
    """Matrices are taken each on its own: leading axes stay."""

    def rule(step: Any, inputs: list[Value]) -> Dependence | None:
        lead = _shape(step.invars[0])[:-trailing]
        if any(_shape(variable)[: len(lead)] != lead for variable in (*step.invars, *step.outvars)):
            return None
        return joined([moved(value.depends, {i: i for i in range(len(lead))}) for value in inputs])

    return rule


def _gather(step: Any, inputs: list[Value]) -> Dependence:
    how, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    source, picks = inputs
    shape, pick_shape = _shape(step.invars[0]), _shape(step.invars[1])
    batch = [axis for axis in range(len(_shape(step.outvars[0]))) if axis not in how.offset_dims]
    from_picks = moved(picks.depends, {i: batch[i] for i in range(len(pick_shape) - 1)})
    if not source.depends:
        return from_picks
    gone = (*how.collapsed_slice_dims, *how.operand_batching_dims)
    window = dict(zip([i for i in range(len(shape)) if i not in gone], how.offset_dims, strict=True))
    moving = how.start_index_map if step.params["mode"] is GatherScatterMode.FILL_OR_DROP else ()  # else held inside
    whole = {i: at for i, at in window.items() if sizes[i] == shape[i] and i not in moving}
    pairs = zip(how.operand_batching_dims, how.start_indices_batching_dims, strict=True)
    whole |= {i: batch[at] for i, at in pairs}
    parts = [{name: {} for name in source.depends}, moved(source.depends, whole)]
    if picks.known:
        for number, axis in enumerate(how.start_index_map):
            found = _one_way(np.asarray(picks.known())[..., number]) if sizes[axis] == 1 else None
            if found is not None:
                at, index = found
                parts.append(_picked(source.depends, axis, np.clip(index, 0, shape[axis] - 1), batch[at]))
    return joined([_together(parts), from_picks])


def _one_way(index: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The only axis along which an array of indices varies, and the indices along it."""
    varies = [i for i in range(index.ndim) if index.shape[i] > 1 and (index != index.take([0], axis=i)).any()]
    long = [i for i in range(index.ndim) if index.shape[i] > 1]
    axis = varies[0] if len(varies) == 1 else long[0] if not varies and len(long) == 1 else None
    if axis is None:
        return None
    at: tuple[Any, ...] = tuple(slice(None) if i == axis else 0 for i in range(index.ndim))
    return axis, index[at]


# Operations on each entry alone, and sums over axes.
ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp convert_element_type
copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag
integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma population_count
pow real reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
""".split()
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")

RULES: dict[str, Callable[[Any, list[Value]], Dependence | None]] = {
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
