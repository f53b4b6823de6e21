"""Conformal calibration: scores of rows that were kept from training, and the bounds that follow. Imports numpy.

With n rows exchangeable with a new one, the new score is at most the k-th smallest of theirs with probability at
least k / (n + 1), and below it with probability at most k / (n + 1). So a bound for probability p is the score of
rank ceil((n + 1) p) from above, floor((n + 1) p) from below.
"""

import decimal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.program import Program

ALL = ""  # label of the only group where rows are not told apart
_NUDGE = 1e-9  # (n + 1) p may miss a whole number by rounding


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibrated predictor knows beyond the model: sorted scores of its calibration rows, group by group.

    labels   the groups, as text; only "" where rows are not told apart
    lower    one array (rows of the group, *event) for each group, sorted: scores of P(Y <= y), behind lower bounds
    upper    scores of P(Y < y), behind upper bounds; for classes both are the scores of sets
    by       name of the column that holds the groups; None where they are passed on their own
    folds    by cross-validation: how many fits the scores come from, each of rows it has not seen; None for rows that
             were kept from the predictor's own training
    models   by CV+: for each group, and in the order of its scores, the number of the fit that each of them comes from,
             which then predicts with it; None where one fit predicts
    """

    labels: tuple[str, ...]
    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]
    by: str | None = None
    folds: int | None = None
    models: tuple[np.ndarray, ...] | None = None

    @classmethod
    def of(
        cls,
        lower: np.ndarray,
        upper: np.ndarray,
        groups: np.ndarray | None,
        by: str | None,
        folds: int | None = None,
        models: np.ndarray | None = None,
    ) -> "Calibration":
        """From scores (rows, *event), and each row's group or None; by CV+ from numbers (rows,), and each row's fit."""
        if models is not None:
            return cls._plus(lower, groups, by, folds, models)
        if groups is None:
            return cls((ALL,), (np.sort(lower, axis=0),), (np.sort(upper, axis=0),), None, folds)
        labels = tuple(sorted(set(groups.tolist())))
        parts = [[np.sort(scores[groups == label], axis=0) for label in labels] for scores in (lower, upper)]
        return cls(labels, tuple(parts[0]), tuple(parts[1]), by, folds)

    @classmethod
    def _plus(
        cls, scores: np.ndarray, groups: np.ndarray | None, by: str | None, folds: int | None, models: np.ndarray
    ) -> "Calibration":
        labels = (ALL,) if groups is None else tuple(sorted(set(groups.tolist())))
        order = np.argsort(scores, kind="stable")
        chosen = [order if groups is None else order[groups[order] == label] for label in labels]
        each = tuple(scores[some] for some in chosen)
        return cls(labels, each, each, by, folds, tuple(models[some] for some in chosen))

    @property
    def grouped(self) -> bool:
        """Every group has scores of its own."""
        return self.labels != (ALL,)

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each group."""
        return tuple(len(scores) for scores in self.lower)

    def numbers(self, groups: np.ndarray | None, count: int) -> np.ndarray:
        """Place of each row's group among `labels`. Raises PredictionError for groups that are missing or unknown."""
        if not self.grouped:
            if groups is not None:
                raise PredictionError(
                    "groups came, but the predictor is calibrated on all rows together: leave it out."
                )
            return np.zeros(count, int)
        if groups is None:
            raise PredictionError(
                f"The predictor is calibrated for each of the groups {_some(self.labels)} on its own: pass groups=, "
                "the group of each row; or calibrate with groups='column', and they are taken from the rows."
            )
        if len(groups) != count:
            raise PredictionError(f"groups has {len(groups)} entries for {count} rows; wanted one for each.")
        places = {label: number for number, label in enumerate(self.labels)}
        unknown = sorted({label for label in groups.tolist() if label not in places})
        if unknown:
            raise PredictionError(
                f"There were no calibration rows of the group {_some(unknown)}; there are {_some(self.labels)}. "
                "Calibrate with rows of it, or without groups."
            )
        return np.array([places[label] for label in groups.tolist()], int)

    def scores(self, probability: float, *, upper: bool, numbers: np.ndarray) -> np.ndarray:
        """Each row's score (rows, *event) for the bound at a probability p: an upper one is passed with probability
        1 - p at most, a lower one with p at most. Raises PredictionError where a group has too few rows for it."""
        shape = self.lower[0].shape[1:]
        table = np.zeros((len(self.labels), *shape))
        for number in np.unique(numbers):
            ordered = self.upper[number] if upper else self.lower[number]
            table[number] = ordered[self.place(number, probability, upper=upper) - 1]
        return table[numbers]

    def place(self, number: int, probability: float, *, upper: bool) -> int:
        """Rank of the bound for a probability among the scores of a group, from 1. Raises PredictionError where these
        are too few for it."""
        count = self.counts[number]
        place = rank(count, probability, upper=upper)
        if not 1 <= place <= count:
            raise PredictionError(_too_few(count, probability, upper, self.labels[number]))
        return place

    def median(self, numbers: np.ndarray, *, discrete: bool) -> np.ndarray:
        """Scores of the median: of whole numbers an upper bound, else half-way between the bounds from both sides."""
        above = self.scores(0.5, upper=True, numbers=numbers)
        return above if discrete else (above + self.scores(0.5, upper=False, numbers=numbers)) / 2.0

    def guarantee(self, level: float, numbers: np.ndarray, *, sides: int, exact: bool) -> str:
        """What may be said of intervals with `sides` calibrated ends. `exact`: scores have no ties."""
        counts = np.array(self.counts)[np.unique(numbers)]
        if not len(counts):
            return "calibrated; no rows were asked for"
        rows = f"{counts[0]}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        most = f" and at most {100 * min(1.0, level + sides / (counts.min() + 1)):.4g}%" if exact else ""
        where = " of their group" if self.grouped else ""
        if self.models is not None:
            proven = min(self._proven(number, level, sides) for number in np.unique(numbers))
            sure = f"{np.floor(1000 * proven + _NUDGE) / 10:.4g}%" if proven > 0.0 else "no share"
            return (
                f"calibrated on {rows} rows{where} by CV+ in {self.folds} folds: about {100 * level:.10g}% of new rows "
                f"exchangeable with them are covered, and at least {sure} for certain, on average over sets of rows"
            )
        if self.folds is not None:
            return (
                f"calibrated on {rows} rows{where} by cross-validation in {self.folds} folds: about "
                f"{100 * level:.10g}% of new rows exchangeable with them are covered, as far as the fits to "
                "parts are like the fit to all"
            )
        return (
            f"calibrated on {rows} rows{where}: at least {100 * level:.10g}%{most} of new rows exchangeable with them "
            "are covered, on average over calibration sets"
        )

    def _proven(self, number: int, level: float, sides: int) -> float:
        """A coverage that CV+ is proved to have.

        Jackknife+, one row a fold: 1 - 2 a. Of larger folds k the numbers P_k = (1 + rows of k no nearer) / (1 + rows
        of k) are p-values, and so is twice any weighted mean of them, which CV+ asks to be small where it excludes an
        outcome. An interval has two ends, each for half of a = 1 - level. Barber, Candes, Ramdas & Tibshirani (2021),
        Annals of Statistics 49, theorems 1 and 4; Vovk & Wang (2020), Biometrika 107.
        """
        assert self.models is not None
        rows, fits = self.counts[number], len(np.unique(self.models[number]))
        alpha = (1.0 - level) / sides
        if self.folds == sum(self.counts):
            return 1.0 - sides * 2.0 * alpha
        return 1.0 - sides * 2.0 * ((rows + 1) * alpha + fits - 1) / (rows + fits)

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and words, from which `unpack` makes the calibration again."""
        arrays = {"lower": np.concatenate(self.lower)}
        if self.models is not None:
            arrays["models"] = np.concatenate(self.models)
        if any(a is not b and not np.array_equal(a, b) for a, b in zip(self.lower, self.upper, strict=True)):
            arrays["upper"] = np.concatenate(self.upper)
        words = {"rows": sum(self.counts), "by": self.by, "labels": self.labels, "counts": self.counts}
        words |= {"folds": self.folds} if self.folds is not None else {}
        return arrays, words | ({"plus": True} if self.models is not None else {})

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], words: Mapping[str, Any], program: Program) -> "Calibration":
        """Raises ValueError, KeyError or TypeError for parts that do not belong together."""
        labels, counts, by = tuple(map(str, words["labels"])), list(map(int, words["counts"])), words["by"]
        if not labels or len(labels) != len(counts) or len(set(labels)) < len(labels) or min(counts) < 1:
            raise ValueError("its groups and their counts do not agree")
        if by is not None and not isinstance(by, str):
            raise ValueError("the column of the groups is no name")
        folds = words.get("folds")
        if folds is not None and (not isinstance(folds, int) or folds < 2):
            raise ValueError("the folds are no number of them")
        parts = []
        for name in ("lower", "upper"):
            scores = np.asarray(arrays.get(name, arrays["lower"]), float)
            if scores.shape != (sum(counts), *program.event) or np.isnan(scores).any():
                raise ValueError(f"the scores have the shape {scores.shape}")
            parts.append(tuple(np.split(scores, np.cumsum(counts)[:-1])))
            if any(np.any(group[1:] < group[:-1]) for group in parts[-1]):
                raise ValueError("the scores are not sorted")
        models = None
        if "models" in arrays:
            known = np.asarray(arrays["models"])
            if folds is None or known.shape != (sum(counts),) or known.dtype.kind not in "iu":
                raise ValueError("the fits behind the scores are not told")
            if known.min() < 0 or known.max() >= folds:
                raise ValueError(f"a score is of a fit beyond {folds}")
            models = tuple(np.split(known, np.cumsum(counts)[:-1]))
        return cls(labels, parts[0], parts[1], by, folds, models)


def calibration_lines(words: Any) -> list[str]:
    """What `inspect` says, from the manifest."""
    if not words:
        return []
    groups, counts = words["labels"], words["counts"]
    by_folds = "CV+" if words.get("plus") else "cross-validation"
    how = f"{by_folds} in {words['folds']} folds" if words.get("folds") else "split conformal"
    if list(groups) == [ALL]:
        return [f"  calibrated on {words['rows']} rows ({how})"]
    by = f" by {words['by']}" if words["by"] else ""
    each = ", ".join(f"{label}: {count}" for label, count in list(zip(groups, counts, strict=True))[:10])
    more = f", and {len(groups) - 10} more" if len(groups) > 10 else ""
    return [f"  calibrated on {words['rows']} rows ({how} in each group{by}): {each}{more}"]


def read_groups(groups: Any, what: str = "groups", first_row: int = 0) -> np.ndarray:
    """Groups as text. Whole numbers, texts and booleans are groups; 3, 3.0 and "3" are the same one. first_row: number
    of the first row, for errors."""
    values = np.atleast_1d(np.asarray(groups.to_pandas() if _arrow(groups) else groups))
    if values.ndim > 1:
        raise PredictionError(f"{what} has the shape {values.shape}; wanted one entry for each row.")
    return np.array([_label(value, what, row) for row, value in enumerate(values.tolist(), first_row)], object)


def _arrow(values: Any) -> bool:
    return type(values).__module__.partition(".")[0] == "pyarrow"


def _label(value: Any, what: str, row: int) -> str:
    if isinstance(value, str) and value != ALL:
        return value
    if isinstance(value, bool | int | np.integer | np.bool_):
        return str(value)
    if isinstance(value, float | decimal.Decimal) and np.isfinite(float(value)) and value == int(value):
        return str(int(value))
    raise PredictionError(f"{what} is {value!r} in row {row}; wanted a whole number or a text for each row.")


def rank(count: int, probability: float, *, upper: bool) -> int:
    """Which of `count` scores, from the smallest on, is the bound for a probability; there may be none of that rank."""
    place = (count + 1) * probability
    return int(np.ceil(place - _NUDGE) if upper else np.floor(place + _NUDGE))


_MOST_ROWS = 1e18  # of which an error speaks: one over the smallest number is infinite


def least_count(beyond: float) -> int:
    """How many scores it takes for a bound that outcomes pass with this probability."""
    return int(np.ceil(min(1.0 / beyond, _MOST_ROWS) - _NUDGE)) - 1


def _too_few(count: int, probability: float, upper: bool, label: str) -> str:
    beyond = 1.0 - probability if upper else probability
    whose = f" of the group {label!r}" if label != ALL else ""
    return (
        f"There are {count} calibration rows{whose}, too few for a bound that no more than {100 * beyond:.4g}% of "
        f"outcomes pass; wanted {least_count(beyond)} or more. Ask for a lower level, or calibrate with "
        "more rows" + (" or fewer groups." if label != ALL else ".")
    )


def _some(labels: Any) -> str:
    shown = ", ".join(map(repr, list(labels)[:10]))
    return shown + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")
