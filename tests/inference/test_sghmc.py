"""Chains with a velocity from minibatches: the law of a step in closed form, the bias as measured, and refusals.

Each assertion about random numbers has a false-alarm rate of 1e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

import probinfer as pi
from probinfer.inference.mcmc import sghmc
from tests.inference.rows import DATA, REFUSED, regression, white
from tests.inference.statistics import FALSE_ALARM, assert_moments


def infer(method, model=regression, data=DATA, seed=0):
    return pi.infer(model, data, method, seed=seed, progress=False)


@pytest.fixture(scope="module")
def posterior():
    return infer(pi.SGHMC(minibatch=100))


def test_the_posterior_is_met_from_minibatches(posterior):
    assert_moments(white(posterior), 0.0, 1.0, resolution=0.2)
    attrs = posterior.tree.attrs
    assert attrs["step_size"] == 0.5
    assert 0.005 < attrs["step_bias"] < 0.02
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert "The finite step makes variances too large, by 1" in str(posterior.report)


@pytest.mark.long
def test_few_rows_and_long_steps_are_as_wide_as_they_say():
    posterior = infer(pi.SGHMC(minibatch=2, bias=0.9))
    wide = float(np.sqrt(1 + posterior.tree.attrs["step_bias"]))
    assert_moments(white(posterior), 0.0, wide, resolution=0.2)
    with pytest.raises(AssertionError, match="variance ratio"):
        assert_moments(white(posterior), 0.0, 1.0)
    assert posterior.report.verdict is pi.Verdict.BAD
    assert "give SGHMC a smaller bias" in str(posterior.report)


def stationary(step, size, noise):
    """Variance of x, and of w, for a standard normal posterior and gradients -x + n, var n = noise."""
    start, e = np.eye(4), np.zeros(4)  # x, v, the push, the gradient's noise

    def moved(column):
        x, v, pushed, off = (np.array([value]) for value in column)
        return np.asarray(step(jnp.stack([jnp.asarray(x), jnp.asarray(v)]), off - x, pushed, size)[0], float)[:, 0]

    with jax.enable_x64(True):
        linear = np.stack([moved(column) - moved(e) for column in start], axis=1)
    drive = linear[:, 2:] @ np.diag([1.0, noise]) @ linear[:, 2:].T
    cov = linalg.solve_discrete_lyapunov(linear[:, :2], drive)
    kick = np.array([-size, 1.0])
    return cov[0, 0], kick @ cov @ kick + size**2 * noise


@pytest.mark.parametrize("size", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("noise", [0.0, 0.1, 2.0])
def test_the_excess_of_a_step_is_that_of_its_stationary_law(size, noise):
    variance, square = stationary(sghmc.step, size, noise)
    assert variance - 1 == pytest.approx(sghmc.excess(size, noise), abs=1e-9)
    assert variance - 1 == pytest.approx(sghmc.bias_of(np.full((1, 1, 4, 1), square), size)[0], abs=1e-9)

    def whole_drift_first(state, gradient, pushed, size):
        after, told = sghmc.step(state, gradient, pushed, size)
        return jnp.stack([state[0] + size * state[1], after[1]]), told

    assert abs(stationary(whole_drift_first, size, noise)[0] - variance) > 1e-3 * size


def test_the_size_is_the_one_of_the_bias_asked_for():
    assert sghmc.excess(sghmc.size_of(0.7, 0.02), 0.7) == pytest.approx(0.02)
    assert sghmc.size_of(0.0, 0.02) == 0.5


def test_the_bias_is_measured_with_little_noise():
    size, noise, chains, draws, between = 0.5, 0.6, 50, 400, 4

    def chain(key):
        def one(state, key):
            first, second = jax.random.split(key)
            off = jnp.sqrt(noise) * jax.random.normal(first, (1,))
            return sghmc.step(state, off - state[0], jax.random.normal(second, (1,)), size)

        start, steps = jax.random.split(key)
        state = jax.random.normal(start, (2, 1))
        told = jax.lax.scan(one, state, jax.random.split(steps, (draws + 100) * between))[1]
        return told[100 * between :].reshape(draws, between, 4, 1).mean(axis=1)

    told = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), chains)), float)
    each = np.array([sghmc.bias_of(told[i : i + 5], size)[0] for i in range(0, chains, 5)])
    plain = np.array([sghmc.bias_of(told[i : i + 5, :5], size)[0] for i in range(0, chains, 5)])  # too few to regress
    exact = sghmc.excess(size, noise)
    error = each.std(ddof=1) / np.sqrt(len(each))
    assert abs(each.mean() - exact) < stats.t.isf(FALSE_ALARM / 2, len(each) - 1) * error
    assert error < 0.1 * exact
    assert each.std() < 0.2 * plain.std()
    # In short runs, of 8 and 16 stretches, a regression still leaves about half of the error at most.
    for draws in (160, 320):
        short = np.array([sghmc.bias_of(told[i : i + 1, :draws], size)[0] for i in range(chains)])
        square = told[:, :draws, 0, 0].mean(axis=1)
        unaided = (1 + np.exp(-2 * size)) ** 2 / 4 * np.abs(square - 1)
        assert np.mean((short - exact) ** 2) < np.mean((unaided - exact) ** 2)


def test_the_same_seed_gives_the_same_draws():
    short = pi.SGHMC(minibatch=100, draws=20, chains=1)
    first, again, other = (white(infer(short, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("model", "names", "minibatch", "text"), REFUSED[:2])
def test_what_has_no_independent_rows_is_refused(model, names, minibatch, text):
    with pytest.raises(pi.MethodError, match=text):
        infer(pi.SGHMC(minibatch=minibatch), model, {name: DATA[name] for name in names})


@pytest.mark.parametrize("name", ["minibatch", "chains", "draws", "bias"])
def test_settings_out_of_range(name):
    with pytest.raises(pi.MethodError, match=f"SGHMC: {name} is 0"):
        pi.SGHMC(**{name: 0})
