"""A query as a source of rows: of a database, or by DuckDB over files."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from probinfer.deploy.chunk import Chunk, Fault, Position, in_pieces, uuid_text
from probinfer.deploy.database import Address, Database, connect, quoted
from probinfer.deploy.sources import Folder, state_of
from probinfer.deploy.tables import Types, open_arrow, table_format
from probinfer.errors import DataError

FILE_VIEW = "input"  # what a query calls the file or folder that it is asked about
_TEXT = " (as text)"


class Query:
    """The rows of a query.

    Args:
        address: the database.
        query: a SELECT.
        key: a column with a value in every row, no two of them equal. Rows then come in its order, and a run can go on
            after the last key that is safe.
        file: file or folder that the query may call `input` (DuckDB only).
    """

    def __init__(self, address: Address, query: str, key: str | None, file: Path | None = None) -> None:
        self.address = address
        self.label = f"{file} by a query" if file else address.shown
        self._query, self._key, self._file = query.strip().rstrip(";"), key, file
        self._database: Database | None = None
        self._sql_types: dict[str, str] = {}
        self._schema: pa.Schema | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Database, query and key. Raises DataError without a key: rows then come in no certain order."""
        if self._key is None:
            raise DataError(
                "The rows of a query come in no certain order. To resume such a run, name a column that has a value in "
                "every row and no two equal ones: --key id."
            )
        found: dict[str, Any] = {"database": self.label, "query": self._query, "key": self._key}
        return found if self._file is None else {**found, "files": [state_of(each) for each in _files(self._file)]}

    @property
    def _open(self) -> Database:
        if self._database is None:
            self._database = connect(self.address)
            if self._file is not None:
                _show(self._database, self._file)
        return self._database

    def columns(self) -> list[str] | None:
        """Names of the query's columns."""
        schema = self._open.schema(f"SELECT * FROM ({self._query}\n) AS q WHERE 1 = 0")
        kinds = {field.name: (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode() for field in schema}
        self._sql_types = {name: kind for name, kind in kinds.items() if kind}
        self._schema = schema
        self._open.rollback()  # a file that is being read cannot be written
        return schema.names

    def about_rows(self) -> int | None:
        """Counting would run the query twice."""
        return None

    def chunks(self, types: Types, rows: int, start: Position, lenient: bool) -> Iterator[Chunk]:
        """Rows in the query's order, or by key."""
        self._check_types(types)
        sqlite = self.address.scheme == "sqlite" and bool(types)
        statement = self._sqlite_statement(types, start) if sqlite else self._statement(types, start)
        parameters = [] if start.after is None else [start.after]
        first, last, none = start.rows, start.after, self._none(types)
        for number, batch in enumerate(self._open.read(statement, parameters, rows)):
            if sqlite and number == 0:
                batch = batch.slice(1)  # the row that says the types
            none = batch.slice(0, 0)
            for piece in in_pieces(batch, rows):
                last = self._checked(piece, last, first)
                chunk = Chunk(first, piece, after=last)
                chunk = _numbers_and_faults(chunk, types) if sqlite else replace(chunk, rows=piece.select(list(types)))
                if chunk.faults and not lenient:
                    raise DataError(chunk.faults[0].reason)
                yield chunk
                first += piece.num_rows
        if first == start.rows and none is not None:  # no rows, but it is known of what types they would have been
            none = Chunk(first, none)
            yield _numbers_and_faults(none, types) if sqlite else replace(none, rows=none.rows.select(list(types)))

    def _none(self, types: Types) -> pa.RecordBatch | None:
        if self._schema is None or self.address.scheme == "sqlite" or not types:
            return None
        return pa.RecordBatch.from_pylist([], pa.schema([self._schema.field(name) for name in types]))

    def _check_types(self, types: Types) -> None:
        """Raises DataError for columns that PostgreSQL's driver hands over as something else than what they hold."""
        for name in types:
            kind = self._sql_types.get(name)
            column = self._schema.field(name).type if self._schema is not None else None
            storage = getattr(column, "storage_type", None)
            if kind == "money":  # as whole numbers of its smallest unit
                raise DataError(f"{name} is of the type money; cast it in the query: {name}::numeric.")
            if kind and not isinstance(column, pa.UuidType) and storage == pa.binary():
                raise DataError(f"{name} is of the type {kind}, which comes as bytes; cast it: {name}::text.")

    def _statement(self, types: Types, start: Position) -> str:
        if self._key is None:
            return self._query
        return f"SELECT {', '.join(map(quoted, types))} FROM {self._after(start)} ORDER BY {quoted(self._key)}"

    def _after(self, start: Position) -> str:
        key = quoted(str(self._key))
        if start.after is None:
            return f"({self._query}\n) AS q"
        mark = self._open.mark(1, self._sql_types.get(str(self._key)))
        return f"({self._query}\n) AS q WHERE {key} > {mark} OR {key} IS NULL"

    def _sqlite_statement(self, types: Types, start: Position) -> str:
        """In SQLite every cell has a type of its own, and the driver takes a column's from the first rows. So a first
        row says the types, and what should be a number and is none goes to a column of its own, as text."""
        heads, cells = [], []
        for name, kind in types.items():
            column, text = quoted(name), quoted(name + _TEXT)
            if kind in (None, pa.string()) or isinstance(kind, pa.ListType):
                heads.append(f"{_sqlite_zero(self._open, self._query, column)} AS {column}")
                cells.append(column)
                continue
            whole = (
                f"typeof({column}) = 'integer' OR typeof({column}) = 'real' AND {column} = CAST({column} AS INTEGER)"
            )
            fits = f"typeof({column}) IN ('integer', 'real')" if kind == pa.float64() else f"({whole})"
            heads += [f"{'0.0' if kind == pa.float64() else '0'} AS {column}", f"'' AS {text}"]
            cells.append(f"CASE WHEN {fits} THEN CAST({column} AS {'REAL' if kind == pa.float64() else 'INTEGER'}) END")
            cells.append(f"CASE WHEN {column} IS NOT NULL AND NOT {fits} THEN CAST({column} AS TEXT) END")
        order = f" ORDER BY {quoted(self._key)}" if self._key is not None else ""
        rows = f"(SELECT * FROM {self._after(start)}{order})" if self._key is not None else f"({self._query}\n)"
        return f"SELECT {', '.join(heads)} UNION ALL SELECT {', '.join(cells)} FROM {rows}"

    def _checked(self, piece: pa.RecordBatch, last: Any, first: int) -> Any:
        """The last key of the piece. Raises DataError for keys that are missing, equal, or cannot be written down."""
        if self._key is None or piece.num_rows == 0:
            return last
        keys = piece.column(self._key)
        if isinstance(keys.type, pa.UuidType):
            keys = uuid_text(keys)  # in the same order
        elif isinstance(keys.type, pa.BaseExtensionType):
            keys = keys.storage
        if keys.null_count:
            row = first + keys.is_null().index(True).as_py()
            raise DataError(f"The key {self._key} is missing in row {row} (the first row is row 0).")
        if not (pa.types.is_integer(keys.type) or pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type)):
            raise DataError(f"The key {self._key} is of type {keys.type}; wanted whole numbers or text.")
        same = pc.call_function("equal", [keys.slice(1), keys.slice(0, len(keys) - 1)]).index(True).as_py()
        if same >= 0 or (last is not None and keys[0].as_py() == last):
            value = keys[same].as_py() if same >= 0 else last
            raise DataError(f"The key {self._key} has the value {value!r} more than once; wanted no two equal ones.")
        return keys[-1].as_py()

    def stop(self) -> None:
        """Have the database give up the query."""
        if self._database is not None:
            self._database.stop()

    def close(self) -> None:
        """Let go of the connection."""
        if self._database is not None:
            with contextlib.suppress(OSError):
                self._database.close()
            self._database = None


def _files(file: Path) -> list[Path]:
    return Folder(file).files if file.is_dir() else [file]


def _show(database: Any, file: Path) -> None:
    """Have DuckDB call a file or a folder `input`."""
    if not file.exists():
        raise FileNotFoundError(2, "No such file or directory", str(file))
    files = _files(file)
    kind = table_format(files[0])
    if kind == ".arrow":
        database.offer(FILE_VIEW, _dataset(file, files))
    else:
        reader = {".csv": "read_csv", ".parquet": "read_parquet", ".jsonl": "read_json"}[kind]
        listed = ", ".join("'{}'".format(str(each).replace("'", "''")) for each in files)
        options = ", hive_partitioning = true, union_by_name = true" if file.is_dir() else ""
        database.run(f"CREATE VIEW {FILE_VIEW} AS SELECT * FROM {reader}([{listed}]{options})")
    database.commit()


def _dataset(file: Path, files: Sequence[Path]) -> Any:
    """Arrow IPC files as one table that is read as it is asked for. Raises DataError for a stream by such a name."""
    import pyarrow.dataset as ds

    options: dict[str, Any] = {"format": "ipc"}
    if file.is_dir():
        options |= {"partitioning": ds.partitioning(flavor="hive"), "partition_base_dir": str(file)}
    try:
        each = [ds.dataset([str(one)], **options) for one in files]
        return ds.dataset([str(one) for one in files], schema=pa.unify_schemas([one.schema for one in each]), **options)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"A query cannot be asked of {file}: {str(error).splitlines()[0]} Wanted are Arrow IPC files, no streams, "
            "whose columns have the same types."
        ) from None


def _sqlite_zero(database: Database, query: str, column: str) -> str:
    """A value of the type that a column's first value has."""
    kind = database.run(f"SELECT typeof({column}) FROM ({query}\n) WHERE {column} IS NOT NULL LIMIT 1")
    return {"integer": "0", "real": "0.0", "blob": "x''"}.get(kind[0][0] if kind else "text", "''")


def _numbers_and_faults(chunk: Chunk, types: Types) -> Chunk:
    """A chunk from SQLite without the columns of text, whose rows become faults."""
    texts = {name: chunk.rows.column(name + _TEXT) for name in types if name + _TEXT in chunk.rows.schema.names}
    rows, faults = chunk.rows.select(list(types)), []
    for row in _rows_with_text(list(texts.values()), rows.num_rows):
        name = next(name for name, column in texts.items() if column[row].is_valid)
        wanted = "a number" if types[name] == pa.float64() else "a whole number"
        where = f"in row {chunk.first + row} (the first row is row 0)"
        reason = f"{name} is {texts[name][row].as_py()!r} {where}; wanted {wanted}."
        held = rows.slice(row, 1).to_pylist()[0]
        faults.append(
            Fault(
                chunk.first + row,
                reason,
                {n: texts[n][row].as_py() if n in texts and texts[n][row].is_valid else v for n, v in held.items()},
            )
        )
    if not faults:
        return replace(chunk, rows=rows)
    good = np.setdiff1d(np.arange(rows.num_rows), [fault.row - chunk.first for fault in faults])
    return replace(chunk, rows=rows.take(pa.array(good)), faults=tuple(faults))


def _rows_with_text(columns: Sequence[pa.Array], rows: int) -> list[int]:
    marked = np.zeros(rows, bool)
    for column in columns:
        if column.null_count < rows:
            marked |= column.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(marked).tolist()


class Spooled:
    """A source read to the end, into a file on the disk, before its first row is handed on: for a database in a file
    that cannot be read by one connection and written by another at the same time."""

    def __init__(self, source: Query) -> None:
        self._source = source
        self.label = source.label

    @property
    def identity(self) -> dict[str, Any]:
        """That of the source."""
        return self._source.identity

    def columns(self) -> list[str] | None:
        """Those of the source."""
        return self._source.columns()

    def about_rows(self) -> int | None:
        """Nobody knows before the first row."""
        return None

    def chunks(self, types: Types, rows: int, start: Position, lenient: bool) -> Iterator[Chunk]:
        """The source's chunks, from the file."""
        with tempfile.TemporaryDirectory(prefix="probinfer-") as folder:
            path, others, writer = Path(folder) / "rows.arrow", [], None
            for chunk in self._source.chunks(types, rows, start, lenient):
                writer = writer or pa.ipc.new_file(path, chunk.rows.schema)
                writer.write_batch(chunk.rows)
                others.append(replace(chunk, rows=chunk.rows.slice(0, 0)))
            self._source.close()
            if writer is None:
                return
            writer.close()
            with open_arrow(path) as (_, batches):
                for chunk, batch in zip(others, batches, strict=True):
                    yield replace(chunk, rows=batch)

    def stop(self) -> None:
        """Stop the source."""
        self._source.stop()

    def close(self) -> None:
        """Close the source."""
        self._source.close()
