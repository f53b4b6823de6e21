"""Scoring: a saved predictor over a table of any length, in pieces, with an output that is complete or absent."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from probinfer.deploy.tables import Output, column_names, read_chunks, table_format
from probinfer.errors import DataError
from probinfer.predict.predictor import Predictor, load_predictor
from probinfer.predict.program import Input
from probinfer.predict.rows import locate_columns

CHUNK_ROWS = 16_384

_TYPES = {"float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_(), "text": pa.string(), "date": None}


@dataclass(frozen=True)
class Score:
    """What scoring did: rows written, seconds taken, and where the predictions are."""

    rows: int
    seconds: float
    output: Path


def score(
    path: str | os.PathLike[str],
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    level: float = 0.9,
    quantiles: Sequence[float] | None = None,
    keep: Sequence[str] = (),
    chunk_rows: int = CHUNK_ROWS,
) -> Score:
    """Predict every row of the table `input` with the predictor saved at `path`, and write the table `output`.

    Tables are CSV or Parquet, by the ending of their names. They are read and written in pieces of at most `chunk_rows`
    rows, so memory does not grow with their length; row order is kept.

    Args:
        path: predictor folder.
        input: table whose columns hold the predictor's inputs, in any order; further columns are ignored.
        output: table to write: the columns of `Prediction.columns`. It appears only once it is complete; until then it
            is called `<output>.partial`, which is removed when scoring fails.
        level: probability of the interval; also a column of the output.
        quantiles: further quantiles, one column each.
        keep: columns of the input, such as an id, to copy in front of the predictions.
        chunk_rows: rows in memory at a time.

    Raises:
        ArtifactError: the predictor cannot be loaded.
        DataError: a table's name has another ending, input and output are one file, or the input cannot be read.
        PredictionError: columns are missing, or a row cannot be predicted; the text names it, counted from 0.
        OSError: a file cannot be read or written. In every case `output` is as it was before.
    """
    began = time.perf_counter()
    source, destination = Path(input), Path(output)
    table_format(source)
    table_format(destination)
    if source.exists() and destination.exists() and source.samefile(destination):
        raise DataError(f"{destination} is both input and output; write the predictions to another file.")
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise DataError(f"chunk_rows is {chunk_rows!r}; wanted a whole number, 1 or more.")
    predictor = load_predictor(path)
    by = _groups_column(predictor)
    types = _column_types(source, predictor.inputs, [*keep, *by])
    metadata = {"probinfer": f"predictions of {predictor.outcome} by {path}, level {level:.10g}"}
    rows = 0
    with Output(destination, metadata) as table:
        for batch in read_chunks(source, types, chunk_rows):
            table.write(_predicted(predictor, batch, level, quantiles, keep, rows))
            rows += batch.num_rows
        if rows == 0:
            empty = pa.RecordBatch.from_pydict(
                {name: pa.array([], kind or pa.string()) for name, kind in types.items()}
            )
            table.write(_predicted(predictor, empty, level, quantiles, keep, 0))
    return Score(rows, time.perf_counter() - began, destination)


def _groups_column(predictor: Predictor) -> list[str]:
    """The column that holds the groups of a predictor calibrated for each on its own."""
    calibration = predictor.calibration
    if calibration is None or not calibration.grouped:
        return []
    if calibration.by is None:
        raise DataError(
            "The predictor is calibrated in groups that were passed beside the rows, which a table has no place for. "
            "Calibrate with the name of a column: predictor.calibrate(rows, y, groups='column')."
        )
    return [calibration.by]


def _column_types(source: Path, inputs: Sequence[Input], keep: Sequence[str]) -> dict[str, pa.DataType | None]:
    """Type of each column to read; None where the file decides. Raises before any row is read."""
    available = column_names(source)
    if len(set(available)) < len(available):
        twice = sorted({name for name in available if available.count(name) > 1})
        raise DataError(f"{source} has more than one column called {', '.join(twice)}.")
    located = locate_columns(available, inputs)
    types: dict[str, pa.DataType | None] = {}
    for entry in inputs:
        for name in located[entry.name]:
            types[name] = _TYPES[entry.dtype] if not entry.shape or name != entry.name else None
    absent = [name for name in keep if name not in available]
    if absent:
        raise DataError(
            f"{source} has no column {', '.join(map(repr, absent))} to keep; it has {', '.join(available)}."
        )
    return {**types, **{name: None for name in keep if name not in types}}


def _predicted(
    predictor: Any,
    batch: pa.RecordBatch,
    level: float,
    quantiles: Sequence[float] | None,
    keep: Sequence[str],
    first: int,
) -> pa.Table:
    prediction = predictor.predict(batch, level=level, quantiles=quantiles, first_row=first)
    kept = {name: batch.column(name) for name in keep}
    return pa.table({**kept, **{name: pa.array(values) for name, values in prediction.columns().items()}})
