"""Two least-squares regressions to compare with: one line for all counties, a level for each. numpy, pandas."""

import numpy as np
import pandas as pd


def pooled(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Predictions of log_radon for `test` from one regression on uranium and floor, whatever the county."""
    coefficients, *_ = np.linalg.lstsq(_design(train), train["log_radon"].to_numpy(), rcond=None)
    return _design(test) @ coefficients


def unpooled(train: pd.DataFrame, test: pd.DataFrame, minimum: int = 2) -> np.ndarray:
    """Predictions of log_radon for `test` from a regression with a level for every county and one floor effect.

    A county's level is the mean over its own houses of log_radon - floor effect · floor. Counties with fewer than
    `minimum` houses in `train` have no level worth the name and take the pooled prediction.
    """
    groups = train.groupby("county")
    centred = train[["floor", "log_radon"]] - groups[["floor", "log_radon"]].transform("mean")
    floor_effect = (centred["floor"] @ centred["log_radon"]) / (centred["floor"] @ centred["floor"])
    level = groups["log_radon"].mean() - floor_effect * groups["floor"].mean()
    level = level[groups.size() >= minimum]
    own = test["county"].map(level) + floor_effect * test["floor"]
    return np.where(own.isna(), pooled(train, test), own)


def rmse(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Root of the mean squared difference, in the units of the outcome."""
    return float(np.sqrt(np.mean((predicted - observed) ** 2)))


def _design(houses: pd.DataFrame) -> np.ndarray:
    return np.column_stack([np.ones(len(houses)), houses["log_uranium"], houses["floor"]])
