"""Questions about several outcomes of the same rows, asked and answered as one. Imports numpy.

The batcher takes them for what they look like: a question has rows and can be cut, an answer has as many rows.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from probinfer.deploy.answerer import PosteriorAnswers
from probinfer.deploy.forecasts import TimesQuestion
from probinfer.errors import PredictionError
from probinfer.predict.interval import Given
from probinfer.predict.together import Question


class Questions(NamedTuple):
    """A question of each outcome that is asked about, all of the same rows and level."""

    parts: Mapping[str, Question]

    @property
    def hashes(self) -> np.ndarray:
        """One for each row: those of the first outcome."""
        return next(iter(self.parts.values())).hashes

    @property
    def level(self) -> float:
        """Probability of the intervals."""
        return next(iter(self.parts.values())).level

    def part(self, start: int, stop: int) -> "Questions":
        """The same questions about some of the rows."""
        return Questions({outcome: question.part(start, stop) for outcome, question in self.parts.items()})


class Answers(NamedTuple):
    """What each outcome's question was answered."""

    parts: Mapping[str, Given]

    @property
    def lower(self) -> np.ndarray:
        """Of the first outcome, rows first."""
        return next(iter(self.parts.values())).own.lower


type Asked = Question | Questions | TimesQuestion
type Answer = Given | Answers


class SeveralAnswers:
    """Answers from the same posterior draws about each outcome, by name."""

    def __init__(self, parts: Mapping[str, PosteriorAnswers]) -> None:
        self._parts = parts

    def compile(self, most_rows: int, threads: int) -> None:
        """Compile every shape that is needed, of one outcome after the other."""
        for part in self._parts.values():
            part.compile(most_rows, threads)

    def share(self, older: object) -> None:
        """Each outcome uses what it had compiled, where that serves it."""
        if isinstance(older, SeveralAnswers):
            for outcome, part in self._parts.items():
                if outcome in older._parts:
                    part.share(older._parts[outcome])

    def answer(self, questions: Sequence[Questions]) -> list[Answers | PredictionError]:
        """A call for each outcome, for all questions about it. What cannot be said of one outcome is that question's
        error."""
        found: list[dict[str, Given]] = [{} for _ in questions]
        errors: dict[int, PredictionError] = {}
        for outcome, part in self._parts.items():
            asking = [number for number, question in enumerate(questions) if outcome in question.parts]
            if not asking:
                continue
            answers = part.answer([questions[number].parts[outcome] for number in asking])
            for number, answer in zip(asking, answers, strict=True):
                if isinstance(answer, PredictionError):
                    errors.setdefault(number, answer)
                else:
                    found[number][outcome] = answer
        return [errors.get(number) or Answers(answers) for number, answers in enumerate(found)]

    def join(self, parts: Sequence[Answers], question: Questions) -> Answers:
        """One answer from those of the question's parts, in their order."""
        return Answers(
            {
                outcome: self._parts[outcome].join([part.parts[outcome] for part in parts], asked)
                for outcome, asked in question.parts.items()
            }
        )

    def sample(self, question: Questions, draws: int, seed: int) -> dict[str, np.ndarray]:
        """Joint draws (draws, rows, *event) of each outcome asked about, those of `JointPredictor.sample`: draw i of
        every one is of the same posterior draw."""
        return {outcome: self._parts[outcome].sample(asked, draws, seed) for outcome, asked in question.parts.items()}
