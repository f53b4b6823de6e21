"""One pass of a particle filter over a series, for use inside a compiled program."""

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from probinfer.inference.montecarlo.particle_draws import draw
from probinfer.inference.montecarlo.particle_keys import key_of
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import Series, StateSpace
from probinfer.model.trajectory import log_density

if TYPE_CHECKING:
    from probinfer.inference.montecarlo.particle import ParticleFilter

_FAR = -1e8  # log of the least that a look ahead may say: no particle is to be lost by it for good


class Keep(enum.Enum):
    """What of a pass is kept besides the estimates of the likelihood."""

    LIKELIHOOD = "nothing"
    LAST = "moments, and the last particles"
    ALL = "moments, and all particles with their ancestors"


class Pass(NamedTuple):
    """What a pass saw; fields that are not kept are ()."""

    log_density: Any  # (T,) estimates of log p(y_t | y_0..t-1)
    ess: Any = ()  # (T,) effective number of particles, weighted by the observation; 0 where none explains it
    mean: Any = ()  # (T, *state), of the filtering law
    variance: Any = ()  # (T, *state)
    particles: Any = ()  # (T, N, *state), or (1, N, *state): the last
    log_weights: Any = ()  # (T, N) or (1, N), normalised
    ancestors: Any = ()  # (T - 1, N): which particle of the time before each comes from


class _Cloud(NamedTuple):
    """Particles between two times, with normalised weights."""

    x: Any
    log_weights: Any
    weights: Any
    ess: Any


def one_pass(
    model: StateSpace,
    method: "ParticleFilter",
    params: Parameters,
    series: Series,
    words: jax.Array,
    *,
    keep: Keep,
    particles: int | None = None,
    sort: bool = False,
) -> Pass:
    """Filter once.

    words: uint32, (2,), or (T, 2) with words of its own for every time: all randomness of a time comes from its words.
    particles: instead of the method's. sort: put the particles (of one number each) in order before they are resampled,
    so that the estimate of the likelihood is nearly smooth in the parameters while the words stay the same.
    """
    n = method.particles if particles is None else particles
    even = -jnp.log(float(n))
    times = len(series.values)
    words = jnp.broadcast_to(words, (times, 2))

    def weigh(x: Any, t: Any, y: Any, seen: Any, law: Any, used: Any) -> jax.Array:
        weight = model.log_observation(x, t, params, y, seen)
        if used is not None:
            weight = weight + log_density(law(), x) - jnp.sum(used.log_prob(x))
        return jnp.where(jnp.isnan(weight), -jnp.inf, weight)

    def begin(key: jax.Array, y: Any, seen: Any) -> tuple:
        used = None if method.initial_proposal is None else method.initial_proposal(params, y)
        x = draw(used if used is not None else model.initial(params), key)
        return x, weigh(x, 0, y, seen, lambda: model.initial(params), used)

    def move(key: jax.Array, before: Any, t: Any, y: Any, seen: Any) -> tuple:
        used = None if method.proposal is None else method.proposal(before, t, params, y)
        x = draw(used if used is not None else model.transition(before, t, params), key)
        return x, weigh(x, t, y, seen, lambda: model.transition(before, t, params), used)

    def look(before: Any, t: Any, y: Any, seen: Any) -> jax.Array:
        if method.look_ahead is not None:
            value = method.look_ahead(before, t, params, y)
        else:
            value = model.log_observation(model.transition(before, t, params).mean, t, params, y, seen)
        return jnp.where(jnp.any(seen), jnp.maximum(jnp.nan_to_num(value, nan=_FAR), _FAR), 0.0)

    def settle(x: jax.Array, log_weights: jax.Array, ancestors: Any) -> tuple[_Cloud, Pass]:
        """Normalise the weights, and note what is to be known."""
        normal, weights, total, ess = normalised(log_weights)
        cloud = _Cloud(x, normal, weights, ess)
        if keep is Keep.LIKELIHOOD:
            return cloud, Pass(total)
        mean = jnp.tensordot(weights, x, 1)
        seen = Pass(total, ess, mean, jnp.tensordot(weights, (x - mean) ** 2, 1))
        every = keep is Keep.ALL
        return cloud, seen._replace(particles=x, log_weights=normal, ancestors=ancestors) if every else seen

    def advance(cloud: _Cloud, at: tuple) -> tuple[_Cloud, Pass]:
        t, y, seen, word = at
        move_key, resample_key = jax.random.split(jax.random.fold_in(key_of(word), t))
        ahead, total, weights = jnp.zeros(()), jnp.zeros(()), cloud.weights
        spread = 1 / jnp.maximum(cloud.ess, 1e-300)
        if method.auxiliary:
            ahead = jax.vmap(look, in_axes=(0, None, None, None))(cloud.x, t, y, seen)
            _, weights, total, _ = normalised(cloud.log_weights + ahead)
            spread = jnp.sum(weights**2)

        def resampled() -> tuple:
            order = jnp.argsort(cloud.x.reshape(n)) if sort else None
            chosen = method.resampling.scheme(resample_key, weights if order is None else weights[order])
            chosen = (chosen if order is None else order[chosen]).astype(jnp.int32)
            left = jnp.full(n, even + total) if not method.auxiliary else even + total - ahead[chosen]
            return cloud.x[chosen], left, chosen

        def as_they_are() -> tuple:
            return cloud.x, cloud.log_weights, jnp.arange(n, dtype=jnp.int32)

        if method.resample_below == 1 or sort:
            x, log_weights, ancestors = resampled()
        else:
            dead = cloud.ess == 0  # the weights are even
            enough = dead | (spread * n * method.resample_below < 1)
            x, log_weights, ancestors = lax.cond(enough, as_they_are, resampled)
        keys = words_of(move_key, n)
        moved, gained = jax.vmap(move, in_axes=(1, 0, None, None, None))(keys, x, t, y, seen)
        return settle(moved, log_weights + gained, ancestors)

    y, seen = series.values, series.observed
    keys = words_of(jax.random.fold_in(key_of(words[0]), 0), n)
    x, gained = jax.vmap(begin, in_axes=(1, None, None))(keys, y[0], seen[0])
    cloud, first = settle(x, even + gained, ())
    cloud, rest = lax.scan(advance, cloud, (jnp.arange(1, times), y[1:], seen[1:], words[1:]))
    ancestors, rest = rest.ancestors, rest._replace(ancestors=())
    every = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
    if keep is Keep.LAST:
        return every._replace(particles=cloud.x[None], log_weights=cloud.log_weights[None])
    return every._replace(ancestors=ancestors)


def normalised(log_weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Normalised log weights and weights (n,), log of their sum, effective number; even, and 0, where none is left."""
    most = jnp.max(log_weights)
    alive = most > -jnp.inf
    weights = jnp.exp(log_weights - jnp.where(alive, most, 0.0))
    total = jnp.sum(weights)
    even = 1.0 / len(log_weights)
    scale = 1.0 / jnp.where(alive, total, 1.0)
    log_total = jnp.where(alive, most + jnp.log(jnp.where(alive, total, 1.0)), -jnp.inf)
    normal = jnp.where(alive, log_weights - log_total, jnp.log(even))
    ess = jnp.where(alive, 1.0 / (jnp.sum(weights**2) * scale**2), 0.0)
    return normal, jnp.where(alive, weights * scale, even), log_total, ess


def trace_back(passed: Pass, words: jax.Array) -> jax.Array:
    """One trajectory (T, *state) of a pass that kept all: a last particle by its weight, and where it came from."""
    log_weights = passed.log_weights[-1]
    last = jax.random.categorical(key_of(words), log_weights).astype(jnp.int32)

    def retreat(index: jax.Array, at: tuple) -> tuple:
        x, ancestors = at
        index = ancestors[index]
        return index, x[index]

    _, path = lax.scan(retreat, last, (passed.particles[:-1], passed.ancestors), reverse=True)
    return jnp.concatenate([path, passed.particles[-1][last][None]])


def words_of(key: jax.Array, count: int) -> jax.Array:
    """Words (2, count) of each of `count` particles, without hashing: the first word of a fresh key counted up."""
    first, second = jax.random.key_data(key)
    return jnp.stack([first + lax.iota(jnp.uint32, count), jnp.broadcast_to(second, (count,))])
