"""A fitted pipeline as data: from raw rows to a model's inputs, and what its outcome is in units of its own. Imports
numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.pipeline.change import Change
from probinfer.model.pipeline.fitted import Codes, Part, Step, pack_step, unpack_step
from probinfer.model.pipeline.raw import READERS, Kind, Place, is_missing, labels, numbers, one_column, take_columns

_COMBINATIONS = "combinations"  # what a packed column of joined labels holds: releases that do not know it refuse it


@dataclass(frozen=True)
class FittedColumn:
    """A raw column and its steps: `stages` holds for each declared step one fitted step for each column it meets.

    joined   raw columns whose labels together are this one's, as `join_labels` writes them; () for a column of its own
    """

    name: str
    kind: Kind
    stages: tuple[tuple[Step, ...], ...] = ()
    joined: tuple[str, ...] = ()

    @property
    def sources(self) -> dict[str, Kind]:
        """The raw columns that it is made of."""
        return dict.fromkeys(self.joined, Kind.LABEL) or {self.name: self.kind}

    def of_raw(self, raw: Mapping[str, np.ndarray], place: Place) -> np.ndarray:
        """Its values, from the raw columns."""
        if not self.joined:
            return raw[self.name]
        parts = [labels(name, raw[name], place) for name in self.joined]
        for name, part in zip(self.joined, parts, strict=True):
            refuse_missing(Part(name, part), place)
        return join_labels(parts)

    def of_each(self) -> "list[FittedColumn]":
        """A column for each that it is made of, which knows as many of its labels as this one; itself, if it is one."""
        codes = self.codes
        if not self.joined or codes is None:
            return [self]
        levels = zip(*map(split_labels, codes.levels), strict=True)
        return [
            FittedColumn(name, Kind.LABEL, ((Codes(tuple(dict.fromkeys(own)), codes.reserve),),))
            for name, own in zip(self.joined, levels, strict=True)
        ]

    def apply(self, values: np.ndarray, place: Place) -> list[Part]:
        """The columns made of the raw one, nothing missing in them."""
        parts = [Part(self.name, READERS[self.kind](self.name, values, place))]
        for stage in self.stages:
            parts = run_stage(parts, stage, place)
        for part in parts:
            refuse_missing(part, place)
        return parts

    @property
    def names(self) -> list[str]:
        """Names of the columns made."""
        empty = np.zeros(0, {Kind.NUMBER: "float64", Kind.LABEL: "object", Kind.DATE: "datetime64[us]"}[self.kind])
        return [part.name for part in self.apply(empty, Place(PredictionError))]

    @property
    def codes(self) -> Codes | None:
        """The levels, if the column is the codes of labels and nothing else."""
        last = self.stages[-1] if self.stages else ()
        return last[0] if len(last) == 1 and isinstance(last[0], Codes) and len(self.names) == 1 else None

    @property
    def flat(self) -> tuple[Step, ...]:
        """Its steps, if each makes one column of one."""
        return tuple(stage[0] for stage in self.stages)

    def describe(self) -> str:
        """Its steps in words; of several columns the first one's."""
        steps = [
            stage[0].describe() + (f" and {len(stage) - 1} more" if len(stage) > 1 else "") for stage in self.stages
        ]
        return "; ".join(steps) or f"{self.kind.value}, as they are"

    def pack(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "column": self.name,
            "holds": _COMBINATIONS if self.joined else self.kind.value,
            "steps": [[pack_step(step) for step in stage] for stage in self.stages],
            **({"joined": list(self.joined)} if self.joined else {}),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "FittedColumn":
        """Raises ValueError, KeyError or TypeError for what is no column."""
        stages = tuple(tuple(unpack_step(step) for step in stage) for stage in packed["steps"])
        joined = tuple(map(str, packed.get("joined", ())))
        kind = Kind.LABEL if joined and packed["holds"] == _COMBINATIONS else Kind(packed["holds"])
        column = cls(str(packed["column"]), kind, stages, joined)
        _ = column.names  # the steps fit one another
        if joined and (column.codes is None or any(len(split_labels(x)) != len(joined) for x in column.codes.levels)):
            raise ValueError(f"the column {column.name} is no codes of labels of {len(joined)} columns")
        return column


def join_labels(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Labels of several columns as one text for each row: with colons between them, and a backslash before those that
    were there.

    >>> split_labels(join_labels([np.array(["a:b"], object), np.array(["c"], object)])[0])
    ['a:b', 'c']
    """
    escaped = []
    for part in parts:
        known = {label: label.replace("\\", r"\\").replace(":", r"\:") for label in set(part.tolist())}
        escaped.append(np.array([known[label] for label in part.tolist()], object))
    joined = escaped[0]
    for part in escaped[1:]:
        joined = joined + ":" + part
    return joined


def split_labels(text: str) -> list[str]:
    """What `join_labels` has joined."""
    parts, letters = [""], iter(text)
    for letter in letters:
        if letter == ":":
            parts.append("")
        else:
            parts[-1] += next(letters, "") if letter == "\\" else letter
    return parts


def run_stage(parts: Sequence[Part], steps: Sequence[Step], place: Place) -> list[Part]:
    """One step for each part that is not done; those that are stay where they are."""
    waiting, made = list(steps), []
    if len(waiting) != sum(not part.done for part in parts):
        raise ValueError("a stage has not one step for each column")
    for part in parts:
        made += [part] if part.done else waiting.pop(0).apply(part, place)
    return made


def refuse_missing(part: Part, place: Place) -> None:
    """Raise the place's error where a value is missing."""
    gone = is_missing(part.values)
    if gone.any():
        place.fail(f"{part.name} is missing {place.at(gone)}; every row needs a value, or declare Impute().")


@dataclass(frozen=True)
class FittedInput:
    """One argument of the model: a design matrix (rows, k), or with `matrix` False the only column, (rows,)."""

    argument: str
    columns: tuple[FittedColumn, ...]
    matrix: bool

    @property
    def names(self) -> list[str]:
        """Names of the design matrix's columns."""
        return [name for column in self.columns for name in column.names]

    @property
    def codes(self) -> Codes | None:
        """The levels, if the input is the codes of labels: whole numbers that pick a level."""
        return None if self.matrix else self.columns[0].codes

    def apply(
        self, raw: Mapping[str, np.ndarray], place: Place, made: "dict[FittedColumn, list[Part]] | None" = None
    ) -> np.ndarray:
        """The argument's array. made: what columns became already, to be used and added to."""
        made = {} if made is None else made
        for column in self.columns:
            if column not in made:
                made[column] = column.apply(column.of_raw(raw, place), place)
        parts = [part for column in self.columns for part in made[column]]
        for part in parts:
            endless = ~np.isfinite(part.values)
            if endless.any():
                place.fail(f"{part.name} is {part.values[endless][0]} {place.at(endless)}; wanted finite numbers.")
        if self.matrix:
            return np.stack([part.values for part in parts], axis=1)
        return parts[0].values.astype(np.int64) if self.codes else parts[0].values

    def opened(self) -> "FittedInput":
        """The input with a code beyond its levels for labels that are none of them; what is codes of labels only."""
        column, codes = self.columns[0], self.codes
        assert codes is not None
        stages = (*column.stages[:-1], (replace(codes, reserve=True),))
        return replace(self, columns=(replace(column, stages=stages),))

    def pack(self) -> dict[str, Any]:
        """In JSON's types."""
        return {"argument": self.argument, "matrix": self.matrix, "columns": [c.pack() for c in self.columns]}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "FittedInput":
        """Raises ValueError, KeyError or TypeError for what is no input."""
        columns = tuple(FittedColumn.unpack(column) for column in packed["columns"])
        found = cls(str(packed["argument"]), columns, bool(packed["matrix"]))
        if not columns or (not found.matrix and len(found.names) != 1):
            raise ValueError(f"the input {found.argument} has {len(found.names)} columns")
        return found


@dataclass(frozen=True)
class FittedOutcome:
    """One outcome of the model: its argument, its raw column, and either a change of scale or the labels of its
    classes."""

    argument: str
    column: FittedColumn
    change: Change | None
    labels: tuple[str, ...] | None

    def scaled(self, values: Any, place: Place) -> np.ndarray:
        """On the model's scale, from raw values."""
        (part,) = self.column.apply(values, place)
        return part.values.astype(np.int64) if self.labels is not None else part.values

    def own(self, values: np.ndarray, place: Place) -> np.ndarray:
        """In units of its own as numbers: those that came, or the codes of labels."""
        if self.labels is not None:
            return self.scaled(values, place).astype(float)
        return numbers(self.column.name, values, place)

    def label(self, codes: np.ndarray) -> np.ndarray:
        """Labels of class codes."""
        return np.array(self.labels, object)[codes]

    def describe(self) -> str:
        """What it is to the model, in words."""
        if self.labels is not None:
            return f"codes of {', '.join(self.labels[:8])}" + (" …" if len(self.labels) > 8 else "")
        return self.change.describe(self.column.name) if self.change else self.column.name

    def pack(self) -> dict[str, Any]:
        """In JSON's types."""
        return {"argument": self.argument, **self.column.pack()}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "FittedOutcome":
        """Raises ValueError, KeyError or TypeError for what is no outcome."""
        return cls.of(str(packed["argument"]), FittedColumn.unpack(packed))

    @classmethod
    def of(cls, argument: str, column: FittedColumn) -> "FittedOutcome":
        """Raises ValueError for steps that an outcome cannot have."""
        codes = column.codes
        if codes is not None:
            if codes.reserve:
                raise ValueError("an outcome has no class for labels that are new; use Unseen.ERROR")
            return cls(argument, column, None, codes.levels)
        if len(column.names) != 1 or any(len(stage) != 1 for stage in column.stages):
            raise ValueError("an outcome is one column")
        change = Change.of(column.flat)
        return cls(argument, column, change if change != Change() else None, None)


@dataclass(frozen=True)
class Prepared:
    """Everything between raw rows and a predictor's program.

    inputs    the model's arguments that come from raw columns
    outcome   the outcome that is predicted; None where it needs no pipeline
    known     raw columns of training: new rows may hold them though nothing reads them
    """

    inputs: tuple[FittedInput, ...]
    outcome: FittedOutcome | None
    known: tuple[str, ...]

    @property
    def columns(self) -> dict[str, Kind]:
        """What new rows must bring."""
        found: dict[str, Kind] = {}
        for column in (column for each in self.inputs for column in each.columns if not column.joined):
            found |= column.sources
        return found | {
            name: kind
            for each in self.inputs
            for column in each.columns
            for name, kind in column.sources.items()
            if name not in found
        }

    def apply(self, rows: Any, place: Place) -> tuple[dict[str, np.ndarray], int]:
        """The model's arrays for raw rows, and how many rows they are."""
        raw, count = take_columns(rows, self.columns, self.known, place)
        made: dict[FittedColumn, list[Part]] = {}  # models of several folds prepare most columns alike
        return {each.argument: each.apply(raw, place, made) for each in self.inputs}, count

    def of(self, arguments: Sequence[str]) -> "Prepared":
        """As much of it as a program needs that reads these arguments."""
        return replace(self, inputs=tuple(each for each in self.inputs if each.argument in arguments))

    def open_to(self, arguments: Sequence[str]) -> "Prepared":
        """The same with labels that training has not seen taken as one more level of these arguments."""
        return replace(
            self, inputs=tuple(each.opened() if each.argument in arguments else each for each in self.inputs)
        )

    def pack(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "inputs": [each.pack() for each in self.inputs],
            "outcome": self.outcome.pack() if self.outcome else None,
            "known": list(self.known),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "Prepared":
        """Raises ValueError, KeyError or TypeError for what is no pipeline."""
        outcome = packed["outcome"]
        return cls(
            tuple(FittedInput.unpack(each) for each in packed["inputs"]),
            FittedOutcome.unpack(outcome) if outcome is not None else None,
            tuple(map(str, packed["known"])),
        )


def outcome_lines(prepared: Prepared | None) -> list[str]:
    """What `inspect` says of the outcome."""
    outcome = prepared.outcome if prepared else None
    return [f"  to model  {outcome.describe()}, of the column {outcome.column.name}"] if outcome else []


def input_lines(prepared: Prepared | None) -> list[str]:
    """What `inspect` says of the raw columns."""
    lines = []
    for each in prepared.inputs if prepared else ():
        for column in each.columns:
            made = column.names
            as_columns = f" ({len(made)} columns)" if len(made) > 1 else ""
            lines.append(f"  {column.name}: {column.kind.value}, for {each.argument}{as_columns}: {column.describe()}")
    return lines


def class_codes(known: Sequence[Any], values: Any, name: str) -> np.ndarray:
    """Codes of labels, as numbers. Raises PredictionError for labels that are no class."""
    place = Place(PredictionError)
    column = labels(name, one_column(name, values, place), place)
    return Codes(tuple(known)).apply(Part(name, column), place)[0].values
