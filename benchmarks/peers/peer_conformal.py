"""MAPIE and crepes on calibration data of benchmarks/conformal.py: reads paths of .npz files, answers in .npz files.

A file holds point predictions and outcomes of the calibration rows, point predictions of the new rows, and groups of
both. Both libraries get the same point predictions, so that what differs is the calibration alone. It also holds rows
to train on, for intervals without calibration rows (CV+), with the folds and the seed of the model.
"""

import sys
import time

import numpy as np
from crepes import ConformalPredictiveSystem, ConformalRegressor
from mapie.regression import CrossConformalRegressor, SplitConformalRegressor
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import KFold


class Given(RegressorMixin, BaseEstimator):
    """Predicts what it is given."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]


def main() -> None:
    for line in sys.stdin:
        path = line.strip()
        data = np.load(path)
        kept, y, new, level = data["kept"], data["y"], data["new"], float(data["level"])
        split = SplitConformalRegressor(Given().fit(None), confidence_level=level, prefit=True)
        split.conformalize(kept[:, None], y)
        _, both = split.predict_interval(new[:, None])
        residuals = y - kept
        plain = ConformalRegressor().fit(residuals).predict_int(new, confidence=level)
        groups, theirs = data["groups"], data["new_groups"]
        mondrian = ConformalRegressor().fit(residuals, bins=groups).predict_int(new, bins=theirs, confidence=level)
        system = ConformalPredictiveSystem().fit(residuals)
        low, high = 50 * (1 - level), 50 * (1 + level)
        tails = system.predict(new, lower_percentiles=low, higher_percentiles=high)
        crps = system.evaluate(new, data["new_y"], confidence=level, metrics=["CRPS"])["CRPS"]
        seed, folds = int(data["seed"]), int(data["folds"])
        began = time.perf_counter()
        cross = CrossConformalRegressor(
            GradientBoostingRegressor(random_state=seed),
            confidence_level=level,
            cv=KFold(folds, shuffle=True, random_state=seed),
        )
        cross.fit_conformalize(data["train"], data["train_y"])
        _, crossed = cross.predict_interval(data["new_x"])
        seconds = time.perf_counter() - began
        np.savez(
            path + ".out.npz",
            **{"MAPIE": both[:, :, 0], "crepes": plain, "crepes Mondrian": mondrian, "crepes system": tails[:, -2:]},
            **{"MAPIE, CV+": crossed[:, :, 0]},
            crps=crps,
            seconds=seconds,
        )
        print("done", flush=True)


if __name__ == "__main__":
    main()
