"""Draws in single precision: half the size of an artifact, and the proof that predictions stay. Imports numpy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.compress import Judge
from probinfer.predict.engine import Engine
from probinfer.predict.program import Program

_MOST_ROWS = 1000


@dataclass(frozen=True)
class Rounding:
    """What rounding a predictor's draws cost, measured on the rows given.

    tolerance   largest error allowed
    errors      the largest error of each summary, as in `Compression`
    rows        on which they were measured
    """

    tolerance: float
    errors: Mapping[str, float]
    rows: int

    @property
    def error(self) -> float:
        """The largest of all errors."""
        return max(self.errors.values())

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
        return f"to single precision; on {self.rows} rows within {self.error:.2g} ({worst}), {self.tolerance:g} allowed"

    def words(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def rounding_lines(words: Any) -> list[str]:
    """What `inspect` says, from the manifest."""
    return [f"  rounded   {Rounding(**words)}"] if words else []


def rounded(
    program: Program, columns: Mapping[str, np.ndarray], count: int, tolerance: float
) -> tuple[Program, Rounding]:
    """The program with draws that single precision holds. See `Predictor.round`."""
    if program.family is None:
        raise PredictionError(
            f"{program.outcome} has a law without a closed form, which is answered from predictive draws; what "
            "rounding does to those has no bound. Only predictors with a law of a family can be rounded."
        )
    if not count:
        raise PredictionError("There are no rows to measure the rounding on; wanted some like those to be predicted.")
    kept = np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).astype(int))
    some = {name: values[kept] for name, values in columns.items()}
    coarse = program.with_draws(_in_single)
    errors = Judge(Engine(program), some, len(kept)).errors(coarse)
    rounding = Rounding(tolerance, errors, len(kept))
    if rounding.error > tolerance:
        worst = max(errors, key=lambda name: errors[name])
        raise PredictionError(
            f"In single precision the predictions would move by {rounding.error:.2g} of a row's sd ({worst}), and "
            f"{tolerance:g} is allowed: some parameter is large next to what its draws differ by. Centre the inputs "
            "(pi.Standardise) so that no large numbers cancel, give a larger tolerance, or save the draws as they are."
        )
    return coarse, rounding


def _in_single(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):
        coarse = values.astype(np.float32)
    if not np.array_equal(np.isfinite(coarse), np.isfinite(values)):
        raise PredictionError(f"{name} has draws beyond 3e38, which single precision cannot hold.")
    return coarse.astype(values.dtype)
