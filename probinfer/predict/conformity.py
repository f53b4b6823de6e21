"""How far out an outcome lies in its predictive distribution, as a number, and back again. Imports numpy.

The number is the log odds of the cdf, logit F(y | x). Where F is within `tail` of 0 or 1 it says no more in floating
point (a model that is too sure of itself puts outcomes at F = 1 exactly), so beyond the quantiles q(tail) and
q(1 - tail) the scale goes on in a straight line, in units of their distance from the median. It stays increasing in y
and a function of one row alone, which is all that conformal calibration asks of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from probinfer.model.pipeline.change import Change
from probinfer.predict.engine import LEAST_DRAWS, Answer, Engine, Summariser
from probinfer.predict.family import Family, Support
from probinfer.predict.program import Program

_TAIL = 1e-6
_SAMPLED_TAIL = 5e-3  # of laws answered from some thousands of draws
_NUDGE = 1e-9


class Scale(NamedTuple):
    """On what scale the outcomes of a law are placed.

    support   where it goes on beyond the tails: on the reals, in logs, in log odds
    discrete  whole numbers
    tail      probability beyond which the scale is a straight line
    above     how much higher a level has to be for the smallest number whose cdf is above it, not at it
    change    of a transformed outcome: the scale is the model's
    """

    support: Support
    discrete: bool
    tail: float
    above: float
    change: Change | None = None

    @classmethod
    def of(cls, family: Family | None, *, discrete: bool, above: float, change: Change | None = None) -> "Scale":
        """That of a law. above: of laws answered from draws; of whole numbers with a cdf it is known."""
        if family is None:
            return cls(Support.REAL, discrete, _SAMPLED_TAIL, above, change)
        return cls(family.support, discrete, _TAIL, _ABOVE if discrete else 0.0, family.change)

    @property
    def ends(self) -> np.ndarray:
        """Levels of the quantiles from which the scale goes on, and of the median."""
        return np.array([self.tail, 0.5, 1.0 - self.tail])


_ABOVE = 2e-12  # a cdf may miss a level by rounding, half as much at most


def logit(p: Any) -> Any:
    """log(p / (1 - p)). SciPy is imported by the first who asks: that takes a third as long as importing JAX."""
    from scipy import special

    return special.logit(p)


def expit(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    from scipy import special

    return special.expit(x)


def class_scores(chances: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Scores of classes `codes` (rows, *event), given the probabilities (rows, *event, k)."""
    return np.take_along_axis(all_class_scores(chances), codes[..., None].astype(int), axis=-1)[..., 0]


def all_class_scores(chances: np.ndarray) -> np.ndarray:
    """Of each class: the probability of all more probable ones, and half its own."""
    order = np.argsort(-chances, axis=-1, kind="stable")
    ordered = np.take_along_axis(chances, order, axis=-1)
    scores = np.empty_like(chances)
    np.put_along_axis(scores, order, np.cumsum(ordered, axis=-1) - ordered / 2, axis=-1)
    return scores


def outcome_scores(
    engine: Engine, columns: Mapping[str, np.ndarray], hashes: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of y (rows, *event): of P(Y <= y), for lower bounds, and of P(Y < y), for upper ones.

    They are the same where F is continuous. Of whole numbers, y is at or above the k-th smallest quantile exactly if
    P(Y <= y) is large enough, and at or below one exactly if P(Y < y) is small enough: no random number is needed.
    """
    scale = _scale_of(engine.program)
    cdf = engine.cdf(columns, hashes, y)
    return scores_of(scale, cdf, y, engine.summarise(columns, hashes, scale.ends).quantiles)


def scores_of(scale: Scale, cdf: np.ndarray, y: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of y for lower and for upper bounds, from P(Y <= y) and P(Y < y) on the last axis of `cdf`, and the
    quantiles at `scale.ends` on that of `ends`; the latter are looked at where a score lies beyond them."""
    tail = scale.tail
    if scale.discrete:
        return _whole(cdf[..., 0], y, ends, tail), np.where(y < 1, -np.inf, _whole(cdf[..., 1], y - 1.0, ends, tail))
    sides = [_placed(scale, cdf[..., side], y, ends) for side in (0, 1)]
    return sides[0], sides[1]


def _placed(scale: Scale, cdf: np.ndarray, y: np.ndarray, ends: np.ndarray) -> np.ndarray:
    tail, edge = scale.tail, logit(1.0 - scale.tail)
    place, (low, middle, high) = _search(scale, y), np.moveaxis(_search(scale, ends), -1, 0)
    scores = _log_odds(cdf, tail)
    scores = np.where(cdf < tail, np.minimum(-edge, -edge - (low - place) / _width(low, middle)), scores)
    return np.where(cdf > 1.0 - tail, np.maximum(edge, edge + (place - high) / _width(middle, high)), scores)


def summarise_at(
    engine: Summariser, columns: Mapping[str, np.ndarray], hashes: np.ndarray, scores: np.ndarray, upper: np.ndarray
) -> Answer:
    """The rows' summaries, with quantiles at `scores` (rows, *event, q); upper (q,): the score is one of P(Y < y)."""
    scale = _scale_of(engine.program)
    answer = engine.summarise(columns, hashes, levels_of(scale, scores, upper))
    return answer._replace(quantiles=quantiles_of(scale, scores, upper, answer.quantiles))


def levels_of(scale: Scale, scores: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The levels of the quantiles from which `quantiles_of` finds those at `scores` (…, q), on the last axis."""
    edge = logit(1.0 - scale.tail)
    levels = expit(np.clip(scores, -edge, edge)) + np.where(upper, scale.above, 0.0)
    if not _beyond(scores, edge):
        return levels
    return np.concatenate([levels, np.broadcast_to(scale.ends, (*levels.shape[:-1], 3))], axis=-1)


def quantiles_of(scale: Scale, scores: np.ndarray, upper: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The quantiles at `scores`, from those `found` at `levels_of` them: what lies beyond the tails is put on the
    straight lines."""
    edge, count = logit(1.0 - scale.tail), scores.shape[-1]
    quantiles = found[..., :count]
    if _beyond(scores, edge):
        low, middle, high = (found[..., count + i, None] for i in range(3))
        quantiles = _further(scale, scores, upper, quantiles, (low, middle, high), edge)
    return np.where(np.isneginf(scores), 0.0, quantiles) if scale.discrete else quantiles


def _beyond(scores: np.ndarray, edge: float) -> bool:
    return bool(np.any(np.abs(np.where(np.isfinite(scores), scores, 0.0)) > edge))


def _further(
    scale: Scale, scores: np.ndarray, upper: np.ndarray, found: np.ndarray, ends: tuple, edge: float
) -> np.ndarray:
    below, above = (scores < -edge) & np.isfinite(scores), scores > edge
    low, middle, high = ends if scale.discrete else (_search(scale, end) for end in ends)
    least = 1.0 if scale.discrete else 0.0
    down = low + (scores + edge) * _width(low, middle, least)
    up = high + (scores - edge) * _width(middle, high, least)
    if scale.discrete:
        down, up = (np.where(upper, np.floor(x + _NUDGE) + 1.0, np.ceil(x - _NUDGE)) for x in (down, up))
        return np.where(below, np.maximum(down, 0.0), np.where(above, up, found))
    with np.errstate(over="ignore"):
        return np.where(below, _value(scale, down), np.where(above, _value(scale, up), found))


def _whole(cdf: np.ndarray, k: np.ndarray, ends: np.ndarray, tail: float) -> np.ndarray:
    low, middle, high = np.moveaxis(ends, -1, 0)
    edge = logit(1.0 - tail)
    scores = np.where(cdf < tail, -edge - (low - k) / _width(low, middle, 1.0), _log_odds(cdf, tail))
    return np.where(cdf >= 1.0 - tail, edge + np.maximum(k - high, 0.0) / _width(middle, high, 1.0), scores)


def _log_odds(cdf: np.ndarray, tail: float) -> np.ndarray:
    return logit(np.clip(cdf, tail, 1.0 - tail))


def _width(low: np.ndarray, high: np.ndarray, least: float = 0.0) -> np.ndarray:
    return np.maximum(high - low, least or np.finfo(float).tiny)


def _search(scale: Scale, values: np.ndarray) -> np.ndarray:
    """On the scale that reaches from -inf to inf; of a transformed outcome the model's."""
    if scale.change is not None:
        return scale.change.forward(values)
    if scale.support is Support.POSITIVE:
        return np.log(values)
    return logit(values) if scale.support is Support.UNIT else values


def _value(scale: Scale, places: np.ndarray) -> np.ndarray:
    if scale.change is not None:
        return scale.change.back(places)
    if scale.support is Support.POSITIVE:
        return np.exp(places)
    return expit(places) if scale.support is Support.UNIT else places


def _scale_of(program: Program) -> Scale:
    outcome = program.prepared.outcome if program.prepared else None
    change = outcome.change if outcome and program.family is None else None
    # of whole numbers from draws, half of what a draw of those that are made counts
    draws = max(2, -(-LEAST_DRAWS // program.size)) * program.size
    return Scale.of(
        program.family, discrete=program.discrete, above=0.5 / draws if program.discrete else 0.0, change=change
    )
