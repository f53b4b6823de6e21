"""Permutation importance: how far a prediction moves when an input is shuffled. Imports numpy; scikit-learn later."""

from typing import Any

import numpy as np

from probinfer.evaluate.explanation import Box, Explanation, Kind, check_settings, long_table
from probinfer.evaluate.library import library
from probinfer.evaluate.sklearn_box import estimator
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor
from probinfer.predict.rows import read_outcomes


def permutation_importance(
    predictor: Predictor | PointPredictor,
    rows: Any,
    outcomes: Any = None,
    *,
    of: Any = None,
    level: float = 0.9,
    repeats: int = 10,
    seed: int = 0,
) -> Explanation:
    """How much each input matters: what shuffling it among the rows does.

        value = sqrt(mean over rows and shuffles of (q(x with input j shuffled) - q(x))²)   for q the mean, sd, width

    in the unit of the outcome; and with outcomes the loss of the mean log score, for which larger is worse predictions.
    A point model of numbers has no log score: of it the rise of the root mean squared error, "rmse". By scikit-learn's
    `permutation_importance`.

    Args:
        predictor: what is explained.
        rows: as for `Predictor.predict`; the result is about this population.
        outcomes: what came, (rows,), to have the loss too; rows held out, or it flatters the model.
        of: a `Quantity`, or several; None takes mean, sd and width.
        level: of the interval whose width is explained.
        repeats: shuffles of each input.
        seed: of the shuffles.

    Returns:
        Explanation: columns quantity, input, value, se (over shuffles), mcse (posterior draws).

    Raises:
        PredictionError: rows or outcomes do not fit, or the outcome cannot be explained.
        MissingExtra: scikit-learn is not installed.

    Shuffling one of two correlated inputs makes rows that do not occur; each then looks less important than both are.
    Breiman (2001), Machine Learning 45; Fisher, Rudin & Dominici (2019), JMLR 20.
    """
    check_settings("permutation_importance", repeats=repeats, seed=seed)
    inspection = library("sklearn.inspection", "explain")
    box = Box(predictor, rows, of, level)
    before = box(box.table)
    judge = None if outcomes is None else _Judge(predictor, outcomes, len(box.table))

    def score(_: Any, table: np.ndarray, __: Any) -> dict[str, float]:
        found = dict(enumerate(-((box(table) - before) ** 2).mean(axis=0)))
        scores = {f"{number}": float(value) for number, value in found.items()}
        if judge is not None:
            scores[judge.name] = judge(box.flat.columns(table))
        return scores

    found = inspection.permutation_importance(
        estimator(box), box.table, None, scoring=score, n_repeats=repeats, random_state=seed % 2**32
    )
    squares = np.stack(
        [found[f"{k}"].importances for k in range(before.shape[1])], axis=-1
    )  # (inputs, repeats, outputs)
    value, mcse = box.parted(np.sqrt(np.maximum(squares.mean(axis=1), 0.0)))
    spread, _ = box.parted(_over(np.sqrt(np.maximum(squares, 0.0))))
    table = long_table(box, [{"input": name} for name in box.names], value=value, se=spread, mcse=mcse)
    if judge is not None:
        import pandas as pd

        losses = found[judge.name].importances
        more = {"quantity": judge.name, "input": box.names, "value": losses.mean(axis=1), "se": _over(losses)}
        table = pd.concat([table, pd.DataFrame(more)], ignore_index=True)
    return Explanation(Kind.PERMUTATION, predictor.outcome, level, table)


class _Judge:
    """How good predictions of the outcomes are, larger is better. Raises PredictionError where outcomes do not fit."""

    def __init__(self, predictor: Predictor | PointPredictor, outcomes: Any, count: int) -> None:
        point = isinstance(predictor, PointPredictor)
        self._predictor, self._outcomes = predictor, outcomes
        came = predictor.outcomes(outcomes, count) if point else read_outcomes(outcomes, predictor.program, count)
        self._came = came
        self.name = "rmse" if point and predictor.classes is None else "log_score"

    def __call__(self, rows: Any) -> float:
        """The mean log score, or of a point model of numbers the root mean squared error with its sign turned."""
        if not isinstance(self._predictor, PointPredictor) or self._predictor.classes is not None:
            return float(self._predictor.log_score(rows, self._outcomes).mean())
        values, _ = self._predictor.with_calibration(None).ask(rows)
        return -float(np.sqrt(np.mean((self._predictor.expected(values) - self._came) ** 2)))


def _over(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the second axis; nan for a single value."""
    count = values.shape[1]
    return values.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.full_like(values[:, 0], np.nan)
