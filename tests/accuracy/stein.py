"""Is a log density the one that given draws come from? Stein's identities answer without any sampler.

For u ~ p on R^d with p smooth and vanishing at infinity, and any fixed invertible matrix A and vector c,

    E[grad log p(u)] = 0        E[(A^-1 (u - c)) (A^T grad log p(u))^T] = -I

A (from the draws' covariance) makes the test as sharp in directions where parameters nearly cancel as elsewhere. c and
A come from one half of the draws and the expectations from the other, so that every term is unbiased.
Imports numpy, jax and numpyro only.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import potential_energy, transform_fn


def unconstrained(model: Callable, data: Mapping, latents: Mapping[str, np.ndarray]):
    """(log density on R^d, draws on R^d): latents (n, *shape) by latent site of the model, constrained."""
    first = {name: value[0] for name, value in latents.items()}
    substituted = handlers.substitute(handlers.seed(model, 0), data=first)
    trace = handlers.trace(substituted).get_trace(**data)
    sites = [s for s in trace.values() if s["type"] == "sample" and not s["is_observed"]]
    transforms = {site["name"]: biject_to(site["fn"].support) for site in sites}
    used = {name: latents[name] for name in transforms}
    pulled = jax.vmap(lambda values: transform_fn(transforms, values, invert=True))(used)
    names = list(transforms)
    shapes = {name: pulled[name].shape[1:] for name in names}
    sizes = [int(np.prod(shapes[name])) for name in names]
    flat = np.concatenate([np.asarray(pulled[name]).reshape(len(pulled[name]), -1) for name in names], axis=1)

    def log_density(u):
        parts = np.split(np.arange(flat.shape[1]), np.cumsum(sizes)[:-1])
        values = {name: u[part].reshape(shapes[name]) for name, part in zip(names, parts, strict=True)}
        return -potential_energy(model, (), dict(data), values)

    return log_density, flat


def scores(u: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """z-scores of the 2d identities E[h] = 0 and E[w h] = -1, with h = A^T gradient and w = A^-1 (u - c).

    u, gradient: (n, d). Under the right density each is about standard normal.
    """
    half = len(u) // 2
    z = []
    for fit, check in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
        centre = u[fit].mean(axis=0)
        scale = u[fit].std(axis=0)
        A = scale[:, None] * np.linalg.cholesky(np.corrcoef((u[fit] / scale).T).reshape(len(scale), -1))
        w = np.linalg.solve(A, (u[check] - centre).T).T
        h = gradient[check] @ A
        for term in (h, w * h + 1):
            z.append(term.mean(axis=0) / (term.std(axis=0, ddof=1) / np.sqrt(len(term))))
    (a, b, c, d) = z
    return np.concatenate([(a + c), (b + d)]) / np.sqrt(2)
