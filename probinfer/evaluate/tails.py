"""Importance weights whose largest values are all alike: they have no tail to smooth. Imports numpy."""

import numpy as np

FEWEST_DRAWS = 25  # a fifth of fewer is no tail that a Pareto law can be fitted to
_ALIKE = 1e-10  # of log weights: nothing that they weigh moves by it


def without_tail(log_weights: np.ndarray, relative_efficiency: float = 1.0) -> np.ndarray:
    """(points,) whether the weights of a point, (draws, points), have their largest value as often as the tail is long.

    The tail is that of Pareto smoothing: 3 sqrt(S / r) of S draws with the relative efficiency r, or a fifth of few.
    Such weights come where a point does not depend on the parameters (a row of zeros, a flat prior) or these are
    discrete. They are bounded, and their largest value is well known, so that there is nothing to smooth.
    """
    draws = len(log_weights)
    long = 3 * np.sqrt(draws / relative_efficiency) if draws * relative_efficiency > 225 else draws / 5
    return np.count_nonzero(log_weights >= log_weights.max(axis=0) - _ALIKE, axis=0) >= np.floor(long)
