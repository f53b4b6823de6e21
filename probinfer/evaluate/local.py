"""LIME: a linear model of a predictor near a row. Imports numpy; lime when called."""

from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.evaluate.explanation import Box, Explanation, Kind, check_settings, long_table
from probinfer.evaluate.library import library
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor


def lime_weights(
    predictor: Predictor | PointPredictor,
    rows: Any,
    background: Any,
    *,
    of: Any = None,
    level: float = 0.9,
    samples: int = 1000,
    repeats: int = 5,
    seed: int = 0,
) -> Explanation:
    """A linear model of each quantity near each row: what one standard deviation of an input does there.

        q(x') ≈ a + sum over inputs j of value_j (x'_j - m_j) / s_j,   weighted with a normal kernel around the row

    m and s the background's means and sds; by the library lime (ridge regression on random rows near by). An input of
    whole numbers is a category: its value is the effect of being as in this row, instead of another.

    Args:
        predictor: what is explained.
        rows: the rows to explain, as for `Predictor.predict`.
        background: rows whose spread says what near is, such as the training data; two or more.
        of: a `Quantity`, or several; None takes mean, sd and width.
        level: of the interval whose width is explained.
        samples: random rows for each fit.
        repeats: fits with new random rows, 2 or more; their spread is the error.
        seed: of the random rows.

    Returns:
        Explanation: columns quantity, row, input, at (its value), value, se (over repeats), mcse (posterior draws), r2
        (how well the line fits near by; read no weights where it is low).

    Raises:
        PredictionError: rows or background do not fit or have gaps, or a random row is one that the model has no
            answer for.
        MissingExtra: lime is not installed.

    The weights depend on how wide near is (0.75 sqrt(inputs) sds) and on the ridge. For shares that add up take
    `shap_values`. Ribeiro, Singh & Guestrin (2016), KDD.
    """
    check_settings("lime_weights", samples=samples, repeats=repeats, seed=seed)
    if repeats < 2:
        raise PredictionError("repeats is 1; wanted 2 or more, for the error.")
    tabular = library("lime.lime_tabular", "explain")
    box = Box(predictor, rows, of, level)
    behind = box.read(background)
    if len(behind) < 2:
        raise PredictionError(
            f"The background has {len(behind)} rows; wanted two or more, whose spread says what near is."
        )
    for what, table in (("rows", box.table), ("background", behind)):
        if gap := box.flat.missing(table):
            raise PredictionError(
                f"LIME has no distance to what is missing, and of the {what} {gap}. Fill it in before."
            )
    outputs = len(box(box.table[:1])[0])
    weights = np.zeros((repeats, *box.table.shape, outputs))
    fits = np.zeros((repeats, len(box.table), outputs))
    for r in range(repeats):
        for i, row in enumerate(box.table):
            asked: dict[bytes, np.ndarray] = {}  # every output is asked about the same random rows

            def answers(table: np.ndarray, asked: dict[bytes, np.ndarray] = asked) -> np.ndarray:
                key = np.ascontiguousarray(table).tobytes()
                if key not in asked:
                    try:
                        asked[key] = box(table)
                    except PredictionError as error:
                        raise PredictionError(
                            "LIME asks about random rows near yours, and the model has no answer for one of them: "
                            f"{error} shap_values asks about values of the background alone."
                        ) from error
                return asked[key]

            for k in range(outputs):
                explainer = tabular.LimeTabularExplainer(
                    behind,
                    mode="regression",
                    feature_names=box.names,
                    categorical_features=np.flatnonzero(box.whole).tolist(),
                    discretize_continuous=False,
                    random_state=(seed + r) % 2**32,
                )
                found = explainer.explain_instance(
                    row, lambda t, k=k: answers(t)[:, k], num_features=len(box.names), num_samples=samples
                )
                for place, weight in found.local_exp[1]:
                    weights[r, i, place, k] = weight
                fits[r, i, k] = found.score
    value, mcse = box.parted(weights.mean(axis=0).reshape(-1, outputs))
    se = box.parted((weights.std(axis=0, ddof=1) / np.sqrt(repeats)).reshape(-1, outputs))[0]
    r2 = np.repeat(box.parted(fits.mean(axis=0))[0], len(box.names), axis=0)
    table = long_table(box, box.cells, value=value, se=se, mcse=mcse, r2=r2)
    return Explanation(Kind.LIME, predictor.outcome, level, table)
