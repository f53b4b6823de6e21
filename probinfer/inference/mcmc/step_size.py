"""Step size by dual averaging: the largest step whose acceptance statistic is on average the target."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_SHRINKAGE = 0.05  # gamma, t0 and kappa of Hoffman & Gelman (2014), sec. 3.2, Stan's values
_STABILISATION = 10.0
_FORGETTING = 0.75


class DualAveraging(NamedTuple):
    """State of the recursion; all scalars, or all with one entry for each of several step sizes."""

    log_step: Any  # the step to use next while adapting
    log_average: Any  # the step to use afterwards
    error: Any  # running mean of target - acceptance
    count: Any
    centre: Any  # towards which log_step is shrunk


def start(step_size: float | np.ndarray, dtype: jnp.dtype) -> DualAveraging:
    """Begin at `step_size`, shrinking towards twice of it: too long a step is found out sooner than too short a one."""
    log_step = jnp.log(jnp.asarray(step_size, dtype))
    zero = jnp.zeros_like(log_step)
    return DualAveraging(log_step, log_step, zero, zero, log_step + jnp.log(jnp.asarray(2.0, dtype)))


def afresh(log_step: np.ndarray) -> DualAveraging:
    """Begin at a step size, in logs, as `start` does, with no acceptance seen yet."""
    zero = np.zeros_like(log_step)
    return DualAveraging(log_step, log_step, zero, zero, log_step + np.log(2.0).astype(log_step.dtype))


def update(state: DualAveraging, acceptance: Any, target: Any) -> DualAveraging:
    """One step of the recursion, after a transition with this acceptance statistic. Of JAX or of plain numbers."""
    count = state.count + 1
    weight = 1 / (count + _STABILISATION)
    error = (1 - weight) * state.error + weight * (target - acceptance)
    log_step = state.centre - count**0.5 / _SHRINKAGE * error
    blend = count**-_FORGETTING
    log_average = blend * log_step + (1 - blend) * state.log_average
    return DualAveraging(log_step, log_average, error, count, state.centre)


def calibrate(step_sizes: np.ndarray, acceptances: np.ndarray, target: float) -> float | None:
    """The step size whose mean acceptance is the target, from all transitions of the last window of every chain.

    Fits acceptance = 1 / (1 + exp(slope * log(step) - intercept)) by maximum quasi-likelihood and solves for the step.
    Dual averaging alone ends too low: acceptance is concave in the step, so that the average over its excursions
    reaches the target at a smaller step than the constant one which does. None where the fit says nothing: too few
    transitions, or no fall of acceptance with the step. Never beyond the steps tried.
    """
    x, y = np.log(step_sizes.ravel()), acceptances.ravel()
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(x) < 30 or np.ptp(x) < 0.05:
        return None
    centre = x.mean()
    design = np.stack([np.ones_like(x), x - centre], axis=1)
    coefficients = np.array([np.log(target / (1 - target)), -1.0])
    for _ in range(30):
        mean = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        weights = np.maximum(mean * (1 - mean), 1e-6)
        information = design.T @ (design * weights[:, None]) + 1e-6 * np.eye(2)
        change = np.linalg.solve(information, design.T @ (y - mean))
        coefficients = coefficients + np.clip(change, -1, 1)
        if np.abs(change).max() < 1e-8:
            break
    if coefficients[1] > -0.05:
        return None
    solution = centre + (np.log(target / (1 - target)) - coefficients[0]) / coefficients[1]
    return float(np.exp(np.clip(solution, np.quantile(x, 0.05), np.quantile(x, 0.95))))
