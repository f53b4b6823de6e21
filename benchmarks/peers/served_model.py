"""What the handler of every peer calls for one-row requests: the artifact in $PROBINFER_MODEL through probinfer itself,
at level 0.9, the same call as the bare application's and `probinfer serve`'s. Needs an environment with probinfer."""

import os

import numpy as np

import probinfer as pi

NAMES = ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse")
MOST = 64  # rows in one call, of peers that batch
_predictor = pi.load_predictor(os.environ["PROBINFER_MODEL"])


def answer(X):
    """Columns by name, from inputs (rows, 3)."""
    found = _predictor.predict({"X": X})
    return {name: getattr(found, name) for name in NAMES}


def warm():
    """Compile for every number of rows that may come."""
    for rows in range(1, MOST + 1):
        answer(np.zeros((rows, 3)))
