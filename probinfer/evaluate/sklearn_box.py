"""A black box as scikit-learn's inspection takes it: a fitted regressor. Imports scikit-learn when called."""

from typing import Any

import numpy as np

from probinfer.evaluate.explanation import Box
from probinfer.evaluate.library import library


def estimator(box: Box) -> Any:
    """A regressor whose `predict` is the box, several outputs at once; it counts as fitted."""
    base = library("sklearn.base", "explain")

    class Explained(base.RegressorMixin, base.BaseEstimator):
        """Nothing is fitted."""

        def fit(self, x: Any, y: Any = None) -> Any:
            return self

        def predict(self, x: Any) -> np.ndarray:
            return box(np.asarray(x, float))

        def __sklearn_is_fitted__(self) -> bool:
            return True

    return Explained()
