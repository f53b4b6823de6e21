"""Which topic of one chain is which of another: topics have no order, so each chain numbers them in its own way."""

import numpy as np
from scipy.optimize import linear_sum_assignment


def match(probabilities: np.ndarray, reference: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Orders of the topics of every chain in which they resemble those of the reference most.

    The resemblance of two topics is their overlap, Σ_w min(φ_kw, φ'_lw): 1 for the same distribution over words, 0 for
    distributions without a common word; it is one minus their distance in total variation.

    probabilities: (chain, topic, word). Returns, for each chain, the indices (topic,) that put its topics in order; and
    the overlap (topic,) of each topic of the reference with the chain in which it is matched worst.
    """
    wanted = probabilities[reference]
    orders, worst = [], np.ones(len(wanted))
    for chain, found in enumerate(probabilities):
        if chain == reference:
            orders.append(np.arange(len(wanted)))
            continue
        overlap = np.stack([np.minimum(topic, found).sum(axis=-1) for topic in wanted])
        _, order = linear_sum_assignment(overlap, maximize=True)
        orders.append(order)
        worst = np.minimum(worst, overlap[np.arange(len(wanted)), order])
    return orders, worst
