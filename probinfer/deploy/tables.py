"""Tables read in pieces, memory bounded whatever their length: CSV, Parquet, Arrow IPC, JSON lines. Knows no models."""

import codecs
import contextlib
import gzip
import itertools
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from probinfer.deploy.chunk import Chunk, Fault, in_pieces
from probinfer.deploy.csv_types import csv_types
from probinfer.deploy.jsonlines import lines_of, read_record, to_chunk
from probinfer.errors import DataError

type Types = Mapping[str, pa.DataType | None]

SUFFIXES = {
    ".csv": ".csv",
    ".parquet": ".parquet",
    ".arrow": ".arrow",
    ".feather": ".arrow",
    ".ipc": ".arrow",
    ".jsonl": ".jsonl",
    ".ndjson": ".jsonl",
}
_COMPRESSED = ".gz"  # after the ending of text
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_BLOCK = 4 * 2**20  # bytes of text read and parsed at a time
_SAMPLE = 2**20  # bytes of text from which the number of its rows is estimated


def known_format(path: Path) -> str | None:
    """The format that a path's ending names, `.csv.gz` and the like too; None for one that cannot be read here."""
    if not is_compressed(path):
        return SUFFIXES.get(path.suffix.lower())
    inner = SUFFIXES.get(path.with_suffix("").suffix.lower())
    return inner if inner in (".csv", ".jsonl") else None


def is_compressed(path: Path) -> bool:
    """Whether the path's ending says that it is compressed by gzip."""
    return path.suffix.lower() == _COMPRESSED


def table_format(path: Path) -> str:
    """The format that a path's ending names. Raises DataError for one that cannot be read here."""
    found = known_format(path)
    if found is None:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}; wanted .csv or .parquet, .arrow (.feather, .ipc) or "
            ".jsonl (.ndjson), to be read also .csv.gz or .jsonl.gz; the name of a folder to write ends in a slash."
        )
    return found


def written_format(path: Path) -> str:
    """As `table_format`, of a file to be written. Raises DataError for compressed text."""
    found = table_format(path)
    if is_compressed(path):
        raise DataError(
            f"{path} would be compressed text, which is read here and not written; wanted .parquet, which is "
            f"compressed, or {path.with_suffix('')} and gzip afterwards."
        )
    return found


def _open(path: Path) -> Any:
    """A file of text as bytes, decompressed."""
    return gzip.open(path) if is_compressed(path) else open(path, "rb")


def column_names(path: Path) -> list[str] | None:
    """Names of a table's columns, read without its rows; None for JSON lines of which there are none. Raises DataError
    for a file that is no such table."""
    kind = table_format(path)
    with _read_errors(path):
        if kind == ".parquet":
            return pyarrow.parquet.read_schema(path).names
        if kind == ".arrow":
            with open_arrow(path) as (schema, _):
                return schema.names
        if kind == ".csv":
            blocks = pyarrow.csv.ReadOptions(block_size=_BLOCK)
            skip = {"invalid_row_handler": lambda row: "skip"}  # only the names matter here
            any_row = pyarrow.csv.ParseOptions(newlines_in_values=True, **skip)
            with pyarrow.csv.open_csv(path, read_options=blocks, parse_options=any_row) as reader:
                names = reader.schema.names
            _refuse_other_separators(path, names)
            return names
        with _open(path) as file:
            return names_of(lines_of(_blocks(file)))


def names_of(blocks: Iterable[list[bytes]]) -> list[str] | None:
    """The names in the first block of lines that holds records, whichever of them has one; None if there is no line.

    Raises DataError where lines came, and no record.
    """
    reason, found = None, None
    for lines in blocks:
        names: dict[str, None] = {}
        for line in lines:
            if not line.strip():
                continue
            record = read_record(line)
            if isinstance(record, str):
                reason = reason or record
            else:
                names |= dict.fromkeys(record)
                found = list(names)
        if names:
            return found
    if reason is not None and found is None:
        raise DataError(f"No line is a record: in the first, {reason}. Wanted are lines that hold one object each.")
    return found


def about_rows(path: Path) -> int | None:
    """How many rows a table has: exactly where the file says so, else estimated from its beginning."""
    kind, size = table_format(path), path.stat().st_size
    with _read_errors(path):
        if kind == ".parquet":
            return pyarrow.parquet.read_metadata(path).num_rows
        if kind == ".arrow":
            return None
        with open(path, "rb") as raw, gzip.open(raw) if is_compressed(path) else contextlib.nullcontext(raw) as file:
            lines = file.read(_SAMPLE).count(b"\n")
            read = raw.tell()
    return round(size / read * lines) if lines else None


def read_chunks(
    path: Path, types: Types, rows: int, *, skip: int = 0, lenient: bool = False, own: Types | None = None
) -> Iterator[Chunk]:
    """The columns named in `types`, as chunks of at most `rows` records, after the first `skip` records.

    A CSV file's columns are read as the types given, not as what its first rows look like; None leaves it to the file,
    or to `own`, the types of such columns where they are known of several files.
    lenient: records that cannot be read are faults of their chunk. Else they raise DataError, as does a file that is no
    table.
    """
    kind = table_format(path)
    with _read_errors(path):
        if kind == ".csv":
            read = _csv_lenient if lenient else _csv_rows
            yield from read(path, types, rows, skip, own if own is not None else csv_types([path], _free(types)))
        elif kind == ".jsonl":
            yield from _json_lines(path, types, rows, skip, lenient)
        else:
            yield from (_parquet if kind == ".parquet" else _arrow)(path, types, rows, skip)


def types_of_all(files: Sequence[Path], types: Types) -> Types | None:
    """What a folder's files hold in the columns whose type is left to them, where a file alone would not tell."""
    return csv_types(files, _free(types)) if table_format(files[0]) == ".csv" else None


def _free(types: Types) -> list[str]:
    return [name for name, kind in types.items() if kind is None]


def _parquet(path: Path, types: Types, rows: int, skip: int) -> Iterator[Chunk]:
    # what is buffered in advance would be kept until the end of the file
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        group, first = 0, 0
        while group < file.num_row_groups and first + file.metadata.row_group(group).num_rows <= skip:
            first += file.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, file.num_row_groups))
        batches = file.iter_batches(batch_size=rows, row_groups=groups, columns=list(types)) if groups else iter(())
        yield from _without_first(batches, first, skip)
        if types and not file.metadata.num_rows:
            yield _none(file.schema_arrow, types)


def _none(schema: pa.Schema, types: Types) -> Chunk:
    """No rows, of a table that says what its columns are nevertheless."""
    return Chunk(0, pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in types])))


def _without_first(batches: Iterable[pa.RecordBatch], first: int, skip: int) -> Iterator[Chunk]:
    """Batches of which the first begins at row `first`, without the rows before `skip`."""
    for batch in batches:
        begin = max(0, min(skip - first, batch.num_rows))
        if begin < batch.num_rows:
            yield Chunk(first + begin, batch.slice(begin))
        first += batch.num_rows


@contextlib.contextmanager
def open_arrow(path: Path) -> Generator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Schema and batches of an Arrow IPC file, or of an IPC stream under the same ending."""
    with pa.memory_map(str(path)) if path.stat().st_size else open(path, "rb") as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            with pa.ipc.open_file(file) as reader:
                yield reader.schema, (reader.get_batch(place) for place in range(reader.num_record_batches))
        else:
            with pa.ipc.open_stream(file) as reader:
                yield reader.schema, iter(reader)


def _arrow(path: Path, types: Types, rows: int, skip: int) -> Iterator[Chunk]:
    with open_arrow(path) as (schema, batches):
        pieces = (piece for batch in batches for piece in in_pieces(batch.select(list(types)), rows))
        first = next(pieces, None)
        if first is not None:
            yield from _without_first(itertools.chain([first], pieces), 0, skip)
        elif types:
            yield _none(schema, types)


def _csv_options(types: Types, text: bool, own: Types) -> pyarrow.csv.ConvertOptions:
    wanted = {name: pa.string() if text else kind for name, kind in types.items() if kind and not _is_list(kind)}
    labels = text or pa.string() in types.values()  # of which an empty cell is a missing one
    wanted = {**own, **wanted}
    return pyarrow.csv.ConvertOptions(column_types=wanted, include_columns=list(types), strings_can_be_null=labels)


def _is_list(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.ListType)


def _csv_rows(path: Path, types: Types, rows: int, skip: int, own: Types) -> Iterator[Chunk]:
    """Rows with the columns as numbers, as fast as they can be read; from where that fails on, number by number, which
    takes 2.0 for the whole number that it is, and names the row of what is none."""
    blocks = pyarrow.csv.ReadOptions(block_size=_BLOCK)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)  # else a block may end within a quoted cell
    convert = _csv_options(types, False, own)
    passed = 0
    try:
        with pyarrow.csv.open_csv(path, read_options=blocks, parse_options=parse, convert_options=convert) as reader:
            _refuse_bytes(path, reader.schema)
            for chunk in _without_first((piece for batch in reader for piece in in_pieces(batch, rows)), 0, skip):
                yield chunk
                passed = chunk.first + chunk.count
    except pa.ArrowInvalid as error:
        if "CSV" not in str(error) or "Empty CSV" in str(error):
            raise
        for chunk in _csv_lenient(path, types, rows, max(skip, passed), own):
            if chunk.faults:
                raise DataError(f"{path}: {chunk.faults[0].reason}") from None
            yield chunk


def _csv_lenient(path: Path, types: Types, rows: int, skip: int, own: Types) -> Iterator[Chunk]:
    """As `_csv_rows`, with the numbers still as text, and lines with too few or too many cells as faults."""
    seen: deque[Fault] = deque()

    def too_long(row: Any) -> str:
        place = row.number - 2  # the reader counts from 1, the line of names included
        reason = f"Row {place} (the first row is row 0) has {row.actual_columns} cells; wanted {row.expected_columns}."
        seen.append(Fault(place, reason, row.text))
        return "skip"

    blocks = pyarrow.csv.ReadOptions(block_size=_BLOCK, use_threads=False)  # with threads lines have no numbers
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=too_long)
    first = 0
    with pyarrow.csv.open_csv(
        path, read_options=blocks, parse_options=parse, convert_options=_csv_options(types, True, own)
    ) as reader:
        _refuse_bytes(path, reader.schema)
        for batch in reader:
            # The reader may have parsed blocks ahead of this batch: their faults wait for the batches they stand in.
            faults: list[Fault] = []
            while seen and seen[0].row < first + batch.num_rows + len(faults):
                faults.append(seen.popleft())
            whole = Chunk(first, batch, tuple(faults), text=True)
            first += whole.count
            yield from cut(whole, rows, skip)
        none = pa.RecordBatch.from_pylist([], reader.schema)
    if seen:
        yield from cut(Chunk(first, none, tuple(seen), text=True), rows, skip)


def cut(whole: Chunk, rows: int, skip: int) -> Iterator[Chunk]:
    """A chunk in chunks of at most `rows` records, without those before `skip`."""
    numbers = whole.numbers
    begin = max(whole.first, skip)
    while begin < whole.first + whole.count:
        end = min(begin + rows, whole.first + whole.count)
        low, high = numbers.searchsorted([begin, end])
        faults = tuple(fault for fault in whole.faults if begin <= fault.row < end)
        yield Chunk(begin, whole.rows.slice(low, high - low), faults, whole.text)
        begin = end


def _json_lines(path: Path, types: Types, rows: int, skip: int, lenient: bool) -> Iterator[Chunk]:
    with _open(path) as file:
        yield from chunks_of_lines(lines_of(_blocks(file)), types, rows, skip, lenient=lenient)


def chunks_of_lines(
    blocks: Iterable[list[bytes]], types: Types, rows: int, skip: int = 0, *, lenient: bool
) -> Iterator[Chunk]:
    """Lines of JSON as chunks, without the first `skip`; empty lines are not counted.

    Raises DataError for a line that is no record, unless `lenient`.
    """
    first = 0
    for block in blocks:
        lines = [line for line in block if line.strip()]
        begin = max(0, skip - first)
        for start in range(begin, len(lines), rows):
            chunk = to_chunk(lines[start : start + rows], types, first + start)
            if chunk.faults and not lenient:
                raise DataError(chunk.faults[0].reason)
            yield chunk
        first += len(lines)


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


@contextlib.contextmanager
def _read_errors(path: Path) -> Generator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        first = str(error).splitlines()[0]
        if "UTF8" in first:
            raise DataError(_encoded(path)) from None
        if "straddling" in first:
            raise DataError(
                f"{path} has a row of more than {_BLOCK // 2**20} MB. Either a quotation mark is opened and never "
                "closed, or the table is too wide for text: write it as .parquet."
            ) from None
        raise DataError(f"{path} cannot be read as the table it should be: {first}") from None
    except UnicodeDecodeError:
        raise DataError(_encoded(path)) from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or not complete: {error}. Copy it again.") from None
    except OSError as error:
        if error.errno is not None:
            raise
        text = str(error).splitlines()[0]  # of Arrow, where a file ends too early or cannot be decompressed
        raise DataError(f"{path} is damaged or not complete: {text}. Copy it again.") from None


def _refuse_bytes(path: Path, schema: pa.Schema) -> None:
    """A column of a CSV file comes as bytes where it is no UTF-8: raises DataError rather than passing on what nobody
    can read."""
    odd = [field.name for field in schema if pa.types.is_binary(field.type)]
    if odd:
        raise DataError(_encoded(path, f"the column {odd[0]} of "))


def _refuse_other_separators(path: Path, names: Sequence[str]) -> None:
    """Raises DataError where the line of names is one cell that semicolons or tabs divide."""
    for sign, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and sign in names[0]:
            raise DataError(
                f"{path} is separated by {word}; wanted commas, and a point in numbers. Convert it, as with pandas: "
                f"read_csv(…, sep={sign!r}).to_csv(…, index=False)."
            )


def _encoded(path: Path, part: str = "") -> str:
    """Says that a file is not UTF-8, and which encoding it seems to have."""
    with _open(path) as file:
        begin = file.read(4)
    marked = [name for mark, name in _MARKS.items() if begin.startswith(mark)]
    found = f"it is {marked[0]}" if marked else "perhaps it is Latin-1"
    name = marked[0] if marked else "ISO-8859-1"
    text = f"{part}{path} is not UTF-8; {found}. Convert it: iconv -f {name} -t UTF-8 {path.name} > utf8.csv"
    return text[0].upper() + text[1:] if part else text
