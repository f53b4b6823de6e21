"""Arrays that repeat a few slices along an axis, computed once for each of these. Imports JAX only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

_MOST = 16  # different slices: of more, arrays are spread at once


@dataclass(frozen=True, eq=False)
class Few:
    """An array whose slice n along `axis` is slice index[n] of `values`. No pytree: to JAX's functions it is one leaf.

    >>> Few(jnp.array([7, 9]), np.array([0, 1, 0, 1]), 0).spread().tolist()
    [7, 9, 7, 9]
    """

    values: Any
    index: np.ndarray
    axis: int

    def spread(self) -> Any:
        """The whole array. The gradient of what is chosen between is a sum over a mask, that of a lookup a loop."""
        values = jnp.asarray(self.values)
        sizes = [-1 if i == self.axis else 1 for i in range(values.ndim)]
        index = self.index.reshape(sizes)
        found = lax.slice_in_dim(values, 0, 1, axis=self.axis)
        whole = [len(self.index) if i == self.axis else size for i, size in enumerate(values.shape)]
        found = jnp.broadcast_to(found, whole)
        for number in range(1, values.shape[self.axis]):
            part = lax.slice_in_dim(values, number, number + 1, axis=self.axis)
            found = jnp.where(index == number, part, found)
        return found

    def at(self, number: int) -> Any:
        """One slice, without the axis."""
        return lax.index_in_dim(jnp.asarray(self.values), int(self.index[number]), self.axis, keepdims=False)


def different(values: np.ndarray, axis: int) -> Few:
    """The different slices along an axis of an array whose numbers are known.

    >>> different(np.array([[4, 5], [4, 5], [0, 0]]), 0).index.tolist()
    [1, 1, 0]
    """
    found, index = np.unique(values, axis=axis, return_inverse=True)
    return Few(found, index.ravel(), axis)


def spread(value: Any) -> Any:
    """The whole array, of one with few slices or any other."""
    return value.spread() if isinstance(value, Few) else value


def together(few: Sequence[Few]) -> tuple[list[Any], np.ndarray] | None:
    """Values with slices for all the different combinations that these arrays have side by side, and which of them is
    where; None if there are too many."""
    rows, index = np.unique(np.stack([one.index for one in few]), axis=1, return_inverse=True)
    if rows.shape[1] > _MOST or rows.shape[1] == index.size:
        return None
    found = []
    for one, taken in zip(few, rows, strict=True):
        as_it_is = np.array_equal(taken, np.arange(jnp.shape(one.values)[one.axis]))
        found.append(one.values if as_it_is else jnp.take(jnp.asarray(one.values), taken, axis=one.axis))
    return found, index.ravel()


def after_first(first: Any, handed_on: Few, *, reverse: bool) -> Few:
    """What comes in at each step of a loop whose steps hand on few different things, along axis 0: at the first step
    `first` (…), then what the one before handed on."""
    values = jnp.asarray(handed_on.values)
    rest = jnp.broadcast_shapes(jnp.shape(first), values.shape[1:])
    begin = jnp.broadcast_to(first, (1, *rest)).astype(values.dtype)
    values = jnp.concatenate([begin, jnp.broadcast_to(values, (len(values), *rest))])
    index = handed_on.index + 1
    return Few(values, np.append(index[1:], 0) if reverse else np.append(0, index[:-1]), 0)
