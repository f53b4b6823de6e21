"""A piece of a table on its way to the predictor: rows, what could not be read of them, plain columns of numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from probinfer.errors import PredictionError
from probinfer.predict.program import Input
from probinfer.predict.rows import column_names

DIGITS = 15  # that floating point keeps


@dataclass(frozen=True)
class Fault:
    """A record that cannot be predicted: its number from 0, why, and what it held (columns, or the line as it came)."""

    row: int
    reason: str
    held: Mapping[str, Any] | str


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of a source: those that could be read, `rows`, and those that could not, `faults`.

    first: number of the first record, from 0, in the whole source.
    text: columns that should be numbers came as text, still to be read: a cell that is no number is one row's fault.
    after: the key of the last record, where a source has keys.
    """

    first: int
    rows: pa.RecordBatch
    faults: tuple[Fault, ...] = ()
    text: bool = False
    after: Any = None

    @property
    def count(self) -> int:
        """Number of records, readable or not."""
        return self.rows.num_rows + len(self.faults)

    @property
    def numbers(self) -> np.ndarray:
        """The number of each row of `rows` in the whole source, (rows,)."""
        every = np.arange(self.first, self.first + self.count)
        return np.setdiff1d(every, [fault.row for fault in self.faults]) if self.faults else every


@dataclass(frozen=True)
class Position:
    """How far a run has come, as far as it is safe: what is needed to go on without losing or doubling a row.

    rows: records read; written: rows predicted; rejected: records refused, and the size of the file they are in;
    after: key of the last record.
    """

    rows: int = 0
    written: int = 0
    rejected: int = 0
    rejects_bytes: int = 0
    after: Any = None
    parts: int = field(default=0, compare=False)


def in_pieces(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """`batch` in slices of at most `rows` rows."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def plain_columns(
    rows: pa.RecordBatch, inputs: Sequence[Input], types: Mapping[str, pa.DataType | None], text: bool, first: int
) -> pa.RecordBatch:
    """`rows` with columns a predictor can take: decimals as floats, text read as the number it should be (only where
    `text` says so, or a database sends decimals as text), and lists of numbers as the columns X[0], X[1], ….

    Raises PredictionError naming the first row, counted from `first`, with text that is no number or a list of another
    length.
    """
    columns: dict[str, pa.Array] = {}
    shapes = {entry.name: entry for entry in inputs if entry.shape}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        column = _bare(name, column, types.get(name), text, first)
        if name in shapes and pa.types.is_nested(column.type):
            parts = _spread(name, column, shapes[name].shape, first)
            columns |= dict(zip(column_names(shapes[name]), parts, strict=True))
        else:
            columns[name] = column
    return pa.record_batch(columns) if columns else rows


def _bare(name: str, column: pa.Array, wanted: pa.DataType | None, text: bool, first: int) -> pa.Array:
    kind = column.type
    if isinstance(kind, pa.UuidType):
        return uuid_text(column) if wanted == pa.string() else column
    if isinstance(kind, pa.BaseExtensionType):
        numeric = getattr(kind, "type_name", "") == "numeric"  # PostgreSQL's decimals come as text
        column = column.storage
        if numeric and wanted is None:
            _check_digits(name, column, first)
        return _number(name, column, pa.float64(), first) if numeric else column
    if pa.types.is_dictionary(kind):
        return column.dictionary_decode()
    if pa.types.is_decimal(kind):
        if wanted is None and kind.scale == 0 and kind.precision > DIGITS:  # an id, that floating point would round
            return column.cast(pa.string())
        return column.cast(pa.float64())
    if text and wanted not in (None, pa.string()) and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return _number(name, column, wanted, first)
    return column


def uuid_text(column: pa.Array) -> pa.Array:
    """UUIDs as text, as everybody writes them."""
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def uuids_as_text(table: pa.Table) -> pa.Table:
    """The table for where there is no type for UUIDs."""
    for place, column in enumerate(table.columns):
        if isinstance(column.type, pa.UuidType):
            text = pa.chunked_array([uuid_text(piece) for piece in column.chunks], pa.string())
            table = table.set_column(place, table.schema.names[place], text)
    return table


def _check_digits(name: str, column: pa.Array, first: int) -> None:
    """Raises PredictionError for a whole number to be copied that floating point would round."""
    pattern = pc.MatchSubstringOptions(rf"^-?\d{{{DIGITS + 1},}}$")
    long = pc.call_function("match_substring_regex", [column], pattern)
    place = long.index(True).as_py()
    if place >= 0:
        raise PredictionError(
            f"{name} is {column[place].as_py()} in row {first + place} (the first row is row 0), of the type numeric, "
            f"which is read as floating point, and has more digits than that keeps. Cast it in the query: {name}::text."
        )


def _number(name: str, column: pa.Array, wanted: pa.DataType, first: int) -> pa.Array:
    column = pc.call_function("utf8_trim_whitespace", [column])
    try:
        return _cast(column, wanted)
    except pa.ArrowInvalid:
        for place in range(len(column)):
            try:
                _cast(column.slice(place, 1), wanted)
            except pa.ArrowInvalid:
                kinds = {"double": "a number", "int64": "a whole number", "bool": "True or False"}
                raise PredictionError(
                    f"{name} is {column[place].as_py()!r} in row {first + place} (the first row is row 0); wanted "
                    f"{kinds[str(wanted)]}."
                ) from None
        raise


def _cast(cells: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Text as numbers. 2.0 is a whole number too: pandas writes those of a column with missing values so."""
    try:
        return cells.cast(wanted)
    except pa.ArrowInvalid:
        if wanted != pa.int64():
            raise
        return cells.cast(pa.float64()).cast(wanted)


def _spread(name: str, column: pa.Array, shape: tuple[int, ...], first: int) -> list[pa.Array]:
    """The entries of a column of lists as columns, in row-major order; lists in lists for a matrix."""
    if not shape:
        return [column]
    if not pa.types.is_nested(column.type) or pa.types.is_struct(column.type):
        raise PredictionError(f"{name} holds {column.type}; wanted lists of {shape[0]} in each row.")
    lengths = pc.fill_null(pc.call_function("list_value_length", [column]), -1).to_numpy(zero_copy_only=False)
    if (lengths != shape[0]).any():
        place = int(np.argmax(lengths != shape[0]))
        came = "is missing" if lengths[place] < 0 else f"has {lengths[place]} entries"
        raise PredictionError(f"{name} {came} in row {first + place} (the first row is row 0); wanted {shape[0]}.")
    return [
        part
        for place in range(shape[0])
        for part in _spread(
            f"{name}[{place}]",
            pc.call_function("list_element", [column, pa.scalar(place)]),
            shape[1:],
            first,
        )
    ]
