"""Several questions answered by one call: each with its own rows, level and quantiles. Imports numpy.

What a server needs: requests of different clients share the cost of a call, and none of them sees the others. A
question that cannot be answered gets its own error; the rest of the batch is answered all the same.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.conformal import Calibration
from probinfer.predict.conformity import summarise_at
from probinfer.predict.engine import Answer, Engine
from probinfer.predict.interval import (
    Answered,
    Given,
    Share,
    calibrated,
    calibrated_scores,
    is_classes,
    modelled,
    probabilities_of,
    refuse_undefined,
)
from probinfer.predict.kind import Interval
from probinfer.predict.program import Program

WIDTHS = (2, 8)  # how many quantiles of a row one call computes: few shapes, all compiled beforehand
_SPARSE = 3  # of the larger one every third size of blocks
_CALL = 3  # a call costs as much as so many rows of it


class Question(NamedTuple):
    """What one client asks: rows that `read_rows` has checked, and what to say about them.

    columns    the inputs, (rows, *shape) each
    hashes     content of each row, (rows,)
    groups     each row's group as text, for a predictor calibrated in groups
    level      probability of the equal-tailed interval
    quantiles  further quantiles
    again      the rows were asked about before: now their outcomes have come
    first_row  number of the first row in what the client sent, for errors
    """

    columns: Mapping[str, np.ndarray]
    hashes: np.ndarray
    groups: np.ndarray | None = None
    level: float = 0.9
    quantiles: tuple[float, ...] = ()
    again: bool = False
    first_row: int = 0

    def part(self, start: int, stop: int) -> "Question":
        """The same question about some of the rows."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        groups = None if self.groups is None else self.groups[start:stop]
        first_row = self.first_row + start
        return self._replace(columns=columns, hashes=self.hashes[start:stop], groups=groups, first_row=first_row)


class FewShapes:
    """An engine whose calls have few shapes: rows in blocks of a few sizes, quantiles in pieces of two or eight."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.program = engine.program
        sizes = tuple(engine._sizes(engine.program.size))
        self._sizes = {width: sizes if width == WIDTHS[0] else sizes[::_SPARSE] for width in WIDTHS}

    def compile(self, most_rows: int, threads: int = 1) -> None:
        """Compile every shape that up to `most_rows` rows need, so many at a time."""
        shapes = [
            (rows, width)
            for width, sizes in self._sizes.items()
            for rows in sorted({size for count in range(1, most_rows + 1) for size in _cut(count, sizes)})
        ]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda shape: self.engine.compile_summary(*shape), shapes))

    def summarise(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray) -> Answer:
        """As `Engine.summarise` with every row's own levels, (rows, *event, levels)."""
        parts, start = [], 0
        while start < levels.shape[-1]:
            width = next((w for w in WIDTHS if levels.shape[-1] - start <= w), WIDTHS[-1])
            piece = levels[..., start : start + width]
            answer = self._in_blocks(columns, hashes, _wider(piece, width))
            parts.append(answer._replace(quantiles=answer.quantiles[..., : piece.shape[-1]]))
            start += width
        if len(parts) == 1:
            return parts[0]
        return parts[0]._replace(quantiles=np.concatenate([part.quantiles for part in parts], axis=-1))

    def _in_blocks(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray) -> Answer:
        count, parts, start = len(hashes), [], 0
        for size in _cut(count, self._sizes[levels.shape[-1]]):
            rows = slice(start, min(start + size, count))
            block = {name: _longer(values[rows], size) for name, values in columns.items()}
            answer = self.engine.summarise(block, _longer(hashes[rows], size), _longer(levels[rows], size))
            stop = rows.stop - start
            parts.append(answer if stop == size else Answer(*(values[:stop] for values in answer)))
            start = rows.stop
        return parts[0] if len(parts) == 1 else Answer(*map(np.concatenate, zip(*parts, strict=True)))


@functools.cache
def _cut(count: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the blocks for so many rows that cost least; the last may be larger than what is left for it."""
    if count > sizes[-1]:
        return (sizes[-1], *_cut(count - sizes[-1], sizes))
    ways = [(size, *(_cut(count - size, sizes) if count > size else ())) for size in sizes if size < 2 * count]
    ways += [(size,) for size in sizes if size >= 2 * count][:1]
    return min(ways, key=lambda way: sum(way) + _CALL * len(way))


def answer_together(
    few: FewShapes, calibration: Calibration | None, questions: Sequence[Question]
) -> list[Given | PredictionError]:
    """Each question's answer, or the error of its own, in the order of the questions."""
    if calibration is None:
        return _in_turns(questions, [len(question.quantiles) for question in questions], partial(_modelled, few))
    program = few.program
    plain = is_classes(program)
    results: list[Given | PredictionError | None] = [None] * len(questions)
    plans: list[_Plan] = []
    for number, question in enumerate(questions):
        count = len(question.hashes)
        try:
            groups = calibration.numbers(question.groups, count)
            if plain:
                ends = probabilities_of(Interval.ETI, question.level)
                at = np.broadcast_to([*ends, *question.quantiles], (count, *program.event, 2 + len(question.quantiles)))
                sides = np.zeros(at.shape[-1], bool)
            else:
                wanted = (question.level, question.quantiles, Interval.ETI, program)
                at, sides = calibrated_scores(calibration, groups, *wanted)
        except PredictionError as error:
            results[number] = error
        else:
            plans.append(_Plan(number, question, at, sides, groups))
    found = _in_turns(plans, [plan.at.shape[-1] - 2 for plan in plans], partial(_calibrated, few, calibration, plain))
    for plan, result in zip(plans, found, strict=True):
        results[plan.number] = result
    return [result for result in results if result is not None]


def _in_turns[T](
    asked: Sequence[T], quantiles: Sequence[int], answer: Callable[[Sequence[T]], list[Given | PredictionError]]
) -> list[Given | PredictionError]:
    """One call for all of them, and one for each that needs several calls of the engine: nobody else waits for it."""
    wide = [number for number, count in enumerate(quantiles) if 2 + count > WIDTHS[-1]]
    if not wide:
        return answer(asked) if asked else []
    narrow = [number for number in range(len(asked)) if number not in set(wide)]
    found: dict[int, Given | PredictionError] = {}
    for turn in [narrow, *([number] for number in wide)]:
        if turn:
            found |= zip(turn, answer([asked[number] for number in turn]), strict=True)
    return [found[number] for number in range(len(asked))]


def _modelled(few: FewShapes, questions: Sequence[Question]) -> list[Given | PredictionError]:
    """The model's own intervals, in one call. All arrays are of all questions' rows and cut at the end: an operation on
    an array of one row takes as long as one on a hundred."""
    program = few.program
    counts = [len(question.hashes) for question in questions]
    width = 2 + max([len(question.quantiles) for question in questions])
    levels = [(*probabilities_of(Interval.ETI, question.level), *question.quantiles) for question in questions]
    own = np.array([each + each[:1] * (width - len(each)) for each in levels])
    level = np.array([question.level for question in questions])
    if any(count != 1 for count in counts):
        own, level = np.repeat(own, counts, axis=0), np.repeat(level, counts)
    ones = (1,) * len(program.event)
    at = np.broadcast_to(own.reshape(-1, *ones, width), (len(own), *program.event, width))
    answer = few.summarise(_columns(questions), _joined([question.hashes for question in questions]), at)
    whole = modelled(answer, None, None, level.reshape(-1, *ones), Interval.ETI, program)
    if len(questions) == 1 and answer.defined.all():
        return [whole]
    kept: dict[Any, Any] = {}
    results: list[Given | PredictionError] = []
    defined, stop = bool(answer.defined.all()), 0
    for question, count in zip(questions, counts, strict=True):
        start, stop = stop, stop + count
        try:
            if not defined:
                refuse_undefined(answer.defined[start:stop], program.outcome, question.first_row, question.columns)
            results.append(Share(whole, start, stop, len(question.quantiles), kept))
        except PredictionError as error:
            results.append(error)
    return results


class _Plan(NamedTuple):
    """A question to a calibrated predictor: its place among all, levels or scores, which of these are upper bounds, and
    the group of each row."""

    number: int
    question: Question
    at: np.ndarray
    sides: np.ndarray
    groups: np.ndarray


def _calibrated(
    few: FewShapes, calibration: Calibration, plain: bool, plans: Sequence[_Plan]
) -> list[Given | PredictionError]:
    """Calibrated intervals, or of classes (`plain`) calibrated sets, in one call."""
    program = few.program
    questions = [plan.question for plan in plans]
    hashes = _joined([question.hashes for question in questions])
    width = max(plan.at.shape[-1] for plan in plans)
    at = _joined([_wider(plan.at, width) for plan in plans])
    if plain:
        answer = few.summarise(_columns(questions), hashes, at)
    else:
        upper = [np.broadcast_to(_wider(plan.sides, width), (*plan.at.shape[:-1], width)) for plan in plans]
        answer = summarise_at(few, _columns(questions), hashes, at, _joined(upper))
    results: list[Given | PredictionError] = []
    stop = 0
    for question, plan in zip(questions, plans, strict=True):
        start, stop = stop, stop + len(question.hashes)
        own = Answer(*[values[start:stop] for values in answer])
        own = own._replace(quantiles=own.quantiles[..., : plan.at.shape[-1]])
        try:
            refuse_undefined(own.defined, program.outcome, question.first_row, question.columns)
            if plain:
                found = modelled(own, calibration, plan.groups, question.level, Interval.ETI, program)
            else:
                wanted = (question.level, question.quantiles, Interval.ETI, program)
                found = calibrated(own, calibration, plan.groups, *wanted)
            results.append(found)
        except PredictionError as error:
            results.append(error)
    return results


def guarantee_of(question: Question, calibration: Calibration | None, program: Program) -> str | None:
    """What the calibration promises of all rows of a question, not of a part."""
    if calibration is None:
        return None
    exact, sides = not program.discrete, 1 if is_classes(program) else 2
    numbers = calibration.numbers(question.groups, len(question.hashes))
    return calibration.guarantee(question.level, numbers, sides=sides, exact=exact)


def join(given: Sequence[Given], guarantee: str | None) -> Answered:
    """One answer from those of a question's parts, in their order."""
    parts = [part.own for part in given]
    if len(parts) == 1:
        return parts[0]

    def together(field: str) -> np.ndarray | None:
        values = [getattr(part, field) for part in parts]
        return np.concatenate(values) if values[0] is not None else None

    return Answered(
        answer=Answer(*(np.concatenate(values) for values in zip(*(part.answer for part in parts), strict=True))),
        lower=np.concatenate([part.lower for part in parts]),
        upper=np.concatenate([part.upper for part in parts]),
        quantiles=np.concatenate([part.quantiles for part in parts]),
        sets=together("sets"),
        calibration_rows=together("calibration_rows"),
        guarantee=guarantee,
    )


def _columns(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    return {name: _joined([question.columns[name] for question in questions]) for name in questions[0].columns}


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _wider(values: np.ndarray, width: int) -> np.ndarray:
    spare = width - values.shape[-1]
    if not spare:
        return values
    return np.concatenate([values, np.broadcast_to(values[..., :1], (*values.shape[:-1], spare))], axis=-1)


def _longer(values: np.ndarray, rows: int) -> np.ndarray:
    if len(values) == rows:
        return values
    return np.concatenate([values, np.broadcast_to(values[:1], (rows - len(values), *values.shape[1:]))])
