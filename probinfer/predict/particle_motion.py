"""States of any state-space model in time, by particles of every posterior draw. Imports jax.

All randomness comes from two words of each time, so that what is observed in two parts is as if it came at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.montecarlo.particle_keys import words_of
from probinfer.inference.montecarlo.particle_weights import weighed
from probinfer.inference.montecarlo.resampling import systematic
from probinfer.predict.mixture import of_laws
from probinfer.predict.motion import MOVE, WEIGH, Motion, Outcomes, Seen
from probinfer.predict.program import PARAMETERS, SAMPLE

FUTURES = 20_000  # of all draws together: their mean is off by less than 1% of the predictive sd
_CHOOSE, _MOVE, _SEE = 0x7D01, 0x7D02, 0x7D03  # counters that tell the uses of a time's words apart
_RESAMPLE_BELOW = 0.5


class ParticleMover:
    """Particles (S, N, *state) and their log weights (S, N): the bootstrap filter, for every draw its own."""

    def observe(
        self, motion: Motion, state: tuple, time: int, y: np.ndarray, observed: np.ndarray, words: np.ndarray
    ) -> Seen:
        """See `Mover`."""
        x, logs, log_density, ess = motion.call(_observe, motion.there, *state, time, y, observed, words)
        return Seen((x, logs), log_density, ess)

    def scatter(self, motion: Motion, state: tuple, words: np.ndarray) -> tuple:
        """See `Mover`: as many of every draw's particles, chosen by weight, as make FUTURES in all."""
        return (motion.call(_scatter, *state, words, count=max(-(-FUTURES // motion.size), 1)),)

    def ahead(self, motion: Motion, state: tuple, time: int, words: np.ndarray) -> tuple[tuple, Outcomes]:
        """See `Mover`."""
        x, found = motion.call(_ahead, motion.there, *state, time, words)
        return (x,), Outcomes(found, None) if motion.family is not None else Outcomes((), found)

    def pick(self, motion: Motion, state: tuple, chosen: np.ndarray, words: np.ndarray) -> np.ndarray:
        """See `Mover`."""
        return motion.call(_pick, *state, chosen, words)

    def simulate(
        self, motion: Motion, states: np.ndarray, chosen: np.ndarray, time: int, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Mover`."""
        return motion.call(_simulate, motion.there, states, chosen, time, words)


def _words(words: jax.Array, use: int, draws: int, states: int) -> jax.Array:
    """Words (draws, states, 2) of each state of each draw."""
    of_draws = _words_of_draws(words, use, draws)
    return jax.vmap(lambda first, second: words_of((first, second), states).T)(*of_draws)


def _words_of_draws(words: jax.Array, use: int, draws: int) -> tuple[jax.Array, jax.Array]:
    return threefry((words[0], words[1]), jnp.arange(draws, dtype=jnp.uint32), jnp.full(draws, use, jnp.uint32))


def _observe(
    motion: Motion, draws: Any, x: Any, log_weights: Any, time: Any, y: Any, observed: Any, words: Any
) -> tuple:
    count, n = log_weights.shape

    def choose(words: Any, x: jax.Array, log_weights: jax.Array) -> tuple:
        weights = weighed(log_weights)
        stay = (weights.ess == 0) | (weights.ess > n * _RESAMPLE_BELOW)
        chosen = jnp.where(stay, jnp.arange(n, dtype=jnp.int32), systematic(words, weights.relative))
        return x[chosen], jnp.where(stay, weights.normal(log_weights), -jnp.log(float(n)))

    x, log_weights = jax.vmap(choose)(_words_of_draws(words, _CHOOSE, count), x, log_weights)
    x = motion.programs[MOVE].call(draws, x, time, _words(words, _MOVE, count, n))
    gained = motion.programs[WEIGH].call(draws, x, time, y, observed)
    log_weights = log_weights + gained
    weights = jax.vmap(weighed)(log_weights)
    normal = jax.vmap(lambda weights, logs: weights.normal(logs))(weights, log_weights)
    return x, normal, weights.log_total, weights.ess


def _scatter(motion: Motion, x: Any, log_weights: Any, words: Any, *, count: int) -> jax.Array:
    """Particles (S, count, *state) of even weight, by systematic resampling."""
    del motion
    marks = jnp.arange(count) + _uniform(words, _CHOOSE, len(x))[:, None]
    return jax.vmap(_chosen)(x, log_weights, marks / count)


def _uniform(words: jax.Array, use: int, count: int) -> jax.Array:
    """Uniform numbers (count,) inside (0, 1)."""
    return (_words_of_draws(words, use, count)[0].astype(float) + 0.5) * 2.0**-32


def _chosen(x: jax.Array, log_weights: jax.Array, places: jax.Array) -> jax.Array:
    """The particles at these places, in (0, 1), of the cumulated weights."""
    ends = jnp.cumsum(weighed(log_weights).relative)
    return x[jnp.minimum(jnp.searchsorted(ends, places * ends[-1], side="right"), len(ends) - 1)]


def _ahead(motion: Motion, draws: Any, x: Any, time: Any, words: Any) -> tuple:
    count, n = x.shape[:2]
    x = motion.programs[MOVE].call(draws, x, time, _words(words, _MOVE, count, n))
    if motion.family is not None:
        return x, motion.programs[PARAMETERS].call(draws, x, time)
    return x, motion.programs[SAMPLE].call(draws, x, time, _words(words, _SEE, count, n))


def _pick(motion: Motion, x: Any, log_weights: Any, chosen: Any, words: Any) -> jax.Array:
    del motion
    places = _uniform(words, _CHOOSE, len(chosen))[:, None]
    return jax.vmap(_chosen)(x[chosen], log_weights[chosen], places)[:, 0]


def _simulate(motion: Motion, draws: Any, x: Any, chosen: Any, time: Any, words: Any) -> tuple:
    own = {name: values[chosen] for name, values in draws.items()}
    paths = len(chosen)
    x = motion.programs[MOVE].call(own, x[:, None], time, _words(words, _MOVE, paths, 1))
    y = motion.programs[SAMPLE].call(own, x, time, _words(words, _SEE, paths, 1))
    if motion.family is not None:
        y = of_laws(motion.family, motion.programs[PARAMETERS].call(own, x, time), y)
    return x[:, 0], y[:, 0]
