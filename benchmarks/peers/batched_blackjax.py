"""BlackJAX's window adaptation and NUTS, under vmap: python batched_blackjax.py MODEL CHAINS vmap. 200 + 100 steps."""

import sys

import blackjax
import jax
import numpy as np
from methods_blackjax import Target
from worker import serve

WARMUP, DRAWS = 200, 100


def make(name, data):
    target, chains = Target(name, data), int(sys.argv[2])

    def chain(key, start):
        key_warm, key_draw = jax.random.split(key)
        adaptation = blackjax.window_adaptation(blackjax.nuts, target.log_density)
        (state, parameters), _ = adaptation.run(key_warm, start, WARMUP)
        step = blackjax.nuts(target.log_density, **parameters).step

        def advance(state, key):
            state, _ = step(key, state)
            return state, state.position

        return jax.lax.scan(advance, state, jax.random.split(key_draw, DRAWS))[1]

    @jax.jit
    def program(key):
        key_start, key = jax.random.split(key)
        positions = jax.vmap(chain)(jax.random.split(key, chains), target.at_random(key_start, chains))
        return jax.vmap(jax.vmap(target.constrain))(positions)

    def call(seed):
        return {site: np.asarray(values) for site, values in program(jax.random.PRNGKey(seed)).items()}, {}

    return call


if __name__ == "__main__":
    serve(make)
