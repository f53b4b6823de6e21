"""Many short chains against exact posteriors, and nested R-hat; with twins that must fail. False-alarm rate 1e-6."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.inference.convergence import convergence
from probinfer.inference.mcmc import chees, ensemble, many
from probinfer.inference.mcmc.chees import halton
from probinfer.inference.mcmc.ensemble import whitened
from probinfer.inference.mcmc.metric import Metric
from probinfer.model import target as target_module
from tests.inference.statistics import assert_moments

X = np.random.default_rng(21).normal(size=(40, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 3.0]])
DATA = {"x": X, "y": X @ np.array([1.0, -1.0, 0.5]) + np.random.default_rng(22).normal(size=40)}
COVARIANCE = np.linalg.inv(X.T @ X + np.eye(3))
MEAN = COVARIANCE @ X.T @ DATA["y"]


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, 1.0).to_event(1), obs=y)


def rate(y):
    lam = numpyro.sample("lam", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Poisson(lam), obs=y)


def two_peaks():
    x = numpyro.sample("x", dist.Normal(0, 5))
    peaks = dist.Normal(jnp.array([-4.0, 4.0]), 0.5).log_prob(x)
    numpyro.factor("peaks", jnp.logaddexp(*(jnp.log(jnp.array([0.25, 0.75])) + peaks)))


def infer(model, data, method):
    return pi.infer(model, data, method, progress=False)


def assert_regression():
    posterior = infer(regression, DATA, pi.ManyChains(target_accept=0.6))
    draws = np.asarray(posterior.tree["posterior"]["b"])
    assert_moments(draws, MEAN, np.sqrt(np.diag(COVARIANCE)), resolution=0.2)
    return posterior


@pytest.fixture(scope="module")
def usual():
    return infer(regression, DATA, pi.ManyChains())


def test_exact_moments():
    posterior = assert_regression()
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert [posterior.tree["posterior"].sizes[dim] for dim in ("chain", "draw")] == [128, 100]


@pytest.mark.long
def test_exact_law_of_a_positive_site():
    y = np.random.default_rng(3).poisson(3.0, 20)
    posterior = infer(rate, {"y": y}, pi.ManyChains())
    law = stats.gamma(2 + y.sum(), scale=1 / 21)
    draws = np.asarray(posterior.tree["posterior"]["lam"])
    assert_moments(draws, law.mean(), law.std(), quantile=law.ppf, resolution=0.2)


@pytest.mark.long
def test_a_trajectory_that_is_never_refused_is_noticed(monkeypatch):
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    monkeypatch.setattr(ensemble, "uniform", lambda bits, dtype: jnp.full(bits.shape, 1e-30, dtype))
    with pytest.raises(AssertionError, match="out of tolerance"):
        assert_regression()


def test_superchains_in_different_modes_are_bad():
    report = infer(two_peaks, {}, pi.ManyChains()).report
    assert report.verdict is pi.Verdict.BAD
    assert "The chains disagree" in report.findings[0].what


def test_nested_r_hat_is_its_formula():
    groups, each, draws = 4, 3, 20
    x = np.random.default_rng(4).normal(size=(2, groups, each, draws)) + np.arange(groups)[:, None, None]
    ranks = stats.rankdata(x[0]).reshape(x[0].shape)
    z = stats.norm.ppf((ranks - 3 / 8) / (x[0].size + 1 / 4))
    between = z.mean(axis=(1, 2)).var(ddof=1)
    within = (z.mean(axis=2).var(axis=1, ddof=1) + z.var(axis=2, ddof=1).mean(axis=1)).mean()
    found = convergence(x.reshape(2, groups * each, draws), superchains=groups).r_hat
    assert found[0] == pytest.approx(np.sqrt(1 + between / within), rel=1e-12)


def test_nested_r_hat_of_short_chains_is_near_one():
    """Of stationary AR(1) chains, nine effective draws each. B / W is 1 / (8 * 9) on average; the usual R-hat is no use
    for chains as short as these."""
    steps = np.random.default_rng(5).normal(size=(200, 128, 50))
    x = steps.copy()
    for t in range(1, 50):
        x[..., t] = 0.7 * x[..., t - 1] + np.sqrt(1 - 0.7**2) * steps[..., t]
    nested, usual = convergence(x, superchains=16).r_hat, convergence(x).r_hat
    assert np.median(nested) < 1.01
    assert np.median(usual) > 1.05


def test_the_verdict_can_be_had_again_from_the_tree(usual, tmp_path):
    usual.save(tmp_path / "saved")
    loaded = pi.load_posterior(tmp_path / "saved")
    assert loaded.report.verdict is usual.report.verdict
    assert np.array_equal(loaded.report.numbers.r_hat, usual.report.numbers.r_hat)


def test_length_climbs_from_both_sides():
    """Under the exact flow of a standard normal, x' = x cos t + p sin t, the criterion is d sin² t, a peak at a quarter
    turn."""
    generator = np.random.default_rng(6)
    for first, side in ((0.5, 1), (2.5, -1)):
        length, gradients = chees.start(first, np.float64), []
        slope = jax.jit(chees.gradient)
        with jax.enable_x64(True):
            for _ in range(400):
                x, p = generator.normal(size=(2, 200, 5))
                y, v = x * np.cos(first) + p * np.sin(first), p * np.cos(first) - x * np.sin(first)
                gradients.append(float(slope(length, x, y, v, np.ones(200), 1.0)))
        found, error = np.mean(gradients), np.std(gradients) / np.sqrt(len(gradients))
        exact = first * 10 * np.sin(first) * np.cos(first)  # d/d log T
        assert np.sign(found) == side
        assert abs(found - exact) < 5 * error + 0.02 * abs(exact)  # centring by 200 chains takes 1 part in 200 away


def test_length_arrives_at_the_quarter_turn():
    generator, length = np.random.default_rng(7), chees.start(0.3, np.float64)
    learn = jax.jit(chees.learn)
    with jax.enable_x64(True):
        for _ in range(300):
            x, p = generator.normal(size=(2, 128, 5))
            now = np.exp(length.log)
            y, v = (x * np.cos(now) + p * np.sin(now), p * np.cos(now) - x * np.sin(now))
            length = jax.tree.map(np.asarray, learn(length, x, y, v, np.ones(128), 1.0))
    assert 1.2 < np.exp(length.average) < 2.0


def test_proposals_that_are_not_numbers_teach_nothing():
    length = chees.start(1.0, np.float32)
    nothing = np.full((4, 2), np.nan, np.float32)
    one = np.array([1.0, 0, 0, 0], np.float32)
    for acceptance, y in ((0 * one, nothing), (one, nothing), (one, np.zeros((4, 2), np.float32))):
        found = chees.learn(length, np.zeros((4, 2), np.float32), y, y, acceptance, 0.5)
        assert jax.tree.map(float, found) == jax.tree.map(float, length)


def test_one_proposal_that_is_not_a_number_does_not_count():
    x, y, v = np.random.default_rng(9).normal(size=(3, 50, 2)).astype(np.float32)
    length, acceptance = chees.start(1.0, np.float32), np.ones(50, np.float32)
    y[7], acceptance[8] = np.inf, 0.0
    found = chees.gradient(length, x, y, v, acceptance, 0.5)
    y[7] = v[7] = y[8] = v[8] = 0.0
    acceptance[7] = 0.0
    np.testing.assert_allclose(found, chees.gradient(length, x, y, v, acceptance, 0.5), rtol=1e-6)
    assert abs(found) > 1e-3


def test_whitening_undoes_the_metric():
    metric = Metric(np.array([2.0, 0.5, 1.0]), np.array([[0.6], [0.8], [0.0]]), np.array([1.5]))
    x = np.random.default_rng(8).normal(size=(7, 3))
    with jax.enable_x64(True):
        there = np.stack([np.asarray(metric.displacement(jnp.asarray(row))) for row in x])
    assert np.allclose(whitened(metric, there), x, atol=1e-12)


def test_halton_fills_the_interval():
    assert [halton(i) for i in range(4)] == [0.5, 0.25, 0.75, 0.125]


def test_the_same_seed_gives_the_same_draws(usual):
    again = infer(regression, DATA, pi.ManyChains())
    assert np.array_equal(*(np.asarray(each.tree["posterior"]["b"]) for each in (usual, again)))


def test_where_calls_end_changes_no_draw(usual, monkeypatch):
    monkeypatch.setattr(many, "_PAUSE", 0.0)
    again = infer(regression, DATA, pi.ManyChains())
    assert np.array_equal(*(np.asarray(each.tree["posterior"]["b"]) for each in (usual, again)))


def test_interrupted_draws_are_kept(usual, monkeypatch):
    begin, calls = ensemble.Ensemble.begin, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 4 * 239 + 1:
            raise KeyboardInterrupt
        return begin(self, *arguments)

    monkeypatch.setattr(many, "_PAUSE", 0.0)  # a step in every call
    monkeypatch.setattr(ensemble.Ensemble, "begin", interrupted)
    posterior = infer(regression, DATA, pi.ManyChains())
    assert "interrupted after 39 of 100 draws" in str(posterior.report)
    kept = np.asarray(posterior.tree["posterior"]["b"])
    np.testing.assert_array_equal(kept, np.asarray(usual.tree["posterior"]["b"])[:, :39])


def test_groups_are_of_whole_superchains():
    assert [many._groups(*each) for each in ((128, 16), (512, 16), (32, 16), (128, 3), (96, 6))] == [4, 8, 1, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [{"chains": 1}, {"draws": 0}, {"warmup": 3}, {"superchains": 1}, {"target_accept": 2}, {"low_rank": -1}],
    ids=lambda s: next(iter(s)),
)
def test_settings_out_of_range(settings):
    with pytest.raises(pi.MethodError, match=next(iter(settings))):
        pi.ManyChains(**settings)


def test_chains_that_do_not_divide():
    with pytest.raises(pi.MethodError, match="chains=128"):
        pi.ManyChains(chains=100)


def test_a_density_that_is_nowhere_finite():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("nowhere", jnp.log(-jnp.exp(x)))

    with pytest.raises(pi.ModelError, match="nowhere"):
        infer(model, {}, pi.ManyChains())
