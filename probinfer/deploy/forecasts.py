"""A forecaster as a server holds it: asked about times to come, from observations that each question brings along.
Imports numpy.

A question is worked off time by time, first those that it brings observations of, then those that it asks about. So the
batcher may cut it as it cuts rows: others have their turn between the pieces, and one that is too late goes no further.
Nothing is kept of it when it is answered; every process that holds the folder answers the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from probinfer.deploy.fields import Field
from probinfer.deploy.named_outputs import Form, Output, offered, unasked
from probinfer.inference.key_words import key_words
from probinfer.model.series import Series
from probinfer.predict.engine import Answer
from probinfer.predict.forecaster import Forecaster
from probinfer.predict.interval import Answered, is_classes, probability
from probinfer.predict.outlook import compile_steps, fingerprint, look_ahead
from probinfer.predict.series_answer import OUTCOME
from probinfer.predict.series_question import SeriesQuestion
from probinfer.predict.series_rows import check_horizon
from probinfer.predict.standing import follow
from probinfer.predict.step_summary import MOMENTS, Summary

STEPS, OBSERVED = "steps", "observed"
MOST_TIMES = 16  # in one call: a step may take 50 ms, and whoever comes meanwhile waits


class Walk:
    """How far a question has come: `now`, the forecaster after the observations so far, and the summaries so far of
    the times that are asked about. For one thread at a time."""

    def __init__(
        self, forecaster: Forecaster, series: Series | None, steps: int, asked: SeriesQuestion, words: np.ndarray
    ) -> None:
        self.now, self.found = forecaster, list[Summary]()
        seen = len(series.values) if series is not None else 0
        self.length = max(seen + steps, 1)  # a question has rows
        self.gone = 0
        self._left = self._times(series, steps, asked, words)

    def go(self, times: int) -> None:
        """Go on by so many times. Raises PredictionError where the model's laws are not numbers."""
        self.gone += times
        for _ in islice(self._left, times):
            pass

    @property
    def done(self) -> bool:
        """All of it is gone."""
        return self.gone >= self.length

    def _times(self, series: Series | None, steps: int, asked: SeriesQuestion, words: np.ndarray) -> Iterator[None]:
        motion = self.now.motion
        for row in range(len(series.values)) if series is not None else ():
            assert series is not None
            one = Series(series.values[row : row + 1], series.observed[row : row + 1])
            self.now = self.now.standing_at(follow(motion, self.now.standing, one)[0])
            yield
        for summary in look_ahead(motion, self.now.standing, steps, asked, words) if steps else ():
            self.found.append(summary)
            yield


class TimesQuestion(NamedTuple):
    """What one client asks of a forecaster, or a part of it.

    walk       how far it has come; its parts share it, and go on where the one before stopped
    times      which of the walk's times, counted from 0
    steps      how many times are asked about
    level      probability of the equal-tailed interval
    quantiles  further quantiles
    again      it is asked since the outcomes have come
    """

    walk: Walk
    times: range
    steps: int
    level: float = 0.9
    quantiles: tuple[float, ...] = ()
    again: bool = False

    @property
    def hashes(self) -> range:
        """One for each time: the batcher counts them, as it counts rows."""
        return self.times

    def part(self, start: int, stop: int) -> "TimesQuestion":
        """Some of the times, after those before them."""
        return self._replace(times=self.times[start:stop])


class ForecastAnswers:
    """Answers of a forecaster, one question after the other."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster

    def compile(self, most_rows: int, threads: int) -> None:
        """Compile every step that is needed."""
        del most_rows
        compile_steps(self.forecaster.motion, self.forecaster.standing, threads)

    def share(self, older: object) -> None:
        """Versions that differ in nothing but numbers have the same compiled programs."""
        mine = self.forecaster
        if isinstance(older, ForecastAnswers) and fingerprint(older.forecaster.motion) == fingerprint(mine.motion):
            self.forecaster = mine.lent(older.forecaster)

    def question(
        self,
        series: Series | None,
        steps: int,
        level: float,
        quantiles: Sequence[float],
        seed: int,
        *,
        summarised: bool = True,
    ) -> TimesQuestion:
        """A checked question about the `steps` times after those of `series`. Without `summarised` only draws are made
        for them. Raises PredictionError for a level or quantiles that are none, and times that the model or its
        calibration does not know."""
        forecaster = self.forecaster
        seen = len(series.values) if series is not None else 0
        if seen:
            check_horizon(forecaster.motion, forecaster.time, seen)
        check_horizon(forecaster.motion, forecaster.time + seen, steps)
        level, wanted = probability("level", level), tuple(probability("quantiles", q) for q in quantiles)
        asked = SeriesQuestion(forecaster.motion, forecaster.calibration, level, wanted)
        asked.check(steps)
        walk = Walk(forecaster, series, steps if summarised else 0, asked, key_words(seed))
        return TimesQuestion(walk, range(walk.length), steps, level, wanted)

    def answer(self, questions: Sequence[TimesQuestion]) -> list[Answered | Exception | None]:
        """Go on with each of them by its times; the answer is None where more have to come."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: TimesQuestion) -> Answered | Exception | None:
        try:
            question.walk.go(len(question.times))
            return _answered(question) if question.walk.done else None
        except Exception as error:  # noqa: BLE001 - this question's own, which cannot be asked a second time
            return error

    def join(self, parts: Sequence[Answered | None], question: TimesQuestion) -> Answered:
        """The answer, which came with the last part."""
        del question
        assert parts[-1] is not None
        return parts[-1]

    def sample(self, question: TimesQuestion, draws: int, seed: int) -> np.ndarray:
        """Futures (draws, steps, *event), those of `Forecaster.sample`, of a question that was answered."""
        return question.walk.now.sample(question.steps, draws, seed)


@dataclass(frozen=True, eq=False)
class ServedForecaster:
    """One version of one forecaster; see `Served`.

    fields  what a request brings: how many steps, and what was observed since
    """

    name: str
    path: Path
    version: str
    predictor: Forecaster
    answers: ForecastAnswers
    fields: tuple[Field, ...]
    form: Form
    outputs: tuple[Output, ...]
    card: str

    @property
    def parts(self) -> "Mapping[str, ServedForecaster]":
        """The model by its outcomes: itself."""
        return {"": self}

    @cached_property
    def usual(self) -> tuple[tuple[str, Output], ...]:
        """What is answered when a request names no outputs."""
        return tuple(("", output) for output in unasked(self.form))

    @property
    def outcome(self) -> str:
        """What the outcome is called."""
        return OUTCOME

    @property
    def most_steps(self) -> int | None:
        """How many times to come the model and its calibration know; None where they know any."""
        horizon, calibration = self.predictor.motion.horizon, self.predictor.calibration
        known = [] if horizon is None else [max(horizon - self.predictor.time, 0)]
        return min([*known, *([calibration.steps] if calibration else [])], default=None)

    def answer(self, questions: Sequence[TimesQuestion]) -> list[Answered | Exception | None]:
        """See `ForecastAnswers.answer`."""
        return self.answers.answer(questions)

    def join(self, parts: Sequence[Answered | None], question: TimesQuestion) -> Answered:
        """See `ForecastAnswers.join`."""
        return self.answers.join(parts, question)


def served_forecaster(name: str, path: Path, version: str, forecaster: Forecaster, card: str) -> ServedForecaster:
    """A forecaster that was loaded."""
    motion = forecaster.motion
    form = Form(
        motion.event,
        motion.discrete,
        motion.probabilities,
        is_classes(motion),
        calibrated=forecaster.calibration is not None,
        times=True,
    )
    fields = (
        Field(STEPS, "int64", low=1, example=12, once=True),
        Field(OBSERVED, "float64", motion.event, missing=True),
    )
    answers = ForecastAnswers(forecaster)
    made = ServedForecaster(name, path, version, forecaster, answers, fields, form, offered(form), card)
    if made.most_steps is None:
        return made
    steps = replace(fields[0], high=made.most_steps, example=max(1, min(12, made.most_steps)))
    return replace(made, fields=(steps, *fields[1:]))


def _answered(question: TimesQuestion) -> Answered:
    walk, now = question.walk, question.walk.now
    motion, found, calibration = now.motion, walk.found, now.calibration

    def shaped(name: str, *more: int) -> np.ndarray:
        return np.array([getattr(each, name) for each in found]).reshape(len(found), *motion.event, *more)

    levels = 2 + len(question.quantiles)
    quantiles = shaped("quantiles", levels)
    chances = shaped("probabilities", motion.probabilities) if motion.probabilities else shaped("mean")[..., :0]
    of_classes = bool(found) and found[0].entropies is not None
    answer = Answer(
        **{name: shaped(name) for name in MOMENTS},
        quantiles=quantiles,
        probabilities=chances,
        defined=shaped("defined"),
        entropies=shaped("entropies", 3) if of_classes else np.zeros((len(found), *motion.event, 0)),
    )
    return Answered(
        answer=answer,
        lower=quantiles[..., 0],
        upper=quantiles[..., 1],
        quantiles=quantiles[..., 2:],
        sets=shaped("sets", motion.probabilities) if is_classes(motion) else None,
        calibration_rows=calibration.behind[: len(found)] if calibration else None,
        guarantee=calibration.guarantee(question.level, len(found)) if calibration and found else None,
        times=np.arange(now.time, now.time + len(found)),
        report=now.report,
    )
