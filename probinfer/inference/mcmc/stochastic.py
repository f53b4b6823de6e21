"""Gradients from a few rows at a time: exact at an anchor, and elsewhere corrected by what the rows drawn say.

    g(z) = ∇ log p(ẑ) + [h_S(z) - h_S(ẑ)],   h_S = ∇ log prior + (N / |S|) Σ_{i in S} ∇ log p(y_i | ·)

S are rows drawn at random, with replacement: g(z) is unbiased. Near ẑ, where z is after all, the rows hardly
differ in the bracket, and the noise is small however many rows there are.
Baker, Fearnhead, Fox & Nemeth (2019), Statistics and Computing 29.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from probinfer.inference.mcmc.start import RADII, find_start
from probinfer.inference.method import check_start
from probinfer.model.rows import Rows
from probinfer.model.target import Target

ROWS = 4096  # of a call that goes through all of them: a few MB for each number that a row takes


class Anchor(NamedTuple):
    """The mode (d,), the gradient of the log density there, and the root L (d, d) of its inverse curvature."""

    position: np.ndarray
    gradient: np.ndarray
    root: np.ndarray


class AllRows:
    """Log density and gradient from all rows, `chunk` at a time; counts how often they were gone through."""

    def __init__(self, rows: Rows, target: Target, chunk: int = ROWS) -> None:
        rows = rows.resized(min(rows.count, chunk))
        self.rows, self._target, self._whole = rows, target, rows.whole
        self.passes = 0
        point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
        scalar = jax.ShapeDtypeStruct((), target.dtype)
        weights = jax.ShapeDtypeStruct((rows.batch,), target.dtype)
        self._program = target.compile(
            f"rows {rows.batch}",
            jax.value_and_grad(rows.density),
            point,
            rows.shapes(rows.batch),
            self._whole,
            scalar,
            weights,
        )

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """At one point (d,)."""
        self.passes += 1
        rows, dtype = self.rows, self._target.dtype
        value, gradient = 0.0, np.zeros(self._target.dim)
        for start in range(0, rows.count, rows.batch):
            chosen = np.arange(start, start + rows.batch)
            weights = (chosen < rows.count).astype(dtype)
            taken = rows.take(np.minimum(chosen, rows.count - 1))
            prior = dtype.type(start == 0)
            with self._target.precision():
                more, slope = self._program(z.astype(dtype), taken, self._whole, prior, weights)
            value += float(more)
            gradient += np.asarray(slope, float)
        return value, gradient


def find_anchor(evaluate: AllRows, target: Target, generator: np.random.Generator) -> Anchor:
    """Climb to the mode from a random start, and measure the curvature there by differences of gradients.

    Raises ModelError when the log density is finite at no starting point.
    """
    d = target.dim
    start, last = find_start(evaluate, lambda radius: generator.uniform(-radius, radius, d), d, 0)
    if start is None:
        raise check_start(target, last, len(RADII))

    scale = np.asarray(start.metric.scale, float)

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = evaluate(start.position + scale * x)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e100, np.zeros(d)
        return -value, -scale * gradient

    found = scipy.optimize.minimize(negative, np.zeros(d), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    mode = start.position + scale * found.x
    hessian, steps = np.empty((d, d)), 1e-2 * scale
    for _ in range(2):  # the second time with steps in proportion to the scales that the first has found
        for i in range(d):
            step = np.zeros(d)
            step[i] = steps[i]
            hessian[i] = (evaluate(mode + step)[1] - evaluate(mode - step)[1]) / (2 * steps[i])
        hessian = np.where(np.isfinite(hessian), hessian, 0.0)
        values, vectors = np.linalg.eigh(-(hessian + hessian.T) / 2 * np.outer(scale, scale))
        values = np.maximum(values, 1e-4)  # flat directions: no wider than a hundred of the scales met on the way
        covariance = (vectors / values) @ vectors.T * np.outer(scale, scale)
        steps = 0.1 * np.sqrt(np.diag(covariance))
    return Anchor(mode, evaluate(mode)[1], np.linalg.cholesky(covariance))


def gradient_from(rows: Rows, anchor: Any) -> Callable:
    """(z, taken, whole) -> the unbiased gradient (d,) from the rows taken; `anchor` is (position, gradient) here."""

    def gradient(z: jax.Array, taken: Any, whole: Any) -> jax.Array:
        weights = jnp.full(rows.batch, rows.count / rows.batch, z.dtype)
        slope = jax.grad(rows.density)
        there = slope(anchor[0], taken, whole, 1.0, weights)
        return anchor[1] + slope(z, taken, whole, 1.0, weights) - there

    return gradient
