"""What calibration makes of a point model's number: a law of the outcome, the number plus the errors of the calibration
rows. Imports numpy."""

from collections.abc import Iterator

import numpy as np

from probinfer.predict.conformal import Calibration

_NUMBERS = 2**22  # of the rows' laws that are held at a time


def places(known: Calibration, scores: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where scores (rows,) lie among those of the calibration rows of each row's group: the smallest and the largest
    number from 0 to 1 that may stand for it.

    With n rows, i of them below and j not above, from i / (n + 1) to (j + 1) / (n + 1): a uniform number between them
    is uniform over all rows, exactly, if the row and the calibration rows are exchangeable.
    """
    below, upto = np.empty(len(scores)), np.empty(len(scores))
    for number in np.unique(numbers):
        here, ordered = numbers == number, known.lower[number]
        below[here] = np.searchsorted(ordered, scores[here], side="left")
        upto[here] = np.searchsorted(ordered, scores[here], side="right") + 1
    size = np.array(known.counts)[numbers] + 1.0
    return below / size, upto / size


def laws(known: Calibration, values: np.ndarray, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows at a time: their numbers, and what their outcomes may be, all equally probable, (calibration rows of
    their group, rows)."""
    for number in np.unique(numbers):
        rows, errors = np.flatnonzero(numbers == number), known.lower[number]
        size = max(1, _NUMBERS // len(errors))
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield some, values[some] + errors[:, None]
