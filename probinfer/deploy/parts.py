"""A table written in parts, each safe once committed: a run that was killed goes on after the last. Knows no models.

While the run goes on, the parts are in a folder beside the output, with a journal. A part is written under a temporary
name, flushed to the disk, renamed, and then entered in the journal; what is not entered does not count, and is removed.
"""

import base64
import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from probinfer.deploy.chunk import Position
from probinfer.deploy.outputs import check_format, write_table
from probinfer.deploy.part_file import PartFile
from probinfer.deploy.tables import SUFFIXES, open_arrow, written_format
from probinfer.errors import DataError
from probinfer.files import sync_folder
from probinfer.inference.checkpoint import Journal

_JOURNAL = "_journal"


class Parts:
    """A folder of parts as the output, or a file that is joined from them at the end.

    Args:
        path: the output.
        folder: whether it is a folder, whose parts have the format of its name's ending, Parquet if it has none.
        asked: what the run is of, ready for JSON; parts of another run are refused.
        lasting: keep what is committed when the run fails, and go on from what an earlier run committed.
        by: columns whose values name subfolders, of a folder.
    """

    typed = True

    def __init__(
        self,
        path: Path,
        *,
        folder: bool,
        asked: Mapping[str, Any],
        lasting: bool,
        metadata: Mapping[str, str],
        by: Sequence[str] = (),
    ) -> None:
        self.path = self.label = path
        self.lasting = lasting
        self.schema: pa.Schema | None = None
        self.work = path.with_name(path.name + ".parts")
        self._folder, self._asked, self._metadata, self._by = folder, asked, dict(metadata), by
        self._suffix = SUFFIXES.get(path.suffix.lower(), ".parquet") if folder else ".arrow"
        self._joined = None if folder else written_format(path)
        self._position = Position()
        self._entered: list[str] = []
        self._file: PartFile | None = None

    def open(self) -> Position:
        """Make the folder, or go on in the one that is there."""
        if self._folder and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise DataError(f"{self.path} is there already; remove it, or write to another folder.")
        if not self.lasting:
            shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(exist_ok=True)
        self._journal = Journal(self.work / _JOURNAL, self._asked)
        try:
            for record in self._journal.records:
                entry = json.loads(record)
                self._position = Position(**entry["position"])
                self._entered += entry["files"]
                if "schema" in entry:
                    self.schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(entry["schema"])))
            self._remove_what_is_not_entered()
        except BaseException:
            self._journal.close()
            raise
        return self._position

    def _remove_what_is_not_entered(self) -> None:
        entered = {self.work / name for name in self._entered}
        for path in self.work.rglob("part-*"):
            if path not in entered:
                path.unlink()
        gone = sorted(str(path.relative_to(self.work)) for path in entered if not path.exists())
        if gone:
            raise DataError(
                f"{self.work} lacks {gone[0]}, which an earlier run wrote; remove the folder to begin anew."
            )

    def _part(self, number: int) -> str:
        return f"part-{number:06d}{self._suffix}"

    def write(self, table: pa.Table) -> None:
        """Append rows to the part being written."""
        if self._file is None:
            name = self._part(self._position.parts)
            self._file = PartFile(self.work, name, self._suffix, self._by, self._metadata)
            if self.schema is None:
                self.schema = table.schema
                if self._joined is not None:  # else it would be noticed once all is predicted
                    check_format(table.schema, self._joined)
        self._file.write(table)

    def commit(self, position: Position) -> None:
        """Enter the part, if there is one, and the position."""
        parts, names = self._position.parts, []
        if self._file is not None:
            names = self._file.commit()
            self._file, parts = None, parts + 1
        self._entered += names
        self._position = dataclasses.replace(position, parts=parts)
        entry: dict[str, Any] = {"position": dataclasses.asdict(self._position), "files": names}
        if parts == 1 and self.schema is not None:
            entry["schema"] = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        self._journal.append(json.dumps(entry).encode())

    def finish(self, position: Position) -> None:
        """Commit the last part, and have the folder, or the file joined from the parts, appear."""
        self.commit(position)
        if self._joined is not None:
            joined = self.work / "joined.partial"
            write_table(joined, self._joined, self._tables(), self._metadata)
            os.replace(joined, self.path)
            sync_folder(self.path.absolute().parent)
            self._journal.close()
            (self.work / _JOURNAL).unlink()  # first: killed in the midst, the next run would miss the parts it names
            shutil.rmtree(self.work)
            return
        self._journal.close()
        if self.path.exists():
            self.path.rmdir()  # it is empty: seen when the run began
        os.rename(self.work, self.path)
        (self.path / _JOURNAL).unlink()
        sync_folder(self.path.absolute().parent)

    def _tables(self) -> Iterator[pa.Table]:
        for name in self._entered:
            with open_arrow(self.work / name) as (_, batches):
                yield from (pa.Table.from_batches([batch]) for batch in batches)

    def abandon(self) -> None:
        """Remove the part being written; all of them, if they are not to last."""
        try:
            if self._file is not None:
                self._file.abandon()
        finally:  # Ctrl-C may come again meanwhile
            with contextlib.suppress(OSError):
                self._journal.close()
            if not self.lasting:
                shutil.rmtree(self.work, ignore_errors=True)
