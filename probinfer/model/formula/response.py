"""The outcome of a formula: its column, its transform, its classes, and whether its values fit the family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probinfer.errors import DataError
from probinfer.model.formula.columns import TRAINING, fit_levels, holds_labels
from probinfer.model.formula.expressions import names_in
from probinfer.model.formula.families import Family, Law, Values
from probinfer.model.formula.grammar import Call, Name, Node, Number, Source, words
from probinfer.model.formula.terms import Formula
from probinfer.model.pipeline.fitted import Affine, Logarithm, Step
from probinfer.model.pipeline.prepared import FittedColumn, FittedOutcome
from probinfer.model.pipeline.raw import Kind, is_missing, numbers

_PROPORTION = ("proportion", "prop", "p")
_STEPS = ("log", "log1p", "scale", "standardize", "standardise", "center", "centre")


@dataclass(frozen=True)
class Response:
    """The left side of a formula.

    column   the raw column, whose name the outcome has
    steps    functions of it, the first applied first
    trials   of a proportion: a column, or the same number for all rows
    """

    column: Name
    steps: tuple[str, ...] = ()
    trials: Name | Number | None = None

    @property
    def names(self) -> tuple[Name, ...]:
        """The columns."""
        return (self.column, self.trials) if isinstance(self.trials, Name) else (self.column,)


def read_response(node: Node, family: Family, law: Law, source: Source) -> Response:
    """Raises ModelError for what is no outcome of the family."""
    if isinstance(node, Call) and node.function in _PROPORTION:
        if family is not Family.BINOMIAL:
            source.fail(node.at, f"{node.function}() is an outcome of pi.Family.BINOMIAL; came {family}.")
        column, trials = node.arguments if len(node.arguments) == 2 and not node.options else (None, None)
        if not isinstance(column, Name) or not isinstance(trials, Name | Number):
            source.fail(node.at, f"{node.function}() takes two columns: {node.function}(successes, trials).")
        return Response(column, (), trials)
    if family is Family.BINOMIAL:
        source.fail(node.at, "An outcome of pi.Family.BINOMIAL is written proportion(successes, trials).")
    steps: list[str] = []
    inner = node
    while isinstance(inner, Call):
        if inner.function not in _STEPS or len(inner.arguments) != 1 or inner.options:
            source.fail(
                inner.at,
                f"The outcome is {words(node)}; it may be a column, or {', '.join(f'{name}()' for name in _STEPS)} of "
                "one. Make other outcomes in the table.",
            )
        steps.insert(0, inner.function)
        inner = inner.arguments[0]
    if not isinstance(inner, Name):
        found = next(names_in(inner), None)
        hint = f" Make a column of it in the table, with {found.name}." if found else ""
        source.fail(node.at, f"The outcome is {words(node)}; wanted a column before `~`.{hint}")
    if steps and law.values is not Values.REAL:
        source.fail(node.at, f"The outcome of {family} is not transformed; its link is. Write {inner.name} ~ …")
    if sum(step in ("log", "log1p") for step in steps) > 1:
        source.fail(node.at, "The outcome is a logarithm of a logarithm; make one of them in the table.")
    return Response(inner, tuple(steps))


def fit_outcome(
    response: Response,
    law: Law,
    family: Family,
    raw: Mapping[str, np.ndarray],
    levels: Mapping[str, Sequence],
    data: Any,
) -> tuple[FittedOutcome, np.ndarray, int]:
    """The outcome with its steps, its values as the model sees them, and the number of its classes (0 for numbers).

    Raises DataError for values that the family does not have, naming the row.
    """
    name, values = response.column.name, raw[response.column.name]
    labelled = holds_labels(values)
    if law.values is Values.CLASSES or (law.values is Values.BINARY and (labelled or name in levels)):
        _check_classes(name, values, law, family, levels)
        codes = fit_levels(name, values, levels, data)
        wanted = 2 if law.values is Values.BINARY else None
        if len(codes.levels) < 2 or (wanted and len(codes.levels) != wanted):
            raise DataError(
                f"{name} has {len(codes.levels)} labels, {', '.join(codes.levels[:5])}; {family} wants "
                f"{'two' if wanted else 'two or more'}."
            )
        outcome = FittedOutcome.of(name, FittedColumn(name, Kind.LABEL, ((codes,),)))
        return outcome, outcome.scaled(values, TRAINING), len(codes.levels)
    if labelled and values.dtype.kind != "b":
        raise DataError(
            f"{name} holds labels, and {family} wants {law.values.value}. Labels are outcomes of pi.Family.BERNOULLI "
            "(two of them), CATEGORICAL and CUMULATIVE."
        )
    z, stages = numbers(name, values, TRAINING), list[tuple[Step, ...]]()
    _refuse_missing(name, z)
    for step in response.steps:
        fitted, z = _apply(step, name, z)
        stages.append((fitted,))
    check_values(response, law, family, z, raw)
    if law.values is Values.REAL and not np.ptp(z) > 0:
        raise DataError(f"{name} is {z[0]:g} in every row, so there is nothing to explain.")
    return FittedOutcome.of(name, FittedColumn(name, Kind.NUMBER, tuple(stages))), z, 0


def _refuse_missing(name: str, z: np.ndarray) -> None:
    gone = is_missing(z)
    if gone.any():
        raise DataError(f"{name} is missing {TRAINING.at(gone)}; drop the rows whose outcome is not known.")


def _apply(step: str, name: str, z: np.ndarray) -> tuple[Step, np.ndarray]:
    if step in ("log", "log1p"):
        shift = float(step == "log1p")
        low = z <= -shift
        if low.any():
            raise DataError(f"{name} is {z[low][0]:g} {TRAINING.at(low)}; {step} wants numbers above {0.0 - shift:g}.")
        return Logarithm(shift), np.log(z + shift)
    mean, sd = float(z.mean()), float(z.std())
    if step in ("center", "centre"):
        sd = 1.0
    elif sd <= 1e-12 * float(np.abs(z).max()):
        raise DataError(f"{name} is {z[0]:g} in every row, so {step}({name}) has no spread to scale by.")
    return Affine(mean, sd), (z - mean) / sd


def check_values(response: Response, law: Law, family: Family, z: np.ndarray, raw: Mapping[str, np.ndarray]) -> None:
    """Raise DataError, naming the row, for numbers (as the model sees them) that the family does not have."""
    name = response.column.name
    bad = {
        Values.REAL: np.zeros(len(z), bool),
        Values.POSITIVE: z <= 0,
        Values.UNIT: (z <= 0) | (z >= 1),
        Values.BINARY: (z != 0) & (z != 1),
        Values.COUNT: (z < 0) | (z != np.floor(z)),
    }[law.values]
    if bad.any():
        raise DataError(f"{name} is {z[bad][0]:g} {TRAINING.at(bad)}; {family} wants {law.values.value}.")
    if response.trials is not None:
        _check_trials(name, z, response.trials, raw)


def _check_trials(name: str, z: np.ndarray, trials: Name | Number, raw: Mapping[str, np.ndarray]) -> None:
    if isinstance(trials, Number):
        called, total = words(trials), np.full(len(z), trials.value)
    else:
        called, total = trials.name, numbers(trials.name, raw[trials.name], TRAINING)
        gone = is_missing(total)
        if gone.any():
            raise DataError(f"{called} is missing {TRAINING.at(gone)}; every row needs a number of trials.")
    odd = (total < 0) | (total != np.floor(total))
    if odd.any():
        raise DataError(f"{called} is {total[odd][0]:g} {TRAINING.at(odd)}; wanted whole numbers of trials.")
    more = z > total
    if more.any():
        row = int(np.argmax(more))
        raise DataError(
            f"{name} is {z[row]:g} and {called} {total[row]:g} {TRAINING.at(more)}: more successes than trials."
        )


def _check_classes(name: str, values: np.ndarray, law: Law, family: Family, levels: Mapping[str, Sequence]) -> None:
    gone = np.array([value is None or value != value for value in values.tolist()], bool)
    if gone.any():
        raise DataError(f"{name} is missing {TRAINING.at(gone)}; drop the rows whose outcome is not known.")
    if family is Family.CUMULATIVE and holds_labels(values) and values.dtype.kind != "b" and name not in levels:
        shown = sorted({str(value) for value in values.tolist()})
        raise DataError(
            f"{name} holds the labels {', '.join(shown[:8])}, whose order {family} has to know: "
            f"levels={{{name!r}: [lowest, …, highest]}}; or make {name} a column of ordered categories, such as "
            "pandas.Categorical(…, ordered=True)."
        )


def refuse_own(response: Response, formula: Formula) -> None:
    """Raise ModelError where the outcome is among the predictors."""
    for node in formula.predictors:
        for name in names_in(node):
            if name == response.column:
                formula.source.fail(name.at, f"{name.name} is the outcome, and cannot be a predictor of itself.")
    for group in formula.groups:
        if response.column.name in group.group:
            formula.source.fail(group.at, f"{response.column.name} is the outcome, and cannot be a group of itself.")
