"""Where chains begin: a random point where the log density is finite, brought down from the far tail if need be."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy

from probinfer.inference.mcmc.metric import Metric, fit, identity
from probinfer.model.one_thread import one_blas_thread

RADII = (2.0,) * 60 + (0.5,) * 20 + (0.1,) * 19 + (0.0,)  # of the random points, tried in turn
_PATH = 12  # points of the descent that tell the scales
_DESCENTS = 300  # evaluations at most
_RUNAWAY = 4.0  # growth of the gain from three iterations to the next three that no way to a peak shows


class Start(NamedTuple):
    """A starting point (d,), log density and gradient there, and the metric that fits there."""

    position: np.ndarray
    log_density: float
    gradient: np.ndarray
    metric: Metric


def find_start(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    propose: Callable[[float], np.ndarray],
    dim: int,
    rank: int,
    *,
    descend: bool = True,
) -> tuple[Start | None, np.ndarray]:
    """A start, or None with the last point tried if none was finite.

    evaluate: log density and gradient at a point. propose: a random point within a radius. descend: whether the
    gradient may be used.

    A point in the far tail, where unscaled data or a narrow likelihood put most random points, is no place for a
    Markov chain: steps there must be tiny, and all of warm-up goes into the descent. So L-BFGS takes over while a few
    of its iterations still gain more than the log density varies by within the posterior (about d / 2 below its peak)
    and stops there: well before a mode, and at once where the random point was good.
    """
    position = np.zeros(dim)
    for radius in RADII:
        position = propose(radius)
        value, gradient = evaluate(position)
        if np.isfinite(value) and np.isfinite(gradient).all():
            if not descend:
                return Start(position, value, gradient, identity(dim, rank)), position
            return _descend(evaluate, position, value, gradient, rank), position
    return None, position


def _descend(evaluate: Callable, position: np.ndarray, value: float, gradient: np.ndarray, rank: int) -> Start:
    path = [(value, position, gradient)]  # of accepted iterates
    seen = {position.tobytes(): path[0]}

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = evaluate(z)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e100, np.zeros_like(z)  # beyond the edge of the support: the line search turns back
        seen[z.tobytes()] = (value, z.copy(), gradient)
        return -value, -gradient

    def enough(z: np.ndarray) -> None:
        if z.tobytes() in seen:
            path.append(seen[z.tobytes()])
        if _gain(path, 3) < len(position) + 10 or _runs_away(path):
            raise StopIteration

    with one_blas_thread():
        scipy.optimize.minimize(
            negative,
            position.astype(float),
            jac=True,
            method="L-BFGS-B",
            callback=enough,
            options={"maxfun": _DESCENTS},
        )
    if _runs_away(path):  # perhaps the neck of a funnel, where it would go on for ever
        path = path[:-6]
    path = path[: 1 + int(np.argmax([step[0] for step in path]))]
    value, end, gradient = path[-1]
    if len(path) < 5:
        return Start(end, value, gradient, identity(len(end), rank, gradient))
    recent = path[-_PATH:]
    points, gradients = (np.stack([step[i] for step in recent])[None] for i in (1, 2))
    scales = fit(points, gradients, np.ones(points.shape[:2], bool), 0).scale
    return Start(end, value, gradient, identity(len(end), rank)._replace(scale=scales))


def _gain(path: list[tuple], iterations: int) -> float:
    """What the last iterations gained; infinity when there were fewer."""
    return path[-1][0] - path[-1 - iterations][0] if len(path) > iterations else np.inf


def _runs_away(path: list[tuple]) -> bool:
    """Whether the climb gains more and more on a slope that does not fall, instead of less and less near a peak."""
    if len(path) < 7:
        return False
    as_steep = np.linalg.norm(path[-1][2]) > 0.5 * np.linalg.norm(path[-7][2])
    return bool(as_steep and _gain(path, 3) > _RUNAWAY * (_gain(path, 6) - _gain(path, 3)))
