"""The point of a polytope nearest to the origin, as a combination of few corners. Imports numpy and scipy."""

from collections.abc import Iterator

import numpy as np

_RIDGE = 1e-13  # relative; corners may nearly repeat each other
_CLOSE = 1e-12


def nearest_combinations(corners: np.ndarray) -> Iterator[np.ndarray]:
    """Weights (S,), nonnegative with the sum one, of ever more columns of `corners` (k, S): each the least |corners w|
    over the columns it uses.

    The column that points most against corners w joins; columns whose weight would become negative leave. Ends at the
    least |corners w| of all, at the latest with k + 1 columns. With as columns what each posterior draw has to say,
    less their mean, the origin is the whole posterior.
    Wolfe (1976), "Finding the nearest point in a polytope", Mathematical Programming 11. Next to it, kernel herding
    and thinning keep equal weights and so need about 1 / error draws.
    """
    size = corners.shape[1]
    squares = np.einsum("ks,ks->s", corners, corners)
    active = [int(np.argmin(squares))]
    gram = np.array([[squares[active[0]]]])
    held = np.ones(1)
    while True:
        weights = np.zeros(size)
        weights[active] = held
        yield weights
        point = corners[:, active] @ held
        along = point @ corners
        along[active] = np.inf
        joining = int(np.argmin(along))
        if along[joining] >= point @ point - _CLOSE * squares[joining]:
            return
        with_others = corners[:, joining] @ corners[:, active]
        gram = np.block([[gram, with_others[:, None]], [with_others[None], squares[joining]]])
        active.append(joining)
        held = np.append(held, 0.0)
        while True:
            try:
                wanted = _least(gram)
            except np.linalg.LinAlgError:
                return  # the columns hardly differ any more
            if np.all(wanted > 0.0):
                held = wanted
                break
            leaving = wanted <= 0.0
            step = np.min(held[leaving] / (held[leaving] - wanted[leaving]))
            held = held + step * (wanted - held)
            stay = ~leaving | (held > 1e-14)
            stay[leaving & (held == held[leaving].min())] = False
            active = [number for number, kept in zip(active, stay, strict=True) if kept]
            gram, held = gram[np.ix_(stay, stay)], held[stay] / held[stay].sum()
        if active and joining not in active:
            return  # rounding: it came and went at once


def _least(gram: np.ndarray) -> np.ndarray:
    """w with the sum one that makes w' gram w least."""
    from scipy.linalg import cho_factor, cho_solve  # not where a predictor is only loaded: it takes long to import

    ridge = _RIDGE * np.trace(gram) + np.finfo(float).tiny
    solved = cho_solve(cho_factor(gram + ridge * np.eye(len(gram))), np.ones(len(gram)))
    return solved / solved.sum()
