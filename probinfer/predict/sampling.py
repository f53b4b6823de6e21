"""Predictive draws of rows: which posterior draws, and the randomness that belongs to each row. Imports jax."""

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import PredictionError
from probinfer.model.forks import before_jax
from probinfer.predict.engine import Engine, bucket
from probinfer.predict.interval import refuse_undefined
from probinfer.predict.program import Program


def check_draws(draws: Any) -> int:
    """A number of draws. Raises PredictionError for what is none."""
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
        raise PredictionError(f"draws is {draws!r}; wanted a whole number, 1 or more.")
    return int(draws)


def sample_rows(
    engine: Engine,
    columns: Mapping[str, np.ndarray],
    hashes: np.ndarray,
    draws: int,
    seed: Any,
    *,
    noise_of: str | None = None,
) -> np.ndarray:
    """Draws (draws, rows, *event) as `Predictor.sample` describes them. The first of many draws are those of fewer.

    hashes (rows,): content of each row. noise_of: whose noise it is; the same posterior draws are taken whoever it is.
    Raises PredictionError for a seed that is none.
    """
    before_jax()
    with jax.enable_x64(True):
        order, noise = jax.random.split(_key(seed))
        if noise_of is not None:
            noise = jax.random.fold_in(noise, zlib.crc32(noise_of.encode()))
        picked = _picked(engine.program, order, draws)
        words = np.asarray(jax.random.key_data(noise))
    along = np.column_stack([hashes, _occurrences(hashes), np.broadcast_to(words, (len(hashes), 2))]).astype(float)
    keys = engine.of_outcomes(_row_keys, columns, along).reshape(-1, 2)
    values = engine.sample(columns, keys, picked)
    held = np.abs(values) < 2.0**63 if engine.program.discrete else np.isfinite(values)
    refuse_undefined(held.all(axis=(0, *range(2, held.ndim))), engine.program.outcome, columns=columns)
    return values.astype(np.int64) if engine.program.discrete else values


_ROUND = 128  # weighted draws are taken in rounds of so many, in each as often as their weights say


def _picked(program: Program, order: jax.Array, draws: int) -> np.ndarray:
    """Numbers (draws,) of the posterior draws to take, in rounds, each in an order of its own: in a round each once, or
    each as often as its weight says, rounded up or down. What is taken i-th depends on `order` and i alone."""
    weights = program.weights
    size = program.size if weights is None else _ROUND
    count = -(-draws // size)
    starts, orders = map(np.asarray, _rounds(order, bucket(max(count, 1)), size, weighted=weights is not None))
    if weights is not None:
        taken = np.array([weights.pick(size, float(start)) for start in starts[:count]], int).reshape(-1, size)
        orders = np.take_along_axis(taken, orders[:count], axis=1)
    return orders.ravel()[:draws]


@functools.partial(jax.jit, static_argnames=("count", "size", "weighted"))
def _rounds(order: jax.Array, count: int, size: int, *, weighted: bool) -> tuple[jax.Array, jax.Array]:
    """Where each round begins to pick by weight (count,), in [0, 1), and the order (count, size) of what it takes."""
    keys = jax.vmap(lambda number: jax.random.fold_in(order, number))(jnp.arange(count))
    starts = jnp.zeros(count)
    if weighted:
        both = jax.vmap(jax.random.split)(keys)
        keys, starts = both[:, 0], jax.vmap(jax.random.uniform)(both[:, 1])
    return starts, jax.vmap(lambda key: jax.random.permutation(key, size))(keys)


def _row_keys(program: Program, draws: dict, fixed: dict, rows: dict, along: jax.Array) -> jax.Array:
    """Key data (n, 2): the noise's key, folded with the row's content, and with how often it came before."""
    hashes, again, words = along[:, 0], along[:, 1], along[:, 2:]

    def one(word: jax.Array, content: jax.Array, count: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(word, impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, content), count))

    return jax.vmap(one)(words.astype(jnp.uint32), hashes.astype(jnp.uint32), again.astype(jnp.uint32))


def _key(seed: Any) -> jax.Array:
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and 0 <= seed < 2**63:
        return jax.random.key(int(seed), impl="threefry2x32")
    if isinstance(seed, jax.Array) and seed.shape == () and jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key):
        return seed
    raise PredictionError(f"seed is {seed!r}; wanted a whole number from 0, or a jax key.")


def _occurrences(hashes: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same content: 0 for the first of each."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, int)
    run = np.arange(len(ordered)) - np.repeat(begins, np.diff(np.r_[begins, len(ordered)]))
    result = np.empty(len(hashes), np.uint32)
    result[order] = run
    return result
