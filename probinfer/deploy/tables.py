"""Tables in and out in pieces: CSV and Parquet, memory bounded whatever their length. Knows no models."""

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from probinfer.errors import DataError

SUFFIXES = (".csv", ".parquet")
_CSV_BLOCK = 4 * 2**20  # bytes read and parsed at a time


def table_format(path: Path) -> str:
    """The format that a path's ending names. Raises DataError for one that cannot be read or written here."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} ends in {path.suffix or 'nothing'}; wanted {' or '.join(SUFFIXES)}.")
    return suffix


def column_names(path: Path) -> list[str]:
    """Names of a table's columns, read without its rows. Raises DataError for a file that is no such table."""
    with _read_errors(path):
        if table_format(path) == ".parquet":
            return pyarrow.parquet.read_schema(path).names
        with pyarrow.csv.open_csv(path, read_options=pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK)) as reader:
            return reader.schema.names


def read_chunks(path: Path, types: Mapping[str, pa.DataType | None], rows: int) -> Iterator[pa.RecordBatch]:
    """The columns named in `types`, as record batches of at most `rows` rows.

    A CSV file's columns are read as the types given, not as what its first rows look like; None leaves it to the file.
    Raises DataError for cells that are not of the type.
    """
    columns = list(types)
    with _read_errors(path):
        if table_format(path) == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=rows, columns=columns)
            return
        options = pyarrow.csv.ConvertOptions(
            column_types={n: t for n, t in types.items() if t},
            include_columns=columns,
            strings_can_be_null=pa.string() in types.values(),  # labels: an empty cell is a missing one
        )
        blocks = pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK)
        with pyarrow.csv.open_csv(path, read_options=blocks, convert_options=options) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)


class Output:
    """A table written piece by piece under the name `<path>.partial`, which becomes `path` only once it is complete.

    So a full disk, a crash or Ctrl-C leaves what was there before, and never a file that looks finished.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self._format = table_format(path)
        self._metadata = dict(metadata)
        self._file: Any = None
        self._writer: Any = None

    def __enter__(self) -> "Output":
        self._file = open(self.partial, "wb")
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows; the first piece decides the columns."""
        if self._writer is None:
            if self._format == ".parquet":
                schema = table.schema.with_metadata(self._metadata)
                self._writer = pyarrow.parquet.ParquetWriter(self._file, schema)
            else:
                self._writer = pyarrow.csv.CSVWriter(self._file, table.schema)
        self._writer.write_table(table)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                if self._writer is not None:
                    self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
            else:
                with contextlib.suppress(Exception):  # the error that brought us here is the one to tell
                    if self._writer is not None:
                        self._writer.close()
        except BaseException:
            self._discard()
            raise
        if kind is not None:
            self._discard()
            return
        self._file.close()
        os.replace(self.partial, self.path)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self.partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _read_errors(path: Path) -> Generator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as the table it should be: {first}") from None
