"""Where chains begin: brought out of the far tail, left alone where they are well, never drawn into a spike."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.draw import draw
from probinfer.inference.mcmc.start import RADII, find_start


def normal(scales):
    return lambda z: (float(-0.5 * np.sum((z / scales) ** 2)), -z / scales**2)


def test_a_point_in_the_far_tail_is_brought_to_the_bulk_with_the_scales_that_hold_there():
    scales = np.array([1e-3, 1.0, 1e3])
    generator = np.random.default_rng(0)
    start, first = find_start(normal(scales), lambda radius: generator.uniform(-radius, radius, 3), 3, 3)
    assert start is not None
    before, after = normal(scales)(first)[0], normal(scales)(start.position)[0]
    assert before < -1e4
    assert after > -50
    assert start.metric.scale[0] < 0.1 * start.metric.scale[1]


def test_a_good_point_stays_where_it_is():
    generator = np.random.default_rng(1)
    start, first = find_start(normal(np.ones(5)), lambda radius: generator.uniform(-radius, radius, 5), 5, 0)
    assert start is not None
    assert np.linalg.norm(start.position - first) < np.linalg.norm(first) + 1
    assert normal(np.ones(5))(start.position)[0] > normal(np.ones(5))(first)[0] - 1e-9


def test_a_density_that_grows_without_end_does_not_draw_the_chain_along():
    """log p = -log tau + ... as in the neck of a funnel: ten more for each unit of log tau, for ever."""

    def neck(z):
        return float(-10 * z[0] - 0.5 * np.sum(z[1:] ** 2)), np.concatenate([[-10.0], -z[1:]])

    generator = np.random.default_rng(2)
    start, first = find_start(neck, lambda radius: generator.uniform(-radius, radius, 11), 11, 0)
    assert start is not None
    assert first[0] - start.position[0] < 60  # L-BFGS would go on to 1e10


def test_points_where_the_density_is_not_finite_are_passed_over():
    def half(z):
        return (float(-np.sum(z)), -np.ones(2)) if (z > 0).all() else (np.nan, np.full(2, np.nan))

    generator = np.random.default_rng(3)
    start, _ = find_start(half, lambda radius: generator.uniform(-radius, radius, 2), 2, 0)
    assert start is not None
    assert (start.position > 0).all()
    nowhere, last = find_start(lambda z: (-np.inf, np.zeros(2)), lambda radius: np.full(2, radius), 2, 0)
    assert nowhere is None
    assert last[0] == RADII[-1]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_unscaled_regression_samples_from_its_defaults(seed):
    """Outcome in tens of thousands, predictors from a thousandth to a thousand, flat priors: no start is near."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 3)) * [1e-3, 1.0, 1e3]
    y = 3e4 + x @ np.array([1e6, -2e3, 5.0]) + 2e3 * rng.normal(size=60)
    flat = dist.ImproperUniform(dist.constraints.real, (), ())

    def model(x, y=None):
        intercept = numpyro.sample("intercept", flat)
        beta = numpyro.sample("beta", dist.ImproperUniform(dist.constraints.real_vector, (), (3,)))
        sigma = numpyro.sample("sigma", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.sample("y", dist.Normal(intercept + x @ beta, sigma), obs=y)

    draws, target, _ = draw(model, {"x": x, "y": y}, pi.NUTS(draws=300), seed=seed, progress=False)
    design = np.column_stack([np.ones(60), x])
    exact = np.linalg.lstsq(design, y, rcond=None)[0]  # the posterior mean under flat priors
    values = target.constrain(draws.positions)
    found = np.concatenate([values["intercept"][..., None], values["beta"]], axis=-1).reshape(-1, 4)
    # Six standard errors of 1200 draws, of which a third count as independent at least.
    assert (np.abs(found.mean(axis=0) - exact) < 6 * found.std(axis=0) / np.sqrt(400)).all()
    assert jnp.isfinite(draws.stats["lp"]).all()
    assert draws.stats["diverging"].mean() < 0.01
