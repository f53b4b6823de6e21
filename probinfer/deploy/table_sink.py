"""A database's table as where predictions go: all of them or none, or in parts that a killed run goes on after.

A run that is to last keeps its position in the table `probinfer_progress` of the same database, changed in the same
transaction as the rows that it counts. So rows and position are always those of one moment.
"""

import contextlib
import dataclasses
import enum
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from probinfer.deploy.chunk import Position
from probinfer.deploy.database import Address, Database, connect, quoted_table
from probinfer.errors import DataError

PROGRESS = "probinfer_progress"


class IfExists(enum.Enum):
    """What to do with a table that is there already: refuse, add rows to it, or put the new one in its place."""

    FAIL = "fail"
    APPEND = "append"
    REPLACE = "replace"


class TableSink:
    """A table of a database.

    Args:
        address: the database.
        table: its name, perhaps with its schema: `scores` or `daily.scores`.
        if_exists: what to do with a table that is there already.
        asked: what the run is of, ready for JSON.
        lasting: commit in parts, and go on from what an earlier run of the same has committed. Else one transaction.
    """

    def __init__(
        self, address: Address, table: str, *, if_exists: IfExists, asked: Mapping[str, Any], lasting: bool
    ) -> None:
        self.label = f"{table} of {address.shown}"
        self.lasting, self.schema, self.typed = lasting, None, True
        self._address, self._table, self._if_exists = address, table, if_exists
        content = json.dumps({**asked, "table": table}, sort_keys=True, default=str)
        self._run, self._owner = hashlib.sha256(content.encode()).hexdigest(), uuid.uuid4().hex
        self._database: Database | None = None

    @property
    def _open(self) -> Database:
        if self._database is None:
            self._database = connect(self._address)
        return self._database

    def open(self) -> Position:
        """Begin, or go on from the position in the database. Raises DataError for a table that should not be there."""
        try:
            return self._begin()
        except BaseException:
            self.abandon()
            raise

    def _begin(self) -> Position:
        database = self._open
        found = self._take_over() if self.lasting else None
        self._create = not database.has_table(self._table)
        if found is not None:
            return found
        if not self._create and self._if_exists is IfExists.FAIL:
            raise DataError(
                f"{self.label} is there already; name another table, or say whether to add to it or to replace it "
                "(--if-exists append, --if-exists replace)."
            )
        if not self._create and self._if_exists is IfExists.REPLACE:
            database.run(f"DROP TABLE {quoted_table(self._table)}")
            self._create = True
        return Position()

    def _take_over(self) -> Position | None:
        """Where an earlier run had got to, which from now on cannot commit; None if there was none."""
        database = self._open
        if not database.has_table(PROGRESS):
            database.run(f"CREATE TABLE {PROGRESS} (run TEXT PRIMARY KEY, owner TEXT NOT NULL, position TEXT NOT NULL)")
            database.commit()
        database.run(
            f"UPDATE {PROGRESS} SET owner = {database.mark(1)} WHERE run = {database.mark(2)}", [self._owner, self._run]
        )
        rows = database.run(f"SELECT position FROM {PROGRESS} WHERE run = {database.mark(1)}", [self._run])
        database.commit()
        self._begun = bool(rows)
        return Position(**json.loads(rows[0][0])) if rows else None

    def write(self, table: pa.Table) -> None:
        """Insert rows."""
        self._open.append(self._table, table, self._create)
        self._create = False

    def commit(self, position: Position) -> None:
        """Commit rows and position together. Raises DataError if another process runs the same job."""
        database = self._open
        content = json.dumps(dataclasses.asdict(position))
        if self._begun:
            database.run(
                f"UPDATE {PROGRESS} SET position = {database.mark(1)} "
                f"WHERE run = {database.mark(2)} AND owner = {database.mark(3)}",
                [content, self._run, self._owner],
            )
        else:
            database.run(
                f"INSERT INTO {PROGRESS} VALUES ({', '.join(map(database.mark, (1, 2, 3)))})",
                [self._run, self._owner, content],
            )
            self._begun = True
        self._refuse_if_taken_over()
        database.commit()

    def _refuse_if_taken_over(self) -> None:
        """Raises DataError if the run is another process's. Comes after a change of the row, which nobody else can
        change until this transaction ends."""
        database = self._open
        rows = database.run(f"SELECT owner FROM {PROGRESS} WHERE run = {database.mark(1)}", [self._run])
        if rows != [(self._owner,)]:
            raise DataError(f"Another process has taken over this run into {self.label}, and goes on with it.")

    def finish(self, position: Position) -> None:
        """Commit the last rows; the position is no longer needed."""
        database = self._open
        if self.lasting:
            if self._begun:
                mine = (
                    f"UPDATE {PROGRESS} SET owner = owner WHERE run = {database.mark(1)} AND owner = {database.mark(2)}"
                )
                database.run(mine, [self._run, self._owner])
                self._refuse_if_taken_over()
            database.run(
                f"DELETE FROM {PROGRESS} WHERE run = {database.mark(1)} AND owner = {database.mark(2)}",
                [self._run, self._owner],
            )
        database.commit()
        database.close()

    def abandon(self) -> None:
        """Undo what is not committed."""
        with contextlib.suppress(DataError, OSError):
            if self._database is not None:
                self._database.close()
