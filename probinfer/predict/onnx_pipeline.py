"""The steps of a pipeline as ONNX nodes: raw columns in, the arguments out. Imports numpy; onnx where used.

A raw column is a tensor (rows,): numbers float64 with nan where one is missing, labels text with "" where one is. A row
that `predict` would refuse (a label that training has not seen, a logarithm of what is not above zero, a missing or
infinite value) is not refused here but marked, for its answers to become nan.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from probinfer.errors import ExportError
from probinfer.model.pipeline.fitted import (
    Affine,
    BoxCoxPower,
    Calendar,
    Codes,
    CodesElse,
    Filled,
    Indicators,
    Logarithm,
    YeoJohnsonPower,
)
from probinfer.model.pipeline.prepared import FittedColumn, FittedInput, Prepared, split_labels
from probinfer.model.pipeline.raw import Kind
from probinfer.predict.onnx_ops import Graph, exponential_minus_one, onnx

ML = "ai.onnx.ml"  # the operators of ONNX that read text
ML_OPSET = 2
_MOST_CELLS = 4_000_000  # of a table of combinations
_MISSING, _NEW = -1, -2  # codes of a missing label and of one that is no level


class _Column(NamedTuple):
    """Name of a tensor (rows,) on its way; `done` as that of `Part`."""

    tensor: str
    done: bool = False


def refuse_steps(prepared: Prepared) -> None:
    """Raises ExportError, naming column and step, for what ONNX cannot express."""
    for column in (own for each in prepared.inputs for made in each.columns for own in made.of_each()):
        steps = [step for stage in column.stages for step in stage]
        for step in steps:
            if type(step) not in _STEPS:
                raise ExportError(
                    f"The column {column.name!r} goes through a step that ONNX has no operation for: "
                    f"{step.describe()}{' of a date' if isinstance(step, Calendar) else ''}. Save the predictor as a "
                    "folder (predictor.save), or make such numbers before the pipeline."
                )
            if "" in getattr(step, "levels", ()) or getattr(step, "fill", None) == "":
                raise ExportError(
                    f"The column {column.name!r} has the empty text as a label, and in ONNX, whose text is never "
                    "missing, that stands for a missing one. Name it in the training rows ('none', for one)."
                )


class Preparation:
    """Adds nodes to a graph. `bad`: name of booleans (rows,), True for rows that cannot be predicted."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._bad: list[str] = []

    def arguments(self, prepared: Prepared) -> dict[str, str]:
        """Names of the model's arguments' tensors, made of tensors called as the raw columns."""
        for name, kind in prepared.columns.items():
            if kind is Kind.NUMBER:
                self._bad.append(self.graph.add("IsInf", name))
        return {each.argument: self._argument(each) for each in prepared.inputs}

    @property
    def bad(self) -> str:
        """Rows that some step has marked."""
        name = self._bad[0]
        for other in self._bad[1:]:
            name = self.graph.add("Or", name, other)
        return name

    def number(self, value: float) -> str:
        """Name of a constant."""
        return self.graph.constant(value, np.float64)

    def mark(self, flags: str) -> None:
        """Rows (booleans) are bad."""
        self._bad.append(flags)

    def cast(self, name: str, kind: type) -> str:
        """As numbers of another type."""
        return self.graph.add("Cast", name, to=onnx().helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def codes(self, text: str, levels: Sequence[str], new: int) -> str:
        """int64: places of labels among levels, -1 for a missing one, `new` for one that is none."""
        keys, values = ["", *levels], [_MISSING, *range(len(levels))]
        return self.graph.add(
            "LabelEncoder", text, domain=ML, keys_strings=keys, values_int64s=values, default_int64=new
        )

    def _argument(self, each: FittedInput) -> str:
        columns = [made for column in each.columns for made in self._made(column)]
        for column in columns:
            zero = self.graph.add("Sub", column, column)  # nan unless finite
            self.mark(self.graph.add("IsNaN", zero))
        if not each.matrix:
            return self.cast(columns[0], np.int64) if each.codes else columns[0]
        one = self.graph.ints(1)
        return self.graph.add("Concat", *(self.graph.add("Unsqueeze", name, one) for name in columns), axis=1)

    def _joined(self, column: FittedColumn) -> str:
        """Codes of the combinations of several columns of labels, from a table of all that there could be."""
        codes, each = column.codes, column.of_each()
        assert codes is not None
        known = [own.codes.levels for own in each if own.codes is not None]
        sizes = [len(levels) + 1 for levels in known]  # one for labels that are in no combination
        if math.prod(sizes) > _MOST_CELLS:
            raise ExportError(
                f"The group {column.name} has {' x '.join(map(str, sizes))} combinations of levels, too many for a "
                "table in an ONNX file. Save the predictor as a folder (predictor.save)."
            )
        table = np.full(sizes, codes.size - 1 if codes.reserve else _NEW)
        for number, level in enumerate(codes.levels):
            places = [levels.index(part) for levels, part in zip(known, split_labels(level), strict=True)]
            table[tuple(places)] = number
        place = ""
        for own, levels, size in zip(each, known, sizes, strict=True):
            part = self.codes(own.name, levels, len(levels))
            self.mark(self.graph.add("Less", part, self.graph.constant(0, np.int64)))
            part = self.graph.add("Max", part, self.graph.constant(0, np.int64))
            if place:
                part = self.graph.add("Add", self.graph.add("Mul", place, self.graph.constant(size, np.int64)), part)
            place = part
        found = self.graph.add("Gather", self.graph.constant(table.ravel(), np.int64), place, axis=0)
        self.mark(self.graph.add("Less", found, self.graph.constant(0, np.int64)))
        return self.cast(found, np.float64)

    def _made(self, column: FittedColumn) -> list[str]:
        if column.joined:
            return [self._joined(column)]
        parts = [_Column(column.name)]
        for stage in column.stages:
            waiting, made = list(stage), []
            for part in parts:
                if part.done:
                    made.append(part)
                else:
                    step = waiting.pop(0)
                    made += _STEPS[type(step)](step, part.tensor, column.kind, self)
            parts = made
        return [part.tensor for part in parts]


# steps ---------------------------------------------------------------------------------------------------------------


def _affine(step: Affine, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    less = to.graph.add("Sub", x, to.number(step.shift))
    return [_Column(to.graph.add("Div", less, to.number(step.scale)))]


def _logarithm(step: Logarithm, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    to.mark(to.graph.add("LessOrEqual", x, to.number(0.0 - step.shift)))
    return [_Column(to.graph.add("Log", to.graph.add("Add", x, to.number(step.shift))))]


def _box_cox(step: BoxCoxPower, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    to.mark(to.graph.add("LessOrEqual", x, to.number(0.0)))
    return [_Column(_power(x, step.lmbda, to))]


def _yeo_johnson(step: YeoJohnsonPower, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    zero, one = to.number(0.0), to.number(1.0)
    above_zero = to.graph.add("GreaterOrEqual", x, zero)
    above = to.graph.add("Add", one, to.graph.add("Where", above_zero, x, zero))
    below = to.graph.add("Sub", one, to.graph.add("Where", above_zero, zero, x))
    negated = to.graph.add("Neg", _power(below, 2.0 - step.lmbda, to))
    return [_Column(to.graph.add("Where", above_zero, _power(above, step.lmbda, to), negated))]


def _power(x: str, lmbda: float, to: Preparation) -> str:
    """(x^lmbda - 1) / lmbda, log x at lmbda 0."""
    log = to.graph.add("Log", x)
    if lmbda == 0.0:
        return log
    grown = exponential_minus_one(to.graph.add("Mul", to.number(lmbda), log), to.graph, np.dtype(np.float64))
    return to.graph.add("Div", grown, to.number(lmbda))


def _codes(step: Codes, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    codes = to.codes(x, step.levels, len(step.levels) if step.reserve else _NEW)
    to.mark(to.graph.add("Less", codes, to.graph.constant(0, np.int64)))
    return [_Column(to.cast(codes, np.float64))]


def _codes_else(step: CodesElse, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    codes = to.codes(x, step.levels, _NEW)
    to.mark(to.graph.add("Equal", codes, to.graph.constant(_MISSING, np.int64)))
    new = to.graph.add("Equal", codes, to.graph.constant(_NEW, np.int64))
    return [_Column(to.graph.add("Where", new, to.number(step.other), to.cast(codes, np.float64)))]


def _indicators(step: Indicators, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    codes = to.codes(x, step.levels, _NEW if step.zeros else _MISSING)
    to.mark(to.graph.add("Equal", codes, to.graph.constant(_MISSING, np.int64)))
    numbers = range(1 if step.drop_first else 0, len(step.levels))
    return [
        _Column(to.cast(to.graph.add("Equal", codes, to.graph.constant(number, np.int64)), np.float64))
        for number in numbers
    ]


def _filled(step: Filled, x: str, kind: Kind, to: Preparation) -> list[_Column]:
    if isinstance(step.fill, str):
        gone = to.graph.add("Equal", to.codes(x, (), _NEW), to.graph.constant(_MISSING, np.int64))
        fill = to.graph.constant(np.array(step.fill, object))
    else:
        gone, fill = to.graph.add("IsNaN", x), to.number(step.fill)
    filled = _Column(to.graph.add("Where", gone, fill, x))
    return [filled, _Column(to.cast(gone, np.float64), True)] if step.indicator else [filled]


_STEPS: dict[type, Callable[..., list[_Column]]] = {
    Affine: _affine,
    Logarithm: _logarithm,
    BoxCoxPower: _box_cox,
    YeoJohnsonPower: _yeo_johnson,
    Codes: _codes,
    CodesElse: _codes_else,
    Indicators: _indicators,
    Filled: _filled,
}
