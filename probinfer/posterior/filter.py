"""The verbs of state-space models: filter and smooth."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from probinfer.errors import DataError, MethodError, ModelError
from probinfer.inference.draw import key_words
from probinfer.inference.exact.kalman import Kalman, kalman
from probinfer.inference.montecarlo.backward import simulate_backward
from probinfer.inference.montecarlo.doubtful_laws import undefined_laws
from probinfer.inference.montecarlo.particle import ParticleFilter, passes
from probinfer.inference.montecarlo.particle_pass import Keep
from probinfer.inference.settings import check_whole
from probinfer.model.forks import before_jax
from probinfer.model.statespace import StateSpace
from probinfer.posterior.estimate import check_level
from probinfer.posterior.posterior import Posterior
from probinfer.posterior.state_laws import Gaussian, cloud_of, cloud_of_draws, mixture_of
from probinfer.posterior.states import States

_DRAWS = 100  # of a posterior of the parameters


def filter(
    state_space: StateSpace,
    observations: Any,
    method: Kalman | ParticleFilter | None = None,
    *,
    parameters: Mapping[str, Any] | Posterior | None = None,
    level: float = 0.9,
    seed: Any = 0,
) -> States:
    """States given the observations up to their time, p(x_t | y_0, ..., y_t), and log p(y).

    Args:
        state_space: a `StateSpace`.
        observations: (T, *observation shape); NaN where missing.
        method: `Kalman()` or `ParticleFilter(particles=1000)`; None takes the exact one where the model allows it.
        parameters: values by name, which the model's functions get as `params`; or the `Posterior` of them that
            `infer` gave: the states are then those of the mixture over 100 of its draws.
        level: probability of the intervals.
        seed: whole number or jax key; the same seed gives the same numbers.

    Returns:
        States: mean, sd, intervals, log likelihood with its error, `report`, `forecast(steps)`.

    Raises:
        DataError: the observations or parameters do not fit the model.
        ModelError: the laws of the model do not fit each other.
        MethodError: the method does not fit the model, or the level or seed is none.

    Fails by collapse of the particles, which the report tells with its time; see `ParticleFilter` and `Kalman`.

    Chopin & Papaspiliopoulos (2020), ch. 10 to 12.

    >>> import numpy as np
    >>> model = StateSpace.linear_gaussian([0.0], [[1.0]], [[1.0]], [[0.0]], [[1.0]], [[1.0]])
    >>> states = filter(model, np.array([1.0, np.nan, 2.0]))
    >>> states.mean[:, 0]  # the mean of n observations and one prior observation of zero
    array([0.5, 0.5, 1. ])
    >>> states.report.verdict.name
    'GOOD'
    """
    return _states(state_space, observations, method, parameters, level, seed, None)


def smooth(
    state_space: StateSpace,
    observations: Any,
    method: Kalman | ParticleFilter | None = None,
    *,
    parameters: Mapping[str, Any] | Posterior | None = None,
    level: float = 0.9,
    seed: Any = 0,
    draws: int = 200,
) -> States:
    """States given all observations, p(x_t | y_0, ..., y_T-1).

    Exact for `Kalman`; for `ParticleFilter` by `draws` trajectories of each run, simulated backward (Godsill, Doucet &
    West 2004): each costs N evaluations of the transition's density a time. Other arguments, result and errors as for
    `filter`; ModelError also for a transition without a density, which particles cannot be smoothed with.

    >>> import numpy as np
    >>> model = StateSpace.linear_gaussian([0.0], [[1.0]], [[1.0]], [[0.0]], [[1.0]], [[1.0]])
    >>> smooth(model, np.array([1.0, np.nan, 2.0])).mean[:, 0]
    array([1., 1., 1.])
    """
    check_whole("smooth", "draws", draws, 1)
    return _states(state_space, observations, method, parameters, level, seed, draws)


def _states(
    model: StateSpace, observations: Any, method: Any, parameters: Any, level: Any, seed: Any, draws: int | None
) -> States:
    if not isinstance(model, StateSpace):
        raise ModelError(
            f"state_space came as {type(model).__name__}; wanted a pi.StateSpace. A NumPyro function goes to pi.infer."
        )
    method = method if method is not None else Kalman() if model.linear is not None else ParticleFilter()
    if not isinstance(method, Kalman | ParticleFilter):
        hint = f"; did you mean {method.__name__}()?" if isinstance(method, type) else ""
        raise MethodError(f"method came as {method!r}; wanted pi.Kalman() or pi.ParticleFilter(){hint}")
    before_jax()
    level, words = check_level(level), key_words(seed)
    series = model.series(observations)
    drawn = _drawn(model, parameters) if isinstance(parameters, Posterior) else {}
    one = {name: value[0] for name, value in drawn.items()} or _parameters(model, parameters)
    with jax.enable_x64(True):
        state = model.check(one, series)
    before = parameters.report.verdict if isinstance(parameters, Posterior) else None
    count = len(next(iter(drawn.values()))) if drawn else 1 if isinstance(method, Kalman) else method.runs
    sets = drawn or {name: np.repeat(value[None], count, axis=0) for name, value in one.items()}
    common: dict[str, Any] = {"model": model, "params": sets, "method": method, "before": before}
    if isinstance(method, Kalman):
        found = kalman(model, series, sets, smooth=draws is not None)
        sds = np.sqrt(np.maximum(np.diagonal(found.cov, axis1=2, axis2=3), 0.0))
        law = mixture_of(found.mean, sds) if drawn else Gaussian(found.mean[0], sds[0])
        last = (found.mean[:, -1], found.cov[:, -1])
        return States(law, level, log_likelihoods=found.log_density.sum(axis=1), last=last, ess=None, **common)
    numbers = count * method.particles * len(series.values) * (1 + int(np.prod(state, dtype=int)))
    first, second, third = np.random.SeedSequence(words.tolist()).spawn(3)
    keep = Keep.ALL if draws is not None or method.keeps(numbers) else Keep.LAST
    passed = passes(model, method, series, sets, first.generate_state(2), keep=keep)
    if passed.undefined.any():
        common["undefined"] = undefined_laws(model, method, series, sets, third.generate_state(2))
    weights = np.exp(passed.log_weights)
    cloud = cloud_of(passed.mean, passed.variance, passed.particles, weights)
    last = cloud._replace(particles=passed.particles[:, -1:], weights=weights[:, -1:])
    if draws is not None:
        cloud = cloud_of_draws(simulate_backward(model, sets, passed, second.generate_state(2), draws))
    total, ess = passed.log_density.sum(axis=1), passed.ess.min(axis=0)
    return States(cloud, level, log_likelihoods=total, last=last, ess=ess, **common)


def _drawn(model: StateSpace, posterior: Posterior) -> dict[str, np.ndarray]:
    """Draws of the parameters (S, *shape), evenly from the posterior's."""
    latents = posterior.latents
    missing = [name for name in model.prior if name not in latents]
    if missing or not model.prior:
        raise DataError(
            f"parameters came as a posterior of {', '.join(latents)}; the model's parameters are "
            f"{', '.join(model.prior) or 'none'}."
        )
    total = len(latents[next(iter(model.prior))])
    rows = np.linspace(0, total - 1, min(_DRAWS, total)).astype(int)
    return {name: np.asarray(latents[name][rows], dtype=float) for name in model.prior}


def _parameters(model: StateSpace, given: Any) -> dict[str, np.ndarray]:
    if not isinstance(given, Mapping | type(None)):
        raise DataError(f"parameters came as {type(given).__name__}; wanted a dict of values by name.")
    try:
        values = {str(name): np.asarray(value, dtype=float) for name, value in (given or {}).items()}
    except (TypeError, ValueError):
        raise DataError("parameters hold something that is no number; wanted a dict of numbers or arrays.") from None
    missing = [name for name in model.prior if name not in values]
    if missing:
        raise DataError(f"parameters lack {', '.join(missing)}; came with {', '.join(values) or 'none'}.")
    if bad := [name for name, value in values.items() if not np.isfinite(value).all()]:
        raise DataError(f"parameters are not finite: {', '.join(bad)}.")
    return values
