"""Langevin chains from minibatches: unbiased gradients, the bias of a finite step as measured, and refusals.

Each assertion about random numbers has a false-alarm rate of 1e-6.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.inference.mcmc.stochastic import AllRows, gradient_from
from probinfer.model.model import Model
from probinfer.model.rows import Rows
from probinfer.model.target import Target
from tests.inference.rows import DATA, MEAN, NOISE, REFUSED, ROOT, D, N, X, regression, white
from tests.inference.statistics import FALSE_ALARM, assert_moments


def infer(method, model=regression, data=DATA, seed=0):
    return pi.infer(model, data, method, seed=seed, progress=False)


@pytest.fixture(scope="module")
def posterior():
    return infer(pi.SGLD(minibatch=100))


def test_the_posterior_is_met_from_minibatches(posterior):
    assert_moments(white(posterior), 0.0, 1.0, resolution=0.2)
    attrs = posterior.tree.attrs
    assert 0.015 < attrs["step_bias"] < 0.03
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert "The finite step makes variances too large, by 2" in str(posterior.report)


def test_a_long_step_is_as_wide_as_it_says():
    posterior = infer(pi.SGLD(minibatch=100, bias=0.3))
    wide = float(np.sqrt(1 + posterior.tree.attrs["step_bias"]))
    assert_moments(white(posterior), 0.0, wide, resolution=0.2)
    with pytest.raises(AssertionError, match="variance ratio"):
        assert_moments(white(posterior), 0.0, 1.0)
    assert posterior.report.verdict is not pi.Verdict.GOOD


def test_the_gradient_from_rows_is_unbiased():
    target = Target(Model(regression).bind(DATA))
    rows = Rows(target, 50, "SGLD")
    everything = AllRows(rows, target)
    anchor, z = MEAN + ROOT @ np.ones(D), MEAN - 20 * ROOT @ np.ones(D)
    generator = np.random.default_rng(1)
    with target.precision():
        estimate = jax.jit(jax.vmap(lambda taken: gradient_from(rows, (anchor, everything(anchor)[1]))(z, taken, {})))

        def mean_is_right(among: int) -> bool:
            slopes = np.asarray(estimate(rows.take(generator.integers(0, among, (2000, rows.batch))))) @ ROOT
            t = (slopes.mean(axis=0) - everything(z)[1] @ ROOT) / (slopes.std(axis=0, ddof=1) / np.sqrt(len(slopes)))
            return bool((np.abs(t) < stats.t.isf(FALSE_ALARM / D / 2, len(slopes) - 1)).all())

        assert mean_is_right(N)
        assert not mean_is_right(N // 4), "blind to rows that are never drawn"
    value, slope = everything(z)
    exact = -X.T @ (X @ z - DATA["y"]) / NOISE**2 - z / 9
    assert np.allclose(slope, exact, rtol=1e-8)
    likelihood = stats.norm(X @ z, NOISE).logpdf(DATA["y"]).sum()
    assert value == pytest.approx(likelihood + stats.norm(0, 3).logpdf(z).sum(), rel=1e-10)


def test_the_same_seed_gives_the_same_draws(posterior):
    short = pi.SGLD(minibatch=100, draws=20, chains=1)
    first, again, other = (white(infer(short, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("model", "names", "minibatch", "text"), REFUSED)
def test_what_has_no_independent_rows_is_refused(model, names, minibatch, text):
    with pytest.raises(pi.MethodError, match=text):
        infer(pi.SGLD(minibatch=minibatch), model, {name: DATA[name] for name in names})


def test_a_plain_log_density_has_no_rows():
    with pytest.raises(pi.MethodError, match="no outcome"):
        infer(pi.SGLD(), pi.LogDensity(lambda x: -(x**2).sum(), dim=2), {})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: pi.SGLD(minibatch=0), "minibatch is 0; wanted a whole number, 1 or more"),
        (lambda: pi.SGLD(bias=0), "bias"),
        (lambda: pi.SGLD(chains=0), "chains"),
    ],
)
def test_settings_out_of_range(make, text):
    with pytest.raises(pi.MethodError, match=text):
        make()


@pytest.mark.parametrize("method", [pi.SGLD(), pi.SGHMC()], ids=lambda method: type(method).__name__)
def test_one_row_that_makes_no_peak_is_refused_in_words(method):
    """A line and its noise from one row: the scale runs to zero, and the step's bias was nan%."""

    def line(x, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([2]))
        s = numpyro.sample("s", dist.HalfNormal(1))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(b[0] + b[1] * x, s), obs=y)

    with pytest.raises(pi.MethodError, match=r"no step is small enough.*pi\.NUTS"):
        pi.infer(line, {"x": np.array([0.5]), "y": np.array([1.0])}, method, progress=False)
