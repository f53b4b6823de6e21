"""Rows as a table of numbers, which is what explanation libraries take, and back. Imports numpy."""

from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.pipeline.raw import READERS, Place, frame_of, labels, take_columns
from probinfer.predict.program import Program
from probinfer.predict.rows import column_names, read_rows

_KINDS = {"f": "float64", "i": "int64", "u": "int64", "b": "bool", "M": "date"}
_DAY = np.timedelta64(1, "D") / np.timedelta64(1, "us")  # microseconds


class FlatTable:
    """How the rows of a program are a table, with a column for each number, label or date that a row brings.

    names    of the columns
    whole    which of them hold whole numbers, or labels
    labels   by column, those of it: a label is its number there, in the order in which they came, sorted in each table

    Dates are days since 1970. What is missing is NaN. Of a model that is asked for data frames the columns are what
    the first rows hold, and their values are given back as they came.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._kinds = [entry.dtype for entry in program.asked for _ in column_names(entry)]
        self.names = [name for entry in program.asked for name in column_names(entry)]
        self.whole = np.array([kind not in ("float64", "date") for kind in self._kinds])
        self.labels: dict[int, list[str]] = {i: [] for i, kind in enumerate(self._kinds) if kind == "text"}
        self._gaps: set[int] = set()
        self._hours: set[int] = set()  # columns of dates that are not whole days
        self._came: dict[int, Any] = {}  # of a data frame: what stands for missing values

    def read(self, rows: Any) -> np.ndarray:
        """Rows as a table (rows, columns). Raises PredictionError."""
        prepared = self._program.prepared
        if "any" in self._kinds or self._came:
            return self._read_frame(rows)
        if prepared is None:
            columns, _ = read_rows(rows, self._program)
            entries = self._program.asked
            return np.concatenate([columns[e.name].reshape(-1, len(column_names(e))) for e in entries], axis=1)
        place = Place(PredictionError)
        raw, count = take_columns(rows, prepared.columns, prepared.known, place)
        table = np.empty((count, len(self.names)))
        for i, (name, kind) in enumerate(prepared.columns.items()):
            table[:, i] = self._numbers(i, READERS[kind](name, raw[name], place))
        self._gaps |= set(np.flatnonzero(np.isnan(table).any(axis=0)).tolist())
        days = [i for i, kind in enumerate(self._kinds) if kind == "date"]
        self._hours |= {i for i in days if (np.nan_to_num(table[:, i]) % 1 != 0).any()}
        return table

    def columns(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """A table as rows of the program."""
        table, found, start = np.asarray(table, float), {}, 0
        for entry in self._program.asked:
            size = len(column_names(entry))
            part = table[:, start : start + size]
            if self._kinds[start] in ("text", "date"):
                found[entry.name] = self._values(start, part[:, 0])
            elif entry.dtype == "any":
                found[entry.name] = self._as_it_came(start, part[:, 0])
            else:
                found[entry.name] = part.reshape(len(table), *entry.shape)
            start += size
        return found

    def asked(self, column: int, values: Any) -> np.ndarray | None:
        """Values of a column as its numbers; None where they are no list of finite ones, or of known labels."""
        if column in self.labels:
            known = self.labels[column]
            if self._came:
                usable = np.ndim(values) == 1 and len(values) and set(values) <= set(known)
                return np.array([known.index(value) for value in values], float) if usable else None
            try:
                read = labels(self.names[column], np.ravel(np.asarray(values, object)), Place(PredictionError))
            except PredictionError:
                return None
            usable = len(read) and set(read) <= set(known)
            return np.array([known.index(value) for value in read], float) if usable else None
        try:
            if self._kinds[column] == "date":
                values = self._numbers(column, np.asarray(values, "datetime64[us]"))
            found = np.asarray(values, float)
        except (TypeError, ValueError):
            return None
        return found if found.ndim == 1 and len(found) and np.isfinite(found).all() else None

    def shown(self, column: int, number: float) -> Any:
        """What a number of this column means: a number, a label, a date; NaN or None for what is missing."""
        if self._kinds[column] not in ("text", "date"):
            return float(number)
        value = self._values(column, np.array([number]))[0]
        return None if value is None or value != value else value

    def missing(self, table: np.ndarray) -> str | None:
        """Where a table has a gap, in words."""
        gaps = np.argwhere(np.isnan(table))
        return (
            f"{self.names[gaps[0][1]]} is missing in row {gaps[0][0]} (the first row is row 0)" if len(gaps) else None
        )

    def condition(self, column: int, low: float, high: float, *, missing: bool) -> str:
        """In words, that a column is above one number and no more than another, or may be missing too."""
        name, missing = self.names[column], missing and column in self._gaps
        if column in self.labels:
            chosen = [str(label) for i, label in enumerate(self.labels[column]) if low < i <= high]
            return f"{name} is {' or '.join([*chosen, *['missing'] * missing])}"
        bounds = [("> ", low), ("<= ", high)]
        told = [f"{name} {sign}{self._told(column, bound)}" for sign, bound in bounds if np.isfinite(bound)]
        if low == np.inf:
            return f"{name} is missing"
        if not told:
            return f"{name} is not missing"
        return f"({' and '.join(told)} or missing)" if missing else " and ".join(told)

    def _told(self, column: int, number: float) -> str:
        if self._kinds[column] != "date":
            return f"{number:.4g}"
        return str(self.shown(column, number))[: 16 if column in self._hours else 10]

    def _read_frame(self, rows: Any) -> np.ndarray:
        """Rows of a model that is asked for data frames."""
        names = [entry.name for entry in self._program.asked]
        frame = frame_of(rows, names, self._program.unread, Place(PredictionError))
        table = np.empty((len(frame), len(names)))
        for i, name in enumerate(names):
            values, gone = frame[name].to_numpy(), frame[name].isna().to_numpy()
            if self._kinds[i] == "any":
                self._kinds[i] = _KINDS.get(values.dtype.kind, "text")
                self.whole[i] = self._kinds[i] not in ("float64", "date")
                if self._kinds[i] == "text":
                    self.labels[i] = []
            self._came.setdefault(i, None)
            if i in self.labels:
                if gone.any():
                    self._came[i] = values[gone][0]
                values = np.where(gone, None, values.astype(object))
            table[:, i] = self._numbers(i, values)
        self._gaps |= set(np.flatnonzero(np.isnan(table).any(axis=0)).tolist())
        return table

    def _as_it_came(self, column: int, numbers: np.ndarray) -> np.ndarray:
        """Whole numbers and booleans as such, as far as they are."""
        kind = self._kinds[column]
        return numbers.astype(kind) if kind != "float64" and np.all(numbers == np.rint(numbers)) else numbers

    def _numbers(self, column: int, values: np.ndarray) -> np.ndarray:
        if column in self.labels:
            known = self.labels[column]
            known += sorted({value for value in values if value is not None} - set(known), key=str)
            places: dict[str | None, float] = {label: float(i) for i, label in enumerate(known)} | {None: np.nan}
            return np.array([places[value] for value in values], float)
        if values.dtype.kind == "M":
            return np.where(np.isnat(values), np.nan, values.astype("datetime64[us]").astype(float) / _DAY)
        return values

    def _values(self, column: int, numbers: np.ndarray) -> np.ndarray:
        missing = np.isnan(numbers)
        if column in self.labels:
            known = np.array([*self.labels[column], self._came.get(column)], object)
            last = len(known) - 2
            return known[np.where(missing, -1, np.clip(np.rint(np.where(missing, 0, numbers)), 0, last)).astype(int)]
        days = np.rint(np.where(missing, 0, numbers) * _DAY).astype("datetime64[us]")
        return np.where(missing, np.datetime64("NaT", "us"), days)
