"""Smoothing by backward simulation: whole trajectories of the state, drawn from the particles of a filter's pass."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.errors import ModelError
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.montecarlo.particle import compiled
from probinfer.inference.montecarlo.particle_keys import key_of, keys_of
from probinfer.inference.montecarlo.particle_pass import Pass
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import StateSpace
from probinfer.model.trajectory import log_density


def simulate_backward(model: StateSpace, params: Parameters, found: Pass, key: np.ndarray, draws: int) -> np.ndarray:
    """Trajectories (S, T, draws, *state) from p(x_0, ..., x_T-1 | y), `draws` of each of the S passes.

        J_T-1 ~ W_T-1;   P(J_t = i) ∝ W_t^i f(x_t+1 | x_t^i)

    Godsill, Doucet & West (2004). Costs draws N T evaluations of the transition's density for each pass. Raises
    ModelError where the transition has no density, so that no particle could have led to the next state.
    """
    count = len(found.mean)
    keys = np.random.default_rng(key).integers(0, 2**32, (count, 2), dtype=np.uint32)
    with jax.enable_x64(True):
        sets = [
            jax.tree.map(
                jnp.asarray,
                ({name: value[s] for name, value in params.items()}, found.particles[s], found.log_weights[s], keys[s]),
            )
            for s in range(count)
        ]
        program = compiled(model, ("backward", draws), lambda *each: _one(model, draws, *each), *sets[0])
    with ThreadPoolExecutor(workers(count), thread_name_prefix="probinfer") as pool:
        results = list(pool.map(lambda each: jax.tree.map(np.asarray, program(*each)), sets))
    lost = np.stack([lost for _, lost in results])
    if lost.any():
        raise ModelError(
            f"smooth: no particle of time {int(np.argwhere(lost.any(axis=0))[-1][0])} could have led to the state that "
            "follows. Backward simulation needs a transition with a density: noise in every direction of the state, "
            "and more particles where it is narrow. A linear Gaussian model is smoothed exactly by pi.Kalman()."
        )
    return np.stack([paths for paths, _ in results])


def _one(
    model: StateSpace, draws: int, params: Parameters, particles: jax.Array, log_weights: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Trajectories (T, draws, *state) of one pass, and for each time whether one had nowhere to go."""
    root = key_of(key)
    last = particles[-1][
        _draw(jax.random.fold_in(root, 0), jnp.broadcast_to(log_weights[-1], (draws, len(log_weights[-1]))))
    ]

    def retreat(after: jax.Array, at: tuple) -> tuple:
        t, x, log_weight = at

        def score(after: jax.Array) -> jax.Array:
            density = jax.vmap(lambda one: log_density(model.transition(one, t + 1, params), after))(x)
            return jnp.where(jnp.isfinite(density), log_weight + density, -jnp.inf)

        scores = jax.vmap(score)(after)
        drawn = x[_draw(jax.random.fold_in(root, t + 1), scores)]
        return drawn, (drawn, ~jnp.isfinite(scores).any(axis=1).all())

    times = jnp.arange(len(particles) - 1)
    _, (paths, lost) = lax.scan(retreat, last, (times, particles[:-1], log_weights[:-1]), reverse=True)
    return jnp.concatenate([paths, last[None]]), lost


def _draw(key: jax.Array, log_weights: jax.Array) -> jax.Array:
    """An index for each row of log weights (draws, N), by inverting the cumulated weights."""
    weights = jnp.exp(log_weights - jnp.max(log_weights, axis=1, keepdims=True))
    cumulated = jnp.cumsum(weights, axis=1)
    u = jax.vmap(jax.random.uniform)(keys_of(key, len(log_weights))) * cumulated[:, -1]
    return jnp.clip(
        jax.vmap(lambda row, at: jnp.searchsorted(row, at, side="right"))(cumulated, u), 0, log_weights.shape[1] - 1
    )
