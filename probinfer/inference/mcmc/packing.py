"""Trees of arrays as one vector. A compiled program takes and gives some microseconds for every array, and hands the
work of many small ones out to threads that then wait for each other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Packing:
    """Where the leaves of a tree lie in a vector of numbers of one type, which holds the values of all of them.

    `template` is a tree of arrays, or of their shapes and types.

    >>> packing = Packing({"a": np.zeros((2, 2), bool), "b": np.float64(0)})
    >>> packing.pack({"a": np.eye(2, dtype=bool), "b": np.float64(7)}, np.float64).tolist()
    [1.0, 0.0, 0.0, 1.0, 7.0]
    >>> packing.unpack(np.array([[1.0, 0, 0, 1, 7], [0, 0, 0, 0, 8]]))["b"].tolist()
    [7.0, 8.0]
    """

    def __init__(self, template: Any) -> None:
        leaves, self._structure = jax.tree.flatten(template)
        self._kinds = [(tuple(leaf.shape), leaf.dtype) for leaf in leaves]
        ends = np.cumsum([int(np.prod(shape)) for shape, _ in self._kinds]).tolist()
        self._spans = list(zip([0, *ends], ends, strict=False))
        self.size = ends[-1]

    def pack(self, tree: Any, dtype: Any) -> Any:
        """The vectors (..., size) of a tree, whose leaves may all have further axes in front: of NumPy's arrays, or of
        JAX's inside a program."""
        leaves = self._structure.flatten_up_to(tree)
        host = all(isinstance(leaf, np.ndarray | np.generic) for leaf in leaves)
        join: Callable = np.concatenate if host else jnp.concatenate
        parts = leaves if host else [jnp.asarray(leaf) for leaf in leaves]
        flat = [
            part.reshape((*part.shape[: part.ndim - len(shape)], -1)).astype(dtype)
            for part, (shape, _) in zip(parts, self._kinds, strict=True)
        ]
        return join(flat, axis=-1)

    def unpack(self, packed: Any) -> Any:
        """The trees of vectors (..., size): each leaf with their leading axes before its own. Leaves of the type of the
        vectors are views of these where NumPy can make them."""
        leading = tuple(packed.shape[:-1])
        leaves = [
            packed[..., first:last].reshape(leading + shape)
            for (first, last), (shape, _) in zip(self._spans, self._kinds, strict=True)
        ]
        leaves = [
            leaf if leaf.dtype == dtype else leaf.astype(dtype)
            for leaf, (_, dtype) in zip(leaves, self._kinds, strict=True)
        ]
        return jax.tree.unflatten(self._structure, leaves)
