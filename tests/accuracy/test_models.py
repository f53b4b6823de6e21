"""The reference models have the density that the reference draws come from; no sampler takes part.

Needs the reference posteriors beside the repository, so the tests over all models are marked long; what does not
need them runs always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

from benchmarks.reference.registry import REGISTRY, folder
from benchmarks.reference.sequence import forward_log_likelihood, lotka_volterra_path
from tests.accuracy.stein import scores, unconstrained

FALSE_ALARM = 1e-6
needs_references = pytest.mark.skipif(
    not folder().is_dir(),
    reason=f"the reference posteriors are not at {folder()}; see benchmarks/reference/registry.py",
)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def worst_score(model, data, latents):
    """(largest |z| over Stein's identities, largest allowed)."""
    log_density, u = unconstrained(model, data, latents)
    gradient = jax.jit(lambda u: jax.lax.map(jax.grad(log_density), u, batch_size=100))(u)
    z = scores(u, np.asarray(gradient))
    return np.abs(z).max(), stats.norm.isf(FALSE_ALARM / 2 / z.size)


@pytest.mark.long
@needs_references
@pytest.mark.parametrize("name", REGISTRY)
def test_density_is_the_one_the_reference_draws_come_from(name):
    entry = REGISTRY[name]
    worst, limit = worst_score(entry.model, entry.data(), entry.latents(entry.draws()))
    assert worst < limit


@pytest.mark.long
@needs_references
@pytest.mark.parametrize(
    ("name", "log_factor"),
    [
        pytest.param("garch11", lambda v: -jnp.log1p(-v["alpha1"]), id="garch11: beta1 | alpha1 uniform"),
        pytest.param("eight_schools_noncentered", lambda v: -jnp.log(v["tau"]), id="eight schools: no Jacobian of tau"),
        pytest.param("surgical", lambda v: -jnp.log(v["sigmasq"]), id="surgical: no Jacobian of sigmasq"),
        pytest.param("gp_regr", lambda v: -jnp.log(v["sigma"]), id="gp_regr: no Jacobian of sigma"),
        pytest.param("losscurve", lambda v: -jnp.log(v["sd_LR"]), id="losscurve: no Jacobian of sd_LR"),
    ],
)
def test_a_wrong_density_is_told_from_the_right_one(name, log_factor):
    entry = REGISTRY[name]

    def twin(**data):
        with numpyro.handlers.trace() as trace:
            entry.model(**data)
        numpyro.factor("wrong", log_factor({name: site["value"] for name, site in trace.items()}))

    worst, limit = worst_score(twin, entry.data(), entry.latents(entry.draws()))
    assert worst > limit


@pytest.mark.long
@needs_references
@pytest.mark.parametrize("name", REGISTRY)
def test_every_reference_scalar_is_a_site_of_the_model(name):
    entry = REGISTRY[name]
    substituted = numpyro.handlers.substitute(
        numpyro.handlers.seed(entry.model, 0), {k: v[0] for k, v in entry.latents(entry.draws()).items()}
    )
    trace = numpyro.handlers.trace(substituted).get_trace(**entry.data())
    for parameter, draws in entry.draws().items():
        site = trace[parameter]
        assert site["type"] == "deterministic" or not site["is_observed"]
        np.testing.assert_allclose(site["value"], draws[0], rtol=1e-4)


def correlated_normal(scale):
    """A model with a positive and a correlated pair of parameters, and exact draws of its posterior (its prior)."""
    rng = np.random.default_rng(0)
    cov = np.array([[1.0, 0.999], [0.999, 1.0]])

    def model():
        numpyro.sample("s", dist.LogNormal(0, 1))
        numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), scale * cov))

    draws = {"s": np.exp(rng.normal(size=1000)), "x": rng.multivariate_normal(np.zeros(2), cov, size=1000)}
    return model, draws


def test_stein_identities_hold_for_the_right_density_only():
    model, draws = correlated_normal(1.0)
    worst, limit = worst_score(model, {}, draws)
    assert worst < limit
    model, draws = correlated_normal(1.5)
    worst, limit = worst_score(model, {}, draws)
    assert worst > limit


def test_lotka_volterra_is_solved_to_five_digits():
    theta, z_init, ts = np.array([0.55, 0.028, 0.8, 0.024]), np.array([34.0, 5.9]), np.arange(1.0, 21.0)

    def slope(t, z):
        return [(theta[0] - theta[1] * z[1]) * z[0], (theta[3] * z[0] - theta[2]) * z[1]]

    exact = solve_ivp(slope, (0, 20), z_init, t_eval=ts, method="DOP853", rtol=1e-11, atol=1e-11).y.T
    path = lotka_volterra_path(jnp.asarray(theta), jnp.asarray(z_init), jnp.asarray(ts))
    np.testing.assert_allclose(path, np.log(exact), atol=1e-5)


def test_forward_algorithm_sums_over_every_path_of_states():
    rng = np.random.default_rng(1)
    T, K = 5, 2
    log_transition, log_emission = rng.normal(size=(K, K)), rng.normal(size=(T, K))
    total = 0.0
    for path in np.ndindex(*[K] * T):
        log_p = sum(log_emission[t, path[t]] for t in range(T))
        total += np.exp(log_p + sum(log_transition[path[t - 1], path[t]] for t in range(1, T)))
    np.testing.assert_allclose(
        forward_log_likelihood(jnp.asarray(log_transition), jnp.asarray(log_emission)), np.log(total)
    )
