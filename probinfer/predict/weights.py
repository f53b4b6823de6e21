"""Draws that do not count alike: the weights of a compressed predictor, and averages by them. Imports jax and numpy."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp


@dataclass(frozen=True, eq=False)
class Weights:
    """What each of the draws stands for.

    values      (S,), positive; they add up to one
    mean_error  Monte Carlo error of a row's mean in units of its epistemic sd. Weighted draws are no sample, so they
                do not show it themselves: it is the largest one that the draws before compression had.
    """

    values: np.ndarray
    mean_error: float

    def __post_init__(self) -> None:
        values = self.values
        if values.ndim != 1 or not np.all(values > 0.0) or not abs(float(np.sum(values)) - 1.0) < 1e-9:
            raise ValueError("weights are positive numbers that add up to one")
        if not 0.0 <= self.mean_error < np.inf:
            raise ValueError("the Monte Carlo error is a number from 0")

    def copied(self, copies: int) -> "Weights":
        """Of so many copies of the draws, one after the other."""
        return Weights(np.tile(self.values, copies) / copies, self.mean_error) if copies > 1 else self

    def pick(self, count: int, start: float) -> np.ndarray:
        """Numbers of `count` draws, each as often as its weight says, rounded up or down; start in [0, 1)."""
        ends = np.cumsum(self.values)
        places = (start + np.arange(count)) / max(count, 1)
        return np.minimum(np.searchsorted(ends / ends[-1], places, side="right"), len(ends) - 1)


def average(values: Array, weights: Weights | None, axis: int = 1) -> Array:
    """The mean of `values` over the draws, which are on `axis`; without weights they count alike."""
    if weights is None:
        return jnp.mean(values, axis=axis)
    shape = [1] * values.ndim
    shape[axis] = -1
    return jnp.sum(values * jnp.asarray(weights.values, values.dtype).reshape(shape), axis=axis)


def log_average(values: Array, weights: Weights | None) -> Array:
    """log of the mean of exp(values) over the draws on the last axis, without overflow; -inf when all are."""
    if weights is None:
        return logsumexp(values, axis=-1) - jnp.log(values.shape[-1])
    return logsumexp(values + jnp.log(jnp.asarray(weights.values, values.dtype)), axis=-1)
