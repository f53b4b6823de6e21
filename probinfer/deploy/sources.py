"""Where rows come from: a file, a folder of files, standard input. Databases are in `databases.py`."""

import copy
import itertools
import os
import re
import select
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet

from probinfer.deploy.chunk import Chunk, Position
from probinfer.deploy.jsonlines import lines_of
from probinfer.deploy.tables import (
    SUFFIXES,
    Types,
    about_rows,
    chunks_of_lines,
    column_names,
    cut,
    known_format,
    names_of,
    read_chunks,
    table_format,
    types_of_all,
)
from probinfer.errors import DataError

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # 007 is no number but a name
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_READ = 2**20  # bytes asked of a pipe at a time; it gives what it has
_LOOK = 0.2  # seconds after which a wait for a pipe looks whether anyone still wants it


class Source(Protocol):
    """Rows that can be read once, from a position on."""

    @property
    def label(self) -> str:
        """What texts call it; holds no passwords."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What the rows depend on, ready for JSON: a run goes on only with the same."""
        ...

    def columns(self) -> list[str] | None:
        """Names of the columns; None if they are unknown because there are no rows."""
        ...

    def about_rows(self) -> int | None:
        """How many rows there are, perhaps an estimate; None if only reading them would tell."""
        ...

    def chunks(self, types: Types, rows: int, start: Position, lenient: bool) -> Iterator[Chunk]:
        """The columns in `types` of the records after `start`, at most `rows` in a chunk.

        lenient: what cannot be read is a fault of its chunk; else it raises DataError.
        """
        ...

    def stop(self) -> None:
        """Wait for no more rows; may be called from another thread than the one that reads."""
        ...

    def close(self) -> None:
        """Let go of what is open, after the last row is read."""
        ...


class File:
    """One file."""

    def __init__(self, path: Path) -> None:
        table_format(path)
        self.path = path
        self.label = str(path)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, size and time of change."""
        return {"files": [state_of(self.path)]}

    def columns(self) -> list[str] | None:
        """Names of the columns."""
        return column_names(self.path)

    def about_rows(self) -> int | None:
        """Exact for Parquet, estimated for text."""
        return about_rows(self.path)

    def chunks(self, types: Types, rows: int, start: Position, lenient: bool) -> Iterator[Chunk]:
        """Rows in the order of the file."""
        return read_chunks(self.path, types, rows, skip=start.rows, lenient=lenient)

    def stop(self) -> None:
        """A file does not keep anyone waiting."""

    def close(self) -> None:
        """Nothing to close."""


class Folder:
    """All files of one format in a folder and its subfolders, in the order of their paths.

    Names that begin with a dot or an underscore are passed over. A subfolder called `name=value` gives its rows the
    column `name`, as Hive and Spark write them: of whole numbers, where all its values are some.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = str(path)
        inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        shown = [name for name in inside if not any(part.startswith((".", "_")) for part in name.parts)]
        self.files = sorted(path / name for name in shown if known_format(name))
        formats = sorted({table_format(file) for file in self.files})
        if len(formats) != 1:
            came = f"files of the formats {', '.join(formats)}" if formats else "no files of a known format"
            raise DataError(f"{path} holds {came}; wanted files of one: {', '.join(sorted(set(SUFFIXES.values())))}.")
        given = [(name, value) for file in self.files for name, value in self._given(file).items() if value is not None]
        self._text = {name for name, value in given if not _WHOLE.fullmatch(value)}

    def only(self, file: Path) -> "Folder":
        """One file of it, with the columns that its subfolders give."""
        found = copy.copy(self)
        found.files, found.label = [file], str(file)
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """Name, size and time of change of every file."""
        return {"files": [state_of(file) for file in self.files]}

    def columns(self) -> list[str] | None:
        """Columns of the first file that has any, and those that folders give."""
        for file in self.files:
            names = column_names(file)
            if names is not None:
                return [*names, *(name for name in self._given(file) if name not in names)]
        return None

    def about_rows(self) -> int | None:
        """Sum of the files' rows."""
        counts = [about_rows(file) for file in self.files]
        return sum(count for count in counts if count is not None) if None not in counts else None

    def _given(self, file: Path) -> dict[str, str | None]:
        parts = (part.partition("=") for part in file.relative_to(self.path).parts[:-1])
        return {name: None if value == NO_VALUE else unquote(value) for name, sign, value in parts if sign}

    def chunks(self, types: Types, rows: int, start: Position, lenient: bool) -> Iterator[Chunk]:
        """Rows file by file."""
        before, shared = 0, types_of_all(self.files, types)
        for file in self.files:
            if table_format(file) == ".parquet":
                count = pyarrow.parquet.read_metadata(file).num_rows
                if before + count <= start.rows:
                    before += count
                    continue
            first = before
            for chunk in self._of_file(file, types, rows, lenient, shared):
                moved = _moved(chunk, first, file)
                before = moved.first + moved.count
                yield from cut(moved, rows, start.rows)

    def _of_file(self, file: Path, types: Types, rows: int, lenient: bool, shared: Types | None) -> Iterator[Chunk]:
        given = {name: value for name, value in self._given(file).items() if name in types}
        kinds = {name: types[name] or (pa.string() if name in self._text else pa.int64()) for name in given}
        own = {name: kind for name, kind in types.items() if name not in given}
        names = column_names(file)
        if names is None:
            return
        absent = [name for name in own if name not in names]
        if absent and table_format(file) != ".jsonl":
            raise DataError(f"{file} lacks {', '.join(absent)}, which other files of {self.path} have.")
        for chunk in read_chunks(file, own, rows, lenient=lenient, own=shared and _only(shared, own)):
            columns = dict(zip(chunk.rows.schema.names, chunk.rows.columns, strict=True))
            columns |= {n: _constant(n, v, kinds[n], chunk.rows.num_rows, file) for n, v in given.items()}
            yield replace(chunk, rows=pa.record_batch({name: columns[name] for name in types})) if types else chunk

    def stop(self) -> None:
        """A file does not keep anyone waiting."""

    def close(self) -> None:
        """Nothing to close."""


def _only(types: Types, names: Types) -> Types:
    return {name: kind for name, kind in types.items() if name in names}


def _moved(chunk: Chunk, by: int, file: Path) -> Chunk:
    faults = tuple(replace(f, row=f.row + by, reason=f"{file.name}: {f.reason}") for f in chunk.faults)
    return replace(chunk, first=chunk.first + by, faults=faults)


def _constant(name: str, value: str | None, kind: pa.DataType, rows: int, file: Path) -> pa.Array:
    try:
        return pa.repeat(pa.scalar(value, pa.string()).cast(kind), rows)
    except pa.ArrowInvalid:
        raise DataError(f"{file} is in a folder that says {name}={value}; wanted a number.") from None


def state_of(path: Path) -> list[Any]:
    """Name, size and time of change of a file."""
    found = path.stat()
    return [str(path.absolute()), found.st_size, found.st_mtime_ns]


class StandardInput:
    """JSON lines from a pipe: what has come is a chunk, so that nobody waits for a chunk to fill."""

    label = "standard input"

    def __init__(self, file: Any) -> None:
        self._handle = file.fileno()
        self._blocks = lines_of(self._read())
        self._seen: list[list[bytes]] = []
        self._wanted = True

    @property
    def identity(self) -> dict[str, Any]:
        """Raises DataError: what has gone through a pipe does not come again."""
        raise DataError("Standard input cannot be read again, so such a run cannot be resumed; leave out --resume.")

    def _read(self) -> Iterator[bytes]:
        while self._wanted:
            if sys.platform != "win32" and not select.select([self._handle], [], [], _LOOK)[0]:
                continue
            block = os.read(self._handle, _READ)
            if not block:
                return
            yield block

    def columns(self) -> list[str] | None:
        """Names in the records that come first."""
        return names_of(self._look())

    def _look(self) -> Iterator[list[bytes]]:
        for block in self._blocks:
            self._seen.append(block)
            yield block

    def about_rows(self) -> int | None:
        """Nobody knows."""
        return None

    def chunks(self, types: Types, rows: int, start: Position, lenient: bool) -> Iterator[Chunk]:
        """Lines as they come."""
        return chunks_of_lines(itertools.chain(self._seen, self._blocks), types, rows, lenient=lenient)

    def stop(self) -> None:
        """Wait for no more."""
        self._wanted = False

    def close(self) -> None:
        """Standard input is not ours to close."""
