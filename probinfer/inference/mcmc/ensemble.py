"""One trajectory of many chains in step, all of the same length, shared out to the cores."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc.chains import workers
from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.mcmc.kernel import MAX_ENERGY_ERROR
from probinfer.inference.mcmc.leapfrog import Point, at, kinetic, leapfrog
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.packing import Packing
from probinfer.model.target import Target


class Places(NamedTuple):
    """Where the chains are: positions and gradients (chains, d), log densities (chains,)."""

    z: Any
    g: Any
    log_density: Any


class Trajectories(NamedTuple):
    """What was proposed: position, velocity at the end (chains, d); probability of acceptance, divergence (chains,)."""

    end: Any
    velocity: Any
    acceptance: Any
    diverging: Any


class Ensemble:
    """The compiled trajectory of all chains; `rank` is that of the metric."""

    def __init__(self, target: Target, chains: int, rank: int) -> None:
        self._target = target
        self._parts = max(part for part in range(1, workers(chains) + 1) if chains % part == 0)
        each, dim = chains // self._parts, target.dim
        scalar, vector = np.zeros((), target.dtype), np.zeros(dim, target.dtype)
        self._places = Packing(Places(vector, vector, scalar))
        self._moved = Packing((Places(vector, vector, scalar), Trajectories(vector, vector, scalar, np.bool_(False))))
        metric = Metric(vector, np.zeros((dim, rank), target.dtype), np.zeros(rank, target.dtype))
        self._settings = Packing((metric, scalar))

        def shape(*size: int, dtype: Any = target.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype)

        self._program = target.compile(
            f"ensemble {each} {rank}",
            self._packed(_mover(target)),
            shape(each, self._places.size),
            shape(each, 2, dtype=jnp.uint32),
            shape(self._settings.size),
            shape(dtype=jnp.int32),
            target.inputs,
        )

    def move(
        self, places: Places, words: np.ndarray, metric: Metric, step: float, leapfrogs: int
    ) -> tuple[Places, Trajectories]:
        """One trajectory of `leapfrogs` steps of size `step` from every place; words (chains, 2) uint32."""
        dtype = self._target.dtype
        packed = self._places.pack(places, dtype)
        settings = self._settings.pack((metric, np.float64(step)), dtype)
        with self._target.precision():
            # JAX begins with all parts before it waits for the first
            begun = [
                self._program(*part, settings, np.int32(leapfrogs), self._target.inputs)
                for part in zip(np.split(packed, self._parts), np.split(words, self._parts), strict=True)
            ]
            found = np.concatenate([np.asarray(part) for part in begun])
        return self._moved.unpack(found)

    def _packed(self, move: Any) -> Any:
        def packed(places: jax.Array, words: jax.Array, settings: jax.Array, leapfrogs: jax.Array, inputs: Any) -> Any:
            metric, step = self._settings.unpack(settings)
            moved = move(self._places.unpack(places), words, metric, step, leapfrogs, inputs)
            return self._moved.pack(moved, places.dtype)

        return packed


def whitened(metric: Metric, x: np.ndarray) -> np.ndarray:
    """A^-1 x for rows x (n, d): where the metric has made the posterior round."""
    y = x / metric.scale
    return y + (y @ metric.directions) * (1 / (1 + metric.stretch) - 1) @ metric.directions.T


def _mover(target: Target) -> Any:
    def move(
        places: Places, words: jax.Array, metric: Metric, step: jax.Array, leapfrogs: jax.Array, inputs: Any
    ) -> tuple[Places, Trajectories]:
        def density(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            return target.value_and_grad(z, inputs)

        def begin(z: jax.Array, g: jax.Array, word: jax.Array) -> Point:
            return at(z, metric.momentum(normal((word[0], word[1]), z.size, z.dtype)), g, metric)

        further = jax.vmap(lambda point: leapfrog(density, metric, point, step))
        energies = jax.vmap(kinetic)
        points = jax.vmap(begin)(places.z, places.g, words)
        energy = energies(points) - places.log_density
        end, log_density = lax.fori_loop(0, leapfrogs, lambda _, state: further(state[0]), (points, places.log_density))
        error = energies(end) - log_density - energy
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        bits, _ = threefry((words[:, 0], words[:, 1]), jnp.uint32(0), jnp.uint32(6))
        take = jnp.log(uniform(bits, error.dtype)) <= -error
        after = Places(
            jnp.where(take[:, None], end.q, places.z),
            jnp.where(take[:, None], end.g, places.g),
            jnp.where(take, log_density, places.log_density),
        )
        acceptance = jnp.exp(-jnp.maximum(error, 0.0))
        return after, Trajectories(end.q, end.v, acceptance, error > MAX_ENERGY_ERROR)

    return move
