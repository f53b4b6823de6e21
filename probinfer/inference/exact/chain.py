"""Sums over the states of a chain, and draws of them: a discrete site whose entries meet their neighbours alone.

With potentials a_t(k) of single entries and b_t(k, l) of entry t at k and entry t + 1 at l,

    p(z) ∝ exp(Σ_t a_t(z_t) + Σ_t b_t(z_t, z_{t+1})),

the forward sums f_t(l) = a_t(l) + log Σ_k exp(f_{t-1}(k) + b_{t-1}(k, l)) give the sum over all K^T states in K² T
operations, and states are drawn from the last to the first given them.

Source: Rabiner, A tutorial on hidden Markov models and selected applications in speech recognition (1989). Imports JAX.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Potentials(NamedTuple):
    """Logs: single (T, K, …) and pair (T - 1, K, K, …), the values of an entry t before those of entry t + 1."""

    single: jax.Array
    pair: jax.Array


def alternating(values: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Arrays (K², …) with the size two along an axis: the value of the even entries and that of the odd ones, for all
    pairs of values.

    Each entry and its neighbour have every pair of values in one of them, whatever the number of entries. Other
    axes have the size one.
    """
    pairs = np.array([*itertools.product(values.tolist(), repeat=2)], int)
    return pairs.reshape(-1, *[2 if i == axis else 1 for i in range(len(shape))])


def neighbours(index: np.ndarray) -> bool:
    """Whether each row of entries (n, 2), negative for none, names one entry or two that follow one another."""
    both = (index >= 0).all(axis=1)
    return bool((np.abs(index[both, 0] - index[both, 1]) <= 1).all())


def single(found: jax.Array, index: np.ndarray | None, entries: int) -> jax.Array:
    """Potentials (T, K, …) of a term at states all alike, (K, …, N), whose entry n depends on entry index[n]."""
    rows = np.arange(entries) if index is None else np.maximum(index, 0)
    return _placed(jnp.moveaxis(found, -1, 0), rows, np.ones(len(rows), bool), entries)


def potentials(found: jax.Array, index: np.ndarray, entries: int) -> Potentials:
    """Of a term at the alternating states, (K², …, N), whose entry n depends on entries index[n], (N, 2)."""
    values = round(found.shape[0] ** 0.5)
    table = jnp.moveaxis(found, -1, 0)
    table = table.reshape(len(table), values, values, *table.shape[2:])  # by the value of even and of odd entries
    rows = np.where(index < 0, index.max(axis=1, keepdims=True), index)  # of one entry: twice the same
    first, last = np.maximum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
    alone = first == last
    same = jnp.moveaxis(jnp.diagonal(table, axis1=1, axis2=2), -1, 1)
    turned = (first % 2 == 1).reshape(-1, *[1] * (table.ndim - 1))
    pairs = jnp.where(turned, jnp.swapaxes(table, 1, 2), table)
    return Potentials(_placed(same, first, alone, entries), _placed(pairs, first, ~alone, entries - 1))


def _placed(terms: jax.Array, at: np.ndarray, which: np.ndarray, size: int) -> jax.Array:
    """Rows of `terms`, those that `which` names, each added where `at` says: (size, …)."""
    chosen = np.flatnonzero(which)
    at = at[chosen]
    if np.array_equal(at, np.arange(size)):
        return terms[chosen[0] : chosen[-1] + 1] if len(chosen) == np.ptp(chosen) + 1 else terms[chosen]
    return jnp.zeros((size, *terms.shape[1:]), terms.dtype).at[at].add(terms[chosen])


def total(given: Potentials) -> jax.Array:
    """The log of the sum over all states, (…). Only the last forward sums are kept: gradients through all are slow."""
    single, pair = given
    last, _ = lax.scan(lambda before, here: (_next(before, here), None), single[0], (single[1:], pair))
    return log_sum_exp(last)


def _forward(given: Potentials) -> jax.Array:
    """The forward sums, (T, K, …)."""
    single, pair = given

    def one(before: jax.Array, here: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        after = _next(before, here)
        return after, after

    _, later = lax.scan(one, single[0], (single[1:], pair))
    return jnp.concatenate([single[:1], later])


def _next(before: jax.Array, here: tuple[jax.Array, jax.Array]) -> jax.Array:
    return here[0] + log_sum_exp(before[:, None] + here[1])


def draw(key: jax.Array, given: Potentials) -> jax.Array:
    """The numbers of the values of all entries, drawn from their joint law: (T, …)."""
    forward = _forward(given)
    keys = jax.random.split(key, len(forward))
    last = pick(keys[-1], forward[-1])

    def one(after: jax.Array, here: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        key, sums, pair = here
        scores = sums + jnp.take_along_axis(pair, after[None, None], axis=1)[:, 0]
        found = pick(key, scores)
        return found, found

    _, before = lax.scan(one, last, (keys[:-1], forward[:-1], given.pair), reverse=True)
    return jnp.concatenate([before, last[None]])


def pick(key: jax.Array, scores: jax.Array) -> jax.Array:
    """The number of a choice for each entry, with probabilities in proportion to exp(scores), (c, …) -> (…); never one
    of probability zero."""
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    below = jnp.cumsum(jnp.exp(scores - jnp.max(scores, axis=0)), axis=0)
    u = jax.random.uniform(key, scores.shape[1:], scores.dtype)
    return jnp.sum((below <= u * below[-1]) & (below < below[-1]), axis=0)


def log_sum_exp(values: jax.Array, axis: int = 0) -> jax.Array:
    """log Σ exp over an axis; minus infinity where all are, with the gradient zero and not undefined."""
    top = lax.stop_gradient(jnp.max(values, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    sums = jnp.sum(jnp.exp(values - top), axis=axis)
    none = sums == 0
    return jnp.where(none, -jnp.inf, jnp.squeeze(top, axis) + jnp.log(jnp.where(none, 1.0, sums)))
