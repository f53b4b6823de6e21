"""What is counted of every finished call: its size and duration, and the doubt in its answers. Imports numpy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probinfer.deploy.meter import Meter, labels
from probinfer.deploy.several import Answers
from probinfer.deploy.watch import Watch
from probinfer.predict.interval import Answered, Given, Share
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
        self._rows.observe(sum([len(question.hashes) for question in questions]))
        self._requests.observe(len(questions))
        answered: dict[str, list[tuple[Question, Given]]] = {}
        for question, result in zip(questions, results, strict=True):
            if isinstance(result, (Answered, Share)):  # a union would be made anew each time
                answered.setdefault("", []).append((question, result))
            elif isinstance(result, Answers):
                for outcome, found in result.parts.items():
                    answered.setdefault(outcome, []).append((question.parts[outcome], found))
        for outcome, pairs in answered.items():
            self._doubts[outcome](pairs)


class _Doubt:
    """Counts the doubt in the answers about one outcome."""

    def __init__(self, meter: Meter, of: tuple[str, ...], watch: Watch) -> None:
        self._meter, self._of, self._watch = meter, of, watch
        self._shares = meter.histogram("probinfer_epistemic_share", *of)

    def __call__(self, answered: Sequence[tuple[Question, Given]]) -> None:
        known: dict[int, _Numbers] = {}  # of what several questions have a share in
        shares: list[float] = []
        by_level: dict[float, list[float]] = {}
        for question, given in answered:
            cut = isinstance(given, Share)
            whole, start, stop = (given.whole, given.start, given.stop) if cut else (given, 0, len(given.lower))
            numbers = known.get(id(whole))
            if numbers is None:
                numbers = known[id(whole)] = _numbers(whole)
            all_shares, all_widths, each = numbers
            rows = slice(each * start, each * stop)
            shares += all_shares[rows]
            by_level.setdefault(question.level, []).extend(all_widths[rows])
            if self._watch.watches:
                self._watch.answered(question, given.own)
        self._shares.observe_all(shares)
        for level, widths in by_level.items():
            finite = [width for width in widths if math.isfinite(width)]
            self._meter.width(self._of, level, math.fsum(finite), len(finite))


type _Numbers = tuple[list[float], list[float], int]


def _numbers(found: Answered) -> _Numbers:
    """Epistemic shares, nan where they are not known, and widths of all outcomes, and how many of them a row has."""
    epistemic, aleatoric = found.answer.epistemic_sd**2, found.answer.aleatoric_sd**2
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = epistemic + aleatoric
        shares = np.where(sums == 0.0, 0.0, epistemic / sums)
        widths = found.upper - found.lower
    return shares.ravel().tolist(), widths.ravel().tolist(), shares.size // max(len(shares), 1)
