"""NumPy arrays as Arrow columns, without pandas: `pyarrow.array` imports it, which takes as long as to predict some
hundred thousand rows."""

import numpy as np
import pyarrow as pa


def column_of(values: np.ndarray) -> pa.Array:
    """An Arrow column with the entries of `values` (rows,)."""
    kind = values.dtype.kind
    if kind not in "biuf":
        return pa.array(values)
    native = values.dtype.newbyteorder("=")
    packed = np.packbits(values, bitorder="little") if kind == "b" else np.ascontiguousarray(values, native)
    return pa.Array.from_buffers(pa.from_numpy_dtype(native), len(values), [None, pa.py_buffer(packed)])
