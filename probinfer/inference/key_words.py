"""The randomness of a run, from what a user gives as seed. Imports jax."""

from typing import Any

import jax
import numpy as np

from probinfer.errors import MethodError


def key_words(seed: Any) -> np.ndarray:
    """Two words of 32 bits from an int or a jax key."""
    if isinstance(seed, bool) or seed is None:
        raise MethodError(f"seed is {seed!r}; wanted a whole number or a jax key.")
    if isinstance(seed, int | np.integer):
        if seed < 0:
            raise MethodError(f"seed is {seed}; wanted a whole number, 0 or more, or a jax key.")
        return np.random.SeedSequence(int(seed)).generate_state(2, np.uint32)
    if isinstance(seed, jax.Array) and jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key):
        seed = jax.random.key_data(seed)
    words = np.asarray(seed)
    if words.dtype != np.uint32 or words.ndim != 1 or not 1 <= words.size <= 4:
        raise MethodError(f"seed came as {type(seed).__name__}; wanted a whole number or one jax key, such as 0.")
    return np.random.SeedSequence([int(word) for word in words]).generate_state(2, np.uint32)
