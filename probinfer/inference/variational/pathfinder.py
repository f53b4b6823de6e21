"""Pathfinder: the normal laws that quasi-Newton paths to the modes pass through, the best of each path, mixed."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy
from scipy.special import logsumexp

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.start import RADII
from probinfer.inference.method import Control, Need, Run, check_start
from probinfer.inference.montecarlo.space import compiled, space_of_target
from probinfer.inference.settings import check_whole, settings_of
from probinfer.inference.variational.approximation import weighted_draws
from probinfer.inference.variational.other_modes import CLIMBS, Other, mass_elsewhere
from probinfer.model.target import Target

_CURVED = 1e-12  # of |change of gradient|², the least curvature of a step that teaches
_NEGLIGIBLE = 1e-4  # share of a path, below which it is left out
_TRIES = 20  # times the batches that draws with a density should take


@dataclass(frozen=True)
class Pathfinder:
    """Pathfinder: L-BFGS climbs to the modes; of the normal laws N(z_l + H_l g_l, H_l) on the way the best is kept.

        argmax_l  E[log p(φ, y) - log q_l(φ)],   φ ~ q_l,   H_l the inverse Hessian of L-BFGS at z_l, g_l = ∇ log p

    Several paths begin at random points; their laws are mixed in proportion to exp(bound), so that a path that ended
    in a worse place counts for little, and every draw is weighted with p / q of the mixture.

    Args:
        paths: climbs, each from its own random point.
        draws: draws from the mixture.
        history: steps that the inverse Hessian is made from.
        elbo_draws: draws for the bound at each step of a path.
        max_steps: of a path, at most.
        resample: keep one draw for five effective ones, chosen by weight, instead of all draws of q as they are.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range.

    `infer` returns draws with the dims ("sample",) and stores `pareto_khat`, `log_evidence` with `log_evidence_mcse`
    (from the weights), `importance_ess`, `elbo` (of the best path), `paths_used` and `mass_elsewhere` (share of modes
    that other paths found, up to eight in all, which are climbed where `paths` is less).

    Fails where no normal law is near the posterior (funnels, hundreds of correlated parameters): the Pareto shape is
    above 0.5, and the verdict DOUBTFUL or BAD. A mode that no path led to, no weight shows. Costs some tens of
    gradients for each path and `elbo_draws` densities for each step of it: a fraction of a second.

    Zhang, Carpenter, Gelman & Vehtari (2022), JMLR 23(306).

    >>> Pathfinder(paths=4).draws
    4000
    """

    paths: int = 8
    draws: int = 4000
    history: int = 6
    elbo_draws: int = 25
    max_steps: int = 200
    resample: bool = False
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        check_whole("Pathfinder", "paths", self.paths, 1)
        check_whole("Pathfinder", "draws", self.draws, 100)
        check_whole("Pathfinder", "history", self.history, 1)
        check_whole("Pathfinder", "elbo_draws", self.elbo_draws, 2)
        check_whole("Pathfinder", "max_steps", self.max_steps, 1)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        began = time.perf_counter()
        generator = np.random.default_rng(run.key)
        program = compiled(target, "value and gradient", target.value_and_grad)
        density = space_of_target(target).log_density

        def evaluate(z: np.ndarray) -> tuple[float, np.ndarray]:
            with target.precision():
                value, gradient = program(z.astype(target.dtype), target.inputs)
            return float(value), np.asarray(gradient, float)

        def climb(generator: np.random.Generator) -> tuple[float, LowRankNormal]:
            path = _climb(evaluate, _start(evaluate, target, generator), self.max_steps)
            return self._best(path, density, generator)

        found = []
        for i in range(self.paths):
            found.append(climb(generator))
            run.progress.update(i + 1, self.paths, "paths")
        bounds = np.array([bound for bound, _ in found])
        if not np.isfinite(bounds).any():
            raise MethodError(
                f"Pathfinder: the density is zero or not a number at all draws of the normal laws along {self.paths} "
                "paths. Use pi.NUTS(), or more paths."
            )
        shares = np.exp(bounds - logsumexp(bounds))
        kept = shares > _NEGLIGIBLE
        mixture = Mixture(
            shares[kept] / shares[kept].sum(), [law for (_, law), use in zip(found, kept, strict=True) if use]
        )
        share = float(np.isfinite(density(mixture.draw(generator, self.draws))).mean())
        if share == 0:
            raise MethodError(
                f"Pathfinder: the density is zero or not a number at all {self.draws} draws of its approximation. Use "
                "pi.NUTS()."
            )
        law = mixture if share == 1 else Alive(mixture, density, share)
        aside = generator.spawn(1)[0]
        others = [Other(law, bound) for bound, law in (climb(aside) for _ in range(self.paths, CLIMBS))]
        climbed = time.perf_counter() - began
        draws = weighted_draws(
            law,
            target,
            generator,
            method="Pathfinder",
            settings=settings_of(self),
            facts={
                "elbo": float(bounds.max()),
                "paths_used": int(kept.sum()),
                "share_with_density": share,
                "mass_elsewhere": mass_elsewhere(law, float(bounds.max()), others, aside),
            },
        )
        return replace(draws, seconds={"paths": climbed, "sampling": time.perf_counter() - began - climbed})

    def _best(
        self, path: "list[tuple[np.ndarray, np.ndarray]]", density: Callable, generator: np.random.Generator
    ) -> "tuple[float, LowRankNormal]":
        """The law of the greatest bound on a path, and the bound: of the law without the part that has no density, the
        mean of log p - log q over the rest plus the log of its share."""
        laws = _laws_along(path, self.history)
        draws = [law.draw(generator, self.elbo_draws) for law in laws]
        values = density(np.concatenate(draws)).reshape(len(laws), self.elbo_draws)
        bounds = [_bound(own - law.log_density(z)) for own, law, z in zip(values, laws, draws, strict=True)]
        best = int(np.argmax(bounds))
        return bounds[best], laws[best]


def _bound(ratios: np.ndarray) -> float:
    """Evidence lower bound from log p - log q at draws of q, kept to where p is not zero."""
    alive = np.isfinite(ratios)
    return float(ratios[alive].mean() + np.log(alive.mean())) if alive.any() else -np.inf


class LowRankNormal(NamedTuple):
    """N(mean, D (I + Q (L L' - I) Q') D) on R^d: D diagonal (d,), Q (d, k) orthonormal, L (k, k) lower triangular."""

    mean: np.ndarray
    diagonal: np.ndarray
    directions: np.ndarray
    root: np.ndarray

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d)."""
        white = generator.standard_normal((n, len(self.mean)))
        along = white @ self.directions
        return self.mean + self.diagonal * (white + (along @ self.root.T - along) @ self.directions.T)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        x = (z - self.mean) / self.diagonal
        along = x @ self.directions
        inner = np.linalg.solve(self.root, along.T).T
        square = (x**2).sum(axis=1) - (along**2).sum(axis=1) + (inner**2).sum(axis=1)
        scale = np.log(self.diagonal).sum() + np.log(np.diag(self.root)).sum()
        return -square / 2 - scale - len(self.mean) / 2 * np.log(2 * np.pi)


class Alive(NamedTuple):
    """A law without the part where a target has no density; `share` is that of the rest."""

    law: Any
    density: Callable[[np.ndarray], np.ndarray]
    share: float

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d)."""
        found, count = [], 0
        for _ in range(int(_TRIES / self.share)):
            z = self.law.draw(generator, n)
            found.append(z[np.isfinite(self.density(z))])
            count += len(found[-1])
            if count >= n:
                break
        return np.concatenate(found)[:n]

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d) where there is one."""
        return self.law.log_density(z) - np.log(self.share)


class Mixture(NamedTuple):
    """Normal laws with their shares (k,)."""

    shares: np.ndarray
    laws: list[LowRankNormal]

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Points (n, d), in random order."""
        counts = generator.multinomial(n, self.shares)
        points = [law.draw(generator, int(count)) for law, count in zip(self.laws, counts, strict=True)]
        return generator.permutation(np.concatenate(points))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at points (n, d)."""
        parts = [np.log(share) + law.log_density(z) for share, law in zip(self.shares, self.laws, strict=True)]
        return np.asarray(logsumexp(parts, axis=0))


def _start(evaluate: Callable, target: Target, generator: np.random.Generator) -> np.ndarray:
    point = np.zeros(target.dim)
    for radius in RADII:
        point = generator.uniform(-radius, radius, target.dim)
        value, gradient = evaluate(point)
        if np.isfinite(value) and np.isfinite(gradient).all():
            return point
    raise check_start(target, point, len(RADII))


def _climb(evaluate: Callable, start: np.ndarray, max_steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points and gradients of the log density along L-BFGS's path, the start first."""
    seen: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = evaluate(z)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e100, np.zeros_like(z)
        seen[z.tobytes()] = (z.copy(), gradient)
        return -value, -gradient

    path = [(start, evaluate(start)[1])]

    def keep(z: np.ndarray) -> None:
        if z.tobytes() in seen:
            path.append(seen[z.tobytes()])

    scipy.optimize.minimize(
        negative, start, jac=True, method="L-BFGS-B", callback=keep, options={"maxiter": max_steps, "ftol": 1e-9}
    )
    return path


def _laws_along(path: list[tuple[np.ndarray, np.ndarray]], history: int) -> list[LowRankNormal]:
    """The normal law at every point of a path but the first (at the first too if it is the only one)."""
    dim = len(path[0][0])
    alpha = np.ones(dim)
    steps: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    laws = [] if len(path) > 1 else [_law(*path[0], alpha, steps, changes)]
    for (before, g_before), (z, g) in itertools.pairwise(path):
        step, change = z - before, g_before - g
        curvature = step @ change
        if curvature > _CURVED * (change @ change):
            alpha = _diagonal(alpha, step, change)
            steps, changes = [*steps, step][-history:], [*changes, change][-history:]
        laws.append(_law(z, g, alpha, steps, changes))
    return laws


def _diagonal(alpha: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The diagonal of the inverse Hessian, updated so that it fits the last step too (Gilbert & Lemaréchal, 1989)."""
    a, b, c = change @ (alpha * change), change @ step, step @ (step / alpha)
    return 1.0 / (a / (b * alpha) + change**2 / b - a * step**2 / (b * c * alpha**2))


def _law(
    z: np.ndarray, g: np.ndarray, alpha: np.ndarray, steps: list[np.ndarray], changes: list[np.ndarray]
) -> LowRankNormal:
    """N(z + H g, H) with the inverse Hessian H of L-BFGS in its compact form, diag(α) + B M B'."""
    scale = np.sqrt(alpha)
    if not steps:
        return LowRankNormal(z + alpha * g, scale, np.zeros((len(z), 0)), np.zeros((0, 0)))
    s, y = np.stack(steps, axis=1), np.stack(changes, axis=1)
    upper = np.triu(s.T @ y)
    inverse = np.linalg.inv(upper)
    count = s.shape[1]
    middle = np.zeros((2 * count, 2 * count))
    middle[:count, count:] = -inverse
    middle[count:, :count] = -inverse.T
    middle[count:, count:] = inverse.T @ (np.diag(np.diag(upper)) + y.T @ (alpha[:, None] * y)) @ inverse
    basis = np.concatenate([alpha[:, None] * y, s], axis=1)
    directions, triangle = np.linalg.qr(basis / scale[:, None])
    inside = np.eye(len(triangle)) + triangle @ middle @ triangle.T
    values, vectors = np.linalg.eigh((inside + inside.T) / 2)
    values = np.maximum(values, 1e-10 * values[-1])
    # a triangular root of the same matrix: R of the QR of (V sqrt(Λ))'
    root = np.linalg.qr((vectors * np.sqrt(values)).T, mode="r").T
    root = root * np.sign(np.diag(root))
    mean = z + alpha * g + basis @ (middle @ (basis.T @ g))
    return LowRankNormal(mean, scale, directions, root)
