"""Databases behind one contract: PostgreSQL and SQLite through ADBC, DuckDB through its own client, rows as Arrow.

Drivers are imported where they are used; each needs the extra `sql`.
"""

import _thread
import contextlib
import importlib
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa

from probinfer.deploy.chunk import uuids_as_text
from probinfer.errors import DataError, MissingExtra

_SCHEME = re.compile(r"([a-z][a-z0-9+]*)://")
_BATCH_BYTES = 4 * 2**20  # that PostgreSQL's driver gathers before it hands them over
# what a driver says without a code of what is the query's or table's fault, and of what may go well at another time
_OF_QUERY = re.compile(r"Type mismatch|not implemented|PGRES_FATAL_ERROR\]?:? ERROR:")
_AGAIN = re.compile(r"FATAL:|No space left|could not extend|out of memory|too many connections|canceling|deadlock")
_QUERY_STATES = ("0A", "22", "23", "2B", "42", "44")  # classes of SQLSTATE
_BUSY_MS = 30_000  # for which SQLite waits for another process to let go of the file


def scheme_of(text: str) -> str | None:
    """`postgresql` of `postgresql://…`; None for a path."""
    match = _SCHEME.match(text)
    return match[1] if match else None


@dataclass(frozen=True)
class Address:
    """A database's URL: `postgresql://user@host/name`, `sqlite:///file.db`, `duckdb:///file.duckdb`, `duckdb://`.

    As with SQLAlchemy, a file's path stands after the third slash: `sqlite:///here.db`, `sqlite:////from/root.db`.
    """

    url: str

    def __post_init__(self) -> None:
        if self.scheme not in ("postgresql", "sqlite", "duckdb"):
            raise DataError(
                f"{self.shown} is a URL of {self.scheme!r}; wanted postgresql://…, sqlite:///FILE or duckdb:///FILE."
            )
        if self.scheme == "sqlite" and not self.file:
            raise DataError(f"{self.shown} names no file; wanted sqlite:///FILE, or sqlite:////FILE from the root.")

    @property
    def scheme(self) -> str:
        """Which database."""
        scheme = scheme_of(self.url)
        return "postgresql" if scheme == "postgres" else str(scheme)

    @property
    def file(self) -> str | None:
        """Path of an embedded database's file; None for a server, or DuckDB in memory."""
        if self.scheme == "postgresql":
            return None
        rest = self.url.partition("://")[2]
        if rest and not rest.startswith("/"):
            raise DataError(f"{self.url}: the path of a file comes after the third slash: {self.scheme}:///{rest}.")
        return rest[1:] or None

    @property
    def shown(self) -> str:
        """The URL without its password."""
        parts = urlsplit(self.url)
        if parts.password is None:
            return re.sub(r"(password=)[^&]*", r"\1***", self.url)
        place = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{place}"))

    def hide(self, text: str) -> str:
        """`text` without the password."""
        secret = urlsplit(self.url).password
        for word in {secret, unquote(secret)} if secret else ():
            text = text.replace(word, "***")
        return text.replace(self.url, self.shown)


def quoted(name: str) -> str:
    """An SQL identifier; a dot separates schema and table."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(name: str) -> str:
    """A table's name, perhaps with its schema: `scores` or `daily.scores`."""
    return ".".join(quoted(part) for part in name.split("."))


class Database(Protocol):
    """One connection, always in a transaction."""

    address: Address

    def mark(self, place: int, kind: str | None = None) -> str:
        """How a query marks its parameter number `place`, from 1, of the SQL type `kind`."""
        ...

    def read(self, query: str, parameters: Sequence[Any] = (), rows: int = 16_384) -> Iterator[pa.RecordBatch]:
        """The rows of a query, as they come from the server."""
        ...

    def schema(self, query: str) -> pa.Schema:
        """The columns of a query."""
        ...

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; its rows, if it has any."""
        ...

    def has_table(self, name: str) -> bool:
        """Whether there is such a table."""
        ...

    def append(self, name: str, rows: pa.Table, create: bool) -> None:
        """Insert rows into a table, made first if `create`."""
        ...

    def commit(self) -> None:
        """End the transaction, and begin the next."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, and begin the next."""
        ...

    def stop(self) -> None:
        """Give up the query that another thread is reading, if there is one."""
        ...

    def close(self) -> None:
        """Undo the transaction, and let go of the connection."""
        ...


def connect(address: Address) -> Database:
    """Open a connection. Raises MissingExtra without the driver, ConnectionError if the database does not answer."""
    return _Duck(address) if address.scheme == "duckdb" else _Adbc(address)


def driver(module: str) -> Any:
    """A driver's module. Raises MissingExtra without it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"This needs {module.partition('.')[0]}, which is not installed: pip install 'probinfer[sql]'."
        ) from error


class _Adbc:
    """PostgreSQL or SQLite through ADBC."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._reading: Any = None
        self._sqlite = address.scheme == "sqlite"
        module = driver(f"adbc_driver_{address.scheme}.dbapi")
        self._errors = driver("adbc_driver_manager.dbapi")
        with self._said():
            self._connection = module.connect(address.file if self._sqlite else address.url)
        if self._sqlite:
            self.run(f"PRAGMA busy_timeout={_BUSY_MS}")

    @contextlib.contextmanager
    def _said(self) -> Generator[None]:
        """The driver's errors as ours: what the server says of a query is DataError, a server that is gone, or that has
        no more room, ConnectionError."""
        manager = self._errors
        try:
            yield
        except (manager.OperationalError, manager.InternalError, OSError) as error:
            text, state = f"{self.address.shown}: {self.address.hide(_first(error))}", getattr(error, "sqlstate", None)
            of_query = _OF_QUERY.search(text) is not None and _AGAIN.search(text) is None
            if of_query or (state is not None and state[:2] in _QUERY_STATES):
                raise DataError(text) from None
            raise ConnectionError(text) from None
        except manager.Error as error:
            raise DataError(f"{self.address.shown}: {self.address.hide(_first(error))}") from None

    def mark(self, place: int, kind: str | None = None) -> str:
        if self._sqlite:
            return "?"
        return f"CAST(${place} AS {kind})" if kind else f"${place}"

    def read(self, query: str, parameters: Sequence[Any] = (), rows: int = 16_384) -> Iterator[pa.RecordBatch]:
        options = (
            {"adbc.sqlite.query.batch_rows": rows}
            if self._sqlite
            else {"adbc.postgresql.batch_size_hint_bytes": _BATCH_BYTES}
        )
        with self._said(), self._connection.cursor(adbc_stmt_kwargs=options) as cursor:
            self._reading = cursor
            try:
                cursor.execute(query, tuple(parameters) or None)
                with cursor.fetch_record_batch() as reader:
                    yield from reader
            finally:
                self._reading = None

    def schema(self, query: str) -> pa.Schema:
        with self._said(), self._connection.cursor() as cursor:
            _apart(cursor, lambda: cursor.execute(query))
            with cursor.fetch_record_batch() as reader:
                return reader.schema

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        def rows() -> list[tuple[Any, ...]]:
            cursor.execute(statement, tuple(parameters) or None)
            return cursor.fetchall() if cursor.description else []

        with self._said(), self._connection.cursor() as cursor:
            return _apart(cursor, rows)

    def has_table(self, name: str) -> bool:
        if self._sqlite:
            return bool(self.run("SELECT 1 FROM sqlite_master WHERE name = ?", [name]))
        return bool(self.run("SELECT to_regclass($1) IS NOT NULL", [quoted_table(name)])[0][0])

    def append(self, name: str, rows: pa.Table, create: bool) -> None:
        schema, _, table = name.rpartition(".")
        options = {"db_schema_name": schema} if schema else {}
        rows = uuids_as_text(rows) if self._sqlite else rows
        try:
            with self._said(), self._connection.cursor() as cursor:
                mode = "create" if create else "append"
                _apart(cursor, lambda: cursor.adbc_ingest(table, rows, mode=mode, **options))
        except DataError as error:
            if create:
                raise
            raise DataError(f"{error} {_wanted(name, rows.schema)}") from None

    def commit(self) -> None:
        with self._said():
            self._connection.commit()

    def rollback(self) -> None:
        with self._said():
            self._connection.rollback()

    def stop(self) -> None:
        cursor = self._reading
        with contextlib.suppress(DataError, OSError), self._said():
            if cursor is not None:
                cursor.adbc_cancel()

    def close(self) -> None:
        with self._said():
            try:
                self._connection.close()
            except RuntimeError:  # Ctrl-C came between the making of a cursor and its use: it is open, and stays so
                self._connection.rollback()


def _apart[T](cursor: Any, work: Callable[[], T]) -> T:
    """`work` with a cursor, in a thread. In the main one ADBC puts a handler in the place of Python's, by which Ctrl-C
    is lost or an error of the database; here it has the work given up, or waits for it where the driver cannot."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[T] = []
    errors: list[BaseException] = []
    done: queue.SimpleQueue[None] = queue.SimpleQueue()  # no lock of it is left taken by Ctrl-C

    def worked() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        for _ in range(2):  # Ctrl-C may come when the first is taken
            done.put(None)

    try:
        _thread.start_new_thread(worked, ())  # `Thread.start` waits, and may leave a lock taken
        done.get()
    except BaseException:
        with contextlib.suppress(Exception):
            cursor.adbc_cancel()
        done.get()
        raise
    if errors:
        raise errors[0]
    return results[0]


class _Duck:
    """DuckDB, in a file or in memory."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._duckdb = driver("duckdb")
        with self._said():
            self.connection = self._duckdb.connect(address.file or ":memory:")
            self.connection.begin()

    @contextlib.contextmanager
    def _said(self) -> Generator[None]:
        try:
            yield
        except (self._duckdb.IOException, self._duckdb.ConnectionException) as error:
            raise ConnectionError(f"{self.address.shown}: {_first(error)}") from None
        except self._duckdb.Error as error:
            raise DataError(f"{self.address.shown}: {_first(error)}") from None
        except RuntimeError as error:
            if str(error) != "Query interrupted":
                raise
            raise KeyboardInterrupt from None  # DuckDB looks for signals while it works, and puts this in their place

    def mark(self, place: int, kind: str | None = None) -> str:
        return "?"

    def read(self, query: str, parameters: Sequence[Any] = (), rows: int = 16_384) -> Iterator[pa.RecordBatch]:
        with self._said():
            relation = self.connection.sql(query, params=list(parameters) or None)
            if relation is None:
                raise DataError(f"The query has no rows to read, it is no SELECT: {query}")
            with relation.to_arrow_reader(rows) as reader:
                yield from reader

    def schema(self, query: str) -> pa.Schema:
        with self._said():
            relation = self.connection.sql(query)
            if relation is None:
                raise DataError(f"The query has no rows to read, it is no SELECT: {query}")
            with relation.to_arrow_reader(1) as reader:
                return reader.schema

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._said():
            return self.connection.execute(statement, list(parameters)).fetchall()

    def has_table(self, name: str) -> bool:
        schema, _, table = name.rpartition(".")
        where = "table_schema = ?" if schema else "table_schema = current_schema()"
        query = f"SELECT 1 FROM information_schema.tables WHERE table_name = ? AND {where}"
        return bool(self.run(query, [table, schema] if schema else [table]))

    def append(self, name: str, rows: pa.Table, create: bool) -> None:
        with self._said():
            self.connection.register("probinfer_rows", rows)
            begin = f"CREATE TABLE {quoted_table(name)} AS" if create else f"INSERT INTO {quoted_table(name)} BY NAME"
            self.connection.execute(f"{begin} SELECT * FROM probinfer_rows")
            self.connection.unregister("probinfer_rows")

    def offer(self, name: str, rows: Any) -> None:
        """Have queries read an Arrow dataset by this name, where it lies."""
        with self._said():
            self.connection.register(name, rows)

    def commit(self) -> None:
        with self._said():
            self.connection.commit()
            self.connection.begin()

    def rollback(self) -> None:
        with self._said():
            self.connection.rollback()
            self.connection.begin()

    def stop(self) -> None:
        self.connection.interrupt()

    def close(self) -> None:
        self.connection.close()


def _wanted(name: str, schema: pa.Schema) -> str:
    listed = ", ".join(f"{field.name} {str(field.type).removeprefix('extension<arrow.')}" for field in schema)
    return f"To add to the table {name} it has to have the columns {listed.replace('>', '')}, of these types."


def _first(error: BaseException) -> str:
    """A driver's message in a line, without the query that it repeats."""
    text = re.split(r"\n\s*(?:Query was|query):", str(error))[0]
    return " ".join(text.split())
