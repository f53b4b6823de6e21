"""Where a target has its mass: modes from several starts, each with the curvature there. Laplace's approximation."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
from scipy.special import logsumexp

from probinfer.inference.mcmc.start import RADII
from probinfer.inference.method import check_start
from probinfer.inference.montecarlo.space import compiled
from probinfer.inference.montecarlo.student import StudentMixture
from probinfer.model.target import Target

_STARTS = 8
_APART = 0.5  # distance, in the units of the curvature, below which two ends of a climb are one mode
_FAR = 30.0  # log of the mass below which a mode does not matter
_WIDEST = 1e4  # scale above which a direction counts as flat


class Mode(NamedTuple):
    """A mode (d,), the root of the inverse curvature there (d, d), the log of its mass but for (2π)^(d/2), and the
    number of directions without curvature, whose scale is then taken to be one."""

    position: np.ndarray
    root: np.ndarray
    mass: float
    flat: int


def laplace_mixture(target: Target, generator: np.random.Generator) -> StudentMixture:
    """A Student-t component at every mode that was found, with the inverse curvature and Laplace's mass.

    Raises ModelError when the log density is finite at no starting point.
    """
    modes = find_modes(target, generator)
    mass = np.array([mode.mass for mode in modes])
    kept = mass > mass.max() - _FAR
    shares = np.maximum(np.exp(mass[kept] - logsumexp(mass[kept])), 0.05)  # a mode's mass is a guess: look at each
    points = np.array([mode.position for mode, keep in zip(modes, kept, strict=True) if keep])
    roots = np.array([mode.root for mode, keep in zip(modes, kept, strict=True) if keep])
    return StudentMixture(shares / shares.sum(), points, roots)


def find_modes(target: Target, generator: np.random.Generator) -> list[Mode]:
    """The different ends of climbs from several random starts.

    Raises ModelError when the log density is finite at no starting point.
    """
    program = compiled(target, "value and gradient", target.value_and_grad)

    def evaluate(z: np.ndarray) -> tuple[float, np.ndarray]:
        with target.precision():
            value, gradient = program(z.astype(target.dtype), target.inputs)
        return float(value), np.asarray(gradient, float)

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = evaluate(z)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e100, np.zeros(target.dim)
        return -value, -gradient

    modes: list[Mode] = []
    last = np.zeros(target.dim)
    starts = 0
    for radius in RADII:
        last = generator.uniform(-radius, radius, target.dim)
        value, gradient = evaluate(last)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            continue
        found = scipy.optimize.minimize(negative, last, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        root, flat = _root(evaluate, found.x)
        if all(np.linalg.norm(np.linalg.solve(root, found.x - mode.position)) > _APART for mode in modes):
            modes.append(Mode(found.x, root, -float(found.fun) + float(np.sum(np.log(np.diag(root)))), flat))
        starts += 1
        if starts == _STARTS:
            break
    if not modes:
        raise check_start(target, last, len(RADII))
    return modes


def _root(evaluate: Callable, mode: np.ndarray) -> tuple[np.ndarray, int]:
    """The lower triangular root of the inverse of minus the Hessian, by differences of gradients, and the number of
    flat directions: these become wide, not infinite. The second pass has steps in proportion to the scales that the
    first found. The inverse itself has no root in double precision where a spike is 1e8 times as steep one way."""
    d = len(mode)
    steps = 1e-4 * np.maximum(1.0, np.abs(mode))
    root, flat = np.eye(d), d
    for _ in range(2):
        hessian = np.empty((d, d))
        for i in range(d):
            up, down = mode.copy(), mode.copy()
            up[i] += steps[i]
            down[i] -= steps[i]
            hessian[i] = (evaluate(up)[1] - evaluate(down)[1]) / (up[i] - down[i])
        hessian = np.where(np.isfinite(hessian), hessian, 0.0)
        values, vectors = np.linalg.eigh(-(hessian + hessian.T) / 2)
        # minus signs and zeros: not at a mode, or an edge of the support; a scale of one is where to begin
        curved = values > 1 / _WIDEST**2
        upper = np.linalg.qr((vectors / np.sqrt(np.where(curved, values, 1.0))).T, mode="r")
        root, flat = (upper * np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None]).T, int(np.sum(~curved))
        steps = np.maximum(1e-3 * np.linalg.norm(root, axis=1), 1e-9 * np.abs(mode))
    return root, flat
