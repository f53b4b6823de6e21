"""What is asked about each time to come, and the answer by its law: the model's own, or as the calibration moves it.
Imports jax."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.conformity import Scale, all_class_scores, levels_of, quantiles_of
from probinfer.predict.interval import TIE, is_classes, likely_set, probabilities_of
from probinfer.predict.kind import Interval
from probinfer.predict.motion import Motion, Outcomes
from probinfer.predict.series_calibration import SeriesCalibration
from probinfer.predict.step_summary import Summary, summarise

_ABOVE = 2e-12  # draws of unequal weight: less than any of them counts, more than rounding


@dataclass(frozen=True, eq=False)
class SeriesQuestion:
    """An interval of the level `level` and quantiles, checked; of classes the sets.

    Raises PredictionError for kinds of interval that the law, or the calibration, does not have.
    """

    motion: Motion
    calibration: SeriesCalibration | None
    level: float
    quantiles: tuple[float, ...] = ()
    interval: Interval = Interval.ETI

    def __post_init__(self) -> None:
        hdi, classes = self.interval is Interval.HDI, is_classes(self.motion)
        if hdi and (self.motion.family is None or self.motion.discrete):
            raise PredictionError(
                "Interval.HDI is for observations of a continuous law with a closed form. Ask for Interval.ETI."
            )
        if self.calibration is not None and (hdi or (classes and self.interval is not Interval.ETI)):
            moved = "the sets of classes" if classes else "quantiles, and so not the shortest interval"
            others = "" if classes else ", LOWER or UPPER"
            raise PredictionError(
                f"Interval.{self.interval.name} of a calibrated forecaster is not offered: calibration moves {moved}. "
                f"Ask for Interval.ETI{others}."
            )

    def check(self, steps: int) -> None:
        """Raise PredictionError where the calibration has not so many steps, or too few scores for the level."""
        if self.calibration is not None:
            self.calibration.check_steps(steps)
            for step in range(steps):
                self._scores(step)

    @cached_property
    def levels(self) -> np.ndarray:
        """Of the interval's ends and the quantiles, by the model's law."""
        return np.array([*probabilities_of(self.interval, self.level), *self.quantiles])

    def summarise(self, step: int, outcomes: Outcomes, weights: np.ndarray) -> Summary:
        """The summaries of the time that is `step` after the first one ahead. The first two quantiles are the
        interval's ends."""
        motion, calibration = self.motion, self.calibration
        if calibration is None or is_classes(motion):
            found = summarise(
                motion, outcomes, weights, self.levels, self.level if self.interval is Interval.HDI else None
            )
            return self._with_sets(step, found) if is_classes(motion) else found
        scale, (scores, upper) = scale_of(motion), self._scores(step)
        levels = levels_of(scale, scores, upper)
        found = summarise(motion, outcomes, weights, levels, None)
        places = quantiles_of(scale, scores, upper, found.quantiles)
        ends = np.sort(places[:, :2], axis=1)  # whole numbers have two scores, and their ends may cross
        order = np.argsort(self.quantiles, kind="stable")
        further = np.empty_like(places[:, 2:])
        further[:, order] = np.sort(places[:, 2:], axis=1)
        return found._replace(quantiles=np.concatenate([ends, further], axis=1))

    def _scores(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (E, 2 + quantiles) of both ends and the quantiles, and which of them are upper bounds; of classes
        that of the set (E, 1)."""
        calibration, discrete = self.calibration, self.motion.discrete
        assert calibration is not None
        if is_classes(self.motion):
            return calibration.scores(step, self.level, upper=True).reshape(-1, 1), np.array([True])
        (low, high), kind = probabilities_of(self.interval, self.level), self.interval
        asked = [(low, kind is Interval.UPPER), (high, kind is not Interval.LOWER)]
        found = [calibration.scores(step, p, upper=above) for p, above in asked]
        found += [
            calibration.median(step, discrete=discrete) if q == 0.5 else calibration.scores(step, q, upper=q > 0.5)
            for q in self.quantiles
        ]
        upper = np.array([*(above for _, above in asked), *(q >= 0.5 for q in self.quantiles)])
        return np.stack(found, axis=-1).reshape(-1, len(upper)), upper

    def _with_sets(self, step: int, found: Summary) -> Summary:
        """With the sets of classes, and of a calibrated forecaster as the interval the smallest and largest class."""
        chances = found.probabilities
        if self.calibration is None:
            return found._replace(sets=likely_set(chances, self.level))
        inside = all_class_scores(chances) <= self._scores(step)[0] + TIE
        np.put_along_axis(inside, np.argmax(chances, axis=-1)[:, None], True, axis=-1)
        first, last = np.argmax(inside, axis=-1), inside.shape[-1] - 1 - np.argmax(inside[:, ::-1], axis=-1)
        ends = np.stack([first, last], axis=-1).astype(float)
        return found._replace(sets=inside, quantiles=np.concatenate([ends, found.quantiles[:, 2:]], axis=1))


def scale_of(motion: Motion) -> Scale:
    """On what scale the observations are placed. Where they are answered from draws, which are many, a level between
    two of them is the upper one's."""
    return Scale.of(motion.family, discrete=motion.discrete, above=_ABOVE)
