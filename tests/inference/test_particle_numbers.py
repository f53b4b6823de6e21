"""What a particle filter draws, weighs and sums with, next to NumPy's, SciPy's and NumPyro's answers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from probinfer.inference.montecarlo import particle_draws
from probinfer.inference.montecarlo.cumulated import cumulated
from probinfer.inference.montecarlo.particle_draws import density, draw
from probinfer.inference.montecarlo.particle_logs import logarithm
from probinfer.inference.montecarlo.particle_pass import weighed
from tests.inference.statistics import assert_law

COUNT = 200_000


def numbers(law, count):
    words = jnp.stack([jnp.arange(count, dtype=jnp.uint32), jnp.full(count, 7, jnp.uint32)], axis=1)
    return np.asarray(jax.jit(jax.vmap(lambda each: draw(law, each)))(words))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_normal_numbers_have_the_normal_law():
    z = numbers(dist.Normal(0.0, 1.0), COUNT)
    assert_law(z, stats.norm.cdf, checks=3)
    assert_law(z**2, stats.chi2(1).cdf, checks=3)
    assert_law((z[::2] + z[1::2]) / np.sqrt(2), stats.norm.cdf, checks=3)  # of neighbours
    with pytest.raises(AssertionError):
        assert_law(1.05 * z, stats.norm.cdf, checks=3)


def test_normal_numbers_are_exact_out_to_their_last_tail(monkeypatch):
    """Against SciPy's quantiles, at the bits that the generator is made to give."""
    bits = np.concatenate([np.arange(64), 2 ** np.arange(6, 32), 2**32 - 1 - np.arange(64)]).astype(np.uint32)
    monkeypatch.setattr(particle_draws, "threefry", lambda key, counter, tag: (key[0] + counter, tag))
    found = np.asarray(jax.jit(jax.vmap(lambda each: particle_draws.normal((each, each), ())))(bits))
    exact = stats.norm.isf(((bits >> 1) + 0.5) / 2.0**32) * np.where(bits & 1, 1, -1)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=2e-7)
    assert np.abs(found).max() > 6


@pytest.mark.parametrize(
    "law", [dist.Normal(2.0, 3.0), dist.LogNormal(0.5, 0.2), dist.Normal(np.array([1.0, -1.0]), 0.5).to_event(1)]
)
def test_other_laws_are_made_of_them(law):
    x = numbers(law, 20_000).reshape(20_000, -1)
    mean, sd = np.ravel(law.mean), np.sqrt(np.ravel(law.variance))
    assert (np.abs(x.mean(axis=0) - mean) < 5.5 * sd / np.sqrt(len(x))).all()
    np.testing.assert_allclose(x.std(axis=0), sd, rtol=0.05)


def test_logarithms_are_right_to_two_units_in_the_last_place():
    generator = np.random.default_rng(0)
    x = np.concatenate(
        [
            np.exp(generator.uniform(-700, 700, 50_000)),
            generator.uniform(0.5, 2.0, 50_000),
            1 + generator.normal(0, 1e-6, 10_000),
            [2.0**-1022, np.finfo(float).max],
        ]
    )
    exact = np.log(x)
    assert (np.abs(np.asarray(jax.jit(logarithm)(x)) - exact) <= 2 * np.spacing(np.abs(exact))).all()
    ends = np.asarray(logarithm(jnp.array([1.0, 0.0, -0.0, np.inf, -1.0, -np.inf, np.nan])))
    np.testing.assert_array_equal(ends, [0.0, -np.inf, -np.inf, np.inf, np.nan, np.nan, np.nan])
    assert np.isclose(jax.grad(logarithm)(3.0), 1 / 3)


@pytest.mark.parametrize(
    "law",
    [
        dist.Normal(0.3, np.array([0.1, 2.0, 30.0])),
        dist.Normal(np.array([0.3, 1.0, 2.0]), 2).to_event(1),
        dist.StudentT(3.0, np.array([0.3, 1.0, 2.0]), 0.7),
    ],
    ids=["normal", "vector", "Student"],
)
def test_densities_are_those_of_numpyro(law):
    value = jnp.array([0.5, -4.0, 1e3])
    np.testing.assert_allclose(density(law, value), law.log_prob(value), rtol=1e-14)
    with jax.enable_x64(False):
        assert density(dist.Normal(0.0, 2.0), jnp.float32(1.0)).dtype == jnp.float32


@pytest.mark.parametrize("size", [1, 5, 32, 33, 1000, 4097, 70_000])
def test_cumulated_sums(size):
    values = np.random.default_rng(size).exponential(size=size)
    np.testing.assert_allclose(jax.jit(cumulated)(values), np.cumsum(values), rtol=1e-13)


def test_weights():
    log_weights = np.array([-1000.0, -1001.0, -np.inf, -1003.0])
    found = weighed(jnp.asarray(log_weights))
    exact = np.exp(log_weights + 1000)
    np.testing.assert_allclose(found.log_total, np.log(exact.sum()) - 1000, rtol=1e-15)
    np.testing.assert_allclose(found.ess, exact.sum() ** 2 / (exact**2).sum())
    np.testing.assert_allclose(np.exp(found.normal(jnp.asarray(log_weights))), exact / exact.sum())
    none = weighed(jnp.full(4, -jnp.inf))
    assert (none.log_total, none.ess) == (-np.inf, 0.0)
    np.testing.assert_allclose(np.exp(none.normal(jnp.full(4, -jnp.inf))), 0.25)
