"""Steps as they are declared: what to do with a column, fitted on the rows of training. Imports numpy, scipy when
fitting."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

import numpy as np

from probinfer.errors import ModelError
from probinfer.model.pipeline.fitted import (
    Affine,
    BoxCoxPower,
    Calendar,
    Codes,
    DatePart,
    Filled,
    Indicators,
    Logarithm,
    Part,
    Step,
    YeoJohnsonPower,
)
from probinfer.model.pipeline.raw import Kind, Place, is_missing, labels

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


class Declared(Protocol):
    """A step before training."""

    takes: ClassVar[Kind | None]

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """The step with what it needs to know of the training rows."""
        ...


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / sd, both of the training rows (sd with divisor n, as scikit-learn has it)."""

    takes: ClassVar[Kind | None] = Kind.NUMBER

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """With mean and sd."""
        known = _known(name, values, place)
        with np.errstate(over="ignore"):
            mean, sd = float(known.mean()), float(known.std())
        _check_spread(name, known, sd, place)
        return Affine(mean, sd)


@dataclass(frozen=True)
class ScaleToRange:
    """Linear, so that the training rows lie between `low` and `high`; new rows may lie outside."""

    low: float = 0.0
    high: float = 1.0
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        if not self.low < self.high or not np.isfinite([self.low, self.high]).all():
            raise ModelError(f"ScaleToRange: low is {self.low!r}, high {self.high!r}; wanted low below high.")

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """With smallest and largest value."""
        known = _known(name, values, place)
        least, most = float(known.min()), float(known.max())
        scale = (most - least) / (self.high - self.low)
        _check_spread(name, known, max(scale, most - least), place)
        return Affine(least - self.low * scale, scale)


@dataclass(frozen=True)
class Log:
    """log(x + shift); `Log(1)` is log1p. An error where x + shift is not above zero."""

    shift: float = 0.0
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        _check_number("Log: shift", self.shift)

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """As it is declared."""
        return Logarithm(self.shift)


@dataclass(frozen=True)
class BoxCox:
    """(x^lmbda - 1) / lmbda of numbers above zero, lmbda given or fitted by maximum likelihood for a normal law.

    As an outcome's step lmbda is 0 or more: with a negative one the outcome's mean would be infinite.
    Box & Cox (1964), JRSS B 26.
    """

    lmbda: float | None = None
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        if self.lmbda is not None:
            _check_number("BoxCox: lmbda", self.lmbda)

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """With lmbda."""
        return BoxCoxPower(self.lmbda if self.lmbda is not None else self.best(name, values, place, -5.0, 5.0))

    def best(self, name: str, values: np.ndarray, place: Place, low: float, high: float) -> float:
        """The likeliest lmbda between two."""
        from scipy.stats import boxcox_llf

        known = _known(name, values, place)
        BoxCoxPower(1.0).apply(Part(name, known), place)
        if not known.max() > known.min():
            place.fail(_constant(name, known))
        return _maximum(lambda lmbda: boxcox_llf(lmbda, known), low, high)


@dataclass(frozen=True)
class YeoJohnson:
    """Yeo and Johnson's power transform of any numbers, lmbda given or fitted by maximum likelihood for a normal law.

    As an outcome's step lmbda is between 0 and 2, where the transform reaches all numbers.
    Yeo & Johnson (2000), Biometrika 87.
    """

    lmbda: float | None = None
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        if self.lmbda is not None:
            _check_number("YeoJohnson: lmbda", self.lmbda)

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """With lmbda."""
        return YeoJohnsonPower(self.lmbda if self.lmbda is not None else self.best(name, values, place, -3.0, 5.0))

    def best(self, name: str, values: np.ndarray, place: Place, low: float, high: float) -> float:
        """The likeliest lmbda between two."""
        from scipy.stats import yeojohnson_llf

        known = _known(name, values, place)
        if not known.max() > known.min():
            place.fail(_constant(name, known))
        return _maximum(lambda lmbda: yeojohnson_llf(lmbda, known), low, high)


class Unseen(Enum):
    """What a label or level means that training has not seen.

    ERROR       the row cannot be predicted
    ZEROS       `OneHot`: no column is 1
    RESERVE     `Ordinal`: one code more, which no row of training has. An effect with a hierarchical prior is there
                drawn from the population of groups
    POPULATION  `Predictor`: a level beyond those of training has effects drawn from the law of the population of levels
                that the model has, for each posterior draw
    """

    ERROR = "error"
    ZEROS = "zeros"
    RESERVE = "reserve"
    POPULATION = "population"


@dataclass(frozen=True)
class OneHot:
    """A column for each label, 1 where the row has it, else 0.

    drop_first   leave out the first level's column, which the others and an intercept imply
    unseen       Unseen.ERROR or Unseen.ZEROS
    levels       the labels in their order; by default those of the training rows, sorted
    """

    drop_first: bool = False
    unseen: Unseen = Unseen.ERROR
    levels: Sequence[str | int | bool] | None = None
    takes: ClassVar[Kind | None] = Kind.LABEL

    def __post_init__(self) -> None:
        _check_unseen(self, Unseen.ERROR, Unseen.ZEROS)

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """With the levels."""
        step = Indicators(_levels(name, values, self.levels, place), self.drop_first, self.unseen is Unseen.ZEROS)
        if self.drop_first and len(step.levels) < 2:
            place.fail(
                f"{name} has the one label {step.levels[0]!r}, and OneHot(drop_first=True) leaves out the first."
            )
        return step


@dataclass(frozen=True)
class Ordinal:
    """0, 1, 2, … for the labels; whole numbers, which index a parameter if the column is an input of its own.

    levels       the labels in their order; by default those of the training rows, sorted
    unseen       Unseen.ERROR or Unseen.RESERVE
    """

    levels: Sequence[str | int | bool] | None = None
    unseen: Unseen = Unseen.ERROR
    takes: ClassVar[Kind | None] = Kind.LABEL

    def __post_init__(self) -> None:
        _check_unseen(self, Unseen.ERROR, Unseen.RESERVE)

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """With the levels."""
        return Codes(_levels(name, values, self.levels, place), self.unseen is Unseen.RESERVE)


@dataclass(frozen=True)
class DateParts:
    """Numbers of a date, a column each; with `cyclic` those that come round (not year and days) as sine and cosine."""

    parts: Sequence[DatePart] = (DatePart.YEAR, DatePart.MONTH, DatePart.DAY_OF_WEEK)
    cyclic: bool = False
    takes: ClassVar[Kind | None] = Kind.DATE

    def __post_init__(self) -> None:
        parts = tuple(self.parts) if isinstance(self.parts, Sequence) else (self.parts,)
        if not parts or not all(isinstance(part, DatePart) for part in parts) or len(set(parts)) < len(parts):
            raise ModelError(f"DateParts: parts are {self.parts!r}; wanted different DatePart, such as DatePart.MONTH.")
        object.__setattr__(self, "parts", parts)

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """As it is declared."""
        return Calendar(tuple(self.parts), self.cyclic)


class Fill(Enum):
    """What a missing value becomes, of the training rows that have one: MEAN or MEDIAN of numbers, MODE of anything."""

    MEAN = "mean"
    MEDIAN = "median"
    MODE = "mode"


@dataclass(frozen=True)
class Impute:
    """Missing values become a typical one, or `fill` itself.

    fill         a `Fill`, a number, or a label
    indicator    one more column, 1 where the value was missing

    The prediction takes what was filled in for what was seen: that it might have been another value widens no interval.
    The indicator lets the model learn that rows without the value differ.
    """

    fill: Fill | float | str = Fill.MEDIAN
    indicator: bool = False
    takes: ClassVar[Kind | None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.fill, Fill | str):
            _check_number("Impute: fill", self.fill)

    def fit(self, name: str, values: np.ndarray, place: Place) -> Step:
        """With what fills."""
        return Filled(self._filling(name, values, place), self.indicator)

    def _filling(self, name: str, values: np.ndarray, place: Place) -> float | str:
        text = values.dtype.kind == "O"
        if values.dtype.kind == "M":
            place.fail(f"{name} holds dates; Impute() fills numbers and labels. Drop the rows without a date.")
        if not isinstance(self.fill, Fill):
            if text:
                return str(labels(name, np.array([self.fill], object), place)[0])
            if isinstance(self.fill, str):
                place.fail(f"{name} holds numbers and is to be filled with {self.fill!r}; wanted a number or a Fill.")
            return float(self.fill)
        known = values[~is_missing(values)]
        if not len(known):
            place.fail(f"{name} has no value in any row, so there is none to fill in; leave the column out.")
        if text and self.fill is not Fill.MODE:
            place.fail(f"{name} holds labels, which have no {self.fill.value}; use Impute(Fill.MODE), or a label.")
        if self.fill is Fill.MODE:
            distinct, counts = np.unique(known.astype(str) if text else known, return_counts=True)
            return str(distinct[np.argmax(counts)]) if text else float(distinct[np.argmax(counts)])
        return float(np.mean(known) if self.fill is Fill.MEAN else np.median(known))


@dataclass(frozen=True, init=False)
class Column:
    """A raw column and the steps it goes through, the first step first.

    >>> Column("income", Impute(indicator=True), Log(), Standardise())
    Column('income', Impute(fill=<Fill.MEDIAN: 'median'>, indicator=True), Log(shift=0.0), Standardise())

    Without steps it holds numbers, and is passed on as it is. A step after one that makes several columns (`OneHot`,
    `DateParts`) is fitted to each of them; the indicator of `Impute` goes through no further step.

    Raises ModelError for steps that cannot follow one another.
    """

    name: str
    steps: tuple[Declared, ...]

    def __init__(self, name: str, *steps: Declared) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "steps", steps)
        if not isinstance(name, str) or not name:
            raise ModelError(f"Column: the name is {name!r}; wanted the name of a column of the raw rows.")
        after = False
        for step in steps:
            if isinstance(step, type) or not hasattr(step, "fit") or not hasattr(step, "takes"):
                hint = f"{step.__name__}()" if isinstance(step, type) else "a step, such as Standardise()"
                raise ModelError(f"Column {name!r} has the step {step!r}; wanted {hint}.")
            if after and step.takes in (Kind.LABEL, Kind.DATE):
                raise ModelError(
                    f"Column {name!r}: {type(step).__name__} reads {step.takes.value}, and comes after a step that "
                    "made numbers. Put it first, or after Impute()."
                )
            after = after or step.takes is not None

    def __repr__(self) -> str:
        return f"Column({', '.join([repr(self.name), *map(repr, self.steps)])})"

    @property
    def kind(self) -> Kind:
        """How the raw column is read."""
        return next((step.takes for step in self.steps if step.takes is not None), Kind.NUMBER)


def _known(name: str, values: np.ndarray, place: Place) -> np.ndarray:
    gone = is_missing(values)
    if gone.any():
        place.fail(f"{name} is missing {place.at(gone)}; every row needs a value, or declare Impute() before.")
    if not len(values):
        place.fail(f"{name} has no rows; wanted rows of training.")
    return values


def _constant(name: str, values: np.ndarray) -> str:
    return f"{name} is {values[0]:g} in every row of training, so it has no spread to scale by; leave the column out."


def _check_spread(name: str, values: np.ndarray, spread: float, place: Place) -> None:
    """A column can be divided by its spread if that is a number, and more than the last digits of the column's own."""
    largest = float(np.abs(values).max())
    if not values.max() > values.min():
        place.fail(_constant(name, values))
    if not np.isfinite(spread):
        place.fail(
            f"{name} has numbers up to {largest:g}, too large to be scaled; divide the column by a number first."
        )
    if spread <= 1e-12 * largest:
        place.fail(
            f"{name} differs from row to row only in the last digits of numbers such as {values[0]:g}, so it has "
            "hardly any spread to scale by; subtract a number from it first, multiply it by one, or leave it out."
        )


def _levels(name: str, values: np.ndarray, given: Sequence | None, place: Place) -> tuple[str, ...]:
    """Labels in their order: numbers by size, text by the alphabet."""
    gone = is_missing(values)
    if gone.any():
        place.fail(f"{name} is missing {place.at(gone)}; every row needs a label, or declare Impute('none') before.")
    if given is not None:
        levels = tuple(str(v) for v in labels(name, np.array(list(given), object), place))
        new = np.array([value not in levels for value in values], bool)
        if new.any():
            place.fail(f"{name} is {values[new][0]!r} {place.at(new)}; levels= has {', '.join(levels[:10])}.")
        return levels
    if not len(values):
        place.fail(f"{name} has no rows; wanted rows of training.")
    distinct = sorted(set(values.tolist()))
    return tuple(sorted(distinct, key=float) if all(map(_NUMBER.fullmatch, distinct)) else distinct)


def _check_number(what: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise ModelError(f"{what} is {value!r}; wanted a finite number.")


def _check_unseen(step: "OneHot | Ordinal", *allowed: Unseen) -> None:
    name = type(step).__name__
    if step.unseen not in allowed:
        choice = " or ".join(f"Unseen.{kind.name}" for kind in allowed)
        raise ModelError(f"{name}: unseen is {step.unseen!r}; wanted {choice}.")
    if step.levels is None:
        return
    if isinstance(step.levels, str) or len(set(map(str, step.levels))) < len(step.levels) or not len(step.levels):
        raise ModelError(f"{name}: levels are {step.levels!r}; wanted different labels in their order.")
    object.__setattr__(step, "levels", tuple(step.levels))


def _maximum(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f is largest between two numbers; of a function with one peak."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda x: -f(x), bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    ends = [(f(x), x) for x in (low, high, float(found.x))]
    return float(max(ends)[1])
