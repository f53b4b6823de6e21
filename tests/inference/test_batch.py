"""Hundreds of chains in one program: each draws what it would draw alone, and a run of them is a run as any other."""

import json
import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.checkpoint import MAGIC
from probinfer.inference.convergence import convergence
from probinfer.inference.draw import method_again
from probinfer.inference.mcmc import batch, batched_chains, chains, compiled
from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.batched_chains import BatchedChains
from probinfer.inference.mcmc.block import ChainState, Row, stacked
from probinfer.inference.mcmc.chains import Chains
from probinfer.inference.mcmc.compiled import Batch, Block
from probinfer.inference.mcmc.drawn import Drawn
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.parallel import superchains
from probinfer.inference.mcmc.record import Record
from probinfer.inference.progress import Silent
from probinfer.model import target as target_module
from probinfer.model.target import Target
from tests.inference.killing import kill_twice
from tests.inference.statistics import assert_moments

X = np.random.default_rng(21).normal(size=(40, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 3.0]])
DATA = {"x": X, "y": X @ np.array([1.0, -1.0, 0.5]) + np.random.default_rng(22).normal(size=40)}
COVARIANCE = np.linalg.inv(X.T @ X + np.eye(3))
MEAN = COVARIANCE @ X.T @ DATA["y"]
DEPTH = 6
BATCH = pi.Parallel.BATCH
METHOD = pi.NUTS(chains=64, draws=40, warmup=60, max_tree_depth=DEPTH, parallel=BATCH)


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, 1.0).to_event(1), obs=y)


def by_row(x, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(b * x, 1.0), obs=y)


def run(method=METHOD, **options):
    return pi.infer(regression, DATA, method, progress=False, **options)


def draws(posterior):
    return np.asarray(posterior.tree["posterior"]["b"])


@pytest.fixture(scope="module")
def target():
    return Target(pi.Model(regression).bind(DATA))


@pytest.fixture(scope="module")
def usual():
    return run()


def begun(target, count):
    """Chains at random points, with metrics and step sizes of their own: too long ones, which diverge, and too short
    ones, whose trajectories are cut."""
    generator = np.random.default_rng(1)
    states, metrics = [], []
    density = jax.jit(target.value_and_grad)
    with target.precision():
        for chain in range(count):
            size = 0.5 * 4.0 ** (chain % 5 - 3) if chain % 7 else 1e3
            step = jax.tree.map(np.asarray, steps.start(size, target.dtype))
            q, key = generator.normal(size=3), generator.integers(0, 2**32, 2, dtype=np.uint32)
            value, gradient = jax.tree.map(np.asarray, density(q, target.inputs))
            states.append(ChainState(q, key, np.uint32(0), step, gradient, value))
            directions = np.linalg.qr(generator.normal(size=(3, 3)))[0]
            metrics.append(Metric(generator.uniform(0.2, 0.5, 3), directions, generator.uniform(-0.3, 0.5, 3)))
    return states, metrics


def both(target, count=70, wanted=6):
    """What so many chains draw one by one and in batches of 64, the last of which is not full; adapting, then not."""
    kernel = METHOD.kernel()
    states, metrics = begun(target, count)
    found = []
    with ThreadPoolExecutor(2) as pool:
        for kind, program in (
            (Chains, Block(kernel, target, 3)),
            (BatchedChains, Batch(kernel, target, 3, count)),
        ):
            record = Record(None, target.dim, target.dtype)
            made = kind(pool, program, target, stacked(states), 0.8, DEPTH, record)
            drawn = Drawn(count, gradients=True)
            for phase, adapt in enumerate((True, False)):
                made.advance(
                    wanted,
                    metrics,
                    drawn,
                    phase=phase,
                    progress=Silent(),
                    label=lambda: "",
                    done=0,
                    total=0,
                    adapt=adapt,
                    limit=4 if adapt else None,
                )
            rows = drawn.rows()
            columns = {"q": rows.q, "g": rows.g, "lp": rows.log_density, "step_size": rows.step_size}
            columns |= {name: getattr(rows.info, name) for name in METHOD.kernel().stats.values()}
            found.append((columns, made.states))
    return found


def assert_alike(found):
    (alone, ends), (together, other_ends) = found
    for name, column in alone.items():
        assert together[name].dtype == column.dtype
        np.testing.assert_allclose(together[name], column, rtol=1e-7, atol=1e-9, err_msg=name)
    for one, other in zip(ends, other_ends, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-9), one, other)
        assert [np.asarray(leaf).dtype for leaf in one[:3]] == [np.asarray(leaf).dtype for leaf in other[:3]]


def test_a_chain_of_a_batch_draws_what_it_draws_alone(target):
    found = both(target)
    assert_alike(found)
    seen, _ = found[1]
    assert seen["diverging"].any()
    assert seen["saturated"].any()
    assert seen["depth"].max() == DEPTH


def test_steps_between_two_looks_change_no_draw(target, monkeypatch):
    """As on a GPU, with a table of two rows, which is full in the middle of the steps."""
    monkeypatch.setattr(compiled, "_TOGETHER", {"cpu": 5})
    monkeypatch.setattr(compiled, "_BLOCK_BYTES", 2 * 64 * Row.packing(3, target.dtype).size * 8)
    assert_alike(both(target))


@pytest.mark.long
@pytest.mark.parametrize("broken", ["merge", "turn"])
def test_a_broken_tree_draws_something_else(target, monkeypatch, broken):
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    if broken == "merge":
        monkeypatch.setattr(batch, "uniform", lambda bits, dtype: jnp.full(bits.shape, 1e-30, dtype))
    else:
        turning = batch._turning
        monkeypatch.setattr(batch, "_turning", lambda middle, left, right: turning(middle + 0.5 * left, left, right))
    with pytest.raises(AssertionError):
        assert_alike(both(target, 6))


@pytest.mark.long
def test_no_chain_waits_for_the_tree_of_another(target):
    """All have their draws after as many gradients as the chain that takes most of them needs for its own."""
    count = 64
    states, metrics = begun(target, count)
    states = stacked([state._replace(step=states[2].step) for state in states])
    program = Batch(METHOD.kernel(), target, 3, count)
    with ThreadPoolExecutor(1) as pool:
        made = BatchedChains(pool, program, target, states, 0.8, DEPTH, Record(None, 3, target.dtype))
        made._budget = 10**6
        made._prepare(metrics)
        block = made._run(range(count), np.full(count, 10), False, DEPTH)
    assert (block.done == 10).all()
    each = block.rows.info.steps.sum(axis=1)
    assert block.gradients == each.max()
    assert block.rows.info.steps.max(axis=0).sum() > 1.3 * each.max()  # gradients, if they did


def test_a_run_is_that_of_threads(usual):
    alone = run(pi.NUTS(chains=64, draws=40, warmup=60, max_tree_depth=DEPTH, parallel=pi.Parallel.THREADS))
    np.testing.assert_allclose(draws(usual), draws(alone), rtol=1e-5, atol=1e-7)
    assert usual.report.verdict is alone.report.verdict


def exact(count):
    posterior = run(pi.NUTS(chains=count, draws=40, warmup=100, max_tree_depth=DEPTH, parallel=BATCH))
    assert_moments(draws(posterior), MEAN, np.sqrt(np.diag(COVARIANCE)), resolution=0.2)
    return posterior


def test_exact_moments_of_256_chains_and_a_verdict_that_fits_short_ones():
    posterior = exact(256)
    report = posterior.report
    assert report.verdict is pi.Verdict.GOOD
    assert posterior.tree.attrs["superchains"] == 16
    assert report.numbers.r_hat.max() < 1.01
    assert posterior.tree["posterior"].sizes == {"chain": 256, "draw": 40, "b_dim_0": 3}


@pytest.mark.long
def test_a_subtree_that_is_never_refused_is_noticed(monkeypatch):
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    monkeypatch.setattr(batch, "uniform", lambda bits, dtype: jnp.full(bits.shape, 1e-30, dtype))
    with pytest.raises(AssertionError, match="out of tolerance"):
        exact(256)


@pytest.mark.long
def test_the_defaults_with_512_chains():
    """Of 100 draws each, as the documentation shows them."""
    posterior = run(pi.NUTS(chains=512, draws=100, parallel=BATCH))
    assert_moments(draws(posterior), MEAN, np.sqrt(np.diag(COVARIANCE)), resolution=0.05)
    assert posterior.report.verdict is pi.Verdict.GOOD
    began = time.process_time()
    posterior.summary()
    assert time.process_time() - began < 10


def test_a_rule_stops_it():
    """The usual R-hat of so few draws of a chain would be above the rule's."""
    posterior = run(until=pi.Until(ess=1000, rhat=1.01, min_draws=20))
    stopping = json.loads(posterior.tree.attrs["until"])
    assert stopping["met"]
    assert draws(posterior).shape[1] == stopping["draws"] < 200
    assert convergence(np.moveaxis(draws(posterior), -1, 0)).r_hat.max() > 1.01
    short = run(until=pi.Until(seconds=1e-3, min_draws=7))
    assert draws(short).shape[1] == 7
    assert short.report.outcome is pi.Outcome.COMPLETED


@pytest.fixture
def often(monkeypatch):
    """Blocks as short as on a slow model: many records, and trajectories cut by the ends of blocks."""
    monkeypatch.setattr(chains, "_PAUSE", 1e-9)
    monkeypatch.setattr(batched_chains, "_LEAST", 13)


@pytest.mark.long
def test_where_blocks_end_changes_no_draw_and_a_cut_checkpoint_gives_the_same(tmp_path, often, usual, monkeypatch):
    path = tmp_path / "run.checkpoint"
    np.testing.assert_array_equal(draws(run(checkpoint=path)), draws(usual))
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for cut in [len(MAGIC) + 7, *generator.integers(len(whole) // 20, len(whole), 2)]:
        path.write_bytes(whole[:cut])
        np.testing.assert_array_equal(draws(run(checkpoint=path)), draws(usual))
    monkeypatch.setattr(BatchedChains, "_run", lambda *_: pytest.fail("drew again"))
    np.testing.assert_array_equal(draws(run(checkpoint=path)), draws(usual))


SCRIPT = f"""
import sys
sys.path.insert(0, {os.path.dirname(os.path.dirname(os.path.dirname(__file__)))!r})
from tests.inference.test_batch import run
from probinfer.inference.mcmc import batched_chains, chains

chains._PAUSE, batched_chains._LEAST = 1e-9, 13
run(checkpoint=sys.argv[1])
"""


@pytest.mark.long
def test_killed_at_any_moment(tmp_path, usual):
    path = tmp_path / "run.checkpoint"
    kill_twice(SCRIPT, path, grown=100_000)
    np.testing.assert_array_equal(draws(run(checkpoint=path)), draws(usual))


def test_ctrl_c_keeps_the_draws(often, usual, monkeypatch):
    advance = BatchedChains._run
    calls = []

    def interrupted(self, group, left, adapt, limit):
        calls.append(adapt)
        if calls.count(False) == 5:  # of the sampling
            self.interrupted = True
        return advance(self, group, left, adapt, limit)

    monkeypatch.setattr(BatchedChains, "_run", interrupted)
    posterior = run()
    assert posterior.report.outcome is pi.Outcome.INTERRUPTED
    kept = draws(posterior)
    assert 0 < kept.shape[1] < 40
    np.testing.assert_array_equal(kept, draws(usual)[:, : kept.shape[1]])


@pytest.mark.long
def test_one_metric_is_passed_once_where_many_would_be_large(target, monkeypatch):
    monkeypatch.setattr(compiled, "_OWN_BYTES", 0)
    monkeypatch.setattr(compiled, "_BLOCK_BYTES", 3 * 64 * Row.packing(3, target.dtype).size * 8)  # three rows
    program = Batch(METHOD.kernel(), target, 3, 64)
    assert program.shares(alike=True)
    assert not program.shares(alike=False)
    states, metrics = begun(target, 64)
    found = []
    with ThreadPoolExecutor(1) as pool:
        for own in (metrics[:1] * 64, [metrics[0]._replace() for _ in range(64)]):
            made = BatchedChains(pool, program, target, stacked(states), 0.8, DEPTH, Record(None, 3, target.dtype))
            made._budget = 10**6
            made._prepare(own)
            assert made._run(range(64), np.full(64, 10), False, DEPTH).rows.q.shape[1] == 3
            drawn = Drawn(64)
            made.advance(10, own, drawn, phase=0, progress=Silent(), label=lambda: "", done=0, total=0, adapt=False)
            found.append(drawn.positions())
    np.testing.assert_allclose(*found, rtol=1e-7, atol=1e-9)


def test_bad_settings():
    for wrong in ("batch", True, None):
        with pytest.raises(pi.MethodError, match=r"NUTS: parallel is .*; wanted one of pi.Parallel.AUTO, pi.Parallel."):
            pi.NUTS(parallel=wrong)


def test_rows_shared_by_devices_are_for_threads():
    x = np.arange(4.0)
    with pytest.raises(pi.MethodError, match="Leave one of the two out"):
        pi.infer(by_row, {"x": x, "y": x}, METHOD, devices=1, progress=False)


def test_settings_come_back(usual):
    settings = json.loads(usual.tree.attrs["settings"])
    assert settings["parallel"] == "BATCH"
    assert method_again("NUTS", settings) == replace(METHOD, target_accept=settings["target_accept"])
    with pytest.raises(pi.MethodError, match="cannot be set up again"):
        method_again("NUTS", {**settings, "parallel": "PERHAPS"})


def test_threads_on_a_cpu():
    from probinfer.inference.mcmc.parallel import is_batch

    class One:
        devices = ()

    assert is_batch(pi.Parallel.AUTO, One()) == (jax.default_backend() != "cpu")
    assert not is_batch(pi.Parallel.THREADS, One())


def test_groups_that_begin_at_one_point():
    assert [superchains(count) for count in (1, 4, 32, 63, 64, 65, 100, 512)] == [0, 0, 0, 0, 16, 0, 0, 16]


def _has_gpu():
    return any(device.platform == "gpu" for device in jax.devices())


@pytest.mark.skipif(not _has_gpu(), reason="JAX sees no GPU")
def test_on_a_gpu_the_default_is_the_batch():
    posterior = run(pi.NUTS(chains=512, draws=100))
    assert_moments(draws(posterior), MEAN, np.sqrt(np.diag(COVARIANCE)), resolution=0.05)
    assert posterior.report.verdict is pi.Verdict.GOOD
