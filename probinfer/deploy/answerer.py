"""Who answers a batch of questions: the posterior draws of a predictor, or a point model. Imports numpy."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.interval import Answered, Given
from probinfer.predict.point import PointPredictor
from probinfer.predict.point_together import answer_points
from probinfer.predict.population import engine_of
from probinfer.predict.predictor import Predictor
from probinfer.predict.rows import content_hashes
from probinfer.predict.sampling import sample_rows
from probinfer.predict.together import FewShapes, Question, answer_together, guarantee_of, join

_BLOCK_ROWS = (1, 2, 4, 8, 16, 32, 64)  # batches have any number of rows, and a block of 64 is as quick as larger ones
_DRAWS = (16, 128, 1024)  # draws are made in these numbers and cut to what was asked: few programs are compiled


class Answerer(Protocol):
    """What a served model computes with."""

    def compile(self, most_rows: int, threads: int) -> None:
        """Do beforehand what the first call of up to `most_rows` rows would have to wait for, in so many threads."""
        ...

    def share(self, older: object) -> None:
        """Use what an older version of the model has compiled, where it serves this one."""
        ...

    def answer(self, questions: Sequence[Question]) -> Sequence[Given | PredictionError]:
        """All of them in one call."""
        ...

    def join(self, parts: Sequence[Given], question: Question) -> Answered:
        """One answer from those of the question's parts, in their order."""
        ...

    def sample(self, question: Question, draws: int, seed: int) -> np.ndarray:
        """Predictive draws, (draws, rows, *event)."""
        ...


class PosteriorAnswers:
    """Answers from posterior draws, in calls of few shapes. noise_of: the outcome, of a predictor of several."""

    def __init__(self, predictor: Predictor, noise_of: str | None = None) -> None:
        self._program, self._calibration, self._noise_of = predictor.program, predictor.calibration, noise_of
        self._few = FewShapes(engine_of(predictor.program, _BLOCK_ROWS))

    def compile(self, most_rows: int, threads: int) -> None:
        """Compile every shape that is needed."""
        self._few.compile(most_rows, threads)

    def share(self, older: object) -> None:
        """Versions that differ in nothing but numbers have the same compiled programs."""
        if isinstance(older, PosteriorAnswers) and older._few.engine.identity == self._few.engine.identity:
            self._few = FewShapes(older._few.engine.lend(self._few.engine))

    def answer(self, questions: Sequence[Question]) -> list[Given | PredictionError]:
        """All of them in one call."""
        return answer_together(self._few, self._calibration, questions)

    def join(self, parts: Sequence[Given], question: Question) -> Answered:
        """One answer from those of the question's parts."""
        return join(parts, guarantee_of(question, self._calibration, self._program))

    def sample(self, question: Question, draws: int, seed: int) -> np.ndarray:
        """Those of `Predictor.sample`, or of `JointPredictor.sample` for one of its outcomes."""
        count = len(question.hashes)
        hashes = content_hashes(question.columns, count) if self._program.family else question.hashes
        made = next((size for size in _DRAWS if draws <= size), draws)
        return sample_rows(self._few.engine, question.columns, hashes, made, seed, noise_of=self._noise_of)[:draws]


class PointAnswers:
    """Answers from a point model: its numbers, and intervals or sets from the calibration."""

    def __init__(self, predictor: PointPredictor) -> None:
        self._predictor = predictor

    def compile(self, most_rows: int, threads: int) -> None:
        """Nothing: the model's file is loaded already."""

    def share(self, older: object) -> None:
        """Nothing is compiled."""

    def answer(self, questions: Sequence[Question]) -> list[Answered | PredictionError]:
        """All of them in one call of the model."""
        return answer_points(self._predictor, questions)

    def join(self, parts: Sequence[Given], question: Question) -> Answered:
        """One answer from those of the question's parts."""
        return join(parts, self._predictor.guarantee(question.groups, len(question.hashes), question.level))

    def sample(self, question: Question, draws: int, seed: int) -> np.ndarray:
        """Not offered: a point model has no distribution to draw from."""
        raise PredictionError("A point model has no predictive draws.")
