"""NumPyro's NUTS: 4 vectorised chains, 1000 + 1000 draws, double precision.

A second `MCMC.run` compiles its loop anew, so where compiling must not count all of it runs inside one `jax.jit`. What
a user waits for who calls `MCMC.run` a second time, on the same object, is timed besides: `--plain`.
"""

import sys

import jax
import models_numpyro
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS
from worker import serve

numpyro.enable_x64()


def make(name, data):
    def sampler():
        kernel = NUTS(models_numpyro.MODELS[name])
        return MCMC(
            kernel, num_warmup=1000, num_samples=1000, num_chains=4, chain_method="vectorized", progress_bar=False
        )

    def once(seed):
        mcmc = sampler()
        mcmc.run(jax.random.PRNGKey(seed), **data)
        return {site: np.asarray(values) for site, values in mcmc.get_samples(group_by_chain=True).items()}, {}

    reused = sampler()

    def plain(seed):
        reused.run(jax.random.PRNGKey(seed), **data, extra_fields=("num_steps",))
        draws = {site: np.asarray(values) for site, values in reused.get_samples(group_by_chain=True).items()}
        return draws, {"steps": int(reused.get_extra_fields()["num_steps"].sum()), "warmup_steps": 0}

    @jax.jit
    def chains(key):
        mcmc = sampler()
        mcmc.warmup(key, **data, collect_warmup=True, extra_fields=("num_steps",))
        warmup_steps = mcmc.get_extra_fields()["num_steps"].sum()
        mcmc.run(key, **data, extra_fields=("num_steps",))
        return mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields()["num_steps"].sum(), warmup_steps

    def call(seed):
        draws, steps, warmup_steps = jax.tree.map(np.asarray, chains(jax.random.PRNGKey(seed)))
        return draws, {"steps": int(steps), "warmup_steps": int(warmup_steps)}

    return once if "--once" in sys.argv else plain if "--plain" in sys.argv else call


if __name__ == "__main__":
    serve(make)
