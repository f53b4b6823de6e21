"""Modes that a fitted law leaves out: where climbs from other places end, and how much mass a law fitted there has.

Weights of draws say nothing of places where no draw is, so that a law on one of two modes that are far apart has
weights as good as one on the only mode. Climbs begin half around zero, as chains do, and half far out around the law.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from probinfer.inference.variational.approximation import Law
from probinfer.inference.variational.families import Gradients, NormalLaw
from probinfer.model.one_thread import one_blas_thread

CLIMBS = 8
_NEAR, _FAR = 2.0, 30.0  # half widths of the boxes they begin in: unconstrained, and in standard deviations of the law
_ITERATIONS = 200  # of a climb
_APART = 4.0  # standard deviations of the law, in some coordinate, from which on an end is looked at
_SAME = 0.1  # the same, below which two ends are one
_LOOKED_AT = 3  # ends, the highest
_LOW = 7.0  # less log density at an end, with a half for each dimension, than the law's draws have: no place of mass
_HIGH = 20.0  # more, with one for each dimension: the law is wide of the mark, though the end is not apart from it
_OWN = 4000  # draws of a law that show where it is
_ELSEWHERE = 0.5  # share of an other law's draws that are further out than all of these, from which on it is elsewhere
_REFUSED = 1e100  # value beyond the edge of the support: the line search turns back


class Other(NamedTuple):
    """A law that was fitted at another place, and its bound."""

    law: Any
    elbo: float


def far_ends(law: NormalLaw, level: float, gradients: Gradients, generator: np.random.Generator) -> list[np.ndarray]:
    """Ends (d,) of climbs that lie apart from the law, or far above it, and apart from one another; the highest first.

    level: median of the log density at the law's draws.
    """
    d = len(law.mean)
    starts = [generator.uniform(-_NEAR, _NEAR, d) for _ in range(CLIMBS // 2)]
    with np.errstate(over="ignore", invalid="ignore"):  # of a law that runs away; no climb begins there
        starts += [law.mean + law.sd * generator.uniform(-_FAR, _FAR, d) for _ in range(CLIMBS - len(starts))]

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
        values, slopes = gradients(z[None])
        if not (np.isfinite(values[0]) and np.isfinite(slopes).all()):
            return _REFUSED, np.zeros(d)
        return -float(values[0]), -slopes[0]

    ends = []
    with np.errstate(all="ignore"), one_blas_thread():
        for start in starts:
            if not np.isfinite(start).all() or negative(start)[0] == _REFUSED:
                continue
            found = scipy.optimize.minimize(
                negative, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}
            )
            if -found.fun > level - _LOW - d / 2:
                ends.append((-float(found.fun), found.x))
    kept: list[np.ndarray] = []
    for height, end in sorted(ends, key=lambda each: -each[0]):
        high = height > level + _HIGH + d
        least = 0.0 if high else _APART
        if _far(end, law.mean, law.sd) > least and all(_far(end, place, law.sd) > (least or _SAME) for place in kept):
            kept.append(end)
    return kept[:_LOOKED_AT]


def _far(end: np.ndarray, place: np.ndarray, sd: np.ndarray) -> float:
    return float(np.max(np.abs(end - place) / sd))


def mass_elsewhere(law: Law, elbo: float, others: Sequence[Other], generator: np.random.Generator) -> float:
    """Share of the mass that lies where the others are and the law is not, as far as their bounds tell."""
    apart = elsewhere(law, others, generator)
    if not apart or not np.isfinite(elbo):
        return 0.0
    heights = np.array([elbo, *(other.elbo for other in apart)])
    shares = np.exp(heights - heights.max())
    return float(1 - shares[0] / shares.sum())


def elsewhere(law: Law, others: Sequence[Other], generator: np.random.Generator) -> list[Other]:
    """Those of the others that are where the law is not, each once: no draw of it would go there."""
    kept: list[Other] = []
    for other in sorted(others, key=lambda each: -each.elbo):
        if np.isfinite(other.elbo) and all(
            _outside(place, other.law, generator) for place in (law, *(o.law for o in kept))
        ):
            kept.append(other)
    return kept


def _outside(law: Law, other: Law, generator: np.random.Generator) -> bool:
    own = law.log_density(law.draw(generator, _OWN)).min()
    return bool(np.mean(law.log_density(other.draw(generator, _OWN // 4)) < own) > _ELSEWHERE)
