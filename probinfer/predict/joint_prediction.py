"""The answer for some rows about several outcomes at once. Imports numpy; pandas for tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.prediction import Prediction

if TYPE_CHECKING:
    import pandas as pd

SEPARATOR = "."  # between an outcome and what is said of it


@dataclass(frozen=True, eq=False, repr=False)
class JointPrediction(Mapping[str, Prediction]):
    """What a `JointPredictor` says about each row: a mapping from each outcome to its `Prediction`.

    Every one of them is the outcome's own marginal law, the same as a `Predictor` of that outcome alone gives. What the
    outcomes have to do with one another is in the draws of `JointPredictor.sample`.

    >>> import numpy as np
    >>> said = Prediction("y", *[np.zeros(2)] * 4, 0.9, *[np.ones(2)] * 3)
    >>> both = JointPrediction({"height": said, "weight": said})
    >>> list(both), both["height"].sd.shape, list(both.columns())[:2]
    (['height', 'weight'], (2,), ['height.mean', 'height.sd'])
    """

    parts: Mapping[str, Prediction]

    def __getitem__(self, outcome: str) -> Prediction:
        if outcome not in self.parts:
            raise KeyError(f"{outcome!r} is no outcome; there are {', '.join(map(repr, self.parts))}.")
        return self.parts[outcome]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def of_outcomes(self, y: Any) -> Mapping[str, Any]:
        """What came for outcomes, by their names. Raises PredictionError for something else than a dict, or a name that
        is none."""
        return of_outcomes(y, tuple(self.parts))

    def columns(self) -> dict[str, np.ndarray]:
        """The columns of each prediction, each named by its outcome: height.mean, height.sd, …, weight.mean, ….

        Raises PredictionError where the outcomes have different numbers of rows.
        """
        counts = {name: len(part) for name, part in self.parts.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise PredictionError(
                f"The outcomes have rows of their own, which make no one table: {listed}. Take each on its own: "
                f"prediction[{next(iter(counts))!r}].to_frame()."
            )
        return {
            f"{name}{SEPARATOR}{column}": values
            for name, part in self.parts.items()
            for column, values in part.columns().items()
        }

    def to_frame(self) -> "pd.DataFrame":
        """`columns()` as a pandas DataFrame, one row for each row."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.parts.values()))

    def _repr_html_(self) -> str:
        return "".join(part._repr_html_() for part in self.parts.values())


def of_outcomes(y: Any, known: Sequence[str]) -> Mapping[str, Any]:
    """A dict of what came for some of the outcomes that are known. Raises PredictionError for anything else."""
    if not isinstance(y, Mapping) or not y:
        raise PredictionError(
            f"y came as {type(y).__name__}; wanted a dict of what came for each outcome: {{{known[0]!r}: values, …}}."
        )
    strangers = [name for name in y if name not in known]
    if strangers:
        raise PredictionError(f"{strangers[0]!r} is no outcome; there are {', '.join(map(repr, known))}.")
    return y
