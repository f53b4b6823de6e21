"""Sweeps of a ladder of temperatures as one compiled program: a move at every level, then exchanges of neighbours."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.montecarlo.sites import SiteProposal
from probinfer.model.program_cache import kept_programs

ROWS = 100  # the most sweeps of one call
_LENGTH = np.pi / 2  # of a trajectory, in standard deviations
_LEAPFROGS = 64  # at most, of one trajectory


class Ladder(NamedTuple):
    """Settings of the levels, β from 0 to 1: step size (k,), root of the covariance (k, d, d)."""

    betas: Any
    steps: Any
    roots: Any


class Replicas(NamedTuple):
    """A replica at each level: positions (k, d), log weights (k,), which replica it is (k,) and the sweeps so far."""

    z: Any
    log_weight: Any
    name: Any
    sweeps: Any


class Sweeps(NamedTuple):
    """Of each sweep (rows, k, ...): positions after it, log densities; log weights before the exchanges, share of
    proposals accepted in the moves, and which replica is where afterwards."""

    z: Any
    log_density: Any
    log_weight: Any
    acceptance: Any
    name: Any


class Exchange:
    """The compiled sweeps of a ladder of so many levels, from a proposal to its target."""

    def __init__(self, proposal: SiteProposal, levels: int) -> None:
        target = self._target = proposal.target
        dim = target.dim

        def shape(*size: int, dtype: Any = target.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype)

        whole = shape(dtype=jnp.int32)
        shapes = (
            Replicas(shape(levels, dim), shape(levels), shape(levels, dtype=jnp.int32), shape(dtype=jnp.uint32)),
            shape(2, dtype=jnp.uint32),
            Ladder(shape(levels), shape(levels), shape(levels, dim, dim)),
            whole,
            target.inputs,
        )
        sweeps = _sweeps(proposal, levels)
        if proposal.laws is None:
            self._program = target.compile(f"exchange {levels}", sweeps, *shapes)
        else:
            with target.precision(), kept_programs():
                self._program = jax.jit(sweeps).lower(*shapes).compile()

    def __call__(self, replicas: Replicas, key: np.ndarray, ladder: Ladder, count: int) -> tuple[Replicas, Sweeps]:
        """`count` sweeps, at most ROWS; the key (2,) uint32 is that of the chain."""
        with self._target.precision():
            ladder = jax.tree.map(lambda a: np.asarray(a, self._target.dtype), ladder)
            found = self._program(replicas, key, ladder, np.int32(count), self._target.inputs)
            after, seen = jax.tree.map(np.asarray, found)
        return after, Sweeps(*(column[:count] for column in seen))


def exchange_log_ratio(betas: Any, log_weight: Any) -> Any:
    """Log of the ratio for exchanging levels k and k + 1: (β_(k+1) - β_k) (w_k - w_(k+1)), shape (..., k - 1)."""
    return (betas[1:] - betas[:-1]) * (log_weight[..., :-1] - log_weight[..., 1:])


def _sweeps(proposal: SiteProposal, levels: int) -> Any:
    def run(
        replicas: Replicas, key: jax.Array, ladder: Ladder, count: jax.Array, inputs: Mapping[str, jax.Array]
    ) -> tuple[Replicas, Sweeps]:
        dtype, dim = replicas.z.dtype, replicas.z.shape[1]

        def tempered(z: jax.Array, beta: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            whole, weight = proposal.densities(z, inputs)
            value = whole - (1 - beta) * weight
            return jnp.where(jnp.isnan(value), -jnp.inf, value), (weight, whole)

        evaluate = jax.vmap(jax.value_and_grad(tempered, has_aux=True))

        def transposed(g: jax.Array) -> jax.Array:
            return jnp.einsum("kij,ki->kj", ladder.roots, g)

        def move(z: jax.Array, words: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            p = jax.vmap(lambda word: normal((word[0], word[1]), dim, dtype))(words)
            jitter, accept = (threefry((words[:, 0], words[:, 1]), jnp.uint32(i), jnp.uint32(7))[0] for i in range(2))
            leapfrogs = jnp.ceil((0.5 + uniform(jitter, dtype)) * _LENGTH / ladder.steps)
            leapfrogs = jnp.clip(leapfrogs, 1, _LEAPFROGS).astype(jnp.int32)
            (value, seen), gradient = evaluate(z, ladder.betas)
            step = ladder.steps[:, None]

            def further(state: tuple) -> tuple:
                i, q, p, g, v, s = state
                half = p + 0.5 * step * transposed(g)
                new_q = q + step * jnp.einsum("kij,kj->ki", ladder.roots, half)
                (new_v, new_s), new_g = evaluate(new_q, ladder.betas)
                new = (new_q, half + 0.5 * step * transposed(new_g), new_g, new_v, new_s)
                on = i < leapfrogs
                kept = jax.tree.map(
                    lambda a, b: jnp.where(on.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, (q, p, g, v, s)
                )
                return (i + 1, *kept)

            _, q, end, _, after, after_seen = lax.while_loop(
                lambda state: state[0] < leapfrogs.max(), further, (jnp.int32(0), z, p, gradient, value, seen)
            )
            change = after - value + 0.5 * ((p**2).sum(axis=1) - (end**2).sum(axis=1))
            change = jnp.where(jnp.isnan(change), -jnp.inf, change)
            take = jnp.log(uniform(accept, dtype)) <= change
            z = jnp.where(take[:, None], q, z)
            weight, whole = (jnp.where(take, a, b) for a, b in zip(after_seen, seen, strict=True))
            return z, weight, whole, jnp.exp(jnp.minimum(change, 0.0))

        def sweep(state: tuple) -> tuple:
            here, table, row = state
            lanes = lax.iota(jnp.uint32, levels)
            first, second = threefry((key[0], key[1]), jnp.full_like(lanes, here.sweeps), lanes)
            words = jnp.stack([first, second], axis=1)
            z, weight, whole, acceptance = move(here.z, words)
            fresh, fresh_weight = proposal.propose(words[0], inputs)  # at β = 0 there is nothing to be moved
            z = z.at[0].set(fresh.astype(dtype))
            fresh_weight = jnp.where(jnp.isnan(fresh_weight), -jnp.inf, fresh_weight).astype(dtype)
            weight = weight.at[0].set(fresh_weight)

            bits, _ = threefry((words[:-1, 0], words[:-1, 1]), jnp.uint32(2), jnp.uint32(7))
            pairs = lax.iota(jnp.uint32, levels - 1)
            turn = (pairs + here.sweeps) % 2 == 0  # even pairs, then odd ones: replicas keep their direction
            swap = turn & (jnp.log(uniform(bits, dtype)) <= exchange_log_ratio(ladder.betas, weight))
            up, down = jnp.append(swap, False), jnp.insert(swap, 0, False)
            order = jnp.arange(levels) + up.astype(int) - down.astype(int)
            # replica 0's density is not known, and never asked for: it is recorded at the last level only
            after = Replicas(z[order], weight[order], here.name[order], here.sweeps + jnp.uint32(1))
            seen = Sweeps(after.z, whole[order], weight, acceptance, after.name)
            table = jax.tree.map(lambda all_, one: all_.at[row].set(one), table, seen)
            return after, table, row + 1

        empty = Sweeps(
            jnp.zeros((ROWS, levels, dim), dtype),
            *(jnp.zeros((ROWS, levels), dtype) for _ in range(3)),
            jnp.zeros((ROWS, levels), jnp.int32),
        )
        after, table, _ = lax.while_loop(lambda state: state[2] < count, sweep, (replicas, empty, jnp.int32(0)))
        return after, table

    return run
