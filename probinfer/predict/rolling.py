"""A forecaster led over what came since, and what it said of it at every time. Imports jax."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.series import Series
from probinfer.predict.conformal import least_count
from probinfer.predict.conformity import class_scores, scores_of
from probinfer.predict.family import Support
from probinfer.predict.interval import is_classes
from probinfer.predict.motion import Motion, Outcomes
from probinfer.predict.outlook import no_numbers, outcomes_ahead
from probinfer.predict.series_calibration import SeriesCalibration, law_of
from probinfer.predict.series_question import scale_of
from probinfer.predict.standing import Standing, follow
from probinfer.predict.step_summary import cdf, summarise


class Origin(NamedTuple):
    """A time from which is forecast: its place in the series, where the forecaster stands, and the laws of the times
    ahead, of which not all need be taken."""

    place: int
    standing: Standing
    ahead: Iterator[Outcomes]


def origins(motion: Motion, standing: Standing, series: Series, steps: int, words: np.ndarray) -> Iterator[Origin]:
    """Every time before one of the series' observations, with the laws of those that follow, `steps` at most; and at
    last that after them all, with no laws. Each forecast is that of `Forecaster.predict` there, of the seed."""
    count = len(series.values)
    for place in range(count):
        ahead = outcomes_ahead(motion, standing, min(steps, count - place), words)
        yield Origin(place, standing, ahead)
        one = Series(series.values[place : place + 1], series.observed[place : place + 1])
        standing = follow(motion, standing, one)[0]
    yield Origin(count, standing, iter(()))


def calibrate(
    motion: Motion, standing: Standing, series: Series, steps: int, level: float, words: np.ndarray
) -> tuple[Standing, SeriesCalibration]:
    """The calibration of `Forecaster.calibrate`, and where the forecaster stands after the series."""
    _check_enough(motion, series, steps, level)
    _check_support(motion, standing, series)
    lower = np.full((len(series.values), steps, *motion.event), np.nan)
    upper = lower.copy()
    for place, now, ahead in origins(motion, standing, series, steps, words):
        for step, outcomes in enumerate(ahead):
            seen = series.observed[place + step]
            if seen.any():
                y = np.where(seen, series.values[place + step], 0.5)  # where nothing came, some number that is possible
                below, above = _scores(motion, now, now.time + step, outcomes, y)
                lower[place, step], upper[place, step] = np.where(seen, below, np.nan), np.where(seen, above, np.nan)
        standing = now
    return standing, SeriesCalibration(lower, upper, law_of(motion))


def _scores(
    motion: Motion, now: Standing, time: int, outcomes: Outcomes, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (*event) of an observation for lower and for upper bounds."""
    weights, scale = now.weights, scale_of(motion)
    if is_classes(motion):
        chances = summarise(motion, outcomes, weights, np.array([0.5]), None).probabilities
        scores = class_scores(chances, y.reshape(-1)).reshape(y.shape)
        both = scores, scores
    else:
        below = cdf(motion, outcomes, weights, y)
        ends = np.broadcast_to(scale.ends, (*y.shape, 3))  # which are not looked at
        if np.any((below < scale.tail) | (below >= 1.0 - scale.tail)):
            ends = summarise(motion, outcomes, weights, scale.ends, None).quantiles.reshape(*y.shape, 3)
        both = scores_of(scale, below, y, ends)
    if np.isnan(both).any():
        raise no_numbers(time, now.time)
    return both


def _check_enough(motion: Motion, series: Series, steps: int, level: float) -> None:
    """Raise PredictionError where some horizon has too few outcomes for intervals of the level."""
    sides = 1 if is_classes(motion) else 2
    wanted, count = least_count((1.0 - level) / sides), len(series.values)
    observed = series.observed.reshape(count, -1)
    for step in reversed(range(steps)):
        found = int(observed[step:].sum(axis=0).min()) if step < count else 0
        if found < wanted:
            missing = int((~observed).any(axis=1).sum())
            gaps = f", {missing} of them with a missing observation" if missing else ""
            what = "sets" if is_classes(motion) else "intervals"
            raise PredictionError(
                f"y has {count} times{gaps}, which gives {found} forecasts {step + 1} ahead to calibrate by; {what} of "
                f"{100 * level:.10g}% need {wanted} or more, and for {steps} steps that is y of "
                f"{wanted + steps - 1 + missing} times. Keep more of the series from inference, or take fewer steps= "
                "or a lower level=."
            )


def _check_support(motion: Motion, standing: Standing, series: Series) -> None:
    """Raise PredictionError for observations that a continuous law cannot give: no interval of the model covers
    them."""
    support, values = motion.family.support if motion.family else None, series.values
    if motion.discrete or support not in (Support.POSITIVE, Support.UNIT):
        return
    bad = series.observed & ((values <= 0.0) | ((values >= 1.0) if support is Support.UNIT else False))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise PredictionError(
            f"y is {values[bad].flat[0]:g} at time {standing.time + row}, where the model only gives {support.value}. "
            "No interval of this model covers it: use a distribution that can, or make it NaN."
        )
