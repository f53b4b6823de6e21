"""States of a linear Gaussian model in time, exact for every posterior draw. Imports jax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.montecarlo.particle_keys import key_of
from probinfer.model.conditioning import Step, condition, factor
from probinfer.predict.motion import MATRICES, Motion, Outcomes, Seen

_NARROW = 1e-9  # a standard deviation of zero, in units of the mean or of one: less would not be told apart


class GaussianMover:
    """Means (S, d) and covariances (S, d, d), by Kalman's filter. At time 0 the state is that of the first time itself,
    which has not moved."""

    def observe(
        self, motion: Motion, state: tuple, time: int, y: np.ndarray, observed: np.ndarray, words: np.ndarray
    ) -> Seen:
        """See `Mover`."""
        del words
        mean, cov, log_density = motion.call(
            _observe, motion.there, *state, time, y.astype(float).reshape(-1), observed.reshape(-1)
        )
        return Seen((mean, cov), log_density, None)

    def scatter(self, motion: Motion, state: tuple, words: np.ndarray) -> tuple:
        """See `Mover`: the state as it is."""
        del motion, words
        return state

    def ahead(self, motion: Motion, state: tuple, time: int, words: np.ndarray) -> tuple[tuple, Outcomes]:
        """See `Mover`: the normal law of every entry."""
        del words
        mean, cov, location, spread = motion.call(_ahead, motion.there, *state, time)
        shape = (motion.size, 1, *motion.event)
        return (mean, cov), Outcomes((location.reshape(shape), spread.reshape(shape)), None)

    def pick(self, motion: Motion, state: tuple, chosen: np.ndarray, words: np.ndarray) -> np.ndarray:
        """See `Mover`."""
        return motion.call(_pick, *state, chosen, words)

    def simulate(
        self, motion: Motion, states: np.ndarray, chosen: np.ndarray, time: int, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Mover`."""
        x, y = motion.call(_simulate, motion.there, states, chosen, time, words)
        return x, y.reshape(len(y), *motion.event)


def _steps(motion: Motion, draws: Any, time: jax.Array) -> Step:
    """The matrices of every draw; at time 0 the state stays as it is."""
    step = Step(*motion.programs[MATRICES].call(draws, time))
    first, still = time == 0, jnp.eye(step.transition.shape[-1])
    return step._replace(
        transition=jnp.where(first, still, step.transition),
        transition_cov=jnp.where(first, 0.0, step.transition_cov),
        transition_offset=jnp.where(first, 0.0, step.transition_offset),
    )


def _move(step: Step, mean: jax.Array, cov: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (
        step.transition @ mean + step.transition_offset,
        step.transition @ cov @ step.transition.T + step.transition_cov,
    )


def _observe(motion: Motion, draws: Any, mean: Any, cov: Any, time: Any, y: Any, observed: Any) -> tuple:
    def one(step: Step, mean: jax.Array, cov: jax.Array) -> tuple:
        now = condition(*_move(step, mean, cov), step, y, observed)
        return now.mean, now.cov, now.log_density

    return jax.vmap(one)(_steps(motion, draws, time), mean, cov)


def _ahead(motion: Motion, draws: Any, mean: Any, cov: Any, time: Any) -> tuple:
    def one(step: Step, mean: jax.Array, cov: jax.Array) -> tuple:
        mean, cov = _move(step, mean, cov)
        location = step.observation @ mean + step.observation_offset
        spread = jnp.sqrt(
            jnp.maximum(jnp.diag(step.observation @ cov @ step.observation.T + step.observation_cov), 0.0)
        )
        return mean, cov, location, jnp.maximum(spread, _NARROW * jnp.maximum(jnp.abs(location), 1.0))

    return jax.vmap(one)(_steps(motion, draws, time), mean, cov)


def _pick(motion: Motion, mean: Any, cov: Any, chosen: Any, words: Any) -> jax.Array:
    del motion
    z = jax.random.normal(key_of(words), (len(chosen), mean.shape[1]))
    return mean[chosen] + jnp.einsum("pij,pj->pi", jax.vmap(factor)(cov)[chosen], z)


def _simulate(motion: Motion, draws: Any, x: Any, chosen: Any, time: Any, words: Any) -> tuple:
    steps = _steps(motion, draws, time)
    moved, seen = (jax.vmap(factor)(cov) for cov in (steps.transition_cov, steps.observation_cov))
    one, other = jax.random.split(key_of(words))
    x = jnp.einsum("pij,pj->pi", steps.transition[chosen], x) + steps.transition_offset[chosen]
    x = x + jnp.einsum("pij,pj->pi", moved[chosen], jax.random.normal(one, x.shape))
    y = jnp.einsum("pij,pj->pi", steps.observation[chosen], x) + steps.observation_offset[chosen]
    return x, y + jnp.einsum("pij,pj->pi", seen[chosen], jax.random.normal(other, y.shape))
