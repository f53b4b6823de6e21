"""The conditional particle filter with ancestor sampling: a step from one trajectory to another that keeps p(x | y, θ).

Lindsten, Jordan & Schön (2014), "Particle Gibbs with ancestor sampling", JMLR 15.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from probinfer.inference.montecarlo.particle import ParticleFilter
from probinfer.inference.montecarlo.particle_draws import draw
from probinfer.inference.montecarlo.particle_keys import key_of, words_of
from probinfer.inference.montecarlo.particle_pass import Pass, trace_back
from probinfer.inference.montecarlo.particle_weights import weighed
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import Series, StateSpace
from probinfer.model.trajectory import log_density


def conditional_pass(
    model: StateSpace,
    method: ParticleFilter,
    params: Parameters,
    series: Series,
    path: jax.Array,
    words: jax.Array,
    *,
    particles: int,
) -> jax.Array:
    """A new trajectory (T, *state) from `path` (T, *state). words: (2,) uint32.

    The last particle follows `path`, and at every time draws anew which particle it descends from; the others are drawn
    and resampled as in a filter.
    """
    n, root = particles, key_of(words)

    def each_words(key: jax.Array) -> jax.Array:
        first, second = jax.random.key_data(key)
        return words_of((first, second), n)

    def weigh(x: Any, t: Any, y: Any, seen: Any, law: Any, used: Any) -> jax.Array:
        weight = model.log_observation(x, t, params, y, seen)
        if used is not None:
            weight = weight + log_density(law, x) - jnp.sum(used.log_prob(x))
        return weight

    def begin(words: jax.Array, last: jax.Array, y: Any, seen: Any) -> tuple:
        law = model.initial(params)
        used = None if method.initial_proposal is None else method.initial_proposal(params, y)
        x = jnp.where(last, path[0], draw(law if used is None else used, words))
        return x, weigh(x, 0, y, seen, law, used)

    def advance(carry: tuple, at: tuple) -> tuple:
        x, log_weights = carry
        t, y, seen, reference = at
        moved_key, chosen_key, ancestor_key = jax.random.split(jax.random.fold_in(root, t), 3)
        chosen = jax.random.categorical(chosen_key, log_weights, shape=(n,))
        behind = jax.vmap(lambda one: log_density(model.transition(one, t, params), reference))(x)
        behind = log_weights + jnp.where(jnp.isnan(behind), -jnp.inf, behind)
        ancestor = jax.random.categorical(ancestor_key, behind)
        ancestor = jnp.where(jnp.max(behind) > -jnp.inf, ancestor, n - 1)
        ancestors = jnp.where(is_last, ancestor, chosen).astype(jnp.int32)

        def move(words: jax.Array, before: Any, last: Any) -> tuple:
            law = model.transition(before, t, params)
            used = None if method.proposal is None else method.proposal(before, t, params, y)
            moved = jnp.where(last, reference, draw(law if used is None else used, words))
            return moved, weigh(moved, t, y, seen, law, used)

        x, gained = jax.vmap(move, in_axes=(1, 0, 0))(each_words(moved_key), x[ancestors], is_last)
        log_weights = weighed(gained).normal(gained)
        return (x, log_weights), (x, log_weights, ancestors)

    is_last = jnp.arange(n) == n - 1
    y, seen = series.values, series.observed
    start_key, choice_key = jax.random.split(jax.random.fold_in(root, 0))
    x, gained = jax.vmap(begin, in_axes=(1, 0, None, None))(each_words(start_key), is_last, y[0], seen[0])
    log_weights = weighed(gained).normal(gained)
    _, rest = lax.scan(advance, (x, log_weights), (jnp.arange(1, len(y)), y[1:], seen[1:], path[1:]))
    every = [jnp.concatenate([a[None], b]) for a, b in zip((x, log_weights), rest[:2], strict=True)]
    passed = Pass((), particles=every[0], log_weights=every[1], ancestors=rest[2])
    return trace_back(passed, jax.random.key_data(choice_key))
