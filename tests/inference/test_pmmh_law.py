"""PMMH begins at exact draws and leaves their law where it is; filters mix over the draws of a posterior.

The model is linear and Gaussian, so that Kalman's filter gives the law of its parameter on a grid. False-alarm rate
1e-6 for each assertion.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import probinfer as pi
from probinfer.inference.exact.kalman import kalman
from probinfer.inference.mcmc.kernel import Draw
from probinfer.inference.montecarlo import pmmh
from probinfer.inference.montecarlo.marginal import Marginal
from probinfer.inference.montecarlo.particle import ParticleFilter
from probinfer.model.target import Target
from tests.inference.statistics import assert_law
from tests.inference.test_particle_mcmc import SD, F, Y, linear, nonlinear

CHAINS, STEPS, PROPOSALS, PARTICLES, CANDIDATES = 3000, 3, 3, 40, 60
GRID = np.linspace(-5, 4, 901)


@pytest.fixture(scope="module")
def exact():
    """Weights of the grid, and the smoothed means and sds of the states there (grid, T)."""
    model = linear()
    found = kalman(model, model.series(Y), {"log_q": GRID}, smooth=True)
    log_density = stats.norm.logpdf(GRID, -0.5, 1) + found.log_density.sum(axis=1)
    weights = np.exp(log_density - log_density.max())
    return weights / weights.sum(), found.mean[..., 0], np.sqrt(found.cov[..., 0, 0])


@pytest.fixture(scope="module")
def marginal():
    return Marginal(Target(nonlinear().bind(Y)), ParticleFilter())


def cdf_of(weights):
    """Distribution function of the law on the grid, linear between its points."""
    at = np.concatenate([[0.0], np.cumsum((weights[1:] + weights[:-1]) / 2)])
    return lambda x: np.interp(x, GRID, at / at[-1])


@pytest.fixture(scope="module")
def begun(marginal, exact):
    """Exact parameters (CHAINS,), their estimates and random words.

    The words belong to the parameter with the density p^(y | θ, words) / p(y | θ): one of CANDIDATES is chosen by that
    weight, which is so but for about one per cent of the chains.
    """
    cdf = cdf_of(exact[0])(GRID)
    start = np.interp(np.random.default_rng(0).random(CHAINS), cdf, GRID)
    target = marginal.target

    def choose(parameter, seed, inputs):
        q = jnp.zeros(target.dim).at[0].set(parameter)

        def consider(best, i):
            words = marginal.fresh((seed[0], i), jnp.uint32(0), 1)
            value = marginal.log_density(q, words, inputs, PARTICLES)
            marked = value + jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(seed), i), dtype=q.dtype)
            new = (marked, value, words)
            return jax.tree.map(lambda a, b: jnp.where(marked > best[0], a, b), new, best), 0

        none = (-jnp.inf, -jnp.inf, jnp.zeros((marginal.blocks, 2), jnp.uint32))
        _, value, words = jax.lax.scan(consider, none, jnp.arange(CANDIDATES, dtype=jnp.uint32))[0]
        return value, words

    with target.precision():
        seeds = np.random.default_rng(1).integers(0, 2**32, (CHAINS, 2), dtype=np.uint32)
        run = jax.jit(jax.vmap(choose, in_axes=(0, 0, None)))
        values, words = run(jnp.asarray(start), jnp.asarray(seeds), target.inputs)
    return start, np.asarray(values), np.asarray(words)


def moved(module, marginal, begun):
    """The parameter and the states after STEPS transitions: (CHAINS,), (CHAINS, T)."""
    target = marginal.target
    metric = pmmh.metric_of(np.array([[0.1]]), target.dim)
    step = functools.partial(module["transition"], marginal=marginal, particles=PARTICLES, proposals=PROPOSALS)

    def chain(parameter, value, words, seed, inputs):
        def one(draw, i):
            return step(lambda f: f(inputs), metric, draw, 1.0, (seed, i), 0)[0], 0

        q = jnp.zeros(target.dim).at[0].set(parameter)
        end = jax.lax.scan(one, Draw(q, jnp.zeros_like(q), value, words), jnp.arange(STEPS, dtype=jnp.uint32))[0]
        return end.q[0], marginal.states(end.q, q.dtype)

    with target.precision():
        seeds = np.random.default_rng(2).integers(0, 2**32, CHAINS, dtype=np.uint32)
        run = jax.jit(jax.vmap(chain, in_axes=(0, 0, 0, 0, None)))
        end, states = run(*map(jnp.asarray, begun), jnp.asarray(seeds), target.inputs)
    return np.asarray(end), np.asarray(states)


def assert_exact(found, exact):
    weights, means, sds = exact
    end, states = found
    assert_law(end, cdf_of(weights), checks=3, names="parameter")
    for t in (0, len(Y) - 1):
        law = functools.partial(lambda x, t: stats.norm.cdf(x[:, None], means[:, t], sds[:, t]) @ weights, t=t)
        assert_law(states[:, t], law, checks=3, names=f"state {t}")


@pytest.mark.long
def test_law_does_not_move_under_pmmh(marginal, begun, exact):
    found = moved(vars(pmmh), marginal, begun)
    assert_exact(found, exact)
    assert np.mean(found[0] != begun[0]) > 0.3
    assert np.corrcoef(found[0], begun[0])[0, 1] < 0.95


MUTANTS = {
    "accepts too often": ("jnp.log(uniform(bits, dtype)) <= gain", "jnp.log(uniform(bits, dtype)) <= 0.6 * gain"),
    "forgets the prior": (
        "gain = jnp.where(value > -jnp.inf, value - here.log_density, -jnp.inf)",
        "gain = value - marginal.log_prior(q) - here.log_density + marginal.log_prior(here.q)",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_move_the_law(name, marginal, begun, exact):
    old, new = MUTANTS[name]
    source = inspect.getsource(pmmh)
    assert source.count(old) == 1
    namespace = {"__name__": "probinfer.inference.montecarlo.pmmh"}
    exec(source.replace(old, new), namespace)
    with pytest.raises(AssertionError, match="the law is off"):
        assert_exact(moved(namespace, marginal, begun), exact)


def filtered(log_q):
    """Means and variances (T,) of the states, by the recursion for one number."""
    mean, variance, out = 0.0, 1.0, []
    for t, y in enumerate(Y):
        if t:
            mean, variance = F * mean, F**2 * variance + np.exp(2 * log_q)
        if not np.isnan(y):
            gain = variance / (variance + SD**2)
            mean, variance = mean + gain * (y - mean), (1 - gain) * variance
        out.append((mean, variance))
    return np.array(out).T


@pytest.fixture(scope="module")
def mixture():
    """A posterior of 100 draws, all of which are used, and the mean (T,), sd (T,) and distribution of its mixture."""
    posterior = pi.infer(linear(), Y, pi.NUTS(chains=2, draws=50, warmup=100), progress=False)
    draws = np.asarray(posterior.tree["posterior"]["log_q"]).ravel()
    means, variances = (np.array(part) for part in zip(*map(filtered, draws), strict=True))
    sd = np.sqrt(variances.mean(axis=0) + means.var(axis=0))
    return posterior, means.mean(axis=0), sd, lambda x: stats.norm.cdf(x, means, np.sqrt(variances)).mean(axis=0)


def test_kalman_mixes_over_the_draws_of_a_posterior(mixture):
    posterior, mean, sd, cdf = mixture
    found = pi.filter(linear(), Y, parameters=posterior)
    np.testing.assert_allclose(found.mean[:, 0], mean, rtol=1e-9)
    np.testing.assert_allclose(found.sd[:, 0], sd, rtol=1e-9)
    lower, upper = found.interval(0.9)
    np.testing.assert_allclose(cdf(lower[:, 0]), 0.05, atol=1e-6)
    np.testing.assert_allclose(cdf(upper[:, 0]), 0.95, atol=1e-6)
    one = pi.filter(linear(), Y, parameters={"log_q": np.asarray(posterior.tree["posterior"]["log_q"]).mean()})
    assert np.abs(one.sd[:, 0] / sd - 1).max() > 0.02, "blind to a filter at one value"


@pytest.mark.long
def test_particles_mix_over_the_draws_of_a_posterior(mixture):
    posterior, mean, sd, _ = mixture
    found = pi.filter(nonlinear(), Y, pi.ParticleFilter(particles=500), parameters=posterior)
    bound = stats.norm.isf(1e-6 / (2 * len(Y)))
    # a run of 500 particles has a bias of order 1/500
    assert (np.abs(np.squeeze(found.mean) - mean) < bound * np.squeeze(found.mcse) + sd / 500).all()
    np.testing.assert_allclose(np.squeeze(found.sd), sd, rtol=0.1)
    one = pi.filter(nonlinear(), Y, pi.ParticleFilter(particles=500), parameters={"log_q": 1.5})
    assert not (np.abs(np.squeeze(one.mean) - mean) < bound * np.squeeze(one.mcse) + sd / 500).all()
