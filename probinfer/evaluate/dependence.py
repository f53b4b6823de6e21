"""Partial dependence and individual curves. Imports numpy; scikit-learn when called."""

from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.evaluate.explanation import Box, Explanation, Kind, check_settings, long_table
from probinfer.evaluate.library import library
from probinfer.evaluate.sklearn_box import estimator
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd


def partial_dependence(
    predictor: Predictor | PointPredictor,
    rows: Any,
    name: str,
    *,
    of: Any = None,
    at: Any = None,
    grid: int = 20,
    ice: bool = False,
    level: float = 0.9,
) -> Explanation:
    """How a prediction moves with one input, averaged over the rows as they are otherwise.

        value(v) = 1/n sum over rows i of q(x_i with the input set to v),   q the mean, sd, width

    By scikit-learn's `partial_dependence`.

    Args:
        predictor: what is explained.
        rows: as for `Predictor.predict`.
        name: of the input; of a vector, one of its columns: "X[0]".
        of: a `Quantity`, or several; None takes mean, sd and width.
        at: the values v; None takes quantiles of the rows' values, of whole numbers all that occur if they are few, of
            labels the most frequent.
        grid: how many of them.
        ice: give each row's own curve too (individual conditional expectation), in `.curves`.
        level: of the interval whose width is explained.

    Returns:
        Explanation: columns quantity, input, at, value, se (over rows: how other rows would move it), mcse (posterior
        draws); `.curves`: quantity, row, at, value.

    Raises:
        PredictionError: rows do not fit, there is no such input, or the model has no answer at some value.
        MissingExtra: scikit-learn is not installed.

    With correlated inputs the average includes rows that do not occur. Curves that cross tell of interactions, which
    the average hides. Friedman (2001); Goldstein, Kapelner, Bleich & Pitkin (2015).
    """
    check_settings("partial_dependence", grid=grid)
    inspection = library("sklearn.inspection", "explain")
    box = Box(predictor, rows, of, level)
    if name not in box.names:
        raise PredictionError(f"There is no input {name!r}; there are {', '.join(box.names)}.")
    place = box.names.index(name)
    points = _points(box, place, at, grid)
    found = inspection.partial_dependence(
        estimator(box), box.table.astype(float), [place], kind="both", method="brute", custom_values={place: points}
    )  # as floats: scikit-learn refuses whole numbers, which some models have alone
    curves = np.moveaxis(np.asarray(found["individual"]), 0, -1)  # (rows, points, outputs)
    value, mcse = box.parted(curves.mean(axis=0))
    each, _ = box.parted(curves)
    count = len(each)
    se = each.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full_like(value, np.nan)
    shown = [box.flat.shown(place, point) for point in points]
    keys = [{"input": name, "at": value} for value in shown]
    table = long_table(box, keys, value=value, se=se, mcse=mcse)
    return Explanation(Kind.DEPENDENCE, predictor.outcome, level, table, _individual(box, shown, each) if ice else None)


def _points(box: Box, place: int, at: Any, grid: int) -> np.ndarray:
    values = box.table[:, place]
    values = values[~np.isnan(values)]
    if at is not None or not len(values):
        points = box.flat.asked(place, [] if at is None else at)
        if points is None:
            wanted = (
                f"of {', '.join(box.flat.labels[place])}" if place in box.flat.labels else "of finite numbers or dates"
            )
            raise PredictionError(f"at is {at!r}; wanted a list {wanted}.")
        return np.unique(points)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= grid:
        return distinct
    if place in box.flat.labels:
        return np.sort(distinct[np.argsort(-counts, kind="stable")[:grid]])
    points = np.quantile(values, np.linspace(0.0, 1.0, grid))
    return np.unique(np.round(points) if box.whole[place] else points)


def _individual(box: Box, points: list[Any], each: np.ndarray) -> "pd.DataFrame":
    import pandas as pd

    count = len(each)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "quantity": quantity.value,
                    "row": np.repeat(np.arange(count), len(points)),
                    "at": points * count,
                    "value": each[:, :, q].ravel(),
                }
            )
            for q, quantity in enumerate(box.quantities)
        ],
        ignore_index=True,
    )
