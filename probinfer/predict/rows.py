"""Rows in, checked columns out. Imports numpy only; a predictor never sees a value that has not passed here.

Of a model with preprocessing, raw rows become the model's inputs first.

Rows are a dict of arrays, a pandas DataFrame, a pyarrow Table or RecordBatch, or any table that hands out its columns
as an Arrow stream, such as that of polars. A vector-valued input X of k entries
is an array (rows, k), or the columns X[0], …, X[k-1] of a table. A dict of single values is one row.
"""

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.data import KINDS, NUMBERS, in_floats
from probinfer.model.pipeline.raw import Place, one_column
from probinfer.model.tables import as_table, how_to_make_a_table, is_arrow, is_of, only_column, stacked
from probinfer.predict.program import Input, Program

_TYPES = {name: np.dtype(name) for name in ("float64", "int64", "bool")}  # NumPy takes longer over a name
_LONGEST = 60  # characters of a name or text in an error


class Gap(PredictionError):
    """A number is missing; who can say what may stand there is told how."""


def read_rows(rows: Any, program: Program, *, first_row: int = 0) -> tuple[dict[str, np.ndarray], int]:
    """The program's inputs as arrays (rows, *shape) of the type it was traced with, and the number of rows.

    first_row: the number of the first row in the table it is a part of; errors name rows by their number in the table.

    Raises PredictionError for rows of another kind, missing or (in a dict) unknown names, other shapes, row counts that
    disagree, text, missing values, NaN, infinity, fractions where whole numbers belong, integers that pick no known
    level, and for data that the model has fixed, given with another value than in training.
    """
    ready = _ready(rows, program)
    if ready is not None:
        return ready
    rows = as_table(rows)
    raw = program.prepared is not None
    if program.prepared is not None:
        rows, raw_count = program.prepared.apply(rows, Place(PredictionError, first_row))
    table, names, length = _columns(rows, program)
    length = raw_count if raw else length
    columns, single = {}, {}
    for entry in program.checked:
        values = _numbers(entry, names[entry.name], table, first_row)
        columns[entry.name], single[entry.name] = values
    if any(single.values()) and not all(single.values()):
        ones, many = ([name for name, is_one in single.items() if is_one is which] for which in (True, False))
        raise PredictionError(
            f"{', '.join(ones)} came as a single value, {', '.join(many)} as one value for each of "
            f"{len(columns[many[0]])} rows; give every input one entry for each row (np.full(rows, value))."
        )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise PredictionError(
            f"The inputs disagree about the number of rows: {listed}. Each needs one entry for every row."
        )
    count = next(iter(lengths.values()), length)
    if isinstance(rows, Mapping) and not raw:
        count = _check_fixed(rows, program, count, known=bool(lengths))
    return columns, count


def _ready(rows: Any, program: Program) -> tuple[dict[str, np.ndarray], int] | None:
    """Rows that need no more reading, in a third of the time: a dict of just the inputs, lists of numbers or arrays of
    the inputs' types, which are finite, of known levels, and of their shape; else None."""
    if type(rows) is not dict or program.prepared is not None or not 0 < len(rows) == len(program.inputs):
        return None
    columns, count = {}, 0
    for entry in program.checked:
        values = _ready_column(rows.get(entry.name), entry)
        if values is None or values.ndim != 1 + len(entry.shape) or values.shape[1:] != entry.shape:
            return None
        if not len(values) or (columns and len(values) != count):
            return None
        columns[entry.name], count = values, len(values)
    return columns, count


def _ready_column(came: Any, entry: Input) -> np.ndarray | None:
    """The values of one input if nothing is wrong with them; their shape is not looked at."""
    if type(came) is list:
        try:
            values = np.array(came)
        except (ValueError, TypeError):
            return None
        if values.dtype == np.int64 and entry.dtype == "float64":
            values = values.astype(np.float64)
    elif type(came) is np.ndarray:
        values = came
    else:
        return None
    if values.dtype != _TYPES[entry.dtype] or not values.size:
        return None
    if entry.dtype == "float64":
        return values if np.count_nonzero(np.isfinite(values)) == values.size else None
    if entry.dtype != "int64":
        return None
    if entry.low is None or entry.high is None:
        return values
    return values if entry.low <= values.min() and values.max() <= entry.high else None


def column_names(entry: Input) -> list[str]:
    """The table columns that hold an input: its name, or name[0], name[1], … in row-major order for a vector or
    matrix."""
    indices = itertools.product(*(range(size) for size in entry.shape))
    return [f"{entry.name}[{','.join(map(str, index))}]" if index else entry.name for index in indices]


def locate_columns(available: Sequence[Any], inputs: Sequence[Input]) -> dict[str, list[str]]:
    """Which columns hold each input. Raises PredictionError naming all that are missing, or there twice."""
    present = set(available)
    if len(present) < len(available):
        twice = [part for entry in inputs for part in (entry.name, *column_names(entry)) if available.count(part) > 1]
        if twice:
            raise PredictionError(f"The rows have more than one column called {twice[0]}; wanted one.")
    found, missing = {}, []
    for entry in inputs:
        found[entry.name] = [entry.name] if entry.name in present else column_names(entry)
        missing += [part for part in found[entry.name] if part not in present]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise PredictionError(f"The rows lack {shown}; they have {have_words(available)}.{_nearly(missing, available)}")
    return found


def _nearly(missing: Sequence[str], available: Sequence[Any]) -> str:
    """Names that differ from wanted ones in spaces around them or in capitals, for an error; else nothing."""
    there = {str(name).strip().casefold(): name for name in available}
    pairs = [(name, there[name.casefold()]) for name in missing if name.casefold() in there]
    if not pairs:
        return ""
    wanted, name = pairs[0]
    return f" Names have to be the same to the letter: {str(name)[:_LONGEST]!r} is not {wanted!r}."


def content_hashes(columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """A 32-bit hash of each row's content, (rows,) uint32: the same wherever the row stands, and whatever stands next
    to it."""
    return (wide_hashes(columns, count) >> np.uint64(32)).astype(np.uint32)


def wide_hashes(columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """As `content_hashes`, with 64 bits: rows of equal hash are equal rows."""
    state = np.full(count, 0x9E3779B97F4A7C15, np.uint64)
    for _, values in sorted(columns.items()):
        flat = values.reshape(count, math.prod(values.shape[1:])) + 0.0  # -0.0 is 0.0
        words = np.ascontiguousarray(flat, np.float64).view(np.uint64)
        for word in words.T:
            state = (state ^ word) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's mixing, Steele et al. (2014)
            state ^= state >> np.uint64(31)
            state *= np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(29)
    return state


def plain_numbers(name: str, value: Any) -> np.ndarray:
    """An array of numbers from whatever a table or dict holds. Raises PredictionError for text, dates, missing
    values."""
    return _plain(name, value, 0)


def read_outcomes(y: Any, program: Program, count: int) -> np.ndarray:
    """Outcomes (rows, *event) of `count` rows. Raises PredictionError for another shape, text, NaN and infinity."""
    if isinstance(y, str):
        raise PredictionError(f"y came as {y!r}; wanted the outcomes themselves, such as table[{y!r}].")
    outcome, y = program.prepared.outcome if program.prepared else None, y if program.event else only_column(y)
    if outcome is not None:
        y = outcome.own(one_column(outcome.column.name, y, Place(PredictionError)), Place(PredictionError))
    values = plain_numbers(program.outcome, y).astype(float)
    shape = (count, *program.event)
    if count == 1 and values.shape == program.event:
        values = values[None]
    if values.shape != shape:
        raise PredictionError(
            f"{program.outcome} has the shape {values.shape}; wanted {shape}, an outcome for each row."
        )
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise PredictionError(f"{program.outcome} is not finite in row {row} (the first row is row 0).")
    return values


def available_columns(rows: Any) -> list[Any]:
    """Names of the columns of rows; none of what has no columns."""
    rows = as_table(rows)
    if is_arrow(rows):
        return list(rows.schema.names)
    return list(rows) if isinstance(rows, Mapping) else list(getattr(rows, "columns", ()))


def have_words(available: Sequence[Any]) -> str:
    """The columns that rows have, for an error."""
    return ", ".join(str(name)[:_LONGEST] for name in list(available)[:20]) or "no columns at all"


def _listed(names: Sequence[Any]) -> str:
    shown = [name if not isinstance(name, str) or len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in names]
    return ", ".join(map(repr, shown[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def take_column(rows: Any, name: str, program: Program) -> tuple[Any, Any]:
    """One column of the rows, and the rows without it where a dict holds it beside what the model knows."""
    rows = as_table(rows)
    available = available_columns(rows)
    if name not in available:
        raise PredictionError(f"The rows lack {name}, which holds their groups; they have {have_words(available)}.")
    values = rows[name] if not is_arrow(rows) else rows.column(name)
    if isinstance(rows, Mapping) and name not in program.known:
        rows = {key: value for key, value in rows.items() if key != name}
    return values, rows


def _columns(rows: Any, program: Program) -> tuple[Any, dict[str, list[str]], int]:
    """Something to take columns from by name, the columns of every input, and the number of rows where it is known."""
    if isinstance(rows, Mapping):
        names = locate_columns(list(rows), program.inputs)
        used = {part for parts in names.values() for part in parts}
        known = {*used, *program.fixed, *program.constants, *program.unread}
        unknown = [key for key in rows if key not in known]
        if unknown:
            wanted = ", ".join(entry.name for entry in program.inputs) or "nothing"
            raise PredictionError(f"The model knows nothing called {_listed(unknown)}; rows need {wanted}.")
        return rows, names, 1
    if is_of(rows, "pandas", "DataFrame"):
        return rows, locate_columns(list(rows.columns), program.inputs), len(rows)
    if is_arrow(rows):
        return rows, locate_columns(rows.schema.names, program.inputs), rows.num_rows
    raise PredictionError(
        f"rows came as {type(rows).__name__}; wanted a dict of arrays, such as {{'x': x}}, or a table "
        f"(pandas, polars, pyarrow).{how_to_make_a_table(rows)}"
    )


def _check_fixed(rows: Mapping, program: Program, count: int, known: bool) -> int:
    for name in program.row_counts:
        if name in rows:
            if known and rows[name] != count:
                raise PredictionError(
                    f"{name} counts the rows: it is {rows[name]!r}, but there are {count}. Leave it out."
                )
            count = int(rows[name])
    for name, value in {**program.constants, **program.fixed}.items():
        if name in rows and name not in program.row_counts and not np.array_equal(rows[name], value):
            shown = f"{value!r}" if np.ndim(value) == 0 else f"an array of shape {np.shape(value)}"
            raise PredictionError(
                f"{name} is part of the trained model, {shown}, and came with another value. It cannot change from "
                "row to row: leave it out, or train again."
            )
    return count


# one input -----------------------------------------------------------------------------------------------------------


def _numbers(entry: Input, names: list[str], table: Any, first_row: int) -> tuple[np.ndarray, bool]:
    """The values of one input, (rows, *shape), and whether they came as a single row without a row axis."""
    parts = [_plain(name, table[name], first_row) for name in names]
    if len(names) > 1 or names[0] != entry.name:
        if len({part.shape for part in parts}) > 1 or parts[0].ndim > 1:
            raise PredictionError(f"The columns {names[0]}, … have different lengths, or are not columns of numbers.")
        values = np.stack(
            [_typed(entry, name, part, first_row) for name, part in zip(names, parts, strict=True)], axis=-1
        )
        return values.reshape((-1, *entry.shape)), parts[0].ndim == 0
    values = parts[0]
    if values.size == 0 and values.ndim == 1:
        values = values.reshape(0, *entry.shape)
    single = values.shape == entry.shape
    if not single and (values.ndim == 0 or values.shape[1:] != entry.shape):
        wanted = ", ".join(["rows", *map(str, entry.shape)])
        raise PredictionError(
            f"{entry.name} has the shape {values.shape}; wanted ({wanted}), or {entry.shape} for one row."
        )
    return _typed(entry, entry.name, values[None] if single else values, first_row), single


def _plain(name: str, value: Any, first_row: int) -> np.ndarray:
    """A numpy array of numbers or booleans from whatever a table or dict holds."""
    if type(value) is np.ndarray and value.dtype.kind in "fiub":
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise PredictionError(f"{name} is missing {_at(value.mask, first_row)}; every row needs a value.")
    if str(getattr(value, "dtype", "")) == "category":
        raise PredictionError(
            f"{name} holds categories; pass their codes as in training, a value unseen there has none."
        )
    try:
        array = np.asarray(_of_arrow(value) if is_of(value, "pyarrow", "Array", "ChunkedArray") else value)
        array = stacked(array) if array.dtype.kind == "O" else array
    except (ValueError, TypeError):
        raise PredictionError(
            f"{name} cannot be read as one array of numbers; are its rows of different lengths?"
        ) from None
    if array.dtype.kind == "O":
        numbers = np.vectorize(lambda v: isinstance(v, NUMBERS), otypes=[bool])(array)
        if not numbers.all():
            bad = array[~numbers].flat[0]
            missing = bad is None or "NA" in type(bad).__name__
            came = "is missing" if missing else f"is {bad!r}, not a number,"
            raise PredictionError(f"{name} {came} {_at(~numbers, first_row)}; every row needs a number.")
        array = np.asarray(in_floats(array).tolist()) if array.size else array.astype(float)
        if array.dtype.kind == "O":
            huge = np.vectorize(lambda v: isinstance(v, int) and abs(v) > 2**63, otypes=[bool])(array)
            raise PredictionError(
                f"{name} is a whole number beyond 64 bits {_at(huge, first_row)}; wanted one that a computer's number "
                "can hold."
            )
    if array.dtype.kind not in "fiub":
        example = f", for example {_example(value, array)!r}" if array.size else ""
        raise PredictionError(f"{name} holds {KINDS.get(array.dtype.kind, str(array.dtype))}{example}; wanted numbers.")
    return array


def _of_arrow(column: Any) -> np.ndarray:
    """A column of Arrow; of numbers without gaps in one piece a view, made without pandas, which `to_numpy` imports."""
    column = column.chunk(0) if getattr(column, "num_chunks", 0) == 1 else column
    types = sys.modules["pyarrow"].types
    numbers = types.is_integer(column.type) or types.is_floating(column.type)
    if numbers and not column.null_count and hasattr(column, "__dlpack__"):
        return np.from_dlpack(column)
    return column.to_numpy(zero_copy_only=False)


def _example(value: Any, array: np.ndarray) -> Any:
    """What is no number: of a list with numbers too, which NumPy has turned into text, the first that was text."""
    while isinstance(value, list | tuple):
        odd = [each for each in value if isinstance(each, str | list | tuple)]
        if not odd:
            break
        value = odd[0] if isinstance(odd[0], str) else next((each for each in odd if _has_text(each)), None)
    example = value if isinstance(value, str) else array.flat[0].item()
    return example if not isinstance(example, str) or len(example) <= _LONGEST else f"{example[:_LONGEST]}…"


def _has_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and any(map(_has_text, value)))


def _typed(entry: Input, name: str, array: np.ndarray, first_row: int) -> np.ndarray:
    """`array` as the input's own type, if that changes no value."""
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array)
        if bad.any():
            kind = Gap if np.isnan(array[bad].flat[0]) else PredictionError
            raise kind(f"{name} is {array[bad].flat[0]} {_at(bad, first_row)}; wanted finite numbers.")
    if entry.dtype == "float64":
        return array.astype(np.float64, copy=False)
    if entry.dtype == "bool":
        bad = (array != 0) & (array != 1)
        if bad.any():
            raise PredictionError(f"{name} is {array[bad].flat[0]} {_at(bad, first_row)}; wanted True or False.")
        return array.astype(bool)
    bad = (
        (array != np.floor(array)) | (np.abs(array) > 2.0**53)
        if array.dtype.kind == "f"
        else np.zeros(array.shape, bool)
    )
    bad |= array > np.iinfo(np.int64).max if array.dtype.kind == "u" else False
    if bad.any():
        raise PredictionError(
            f"{name} is {array[bad].flat[0]} {_at(bad, first_row)}; it held whole numbers in training, so wanted one "
            "here. Train with floats to have it continuous."
        )
    array = array.astype(np.int64)
    if entry.low is not None and entry.high is not None:
        bad = (array < entry.low) | (array > entry.high)
        if bad.any():
            value = array[bad].flat[0]
            hint = " (-1 is how pandas codes a category that was not seen)" if value == -1 else ""
            raise PredictionError(
                f"{name} is {value} {_at(bad, first_row)}{hint}: a level that the model has never seen. "
                f"It knows {entry.low} to {entry.high}."
                + (f" No other is predicted: {entry.closed}." * bool(entry.closed))
            )
    return array


def _at(bad: np.ndarray, first_row: int) -> str:
    if np.ndim(bad) == 0:
        return "in the row given" if first_row == 0 else f"in row {first_row}"
    first = np.argwhere(bad)[0][0] + first_row
    count = int(np.any(bad.reshape(len(bad), -1), axis=1).sum())
    return f"in row {first}" + (f" and {count - 1} more" if count > 1 else "") + " (the first row is row 0)"
