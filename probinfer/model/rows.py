"""A bound model taken apart into rows: log prior + Σ_i log p(y_i | z), each term computable from a batch of them."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import DataError, MethodError, ModelError
from probinfer.model.model import BoundModel, Model
from probinfer.model.target import Target
from probinfer.model.trace import pointwise_log_densities

_CHECKED = 64  # rows that are looked at before any work
_AGREES, _AGREES_SINGLE = 1e-8, 1e-4  # relative differences up to which two terms are the same


class Rows:
    """The terms of a target by row of its data, and the sum over any of them with weights.

        log p(z | y) = log prior(z) + Σ_i log p(y_i | z) + const

    A row is an index of the first axis of the outcome; all data whose first axis is as long are taken by row, the rest
    as they are. That the terms of some rows do not depend on which other rows there are, nor on how many, is verified
    at a random point before any work.

    Args:
        target: the target, whose space this has too.
        batch: rows of a batch.
        owner: the method, for texts.
        setting: its name for the batch, for texts.

    Raises:
        MethodError: the batch is empty or larger than the data, or the model has no such rows: no outcome, an outcome
            that is one vector, a latent site with an entry for each row, rows that depend on one another.
    """

    def __init__(self, target: Target, batch: int, owner: str, setting: str = "minibatch") -> None:
        self._target, self._owner = target, owner
        bound = target.bound
        lengths = {site.name: site.shape[0] if site.shape else 0 for site in bound.observed}
        if not lengths or len(set(lengths.values())) > 1 or min(lengths.values()) == 0:
            came = ", ".join(f"{name} with {length}" for name, length in lengths.items()) or "no outcome"
            raise MethodError(f"{owner} needs outcomes with one entry for each row of the data; came {came}.")
        self.count = next(iter(lengths.values()))
        if not 1 <= batch <= self.count:
            raise MethodError(
                f"{owner}: {setting} is {batch}, and there are {self.count} rows; wanted 1 to {self.count} of them."
            )
        self.batch = batch
        self._by_row = {name: array for name, array in bound.arrays.items() if array.shape[:1] == (self.count,)}
        self._whole = {name: array for name, array in bound.arrays.items() if name not in self._by_row}
        self._part = self._bound(batch)
        self._check()

    def resized(self, batch: int) -> Self:
        """The same rows in batches of another size, 1 to `count`; what was verified holds for them too."""
        assert 1 <= batch <= self.count
        other = copy.copy(self)
        other.batch, other._part = batch, self._bound(batch)
        return other

    @property
    def by_row(self) -> list[str]:
        """Names of the data that are taken by row."""
        return list(self._by_row)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The data of these rows (..., batch): each array by row as (..., batch, *rest)."""
        return {name: array[rows] for name, array in self._by_row.items()}

    def shapes(self, *lead: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of what `take` gives for indices of the shape `lead`, as a program takes them."""
        with self._target.precision():
            return {
                name: jax.ShapeDtypeStruct((*lead, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype))
                for name, array in self._by_row.items()
            }

    @property
    def whole(self) -> dict[str, jax.Array]:
        """The data that every row shares, on the device."""
        with self._target.precision():
            return {name: jnp.asarray(array) for name, array in self._whole.items()}

    def density(
        self, z: jax.Array, taken: Mapping[str, Any], whole: Mapping[str, Any], prior: Any, weights: jax.Array
    ) -> jax.Array:
        """prior * log prior(z) + Σ weights_i log p(y_i | z), the sum over the rows of `taken`; weights (batch,)."""
        own, terms = self._terms(self._part, z, {**taken, **whole})
        return prior * own + jnp.sum(weights * terms)

    def _bound(self, size: int) -> BoundModel:
        """The model bound to its first `size` rows."""
        bound = self._target.bound
        arrays = {name: array[:size] for name, array in self._by_row.items()}
        try:
            data = {**bound.constants, **arrays, **self._whole}
            # of a model with preprocessing, which the arrays have been through already, the function alone
            part = bound.model.bind(data) if bound.pipeline is None else Model.bind(bound.model, data)
        except (DataError, ModelError) as error:
            raise MethodError(
                f"{self._owner}: the model does not run on {size} of its {self.count} rows. Take the size of its "
                f"plates from the data, as in numpyro.plate('row', len(y)). It said: {error}"
            ) from None
        sizes = {site.name: site.shape for site in bound.latents}
        for site in part.latents:
            if site.shape != sizes[site.name]:
                raise MethodError(
                    f"{self._owner}: the latent site {site.name} has an entry for each row, shape {sizes[site.name]}; "
                    "minibatches are for parameters that all rows share. Use pi.NUTS()."
                )
        return part

    def _terms(self, part: BoundModel, z: jax.Array, arrays: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        """Log prior with the Jacobian, and the log densities of the rows (batch,)."""
        trace = part.simulate_unconstrained(self._target.split(z), arrays)
        observed = {site.name for site in part.observed}
        prior: Any = jnp.zeros((), z.dtype)
        rows: Any = jnp.zeros((), z.dtype)
        for name, values in pointwise_log_densities(trace).items():
            scaled = values if trace[name]["scale"] is None else values * trace[name]["scale"]
            if name not in observed:
                prior += jnp.sum(scaled)
            elif jnp.ndim(scaled) == 0:
                raise MethodError(
                    f"{self._owner}: the outcome {name} is one vector for its distribution (to_event); put its rows "
                    "into a numpyro.plate, so that each has a log density of its own."
                )
            else:
                rows += jnp.sum(scaled.reshape(scaled.shape[0], -1), axis=1)
        return prior, rows

    def _check(self) -> None:
        """Terms of rows must stay the same when every other row is another one, and when there are fewer."""
        target, size = self._target, min(self.count, _CHECKED)
        generator = np.random.default_rng(0)
        z = generator.uniform(-1, 1, target.dim).astype(target.dtype)
        first, kept, few = np.arange(size), np.arange(size) % 2 == 0, max(1, size // 2)
        others = np.where(kept, first, generator.integers(0, self.count, size))
        part = self._bound(size)
        seen = []
        with target.precision():
            for rows, bound in ((first, part), (others, part), (first[:few], self._bound(few))):
                program = jax.jit(lambda z, arrays, bound=bound: self._terms(bound, z, arrays))
                prior, terms = program(z, {**self.take(rows), **self._whole})
                seen.append((float(prior), np.asarray(terms, float)))
        tolerance = _AGREES if target.float64 else _AGREES_SINGLE

        def same(a: np.ndarray, b: np.ndarray) -> bool:
            return bool(np.all(np.abs(a - b) <= tolerance * (1 + np.abs(a))))

        pairs = [(seen[0][1][kept], seen[1][1][kept]), (seen[0][1][:few], seen[2][1])]
        priors = np.array([prior for prior, _ in seen])
        if not (all(same(a, b) for a, b in pairs) and same(priors, np.full(3, priors[0]))):
            raise MethodError(
                f"{self._owner}: the log density of a row depends on which other rows there are (a time series, or a "
                "prior made from the data, perhaps), so that it cannot be estimated from a part of them. Use pi.NUTS()."
            )
