"""Log densities and their slopes at many points: without bias from a few rows, or exactly from all, a chunk at a time.

    log p^(z) = log p(ẑ) + g·(z - ẑ) + [l_S(z) - l_S(ẑ) - ∇l_S(ẑ)·(z - ẑ)],   g = ∇log p(ẑ)

    l_S = log prior + (N / |S|) Σ_{i in S} log p(y_i | ·)

S are rows drawn at random, with replacement; log p(ẑ) and g are from all rows. The bracket is of second order near ẑ:
where the posterior is, its noise does not grow with the number of rows, for the value and for the slope.
Baker, Fearnhead, Fox & Nemeth (2019), Statistics and Computing 29; Johnson & Zhang (2013), NeurIPS.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.mcmc.stochastic import ROWS, AllRows
from probinfer.inference.variational.elbo import CHUNK, in_chunks
from probinfer.inference.variational.families import Gradients
from probinfer.model.rows import Rows
from probinfer.model.target import Target

_POINTS = 128  # of a call that goes through all rows


class Known(NamedTuple):
    """What all rows say at one point: position (d,), log density, slope (d,); `used` is 0 where that is not known."""

    position: Any
    value: Any
    slope: Any
    used: Any


def estimate(rows: Rows, z: jax.Array, taken: Any, whole: Any, known: Known) -> tuple[jax.Array, jax.Array]:
    """Unbiased log densities (n,) and slopes (n, d) at points (n, d), from the rows taken."""
    weights = jnp.full(rows.batch, rows.count / rows.batch, z.dtype)
    one = jax.value_and_grad(rows.density)
    value, slope = jax.vmap(one, (0, None, None, None, None))(z, taken, whole, 1.0, weights)
    value_there, slope_there = one(known.position, taken, whole, 1.0, weights)
    more = known.slope - slope_there
    use = known.used > 0
    by_value = known.value - value_there + (z - known.position) @ more
    return value + jnp.where(use, by_value, 0.0), slope + jnp.where(use, more, 0.0)


class SampledRows:
    """The target seen through rows drawn at random; counts how often all of them were gone through.

    Args:
        rows: the target by row; its batch is what one estimate takes.
        target: the target.
        generator: draws the rows.
    """

    def __init__(self, rows: Rows, target: Target, generator: np.random.Generator) -> None:
        self.rows, self.target = rows, target
        self._generator = generator
        self._all = AllRows(rows, target, ROWS)
        self._whole = rows.whole
        self._weighed = 0

    @property
    def passes(self) -> int:
        """Times that all rows were gone through, each for one point."""
        return self._all.passes + self._weighed

    def nothing_known(self) -> Known:
        """No correction: the plain estimate from the rows drawn."""
        nowhere = np.zeros(self.target.dim, self.target.dtype)
        return Known(nowhere, self.target.dtype.type(0), nowhere, self.target.dtype.type(0))

    def known_at(self, z: np.ndarray) -> Known:
        """One pass over all rows, for the point z (d,)."""
        value, slope = self._all(z)
        cast = self.target.dtype.type
        return Known(z.astype(cast), cast(value), slope.astype(cast), cast(1))

    def fresh(self, points: int) -> Any:
        """A function (points (n, d), known) -> log densities (n,), slopes (n, d), with new rows at every call."""
        program = self._program(self.rows, points)

        def ask(z: np.ndarray, known: Known) -> tuple[np.ndarray, np.ndarray]:
            taken = self.rows.take(self._generator.integers(0, self.rows.count, self.rows.batch))
            with self.target.precision():
                values, slopes = program(z.astype(self.target.dtype), taken, self._whole, known)
            return np.asarray(values, float), np.asarray(slopes, float)

        return ask

    def fixed(self, count: int, known: Known) -> Gradients:
        """The log density that `count` rows, drawn now without replacement, give with what is known."""
        rows = self.rows.resized(count)
        programs = {many: self._program(rows, many) for many in (1, CHUNK)}
        with self.target.precision():
            chosen = self._generator.permutation(rows.count)[:count]
            taken = jax.tree.map(jnp.asarray, rows.take(chosen))
        return in_chunks(self.target, lambda many, z: programs[many](z, taken, self._whole, known))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Exact log densities (n,) at points (n, d) from all rows; memory is bounded whatever n and their number."""
        rows, target = self._all.rows, self.target
        values = np.zeros(len(z))
        points = min(len(z), _POINTS)
        with target.precision():
            program = self._density_program(rows, points)
            for first in range(0, rows.count, rows.batch):
                chosen = np.arange(first, first + rows.batch)
                weights = (chosen < rows.count).astype(target.dtype)
                taken = jax.tree.map(jnp.asarray, rows.take(np.minimum(chosen, rows.count - 1)))
                for start in range(0, len(z), points):
                    part = z[start : start + points]
                    padded = np.concatenate([part, np.broadcast_to(part[:1], (points - len(part), target.dim))])
                    prior = target.dtype.type(first == 0)
                    more = program(padded.astype(target.dtype), taken, self._whole, prior, weights)
                    values[start : start + len(part)] += np.asarray(more)[: len(part)]
        self._weighed += len(z)
        return values

    def _density_program(self, rows: Rows, points: int) -> Any:
        target = self.target
        scalar, weights = (jax.ShapeDtypeStruct(shape, target.dtype) for shape in ((), (rows.batch,)))
        return target.compile(
            f"log density of rows {rows.batch} at {points}",
            jax.vmap(rows.density, (0, None, None, None, None)),
            jax.ShapeDtypeStruct((points, target.dim), target.dtype),
            rows.shapes(rows.batch),
            self._whole,
            scalar,
            weights,
        )

    def _program(self, rows: Rows, points: int) -> Any:
        target = self.target
        with target.precision():
            known = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self.nothing_known())

            def run(z: jax.Array, taken: Any, whole: Any, known: Known) -> tuple[jax.Array, jax.Array]:
                return estimate(rows, z, taken, whole, known)

            point = jax.ShapeDtypeStruct((points, target.dim), target.dtype)
            name = f"estimate {rows.batch} of {rows.count} at {points}"
            return target.compile(name, run, point, rows.shapes(rows.batch), self._whole, known)
