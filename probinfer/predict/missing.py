"""Rows with missing values, marginalised over values that may stand for them. Imports numpy.

Each row with a gap becomes K copies of itself, one for each value that may stand there; what is predicted is the
mixture of the K laws as well as of the posterior draws.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.tables import as_frame
from probinfer.predict.engine import Answer, Engine
from probinfer.predict.program import Program
from probinfer.predict.rows import available_columns, have_words, read_rows

_MOST = 1000


class Filled(NamedTuple):
    """columns: the inputs of all rows, those with gaps filled by the first value. gaps (rows,): which have any.
    copies: the inputs of those, (rows with gaps, K, *shape); none where a single value stands for each."""

    columns: dict[str, np.ndarray]
    count: int
    gaps: np.ndarray
    copies: dict[str, np.ndarray]


class Marginal:
    """What answers rows of which some have gaps: a `Summariser` of all rows, complete ones as ever."""

    def __init__(self, engine: Engine, filled: Filled) -> None:
        self.program = engine.program
        self._engine, self._filled = engine, filled

    def summarise(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray) -> Answer:
        """As `Engine.summarise`, of exactly the rows that were filled."""
        gaps, copies = self._filled.gaps, self._filled.copies
        if not copies:
            return self._engine.summarise(columns, hashes, levels)
        whole = {name: values[~gaps] for name, values in columns.items()}
        complete = self._engine.summarise(whole, hashes[~gaps], levels)
        mixed = self._engine.summarise(copies, hashes[gaps], levels, copies=next(iter(copies.values())).shape[1])
        return Answer(*(_merged(gaps, *parts) for parts in zip(complete, mixed, strict=True)))


def fill(rows: Any, missing: Any, program: Program, first_row: int) -> Filled:
    """Rows with every gap filled. Raises PredictionError for values that do not fit and for all that `read_rows` does,
    gaps where nothing stands for them among it."""
    if program.family is None:
        raise PredictionError(
            f"{program.outcome} has a law without a closed form; missing= is offered for laws of a family only. Fill "
            "the gaps before predicting."
        )
    standing, size = _standing(missing)
    frame = _by_column(rows, standing)
    holes = {name: _holes(frame[name], values) for name, values in standing.items()}
    length = max((len(mask) for mask in holes.values() if mask.ndim), default=1)
    gaps = np.zeros(length, bool)
    for mask in holes.values():
        gaps |= mask.reshape(len(mask), -1).any(axis=1) if mask.ndim else mask
    first, count = read_rows(_filled(frame, holes, standing, 0, length), program, first_row=first_row)
    if size == 1 or not gaps.any():
        return Filled(first, count, gaps, {})
    where = np.flatnonzero(gaps)
    parts = [{name: values[gaps] for name, values in first.items()}]
    for number in range(1, size):
        parts.append(read_rows(_filled(frame, holes, standing, number, length, where), program)[0])
    copies = {name: np.stack([part[name] for part in parts], axis=1) for name in first}
    return Filled(first, count, gaps, copies)


def _standing(missing: Any) -> tuple[dict[str, np.ndarray], int]:
    missing = as_frame(missing)
    table = hasattr(missing, "iloc") and hasattr(missing, "columns")
    if not (table or isinstance(missing, Mapping)) or not len(missing):
        raise PredictionError(
            f"missing came as {type(missing).__name__ if table else repr(missing)}; wanted a dict of inputs and the "
            "values that may stand for each, such as {'x': x_of_training}, or a table of such columns."
        )
    standing = {str(name): np.asarray(values) for name, values in missing.items()}
    for name, values in standing.items():
        if values.ndim == 0 or not len(values):
            raise PredictionError(f"missing[{name!r}] has no values; wanted an array with an entry for each.")
        if np.any(_empty(values)):
            raise PredictionError(f"missing[{name!r}] has missing values itself; leave those out.")
    sizes = {name: len(values) for name, values in standing.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in sizes.items())
        raise PredictionError(
            f"The values that may stand for missing ones are rows of one table, and differ in number: {listed}."
        )
    size = next(iter(sizes.values()))
    if size > _MOST:
        raise PredictionError(
            f"missing has {size} values for each input, and each is a law of its own for each draw; {_MOST} are the "
            "most. A hundred or so, drawn from them, say as much."
        )
    return standing, size


def _by_column(rows: Any, standing: Mapping[str, np.ndarray]) -> Any:
    """Rows as something that has columns by name: a dict, or a DataFrame."""
    frame = as_frame(rows)
    available = available_columns(frame)
    unknown = [name for name in standing if name not in available]
    if unknown:
        raise PredictionError(
            f"missing names {', '.join(unknown)}, which the rows lack; they have {have_words(available)}."
        )
    return frame


def _holes(column: Any, values: np.ndarray) -> np.ndarray:
    """Which entries of a column are missing; of a vector its own. Checks that `values` have the shape of an entry."""
    array = np.asarray(column)
    mask = _empty(array)
    shape = array.shape[1:] if array.ndim == values.ndim else array.shape
    if shape != values.shape[1:]:
        raise PredictionError(
            f"missing has values of the shape {values.shape[1:]} for entries of the shape {array.shape[1:]}."
        )
    return mask


def _empty(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "fcMm":
        return np.isnan(array) if array.dtype.kind in "fc" else np.isnat(array)
    if array.dtype.kind != "O":
        return np.zeros(array.shape, bool)
    absent = np.frompyfunc(lambda value: value is None or "NA" in type(value).__name__ or value != value, 1, 1)
    with np.errstate(invalid="ignore"):  # Python compares a nan in a way that NumPy is told of, once it does so often
        return np.asarray(absent(array), bool)


def _filled(
    frame: Any,
    holes: Mapping[str, np.ndarray],
    standing: Mapping[str, np.ndarray],
    number: int,
    length: int,
    where: np.ndarray | None = None,
) -> Any:
    """The `length` rows, or those at `where`, with the value of that number in every gap."""
    if isinstance(frame, Mapping):
        taken = {name: _taken(values, where, length) for name, values in frame.items()}
    else:
        taken = frame if where is None else frame.iloc[where]
        taken = taken.copy()
    for name, values in standing.items():
        mask = holes[name] if where is None or not holes[name].ndim else holes[name][where]
        array = np.asarray(taken[name])
        filled = np.where(mask, np.broadcast_to(values[number], array.shape), array)
        taken[name] = _as(filled, values.dtype)
    return taken


def _as(filled: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers as those that stand for gaps, so that whole ones can be codes; as they are where that would change one:
    0.5 in a row without a gap, where whole numbers stand for the gaps of others."""
    if dtype.kind not in "fiub":
        return filled
    try:
        cast = filled.astype(dtype)
    except (TypeError, ValueError):  # text, for what reads rows to refuse
        return filled
    return cast if np.array_equal(cast, filled) else filled


def _taken(values: Any, where: np.ndarray | None, length: int) -> Any:
    per_row = np.ndim(values) > 0 and len(values) == length
    return np.asarray(values)[where] if where is not None and per_row else values


def _merged(gaps: np.ndarray, complete: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    whole = np.empty((len(gaps), *complete.shape[1:]), complete.dtype)
    whole[~gaps], whole[gaps] = complete, mixed
    return whole
