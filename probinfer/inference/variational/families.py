"""Families of normal laws as numbers to climb in: the law at each, and the slope of the evidence lower bound there.

A family's numbers are zero at a `frame`, the law found so far, and of the order of one where the target differs from it
by as much as itself: so that L-BFGS has round valleys to go down.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

import numpy as np

from probinfer.inference.mcmc.metric import fit
from probinfer.inference.variational.approximation import Normal

Gradients = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # points (n, d) -> log densities (n,), slopes (n, d)


class NormalLaw(Protocol):
    """N(mean, R R') on R^d."""

    @property
    def mean(self) -> np.ndarray:
        """Mean (d,)."""
        ...

    @property
    def sd(self) -> np.ndarray:
        """Marginal standard deviations (d,)."""
        ...

    @property
    def log_scale(self) -> float:
        """log |det R|."""
        ...

    def at(self, white: np.ndarray) -> np.ndarray:
        """The points mean + R e of standard normal points e (n, d)."""
        ...

    def slopes(self, white: np.ndarray) -> np.ndarray:
        """Gradients (n, d) of the log density at the points mean + R e: -e' R^-1."""
        ...

    def narrowed(self) -> Self:
        """The same law with half the root."""
        ...

    def around(self, mean: np.ndarray) -> Self:
        """The same law with another mean (d,)."""
        ...

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d)."""
        ...

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        ...


class Family[Law: NormalLaw](Protocol):
    """A family of normal laws on R^d; `points` is the least number of standard normal points that pin a law down."""

    def points(self, d: int) -> int:
        """Least number of points."""
        ...

    def count(self, d: int) -> int:
        """How many numbers a law has."""
        ...

    def start(self, mean: np.ndarray, scale: np.ndarray) -> Law:
        """The law with these means and standard deviations (d,), without correlations."""
        ...

    def improved(self, law: Law, gradients: Gradients, generator: np.random.Generator, points: int) -> Law:
        """A better law to begin with, from the target's gradients at so many points of this one; itself if none."""
        ...

    def law(self, frame: Law, x: np.ndarray) -> Law:
        """The law at the numbers x (count,)."""
        ...

    def slopes(self, frame: Law, x: np.ndarray, law: Law, white: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Of mean(log p) + log |det R| in x (count,), from the slopes (n, d) of log p at the points of `white`."""
        ...


def standard_points(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Points (n, d) of the standard normal law in pairs e, -e; their covariance is the identity if n allows it."""
    half = generator.standard_normal(((n + 1) // 2, d))
    if len(half) > d:
        root = np.linalg.cholesky(half.T @ half / len(half))
        half = np.linalg.solve(root, half.T).T
    else:
        half = half / np.sqrt(np.mean(half**2, axis=0))
    return np.concatenate([half, -half])


class Diagonal:
    """Normal laws without correlations: shifts and log stretches of the frame."""

    def points(self, d: int) -> int:
        """Any number: each coordinate has its own."""
        return 0

    def count(self, d: int) -> int:
        """2 d."""
        return 2 * d

    def start(self, mean: np.ndarray, scale: np.ndarray) -> Normal:
        """Itself."""
        return Normal(mean, scale)

    def improved(self, law: Normal, gradients: Gradients, generator: np.random.Generator, points: int) -> Normal:
        """Itself."""
        return law

    def law(self, frame: Normal, x: np.ndarray) -> Normal:
        """Mean m + r x_1, root r exp(x_2)."""
        d = len(frame.mean)
        return Normal(frame.mean + frame.root * x[:d], frame.root * np.exp(x[d:]))

    def slopes(self, frame: Normal, x: np.ndarray, law: Normal, white: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """See `Family`."""
        by_scale = np.mean(slopes * white, axis=0) * law.root + 1
        return np.concatenate([frame.root * slopes.mean(axis=0), by_scale])


class Triangular:
    """All normal laws: a shift, and a lower triangular matrix that the frame's root is multiplied by."""

    def points(self, d: int) -> int:
        """As many as give the covariance of the points in every direction."""
        return 4 * d

    def count(self, d: int) -> int:
        """d (d + 3) / 2."""
        return d * (d + 3) // 2

    def start(self, mean: np.ndarray, scale: np.ndarray) -> Normal:
        """Itself, the root as a matrix."""
        return Normal(mean, np.diag(scale))

    def improved(self, law: Normal, gradients: Gradients, generator: np.random.Generator, points: int) -> Normal:
        """Itself."""
        return law

    def law(self, frame: Normal, x: np.ndarray) -> Normal:
        """Mean m + R x_1, root R L(x_2), the diagonal of L in logarithms."""
        d = len(frame.mean)
        return Normal(frame.mean + frame.root @ x[:d], frame.root @ _triangle(x[d:], d))

    def slopes(self, frame: Normal, x: np.ndarray, law: Normal, white: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """See `Family`."""
        d = len(frame.mean)
        rows, columns = np.tril_indices(d)
        on_diagonal = rows == columns
        by_entry = (frame.root.T @ (slopes.T @ white) / len(white))[rows, columns]
        by_entry[on_diagonal] = by_entry[on_diagonal] * np.exp(x[d:][on_diagonal]) + 1
        return np.concatenate([frame.root.T @ slopes.mean(axis=0), by_entry])


def _triangle(entries: np.ndarray, d: int) -> np.ndarray:
    """Lower triangular (d, d) from its entries, those of the diagonal in logarithms."""
    rows, columns = np.tril_indices(d)
    out = np.zeros((d, d))
    out[rows, columns] = np.where(rows == columns, np.exp(np.where(rows == columns, entries, 0.0)), entries)
    return out


class LowRankRoot(NamedTuple):
    """N(mean, R R') on R^d with R = D (I + B C'): D diagonal, `scale` (d,); B, C (d, k). `draw` as mean + R e.

    Some 2 k directions may be wider or narrower than D says: the covariance is D (I + B C' + C B' + B C'C B') D.
    """

    mean: np.ndarray
    scale: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @property
    def core(self) -> np.ndarray:
        """I + C'B (k, k), with the determinant of I + B C'."""
        return np.eye(self.left.shape[1]) + self.right.T @ self.left

    @property
    def sd(self) -> np.ndarray:
        """Marginal standard deviations (d,)."""
        across = self.left @ (self.right.T @ self.right)
        return self.scale * np.sqrt(1 + 2 * (self.left * self.right).sum(axis=1) + (across * self.left).sum(axis=1))

    @property
    def log_scale(self) -> float:
        """log |det R|."""
        return float(np.log(self.scale).sum() + np.linalg.slogdet(self.core)[1])

    def at(self, white: np.ndarray) -> np.ndarray:
        """The points mean + R e of standard normal points e (n, d)."""
        return self.mean + self.scale * (white + (white @ self.right) @ self.left.T)

    def slopes(self, white: np.ndarray) -> np.ndarray:
        """Gradients (n, d) of the log density at the points mean + R e: -e' R^-1."""
        along = np.linalg.solve(self.core.T, (white @ self.left).T).T
        return (along @ self.right.T - white) / self.scale

    def narrowed(self) -> "LowRankRoot":
        """The same law with half the root."""
        return self._replace(scale=self.scale / 2)

    def around(self, mean: np.ndarray) -> "LowRankRoot":
        """The same law with another mean (d,)."""
        return self._replace(mean=mean)

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d)."""
        return self.at(generator.standard_normal((n, len(self.mean))))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        x = (z - self.mean) / self.scale
        white = x - np.linalg.solve(self.core, (x @ self.right).T).T @ self.left.T
        return -np.sum(white**2, axis=1) / 2 - self.log_scale - len(self.mean) / 2 * np.log(2 * np.pi)


class FewDirections:
    """Normal laws whose root is D (I + B C'), B and C with `rank` columns: a shift, log stretches of D, B and C."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def points(self, d: int) -> int:
        """As for all normal laws: a direction that no point is in could be narrowed for nothing."""
        return 4 * d

    def count(self, d: int) -> int:
        """2 d (1 + rank)."""
        return 2 * d * (1 + self.rank)

    def start(self, mean: np.ndarray, scale: np.ndarray) -> LowRankRoot:
        """Without directions: B = C = 0."""
        nothing = np.zeros((len(mean), self.rank))
        return LowRankRoot(mean, scale, nothing, nothing)

    def improved(
        self, law: LowRankRoot, gradients: Gradients, generator: np.random.Generator, points: int
    ) -> LowRankRoot:
        """Scales and directions of least Fisher divergence, which for a normal target are its own; B = C = 0 would be
        a saddle of the bound, so directions that these do not fill are random ones."""
        d = len(law.mean)
        z = law.at(standard_points(generator, points, d))
        slopes = gradients(z)[1]
        metric = fit(z[None], slopes[None], np.ones((1, len(z)), bool), self.rank)
        found = int(np.count_nonzero(metric.stretch))
        kept = metric.directions[:, :found]
        filled = np.linalg.qr(np.concatenate([kept, generator.standard_normal((d, self.rank - found))], axis=1))[0]
        right = np.concatenate([kept, filled[:, found:]], axis=1)
        return LowRankRoot(law.mean, metric.scale, right * metric.stretch, right)

    def law(self, frame: LowRankRoot, x: np.ndarray) -> LowRankRoot:
        """Mean m + R x_1, D exp(x_2), B + X_3, C + X_4."""
        d, size = len(frame.mean), frame.left.size
        shift, stretch, left, right = np.split(x, [d, 2 * d, 2 * d + size])
        return LowRankRoot(
            frame.at(shift[None])[0],
            frame.scale * np.exp(stretch),
            frame.left + left.reshape(frame.left.shape),
            frame.right + right.reshape(frame.right.shape),
        )

    def slopes(
        self, frame: LowRankRoot, x: np.ndarray, law: LowRankRoot, white: np.ndarray, slopes: np.ndarray
    ) -> np.ndarray:
        """See `Family`."""
        n, inverse = len(white), np.linalg.inv(law.core)
        scaled = slopes * law.scale
        centre = frame.scale * slopes.mean(axis=0)
        along = white @ law.right
        parts = (
            centre + frame.right @ (frame.left.T @ centre),
            np.mean(scaled * (white + along @ law.left.T), axis=0) + 1,
            (scaled.T @ along / n + law.right @ inverse.T).ravel(),
            (white.T @ (scaled @ law.left) / n + law.left @ inverse).ravel(),
        )
        return np.concatenate(parts)
