"""A turn through the plan of a model: single sites updated one after the other, then the others moved, given them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.mcmc import tree, walk
from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.mcmc.kernel import Ask, Draw, Info
from probinfer.inference.mcmc.metric import Metric, fit
from probinfer.inference.mcmc.plan import Plan
from probinfer.model.target import Target

_NO_TARGET = 0.5
_MOVES, _TURNS = 0xFFFFFFF0, 0xFFFFFFF1  # counters that no transition uses

Key = tuple[jax.Array, jax.Array]


class Nuts(NamedTuple):
    """A move by a step of NUTS. rank: directions of its metric."""

    max_depth: int
    target_accept: float
    first_step: float
    rank: int


class Walk(NamedTuple):
    """A move by proposals of a random walk."""

    proposals: int
    target_accept: float
    first_step: float
    rank: int


def first_steps(plan: Plan) -> Any:
    """What a `Kernel` wants to begin with: a number, or one for each of several moves."""
    sizes = np.array([move.by.first_step for move in plan.moves] or [1.0])
    return float(sizes[0]) if len(sizes) == 1 else sizes


def targets(plan: Plan) -> Any:
    """The acceptances that the moves aim at, in the same form."""
    shares = np.array([move.by.target_accept for move in plan.moves] or [_NO_TARGET])
    return float(shares[0]) if len(shares) == 1 else shares


def rank_of(plan: Plan) -> int:
    """Directions that the metrics of all moves have together."""
    return sum(move.by.rank for move in plan.moves)


def transition(
    ask: Ask,
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: Key,
    limit: jax.Array,
    *,
    plan: Plan,
    target: Target,
    turns: int = 1,
) -> tuple[Draw, Info]:
    """So many turns; `ask(f)` is f of the data."""

    def once(here: Draw, key: Key) -> tuple[Draw, Info]:
        return _turn(ask, metric, here, step_size, key, limit, plan, target)

    if turns == 1:
        return once(start, key)

    def again(state: tuple) -> tuple:
        here, total, i = state
        own = threefry(key, i.astype(jnp.uint32), jnp.uint32(_TURNS))
        here, info = once(here, own)
        summed = jax.tree.map(lambda a, b: a | b if a.dtype == bool else a + b, total, info)
        return here, summed._replace(depth=info.depth, energy=info.energy, energy_error=info.energy_error), i + 1

    shapes = jax.eval_shape(lambda here: once(here, key)[1], start)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    here, info, _ = lax.while_loop(lambda state: state[2] < turns, again, (start, none, jnp.int32(0)))
    return here, info._replace(
        acceptance=info.acceptance / turns, symmetric_acceptance=info.symmetric_acceptance / turns
    )


def _turn(
    ask: Ask,
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: Key,
    limit: jax.Array,
    plan: Plan,
    target: Target,
) -> tuple[Draw, Info]:
    words, z = jax.random.wrap_key_data(jnp.stack(key)), start.q
    for i, update in enumerate(plan.updates):
        own_key = jax.random.fold_in(words, i)
        z = ask(lambda inputs, update=update, z=z, own_key=own_key: update(z, inputs, own_key, metric.scale))
    if not plan.moves:
        value = ask(lambda inputs: target.log_density(z, inputs))
        one, none = jnp.ones((), z.dtype), jnp.zeros((), z.dtype)  # no step size: it stays where it is
        never, whole = jnp.zeros((), bool), jnp.int32(0)
        return Draw(z, jnp.zeros_like(z), value), Info(
            one, _NO_TARGET * one, whole + 1, whole, never, never, -value, none
        )
    infos, gradient, first = [], jnp.zeros_like(z), 0
    draw = Draw(z, gradient, jnp.zeros((), z.dtype))
    for i, move in enumerate(plan.moves):
        where, by = move.where, move.by
        columns = slice(first, first + by.rank)
        first += by.rank
        part = Metric(metric.scale, metric.directions[:, columns], metric.stretch[columns])
        size = step_size if step_size.ndim == 0 else step_size[i]
        own = threefry(key, jnp.uint32(i), jnp.uint32(_MOVES))
        if isinstance(by, Nuts):
            draw, info = nuts_of_rest(
                ask, part, draw.q, size, own, limit, rest=where, target=target, max_depth=by.max_depth
            )
            gradient = gradient.at[where].set(draw.g[where])
        else:
            draw, info = walk_of_rest(ask, part, draw.q, size, own, limit, rest=where, target=target, by=by)
        infos.append(info)
    info = infos[0]
    if len(infos) > 1:
        many = jax.tree.map(lambda *parts: jnp.stack(parts), *infos)
        info = Info(
            acceptance=many.acceptance.mean(),
            symmetric_acceptance=many.symmetric_acceptance,
            steps=many.steps.sum().astype(jnp.int32),
            depth=many.depth.max(),
            diverging=many.diverging.any(),
            saturated=many.saturated.any(),
            energy=infos[-1].energy,
            energy_error=infos[-1].energy_error,
        )
    return Draw(draw.q, gradient, draw.log_density), info


def nuts_of_rest(
    ask: Ask,
    metric: Metric,
    z: jax.Array,
    step_size: jax.Array,
    key: Key,
    limit: jax.Array,
    *,
    rest: np.ndarray,
    target: Target,
    max_depth: int,
) -> tuple[Draw, Info]:
    """A step of NUTS in the coordinates `rest`, given the others."""
    value, gradient = ask(lambda inputs: target.value_and_grad(z, inputs))

    def density(q: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = ask(lambda inputs: target.value_and_grad(z.at[rest].set(q), inputs))
        return value, gradient[rest]

    own = Metric(metric.scale[rest], metric.directions[rest], metric.stretch)
    draw, info = tree.transition(
        density, own, Draw(z[rest], gradient[rest], value), step_size, key, limit, max_depth=max_depth
    )
    moved = Draw(z.at[rest].set(draw.q), jnp.zeros_like(z).at[rest].set(draw.g), draw.log_density)
    return moved, info


def walk_of_rest(
    ask: Ask,
    metric: Metric,
    z: jax.Array,
    step_size: jax.Array,
    key: Key,
    limit: jax.Array,
    *,
    rest: np.ndarray,
    target: Target,
    by: Walk,
) -> tuple[Draw, Info]:
    """Proposals of a random walk in the coordinates `rest`, given the others."""

    def density(q: jax.Array) -> jax.Array:
        return ask(lambda inputs: target.log_density(z.at[rest].set(q), inputs))

    own = Metric(metric.scale[rest], metric.directions[rest], metric.stretch)
    begin = Draw(z[rest], jnp.zeros_like(z[rest]), density(z[rest]))
    draw, info = walk.transition(density, own, begin, step_size, key, limit, proposals=by.proposals)
    return Draw(z.at[rest].set(draw.q), jnp.zeros_like(z), draw.log_density), info


def fit_plan(draws: np.ndarray, gradients: np.ndarray, use: np.ndarray, rank: int, *, plan: Plan) -> Metric:
    """The metric of each move in columns of its own, the widths of the discrete sites that walk, the identity else."""
    dim = draws.shape[-1]
    metric = Metric(np.ones(dim), np.zeros((dim, rank)), np.zeros(rank))
    first = 0
    for move in plan.moves:
        where, columns = move.where, slice(first, first + move.by.rank)
        first += move.by.rank
        fitted = fit if isinstance(move.by, Nuts) else walk.fit_covariance
        found = fitted(draws[..., where], gradients[..., where], use, move.by.rank)
        metric.scale[where] = found.scale
        metric.directions[where, columns] = found.directions
        metric.stretch[columns] = found.stretch
    if len(plan.walked):
        where = plan.walked
        metric.scale[where] = walk.fit_covariance(draws[..., where], gradients[..., where], use, 0).scale
    return metric
