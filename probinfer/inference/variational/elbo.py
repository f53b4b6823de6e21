"""The normal law nearest to a target: the largest evidence lower bound, over fixed standard normal points.

With the points e_1 … e_n fixed, ELBO(m, R) ≈ (1/n) Σ log p(m + R e_i) + log |R| + const is an ordinary smooth function,
for which L-BFGS needs no step size and tells when it has arrived (Giordano, Ingram, Broderick 2024, JMLR 25(18)). What
the points leave open is found by doing it again with other ones. Moments of the points up to the second are those of
the normal law, so that for a normal target the answer is exact.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import scipy

from probinfer.inference.mcmc.start import RADII, find_start
from probinfer.inference.method import check_start
from probinfer.inference.montecarlo.space import compiled
from probinfer.inference.variational.approximation import mean_and_error
from probinfer.inference.variational.families import Family, Gradients, NormalLaw, standard_points
from probinfer.inference.variational.other_modes import Other, elsewhere, far_ends
from probinfer.model.one_thread import one_blas_thread
from probinfer.model.target import Target

SETTLED = 0.1  # change, in standard deviations and of their logarithms, from one set of points to another
CHUNK = 256  # points of a call of the compiled gradient
_ITERATIONS = 1000  # of L-BFGS for one set of points
_CLOSE = 1e-5  # nats that an iteration gains, below which it is the last
_HALVINGS = 30  # of a start that is too wide
_FRESH = 4000  # draws that the bound is measured with
_LONGEST = 200.0  # half the squared length that no normal draw has, with 5 for each dimension
_BETTER = 0.5  # nats, by which the bound of another law has to be higher for it to be taken
_REFUSED = 1e100  # value beyond the edge of the support: the line search turns back


class Fitted[Law: NormalLaw](NamedTuple):
    """The approximation; its bound, from fresh draws, with the error; last change between two sets of points; laws
    fitted at other modes, of which none has a higher bound."""

    law: Law
    elbo: float
    elbo_mcse: float
    change: float
    points: int
    others: tuple[Other, ...] = ()


def fit_normal[Law: NormalLaw](
    target: Target,
    generator: np.random.Generator,
    family: Family[Law],
    *,
    points: int,
    rounds: int,
    progress: Callable[[int], None],
    gradients: Gradients | None = None,
) -> Fitted[Law]:
    """Fit until two sets of points agree, each twice as large as the last while they do not; then look for other modes,
    and go on from the best.

    gradients: log densities and slopes at points, if they are to be others than those of the target.

    Raises ModelError when the log density is finite at no starting point.
    """
    gradients = gradients or many_gradients(target)
    points = max(points, family.points(target.dim))

    def settle(law: Law, points: int) -> Fitted[Law]:
        law = _ready(family, law, gradients, generator, points)
        change = np.inf
        for done in range(rounds):
            before, white = law, standard_points(generator, points, target.dim)
            law, arrived = climb(family, law, white, gradients)
            change = apart(law, before) if arrived and done else np.inf
            progress(done + 1)
            if change <= SETTLED:
                break
            points *= 1 if done == 0 else 2
        return Fitted(law, *_bound(law, gradients, generator), change, points)

    fitted = settle(_start(family, target, gradients, generator), points)
    others = _others(family, fitted.law, gradients, generator.spawn(1)[0], points)
    if others and others[0].elbo > fitted.elbo + _BETTER:
        settled = settle(others[0].law, points)
        fitted, left = (settled, fitted) if settled.elbo > fitted.elbo else (fitted, settled)
        others = [Other(left.law, left.elbo), *others[1:]]
    return fitted._replace(others=tuple(elsewhere(fitted.law, others, generator.spawn(1)[0])))


def _others[Law: NormalLaw](
    family: Family[Law], law: Law, gradients: Gradients, generator: np.random.Generator, points: int
) -> list[Other]:
    """Laws fitted where climbs ended apart from this one, that of the highest bound first."""
    values = gradients(law.draw(generator, CHUNK))[0]
    level = float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else -np.inf
    found = []
    for end in far_ends(law, level, gradients, generator):
        there = _ready(family, family.start(end, law.sd), gradients, generator, points)
        there, _ = climb(family, there, standard_points(generator, points, len(end)), gradients)
        found.append(Other(there, _bound(there, gradients, generator)[0]))
    return sorted(found, key=lambda other: -other.elbo)


def _ready[Law: NormalLaw](
    family: Family[Law], law: Law, gradients: Gradients, generator: np.random.Generator, points: int
) -> Law:
    """A law to begin with: narrowed to where the log density is finite, with what gradients there say."""
    law = _narrowed(law, gradients, generator)
    better = family.improved(law, gradients, generator, points)
    return law if better is law else _narrowed(better, gradients, generator)


def _bound(law: NormalLaw, gradients: Gradients, generator: np.random.Generator) -> tuple[float, float]:
    """The evidence lower bound, with its standard error, from fresh draws; -inf of a law that has collapsed to less
    than floating point tells apart, whose density at its own draws is anything."""
    fresh = law.draw(generator, _FRESH)
    own = law.log_density(fresh)
    with np.errstate(all="ignore"):
        lower = law.log_density(law.mean[None]) - own  # half the squared length of what was drawn
    if not np.all(lower < _LONGEST + 5.0 * len(law.mean)):
        return -np.inf, np.inf
    return mean_and_error(gradients(fresh)[0] - own)


def apart(law: NormalLaw, before: NormalLaw) -> float:
    """How far two laws are from each other: the largest change of a mean, in standard deviations, or of their logs."""
    return float(max(np.max(np.abs(law.mean - before.mean) / law.sd), np.max(np.abs(np.log(law.sd / before.sd)))))


def climb[Law: NormalLaw](family: Family[Law], frame: Law, white: np.ndarray, gradients: Gradients) -> tuple[Law, bool]:
    """The best normal law for these points, and whether the search arrived, in coordinates where `frame` is white."""

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(all="ignore"):
            law = family.law(frame, x)
            values, slopes = gradients(law.at(white))
            value = float(values.mean() + law.log_scale)
            if not (np.isfinite(value) and np.isfinite(slopes).all()):
                return _REFUSED, np.zeros_like(x)
            return -value, -family.slopes(frame, x, law, white, slopes)

    start = np.zeros(family.count(len(frame.mean)))
    close = _CLOSE / max(1.0, abs(negative(start)[0]))
    options = {"maxiter": _ITERATIONS, "maxfun": 4 * _ITERATIONS, "ftol": close, "gtol": 1e-4, "maxcor": 20}
    with one_blas_thread():  # the vectors are short: waiting for other threads takes longer than the work
        found = scipy.optimize.minimize(negative, start, jac=True, method="L-BFGS-B", options=options)
    return family.law(frame, found.x), bool(found.status == 0)


def _start[Law: NormalLaw](
    family: Family[Law], target: Target, gradients: Gradients, generator: np.random.Generator
) -> Law:
    def one(z: np.ndarray) -> tuple[float, np.ndarray]:
        values, slopes = gradients(z[None])
        return float(values[0]), slopes[0]

    found, last = find_start(one, lambda radius: generator.uniform(-radius, radius, target.dim), target.dim, 0)
    if found is None:
        raise check_start(target, last, len(RADII))
    return family.start(np.asarray(found.position, float), np.asarray(found.metric.scale, float))


def _narrowed[Law: NormalLaw](law: Law, gradients: Gradients, generator: np.random.Generator) -> Law:
    """The same law, narrowed until the log density is finite at its points."""
    white = standard_points(generator, CHUNK, len(law.mean))
    for _ in range(_HALVINGS):
        values, slopes = gradients(law.at(white))
        if np.isfinite(values).all() and np.isfinite(slopes).all():
            break
        law = law.narrowed()
    return law


def many_gradients(target: Target) -> Gradients:
    """Log densities (n,) and gradients (n, d) at points (n, d)."""
    programs = {many: compiled(target, "value and gradient", target.value_and_grad, many) for many in (1, CHUNK)}
    return in_chunks(target, lambda many, z: programs[many](z, target.inputs))


def in_chunks(target: Target, ask: Callable[[int, np.ndarray], tuple[jax.Array, jax.Array]]) -> Gradients:
    """Gradients from a program for many points at a time: `ask(many, points (many, d))`, with many 1 or CHUNK."""

    def gradients(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        many = 1 if len(z) == 1 else CHUNK
        values, slopes = np.empty(len(z)), np.empty(z.shape)
        with target.precision():
            for start in range(0, len(z), many):
                part = z[start : start + many]
                padded = np.concatenate([part, np.broadcast_to(part[:1], (many - len(part), target.dim))])
                value, slope = ask(many, padded.astype(target.dtype))
                values[start : start + len(part)] = np.asarray(value)[: len(part)]
                slopes[start : start + len(part)] = np.asarray(slope)[: len(part)]
        return values, slopes

    return gradients
