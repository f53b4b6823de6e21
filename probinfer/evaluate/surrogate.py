"""A small tree that imitates a predictor. Imports numpy; scikit-learn when called."""

from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.evaluate.explanation import Box, Explanation, Kind, check_settings
from probinfer.evaluate.flat_table import FlatTable
from probinfer.evaluate.library import library
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor


def surrogate_tree(
    predictor: Predictor | PointPredictor,
    rows: Any,
    *,
    of: Any = None,
    max_depth: int = 3,
    level: float = 0.9,
    seed: int = 0,
) -> Explanation:
    """A regression tree of a few rules that comes as near to the predictor as it can, for each quantity one.

    By scikit-learn's DecisionTreeRegressor, fitted to what the predictor says of these rows.

    Args:
        predictor: what is explained.
        rows: as for `Predictor.predict`, ten or more; the rules are about this population.
        of: a `Quantity`, or several; None takes mean, sd and width.
        max_depth: of the tree: rules have at most so many conditions.
        level: of the interval whose width is explained.
        seed: of the folds of the fidelity and of ties.

    Returns:
        Explanation: a row for each leaf, columns quantity, rule, share (of rows), value (mean of the predictor there),
        se (over rows), mcse (posterior draws), and fidelity: R² of the tree on rows that it was not fitted to, five
        folds. Read no rule of a tree whose fidelity is low.

    Raises:
        PredictionError: rows do not fit, or are fewer than ten.
        MissingExtra: scikit-learn is not installed.

    Craven & Shavlik (1996), NeurIPS.
    """
    import pandas as pd

    check_settings("surrogate_tree", max_depth=max_depth, seed=seed)
    tree, selection = (library(f"sklearn.{name}", "explain") for name in ("tree", "model_selection"))
    box = Box(predictor, rows, of, level)
    if len(box.table) < 10:
        raise PredictionError(f"A surrogate needs ten rows or more; came {len(box.table)}.")
    answers = box(box.table)
    values, _ = box.parted(answers)
    parts = []
    for q, quantity in enumerate(box.quantities):
        model = tree.DecisionTreeRegressor(max_depth=max_depth, random_state=seed % 2**32)
        folds = selection.KFold(5, shuffle=True, random_state=seed % 2**32)
        guessed = selection.cross_val_predict(model, box.table, values[:, q], cv=folds)
        spread = values[:, q].var()
        varies = spread > (1e-12 * np.abs(values[:, q]).max()) ** 2  # more than by rounding
        fidelity = 1 - np.mean((guessed - values[:, q]) ** 2) / spread if varies else np.nan
        leaves = model.fit(box.table, values[:, q]).apply(box.table)
        for leaf, rule in _rules(model.tree_, box.flat).items():
            inside = leaves == leaf
            mean, mcse = (part[q] for part in box.parted(answers[inside].mean(axis=0)))
            own, count = values[inside, q], int(inside.sum())
            parts.append(
                {
                    "quantity": quantity.value,
                    "rule": rule,
                    "share": count / len(leaves),
                    "value": float(mean),
                    "se": float(own.std(ddof=1) / np.sqrt(count)) if count > 1 else np.nan,
                    "mcse": float(mcse),
                    "fidelity": float(fidelity),
                }
            )
    return Explanation(Kind.SURROGATE, predictor.outcome, level, pd.DataFrame(parts))


def _rules(tree: Any, flat: FlatTable) -> dict[int, str]:
    """The conditions that lead to each leaf, in words."""
    found: dict[int, str] = {}

    def walk(node: int, limits: dict[int, tuple[float, float, bool]]) -> None:
        """`limits` of the columns asked about so far: above, up to, and whether what is missing comes here too."""
        if tree.children_left[node] == tree.children_right[node]:
            told = [flat.condition(column, low, high, missing=gaps) for column, (low, high, gaps) in limits.items()]
            found[node] = " and ".join(told) or "always"
            return
        column, threshold, left = tree.feature[node], tree.threshold[node], bool(tree.missing_go_to_left[node])
        low, high, gaps = limits.get(column, (-np.inf, np.inf, True))
        walk(tree.children_left[node], limits | {column: (low, min(high, threshold), gaps and left)})
        walk(tree.children_right[node], limits | {column: (max(low, threshold), high, gaps and not left)})

    walk(0, {})
    return found
