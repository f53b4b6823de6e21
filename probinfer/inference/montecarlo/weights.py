"""What weights of draws tell and are used for: the log evidence, and draws chosen by weight. NumPy only."""

import numpy as np
from scipy.special import logsumexp


def evidence(log_weights: np.ndarray) -> dict[str, float]:
    """Log of the mean weight, and its standard error by the delta method."""
    n = len(log_weights)
    w = np.exp(log_weights - log_weights.max())
    return {
        "log_evidence": float(logsumexp(log_weights) - np.log(n)),
        "log_evidence_mcse": float(w.std(ddof=1) / w.mean() / np.sqrt(n)),
    }


def systematic(weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Indices with expected numbers count * weights, none chosen twice whose weight is below 1 / count."""
    marks = (np.arange(count) + generator.random()) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), marks), len(weights) - 1)
