"""Which predictor one is: a hash of the numbers that its answers follow from. Imports numpy."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from probinfer.predict.predictor import Predictor


def identity_of(predictor: "Predictor") -> str:
    """The same for a predictor that is saved and loaded, and another one for one of other draws, fixed data, weights,
    calibration, inputs or outcome."""
    program, calibration = predictor.program, predictor.calibration
    arrays = {f"draws {name}": values for name, values in program.draws.items()}
    arrays |= {f"fixed {name}": values for name, values in program.fixed.items()}
    if program.weights is not None:
        arrays["weights"] = program.weights.values
    if calibration is not None:
        arrays |= {f"calibration {name}": values for name, values in calibration.pack()[0].items()}
    words = [program.outcome, *((entry.name, entry.dtype, entry.shape) for entry in program.inputs)]
    found = hashlib.sha256(repr(words).encode())
    for name, values in sorted(arrays.items()):
        array = np.ascontiguousarray(values, np.float64)
        found.update(f"{name} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()
