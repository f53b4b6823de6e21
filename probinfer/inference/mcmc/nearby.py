"""Whether a log density is no number close to the draws of Markov chains, which keep away from where it is not."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from probinfer.inference.undefined import Undefined
from probinfer.model.target import Target

_POINTS = 200  # looked at, at most
_SHARE = 1 / 200  # of the evaluations of the run, at most


def undefined_nearby(
    density: Callable[[np.ndarray], float],
    target: Target,
    positions: np.ndarray,
    stats: Mapping[str, Any],
    key: Any,
    place: Callable[..., np.ndarray] | None = None,
) -> dict[str, Any]:
    """Facts for the tree; empty where the log density is a number everywhere nearby.

    positions: draws (chain, draw, d), and what is looked at are `points_near` them. Chains that tell divergences are
    looked at only if there were any, and around these: a trajectory that meets NaN diverges. Discrete coordinates are
    left as they are but for one, which goes to a value in its support that `place`, the kernel's own, finds, or as near
    to it as two beyond those in the draws.
    """
    flat = positions.reshape(-1, positions.shape[-1])
    origins = flat
    if "diverging" in stats:
        origins = flat[np.ravel(stats["diverging"]).astype(bool)]
    if not len(origins):
        return {}
    count = int(np.clip(np.sum(stats.get("n_steps", 0)) * _SHARE, 8, _POINTS))
    generator = np.random.default_rng([*np.asarray(key).tolist(), 2])
    first, points = points_near(origins, flat, count, generator)
    own = np.flatnonzero(np.isin(target.coordinate_names(), list(target.bound.discrete)))
    if len(own) and place is not None:
        points[:, own] = origins[first][:, own]
        low, high = flat.min(axis=0) - 2, flat.max(axis=0) + 2
        for point, j in zip(points, generator.choice(own, size=count), strict=True):
            point[j] = np.clip(place(point, generator)[j], low[j], high[j])
    undefined = Undefined(target)
    undefined.without(points, np.array([density(point) for point in points]))
    return undefined.facts


def points_near(
    origins: np.ndarray, draws: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the `origins` (m, d) each of `count` points begins at, and the points (count, d).

    A point is an origin plus the difference of two draws (n, d) over √2, which has the scale and the correlations of
    the posterior whatever these are.
    """
    first, second, third = (generator.integers(len(of), size=count) for of in (origins, draws, draws))
    return first, origins[first] + (draws[second] - draws[third]) / np.sqrt(2)
