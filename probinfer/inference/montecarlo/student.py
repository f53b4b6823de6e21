"""Mixtures of Student's t laws on R^d: draws, log density, and the fit to weighted points. NumPy only."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp

DOF = 5.0  # heavier tails than a normal law's, with a covariance; and near enough to one for a good efficiency
_STEPS = 10  # of expectation-maximisation: weights are noisy, an exact maximum is not worth more
_LEAST = 0.01  # share below which a component is dropped


@dataclass(frozen=True)
class StudentMixture:
    """sum_k share_k t_dof(mean_k, R_k R_k'): shares (K,), means (K, d), roots R (K, d, d) lower triangular."""

    shares: np.ndarray
    means: np.ndarray
    roots: np.ndarray
    dof: float = DOF

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """n independent points (n, d)."""
        which = generator.choice(len(self.shares), size=n, p=self.shares)
        normal = generator.standard_normal((n, self.means.shape[1]))
        stretch = np.sqrt(self.dof / generator.chisquare(self.dof, n))
        step = np.empty_like(normal)
        for k, root in enumerate(self.roots):
            step[which == k] = normal[which == k] @ root.T
        return self.means[which] + stretch[:, None] * step

    def log_parts(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log of share times density, and squared distances, by component: (K, n) each."""
        d = z.shape[1]
        parts, distances = [], []
        constant = gammaln((self.dof + d) / 2) - gammaln(self.dof / 2) - d / 2 * np.log(self.dof * np.pi)
        for share, mean, root in zip(self.shares, self.means, self.roots, strict=True):
            inverse = solve_triangular(root, np.eye(d), lower=True)  # one product is faster than n solutions
            distance = np.sum(((z - mean) @ inverse.T) ** 2, axis=1)
            level = np.log(share) + constant - np.sum(np.log(np.diag(root)))
            parts.append(level - (self.dof + d) / 2 * np.log1p(distance / self.dof))
            distances.append(distance)
        return np.array(parts), np.array(distances)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        return logsumexp(self.log_parts(z)[0], axis=0)

    def covariance(self) -> np.ndarray:
        """Scale matrix of the whole: components' and between their means."""
        mean = self.shares @ self.means
        apart = self.means - mean
        return np.einsum("k,kij,klj->il", self.shares, self.roots, self.roots) + (self.shares * apart.T) @ apart

    def widened(self, factor: float) -> "StudentMixture":
        """The same components, each `factor` times as wide."""
        return StudentMixture(self.shares, self.means, self.roots * factor, self.dof)

    def joined(self, other: "StudentMixture", share: float) -> "StudentMixture":
        """This mixture with `share` of the other."""
        shares = np.concatenate([(1 - share) * self.shares, share * other.shares])
        means, roots = np.concatenate([self.means, other.means]), np.concatenate([self.roots, other.roots])
        return StudentMixture(shares, means, roots, self.dof)


def fit(
    z: np.ndarray, weights: np.ndarray, components: int, before: StudentMixture, generator: np.random.Generator
) -> StudentMixture:
    """Maximum likelihood fit to points (n, d) with weights that sum to one, shrunk towards the mixture `before`.

    A component's scale matrix is pulled towards that of `before` with the weight of d + 2 points, so that few effective
    points cannot make it collapse. Components begin at points far from one another (as in k-means++).
    """
    kept = weights > 0
    z, weights = z[kept], weights[kept]
    d = z.shape[1]
    size = 1 / np.sum(weights**2)
    mean = weights @ z
    overall = ((z - mean) * weights[:, None]).T @ (z - mean)
    prior = (size * overall + (d + 2) * before.covariance()) / (size + d + 2)
    centres = _far_apart(z, weights, components, prior, generator)
    start = np.linalg.cholesky(_safe(prior / len(centres) ** (2 / d)))
    mixture = StudentMixture(
        np.full(len(centres), 1 / len(centres)), centres, np.repeat(start[None], len(centres), axis=0), before.dof
    )
    anchor = prior / len(centres) ** (2 / d)
    for _ in range(_STEPS):
        parts, distances = mixture.log_parts(z)
        share = np.exp(parts - logsumexp(parts, axis=0)) * weights
        pull = share * (mixture.dof + d) / (mixture.dof + distances)
        total = share.sum(axis=1)
        alive = total > max(_LEAST, 2 / size)
        if not alive.any():
            break
        share, pull, total = share[alive], pull[alive], total[alive]
        means = (pull @ z) / pull.sum(axis=1)[:, None]
        roots = []
        for k, centre in enumerate(means):
            apart = z - centre
            scatter = (apart * pull[k][:, None]).T @ apart
            count = size * total[k]
            roots.append(np.linalg.cholesky(_safe((size * scatter + (d + 2) * anchor) / (count + d + 2))))
        mixture = StudentMixture(total / total.sum(), means, np.array(roots), before.dof)
    return mixture


def _far_apart(
    z: np.ndarray, weights: np.ndarray, count: int, scale: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    whitened = solve_triangular(np.linalg.cholesky(_safe(scale)), z.T, lower=True).T
    chosen = [int(generator.choice(len(z), p=weights))]
    while len(chosen) < count:
        nearest = np.min([np.sum((whitened - whitened[i]) ** 2, axis=1) for i in chosen], axis=0) * weights
        if not nearest.sum() > 0:
            break
        chosen.append(int(generator.choice(len(z), p=nearest / nearest.sum())))
    return z[chosen]


def _safe(matrix: np.ndarray) -> np.ndarray:
    """Symmetric, and positive definite in floating point."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    correlation = matrix / scale / scale[:, None]
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    return (vectors * np.maximum(values, 1e-9 * values[-1])) @ vectors.T * scale * scale[:, None]
