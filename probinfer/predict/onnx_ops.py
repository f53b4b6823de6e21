"""StableHLO operations as ONNX nodes, one by one. Imports jax's MLIR, numpy and, where used, onnx.

Each translation keeps the types: float64 stays float64. What ONNX lacks is put together so that it keeps its digits
(log(1 + x), exp(x) - 1). An operation without a translation is refused by name: nothing is approximated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

from probinfer.errors import ExportError

OPSET = 18

_UNARY = {
    "abs": "Abs", "negate": "Neg", "exponential": "Exp", "log": "Log", "sqrt": "Sqrt", "floor": "Floor",
    "ceil": "Ceil", "sign": "Sign", "tanh": "Tanh", "logistic": "Sigmoid", "cosine": "Cos", "sine": "Sin", "tan": "Tan",
    "round_nearest_even": "Round", "optimization_barrier": "Identity",
}  # fmt: skip
_BINARY = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "power": "Pow"}
_LOGICAL = {"and": "And", "or": "Or", "xor": "Xor"}
_REDUCED = {"add": "ReduceSum", "multiply": "ReduceProd", "maximum": "ReduceMax", "minimum": "ReduceMin"}
_COMPARED = {"LT": "Less", "LE": "LessOrEqual", "GT": "Greater", "GE": "GreaterOrEqual", "EQ": "Equal"}


def onnx() -> Any:
    """The package onnx. Raises MissingExtra without it."""
    from probinfer.errors import MissingExtra

    try:
        import onnx.helper
        import onnx.numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtra("This needs onnx, which is not installed: pip install 'probinfer[onnx]'.") from error
    return onnx


def dtype_of(kind: Any) -> np.dtype:
    """NumPy's type of an MLIR element type."""
    name = str(kind)
    plain = {"f64": "float64", "f32": "float32", "i1": "bool", "i64": "int64", "i32": "int32", "ui32": "uint32"}
    if name not in plain:
        raise ExportError(f"The model computes with numbers of the type {name}, which this export has no place for.")
    return np.dtype(plain[name])


class Graph:
    """Nodes and constants of one ONNX graph in the making; the bodies of loops are graphs of their own."""

    def __init__(self, prefix: str = "v") -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._prefix = prefix
        self._count = 0

    def name(self) -> str:
        """A name that no other graph of the model has."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    def inner(self) -> "Graph":
        """An empty graph for the body of a loop or branch."""
        return Graph(f"{self.name()}_")

    def constant(self, values: Any, dtype: Any = None) -> str:
        """Name of a constant."""
        name = self.name()
        self.constants.append(onnx().numpy_helper.from_array(np.asarray(values, dtype, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """Name of a vector of int64, as shapes and axes are."""
        return self.constant(np.array(values, np.int64))

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; returns the name of its output, or a list of names."""
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(onnx().helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def built(self, label: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """As a GraphProto."""
        return onnx().helper.make_graph(self.nodes, label, list(inputs), list(outputs), self.constants)


def value_info(name: str, dtype: np.dtype, shape: Sequence[Any] | None) -> Any:
    """Declaration of an array."""
    kind = onnx().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx().helper.make_tensor_value_info(name, kind, shape)


def translate(block: Any, graph: Graph, names: dict[Any, str]) -> list[str]:
    """Add the operations of an MLIR block to `graph`; `names` says how its arguments are called. Returns the names of
    what the block returns."""
    for view in block.operations:
        operation = view.operation
        kind = operation.name.removeprefix("stablehlo.")
        inputs = [names[value] for value in operation.operands]
        if kind in ("return", "func.return"):
            return inputs
        found = _translated(kind, operation, inputs, graph, names)
        for result, name in zip(operation.results, found if isinstance(found, list) else [found], strict=True):
            names[result] = name
    raise AssertionError("a block ends with a return")


def _translated(kind: str, operation: Any, inputs: list[str], graph: Graph, names: dict[Any, str]) -> Any:
    if kind in _UNARY:
        return graph.add(_UNARY[kind], *inputs) if len(inputs) == 1 else [graph.add("Identity", i) for i in inputs]
    if kind in _BINARY:
        whole = kind == "power" and dtype_of(_kind(operation.operands[1])).kind in "iu"
        return graph.add(_BINARY[kind], *inputs) if not whole else graph.add("Pow", *inputs)
    if kind in _LOGICAL:
        return graph.add(_LOGICAL[kind] if _is_bool(operation.operands[0]) else f"Bitwise{_LOGICAL[kind]}", *inputs)
    special: Callable | None = _SPECIAL.get(kind)
    if special is None:
        raise ExportError(
            f"The model uses the operation {kind!r}, which has no translation to ONNX here. Those that have one are "
            "listed in the documentation of the ONNX export. Save the predictor as a folder instead."
        )
    return special(operation, inputs, graph, names)


# single operations ---------------------------------------------------------------------------------------------------


def _kind(value: Any) -> Any:
    return ir.RankedTensorType(value.type).element_type


def _shape(value: Any) -> list[int]:
    return list(ir.RankedTensorType(value.type).shape)


def _is_bool(value: Any) -> bool:
    return str(_kind(value)) == "i1"


def _attribute(operation: Any, name: str) -> list[int]:
    """An attribute that is a list of whole numbers."""
    return [int(n) for n in operation.attributes[name]] if name in operation.attributes else []


def _constant(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    value, dtype = operation.attributes["value"], dtype_of(_kind(operation.results[0]))
    if value.is_splat:
        return graph.constant(np.full(_shape(operation.results[0]), value.get_splat_value().value, dtype))
    if dtype.kind == "b":
        bits = ir.DenseIntElementsAttr(value)
        return graph.constant(np.array([bits[i] for i in range(len(bits))], bool).reshape(_shape(operation.results[0])))
    return graph.constant(np.array(value).astype(dtype))


def _convert(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    wanted = dtype_of(_kind(operation.results[0]))
    return graph.add("Cast", inputs[0], to=onnx().helper.np_dtype_to_tensor_dtype(wanted))


def _compare(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    direction = str(operation.attributes["comparison_direction"]).split()[-1].rstrip(">")
    if _is_bool(operation.operands[0]) and direction not in ("EQ", "NE"):
        inputs = [
            graph.add("Cast", name, to=onnx().helper.np_dtype_to_tensor_dtype(np.dtype("int32"))) for name in inputs
        ]
    if direction == "NE":
        return graph.add("Not", graph.add("Equal", *inputs))
    return graph.add(_COMPARED[direction], *inputs)


def _extreme(name: str) -> Callable:
    """Largest and smallest with nan where either is nan, as StableHLO has it and ONNX leaves open."""

    def two(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
        if _is_bool(operation.operands[0]):
            return graph.add("Or" if name == "Max" else "And", *inputs)
        found = graph.add("Where", graph.add("Greater" if name == "Max" else "Less", *inputs), *inputs)
        if dtype_of(_kind(operation.operands[0])).kind != "f":
            return found
        return graph.add("Where", graph.add("IsNaN", inputs[0]), inputs[0], found)

    return two


def _clamp(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    low, value, high = inputs
    raised = graph.add("Where", graph.add("Less", value, low), low, value)
    return graph.add("Where", graph.add("Greater", raised, high), high, raised)


def _is_finite(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return graph.add("Less", graph.add("Abs", inputs[0]), _number(operation, graph, np.inf))


def _number(operation: Any, graph: Graph, value: float) -> str:
    return graph.constant(value, dtype_of(_kind(operation.operands[0])))


def _log_plus_one(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    """log(1 + x) = x log(u) / (u - 1), u = 1 + x as rounded. Kahan; Higham (2002), section 1.14."""
    x, one = inputs[0], _number(operation, graph, 1.0)
    u = graph.add("Add", x, one)
    less, log = graph.add("Sub", u, one), graph.add("Log", u)
    exact = graph.add("Div", graph.add("Mul", log, x), less)
    plain = graph.add(
        "Or",
        graph.add("Equal", u, _number(operation, graph, np.inf)),
        graph.add("Equal", x, _number(operation, graph, -1.0)),
    )
    return graph.add("Where", graph.add("Equal", u, one), x, graph.add("Where", plain, log, exact))


def _exponential_minus_one(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return exponential_minus_one(inputs[0], graph, dtype_of(_kind(operation.operands[0])))


def exponential_minus_one(x: str, graph: Graph, dtype: np.dtype) -> str:
    """exp(x) - 1 = (u - 1) x / log(u), u = exp(x) as rounded. Kahan; Higham (2002), section 1.14."""
    one = graph.constant(1.0, dtype)
    u = graph.add("Exp", x)
    less = graph.add("Sub", u, one)
    exact = graph.add("Div", graph.add("Mul", less, x), graph.add("Log", u))
    large = graph.add("Greater", graph.add("Abs", x), graph.constant(20.0, dtype))
    return graph.add("Where", graph.add("Equal", u, one), x, graph.add("Where", large, less, exact))


def _rsqrt(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return graph.add("Div", _number(operation, graph, 1.0), graph.add("Sqrt", inputs[0]))


def _cbrt(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    root = graph.add("Pow", graph.add("Abs", inputs[0]), _number(operation, graph, 1.0 / 3.0))
    return graph.add("Mul", graph.add("Sign", inputs[0]), root)


def _remainder(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return graph.add("Mod", *inputs, fmod=1)


# shapes --------------------------------------------------------------------------------------------------------------


def _reshape(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return graph.add("Reshape", inputs[0], graph.ints(*_shape(operation.results[0])))


def _transpose(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return graph.add("Transpose", inputs[0], perm=_attribute(operation, "permutation"))


def _broadcast(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    axes, shape, given = (
        _attribute(operation, "broadcast_dimensions"), _shape(operation.results[0]), _shape(operation.operands[0]),
    )  # fmt: skip
    name, order = inputs[0], sorted(range(len(axes)), key=lambda i: axes[i])
    if order != list(range(len(axes))):
        name = graph.add("Transpose", name, perm=order)
    placed = [1] * len(shape)
    for axis, size in zip(axes, given, strict=True):
        placed[axis] = size
    if placed != given:
        name = graph.add("Reshape", name, graph.ints(*placed))
    return graph.add("Expand", name, graph.ints(*shape)) if placed != shape else name


def _concatenate(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return graph.add("Concat", *inputs, axis=operation.attributes["dimension"].value)


def _slice(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    starts, ends, steps = (_attribute(operation, f"{n}") for n in ("start_indices", "limit_indices", "strides"))
    axes = range(len(starts))
    return graph.add("Slice", inputs[0], *(graph.ints(*values) for values in (starts, ends, axes, steps)))


def _iota(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    shape, axis = _shape(operation.results[0]), operation.attributes["iota_dimension"].value
    steps = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return graph.constant(np.broadcast_to(steps, shape), dtype_of(_kind(operation.results[0])))


def _reverse(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    axes = _attribute(operation, "dimensions")
    ends = [np.iinfo(np.int64).min + 1] * len(axes)
    return graph.add("Slice", inputs[0], *(graph.ints(*v) for v in ([-1] * len(axes), ends, axes, [-1] * len(axes))))


def _starts(
    operands: Sequence[Any], inputs: Sequence[str], sizes: Sequence[int], shape: Sequence[int], graph: Graph
) -> str:
    """Where a slice starts, int64 (rank,), moved so that it lies inside."""
    kind = onnx().helper.np_dtype_to_tensor_dtype(np.dtype("int64"))
    parts = [graph.add("Reshape", graph.add("Cast", name, to=kind), graph.ints(1)) for name in inputs]
    starts = graph.add("Concat", *parts, axis=0)
    most = graph.ints(*(whole - size for whole, size in zip(shape, sizes, strict=True)))
    return graph.add("Max", graph.add("Min", starts, most), graph.ints(*[0] * len(sizes)))


def _dynamic_slice(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    sizes, shape = _attribute(operation, "slice_sizes"), _shape(operation.operands[0])
    starts = _starts(operation.operands[1:], inputs[1:], sizes, shape, graph)
    ends = graph.add("Add", starts, graph.ints(*sizes))
    cut = graph.add("Slice", inputs[0], starts, ends, graph.ints(*range(len(shape))))
    return graph.add("Reshape", cut, graph.ints(*sizes))


def _dynamic_update_slice(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    shape, sizes = _shape(operation.operands[0]), _shape(operation.operands[1])
    starts = _starts(operation.operands[2:], inputs[2:], sizes, shape, graph)
    places = np.stack(np.meshgrid(*(np.arange(n) for n in sizes), indexing="ij"), axis=-1)
    return graph.add("ScatterND", inputs[0], graph.add("Add", graph.constant(places, np.int64), starts), inputs[1])


def _pad(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    low, high, between = (
        _attribute(operation, n) for n in ("edge_padding_low", "edge_padding_high", "interior_padding")
    )
    if any(between):
        raise ExportError("The model pads between the entries of an array, which has no translation to ONNX here.")
    return graph.add("Pad", inputs[0], graph.ints(*low, *high), inputs[1])


# sums and products ---------------------------------------------------------------------------------------------------


def _reduce(operation: Any, inputs: list[str], graph: Graph, names: Any) -> Any:
    body = [view.operation for view in operation.regions[0].blocks[0].operations]
    kind = body[0].name.removeprefix("stablehlo.")
    if len(inputs) > 2 and _sums_apart(operation.regions[0].blocks[0]):
        several, axes = len(inputs) // 2, graph.ints(*_attribute(operation, "dimensions"))
        sums = [graph.add("ReduceSum", name, axes, keepdims=0) for name in inputs[:several]]
        return [graph.add("Add", *pair) for pair in zip(sums, inputs[several:], strict=True)]
    if len(inputs) != 2 or len(body) != 2:
        raise ExportError("The model reduces an array in a way (such as argmax) that has no translation to ONNX here.")
    axes, value = graph.ints(*_attribute(operation, "dimensions")), operation.operands[0]
    if _is_bool(value):
        number = graph.add("Cast", inputs[0], to=onnx().helper.np_dtype_to_tensor_dtype(np.dtype("int32")))
        kind = {"or": "maximum", "and": "minimum"}.get(kind, kind)
        found = graph.add(_REDUCED[kind], number, axes, keepdims=0)
        found = graph.add("Cast", found, to=onnx().helper.np_dtype_to_tensor_dtype(np.dtype("bool")))
        return graph.add("Or" if kind == "maximum" else "And", found, inputs[1])
    if kind not in _REDUCED:
        raise ExportError(f"The model reduces an array by {kind!r}, which has no translation to ONNX here.")
    found = graph.add(_REDUCED[kind], inputs[0], axes, keepdims=0)
    if kind in _BINARY:
        return graph.add(_BINARY[kind], found, inputs[1])
    return graph.add("Max" if kind == "maximum" else "Min", found, inputs[1])


def _sums_apart(block: Any) -> bool:
    """Several sums in one operation: every result adds its own two arguments."""
    given = list(block.arguments)
    several, operations = len(given) // 2, [view.operation for view in block.operations]
    if any(operation.name != "stablehlo.add" for operation in operations[:-1]):
        return False
    pairs = [sorted(given.index(value) for value in operation.operands) for operation in operations[:-1]]
    kept = [list(operations[-1].operands).index(operation.results[0]) for operation in operations[:-1]]
    return pairs == [[i, several + i] for i in kept] and sorted(kept) == list(range(several))


def _reduce_window(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    """Of the windows only those of a cumulative sum: all entries up to this one, or from it on."""
    shape, window = _shape(operation.operands[0]), [int(n) for n in operation.attributes["window_dimensions"]]
    body = [view.operation.name for view in operation.regions[0].blocks[0].operations]
    axes = [axis for axis, size in enumerate(window) if size > 1]
    padding = np.array(operation.attributes["padding"]).reshape(-1, 2).tolist() if len(axes) == 1 else []
    plain = len(inputs) == 2 and body == ["stablehlo.add", "stablehlo.return"] and len(axes) == 1
    if plain and window[axes[0]] == shape[axes[0]] and _shape(operation.results[0]) == shape:
        beyond = padding[axes[0]]
        if beyond in ([shape[axes[0]] - 1, 0], [0, shape[axes[0]] - 1]):
            total = graph.add("CumSum", inputs[0], graph.constant(axes[0], np.int64), reverse=int(beyond[0] == 0))
            return graph.add("Add", total, inputs[1])
    raise ExportError("The model reduces windows of an array, which has no translation to ONNX here.")


def _dot(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    dims = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
    left, right = (["" for _ in _shape(value)] for value in operation.operands)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    batch = []
    for a, b in zip(dims.lhs_batching_dimensions, dims.rhs_batching_dimensions, strict=True):
        left[a] = right[b] = next(letters)
        batch.append(left[a])
    for a, b in zip(dims.lhs_contracting_dimensions, dims.rhs_contracting_dimensions, strict=True):
        left[a] = right[b] = next(letters)
    free = []
    for side in (left, right):
        for axis, letter in enumerate(side):
            if not letter:
                side[axis] = next(letters)
                free.append(side[axis])
    equation = f"{''.join(left)},{''.join(right)}->{''.join(batch + free)}"
    return graph.add("Einsum", *inputs, equation=equation)


def _gather(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    """Single entries along some axes, all of the others: what indexing by arrays comes to."""
    dims = stablehlo.GatherDimensionNumbers(operation.attributes["dimension_numbers"])
    shape, sizes = _shape(operation.operands[0]), _attribute(operation, "slice_sizes")
    indexed, batching = list(dims.start_index_map), list(dims.operand_batching_dims)
    others = [axis for axis in range(len(shape)) if axis not in (*indexed, *batching)]
    if any(sizes[axis] != 1 for axis in indexed) or any(sizes[axis] != shape[axis] for axis in others):
        raise ExportError("The model cuts pieces out of an array by an index, which has no translation to ONNX here.")
    given, last = _shape(operation.operands[1]), dims.index_vector_dim
    kind = onnx().helper.np_dtype_to_tensor_dtype(np.dtype("int64"))
    index = graph.add("Cast", inputs[1], to=kind)
    batch = given[:last] + given[last + 1 :]
    if last < len(given) - 1:
        index = graph.add("Transpose", index, perm=[i for i in range(len(given)) if i != last] + [last])
    index = graph.add("Reshape", index, graph.ints(*batch, len(indexed)))
    index = graph.add("Max", graph.add("Min", index, graph.ints(*(shape[axis] - 1 for axis in indexed))), graph.ints(0))
    for place in dims.start_indices_batching_dims:
        axis = place if place < last else place - 1
        steps = np.arange(batch[axis]).reshape([-1 if i == axis else 1 for i in range(len(batch))] + [1])
        index = graph.add("Concat", index, graph.constant(np.broadcast_to(steps, [*batch, 1]), np.int64), axis=-1)
    order = [*indexed, *batching, *others]
    operand = inputs[0] if order == sorted(order) else graph.add("Transpose", inputs[0], perm=order)
    found = graph.add("GatherND", operand, index)  # batch, then the other axes
    wanted = _shape(operation.results[0])
    offset = list(dims.offset_dims)
    kept = [axis for axis in range(len(shape)) if axis not in (*dims.collapsed_slice_dims, *batching)]
    full = [place for place, axis in zip(offset, kept, strict=True) if axis in others]
    ones = {place for place, axis in zip(offset, kept, strict=True) if axis not in others}
    loose = iter(range(len(batch)))
    perm = [
        len(batch) + full.index(place) if place in full else next(loose)
        for place in range(len(wanted))
        if place not in ones
    ]
    found = found if perm == sorted(perm) else graph.add("Transpose", found, perm=perm)
    return graph.add("Reshape", found, graph.ints(*wanted))


# loops and branches --------------------------------------------------------------------------------------------------


def _while(operation: Any, inputs: list[str], graph: Graph, names: dict[Any, str]) -> Any:
    condition, body = (region.blocks[0] for region in operation.regions)
    go_on = translate(condition, graph, {**names, **dict(zip(condition.arguments, inputs, strict=True))})[0]
    inner = graph.inner()
    turn, before = inner.name(), inner.name()
    carried = [inner.name() for _ in inputs]
    results = translate(body, inner, {**names, **dict(zip(body.arguments, carried, strict=True))})
    again = translate(condition, inner, {**names, **dict(zip(condition.arguments, results, strict=True))})[0]
    again, results = inner.add("Identity", again), [inner.add("Identity", name) for name in results]
    types = [(dtype_of(_kind(value)), _shape(value)) for value in operation.operands]
    flag = np.dtype(bool)
    built = inner.built(
        "body",
        [value_info(turn, np.dtype("int64"), []), value_info(before, flag, [])]
        + [value_info(name, *kind) for name, kind in zip(carried, types, strict=True)],
        [value_info(again, flag, [])] + [value_info(name, *kind) for name, kind in zip(results, types, strict=True)],
    )
    found = graph.add("Loop", "", go_on, *inputs, outputs=len(inputs), body=built)
    return found


def _case(operation: Any, inputs: list[str], graph: Graph, names: dict[Any, str]) -> Any:
    kinds = [(dtype_of(_kind(value)), _shape(value)) for value in operation.results]

    def branch(number: int, graph: Graph) -> Any:
        inner = graph.inner()
        results = [
            inner.add("Identity", name) for name in translate(operation.regions[number].blocks[0], inner, dict(names))
        ]
        outputs = [value_info(name, *kind) for name, kind in zip(results, kinds, strict=True)]
        return inner.built("branch", [], outputs)

    if len(operation.regions) != 2:
        raise ExportError("The model chooses among more than two branches, which has no translation to ONNX here.")
    first = graph.add("Equal", inputs[0], graph.constant(0, np.int32))
    return graph.add("If", first, outputs=len(kinds), then_branch=branch(0, graph), else_branch=branch(1, graph))


def _not(operation: Any, inputs: list[str], graph: Graph, names: Any) -> str:
    return graph.add("Not" if _is_bool(operation.operands[0]) else "BitwiseNot", inputs[0])


_SPECIAL: dict[str, Callable] = {
    "constant": _constant, "convert": _convert, "compare": _compare, "maximum": _extreme("Max"),
    "minimum": _extreme("Min"), "clamp": _clamp, "is_finite": _is_finite, "log_plus_one": _log_plus_one,
    "exponential_minus_one": _exponential_minus_one, "rsqrt": _rsqrt, "cbrt": _cbrt, "remainder": _remainder,
    "select": lambda operation, inputs, graph, names: graph.add("Where", *inputs), "not": _not,
    "reshape": _reshape, "transpose": _transpose, "broadcast_in_dim": _broadcast, "concatenate": _concatenate,
    "slice": _slice, "iota": _iota, "reverse": _reverse, "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice, "pad": _pad, "reduce": _reduce,
    "reduce_window": _reduce_window, "dot_general": _dot,
    "gather": _gather, "while": _while, "case": _case,
}  # fmt: skip

TRANSLATED = (*sorted({*_UNARY, *_BINARY, *_LOGICAL, *_SPECIAL}),)
