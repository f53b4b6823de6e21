"""Rows divided: into parts for training, calibrating and testing, and into folds. scikit-learn only when called."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from probinfer.errors import DataError
from probinfer.evaluate.extra import sklearn
from probinfer.inference.draw import key_words
from probinfer.model.tables import as_frame, how_to_make_a_table


def split(
    data: Any,
    parts: Sequence[float] = (0.8, 0.2),
    *,
    rows: str | None = None,
    groups: Any = None,
    stratify: Any = None,
    ordered: bool = False,
    seed: Any = 0,
) -> tuple[Any, ...]:
    """Divide the rows of data at random: `train, validation, test = pi.split(data, (0.6, 0.2, 0.2))`.

    Args:
        data: dict of arrays or a table. Arrays whose first axis counts the rows are divided, others go to every part.
        parts: shares of the rows, above 0 and together 1.
        rows: name of an array with one entry for each row; needed where arrays differ in length.
        groups: one label for each row, or the name of a column of the data that has them; rows of a group stay
            together, and the shares are of groups.
        stratify: one label for each row, or the name of a column; each part has about its share of every label.
        ordered: do not shuffle: the first rows go to the first part, for rows in the order of time.
        seed: whole number or jax key.

    Returns:
        One piece of the data for each part, of the same kind; of a table a pandas DataFrame.

    Raises:
        DataError: the parts are no shares, a part would be empty, labels do not match the rows, or it is not known what
            counts the rows.

    >>> train, test = split({"x": np.arange(10.0), "n_groups": 3}, (0.7, 0.3))
    >>> len(train["x"]), len(test["x"]), test["n_groups"]
    (7, 3, 3)
    """
    try:
        shares = np.asarray(parts, float)
    except (TypeError, ValueError):
        shares = np.zeros(0)
    if shares.ndim != 1 or len(shares) < 2 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-9:
        raise DataError(f"parts is {parts!r}; wanted shares of the rows, above 0 and together 1, such as (0.8, 0.2).")
    if ordered and (groups is not None or stratify is not None):
        raise DataError("ordered=True divides rows by their place; leave out groups and stratify.")
    if groups is not None and stratify is not None:
        raise DataError("groups and stratify came together; wanted one of them.")
    data = as_frame(data)
    count = _count(data, rows)
    groups, stratify = labels_of(data, "groups", groups), labels_of(data, "stratify", stratify)
    generator = np.random.default_rng(key_words(seed))
    if groups is not None:
        _, codes = np.unique(_labels("groups", groups, count), return_inverse=True)
        chosen = _divide(generator.permutation(codes.max() + 1), shares)
        numbers = [np.flatnonzero(np.isin(codes, some)) for some in chosen]
    elif stratify is not None:
        _, codes = np.unique(_labels("stratify", stratify, count), return_inverse=True)
        # rows of one label next to each other, then dealt out evenly: every part gets its share of each
        order = np.lexsort((generator.random(count), codes))
        numbers = _dealt(order, shares, generator)
    else:
        numbers = _divide(np.arange(count) if ordered else generator.permutation(count), shares)
    if not all(len(some) for some in numbers):
        what = "groups" if groups is not None else "rows"
        raise DataError(f"Parts {tuple(parts)} of so few {what} leave one empty; wanted at least one in each.")
    return tuple(_piece(data, np.sort(some), count) for some in numbers)


def labels_of(data: Any, what: str, labels: Any) -> Any:
    """The labels of the rows; where they are the name of a column, the column. Raises DataError where there is none."""
    if not isinstance(labels, str):
        return labels
    have = list(data) if isinstance(data, Mapping) else list(getattr(data, "columns", ()))
    if labels not in have:
        listed = ", ".join(map(str, have[:20])) or "no columns"
        raise DataError(
            f"{what} names {labels!r}, which is no column of the data; they have {listed}. Labels that the model does "
            f"not take are passed themselves: {what}=frame[{labels!r}]."
        )
    return data[labels]


def folds_of(
    cv: Any, outcomes: np.ndarray, groups: Any, classes: bool, seed: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the rows to train on and to leave out, for each fold.

    cv: number of folds (shuffled; with `groups` whole groups; of classes stratified where each has enough rows), a
    splitter of scikit-learn, or pairs of arrays.
    """
    count = len(outcomes)
    labels = None if groups is None else _labels("groups", groups, count)
    if isinstance(cv, int | np.integer) and not isinstance(cv, bool):
        things = count if labels is None else len(np.unique(labels))
        if things < 2:
            kind = "row" if labels is None else "group"
            raise DataError(f"There is only one {kind}, which cannot be trained on and left out; wanted two or more.")
        if not 2 <= cv <= things:
            raise DataError(
                f"cv is {cv}; wanted from 2 to {things} folds, the number of {'rows' if labels is None else 'groups'}."
            )
        known, state = sklearn("model_selection"), int(key_words(seed)[0])
        if labels is not None:
            cv = known.GroupKFold(int(cv), shuffle=True, random_state=state)
        elif classes and np.unique(outcomes, return_counts=True)[1].min() >= cv:
            cv = known.StratifiedKFold(int(cv), shuffle=True, random_state=state)
        else:
            cv = known.KFold(int(cv), shuffle=True, random_state=state)
    if callable(getattr(cv, "split", None)) and not isinstance(cv, str | type):
        try:
            pairs = list(cv.split(np.zeros((count, 1)), outcomes if outcomes.ndim == 1 else None, labels))
        except ValueError as error:
            raise DataError(f"{type(cv).__name__} cannot divide these rows: {error}") from error
    elif isinstance(cv, Iterable) and not isinstance(cv, str | Mapping | type):
        pairs = list(cv)
    else:
        raise DataError(
            f"cv came as {f'the class {cv.__name__}' if isinstance(cv, type) else repr(cv)}; wanted a number of folds, "
            "a splitter such as sklearn.model_selection.TimeSeriesSplit(5), or pairs (rows to train on, rows to leave "
            "out)."
        )
    if not pairs:
        raise DataError("cv gives no folds; wanted one at least.")
    return _checked(pairs, count)


def _checked(pairs: list[Any], count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    times = np.zeros(count, int)
    folds = []
    for number, pair in enumerate(pairs):
        try:
            train, test = (np.asarray(part) for part in pair)
            if train.ndim != 1 or test.ndim != 1:
                raise ValueError
            train, test = np.unique(train), np.unique(test)
        except (TypeError, ValueError):
            raise DataError(f"fold {number} is no pair of arrays (rows to train on, rows to leave out).") from None
        for part in (train, test):
            if not len(part) or part.dtype.kind not in "iu" or part[0] < 0 or part[-1] >= count:
                raise DataError(f"fold {number} has to name rows by whole numbers from 0 to {count - 1}, one at least.")
        if np.isin(test, train).any():
            raise DataError(
                f"fold {number} trains on rows that it leaves out, row {test[np.isin(test, train)][0]} for one."
            )
        times[test] += 1
        folds.append((train, test))
    if times.max() > 1:
        raise DataError(
            f"Row {int(np.argmax(times))} is left out by {times.max()} folds; wanted each row left out once at most, "
            "so that it has one prediction. Repeat the cross-validation with other seeds instead."
        )
    return folds


def _labels(name: str, labels: Any, count: int) -> np.ndarray:
    values = np.asarray(labels)
    if values.shape != (count,):
        raise DataError(f"{name} has the shape {values.shape}; wanted one label for each of {count} rows.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{name} has labels that are not finite; give every row one.")
    if values.dtype.kind in "OM":
        import pandas as pd

        missing = pd.isna(values)
        if missing.any():
            raise DataError(
                f"{name} has no label in row {int(np.argmax(missing))} (the first row is row 0); give every row one."
            )
    return values.astype(str) if values.dtype.kind == "O" else values


def _count(data: Any, rows: str | None) -> int:
    if hasattr(data, "iloc"):
        return len(data)
    if not isinstance(data, Mapping):
        raise DataError(
            f"data came as {type(data).__name__}; wanted a dict of arrays or a table.{how_to_make_a_table(data)}"
        )
    lengths = {name: np.shape(value)[0] for name, value in data.items() if np.ndim(value)}
    if rows is not None:
        if rows not in lengths:
            raise DataError(f"rows names {rows!r}, which is no array of the data ({', '.join(lengths) or 'none'}).")
        return lengths[rows]
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "there are no arrays"
        raise DataError(
            f"It is not clear what counts the rows ({listed}); name an array with one entry each, rows='y'."
        )
    return next(iter(lengths.values()))


def _divide(order: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    ends = np.round(np.cumsum(shares) * len(order)).astype(int)
    return [order[a:b] for a, b in pairwise([0, *ends])]


def _dealt(order: np.ndarray, shares: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Row i of the order goes to the part that is furthest behind its share so far."""
    behind = generator.random(len(shares)) * 1e-6
    part = np.empty(len(order), int)
    for i in range(len(order)):
        behind += shares
        part[i] = int(np.argmax(behind))
        behind[part[i]] -= 1.0
    return [order[part == k] for k in range(len(shares))]


def _piece(data: Any, numbers: np.ndarray, count: int) -> Any:
    if hasattr(data, "iloc"):
        return data.iloc[numbers]
    return {
        name: np.asarray(value)[numbers] if np.ndim(value) and np.shape(value)[0] == count else value
        for name, value in data.items()
    }
