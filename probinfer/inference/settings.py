"""Checks of the settings of methods and rules, before any work is done."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from probinfer.errors import MethodError


def settings_of(method: Any) -> dict[str, Any]:
    """The settings of a method or a rule, ready for JSON; a setting that is a method itself with its name."""
    return {field.name: _plain(getattr(method, field.name)) for field in fields(method)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {"method": type(value).__name__, **settings_of(value)}
    return value.item() if isinstance(value, np.generic) else value


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


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
