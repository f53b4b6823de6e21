"""BlackJAX's tempered SMC, ChEES, MEADS, multi-path Pathfinder and MCLMC: python methods_blackjax.py MODEL METHOD.

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
STEPS, ADJUSTED = 10_000, 4_000  # of each of MCLMC's 4 chains, after tuning


class Target:
    """Log densities on the unconstrained space, and where to begin."""

    def __init__(self, name, data):
        self.model, self.data = models_numpyro.MODELS[name], data
        info = initialize_model(jax.random.PRNGKey(0), self.model, model_kwargs=data)
        self.structure, self.constrain, self._potential = info.param_info.z, info.postprocess_fn, info.potential_fn
        outcome = {"radon": "log_radon"}.get(name, "y")
        self._unseen = {key: value for key, value in data.items() if key != outcome}

    def log_density(self, z):
        return -self._potential(z)

    def log_likelihood(self, z):
        model = handlers.substitute(handlers.seed(self.model, 0), self.constrain(z))
        trace = handlers.trace(model).get_trace(**self.data)
        seen = [site for site in trace.values() if site["type"] == "sample" and site["is_observed"]]
        return sum(site["fn"].log_prob(site["value"]).sum() for site in seen)

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


def four_chains(target, chain):
    """chain(key, start) -> positions and number of gradients."""

    def run(key):
        key_start, key = jax.random.split(key)
        return jax.vmap(chain)(jax.random.split(key, 4), target.at_random(key_start, 4))

    return run


def mclmc(target):
    """Unadjusted, tuned by its own rules with their defaults: energy error 5e-4, diagonal metric. Every step is kept.

    A step takes two gradients.
    """
    kernel = blackjax.mcmc.mclmc.build_kernel()

    def chain(key, start):
        key_first, key_tune, key_draw = jax.random.split(key, 3)
        state, tuned, spent = blackjax.mclmc_find_L_and_step_size(
            mclmc_kernel=kernel,
            num_steps=STEPS,
            state=blackjax.mcmc.mclmc.init(start, target.log_density, key_first),
            rng_key=key_tune,
            logdensity_fn=target.log_density,
        )

        def advance(state, key):
            state, _ = kernel(
                key, state, target.log_density, tuned.inverse_mass_matrix, L=tuned.L, step_size=tuned.step_size
            )
            return state, state.position

        _, positions = jax.lax.scan(advance, state, jax.random.split(key_draw, STEPS))
        return positions, 2 * (STEPS + spent)

    return four_chains(target, chain)


def adjusted_mclmc(target):
    """With Metropolis steps at the ends of trajectories of random length, tuned to an acceptance of 0.9."""
    module = blackjax.mcmc.adjusted_mclmc_dynamic
    length = module.make_random_trajectory_length_fn(True)
    kernel = module.build_kernel(integration_steps_fn=length)

    def chain(key, start):
        key_first, key_tune, key_draw = jax.random.split(key, 3)
        state, tuned, spent = blackjax.adjusted_mclmc_find_L_and_step_size(
            mclmc_kernel=kernel,
            logdensity_fn=target.log_density,
            num_steps=ADJUSTED,
            state=module.init(start, target.log_density, key_first),
            rng_key=key_tune,
            target=0.9,
        )

        def advance(state, key):
            state, info = kernel(
                key,
                state,
                target.log_density,
                step_size=tuned.step_size,
                inverse_mass_matrix=tuned.inverse_mass_matrix,
                integration_steps_params=(tuned.L / tuned.step_size,),
            )
            return state, (state.position, info.num_integration_steps)

        _, (positions, steps) = jax.lax.scan(advance, state, jax.random.split(key_draw, ADJUSTED))
        return positions, 2 * (jnp.sum(steps) + spent)

    return four_chains(target, chain)


METHODS = {
    **{"SMC": smc, "ChEES": chees, "MEADS": meads, "Pathfinder": pathfinder},
    **{"MCLMC": mclmc, "adjusted MCLMC": adjusted_mclmc},
}
COUNTED = {"MCLMC", "adjusted MCLMC"}  # these tell the number of gradients too


def make(name, data):
    target = Target(name, data)
    run = METHODS[sys.argv[2]](target)
    counted = sys.argv[2] in COUNTED

    @jax.jit
    def program(key):
        positions, gradients = run(key) if counted else (run(key), 0)
        return jax.vmap(jax.vmap(target.constrain))(positions), jnp.sum(gradients)

    def call(seed):
        draws, gradients = program(jax.random.PRNGKey(seed))
        draws = {site: np.asarray(values) for site, values in draws.items()}
        return draws, {"gradients": int(gradients)} if counted else {}

    return call


if __name__ == "__main__":
    serve(make)
