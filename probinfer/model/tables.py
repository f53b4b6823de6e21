"""Tables of any library as those that are read here: a pandas DataFrame, or an Arrow table. Imports neither before one
comes."""

import sys
from typing import Any


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
    """As `as_table`, of a table a pandas DataFrame."""
    table = as_table(rows)
    return table.to_pandas() if is_arrow(table) else table


def is_arrow(rows: Any) -> bool:
    """A pyarrow Table or RecordBatch."""
    return is_of(rows, "pyarrow", "Table", "RecordBatch")


def is_of(value: Any, module: str, *types: str) -> bool:
    """Whether a value is of one of a library's types, without importing it: who passes one has imported it."""
    library = sys.modules.get(module)
    return library is not None and isinstance(value, tuple(getattr(library, name) for name in types))
