"""Summaries of a mixture: exact where it has one component, and against 100,000 draws by NumPyro where it has many.

Each comparison with draws has a false-alarm rate of 1e-6 / 100; broken twins show that the comparison would notice.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probinfer.predict import inversion, mixture, series, steps
from probinfer.predict.families import FAMILIES, NORMAL, POISSON, STUDENT_T
from probinfer.predict.weights import Weights
from tests.predict.laws_known import CONTINUOUS, COUNTS, ELEMENTWISE, KNOWN, quick_of

LEVELS = np.array([1e-4, 0.05, 0.5, 0.95, 1 - 1e-4])
ROWS, COMPONENTS = 3, 500  # of the mixtures here, mostly the same, so that each family is compiled once
BOUND = stats.norm.isf(1e-8 / 2)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@cache
def compiled(family, chains, search):
    function = mixture.quantiles if search else partial(mixture.summarise, chains=chains)
    return jax.jit(partial(function, family, **({"search_counts": True} if search else {})))


def summarise(family, parameters, levels=LEVELS, chains=None):
    """Summaries, from programs of one shape: fewer components are repeated, fewer levels padded."""
    wanted = len(levels)
    parameters = tuple(jnp.asarray(_to_shape(np.asarray(p))) for p in parameters)
    levels = jnp.asarray(np.resize(levels, len(LEVELS)))
    summary = mixture.Summary(*map(np.asarray, compiled(family, chains, False)(parameters, levels)))
    if np.any(summary.quantiles < 0) and family.name in COUNTS:
        searched = np.asarray(compiled(family, chains, True)(parameters, levels))
        summary = summary._replace(quantiles=np.where(summary.quantiles < 0, searched, summary.quantiles))
    return summary._replace(quantiles=summary.quantiles[:, :wanted])


def _to_shape(parameter):
    rows, components = parameter.shape[:2]
    times = (ROWS // rows, COMPONENTS // components, *[1] * (parameter.ndim - 2))
    return np.tile(parameter, times)


def spread(known, seed, size=1.0):
    """Parameters of ROWS mixtures; with a larger `size`, of mixtures of larger counts."""
    parameters = list(known.draw(np.random.default_rng(seed), (ROWS, COMPONENTS)))
    if size > 1.0:
        which = known.family.parameters.index("total_count" if known.family.name == "Binomial" else "rate")
        parameters[which] = parameters[which] * (1 / size if "NegativeBinomial" in known.family.name else size)
    return parameters


@pytest.mark.parametrize("name", quick_of(ELEMENTWISE))
def test_equal_components_are_scipys_law(name):
    known = KNOWN[name]
    parameters = [np.repeat(p[:, :1], COMPONENTS, axis=1) for p in spread(known, 5)]
    law = known.scipy(*(p[:, :1] for p in parameters))
    summary = summarise(known.family, parameters)
    np.testing.assert_allclose(summary.mean, law.mean()[:, 0], rtol=1e-9)
    np.testing.assert_allclose(summary.aleatoric_variance, law.var()[:, 0], rtol=1e-8)
    np.testing.assert_allclose(summary.epistemic_variance, 0.0, atol=1e-20)
    np.testing.assert_allclose(summary.quantiles, law.ppf(LEVELS), rtol=1e-7, atol=1e-12)


def miss_in_sds(levels) -> float:
    """How far, in sds of the mixture, quantiles of 4,000 narrow normal laws in heaps are from where F is the level."""
    rng = np.random.default_rng(3)
    loc, scale = 100.0 * rng.normal(size=4000), np.exp(0.02 * rng.normal(size=4000))
    found = np.asarray(jax.jit(partial(inversion.continuous_quantiles, NORMAL))([loc, scale], levels))
    z = (found[:, None] - loc) / scale
    density = (stats.norm.pdf(z) / scale).mean(axis=1)
    return float(np.max(np.abs(stats.norm.cdf(z).mean(axis=1) - levels) / density) / loc.std())


def test_one_step_ends_where_it_should_and_is_not_taken_among_heaps(monkeypatch):
    """A step of order four is trusted by the size of its terms: the density of such a mixture changes within less than
    the step. The broken twin trusts it by how close the cdf is alone."""
    levels = np.linspace(0.01, 0.99, 49)
    assert miss_in_sds(levels) < 1e-9
    monkeypatch.setattr(steps, "_SMALL_TERM", np.inf)
    monkeypatch.setattr(inversion, "_CLOSE_AT_ONCE", 2e-2)
    assert miss_in_sds(levels) > 1e-9


SHARES = np.array([0.001, 0.05, 0.12, 0.19, 0.3, 1.0, 30.0])  # spread of the centres over that of a component


def series_misses(levels, weights=None) -> np.ndarray:
    """How far the quantiles of the series are from where F is the level, in sds of the mixture (M, Q); nan where they
    are not proved."""
    rng = np.random.default_rng(4)
    spread = np.exp(0.02 * rng.normal(size=(len(SHARES), 2000)))
    location = 3.0 + SHARES[:, None] * rng.gamma(2.0, size=spread.shape)
    found = np.asarray(jax.jit(partial(series.normal_quantiles, weights=weights))(location, spread, levels))
    z = (found[..., None] - location[:, None]) / spread[:, None]
    below, density = (
        np.average(f, axis=-1, weights=None if weights is None else weights.values)
        for f in (stats.norm.cdf(z), stats.norm.pdf(z) / spread[:, None])
    )
    return np.abs(below - levels) / density / np.sqrt(1.0 + 2.0 * SHARES[:, None] ** 2)


def test_the_series_of_close_normal_laws_keeps_its_bound(monkeypatch):
    """Skewed centres. The broken twin believes itself everywhere."""
    levels = np.array([0.01, 0.05, 0.3, 0.5, 0.95, 0.99])
    uneven = Weights(np.random.default_rng(5).dirichlet(np.ones(2000)) + 1e-300, 0.1)
    for weights in (None, uneven):
        misses = series_misses(levels, weights)
        assert np.nanmax(misses) < 1e-9
        assert np.isfinite(misses[:2]).all()  # where it is meant for, it answers
        assert np.isnan(misses[4:]).all()
    monkeypatch.setattr(series, "_OFF", np.inf)
    monkeypatch.setattr(series, "_PROMISING", np.inf)
    monkeypatch.setattr(series, "_UNEQUAL", np.inf)
    assert not np.nanmax(series_misses(levels)) < 1e-9


def test_rows_of_the_series_and_others_in_one_block():
    """A row that the series does not answer is searched, and the answers of the others stay."""
    rng = np.random.default_rng(6)
    location, scale = rng.normal(size=(ROWS, COMPONENTS)) * [[0.1], [20.0], [0.01]], np.ones((ROWS, COMPONENTS))
    together = summarise(NORMAL, [location, scale]).quantiles
    for row in range(ROWS):
        alone = summarise(NORMAL, [location[[row]], scale[[row]]]).quantiles[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-12)
    np.testing.assert_allclose(level_of(NORMAL, [location, scale], together), np.tile(LEVELS, (ROWS, 1)), rtol=1e-7)


# against predictive draws --------------------------------------------------------------------------------------------


def brute_force_agrees(summary, draws, discrete) -> bool:
    """mean, sd and quantiles of the first mixture agree with independent draws from it."""
    n = len(draws)
    deviations = (draws - draws.mean()) ** 2
    variance = summary.aleatoric_variance[0] + summary.epistemic_variance[0]
    agree = [
        abs(draws.mean() - summary.mean[0]) < BOUND * draws.std() / np.sqrt(n),
        abs(deviations.mean() - variance) < BOUND * deviations.std() / np.sqrt(n),
    ]
    for level, q in zip(LEVELS, summary.quantiles[0], strict=True):
        slack = BOUND * np.sqrt(level * (1 - level) / n)
        agree.append(np.mean(draws <= q) > level - slack)
        agree.append(np.mean(draws < q if discrete else draws <= q) < level + slack)
    return all(agree)


def many(name, draws=100_000):
    """Mixtures, and draws from the first by NumPyro: each component is drawn from equally often."""
    known = KNOWN[name]
    parameters = spread(known, 6)
    law = known.numpyro(*(np.repeat(p[0], draws // COMPONENTS, axis=0) for p in parameters))
    return known.family, parameters, np.asarray(law.sample(jax.random.key(7)), float)


@pytest.mark.parametrize("name", quick_of(KNOWN))
def test_mixtures_agree_with_predictive_draws(name):
    family, parameters, draws = many(name)
    assert brute_force_agrees(summarise(family, parameters), draws, family.support.discrete)


@pytest.mark.parametrize("name", ["Normal", "Poisson"])
def test_broken_twins_are_caught(name):
    family, parameters, draws = many(name)
    right = summarise(family, parameters)
    plug_in = summarise(family, [np.repeat(p.mean(axis=1, keepdims=True), COMPONENTS, axis=1) for p in parameters])
    assert not brute_force_agrees(plug_in, draws, family.support.discrete)
    no_epistemic = right._replace(epistemic_variance=np.zeros(ROWS))
    assert not brute_force_agrees(no_epistemic, draws, family.support.discrete)
    next_level = right._replace(quantiles=right.quantiles + (1.0 if family.support.discrete else 0.2))
    assert not brute_force_agrees(next_level, draws, family.support.discrete)
    if name == "Normal":  # one noise draw for all posterior draws
        reused = np.repeat(parameters[0][0] + parameters[1][0] * np.random.default_rng(0).normal(), 200)
        assert not brute_force_agrees(right, reused, False)


# quantiles -----------------------------------------------------------------------------------------------------------


def level_of(family, parameters, q):
    """F at each quantile."""
    return np.stack([np.mean(family.cdf(q[:, [i]], *parameters), axis=1) for i in range(q.shape[1])], axis=1)


@pytest.mark.parametrize("name", quick_of(CONTINUOUS))
def test_quantiles_invert_the_cdf(name):
    known = KNOWN[name]
    parameters = [jnp.asarray(p) for p in spread(known, 8)]
    below = level_of(known.family, parameters, summarise(known.family, parameters).quantiles)
    np.testing.assert_allclose(below, np.broadcast_to(LEVELS, below.shape), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", quick_of(COUNTS))
@pytest.mark.parametrize("size", [1.0, pytest.param(1e4, marks=pytest.mark.long)])
def test_count_quantiles_are_the_smallest(name, size):
    known = KNOWN[name]
    parameters = [jnp.asarray(p) for p in spread(known, 9, size)]
    q = summarise(known.family, parameters).quantiles
    assert np.all(level_of(known.family, parameters, q) >= LEVELS - 1e-7)
    assert np.all(level_of(known.family, parameters, q - 1) < LEVELS + 1e-7)
    assert np.all(q == np.round(q))


def test_ties_go_to_the_smaller_count():
    law = stats.binom(3, 0.5)  # P(Y <= 1) is 0.5, up to rounding
    summary = summarise(FAMILIES["Binomial"], (np.full((1, 1), 3.0), np.zeros((1, 1))), law.cdf([0, 1, 2]))
    np.testing.assert_array_equal(summary.quantiles[0], [0, 1, 2])
    summary = summarise(FAMILIES["Bernoulli"], (np.zeros((1, 1)),), np.array([0.5, 0.51]))
    np.testing.assert_array_equal(summary.quantiles[0], [0, 1])


def test_components_far_apart():
    """Two groups of narrow components with nothing between: Newton's steps lead nowhere, the bracket does."""
    loc = np.array([[-1e3, 1e3]])
    q = summarise(NORMAL, (loc, np.full_like(loc, 1e-3)), np.array([0.25, 0.75, 0.999])).quantiles[0]
    np.testing.assert_allclose(q, [-1e3, 1e3, 1e3 + 1e-3 * stats.norm.ppf(0.998)], rtol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_variance_survives_a_large_mean(offset):
    means = offset + np.array([[0.0, 1.0, 2.0, 3.0]])
    summary = summarise(NORMAL, (means, np.ones((1, 4))))
    np.testing.assert_allclose(summary.epistemic_variance, 1.25, rtol=1e-6)
    np.testing.assert_allclose(summary.quantiles[0, 2] - offset, 1.5, atol=1e-6)
    one_pass = np.mean(means.astype(np.float32) ** 2) - np.mean(means.astype(np.float32)) ** 2
    assert offset == 0.0 or abs(one_pass - 1.25) > 1.0  # what the shortcut formula would make of it


def test_quantiles_where_there_is_no_mean():
    df, loc, scale = np.full((1, 1), 0.8), np.zeros((1, 1)), np.ones((1, 1))
    summary = summarise(STUDENT_T, (df, loc, scale), np.array([0.01, 0.5]))
    assert np.isnan(summary.mean[0])
    np.testing.assert_allclose(summary.quantiles[0], stats.t.ppf([0.01, 0.5], 0.8), rtol=1e-7, atol=1e-7)
    summary = summarise(STUDENT_T, (df + 1.0, loc, scale))
    assert summary.mean[0] == 0.0
    assert summary.aleatoric_variance[0] == np.inf


def test_nan_parameters_are_reported():
    loc = np.zeros((3, 2))
    loc[1, 1] = np.nan
    np.testing.assert_array_equal(summarise(NORMAL, (loc, np.ones((3, 2)))).defined, [True, False, True])


# the rest ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [(2.0, 9.0), (300.0, 900.0)])
def test_probabilities_of_counts(rates):
    rate = np.array([rates])
    chances = np.asarray(mixture.probabilities(POISSON, (jnp.asarray(rate),), 20))
    np.testing.assert_allclose(
        chances[0], stats.poisson.pmf(np.arange(20)[:, None], rate).mean(1), rtol=1e-9, atol=1e-300
    )


def test_probabilities_of_classes():
    p = np.random.default_rng(0).dirichlet(np.ones(3), (2, 50))
    chances = mixture.probabilities(FAMILIES["Categorical"], (jnp.log(p),), 3)
    np.testing.assert_allclose(chances, p.mean(1), rtol=1e-12)
    assert mixture.probabilities(NORMAL, (jnp.zeros((1, 2)), jnp.ones((1, 2))), 0) is None


def test_log_predictive_density():
    loc = np.array([[0.0, 3.0, 2000.0]])
    y = np.array([1.0])
    exact = np.log(np.mean(stats.norm.pdf(1.0, loc[0], 1.0)))
    value = mixture.log_predictive_density(NORMAL, (jnp.asarray(loc), jnp.ones((1, 3))), jnp.asarray(y))
    assert float(value[0]) == pytest.approx(exact, rel=1e-12)
    far = mixture.log_predictive_density(NORMAL, (jnp.asarray(loc[:, :2]), jnp.ones((1, 2))), jnp.asarray([500.0]))
    assert float(far[0]) == pytest.approx(
        stats.norm.logpdf(500, 3, 1) - np.log(2), rel=1e-9
    )  # underflows if not in logs


def test_mcse_is_the_spread_of_the_mean_over_runs():
    """AR(1) chains: the mean of n draws has the variance (1 + r) / (1 - r) / n. 400 runs, so 4 chains x 1000 draws
    must report it within 15% on average; taking the draws as independent would be off by a factor of 3."""
    rng, r, n = np.random.default_rng(11), 0.8, 1000
    noise = rng.normal(size=(n, 400, 4)) * np.sqrt(1 - r**2)
    values = np.empty_like(noise)
    values[0] = rng.normal(size=(400, 4))
    for t in range(1, n):
        values[t] = r * values[t - 1] + noise[t]
    series = jnp.asarray(np.moveaxis(values, 0, 2).reshape(400, 4 * n))
    exact = np.sqrt((1 + r) / (1 - r) / (4 * n))
    reported = np.sqrt(np.mean(np.asarray(mixture.mean_mcse(series, 4)) ** 2))
    assert reported == pytest.approx(exact, rel=0.15)
    naive = np.sqrt(np.mean(np.asarray(mixture.mean_mcse(series, None)) ** 2))
    assert naive == pytest.approx(exact / 3, rel=0.05)


def test_mcse_of_independent_draws_and_of_chains_that_disagree():
    values = np.random.default_rng(12).normal(size=(1, 5000))
    expected = values.std(ddof=1) / np.sqrt(5000)
    assert float(mixture.mean_mcse(jnp.asarray(values), None)[0]) == pytest.approx(expected, rel=1e-12)
    apart = values + np.repeat([[0.0, 1.0]], 2500, axis=1)
    assert float(mixture.mean_mcse(jnp.asarray(apart), 2)[0]) > 2 * float(mixture.mean_mcse(jnp.asarray(values), 2)[0])
    assert np.isnan(mixture.mean_mcse(jnp.ones((1, 1)), 1))
