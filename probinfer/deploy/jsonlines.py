"""JSON lines: records in, one object on each line, and predictions out the same way. Knows no models.

Written numbers are strict JSON: what is not finite (the mean of a law that has none) is written as null.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from probinfer.deploy.chunk import Chunk, Fault
from probinfer.errors import DataError

type Types = Mapping[str, pa.DataType | None]

_LONGEST = 2**26  # bytes of one line; more is no record


def lines_of(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The whole lines of each block that comes, without their ends; what follows the last line end is the last line."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST:
            raise DataError(f"A line of JSON has more than {_LONGEST} bytes; wanted one object on each line.")
        if whole:
            yield whole
    if rest:
        yield [rest]


def read_record(line: bytes) -> dict[str, Any] | str:
    """The object on a line, or in words why there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"the line is no JSON: {error}"
    return record if isinstance(record, dict) else f"the line holds {_kind(record)}; wanted an object"


def to_chunk(lines: Sequence[bytes], types: Types, first: int) -> Chunk:
    """Lines as rows, number `first` on; lines that are no records, or hold no numbers where `types` wants them, are
    faults."""
    records, faults = [], []
    for place, line in enumerate(lines, first):
        record = read_record(line)
        reason = record if isinstance(record, str) else _unfit(record, types)
        if reason:
            held = record if isinstance(record, dict) else line.decode("utf-8", "replace")
            faults.append(Fault(place, f"In row {place} (the first row is row 0) {reason}.", held))
        else:
            records.append(record)
    columns = {name: _column(name, [record.get(name) for record in records], kind) for name, kind in types.items()}
    return Chunk(first, pa.record_batch(columns) if columns else _without_columns(len(records)), tuple(faults))


def _without_columns(rows: int) -> pa.RecordBatch:
    return pa.record_batch({"": pa.nulls(rows)})  # a model without inputs: only how many rows there are matters


def _unfit(record: Mapping[str, Any], types: Types) -> str | None:
    for name, kind in types.items():
        value = record.get(name)
        if kind in (None, pa.string()) or value is None:
            continue
        if isinstance(kind, pa.ListType):
            if not _numbers(value):
                return f"{name} is {_brief(value)}; wanted a list of numbers"
        elif not isinstance(value, int | float):
            return f"{name} is {_brief(value)}; wanted a number"
        elif isinstance(value, int) and abs(value) >= (2**1023 if kind == pa.float64() else 2**63):
            return f"{name} is {_brief(value)}, which is more than a computer's number can hold"
    return None


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int | float) or v is None or _numbers(v) for v in value)


def _column(name: str, values: list[Any], kind: pa.DataType | None) -> pa.Array:
    if kind not in (None, pa.string()) and not isinstance(kind, pa.ListType):
        whole = all(value is None or isinstance(value, int) for value in values) and kind != pa.float64()
        numbers = [None if v is None else int(v) if whole else float(v) for v in values]
        return pa.array(numbers, pa.int64() if whole else pa.float64())
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values])


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _kind(value: Any) -> str:
    kinds = {str: "text", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def to_lines(table: pa.Table) -> bytes:
    """Rows as JSON lines."""
    names = table.schema.names
    columns = [_strict(column.to_pylist()) for column in table.columns]
    encode = json.JSONEncoder(allow_nan=False, default=str, separators=(", ", ": ")).encode
    rows = zip(*columns, strict=True)
    return "".join(encode(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()


def finite(value: Any) -> Any:
    """A value that strict JSON has: numbers that are not finite as the text NaN, Infinity or -Infinity, however deep
    they lie.

    >>> finite({"x": [1.0, float("inf")]})
    {'x': [1.0, 'Infinity']}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def _strict(values: list[Any]) -> list[Any]:
    return [_null(value) if isinstance(value, float | list | dict) else value for value in values]


def _null(value: Any) -> Any:
    """A value with null for numbers that are not finite, however deep they lie."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _null(each) for name, each in value.items()}
    return [_null(each) for each in value] if isinstance(value, list) else value
