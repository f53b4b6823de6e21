"""The metric: what it is for normal distributions, where the answer is known, and what the broken one would give."""

import numpy as np
import pytest

from probinfer.inference.mcmc import leapfrog
from probinfer.inference.mcmc.metric import Metric, fit, identity, is_round
from probinfer.inference.mcmc.walk import fit_covariance

RNG = np.random.default_rng(11)


def normal_sample(covariance, chains=4, draws=500):
    """Draws of N(0, covariance) and the gradients of its log density there."""
    root = np.linalg.cholesky(covariance)
    x = RNG.normal(size=(chains, draws, len(covariance))) @ root.T
    return x, -np.linalg.solve(covariance, x.reshape(-1, len(covariance)).T).T.reshape(x.shape)


def inverse_mass(metric: Metric):
    middle = np.eye(len(metric.scale)) + (metric.directions * metric.stretch) @ metric.directions.T
    a = metric.scale[:, None] * middle
    return a @ a.T


def condition(covariance, metric):
    """Condition number of the target once the metric has made it round: 1 is perfect."""
    values = np.linalg.eigvals(np.linalg.solve(inverse_mass(metric), covariance)).real
    return values.max() / values.min()


def correlated(dim, strength):
    direction = RNG.normal(size=dim)
    direction /= np.linalg.norm(direction)
    scales = np.exp(RNG.normal(size=dim))
    return scales[:, None] * (np.eye(dim) + strength * np.outer(direction, direction)) * scales


def everything(x):
    return np.ones(x.shape[:2], bool)


def test_independent_scales_are_found_exactly_from_few_draws():
    """For a diagonal normal the gradient is -x / s^2, so sd(x) / sd(gradient) is s^2 whatever the draws."""
    scales = np.array([1e-4, 1.0, 1e5])
    x, g = normal_sample(np.diag(scales**2), draws=5)
    np.testing.assert_allclose(fit(x, g, everything(x), 0).scale, scales, rtol=1e-10)


@pytest.mark.parametrize(("dim", "rank"), [(5, 5), (60, 8)])
def test_one_long_direction_is_found(dim, rank):
    covariance = correlated(dim, 1e4)
    x, g = normal_sample(covariance)
    assert condition(covariance, fit(x, g, everything(x), 0)) > 30  # the diagonal metric cannot
    # Directions within the threshold of 1.5 on either side stay in the diagonal: 1.5**2, twice that for their noise.
    assert condition(covariance, fit(x, g, everything(x), rank)) < 2 * 1.5**2


def test_a_full_rank_metric_makes_any_normal_round():
    root = RNG.normal(size=(8, 8))
    covariance = root @ root.T + 1e-3 * np.eye(8)
    x, g = normal_sample(covariance, draws=1000)
    assert condition(covariance, fit(x, g, everything(x), 8, threshold=1.0)) < 1.5


def test_draws_marked_as_not_arrived_do_not_count():
    x, g = normal_sample(np.eye(3))
    x[0] += 1e6 * np.linspace(0, 1, 500)[:, None]
    use = everything(x)
    use[0] = False
    np.testing.assert_allclose(fit(x, g, use, 3).scale, 1.0, rtol=0.1)
    assert fit(x, g, everything(x), 3).scale.max() > 10  # the broken twin: they would have ruined it


def test_trouble_leaves_a_metric_that_can_be_used():
    x, g = normal_sample(np.eye(3), draws=30)
    g[1, 3] = np.nan
    x[2, 4] = np.inf
    x[..., 1] = 0.0
    for values in (fit(x, g, everything(x), 3), fit(x[:, :0], g[:, :0], everything(x)[:, :0], 3)):
        assert np.isfinite(values.scale).all()
        assert (values.scale > 0).all()
        assert np.isfinite(values.stretch).all()
        assert (values.stretch > -1).all()


def test_velocity_and_momentum_are_those_of_the_mass_matrix():
    covariance = correlated(6, 100.0)
    x, g = normal_sample(covariance)
    metric = fit(x, g, everything(x), 3)
    z = RNG.normal(size=6)
    p, v = metric.momentum(z), metric.velocity(metric.momentum(z))
    np.testing.assert_allclose(v, inverse_mass(metric) @ p, rtol=1e-9)
    assert p @ v == pytest.approx(z @ z)  # twice the kinetic energy, of a standard normal


def test_the_first_metric_scales_by_the_gradient():
    first = identity(2, 1, np.array([-100.0, 1e-4]))
    np.testing.assert_allclose(first.scale, [0.1, 100.0])
    assert np.isfinite(identity(2, 0, np.zeros(2)).scale).all()


def test_the_walks_metric_is_the_covariance():
    covariance = correlated(6, 100.0)
    x, g = normal_sample(covariance, draws=4000)
    metric = fit_covariance(x, g, everything(x), 6)
    assert condition(covariance, metric) < 1.2
    assert condition(covariance, fit_covariance(x, g, everything(x), 0)) > 5  # standard deviations alone would not do
    z = RNG.normal(size=6)
    a = metric.scale[:, None] * (np.eye(6) + (metric.directions * metric.stretch) @ metric.directions.T)
    np.testing.assert_allclose(metric.displacement(z), a @ z, rtol=1e-12)


def test_kinetic_energy_is_never_negative():
    """Velocity and momentum are carried apart: far out, their rounding errors alone would lower the energy."""
    point = leapfrog.Point(*(np.array(part) for part in ([0.0], [1e10], [-1e9], [0.0], [0.0])))
    assert leapfrog.kinetic(point) == np.inf
    assert leapfrog.kinetic(point._replace(v=np.array([np.nan]))) == np.inf
    assert leapfrog.kinetic(point._replace(p=np.array([2.0]), v=np.array([3.0]))) == 3.0


@pytest.mark.parametrize("rank", [0, 4])
def test_a_fitted_metric_makes_later_draws_round(rank):
    covariance = correlated(12, 4.0 if rank else 0.0)
    metric = fit(*normal_sample(covariance), np.ones((4, 500), bool), rank)
    assert is_round(*normal_sample(covariance), metric)


@pytest.mark.parametrize("wrong", ["a scale", "a direction", "few draws"])
def test_what_is_not_round_is_noticed(wrong):
    covariance = correlated(12, 4.0)
    metric = fit(*normal_sample(covariance), np.ones((4, 500), bool), 4)
    draws, gradients = normal_sample(covariance)
    if wrong == "a scale":
        metric.scale[3] *= 1.5
    elif wrong == "a direction":
        metric.stretch[:] = 0.0
    else:
        draws, gradients = draws[:, :5], gradients[:, :5]
    assert not is_round(draws, gradients, metric)
