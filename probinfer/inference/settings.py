"""Checks of the settings of methods and rules, before any work is done."""

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from probinfer.errors import MethodError

_SHOWN = 8  # entries of a parameter that are written out


def settings_of(method: Any) -> dict[str, Any]:
    """The settings of a method or a rule, ready for JSON; a setting that is a method itself with its name."""
    return {field.name: _plain(getattr(method, field.name)) for field in fields(method)}


def _plain(value: Any) -> Any:
    """A setting for JSON: methods and distributions by name and parameters, the same in every process."""
    from numpyro import distributions as dist  # what checks whole numbers only does without

    if isinstance(value, dist.Distribution):
        return _law(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {"method": type(value).__name__, **settings_of(value)}
    if isinstance(value, Mapping):
        return {", ".join(key) if isinstance(key, tuple) else str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, enum.Enum):
        return value.name
    return value.item() if isinstance(value, np.generic) else value


def _law(law: Any) -> dict[str, Any]:
    """A distribution: its family, its shape, and its parameters; of large ones a digest."""
    base = getattr(law, "base_dist", None)
    parameters: dict[str, Any] = {} if base is None else {"base": _law(base)}
    for name in law.arg_constraints:
        value = np.asarray(getattr(law, name, np.nan), float)
        large = value.size > _SHOWN
        parameters[name] = hashlib.sha256(value.tobytes()).hexdigest() if large else value.tolist()
    return {"distribution": type(law).__name__, "shape": list(law.shape()), **parameters}


def check_switches(method: Any) -> None:
    """MethodError unless every setting that is on or off by default is one of them."""
    for field in fields(method):
        if isinstance(field.default, bool):
            check_switch(type(method).__name__, field.name, getattr(method, field.name))


def check_switch(owner: str, name: str, value: Any) -> None:
    """MethodError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise MethodError(f"{owner}: {name} is {value!r}; wanted True or False.")


def check_whole(owner: str, name: str, value: Any, low: int, high: int | None = None) -> None:
    """MethodError unless `value` is a whole number from `low` to `high`."""
    if not _is_number(value, int, np.integer) or value < low or (high is not None and value > high):
        wanted = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
        raise MethodError(f"{owner}: {name} is {value!r}; wanted {wanted}.")


def check_above(owner: str, name: str, value: Any, low: float, example: str) -> None:
    """MethodError unless `value` is a finite number above `low`."""
    number = _is_number(value, int, float, np.integer, np.floating)
    if not number or not np.isfinite(value) or not value > low:
        raise MethodError(f"{owner}: {name} is {value!r}; wanted a number above {low:g}, such as {example}.")


def check_fraction(owner: str, name: str, value: Any, example: str) -> None:
    """MethodError unless `value` is a number in (0, 1)."""
    if not _is_number(value, int, float, np.integer, np.floating) or not 0 < value < 1:
        raise MethodError(f"{owner}: {name} is {value!r}; wanted a number in (0, 1), such as {example}.")


def check_within(owner: str, name: str, value: Any, low: float, high: float, example: str) -> None:
    """MethodError unless `value` is a number in [low, high)."""
    if not _is_number(value, int, float, np.integer, np.floating) or not low <= value < high:
        raise MethodError(f"{owner}: {name} is {value!r}; wanted a number in [{low:g}, {high:g}), such as {example}.")


def check_choice(owner: str, name: str, value: Any, choices: type[enum.Enum]) -> None:
    """MethodError unless `value` is a member of the enum."""
    if not isinstance(value, choices):
        wanted = ", ".join(f"pi.{choices.__name__}.{choice.name}" for choice in choices)
        raise MethodError(f"{owner}: {name} is {value!r}; wanted one of {wanted}.")


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
