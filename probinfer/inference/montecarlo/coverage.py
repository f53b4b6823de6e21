"""Whether a given proposal has mass where the target has: what its own draws cannot show."""

from collections.abc import Callable, Mapping

import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.average import Average, average_of
from probinfer.inference.montecarlo.integrand import Integrand
from probinfer.inference.montecarlo.law import Law
from probinfer.inference.montecarlo.student import StudentMixture

_WIDTH = 3.0  # of the law of the points that look around, in widths of the proposal
_LOOKED = 2048  # points
_TOLERATED = 0.01  # share of the posterior's mass that a proposal may leave out, as of other modes
_APART = 5.0  # standard errors between two estimates that chance does not explain
_SKEWED = 0.3  # skewness of a mean above which its standard error says little
LOOKED_AT = 2000  # draws of a distribution itself that a proposal for it is compared with


def check_covered(
    z: np.ndarray,
    log_density: Callable[[np.ndarray], np.ndarray],
    inside: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    generator: np.random.Generator,
    owner: str,
) -> None:
    """Look around a proposal's draws z (n, d) for mass of the target outside of the proposal's support.

    inside: for points (n, d), whether each site is in the support of its proposal (n,).

    Points from a Student's t three times as wide, weighted with the target's density, tell the share of its mass that
    is outside. Raises MethodError above 1%.
    """
    mean, covariance = z.mean(axis=0), np.atleast_2d(np.cov(z.T))
    root = np.linalg.cholesky(covariance + np.diag(1e-6 * np.diag(covariance) + 1e-12))
    wide = StudentMixture(np.ones(1), mean[None], _WIDTH * root[None])
    points = wide.draw(generator, _LOOKED)
    sites = inside(points)
    outside = ~np.all(list(sites.values()), axis=0)
    if not outside.any():
        return
    log_weights = log_density(points) - wide.log_density(points)
    if not np.isfinite(log_weights).any():
        return
    weights = np.exp(log_weights - log_weights.max())
    share = float(weights[outside].sum() / weights.sum())
    if share > _TOLERATED:
        lost = {name: float(weights[~within].sum()) for name, within in sites.items()}
        blamed = [name for name, weight in lost.items() if weight > _TOLERATED * weights.sum()]
        raise MethodError(
            f"{owner}: about {share:.0%} of the posterior's mass is where the proposal for {', '.join(blamed)} has "
            "none, and its draws would not show it. Give a proposal with mass wherever the posterior has, or leave "
            f"proposal= out of pi.{owner}."
        )


def left_out(
    law: Law, proposal: Law, f: Integrand, estimate: Average, n: int, generator: np.random.Generator
) -> Average:
    """The estimate of E f with what n draws x of the law itself say against it.

    Where q(x) = 0 and f(x) is not, a part of the expectation is left out. Where a plain average of f is farther from
    the estimate than the errors of both explain, the proposal hardly goes where the law has its mass.
    """
    x = law.draw(generator, n)
    with np.errstate(all="ignore"):
        values = f(x)
        uncovered = (proposal.log_density(x) == -np.inf) & (law.log_density(x) > -np.inf)
    values = np.where(np.isfinite(values), values, 0.0)
    missed = np.where(uncovered[:, None], np.abs(values), 0.0)
    count = int(np.count_nonzero(missed.any(axis=1)))
    if count:
        text = f"The proposal has no mass at {count} of {n} draws of the distribution where f is not zero"
        if np.any(missed.mean(axis=0) > estimate.mcse):
            return estimate._replace(faults=(text,))
        return estimate._replace(notes=(text,))
    plain = average_of(values)
    with np.errstate(all="ignore"):
        apart = np.abs(estimate.value - plain.value) / np.hypot(estimate.mcse, plain.mcse)
    apart = np.where(np.any(values != 0, axis=0) & (plain.skewness <= _SKEWED), apart, 0.0)
    worst = int(np.argmax(apart))
    if not apart[worst] > _APART:
        return estimate
    return estimate._replace(
        faults=(
            f"{n} draws of the distribution itself give {plain.value[worst]:.4g} ± {plain.mcse[worst]:.2g}, the "
            f"weighted ones {estimate.value[worst]:.4g} ± {estimate.mcse[worst]:.2g}",
        )
    )


def cut_off(law: Law, proposal: Law, f: Integrand, estimate: Average, generator: np.random.Generator) -> Average:
    """The estimate of E f by draws that follow the law where q(x) > 0, with what draws x of the law itself say of it.

    Where q(x) = 0 the law is cut off, and the rest counts for more, so that it matters even where f(x) = 0.
    """
    x = law.draw(generator, LOOKED_AT)
    with np.errstate(all="ignore"):
        values = f(x)
        uncovered = (proposal.log_density(x) == -np.inf) & (law.log_density(x) > -np.inf)
    count = int(uncovered.sum())
    if not count:
        return estimate
    text = f"The proposal has no mass at {count} of {LOOKED_AT} draws of the distribution: it is cut off there"
    values = np.where(np.isfinite(values), values, 0.0)
    apart = np.abs(values.mean(axis=0) - values[~uncovered].mean(axis=0)) if count < LOOKED_AT else np.inf
    if count > _TOLERATED * LOOKED_AT or np.any(apart > estimate.mcse):
        return estimate._replace(faults=(*estimate.faults, text))
    return estimate._replace(notes=(*estimate.notes, text))
