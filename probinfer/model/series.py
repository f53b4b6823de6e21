"""Observations in time, checked: what was observed, and where nothing was. Imports numpy."""

from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import DataError
from probinfer.model.data import KINDS


class Series(NamedTuple):
    """Observations in time."""

    values: np.ndarray  # (T, *observation shape); zero where nothing was observed
    observed: np.ndarray  # (T, *observation shape), false where missing


def read_series(observations: Any, *, column: bool = False, missing: bool = False) -> Series:
    """Checked arrays. Raises DataError for text, infinities, or no rows.

    column: numbers (T,) are taken as (T, 1), all in double precision. missing: nothing at all need have been observed.
    """
    y = _numbers(observations)
    if column:
        y = (y[:, None] if y.ndim == 1 else y).astype(np.float64)
    if y.ndim == 0 or len(y) == 0:
        raise DataError(f"observations have the shape {y.shape}; wanted one row for each time, (T, ...), T >= 1.")
    seen = ~np.isnan(y) if y.dtype.kind == "f" else np.ones(y.shape, bool)
    if np.isinf(y).any():
        first = int(np.argwhere(np.isinf(y))[0][0])
        raise DataError(f"observations are infinite at time {first}; wanted numbers, or NaN where missing.")
    if not seen.any() and not missing:
        raise DataError("observations are all NaN: nothing was observed.")
    return Series(np.where(seen, y, 0), seen)


def _numbers(given: Any) -> np.ndarray:
    if hasattr(given, "to_numpy"):
        given = given.to_numpy()
    try:
        array = np.asarray(given)
        if array.dtype.kind == "O":
            array = array.astype(float)
    except (TypeError, ValueError):
        raise DataError(f"observations came as {type(given).__name__}; wanted an array of numbers, (T, ...).") from None
    if array.dtype.kind not in "iufb":
        what = KINDS.get(array.dtype.kind, str(array.dtype))
        raise DataError(f"observations hold {what}; wanted an array of numbers, (T, ...).")
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
