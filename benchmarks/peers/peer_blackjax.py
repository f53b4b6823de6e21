"""BlackJAX's NUTS with window adaptation: 4 vectorised chains, 1000 + 1000 draws, double precision."""

import blackjax
import jax
import models_numpyro
import numpy as np
import numpyro
from numpyro.infer.util import initialize_model
from worker import serve

numpyro.enable_x64()


def make(name, data):
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    info = initialize_model(keys, models_numpyro.MODELS[name], model_kwargs=data)
    structure = jax.tree.map(lambda leaf: leaf[0], info.param_info.z)

    def log_density(z):
        return -info.potential_fn(z)

    def chain(key):
        key_start, key_warm, key_draw = jax.random.split(key, 3)
        leaves, tree = jax.tree.flatten(structure)
        starts = [
            jax.random.uniform(k, leaf.shape, leaf.dtype, -2, 2)
            for k, leaf in zip(jax.random.split(key_start, len(leaves)), leaves, strict=True)
        ]
        warm = blackjax.window_adaptation(blackjax.nuts, log_density)
        (state, parameters), history = warm.run(key_warm, jax.tree.unflatten(tree, starts), num_steps=1000)
        step = blackjax.nuts(log_density, **parameters).step

        def advance(state, key):
            state, seen = step(key, state)
            return state, (state.position, seen.num_integration_steps)

        _, (positions, steps) = jax.lax.scan(advance, state, jax.random.split(key_draw, 1000))
        return jax.vmap(info.postprocess_fn)(positions), steps, history.info.num_integration_steps

    chains = jax.jit(jax.vmap(chain))

    def call(seed):
        draws, steps, warm = jax.tree.map(np.asarray, chains(jax.random.split(jax.random.PRNGKey(seed), 4)))
        return draws, {"steps": int(steps.sum()), "warmup_steps": int(warm.sum())}

    return call


if __name__ == "__main__":
    serve(make)
