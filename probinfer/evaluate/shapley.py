"""SHAP values of a predictor. Imports numpy; shap when called."""

from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.evaluate.explanation import Box, Explanation, Kind, check_settings, long_table
from probinfer.evaluate.library import library
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor

_EXACT = 8  # inputs up to which all coalitions are tried
_BACKGROUND = 100


def shap_values(
    predictor: Predictor | PointPredictor,
    rows: Any,
    background: Any,
    *,
    of: Any = None,
    level: float = 0.9,
    permutations: int | None = None,
    seed: int = 0,
) -> Explanation:
    """How each input moves a row's prediction away from that of the background, in shares that add up.

        sum over inputs j of value_j(x) = q(x) - mean over the background of q,   q the mean, sd, width

    Shapley's values of the game in which absent inputs are those of background rows, by the library shap: exact, with
    all coalitions, up to eight inputs; with random orders beyond.

    Args:
        predictor: what is explained.
        rows: the rows to explain, as for `Predictor.predict`.
        background: rows to compare with, such as the training data; 100 of them at most are used, drawn from the seed.
        of: a `Quantity`, or several; None takes mean, sd and width.
        level: of the interval whose width is explained.
        permutations: random orders (each forth and back), 2 or more; None is exact up to eight inputs, else 8.
        seed: of the orders and of the background's choice.

    Returns:
        Explanation: columns quantity, row, input, at (its value), value, se (over orders; 0 if exact), mcse (posterior
        draws), base (mean over the background).

    Raises:
        PredictionError: rows or background do not fit.
        MissingExtra: shap is not installed.

    Costs rows x coalitions x background predictions. The background is part of the question: other rows to compare
    with, other values. Lundberg & Lee (2017), NeurIPS; Štrumbelj & Kononenko (2014).
    """
    check_settings("shap_values", seed=seed)
    if permutations is not None:
        check_settings("shap_values", permutations=permutations)
        if permutations < 2:
            raise PredictionError("permutations is 1; wanted 2 or more, for the error, or None.")
    shap = library("shap", "explain")
    box = Box(predictor, rows, of, level)
    behind = box.read(background)
    if not len(behind):
        raise PredictionError("The background has no rows; wanted at least one.")
    if len(behind) > _BACKGROUND:
        behind = behind[np.random.default_rng(seed).choice(len(behind), _BACKGROUND, replace=False)]
    exact = permutations is None and len(box.names) <= _EXACT
    masker = shap.maskers.Independent(behind, max_samples=len(behind))
    if exact:
        explained = shap.explainers.Exact(box, masker)(box.table, silent=True)
        runs = np.asarray(explained.values).reshape(1, *box.table.shape, -1)
    else:
        evaluations = 2 * len(box.names) + 1
        runs = np.stack(
            [
                np.asarray(
                    shap.explainers.Permutation(box, masker, seed=seed + i)(
                        box.table, max_evals=evaluations, silent=True
                    ).values
                ).reshape(*box.table.shape, -1)  # of a single output it leaves out the axis
                for i in range(permutations or 8)
            ]
        )
    values = runs.mean(axis=0)  # (rows, inputs, outputs)
    spread = np.zeros_like(values) if exact else runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    flat, se = (part.reshape(-1, part.shape[-1]) for part in (values, spread))
    value, mcse = box.parted(flat)
    base, _ = box.parted(box(behind).mean(axis=0))
    columns = {"value": value, "se": box.parted(se)[0], "mcse": mcse, "base": np.broadcast_to(base, value.shape)}
    return Explanation(Kind.SHAP, predictor.outcome, level, long_table(box, box.cells, **columns))
