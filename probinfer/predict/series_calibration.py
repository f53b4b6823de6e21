"""Conformal calibration of forecasts: scores of what came after each of many times, horizon by horizon. Imports numpy.

The score of an outcome h ahead is compared with those of earlier forecasts h ahead, by the ranks of `conformal`: were
the scores of one horizon exchangeable, a bound would be passed with its probability at most. Scores that follow one
another in a series are exchangeable only as far as the forecasts go on erring as they did, and those of forecasts that
overlap depend on one another; so what is said of it is "about", and `later` measures one part of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.conformal import least_count, rank
from probinfer.predict.motion import Motion

LATER_LEVEL = 0.9


class Later(NamedTuple):
    """How the second half of the scores lies to the first: `covered` of `count` outcomes one ahead were in intervals
    of the level LATER_LEVEL that the first half calibrated; so few have the probability `chance` if scores are
    exchangeable. Of several numbers that which was covered least."""

    covered: int
    count: int
    chance: float


@dataclass(frozen=True, eq=False)
class SeriesCalibration:
    """What a calibrated forecaster knows beyond the model: the scores of past forecasts, in the order of their times.

    lower    (times, steps, *event): in row t the scores of P(Y <= y), behind lower bounds, of what came 1, 2, … after
             time t; NaN where nothing came
    upper    scores of P(Y < y), behind upper bounds; for classes both are the scores of sets
    law      of the observations: the name of its family, "" for one without closed form
    carried  they are forecasts of another fit
    """

    lower: np.ndarray
    upper: np.ndarray
    law: str
    carried: bool = False

    @property
    def steps(self) -> int:
        """How many times ahead are calibrated."""
        return self.lower.shape[1]

    @cached_property
    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores of every horizon, `lower` and `upper`, sorted; NaN behind them."""
        return np.sort(self.lower, axis=0), np.sort(self.upper, axis=0)

    @cached_property
    def counts(self) -> np.ndarray:
        """How many scores there are, (steps, *event)."""
        return np.sum(~np.isnan(self.lower), axis=0)

    @cached_property
    def behind(self) -> np.ndarray:
        """How many forecasts stand behind the intervals of each horizon, (steps,): of the entry that has least."""
        return self.counts.reshape(self.steps, -1).min(axis=1)

    def check_steps(self, steps: int) -> None:
        """Raise PredictionError for times beyond those that are calibrated."""
        if steps > self.steps:
            raise PredictionError(
                f"{steps} steps were asked for, and the forecaster is calibrated for {self.steps}. Ask for at most "
                f"{self.steps}, or calibrate with steps={steps}."
            )

    def scores(self, step: int, probability: float, *, upper: bool) -> np.ndarray:
        """Scores (*event) of the bound at a probability p, `step` times after the first one ahead: an upper bound is
        passed with probability 1 - p at most, a lower one with p. Raises PredictionError where they are too few."""
        counts, ordered = self.counts[step].ravel(), self.sorted[upper][:, step].reshape(len(self.lower), -1)
        found = np.empty(len(counts))
        for entry, count in enumerate(counts):
            place = rank(int(count), probability, upper=upper)
            if not 1 <= place <= count:
                beyond = 1.0 - probability if upper else probability
                raise PredictionError(
                    f"There are {count} past forecasts {step + 1} ahead to calibrate by, too few for a bound that no "
                    f"more than {100 * beyond:.4g}% of outcomes pass; wanted {least_count(beyond)} or more. Ask for a "
                    "lower level, or calibrate with more observations."
                )
            found[entry] = ordered[place - 1, entry]
        return found.reshape(self.lower.shape[2:])

    def median(self, step: int, *, discrete: bool) -> np.ndarray:
        """Scores of the median: of whole numbers an upper bound, else half-way between the bounds from both sides."""
        above = self.scores(step, 0.5, upper=True)
        return above if discrete else (above + self.scores(step, 0.5, upper=False)) / 2.0

    def guarantee(self, level: float, steps: int) -> str:
        """What may be said of the intervals of the first `steps` times."""
        few, most = int(self.behind[:steps].min()), int(self.behind[:steps].max())
        count = f"{few}" if few == most else f"{few} to {most}"
        whose = " of another fit" if self.carried else ""
        return (
            f"calibrated on {count} past forecasts{whose} of each horizon: about {100 * level:.10g}% of outcomes to "
            "come are covered, as far as forecasts go on erring as they did"
        )

    @cached_property
    def later(self) -> Later | None:
        """Whether the scores of the second half are like those of the first; None where they are too few to tell."""
        worst, entries = None, int(np.prod(self.lower.shape[2:], dtype=int))
        for entry in range(entries):
            lower, upper = (scores[:, 0].reshape(-1, entries)[:, entry] for scores in (self.lower, self.upper))
            there = ~np.isnan(lower)
            found = _later(lower[there], upper[there], entries)
            if found is None:
                return None
            worst = found if worst is None or found.chance < worst.chance else worst
        return worst

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and words, from which `unpack` makes the calibration again."""
        arrays = {"lower": self.lower}
        if not np.array_equal(self.lower, self.upper, equal_nan=True):
            arrays["upper"] = self.upper
        return arrays, {"times": len(self.lower), "steps": self.steps, "law": self.law, "carried": self.carried}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], words: Mapping[str, Any], motion: Motion) -> "SeriesCalibration":
        """Raises ValueError, KeyError or TypeError for parts that do not belong together."""
        times, steps, law, carried = (words[name] for name in ("times", "steps", "law", "carried"))
        if not isinstance(carried, bool) or law != law_of(motion) or not set(arrays) <= {"lower", "upper"}:
            raise ValueError("it is of forecasts by another law, or whose they are is not said")
        lower = np.asarray(arrays["lower"], float)
        upper = np.asarray(arrays.get("upper", lower), float)
        if any(scores.shape != (times, steps, *motion.event) for scores in (lower, upper)) or not lower.size:
            raise ValueError(f"the scores have the shape {lower.shape}")
        if not np.array_equal(np.isnan(lower), np.isnan(upper)) or np.isnan(lower).all(axis=0).any():
            raise ValueError("scores are missing")
        return cls(lower, upper, law, carried)


def law_of(motion: Motion) -> str:
    """Name of the law of the observations; scores of one are no scores of another."""
    return motion.family.name if motion.family is not None else ""


def _later(lower: np.ndarray, upper: np.ndarray, entries: int) -> Later | None:
    before, aside = len(lower) // 2, (1.0 - LATER_LEVEL) / 2.0
    low, high = rank(before, aside, upper=False), rank(before, 1.0 - aside, upper=True)
    if low < 1 or high > before:
        return None
    bottom, top = np.sort(lower[:before])[low - 1], np.sort(upper[:before])[high - 1]
    inside = (lower[before:] >= bottom) & (upper[before:] <= top)
    covered, count = int(inside.sum()), len(inside)
    return Later(covered, count, min(1.0, entries * _at_most(covered, count, high - low, before + 1 - high + low)))


def _at_most(covered: int, count: int, a: int, b: int) -> float:
    """P(X <= covered) of a beta-binomial law: how many of `count` fall between two of a + b - 1 scores, if all are
    exchangeable. SciPy's takes long to import."""

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def log_chance(k: int) -> float:
        ways = -log_beta(count - k + 1, k + 1) - math.log(count + 1)
        return ways + log_beta(k + a, count - k + b) - log_beta(a, b)

    return min(1.0, sum(math.exp(log_chance(k)) for k in range(covered + 1)))


def series_calibration_lines(words: Any) -> list[str]:
    """What `inspect` says, from the manifest."""
    if not words:
        return []
    whose = " of another fit" if words["carried"] else ""
    return [f"  calibrated on past forecasts{whose} from {words['times']} times, up to {words['steps']} ahead"]
