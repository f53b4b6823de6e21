"""The metric of Hamiltonian Monte Carlo: a linear map that makes the posterior round, fitted from draws and gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Metric(NamedTuple):
    """The map x -> A x from a space where the posterior is nearly standard normal, A = D (I + U diag(stretch) U').

    Inverse mass matrix: A A'. `scale` (d,) is the diagonal of D; `directions` U (d, k) has orthonormal columns;
    `stretch` (k,) is the square root of the eigenvalue along each, less one. k = 0 is the diagonal metric.
    """

    scale: jax.Array | np.ndarray
    directions: jax.Array | np.ndarray
    stretch: jax.Array | np.ndarray

    def forward(self, x: jax.Array) -> jax.Array:
        """A x."""
        return self.scale * (x + self._along(x))

    def pullback(self, gradient: jax.Array) -> jax.Array:
        """A' g: the gradient with respect to x."""
        scaled = self.scale * gradient
        return scaled + self._along(scaled)

    def _along(self, x: jax.Array) -> jax.Array:
        if self.directions.shape[-1] == 0:
            return jnp.zeros_like(x)
        return self.directions @ (self.stretch * (x @ self.directions))


def identity(dim: int, rank: int, gradients: np.ndarray | None = None) -> Metric:
    """The metric to start with: scales 1 / |gradient| at the starting points (Seyboldt, nutpie), or one without them.

    For a normal posterior of standard deviation s, a point drawn from it has E|gradient| of the order 1/s.
    """
    scale = np.ones(dim)
    if gradients is not None:
        size = np.abs(gradients).mean(axis=0)
        scale = np.clip(1.0 / np.sqrt(np.maximum(size, 1e-20)), 1e-5, 1e5)
    return Metric(scale, np.zeros((dim, rank)), np.zeros(rank))


def fit(draws: np.ndarray, gradients: np.ndarray, rank: int, *, threshold: float = 1.5) -> Metric:
    """The metric of least Fisher divergence between the draws and a normal distribution.

    For a diagonal metric that is scale^2 = sd(draw) / sd(gradient): the geometric mean of var(draw) and 1/var(gradient).
    For `rank` > 0, the same problem is solved in the space spanned by the leading draws and gradients, and the
    directions whose eigenvalue is beyond `threshold` (or below its inverse) are kept, the most extreme ones first.

    Args:
        draws: (chains, n, d), from which each chain's mean is taken.
        gradients: (chains, n, d), of the log density at the draws.
        rank: the most directions to keep.

    Source: Hird & Livingstone (2023), quantifying the effectiveness of linear preconditioning; Seyboldt, Carlson &
    Carpenter (2026), preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence.
    """
    dim = draws.shape[-1]
    x = (draws - draws.mean(axis=1, keepdims=True)).reshape(-1, dim)
    g = (gradients - gradients.mean(axis=1, keepdims=True)).reshape(-1, dim)
    size = len(x)
    var_x, var_g = (x**2).sum(0) / size, (g**2).sum(0) / size
    usable = np.isfinite(var_x) & np.isfinite(var_g) & (var_x > 0) & (var_g > 0)
    scale = np.ones(dim)
    scale[usable] = (var_x[usable] / var_g[usable]) ** 0.25
    scale = np.clip(scale, 1e-10, 1e10)
    metric = Metric(scale, np.zeros((dim, rank)), np.zeros(rank))
    if rank == 0 or size < 10 or not np.isfinite(x).all() or not np.isfinite(g).all():
        return metric
    return _add_directions(metric, x / scale, g * scale, rank, threshold)


def _add_directions(metric: Metric, x: np.ndarray, g: np.ndarray, rank: int, threshold: float) -> Metric:
    """Directions of the scaled draws x (n, d) and gradients g (n, d) along which they are far from round."""
    basis = _leading_basis(x, g)
    cov_x, cov_g = _regularised(x @ basis), _regularised(g @ basis)
    values, vectors = np.linalg.eigh(_geometric_mean_with_inverse(cov_x, cov_g))
    extreme = np.abs(np.log(values))
    order = np.argsort(extreme)[::-1][:rank]
    order = order[extreme[order] > np.log(threshold)]
    directions, stretch = metric.directions.copy(), metric.stretch.copy()
    directions[:, : len(order)] = (basis @ vectors)[:, order]
    stretch[: len(order)] = np.sqrt(values[order]) - 1.0
    return Metric(metric.scale, directions, stretch)


def _leading_basis(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the span of the leading principal directions of both, at most half as many as draws."""
    keep = max(1, min(x.shape[1], len(x) // 4, 64))
    if keep == x.shape[1]:
        return np.eye(keep)
    parts = [np.linalg.svd(part, full_matrices=False)[2][:keep] for part in (x, g)]
    u, s, _ = np.linalg.svd(np.concatenate(parts).T, full_matrices=False)
    return u[:, s > 1e-8 * s[0]]


def _regularised(x: np.ndarray) -> np.ndarray:
    """Covariance shrunk towards the identity by as much as `k` observations of it would weigh, k small."""
    weight = 1e-3 + x.shape[1] / (x.shape[1] + 20.0 * len(x))
    return (1 - weight) * (x.T @ x) / len(x) + weight * np.eye(x.shape[1])


def _geometric_mean_with_inverse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The symmetric positive S with S b S = a: the geometric mean of a and the inverse of b."""
    values, vectors = np.linalg.eigh(b)
    root, inverse_root = np.sqrt(values), 1.0 / np.sqrt(values)
    half, inverse_half = (vectors * root) @ vectors.T, (vectors * inverse_root) @ vectors.T
    values, vectors = np.linalg.eigh(half @ a @ half)
    middle = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return inverse_half @ middle @ inverse_half
