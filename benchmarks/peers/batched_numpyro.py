"""NumPyro's NUTS with many chains under vmap: python batched_numpyro.py MODEL CHAINS vectorized. 200 + 100 steps."""

import sys

import jax
import jax.numpy as jnp
import models_numpyro
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS
from worker import serve

numpyro.enable_x64()
WARMUP, DRAWS = 200, 100


def make(name, data):
    data = jax.tree.map(jnp.asarray, data)
    chains, how = int(sys.argv[2]), sys.argv[3]

    @jax.jit
    def program(key):
        sampler = MCMC(
            NUTS(models_numpyro.MODELS[name]),
            num_warmup=WARMUP,
            num_samples=DRAWS,
            num_chains=chains,
            chain_method=how,
            progress_bar=False,
        )
        sampler.run(key, **data)
        return sampler.get_samples(group_by_chain=True)

    def call(seed):
        return {site: np.asarray(values) for site, values in program(jax.random.PRNGKey(seed)).items()}, {}

    return call


if __name__ == "__main__":
    serve(make)
