"""The step size that warm-up ends with has the acceptance that was asked for."""

import jax.numpy as jnp
import numpy as np
import pytest

import probinfer as pi
from probinfer.inference.draw import draw
from probinfer.inference.mcmc.step_size import calibrate


def curve(step):
    return 1 / (1 + np.exp(3 * (np.log(step) - 0.5)))


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_calibration_finds_the_step_on_a_known_curve(target):
    steps = np.exp(np.random.default_rng(0).normal(0.2, 0.8, 400))
    found = calibrate(steps, curve(steps), target)
    np.testing.assert_allclose(curve(found), target, atol=1e-3)
    assert abs(curve(np.exp(np.log(steps).mean())) - target) > 0.01  # the plain average would not do


def test_calibration_says_nothing_where_there_is_nothing_to_say():
    rng = np.random.default_rng(1)
    assert calibrate(np.full(100, 0.3), rng.uniform(size=100), 0.8) is None
    assert calibrate(np.exp(rng.normal(size=10)), rng.uniform(size=10), 0.8) is None
    rising = np.exp(rng.normal(size=200))
    assert calibrate(rising, 1 - curve(rising), 0.8) is None


def test_calibration_stays_within_the_steps_tried():
    steps = np.exp(np.random.default_rng(2).normal(-3, 0.3, 300))
    assert calibrate(steps, curve(steps), 0.5) <= steps.max()


@pytest.mark.parametrize("target", [0.7, 0.8, 0.95])
def test_the_sampler_accepts_as_often_as_asked(target):
    """Acceptance as NUTS reports it lies somewhat above the symmetric one that is aimed at, never below by much."""
    normal = pi.LogDensity(lambda x: -0.5 * jnp.sum(x**2), 20)
    draws, _, _ = draw(normal, method=pi.NUTS(draws=500, target_accept=target), progress=False)
    assert target - 0.04 < draws.stats["acceptance_rate"].mean() < target + 0.5 * (1 - target)
