"""The law of an outcome in units of its own, when the model has it transformed. Imports jax only.

    Y = back(Z),  Z the model's:   F_Y(y) = F_Z(forward(y)),   f_Y(y) = f_Z(forward(y)) forward'(y),   q_Y = back(q_Z)

All exact, for each posterior draw and so for their mixture. Moments are those of the law where they have a formula (of
linear maps; of the logarithm the moment generating function), else integrals, by the trapezoidal rule after a change of
variable that makes the integrand fall off doubly exponentially (Takahasi & Mori 1974), with an error near rounding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import gammaln

from probinfer.errors import ModelError
from probinfer.model.pipeline.change import Change, Curve
from probinfer.predict.family import Family, Support
from probinfer.predict.program import LOG_DENSITY, MOMENTS, SAMPLE

_SMOOTH = 12.0  # spreads between a law's centre and a kink, from which on the kink does not count
_STEP = 1.0 / 8.0
_REACH = {"Normal": 12.0, "Logistic": 80.0, "Gumbel": 80.0, "StudentT": 1e40}  # spreads from the centre
_TO_KINK = 45.0  # softplus(-45 + 12) is nothing
_HERMITE = np.polynomial.hermite_e.hermegauss(32)


def changed(family: Family, change: Change | None) -> Family:
    """The family of Y = back(Z), Z of `family`; itself without a change. Raises ModelError for laws that are not of all
    real numbers, and for those without a mean that can be computed."""
    if change is None:
        return family
    if family.support is not Support.REAL:
        raise ModelError(
            f"The outcome is transformed, and its law {family.name} is one of {family.support.value}. A transform goes "
            "with a law of all real numbers (Normal, StudentT, …); leave the outcome as it is."
        )
    if family.traced:
        raise ModelError(f"The outcome is transformed, and moments of a transformed {family.name} are not known here.")
    curved = change.curve in (Curve.BOX_COX, Curve.YEO_JOHNSON)
    if curved and family.name not in _REACH:
        raise ModelError(
            f"The outcome has a power transform, and its law is {family.name}; its mean is known here for "
            f"{', '.join(_REACH)}. Use one of these, or pi.Log()."
        )
    moments = _integrals if curved else _formulas

    def cdf(y: Array, *parameters: Array) -> Array:
        inside = y >= change.bottom if change.curve is Curve.BOX_COX else y > change.bottom
        return jnp.where(inside, family.cdf(change.forward(y, jnp), *parameters), 0.0)

    def log_density(y: Array, *parameters: Array) -> Array:
        inside = y > change.bottom
        safe = jnp.where(inside, y, change.bottom + change.before.scale if math.isfinite(change.bottom) else 0.0)
        value = family.log_density(change.forward(safe, jnp), *parameters) + change.log_slope(safe, jnp)
        return jnp.where(inside, value, -jnp.inf)

    return replace(
        family,
        name=f"{family.name} of {change.describe('y')}",
        support=Support.POSITIVE if change.positive else Support.REAL,
        mean=lambda *parameters: moments(family, change, parameters)[0],
        variance=lambda *parameters: moments(family, change, parameters)[1],
        cdf=cdf,
        log_density=log_density,
        sample=lambda key, *parameters: change.back(family.sample(key, *parameters), jnp),
        normal=False,
        of=family,
        change=change,
    )


# moments -------------------------------------------------------------------------------------------------------------


def _formulas(family: Family, change: Change, parameters: tuple[Array, ...]) -> tuple[Array, Array]:
    """Mean and variance where Y is linear in Z or in exp Z."""
    before, after = change.before, change.after
    if change.curve is Curve.NONE:
        scale = before.scale * after.scale
        mean = before.shift + before.scale * after.shift + scale * family.mean(*parameters)
        return mean, scale * scale * family.variance(*parameters)
    first, ratio = _EXPONENTIAL.get(family.name, _no_exponential)(after.scale, *parameters)
    mean = before.scale * jnp.exp(after.shift + first)
    return before.shift + mean, jnp.where(jnp.isinf(mean), jnp.nan, mean * mean * jnp.expm1(ratio))


def _no_exponential(t: float, *parameters: Array) -> tuple[Array, Array]:
    """Of a law with heavier than exponential tails."""
    endless = jnp.full(jnp.broadcast_shapes(*(jnp.shape(p) for p in parameters)), jnp.inf)
    return endless, endless


def _exponential_normal(t: float, loc: Array, scale: Array) -> tuple[Array, Array]:
    """log E exp(t Z), and log E exp(2 t Z) less twice that; inf where they are infinite."""
    return t * loc + 0.5 * (t * scale) ** 2, (t * scale) ** 2 + 0.0 * loc


def _exponential_of(log_standard: Callable[[Array], Array]) -> Callable[..., tuple[Array, Array]]:
    """From log E exp(s X) of the standard law, finite for 0 <= s < 1."""

    def both(t: float, loc: Array, scale: Array) -> tuple[Array, Array]:
        def at(s: Array) -> Array:
            return jnp.where(s < 1.0, log_standard(jnp.minimum(s, 1.0 - 1e-16)), jnp.inf)

        once, twice = at(t * scale), at(2.0 * t * scale)
        return t * loc + once, jnp.where(jnp.isinf(twice), jnp.inf, twice - 2.0 * once) + 0.0 * loc

    return both


_EXPONENTIAL: dict[str, Callable[..., tuple[Array, Array]]] = {
    "Normal": _exponential_normal,
    "Laplace": _exponential_of(lambda s: -jnp.log1p(-s * s)),
    "Logistic": _exponential_of(lambda s: gammaln(1.0 - s) + gammaln(1.0 + s)),
    "Gumbel": _exponential_of(lambda s: gammaln(1.0 - s)),
}


def _integrals(family: Family, change: Change, parameters: tuple[Array, ...]) -> tuple[Array, Array]:
    """Mean and variance of a power of Z, by quadrature on both sides of the kink."""
    parameters = tuple(jnp.broadcast_arrays(*parameters))
    centre, spread = family.locate(*parameters)
    kink = change.kink
    assert kink is not None
    middle = change.back(centre, jnp)  # y is integrated as a difference from it, so that nothing cancels

    def apart(z: Array) -> Array:
        return change.back(z, jnp) - middle

    def across() -> tuple[Array, Array]:
        def each(total: tuple, node: tuple) -> tuple[tuple, None]:
            value = apart(centre + spread * node[0])
            return (total[0] + node[1] * value, total[1] + node[1] * value * value), None

        nodes = jnp.asarray(_HERMITE[0]), jnp.asarray(_HERMITE[1] / _HERMITE[1].sum())
        (first, second), _ = lax.scan(each, (jnp.zeros_like(centre), jnp.zeros_like(centre)), nodes)
        return first, second

    def sides() -> tuple[Array, Array]:
        above = _side(family, parameters, apart, kink, centre, spread, 1.0)
        if change.curve is Curve.YEO_JOHNSON:
            below = _side(family, parameters, apart, kink, centre, spread, -1.0)
        else:  # a point mass where the power ends
            mass, end = family.cdf(kink, *parameters), change.before.shift - middle
            below = mass * end, mass * end * end
        return above[0] + below[0], above[1] + below[1]

    if family.name == "Normal":
        first, second = lax.cond(jnp.min(jnp.abs(kink - centre) / spread) > _SMOOTH, across, sides)
    else:
        first, second = sides()
    mean, variance = middle + first, second - first * first
    has_mean, has_variance = _existing(family, change, parameters, 1.0), _existing(family, change, parameters, 2.0)
    both = has_mean[0] & has_mean[1]
    lost = jnp.where(has_mean[1], jnp.inf, jnp.where(has_mean[0], -jnp.inf, jnp.nan))
    mean = jnp.where(both, mean, lost)
    return mean, jnp.where(has_variance[0] & has_variance[1], variance, jnp.where(both, jnp.inf, jnp.nan))


def _side(
    family: Family,
    parameters: tuple[Array, ...],
    apart: Callable[[Array], Array],
    kink: float,
    centre: Array,
    spread: Array,
    sign: float,
) -> tuple[Array, Array]:
    """The integrals of y and y^2 times the density, from the kink upward (sign 1) or downward (-1).

    z = kink + sign spread softplus(x + k), x = sinh t, with k spreads from kink to centre: near the centre z is linear
    in x, at the kink x is at -infinity.
    """
    offset = jnp.maximum(sign * (centre - kink) / spread, 0.0)
    count, to_kink = (math.ceil(math.asinh(reach) / _STEP) for reach in (_REACH[family.name], _TO_KINK))

    def each(total: tuple, number: Array) -> tuple[tuple, None]:
        t = number * _STEP
        x = jnp.sinh(t) + offset
        z = kink + sign * spread * jax.nn.softplus(x)
        weight = jnp.exp(family.log_density(z, *parameters)) * jax.nn.sigmoid(x) * jnp.cosh(t) * spread * _STEP
        value = apart(z)
        terms = [jnp.where(weight > 0.0, weight * value**power, 0.0) for power in (1, 2)]
        return (total[0] + terms[0], total[1] + terms[1]), None

    start = (jnp.zeros_like(centre), jnp.zeros_like(centre))
    return lax.scan(each, start, jnp.arange(-to_kink, count + 1) * 1.0)[0]


def _existing(family: Family, change: Change, parameters: tuple[Array, ...], order: float) -> tuple[Array, Array]:
    """Whether the moment of this order is finite above and below: y grows as a power of z, or exponentially."""
    always = jnp.ones(parameters[0].shape, bool)
    found = []
    for side, power in (("above", change.lmbda), ("below", 2.0 - change.lmbda)):
        if side == "below" and change.curve is Curve.BOX_COX:
            found.append(always)  # y ends there
        elif family.name == "StudentT":
            found.append(parameters[0] > order / power if power > 0.0 else ~always)
        elif power > 0.0 or family.name == "Normal" or (family.name == "Gumbel" and side == "below"):
            found.append(always)
        else:
            found.append(order * change.after.scale * parameters[1] < 1.0)
    return found[0], found[1]


# laws without a closed form ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangedProgram:
    """An exported program whose outcome is transformed; called and stored like the one it wraps."""

    exported: jax.export.Exported
    role: str
    change: Change

    def call(self, draws: Any, fixed: Any, rows: Any, *more: Array) -> Any:
        """As the program is called; outcomes in and out are in units of their own."""
        change = self.change
        if self.role == SAMPLE:
            return change.back(self.exported.call(draws, fixed, rows, *more), jnp)
        if self.role == MOMENTS:
            mean, variance = self.exported.call(draws, fixed, rows)
            scale = change.before.scale * change.after.scale
            return change.before.shift + change.before.scale * change.after.shift + scale * mean, scale**2 * variance
        (y,) = more
        inside = (y > change.bottom).reshape(y.shape[0], -1).all(axis=1)
        safe = jnp.where(y > change.bottom, y, change.bottom + change.before.scale) if change.bottom > -math.inf else y
        slope = change.log_slope(safe, jnp).reshape(y.shape[0], -1).sum(axis=1)
        value = self.exported.call(draws, fixed, rows, change.forward(safe, jnp)) + slope[:, None]
        return jnp.where(inside[:, None], value, -jnp.inf)

    def serialize(self) -> bytearray:
        """The program without the change."""
        return self.exported.serialize()


def changed_programs(programs: Mapping[str, Any], change: Change | None) -> dict[str, Any]:
    """Programs of a law without a closed form, in the outcome's units. Moments are kept where the change is linear."""
    if change is None:
        return dict(programs)
    kept = {role: program for role, program in programs.items() if role != MOMENTS or change.curve is Curve.NONE}
    wrapped = (SAMPLE, MOMENTS, LOG_DENSITY)
    return {role: ChangedProgram(p, role, change) if role in wrapped else p for role, p in kept.items()}
