"""scikit-learn where it is used, or the name of the extra to install. Imports nothing heavy."""

import importlib
from typing import Any

from probinfer.errors import MissingExtra


def sklearn(module: str) -> Any:
    """A module of scikit-learn. Raises MissingExtra without scikit-learn."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "This needs scikit-learn, which is not installed: pip install 'probinfer[evaluate]'."
        ) from error
