"""A fitted scikit-learn ColumnTransformer, or a Pipeline of transformers, as fitted columns, or refused by the name of
the step that is not known.

Imports no scikit-learn: who passes a transformer has imported it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from probinfer.errors import ModelError
from probinfer.model.pipeline.fitted import (
    Affine,
    BoxCoxPower,
    Codes,
    CodesElse,
    Filled,
    Indicators,
    Logarithm,
    Step,
    YeoJohnsonPower,
)
from probinfer.model.pipeline.prepared import FittedColumn
from probinfer.model.pipeline.raw import Kind, Place, labels

Chain = list[Step]  # what a transformer does to one of its columns
_MISSING = "(missing)"  # the label of a category for missing values


def is_column_transformer(value: Any) -> bool:
    """Whether it is scikit-learn's ColumnTransformer, without importing it."""
    return type(value).__name__ == "ColumnTransformer" and type(value).__module__.startswith("sklearn.")


def is_pipeline(value: Any) -> bool:
    """Whether it is scikit-learn's Pipeline, without importing it."""
    return type(value).__name__ == "Pipeline" and type(value).__module__.startswith("sklearn.")


def columns_of(transformer: Any, names: Sequence[str] | None = None) -> tuple[FittedColumn, ...]:
    """Its columns and their steps, in the order of its output: of a ColumnTransformer, or of a Pipeline of transformers
    whose first may be one.

    names: of a Pipeline's columns, where it was fitted on an array that has none.

    Raises ModelError if it is not fitted, was fitted without column names, or has a step that is not known here.
    """
    steps = _flattened("", transformer)
    begins = bool(steps) and is_column_transformer(steps[0][1])
    names = getattr(transformer, "feature_names_in_", None if begins else names)
    if names is None or (begins and not hasattr(steps[0][1], "transformers_")):
        raise ModelError(
            f"The {type(transformer).__name__} is not fitted on a data frame; call fit(frame) with the rows of "
            "training, so that it knows its columns by name."
        )
    names, made = list(map(str, names)), []
    if begins:
        for label, step, columns in steps.pop(0)[1].transformers_:
            picked = [_Making(name) for name in _picked(columns, names)]
            if not picked or (isinstance(step, str) and step == "drop"):
                continue
            for _, inner in _flattened(label, step):
                _append(label, inner, picked)
            made += picked
    else:
        made = [_Making(name) for name in names]
    for label, step in steps:
        _append(label, step, made)
    if not made:
        raise ModelError(f"The {type(transformer).__name__} passes no column on.")
    return tuple(each.column() for each in made)


def check_against(transformer: Any, columns: Sequence[FittedColumn], frame: Any, ours: np.ndarray) -> None:
    """Raise ModelError unless the transformer gives the same numbers for the same rows."""
    theirs = transformer.transform(frame)
    theirs = np.asarray(theirs.toarray() if hasattr(theirs, "toarray") else theirs, float)
    if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=1e-9, atol=1e-9):
        where = "its shape" if theirs.shape != ours.shape else _first_difference(columns, theirs, ours)
        raise ModelError(
            f"The {type(transformer).__name__} gives other numbers than its steps as they are known here: {where} "
            "differs. Declare the columns with pi.Column instead."
        )


def _first_difference(columns: Sequence[FittedColumn], theirs: np.ndarray, ours: np.ndarray) -> str:
    names = [name for column in columns for name in column.names]
    return names[int(np.argmax(~np.isclose(theirs, ours, rtol=1e-9, atol=1e-9).all(axis=0)))]


def _picked(columns: Any, names: list[str]) -> list[str]:
    """Names of the columns, however they were picked."""
    if isinstance(columns, str):
        return [columns]
    if isinstance(columns, slice):
        ends = [names.index(end) if isinstance(end, str) else end for end in (columns.start, columns.stop)]
        inclusive = 1 if isinstance(columns.stop, str) else 0
        return names[slice(ends[0], None if ends[1] is None else ends[1] + inclusive, columns.step)]
    picked = list(columns)
    if picked and all(isinstance(column, bool | np.bool_) for column in picked):
        return [name for name, taken in zip(names, picked, strict=True) if taken]
    return [column if isinstance(column, str) else names[column] for column in picked]


@dataclass
class _Making:
    """A raw column, the stages it has so far, and how many columns they make of it."""

    name: str
    stages: list[tuple[Step, ...]] = field(default_factory=list)
    width: int = 1

    def column(self) -> FittedColumn:
        """The fitted column."""
        steps = [step for stage in self.stages for step in stage]
        kind = next((step.takes for step in steps if step.takes), Kind.NUMBER)
        if kind is not Kind.LABEL:
            if any(isinstance(step, Filled) and isinstance(step.fill, str) for step in steps):
                raise ModelError(
                    f"The column {self.name!r} is filled with a label and not coded afterwards, so it is no number "
                    "that can be stored for a model. Add a OneHotEncoder or an OrdinalEncoder."
                )
            return FittedColumn(self.name, kind, tuple(self.stages))
        return FittedColumn(self.name, kind, tuple(tuple(map(_filled_label, stage)) for stage in self.stages))


def _filled_label(step: Step) -> Step:
    """What fills a column of labels is a label, even where training had whole numbers there."""
    if not isinstance(step, Filled) or isinstance(step.fill, str):
        return step
    return replace(step, fill=str(labels("fill", np.array([step.fill], object), Place(ModelError))[0]))


def _append(label: str, step: Any, columns: Sequence[_Making]) -> None:
    """One more step of all these columns."""
    known = _known(label, step)
    if not hasattr(step, "n_features_in_"):
        raise ModelError(f"The step {label!r}, a {type(step).__name__}, is not fitted; call fit with rows of training.")
    chains = known(step, sum(each.width for each in columns))
    for each in columns:
        mine, chains = chains[: each.width], chains[each.width :]
        for depth in range(max(map(len, mine), default=0)):
            each.stages.append(tuple(chain[depth] for chain in mine))
        each.width = sum(_width(chain) for chain in mine)


def _flattened(label: str, transformer: Any) -> list[tuple[str, Any]]:
    """The steps one after the other, each with the name that an error has for it."""
    if transformer is None or isinstance(transformer, str):  # "passthrough"
        return []
    if is_pipeline(transformer):
        return [pair for name, step in transformer.steps for pair in _flattened(label or name, step)]
    return [(label, transformer)]


def _width(chain: Chain) -> int:
    return next((len(step.levels) - step.drop_first for step in chain if isinstance(step, Indicators)), 1)


def _known(label: str, step: Any) -> Callable[[Any, int], list[Chain]]:
    name = type(step).__name__
    if name in _CONVERSIONS and type(step).__module__.startswith("sklearn."):
        return _CONVERSIONS[name]
    raise ModelError(
        f"The step {label!r} is a {name}, which cannot be stored without pickle. Known are "
        f"{', '.join(sorted(_CONVERSIONS))}, Pipeline, 'passthrough' and 'drop'. Compute what it does beforehand, or "
        "declare the columns with pi.Column."
    )


def _refuse(step: Any, what: str) -> None:
    raise ModelError(
        f"There is a {type(step).__name__} with {what}, which is not known here and cannot be stored without pickle. "
        "Fit it without, or declare the columns with pi.Column."
    )


# the steps that are known --------------------------------------------------------------------------------------------


def _each(values: Any, count: int, default: float) -> np.ndarray:
    return np.full(count, default) if values is None else np.asarray(values, float)


def _standard(step: Any, count: int) -> list[Chain]:
    shifts, scales = _each(step.mean_, count, 0.0), _each(step.scale_, count, 1.0)
    if not step.with_mean:
        shifts = np.zeros(count)
    return [[Affine(float(m), float(s))] for m, s in zip(shifts, scales, strict=True)]


def _min_max(step: Any, count: int) -> list[Chain]:
    if step.clip:
        _refuse(step, "clip=True")
    return [[Affine(float(-m / s), float(1 / s))] for m, s in zip(step.min_, step.scale_, strict=True)]


def _max_abs(step: Any, count: int) -> list[Chain]:
    return [[Affine(0.0, float(s))] for s in step.scale_]


def _robust(step: Any, count: int) -> list[Chain]:
    shifts, scales = _each(step.center_, count, 0.0), _each(step.scale_, count, 1.0)
    return [[Affine(float(m), float(s))] for m, s in zip(shifts, scales, strict=True)]


def _power(step: Any, count: int) -> list[Chain]:
    kind = BoxCoxPower if step.method == "box-cox" else YeoJohnsonPower
    chains: list[Chain] = [[kind(float(lmbda))] for lmbda in step.lambdas_]
    if step.standardize:
        chains = [chain + more for chain, more in zip(chains, _standard(step._scaler, count), strict=True)]
    return chains


def _one_hot(step: Any, count: int) -> list[Chain]:
    infrequent = getattr(step, "infrequent_categories_", None)
    if infrequent is not None and any(some is not None for some in infrequent):
        _refuse(step, "infrequent categories put together (min_frequency, max_categories)")
    dropped = [None] * count if step.drop_idx_ is None else list(step.drop_idx_)
    if any(place not in (None, 0) for place in dropped):
        _refuse(step, f"drop={step.drop!r}")
    zeros, chains = step.handle_unknown != "error", []
    for categories, place in zip(step.categories_, dropped, strict=True):
        known = labels("categories", np.asarray(categories), Place(ModelError))
        gaps = sum(label is None for label in known)
        if gaps > 1 or (gaps and _MISSING in known):
            _refuse(step, "several categories for missing values")
        named = tuple(_MISSING if label is None else label for label in known)
        chains.append([*([Filled(_MISSING)] * gaps), Indicators(named, place == 0, zeros)])
    return chains


def _ordinal(step: Any, count: int) -> list[Chain]:
    levels = [_labels(step, categories) for categories in step.categories_]
    if any(value is not None and value != -1 for value in (getattr(step, "infrequent_categories_", None) or [])):
        _refuse(step, "infrequent categories put together (min_frequency, max_categories)")
    if step.handle_unknown == "error":
        return [[Codes(known)] for known in levels]
    if not math.isfinite(step.unknown_value):
        _refuse(step, f"unknown_value={step.unknown_value!r} (known are finite numbers)")
    return [
        [Codes(known, True) if step.unknown_value == len(known) else CodesElse(known, float(step.unknown_value))]
        for known in levels
    ]


def _labels(step: Any, categories: Any) -> tuple[str, ...]:
    found = labels("categories", np.asarray(categories), Place(ModelError))
    if any(label is None for label in found):
        _refuse(step, "a category for missing values")
    return tuple(found)


def _imputer(step: Any, count: int) -> list[Chain]:
    if step.add_indicator:
        _refuse(step, "add_indicator=True")
    if not (step.missing_values is None or isinstance(step.missing_values, float) or "NA" in repr(step.missing_values)):
        _refuse(step, f"missing_values={step.missing_values!r}")
    if len(step.statistics_) != count:
        _refuse(step, "columns without any value")
    chains: list[Chain] = []
    for fill in step.statistics_:
        if isinstance(fill, str | bool | np.bool_):
            chains.append([Filled(str(fill))])
        elif isinstance(fill, int | float | np.number) and math.isfinite(fill):
            chains.append([Filled(float(fill))])
        else:
            _refuse(step, f"the filling {fill!r}")
    return chains


def _function(step: Any, count: int) -> list[Chain]:
    functions: Mapping[Any, Chain] = {
        None: [],
        np.log: [Logarithm()],
        np.log1p: [Logarithm(1.0)],
        np.log2: [Logarithm(), Affine(0.0, math.log(2.0))],
        np.log10: [Logarithm(), Affine(0.0, math.log(10.0))],
    }
    if step.func not in functions or step.kw_args:
        name = getattr(step.func, "__name__", repr(step.func))
        _refuse(step, f"the function {name} (known are np.log, np.log1p, np.log2, np.log10)")
    return [list(functions[step.func]) for _ in range(count)]


_CONVERSIONS: dict[str, Callable[[Any, int], list[Chain]]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": _robust,
    "PowerTransformer": _power,
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal,
    "SimpleImputer": _imputer,
    "FunctionTransformer": _function,
}
