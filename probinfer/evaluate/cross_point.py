"""A point model fitted to all rows and calibrated with all rows: CV+ and jackknife+. Imports numpy; scikit-learn and
pandas when called."""

from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import DataError, ModelError, PredictionError
from probinfer.evaluate.extra import sklearn
from probinfer.evaluate.splits import folds_of
from probinfer.model.pipeline.raw import Place, column_names, frame_of, labels, one_column
from probinfer.predict.conformal import read_groups
from probinfer.predict.point import CalibrationRows, PointPredictor
from probinfer.predict.point_folds import FoldModels
from probinfer.predict.rows import plain_numbers

if TYPE_CHECKING:
    import pandas as pd


_LONGEST = 300  # characters of an estimator's own words in an error


def cross_calibrate(
    estimator: Any,
    rows: Any,
    y: Any,
    *,
    cv: Any = 10,
    inputs: Any = None,
    outcome: str = "y",
    groups: Any = None,
    seed: Any = 0,
) -> PointPredictor:
    """A point model with conformal intervals that needs no rows of its own for calibration: CV+.

    The estimator is fitted to the rows without each of K folds, f_k, and row i is predicted by the fit that has not
    seen it, with the error r_i = y_i - f_k(i)(x_i). Of a new row the n numbers f_k(i)(x) + r_i, sorted, are its law:

        mean = mean of f_k(i)(x),   lower, upper = those of rank floor((n + 1) a / 2), ceil((n + 1) (1 - a / 2))

    cover about level = 1 - a of rows exchangeable with these. Proved is less: with a row a fold (jackknife+, cv=n)
    1 - 2 a, with larger folds somewhat less than that, which `Prediction.guarantee` says. The bounds take the errors
    with their signs, each end for half of a, so that they are the quantiles too; Barber et al. take their sizes.
    Classes have sets: all c for which fewer than ceil((n + 1) level) rows have a smaller score than c by the same fit,
    the scores those of `PointPredictor.calibrate` (Romano, Sesia & Candes).

    Args:
        estimator: of scikit-learn, fitted or not; it is cloned. A Pipeline takes raw rows; each fold prepares them by
            what it knows of its own.
        rows: a data frame, an Arrow table or a dict of columns, to be fitted.
        y: what came, (rows,): numbers, or labels of classes.
        cv: number of folds (shuffled); a splitter of scikit-learn; or pairs of arrays (rows to train on, rows to leave
            out), as GroupKFold gives them for rows that belong together. Each row has to be left out once. What is
            proved is proved of folds that do not look at the outcome, as StratifiedKFold does for rare classes.
        inputs: names of the columns that the estimator takes; None takes all but the outcome.
        outcome: name of the outcome.
        groups: calibrate each group on its own (Mondrian), as for `PointPredictor.calibrate`: the name of a column, or
            an array.
        seed: of the folds.

    Returns:
        PointPredictor: it answers by all K models, so that it takes K times as long, and is saved with all of them, up
        to 64.

    Raises:
        ModelError: the estimator is none, or a classifier without probabilities.
        DataError: rows, y, `cv` or `groups` do not fit, the estimator cannot be fitted to a fold or predict the rows
            left out, or a class is in too few folds.
        MissingExtra: scikit-learn is not installed.

    Fails where rows are not exchangeable: a time series, rows of one person in several folds. Where the fits differ
    wildly from fold to fold, only the proved coverage is left.
    Barber, Candes, Ramdas & Tibshirani (2021), Annals of Statistics 49; Romano, Sesia & Candes (2020), NeurIPS.

    >>> import numpy as np, pandas as pd
    >>> from sklearn.linear_model import LinearRegression
    >>> rng = np.random.default_rng(0)
    >>> frame = pd.DataFrame({"x": rng.normal(size=200)})
    >>> y = 2 * frame.x + rng.normal(size=200)
    >>> predictor = cross_calibrate(LinearRegression(), frame, y)
    >>> p = predictor.predict({"x": [0.0]})
    >>> bool(2.8 < p.upper[0] - p.lower[0] < 3.9)  # of a standard normal: 3.3
    True
    """
    base = sklearn("base")
    classes = _check_estimator(base, estimator)
    frame = _frame(rows, inputs, outcome)
    came, codes = _outcomes(y, len(frame), classes, outcome)
    which = _groups(groups, rows, len(frame))
    by = groups if isinstance(groups, str) else None
    folds = _folds(cv, codes, seed)
    models, parts, one = [], [], None
    for number, (train, test) in enumerate(folds):
        without = f"Without fold {number} ({len(test)} of {len(frame)} rows)"
        if classes and len(np.unique(codes[train])) < len(np.unique(codes)):
            raise DataError(
                f"{without} a class has no rows. Join rare classes, or keep some of each: cv=StratifiedKFold(10)."
            )
        try:
            fitted = base.clone(estimator).fit(frame.iloc[train], came[train])
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split())[:_LONGEST]
            raise DataError(f"{without} the {type(estimator).__name__} cannot be fitted: {said}") from error
        names = inputs if inputs is not None or hasattr(fitted, "feature_names_in_") else list(frame.columns)
        one = PointPredictor(fitted, inputs=names, outcome=outcome)
        (model,) = one.asked.parts
        try:
            given = model.given(frame, one.program, 0)
            model.check_prepared(frame, given)
            given = given.iloc[test] if model.whole else given[test]
            values = one.said_by(model, given)
        except PredictionError as error:
            raise DataError(
                f"{without} the {type(estimator).__name__} cannot predict all rows: {error} Have what is rare read in "
                "another way, such as by handle_unknown='ignore' of an encoder, or leave such rows out."
            ) from None
        models.append(model)
        label = None if which is None else which[test]
        parts.append(CalibrationRows(given, values, one.outcomes(came[test], len(test)), label, by))
    assert one is not None
    found = FoldModels(tuple(models), tuple(len(test) for _, test in folds))
    return PointPredictor.of_folds(found, outcome, one.classes).calibrated(parts)


def _check_estimator(base: Any, estimator: Any) -> bool:
    """Whether it tells classes. Raises ModelError for what cannot be fitted here."""
    if isinstance(estimator, type) or not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        what = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        raise ModelError(
            f"estimator came as {'the class ' * isinstance(estimator, type)}{what}; wanted an estimator of "
            "scikit-learn, which is fitted here to all rows but a fold. A model that was fitted elsewhere is "
            "calibrated with rows that were kept: PointPredictor(model, inputs=…).calibrate(rows, y)."
        )
    classes = bool(base.is_classifier(estimator))
    if classes and not hasattr(estimator, "predict_proba"):
        raise ModelError(
            f"A {type(estimator).__name__} gives no probabilities, from which sets of classes are made; wanted one "
            "with predict_proba, such as CalibratedClassifierCV around it."
        )
    return classes


def _frame(rows: Any, inputs: Any, outcome: str) -> "pd.DataFrame":
    place = Place(DataError)
    have = column_names(rows, place)
    if isinstance(inputs, str) or not all(isinstance(name, str) for name in (have if inputs is None else inputs)):
        raise DataError(f"The columns are {have if inputs is None else inputs!r}; wanted their names, as texts.")
    names = [name for name in have if name != outcome] if inputs is None else list(inputs)
    return frame_of(rows, names, have, place)


def _outcomes(y: Any, count: int, classes: bool, outcome: str) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes as they are fitted, and as numbers or, of classes, as texts; (rows,) each."""
    place = Place(DataError)
    came = one_column(outcome, y, place)
    try:
        told = labels(outcome, came, place) if classes else plain_numbers(outcome, came).astype(float)
    except PredictionError as error:
        raise DataError(str(error)) from None
    if came.shape != (count,):
        raise DataError(f"{outcome} has the shape {came.shape}; wanted ({count},), an outcome for each row.")
    gone = np.array([each is None for each in told]) if classes else ~np.isfinite(told)
    if gone.any():
        raise DataError(f"{outcome} is missing or infinite {place.at(gone)}; leave such rows out.")
    return (came, told.astype(str)) if classes else (told, told)


def _groups(groups: Any, rows: Any, count: int) -> np.ndarray | None:
    if groups is None:
        return None
    place = Place(DataError)
    values = frame_of(rows, [groups], column_names(rows, place), place)[groups] if isinstance(groups, str) else groups
    try:
        found = read_groups(values, groups if isinstance(groups, str) else "groups")
    except PredictionError as error:
        raise DataError(str(error)) from None
    if len(found) != count:
        raise DataError(f"groups has {len(found)} entries for {count} rows; wanted one for each.")
    return found


def _folds(cv: Any, outcomes: np.ndarray, seed: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    count, folds = len(outcomes), folds_of(cv, outcomes, None, False, seed)
    left = sum(len(test) for _, test in folds)
    if left < count or any(len(train) + len(test) < count for train, test in folds):
        raise DataError(
            f"cv leaves out {left} of {count} rows, in {len(folds)} folds; wanted each row left out once, and each "
            "fold's model fitted to all other rows, such as cv=10."
        )
    return folds
