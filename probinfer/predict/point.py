"""Any fitted model as a predictor: its point predictions, with conformal intervals and sets. Imports numpy; what runs
the model is imported where it is used."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import ExportError, ModelError, PredictionError
from probinfer.model.pipeline.prepared import class_codes
from probinfer.model.pipeline.raw import Place, labels
from probinfer.predict.conformal import Calibration, read_groups
from probinfer.predict.conformity import all_class_scores, class_scores
from probinfer.predict.interval import (
    likely_set,
    probabilities,
    probabilities_of,
    probability,
    take_groups,
    without_groups,
)
from probinfer.predict.kind import Interval
from probinfer.predict.point_law import places
from probinfer.predict.point_model import PointModel, callable_of
from probinfer.predict.prediction import Prediction
from probinfer.predict.program import Input, Program
from probinfer.predict.rows import read_outcomes, take_column

_TIE = 1e-12


class CalibrationRows(NamedTuple):
    """Rows to calibrate with: what the model is asked for them, what it said, what came, and their groups as text, with
    the column that held them."""

    given: Any
    values: np.ndarray
    came: np.ndarray
    groups: np.ndarray | None
    by: str | None


class PointPredictor:
    """A fitted model of any kind, with intervals and sets from conformal calibration.

    Args:
        model: a fitted scikit-learn Pipeline that takes a data frame, which then takes raw rows of any kind; any other
            estimator with `predict` or `predict_proba`; an ONNX file (its path or bytes); a module of PyTorch; or a
            function from the matrix of inputs (rows, k) to predictions (rows,), or with `classes` to probabilities
            (rows, classes).
        inputs: names of the inputs, in the order of the matrix's columns; may be left out for an estimator that was
            fitted on a data frame. Or how raw columns become this matrix: a fitted `ColumnTransformer`, a fitted
            scikit-learn Pipeline of transformers, or a `pi.Pipeline` with its steps fitted, `pipeline.settle(frame)`.
        outcome: name of the outcome.
        classes: labels of the classes in the order of the probabilities, for a classifier that does not know its own.

    The first steps of a scikit-learn Pipeline, as far as they are those that `pi.Pipeline` knows, become its own: rows
    are read, checked and refused as by any predictor of raw rows, and the steps that follow are the model. A Pipeline
    that begins with another step is asked for data frames, and is not saved.

    A model of numbers gives its prediction as `mean`, and intervals and quantiles once it is calibrated: with r_i the
    errors y_i - f(x_i) of n rows that it was not trained on, sorted,

        lower = f(x) + r_(floor((n + 1) a / 2)),   upper = f(x) + r_(ceil((n + 1) (1 - a / 2)))

    covers with probability at least level = 1 - a, and at most level + 2 / (n + 1) without ties, if rows are
    exchangeable. `sd` is the root mean square of these errors; they do not tell what is epistemic: `epistemic_sd`,
    `aleatoric_sd` and `mcse` are nan. A classifier gets sets as `Predictor.calibrate` has them.

    All widths of a group are equal: calibrate with groups, or use a model with a distribution of its own, where
    errors are larger in some places than in others. Vovk, Gammerman & Shafer (2005); Lei et al. (2018), JASA 113.

    Raises:
        ModelError: the model cannot be called, or its inputs are not known, or are not as many as it takes.
        MissingExtra: an ONNX model without ONNX Runtime.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(0, 1, 1000)
    >>> y = 3 * x + rng.normal(0, 0.5, 1000)
    >>> predictor = PointPredictor(lambda X: 3 * X[:, 0], inputs=["x"]).calibrate({"x": x}, y)
    >>> p = predictor.predict({"x": [0.5]})
    >>> bool(p.mean[0] == 1.5), bool(1.5 < p.upper[0] - p.lower[0] < 1.8)  # 2 * 1.645 * 0.5 = 1.645
    (True, True)
    """

    def __init__(
        self,
        model: Any,
        *,
        inputs: Any = None,
        outcome: str = "y",
        classes: Sequence[Any] | None = None,
    ) -> None:
        self.asked = PointModel.of(model, inputs, outcome)
        self.model: Any = self.asked.model
        if classes is None and hasattr(self.model, "predict_proba"):
            classes = getattr(self.model, "classes_", None)
        self.classes = _labels(classes) if classes is not None else None
        callable_of(self.model, probabilities=self.classes is not None)
        self.program = Program(
            outcome=outcome,
            family=None,
            inputs=self.asked.inputs,
            draws={},
            chains=None,
            fixed={},
            constants={},
            row_counts=(),
            unread=(outcome,),
            event=(),
            discrete=self.classes is not None,
            probabilities=len(self.classes or ()),
            programs={},
            prepared=self.asked.prepared,
        )
        self.calibration_rows: CalibrationRows | None = None
        self.about: dict[str, Any] = {"verdict": "none: a point model"}
        self.calibration: Calibration | None = None

    @property
    def outcome(self) -> str:
        """Name of the outcome."""
        return self.program.outcome

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What every row must bring; the raw columns of a model with preparation, whose type is "float64", "text"
        (labels: text, numbers or booleans) or "date", and "any" where it is asked for data frames."""
        return self.program.asked

    def calibrate(self, rows: Any, y: Any, groups: Any = None) -> "PointPredictor":
        """A new predictor whose intervals or sets cover as often as their level says.

        rows, y   rows that the model was not trained on, and what came: numbers, or labels of the classes
        groups    calibrate each group on its own (Mondrian): the name of a column, or an array; see
                  `Predictor.calibrate`

        Raises PredictionError if rows or outcomes do not fit, or there are none; ModelError if the steps of a
        scikit-learn transformer give other numbers than the transformer. Whether the model was trained on the rows
        cannot be told here.
        """
        by = groups if isinstance(groups, str) else None
        if by is not None:
            groups, rows = take_column(rows, by, self.program)
        which = read_groups(groups, by or "groups") if groups is not None else None
        given = self.asked.given(rows, self.program, 0)
        count = len(given)
        self.asked.check_prepared(rows, given)
        values = self._said(given, 0)
        came = self.outcomes(y, count)
        if not count:
            raise PredictionError("There are no rows to calibrate with; wanted rows that were kept from training.")
        if which is not None and len(which) != count:
            raise PredictionError(f"{by or 'groups'} has {len(which)} entries for {count} rows; wanted one for each.")
        return self.calibrated(CalibrationRows(given, values, came, which, by))

    def calibrated(self, rows: CalibrationRows) -> "PointPredictor":
        """As `calibrate`, with rows that were read and answered. They are kept where a conversion of the model is to be
        compared on them."""
        scores = self._scores(rows.values, rows.came)
        other = self.with_calibration(Calibration.of(scores, scores, rows.groups, rows.by))
        other.calibration_rows = rows if self.asked.to_convert else None
        return other

    def with_calibration(self, calibration: Calibration | None) -> "PointPredictor":
        """The same model with this calibration."""
        other = copy.copy(self)
        other.about, other.calibration, other.calibration_rows = dict(self.about), calibration, None
        return other

    def with_about(self, about: Mapping[str, Any]) -> "PointPredictor":
        """The same, of which this is told, such as what watches it."""
        other = copy.copy(self)
        other.about = dict(about)
        return other

    def predict(
        self,
        rows: Any,
        level: float = 0.9,
        quantiles: Sequence[float] | None = None,
        *,
        interval: Interval = Interval.ETI,
        groups: Any = None,
        first_row: int = 0,
    ) -> Prediction:
        """Predict the outcome of each row; arguments as for `Predictor.predict`.

        Raises PredictionError if the rows do not fit, level or quantiles are no probabilities, a group is unknown, the
        interval is a HDI, or a model of numbers is not calibrated.
        """
        self._check_asked(level, quantiles, interval)
        values, which = self.ask(rows, groups, first_row)
        return self.said(values, which, level, quantiles, interval)

    def ask(self, rows: Any, groups: Any = None, first_row: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """What the model itself gives for each row, as `values` has it, and the rows' groups as text. Raises
        PredictionError as `predict` does."""
        rows, which = take_groups(rows, groups, self.calibration, self.program, first_row)
        return self._said(self.asked.given(rows, self.program, first_row), first_row), which

    def cdf(self, rows: Any, y: Any, groups: Any = None) -> np.ndarray:
        """P(Y <= y) and P(Y < y) of each outcome, a number, on a last axis of two: (rows, 2). By the law that
        calibration makes of the model's number f(x), a conformal predictive system.

        With n errors of the calibration rows, j of them not above y - f(x) and i below, (j + 1) / (n + 1) and
        i / (n + 1): a uniform number between the two is uniform over all rows, exactly, if they are exchangeable.
        Vovk, Shen, Manokhin & Xie (2019), Machine Learning 108.

        Raises PredictionError as `predict` does, for outcomes that do not match the rows, and for classes, whose
        `probabilities` are the model's.
        """
        if self.classes is not None:
            raise PredictionError("Classes have no cdf; they have predict(rows).probabilities.")
        self._check_asked(0.5, None, Interval.ETI)
        values, which = self.ask(rows, groups)
        below, upto = self.places(values, which, self.outcomes(y, len(values)))
        return np.stack([upto, below], axis=-1)

    def log_score(self, rows: Any, y: Any) -> np.ndarray:
        """log of the probability that the model gave to each class that came, (rows,). Raises PredictionError as
        `predict` does, and for a model of numbers, which has no density."""
        if self.classes is None:
            raise PredictionError(
                "A point model of numbers has no density, and so no log score; pi.metrics(predictor, rows, y) scores "
                "its interval, and by CRPS the law that calibration makes."
            )
        values, _ = self.with_calibration(None).ask(without_groups(rows, self.calibration, self.program))
        came = self.outcomes(y, len(values)).astype(int)
        with np.errstate(divide="ignore"):
            return np.log(values[np.arange(len(values)), came])

    def sample(self, rows: Any, draws: int = 100, seed: Any = 0) -> np.ndarray:
        """Refused: the errors of calibration rows say nothing of how rows move together."""
        raise PredictionError(
            "A point model has no predictive draws; ask for predict(rows, quantiles=…), or draw from the "
            "probabilities of classes."
        )

    def export_onnx(self, path: str | os.PathLike[str], level: float = 0.9, quantiles: Any = None) -> None:
        """Refused: `save` stores the model as ONNX already."""
        raise ExportError(
            "A point model is exported by saving it: predictor.save(folder) has the model as model.onnx, and the "
            "errors of the calibration rows, which are added to its numbers, beside it."
        )

    def places(self, values: np.ndarray, groups: np.ndarray | None, came: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where outcomes (rows,), as `outcomes` has them, lie among those of the calibration rows, from 0 to 1: from
        where to where, each (rows,). Of a class it is the place of its score. For rows for which the model gave
        `values`, and a calibrated predictor."""
        known = self.calibration
        assert known is not None
        return places(known, self._scores(values, came), known.numbers(groups, len(values)))

    def values(self, columns: Mapping[str, np.ndarray], first_row: int = 0) -> np.ndarray:
        """What the model itself gives for inputs that `read_rows` has read: predictions (rows,), or probabilities
        (rows, classes). Raises PredictionError as `predict` does."""
        return self.values_of(self.asked.matrix(columns), first_row)

    def values_of(self, matrix: np.ndarray, first_row: int = 0) -> np.ndarray:
        """As `values`, for the matrix of inputs (rows, k) itself."""
        return self._said(matrix, first_row)

    def outcomes(self, y: Any, count: int) -> np.ndarray:
        """What came in `count` rows, (rows,): numbers, or the codes of labels. Raises PredictionError where it does not
        fit."""
        if self.classes is not None:
            y = class_codes(self.classes, y, self.outcome)
        return read_outcomes(y, self.program, count)

    def said(
        self,
        values: np.ndarray,
        groups: np.ndarray | None,
        level: float = 0.9,
        quantiles: Sequence[float] | None = None,
        interval: Interval = Interval.ETI,
    ) -> Prediction:
        """The prediction of rows for which the model gave `values`, and whose groups as text are `groups`. Raises
        PredictionError as `predict` does."""
        self._check_asked(level, quantiles, interval)
        numbers = self.calibration.numbers(groups, len(values)) if self.calibration else np.zeros(len(values), int)
        made = self._numbers if self.classes is None else self._sets
        levels = probabilities("quantiles", quantiles)
        return made(values, numbers, float(level), levels, interval, quantiles is not None)

    def guarantee(self, groups: np.ndarray | None, count: int, level: float) -> str | None:
        """What the calibration promises of the intervals, or sets, of `count` rows; None without one."""
        if self.calibration is None:
            return None
        numbers, exact = self.calibration.numbers(groups, count), self.classes is None
        return self.calibration.guarantee(level, numbers, sides=2 if exact else 1, exact=exact)

    def _check_asked(self, level: float, quantiles: Sequence[float] | None, interval: Interval) -> None:
        probability("level", level)
        probabilities("quantiles", quantiles)
        if not isinstance(interval, Interval) or interval is Interval.HDI:
            raise PredictionError(f"interval is {interval!r}; a point model has Interval.ETI, LOWER and UPPER.")
        if self.classes is None and self.calibration is None:
            raise PredictionError(
                "A point model knows no uncertainty before it is calibrated: predictor.calibrate(rows, y), with rows "
                "that it was not trained on."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as a folder of plain files, which `load_predictor`, `probinfer score` and `inspect` read.

        The model is stored as ONNX, what prepares raw columns as data. A model that is no ONNX file is converted, an
        estimator by skl2onnx and a module of PyTorch by its own export, and what is stored has to agree with it on
        every calibration row: to 1e-5 of the outcomes' standard deviation, or of probabilities to 1e-5. It is then
        calibrated itself, on the same rows, as rounding may part what was equal.

        Raises ModelError for a model that has no conversion, or one that does not agree, and for one that cannot be
        compared as it is not calibrated: anything else could be stored by pickle only, which runs code when it is
        loaded. MissingExtra if what converts is not installed.
        """
        from probinfer.predict.point_artifact import write_point

        write_point(self, path)

    def __repr__(self) -> str:
        rows = f"; calibrated on {sum(self.calibration.counts)} rows" if self.calibration else "; not calibrated"
        takes = ", ".join(entry.name for entry in self.inputs)
        kind = f"{len(self.classes)} classes" if self.classes is not None else "a number"
        return f"PointPredictor({self.outcome}: {kind}; {takes}; {self.asked.name}{rows})"

    def expected(self, values: np.ndarray) -> np.ndarray:
        """The mean of each row, (rows,), of `values` that the model gave; of classes that of their codes."""
        return values if self.classes is None else values @ np.arange(len(self.classes))

    def _scores(self, values: np.ndarray, came: np.ndarray) -> np.ndarray:
        """The errors of numbers, or the scores of classes, (rows,)."""
        return class_scores(values, came) if self.classes is not None else came - values

    def _said(self, given: Any, first_row: int) -> np.ndarray:
        """Predictions (rows,) or probabilities (rows, classes) for what the model is asked."""
        count = len(given)
        wanted = (count,) if self.classes is None else (count, len(self.classes))
        if not count:
            return np.zeros(wanted)
        values = self.asked.answer(given, probabilities=self.classes is not None)
        if self.classes is None and values.shape == (count, 1):
            values = values[:, 0]
        if values.shape != wanted:
            raise PredictionError(
                f"The model gave an array of shape {values.shape} for {count} rows; wanted {wanted}, "
                + ("a number for each row." if self.classes is None else "a probability for each class.")
            )
        bad = ~np.isfinite(values).reshape(count, -1).all(axis=1)
        if bad.any():
            row = int(np.argmax(bad)) + first_row
            raise PredictionError(f"The model's prediction in row {row} is not a finite number.")
        if self.classes is not None:
            off = (values < -1e-6).any(axis=1) | (np.abs(values.sum(axis=1) - 1.0) > 1e-3)
            if off.any():
                row = int(np.argmax(off))
                raise PredictionError(
                    f"In row {row + first_row} the model gave {values[row]!r}: no probabilities. Apply softmax."
                )
            values = np.maximum(values, 0.0) / np.maximum(values, 0.0).sum(axis=1, keepdims=True)
        return values

    def _numbers(
        self, values: np.ndarray, groups: np.ndarray, level: float, levels: tuple, kind: Interval, more: bool
    ) -> Prediction:
        known = self.calibration
        assert known is not None
        low, high = probabilities_of(kind, level)
        ends = [(low, kind is Interval.UPPER), (high, kind is not Interval.LOWER)]
        lower, upper = (values + known.scores(q, upper=above, numbers=groups) for q, above in ends)
        quantiles = [
            values
            + (known.median(groups, discrete=False) if q == 0.5 else known.scores(q, upper=q > 0.5, numbers=groups))
            for q in levels
        ]
        spread = np.array([np.sqrt(np.mean(errors**2)) for errors in known.lower])[groups]
        return self._prediction(
            values,
            spread,
            np.full_like(values, -np.inf) if kind is Interval.UPPER else lower,
            np.full_like(values, np.inf) if kind is Interval.LOWER else upper,
            level,
            kind,
            groups,
            quantiles=np.stack(quantiles, axis=1) if quantiles else (np.zeros((len(values), 0)) if more else None),
            quantile_levels=levels,
            guarantee=known.guarantee(level, groups, sides=2 if kind is Interval.ETI else 1, exact=True),
        )

    def _sets(
        self, chances: np.ndarray, groups: np.ndarray, level: float, levels: tuple, kind: Interval, more: bool
    ) -> Prediction:
        if more or kind is not Interval.ETI:
            raise PredictionError("Classes have sets, no quantiles nor one-sided intervals; ask for Interval.ETI.")
        known, size, guarantee = self.calibration, chances.shape[1], None
        if known is None:
            inside = likely_set(chances, level)
        else:
            inside = all_class_scores(chances) <= known.scores(level, upper=True, numbers=groups)[:, None] + _TIE
            inside[np.arange(len(chances)), np.argmax(chances, axis=1)] = True
            guarantee = known.guarantee(level, groups, sides=1, exact=False)
        codes = np.arange(size)
        mean = self.expected(chances)
        assert self.classes is not None
        plain = list(self.classes) == [str(code) for code in codes]
        unknown = np.full(len(mean), np.nan)
        return self._prediction(
            mean,
            np.sqrt(np.maximum(chances @ codes**2 - mean**2, 0.0)),
            np.argmax(inside, axis=1).astype(float),
            size - 1.0 - np.argmax(inside[:, ::-1], axis=1),
            level,
            kind,
            groups,
            probabilities=chances,
            classes=codes if plain else np.array(self.classes, object),
            sets=inside,
            entropy=-np.sum(chances * np.log(np.where(chances > 0.0, chances, 1.0)), axis=1),
            expected_entropy=unknown,
            mutual_information=unknown,
            guarantee=guarantee,
        )

    def _prediction(
        self,
        mean: np.ndarray,
        sd: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
        level: float,
        kind: Interval,
        groups: np.ndarray,
        **more: Any,
    ) -> Prediction:
        unknown = np.full(len(mean), np.nan)
        rows = np.array(self.calibration.counts)[groups] if self.calibration else None
        return Prediction(
            outcome=self.outcome,
            mean=mean,
            sd=sd,
            lower=lower,
            upper=upper,
            level=level,
            epistemic_sd=unknown,
            aleatoric_sd=unknown,
            mcse=unknown,
            calibration_rows=rows,
            interval=kind,
            **more,
        )


def _labels(classes: Sequence[Any]) -> tuple[str, ...]:
    found = tuple(map(str, labels("classes", np.array(list(classes), object), Place(ModelError))))
    if len(found) < 2 or len(set(found)) < len(found):
        raise ModelError(f"classes are {classes!r}; wanted two or more different labels.")
    return found
