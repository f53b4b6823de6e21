"""Probabilistic inference and model scoring: a posterior you can trust, a predictor you can deploy.

The public names are those of `__init__.pyi`. Each is imported when it is first asked for, so that a process that only
loads a predictor does not pay for NumPyro, pandas and ArviZ, which take longer to import than all the rest.
"""

import importlib
import re
from pathlib import Path
from typing import Any

_LINE = re.compile(r"from (probinfer[\w.]*) import (\w+) as (\w+)")
_MODULES = {
    match[2]: match[1]
    for match in map(_LINE.fullmatch, Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8").splitlines())
    if match
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    elif name == "__version__":
        value = importlib.import_module("importlib.metadata").version("probinfer")
    elif (Path(__file__).parent / name).is_dir() or Path(__file__).with_name(f"{name}.py").is_file():
        value = importlib.import_module(f"probinfer.{name}")
    else:
        raise AttributeError(f"module 'probinfer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "__version__"})
