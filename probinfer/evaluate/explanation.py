"""What an explanation is, and a predictor as the black box that explanation libraries ask: a table of numbers in, mean,
sd and interval width out. Imports numpy; pandas for tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.evaluate.flat_table import FlatTable
from probinfer.evaluate.one_outcome import refuse_joint
from probinfer.inference.settings import check_whole
from probinfer.predict.family import Support
from probinfer.predict.interval import without_groups
from probinfer.predict.point import PointPredictor
from probinfer.predict.prediction import Prediction
from probinfer.predict.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd

BATCHES = 8  # of posterior draws: the spread of what they say tells the Monte Carlo error


class Quantity(Enum):
    """What of a prediction is explained.

    MEAN    the predictive mean; of a binary outcome the probability of 1
    SD      the predictive standard deviation
    WIDTH   the width of the interval

    A point model of numbers has the mean alone: its sd and width are those of its errors, the same in every row. By CV+
    its width differs too.

    >>> Quantity.WIDTH.value
    'width'
    """

    MEAN = "mean"
    SD = "sd"
    WIDTH = "width"


class Kind(Enum):
    """How it was explained."""

    PERMUTATION = "permutation importance"
    DEPENDENCE = "partial dependence"
    SHAP = "SHAP values"
    LIME = "LIME"
    SURROGATE = "surrogate trees"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """A table of what drives a prediction, and its picture: `.table`, `.plot()`.

    kind      how it was explained
    outcome   of the predictor
    level     of the interval whose width is explained
    table     DataFrame; `quantity` and `value` in each row, `mcse` the Monte Carlo error of `value` from finitely many
              posterior draws, `se` its error from random permutations, samples or rows; further columns as the
              function says that made it
    curves    of partial dependence with `ice=True`: one curve for each row; else None
    """

    kind: Kind
    outcome: str
    level: float
    table: "pd.DataFrame"
    curves: "pd.DataFrame | None" = None

    def to_frame(self) -> "pd.DataFrame":
        """The table."""
        return self.table

    def plot(self) -> Any:
        """A matplotlib figure with a panel for each quantity. Raises MissingExtra without matplotlib."""
        from probinfer.evaluate.explanation_plot import draw

        return draw(self)

    def _head(self) -> str:
        return f"{self.kind.value} of {self.outcome}, {100 * self.level:.10g}% intervals"

    def __repr__(self) -> str:
        return f"{self._head()}\n{self.table.to_string(float_format='{:.4g}'.format)}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._head())}</p>{self.table.to_html(float_format='{:.4g}'.format)}"


class Box:
    """A predictor as a function of a table (n, inputs), and the rows it was made with as such a table.

    Called, it gives (n, outputs): for each quantity what all draws say, then what each of BATCHES batches of them says.
    """

    def __init__(self, predictor: Any, rows: Any, of: Any, level: float) -> None:
        self.quantities = check_quantities(of)
        refuse_joint(predictor, "explained")
        if not isinstance(predictor, Predictor | PointPredictor):
            raise PredictionError(
                f"predictor came as {type(predictor).__name__}; wanted a Predictor or PointPredictor."
            )
        _check_explainable(predictor)
        if isinstance(predictor, PointPredictor):
            self.quantities = point_quantities(predictor, of)
        self.predictor, self.level = predictor, level
        self.flat = FlatTable(predictor.program)
        self.table = self.read(rows)
        if not len(self.table):
            raise PredictionError("There are no rows to explain; wanted at least one.")
        self.names, self.whole = self.flat.names, self.flat.whole
        self._parts = _batches(predictor) if isinstance(predictor, Predictor) else []

    def read(self, rows: Any) -> np.ndarray:
        """Rows as such a table, without the groups of a calibration. Raises PredictionError."""
        return self.flat.read(without_groups(rows, self.predictor.calibration, self.predictor.program))

    def __call__(self, table: np.ndarray) -> np.ndarray:
        """(n, quantities * (1 + batches))."""
        rows, answers = self.flat.columns(table), []
        if isinstance(self.predictor, PointPredictor):
            return self._stacked(said_of_point(self.predictor, rows, self.quantities, self.level))
        for predictor in (self.predictor, *self._parts):
            prediction = predictor.predict(rows, self.level)
            answers.append(self._stacked(_said(prediction)))
        return np.stack(answers, axis=2).reshape(len(table), -1)

    def _stacked(self, each: dict[Quantity, np.ndarray]) -> np.ndarray:
        return np.stack([each[quantity] for quantity in self.quantities], axis=1)

    def parted(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was computed from outputs (…, outputs) as value and its Monte Carlo error, each (…, quantities)."""
        shaped = values.reshape(*values.shape[:-1], len(self.quantities), 1 + len(self._parts))
        if not self._parts:
            return shaped[..., 0], np.full(shaped.shape[:-1], np.nan)
        return shaped[..., 0], shaped[..., 1:].std(axis=-1, ddof=1) / np.sqrt(len(self._parts))

    @property
    def cells(self) -> list[dict[str, Any]]:
        """For each row and input of the table: which they are, and the value."""
        return [
            {"row": i, "input": name, "at": self.flat.shown(column, row[column])}
            for i, row in enumerate(self.table)
            for column, name in enumerate(self.names)
        ]


def check_quantities(of: Any) -> tuple[Quantity, ...]:
    """One or several quantities; None for all. Raises PredictionError."""
    wanted = tuple(Quantity) if of is None else (of,) if isinstance(of, Quantity) else of
    if not isinstance(wanted, Sequence) or not wanted or not all(isinstance(q, Quantity) for q in wanted):
        raise PredictionError(f"of is {of!r}; wanted a Quantity, such as Quantity.SD, or a list of them.")
    return tuple(wanted)


def check_settings(owner: str, **settings: int) -> None:
    """Raise MethodError unless all are whole numbers from 1 (a seed from 0)."""
    for name, value in settings.items():
        check_whole(owner, name, value, 0 if name == "seed" else 1)


def long_table(box: Box, keys: Sequence[dict[str, Any]], **columns: np.ndarray) -> "pd.DataFrame":
    """A row for each quantity and key: columns (keys, quantities)."""
    import pandas as pd

    rows = [
        {"quantity": quantity.value, **key, **{name: float(values[i, q]) for name, values in columns.items()}}
        for q, quantity in enumerate(box.quantities)
        for i, key in enumerate(keys)
    ]
    return pd.DataFrame(rows)


def _said(prediction: Prediction) -> dict[Quantity, np.ndarray]:
    width = prediction.upper - prediction.lower
    return {Quantity.MEAN: prediction.mean, Quantity.SD: prediction.sd, Quantity.WIDTH: width}


def point_quantities(predictor: PointPredictor, of: Any) -> tuple[Quantity, ...]:
    """Those of a point model that differ from row to row; None for all of them. Raises PredictionError for others."""
    known, offered = predictor.calibration, [Quantity.MEAN]
    if predictor.classes is not None:
        offered += [Quantity.SD, *([] if known is not None and known.grouped else [Quantity.WIDTH])]
    elif known is not None and known.models is not None and not known.grouped:
        offered += [Quantity.WIDTH]  # where the fits differ more, it is wider
    if of is None:
        return tuple(offered)
    others = [quantity for quantity in check_quantities(of) if quantity not in offered]
    if others:
        raise PredictionError(
            f"The {others[0].value} of a point model is that of its errors, the same for all rows of a group; explain "
            "Quantity.MEAN, or take a model with a predictive distribution of its own."
        )
    return check_quantities(of)


def said_of_point(
    predictor: PointPredictor, rows: Any, quantities: Sequence[Quantity], level: float
) -> dict[Quantity, np.ndarray]:
    """What a point model says of rows without their groups, calibrated or not: its mean, and of classes the rest."""
    known, bare = predictor.calibration, predictor.with_calibration(None)
    values, _ = bare.ask(rows)
    if set(quantities) == {Quantity.MEAN}:
        return {Quantity.MEAN: predictor.expected(values)}
    return _said((bare if known is not None and known.grouped else predictor).said(values, None, level))


def _check_explainable(predictor: Predictor | PointPredictor) -> None:
    program = predictor.program
    if not predictor.inputs:
        raise PredictionError(f"{program.outcome} depends on no input, so there is nothing to explain it by.")
    if program.event:
        raise PredictionError(
            f"{program.outcome} has {program.event} numbers per row; explanations are of one number per row."
        )
    several = isinstance(predictor, PointPredictor) and program.probabilities > 2
    if several or (program.family is not None and program.family.support is Support.CLASSES):
        raise PredictionError(
            f"{program.outcome} is one of {program.probabilities} classes, whose code has no mean to explain. "
            "Explain a model of one class against the rest (Bernoulli)."
        )
    if isinstance(predictor, PointPredictor):
        return
    if predictor.calibration is not None and predictor.calibration.counts and len(predictor.calibration.counts) > 1:
        raise PredictionError(
            "A predictor calibrated for each group is explained as it was before: keep that one, and pass it here."
        )


def _batches(predictor: Predictor) -> list[Predictor]:
    """The predictors of batches of neighbouring draws; none where there are too few. They share what is compiled."""
    program = predictor.program
    size = program.size // BATCHES
    if size < 2:
        return []
    parts = []
    for i in range(BATCHES):
        part = program.with_draws(lambda _, values, i=i: values[i * size : (i + 1) * size])
        part = replace(part, chains=None)
        parts.append(Predictor.from_program(part, predictor.about, predictor.calibration))
        parts[-1]._engine._compiled = parts[0]._engine._compiled
    return parts
