"""Summaries of times as one prediction. Imports numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probinfer.predict.interval import is_classes
from probinfer.predict.kind import Interval
from probinfer.predict.series_prediction import SeriesPrediction
from probinfer.predict.series_question import SeriesQuestion
from probinfer.predict.shortest import ends_of
from probinfer.predict.step_summary import MOMENTS, Summary

OUTCOME = "observations"


def answer(question: SeriesQuestion, found: Sequence[Summary], first: int, *, quantiles: bool) -> SeriesPrediction:
    """The prediction of the times from `first` on, by their summaries. quantiles: were asked for, if only none."""
    motion, interval, calibration = question.motion, question.interval, question.calibration
    event, wanted = motion.event, question.quantiles

    def shaped(values: Sequence[np.ndarray], *more: int) -> np.ndarray:
        return np.stack(values).reshape(len(found), *event, *more)

    places = shaped([each.quantiles for each in found], 2 + len(wanted))
    lower, upper = places[..., 0], places[..., 1]
    if interval is Interval.HDI:
        ends = shaped([each.ends for each in found], 2)
        lower, upper = ends[..., 0], ends[..., 1]
    support = motion.family.support if motion.family else None
    classes = is_classes(motion)
    bottom, top = ends_of(support)
    bottom = -np.inf if motion.family is None else bottom
    if interval is Interval.LOWER:
        upper = np.full_like(upper, motion.probabilities - 1.0 if classes else top)
    if interval is Interval.UPPER:
        lower = np.full_like(lower, bottom)
    moments = {name: shaped([getattr(each, name) for each in found]) for name in MOMENTS}
    some = shaped([each.probabilities for each in found], motion.probabilities) if motion.probabilities else None
    parts: dict[str, Any] = {}
    if found[0].entropies is not None:
        whole, apart, gap = np.moveaxis(shaped([each.entropies for each in found], 3), -1, 0)
        parts = {"entropy": whole, "expected_entropy": apart, "mutual_information": gap}
    return SeriesPrediction(
        outcome=OUTCOME,
        **moments,
        lower=lower,
        upper=upper,
        level=question.level,
        quantiles=places[..., 2:] if quantiles else None,
        quantile_levels=wanted,
        probabilities=some,
        classes=np.arange(motion.probabilities) if classes else None,
        sets=shaped([each.sets for each in found], motion.probabilities) if classes else None,
        calibration_rows=calibration.behind[: len(found)] if calibration else None,
        guarantee=calibration.guarantee(question.level, len(found)) if calibration else None,
        interval=interval,
        times=np.arange(first, first + len(found)),
        **parts,
    )
