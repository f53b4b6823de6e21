"""One part of a table, on disk: a file, or a file in each subfolder `column=value` that its rows belong to. Knows no
models.

Everything is written under temporary names, flushed to the disk, and renamed by `commit`; until then it does not count.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from probinfer.deploy.outputs import Writer, close_safely
from probinfer.deploy.sources import NO_VALUE
from probinfer.errors import DataError
from probinfer.files import sync_folder

_MOST = 500  # folders in one part: each has a file open


class PartFile:
    """A part being written.

    Args:
        folder: where it goes.
        name: of the file, the same in every subfolder.
        by: columns whose values name the subfolders, as Hive and Spark do; the files are without them.
    """

    def __init__(self, folder: Path, name: str, suffix: str, by: Sequence[str], metadata: Mapping[str, str]) -> None:
        self._folder, self._name, self._suffix, self._by, self._metadata = folder, name, suffix, list(by), metadata
        self._open: dict[str, tuple[Any, Writer]] = {}

    def write(self, table: pa.Table) -> None:
        """Append rows. Raises DataError for a column with too many values."""
        if not self._by:
            self._writer("").write(table)
            return
        places = pa.array(range(table.num_rows), pa.int64())
        keys = table.select(self._by).append_column("", [places])
        for group in keys.group_by(self._by, use_threads=False).aggregate([("", "list")]).to_pylist():
            rows = table.take(pa.array(group["_list"], pa.int64())).drop_columns(self._by)
            self._writer("/".join(f"{quote(name)}={_value(group[name])}" for name in self._by)).write(rows)

    def _writer(self, place: str) -> Writer:
        if place not in self._open:
            if len(self._open) == _MOST:
                raise DataError(
                    f"{', '.join(self._by)} has more than {_MOST} values among the rows of one part; partition by "
                    "columns with few values, such as a region or a day."
                )
            folder = self._folder / place
            folder.mkdir(parents=True, exist_ok=True)
            file = open(folder / f"{self._name}.partial", "wb")
            self._open[place] = (file, Writer(file, self._suffix, self._metadata))
        return self._open[place][1]

    def commit(self) -> list[str]:
        """Have it on the disk under its names: paths below the folder."""
        names = []
        for place, (file, writer) in self._open.items():
            writer.close()
            close_safely(file)
            os.replace(self._folder / place / f"{self._name}.partial", self._folder / place / self._name)
            sync_folder(self._folder / place)
            names.append(f"{place}/{self._name}" if place else self._name)
        self._open = {}
        if self._by:
            sync_folder(self._folder)
        return names

    def abandon(self) -> None:
        """Remove what there is."""
        for place, (file, writer) in self._open.items():
            try:
                with contextlib.suppress(Exception):  # the error that brought us here is the one to tell
                    writer.close()
            finally:  # Ctrl-C may come again meanwhile
                with contextlib.suppress(OSError):
                    file.close()
                (self._folder / place / f"{self._name}.partial").unlink(missing_ok=True)
        self._open = {}


def _value(value: Any) -> str:
    """A value as the name of a folder."""
    if value is None:
        return NO_VALUE
    return quote(str(value), safe=" ") or NO_VALUE
