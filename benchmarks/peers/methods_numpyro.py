"""NumPyro's Gibbs kernels and, for the time it takes to compile, its NUTS: python methods_numpyro.py MODEL METHOD.

Gibbs: 4 vectorised chains of 400 + 1000 turns, as probinfer's default has them, inside one `jax.jit`. clusters:
DiscreteHMCGibbs, modified, around NUTS. groups: HMCGibbs with the conditional laws written out by hand around NUTS of
`mu`. NUTS: the first call is a plain `MCMC.run` (1000 + 1000), as its users make it; later calls are compiled.
"""

import sys

import jax
import jax.numpy as jnp
import models_numpyro
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS, DiscreteHMCGibbs, HMCGibbs
from worker import serve

numpyro.enable_x64()
WARMUP = {"Gibbs": 400, "NUTS": 1000}


def conditionals(group, y):
    """Draws of `means`, `between` and `within`, each from its law given the others, by hand."""
    count = jnp.bincount(group, length=30)
    total = jnp.zeros(30).at[group].add(y)

    def draw(rng_key, gibbs_sites, hmc_sites):
        keys = jax.random.split(rng_key, 3)
        mu, between, within = hmc_sites["mu"], gibbs_sites["between"], gibbs_sites["within"]
        precision = between + count * within
        means = (between * mu + within * total) / precision + jax.random.normal(keys[0], (30,)) / jnp.sqrt(precision)
        rates = 1.0 + jnp.sum((means - mu) ** 2) / 2, 1.0 + jnp.sum((y - means[group]) ** 2) / 2
        between = jax.random.gamma(keys[1], 2.0 + 30 / 2) / rates[0]
        within = jax.random.gamma(keys[2], 2.0 + len(y) / 2) / rates[1]
        return {"means": means, "between": between, "within": within}

    return draw


def kernel(name, method, data):
    nuts = NUTS(models_numpyro.MODELS[name])
    if method == "NUTS":
        return nuts
    if name == "groups":
        return HMCGibbs(nuts, gibbs_fn=conditionals(**data), gibbs_sites=["means", "between", "within"])
    return DiscreteHMCGibbs(nuts, modified=True)


def make(name, data):
    method = sys.argv[2]
    data = jax.tree.map(jnp.asarray, data)
    calls = []

    def sampler():
        return MCMC(
            kernel(name, method, data),
            num_warmup=WARMUP[method],
            num_samples=1000,
            num_chains=4,
            chain_method="vectorized" if method == "NUTS" else jax.vmap,  # its Gibbs takes no batch of keys
            progress_bar=False,
        )

    def plain(key):
        mcmc = sampler()
        mcmc.run(key, **data)
        return mcmc.get_samples(group_by_chain=True)

    compiled = jax.jit(plain)

    def call(seed):
        calls.append(seed)
        run = plain if method == "NUTS" and len(calls) == 1 else compiled
        return {site: np.asarray(values) for site, values in run(jax.random.PRNGKey(seed)).items()}, {}

    return call


if __name__ == "__main__":
    serve(make)
