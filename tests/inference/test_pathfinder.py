"""Pathfinder against normal posteriors, where its law is exact; and twins that must fail. False-alarm rate 1e-6."""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.inference.variational import pathfinder
from probinfer.inference.variational.pathfinder import LowRankNormal, Mixture
from tests.inference.models import EIGHT_SCHOOLS, eight_schools
from tests.inference.statistics import assert_moments

X = np.random.default_rng(20).normal(size=(30, 4)) * np.array([1.0, 3.0, 0.3, 1.0])
DATA = {"x": X, "y": X @ np.array([1.0, -1.0, 0.5, 0.0]) + 0.5 * np.random.default_rng(21).normal(size=30)}
COVARIANCE = np.linalg.inv(X.T @ X / 0.25 + np.eye(4))
MEAN = COVARIANCE @ X.T @ DATA["y"] / 0.25
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(30), X @ X.T + 0.25 * np.eye(30)).logpdf(DATA["y"])


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(4), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, 0.5).to_event(1), obs=y)


def two_peaks():
    x = numpyro.sample("x", dist.Normal(0, 5))
    peaks = dist.Normal(jnp.array([-4.0, 4.0]), 0.5).log_prob(x)
    numpyro.factor("peaks", jnp.logaddexp(*(jnp.log(jnp.array([0.25, 0.75])) + peaks)))


def funnel():
    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([8]).to_event(1))


def infer(model, data, method=None):
    return pi.infer(model, data, method or pi.Pathfinder(), progress=False)


def evidence_agrees(posterior) -> bool:
    attrs = posterior.tree.attrs
    bound = stats.norm.isf(0.5e-6) * attrs["log_evidence_mcse"]
    assert bound < 0.2, "too coarse to say anything"
    return abs(attrs["log_evidence"] - LOG_EVIDENCE) < bound


def test_normal_posterior_after_resampling():
    posterior = infer(regression, DATA, pi.Pathfinder(draws=40_000, resample=True))
    draws = np.asarray(posterior.tree["posterior"]["b"])[None]
    assert_moments(draws, MEAN, np.sqrt(np.diag(COVARIANCE)), resolution=0.2)
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert posterior.tree["posterior"]["b"].dims[0] == "sample"


def test_evidence_from_the_weights():
    assert evidence_agrees(infer(regression, DATA))


def test_a_density_without_its_determinant_is_noticed(monkeypatch):
    right = LowRankNormal.log_density

    def wrong(self, z):
        return right(self, z) + 0.1 * np.log(self.diagonal).sum()

    monkeypatch.setattr(
        LowRankNormal, "log_density", lambda self, z: right(self, z) + 0.1 * np.log(self.diagonal).sum()
    )
    assert not evidence_agrees(infer(regression, DATA))


def test_low_rank_law_is_the_dense_one():
    """Mean, covariance and density of a law on a path, against the matrix H that its pairs define by BFGS updates."""
    generator = np.random.default_rng(1)
    root = generator.normal(size=(5, 5))
    precision = root @ root.T + np.eye(5)
    points = [generator.normal(size=5) for _ in range(4)]
    path = [(z, -precision @ z) for z in points]
    law = pathfinder._laws_along(path, history=6)[-1]
    alpha = np.ones(5)
    pairs = [(b[0] - a[0], a[1] - b[1]) for a, b in itertools.pairwise(path)]
    for step, change in pairs:
        alpha = pathfinder._diagonal(alpha, step, change)
    dense = np.diag(alpha)
    for step, change in pairs:
        rho = 1 / (step @ change)
        left = np.eye(5) - rho * np.outer(step, change)
        dense = left @ dense @ left.T + rho * np.outer(step, step)
    whole = law.directions @ (law.root @ law.root.T - np.eye(len(law.root))) @ law.directions.T + np.eye(5)
    found = law.diagonal[:, None] * whole * law.diagonal
    assert np.allclose(found, dense, rtol=1e-8, atol=1e-8 * np.abs(dense).max())
    assert np.allclose(law.mean, points[-1] + dense @ path[-1][1], rtol=1e-8)
    z = generator.normal(size=(10, 5))
    assert np.allclose(law.log_density(z), stats.multivariate_normal(law.mean, found).logpdf(z), rtol=1e-8)
    draws = law.draw(generator, 200_000)
    assert np.allclose(np.cov(draws.T), found, atol=0.03 * np.abs(found).max())


def test_both_modes_are_in_the_mixture():
    posterior = infer(two_peaks, {}, pi.Pathfinder(paths=16, draws=20_000, resample=True))
    x = np.asarray(posterior.tree["posterior"]["x"])
    error = np.sqrt(0.75 * 0.25 / len(x))
    assert abs((x > 0).mean() - 0.75) < stats.norm.isf(0.5e-6) * error
    assert posterior.tree.attrs["paths_used"] >= 2


def test_a_funnel_is_not_good():
    assert infer(funnel, {}).report.verdict is not pi.Verdict.GOOD


def test_eight_schools_says_how_far_off_it_is():
    posterior = infer(eight_schools, EIGHT_SCHOOLS)
    khat = posterior.tree.attrs["pareto_khat"]
    expected = pi.Verdict.GOOD if khat <= 0.5 else pi.Verdict.DOUBTFUL if khat <= 0.7 else pi.Verdict.BAD
    assert posterior.report.verdict is expected


def test_mixture_integrates_to_one():
    laws = [
        LowRankNormal(np.array([m]), np.array([s]), np.zeros((1, 0)), np.zeros((0, 0))) for m, s in ((0, 1), (3, 2))
    ]
    grid = np.linspace(-20, 30, 20_001)
    total = np.exp(Mixture(np.array([0.3, 0.7]), laws).log_density(grid[:, None])).sum() * (grid[1] - grid[0])
    assert total == pytest.approx(1.0, abs=1e-8)


def test_the_same_seed_gives_the_same_draws():
    first, second = (np.asarray(infer(regression, DATA).tree["posterior"]["b"]) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_density_that_is_nowhere_finite():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("nowhere", jnp.log(-jnp.exp(x)))

    with pytest.raises(pi.ModelError, match="nowhere"):
        infer(model, {})


@pytest.mark.parametrize(
    "settings",
    [{"paths": 0}, {"draws": 3}, {"history": 0}, {"elbo_draws": 1}, {"max_steps": 0}],
    ids=lambda s: next(iter(s)),
)
def test_settings_out_of_range(settings):
    with pytest.raises(pi.MethodError, match=next(iter(settings))):
        pi.Pathfinder(**settings)


def test_a_density_that_is_no_number_in_places():
    """A normal law cut off at one half by NaN: no path has a normal law without draws there."""
    cut = pi.LogDensity(lambda x: jnp.where(x[0] > 0.5, jnp.nan, -0.5 * jnp.sum(x**2)), dim=2)
    posterior = pi.infer(cut, None, pi.Pathfinder(), progress=False)
    x = np.asarray(posterior.tree["posterior"]["x"])
    assert x.shape == (4000, 2)
    assert (x[:, 0] <= 0.5).all()
    law = stats.truncnorm(-np.inf, 0.5)
    assert 0.5 < posterior.tree.attrs["share_with_density"] < 1
    size = posterior.tree.attrs["importance_ess"]
    log_weight = np.asarray(posterior.tree["sample_stats"]["log_weight"])
    weights = np.exp(log_weight - log_weight.max())
    mean = weights @ x[:, 0] / weights.sum()
    assert abs(mean - law.mean()) < 5 * law.std() / np.sqrt(size)
    assert abs(posterior.tree.attrs["log_evidence"] - np.log(2 * np.pi * stats.norm.cdf(0.5))) < 0.06
