"""BlackJAX's tempered SMC, ChEES, MEADS and multi-path Pathfinder: python methods_blackjax.py MODEL METHOD.

Each is one compiled program in double precision, with as many particles, chains or draws as probinfer's default.
"""

import sys

import blackjax
import jax
import jax.numpy as jnp
import models_numpyro
import numpy as np
import numpyro
import optax
from blackjax.smc import extend_params, resampling
from blackjax.smc.tuning.from_particles import inverse_mass_matrix_from_particles
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import initialize_model, unconstrain_fn
from worker import serve

numpyro.enable_x64()
PARTICLES, CHAINS, PATHS, DRAWS = 4000, 128, 8, 4000


class Target:
    """Log densities on the unconstrained space, and where to begin."""

    def __init__(self, name, data):
        self.model, self.data = models_numpyro.MODELS[name], data
        info = initialize_model(jax.random.PRNGKey(0), self.model, model_kwargs=data)
        self.structure, self.constrain, self._potential = info.param_info.z, info.postprocess_fn, info.potential_fn
        observed = handlers.trace(handlers.seed(self.model, 0)).get_trace(**data)
        self._observed = [n for n, site in observed.items() if site["type"] == "sample" and site["is_observed"]]
        outcome = {"radon": "log_radon"}.get(name, "y")
        self._unseen = {key: value for key, value in data.items() if key != outcome}

    def log_density(self, z):
        return -self._potential(z)

    def log_likelihood(self, z):
        model = handlers.substitute(handlers.seed(self.model, 0), self.constrain(z))
        trace = handlers.trace(model).get_trace(**self.data)
        return sum(trace[n]["fn"].log_prob(trace[n]["value"]).sum() for n in self._observed)

    def log_prior(self, z):
        return self.log_density(z) - self.log_likelihood(z)

    def from_prior(self, key, count):
        drawn = Predictive(self.model, num_samples=count)(key, **self._unseen)
        drawn = {site: drawn[site] for site in self.structure}
        return jax.vmap(lambda values: unconstrain_fn(self.model, (), self.data, values))(drawn)

    def at_random(self, key, count):
        leaves, tree = jax.tree.flatten(self.structure)
        keys = jax.random.split(key, len(leaves))
        drawn = [
            jax.random.uniform(k, (count, *leaf.shape), minval=-2, maxval=2)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, drawn)


def smc(target):
    """Adaptive tempering: the mass matrix from the particles, the step size from the acceptance of the moves before."""
    dim = sum(leaf.size for leaf in jax.tree.leaves(target.structure))

    def run(key):
        key_start, key = jax.random.split(key)

        def tuned(key, state, info):
            del key
            acceptance = info.update_info.acceptance_rate.mean()
            return extend_params(
                {
                    "step_size": jnp.clip(dim**-0.25 * jnp.exp(acceptance - 0.8), 1e-3, 2.0),
                    "inverse_mass_matrix": inverse_mass_matrix_from_particles(state.particles),
                    "num_integration_steps": 4,
                }
            )

        start = target.from_prior(key_start, PARTICLES)
        algorithm = blackjax.inner_kernel_tuning(
            smc_algorithm=blackjax.adaptive_tempered_smc,
            logprior_fn=target.log_prior,
            loglikelihood_fn=target.log_likelihood,
            mcmc_step_fn=blackjax.hmc.build_kernel(),
            mcmc_init_fn=blackjax.hmc.init,
            resampling_fn=resampling.systematic,
            mcmc_parameter_update_fn=tuned,
            initial_parameter_value=extend_params(
                {
                    "step_size": jnp.asarray(dim**-0.25),
                    "inverse_mass_matrix": inverse_mass_matrix_from_particles(start),
                    "num_integration_steps": 4,
                }
            ),
            target_ess=0.5,
            num_mcmc_steps=10,
        )

        def step(carry):
            state, key = carry
            key, own = jax.random.split(key)
            return algorithm.step(own, state)[0], key

        state, _ = jax.lax.while_loop(
            lambda carry: carry[0].sampler_state.tempering_param < 1, step, (algorithm.init(start), key)
        )
        return jax.tree.map(lambda x: x[None], state.sampler_state.particles)

    return run


def chees(target):
    def run(key):
        key_start, key_warm, key_draw = jax.random.split(key, 3)
        adaptation = blackjax.chees_adaptation(target.log_density, CHAINS, mass_matrix_estimation="diagonal")
        start = target.at_random(key_start, CHAINS)
        (states, parameters), _ = adaptation.run(key_warm, start, 0.1, optax.adam(0.05), 200)
        return chains(blackjax.dhmc(target.log_density, **parameters).step, states, key_draw, 100)

    return run


def meads(target):
    """1000 + 1000 steps, each of one leapfrog."""

    def run(key):
        key_start, key_warm, key_draw = jax.random.split(key, 3)
        adaptation = blackjax.meads_adaptation(target.log_density, CHAINS)
        (states, parameters), _ = adaptation.run(key_warm, target.at_random(key_start, CHAINS), 1000)
        return chains(blackjax.ghmc(target.log_density, **parameters).step, states, key_draw, 1000)

    return run


def chains(step, states, key, count):
    def advance(states, key):
        states, _ = jax.vmap(step)(jax.random.split(key, CHAINS), states)
        return states, states.position

    _, positions = jax.lax.scan(advance, states, jax.random.split(key, count))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), positions)


def pathfinder(target):
    algorithm = blackjax.multipathfinder(target.log_density)

    def run(key):
        key_start, key_climb, key_draw = jax.random.split(key, 3)
        start = target.at_random(key_start, PATHS)
        state, _ = algorithm.init(key_climb, start, DRAWS // PATHS)
        return jax.tree.map(lambda x: x[None], algorithm.sample(key_draw, state, DRAWS))

    return run


METHODS = {"SMC": smc, "ChEES": chees, "MEADS": meads, "Pathfinder": pathfinder}


def make(name, data):
    target = Target(name, data)
    run = METHODS[sys.argv[2]](target)
    program = jax.jit(lambda key: jax.vmap(jax.vmap(target.constrain))(run(key)))

    def call(seed):
        draws = program(jax.random.PRNGKey(seed))
        return {site: np.asarray(values) for site, values in draws.items()}, {}

    return call


if __name__ == "__main__":
    serve(make)
