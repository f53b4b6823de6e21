"""What is said of rows for which a point model gave numbers, or probabilities of classes. Imports numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probinfer.predict.conformal import Calibration
from probinfer.predict.conformity import all_class_scores
from probinfer.predict.interval import likely_set, probabilities_of
from probinfer.predict.kind import Interval
from probinfer.predict.point_law import bounds, inside
from probinfer.predict.prediction import Prediction


def said_of_numbers(
    outcome: str,
    known: Calibration,
    values: np.ndarray,
    mean: np.ndarray,
    groups: np.ndarray,
    level: float,
    levels: Sequence[float],
    kind: Interval,
) -> Prediction:
    """Of numbers: their mean, and the interval and the quantiles at `levels` that calibration gives them. Raises
    PredictionError where a group has too few rows. groups: the number of each row's."""
    low, high = probabilities_of(kind, level)
    asked = [(low, kind is Interval.UPPER), (high, kind is not Interval.LOWER), *((q, q >= 0.5) for q in levels)]
    asked += [(q, False) for q in levels if q == 0.5]  # the median is half-way between both bounds
    found = bounds(known, values, groups, asked)
    lower, upper, quantiles = found[:, 0], found[:, 1], found[:, 2 : 2 + len(levels)]
    median = np.array(levels) == 0.5
    if median.any():
        quantiles[:, median] = (quantiles[:, median] + found[:, 2 + len(levels) :]) / 2.0
    return _prediction(
        outcome,
        known,
        groups,
        mean=mean,
        sd=np.array([np.sqrt(np.mean(errors**2)) for errors in known.lower])[groups],
        lower=np.full_like(lower, -np.inf) if kind is Interval.UPPER else lower,
        upper=np.full_like(upper, np.inf) if kind is Interval.LOWER else upper,
        level=level,
        interval=kind,
        quantiles=quantiles,
        quantile_levels=tuple(levels),
        guarantee=known.guarantee(level, groups, sides=2 if kind is Interval.ETI else 1, exact=True),
    )


def said_of_classes(
    outcome: str,
    known: Calibration | None,
    values: np.ndarray,
    chances: np.ndarray,
    groups: np.ndarray,
    level: float,
    classes: Sequence[str],
) -> Prediction:
    """Of classes: their probabilities, and sets. Raises PredictionError as `said_of_numbers` does."""
    size = chances.shape[1]
    if known is None:
        among = likely_set(chances, level)
    else:
        among = inside(known, all_class_scores(values), groups, level)
        among[np.arange(len(chances)), np.argmax(chances, axis=1)] = True
    codes = np.arange(size)
    mean = chances @ codes
    plain = list(classes) == [str(code) for code in codes]
    unknown = np.full(len(mean), np.nan)
    return _prediction(
        outcome,
        known,
        groups,
        mean=mean,
        sd=np.sqrt(np.maximum(chances @ codes**2 - mean**2, 0.0)),
        lower=np.argmax(among, axis=1).astype(float),
        upper=size - 1.0 - np.argmax(among[:, ::-1], axis=1),
        level=level,
        interval=Interval.ETI,
        probabilities=chances,
        classes=codes if plain else np.array(classes, object),
        sets=among,
        entropy=-np.sum(chances * np.log(np.where(chances > 0.0, chances, 1.0)), axis=1),
        expected_entropy=unknown,
        mutual_information=unknown,
        guarantee=known.guarantee(level, groups, sides=1, exact=False) if known is not None else None,
    )


def _prediction(outcome: str, known: Calibration | None, groups: np.ndarray, **said: Any) -> Prediction:
    unknown = np.full(len(groups), np.nan)
    rows = np.array(known.counts)[groups] if known is not None else None
    return Prediction(
        outcome=outcome, epistemic_sd=unknown, aleatoric_sd=unknown, mcse=unknown, calibration_rows=rows, **said
    )
