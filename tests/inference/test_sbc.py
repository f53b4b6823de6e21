"""Simulation-based calibration: parameters from the prior, data from the parameters, and the truth's rank is uniform.

Tests the whole way from a model to its draws, warm-up included, over many data sets instead of one. The ranks are among
63 draws thinned by ten, close to independent. Talts et al. (2018), arXiv:1804.06788.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.draw import draw, draw_again
from tests.inference.statistics import assert_uniform_ranks

THIN, KEPT = 10, 63
REPLICATIONS = 320
DRAWS = (KEPT + 1) // 2 * THIN
METHOD = pi.NUTS(chains=2, draws=DRAWS)
POPULATIONS = {
    "ManyChains": pi.ManyChains(chains=64, draws=20, superchains=8, warmup=150),
    "Tempering": pi.Tempering(chains=2, draws=DRAWS, warmup=400),
    "SMC": pi.SMC(chains=2, particles=DRAWS),
}
OTHERS = {"HMC": pi.HMC(chains=2, draws=DRAWS), "Metropolis": pi.Metropolis(chains=2, draws=DRAWS)}


class Case(NamedTuple):
    """simulate: generator -> (true values by site, data). model fits the data; twin is wrong in one respect."""

    simulate: Callable
    model: Callable
    twin: Callable


def normal_mean() -> Case:
    """Conjugate: mu ~ Normal(0, 1), five observations with noise 1. The twin believes in noise 0.3."""

    def simulate(generator):
        mu = generator.normal()
        return {"mu": mu}, {"y": generator.normal(mu, 1.0, size=5)}

    def model(y, noise=1.0):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, noise), obs=y)

    return Case(simulate, model, lambda y: model(y, noise=0.3))


def eight_groups(*, centred: bool = False) -> Case:
    """Eight schools with tau ~ HalfNormal(5). The twin counts the Jacobian of tau's transform twice."""
    sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def simulate(generator):
        mu, tau = generator.normal(0, 5), abs(generator.normal(0, 5))
        theta = generator.normal(mu, tau, size=8)
        return {"mu": mu, "tau": tau, "theta": theta}, {"y": generator.normal(theta, sigma)}

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfNormal(5))
        with numpyro.plate("group", 8):
            if centred:
                theta = numpyro.sample("theta", dist.Normal(mu, tau))
            else:
                z = numpyro.sample("z", dist.Normal(0, 1))
                theta = numpyro.deterministic("theta", mu + tau * z)
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
        return tau

    def twin(y):
        numpyro.factor("jacobian_again", jnp.log(model(y)))

    return Case(simulate, model, twin)


def centred_groups() -> Case:
    """The same as most write it: NUTS finds out in each warm-up how to centre the groups."""
    return eight_groups(centred=True)


UNTIL = pi.Until(ess=400, rhat=1.05, draws=4000)


def ranks(
    case: Case, function: Callable, replications: int, until: pi.Until | None = None, method: Any = METHOD
) -> np.ndarray:
    """Ranks of the true values among the thinned draws: (replications, scalars). The model is traced for the first
    data set, and with a stop rule for each."""
    model = pi.Model(function)
    found, target = [], None
    for replication in range(replications):
        truth, data = case.simulate(np.random.default_rng([1, replication]))
        if target is None or until is not None:
            drawn, target, _ = draw(model, data, method, seed=replication, until=until, progress=False)
        else:
            again = target.with_arrays({name: np.asarray(value) for name, value in data.items()})
            drawn, target, _ = draw_again(again, method, warm=None, seed=replication, progress=False)
        thin = THIN if until is None else drawn.positions.shape[1] // ((KEPT + 1) // 2)
        values = target.constrain(drawn.positions[:, ::thin][:, : (KEPT + 1) // 2])
        row = []
        for site, value in truth.items():
            draws = values[site]
            draws = draws.reshape(-1, *draws.shape[2:])[:KEPT]
            row.append(np.ravel((draws < value).sum(axis=0)))
        found.append(np.concatenate(row))
    return np.array(found)


def test_conjugate_model_is_calibrated():
    case = normal_mean()
    assert_uniform_ranks(ranks(case, case.model, 80), KEPT, bins=8, names="mu")


@pytest.mark.long
def test_wrong_noise_is_noticed():
    case = normal_mean()
    with pytest.raises(AssertionError, match="not uniform"):
        assert_uniform_ranks(ranks(case, case.twin, 80), KEPT, bins=8, names="mu")


@pytest.mark.long
def test_a_stop_rule_does_not_bias():
    case = normal_mean()
    assert_uniform_ranks(ranks(case, case.model, 80, UNTIL), KEPT, bins=8, names="mu")


@pytest.mark.long
def test_wrong_noise_is_noticed_with_a_stop_rule():
    case = normal_mean()
    with pytest.raises(AssertionError, match="not uniform"):
        assert_uniform_ranks(ranks(case, case.twin, 80, UNTIL), KEPT, bins=8, names="mu")


@pytest.mark.long
@pytest.mark.parametrize("make", [normal_mean, eight_groups], ids=lambda make: make.__name__)
def test_calibration_with_a_stop_rule(make):
    case = make()
    assert_uniform_ranks(ranks(case, case.model, REPLICATIONS, UNTIL), KEPT)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.long
def test_other_chains_are_calibrated_on_a_conjugate_model(name):
    case = normal_mean()
    assert_uniform_ranks(ranks(case, case.model, 80, method=OTHERS[name]), KEPT, bins=8, names="mu")


@pytest.mark.long
@pytest.mark.parametrize("name", [*OTHERS, *POPULATIONS])
@pytest.mark.parametrize("make", [normal_mean, eight_groups], ids=lambda make: make.__name__)
def test_calibration_of_other_methods(make, name):
    case = make()
    method = {**OTHERS, **POPULATIONS}[name]
    assert_uniform_ranks(ranks(case, case.model, REPLICATIONS, method=method), KEPT)


@pytest.mark.long
@pytest.mark.parametrize("name", POPULATIONS)
def test_the_twin_is_noticed_by_other_methods(name):
    case = normal_mean()
    with pytest.raises(AssertionError, match="not uniform"):
        assert_uniform_ranks(ranks(case, case.twin, REPLICATIONS, method=POPULATIONS[name]), KEPT)


@pytest.mark.long
@pytest.mark.parametrize("make", [normal_mean, eight_groups, centred_groups], ids=lambda make: make.__name__)
def test_calibration(make):
    case = make()
    assert_uniform_ranks(ranks(case, case.model, REPLICATIONS), KEPT)


@pytest.mark.long
@pytest.mark.parametrize("make", [normal_mean, eight_groups, centred_groups], ids=lambda make: make.__name__)
def test_twin_is_not_calibrated(make):
    case = make()
    with pytest.raises(AssertionError, match="not uniform"):
        assert_uniform_ranks(ranks(case, case.twin, REPLICATIONS), KEPT)
