"""Which method is chosen for a model, and why: a closed form where there is one, not where there nearly is."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.choose import choose
from tests.inference.models import EIGHT_SCHOOLS, eight_schools

Y = np.random.default_rng(50).normal(1.0, 2.0, size=30)


def mean(y=None, law=None):
    mu = numpyro.sample("mu", law or dist.Normal(0, 3))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 2.0), obs=y)


def nearly(y=None):
    mean(y, dist.StudentT(100, 0, 3))


def rate(y=None):
    numpyro.sample("y", dist.Poisson(numpyro.sample("rate", dist.Gamma(2, 1))).expand([4]), obs=y)


def coin(y=None):
    numpyro.sample("y", dist.Bernoulli(numpyro.sample("p", dist.Beta(1, 1))).expand([4]), obs=y)


def half_cauchy(y=None):
    mean(y, dist.HalfCauchy(1))


def improper(y=None):
    a, b = (numpyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), ())) for name in "ab")
    numpyro.sample("y", dist.Normal(jnp.full(30, a + b), 2.0), obs=y)


def chosen(model, data, *, steered=False):
    return choose(pi.Model(model).bind(data), steered=steered)


@pytest.mark.parametrize(
    ("model", "y"),
    [(mean, Y), (rate, np.array([1, 0, 3, 2])), (coin, np.array([1, 0, 1, 1]))],
    ids=["normal", "gamma", "beta"],
)
def test_a_closed_form_is_taken(model, y):
    method, _, reason = chosen(model, {"y": y})
    assert method == pi.Exact()
    assert "closed form" in reason


@pytest.mark.parametrize(
    ("model", "data"),
    [(nearly, {"y": Y}), (half_cauchy, {"y": Y}), (eight_schools, EIGHT_SCHOOLS), (improper, {"y": Y})],
    ids=["nearly normal", "half Cauchy", "eight schools", "improper"],
)
def test_what_is_only_nearly_of_a_form_is_sampled(model, data):
    assert chosen(model, data)[0] == pi.NUTS()


def test_a_stop_rule_wants_chains():
    assert chosen(mean, {"y": Y}, steered=True)[0] == pi.NUTS()


def test_the_report_says_why_and_the_draws_are_exact():
    posterior = pi.infer(mean, {"y": Y}, progress=False)
    variance = 1 / (1 / 9 + len(Y) / 4)
    assert posterior.tree.attrs["exact"] == 1
    assert "closed form" in str(posterior.report)
    error = np.sqrt(variance / 4000)
    assert abs(posterior.summary()["mean"]["mu"] - variance * Y.sum() / 4) < 5 * error  # false-alarm rate 6e-7
