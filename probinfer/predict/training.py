"""A sketch of the training rows, or of a series, by which a predictor knows them again. Imports numpy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.series import Series
from probinfer.predict.program import Program
from probinfer.predict.rows import wide_hashes

KEPT = 512
RUN = 5  # successive observations: one alone may come again by chance, where they have few decimals
_OUTCOME = "\uffff"  # sorts behind every name of an input


def sketch(rows: Mapping[str, np.ndarray], y: Any, program: Program) -> dict[str, Any] | None:
    """The smallest 512 hashes of the training rows with their outcomes, and how many rows there were.

    Hashes order rows at random, so these are a sample of the rows, and one that another set's rows can be looked up
    in (Broder 1997). None where rows do not tell: some are equal, or no column has fractions, so that other rows may
    coincide with them by chance.
    """
    shape = np.shape(y)
    if y is None or shape[1:] != program.event or np.asarray(y).dtype.kind not in "fiub":
        return None
    columns = {entry.name: rows[entry.name] for entry in program.inputs}
    hashes = np.sort(row_hashes(columns, np.asarray(y, float)))
    if not any(_tells(values) for values in (*columns.values(), np.asarray(y))) or np.any(hashes[1:] == hashes[:-1]):
        return None
    return {"rows": len(hashes), "smallest": [f"{value:016x}" for value in hashes[:KEPT]]}


def row_hashes(columns: Mapping[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """64-bit hashes of rows with their outcomes."""
    return wide_hashes({**columns, _OUTCOME: y}, len(y))


def refuse_training_rows(columns: Mapping[str, np.ndarray], y: np.ndarray, known: Mapping[str, Any] | None) -> None:
    """Raise PredictionError if rows of the sketch are among these. Without a sketch nothing is known, nor said."""
    if not known or not len(y):
        return
    smallest = np.array([int(word, 16) for word in known["smallest"]], np.uint64)
    hashes = row_hashes(columns, y)
    looked_up = hashes if known["rows"] <= len(smallest) else hashes[hashes <= smallest[-1]]
    again = np.isin(looked_up, smallest)
    if again.any():
        share = f"{again.sum()} of the {len(looked_up)} rows that could be looked up"
        first = int(np.flatnonzero(np.isin(hashes, smallest))[0])
        raise PredictionError(
            f"Rows of the training data came to calibrate with: {share}, row {first} for one (the first row is row 0). "
            "The model has seen them, so intervals would be too narrow for new rows. Pass rows that were kept from "
            "training."
        )


def series_sketch(series: Series) -> dict[str, Any] | None:
    """The smallest 512 hashes of runs of 5 successive observations, and how many there were. None where runs do not
    tell: some are equal, or no number has a fraction."""
    hashes, values = _run_hashes(series)[1], series.values
    if not len(hashes) or np.all(values == np.floor(values)) or len(np.unique(hashes)) < len(hashes):
        return None
    return {"runs": len(hashes), "smallest": [f"{value:016x}" for value in np.sort(hashes)[:KEPT]]}


def refuse_training_series(series: Series, known: Mapping[str, Any] | None, first: int) -> None:
    """Raise PredictionError if runs of the sketch are among those of these observations, the first of which should be
    that of time `first`. Without a sketch nothing is known, nor said."""
    places, hashes = _run_hashes(series)
    if not known or not len(hashes):
        return
    again = np.isin(hashes, np.array([int(word, 16) for word in known["smallest"]], np.uint64))
    if again.any():
        row = int(places[np.argmax(again)])
        raise PredictionError(
            f"The observations {row} to {row + RUN - 1} of y (the first is 0) are among those that the parameters were "
            f"inferred from, so forecasts of them say nothing of new ones. Pass those that follow, from time {first} "
            "on, which were kept from inference."
        )


def _run_hashes(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Where the runs begin of which everything was observed, and their hashes."""
    count = len(series.values) - RUN + 1
    if count < 1:
        return np.zeros(0, int), np.zeros(0, np.uint64)
    each = (part.reshape(len(part), -1) for part in series)
    values, observed = (np.stack([part[i : i + count] for i in range(RUN)], axis=1) for part in each)
    places = np.flatnonzero(observed.all(axis=(1, 2)))
    return places, row_hashes({}, values[places].astype(float))


def _tells(values: np.ndarray) -> bool:
    """A column of numbers with fractions, most of them different."""
    if values.dtype.kind != "f" or not np.any(values != np.floor(values)):
        return False
    flat = values.reshape(len(values), -1)[:, 0]
    return len(np.unique(flat)) > len(flat) / 2
