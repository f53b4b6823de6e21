"""The path of densities from a proposal to a target, and the moves of particles that leave one of them in place."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.undefined import Undefined
from probinfer.model.program_cache import kept_programs
from probinfer.model.target import Target

_SAFE = 1e-9  # of the largest eigenvalue: the least that the particles' covariance may have


class Beginning(Protocol):
    """Where particles come from: draws, with the log weights target / beginning that `densities` also gives."""

    target: Target
    undefined: Undefined

    @property
    def laws(self) -> Any:
        """None for the prior of the target; a program that knows no more is kept for other data."""
        ...

    def draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (n, d) and their log weights (n,)."""
        ...

    def densities(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Log density of the target and log weight at one point z (d,), for use inside compiled functions."""
        ...


class Moved(NamedTuple):
    """Particles (chains, n, d), their log weights target / proposal and log densities, share of proposals accepted."""

    z: np.ndarray
    log_weights: np.ndarray
    log_density: np.ndarray
    acceptance: float


class Moves:
    """Hamiltonian moves under p_β(z) ∝ q(z) (p(z) / q(z))^β, q the proposal and p the target, all particles at once."""

    def __init__(self, proposal: Beginning, particles: int, pool: ThreadPoolExecutor) -> None:
        target, dim = proposal.target, proposal.target.dim
        self._target, self._pool = target, pool

        def shape(*size: int, dtype: Any = target.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype)

        shapes = (
            shape(particles, dim),
            shape(particles, 2, dtype=jnp.uint32),
            shape(),
            shape(),
            shape(dim, dim),
            shape(dtype=jnp.int32),
            target.inputs,
        )
        move = _mover(proposal)
        if proposal.laws is None:
            self._program = target.compile(f"tempered move {particles}", move, *shapes)
        else:
            with target.precision(), kept_programs():
                self._program = jax.jit(move).lower(*shapes).compile()

    def __call__(
        self, z: np.ndarray, words: np.ndarray, beta: float, step: float, root: np.ndarray, leapfrogs: int
    ) -> Moved:
        """One move of every particle: z (chains, n, d), words (chains, n, 2) uint32; root (d, d) preconditions."""
        dtype = self._target.dtype.type

        def one(k: int) -> tuple:
            with self._target.precision():
                found = self._program(
                    z[k].astype(dtype),
                    words[k],
                    dtype(beta),
                    dtype(step),
                    root.astype(dtype),
                    np.int32(leapfrogs),
                    self._target.inputs,
                )
                return tuple(np.asarray(part, float) for part in found)

        parts = list(self._pool.map(one, range(len(z))))
        moved, log_weights, log_density, accepted = (np.stack([part[i] for part in parts]) for i in range(4))
        return Moved(moved, log_weights, log_density, float(accepted.mean()))


def preconditioner(z: np.ndarray) -> np.ndarray:
    """A root of the particles' covariance (d, d), shrunk towards its diagonal by as much as d particles would weigh;
    without those at infinity, where a prior that underflows to the end of its support has draws."""
    flat = z.reshape(-1, z.shape[-1])
    flat = flat[np.isfinite(flat).all(axis=1)]
    n, d = flat.shape
    if n < 2:
        return np.eye(d)
    covariance = np.atleast_2d(np.cov(flat.T))
    variances = np.maximum(np.diag(covariance), 1e-300)
    weight = d / (d + n)
    scale = np.sqrt(variances)
    correlation = (1 - weight) * covariance / scale / scale[:, None] + weight * np.eye(d)
    values, vectors = np.linalg.eigh(correlation)
    return scale[:, None] * (vectors * np.sqrt(np.maximum(values, _SAFE * values[-1])))


def _mover(proposal: Beginning) -> Any:
    def move(
        z: jax.Array,
        words: jax.Array,
        beta: jax.Array,
        step: jax.Array,
        root: jax.Array,
        leapfrogs: jax.Array,
        inputs: Mapping[str, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        def tempered(point: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            whole, weight = proposal.densities(point, inputs)
            value = whole - (1 - beta) * weight
            return jnp.where(jnp.isnan(value), -jnp.inf, value), (weight, whole)

        evaluate = jax.vmap(jax.value_and_grad(tempered, has_aux=True))
        momentum = jax.vmap(lambda key: normal((key[0], key[1]), z.shape[1], z.dtype))(words)
        bits, _ = threefry((words[:, 0], words[:, 1]), jnp.uint32(0), jnp.uint32(5))
        (value, seen), gradient = evaluate(z)

        def leap(_: jax.Array, state: tuple) -> tuple:
            q, p, _, _, g = state
            p = p + step / 2 * g @ root
            q = q + step * p @ root.T
            (v, s), g = evaluate(q)
            return q, p + step / 2 * g @ root, v, s, g

        q, p, v, s, _ = lax.fori_loop(0, leapfrogs, leap, (z, momentum, value, seen, gradient))
        gain = (v - jnp.sum(p**2, axis=1) / 2) - (value - jnp.sum(momentum**2, axis=1) / 2)
        gain = jnp.where(jnp.isnan(gain), -jnp.inf, gain)
        take = jnp.log(uniform(bits, z.dtype)) <= gain
        weight, whole = (jnp.where(take, new, old) for new, old in zip(s, seen, strict=True))
        return jnp.where(take[:, None], q, z), weight, whole, jnp.exp(jnp.minimum(gain, 0.0))

    return move
