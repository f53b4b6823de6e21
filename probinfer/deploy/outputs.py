"""Tables written: a file that is complete or absent, and JSON lines on standard output. Knows no models."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from probinfer.deploy.chunk import Position, uuids_as_text
from probinfer.deploy.jsonlines import to_lines
from probinfer.deploy.tables import written_format
from probinfer.errors import DataError
from probinfer.files import sync_folder

_GROUP_ROWS = 2**17  # rows of a Parquet row group, if pieces are smaller
_LOOKED_AT = 1000  # rows that tell whether a column's values come again


class Sink(Protocol):
    """Where predictions go. `open` first; then `write` and, where it is `lasting`, `commit`; `finish` or `abandon`."""

    @property
    def label(self) -> Path | str:
        """What texts call it; holds no passwords."""
        ...

    @property
    def lasting(self) -> bool:
        """Whether what is committed survives a run that dies."""
        ...

    @property
    def typed(self) -> bool:
        """Whether a column has one type from the first row to the last."""
        ...

    @property
    def schema(self) -> pa.Schema | None:
        """Columns that an earlier run wrote, if this one goes on from it."""
        ...

    def open(self) -> Position:
        """Begin, or go on: where an earlier run of the same job had got to."""
        ...

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        ...

    def commit(self, position: Position) -> None:
        """Make what was written safe, and that it goes up to `position`, in one step."""
        ...

    def finish(self, position: Position) -> None:
        """All is written: have the result appear."""
        ...

    def abandon(self) -> None:
        """The run failed: leave what was there before, and what is committed if it lasts."""
        ...


class Writer:
    """A table written piece by piece to an open file; the first piece decides the columns."""

    def __init__(self, file: Any, suffix: str, metadata: Mapping[str, str]) -> None:
        self._suffix = suffix
        self._open: Callable[[pa.Schema], Any] = {
            ".csv": lambda schema: pyarrow.csv.CSVWriter(file, schema),
            ".parquet": lambda schema: _Groups(file, schema.with_metadata(dict(metadata))),
            ".arrow": lambda schema: pa.ipc.new_file(file, schema.with_metadata(dict(metadata))),
            ".jsonl": lambda schema: _Lines(file),
        }[suffix]
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        """Append rows. Raises DataError for columns that the format does not have."""
        if self._suffix == ".csv":
            table = uuids_as_text(table)
        if self._writer is None:
            check_format(table.schema, self._suffix)
            self._writer = self._open(table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Write what belongs at the end of the file, which stays open."""
        if self._writer is not None:
            self._writer.close()


def check_format(schema: pa.Schema, suffix: str) -> None:
    """Raises DataError for a column that a file of this format cannot hold."""
    for field in schema:
        if suffix == ".csv":
            unfit = pa.types.is_nested(field.type) or _is_bytes(field.type) or pa.types.is_interval(field.type)
        elif suffix == ".jsonl":
            unfit = _is_bytes(field.type)
        else:
            unfit = suffix == ".parquet" and pa.types.is_interval(field.type)
        if unfit:
            others = "" if pa.types.is_interval(field.type) else ", write .parquet or .arrow"
            raise DataError(
                f"The column {field.name} to keep holds {field.type}, which a {suffix} file cannot hold. Have it as "
                f"text or a number in the input{others}, or leave it out."
            )


def _is_bytes(kind: pa.DataType) -> bool:
    large = pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return large or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)


class _Groups:
    """Parquet in row groups of a useful size, from pieces that may be smaller."""

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema
        self._writer: Any = None
        self._waiting: list[pa.Table] = []

    def write_table(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(piece.num_rows for piece in self._waiting) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            repeated = [name for name in table.column_names if _repeats(table[name])]
            self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema, use_dictionary=repeated)
        self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        self._waiting = []

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether its values come again, so that a dictionary of them pays: to make one of numbers that are all different
    takes most of the time of writing them."""
    first = column.slice(0, _LOOKED_AT)
    return not pa.types.is_floating(column.type) or 2 * len(first.unique()) <= len(first)


class _Lines:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write_table(self, table: pa.Table) -> None:
        self._file.write(to_lines(table))

    def close(self) -> None:
        """Nothing ends a file of lines."""


class Output:
    """A table written piece by piece under the name `<path>.partial`, which becomes `path` only once it is complete.

    So a full disk, a crash or Ctrl-C leaves what was there before, and never a file that looks finished.
    """

    lasting = False
    schema = None

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self.path = self.label = path
        self.partial = path.with_name(path.name + ".partial")
        self._format = written_format(path)
        self.typed = self._format != ".jsonl"
        self._metadata = dict(metadata)

    def open(self) -> Position:
        """Begin the file."""
        self._file = open(self.partial, "wb")
        self._writer = Writer(self._file, self._format, self._metadata)
        return Position()

    def write(self, table: pa.Table) -> None:
        """Append rows; the first piece decides the columns."""
        self._writer.write(table)

    def commit(self, position: Position) -> None:
        """Nothing: the file is whole or absent."""

    def finish(self, position: Position) -> None:
        """Close the file, flush it to the disk, and give it its name."""
        self._writer.close()
        close_safely(self._file)
        os.replace(self.partial, self.path)
        sync_folder(self.path.absolute().parent)

    def abandon(self) -> None:
        """Remove what there is."""
        try:
            with contextlib.suppress(Exception):  # the error that brought us here is the one to tell
                self._writer.close()
        finally:  # Ctrl-C may come again meanwhile
            with contextlib.suppress(OSError):
                self._file.close()
            self.partial.unlink(missing_ok=True)


class StandardOutput:
    """JSON lines on standard output, each chunk at once: the reader at the other end has answers as they are made.

    What is written cannot be taken back, so a run that fails has answered the lines before.
    """

    label = "-"
    lasting = typed = False
    schema = None

    def __init__(self, file: Any) -> None:
        self._file = file

    def open(self) -> Position:
        """Nothing to begin."""
        return Position()

    def write(self, table: pa.Table) -> None:
        """Write and flush."""
        check_format(table.schema, ".jsonl")
        self._file.write(to_lines(table))
        self._file.flush()

    def commit(self, position: Position) -> None:
        """Nothing: what is written is written."""

    def finish(self, position: Position) -> None:
        """Nothing to end."""

    def abandon(self) -> None:
        """Nothing to take back."""


def write_table(path: Path, suffix: str, tables: Iterable[pa.Table], metadata: Mapping[str, str]) -> None:
    """A whole file in the format `suffix`, flushed to the disk; nothing is left of it on an error."""
    with open(path, "wb") as file:
        try:
            writer = Writer(file, suffix, metadata)
            for table in tables:
                writer.write(table)
            writer.close()
            close_safely(file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def close_safely(file: Any) -> None:
    """Close a file once all of it is on the disk itself."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
