"""A Gaussian state conditioned on one observation, and the matrices that this takes. Imports jax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Step(NamedTuple):
    """The matrices at one time."""

    transition: jax.Array  # F (d, d)
    transition_cov: jax.Array  # Q (d, d)
    transition_offset: jax.Array  # b (d,)
    observation: jax.Array  # H (k, d)
    observation_cov: jax.Array  # R (k, k)
    observation_offset: jax.Array  # c (k,)


class Moments(NamedTuple):
    """What the forward pass knows at each time."""

    predicted_mean: jax.Array  # (d,) E[x_t | y_0..t-1]
    predicted_cov: jax.Array  # (d, d)
    mean: jax.Array  # (d,) E[x_t | y_0..t]
    cov: jax.Array  # (d, d)
    log_density: jax.Array  # log p(y_t | y_0..t-1)


def condition(mean: jax.Array, cov: jax.Array, step: Step, y: jax.Array, seen: jax.Array) -> Moments:
    """Condition a predicted state on one observation; Joseph's form keeps the covariance positive semi-definite.

    A missing entry is replaced by one that says nothing: zero, from a zero row of H, with noise of variance one.
    """
    h, r, residual = masked(step, mean, y, seen)
    root = jnp.linalg.cholesky(h @ cov @ h.T + r)
    gain = jax.scipy.linalg.cho_solve((root, True), h @ cov).T
    left = jnp.eye(len(mean)) - gain @ h
    after = left @ cov @ left.T + gain @ r @ gain.T
    white = jax.scipy.linalg.solve_triangular(root, residual, lower=True)
    log_density = -0.5 * (white @ white + jnp.sum(seen) * np.log(2 * np.pi)) - jnp.sum(jnp.log(jnp.diag(root)))
    return Moments(mean, cov, mean + gain @ residual, (after + after.T) / 2, log_density)


def masked(step: Step, mean: jax.Array, y: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """H, R and the residual, with such an entry in the place of each missing one."""
    h = jnp.where(seen[:, None], step.observation, 0.0)
    r = jnp.where(seen[:, None] & seen[None, :], step.observation_cov, jnp.diag(jnp.where(seen, 0.0, 1.0)))
    return h, r, jnp.where(seen, y - step.observation @ mean - step.observation_offset, 0.0)


def factor(cov: jax.Array) -> jax.Array:
    """Lower Cholesky factor, also of a singular covariance: a direction without noise gets a zero column."""
    size = cov.shape[0]

    def column(j: Any, lower: jax.Array) -> jax.Array:
        rest = cov[:, j] - lower @ lower[j]
        # what is left of the variance below rounding error is none
        left = rest[j] > 1e-14 * cov[j, j]
        scaled = jnp.where(left, rest / jnp.sqrt(jnp.where(left, rest[j], 1.0)), 0.0)
        return lower.at[:, j].set(jnp.where(jnp.arange(size) >= j, scaled, 0.0))

    return lax.fori_loop(0, size, column, jnp.zeros_like(cov))
