"""Step size by dual averaging: the largest step whose acceptance statistic is on average the target."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_SHRINKAGE = 0.05  # gamma, t0 and kappa of Hoffman & Gelman (2014), sec. 3.2, Stan's values
_STABILISATION = 10.0
_FORGETTING = 0.75


class DualAveraging(NamedTuple):
    """State of the recursion; all scalars."""

    log_step: Any  # the step to use next while adapting
    log_average: Any  # the step to use afterwards
    error: Any  # running mean of target - acceptance
    count: Any
    centre: Any  # towards which log_step is shrunk


def start(step_size: float, dtype: jnp.dtype) -> DualAveraging:
    """Begin at `step_size`, shrinking towards twice of it: too long a step is found out sooner than too short a one."""
    log_step = jnp.log(jnp.asarray(step_size, dtype))
    zero = jnp.zeros((), dtype)
    return DualAveraging(log_step, log_step, zero, zero, log_step + jnp.log(jnp.asarray(2.0, dtype)))


def update(state: DualAveraging, acceptance: jax.Array, target: jax.Array) -> DualAveraging:
    """One step of the recursion, after a transition with this acceptance statistic."""
    count = state.count + 1
    weight = 1 / (count + _STABILISATION)
    error = (1 - weight) * state.error + weight * (target - acceptance)
    log_step = state.centre - jnp.sqrt(count) / _SHRINKAGE * error
    blend = count**-_FORGETTING
    log_average = blend * log_step + (1 - blend) * state.log_average
    return DualAveraging(log_step, log_average, error, count, state.centre)
