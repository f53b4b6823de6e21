"""numba where it is used, or the name of the extra to install. Imports nothing heavy.

Compiled code is not kept on disk: numba's cache is made of pickles, which this project does not read.
"""

import importlib
from typing import Any

from probinfer.errors import MissingExtra


def loops(module: str) -> Any:
    """A module of compiled loops of this folder. Raises MissingExtra without numba."""
    try:
        importlib.import_module("numba")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Collapsed Gibbs sampling needs numba, which is not installed: pip install 'probinfer[topics]'."
        ) from error
    return importlib.import_module(f"probinfer.inference.topics.{module}")
