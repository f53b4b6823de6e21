"""Simulation-based calibration of the methods that test_sbc.py and test_particle_mcmc.py leave out, in one table.

Each row has a model whose twin, which fits with a wrong noise, must fail; false-alarm rate 1e-6 a method. A method that
never rejects a step has a bias it tells: that must be what was asked for in every replication, and is too small to show
in the ranks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.draw import METHODS, draw
from tests.inference import test_particle_mcmc, test_sbc
from tests.inference.statistics import assert_uniform_ranks

KEPT, BINS = 63, 8
GENERATOR = np.random.default_rng(8)
X = GENERATOR.normal(size=(200, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])


class Case(NamedTuple):
    """simulate: generator -> (true values by site, data). model(noise) fits the data; the true noise is 1."""

    simulate: Callable
    model: Callable


def regression_case() -> Case:
    """Two slopes, 200 rows."""

    def simulate(generator):
        b = generator.normal(size=2)
        return {"b": b}, {"x": X, "y": X @ b + generator.normal(size=len(X))}

    def model(noise):
        def fit(x, y=None):
            b = numpyro.sample("b", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            with numpyro.plate("row", len(x)):
                numpyro.sample("y", dist.Normal(x @ b, noise), obs=y)

        return fit

    return Case(simulate, model)


def mean_and_shift_case() -> Case:
    """A mean and a positive shift of half of the observations: not conjugate."""
    half = np.repeat([0.0, 1.0], 4)

    def simulate(generator):
        mu, shift = generator.normal(), abs(generator.normal())
        return {"mu": mu, "shift": shift}, {"y": mu + shift * half + generator.normal(size=8)}

    def model(noise):
        def fit(y=None):
            mu = numpyro.sample("mu", dist.Normal(0, 1))
            shift = numpyro.sample("shift", dist.HalfNormal(1))
            numpyro.sample("y", dist.Normal(mu + shift * half, noise), obs=y)

        return fit

    return Case(simulate, model)


def mixture_case() -> Case:
    """A share, the centre of the second part, and which part each of 12 points is from."""

    def simulate(generator):
        share, centre = generator.beta(2, 3), generator.normal(1.5, 1.0)
        which = generator.random(12) < share
        return {"share": share, "centre": centre}, {"y": np.where(which, centre, -1.0) + generator.normal(size=12)}

    def model(noise):
        def fit(y=None):
            share = numpyro.sample("share", dist.Beta(2.0, 3.0))
            centre = numpyro.sample("centre", dist.Normal(1.5, 1.0))
            with numpyro.plate("point", 12):
                which = numpyro.sample("which", dist.Bernoulli(share))
                numpyro.sample("y", dist.Normal(jnp.where(which == 1, centre, -1.0), noise), obs=y)

        return fit

    return Case(simulate, model)


class Row(NamedTuple):
    """A method and its case; every `thin`-th draw of a chain is used, replications in all."""

    method: Any
    case: Callable
    thin: int = 1
    replications: int = 160
    wrong: float = 0.3  # the noise that the twin's model takes for 1


TABLE = {
    "SGLD": Row(pi.SGLD(minibatch=20, chains=2, draws=160), regression_case, 5, 96),
    "SGHMC": Row(pi.SGHMC(minibatch=20, chains=2, draws=160), regression_case, 5, 96),
    "Gibbs": Row(pi.Gibbs(chains=2, draws=640, warmup=200), mixture_case, 20),
    # the twin has data that its prior hardly allows, of which few proposals are accepted
    "Rejection": Row(pi.Rejection(draws=KEPT, max_proposals=10**7), mean_and_shift_case, wrong=0.5),
    "Importance": Row(pi.Importance(draws=2000), mean_and_shift_case),
    "Exact": Row(pi.Exact(draws=KEPT), regression_case),
}


def ranks(row: Row, noise: float) -> np.ndarray:
    """Ranks of the true values among KEPT draws, and the biases told: (replications, scalars), (replications,)."""
    case = row.case()
    model = pi.Model(case.model(noise))
    found, told = [], []
    for replication in range(row.replications):
        truth, data = case.simulate(np.random.default_rng([9, replication]))
        drawn, target, _ = draw(model, data, row.method, seed=replication, progress=False)
        positions = drawn.positions[:, :: row.thin] if drawn.sample_dims[0] == "chain" else drawn.positions
        chosen = (
            positions.swapaxes(0, 1)[: (KEPT + 1) // 2].reshape(-1, target.dim) if positions.ndim == 3 else positions
        )
        assert len(chosen) >= KEPT, f"{len(chosen)} draws"
        values = target.constrain(chosen[:KEPT])
        found.append(np.concatenate([np.ravel((values[site] < value).sum(axis=0)) for site, value in truth.items()]))
        told.append(drawn.facts.get("step_bias", 0.0))
    return np.array(found), np.array(told)


@pytest.mark.long
@pytest.mark.parametrize("name", TABLE)
def test_calibration(name):
    found, told = ranks(TABLE[name], 1.0)
    assert_uniform_ranks(found, KEPT, bins=BINS, names=name)
    assert told.max() < 0.06
    assert told.mean() < 0.03


@pytest.mark.long
@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_noise_is_noticed(name):
    row = TABLE[name]
    with pytest.raises(AssertionError, match="not uniform"):
        assert_uniform_ranks(ranks(row._replace(replications=80), row.wrong)[0], KEPT, bins=BINS)


def test_every_method_that_samples_is_in_a_table():
    approximate = {"Laplace", "MeanField", "LowRank", "FullRank", "Pathfinder", "Flow"}
    elsewhere = {"NUTS", *test_sbc.OTHERS, *test_sbc.POPULATIONS, *test_particle_mcmc.METHODS}
    missing = {method.__name__ for method in METHODS} - approximate - elsewhere - set(TABLE)
    assert not missing
