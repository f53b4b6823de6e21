"""The group terms of a formula, fitted on the training rows."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpyro.distributions as dist

from probinfer.errors import DataError, ModelError
from probinfer.model.formula.design import Design, fit_design
from probinfer.model.formula.grammar import Node
from probinfer.model.formula.linear import Correlated, Group
from probinfer.model.formula.priors import WIDE, Priors, Scale
from probinfer.model.formula.terms import INTERCEPT, Formula, GroupTerm
from probinfer.model.pipeline.fitted import Codes
from probinfer.model.pipeline.prepared import FittedColumn, FittedInput, join_labels
from probinfer.model.pipeline.raw import Kind


def group_names(formula: Formula) -> dict[str, list[GroupTerm]]:
    """The group terms by the name of their group, in their order."""
    found: dict[str, list[GroupTerm]] = {}
    for term in formula.groups:
        found.setdefault(term.name, []).append(term)
    return found


def correlation_names(name: str, terms: Sequence[GroupTerm]) -> list[str]:
    """What the correlations of a group's terms may be called, as many as could be correlated."""
    count = sum(term.correlated and term.terms != (INTERCEPT,) for term in terms)
    return [f"{name}_corr" if number == 1 else f"{name}_corr_{number}" for number in range(1, count + 1)]


def fit_group(
    name: str,
    terms: Sequence[GroupTerm],
    columns: Mapping[str, np.ndarray],
    coded: Callable[[Node], tuple[str, tuple[str, ...]] | None],
    levels: Mapping[str, tuple[str, Codes]],
    priors: Priors,
    scale: Scale,
    classes: int,
    formula: Formula,
    centred: bool,
) -> tuple[Group, tuple[str, ...]]:
    """The group, and names of its coefficients.

    levels    of each column of labels its argument and levels
    classes   linear predictors for each row, 0 where there is one

    Raises DataError for a group with one level, ModelError for coefficients that are there twice.
    """
    designs = [fit_design(term.terms, columns, coded, formula.source) for term in terms]
    labels = [label for design in designs for label in design.labels]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        formula.source.fail(terms[-1].at, f"{twice} differs by {name} twice; leave one of them out.")
    whole = Design(tuple(made for design in designs for made in design.terms))
    alone = labels == ["Intercept"]
    each = scale.spread if alone else scale.of(whole.checked(columns))
    shape = (() if alone else (len(labels),)) + ((classes,) if classes else ())
    spread = np.broadcast_to(np.asarray(each)[..., None] if classes else each, shape) if shape else float(each)
    sd = priors.above_zero((f"{name}_sd", name), dist.HalfNormal(WIDE * spread), spread, shape)
    correlated, first = [], 0
    for term, design in zip(terms, designs, strict=True):
        last = first + design.width
        if term.correlated and design.width > 1:
            if centred:
                formula.source.fail(
                    term.at, f"Coefficients that are sampled centred ({name}) are not correlated; write ||."
                )
            if classes:
                formula.source.fail(
                    term.at, "Coefficients of groups are not correlated for pi.Family.CATEGORICAL; write || for |."
                )
            called = correlation_names(name, terms)[len(correlated)]
            correlated.append(Correlated(called, first, last, _of_correlations(called, last - first, priors)))
        first = last
    codes, names = _levels(name, terms[0].group, columns, levels)
    if len(names) < 2:
        raise DataError(f"{name} has the one level {names[0]!r}; a group needs two or more, or leave the term out.")
    return Group(name, codes, names, None if alone else whole, sd, spread, tuple(correlated), centred), tuple(labels)


def _of_correlations(name: str, size: int, priors: Priors) -> Any:
    """LKJ(1), uniform over all correlation matrices. Lewandowski, Kurowicka & Joe (2009)."""
    if size == 2:
        return priors.inside((name,), dist.Uniform(-1.0, 1.0), (), -1.0, 1.0)
    return priors.vector(name, dist.LKJCholesky(size, 1.0), f"dist.LKJCholesky({size}, 1)")


def _levels(
    name: str, group: Sequence[str], columns: Mapping[str, np.ndarray], levels: Mapping[str, tuple[str, Codes]]
) -> tuple[str, tuple[str, ...]]:
    """The argument that holds a group's levels, and their names: of several columns the combinations that training
    has."""
    if len(group) == 1:
        argument, codes = levels[group[0]]
        return argument, codes.levels
    own = [levels[column][1].levels for column in group]
    names = [
        ":".join(known[code] for known, code in zip(own, row, strict=True)) for row in _pairs(group, columns, levels)
    ]
    return argument_of(name, columns), tuple(names)


def argument_of(name: str, columns: Collection[str]) -> str:
    """What the argument that holds the combinations of a group is called: as the group, if no column is."""
    return name if name not in columns else f"(level of {name})"


def combined(
    name: str, group: Sequence[str], columns: Mapping[str, np.ndarray], levels: Mapping[str, tuple[str, Codes]]
) -> FittedInput:
    """The combinations of several columns as one input: codes of those that training has, in the order of the columns'
    own. Raises ModelError for a column that comes twice."""
    if len(set(group)) < len(group):
        raise ModelError(f"The group {name} names a column twice.")
    parts = np.array(_pairs(group, columns, levels)).T
    texts = [np.array(levels[column][1].levels, object)[codes] for column, codes in zip(group, parts, strict=True)]
    codes = Codes(tuple(join_labels(texts)))
    return FittedInput(argument_of(name, columns), (FittedColumn(name, Kind.LABEL, ((codes,),), tuple(group)),), False)


def _pairs(
    group: Sequence[str], columns: Mapping[str, np.ndarray], levels: Mapping[str, tuple[str, Codes]]
) -> list[list[int]]:
    """Codes of the combinations that training has, sorted."""
    return np.unique(np.stack([columns[levels[column][0]] for column in group], axis=1), axis=0).tolist()
