"""Metrics of predictions against what came: numbers and classes, each with its error. Imports numpy."""

from collections.abc import Mapping
from typing import Any, overload

import numpy as np

from probinfer.errors import PredictionError
from probinfer.evaluate import classes, numbers
from probinfer.evaluate.scores import Scores
from probinfer.model.pipeline.prepared import class_codes
from probinfer.model.tables import only_column
from probinfer.posterior.posterior import Posterior
from probinfer.predict.joint import JointPredictor
from probinfer.predict.joint_prediction import JointPrediction
from probinfer.predict.point import PointPredictor
from probinfer.predict.prediction import Prediction
from probinfer.predict.predictor import Predictor
from probinfer.predict.rows import plain_numbers


@overload
def metrics(
    source: Predictor | PointPredictor | Prediction, rows: Any, outcomes: Any, *, level: float = 0.9, seed: int = 0
) -> Scores: ...
@overload
def metrics(
    source: JointPredictor | JointPrediction, rows: Any, outcomes: Any, *, level: float = 0.9, seed: int = 0
) -> dict[str, Scores]: ...
def metrics(source: Any, rows: Any, outcomes: Any, *, level: float = 0.9, seed: int = 0) -> Any:
    """Score predictions against the outcomes that came.

    For numbers and counts: mae, rmse, r2 (of the predictive mean), crps, log_score, pinball (mean over the quantiles
    0.05, 0.25, 0.5, 0.75, 0.95), coverage and width of the interval, pit_p (Kolmogorov and Smirnov's test that the
    PIT is uniform). For classes: accuracy, precision, recall, f1 (of the class 1 where there are two, else the mean
    over classes), roc_auc (one against the rest), log_loss, brier; and the calibration curve of two classes.

    Errors take the rows as independent. Means have se = sd / sqrt(n) and a t interval; shares the exact binomial
    interval; rmse and r2 the delta method; roc_auc of two classes DeLong's; f1 and averages over classes the
    bootstrap. The column `how` says which. They measure how far other rows would move the number, not the
    uncertainty of the training.

    Of a calibrated `PointPredictor` crps and PIT are those of the law that calibration makes of its numbers (see
    `PointPredictor.cdf`), pit_p is of a test of two samples, with the calibration rows, and there is no log_score.

    Args:
        source: a `Predictor` or `PointPredictor`; or a `Prediction`, from which crps, log_score and PIT cannot be had.
            Of several outcomes a `JointPredictor` or `JointPrediction`: then `outcomes` are a dict, and there are
            scores for each in it.
        rows: as for `Predictor.predict`; None with a `Prediction`.
        outcomes: what came, (rows,).
        level: of the prediction intervals scored and of the intervals of the scores, in (0, 1). A `Prediction` has a
            level of its own, which its coverage keeps to; it must be this one.
        seed: of the randomised PIT, of draws and of the bootstrap.

    Raises:
        PredictionError: rows or outcomes do not fit, there are none, the outcome has several numbers per row, or
            classes that the prediction does not know.
        MissingExtra: scikit-learn is not installed.

    Fails where rows are not independent (time series, several rows of one person): the errors are then too small.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import probinfer as pi
    >>> def level(y=None):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> data = {"y": np.random.default_rng(0).normal(0.5, 1, 50)}
    >>> prediction = Predictor(pi.infer(level, data, progress=False)).predict({})
    >>> scores = metrics(prediction, None, [0.7])
    >>> scores["coverage"].value
    1.0
    """
    if isinstance(source, JointPredictor | JointPrediction):
        return _of_each(source, rows, outcomes, level, seed)
    if not isinstance(source, Predictor | PointPredictor | Prediction):
        raise PredictionError(
            f"source came as {type(source).__name__}; wanted a Predictor or PointPredictor, or the Prediction that its "
            f"predict() gave.{' Make one of it: pi.Predictor(posterior).' if isinstance(source, Posterior) else ''}"
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise PredictionError(f"seed is {seed!r}; wanted a whole number from 0.")
    if isinstance(source, Prediction):
        if rows is not None:
            raise PredictionError("A Prediction knows its rows already; pass rows=None, or a Predictor.")
        if source.level != level:
            raise PredictionError(
                f"The prediction's level is {source.level:g}, not {level!r}; pass level={source.level:g}."
            )
        prediction = source
    elif isinstance(source, PointPredictor):
        said = source.ask(rows)
        prediction = source.said(*said, level, None if source.classes is not None else numbers.PINBALL)
    else:
        prediction = source.predict(rows, level, quantiles=numbers.PINBALL)
    if isinstance(outcomes, Mapping):
        raise PredictionError(
            f"outcomes came as a dict of {', '.join(map(str, outcomes)) or 'nothing'}; wanted the outcomes of "
            f"{prediction.outcome} themselves, one for each row."
        )
    outcomes = only_column(outcomes)
    if prediction.classes is not None and prediction.classes.dtype.kind == "O":  # labels: scored by their codes
        outcomes = class_codes(list(prediction.classes), outcomes, "outcomes")
        prediction = classes.by_codes(prediction)
    elif isinstance(source, PointPredictor) and prediction.classes is not None:  # 0, 1, … or the same as text
        outcomes = source.outcomes(outcomes, len(prediction))
    y = plain_numbers("outcomes", outcomes).astype(float)
    check_outcomes(prediction, y)
    if prediction.classes is not None:
        return classes.score(prediction, y, level, seed)
    law = None
    if isinstance(source, PointPredictor):
        law = numbers.law_of_point(source, *said, y, seed)
    elif isinstance(source, Predictor):
        law = numbers.law_of(source, rows, y, seed)
    return numbers.score(prediction, law, y, level)


def _of_each(
    source: JointPredictor | JointPrediction, rows: Any, outcomes: Any, level: float, seed: int
) -> dict[str, Scores]:
    """The scores of each outcome that came, by its name."""
    came = source.of_outcomes(outcomes)
    if isinstance(source, JointPrediction):
        return {name: metrics(source[name], rows, y, level=level, seed=seed) for name, y in came.items()}
    own = source.rows_of(rows)
    return {name: metrics(source[name], own(name), y, level=level, seed=seed) for name, y in came.items()}


def check_outcomes(prediction: Prediction, y: np.ndarray) -> None:
    """Raise PredictionError unless there is one finite outcome, a number, for each row."""
    if prediction.mean.ndim != 1:
        raise PredictionError(
            f"{prediction.outcome} has {prediction.mean.shape[1:]} numbers per row; metrics score one number per row. "
            "Score each entry on its own, or Predictor.log_score for all together."
        )
    if y.shape != prediction.mean.shape:
        raise PredictionError(
            f"outcomes have the shape {y.shape}; wanted {prediction.mean.shape}, one for each predicted row."
        )
    if not len(y):
        raise PredictionError("There are no rows to score; wanted at least one.")
    if not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y)))
        raise PredictionError(f"outcomes are not finite in row {row} (the first row is row 0); drop such rows.")
    if prediction.classes is not None and not np.isin(y, prediction.classes).all():
        row = int(np.argmin(np.isin(y, prediction.classes)))
        raise PredictionError(
            f"outcomes hold {y[row]:g} in row {row}; the classes are 0 to {len(prediction.classes) - 1}."
        )
