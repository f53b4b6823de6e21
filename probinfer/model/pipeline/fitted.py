"""Steps as they were fitted: numbers and labels that turn one column into others. Imports numpy only.

A fitted step is plain data: `pack_step` makes JSON of it, `unpack_step` reads it back and checks it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from probinfer.model.pipeline.raw import Kind, Place, is_missing

RESERVED = "(unseen)"


class Part(NamedTuple):
    """A column on its way. `done`: no later step of its chain touches it, as for the indicator of a missing value."""

    name: str
    values: np.ndarray
    done: bool = False


class Step(Protocol):
    """One column in, one or more out. `takes`: what it reads, None for whatever comes."""

    takes: ClassVar[Kind | None]

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        ...

    def describe(self) -> str:
        """The step in a few words."""
        ...


@dataclass(frozen=True)
class Affine:
    """(x - shift) / scale. Standardising, scaling to a range, or any other linear map."""

    shift: float
    scale: float
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        _check_finite(self, "shift", "scale")
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale!r}; wanted a number above zero")

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        return [part._replace(values=(part.values - self.shift) / self.scale)]

    def describe(self) -> str:
        """The step in a few words."""
        return f"(x - {self.shift:.6g}) / {self.scale:.6g}"


@dataclass(frozen=True)
class Logarithm:
    """log(x + shift)."""

    shift: float = 0.0
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        _check_finite(self, "shift")

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        _check_above(part, 0.0 - self.shift, "a logarithm", place)
        return [part._replace(values=np.log(part.values + self.shift))]

    def describe(self) -> str:
        """The step in a few words."""
        return f"log(x + {self.shift:.6g})" if self.shift else "log(x)"


@dataclass(frozen=True)
class BoxCoxPower:
    """(x^lmbda - 1) / lmbda, log x at lmbda 0. Box & Cox (1964), JRSS B 26."""

    lmbda: float
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        _check_finite(self, "lmbda")

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        _check_above(part, 0.0, "a Box-Cox transform", place)
        return [part._replace(values=box_cox(part.values, self.lmbda))]

    def describe(self) -> str:
        """The step in a few words."""
        return f"Box-Cox with lambda {self.lmbda:.6g}"


@dataclass(frozen=True)
class YeoJohnsonPower:
    """Box-Cox of 1 + x with lmbda from 0 on, and of 1 - x with 2 - lmbda, negated, below. Yeo & Johnson (2000)."""

    lmbda: float
    takes: ClassVar[Kind | None] = Kind.NUMBER

    def __post_init__(self) -> None:
        _check_finite(self, "lmbda")

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        return [part._replace(values=yeo_johnson(part.values, self.lmbda))]

    def describe(self) -> str:
        """The step in a few words."""
        return f"Yeo-Johnson with lambda {self.lmbda:.6g}"


@dataclass(frozen=True)
class Codes:
    """0, 1, 2, … for the levels in their order; with `reserve`, one code more for every label that is none of them."""

    levels: tuple[str, ...]
    reserve: bool = False
    takes: ClassVar[Kind | None] = Kind.LABEL

    def __post_init__(self) -> None:
        _check_levels(self)

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self.levels) + self.reserve

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each code."""
        return (*self.levels, RESERVED) if self.reserve else self.levels

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        codes = _places(self.levels, part, place, None if not self.reserve else len(self.levels))
        return [part._replace(values=codes.astype(float))]

    def describe(self) -> str:
        """The step in a few words."""
        return f"codes of {_some(self.levels)}" + (", one more for labels that are new" if self.reserve else "")


@dataclass(frozen=True)
class CodesElse:
    """0, 1, 2, … for the levels in their order, and the number `other` for every label that is none of them: a number
    that a model of numbers was trained to expect, where `Codes` picks an entry of a parameter."""

    levels: tuple[str, ...]
    other: float
    takes: ClassVar[Kind | None] = Kind.LABEL

    def __post_init__(self) -> None:
        _check_levels(self)
        _check_finite(self, "other")

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        codes = _places(self.levels, part, place, -1)
        return [part._replace(values=np.where(codes < 0, self.other, codes))]

    def describe(self) -> str:
        """The step in a few words."""
        return f"codes of {_some(self.levels)}, {self.other:g} for labels that are new"


@dataclass(frozen=True)
class Indicators:
    """1 in the column of the row's level, else 0. Without the first level's column if `drop_first`; a label that is no
    level is an error, or zeros everywhere if `zeros`."""

    levels: tuple[str, ...]
    drop_first: bool = False
    zeros: bool = False
    takes: ClassVar[Kind | None] = Kind.LABEL

    def __post_init__(self) -> None:
        _check_levels(self)

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        codes = _places(self.levels, part, place, -1 if self.zeros else None)
        return [
            Part(f"{part.name}={level}", (codes == number).astype(float))
            for number, level in enumerate(self.levels)
            if number or not self.drop_first
        ]

    def describe(self) -> str:
        """The step in a few words."""
        new = ", zeros for labels that are new" if self.zeros else ""
        return f"one-hot of {_some(self.levels)}{', the first left out' if self.drop_first else ''}{new}"


class DatePart(Enum):
    """A number that a date has."""

    YEAR = "year"
    MONTH = "month"  # 1 to 12, as are the others from 1 on, but for:
    DAY = "day"
    DAY_OF_WEEK = "day_of_week"  # Monday is 0
    DAY_OF_YEAR = "day_of_year"
    HOUR = "hour"
    MINUTE = "minute"
    DAYS = "days"  # since 1970-01-01, with the fraction of the day


_CYCLES = {
    DatePart.MONTH: (1, 12.0), DatePart.DAY: (1, 31.0), DatePart.DAY_OF_WEEK: (0, 7.0),
    DatePart.DAY_OF_YEAR: (1, 365.25), DatePart.HOUR: (0, 24.0), DatePart.MINUTE: (0, 60.0),
}  # fmt: skip


@dataclass(frozen=True)
class Calendar:
    """Parts of a date, one column each; with `cyclic` those that come round as a sine and a cosine."""

    parts: tuple[DatePart, ...]
    cyclic: bool = False
    takes: ClassVar[Kind | None] = Kind.DATE

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(DatePart(part) for part in self.parts))
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError("parts are to be one or more different DatePart")

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        _refuse_missing(part, place)
        made = []
        for which in self.parts:
            name, values = f"{part.name}.{which.value}", date_part(part.values, which)
            if self.cyclic and which in _CYCLES:
                first, length = _CYCLES[which]
                angle = 2 * np.pi * (values - first) / length
                made += [Part(f"{name}.sin", np.sin(angle)), Part(f"{name}.cos", np.cos(angle))]
            else:
                made.append(Part(name, values))
        return made

    def describe(self) -> str:
        """The step in a few words."""
        return ", ".join(part.value for part in self.parts) + (" as sine and cosine" if self.cyclic else "")


@dataclass(frozen=True)
class Filled:
    """What is missing is `fill`; with `indicator` one more column is 1 where it was missing, else 0."""

    fill: float | str
    indicator: bool = False
    takes: ClassVar[Kind | None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.fill, str):
            _check_finite(self, "fill")

    def apply(self, part: Part, place: Place) -> list[Part]:
        """The columns made of this one."""
        gone = is_missing(part.values)
        values = part.values
        if gone.any():
            values = values.copy()
            values[gone] = self.fill
        filled = part._replace(values=values)
        return [filled, Part(f"{part.name} missing", gone.astype(float), True)] if self.indicator else [filled]

    def describe(self) -> str:
        """The step in a few words."""
        fill = repr(self.fill) if isinstance(self.fill, str) else f"{self.fill:.6g}"
        return f"missing values are {fill}" + (", with an indicator" if self.indicator else "")


STEPS: dict[str, Any] = {
    "affine": Affine,
    "log": Logarithm,
    "box_cox": BoxCoxPower,
    "yeo_johnson": YeoJohnsonPower,
    "codes": Codes,
    "codes_else": CodesElse,
    "indicators": Indicators,
    "calendar": Calendar,
    "filled": Filled,
}
_NAMES = {kind: name for name, kind in STEPS.items()}


def pack_step(step: Step) -> dict[str, Any]:
    """The step in JSON's types."""
    values = asdict(step)  # ty: ignore[invalid-argument-type]
    if isinstance(step, Calendar):
        values["parts"] = [part.value for part in step.parts]
    return {"step": _NAMES[type(step)], **values}


def unpack_step(packed: Mapping[str, Any]) -> Step:
    """Raises ValueError, KeyError or TypeError for what is no step."""
    kind = STEPS.get(packed["step"])
    if kind is None:
        raise ValueError(f"the step {packed['step']!r} is not known; these are: {', '.join(STEPS)}")
    values = {name: value for name, value in packed.items() if name != "step"}
    if set(values) != {field.name for field in fields(kind)}:
        raise ValueError(f"the step {packed['step']!r} has {sorted(values)}")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


# formulas ------------------------------------------------------------------------------------------------------------


def box_cox(x: np.ndarray, lmbda: float, xp: Any = np) -> Any:
    """(x^lmbda - 1) / lmbda without loss near lmbda 0; x > 0."""
    return xp.log(x) if lmbda == 0.0 else xp.expm1(lmbda * xp.log(x)) / lmbda


def yeo_johnson(x: np.ndarray, lmbda: float, xp: Any = np) -> Any:
    """Yeo and Johnson's transform of any number."""
    above = box_cox(1.0 + xp.maximum(x, 0.0), lmbda, xp)
    below = box_cox(1.0 - xp.minimum(x, 0.0), 2.0 - lmbda, xp)
    return xp.where(x >= 0.0, above, -below)


def date_part(when: np.ndarray, part: DatePart) -> np.ndarray:
    """The part of every date, as float64."""
    day, month, year = (when.astype(f"datetime64[{unit}]") for unit in "DMY")
    found = {
        DatePart.YEAR: lambda: year.astype(int) + 1970,
        DatePart.MONTH: lambda: (month - year).astype(int) + 1,
        DatePart.DAY: lambda: (day - month).astype(int) + 1,
        DatePart.DAY_OF_WEEK: lambda: (day.astype(int) + 3) % 7,  # 1970-01-01 was a Thursday
        DatePart.DAY_OF_YEAR: lambda: (day - year).astype(int) + 1,
        DatePart.HOUR: lambda: (when.astype("datetime64[h]") - day).astype(int),
        DatePart.MINUTE: lambda: (when.astype("datetime64[m]") - when.astype("datetime64[h]")).astype(int),
        DatePart.DAYS: lambda: when.astype("datetime64[us]").astype(int) / 86_400e6,
    }[part]()
    return found.astype(float)


# checks --------------------------------------------------------------------------------------------------------------


def _check_finite(step: Any, *names: str) -> None:
    for name in names:
        value = getattr(step, name)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}; wanted a finite number")
        object.__setattr__(step, name, float(value))


def _check_levels(step: Any) -> None:
    levels = tuple(step.levels)
    if not levels or len(set(levels)) < len(levels) or not all(isinstance(level, str) for level in levels):
        raise ValueError("levels are to be different texts, one or more")
    object.__setattr__(step, "levels", levels)


def _check_above(part: Part, bound: float, what: str, place: Place) -> None:
    low = part.values <= bound
    if low.any():
        place.fail(f"{part.name} is {part.values[low][0]:g} {place.at(low)}; {what} wants numbers above {bound:g}.")


def _refuse_missing(part: Part, place: Place) -> None:
    gone = is_missing(part.values)
    if gone.any():
        place.fail(f"{part.name} is missing {place.at(gone)}; every row needs a value, or declare Impute() before.")


def _places(levels: tuple[str, ...], part: Part, place: Place, new: int | None) -> np.ndarray:
    """Place of each label among the levels; `new` for one that is none, or an error."""
    _refuse_missing(part, place)
    known = {level: number for number, level in enumerate(levels)}
    codes = np.fromiter((known.get(label, -1) for label in part.values), int, len(part.values))
    if new is None and (codes < 0).any():
        bad = codes < 0
        place.fail(
            f"{part.name} is {part.values[bad][0]!r} {place.at(bad)}: a label that training has not seen. "
            f"It knows {_some(levels)}."
        )
    return codes if new is None else np.where(codes < 0, new, codes)


def _some(levels: tuple[str, ...]) -> str:
    shown = ", ".join(levels[:8])
    return shown + (f" and {len(levels) - 8} more" if len(levels) > 8 else "")
