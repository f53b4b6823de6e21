"""Several questions answered by one call: each with its own rows, level and quantiles. Imports numpy.

What a server needs: requests of different clients share the cost of a call, and none of them sees the others. A
question that cannot be answered gets its own error; the rest of the batch is answered all the same.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.conformal import Calibration
from probinfer.predict.conformity import summarise_at
from probinfer.predict.engine import BLOCK_ROWS, Answer, Engine
from probinfer.predict.interval import (
    Answered,
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
_ROUND = 8  # rows beyond one are padded to a multiple of it: no call is spent on a single row


class Question(NamedTuple):
    """What one client asks: rows that `read_rows` has checked, and what to say about them.

    columns    the inputs, (rows, *shape) each
    hashes     content of each row, (rows,)
    groups     each row's group as text, for a predictor calibrated in groups
    level      probability of the equal-tailed interval
    quantiles  further quantiles
    """

    columns: Mapping[str, np.ndarray]
    hashes: np.ndarray
    groups: np.ndarray | None = None
    level: float = 0.9
    quantiles: tuple[float, ...] = ()

    def part(self, start: int, stop: int) -> "Question":
        """The same question about some of the rows."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        groups = None if self.groups is None else self.groups[start:stop]
        return self._replace(columns=columns, hashes=self.hashes[start:stop], groups=groups)


class FewShapes:
    """An engine whose calls have few shapes: rows padded to multiples of eight, quantiles to two or eight."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.program = engine.program

    def compile(self, most_rows: int) -> None:
        """Compile every shape that up to `most_rows` rows need."""
        for rows in BLOCK_ROWS:
            if rows == 1 or rows < 2 * most_rows:
                for width in WIDTHS:
                    self.engine.compile_summary(rows, width)

    def summarise(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray) -> Answer:
        """As `Engine.summarise` with every row's own levels, (rows, *event, levels)."""
        count = len(hashes)
        rows = count if count <= 1 else -(-count // _ROUND) * _ROUND
        columns = {name: _longer(values, rows) for name, values in columns.items()}
        hashes, levels = _longer(hashes, rows), _longer(levels, rows)
        parts, start = [], 0
        while start < levels.shape[-1]:
            width = next((w for w in WIDTHS if levels.shape[-1] - start <= w), WIDTHS[-1])
            piece = levels[..., start : start + width]
            spare = np.broadcast_to(piece[..., :1], (*piece.shape[:-1], width - piece.shape[-1]))
            answer = self.engine.summarise(columns, hashes, np.concatenate([piece, spare], axis=-1))
            parts.append(answer._replace(quantiles=answer.quantiles[..., : piece.shape[-1]]))
            start += width
        whole = parts[0]._replace(quantiles=np.concatenate([part.quantiles for part in parts], axis=-1))
        return Answer(*(values[:count] for values in whole))


def answer_together(
    few: FewShapes, calibration: Calibration | None, questions: Sequence[Question]
) -> list[Answered | PredictionError]:
    """Each question's answer, or the error of its own, in the order of the questions."""
    program = few.program
    plain = calibration is None or is_classes(program)
    results: list[Answered | PredictionError | None] = [None] * len(questions)
    plans: list[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]] = []  # number, levels or scores, sides, groups
    for number, question in enumerate(questions):
        count = len(question.hashes)
        try:
            groups = calibration.numbers(question.groups, count) if calibration else None
            if calibration is None or groups is None or plain:
                ends = probabilities_of(Interval.ETI, question.level)
                at = np.broadcast_to([*ends, *question.quantiles], (count, *program.event, 2 + len(question.quantiles)))
                sides = np.zeros(at.shape[-1], bool)
            else:
                wanted = (question.level, question.quantiles, Interval.ETI, program)
                at, sides = calibrated_scores(calibration, groups, *wanted)
        except PredictionError as error:
            results[number] = error
            continue
        plans.append((number, at, sides, groups))
    narrow = [plan for plan in plans if plan[1].shape[-1] <= WIDTHS[-1]]
    wide = [[plan] for plan in plans if plan[1].shape[-1] > WIDTHS[-1]]  # several calls: nobody else waits for them
    for batch in [narrow, *wide] if narrow else wide:
        answers = _called(few, questions, batch, plain=plain)
        for (number, at, _, groups), answer in zip(batch, answers, strict=True):
            question = questions[number]
            answer = answer._replace(quantiles=answer.quantiles[..., : at.shape[-1]])
            try:
                refuse_undefined(answer.defined, program.outcome)
                if calibration is None or groups is None or plain:
                    results[number] = modelled(answer, calibration, groups, question.level, Interval.ETI, program)
                else:
                    wanted = (question.level, question.quantiles, Interval.ETI, program)
                    results[number] = calibrated(answer, calibration, groups, *wanted)
            except PredictionError as error:
                results[number] = error
    return [result for result in results if result is not None]


def guarantee_of(question: Question, calibration: Calibration | None, program: Program) -> str | None:
    """What the calibration promises of all rows of a question, not of a part."""
    if calibration is None:
        return None
    exact, sides = not program.discrete, 1 if is_classes(program) else 2
    numbers = calibration.numbers(question.groups, len(question.hashes))
    return calibration.guarantee(question.level, numbers, sides=sides, exact=exact)


def join(parts: Sequence[Answered], guarantee: str | None) -> Answered:
    """One answer from those of a question's parts, in their order."""
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


def _called(few: FewShapes, questions: Sequence[Question], plans: Sequence[tuple], *, plain: bool) -> list[Answer]:
    asked = [questions[plan[0]] for plan in plans]
    columns = {n: _joined([question.columns[n] for question in asked]) for n in asked[0].columns}
    hashes = _joined([question.hashes for question in asked])
    width = max(plan[1].shape[-1] for plan in plans)
    at = _joined([_wider(plan[1], width) for plan in plans])
    if plain:
        answer = few.summarise(columns, hashes, at)
    else:
        upper = [np.broadcast_to(_wider(plan[2], width), (*plan[1].shape[:-1], width)) for plan in plans]
        answer = summarise_at(few, columns, hashes, at, _joined(upper))
    ends = np.cumsum([len(question.hashes) for question in asked]).tolist()
    starts = [0, *ends[:-1]]
    return [Answer(*(values[start:stop] for values in answer)) for start, stop in zip(starts, ends, strict=True)]


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
