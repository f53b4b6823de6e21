"""A table of scores: each a number with its error, its interval, and how they were found. Imports numpy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probinfer.evaluate.shown import Shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Score:
    """One metric on some rows.

    name           of the metric
    value          estimated from the rows
    se             standard error: how far other rows of the same population would move it; nan where unknown
    lower, upper   interval for the population's value, with the table's level
    how            what `se` and the interval rest on, in a word or two
    """

    name: str
    value: float
    se: float
    lower: float
    upper: float
    how: str


@dataclass(frozen=True, eq=False)
class Calibration:
    """Said against seen, in bins of the predicted probability: arrays with one entry per bin that holds rows.

    said           mean predicted probability
    seen           share of rows in which the event came
    lower, upper   exact binomial interval of the share, with the table's level
    count          rows in the bin
    """

    said: np.ndarray
    seen: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Shown):
    """What `metrics` returns: `scores["crps"].value`, `for score in scores`, `scores.to_frame()`.

    outcome      name of the outcome
    rows         how many rows were scored
    level        of every interval here, and of the prediction intervals behind `coverage` and `width`
    scores       the metrics
    pit          (rows,) probability integral transforms; uniform if predictions are right; None without a cdf
    calibration  curve of a binary outcome's probabilities; None for other outcomes
    pointwise    by name, (rows,): what averages to the metric of that name
    """

    outcome: str
    rows: int
    level: float
    scores: tuple[Score, ...]
    pit: np.ndarray | None
    calibration: Calibration | None
    pointwise: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> Score:
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(f"no metric {name!r}; there are {', '.join(score.name for score in self.scores)}")

    def __contains__(self, name: object) -> bool:
        return any(score.name == name for score in self.scores)

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def to_frame(self) -> "pd.DataFrame":
        """The table as a pandas DataFrame, one row for each metric."""
        import pandas as pd

        columns = ("value", "se", "lower", "upper", "how")
        return pd.DataFrame(
            [[getattr(score, name) for name in columns] for score in self.scores],
            columns=list(columns),
            index=pd.Index([score.name for score in self.scores], name="metric"),
        )

    def _head(self) -> str:
        rows = f"{self.rows} row{'s' if self.rows != 1 else ''}"
        return f"Scores of {self.outcome}: {rows}, {100 * self.level:.10g}% intervals"
