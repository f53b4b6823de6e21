"""Conjugate laws of one site given all others, known by the gradient of their log density.

Every family here has a log density that is linear in a few statistics of x, so the gradient at one or two points tells
its parameters, and the gradient anywhere else must then agree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

_DENSE = 128  # entries up to which the whole matrix of second derivatives is used

Gradient = Callable[[jax.Array], jax.Array]


class Family(NamedTuple):
    """fit: (gradient, x) -> parameters. gradient: (parameters, x) -> gradient there. sample: (parameters, key, shape)
    -> x. point: (generator, shape) -> a value anywhere in the support. positive: which of the parameters must be."""

    name: str
    fit: Callable[[Gradient, jax.Array], tuple]
    gradient: Callable[[tuple, jax.Array], jax.Array]
    sample: Callable[[tuple, jax.Array, tuple[int, ...]], jax.Array]
    point: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    positive: tuple[int, ...]


def families(support: Any, size: int) -> list[Family]:
    """Those that may be the law of a site with this support and so many entries, simplest first."""
    support = getattr(support, "base_constraint", support)  # of several entries declared as one event
    if support is constraints.real:
        return [_NORMALS, *([_NORMAL] if 1 < size <= _DENSE else [])]
    if support is constraints.positive:
        return [_GAMMA, _INVERSE_GAMMA]
    if support is constraints.unit_interval:
        return [_BETA]
    if support is constraints.simplex:
        return [_DIRICHLET]
    return []


def disagreement(family: Family, gradient: Gradient, points: jax.Array) -> jax.Array:
    """How far the gradient is from that of the law found from the first of the points, at the others (n, ...), in
    relation to its size; infinity where the law is not proper."""
    parameters = family.fit(gradient, points[0])
    worst = jnp.zeros(())
    for point in points[1:]:
        found = gradient(point)
        apart = jnp.max(jnp.abs(family.gradient(parameters, point) - found)) / (1 + jnp.max(jnp.abs(found)))
        worst = jnp.maximum(worst, jnp.where(jnp.isnan(apart), jnp.inf, apart))
    proper = jnp.array([jnp.all(parameters[i] > 0) for i in family.positive])
    finite = jnp.array([jnp.all(jnp.isfinite(each)) for each in parameters])
    return jnp.where(jnp.all(proper) & jnp.all(finite), worst, jnp.inf)


def _fit_normals(gradient: Gradient, x: jax.Array) -> tuple:
    g = gradient(x)
    precision = g - gradient(x + 1)
    return x + g / precision, precision


def _fit_normal(gradient: Gradient, x: jax.Array) -> tuple:
    def flat(y: jax.Array) -> jax.Array:
        return gradient(y.reshape(x.shape)).ravel()

    precision = -jax.jacfwd(flat)(x.ravel())
    precision = (precision + precision.T) / 2
    root = jnp.linalg.cholesky(precision)
    step = jax.scipy.linalg.cho_solve((root, True), flat(x.ravel()))
    return x.ravel() + step, root


def _sample_normal(parameters: tuple, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    mean, root = parameters
    white = jax.random.normal(key, mean.shape, mean.dtype)
    return (mean + jax.scipy.linalg.solve_triangular(root, white, lower=True, trans=1)).reshape(shape)


def _normal_gradient(parameters: tuple, x: jax.Array) -> jax.Array:
    mean, root = parameters
    return -(root @ (root.T @ (x.ravel() - mean))).reshape(x.shape)


def _fit_gamma(gradient: Gradient, x: jax.Array) -> tuple:
    near, far = gradient(x), gradient(2 * x)
    power = 2 * x * (near - far)
    return power + 1, power / x - near


def _fit_inverse_gamma(gradient: Gradient, x: jax.Array) -> tuple:
    near, far = gradient(x), gradient(2 * x)
    scale = 2 * x**2 * (near - 2 * far)
    return scale / x - x * near - 1, scale


def _fit_beta(gradient: Gradient, x: jax.Array) -> tuple:
    low, high = gradient(jnp.full_like(x, 1 / 3)), gradient(jnp.full_like(x, 2 / 3))
    return (2 * low - high) / 4.5 + 1, (low - 2 * high) / 4.5 + 1


def _fit_dirichlet(gradient: Gradient, x: jax.Array) -> tuple:
    """x_k dl/dx_k = α_k - 1 + c x_k; c is what the density says off the simplex, where nothing ever is."""
    count = x.shape[-1]
    even = jnp.full_like(x, 1 / count)
    tilted = even.at[..., 0].add(0.5 / count).at[..., 1].add(-0.5 / count)
    first, second = even * gradient(even), tilted * gradient(tilted)
    off = (second - first)[..., :1] / (0.5 / count)
    return first - off / count + 1, off


def _sample_dirichlet(parameters: tuple, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    del shape
    logs = jax.random.loggamma(key, parameters[0])
    return jax.nn.softmax(logs, axis=-1)


def _sample_beta(parameters: tuple, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    both = jax.random.split(key)
    logs = [jax.random.loggamma(k, jnp.broadcast_to(a, shape)) for k, a in zip(both, parameters, strict=True)]
    return jax.nn.sigmoid(logs[0] - logs[1])


_NORMALS = Family(
    "normal",
    _fit_normals,
    lambda p, x: -p[1] * (x - p[0]),
    lambda p, key, shape: p[0] + jax.random.normal(key, shape, p[0].dtype) / jnp.sqrt(p[1]),
    lambda generator, shape: 2 * generator.normal(size=shape),
    positive=(1,),
)
_NORMAL = Family(
    "multivariate normal",
    _fit_normal,
    _normal_gradient,
    _sample_normal,
    lambda generator, shape: 2 * generator.normal(size=shape),
    positive=(),
)
_GAMMA = Family(
    "gamma",
    _fit_gamma,
    lambda p, x: (p[0] - 1) / x - p[1],
    lambda p, key, shape: jnp.exp(jax.random.loggamma(key, jnp.broadcast_to(p[0], shape))) / p[1],
    lambda generator, shape: generator.gamma(2.0, size=shape) + 0.05,
    positive=(0, 1),
)
_INVERSE_GAMMA = Family(
    "inverse gamma",
    _fit_inverse_gamma,
    lambda p, x: -(p[0] + 1) / x + p[1] / x**2,
    lambda p, key, shape: p[1] * jnp.exp(-jax.random.loggamma(key, jnp.broadcast_to(p[0], shape))),
    lambda generator, shape: generator.gamma(2.0, size=shape) + 0.05,
    positive=(0, 1),
)
_BETA = Family(
    "beta",
    _fit_beta,
    lambda p, x: (p[0] - 1) / x - (p[1] - 1) / (1 - x),
    _sample_beta,
    lambda generator, shape: generator.uniform(0.05, 0.95, size=shape),
    positive=(0, 1),
)
_DIRICHLET = Family(
    "Dirichlet",
    _fit_dirichlet,
    lambda p, x: (p[0] - 1) / x + p[1],
    _sample_dirichlet,
    lambda generator, shape: generator.dirichlet(np.full(shape[-1], 3.0), size=shape[:-1]),
    positive=(0,),
)
