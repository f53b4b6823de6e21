"""The metric of Hamiltonian Monte Carlo: a linear map that makes the posterior round, from draws and gradients."""

from typing import Any, NamedTuple

import jax
import numpy as np

_ROUND_SCALE, _ROUND_DIRECTION = 1.15, 1.25  # standard deviations within these factors of one are round enough
_DEFLATIONS = 1  # rounds in which scales and directions take turns


class Metric(NamedTuple):
    """The map x -> A x from where the posterior is nearly standard normal: A = D (I + U diag(stretch) U').

    Inverse mass matrix: A A'. `scale` (d,) is the diagonal of D; `directions` U (d, k) has orthonormal columns;
    `stretch` (k,) is the square root of the eigenvalue along each, less one. k = 0 is the diagonal metric.
    """

    scale: Any  # arrays of JAX inside the compiled program, of NumPy outside
    directions: Any
    stretch: Any

    def momentum(self, x: jax.Array) -> jax.Array:
        """A'^-1 x: for standard normal x, a momentum with this mass matrix."""
        return self._along(1.0 / (1.0 + self.stretch) - 1.0, x) / self.scale

    def displacement(self, x: jax.Array) -> jax.Array:
        """A x."""
        return self.scale * self._along(self.stretch, x)

    def velocity(self, p: jax.Array) -> jax.Array:
        """A A' p."""
        return self.scale * self._along((1.0 + self.stretch) ** 2 - 1.0, self.scale * p)

    def _along(self, stretch: jax.Array, x: jax.Array) -> jax.Array:
        if self.directions.shape[-1] == 0:
            return x
        return x + self.directions @ (stretch * (x @ self.directions))


def identity(dim: int, rank: int, gradient: np.ndarray | None = None) -> Metric:
    """The metric to start with: scales 1 / sqrt|gradient| at the starting point (as nutpie does), or one without it."""
    scale = np.ones(dim)
    if gradient is not None:
        scale = np.clip(1.0 / np.sqrt(np.maximum(np.abs(gradient), 1e-20)), 1e-5, 1e5)
    return Metric(scale, np.zeros((dim, rank)), np.zeros(rank))


def fit(draws: np.ndarray, gradients: np.ndarray, use: np.ndarray, rank: int, *, threshold: float = 1.5) -> Metric:
    """The metric of least Fisher divergence between the draws and a normal distribution.

    For a diagonal metric, scale^2 = sd(draw) / sd(gradient): the geometric mean of var(draw) and 1/var(gradient).
    For `rank` > 0, the same problem is solved in the space spanned by the leading draws and gradients, and the
    directions whose eigenvalue is beyond `threshold` (or below its inverse) are kept, the most extreme ones first.

    Args:
        draws: (chains, n, d), from which each chain's mean is taken.
        gradients: (chains, n, d), of the log density at the draws.
        use: (chains, n), which of them count.
        rank: the most directions to keep.

    Source: Hird & Livingstone (2023), quantifying the effectiveness of linear preconditioning; Seyboldt, Carlson &
    Carpenter (2026), preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence.
    """
    dim = draws.shape[-1]
    use = use & np.isfinite(draws).all(axis=-1) & np.isfinite(gradients).all(axis=-1)
    rows = pooled(draws, use), pooled(gradients, use)
    scale = np.ones(dim)
    x, g = _spread(rows[0]), _spread(rows[1])
    scale = _diagonal(x.squares(scale), g.squares(scale), scale)
    metric = Metric(scale, np.zeros((dim, rank)), np.zeros(rank))
    if rank == 0 or len(rows[0]) < 10:
        return metric
    for _ in range(_DEFLATIONS):
        directions, _ = _extreme_directions(x, g, scale, rank, threshold)
        if directions.shape[1] == 0:
            return metric._replace(scale=scale)
        # What is extreme goes into the directions, so it may not blow up the diagonal as well.
        scale = _diagonal(x.squares(1 / scale, directions), g.squares(scale, directions), scale)
    directions, eigenvalues = _extreme_directions(x, g, scale, rank, threshold)
    metric.directions[:, : len(eigenvalues)] = directions
    metric.stretch[: len(eigenvalues)] = np.sqrt(eigenvalues) - 1.0
    return metric._replace(scale=scale)


def is_round(draws: np.ndarray, gradients: np.ndarray, metric: Metric) -> bool:
    """Whether draws and gradients (chains, n, d) that were made with a metric look round in it: no coordinate's scale
    is off by more than 15%, and no direction by more than a quarter. False for too few draws to tell.

    So what was learned from earlier draws is judged by later ones. The fit to a normal posterior is exact as soon as it
    has draws enough, and more would not change it.
    """
    use = np.isfinite(draws).all(axis=-1) & np.isfinite(gradients).all(axis=-1)
    x, g = pooled(draws, use), pooled(gradients, use)
    if len(x) < 2 * x.shape[1] or len(x) < 40:
        return False
    stretch = 1.0 + metric.stretch
    x = x / metric.scale
    g = g * metric.scale
    x = x + ((x @ metric.directions) * (1.0 / stretch - 1.0)) @ metric.directions.T
    g = g + ((g @ metric.directions) * metric.stretch) @ metric.directions.T
    spread_x, spread_g, one = _spread(x), _spread(g), np.ones(x.shape[1])
    scale = _diagonal(spread_x.squares(one), spread_g.squares(one), one)
    if np.abs(np.log(scale)).max() > np.log(_ROUND_SCALE):
        return False
    directions, _ = _extreme_directions(spread_x, spread_g, one, 1, _ROUND_DIRECTION**2)
    return directions.shape[1] == 0


class _Rows(NamedTuple):
    """Second moments of rows (n, d), fewer than d, found from the rows when they are wanted."""

    rows: np.ndarray

    def squares(self, factor: np.ndarray, without: np.ndarray | None = None) -> np.ndarray:
        """Mean squares (d,) of the rows times `factor` (d,), without what lies along orthonormal directions (d, k)."""
        rows = self.rows * factor
        if without is not None:
            rows = rows - (rows @ without) @ without.T
        with np.errstate(over="ignore"):  # of a chain that is still falling from the far tail
            return (rows**2).sum(axis=0) / max(len(rows), 1)

    def leading(self, factor: np.ndarray, keep: int) -> np.ndarray:
        """The `keep` leading right singular vectors (d, keep) of the rows times `factor`."""
        rows = self.rows * factor
        values, vectors = np.linalg.eigh(rows @ rows.T)
        return rows.T @ vectors[:, -keep:] / np.sqrt(np.maximum(values[-keep:], 1e-300))

    def along(self, factor: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Mean products (k, k) of the rows times `factor`, in the coordinates of a basis (d, k)."""
        seen = (self.rows * factor) @ basis
        return seen.T @ seen / len(seen)

    @property
    def number(self) -> int:
        return len(self.rows)


class _Products(NamedTuple):
    """The same of a number of rows, d or more, from their mean products (d, d): the rows are gone through once only."""

    products: np.ndarray
    number: int

    def squares(self, factor: np.ndarray, without: np.ndarray | None = None) -> np.ndarray:
        """As `_Rows.squares`."""
        with np.errstate(over="ignore"):
            squares = np.diagonal(self.products) * factor**2
        if without is None:
            return squares
        across = factor[:, None] * (self.products @ (factor[:, None] * without))
        inner = without.T @ across
        return np.maximum(squares + ((without @ inner - 2 * across) * without).sum(axis=1), 0)

    def leading(self, factor: np.ndarray, keep: int) -> np.ndarray:
        """As `_Rows.leading`."""
        return np.linalg.eigh(factor[:, None] * self.products * factor)[1][:, -keep:]

    def along(self, factor: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """As `_Rows.along`."""
        basis = factor[:, None] * basis
        return basis.T @ self.products @ basis


def _spread(rows: np.ndarray) -> _Rows | _Products:
    if len(rows) < rows.shape[1] or len(rows) == 0:
        return _Rows(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        return _Products(rows.T @ rows / len(rows), len(rows))


def _diagonal(squares_x: np.ndarray, squares_g: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The scales that `scale` becomes once the mean squares (d,) of scaled draws and gradients have shown how far off
    it was."""
    usable = np.isfinite(squares_x) & np.isfinite(squares_g) & (squares_x > 0) & (squares_g > 0)
    factor = np.ones(len(scale))
    factor[usable] = (squares_x[usable] / squares_g[usable]) ** 0.25
    return np.clip(scale * factor, 1e-10, 1e10)


def pooled(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """The used rows of all chains (n, d), less the mean of their chain."""
    if use.all() and use.shape[1] > 1:
        return (values - values.mean(axis=1, keepdims=True)).reshape(-1, values.shape[-1])
    counts = use.sum(axis=1)
    use = use & (counts > 1)[:, None]
    means = np.where(use[..., None], values, 0).sum(axis=1) / np.maximum(counts, 1)[:, None]
    return values[use] - means[np.nonzero(use)[0]]


def _extreme_directions(
    x: _Rows | _Products, g: _Rows | _Products, scale: np.ndarray, rank: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Directions (d, k) along which scaled draws and gradients are far from round; the variance along each."""
    try:
        basis = _leading_basis(x, g, scale, rank)
        cov_x = _regularised(x.along(1 / scale, basis), x.number)
        cov_g = _regularised(g.along(scale, basis), g.number)
        values, vectors = np.linalg.eigh(_geometric_mean_with_inverse(cov_x, cov_g))
    except np.linalg.LinAlgError:  # draws of a chain that is falling from infinity: the diagonal serves until it lands
        return np.zeros((len(scale), 0)), np.zeros(0)
    values = np.clip(values, 1e-10, 1e10)
    extreme = np.abs(np.log(values))
    order = np.argsort(extreme)[::-1][:rank]
    order = order[extreme[order] > np.log(threshold)]
    return (basis @ vectors)[:, order], values[order]


def _leading_basis(x: _Rows | _Products, g: _Rows | _Products, scale: np.ndarray, rank: int) -> np.ndarray:
    """Orthonormal basis of the span of the leading principal directions of both."""
    dim = len(scale)
    keep = max(1, min(2 * rank, x.number // 4))
    if 2 * keep >= dim:
        return np.eye(dim)
    return np.linalg.qr(np.concatenate([x.leading(1 / scale, keep), g.leading(scale, keep)], axis=1))[0]


def _regularised(covariance: np.ndarray, count: int) -> np.ndarray:
    """Covariance (k, k) of so many rows, shrunk towards the identity by as much as `k` observations of it would weigh,
    k small."""
    size = len(covariance)
    weight = 1e-3 + size / (size + 20.0 * count)
    return (1 - weight) * covariance + weight * np.eye(size)


def _geometric_mean_with_inverse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The symmetric positive S with S b S = a: the geometric mean of a and the inverse of b."""
    values, vectors = np.linalg.eigh(b)
    values = np.maximum(values, 1e-12 * values[-1])
    root, inverse_root = np.sqrt(values), 1.0 / np.sqrt(values)
    half, inverse_half = (vectors * root) @ vectors.T, (vectors * inverse_root) @ vectors.T
    values, vectors = np.linalg.eigh(half @ a @ half)
    middle = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return inverse_half @ middle @ inverse_half
