"""The function whose expectation is wanted, applied to many points: numbers, arrays or dicts out, one table within."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from probinfer.errors import MethodError
from probinfer.model.trace import VALUE_NEEDED

_CHUNK = 2**14  # points at a time: a compiled program serves any number of them


@functools.partial(jax.jit, static_argnums=0)
def _mapped(f: Callable, points: Any) -> Any:
    return jax.vmap(f)(points)


class Integrand:
    """f of one point, or with `batched` of many at once; call it with points (n, ...) for its values (n, k).

    After the first call `shaped` turns a row of k numbers back into what f returns.
    """

    def __init__(self, f: Callable, *, batched: bool, name: str = "f") -> None:
        if not callable(f):
            raise MethodError(f"{name} came as {type(f).__name__}; wanted a function of one point, such as jnp.sin.")
        self.f, self.batched, self.name = f, batched, name
        self._structure: Any = None
        self._shapes: list[tuple[int, ...]] = []

    def __call__(self, points: Any) -> np.ndarray:
        """Values (n, k) in double precision, at points with n along the first axis of every array."""
        n = len(jax.tree.leaves(points)[0])
        parts = []
        for start in range(0, n, _CHUNK):
            chunk = jax.tree.map(lambda leaf: leaf[start : start + _CHUNK], points)  # noqa: B023 - used at once
            parts.append(self._evaluate(chunk, min(_CHUNK, n - start), n > _CHUNK))
        return np.concatenate(parts)

    def shaped(self, row: np.ndarray) -> Any:
        """k numbers in the shape that f returns: a float, an array or a dict of them."""
        leaves, start = [], 0
        for shape in self._shapes:
            size = int(np.prod(shape, dtype=int))
            part = np.asarray(row[start : start + size])
            leaves.append(float(part[0]) if shape == () else part.reshape(shape))
            start += size
        return jax.tree.unflatten(self._structure, leaves)

    def _evaluate(self, points: Any, n: int, pad: bool) -> np.ndarray:
        if self.batched:
            values = self.f(points)
        else:
            if pad and n < _CHUNK:
                points = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[np.zeros(_CHUNK - n, int)]]), points)
            try:
                with jax.enable_x64(True):
                    values = _mapped(self.f, points)
            except VALUE_NEEDED:
                raise MethodError(
                    f"{self.name} needs the numbers themselves and cannot be traced by JAX. Write it with jax.numpy, "
                    "as a function of one point; or pass batched=True and a function of all points at once in NumPy."
                ) from None
            except TypeError as error:
                if "not a valid JAX type" not in str(error):
                    raise
                raise MethodError(
                    f"{self.name} returned what is no number; wanted real numbers: one, an array, or a dict."
                ) from None
        leaves, structure = jax.tree.flatten(values)
        leaves = [np.asarray(leaf) for leaf in leaves]
        if not leaves or any(leaf.dtype.kind not in "biuf" for leaf in leaves):
            came = "complex numbers" if any(leaf.dtype.kind == "c" for leaf in leaves) else type(values).__name__
            do = "; give its real and imaginary parts as two of a dict" if came == "complex numbers" else ""
            raise MethodError(f"{self.name} returned {came}; wanted real numbers: one, an array, or a dict{do}.")
        if any(leaf.ndim == 0 or len(leaf) < n for leaf in leaves):
            raise MethodError(
                f"{self.name} returned shape {leaves[0].shape} for {n} points; with batched=True it has to return one "
                "entry for each point along its first axis."
            )
        if not sum(leaf[:1].size for leaf in leaves):
            raise MethodError(f"{self.name} returned an array without entries; wanted at least one number.")
        self._structure, self._shapes = structure, [leaf.shape[1:] for leaf in leaves]
        return np.concatenate([np.asarray(leaf[:n], float).reshape(n, -1) for leaf in leaves], axis=1)
