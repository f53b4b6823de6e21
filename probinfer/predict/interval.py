"""A row's interval, quantiles and sets: from the model's own distribution, or as its calibration moves them. Imports
numpy.

Calibrating is here too, since it is the same question asked backwards: where did the outcomes lie?
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.tables import as_table
from probinfer.predict.conformal import Calibration, read_groups
from probinfer.predict.conformity import all_class_scores, class_scores, outcome_scores, summarise_at
from probinfer.predict.engine import Answer, Engine
from probinfer.predict.family import Support
from probinfer.predict.kind import Interval
from probinfer.predict.missing import Marginal
from probinfer.predict.program import Program
from probinfer.predict.rows import content_hashes, read_outcomes, read_rows, take_column
from probinfer.predict.shortest import ends_of
from probinfer.predict.training import refuse_training_rows

if TYPE_CHECKING:
    from probinfer.posterior.states_report import StatesReport
    from probinfer.predict.motion import Motion

TIE = 1e-12
_FEW_CLASSES = 4
_DIGITS = 16  # after the point, of one less a level


class Answered(NamedTuple):
    """The rows' summaries, with what else a prediction says; each array (rows, *event), quantiles (…, levels).

    Of a forecast the rows are times: `times` are their numbers, and `report` says how far it can be trusted."""

    answer: Answer
    lower: np.ndarray
    upper: np.ndarray
    quantiles: np.ndarray
    sets: np.ndarray | None = None
    calibration_rows: np.ndarray | None = None
    guarantee: str | None = None
    times: np.ndarray | None = None
    report: "StatesReport | None" = None

    @property
    def own(self) -> "Answered":
        """Itself; see `Share`."""
        return self


class Share:
    """The rows `start` to `stop` of all that one call has answered, with the first `further` of the further quantiles;
    `own` cuts them out, which is not done before somebody looks. `kept`: what was made of all rows, by what it is, so
    that it is made once."""

    __slots__ = ("_own", "further", "kept", "start", "stop", "whole")

    def __init__(self, whole: Answered, start: int, stop: int, further: int, kept: dict[Any, Any]) -> None:
        self.whole, self.start, self.stop, self.further, self.kept = whole, start, stop, further, kept
        self._own: Answered | None = None

    @property
    def own(self) -> Answered:
        """The rows' answer alone."""
        if self._own is None:
            whole, rows = self.whole, slice(self.start, self.stop)
            answer = Answer(*[values[rows] for values in whole.answer])
            self._own = Answered(
                answer._replace(quantiles=answer.quantiles[..., : 2 + self.further]),
                whole.lower[rows],
                whole.upper[rows],
                whole.quantiles[rows][..., : self.further],
                None if whole.sets is None else whole.sets[rows],
            )
        return self._own


type Given = Answered | Share


def answer_with_interval(
    engine: Engine | Marginal,
    calibration: Calibration | None,
    columns: Mapping[str, np.ndarray],
    hashes: np.ndarray,
    groups: np.ndarray | None,
    level: float,
    quantiles: Sequence[float],
    kind: Interval,
) -> Answered:
    """What `Predictor.predict` answers. Raises PredictionError for groups that do not fit, too few calibration rows for
    the level, and kinds of interval that cannot be calibrated."""
    if isinstance(engine, Marginal) and calibration is not None:
        raise PredictionError(
            "The predictor was calibrated on rows without gaps, and some rows have gaps that missing= fills: the "
            "coverage that it promises does not hold for them. Predict with the predictor before it was calibrated, or "
            "fill the gaps of calibration rows and new rows alike, before calibrating and predicting."
        )
    if isinstance(engine, Marginal) and kind is Interval.HDI:
        raise PredictionError(
            "Interval.HDI is for rows without gaps, and some rows have gaps that missing= fills. Ask for Interval.ETI, "
            "or fill them before predicting."
        )
    numbers = calibration.numbers(groups, len(hashes)) if calibration else None
    if calibration is not None and (kind is Interval.HDI or (is_classes(engine.program) and kind is not Interval.ETI)):
        raise PredictionError(
            f"Interval.{kind.name} of a calibrated predictor is not offered: calibration moves "
            + (
                "the sets of classes. "
                if is_classes(engine.program)
                else "quantiles, and so not the shortest interval. "
            )
            + "Ask for Interval.ETI"
            + (", LOWER or UPPER." if not is_classes(engine.program) else ".")
        )
    if calibration is None or numbers is None or is_classes(engine.program):
        answer = engine.summarise(columns, hashes, _levels(kind, level, tuple(quantiles)))
        hdi = kind is Interval.HDI and not isinstance(engine, Marginal)
        ends = engine.shortest(columns, hashes, level) if hdi else None
        return modelled(answer, calibration, numbers, level, kind, engine.program, ends)
    scores, sides = calibrated_scores(calibration, numbers, level, quantiles, kind, engine.program)
    answer = summarise_at(engine, columns, hashes, scores, sides)
    return calibrated(answer, calibration, numbers, level, quantiles, kind, engine.program)


def modelled(
    answer: Answer,
    calibration: Calibration | None,
    numbers: np.ndarray | None,
    level: Any,
    kind: Interval,
    program: Program,
    ends: np.ndarray | None = None,
) -> Answered:
    """The model's own interval: of an answer whose first two quantiles are its ends, or with the `ends` given; of
    classes with their sets, calibrated where the predictor is. level: one, or without calibration each outcome's own,
    (rows, *event)."""
    quantiles, classes = answer.quantiles, is_classes(program)
    sets = likely_set(answer.probabilities, level) if classes and numbers is None else None
    found = Answered(answer, quantiles[..., 0], quantiles[..., 1], quantiles[..., 2:], sets)
    if ends is not None:
        found = found._replace(lower=ends[..., 0], upper=ends[..., 1])
    if kind is Interval.LOWER or kind is Interval.UPPER:
        found = _open_ended(found, kind, program)
    if not classes or calibration is None or numbers is None:
        return found
    return _calibrated_sets(found, calibration, numbers, level)


def calibrated_scores(
    calibration: Calibration,
    numbers: np.ndarray,
    level: float,
    quantiles: Sequence[float],
    kind: Interval,
    program: Program,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (rows, *event, 2 + quantiles) of both ends and the quantiles, and which of them are upper bounds. Raises
    PredictionError where a group has too few calibration rows."""
    low, high = probabilities_of(kind, level)
    asked = [(low, kind is Interval.UPPER), (high, kind is not Interval.LOWER), *((q, q >= 0.5) for q in quantiles)]
    scores = [calibration.scores(q, upper=above, numbers=numbers) for q, above in asked[:2]]
    scores += [
        calibration.median(numbers, discrete=program.discrete)
        if q == 0.5
        else calibration.scores(q, upper=above, numbers=numbers)
        for q, above in asked[2:]
    ]
    return np.stack(scores, axis=-1), np.array([above for _, above in asked])


def calibrated(
    answer: Answer,
    calibration: Calibration,
    numbers: np.ndarray,
    level: float,
    quantiles: Sequence[float],
    kind: Interval,
    program: Program,
) -> Answered:
    """The calibrated interval, of an answer whose quantiles are at `calibrated_scores`."""
    ends = np.sort(answer.quantiles[..., :2], axis=-1)  # whole numbers have two scores, and their ends may cross
    order = np.argsort(quantiles, kind="stable")
    further = np.empty_like(answer.quantiles[..., 2:])
    further[..., order] = np.sort(answer.quantiles[..., 2:], axis=-1)
    rows = np.array(calibration.counts)[numbers]
    sides = 2 if kind is Interval.ETI else 1
    text = calibration.guarantee(level, numbers, sides=sides, exact=not program.discrete)
    return _open_ended(Answered(answer, ends[..., 0], ends[..., 1], further, None, rows, text), kind, program)


def entropy_parts(answer: Answer) -> dict[str, np.ndarray]:
    """By name the entropy of an answer's outcome, its expectation when the parameters are known, and the mutual
    information of both, which is never below zero; none for numbers."""
    found = answer.entropies
    if not found.shape[-1]:
        return {}
    return {"entropy": found[..., 0], "expected_entropy": found[..., 1], "mutual_information": found[..., 2]}


def probability(name: str, value: Any) -> float:
    """`value` as a probability. Raises PredictionError for what is none."""
    if type(value) is float and 0.0 < value < 1.0:
        return value
    if not _is_share(value):
        raise PredictionError(f"{name} has {value!r}; wanted probabilities between 0 and 1, such as 0.9.")
    return float(value)


def check_tolerance(value: Any) -> float:
    """`value` as the largest error of a summary. Raises PredictionError for what is none."""
    if not _is_share(value):
        raise PredictionError(f"tolerance is {value!r}; wanted a part of the row's sd between 0 and 1, such as 0.01.")
    return float(value)


def _is_share(value: Any) -> bool:
    """A number between 0 and 1."""
    return not isinstance(value, bool | np.bool_) and isinstance(value, int | float | np.number) and 0.0 < value < 1.0


def probabilities(name: str, values: Any) -> tuple[float, ...]:
    """Several probabilities, or none of them for None. Raises PredictionError for anything else."""
    if values is None:
        return ()
    plain = type(values) in (tuple, list)  # what nearly all callers give; the other questions take as long as all else
    if not plain and (
        not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping) or np.ndim(values) == 0
    ):
        raise PredictionError(f"{name} came as {values!r}; wanted a list of probabilities, such as (0.05, 0.5, 0.95).")
    return tuple(probability(name, value) for value in values)


_FAR = 1e6  # an input below is not why a number overflows


def refuse_undefined(
    defined: np.ndarray, outcome: str, first_row: int = 0, columns: Mapping[str, np.ndarray] | None = None
) -> None:
    """Raise PredictionError if some row has no law, or one beyond what floating point holds, naming the row and its
    largest input. defined (rows,)."""
    if np.count_nonzero(defined) < len(defined):
        row = int(np.argmin(defined))
        raise PredictionError(
            f"In row {row + first_row} (the first row is row 0) the model's parameters of {outcome} are not a number, "
            "are infinite, are such that there is no law (a rate or scale below 0), or lead to numbers beyond 1e308 "
            "for some posterior draws, so there is nothing to predict."
            f"{_largest(columns or {}, row)} Are its inputs far outside those of training?"
        )


def _largest(columns: Mapping[str, np.ndarray], row: int) -> str:
    """What the row's input farthest from zero is; where none is far, those of which there is no logarithm."""
    inputs = {name: values[row].astype(float).ravel() for name, values in columns.items() if values[row].size}
    if not inputs:
        return ""
    name = max(inputs, key=lambda name: np.max(np.abs(inputs[name])))
    place = int(np.argmax(np.abs(inputs[name])))
    entry = f"[{place}]" if inputs[name].size > 1 else ""
    numbers = {key: inputs[key].min() for key in inputs if columns[key].dtype.kind == "f"}
    low = [f"{key} = {value:.6g}" for key, value in numbers.items() if value <= 0]
    if low and np.abs(inputs[name][place]) < _FAR:
        return f" It has {', '.join(low[:5])}: does the model take a logarithm or a root of it?"
    return f" Its input farthest from zero is {name}{entry} = {inputs[name][place]:.6g}."


def calibrate(engine: Engine, training: Mapping[str, Any] | None, rows: Any, y: Any, groups: Any) -> Calibration:
    """The calibration of `Predictor.calibrate`."""
    program, rows = engine.program, as_table(rows)
    by = groups if isinstance(groups, str) else None
    if by is not None:
        groups, rows = take_column(rows, by, program)
    labels = read_groups(groups, by or "groups") if groups is not None else None
    columns, count = read_rows(rows, program)
    values = read_outcomes(y, program, len(np.atleast_1d(np.asarray(y))) if not columns and np.ndim(y) else count)
    columns, count = _one_for_each(columns, count, values), len(values)
    if not count:
        raise PredictionError("There are no rows to calibrate with; wanted rows that were kept from training.")
    if labels is not None and len(labels) != count:
        raise PredictionError(f"{by or 'groups'} has {len(labels)} entries for {count} rows; wanted one for each.")
    _check_support(program, values)
    refuse_training_rows(columns, values, training)
    return _defined(Calibration.of(*_scores(engine, columns, values), labels, by))


def calibrate_across(
    folds: Sequence[tuple[Engine, Any, np.ndarray]], groups: np.ndarray | None, by: str | None
) -> Calibration:
    """The calibration by the scores of several fits, each with rows it has not seen and their outcomes (rows, *event).

    groups: one for each row, as text, in the order of the folds."""
    parts = []
    for engine, rows, y in folds:
        columns, count = read_rows(rows, engine.program)
        values = read_outcomes(y, engine.program, len(y) if not columns else count)
        columns = _one_for_each(columns, count, values)
        _check_support(engine.program, values)
        parts.append(_scores(engine, columns, values))
    lower, upper = (np.concatenate(side) for side in zip(*parts, strict=True))
    return _defined(Calibration.of(lower, upper, groups, by, len(parts)))


def _scores(engine: Engine, columns: Mapping[str, np.ndarray], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of outcomes (rows, *event) for lower and for upper bounds."""
    count = len(values)
    hashes = np.zeros(count, np.uint32) if engine.program.family else content_hashes(columns, count)
    if is_classes(engine.program):
        scores = class_scores(engine.summarise(columns, hashes, np.array([0.5])).probabilities, values)
        return scores, scores
    return outcome_scores(engine, columns, hashes, values)


def take_groups(
    rows: Any, groups: Any, calibration: Calibration | None, program: Program, first_row: int = 0
) -> tuple[Any, np.ndarray | None]:
    """The rows as the model knows them, and their groups as text. first_row: number of the first row, for errors."""
    rows = as_table(rows)
    if groups is not None:
        if calibration is None:
            raise PredictionError("groups came, but the predictor is not calibrated: leave it out.")
        return without_groups(rows, calibration, program), read_groups(groups, first_row=first_row)
    if calibration is None or calibration.by is None:
        return rows, None
    groups, rows = take_column(rows, calibration.by, program)
    return rows, read_groups(groups, calibration.by, first_row)


def without_groups(rows: Any, calibration: Calibration | None, program: Program) -> Any:
    """The rows as the model knows them."""
    if calibration is None or calibration.by is None or not isinstance(rows, Mapping) or calibration.by not in rows:
        return rows
    return take_column(rows, calibration.by, program)[1]


def likely_set(chances: np.ndarray, level: Any) -> np.ndarray:
    """The smallest set of classes with at least the probability `level`, one or each set's own (…): the most probable
    ones, booleans (…, k)."""
    if chances.size == 2 and type(level) is float:  # of one row, in a tenth of the time
        no, yes = chances.ravel().tolist()
        first, both = no >= yes, max(no, yes) < level - TIE
        return np.array([first or both, not first or both]).reshape(chances.shape)
    size, enough = chances.shape[-1], np.asarray(level) - TIE
    if size == 2:
        no, yes = chances[..., 0], chances[..., 1]
        first, both = no >= yes, np.maximum(no, yes) < enough
        inside = np.empty(chances.shape, bool)
        inside[..., 0], inside[..., 1] = first | both, ~first | both
        return inside
    if size <= _FEW_CLASSES:  # in a fifth of the time: how probable are those that come before each, all at once
        one, other = chances[..., :, None], chances[..., None, :]
        earlier = (other > one) | ((other == one) & (np.arange(size)[:, None] > np.arange(size)))
        return (earlier * other).sum(axis=-1) < enough[..., None]
    order = np.argsort(-chances, axis=-1, kind="stable")
    ordered = np.take_along_axis(chances, order, axis=-1)
    inside = np.empty(chances.shape, bool)
    np.put_along_axis(inside, order, np.cumsum(ordered, axis=-1) - ordered < enough[..., None], axis=-1)
    return inside


@functools.lru_cache(256)
def _levels(kind: Interval, level: float, quantiles: tuple[float, ...]) -> np.ndarray:
    """Of all quantiles that are asked for; to be read only. Made once: a caller asks the same again and again."""
    found = np.array([*probabilities_of(kind, level), *quantiles])
    found.flags.writeable = False
    return found


@functools.lru_cache(1024)  # of every question of a batch, and rounding takes a microsecond
def probabilities_of(kind: Interval, level: float) -> tuple[float, float]:
    """Of which quantiles the interval is made; twice the same one where an end is open. As far as 1 - level has digits:
    of 0.9 the 0.05 that a caller may ask for besides, and not the number next to it, which is one more to find."""
    if kind is Interval.UPPER:
        return level, level
    if kind is Interval.LOWER:
        below = round(1.0 - level, _DIGITS)
        return below, below
    below = round((1.0 - level) / 2.0, _DIGITS)
    return below, 1.0 - below


def _open_ended(found: Answered, kind: Interval, program: Program) -> Answered:
    bottom, top = ends_of(program.family.support if program.family else None)
    if program.family is None and program.discrete:
        bottom = -np.inf
    if kind is Interval.LOWER:
        return found._replace(
            upper=np.full_like(found.upper, program.probabilities - 1.0 if is_classes(program) else top)
        )
    return found._replace(lower=np.full_like(found.lower, bottom)) if kind is Interval.UPPER else found


def _calibrated_sets(found: Answered, calibration: Calibration, numbers: np.ndarray, level: float) -> Answered:
    """Sets of classes, and as the interval the smallest and largest class of each."""
    chances = found.answer.probabilities
    inside = all_class_scores(chances) <= calibration.scores(level, upper=True, numbers=numbers)[..., None] + TIE
    np.put_along_axis(inside, np.argmax(chances, axis=-1)[..., None], True, axis=-1)
    size = inside.shape[-1]
    return found._replace(
        lower=np.argmax(inside, axis=-1).astype(float),
        upper=(size - 1.0) - np.argmax(inside[..., ::-1], axis=-1),
        sets=inside,
        calibration_rows=np.array(calibration.counts)[numbers],
        guarantee=calibration.guarantee(level, numbers, sides=1, exact=False),
    )


def is_classes(program: "Program | Motion") -> bool:
    """The outcome is a class: what a level asks for is a set, and calibration moves that."""
    return program.family is not None and program.family.support in (Support.BINARY, Support.CLASSES)


def _one_for_each(columns: Mapping[str, np.ndarray], count: int, values: np.ndarray) -> dict[str, np.ndarray]:
    return dict(columns) if len(values) == count else {}  # a model without inputs has as many rows as outcomes


def _check_support(program: Program, values: np.ndarray) -> None:
    support = program.family.support if program.family else None
    outcome = program.prepared.outcome if program.prepared else None
    bad = np.zeros(values.shape, bool)
    if program.discrete:
        bad |= values != np.floor(values)
    if outcome is not None and outcome.change is not None:
        bad |= values <= outcome.change.bottom
    if support is Support.POSITIVE:
        bad |= values <= 0.0
    elif support is Support.UNIT:
        bad |= (values <= 0.0) | (values >= 1.0)
    elif support is Support.COUNT:
        bad |= values < 0.0
    elif is_classes(program):
        bad |= (values < 0.0) | (values >= program.probabilities)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        kind = support.value if support else "whole numbers"
        raise PredictionError(
            f"{program.outcome} is {values[bad].flat[0]:g} in row {row} (the first row is row 0), where the model only "
            f"gives {kind}. No interval of this model covers it: use a distribution that can, or drop such rows."
        )


def _defined(calibration: Calibration) -> Calibration:
    if any(np.isnan(scores).any() for scores in (*calibration.lower, *calibration.upper)):
        raise PredictionError(
            "The model's parameters are not a number for some calibration rows and posterior draws, so these rows have "
            "no place in its distribution. Are their inputs far outside those of training?"
        )
    return calibration
