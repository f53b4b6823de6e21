"""A few steps of random-walk Metropolis as one transition, and the metric that its proposals want.

Metropolis et al. (1953); Roberts, Gelman & Gilks (1997), optimal scaling; Haario, Saksman & Tamminen (2001).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.mcmc.kernel import Draw, Info
from probinfer.inference.mcmc.metric import Metric, pooled


def transition(
    log_density: Callable[[jax.Array], jax.Array],
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: tuple[jax.Array, jax.Array],
    limit: jax.Array,
    *,
    proposals: int,
) -> tuple[Draw, Info]:
    """`proposals` times: propose q + step_size A z, z standard normal, and accept with probability min(1, ratio)."""
    del limit
    dtype, dim = start.q.dtype, start.q.size
    zero = jnp.zeros((), dtype)

    def propose(state: tuple) -> tuple:
        here, acceptance, _, n = state
        words = threefry(key, n.astype(jnp.uint32), jnp.uint32(3))
        bits, _ = threefry(key, n.astype(jnp.uint32), jnp.uint32(4))
        q = here.q + step_size * metric.displacement(normal(words, dim, dtype))
        value = log_density(q)
        gain = jnp.where(jnp.isnan(value), -jnp.inf, value - here.log_density)
        take = jnp.log(uniform(bits, dtype)) <= gain
        moved = Draw(jnp.where(take, q, here.q), here.g, jnp.where(take, value, here.log_density))
        return moved, acceptance + jnp.exp(jnp.minimum(gain, 0.0)), -gain, n + 1

    end, acceptance, error, _ = lax.while_loop(
        lambda state: state[3] < proposals, propose, (start, zero, zero, jnp.int32(0))
    )
    mean, never = acceptance / proposals, jnp.zeros((), bool)
    return end, Info(mean, mean, jnp.int32(proposals), jnp.int32(0), never, never, -end.log_density, error)


def fit_covariance(draws: np.ndarray, gradients: np.ndarray, use: np.ndarray, rank: int) -> Metric:
    """The metric whose A A' is the covariance of the draws: standard deviations, then the correlation's eigenvectors.

    draws (chains, n, d), pooled about the mean of each chain; `rank` eigenvectors are kept, those of the most extreme
    eigenvalues, and the correlation is shrunk towards the identity by as much as d draws would weigh.
    """
    del gradients
    dim = draws.shape[-1]
    x = pooled(draws, use & np.isfinite(draws).all(axis=-1))
    with np.errstate(over="ignore"):
        scale = np.sqrt((x**2).sum(axis=0) / max(len(x), 1))
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    metric = Metric(scale, np.zeros((dim, rank)), np.zeros(rank))
    if rank == 0 or len(x) < 10:
        return metric
    weight = dim / (dim + len(x))
    correlation = (1 - weight) * (x / scale).T @ (x / scale) / len(x) + weight * np.eye(dim)
    values, vectors = np.linalg.eigh(correlation)
    values = np.maximum(values, 1e-10)
    order = np.argsort(np.abs(np.log(values)))[::-1][:rank]
    metric.directions[:, : len(order)] = vectors[:, order]
    metric.stretch[: len(order)] = np.sqrt(values[order]) - 1.0
    return metric
