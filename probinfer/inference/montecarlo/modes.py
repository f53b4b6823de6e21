"""Where a target has its mass: modes from several starts, each with the curvature there. Laplace's approximation."""

from collections.abc import Callable

import numpy as np
from scipy import optimize
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


def laplace_mixture(target: Target, generator: np.random.Generator) -> StudentMixture:
    """A Student-t component at every mode that was found, with the inverse curvature and Laplace's mass.

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

    modes: list[tuple[float, np.ndarray, np.ndarray]] = []
    last = np.zeros(target.dim)
    starts = 0
    for radius in RADII:
        last = generator.uniform(-radius, radius, target.dim)
        value, gradient = evaluate(last)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            continue
        found = optimize.minimize(negative, last, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        height, covariance = -float(found.fun), _covariance(evaluate, found.x)
        root = np.linalg.cholesky(covariance)
        if all(np.linalg.norm(np.linalg.solve(root, found.x - mode)) > _APART for _, mode, _ in modes):
            modes.append((height + float(np.sum(np.log(np.diag(root)))), found.x, root))
        starts += 1
        if starts == _STARTS:
            break
    if not modes:
        raise check_start(target, last, len(RADII))
    mass = np.array([mode[0] for mode in modes])
    kept = mass > mass.max() - _FAR
    shares = np.maximum(np.exp(mass[kept] - logsumexp(mass[kept])), 0.05)  # a mode's mass is a guess: look at each
    points, roots = (np.array([mode[i] for mode, keep in zip(modes, kept, strict=True) if keep]) for i in (1, 2))
    return StudentMixture(shares / shares.sum(), points, roots)


def _covariance(evaluate: Callable, mode: np.ndarray) -> np.ndarray:
    """Inverse of minus the Hessian, by differences of gradients; flat directions become wide, not infinite."""
    d = len(mode)
    hessian = np.empty((d, d))
    for i in range(d):
        step = 1e-4 * max(1.0, abs(mode[i]))
        up, down = mode.copy(), mode.copy()
        up[i] += step
        down[i] -= step
        hessian[i] = (evaluate(up)[1] - evaluate(down)[1]) / (2 * step)
    hessian = np.where(np.isfinite(hessian), hessian, 0.0)
    values, vectors = np.linalg.eigh(-(hessian + hessian.T) / 2)
    # minus signs and zeros: not at a mode, or an edge of the support; a scale of one is where to begin
    values = np.where(values > 1 / _WIDEST**2, values, 1.0)
    return (vectors / values) @ vectors.T
