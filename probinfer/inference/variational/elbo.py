"""The normal law nearest to a target: the largest evidence lower bound, over fixed standard normal points.

With the points e_1 … e_n fixed, ELBO(m, R) ≈ (1/n) Σ log p(m + R e_i) + log |R| + const is an ordinary smooth function,
for which L-BFGS needs no step size and tells when it has arrived (Giordano, Ingram, Broderick 2024, JMLR 25(18)). What
the points leave open is found by doing it again with other ones. Moments of the points up to the second are those of
the normal law, so that for a normal target the answer is exact.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
from threadpoolctl import threadpool_limits

from probinfer.inference.mcmc.start import RADII, find_start
from probinfer.inference.method import check_start
from probinfer.inference.montecarlo.space import compiled
from probinfer.inference.variational.approximation import Normal
from probinfer.model.target import Target

SETTLED = 0.1  # change, in standard deviations and of their logarithms, from one set of points to another
_CHUNK = 256  # points of a call of the compiled gradient
_ITERATIONS = 1000  # of L-BFGS for one set of points
_CLOSE = 1e-5  # nats that an iteration gains, below which it is the last
_HALVINGS = 30  # of a start that is too wide
_FRESH = 4000  # draws that the bound is measured with
_REFUSED = 1e100  # value beyond the edge of the support: the line search turns back

Gradients = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Fitted(NamedTuple):
    """The approximation; its bound, from fresh draws, with the error; last change between two sets of points."""

    normal: Normal
    elbo: float
    elbo_mcse: float
    change: float
    points: int


def fit_normal(
    target: Target,
    generator: np.random.Generator,
    *,
    full: bool,
    points: int,
    rounds: int,
    progress: Callable[[int], None],
) -> Fitted:
    """Fit until two sets of points agree, each twice as large as the last while they do not.

    full: with correlations, else one scale for each coordinate. Raises ModelError when the log density is finite at no
    starting point.
    """
    gradients = _many(target)
    normal = _narrowed(_start(target, gradients, generator, full), gradients, generator)
    points = max(points, 4 * target.dim if full else 0)
    change = np.inf
    for done in range(rounds):
        before, white = normal, standard_points(generator, points, target.dim)
        normal, arrived = _climb(normal, white, gradients)
        moved = max(
            np.max(np.abs(normal.mean - before.mean) / normal.sd), np.max(np.abs(np.log(normal.sd / before.sd)))
        )
        change = float(moved) if arrived and done else np.inf
        progress(done + 1)
        if change <= SETTLED:
            break
        points *= 1 if done == 0 else 2
    fresh = normal.at(generator.standard_normal((_FRESH, target.dim)))
    terms = gradients(fresh)[0] - normal.log_density(fresh)
    return Fitted(normal, float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(_FRESH)), change, points)


def standard_points(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Points (n, d) of the standard normal law in pairs e, -e; their covariance is the identity if n allows it."""
    half = generator.standard_normal(((n + 1) // 2, d))
    if len(half) > d:
        root = np.linalg.cholesky(half.T @ half / len(half))
        half = np.linalg.solve(root, half.T).T
    else:
        half = half / np.sqrt(np.mean(half**2, axis=0))
    return np.concatenate([half, -half])


def _climb(frame: Normal, white: np.ndarray, gradients: Gradients) -> tuple[Normal, bool]:
    """The best normal law for these points, and whether the search arrived, in coordinates where `frame` is white."""
    d = len(frame.mean)
    lower = np.tril_indices(d)
    on_diagonal = np.flatnonzero(lower[0] == lower[1])
    full = frame.root.ndim == 2

    def law(x: np.ndarray) -> tuple[Normal, np.ndarray]:
        if not full:
            return Normal(frame.mean + frame.root * x[:d], frame.root * np.exp(x[d:])), np.ones(d)
        entries = x[d:].copy()
        entries[on_diagonal] = np.exp(entries[on_diagonal])
        stretch = np.zeros((d, d))
        stretch[lower] = entries
        return Normal(frame.mean + frame.root @ x[:d], frame.root @ stretch), entries

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(all="ignore"):
            normal, entries = law(x)
            values, slopes = gradients(normal.at(white))
            value = float(values.mean() + np.sum(np.log(normal.diagonal)))
            if not (np.isfinite(value) and np.isfinite(slopes).all()):
                return _REFUSED, np.zeros_like(x)
            if not full:
                by_scale = np.mean(slopes * white, axis=0) * normal.root + 1
                return -value, -np.concatenate([frame.root * slopes.mean(axis=0), by_scale])
            by_entry = (frame.root.T @ (slopes.T @ white) / len(white))[lower]
            by_entry[on_diagonal] = by_entry[on_diagonal] * entries[on_diagonal] + 1
            return -value, -np.concatenate([frame.root.T @ slopes.mean(axis=0), by_entry])

    start = np.zeros(d + (len(lower[0]) if full else d))
    close = _CLOSE / max(1.0, abs(negative(start)[0]))
    options = {"maxiter": _ITERATIONS, "maxfun": 4 * _ITERATIONS, "ftol": close, "gtol": 1e-4, "maxcor": 20}
    with threadpool_limits(1, "blas"):  # the vectors are short: waiting for other threads takes longer than the work
        found = scipy.optimize.minimize(negative, start, jac=True, method="L-BFGS-B", options=options)
    return law(found.x)[0], bool(found.status == 0)


def _start(target: Target, gradients: Gradients, generator: np.random.Generator, full: bool) -> Normal:
    def one(z: np.ndarray) -> tuple[float, np.ndarray]:
        values, slopes = gradients(z[None])
        return float(values[0]), slopes[0]

    found, last = find_start(one, lambda radius: generator.uniform(-radius, radius, target.dim), target.dim, 0)
    if found is None:
        raise check_start(target, last, len(RADII))
    scale = np.asarray(found.metric.scale, float)
    return Normal(np.asarray(found.position, float), np.diag(scale) if full else scale)


def _narrowed(normal: Normal, gradients: Gradients, generator: np.random.Generator) -> Normal:
    """The same law, narrowed until the log density is finite at its points."""
    white = standard_points(generator, _CHUNK, len(normal.mean))
    for _ in range(_HALVINGS):
        values, slopes = gradients(normal.at(white))
        if np.isfinite(values).all() and np.isfinite(slopes).all():
            break
        normal = Normal(normal.mean, normal.root / 2)
    return normal


def _many(target: Target) -> Gradients:
    """Log densities (n,) and gradients (n, d) at points (n, d)."""
    programs = {many: compiled(target, "value and gradient", target.value_and_grad, many) for many in (1, _CHUNK)}

    def gradients(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        many = 1 if len(z) == 1 else _CHUNK
        values, slopes = np.empty(len(z)), np.empty(z.shape)
        with target.precision():
            for start in range(0, len(z), many):
                part = z[start : start + many]
                padded = np.concatenate([part, np.broadcast_to(part[:1], (many - len(part), target.dim))])
                value, slope = programs[many](padded.astype(target.dtype), target.inputs)
                values[start : start + len(part)] = np.asarray(value)[: len(part)]
                slopes[start : start + len(part)] = np.asarray(slope)[: len(part)]
        return values, slopes

    return gradients
