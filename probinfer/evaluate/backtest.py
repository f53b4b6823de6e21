"""How good the forecasts of a forecaster were: led over what came, it forecasts from every time. Imports jax."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import lax

from probinfer.errors import PredictionError
from probinfer.evaluate.intervals import of_series, of_share
from probinfer.evaluate.scores import Score, Scores
from probinfer.evaluate.shown import Shown
from probinfer.evaluate.transform import MOST_COUNTS, PANELS, integrated, summed
from probinfer.inference.key_words import key_words
from probinfer.inference.settings import check_whole
from probinfer.predict.forecaster import Forecaster
from probinfer.predict.interval import is_classes, probability
from probinfer.predict.motion import Motion, Outcomes
from probinfer.predict.outlook import no_numbers
from probinfer.predict.rolling import origins
from probinfer.predict.series_answer import OUTCOME
from probinfer.predict.series_question import SeriesQuestion
from probinfer.predict.step_summary import cdf, cdf_at, log_density, summarise

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Backtest(Shown):
    """What `backtest` returns: `found[3]["crps"].value` is the CRPS of forecasts 3 ahead, `found.to_frame()` the table
    of all.

    level    of the forecasts' intervals, and of the intervals of the scores
    origins  from how many times was forecast
    ahead    the `Scores` of forecasts 1, 2, … ahead; their `pointwise` and `pit` are in the order of the times
    """

    level: float
    origins: int
    ahead: tuple[Scores, ...]

    def __getitem__(self, steps: int) -> Scores:
        if not isinstance(steps, int) or not 1 <= steps <= len(self.ahead):
            raise KeyError(f"there are no forecasts {steps} ahead; there are those 1 to {len(self.ahead)} ahead")
        return self.ahead[steps - 1]

    def __iter__(self) -> Iterator[Scores]:
        return iter(self.ahead)

    def __len__(self) -> int:
        return len(self.ahead)

    def to_frame(self) -> "pd.DataFrame":
        """A pandas DataFrame with a row for each number of steps ahead: how many forecasts were scored, the values of
        the metrics, and the interval of the coverage."""
        import pandas as pd

        rows = []
        for scores in self.ahead:
            row: dict[str, Any] = {"forecasts": scores.rows, **{score.name: score.value for score in scores}}
            covered = scores["coverage"]
            rows.append({**row, "coverage_lower": covered.lower, "coverage_upper": covered.upper})
        return pd.DataFrame(rows, index=pd.RangeIndex(1, len(self.ahead) + 1, name="ahead"))

    def _head(self) -> str:
        return f"Backtest of {OUTCOME}: from {self.origins} times, {100 * self.level:.10g}% intervals"


def backtest(
    forecaster: Forecaster, y: Any, steps: int = 1, *, level: float = 0.9, every: int = 1, seed: Any = 0
) -> Backtest:
    """Score a forecaster on observations that came after those it has seen: rolling origin, each number of steps ahead.

    The forecaster is led over `y`; before every observation it forecasts the `steps` times that follow, from all that
    came before and nothing later, as `forecaster.observe(y[:k]).predict(steps)` does. The draws of its parameters are
    weighted by what came, and not inferred anew. Numbers and counts: mae of the mean, crps, log_score, coverage and
    width of the interval. Classes: accuracy, log_loss, brier, coverage and width (number of classes) of the set. Of a
    calibrated forecaster the interval is calibrated, and crps and log_score are the model's. crps is the integral over
    the mixture's own cdf (of counts the sum); of a law without one it comes from the forecast's draws, and there is no
    log_score.

    Args:
        forecaster: as it stood before `y`.
        y: (n,), the observations that follow, kept from inference; NaN where missing, which is not scored.
        steps: up to how many ahead.
        level: of the forecasts' intervals, and of the intervals of the scores.
        every: forecast from every so many times only.
        seed: of the forecasts, as for `predict`.

    Returns:
        Backtest: `Scores` for each number of steps ahead. Forecasts that overlap depend on one another: errors of means
            are those of a dependent series (Newey and West's), the interval of the coverage is the exact binomial one
            of as many forecasts as do not overlap.

    Raises:
        PredictionError: `y` does not fit, has several numbers a time, observations of the inference are among it, it
            holds no outcome `steps` ahead, or the model's laws are not numbers at some time; `level` is no probability.
        MethodError: `steps`, `every` or `seed` is none.

    Fails to say how good other fits are, such as one to more data. A model with particles takes some ten milliseconds
    and more for each forecast of a time: take `every`.
    Tashman (2000), International Journal of Forecasting 16 (rolling origin); Gneiting & Raftery (2007), JASA 102.

    >>> import numpy as np, numpyro.distributions as dist
    >>> import probinfer as pi
    >>> level = pi.StateSpace.linear_gaussian(
    ...     [0.0],
    ...     [[1.0]],
    ...     [[0.8]],
    ...     lambda t, params: params["q"] * np.eye(1),
    ...     [[1.0]],
    ...     [[0.5]],
    ...     prior={"q": dist.LogNormal(0.0, 0.5)},
    ... )
    >>> y = np.random.default_rng(0).normal(size=80)
    >>> forecaster = pi.Forecaster(pi.infer(level, y[:50], pi.NUTS(draws=500), progress=False))
    >>> found = backtest(forecaster, y[50:], steps=3)
    >>> [scores.rows for scores in found], list(found.to_frame().columns[1:6])
    ([30, 29, 28], ['mae', 'crps', 'log_score', 'coverage', 'width'])
    """
    if not isinstance(forecaster, Forecaster):
        raise PredictionError(f"forecaster came as {type(forecaster).__name__}; wanted a Forecaster.")
    check_whole("backtest", "steps", steps, 1)
    check_whole("backtest", "every", every, 1)
    level, words = probability("level", level), key_words(seed)
    motion = forecaster.motion
    if motion.event != ():
        raise PredictionError(
            f"An observation has the shape {motion.event}; backtest scores one number a time. forecaster.log_score(y) "
            "scores several together, one step ahead."
        )
    series = forecaster.kept_from_inference(y)
    question = SeriesQuestion(motion, forecaster.calibration, level)
    question.check(steps)
    of_law = _Classes(question) if is_classes(motion) else _Numbers(question)
    found: list[list[dict[str, float]]] = [[] for _ in range(steps)]
    count = 0
    for place, now, ahead in origins(motion, forecaster.standing, series, steps, words):
        if place % every or place == len(series.values):
            continue
        count += 1
        for step, outcomes in enumerate(ahead):
            if series.observed[place + step]:
                scored = of_law.score(step, outcomes, now.weights, float(series.values[place + step]))
                if scored is None:
                    raise no_numbers(now.time + step, now.time)
                found[step].append(scored)
    for step, each in enumerate(found):
        if not each:
            raise PredictionError(
                f"y has {len(series.values)} times, and no observation {step + 1} ahead of one that was forecast from. "
                "Pass more of the series, or take fewer steps=."
            )
    how, pit = of_law.how, np.random.default_rng([*words.tolist(), 4])
    return Backtest(
        level, count, tuple(_scores(each, -(-(h + 1) // every), level, how, pit) for h, each in enumerate(found))
    )


def _scores(
    each: list[dict[str, float]], overlap: int, level: float, how: dict[str, str], generator: np.random.Generator
) -> Scores:
    """The table of forecasts of one horizon, by what each of them scored."""
    parts = {name: np.array([one[name] for one in each]) for name in each[0]}
    below, upto = parts.pop("below", None), parts.pop("upto", None)
    pit = None if below is None or upto is None else below + generator.random(len(each)) * (upto - below)
    scores = []
    for name, values in parts.items():
        score = _coverage(values, overlap, level) if name == "coverage" else of_series(name, values, overlap, level)
        scores.append(replace(score, how=score.how + how.get(name, "")))
    return Scores(OUTCOME, len(each), level, tuple(scores), pit, None, parts)


def _coverage(inside: np.ndarray, overlap: int, level: float) -> Score:
    """With the interval of so many independent forecasts as there are that do not overlap."""
    apart, share = max(len(inside) // overlap, 1), float(np.mean(inside))
    score = of_share("coverage", round(share * apart), apart, level)
    se = float(np.sqrt(share * (1.0 - share) / apart))
    how = score.how if overlap == 1 else f"{score.how}, as of {apart} forecasts that do not overlap"
    return replace(score, value=share, se=se, how=how)


class _Numbers:
    """Scores of numbers and counts."""

    def __init__(self, question: SeriesQuestion) -> None:
        self._question, self._motion = question, question.motion
        own = "; of the model, not calibrated" if question.calibration is not None else ""
        drawn = "; from the forecast's draws" if question.motion.family is None else ""
        self.how = {"crps": drawn + own, "log_score": own}

    def score(self, step: int, outcomes: Outcomes, weights: np.ndarray, y: float) -> dict[str, float] | None:
        """Of one forecast; None where the law is not a number."""
        motion, summary = self._motion, self._question.summarise(step, outcomes, weights)
        if not summary.defined.all():
            return None
        lower, upper = summary.quantiles[0, :2]
        both = cdf(motion, outcomes, weights, np.array(y))
        scores = {"mae": abs(y - float(summary.mean[0])), "crps": self._crps(outcomes, weights, y)}
        if outcomes.drawn is None:
            scores["log_score"] = log_density(motion, outcomes, weights, np.array(y))
        scores |= {"coverage": float(lower <= y <= upper), "width": float(upper - lower)}
        return scores | {"below": float(both[1]), "upto": float(both[0])}

    def _crps(self, outcomes: Outcomes, weights: np.ndarray, y: float) -> float:
        motion = self._motion
        if outcomes.drawn is not None:
            return _crps_of_draws(outcomes.drawn, weights, y)
        if motion.discrete:
            low, high = summarise(motion, outcomes, weights, np.array([1e-8, 1 - 1e-8]), None).quantiles[0]
            along = np.array([[y, min(low, y), max(high, y)]])
            if along[0, 2] - along[0, 1] <= MOST_COUNTS:
                return float(motion.call(_summed, outcomes.parameters, weights, along)[0, 2])
            y -= 0.5  # of so many, the sum is an integral
        edges = summarise(motion, outcomes, weights, np.array(PANELS), None).quantiles[0]
        return float(motion.call(_integrated, outcomes.parameters, weights, np.concatenate([[y], edges])[None])[0, 1])


class _Classes:
    """Scores of classes."""

    def __init__(self, question: SeriesQuestion) -> None:
        self._question = question
        self.how = dict[str, str]()

    def score(self, step: int, outcomes: Outcomes, weights: np.ndarray, y: float) -> dict[str, float] | None:
        """Of one forecast; None where the law is not a number."""
        summary, code = self._question.summarise(step, outcomes, weights), int(y)
        if not summary.defined.all():
            return None
        chances, inside = summary.probabilities[0], summary.sets[0]
        event = np.arange(len(chances)) == code
        apart = float(np.sum((chances - event) ** 2))
        with np.errstate(divide="ignore"):
            loss = -float(np.log(chances[code]))
        scores = {"accuracy": float(np.argmax(chances) == code), "log_loss": loss}
        scores["brier"] = apart / 2 if len(chances) == 2 else apart
        return scores | {"coverage": float(inside[code]), "width": float(inside.sum())}


def _crps_of_draws(drawn: np.ndarray, weights: np.ndarray, y: float) -> float:
    """mean |X - y| - mean |X - X'| / 2 of draws (S, M) of weights (S,), the second by sorting."""
    x, each = drawn.reshape(-1), np.repeat(weights / drawn.shape[1], drawn.shape[1])
    order = np.argsort(x)
    ordered, own = x[order], each[order]
    below = np.cumsum(own) - own / 2
    return float(own @ np.abs(ordered - y) - own @ (ordered * (2.0 * below - 1.0)))


def _integrated(motion: Motion, parameters: tuple, weights: Any, along: Any) -> jax.Array:
    return integrated(_each_column(motion, parameters, weights), along)


def _summed(motion: Motion, parameters: tuple, weights: Any, along: Any) -> jax.Array:
    return summed(_each_column(motion, parameters, weights), along)


def _each_column(motion: Motion, parameters: tuple, weights: Any) -> Any:
    """The cdf at points (1, m), one after the other."""
    at = cdf_at(motion, parameters, weights)
    return lambda points: lax.map(at, points.T).T
