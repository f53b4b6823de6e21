"""Raw rows in; columns of numbers, labels or dates out, with what is missing marked. Imports numpy; pandas where
used.

Rows are a dict of columns (or of single values: one row), a pandas DataFrame, a pyarrow Table or RecordBatch, or any
table that hands out its columns as an Arrow stream, such as that of polars.
"""

import datetime
import decimal
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from probinfer.errors import ProbinferError
from probinfer.model.data import KINDS
from probinfer.model.tables import as_table, how_to_make_a_table, is_arrow, is_of

if TYPE_CHECKING:
    import pandas as pd

_WHOLE = re.compile(r"-?\d+\.0+")  # how a column of whole numbers with gaps is written
_CLOCK = ("today", "now")  # NumPy would look at the clock: an answer that changes from day to day
_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)\s*$")


class Kind(Enum):
    """What a column holds, as the steps read it."""

    NUMBER = "numbers"
    LABEL = "labels"
    DATE = "dates"


@dataclass(frozen=True)
class Place:
    """Where rows stand, for errors: which error their faults are, and the number of the first of them."""

    error: type[ProbinferError]
    first_row: int = 0

    def fail(self, text: str) -> NoReturn:
        """Raise the place's error."""
        raise self.error(text)

    def at(self, bad: np.ndarray) -> str:
        """The first bad row, and how many more."""
        first, count = int(np.argmax(bad)) + self.first_row, int(bad.sum())
        return f"in row {first}" + (f" and {count - 1} more" if count > 1 else "") + " (the first row is row 0)"


def column_names(rows: Any, place: Place) -> list[str]:
    """Names of the columns of raw rows, in their order."""
    rows = as_table(rows)
    if isinstance(rows, Mapping):
        return list(rows)
    if is_of(rows, "pandas", "DataFrame"):
        return list(rows.columns)
    if is_arrow(rows):
        return list(rows.schema.names)
    place.fail(
        f"rows came as {type(rows).__name__}; wanted a table (pandas, polars, pyarrow), or a dict of columns, such "
        f"as {{'age': [41, 28], 'region': ['north', 'west']}}.{how_to_make_a_table(rows)}"
    )


def take_columns(rows: Any, names: Iterable[str], known: Iterable[str], place: Place) -> tuple[dict[str, Any], int]:
    """The columns called `names`, each (rows,), as they came, and the number of rows.

    Columns of a table that nobody asked for are ignored; keys of a dict that are not among `known` either are a
    mistake. Raises the place's error for missing, repeated or unknown names, and columns of different lengths.
    """
    rows = as_table(rows)
    have, names = column_names(rows, place), list(dict.fromkeys(names))
    missing = [name for name in names if name not in have]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        place.fail(f"The rows lack {shown}; they have {', '.join(map(str, have[:20])) or 'no columns at all'}.")
    twice = [name for name in names if have.count(name) > 1]
    if twice:
        place.fail(f"The rows have more than one column called {', '.join(twice)}.")
    if isinstance(rows, Mapping):
        unknown = [name for name in have if name not in {*names, *known}]
        if unknown:
            place.fail(f"Nothing is known of {', '.join(map(repr, unknown))}; rows need {', '.join(names)}.")
    taken = {name: _column(rows[name] if not is_arrow(rows) else rows.column(name)) for name in names}
    lengths = {}
    for name, values in taken.items():
        if values.ndim > 1:
            place.fail(f"{name} has the shape {values.shape}; a column has one entry for each row.")
        lengths[name] = -1 if values.ndim == 0 else len(values)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {'is a single value' if n < 0 else f'has {n}'}" for name, n in lengths.items())
        place.fail(f"The columns disagree about the number of rows: {listed}. Each needs one entry for every row.")
    count = max(next(iter(lengths.values()), -1), -1)
    if not names and not isinstance(rows, Mapping):
        count = rows.num_rows if is_arrow(rows) else len(rows)
    return {name: np.atleast_1d(values) for name, values in taken.items()}, 1 if count < 0 else count


def frame_of(rows: Any, names: Iterable[str], known: Iterable[str], place: Place) -> "pd.DataFrame":
    """The columns called `names` as a data frame, in this order and of the types that they came in; refused as
    `take_columns` does."""
    import pandas as pd

    rows = as_table(rows)
    names = list(dict.fromkeys(names))
    taken, _ = take_columns(rows, names, known, place)
    if isinstance(rows, Mapping):
        return pd.DataFrame(taken).infer_objects()
    return (rows.to_pandas() if is_arrow(rows) else rows)[names]


def one_column(name: str, values: Any, place: Place) -> np.ndarray:
    """A column that comes on its own, such as outcomes."""
    return take_columns({name: values}, [name], (), place)[0][name]


def numbers(name: str, values: np.ndarray, place: Place) -> np.ndarray:
    """As float64, nan where a value is missing. Raises the place's error for text, dates and infinity."""
    if values.dtype.kind == "O":
        absent = gaps(values)
        fine = np.fromiter((_number(v) for v in values), bool, len(values)) | absent
        if not fine.all():
            bad = values[~fine][0]
            place.fail(
                f"{name} is {bad!r} {place.at(~fine)}; wanted a number. Text is coded by OneHot() or Ordinal(), dates "
                "by DateParts()."
            )
        values = np.array([np.nan if gone else float(v) for v, gone in zip(values, absent, strict=True)], float)
    if values.dtype.kind not in "fiub":
        example = f", {values[0]!s} for one" if len(values) else ""
        place.fail(
            f"{name} holds {KINDS.get(values.dtype.kind, values.dtype)}{example}; wanted numbers. Text is coded by "
            "OneHot() or Ordinal(), dates by DateParts()."
        )
    values = values.astype(float)
    endless = np.isinf(values)
    if endless.any():
        place.fail(f"{name} is {values[endless][0]} {place.at(endless)}; wanted finite numbers.")
    return values


def labels(name: str, values: np.ndarray, place: Place) -> np.ndarray:
    """As text (object array), None where a value is missing.

    3, 3.0 and "3" are one label, so that a column means the same in a CSV file and in a data frame; True is "True".
    """
    if values.dtype.kind == "O":
        known: dict[Any, str | None] = {}
        found = np.empty(len(values), object)
        for row, value in enumerate(values):
            try:
                key = (type(value), value)
                if key not in known:
                    known[key] = _label(value)
                found[row] = known[key]
            except TypeError:  # unhashable, or no label
                bad = np.arange(len(values)) == row
                place.fail(f"{name} is {value!r} {place.at(bad)}; wanted a label: text, a number or True or False.")
        return found
    if values.dtype.kind not in "fiubUS":
        place.fail(
            f"{name} holds {values.dtype}; wanted labels: text, numbers or True and False. DateParts() reads dates."
        )
    endless = np.isinf(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    if endless.any():
        place.fail(f"{name} is {values[endless][0]} {place.at(endless)}; wanted a label: text or a finite number.")
    distinct, places = np.unique(values, return_inverse=True)
    texts = np.empty(len(distinct), object)
    texts[:] = [_label(value) for value in distinct.tolist()]
    return texts[places]


def dates(name: str, values: np.ndarray, place: Place) -> np.ndarray:
    """As datetime64[us] of the wall clock, NaT where a value is missing: from datetimes, dates and ISO texts.

    Of values with a time zone the zone is left out, the hour that the clock showed is kept.
    """
    if values.dtype.kind == "M":
        return values.astype("datetime64[us]")
    if values.dtype.kind not in "OU":
        place.fail(f"{name} holds {values.dtype}; wanted dates: datetimes, or texts such as '2026-03-31'.")
    found = np.full(len(values), np.datetime64("NaT", "us"))
    absent = gaps(values)
    for row in np.flatnonzero(~absent):
        value = values[row]
        try:
            if isinstance(value, datetime.datetime):
                value = value.replace(tzinfo=None)
            elif isinstance(value, str) and (_ZONE.search(value[10:]) or value.strip().lower() in _CLOCK):
                raise ValueError
            elif not isinstance(value, str | datetime.date | np.datetime64):
                raise ValueError
            found[row] = np.datetime64(value, "us")
        except ValueError:
            bad = np.arange(len(values)) == row
            place.fail(
                f"{name} is {value!r} {place.at(bad)}; wanted a date: a datetime, or a text such as '2026-03-31' or "
                "'2026-03-31T17:00', without a time zone."
            )
    return found


READERS = {Kind.NUMBER: numbers, Kind.LABEL: labels, Kind.DATE: dates}


def is_missing(values: np.ndarray) -> np.ndarray:
    """Which entries of a read column are missing."""
    if values.dtype.kind == "M":
        return np.isnat(values)
    return np.isnan(values) if values.dtype.kind == "f" else np.array([v is None for v in values], bool)


def gaps(values: np.ndarray) -> np.ndarray:
    """Which entries of a column as it came are missing."""
    if values.dtype.kind == "O":
        return np.fromiter((_absent(v) for v in values), bool, len(values))
    return values != values if values.dtype.kind in "fcMm" else np.zeros(len(values), bool)


def _column(values: Any) -> np.ndarray:
    """An array with an entry for each row, from whatever a table or dict holds; () for a single value."""
    if type(values).__module__.partition(".")[0] == "pyarrow":
        values = values.to_pandas(date_as_object=False) if hasattr(values, "to_pandas") else values.as_py()
    if isinstance(values, np.ma.MaskedArray):
        values = np.where(np.ma.getmaskarray(values), None, values.astype(object).filled(None))
    if isinstance(values, list | tuple):  # np.asarray would make text of [1, "a"], and of [None, "a"]
        array = np.empty(len(values), object)
        array[:] = values
        return array if any(isinstance(v, str) or v is None for v in values) else np.asarray(values)
    return np.asarray(values)


def _absent(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating | decimal.Decimal) and bool(value != value)


def _number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_ | decimal.Decimal)


def _label(value: Any) -> str | None:
    """The text of a label; None if it is missing. Raises TypeError for what is no label."""
    if _absent(value):
        return None
    if isinstance(value, str):
        return value.partition(".")[0] if _WHOLE.fullmatch(value) else value
    if isinstance(value, bool | int | np.integer | np.bool_):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating | decimal.Decimal) and np.isfinite(float(value)):
        return str(int(value)) if value == int(value) else repr(float(value))
    raise TypeError
