"""What scoring asks of each chunk: the columns to read, the predictions, and which rows are bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from probinfer.deploy.chunk import Chunk, Fault, plain_columns
from probinfer.deploy.columns import column_of
from probinfer.deploy.rejects import sift
from probinfer.deploy.sources import Source
from probinfer.deploy.tables import Types
from probinfer.errors import DataError, PredictionError
from probinfer.predict.interval import probabilities, probability
from probinfer.predict.joint import JointPredictor, parts_of
from probinfer.predict.predictor import Predictor
from probinfer.predict.program import Input
from probinfer.predict.rows import column_names, locate_columns, read_rows

_TYPES = {"float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_(), "text": pa.string(), "date": None}


@dataclass(frozen=True)
class Job:
    """What is asked of every chunk."""

    predictor: Predictor | JointPredictor
    types: Types
    level: float
    quantiles: Sequence[float] | None
    keep: Sequence[str]
    lenient: bool

    @classmethod
    def of(
        cls,
        predictor: Predictor | JointPredictor,
        source: Source,
        level: float,
        quantiles: Sequence[float] | None,
        keep: Sequence[str],
        lenient: bool,
    ) -> "Job":
        """Raises what is wrong with the call before any row is read."""
        level = probability("level", level)
        quantiles = None if quantiles is None else probabilities("quantiles", quantiles)
        keep = list(dict.fromkeys(names_of_columns("keep", keep)))
        types = _column_types(source, predictor.inputs, [*keep, *_groups_column(predictor)])
        return cls(predictor, types, level, quantiles, keep, lenient)

    @property
    def outcome(self) -> str:
        """What is predicted."""
        return ", ".join(part.outcome for part in parts_of(self.predictor))

    @property
    def asked(self) -> dict[str, Any]:
        """What the output depends on besides predictor and rows."""
        quantiles = None if self.quantiles is None else list(map(float, self.quantiles))
        return {"level": self.level, "quantiles": quantiles, "keep": list(self.keep), "rejects": self.lenient}

    def none(self) -> pa.Table:
        """The table of no rows: its columns, and an error where the call itself is wrong."""
        columns = {name: pa.nulls(0, kind or pa.string()) for name, kind in self.types.items()}
        return self._table(pa.RecordBatch.from_pydict(columns), 0)

    def predicted(self, chunk: Chunk) -> tuple[pa.Table, list[Fault]]:
        """Predictions of a chunk's rows, and its faults. Raises PredictionError for a bad row, unless lenient."""
        try:
            return self._table(self._plain(chunk, chunk.rows, chunk.first), chunk.first), list(chunk.faults)
        except PredictionError:
            if not self.lenient:
                raise
        faults = list(chunk.faults)
        rows, numbers, found = sift(lambda piece, first: self._read(chunk, piece, first), chunk.rows, chunk.numbers)
        faults += found
        rows, _, found = sift(lambda piece, first: self._table(self._plain(chunk, piece, first), first), rows, numbers)
        faults += found
        table = self._table(self._plain(chunk, rows, chunk.first), chunk.first)
        return table, sorted(faults, key=lambda fault: fault.row)

    def _read(self, chunk: Chunk, rows: pa.RecordBatch, first: int) -> None:
        for part in parts_of(self.predictor):
            read_rows(self._plain(chunk, rows, first), part.program, first_row=first)

    def _plain(self, chunk: Chunk, rows: pa.RecordBatch, first: int) -> pa.RecordBatch:
        return plain_columns(rows, self.predictor.inputs, self.types, chunk.text, first)

    def _table(self, rows: pa.RecordBatch, first: int) -> pa.Table:
        prediction = self.predictor.predict(rows, level=self.level, quantiles=self.quantiles, first_row=first)
        kept, made = {name: rows.column(name) for name in self.keep}, prediction.columns()
        twice = [name for name in kept if name in made]
        if twice:
            raise DataError(
                f"The column {twice[0]} to keep is called like one of the predictions; the output cannot have both. "
                "Rename it in the input, or leave it out."
            )
        return pa.table({**kept, **{name: column_of(values) for name, values in made.items()}})


def names_of_columns(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns; one alone may come without a list around it. Raises DataError for what is none."""
    names = (names,) if isinstance(names, str) else tuple(names)
    odd = next((name for name in names if not isinstance(name, str)), None)
    if odd is not None:
        raise DataError(f"{what} has {odd!r}; wanted names of columns of the input.")
    return names


def _groups_column(predictor: Predictor | JointPredictor) -> list[str]:
    """The columns that hold the groups of a predictor calibrated for each on its own."""
    found = []
    for part in parts_of(predictor):
        calibration = part.calibration
        if calibration is None or not calibration.grouped:
            continue
        if calibration.by is None:
            raise DataError(
                "The predictor is calibrated in groups that were passed beside the rows, which a table has no place "
                "for. Calibrate with the name of a column: predictor.calibrate(rows, y, groups='column')."
            )
        found.append(calibration.by)
    return found


def _column_types(source: Source, inputs: Sequence[Input], keep: Sequence[str]) -> dict[str, pa.DataType | None]:
    """Type of each column to read; None where the source decides. Raises before any row is read."""
    available = source.columns()
    if available is None:  # no rows, so no names
        available = [*(name for entry in inputs for name in column_names(entry)), *keep]
    if len(set(available)) < len(available):
        twice = sorted({name for name in available if available.count(name) > 1})
        raise DataError(f"{source.label} has more than one column called {', '.join(twice)}.")
    located = locate_columns(available, inputs)
    types: dict[str, pa.DataType | None] = {}
    for entry in inputs:
        whole = bool(entry.shape) and located[entry.name] == [entry.name]
        for name in located[entry.name]:
            types[name] = _lists(len(entry.shape)) if whole else _TYPES[entry.dtype]
    absent = [name for name in keep if name not in available]
    if absent:
        raise DataError(
            f"{source.label} has no column {', '.join(map(repr, absent))} to keep; it has {', '.join(available)}."
        )
    return {**types, **{name: None for name in keep if name not in types}}


def _lists(depth: int) -> pa.DataType:
    """Lists of numbers, in lists for a matrix."""
    return pa.list_(_lists(depth - 1)) if depth else pa.float64()
