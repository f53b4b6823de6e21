"""Data drawn anew from a model: outcomes given parameters, or parameters and outcomes from the prior."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from probinfer.errors import ModelError
from probinfer.inference.draw import key_words
from probinfer.model.model import BoundModel
from probinfer.model.trace import is_factor, one_model_at_a_time

_CHUNK = 64 * 2**20  # bytes of one array of outcomes made at once


def observed_value(bound: BoundModel, name: str) -> np.ndarray:
    """What an observed site of the model was given: the data, or what the function made of them (obs=jnp.log(y))."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda arrays: bound.simulate({}, arrays)[name]["value"])(bound.arrays))


def replicate(bound: BoundModel, latents: Mapping[str, np.ndarray], seed: Any) -> dict[str, np.ndarray]:
    """Outcomes of every observed site, one data set for each of the draws (s, *shape): (s, *shape of the site)."""

    def one(words: jax.Array, values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return _outcomes(bound.simulate(values), jax.random.wrap_key_data(words, impl="threefry2x32"))

    names = [site.name for site in bound.latents]
    return _mapped(one, bound, {name: np.asarray(latents[name]) for name in names}, len(latents[names[0]]), seed)


def prior_draws(bound: BoundModel, count: int, seed: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters from the prior, and outcomes given each of them. ModelError for a site that has no prior."""

    def one(words: jax.Array, _: Any) -> dict[str, jax.Array]:
        key, noise = jax.random.split(jax.random.wrap_key_data(words, impl="threefry2x32"))
        with one_model_at_a_time:
            seeded = handlers.trace(handlers.seed(bound.model.fn, key))
            trace = seeded.get_trace(**{**bound.constants, **bound.arrays})
        values = {f"latent {site.name}": trace[site.name]["value"] for site in bound.latents}
        return {**values, **_outcomes(trace, noise)}

    try:
        drawn = _mapped(one, bound, {}, count, seed)
    except NotImplementedError as error:
        raise ModelError(
            "A site of this model has no prior to draw from (an improper prior, or a log density). Give every "
            "parameter a proper prior to check it."
        ) from error
    latents = {site.name: drawn.pop(f"latent {site.name}") for site in bound.latents}
    return latents, drawn


def _outcomes(trace: Mapping[str, Any], key: jax.Array) -> dict[str, jax.Array]:
    found = {}
    observed = [site for site in trace.values() if site["type"] == "sample" and site["is_observed"]]
    for number, site in enumerate(site for site in observed if not is_factor(site)):
        law, shape = site["fn"], jnp.shape(site["value"])
        batch = shape[: len(shape) - law.event_dim]
        law = law if tuple(law.batch_shape) == batch else law.expand(batch)
        found[site["name"]] = law.sample(jax.random.fold_in(key, number))
    return found


def _mapped(
    one: Callable, bound: BoundModel, values: Mapping[str, np.ndarray], count: int, seed: Any
) -> dict[str, np.ndarray]:
    """`one` of each draw, with a key of its own, in chunks that bound the memory."""
    entries = 8 * max(1, sum(int(np.prod(site.shape)) for site in (*bound.observed, *bound.latents)))
    step = max(1, min(count, _CHUNK // entries))
    words = np.random.SeedSequence(key_words(seed).tolist()).generate_state(2 * count, np.uint32).reshape(count, 2)
    with jax.enable_x64(True):
        program = jax.jit(jax.vmap(one))
        parts = []
        for start in range(0, count, step):
            take = np.minimum(np.arange(start, start + step), count - 1)  # the last chunk has the shape of the others
            made = program(words[take], {name: array[take] for name, array in values.items()})
            parts.append({name: np.asarray(array)[: count - start] for name, array in made.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
