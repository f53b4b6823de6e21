"""Variational laws from a few rows at a time: against a posterior and an evidence that are known, with broken twins.

Each assertion about random numbers has a false-alarm rate of 1e-6, shared by its comparisons (Bonferroni).
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import probinfer as pi
from probinfer.inference.variational import sampled_rows
from probinfer.inference.variational.sampled_rows import SampledRows
from probinfer.model.model import Model
from probinfer.model.rows import Rows
from probinfer.model.target import Target
from tests.inference.rows import DATA, LOG_EVIDENCE, MEAN, PRECISION, REFUSED, ROOT, D, N, regression, white
from tests.inference.statistics import FALSE_ALARM, assert_moments

LONG = pytest.mark.long
LOST = 0.01  # nats of the bound: the normal law is 0.07 standard deviations off in one direction


def infer(method, model=regression, data=DATA, seed=0):
    return pi.infer(model, data, method, seed=seed, progress=False)


@pytest.fixture(scope="module")
def posterior():
    return infer(pi.FullRank(minibatch=100))


def test_a_normal_posterior_is_met_from_rows(posterior):
    assert_moments(white(posterior)[None], 0.0, 1.0, resolution=0.2)
    attrs = posterior.tree.attrs
    assert abs(LOG_EVIDENCE - attrs["elbo"]) < LOST
    assert attrs["log_evidence"] == pytest.approx(LOG_EVIDENCE, abs=1e-3)
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert attrs["steps"] >= 800
    assert attrs["passes"] >= 4000


def unscaled(rows, z, taken, whole, known):
    """The estimate without N / |S|."""
    one = jax.value_and_grad(rows.density)
    weights = jnp.ones(rows.batch, z.dtype)
    value, slope = jax.vmap(one, (0, None, None, None, None))(z, taken, whole, 1.0, weights)
    return value, slope


@pytest.mark.long
def test_a_forgotten_scale_is_noticed(monkeypatch):
    monkeypatch.setattr(sampled_rows, "estimate", unscaled)
    broken = infer(pi.FullRank(minibatch=99, rounds=2, draws=500))  # no program of another size is taken over
    with pytest.raises(AssertionError, match="exact"):
        assert_moments(white(broken)[None], 0.0, 1.0)
    assert abs(LOG_EVIDENCE - broken.tree.attrs["elbo"]) > 100 * LOST
    assert broken.report.verdict is pi.Verdict.BAD


def test_mean_field_has_the_precisions_diagonal():
    posterior = infer(pi.MeanField(minibatch=100))
    divergence = (np.sum(np.log(np.diag(PRECISION))) - np.linalg.slogdet(PRECISION)[1]) / 2
    attrs = posterior.tree.attrs
    assert divergence > 10 * LOST
    tolerance = LOST + stats.norm.isf(FALSE_ALARM / 2) * attrs["elbo_mcse"]
    assert tolerance < divergence / 2
    assert abs(attrs["elbo"] - (LOG_EVIDENCE - divergence)) < tolerance
    draws = np.asarray(posterior.tree["posterior"]["b"])
    assert_moments(((draws - MEAN) * np.sqrt(np.diag(PRECISION)))[None], 0.0, 1.0, resolution=0.2)


@LONG
@pytest.mark.parametrize(
    "method", [pi.LowRank(minibatch=100), pi.Flow(minibatch=100, starts=1)], ids=["low rank", "flow"]
)
def test_other_families_meet_a_normal_posterior(method):
    posterior = infer(method)
    assert abs(LOG_EVIDENCE - posterior.tree.attrs["elbo"]) < 5 * LOST  # a flow is not exactly normal
    assert_moments(white(posterior)[None], 0.0, 1.0, resolution=0.2)
    assert posterior.report.verdict is pi.Verdict.GOOD


def product(y=None):
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.LogNormal(0, 0.5))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(a * b, 20.0), obs=y)


@LONG
def test_a_flow_bends_with_rows():
    y = np.random.default_rng(3).normal(2.0, 20.0, 4000)
    size, mean = len(y), y.mean()
    constant = stats.norm(mean, 20.0).logpdf(y).sum()  # the rest of the likelihood is normal in the mean

    def joint(log_b, a):
        by_mean = -size * (mean - a * np.exp(log_b)) ** 2 / (2 * 20.0**2)
        return np.exp(by_mean) * stats.norm.pdf(a) * stats.norm.pdf(log_b, 0, 0.5)

    exact = constant + np.log(integrate.dblquad(joint, -6, 6, -4, 4)[0])
    bent = infer(pi.Flow(minibatch=200, starts=1), product, {"y": y}).tree.attrs
    straight = infer(pi.FullRank(minibatch=200), product, {"y": y}).tree.attrs
    noise = stats.norm.isf(FALSE_ALARM)
    assert bent["elbo"] > exact - 0.05 - noise * bent["elbo_mcse"]
    assert straight["elbo"] < exact - 0.05 - noise * straight["elbo_mcse"]
    assert abs(bent["log_evidence"] - exact) < noise * bent["log_evidence_mcse"]


@pytest.fixture(scope="module")
def rows():
    target = Target(Model(regression).bind(DATA))
    return Rows(target, 50, "FullRank", "minibatch"), target


def test_estimates_from_rows_are_unbiased(rows):
    seen = SampledRows(*rows, np.random.default_rng(1))
    z = (MEAN - 20 * ROOT @ np.ones(D))[None]
    exact, slope = seen._all(z[0])
    ask = seen.fresh(1)
    scale = np.array([1.0, *np.abs(slope @ ROOT)])

    def numbers(known):
        values = [ask(z, known) for _ in range(2000)]
        return np.array([[value[0], *(slope[0] @ ROOT)] for value, slope in values])

    def right(found):
        error = (found.mean(axis=0) - [exact, *(slope @ ROOT)]) / (found.std(axis=0, ddof=1) / np.sqrt(len(found)))
        return bool((np.abs(error) < stats.t.isf(FALSE_ALARM / len(scale) / 2, len(found) - 1)).all())

    corrected = numbers(seen.known_at(MEAN + ROOT @ np.ones(D)))
    plain = numbers(seen.nothing_known())
    assert right(corrected)
    assert right(plain)
    assert (corrected.std(axis=0) < plain.std(axis=0)).all()
    seen._generator = OnlyTheFirst(seen._generator)
    assert not right(numbers(seen.nothing_known())), "blind to rows that are never drawn"


class OnlyTheFirst:
    """Draws from the first quarter of the rows."""

    def __init__(self, generator):
        self._generator = generator

    def integers(self, low, high, size):
        return self._generator.integers(low, high // 4, size)


def test_densities_of_all_rows_do_not_depend_on_the_chunks(rows, monkeypatch):
    monkeypatch.setattr(sampled_rows, "ROWS", 128)
    monkeypatch.setattr(sampled_rows, "_POINTS", 16)
    seen = SampledRows(*rows, np.random.default_rng(1))
    z = MEAN + np.random.default_rng(0).normal(size=(37, D)) @ ROOT.T
    target = seen.target
    with target.precision():
        exact = np.asarray(jax.vmap(target.log_density, (0, None))(jnp.asarray(z), target.inputs))
    np.testing.assert_allclose(seen.log_density(z), exact, rtol=1e-12)
    assert seen.passes == 37


def test_one_run_of_steps_is_not_settled():
    posterior = infer(pi.FullRank(minibatch=100, rounds=1, draws=200))
    assert posterior.report.verdict is pi.Verdict.DOUBTFUL
    assert "not settled" in str(posterior.report)


def test_the_same_seed_gives_the_same_draws():
    method = pi.FullRank(minibatch=100, rounds=1, draws=200)
    first, again, other = (white(infer(method, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("model", "names", "batch", "text"), REFUSED)
def test_what_has_no_independent_rows_is_refused(model, names, batch, text):
    with pytest.raises(pi.MethodError, match=text):
        infer(pi.MeanField(minibatch=batch), model, {name: DATA[name] for name in names})


def test_a_flow_refuses_too():
    with pytest.raises(pi.MethodError, match="Flow: minibatch is 3001, and there are 3000 rows; wanted 1 to 3000"):
        infer(pi.Flow(minibatch=N + 1))


def test_a_plain_log_density_has_no_rows():
    with pytest.raises(pi.MethodError, match="no outcome"):
        infer(pi.FullRank(minibatch=10), pi.LogDensity(lambda x: -(x**2).sum(), dim=2), {})


@pytest.mark.parametrize("family", [pi.MeanField, pi.FullRank, pi.LowRank, pi.Flow])
@pytest.mark.parametrize("batch", [0, -1, 2.5, True])
def test_an_empty_batch_is_refused(family, batch):
    with pytest.raises(
        pi.MethodError, match=rf"{family.__name__}: minibatch is {batch}; wanted a whole number, 1 or more"
    ):
        family(minibatch=batch)
