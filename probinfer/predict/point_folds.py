"""Models of one kind, each fitted without a part of the rows, asked together: what cross calibration keeps. Imports
numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from probinfer.model.pipeline.prepared import Prepared
from probinfer.predict.point_model import PointModel
from probinfer.predict.program import Input, Program


@dataclass(frozen=True, eq=False)
class FoldModels:
    """As a `PointModel`, of several. Values (rows, models), or (rows, models, classes), are what each of them says.

    models   each with how it prepares raw columns, if it does
    counts   how many rows each of them was not fitted to
    """

    models: tuple[PointModel, ...]
    counts: tuple[int, ...]

    @property
    def parts(self) -> tuple[PointModel, ...]:
        """The models."""
        return self.models

    @property
    def first(self) -> PointModel:
        """One of them, for what they have in common."""
        return self.models[0]

    @property
    def name(self) -> str:
        """What kind of models they are."""
        return f"{len(self.models)} times {self.first.name}"

    @property
    def whole(self) -> str:
        """Why they are given the raw columns as a data frame; "" where they are not."""
        return self.first.whole

    @property
    def to_convert(self) -> bool:
        """They are saved as other models."""
        return self.first.to_convert

    @property
    def watched(self) -> tuple[Input, ...]:
        """The inputs of the first of them."""
        return self.inputs[:1] if self.prepared is not None else self.inputs

    @cached_property
    def prepared(self) -> Prepared | None:
        """How raw columns become the inputs of all of them: each prepares its own."""
        each = [model.prepared for model in self.models if model.prepared is not None]
        if not each:
            return None
        inputs = [one for number, own in enumerate(each) for one in _numbered(own, number)]
        return Prepared(tuple(inputs), None, each[0].known)

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """Numbers by their names, the arrays that `prepared` makes for each, or raw columns."""
        if self.prepared is None:
            return self.first.inputs
        return tuple(replace(model.inputs[0], name=f"X{number}") for number, model in enumerate(self.models))

    def given(self, rows: Any, program: Program, first_row: int) -> list[Any]:
        """What each model is asked for these rows. Raises PredictionError for rows that do not fit."""
        if self.whole:
            return [self.first.given(rows, program, first_row)] * len(self.models)
        return self.of_columns(self.first.read(rows, program, first_row))

    def of_columns(self, columns: Mapping[str, np.ndarray]) -> list[Any]:
        """What each model is asked, of rows that were read."""
        if self.prepared is None:
            return [self.first.matrix(columns)] * len(self.models)
        return [model.matrix({model.inputs[0].name: columns[f"X{number}"]}) for number, model in enumerate(self.models)]

    def each(self, given: Sequence[Any]) -> list[tuple[PointModel, Any]]:
        """The models, and what each is asked."""
        return list(zip(self.models, given, strict=True))

    def having(self, models: Sequence[Any]) -> "FoldModels":
        """The same, with these models."""
        found = [part.having([model]) for part, model in zip(self.models, models, strict=True)]
        return replace(self, models=tuple(found))

    def together(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """What each model said, on the second axis."""
        return np.stack(values, axis=1)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean over the rows of training of what the model says that was not fitted to the row."""
        weights = np.array(self.counts) / sum(self.counts)
        return np.tensordot(values, weights, axes=(1, 0))


def _numbered(prepared: Prepared, number: int) -> list[Any]:
    return [replace(each, argument=f"X{number}") for each in prepared.inputs]
