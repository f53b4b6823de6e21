"""More data for a model: the data together, and the posterior so far as the place to begin."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import DataError, ModelError
from probinfer.inference.undefined import Undefined
from probinfer.model.tables import as_frame
from probinfer.model.target import Target
from probinfer.model.trace import is_discrete, site_transform


def appended(before: Mapping[str, Any], new: Any) -> dict[str, Any]:
    """The data with new rows: arrays given again are appended along their first axis, other values replaced.

    Raises DataError for names that the data do not have, and shapes that do not go together.
    """
    new = as_frame(new)
    new = {str(name): new[name] for name in new} if hasattr(new, "columns") else new
    if not isinstance(new, Mapping):
        raise DataError(f"new_data came as {type(new).__name__}; wanted a dict of arrays, or a data frame.")
    unknown = [name for name in new if name not in before]
    if unknown or not new:
        came = ", ".join(map(repr, unknown)) or "nothing"
        raise DataError(f"new_data has {came}; wanted new rows for some of {', '.join(before)}.")
    together = dict(before)
    for name, value in new.items():
        old, more = np.asarray(before[name]), np.asarray(value)
        if old.ndim == 0:
            together[name] = value
        elif more.ndim != old.ndim or more.shape[1:] != old.shape[1:]:
            raise DataError(
                f"new_data: {name} has shape {more.shape}; wanted (rows, {', '.join(map(str, old.shape[1:]))}), to go "
                f"under the {len(old)} rows that there are."
            )
        else:
            together[name] = np.concatenate([old, more])
    return together


class PosteriorBefore:
    """Draws of the posterior before the new data, with log p(z | all data) - log p(z | data before)."""

    laws: ClassVar[tuple] = ()  # not the prior

    def __init__(self, old: Target, target: Target, latents: Mapping[str, np.ndarray]) -> None:
        shapes = [{site.name: site.shape for site in each.latents} for each in (old, target)]
        if shapes[0] != shapes[1]:
            changed = [name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name)]
            raise ModelError(
                f"The new data change the shape of {', '.join(changed)}: the draws so far have no values for the new "
                "entries. Use pi.infer with all the data."
            )
        self.target, self._old, self.undefined = target, old, Undefined(target)
        self._z = unconstrained(old, latents)
        self._queue = np.empty(0, int)
        self._weights = jax.jit(jax.vmap(self.log_weight, in_axes=(0, None)))

    def log_weight(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Log weight at one point z (d,), for use inside compiled functions."""
        return self.target.log_density(z, inputs) - self._old.log_density(z, self._old.inputs)

    def densities(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Log density with all data and log weight at one point z (d,), for use inside compiled functions."""
        whole = self.target.log_density(z, inputs)
        return whole, whole - self._old.log_density(z, self._old.inputs)

    def draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n of the draws, none again before all have been used, with their log weights."""
        while len(self._queue) < n:
            self._queue = np.concatenate([self._queue, generator.permutation(len(self._z))])
        z, self._queue = self._z[self._queue[:n]], self._queue[n:]
        with self.target.precision():
            weights = np.asarray(self._weights(z.astype(self.target.dtype), self.target.inputs), float)
        return z, self.undefined.without(z, weights)


def unconstrained(target: Target, latents: Mapping[str, np.ndarray]) -> np.ndarray:
    """Named draws, each (n, *shape), as points (n, d)."""

    def of(site: Any) -> jax.Array:
        if is_discrete(site):
            return jnp.asarray(site["value"], target.dtype)
        return site_transform(site)._inverse(site["value"])

    def at(values: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]) -> jax.Array:
        trace = target.bound.simulate(values, inputs)
        return jnp.concatenate([jnp.ravel(of(trace[name])) for name in target.layout_names])

    with target.precision():
        values = {site.name: jnp.asarray(latents[site.name]) for site in target.bound.latents}
        return np.asarray(jax.jit(jax.vmap(at, in_axes=(0, None)))(values, target.inputs), float)
