"""User data in, checked arrays and constants out. Imports numpy; no model is looked at here."""

import decimal
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import DataError
from probinfer.model.tables import as_table, how_to_make_a_table, is_arrow, stacked

# Words for what an array of a kind of dtype holds that are no numbers.
KINDS = {
    "U": "text",
    "T": "text",
    "S": "bytes",
    "M": "dates",
    "m": "time spans",
    "c": "complex numbers",
    "O": "objects",
}
NUMBERS = (bool, int, float, decimal.Decimal, np.number, np.bool_)  # what an array of objects may hold as numbers


class CheckedData(NamedTuple):
    """Data that passed every check: `arrays` become arguments of the compiled program, `constants` are part of it."""

    arrays: dict[str, np.ndarray]
    constants: dict[str, Any]


def check_data(data: Any) -> CheckedData:
    """Sort data into arrays and constants, refusing what no inference can use.

    `data` is a mapping from name to value, or a table, whose columns are the values: a data frame (anything with
    `columns` and `__getitem__`), or one that hands them out as an Arrow stream (pyarrow, polars, DuckDB).
    Python integers, booleans and None are constants (sizes and switches, which may decide shapes); floats and
    array-likes are arrays: floats and decimals as float64, integers as int64.

    Raises DataError, naming the entry, for text, dates, complex or missing values, NaN and infinity.
    """
    arrays: dict[str, np.ndarray] = {}
    constants: dict[str, Any] = {}
    for name, value in _items(data):
        if value is None or isinstance(value, bool | int | np.bool_ | np.integer):
            constants[name] = value.item() if isinstance(value, np.generic) else value
            continue
        array = _to_array(name, value)
        if array.ndim == 0 and array.dtype.kind in "iub":
            constants[name] = array.item()
        else:
            arrays[name] = array
    return CheckedData(arrays, constants)


def entry_names(data: Any) -> list[str]:
    """Names of the entries. Raises DataError for what has none."""
    return [name for name, _ in _items(data)]


def _items(data: Any) -> list[tuple[str, Any]]:
    if data is None:
        return []
    data = as_table(data)
    if isinstance(data, Mapping):
        items = list(data.items())
    elif is_arrow(data):
        items = [
            (name, column.to_pandas(date_as_object=False))
            for name, column in zip(data.schema.names, data.columns, strict=True)
        ]
    elif hasattr(data, "columns") and hasattr(data, "__getitem__"):
        items = [(column, data[column]) for column in data.columns]
    else:
        raise DataError(
            f"data came as {type(data).__name__}; wanted a dict of arrays or a table, "
            'one entry for each argument of the model, such as {"X": X, "y": y}.'
            f"{how_to_make_a_table(data)}"
        )
    for name, _ in items:
        if not isinstance(name, str):
            raise DataError(f"data has the key {name!r}; wanted strings, the names of the model's arguments.")
    return items


def _to_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DataError(f"{name} has {int(value.mask.sum())} masked entries; fill or drop them first.")
    try:
        array = np.asarray(value)
        array = stacked(array) if array.dtype.kind == "O" else array
    except (ValueError, TypeError) as error:
        raise DataError(f"{name} cannot be read as one array ({error}); are its rows of different lengths?") from None
    if array.dtype.kind == "O":
        array = _from_objects(name, array)
    if array.dtype.kind in "iub":
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise DataError(f"{name} holds integers beyond 2**63 - 1; pass them as floats.")
        return array if array.dtype.kind == "b" else array.astype(np.int64)
    if array.dtype.kind != "f":
        example = array.flat[0] if array.size else array.dtype
        example = example.item() if isinstance(example, np.str_ | np.bytes_) else example
        raise DataError(
            f"{name} holds {KINDS.get(array.dtype.kind, str(array.dtype))}, for example {example!r}; wanted numbers. "
            "Code levels as integers first, for example with pandas.factorize."
        )
    array = array.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f" at {name}[{', '.join(map(str, first))}]" if first else ""
        raise DataError(
            f"{name} has {int(bad.sum())} of {array.size} entries that are NaN or infinite, the first{where} "
            f"({array[first]}); drop or impute those rows first."
        )
    return array


def _from_objects(name: str, array: np.ndarray) -> np.ndarray:
    for index, entry in np.ndenumerate(array):
        if not isinstance(entry, NUMBERS):
            missing = entry is None or "NA" in type(entry).__name__
            came = "a missing value" if missing else f"{KINDS.get(np.asarray(entry).dtype.kind, 'an object')}"
            todo = "drop or impute those rows" if missing else "code levels as integers (pandas.factorize) "
            raise DataError(f"{name}{list(index)} is {entry!r}, {came}; wanted numbers: {todo.strip()} first.")
    return np.asarray(in_floats(array).tolist())


def in_floats(array: np.ndarray) -> np.ndarray:
    """An array of objects with floats in place of decimals, which databases have for exact numbers."""
    return np.asarray(np.frompyfunc(_in_float, 1, 1)(array), object)


def _in_float(value: Any) -> Any:
    if not isinstance(value, decimal.Decimal):
        return value
    return np.nan if value.is_nan() else float(value)
