"""What a particle filter draws, weighs and sums with, next to NumPy's, SciPy's and NumPyro's answers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from probinfer.inference.montecarlo import particle_draws
from probinfer.inference.montecarlo.cumulated import cumulated, greatest, greatest_so_far, sums
from probinfer.inference.montecarlo.particle_draws import density, draw
from probinfer.inference.montecarlo.particle_logs import logarithm, with_plain_logarithms
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


def test_logarithms_of_a_program_are_plain():
    def log_density(x, y):
        return jax.jit(density)(dist.Normal(0.0, jnp.exp(0.5 * x)), y), jnp.log(y), jnp.log(jnp.float32(3.0))

    x, y = jnp.linspace(-3.0, 3.0, 7), jnp.linspace(0.1, 5.0, 7)
    plain = with_plain_logarithms(log_density)
    for found, exact in zip(jax.vmap(plain)(x, y), jax.vmap(log_density)(x, y), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-13)
        assert found.dtype == exact.dtype
    names = {step.primitive.name for step in jax.make_jaxpr(plain)(1.0, jnp.float32(2.0)).eqns}
    assert "exp" in names
    assert "custom_jvp_call" not in names  # the one logarithm of double precision was of it
    assert float(plain(800.0, 1e170)[0]) == -400 - 0.5 * np.log(2 * np.pi) - 0.5 * (1e170 / np.exp(400.0)) ** 2
    np.testing.assert_allclose(jax.grad(lambda y: plain(1.0, y)[1])(2.0), 0.5)


SIZES = [1, 5, 32, 33, 127, 128, 1000, 4097, 70_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # what is compiled for each; both run here
def test_sums_and_greatest_numbers(size, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    values = np.random.default_rng(size).exponential(size=size)
    np.testing.assert_allclose(jax.jit(cumulated)(values), np.cumsum(values), rtol=1e-13)
    first, second = jax.jit(lambda x: sums(lambda x, y: (x, x * y), x, -x))(values)
    np.testing.assert_allclose([first, second], [values.sum(), -(values**2).sum()], rtol=1e-13)
    assert jax.jit(greatest)(values) == values.max()
    whole = jnp.asarray(1000 * values, jnp.int32)
    np.testing.assert_array_equal(jax.jit(greatest_so_far)(whole), np.maximum.accumulate(whole))
    for place in {0, size // 2, size - 1}:
        spoiled = values.copy()
        spoiled[place] = np.nan
        assert np.isnan(jax.jit(greatest)(spoiled))


def test_a_weight_that_is_no_number_counts_as_none():
    log_weights = np.random.default_rng(0).normal(size=300)
    clean, spoiled = log_weights.copy(), log_weights.copy()
    clean[[3, 299]], spoiled[[3, 299]] = -np.inf, np.nan
    expected, found = (jax.jit(weighed)(jnp.asarray(each)) for each in (clean, spoiled))
    assert (bool(expected.undefined), bool(found.undefined)) == (False, True)
    for name in ("relative", "total", "log_total", "ess"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.normal(jnp.asarray(spoiled)), expected.normal(jnp.asarray(clean)))
    none = weighed(jnp.full(4, jnp.nan))
    assert (none.log_total, none.ess) == (-np.inf, 0.0)


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
