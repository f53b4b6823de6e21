"""The NUTS transition leaves its target's law where it is: begin at exact draws, take steps, compare with the law.

No effective sample size is needed, because the chains are independent and start at the answer; so the false-alarm rate
is exact, and with twenty thousand chains errors of a few percent show. Every mutant below is the kernel with one line
changed, and must fail the test that the kernel passes.
"""

import functools
import inspect
import types
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probinfer.inference.mcmc import leapfrog, trajectory, tree, walk
from probinfer.inference.mcmc.kernel import Draw
from probinfer.inference.mcmc.metric import Metric
from tests.inference.statistics import assert_law

CHAINS, STEPS, MAX_DEPTH = 20_000, 4, 6
BATCH = 50  # chains side by side: those of one batch wait for the longest trajectory among them


class Law(NamedTuple):
    """A density on the plane whose exact draws are a map of two standard normals, with the map's inverse."""

    log_density: object
    of_normals: object
    to_normals: object


def banana() -> Law:
    """x ~ Normal(0, 1), y | x ~ Normal(x^2, 1/2)."""
    return Law(
        log_density=lambda q: -0.5 * q[0] ** 2 - 2 * (q[1] - q[0] ** 2) ** 2,
        of_normals=lambda z: np.stack([z[:, 0], z[:, 0] ** 2 + z[:, 1] / 2], axis=1),
        to_normals=lambda q: np.stack([q[:, 0], 2 * (q[:, 1] - q[:, 0] ** 2)], axis=1),
    )


def funnel() -> Law:
    """v ~ Normal(0, 1), x | v ~ Normal(0, exp(v / 2))."""
    return Law(
        log_density=lambda q: -0.5 * q[0] ** 2 - 0.5 * q[0] - 0.5 * q[1] ** 2 * jnp.exp(-q[0]),
        of_normals=lambda z: np.stack([z[:, 0], z[:, 1] * np.exp(z[:, 0] / 2)], axis=1),
        to_normals=lambda q: np.stack([q[:, 0], q[:, 1] * np.exp(-q[:, 0] / 2)], axis=1),
    )


METRICS = {
    "identity": Metric(np.ones(2), np.zeros((2, 0)), np.zeros(0)),
    "low rank": Metric(np.array([0.8, 1.3]), np.array([[0.6], [0.8]]), np.array([0.7])),
}


def step_from_exact_draws(transition, law: Law, metric: Metric, step_size: float, log_density=None, gradient=True):
    """(start, end) of CHAINS independent chains as standard normals under the law, and each step's info."""
    value_and_grad = jax.value_and_grad(log_density or law.log_density)
    density = value_and_grad if gradient else law.log_density

    def chain(start):
        q, key = start

        def step(draw, i):
            word = jax.random.key_data(jax.random.fold_in(key, i))
            return transition(density, metric, draw, step_size, (word[0], word[1]), MAX_DEPTH)

        value, gradient = value_and_grad(q)
        draw, info = jax.lax.scan(step, Draw(q, gradient, value), jnp.arange(STEPS))
        return draw.q, info

    with jax.enable_x64(True):
        start = np.random.default_rng(0).normal(size=(CHAINS, 2))
        keys = jax.random.split(jax.random.key(0), CHAINS)
        chains = jax.jit(lambda *starts: jax.lax.map(chain, starts, batch_size=BATCH))
        end, info = jax.device_get(chains(jnp.asarray(law.of_normals(start)), keys))
    return start, law.to_normals(end), info


def nuts(module: types.ModuleType):
    return functools.partial(module.transition, max_depth=MAX_DEPTH)


def assert_standard_normal(z: np.ndarray) -> None:
    """Two independent standard normals: both, their sum and difference, and their squared length."""
    root = np.sqrt(0.5)
    directions = {"z1": [1, 0], "z2": [0, 1], "sum": [root, root], "difference": [root, -root]}
    for name, direction in directions.items():
        assert_law(z @ np.array(direction), stats.norm.cdf, checks=5, names=name)
    assert_law((z**2).sum(axis=1), stats.chi2(2).cdf, checks=5, names="squared length")


CASES = [
    pytest.param(banana, "identity", 0.25, id="banana"),
    pytest.param(banana, "low rank", 0.25, id="banana, low-rank metric"),
    pytest.param(funnel, "identity", 0.7, id="funnel"),
    pytest.param(funnel, "low rank", 0.5, id="funnel, low-rank metric"),
]
CASES[:3] = [pytest.param(*case.values, id=case.id, marks=pytest.mark.long) for case in CASES[:3]]


@pytest.mark.parametrize(("make", "metric", "step_size"), CASES)
def test_law_does_not_move(make, metric, step_size):
    start, end, info = step_from_exact_draws(nuts(tree), make(), METRICS[metric], step_size)
    assert_standard_normal(start)
    assert_standard_normal(end)
    # A kernel that stays where it is would pass so far, and so would one whose choices never matter.
    assert np.mean(np.all(start == end, axis=1)) < 0.05
    assert abs(np.corrcoef(start[:, 0], end[:, 0])[0, 1]) < 0.7
    assert 0.5 < np.mean(info.acceptance) < 0.97
    assert np.mean(info.depth >= 3) > 0.1


@pytest.mark.long
def test_target_five_percent_too_wide_is_noticed():
    law = funnel()

    def wider(q):
        return law.log_density(q) / 1.05**2

    _, end, _ = step_from_exact_draws(nuts(tree), law, METRICS["identity"], 0.7, log_density=wider)
    with pytest.raises(AssertionError, match="the law is off"):
        assert_standard_normal(end)


MUTANTS = {
    "always moves to the new subtree": (
        "accept = complete & (jnp.log(uniform(bits_merge, dtype)) <= sub.log_weight - tree.log_weight)",
        "accept = complete",
    ),
    "takes the last point of a subtree, not one by weight": (
        "take = jnp.log(uniform(bits, dtype)) <= -error - log_weight",
        "take = error < jnp.inf",
    ),
    "prefers the newer half within a subtree as well": (
        "take = jnp.log(uniform(bits, dtype)) <= -error - log_weight",
        "take = jnp.log(uniform(bits, dtype)) <= -error - sub.log_weight",
    ),
    "keeps a subtree that turned inside": (
        "complete = ~(sub.turning | sub.diverging)",
        "complete = ~sub.diverging",
    ),
    "forgets the kinetic energy in the weights": (
        "error = kinetic(end) - log_density - energy",
        "error = -log_density + (0.5 * jnp.sum(edge.p * edge.v) - energy)",
    ),
    "never checks the subtrees": (
        "_, turning = lax.while_loop(lambda state: (state[0] > last) & ~state[1], check, (row, never))",
        "turning = never",
    ),
    "draws the same number for every point of a subtree": (
        "bits, _ = _bits(key, steps_before + sub.length, 2)",
        "bits, _ = _bits(key, steps_before, 2)",
    ),
    "leaves out the second half of the kick": (
        "p = p + half * (g + new_g)",
        "p = p + half * g",
    ),
    "takes its step size from where it starts": (
        "signed_step = jnp.where(side == 1, step_size, -step_size)",
        "signed_step = jnp.where(side == 1, step_size, -step_size) * jnp.exp(0.6 * start.q[0])",
    ),
    "sums the momentum of the new half alone": (
        "_turning(rho - 0.5 * (ends.p[0] + ends.p[1]), ends.v[0], ends.v[1])",
        "_turning(sub.rho - 0.5 * (ends.p[0] + ends.p[1]), ends.v[0], ends.v[1])",
    ),
}


def changed(module: types.ModuleType, old: str, new: str, **names) -> types.ModuleType:
    """A module with one piece of its source replaced, and these names to begin with."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"the kernel no longer has this line once; write the mutant anew: {old}"
    copy = types.ModuleType("mutant")
    copy.__dict__.update(names)
    exec(compile(source.replace(old, new), "mutant", "exec"), copy.__dict__)
    return copy


def mutant(old: str, new: str) -> types.ModuleType:
    """The kernel with one piece of its source replaced, or of its integrator's."""
    if old not in inspect.getsource(leapfrog):
        return changed(tree, old, new)
    broken = vars(changed(leapfrog, old, new))
    its_import = "from probinfer.inference.mcmc.leapfrog import Point, at, kinetic, leapfrog"
    return changed(tree, its_import, "", **{name: broken[name] for name in ("Point", "at", "kinetic", "leapfrog")})


def quick_of(mutants: Mapping[str, tuple], *quick: int) -> list:
    """Names of the mutants, all but the numbered ones marked long."""
    return [pytest.param(name, marks=() if i in quick else pytest.mark.long) for i, name in enumerate(mutants)]


@pytest.mark.parametrize("name", quick_of(MUTANTS, 0))
def test_mutant_moves_the_law(name):
    _, end, _ = step_from_exact_draws(nuts(mutant(*MUTANTS[name])), funnel(), METRICS["identity"], 0.7)
    with pytest.raises(AssertionError, match="the law is off"):
        assert_standard_normal(end)


def hmc(module: types.ModuleType):
    return functools.partial(module.transition, length=1.2, jitter=0.5, max_steps=64)


def metropolis(module: types.ModuleType):
    return functools.partial(module.transition, proposals=8)


@pytest.mark.parametrize(("make", "metric", "step_size"), CASES)
def test_law_does_not_move_under_hmc(make, metric, step_size):
    start, end, info = step_from_exact_draws(hmc(trajectory), make(), METRICS[metric], step_size)
    assert_standard_normal(end)
    assert abs(np.corrcoef(start[:, 0], end[:, 0])[0, 1]) < 0.7
    assert 0.5 < np.mean(info.acceptance) < 0.97
    assert len(np.unique(info.steps)) > 2


@pytest.mark.parametrize(("make", "metric", "step_size"), CASES)
def test_law_does_not_move_under_metropolis(make, metric, step_size):
    del step_size
    start, end, info = step_from_exact_draws(metropolis(walk), make(), METRICS[metric], 1.2, gradient=False)
    assert_standard_normal(end)
    assert abs(np.corrcoef(start[:, 0], end[:, 0])[0, 1]) < 0.8
    assert 0.1 < np.mean(info.acceptance) < 0.7


OTHER_MUTANTS = {
    "HMC accepts everything": (
        hmc,
        trajectory,
        "take = ~diverging & (jnp.log(uniform(bits_accept, dtype)) <= -error)",
        "take = ~diverging",
    ),
    "HMC forgets the kinetic energy": (
        hmc,
        trajectory,
        "error = kinetic(point) - log_density - energy",
        "error = -log_density + start.log_density",
    ),
    "HMC's length depends on where it starts": (
        hmc,
        trajectory,
        ") / step_size",
        ") / step_size * jnp.exp(start.q[0])",
    ),
    "Metropolis accepts too often": (metropolis, walk, "<= gain", "<= 0.8 * gain"),
    "Metropolis moves without its density": (metropolis, walk, "jnp.where(take, value, here.log_density)", "value"),
    "Metropolis uses one number for step and acceptance": (
        metropolis,
        walk,
        "bits, _ = threefry(key, n.astype(jnp.uint32), jnp.uint32(4))",
        "bits, _ = threefry(words, jnp.uint32(0), jnp.uint32(0xFFFFFFFF))",
    ),
}


@pytest.mark.parametrize("name", quick_of(OTHER_MUTANTS, 1, 4))
def test_other_mutants_move_the_law(name):
    make, module, old, new = OTHER_MUTANTS[name]
    broken = make(changed(module, old, new))
    gradient = module is trajectory
    _, end, _ = step_from_exact_draws(
        broken, funnel(), METRICS["identity"], 0.7 if gradient else 1.2, gradient=gradient
    )
    with pytest.raises(AssertionError, match="the law is off"):
        assert_standard_normal(end)
