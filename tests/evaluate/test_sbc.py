"""Simulation-based calibration as users call it: right methods pass, wrong ones are told apart, and which way."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.draws import Draws
from probinfer.inference.method import Need

DATA = {"x": np.linspace(-1, 1, 6), "y": np.zeros(6)}
FALSE_ALARM = 1e-6


def line(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x, 0.5), obs=y)


@dataclass(frozen=True)
class Closed:
    """Exact draws of `line`'s posterior; made narrower and moved, or without regard to the data."""

    narrow: float = 1.0
    move: float = 0.0
    blind: bool = False

    needs: ClassVar = frozenset({Need.GRADIENT})
    controls: ClassVar = frozenset()
    float64 = True

    def run(self, target, run):
        x, y = (target.bound.arrays[name] for name in ("x", "y"))
        A = np.stack([np.ones(len(x)), x], axis=1)
        covariance = np.linalg.inv(np.eye(2) + A.T @ A / 0.25)
        mean = covariance @ (A.T @ y) / 0.25
        if self.blind:
            mean, covariance = np.zeros(2), np.eye(2)
        factor = np.linalg.cholesky(covariance)
        noise = np.random.default_rng(run.key).normal(size=(200, 2))
        moved = mean + self.move * np.sqrt(np.diag(covariance))
        return Draws(moved + self.narrow * noise @ factor.T, {}, "Closed", {}, sample_dims=("sample",))


@pytest.fixture(scope="module")
def right():
    return pi.sbc(line, DATA, Closed(), replications=200, seed=3, progress=False)


def test_a_right_method_is_calibrated(right):
    assert right.p > FALSE_ALARM
    assert right.names == ("beta[0]", "beta[1]", "log_likelihood")
    assert right.ranks.shape == (200, 3)
    assert (right.slow, right.failed, right.interrupted) == (0, (), False)
    assert "200 replications" in repr(right)


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        ({"narrow": 0.6}, lambda frame: (frame.spread["beta[0]"] > 1.2) and (frame.spread["beta[1]"] > 1.2)),
        pytest.param(
            {"narrow": 1.6},
            lambda frame: (frame.spread["beta[0]"] < 0.8) and (frame.spread["beta[1]"] < 0.8),
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"move": -0.7},
            lambda frame: (frame.position["beta[0]"] > 0.6) and (frame.position["beta[1]"] > 0.6),
            marks=pytest.mark.long,
        ),
        ({"blind": True}, lambda frame: (frame.p[:2] > FALSE_ALARM).all() and frame.p["log_likelihood"] < 1e-20),
    ],
    ids=["narrow", "wide", "moved", "prior"],
)
def test_wrong_posteriors_are_told_apart_and_which_way(wrong, seen):
    found = pi.sbc(line, DATA, Closed(**wrong), replications=200, seed=3, progress=False)
    assert found.p < FALSE_ALARM
    assert seen(found.to_frame())


@pytest.mark.long
def test_an_executor_gives_the_same_ranks(right):
    with ThreadPoolExecutor(2) as pool:
        found = pi.sbc(line, DATA, Closed(), replications=200, seed=3, executor=pool, progress=False)
    np.testing.assert_array_equal(found.ranks, right.ranks)
    with pytest.raises(pi.MethodError, match="executor came as int"):
        pi.sbc(line, DATA, Closed(), executor=3, progress=False)


@pytest.mark.long
def test_the_method_that_is_chosen_chains_and_discrete_sites():
    chosen = pi.sbc(line, DATA, replications=100, progress=False)
    assert chosen.p > FALSE_ALARM

    def mixed(y=None):
        rate = numpyro.sample("rate", dist.Beta(2, 2))
        with numpyro.plate("row", 4):
            z = numpyro.sample("z", dist.Bernoulli(rate))
            numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)

    found = pi.sbc(mixed, {"y": np.zeros(4)}, pi.NUTS(chains=2, draws=300), replications=100, progress=False)
    assert found.names[0] == "rate"
    assert len(found.names) == 6
    assert found.p > FALSE_ALARM
    short = pi.sbc(line, DATA, pi.NUTS(chains=1, draws=40), replications=20, progress=False)
    assert short.slow > 10
    assert "draw more" in repr(short)


def test_what_cannot_be_simulated_is_refused():
    def logs(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=jnp.log(y))

    with pytest.raises(pi.ModelError, match="y is not data as they came"):
        pi.sbc(logs, {"y": np.array([2.0, 3.0])}, progress=False)

    def flat(y):
        m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    with pytest.raises(pi.ModelError, match="no prior to draw from"):
        pi.sbc(flat, {"y": np.zeros(2)}, Closed(), progress=False)
    with pytest.raises(pi.ModelError, match="no outcome to simulate"):
        pi.sbc(pi.LogDensity(lambda x: -0.5 * jnp.sum(x**2), 2), None, progress=False)
    with pytest.raises(pi.MethodError, match="replications is 5"):
        pi.sbc(line, DATA, replications=5, progress=False)
