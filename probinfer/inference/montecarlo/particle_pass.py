"""One pass of a particle filter over a series, for use inside a compiled program."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from probinfer.inference.montecarlo.particle_keys import key_of, keys_of
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import Series, StateSpace

if TYPE_CHECKING:
    from probinfer.inference.montecarlo.particle import ParticleFilter

_FAR = -1e8  # log of the least that a look ahead may say: no particle is to be lost by it for good


class Pass(NamedTuple):
    """What a pass saw."""

    mean: Any  # (T, *state), of the filtering law
    variance: Any  # (T, *state)
    ess: Any  # (T,) effective number of particles, weighted by the observation; 0 where none explains it
    log_density: Any  # (T,) estimates of log p(y_t | y_0..t-1)
    particles: Any  # (T, N, *state); (1, N, *state), the last, where not all are kept
    log_weights: Any  # (T, N) or (1, N), normalised


def one_pass(
    model: StateSpace, method: "ParticleFilter", params: Parameters, series: Series, key: jax.Array, *, keep: bool
) -> Pass:
    """Filter once. key: (2,) uint32."""
    n = method.particles
    even = -jnp.log(float(n))
    root = key_of(key)

    def weigh(x: Any, t: Any, y: Any, seen: Any, law: Any, used: Any) -> jax.Array:
        weight = model.log_observation(x, t, params, y, seen)
        if used is not None:
            weight = weight + jnp.sum(law().log_prob(x)) - jnp.sum(used.log_prob(x))
        return jnp.where(jnp.isnan(weight), -jnp.inf, weight)

    def begin(key: jax.Array, y: Any, seen: Any) -> tuple:
        used = None if method.initial_proposal is None else method.initial_proposal(params, y)
        x = (used if used is not None else model.initial(params)).sample(key)
        return x, weigh(x, 0, y, seen, lambda: model.initial(params), used)

    def move(key: jax.Array, before: Any, t: Any, y: Any, seen: Any) -> tuple:
        used = None if method.proposal is None else method.proposal(before, t, params, y)
        x = (used if used is not None else model.transition(before, t, params)).sample(key)
        return x, weigh(x, t, y, seen, lambda: model.transition(before, t, params), used)

    def look(before: Any, t: Any, y: Any, seen: Any) -> jax.Array:
        if method.look_ahead is not None:
            value = method.look_ahead(before, t, params, y)
        else:
            value = model.log_observation(model.transition(before, t, params).mean, t, params, y, seen)
        return jnp.where(jnp.any(seen), jnp.maximum(jnp.nan_to_num(value, nan=_FAR), _FAR), 0.0)

    def advance(carry: tuple, at: tuple) -> tuple:
        x, log_weights = carry
        t, y, seen = at
        move_key, resample_key = jax.random.split(jax.random.fold_in(root, t))
        ahead = jnp.zeros(n)
        if method.auxiliary:
            ahead = jax.vmap(look, in_axes=(0, None, None, None))(x, t, y, seen)
        first = log_weights + ahead
        total = logsumexp(first)
        weights = jnp.exp(first - total)

        def resampled() -> tuple:
            chosen = method.resampling.scheme(resample_key, weights)
            return x[chosen], even + total - ahead[chosen]

        enough = jnp.sum(weights**2) * n * method.resample_below < 1
        x, log_weights = lax.cond(enough, lambda: (x, log_weights), resampled)
        moved, gained = jax.vmap(move, in_axes=(0, 0, None, None, None))(keys_of(move_key, n), x, t, y, seen)
        return _settle(moved, log_weights + gained, keep=keep)

    y, seen = series.values, series.observed
    start_keys = keys_of(jax.random.fold_in(root, 0), n)
    x, gained = jax.vmap(begin, in_axes=(0, None, None))(start_keys, y[0], seen[0])
    carry, first = _settle(x, even + gained, keep=keep)
    carry, rest = lax.scan(advance, carry, (jnp.arange(1, len(y)), y[1:], seen[1:]))
    every = [jnp.concatenate([a[None], b]) for a, b in zip(first, rest, strict=True)]
    return Pass(*every) if keep else Pass(*every, carry[0][None], carry[1][None])


def _settle(x: jax.Array, log_weights: jax.Array, *, keep: bool) -> tuple:
    """The particles with normalised weights, and what is to be known of them."""
    total = logsumexp(log_weights)
    alive = total > -jnp.inf
    normal = jnp.where(alive, log_weights - total, -jnp.log(float(len(log_weights))))
    weights = jnp.exp(normal)
    mean = jnp.tensordot(weights, x, 1)
    variance = jnp.tensordot(weights, (x - mean) ** 2, 1)
    # nobody explains the observation: the estimate is zero, and the effective number says so
    ess = jnp.where(alive, 1 / jnp.sum(weights**2), 0.0)
    return (x, normal), (mean, variance, ess, total, *((x, normal) if keep else ()))
