"""What calibration makes of a point model's number: a law of the outcome, the number plus the errors of the calibration
rows. Imports numpy.

By CV+ there are several models, and each error is added to the number of the model that made it; `values` are then
(rows, models), and scores too.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from probinfer.predict.conformal import Calibration

_NUMBERS = 2**22  # of the rows' laws that are held at a time
_TIE = 1e-12


def bounds(
    known: Calibration, values: np.ndarray, numbers: np.ndarray, asked: Sequence[tuple[float, bool]]
) -> np.ndarray:
    """Bounds of each row (rows, asked): of a probability each, and whether it is one from above. Raises PredictionError
    where a group has too few rows for one."""
    if known.models is None:
        found = [known.scores(probability, upper=upper, numbers=numbers) for probability, upper in asked]
        return values[:, None] + np.stack(found, axis=1)
    places = {number: [known.place(number, p, upper=upper) - 1 for p, upper in asked] for number in np.unique(numbers)}
    bound = np.empty((len(values), len(asked)))
    for rows, law in laws(known, values, numbers):
        bound[rows] = np.sort(law, axis=0)[places[numbers[rows[0]]]].T
    return bound


def laws(known: Calibration, values: np.ndarray, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows of a group at a time: their numbers, and what their outcomes may be, all equally probable, (calibration
    rows of the group, rows)."""
    for number in np.unique(numbers):
        rows, errors = np.flatnonzero(numbers == number), known.lower[number]
        size = max(1, _NUMBERS // len(errors))
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            own = values[some][None] if known.models is None else values[some].T[known.models[number]]
            yield some, own + errors[:, None]


def places(known: Calibration, scores: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where scores lie among those of the calibration rows of each row's group: the smallest and the largest number
    from 0 to 1 that may stand for it, (rows,) each.

    With n rows, i of them below and j not above, from i / (n + 1) to (j + 1) / (n + 1): a uniform number between them
    is uniform over all rows, exactly, if one model predicts and the row and the calibration rows are exchangeable.
    """
    size = np.array(known.counts)[numbers] + 1.0
    return _below(known, scores, numbers, "left") / size, (_below(known, scores, numbers, "right") + 1) / size


def inside(known: Calibration, scores: np.ndarray, numbers: np.ndarray, level: float) -> np.ndarray:
    """Which classes are in the set of each row, (rows, classes), by the scores of all of them, (rows, classes), or by
    CV+ (rows, models, classes). Raises PredictionError where a group has too few rows for the level."""
    if known.models is None:
        return scores <= known.scores(level, upper=True, numbers=numbers)[:, None] + _TIE
    most = np.array([known.place(k, level, upper=True) if k in numbers else 0 for k in range(len(known.labels))])
    each = [_below(known, scores[..., c] - _TIE, numbers, "left") for c in range(scores.shape[-1])]
    return np.stack(each, axis=1) < most[numbers][:, None]


def _below(known: Calibration, scores: np.ndarray, numbers: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    """How many calibration rows of each row's group have a smaller score, or with "right" no larger one."""
    found = np.zeros(len(scores))
    for number in np.unique(numbers):
        here, ordered = numbers == number, known.lower[number]
        if known.models is None:
            found[here] = np.searchsorted(ordered, scores[here], side=side)
            continue
        for model in np.unique(known.models[number]):
            own = ordered[known.models[number] == model]
            found[here] += np.searchsorted(own, scores[here, model], side=side)
    return found
