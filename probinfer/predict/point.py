"""Any fitted model as a predictor: its point predictions, with conformal intervals and sets. Imports numpy; what runs
the model is imported where it is used."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import ExportError, ModelError, PredictionError
from probinfer.model.pipeline.prepared import class_codes
from probinfer.model.pipeline.raw import Place, labels
from probinfer.model.tables import as_table
from probinfer.predict.conformal import Calibration, read_groups
from probinfer.predict.conformity import class_scores
from probinfer.predict.interval import probabilities, probability, take_groups, without_groups
from probinfer.predict.kind import Interval
from probinfer.predict.point_folds import FoldModels
from probinfer.predict.point_law import places
from probinfer.predict.point_model import PointModel, callable_of
from probinfer.predict.point_prediction import said_of_classes, said_of_numbers
from probinfer.predict.prediction import Prediction
from probinfer.predict.program import Input, Program
from probinfer.predict.rows import read_outcomes, take_column


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

    Where no rows can be kept for that, `pi.cross_calibrate` fits and calibrates with all of them.

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
        self._set(PointModel.of(model, inputs, outcome), outcome, classes)

    @classmethod
    def of_folds(cls, folds: FoldModels, outcome: str, classes: Sequence[Any] | None = None) -> "PointPredictor":
        """The predictor of several models, each fitted without some rows, before it is calibrated with these."""
        self = cls.__new__(cls)
        self._set(folds, outcome, classes)
        return self

    def _set(self, asked: PointModel | FoldModels, outcome: str, classes: Sequence[Any] | None) -> None:
        self.asked = asked
        for part in asked.parts:
            if classes is None and hasattr(part.model, "predict_proba"):
                classes = getattr(part.model, "classes_", None)
            callable_of(part.model, probabilities=classes is not None)
        self.classes = _labels(classes) if classes is not None else None
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
        self.calibration_rows: tuple[CalibrationRows, ...] | None = None
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

        Raises PredictionError if rows or outcomes do not fit, or there are none, and for a predictor of
        `pi.cross_calibrate`; ModelError if the steps of a scikit-learn transformer give other numbers than the
        transformer. Whether the model was trained on the rows cannot be told here.
        """
        if isinstance(self.asked, FoldModels):
            raise PredictionError(
                "The predictor is calibrated with all rows that it was fitted to, by CV+. To calibrate with others, "
                "fit one model: PointPredictor(model).calibrate(rows, y)."
            )
        rows, by = as_table(rows), groups if isinstance(groups, str) else None
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
        return self.calibrated([CalibrationRows(given, values, came, which, by)])

    def calibrated(self, parts: Sequence[CalibrationRows]) -> "PointPredictor":
        """As `calibrate`, with rows that were read and answered; of several models those that each was not fitted to.
        They are kept where a conversion of a model is to be compared on them."""
        first, folds = parts[0], len(parts) if isinstance(self.asked, FoldModels) else None
        scores = np.concatenate([self._scores(rows.values, rows.came) for rows in parts])
        groups = None if first.groups is None else np.concatenate([rows.groups for rows in parts])
        models = np.repeat(np.arange(len(parts)), [len(rows.came) for rows in parts]) if folds else None
        other = self.with_calibration(Calibration.of(scores, scores, groups, first.by, folds, models))
        other.calibration_rows = tuple(parts) if self.asked.to_convert else None
        return other

    def with_calibration(self, calibration: Calibration | None) -> "PointPredictor":
        """The same model with this calibration."""
        other = copy.copy(self)
        other.about, other.calibration, other.calibration_rows = dict(self.about), calibration, None
        return other

    def asking(self, models: Sequence[Any]) -> "PointPredictor":
        """The same with these models, as many as it has, not calibrated."""
        other = self.with_calibration(None)
        other.asked = self.asked.having(models)
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
            return np.log(self.asked.mean(values)[np.arange(len(values)), came])

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
        (rows, classes); of several models (rows, models) or (rows, models, classes). Raises PredictionError as
        `predict` does."""
        return self._said(self.asked.of_columns(columns), first_row)

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
        known, levels = self.calibration, probabilities("quantiles", quantiles)
        numbers = known.numbers(groups, len(values)) if known else np.zeros(len(values), int)
        mean = self.asked.mean(values)
        if self.classes is None:
            assert known is not None
            said = said_of_numbers(self.outcome, known, values, mean, numbers, float(level), levels, interval)
            return said if quantiles is not None else replace(said, quantiles=None)
        if quantiles is not None or interval is not Interval.ETI:
            raise PredictionError("Classes have sets, no quantiles nor one-sided intervals; ask for Interval.ETI.")
        return said_of_classes(self.outcome, known, values, mean, numbers, float(level), self.classes)

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
        """Save as a folder of plain files, or one zip, which `load_predictor`, `probinfer score` and `inspect` read.

        The model is stored as ONNX, what prepares raw columns as data. A model that is no ONNX file is converted, an
        estimator by skl2onnx and a module of PyTorch by its own export, and what is stored has to agree with it on
        every calibration row: to 1e-5 of the outcomes' standard deviation, or of probabilities to 1e-5. It is then
        calibrated itself, on the same rows, as rounding may part what was equal. Of `pi.cross_calibrate` all models
        are stored, up to 64 of them.

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
        mean = self.asked.mean(values)
        return mean if self.classes is None else mean @ np.arange(len(self.classes))

    def _scores(self, values: np.ndarray, came: np.ndarray) -> np.ndarray:
        """The errors of numbers, or the scores of classes, (rows,); by what several models said (rows, models)."""
        if values.ndim > (1 if self.classes is None else 2):
            each = [self._scores(values[:, number], came) for number in range(values.shape[1])]
            return np.stack(each, axis=1)
        return class_scores(values, came) if self.classes is not None else came - values

    def _said(self, given: Any, first_row: int) -> np.ndarray:
        """What `values` is, for what the model is asked."""
        each = [self.said_by(model, own, first_row) for model, own in self.asked.each(given)]
        return self.asked.together(each)

    def said_by(self, model: PointModel, given: Any, first_row: int = 0) -> np.ndarray:
        """Predictions (rows,) or probabilities (rows, classes) of one model, for what it is asked. Raises
        PredictionError where they are none."""
        count = len(given)
        wanted = (count,) if self.classes is None else (count, len(self.classes))
        if not count:
            return np.zeros(wanted)
        values = model.answer(given, probabilities=self.classes is not None)
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


def _labels(classes: Sequence[Any]) -> tuple[str, ...]:
    found = tuple(map(str, labels("classes", np.array(list(classes), object), Place(ModelError))))
    if len(found) < 2 or len(set(found)) < len(found):
        raise ModelError(f"classes are {classes!r}; wanted two or more different labels.")
    return found
