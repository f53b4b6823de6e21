"""Tables of any library as those that are read here: a pandas DataFrame, or an Arrow table. Imports numpy, and
neither of them before one comes."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


def as_table(rows: Any) -> Any:
    """A table that hands out its columns as an Arrow stream (polars, DuckDB, a RecordBatchReader, …) as a pyarrow
    Table; a pandas DataFrame, a pyarrow Table, and all that is no table as it is.

    What may give its rows in another order when it is asked again, as a query may, or only once, has to come here once.
    """
    if type(rows) is dict or is_arrow(rows) or is_of(rows, "pandas", "DataFrame"):
        return rows
    if not hasattr(rows, "__arrow_c_stream__"):
        return rows
    import pyarrow as pa

    try:
        return pa.table(rows)
    except (TypeError, ValueError, NotImplementedError):  # a stream of something else, such as a column alone
        return rows


def as_frame(rows: Any) -> Any:
    """As `as_table`, of a table a pandas DataFrame. Labels whose order says nothing are in that of the alphabet, as
    pandas has them, and not in the one in which they came."""
    table = as_table(rows)
    if not is_arrow(table):
        return table
    import pyarrow as pa

    frame = table.to_pandas(date_as_object=False)
    for number, kind in enumerate(table.schema.types):
        if pa.types.is_dictionary(kind) and not kind.ordered:
            column = frame.iloc[:, number]
            frame.isetitem(number, column.cat.set_categories(sorted(column.cat.categories)))
    return frame


def is_arrow(rows: Any) -> bool:
    """A pyarrow Table or RecordBatch."""
    return is_of(rows, "pyarrow", "Table", "RecordBatch")


def is_of(value: Any, module: str, *types: str) -> bool:
    """Whether a value is of one of a library's types, without importing it: who passes one has imported it. While
    another thread is still importing it, its types may not be there yet, and so no values of them."""
    library = sys.modules.get(module)
    found = [getattr(library, name, None) for name in types]
    return isinstance(value, tuple(each for each in found if each is not None))


def stacked(array: np.ndarray) -> np.ndarray:
    """An array of objects all of which are lists or arrays of one shape, as a column of vectors has them, as one array
    with an axis more; all else as it is."""
    if array.ndim != 1 or not array.size or not all(isinstance(each, list | tuple | np.ndarray) for each in array):
        return array
    return np.stack([np.asarray(each) for each in array])


def only_column(values: Any) -> Any:
    """The column of a table of one; all else as it is."""
    table = as_table(values)
    if is_of(table, "pandas", "DataFrame") and len(table.columns) == 1:
        return table.iloc[:, 0]
    return table.column(0) if is_arrow(table) and table.num_columns == 1 else values


def how_to_make_a_table(rows: Any) -> str:
    """What to do with rows that are no table and no dict of columns, for an error; a sentence with a space before it,
    or nothing."""
    if isinstance(rows, list | tuple) and rows and all(isinstance(row, Mapping) for row in rows):
        return " Of records make a table: pandas.DataFrame(rows)."
    if is_of(rows, "pandas", "Series"):
        return " A row of a table is a table with two brackets, table.iloc[[0]]; a column is one as table[['x']]."
    if isinstance(rows, str | os.PathLike):
        return " Read the file first, as by pandas.read_csv; `probinfer score` predicts the rows of files."
    if getattr(getattr(rows, "dtype", None), "names", None):
        return " Of a structured array make a table: pandas.DataFrame(rows)."
    if isinstance(getattr(rows, "shape", None), tuple):
        return " Say which column is which: {'name': rows[:, 0]}."
    return " Collect it first: rows.collect()." if callable(getattr(rows, "collect", None)) else ""
