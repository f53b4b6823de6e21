"""Probability distributions as the estimators need them: draws, log density, and a map from uniform numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from numpyro import distributions as dist

from probinfer.errors import MethodError


class Law(NamedTuple):
    """A distribution on arrays of one shape.

    shape: of one point. discrete: on a countable set.
    draw: (generator, n) -> (n, *shape). log_density: (n, *shape) -> (n,), -inf outside of the support.
    from_uniform: (n, dim) in (0, 1) -> (n, *shape) with that law when the numbers are uniform; None if there is no map.
    dim: uniform numbers that a point takes.
    origin: the distribution itself.
    """

    shape: tuple[int, ...]
    discrete: bool
    draw: Callable[[np.random.Generator, int], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]
    from_uniform: Callable[[np.ndarray], np.ndarray] | None
    dim: int
    origin: Any
    searched: bool = False  # from_uniform finds its points one by one by a search, a thousand times slower


def is_law(over: Any) -> bool:
    """Whether `as_law` would take it."""
    return isinstance(over, dist.Distribution | scipy.stats.distributions.rv_frozen | _frozen_multivariate())


def is_half_made(over: Any) -> bool:
    """Whether it is a family without parameters, `dist.Normal` or `stats.norm`: callable, but no model."""
    multivariate = type(scipy.stats.multivariate_normal).__mro__[1]  # has no public name
    return isinstance(over, type | scipy.stats.rv_continuous | scipy.stats.rv_discrete | multivariate)


def _frozen_multivariate() -> type:
    """The class of frozen distributions of several variables, which has no public name."""
    return type(scipy.stats.multivariate_normal(np.zeros(2))).__mro__[1]


def as_law(over: Any, name: str = "over") -> Law:
    """A NumPyro distribution or a frozen one of scipy.stats. MethodError for anything else."""
    if isinstance(over, dist.Distribution):
        return _numpyro(over)
    if isinstance(over, scipy.stats.distributions.rv_frozen):
        return _univariate(over)
    if isinstance(over, _frozen_multivariate()):
        return _multivariate(over)
    came = over.__name__ if isinstance(over, type) else type(over).__name__
    raise MethodError(
        f"{name} came as {came}; wanted a NumPyro distribution such as dist.Normal(0, 1), or a frozen distribution of "
        "scipy.stats such as stats.norm(0, 1)."
    )


def _numpyro(law: dist.Distribution) -> Law:
    if isinstance(law, dist.ImproperUniform):
        raise MethodError(
            "over came as ImproperUniform, which has no integral: there is no expectation under it. Give a "
            "distribution that can be drawn from; a density known up to a constant is a pi.LogDensity."
        )
    shape = tuple(law.batch_shape) + tuple(law.event_shape)
    sizes: dict[int, Any] = {}

    def draw(generator: np.random.Generator, n: int) -> np.ndarray:
        words = generator.integers(0, 2**32, 2, dtype=np.uint32)
        with jax.enable_x64(True):
            if n not in sizes:
                sizes[n] = jax.jit(lambda words: law.sample(jax.random.wrap_key_data(words), (n,)))
            return np.asarray(sizes[n](words))

    support: Any = law.support

    def at(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(support(x), law.log_prob(x), -jnp.inf))

    mapped = jax.jit(jax.vmap(at))

    def log_density(x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(mapped(x), float)

    try:
        quantile = _quantile(law)
        with jax.enable_x64(True):
            quantile(np.full((1, *shape), 0.5))
    except (NotImplementedError, ImportError, AttributeError):
        quantile = None
    size = int(np.prod(shape, dtype=int))

    def from_uniform(u: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(quantile(u.reshape(len(u), *shape)), float)  # ty: ignore[not-callable]

    discrete = bool(law.is_discrete)
    return Law(shape, discrete, draw, log_density, from_uniform if quantile else None, size, law)


def _quantile(law: Any) -> Callable[[np.ndarray], Any]:
    """A map of uniform numbers (n, *shape) to points of the law. NotImplementedError where there is none."""
    if isinstance(law, dist.Independent | dist.ExpandedDistribution) and not law.base_dist.event_shape:
        return _quantile(law.base_dist)
    if isinstance(law, dist.Independent):
        return _quantile(law.base_dist)
    if isinstance(law, dist.MultivariateNormal):
        return lambda u: law.loc + jnp.einsum("...ij,...j->...i", law.scale_tril, scipy.special.ndtri(u))
    if isinstance(law, dist.LowRankMultivariateNormal):
        factor = jnp.linalg.cholesky(law.covariance_matrix)
        return lambda u: law.loc + jnp.einsum("...ij,...j->...i", factor, scipy.special.ndtri(u))
    if isinstance(law, dist.Gamma):
        return lambda u: scipy.special.gammaincinv(np.asarray(law.concentration), u) / np.asarray(law.rate)
    if isinstance(law, dist.Beta):
        return lambda u: scipy.special.betaincinv(np.asarray(law.concentration1), np.asarray(law.concentration0), u)
    if isinstance(law, dist.StudentT):
        return lambda u: np.asarray(law.loc) + np.asarray(law.scale) * scipy.special.stdtrit(np.asarray(law.df), u)
    if isinstance(law, dist.TransformedDistribution) and tuple(law.base_dist.shape()) == tuple(law.shape()):
        base = _quantile(law.base_dist)

        def transformed(u: np.ndarray) -> Any:
            value = jnp.asarray(base(u))
            for transform in law.transforms:
                value = transform(value)
            return value

        return transformed
    if isinstance(law, dist.DiscreteUniform):
        low, high = np.asarray(law.low), np.asarray(law.high)
        return lambda u: np.minimum(low + np.floor(u * (high - low + 1)), high)
    if law.event_shape or law.is_discrete:  # what NumPyro calls the quantile of a discrete law need not be one
        raise NotImplementedError
    return law.icdf


def _univariate(law: Any) -> Law:
    discrete = not hasattr(law.dist, "pdf")
    shape = np.broadcast_shapes(*(np.shape(value) for value in (*law.args, *law.kwds.values())))
    log_density = law.logpmf if discrete else law.logpdf
    return Law(
        shape=shape,
        discrete=discrete,
        draw=lambda generator, n: np.asarray(law.rvs(size=(n, *shape), random_state=generator), float),
        log_density=lambda x: np.asarray(log_density(x), float).reshape(len(x), -1).sum(axis=1),
        from_uniform=lambda u: np.asarray(law.ppf(u.reshape(len(u), *shape)), float),
        dim=int(np.prod(shape, dtype=int)),
        origin=law,
        searched=not discrete and type(law.dist)._ppf is scipy.stats.rv_continuous._ppf,
    )


def _multivariate(law: Any) -> Law:
    first = np.asarray(law.rvs(size=2, random_state=np.random.default_rng(0)))
    shape = first.shape[1:]
    discrete = not hasattr(law, "logpdf")
    if discrete and not hasattr(law, "logpmf"):
        raise MethodError(
            f"over came as {type(law).__name__}, whose density scipy.stats does not know; wanted a distribution that "
            "has one."
        )
    density = law.logpmf if discrete else law.logpdf
    from_uniform = None
    if isinstance(law, type(scipy.stats.multivariate_normal([0.0]))):
        mean, root = np.asarray(law.mean), _root(np.asarray(law.cov))
        from_uniform = lambda u: mean + scipy.special.ndtri(u) @ root.T  # noqa: E731
        shape = mean.shape

    def draw(generator: np.random.Generator, n: int) -> np.ndarray:
        return np.asarray(law.rvs(size=n, random_state=generator), float).reshape(n, *shape)

    def log_density(x: np.ndarray) -> np.ndarray:
        return np.asarray(density(x), float).reshape(len(x))

    return Law(shape, discrete, draw, log_density, from_uniform, int(np.prod(shape, dtype=int)), law)


def _root(covariance: np.ndarray) -> np.ndarray:
    """A matrix R with R R' = covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
