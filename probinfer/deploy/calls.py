"""What is counted of every finished call: its size and duration, and the doubt in its answers. Imports numpy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probinfer.deploy.meter import Meter, labels
from probinfer.deploy.several import Answers
from probinfer.deploy.watch import Watch
from probinfer.predict.interval import Answered
from probinfer.predict.together import Question


class Calls:
    """Counts the calls of one model. watches: of each outcome, under "" where there is one alone."""

    def __init__(self, meter: Meter, model: str, watches: Mapping[str, Watch]) -> None:
        self._seconds = meter.histogram("probinfer_batch_seconds", model)
        self._rows = meter.histogram("probinfer_batch_rows", model)
        self._requests = meter.histogram("probinfer_batch_requests", model)
        self._doubts = {outcome: _Doubt(meter, labels(model, outcome), watch) for outcome, watch in watches.items()}

    def __call__(self, questions: Sequence[Any], results: Sequence[Any], seconds: float) -> None:
        """Count a call: the questions that it was for, what each was answered, and how long it took."""
        self._seconds.observe(seconds)
        self._rows.observe(sum(len(question.hashes) for question in questions))
        self._requests.observe(len(questions))
        for question, result in zip(questions, results, strict=True):
            if isinstance(result, Answered):
                self._doubts[""](question, result)
            elif isinstance(result, Answers):
                for outcome, found in result.parts.items():
                    self._doubts[outcome](question.parts[outcome], found)


class _Doubt:
    """Counts the doubt in the answers about one outcome."""

    def __init__(self, meter: Meter, of: tuple[str, ...], watch: Watch) -> None:
        self._meter, self._of, self._watch = meter, of, watch
        self._shares = meter.histogram("probinfer_epistemic_share", *of)

    def __call__(self, question: Question, result: Answered) -> None:
        self._count(result, question.level)
        if self._watch.watches:
            self._watch.answered(question, result)

    def _count(self, result: Answered, level: float) -> None:
        epistemic, aleatoric = result.answer.epistemic_sd, result.answer.aleatoric_sd  # or nan: unknown
        if epistemic.size == 1:
            part = epistemic.item() ** 2
            whole = part + aleatoric.item() ** 2
            self._shares.observe(0.0 if whole == 0.0 else part / whole)
            width = result.upper.item() - result.lower.item()
        else:
            with np.errstate(invalid="ignore", divide="ignore"):
                sums = epistemic**2 + aleatoric**2
                for share in np.where(sums == 0.0, 0.0, epistemic**2 / sums).ravel().tolist():
                    self._shares.observe(share)
            width = float(np.sum(result.upper - result.lower))
        if math.isfinite(width):
            self._meter.width(self._of, level, width, epistemic.size)
