"""What is sampled, as a density on R^d: of a distribution, mapped to the real line, or of a target."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from numpyro import distributions as dist
from numpyro.distributions.transforms import biject_to

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.law import Law
from probinfer.inference.undefined import Undefined
from probinfer.model.target import Target

_CHUNK = 1024  # points of a call of the compiled log density


class Space(NamedTuple):
    """A density on R^d, where every point z has named values x(z).

    log_density: (n, d) -> (n,), with the Jacobian of x(z). points: (n, d) -> what f takes. inverse: points to (n, d).
    """

    dim: int
    log_density: Callable[[np.ndarray], np.ndarray]
    points: Callable[[np.ndarray], Any]
    inverse: Callable[[Any], np.ndarray] | None = None


def space_of_law(law: Law) -> Space:
    """The density of a continuous distribution. MethodError for others, or where the support is not known."""
    name = type(law.origin).__name__
    if law.discrete:
        raise MethodError(
            f"{name} is discrete: a proposal cannot be adapted to it. Give one, such as "
            "pi.Importance(proposal=dist.Poisson(20)), or use pi.MonteCarlo()."
        )
    if isinstance(law.origin, dist.Distribution):
        return _numpyro_space(law)
    if isinstance(law.origin, scipy.stats.distributions.rv_frozen):
        return _univariate_space(law)
    if isinstance(law.origin, type(scipy.stats.multivariate_normal([0.0])) | type(scipy.stats.multivariate_t([0.0]))):
        size = law.dim
        return Space(
            size,
            lambda z: law.log_density(z.reshape(len(z), *law.shape)),
            lambda z: z.reshape(len(z), *law.shape),
            lambda x: np.asarray(x).reshape(len(x), size),
        )
    raise MethodError(
        f"The support of {name} is not known here, so that a proposal cannot be adapted to it. Give one, such as "
        "pi.Importance(proposal=...), or write the distribution in NumPyro."
    )


def _numpyro_space(law: Law) -> Space:
    origin = law.origin
    transform = biject_to(origin.support)
    with jax.enable_x64(True):
        inner = tuple(transform.inverse_shape(law.shape))

    def at(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = z.reshape(inner)
        x = transform(z)
        return x, jnp.sum(origin.log_prob(x)) + jnp.sum(transform.log_abs_det_jacobian(z, x))

    both = jax.jit(jax.vmap(at))
    back = jax.jit(jax.vmap(lambda x: transform._inverse(x).ravel()))

    def points(z: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(both(z)[0], float)

    def log_density(z: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return _no_nan(np.asarray(both(z)[1], float))

    def inverse(x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(back(x), float)

    return Space(int(np.prod(inner, dtype=int)), log_density, points, inverse)


def _univariate_space(law: Law) -> Space:
    low, high = (np.broadcast_to(np.asarray(end, float), law.shape).ravel() for end in law.origin.support())
    lower, upper = np.isfinite(low), np.isfinite(high)
    both, down, up = lower & upper, lower & ~upper, upper & ~lower
    floor, roof = np.where(lower, low, 0.0), np.where(upper, high, 0.0)

    def points(z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            x = np.where(both, floor + (roof - floor) * scipy.special.expit(z), z)
            x = np.where(down, floor + np.exp(z), x)
            x = np.where(up, roof - np.exp(z), x)
        return x.reshape(len(z), *law.shape)

    def log_density(z: np.ndarray) -> np.ndarray:
        inside = np.log(np.where(both, roof - floor, 1.0)) - np.logaddexp(0, z) - np.logaddexp(0, -z)
        jacobian = np.where(both, inside, np.where(down | up, z, 0.0)).sum(axis=1)
        with np.errstate(all="ignore"):
            return _no_nan(law.log_density(points(z)) + jacobian)

    def inverse(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, float).reshape(len(x), -1)
        with np.errstate(all="ignore"):
            z = np.where(both, scipy.special.logit((x - floor) / np.where(both, roof - floor, 1.0)), x)
            z = np.where(down, np.log(x - floor), z)
            return np.where(up, np.log(roof - x), z)

    return Space(law.dim, log_density, points, inverse)


def space_of_target(target: Target, undefined: Undefined | None = None) -> Space:
    """The unnormalised density of a target; points are dicts of its sites. `undefined` counts where it is no number."""
    program = compiled(target, "log density", target.log_density, _CHUNK)

    def log_density(z: np.ndarray) -> np.ndarray:
        out = np.empty(len(z))
        with target.precision():
            for start in range(0, len(z), _CHUNK):
                part = z[start : start + _CHUNK]
                padded = np.concatenate([part, np.broadcast_to(part[:1], (_CHUNK - len(part), target.dim))])
                values = program(padded.astype(target.dtype), target.inputs)
                out[start : start + len(part)] = np.asarray(values)[: len(part)]
        return _no_nan(out) if undefined is None else undefined.without(z, out)

    return Space(target.dim, log_density, target.constrain)


def compiled(target: Target, name: str, function: Callable, many: int | None = None) -> Any:
    """A function of (z, inputs), over `many` points at a time or at one; kept for the life of the process."""
    shape = (target.dim,) if many is None else (many, target.dim)
    mapped = function if many is None else jax.vmap(function, in_axes=(0, None))
    return target.compile(f"{name} {many}", mapped, jax.ShapeDtypeStruct(shape, target.dtype), target.inputs)


def _no_nan(values: np.ndarray) -> np.ndarray:
    """A density that is not a number has no mass."""
    return np.where(np.isnan(values) | (values == np.inf), -np.inf, values)
