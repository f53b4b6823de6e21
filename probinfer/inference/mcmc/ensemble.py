"""Steps of many chains as one compiled program: trajectories of one length for all of them, and what they teach."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc import chees
from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.chees import Length
from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.mcmc.kernel import MAX_ENERGY_ERROR
from probinfer.inference.mcmc.leapfrog import Point, at, kinetic, leapfrog
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.packing import Packing
from probinfer.inference.mcmc.step_size import DualAveraging
from probinfer.model.target import Target

_MOST_LEAPFROGS = 1000  # of a trajectory
_ROWS, _TABLE_BYTES = 64, 2**26  # the most steps of a call, and what they may take, unless one takes more


class Places(NamedTuple):
    """Where the chains are: positions and gradients (chains, d), log densities (chains,)."""

    z: Any
    g: Any
    log_density: Any


class State(NamedTuple):
    """Chains after some steps; `key` (chains, 2) and `iteration`, the steps made so far, name their random numbers."""

    places: Places
    key: Any
    iteration: Any
    step: DualAveraging
    length: Length


class StepControl(NamedTuple):
    """Run-time settings of a call. The length learns from the iteration `learns` on, while all else adapts."""

    count: Any  # steps
    shares: Any  # of the longest trajectory, one for each step
    adapt: Any
    learns: Any
    target_accept: Any


class Step(NamedTuple):
    """A step: where the chains came to, what the trajectory was like (chains,)."""

    places: Places
    acceptance: Any
    leapfrogs: Any
    diverging: Any


class Ensemble:
    """The executable for so many chains and metrics of this rank. rows: the most steps of a call."""

    def __init__(self, target: Target, chains: int, rank: int) -> None:
        self._target = target
        dim, dtype = target.dim, target.dtype
        scalar, vector = np.zeros((), dtype), np.zeros(dim, dtype)
        self._row = Packing(Step(Places(vector, vector, scalar), scalar, np.int32(0), np.bool_(False)))
        self.rows = int(np.clip(_TABLE_BYTES // (chains * self._row.size * dtype.itemsize), 1, _ROWS))

        def shape(*size: int, dtype: Any = dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype)

        whole = shape(dtype=jnp.int32)
        self._program = target.compile(
            f"ensemble {chains} {self.rows} {rank}",
            self._advance,
            State(
                Places(shape(chains, dim), shape(chains, dim), shape(chains)),
                shape(chains, 2, dtype=jnp.uint32),
                shape(dtype=jnp.uint32),
                DualAveraging(*(shape() for _ in DualAveraging._fields)),
                Length(*(shape() for _ in Length._fields)),
            ),
            StepControl(whole, shape(self.rows), shape(dtype=bool), whole, shape()),
            Metric(shape(dim), shape(dim, rank), shape(rank)),
            target.inputs,
        )

    def begin(self, state: State, control: StepControl, metric: Metric) -> tuple[State, Any]:
        """Begin with steps, and do not wait: the state after them, and what `steps` makes a `Step` of."""
        dtype = self._target.dtype
        control = control._replace(
            count=np.int32(control.count),
            shares=np.resize(np.asarray(control.shares, dtype), self.rows),
            adapt=np.bool_(control.adapt),
            learns=np.int32(control.learns),
            target_accept=np.asarray(control.target_accept, dtype),
        )
        metric = jax.tree.map(lambda part: np.asarray(part, dtype), metric)
        return self._program(state, control, metric, self._target.inputs)

    def steps(self, table: Any, count: int) -> Step:
        """The steps (count, chains, ...) of a call, once they are made."""
        return self._row.unpack(np.asarray(table)[:count])

    def _advance(self, state: State, control: StepControl, metric: Metric, inputs: Any) -> tuple[State, jax.Array]:
        def density(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self._target.value_and_grad(z, inputs)

        def advance(carry: tuple) -> tuple:
            state, table, done = carry
            state, step = _step(density, state, control, control.shares[done], metric)
            return state, table.at[done].set(self._row.pack(step, table.dtype)), done + 1

        chains = len(state.places.z)
        table = jnp.zeros((self.rows, chains, self._row.size), state.places.z.dtype)
        carry = (state, table, jnp.int32(0))
        state, table, _ = lax.while_loop(lambda carry: carry[2] < control.count, advance, carry)
        return state, table


def whitened(metric: Metric, x: Any) -> Any:
    """A^-1 x for rows x (n, d): where the metric has made the posterior round."""
    y = x / metric.scale
    return y + (y @ metric.directions) * (1 / (1 + metric.stretch) - 1) @ metric.directions.T


def _step(density: Any, state: State, control: StepControl, share: jax.Array, metric: Metric) -> tuple[State, Step]:
    """One trajectory of every chain, and what is learned from them."""
    places, averaging, length = state.places, state.step, state.length
    size = jnp.exp(jnp.where(control.adapt, averaging.log_step, averaging.log_average))
    longest = jnp.exp(jnp.where(control.adapt, length.log, length.average))
    leapfrogs = jnp.clip(jnp.ceil(share * longest / size), 1, _MOST_LEAPFROGS).astype(jnp.int32)

    def begin(key: jax.Array, z: jax.Array, g: jax.Array) -> tuple[Point, jax.Array]:
        words = threefry((key[0], key[1]), state.iteration, jnp.uint32(0))
        bits, _ = threefry(words, jnp.uint32(0), jnp.uint32(6))
        return at(z, metric.momentum(normal(words, z.size, z.dtype)), g, metric), bits

    further = jax.vmap(lambda point: leapfrog(density, metric, point, size))
    points, bits = jax.vmap(begin)(state.key, places.z, places.g)
    energies = jax.vmap(kinetic)
    energy = energies(points) - places.log_density
    start = points, places.log_density
    end, log_density = lax.fori_loop(0, leapfrogs, lambda _, carry: further(carry[0]), start)
    error = energies(end) - log_density - energy
    error = jnp.where(jnp.isnan(error), jnp.inf, error)
    take = jnp.log(uniform(bits, error.dtype)) <= -error
    after = Places(
        jnp.where(take[:, None], end.q, places.z),
        jnp.where(take[:, None], end.g, places.g),
        jnp.where(take, log_density, places.log_density),
    )
    acceptance = jnp.exp(-jnp.maximum(error, 0.0))
    learned = chees.learn(length, *(whitened(metric, part) for part in (places.z, end.q, end.v)), acceptance, share)
    adapted = steps.update(averaging, acceptance.mean(), control.target_accept)
    learns = control.adapt & (state.iteration.astype(jnp.int32) >= control.learns)
    state = State(
        after,
        state.key,
        state.iteration + 1,
        _where(control.adapt, adapted, averaging),
        _where(learns, learned, length),
    )
    return state, Step(after, acceptance, jnp.broadcast_to(leapfrogs, acceptance.shape), error > MAX_ENERGY_ERROR)


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
