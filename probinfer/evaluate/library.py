"""A library of an extra where it is used, or the name of the extra to install. Imports nothing heavy."""

import importlib
from typing import Any

from probinfer.errors import MissingExtra


def library(module: str, extra: str) -> Any:
    """The module. Raises MissingExtra where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # installed, and broken in itself
        named = "scikit-learn" if package == "sklearn" else package
        raise MissingExtra(f"This needs {named}, which is not installed: pip install 'probinfer[{extra}]'.") from error
