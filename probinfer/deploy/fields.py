"""What every row must bring, in the words of clients: a predictor's inputs, the raw columns of its pipeline, its
groups. Imports numpy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.pipeline.fitted import Affine, Codes, CodesElse, Filled, Indicators, Logarithm
from probinfer.model.pipeline.prepared import FittedColumn, Prepared
from probinfer.model.pipeline.raw import Kind, Place
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor
from probinfer.predict.program import Input

GROUPS = "groups"  # what groups are called that were no column when the predictor was calibrated
DAY = "2026-01-31"  # of examples
_NEW = "(a label that training has not seen)"
_FLAGS = {"True": 1, "False": 0}
_NUMBERS = ("float64", "int64")
_KINDS = {"float64": np.float64, "int64": np.int64, "bool": np.bool_, "text": object, "date": object}


@dataclass(frozen=True)
class Field:
    """One value, or an array of them, that a row has.

    dtype     "float64", "int64" or "bool"; "text" for a label, "date" for a date: text of the form 2026-01-31
    shape     of one row's value
    low, high the valid range of an integer that picks a level
    choices   the labels that training knew
    closed    no label besides them is taken
    missing   a row may lack the value: null
    example   a value that is taken
    once      a request has one, whatever its rows
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    closed: bool = False
    missing: bool = False
    example: Any = 0
    once: bool = False

    def examples(self, rows: int) -> np.ndarray:
        """The example for each of `rows` rows, (rows, *shape)."""
        return np.full((rows, *self.shape), self.example, _KINDS[self.dtype])


def fields_of(predictor: Predictor | PointPredictor) -> tuple[Field, ...]:
    """What every row must bring; with a pipeline the raw columns, and with calibration in groups each row's group."""
    fields = _inputs(
        predictor.inputs if predictor.program.prepared else predictor.program.checked, predictor.program.prepared
    )
    calibration, group = predictor.calibration, group_name(predictor)
    if group is None or calibration is None:
        return fields
    labels = calibration.labels
    if group not in {field.name for field in fields}:
        return (*fields, Field(group, "text", choices=labels, closed=True, example=labels[0]))
    return tuple(_grouped(field, labels) if field.name == group else field for field in fields)


def fields_together(fields: Sequence[Field]) -> tuple[Field, ...]:
    """What rows must bring for several predictors at once: of a field that comes more than once what all of them take.

    Raises PredictionError where that is nothing.
    """
    found: dict[str, Field] = {}
    for field in fields:
        other = found.get(field.name, field)
        if (field.dtype, field.shape) != (other.dtype, other.shape):
            raise PredictionError(f"{field.name} is something else for one outcome than for another.")
        if field == other:
            found[field.name] = field
            continue
        low, high = (
            bound([value for value in values if value is not None], default=None)
            for bound, values in ((max, (field.low, other.low)), (min, (field.high, other.high)))
        )
        closed = [each.choices for each in (other, field) if each.closed]
        known = closed or [other.choices, field.choices]
        choices = tuple(label for label in known[0] if all(label in labels for labels in known))
        if closed and not choices:
            raise PredictionError(f"{field.name} has no label that every outcome takes.")
        example = low if low is not None else choices[0] if closed else other.example
        missing = field.missing and other.missing
        merged = {"low": low, "high": high, "closed": bool(closed), "missing": missing, "example": example}
        found[field.name] = replace(field, choices=choices, **merged)
    return tuple(found.values())


def group_name(predictor: Predictor | PointPredictor) -> str | None:
    """Name under which rows bring their group; None if they need none."""
    calibration = predictor.calibration
    return (calibration.by or GROUPS) if calibration is not None and calibration.grouped else None


def _inputs(inputs: Sequence[Input], prepared: Prepared | None) -> tuple[Field, ...]:
    if prepared is None:
        return tuple(
            Field(entry.name, entry.dtype, entry.shape, entry.low, entry.high, example=entry.low or 0)
            for entry in inputs
        )
    columns: dict[str, list[FittedColumn]] = {name: [] for name in prepared.columns}
    made = [column for each in prepared.inputs for column in each.columns]
    for column in sorted(made, key=lambda column: not column.joined):  # the first of their labels occur together
        for own in column.of_each():
            columns[own.name].append(own)
    return tuple(_raw_field(entry, columns[entry.name]) for entry in inputs)


def _grouped(field: Field, labels: Sequence[str]) -> Field:
    """An input that is also the group: only values with calibration rows are answered."""
    if field.dtype == "text":
        return replace(field, choices=tuple(labels), closed=True, missing=False, example=labels[0])
    return replace(field, example=_FLAGS[labels[0]] if labels[0] in _FLAGS else float(labels[0]))


def refuse_nested(rows: Mapping[str, Any]) -> None:
    """Raise PredictionError where a raw column holds something else than single values that a pipeline can read."""
    for name, values in rows.items():
        for number, value in enumerate(values if isinstance(values, list) else ()):
            if not isinstance(value, str | int | float | None):
                raise PredictionError(
                    f"{name} is {'a list' if isinstance(value, list) else 'an object'} in row {number} (the first row "
                    "is row 0); wanted one value: a number, a text, or null where it is missing."
                )
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise PredictionError(
                    f"{name} is a whole number beyond 64 bits in row {number} (the first row is row 0); wanted one "
                    "that a computer's number can hold."
                )


def has_booleans(values: Any) -> bool:
    """Whether true or false is among the values, however deep.

    >>> has_booleans([[1.0, 2.0], [0, True]]), has_booleans([1, 0])
    (True, False)
    """
    if not isinstance(values, list):
        return isinstance(values, bool)
    while values:  # level by level, as a body may be nested more deeply than Python calls functions
        kinds = set(map(type, values))
        if bool in kinds:
            return True
        values = [one for value in values if type(value) is list for one in value] if list in kinds else []
    return False


def refuse_booleans(fields: Sequence[Field], rows: Mapping[str, Any]) -> None:
    """Raise PredictionError where a number came as true or false. A number of a pipeline's raw column may: whether it
    was one in training is not known."""
    for field in fields:
        if field.dtype in _NUMBERS and has_booleans(rows.get(field.name)):
            raise PredictionError(
                f"{field.name} is true or false in a record; it held numbers in training, so wanted a number here."
            )


def _raw_field(entry: Input, columns: Sequence[FittedColumn]) -> Field:
    steps = [step for column in columns for stage in column.stages for step in stage]
    coded = [step.levels for step in steps if isinstance(step, Codes | CodesElse | Indicators)]
    choices = tuple(label for label in coded[0] if all(label in levels for levels in coded)) if coded else ()
    return Field(
        entry.name,
        entry.dtype,
        choices=choices,
        closed=bool(choices) and not _takes(columns, _NEW),
        missing=_takes(columns, None),
        example=_example(columns, choices),
    )


def _takes(columns: Sequence[FittedColumn], value: Any) -> bool:
    """Whether the columns' steps take a value."""
    held = np.empty(1, object)
    held[0] = value
    try:
        made = [part.values for column in columns for part in column.apply(held, Place(PredictionError))]
    except PredictionError:
        return False
    return all(np.isfinite(values).all() for values in made)


def _example(columns: Sequence[FittedColumn], choices: Sequence[str]) -> Any:
    """A value that is taken: a label that is known, or of numbers the one in the middle of those of training; where
    nothing is known of those 1, which a model may take a logarithm of, or divide by."""
    kind = columns[0].kind
    if kind is Kind.DATE:
        return DAY
    if kind is Kind.LABEL:
        return choices[0] if choices else ""
    for value in (*(_middle(column) for column in columns), 1.0, 0.0):
        if value is not None and _takes(columns, rounded := float(f"{value:.3g}")):
            return rounded
    return 1.0


def _middle(column: FittedColumn) -> float | None:
    """The raw number that a column's first linear step takes to zero, or that stands for a missing one; None if there
    is neither."""
    undo: list[Any] = []
    for stage in column.stages:
        step = stage[0]
        if isinstance(step, Filled) and isinstance(step.fill, float) and not undo:
            return step.fill
        if isinstance(step, Affine):
            value = step.shift
            for logarithm in reversed(undo):
                value = math.exp(min(value, 700.0)) - logarithm.shift
            return value
        if not isinstance(step, Logarithm):
            break
        undo.append(step)
    return None
