"""From a posterior of a state-space model to where its forecaster stands after the data. Imports numpyro, so a loaded
forecaster never comes here."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import MethodError, ModelError
from probinfer.inference.montecarlo.particle import ParticleFilter, passes
from probinfer.inference.montecarlo.particle_pass import Keep
from probinfer.inference.montecarlo.pmmh import check_filter
from probinfer.model.series import Series
from probinfer.model.statespace import StateSpace
from probinfer.predict.motion import Motion
from probinfer.predict.motion_programs import motion_of
from probinfer.predict.standing import Standing, follow
from probinfer.predict.training import series_sketch

if TYPE_CHECKING:
    from probinfer.posterior.posterior import Posterior

_EXACT_DRAWS, _DRAWS, _PARTICLES = 1000, 200, 500


def first_standing(
    posterior: "Posterior",
    draws: int | None,
    particles: int | None,
    filter: ParticleFilter | None,
    words: np.ndarray,
) -> tuple[Motion, Standing, dict[str, Any] | None]:
    """What a forecaster computes from, its states after the posterior's data, and a sketch of these. Raises ModelError
    and MethodError as `Forecaster` says."""
    if posterior.model is None or posterior.data is None:
        raise ModelError(
            "This posterior came without its model or data, and a forecaster needs both. Pass them when loading: "
            "load_posterior(path, model=model, data=y)."
        )
    model = posterior.model
    if not isinstance(model, StateSpace):
        raise ModelError(
            f"The posterior is of a {type(model).__name__}, which has rows, not times: pi.Predictor(posterior). A "
            "Forecaster is for the posterior of a pi.StateSpace."
        )
    check_filter("Forecaster", filter)
    if model.linear is not None and (particles is not None or filter is not None):
        raise MethodError(
            f"Forecaster: {'particles' if particles is not None else 'filter'} came, but the model is linear Gaussian "
            "and needs no particles: leave it out."
        )
    bound = model.bind(posterior.data)
    series = Series(*(np.asarray(bound.arrays[name]) for name in ("observations", "observed")))
    sets, chains = _chosen(posterior, model, draws or (_EXACT_DRAWS if model.linear is not None else _DRAWS))
    motion = motion_of(model, series, sets, chains)
    even = np.full(motion.size, -np.log(motion.size))
    if model.linear is not None:
        before = Standing(0, len(series.values), even, (), words)
        return motion, _exactly(model, motion, before, series), series_sketch(series)
    method = filter or ParticleFilter()
    passed = passes(model, method, series, sets, words, keep=Keep.LAST, particles=particles or _PARTICLES)
    average = passed.ess.mean(axis=0)
    standing = Standing(
        time=len(series.values),
        fitted=len(series.values),
        log_weights=even,
        state=(passed.particles[:, 0], passed.log_weights[:, 0]),
        words=words,
        ess=float(average.min()),
        worst=int(average.argmin()),
    )
    return motion, standing, series_sketch(series)


def _exactly(model: StateSpace, motion: Motion, before: Standing, series: Series) -> Standing:
    """After the data, by Kalman's filter. They count in the posterior already, so the draws keep their weights."""

    linear = model.linear
    assert linear is not None

    def start(_: Motion, draws: Any) -> Any:
        return jax.vmap(lambda params: tuple(jnp.asarray(part, float) for part in linear.start(params)))(draws)

    begun = replace(before, state=motion.call(start, motion.draws))
    if motion.event == ():
        series = Series(*(part[:, 0] for part in series))
    after, _ = follow(motion, begun, series)
    return replace(after, log_weights=before.log_weights)


def _chosen(posterior: "Posterior", model: StateSpace, count: int) -> tuple[dict[str, np.ndarray], int | None]:
    """Draws of the parameters, evenly from every chain, and how many chains they are."""
    evidence = posterior.report.evidence
    chains = evidence.chains
    length = len(next(iter(posterior.latents.values()))) // chains
    each = min(max(-(-count // chains), 1), length)
    rows = (np.arange(chains)[:, None] * length + np.linspace(0, length - 1, each).round().astype(int)).ravel()
    sets = {name: np.asarray(posterior.latents[name][rows], dtype=float) for name in model.prior}
    return sets, chains if evidence.chained else None
