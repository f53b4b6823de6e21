"""What every test shares. Figures are drawn without a screen. Compiled programs are kept for this run only, and so is
Python's byte code where it would not be kept at all. The quick tests compile without XLA's optimisations."""

import atexit
import gc
import os
import shutil
import sys
import tempfile

import pytest

QUICK = "not long and not pages"  # the marker expression of a plain `pytest`, see pyproject.toml

os.environ.setdefault("MPLBACKEND", "Agg")


def _folder_of_this_run(variable: str) -> None:
    os.environ[variable] = tempfile.mkdtemp(prefix="probinfer-tests-")
    atexit.register(shutil.rmtree, os.environ[variable], ignore_errors=True)


if "PROBINFER_CACHE" not in os.environ:
    _folder_of_this_run("PROBINFER_CACHE")

if sys.dont_write_bytecode and "PYTHONPYCACHEPREFIX" not in os.environ:
    # Each of the processes that tests start would translate all it imports anew: some ten seconds of work.
    _folder_of_this_run("PYTHONPYCACHEPREFIX")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix, sys.dont_write_bytecode = os.environ["PYTHONPYCACHEPREFIX"], False


def pytest_configure(config: pytest.Config) -> None:
    """Nearly all the time of the quick tests goes into compiling programs that run once, hence without optimisation.

    Long tests and pages compile as users do, and so does everything under JAX_DISABLE_MOST_OPTIMIZATIONS=0. The
    processes that tests start inherit the choice: what is to be equal between processes to the last bit is compiled
    in one way.
    """
    if config.option.markexpr == QUICK:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def pytest_collection_finish() -> None:
    """What is imported by now stays, and tracing makes many objects that live on: to look through all of them again and
    again takes some percents of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
