"""A target over the continuous sites of a model, its discrete sites summed out, and the way back to all of them."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.exact.elimination import CannotSum, drawn, eliminate, own_rows, scores
from probinfer.model.model import BoundModel
from probinfer.model.target import Seen, Target

_CHUNK_BYTES = 64 * 2**20  # of scores computed at once


class Whole(Target):
    """The target of all sites of a model whose discrete sites are summed out.

    Its log likelihood of a row is log p(y_n | θ) where every discrete site that matters to the row alone is summed out:

        log Σ_k p(z_n = k | θ) p(y_n | z_n = k, θ)

    log p(y_n | z_n, θ), with z_n drawn given y_n, would say nothing about how a new row is predicted.
    """

    summed: "Summed"

    def pointwise_log_likelihood(self, positions: np.ndarray) -> dict[str, np.ndarray] | None:
        """As for `Target`, with a row's own discrete sites summed out."""
        found = super().pointwise_log_likelihood(positions)
        return found if found is None else {**found, **self.summed.rows_log_likelihood(positions)}


class Summed(Target):
    """log Σ_d p(z, d | data) on R^d, where z stacks the continuous sites and d are the discrete ones.

        d ~ p(d | z, data),   drawn afterwards for each draw of z, is exact: `complete`

    `whole` is the target of all sites, which has the posterior's draws. See elimination.py for how it is computed and
    which models can be.

    Args:
        bound: a model bound to its data, with discrete sites.
        float64, gradient: as for `Target`.

    Raises:
        CannotSum: the discrete sites have values without end, or too many entries depend on one another.
    """

    def __init__(self, bound: BoundModel, *, float64: bool = True, gradient: bool = True) -> None:
        self.whole = Whole(bound, float64=float64, gradient=gradient)
        self.whole.summed = self
        self._steps, self._levels = eliminate(self.whole)
        super().__init__(bound, float64=float64, gradient=gradient, without=bound.discrete)
        # what is left of the terms does not say which of them were the prior's
        self.fingerprint = f"{self.fingerprint} {self.whole.fingerprint}"

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Summed":
        """As for `Target`; which entries depend on which is read from the data anew, where they say it by an index."""
        return Summed(self.whole.with_arrays(arrays).bound, float64=self.float64)

    @property
    def words(self) -> str:
        """What is summed, for a report."""
        return "; ".join(step.words for step in reversed(self._steps))

    def log_prior(self) -> Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]:
        """The function (z, data) -> log Σ_d p(z, d), of the latent sites alone. Raises CannotSum as for all sites."""
        _, levels = eliminate(self.whole, prior=True)

        def at(z: jax.Array, inputs: Mapping[str, jax.Array]) -> jax.Array:
            terms = levels[-1](self.split(z), {}, inputs).values()
            return sum((jnp.sum(term) for term in terms), start=jnp.zeros((), z.dtype)).astype(z.dtype)

        return at

    @property
    def extreme_states(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Every discrete site at the least of its values, and at the greatest."""
        least = {step.name: np.full(step.shape, step.choices.min()) for step in self._steps}
        return least, {step.name: np.full(step.shape, step.choices.max()) for step in self._steps}

    def complete(self, positions: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Points of all sites, (..., d) to (..., d of `whole`): discrete ones drawn from their law given the others.

        The same for a draw, whatever other draws there are: its randomness is that of `key` and its place.
        """
        lead = positions.shape[:-1]
        flat = positions.reshape(math.prod(lead), self.dim)
        places = np.stack(np.unravel_index(np.arange(len(flat)), lead), axis=-1).astype(np.uint32)
        out = np.empty((len(flat), self.whole.dim))
        cells = max(len(step.choices) * math.prod(step.shape) for step in self._steps)
        chunk = max(1, min(len(flat), _CHUNK_BYTES // (8 * cells)))
        with self.precision():
            shapes = [
                jax.ShapeDtypeStruct((chunk, self.dim), self.dtype),
                jax.ShapeDtypeStruct((chunk, places.shape[1]), np.uint32),
            ]
            words = jnp.asarray(key, np.uint32)
            many = jax.vmap(self._draw, in_axes=(0, 0, None, None))
            program = self.compile(f"discrete {chunk} {places.shape[1]}", many, *shapes, words, self.inputs)
            for start in range(0, len(flat), chunk):
                stop = min(start + chunk, len(flat))
                parts = [_padded(values[start:stop], chunk) for values in (flat.astype(self.dtype), places)]
                out[start:stop] = np.asarray(program(*parts, words, self.inputs))[: stop - start]
        return out.reshape(*lead, self.whole.dim)

    def named(self, position: np.ndarray) -> dict[str, np.ndarray]:
        """As for `Target`: the discrete sites have no values here."""
        there = self.whole.named(self.complete(position[None], np.zeros(2, np.uint32))[0])
        return {name: value for name, value in there.items() if name not in self.bound.discrete}

    def rows_log_likelihood(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """log p(y_n | z) for the outcomes whose rows have discrete sites of their own, at points of all sites."""
        observed = {site.name: site.shape for site in self.bound.observed}
        terms = own_rows(self._steps, observed, self.bound.discrete)
        if not terms:
            return {}

        def at(z: jax.Array, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            left = self._levels[-1](self.split(z), {}, inputs)
            return {outcome: left[term] for outcome, term in terms.items()}

        return self._map("log likelihood of rows", at, self.part(positions))

    def log_total(self) -> float:
        """The log density where there is no continuous site left: log p(data)."""
        assert self.dim == 0, "there are continuous sites left"
        return sum(self.site_log_densities(np.empty(0)).values())

    def part(self, positions: np.ndarray) -> np.ndarray:
        """Points of all sites, (..., d of `whole`), without the discrete ones: (..., d)."""
        names = self.whole.coordinate_names()
        return positions[..., [i for i, name in enumerate(names) if name not in self.bound.discrete]]

    def _draw(self, z: jax.Array, place: jax.Array, words: jax.Array, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """One point with its discrete sites: those summed out last are drawn first, the others given them."""
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        for i in range(place.shape[0]):
            key = jax.random.fold_in(key, place[i])
        u, sites = self.split(z), {}
        for i, step in reversed(list(enumerate(self._steps))):
            found, _ = scores(step, self._levels[i], u, sites, inputs)
            sites[step.name] = drawn(step, jax.random.fold_in(key, i), found)
        found = {**u, **sites}
        return jnp.concatenate([jnp.ravel(found[name]).astype(z.dtype) for name in self.whole.layout_names])

    def _simulate(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, Seen]:
        terms = {name: jnp.sum(term) for name, term in self._levels[-1](self.split(z), {}, inputs).items()}
        total = sum(terms.values(), start=jnp.zeros((), z.dtype)).astype(z.dtype)
        return total, Seen({}, {}, terms)


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.broadcast_to(values[:1], (size - len(values), *values.shape[1:]))])


__all__ = ["CannotSum", "Summed"]
