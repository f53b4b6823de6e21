"""Stacking: the weights of a mixture of predictive laws that predicts best. Imports numpy.

Yao, Vehtari, Simpson & Gelman (2018), Bayesian Analysis 13(3). Written out here because `arviz_stats.compare`
exponentiates log scores as they are, and then returns equal weights where they are a few hundred below zero.
"""

import numpy as np

_GAP = 1e-7  # how far the mean log score may be from the best
_MOST = 50_000


def stacking_weights(log_scores: np.ndarray) -> np.ndarray:
    """Weights (k,) on the simplex that maximise sum_i log sum_k w_k exp(log_scores[i, k]).

    By the EM iteration w_k <- w_k mean_i p_ik / (sum_l w_l p_il), which never makes it worse; it ends when the concave
    objective is provably within 1e-7 of its maximum, a row: that is at most max_k mean_i p_ik / (p w)_i - 1 away.
    A row that no model gives a finite log score says nothing, and is left out.
    """
    usable = np.isfinite(log_scores).any(axis=1)
    rows = log_scores[usable]
    count = log_scores.shape[1]
    weights = np.full(count, 1 / count)
    if not len(rows):
        return weights
    scores = np.exp(rows - rows.max(axis=1, keepdims=True))
    for _ in range(_MOST):
        gains = (scores / (scores @ weights)[:, None]).mean(axis=0)
        if gains.max() - 1 < _GAP:
            break
        weights = weights * gains
    return weights / weights.sum()
