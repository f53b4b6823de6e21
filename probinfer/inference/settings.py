"""Checks of the settings of methods and rules, before any work is done."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from probinfer.errors import MethodError


def settings_of(method: Any) -> dict[str, Any]:
    """The settings of a method, ready for JSON; a setting that is a method itself with its name."""
    return {
        field.name: {"method": type(value).__name__, **settings_of(value)} if is_dataclass(value) else value
        for field in fields(method)
        for value in [getattr(method, field.name)]
    }


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
