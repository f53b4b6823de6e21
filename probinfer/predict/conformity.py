"""How far out an outcome lies in its predictive distribution, as a number, and back again. Imports numpy.

The number is the log odds of the cdf, logit F(y | x). Where F is within `tail` of 0 or 1 it says no more in floating
point (a model that is too sure of itself puts outcomes at F = 1 exactly), so beyond the quantiles q(tail) and
q(1 - tail) the scale goes on in a straight line, in units of their distance from the median. It stays increasing in y
and a function of one row alone, which is all that conformal calibration asks of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probinfer.model.pipeline.change import Change
from probinfer.predict.engine import LEAST_DRAWS, Answer, Engine, Summariser
from probinfer.predict.family import Support
from probinfer.predict.program import Program

_TAIL = 1e-6
_SAMPLED_TAIL = 5e-3  # of laws answered from some thousands of draws
_NUDGE = 1e-9


def logit(p: Any) -> Any:
    """log(p / (1 - p)). SciPy is imported by the first who asks: that takes a third as long as importing JAX."""
    from scipy import special

    return special.logit(p)


def expit(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    from scipy import special

    return special.expit(x)


def tail_of(program: Program) -> float:
    """Probability beyond which the scale is a straight line."""
    return _TAIL if program.family else _SAMPLED_TAIL


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
    program, tail = engine.program, tail_of(engine.program)
    cdf = engine.cdf(columns, hashes, y)
    ends = engine.summarise(columns, hashes, np.array([tail, 0.5, 1.0 - tail])).quantiles
    if program.discrete:
        return _whole(cdf[..., 0], y, ends, tail), np.where(y < 1, -np.inf, _whole(cdf[..., 1], y - 1.0, ends, tail))
    place, (low, middle, high) = _search(program, y), np.moveaxis(_search(program, ends), -1, 0)
    edge, scores = logit(1.0 - tail), _log_odds(cdf[..., 0], tail)
    scores = np.where(cdf[..., 0] < tail, np.minimum(-edge, -edge - (low - place) / _width(low, middle)), scores)
    scores = np.where(cdf[..., 0] > 1.0 - tail, np.maximum(edge, edge + (place - high) / _width(middle, high)), scores)
    return scores, scores


def summarise_at(
    engine: Summariser, columns: Mapping[str, np.ndarray], hashes: np.ndarray, scores: np.ndarray, upper: np.ndarray
) -> Answer:
    """The rows' summaries, with quantiles at `scores` (rows, *event, q); upper (q,): the score is one of P(Y < y)."""
    program, tail = engine.program, tail_of(engine.program)
    edge = logit(1.0 - tail)
    beyond = bool(np.any(np.abs(np.where(np.isfinite(scores), scores, 0.0)) > edge))
    levels = expit(np.clip(scores, -edge, edge))
    if program.discrete:  # the smallest k with P(Y <= k) above the level, not at it
        levels = levels + np.where(upper, 2e-12 if program.family else 0.5 / _least_draws(program), 0.0)
    if beyond:
        ends = np.broadcast_to([tail, 0.5, 1.0 - tail], (*levels.shape[:-1], 3))
        levels = np.concatenate([levels, ends], axis=-1)
    answer = engine.summarise(columns, hashes, levels)
    found = answer.quantiles[..., : scores.shape[-1]]
    if beyond:
        low, middle, high = (answer.quantiles[..., scores.shape[-1] + i, None] for i in range(3))
        found = _further(program, scores, upper, found, (low, middle, high), edge)
    if program.discrete:
        found = np.where(np.isneginf(scores), 0.0, found)
    return answer._replace(quantiles=found)


def _further(
    program: Program, scores: np.ndarray, upper: np.ndarray, found: np.ndarray, ends: tuple, edge: float
) -> np.ndarray:
    """`found`, with what lies beyond the edges put on the straight lines."""
    below, above = (scores < -edge) & np.isfinite(scores), scores > edge
    low, middle, high = ends if program.discrete else (_search(program, end) for end in ends)
    least = 1.0 if program.discrete else 0.0
    down = low + (scores + edge) * _width(low, middle, least)
    up = high + (scores - edge) * _width(middle, high, least)
    if program.discrete:
        down, up = (np.where(upper, np.floor(x + _NUDGE) + 1.0, np.ceil(x - _NUDGE)) for x in (down, up))
        return np.where(below, np.maximum(down, 0.0), np.where(above, up, found))
    with np.errstate(over="ignore"):
        return np.where(below, _value(program, down), np.where(above, _value(program, up), found))


def _whole(cdf: np.ndarray, k: np.ndarray, ends: np.ndarray, tail: float) -> np.ndarray:
    low, middle, high = np.moveaxis(ends, -1, 0)
    edge = logit(1.0 - tail)
    scores = np.where(cdf < tail, -edge - (low - k) / _width(low, middle, 1.0), _log_odds(cdf, tail))
    return np.where(cdf >= 1.0 - tail, edge + np.maximum(k - high, 0.0) / _width(middle, high, 1.0), scores)


def _least_draws(program: Program) -> int:
    return max(2, -(-LEAST_DRAWS // program.size)) * program.size


def _log_odds(cdf: np.ndarray, tail: float) -> np.ndarray:
    return logit(np.clip(cdf, tail, 1.0 - tail))


def _width(low: np.ndarray, high: np.ndarray, least: float = 0.0) -> np.ndarray:
    return np.maximum(high - low, least or np.finfo(float).tiny)


def _search(program: Program, values: np.ndarray) -> np.ndarray:
    """On the scale that reaches from -inf to inf; of a transformed outcome the model's."""
    change, support = _scale_of(program)
    if change is not None:
        return change.forward(values)
    if support is Support.POSITIVE:
        return np.log(values)
    return logit(values) if support is Support.UNIT else values


def _value(program: Program, places: np.ndarray) -> np.ndarray:
    change, support = _scale_of(program)
    if change is not None:
        return change.back(places)
    if support is Support.POSITIVE:
        return np.exp(places)
    return expit(places) if support is Support.UNIT else places


def _scale_of(program: Program) -> tuple[Change | None, Support]:
    if program.family is None:
        outcome = program.prepared.outcome if program.prepared else None
        return outcome.change if outcome else None, Support.REAL
    return program.family.change, program.family.support
