"""Each family's functions against SciPy's closed forms; its sampler against its own cdf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probinfer.predict.families import (
    BERNOULLI,
    BETA,
    BINOMIAL,
    CATEGORICAL,
    FAMILIES,
    GAMMA,
    NEGATIVE_BINOMIAL,
    POISSON,
    STUDENT_T,
)
from tests.predict.laws_known import ELEMENTWISE, KNOWN, quick_of

POINTS = 200


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def points(name, seed, tail):
    """A family with parameters, scipy's law with the same, and values between its quantiles `tail` and 1 - `tail`."""
    known, rng = KNOWN[name], np.random.default_rng(seed)
    parameters = known.draw(rng, (POINTS,))
    law = known.scipy(*parameters)
    return known, parameters, law, law.ppf(rng.uniform(tail, 1 - tail, POINTS))


def test_every_family_is_tested():
    assert set(KNOWN) == set(FAMILIES)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_closed_forms(name):
    known, parameters, law, y = points(name, seed=1, tail=0.001)
    family = known.family
    np.testing.assert_allclose(family.mean(*map(jnp.asarray, parameters)), law.mean(), rtol=1e-10)
    np.testing.assert_allclose(family.variance(*map(jnp.asarray, parameters)), law.var(), rtol=1e-9)
    np.testing.assert_allclose(family.cdf(y, *map(jnp.asarray, parameters)), law.cdf(y), atol=1e-9)
    log_density = law.logpmf(y) if family.support.discrete else law.logpdf(y)
    np.testing.assert_allclose(family.log_density(y, *map(jnp.asarray, parameters)), log_density, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", quick_of(ELEMENTWISE))
def test_float32(name):
    known, parameters, law, y = points(name, seed=2, tail=0.01)
    narrow = [jnp.asarray(p, jnp.float32) for p in parameters]
    for function, arguments, exact in (
        (known.family.mean, narrow, law.mean()),
        (known.family.cdf, [jnp.asarray(y, jnp.float32), *narrow], law.cdf(y)),
    ):
        value = function(*arguments)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", quick_of(ELEMENTWISE))
def test_outside_the_support(name):
    known = KNOWN[name]
    parameters = [jnp.asarray(p) for p in known.draw(np.random.default_rng(3), (3,))]
    low, high = known.family.cdf(jnp.asarray(-1e9), *parameters), known.family.cdf(jnp.asarray(1e9), *parameters)
    np.testing.assert_allclose(low, 0.0, atol=1e-6)
    np.testing.assert_allclose(high, 1.0, atol=1e-6)
    if known.scipy(*map(float, (p[0] for p in parameters))).support()[0] >= 0:
        assert np.all(np.asarray(known.family.log_density(jnp.asarray(-0.5), *parameters)) == -np.inf)
    if known.family.support.discrete:
        assert np.all(np.asarray(known.family.log_density(jnp.asarray(1.5), *parameters)) == -np.inf)


@pytest.mark.parametrize("name", quick_of(KNOWN))
def test_sampler(name):
    """Draws at or below a point are binomial with the cdf's probability; 16 families x 3 points, false alarm 1e-6."""
    known, draws = KNOWN[name], 40_000
    single = [jnp.asarray(p[0]) for p in known.draw(np.random.default_rng(4), (1,))]
    spread = [jnp.broadcast_to(p, (draws, *p.shape)) for p in single]
    values = np.asarray(jax.jit(known.family.sample)(jax.random.key(0), *spread))
    bound = stats.norm.isf(1e-6 / 48 / 2)
    for point in np.quantile(values, [0.1, 0.5, 0.9]):
        p = float(known.family.cdf(jnp.asarray(point), *single))
        assert abs(np.mean(values <= point) - p) < bound * np.sqrt(max(p * (1 - p), 1e-6) / draws)


def test_categorical():
    p = np.array([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        log_p = jnp.asarray(np.log(p))
    codes = np.arange(3)
    np.testing.assert_allclose(CATEGORICAL.mean(log_p), p @ codes)
    np.testing.assert_allclose(CATEGORICAL.variance(log_p), p @ codes**2 - (p @ codes) ** 2, atol=1e-15)
    np.testing.assert_allclose(CATEGORICAL.cdf(jnp.asarray(1.0), log_p), p[:, :2].sum(1))
    np.testing.assert_allclose(np.exp(CATEGORICAL.log_density(jnp.asarray([2.0, 0.0]), log_p)), [0.7, 1.0])
    assert np.all(np.asarray(CATEGORICAL.log_density(jnp.asarray([3.0, 0.5]), log_p)) == -np.inf)


def test_student_t_says_where_it_has_no_moments():
    df = jnp.asarray([0.5, 1.0, 1.5, 2.0, 2.5, np.inf])
    assert np.array_equal(np.isnan(STUDENT_T.mean(df, 1.0, 1.0)), [True, True, False, False, False, False])
    np.testing.assert_allclose(STUDENT_T.variance(df, 1.0, 1.0), [np.nan, np.nan, np.inf, np.inf, 5.0, 1.0])
    normal = stats.norm.logpdf(0.7)
    assert float(STUDENT_T.log_density(jnp.asarray(0.7), df[-1], 0.0, 1.0)) == pytest.approx(normal, abs=1e-12)


@pytest.mark.long
def test_bounds_far_from_the_centre():
    """Beyond 38 sds a normal probability is no number of double precision; the law between such bounds still is."""
    low = jnp.asarray([-jnp.inf, 9.0, 60.0, -jnp.inf])
    high = jnp.asarray([jnp.inf, 9.5, jnp.inf, -200.0])
    zero, one = jnp.zeros(4), jnp.ones(4)
    law = stats.truncnorm(np.asarray(low), np.asarray(high))
    family = FAMILIES["TruncatedNormal"]
    np.testing.assert_allclose(family.mean(zero, one, low, high), law.mean(), rtol=1e-12, atol=1e-15)
    exact = [1.0, law.var()[1], 1 / 60**2 - 6 / 60**4 + 50 / 60**6, 1 / 200**2 - 6 / 200**4]  # of the tail's series
    np.testing.assert_allclose(family.variance(zero, one, low, high), exact, rtol=1e-5)
    y = law.ppf(0.3)
    np.testing.assert_allclose(family.cdf(jnp.asarray(y), zero, one, low, high), 0.3, rtol=1e-8)
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = np.asarray(jax.vmap(lambda key: family.sample(key, zero, one, low, high))(keys))
    error = 5 * draws.std(axis=0) / 4000**0.5  # false alarms: 2 in a million
    assert np.all(np.abs(draws.mean(axis=0) - law.mean()) < error)
    assert np.all((draws >= np.asarray(low)) & (draws <= np.asarray(high)))


@pytest.mark.long
def test_extreme_logits():
    logits = jnp.asarray([-np.inf, -800.0, 0.0, 800.0, np.inf])
    np.testing.assert_array_equal(BERNOULLI.mean(logits), [0.0, 0.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(BERNOULLI.log_density(jnp.asarray(1.0), logits), [-np.inf, -800, np.log(0.5), 0, 0])
    np.testing.assert_allclose(BERNOULLI.log_density(jnp.asarray(0.0), logits), [0, 0, np.log(0.5), -800, -np.inf])
    total = jnp.asarray(10.0)
    np.testing.assert_array_equal(
        BINOMIAL.cdf(jnp.asarray(9.0), total, logits)[jnp.asarray([0, 1, 3, 4])], [1, 1, 0, 0]
    )
    np.testing.assert_array_equal(BINOMIAL.log_density(jnp.asarray(10.0), total, logits[-2:]), [0.0, 0.0])


@pytest.mark.parametrize("scale", [1e9, *(pytest.param(scale, marks=pytest.mark.long) for scale in (1e6, 1e12))])
def test_large_counts(scale):
    """SciPy's pmf of a count of 1e12 has three digits left; the normal limit with its skewness has more."""
    rate = jnp.asarray(scale)
    for family, parameters, sd, skew in (
        (POISSON, (rate,), scale**0.5, scale**-0.5),
        (BINOMIAL, (4 * rate, jnp.log(jnp.asarray(1 / 3))), (scale * 0.75) ** 0.5, 0.5 / (scale * 0.75) ** 0.5),
        (NEGATIVE_BINOMIAL, (rate, jnp.asarray(1.0)), (2 * scale) ** 0.5, 3 / (2 * scale) ** 0.5),
    ):
        for z in (-2.0, 0.0, 2.0):
            k = np.floor(scale + z * sd)
            at = (k + 0.5 - scale) / sd
            edgeworth = stats.norm.cdf(at) - skew / 6 * (at**2 - 1) * stats.norm.pdf(at)
            assert float(family.cdf(jnp.asarray(k), *parameters)) == pytest.approx(edgeworth, abs=20 / scale + 2e-8)
            at = (k - scale) / sd
            density = stats.norm.pdf(at) * (1 + skew / 6 * (at**3 - 3 * at)) / sd
            assert float(jnp.exp(family.log_density(jnp.asarray(k), *parameters))) == pytest.approx(density, rel=1e-4)


def test_no_counts_expected():
    zero = jnp.asarray(0.0)
    assert float(POISSON.cdf(zero, zero)) == 1.0
    assert float(jnp.exp(POISSON.log_density(zero, zero))) == 1.0
    assert float(NEGATIVE_BINOMIAL.cdf(zero, jnp.asarray(2.0), jnp.asarray(np.inf))) == pytest.approx(1.0)
    assert float(BINOMIAL.cdf(zero, zero, zero)) == 1.0


def test_tiny_and_large_shapes():
    a = jnp.asarray([1e-3, 0.5])
    y = jnp.asarray([1e-100, 1e-3])
    np.testing.assert_allclose(GAMMA.cdf(y, a, jnp.ones(2)), stats.gamma.cdf(y, a), rtol=1e-9)
    large = [jnp.asarray([3e5, 1e9]), jnp.asarray([5e5, 1e9]), jnp.asarray([0.375, 0.5])]
    np.testing.assert_allclose(BETA.log_density(large[2], *large[:2])[0], stats.beta.logpdf(0.375, 3e5, 5e5), rtol=1e-8)
    np.testing.assert_allclose(BETA.log_density(large[2], *large[:2])[1], 0.5 * np.log(4e9 / np.pi), rtol=1e-5)
    np.testing.assert_allclose(BETA.cdf(y, a, jnp.ones(2)), stats.beta.cdf(y, a, 1.0), rtol=1e-9)
