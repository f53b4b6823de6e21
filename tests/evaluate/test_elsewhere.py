"""Cross-validation and tuning on the workers of an executor: the same numbers as in this process."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import probinfer as pi
from probinfer.evaluate import refits
from tests.evaluate import conjugate
from tests.evaluate.conjugate import line, rows

X, Y = rows(60)


def level(scale, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, scale))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return pi.infer(line, {"x": X, "y": Y}, pi.Exact(draws=1000), progress=False)


@pytest.fixture(scope="module")
def here(posterior):
    return pi.cross_validate(posterior, cv=3, seed=5, progress=False)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


SCALES = pi.GridSearch({"scale": [0.01, 1.0, 10.0]})
DATA = {"y": np.random.default_rng(0).normal(5, 1, 40)}


def test_folds_are_the_same_elsewhere(posterior, here, threads, monkeypatch):
    made = []

    class Counted(refits.Refits):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(refits, "Refits", Counted)
    found = pi.cross_validate(posterior, cv=3, seed=5, executor=threads, progress=False)
    np.testing.assert_allclose(found.log_score, here.log_score, rtol=1e-9)
    assert [fold.verdict for fold in found.folds] == [fold.verdict for fold in here.folds]
    assert [fold.warm for fold in found.folds] == [fold.warm for fold in here.folds]
    np.testing.assert_allclose(found.prediction.mean, here.prediction.mean, rtol=1e-9)
    assert len(made) == 1  # all folds of a run share one
    for fold in found.folds:
        exact = conjugate.log_predictive(X, Y, fold.train, fold.test)
        error = conjugate.log_mean_error(fold.predictor.program.draws["beta"], X[fold.test], Y[fold.test])
        assert (abs(found.log_score[fold.test] - exact) < 6 * error + 1e-3).all()


@pytest.mark.long
def test_trials_are_the_same_elsewhere(threads):
    one = pi.tune(level, DATA, SCALES, method=pi.Exact(draws=200), progress=False)
    other = pi.tune(level, DATA, SCALES, method=pi.Exact(draws=200), executor=threads, progress=False)
    assert [trial.parameters for trial in other.trials] == [trial.parameters for trial in one.trials]
    np.testing.assert_allclose([t.score for t in other.trials], [t.score for t in one.trials], rtol=1e-12)
    assert other.best.parameters == one.best.parameters


def test_what_cannot_run_elsewhere_is_refused(posterior, threads):
    search = pi.BayesianSearch({"scale": pi.Range(0.1, 10.0)}, trials=3)
    with pytest.raises(pi.MethodError, match="BayesianSearch asks for one point after the other"):
        pi.tune(level, DATA, search, executor=threads, progress=False)
    for call in (
        lambda: pi.tune(level, DATA, SCALES, executor="dask", progress=False),
        lambda: pi.cross_validate(posterior, cv=3, executor=2, progress=False),
    ):
        with pytest.raises(pi.MethodError, match="executor came as"):
            call()


def test_an_error_of_a_worker_is_told_and_the_rest_given_up(posterior, threads, monkeypatch):
    def broken(self, train, seed):
        raise pi.ModelError("the worker says so")

    monkeypatch.setattr(refits.Refits, "drawn", broken)
    with pytest.raises(pi.ModelError, match="the worker says so"):
        pi.cross_validate(posterior, cv=5, executor=threads, progress=False)


def test_a_posterior_travels_to_another_process(posterior):
    there = ForkingPickler.loads(ForkingPickler.dumps(posterior))
    assert str(there.report) == str(posterior.report)
    np.testing.assert_array_equal(there.latents["beta"], posterior.latents["beta"])
    assert there.tree.identical(posterior.tree)
    pd.testing.assert_frame_equal(there.summary(), posterior.summary())


@pytest.mark.long
def test_chains_in_threads_processes_and_dasks_workers(threads):
    posterior = pi.infer(line, {"x": X, "y": Y}, pi.NUTS(chains=2, draws=300), progress=False)
    here = pi.cross_validate(posterior, cv=3, seed=5, progress=False)

    def assert_same(executor):
        found = pi.cross_validate(posterior, cv=3, seed=5, executor=executor, progress=False)
        np.testing.assert_allclose(found.log_score, here.log_score, rtol=1e-6)
        assert [fold.warm for fold in found.folds] == [fold.warm for fold in here.folds]

    assert_same(threads)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert_same(pool)
        trials = pi.tune(level, DATA, SCALES, method=pi.Exact(draws=200), executor=pool, progress=False)
    assert trials.best.parameters["scale"] > 0.5
    distributed = pytest.importorskip("distributed")
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        assert_same(client.get_executor())
