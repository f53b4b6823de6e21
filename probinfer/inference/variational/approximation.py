"""Normal laws on R^d, and the draws of one that approximates a target, with the weights that say how well it does."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from probinfer.inference.draws import Draws
from probinfer.inference.montecarlo.pareto import smooth
from probinfer.inference.montecarlo.space import space_of_target
from probinfer.inference.montecarlo.weights import evidence, systematic
from probinfer.inference.undefined import Undefined
from probinfer.model.target import Target

_THINNED = 5  # weighted draws for each that is kept by resampling


class Law(Protocol):
    """A law on R^d that can be drawn from and has a density."""

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d)."""
        ...

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        ...


class Normal(NamedTuple):
    """N(mean, R R') on R^d: root R (d, d) lower triangular, or its diagonal (d,)."""

    mean: np.ndarray
    root: np.ndarray

    @property
    def diagonal(self) -> np.ndarray:
        """Diagonal of R (d,)."""
        return self.root if self.root.ndim == 1 else np.diag(self.root)

    @property
    def sd(self) -> np.ndarray:
        """Marginal standard deviations (d,)."""
        return self.root if self.root.ndim == 1 else np.sqrt(np.sum(self.root**2, axis=1))

    @property
    def log_scale(self) -> float:
        """log |det R|."""
        return float(np.sum(np.log(self.diagonal)))

    def slopes(self, white: np.ndarray) -> np.ndarray:
        """Gradients (n, d) of the log density at the points mean + R e: -e' R^-1."""
        return -(white / self.root if self.root.ndim == 1 else solve_triangular(self.root.T, white.T).T)

    def narrowed(self) -> "Normal":
        """The same law with half the root."""
        return self._replace(root=self.root / 2)

    def around(self, mean: np.ndarray) -> "Normal":
        """The same law with another mean (d,)."""
        return self._replace(mean=mean)

    def at(self, white: np.ndarray) -> np.ndarray:
        """The points mean + R e of standard normal points e (n, d)."""
        return self.mean + (white * self.root if self.root.ndim == 1 else white @ self.root.T)

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d)."""
        return self.at(generator.standard_normal((n, len(self.mean))))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        apart = z - self.mean
        white = apart / self.root if self.root.ndim == 1 else solve_triangular(self.root, apart.T, lower=True).T
        return -np.sum(white**2, axis=1) / 2 - self.log_scale - len(self.mean) / 2 * np.log(2 * np.pi)


def weighted_draws(
    law: Law,
    target: Target,
    generator: np.random.Generator,
    *,
    method: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    log_density: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Draws:
    """settings["draws"] draws of the approximation, weighted with target / approximation.

    The weights give the Pareto shape, the log evidence and, if settings["resample"], the draws that are kept.
    log_density: the target's (n,) at points (n, d), if it is to be computed in another way; the bound is then
    measured with these draws too, in place of others.
    """
    z = law.draw(generator, settings["draws"])
    undefined = Undefined(target)
    if log_density is None:
        at_target = space_of_target(target, undefined).log_density(z)
    else:
        at_target = undefined.without(z, log_density(z))
    log_weights = at_target - law.log_density(z)
    judged: dict[str, Any] = {
        "pareto_khat": float("inf")
    }  # if the target has no mass where the approximation is, or that has overflowed
    chosen = np.arange(len(z))
    if np.isfinite(log_weights).any() and not (np.isnan(log_weights) | (log_weights == np.inf)).any():
        smoothed = smooth(log_weights)
        weights = np.exp(smoothed.log_weights - logsumexp(smoothed.log_weights))
        size = float(1 / np.sum(weights**2))
        # weights that are all alike have no tail to fit: nothing speaks against them
        shape = 0.0 if np.isnan(smoothed.khat) else float(smoothed.khat)
        judged = {"pareto_khat": shape, "importance_ess": size, **evidence(log_weights)}
        if settings["resample"]:
            chosen = generator.permutation(systematic(weights, max(1, int(size / _THINNED)), generator))
    if log_density is not None:
        judged["elbo"], judged["elbo_mcse"] = mean_and_error(log_weights)
    return Draws(
        positions=z[chosen],
        stats={"log_weight": log_weights[chosen]},
        method=method,
        settings=settings,
        sample_dims=("sample",),
        facts={**judged, **facts, **undefined.facts},
    )


def mean_and_error(terms: np.ndarray) -> tuple[float, float]:
    """Mean of terms (n,) and its standard error; -inf where one of them is not finite."""
    if not np.isfinite(terms).all():
        return -np.inf, np.inf
    return float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms)))
