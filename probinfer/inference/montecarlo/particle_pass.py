"""One pass of a particle filter over a series, for use inside a compiled program."""

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.montecarlo.cumulated import sums
from probinfer.inference.montecarlo.particle_draws import density, draw, impossible
from probinfer.inference.montecarlo.particle_keys import key_of, words_of
from probinfer.inference.montecarlo.particle_logs import with_plain_logarithms
from probinfer.inference.montecarlo.particle_weights import Weights, weighed
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import Series, StateSpace
from probinfer.model.trajectory import log_density

if TYPE_CHECKING:
    from probinfer.inference.montecarlo.particle import ParticleFilter

_TAGS = (0x7C01, 0x7C02)  # counters of the words of a time: for the choice of ancestors, for the moves
_FAR = -1e8  # log of the least that a look ahead may say: no particle is to be lost by it for good


class Keep(enum.Enum):
    """What of a pass is kept besides the estimates of the likelihood."""

    LIKELIHOOD = "nothing"
    DOUBT = "where laws are no laws and densities no numbers"
    LAST = "moments, and the last particles"
    ALL = "moments, and all particles with their ancestors"


class Doubt(NamedTuple):
    """Particles whose weight is no number, and one of them."""

    share: Any  # () of the particles
    moved: Any  # () whether it is the law of the state that is none; otherwise the observation's
    state: Any  # (*state): where it is; if `moved`, and not at time 0, from where it moved


class Pass(NamedTuple):
    """What a pass saw; fields that are not kept are ()."""

    log_density: Any  # (T,) estimates of log p(y_t | y_0..t-1)
    ess: Any = ()  # (T,) effective number of particles, weighted by the observation; 0 where none explains it
    mean: Any = ()  # (T, *state), of the filtering law
    variance: Any = ()  # (T, *state)
    particles: Any = ()  # (T, N, *state), or (1, N, *state): the last
    log_weights: Any = ()  # (T, N) or (1, N), normalised
    ancestors: Any = ()  # (T - 1, N): which particle of the time before each comes from
    undefined: Any = ()  # (T,) whether the weight of some particle is no number
    doubt: Any = ()  # Doubt, each part with a first axis (T,)


class _Cloud(NamedTuple):
    """Particles between two times."""

    x: Any
    log_weights: Any  # not normalised; NaN where a weight is no number, which counts as none
    weights: Weights


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
        weight = model.log_observation(x, t, params, y, seen, density)
        if used is not None:
            weight = weight + log_density(law, x) - jnp.sum(used.log_prob(x))
        return weight if keep is Keep.LIKELIHOOD else jnp.where(_no_state(law, x), jnp.nan, weight)

    @with_plain_logarithms
    def begin(words: jax.Array, y: Any, seen: Any) -> tuple:
        law = model.initial(params)
        used = None if method.initial_proposal is None else method.initial_proposal(params, y)
        x = draw(law if used is None else used, words)
        return x, weigh(x, 0, y, seen, law, used)

    @with_plain_logarithms
    def move(words: jax.Array, before: Any, t: Any, y: Any, seen: Any) -> tuple:
        law = model.transition(before, t, params)
        used = None if method.proposal is None else method.proposal(before, t, params, y)
        x = draw(law if used is None else used, words)
        return x, weigh(x, t, y, seen, law, used)

    def look(before: Any, t: Any, y: Any, seen: Any) -> jax.Array:
        if method.look_ahead is not None:
            value = method.look_ahead(before, t, params, y)
        else:
            value = model.log_observation(model.transition(before, t, params).mean, t, params, y, seen)
        return jnp.where(jnp.any(seen), jnp.maximum(jnp.nan_to_num(value, nan=_FAR), _FAR), 0.0)

    def settle(
        x: jax.Array, log_weights: jax.Array, ancestors: Any, before: jax.Array, law_of: Any
    ) -> tuple[_Cloud, Pass]:
        """Weigh the particles, and note what is to be known. law_of: a state before -> the law that x is from."""
        weights = weighed(log_weights)
        cloud = _Cloud(x, log_weights, weights)
        if keep is Keep.DOUBT:
            return cloud, Pass(weights.log_total, doubt=_doubt(log_weights, x, before, law_of))
        if keep is Keep.LIKELIHOOD:
            return cloud, Pass(weights.log_total)
        mean, variance = moments(weights, x)
        found = Pass(weights.log_total, weights.ess, mean, variance, undefined=weights.undefined)
        if keep is Keep.ALL:
            found = found._replace(particles=x, log_weights=weights.normal(log_weights), ancestors=ancestors)
        return cloud, found

    def advance(cloud: _Cloud, at: tuple) -> tuple[_Cloud, Pass]:
        t, y, seen, choosing, moving = at
        ahead, weights = jnp.zeros(()), cloud.weights
        if method.auxiliary:
            ahead = jax.vmap(look, in_axes=(0, None, None, None))(cloud.x, t, y, seen)
            weights = weighed(weights.normal(cloud.log_weights) + ahead)

        def resampled() -> tuple:
            order = jnp.argsort(cloud.x.reshape(n)) if sort else None
            shares = weights.relative
            chosen = method.resampling.scheme(choosing, shares if order is None else shares[order])
            chosen = chosen if order is None else order[chosen].astype(jnp.int32)
            seen_before = ahead[chosen] if method.auxiliary else ()
            return cloud.x[chosen], seen_before, chosen if keep is Keep.ALL else ()

        def as_they_are() -> tuple:
            ancestors = jnp.arange(n, dtype=jnp.int32) if keep is Keep.ALL else ()
            return cloud.x, ahead if method.auxiliary else (), ancestors

        if method.resample_below == 1 or sort:
            enough = jnp.zeros((), bool)
            x, seen_before, ancestors = resampled()
        else:
            dead = cloud.weights.ess == 0  # the weights are even
            enough = dead | (weights.ess > n * method.resample_below)
            x, seen_before, ancestors = lax.cond(enough, as_they_are, resampled)
        left = even + weights.log_total - seen_before if method.auxiliary else even
        log_weights = jnp.where(enough, cloud.weights.normal(cloud.log_weights), left)
        moved, gained = jax.vmap(move, in_axes=(1, 0, None, None, None))(words_of(moving, n), x, t, y, seen)
        if keep is Keep.DOUBT:  # where nothing was left, nothing is lost
            gained = jnp.where(log_weights > -jnp.inf, gained, -jnp.inf)
        return settle(moved, log_weights + gained, ancestors, x, lambda before: model.transition(before, t, params))

    y, seen = series.values, series.observed
    # the words of all times at once: in the loop each would be a kernel of its own
    counter = jnp.arange(times, dtype=jnp.uint32)
    choosing, moving = (threefry((words[:, 0], words[:, 1]), counter, jnp.full_like(counter, tag)) for tag in _TAGS)
    start = (moving[0][0], moving[1][0])
    x, gained = jax.vmap(begin, in_axes=(1, None, None))(words_of(start, n), y[0], seen[0])
    cloud, first = settle(x, even + gained, (), x, lambda _: model.initial(params))
    later = jax.tree.map(lambda part: part[1:], (jnp.arange(times), y, seen, choosing, moving))
    cloud, rest = lax.scan(advance, cloud, later)
    ancestors, rest = rest.ancestors, rest._replace(ancestors=())
    every = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
    if keep is Keep.LAST:
        return every._replace(particles=cloud.x[None], log_weights=cloud.weights.normal(cloud.log_weights)[None])
    return every._replace(ancestors=ancestors)


def _no_state(law: Any, x: jax.Array) -> jax.Array:
    """Whether a state's law is none, even if it can be drawn from as Normal(0, -1) can, or what was drawn no number."""
    none = impossible(law)
    return none | jnp.any(jnp.isnan(x)) if jnp.issubdtype(x.dtype, jnp.floating) else none


def _doubt(log_weights: jax.Array, x: jax.Array, before: jax.Array, law_of: Any) -> Doubt:
    """Of the log weights (n,) of states x (n, *state), which come from states `before`."""
    bad = jnp.isnan(log_weights)
    first = jnp.argmax(bad)
    moved = _no_state(law_of(before[first]), x[first])
    return Doubt(jnp.mean(bad, dtype=float), moved, jnp.where(moved, before[first], x[first]))


def moments(weights: Weights, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (*state) of particles (n, *state)."""

    def average(term: Callable) -> jax.Array:
        if x.ndim > 1:
            return jnp.tensordot(weights.relative, term(x), 1) / weights.total
        (total,) = sums(lambda weight, each: (weight * term(each),), weights.relative, x)
        return total / weights.total

    mean = average(lambda each: each)
    return mean, average(lambda each: (each - mean) ** 2)


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
