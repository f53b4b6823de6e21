"""What the columns of CSV files hold that no model says the type of: such as ids that are copied. Knows no models.

A reader that tells types from a file's beginning fails at the first later cell of another kind. So all cells are
looked at before any row is predicted, and the narrowest type is taken that keeps every one of them as it stands.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from probinfer.deploy.chunk import DIGITS

_BLOCK = 4 * 2**20  # bytes of text looked at at a time
_TEXT = pa.string()
# each takes all that the one before it takes
_WIDER = (
    (pa.int64(), pa.float64(), _TEXT),
    (pa.bool_(), _TEXT),
    (pa.date32(), pa.timestamp("s"), pa.timestamp("ns"), _TEXT),
)
_NOT_A_NUMBER = r"^\s*([+-]?0\d|\+)"  # 007 is a name, as is a number of a telephone
_TOO_LONG = rf"^\s*-?\d{{{DIGITS + 1},}}\s*$"  # for floating point


def csv_types(files: Sequence[Path], names: Sequence[str]) -> Mapping[str, pa.DataType]:
    """The type of each of these columns, over all the files that have it; none where a file cannot be read, which is
    told when its rows are."""
    found: dict[str, pa.DataType | None] = dict.fromkeys(names)
    try:
        for file in files if names else ():
            for batch in _cells(file, names):
                for name in batch.schema.names:
                    found[name] = _widened(found[name], batch.column(name))
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return {}
    return {name: kind or _TEXT for name, kind in found.items()}


def _cells(file: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The columns as text, in pieces."""
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip")
    with pyarrow.csv.open_csv(file, read_options=read, parse_options=parse) as reader:
        present = [name for name in names if name in reader.schema.names]
    if not present:
        return
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(present, _TEXT), include_columns=present, strings_can_be_null=True
    )
    with pyarrow.csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as reader:
        yield from reader


def _widened(kind: pa.DataType | None, cells: pa.Array) -> pa.DataType | None:
    """The narrowest type that holds what `kind` holds, and these cells; None while all are empty."""
    if kind == _TEXT or cells.null_count == len(cells):
        return kind
    for chain in _WIDER if kind is None else [_from(kind)]:
        fitting = next(each for each in chain if _fits(cells, each))
        if fitting != _TEXT:
            return fitting
    return _TEXT


def _from(kind: pa.DataType) -> Sequence[pa.DataType]:
    chain = next(chain for chain in _WIDER if kind in chain)
    return chain[chain.index(kind) :]


def _fits(cells: pa.Array, kind: pa.DataType) -> bool:
    if kind == _TEXT:
        return True
    if kind in _WIDER[0] and _any(cells, _NOT_A_NUMBER):
        return False
    if kind == pa.float64() and _any(cells, _TOO_LONG):
        return False
    try:
        pc.cast(cells, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _any(cells: pa.Array, pattern: str) -> bool:
    found = pc.call_function("match_substring_regex", [cells], pc.MatchSubstringOptions(pattern))
    return bool(pc.call_function("any", [found]).as_py())
