"""Rows to train on and rows held out, from data by the model's arguments. Imports numpy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import DataError, MethodError
from probinfer.model.model import BoundModel


class Split(NamedTuple):
    """training: data by the model's arguments. rows, outcomes: what is predicted. held_out: their numbers."""

    training: dict[str, Any]
    rows: dict[str, Any]
    outcomes: np.ndarray
    held_out: np.ndarray


def split_rows(
    bound: BoundModel, outcome: str, data: Mapping[str, Any], validation: Any, rows: Any, seed: int
) -> Split:
    """Split the arrays that have one entry for each row; all other data stay whole.

    Args:
        bound: the model with its data.
        outcome: name of the observed site.
        data: by the model's arguments.
        validation: share held out, drawn at random from the seed, or numbers of the rows held out.
        rows: names of the arrays to split; None takes all with as many entries as the outcome.
        seed: of the random split.

    Raises:
        DataError: the outcome is no argument, names are unknown, or lengths disagree.
        MethodError: `validation` leaves no row on one of the sides, or names rows that do not exist.
    """
    argument = bound.observed_arguments.get(outcome)
    if argument is None or argument not in data:
        raise DataError(f"The outcome {outcome} is not one of the data, so no rows of it can be held out.")
    arrays = {name: np.asarray(value) for name, value in data.items() if value is not None and np.ndim(value) > 0}
    count = len(arrays[argument]) if argument in arrays else 0
    if rows is None:
        names = [name for name, values in arrays.items() if len(values) == count]
    else:
        names = list(dict.fromkeys([*([rows] if isinstance(rows, str) else rows), argument]))
        unknown = [name for name in names if name not in arrays]
        if unknown:
            raise DataError(f"rows names {', '.join(unknown)}; arrays are {', '.join(arrays)}.")
        uneven = [f"{name} has {len(arrays[name])}" for name in names if len(arrays[name]) != count]
        if uneven:
            raise DataError(f"{argument} has {count} rows, {', '.join(uneven)}; each needs one entry for every row.")
    held_out = _held_out(validation, count, seed)
    kept = np.setdiff1d(np.arange(count), held_out)
    if not len(kept) or not len(held_out):
        raise MethodError(
            f"validation={_brief(validation)} of {count} rows leaves {len(kept)} to train and {len(held_out)} to hold "
            "out; wanted some of both."
        )
    training = {name: arrays[name][kept] if name in names else value for name, value in data.items()}
    new = {name: arrays[name][held_out] for name in names if name != argument}
    return Split(training, new, arrays[argument][held_out], held_out)


def _held_out(validation: Any, count: int, seed: int) -> np.ndarray:
    if isinstance(validation, float):
        if not 0 < validation < 1:
            raise MethodError(f"validation is {validation!r}; wanted a share between 0 and 1, or row numbers.")
        size = round(validation * count)
        return np.sort(np.random.default_rng(seed).permutation(count)[:size])
    chosen = np.asarray(validation)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise MethodError(
            f"validation is {_brief(validation)}; wanted a share between 0 and 1, or a list of row numbers, such as "
            "numpy.flatnonzero(mask)."
        )
    if len(chosen) and not (0 <= chosen.min() and chosen.max() < count):
        raise MethodError(f"validation names row {chosen.max()} or {chosen.min()}; there are rows 0 to {count - 1}.")
    return np.unique(chosen)


def _brief(validation: Any) -> str:
    """A value as it came; of many its type."""
    many = isinstance(validation, Mapping) or np.ndim(validation) > 0
    return type(validation).__name__ if many else repr(validation)
