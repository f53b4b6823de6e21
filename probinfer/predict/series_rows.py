"""What comes to a forecaster, checked: observations of times. Imports numpy."""

from typing import Any

import numpy as np

from probinfer.errors import DataError, PredictionError
from probinfer.model.series import Series, read_series
from probinfer.predict.family import Support
from probinfer.predict.motion import Motion


def read_observations(y: Any, motion: Motion) -> Series:
    """Observations (n, *event) as the model takes them, NaN where missing. Raises PredictionError for what is none."""
    try:
        values, observed = read_series(y, missing=True)
    except DataError as error:
        raise PredictionError(str(error)) from None
    if motion.event == () and motion.linear and values.ndim == 2 and values.shape[1] == 1:
        values, observed = values[:, 0], observed[:, 0]
    if values.shape[1:] != motion.event:
        raise PredictionError(
            f"observations have the shape {np.shape(y)}, one row for each time; wanted "
            f"{('n', *motion.event)}, n times".replace("'", "")
            + ", as those that the parameters were inferred from."
        )
    parts = observed.reshape(len(observed), -1)
    partly = parts.any(axis=1) & ~parts.all(axis=1)
    if partly.any() and not motion.apart:
        raise PredictionError(
            f"observations are partly NaN in row {int(np.argmax(partly))}, but the entries of one observation are "
            "not independent given the state. Make the whole row NaN."
        )
    support = motion.family.support if motion.family else None
    if motion.discrete and np.any(wrong := observed & ~_possible(values, support, motion.probabilities)):
        row = int(np.argwhere(wrong)[0][0])
        raise PredictionError(
            f"observations hold {values[row].tolist()} in row {row}; wanted whole numbers"
            + (f", {support.value}." if support else ".")
        )
    return Series(values.astype(motion.kinds[0]), observed)


def _possible(values: np.ndarray, support: Support | None, many: int) -> np.ndarray:
    """Which values a discrete law can give."""
    whole = values == np.floor(values)
    if support is None:
        return whole
    top = many - 1 if support in (Support.BINARY, Support.CLASSES) else np.inf
    return whole & (values >= 0) & (values <= top)


def check_horizon(motion: Motion, first: int, steps: int) -> None:
    """Raise PredictionError for times that the model does not know."""
    horizon = motion.horizon
    if horizon is not None and first + steps > horizon:
        raise PredictionError(
            f"The times {first} to {first + steps - 1} were asked for, and the model looks into an array by the time "
            f"that ends with time {horizon - 1}: what drives the series later is not known. Infer with arrays that "
            "hold the future too (regressors, calendars, matrices of each time)."
        )
