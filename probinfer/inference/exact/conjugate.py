"""Recognising a posterior of a known form: a log density that is linear in sufficient statistics of conjugate laws.

On the unconstrained space z, Jacobian included, a normal posterior is linear in z_i and z_i z_j, a gamma one in z and
exp(z), an inverse gamma one in z and exp(-z), a beta one in log θ and log(1 - θ), a Dirichlet one in all log θ_k. So
the posterior is a product of such laws exactly if a linear fit to the log density leaves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from scipy.special import betaln, gammaln, log_expit

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.modes import find_modes
from probinfer.inference.montecarlo.space import space_of_target
from probinfer.model.target import Target

_CHEAP_DIM, _CHEAP_DATA = 12, 100_000  # parameters and numbers of data up to which a look costs milliseconds
_MOST = 3000  # statistics: 75 real parameters have as many
_SPREAD = 1.5  # of the points, in standard deviations at the mode
_REMAINDER = 1e-7  # of the log density's range at the points, that a fit may leave: rounding, but no law's third moment
_ABSENT = 1e-5  # coefficient, next to the other, at which a statistic counts as absent


class Part(NamedTuple):
    """One law of the product: what it is called, its draws (generator, n) -> z (n, size), log of its integral."""

    name: str
    where: np.ndarray
    draw: Callable[[np.random.Generator, int], np.ndarray]
    log_integral: float


@dataclass(frozen=True)
class Solution:
    """A posterior as a product of known laws, and log p(data)."""

    parts: tuple[Part, ...]
    log_evidence: float

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Independent draws (n, d), unconstrained."""
        z = np.empty((n, sum(len(part.where) for part in self.parts)))
        for part in self.parts:
            z[:, part.where] = part.draw(generator, n)
        return z


class _Block(NamedTuple):
    """Coordinates of z and the statistics (n, k) of them; `solve` makes the law from their coefficients (k,)."""

    where: np.ndarray
    statistics: Callable[[np.ndarray], np.ndarray]
    solve: Callable[[np.ndarray], Part]


def could_be_conjugate(target: Target) -> bool:
    """Whether `solve` is worth trying, at little cost: for few parameters and data, a linear fit of all the statistics
    to the log density at random points around zero leaves nothing. Needs no mode and no other program than NUTS does.
    """
    if target.dim > _CHEAP_DIM or sum(array.size for array in target.bound.arrays.values()) > _CHEAP_DATA:
        return False
    try:
        places = _places(target)
    except MethodError:
        return False
    point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
    program = target.compile("density", target.value_and_grad, point, target.inputs)
    generator = np.random.default_rng(0)
    normal = _normal(places["real"], np.zeros(target.dim), np.eye(target.dim))
    positive = [_undecided(j, 0.0) for j in places["positive"]]
    blocks = [*normal, *_betas(places["unit"]), *_dirichlets(places), *positive]
    count = sum(block.statistics(np.zeros((1, target.dim))).shape[1] for block in blocks)
    z = np.clip(generator.standard_normal((2 * count + 20, target.dim)), -3, 3)
    with target.precision():
        values = np.array([float(program(one.astype(target.dtype), target.inputs)[0]) for one in z])
    if not np.isfinite(values).all():
        return False
    fitted = slice(0, count + 15)
    constant, by_block = _fit(blocks, z[fitted], values[fitted])
    predicted = constant + sum(block.statistics(z) @ part for block, part in zip(blocks, by_block, strict=True))
    return bool(np.max(np.abs(predicted - values)) <= _REMAINDER * max(1.0, np.ptp(values)))


def solve(target: Target, generator: np.random.Generator) -> Solution:
    """The posterior in closed form. MethodError if it is not a product of the laws known here, or improper."""
    places = _places(target)
    reals = len(places["real"])
    if reals * (reals + 3) // 2 + 3 * target.dim > _MOST:
        raise MethodError(
            f"Exact: {reals} real parameters are too many for a closed form to be found; about 75 are possible. "
            "Use pi.NUTS()."
        )
    mode = max(find_modes(target, generator), key=lambda mode: mode.mass)
    log_density = space_of_target(target).log_density

    def at_points(n: int) -> tuple[np.ndarray, np.ndarray]:
        z = mode.position + _SPREAD * np.clip(generator.standard_normal((n, target.dim)), -3, 3) @ mode.root.T
        return z, log_density(z)

    fixed = [*_normal(places["real"], mode.position, mode.root), *_betas(places["unit"]), *_dirichlets(places)]
    blocks = [*fixed, *(_undecided(j, mode.position[j]) for j in places["positive"])]
    count = 2 * sum(block.statistics(mode.position[None]).shape[1] for block in blocks) + 50
    z, values = at_points(count)
    if places["positive"]:
        _, by_block = _fit(blocks, z, values)
        found = zip(places["positive"], by_block[len(fixed) :], strict=True)
        blocks = [*fixed, *(_gamma(j, mode.position[j], sign=_sign(coefficients)) for j, coefficients in found)]
    constant, by_block = _fit(blocks, z, values)
    fresh, exact = at_points(count)
    fitted = constant + sum(block.statistics(fresh) @ part for block, part in zip(blocks, by_block, strict=True))
    remainder = np.max(np.abs(fitted - exact)) if np.isfinite(exact).all() else np.inf
    if not remainder <= _REMAINDER * max(1.0, np.ptp(exact)):
        raise MethodError(
            "Exact: the posterior is no product of normal, gamma, inverse gamma, beta and Dirichlet laws: the nearest "
            f"differs from its log density by {remainder:.2g}. Use pi.NUTS()."
        )
    parts = tuple(block.solve(part) for block, part in zip(blocks, by_block, strict=True))
    return Solution(parts, float(constant + sum(part.log_integral for part in parts)))


def _fit(blocks: list[_Block], z: np.ndarray, values: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Least squares: the constant, and the coefficients of each block's statistics."""
    columns = [block.statistics(z) for block in blocks]
    table = np.concatenate([np.ones((len(z), 1)), *columns], axis=1)
    if not np.isfinite(values).all():
        raise MethodError("Exact: the log density is not finite around its mode. Use pi.NUTS(), whose report says why.")
    centre = np.concatenate([[0.0], table[:, 1:].mean(axis=0)])
    scale = np.concatenate([[1.0], np.maximum(table[:, 1:].std(axis=0), 1e-300)])
    solution = np.linalg.lstsq((table - centre) / scale, values, rcond=None)[0] / scale
    constant = float(solution[0] - centre @ solution)
    ends = np.cumsum([1, *(column.shape[1] for column in columns)])
    return constant, [solution[a:b] for a, b in pairwise(ends)]


def _places(target: Target) -> dict[str, Any]:
    """Coordinates of z by the kind of their support; simplices as a list of index arrays."""
    supports: dict[str, Any] = {}

    def run(inputs: Any) -> list:
        trace = target.bound.simulate({}, inputs)
        supports.update({site.name: trace[site.name]["fn"].support for site in target.latents})
        return []

    with target.precision():
        jax.eval_shape(run, target.bound.arrays)
        sites = {name: np.asarray(at) for name, at in target.split(jnp.arange(target.dim)).items()}
    found: dict[str, list] = {"real": [], "positive": [], "unit": [], "simplex": []}
    kinds = (("real", constraints.real), ("positive", constraints.positive), ("unit", constraints.unit_interval))
    for name, at in sites.items():
        support = supports[name]
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if support is constraints.simplex:
            found["simplex"] += list(at.reshape(-1, at.shape[-1]))
        elif kind := next((kind for kind, known in kinds if support is known), None):
            found[kind] += list(at.ravel())
        else:
            raise MethodError(
                f"Exact: site {name} has the support {support}; closed forms are known for real numbers, positive "
                "ones, those between 0 and 1 (as of Beta), and simplices. Use pi.NUTS()."
            )
    return found


def _normal(where: list[int], mode: np.ndarray, root: np.ndarray) -> list[_Block]:
    if not where:
        return []
    at = np.array(where)
    centre, scale = mode[at], np.linalg.cholesky((root @ root.T)[np.ix_(at, at)])
    size = len(at)
    rows, columns = np.triu_indices(size)

    def statistics(z: np.ndarray) -> np.ndarray:
        w = np.linalg.solve(scale, (z[:, at] - centre).T).T
        return np.concatenate([w, w[:, rows] * w[:, columns]], axis=1)

    def solve(coefficients: np.ndarray) -> Part:
        upper = np.zeros((size, size))
        upper[rows, columns] = coefficients[size:]
        values, vectors = np.linalg.eigh(-(upper + upper.T))
        if not values.min() > 0:
            raise _improper("a normal law")
        mean = vectors @ (vectors.T @ coefficients[:size] / values)
        integral = coefficients[:size] @ mean / 2 + size / 2 * np.log(2 * np.pi) - np.log(values).sum() / 2
        spread = vectors / np.sqrt(values)
        return Part(
            f"normal in {size} dimension{'s' if size > 1 else ''}",
            at,
            lambda generator, n: centre + (mean + generator.standard_normal((n, size)) @ spread.T) @ scale.T,
            float(integral + np.log(np.diag(scale)).sum()),
        )

    return [_Block(at, statistics, solve)]


def _undecided(j: int, mode: float) -> _Block:
    """A positive parameter, before it is known whether it is of a gamma or an inverse gamma law."""
    at = np.array([j])
    return _Block(
        at,
        lambda z: np.stack([z[:, j] - mode, np.exp(z[:, j] - mode), np.exp(mode - z[:, j])], axis=1),
        lambda coefficients: Part("", at, lambda generator, n: np.empty((n, 1)), 0.0),
    )


def _sign(coefficients: np.ndarray) -> int:
    """Of z in the exponential: 1 for a gamma law, -1 for an inverse gamma law, from an undecided block's fit."""
    up, down = np.abs(coefficients[1:])
    if min(up, down) > _ABSENT * (1 + max(up, down)):
        raise MethodError(
            "Exact: the posterior of a positive parameter is neither gamma nor inverse gamma: its log density has "
            "terms in θ and in 1 / θ, or others. Use pi.NUTS()."
        )
    return 1 if up >= down else -1


def _gamma(j: int, mode: float, *, sign: int) -> _Block:
    """exp(α s z - β exp(s z)): gamma for s = 1, inverse gamma for s = -1."""
    at = np.array([j])
    name = "gamma" if sign > 0 else "inverse gamma"

    def solve(coefficients: np.ndarray) -> Part:
        shape, rate = coefficients[0], -coefficients[1]
        if not (shape > 0 and rate > 0):
            raise _improper(f"a law of the {name} form")
        # about the mode: exp(shape u - rate exp(u)) with u = s (z - mode)
        return Part(
            name,
            at,
            lambda generator, n: mode + sign * (_log_gamma(generator, shape, n) - np.log(rate))[:, None],
            float(gammaln(shape) - shape * np.log(rate)),
        )

    return _Block(at, lambda z: np.stack([u := sign * (z[:, j] - mode), np.exp(u)], axis=1), solve)


def _betas(where: list[int]) -> list[_Block]:
    def block(j: int) -> _Block:
        at = np.array([j])

        def solve(coefficients: np.ndarray) -> Part:
            a, b = coefficients
            if not (a > 0 and b > 0):
                raise _improper("a law of the beta form")
            return Part(
                "beta",
                at,
                lambda generator, n: (_log_gamma(generator, a, n) - _log_gamma(generator, b, n))[:, None],
                float(betaln(a, b)),
            )

        return _Block(at, lambda z: np.stack([log_expit(z[:, j]), log_expit(-z[:, j])], axis=1), solve)

    return [block(int(j)) for j in where]


def _dirichlets(places: dict[str, Any]) -> list[_Block]:
    transform = biject_to(constraints.simplex)

    def block(at: np.ndarray) -> _Block:
        def statistics(z: np.ndarray) -> np.ndarray:
            with jax.enable_x64(True):
                return np.log(np.asarray(transform(jnp.asarray(z[:, at]))))

        def solve(alpha: np.ndarray) -> Part:
            if not (alpha > 0).all():
                raise _improper("a law of the Dirichlet form")

            def draw(generator: np.random.Generator, n: int) -> np.ndarray:
                logs = np.stack([_log_gamma(generator, a, n) for a in alpha], axis=1)
                weights = np.exp(logs - logs.max(axis=1, keepdims=True))
                with jax.enable_x64(True):
                    return np.asarray(transform._inverse(jnp.asarray(weights / weights.sum(axis=1, keepdims=True))))

            return Part("Dirichlet", at, draw, float(gammaln(alpha).sum() - gammaln(alpha.sum())))

        return _Block(at, statistics, solve)

    return [block(at) for at in places["simplex"]]


def _log_gamma(generator: np.random.Generator, shape: float, n: int) -> np.ndarray:
    """Logarithms of gamma numbers; of small shapes the numbers themselves would underflow."""
    return np.log(generator.gamma(shape + 1, size=n)) + np.log1p(-generator.random(n)) / shape


def _improper(what: str) -> MethodError:
    return MethodError(
        f"Exact: the posterior has the form of {what}, but no finite integral: it is improper. Give every parameter a "
        "proper prior."
    )
