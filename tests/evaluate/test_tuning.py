"""Hyper-parameters chosen on rows held out: scores against closed forms, three searches, failures, Ctrl-C."""

import builtins

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import stats

import probinfer as pi
from probinfer.evaluate import tuning

rng = np.random.default_rng(5)
Y = rng.normal(3.0, 1.0, 60)


def level(scale, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, scale))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def search(space, **settings):
    return pi.tune(level, {"y": Y}, space, method=pi.Exact(), progress=False, **settings)


@pytest.fixture(scope="module")
def trials():
    return search(pi.GridSearch({"scale": [0.05, 0.5, 5.0]}))


def exact(training, new, scale):
    """Mean log score, and five times the Monte Carlo error of 4,000 draws if the rows' errors were all alike."""
    variance = 1 / (1 / scale**2 + len(training))
    mean = variance * training.sum()
    mu = np.random.default_rng(1).normal(mean, np.sqrt(variance), 20_000)
    densities = stats.norm.pdf(new[:, None], mu, 1.0)
    relative = densities.std(axis=1) / densities.mean(axis=1) / np.sqrt(4000)
    return stats.norm.logpdf(new, mean, np.sqrt(1 + variance)).mean(), 5 * relative.mean()


def test_scores_are_those_of_the_rows_held_out(trials):
    kept = np.setdiff1d(np.arange(60), trials.validation)
    assert len(trials.validation) == 15
    for trial in trials.trials:
        wanted, tolerance = exact(Y[kept], Y[trials.validation], trial.parameters["scale"])
        assert abs(trial.score - wanted) < tolerance  # false alarms: one in a million
        assert trial.se == pytest.approx(trial.pointwise.std(ddof=1) / np.sqrt(15))
        leaked, _ = exact(Y, Y[kept], trial.parameters["scale"])  # broken twin: trained on all, scored on the training
        assert abs(trial.score - leaked) > tolerance


def test_the_best_the_simplest_and_the_table(trials):
    assert trials.best.parameters["scale"] in (0.5, 5.0)
    table = trials.to_frame()
    assert table["log_score"].is_monotonic_decreasing
    assert table["difference"].iloc[0] == 0.0
    assert (table["difference"] <= 0).all()
    worst = trials.trials[0]
    gap = worst.pointwise - trials.best.pointwise
    assert table.loc[0, "difference_se"] == pytest.approx(gap.std(ddof=1) / np.sqrt(15))
    assert worst.score < trials.best.score - trials.best.se  # so it is not among the simplest
    assert trials.simplest("scale").parameters == {"scale": 0.5}
    assert trials.simplest(lambda p: -p["scale"]).parameters == {"scale": 5.0}
    assert "3 trials by log_score of 15 rows held out" in repr(trials)
    with pytest.raises(pi.MethodError, match="by is 'degree'; wanted one of scale"):
        trials.simplest("degree")


@pytest.mark.long
@pytest.mark.parametrize("make", [pi.RandomSearch, pi.BayesianSearch])
def test_random_and_bayesian_searches_find_a_wide_prior(make):
    found = search(make({"scale": pi.Range(0.01, 100.0, log=True)}, trials=5), criterion=pi.Criterion.CRPS)
    assert found.best.score == min(trial.score for trial in found.trials)
    scales = np.array([trial.parameters["scale"] for trial in found.trials])
    assert ((0.01 <= scales) & (scales <= 100)).all()
    assert found.best.parameters["scale"] > np.median(scales)  # the outcomes are near 3: a narrow prior at 0 is wrong


@pytest.mark.parametrize("make", [pi.RandomSearch, pi.BayesianSearch])
def test_a_search_repeats_itself(make):
    def points(seed):
        found = []
        space = {"scale": pi.Range(0.01, 100.0, log=True), "k": [1, 2, 3], "n": pi.Range(1, 50, whole=True)}
        for point, tell in make(space, trials=15).points(seed):
            found.append(point)
            tell(-abs(point["n"] - 20.0))
        return found

    assert points(4) == points(4)
    assert points(4) != points(5)


def test_a_bayesian_search_learns_and_a_deaf_one_does_not():
    """Mean distance from the optimum of proposals 11 to 60; the twin is told nothing but failures."""

    def distances(heard):
        points = []
        for point, tell in pi.BayesianSearch({"x": pi.Range(0.0, 1.0), "k": ["a", "b"]}, trials=60).points(3):
            points.append(abs(point["x"] - 0.3) + (point["k"] == "b"))
            tell(-points[-1] if heard else None)
        return np.mean(points[10:])

    assert distances(True) < 0.5 * distances(False)


def test_ranges_stay_inside_and_reach_their_ends():
    values = [pi.Range(1, 3, whole=True).rvs(np.random.default_rng(i)) for i in range(200)]
    assert set(values) == {1, 2, 3}
    values = np.array([pi.Range(0.01, 100, log=True).rvs(np.random.default_rng(i)) for i in range(400)])
    assert stats.kstest(np.log10(values) / 4 + 0.5, "uniform").pvalue > 1e-4
    assert stats.kstest(values / 100, "uniform").pvalue < 1e-10  # twin: not on the plain scale
    assert pi.RandomSearch({"k": [1, 2]}, trials=9).trials == 2


def test_a_trial_that_fails_is_kept_and_the_search_goes_on():
    found = search(pi.GridSearch({"scale": [-1.0, 2.0]}))
    assert found.best.parameters == {"scale": 2.0}
    assert found.trials[0].failure is not None
    assert np.isnan(found.trials[0].score)
    assert found.to_frame()["failure"].iloc[-1] == found.trials[0].failure
    hopeless = search(pi.GridSearch({"scale": [-1.0]}))
    with pytest.raises(pi.MethodError, match="None of 1 trials has a score and a verdict of DOUBTFUL or better"):
        _ = hopeless.best
    twice = search(pi.GridSearch({"scale": [-1.0, -2.0]}))
    with pytest.raises(pi.MethodError, match=r"None of 2 trials .*[^.]\.$") as told:
        _ = twice.best
    assert str(told.value).count("not finite") == 1  # a reason is said once


def test_ctrl_c_keeps_the_finished_trials(monkeypatch):
    real, calls = tuning.infer, []

    def infer(*args, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **settings)

    monkeypatch.setattr(tuning, "infer", infer)
    found = search(pi.GridSearch({"scale": [0.5, 1.0, 2.0, 4.0]}))
    assert found.interrupted
    assert [trial.parameters["scale"] for trial in found.trials] == [0.5, 1.0]
    assert "interrupted" in repr(found)
    calls += [1] * 10
    monkeypatch.setattr(tuning, "infer", lambda *args, **settings: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        search(pi.GridSearch({"scale": [0.5]}))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"search": pi.GridSearch}, pi.MethodError, "did you mean GridSearch"),
        ({"criterion": "crps"}, pi.MethodError, "criterion is 'crps'"),
        ({"validation": 1.5}, pi.MethodError, "wanted a share between 0 and 1"),
        ({"validation": [99]}, pi.MethodError, "there are rows 0 to 59"),
        ({"validation": np.arange(60)}, pi.MethodError, "validation=ndarray of 60 rows leaves 0 to train and 60 to"),
        ({"validation": np.arange(60) > 40}, pi.MethodError, "validation is ndarray; .* such as numpy.flatnonzero"),
        ({"data": {"y": Y, "scale": 1.0}}, pi.DataError, "scale came in the data and in the search"),
        ({"outcome": "z"}, pi.DataError, "outcome is 'z'; the model observes y"),
        ({"rows": ["x"]}, pi.DataError, "rows names x; arrays are y"),
        ({"search": pi.GridSearch({"scal": [1.0]})}, pi.DataError, "no argument 'scal'"),
        ({"accept": "good"}, pi.MethodError, "accept is 'good'"),
        ({"seed": -1}, pi.MethodError, "seed is -1"),
    ],
)
def test_wrong_calls(change, error, text):
    arguments = {"data": {"y": Y}, "search": pi.GridSearch({"scale": [1.0]}), "progress": False, **change}
    with pytest.raises(error, match=text):
        pi.tune(level, arguments.pop("data"), arguments.pop("search"), **arguments)


def test_a_model_without_arguments_is_refused():
    frame = pd.DataFrame({"y": Y, "x": np.arange(60.0)})
    pipeline = pi.Pipeline(lambda x, y=None: None, inputs={"x": pi.Column("x")}, outcome={"y": pi.Column("y")})
    for model in (pi.formula("y ~ x"), pipeline):
        with pytest.raises(
            pi.MethodError, match="arguments of a NumPyro function, and a formula or a pipeline has none"
        ):
            pi.tune(model, frame, pi.GridSearch({"scale": [1.0]}), progress=False)


def test_wrong_spaces():
    for make in (
        lambda: pi.GridSearch({}),
        lambda: pi.GridSearch({"scale": "abc"}),
        lambda: pi.GridSearch({"scale": []}),
        lambda: pi.GridSearch({"scale": pi.Range(0, 1)}),
        lambda: pi.RandomSearch({"scale": 3.0}),
        lambda: pi.BayesianSearch({"scale": stats.norm()}),
        lambda: pi.BayesianSearch({1: [2]}),
        lambda: pi.Range(1, 1),
        lambda: pi.Range(0, 1, log=True),
        lambda: pi.Range(0.5, 2, whole=True),
        lambda: pi.RandomSearch({"k": [1]}, trials=0),
    ):
        with pytest.raises(pi.MethodError):
            make()


def test_a_missing_library_names_the_extra(monkeypatch):
    real, error = builtins.__import__, pi.MissingExtra  # imported before imports are another function
    import importlib

    def absent(name, *rest):
        if name.startswith("optuna"):
            raise ModuleNotFoundError("No module named 'optuna'", name="optuna")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(error, match=r"needs optuna, .* pip install 'probinfer\[tune\]'"):
        next(iter(pi.BayesianSearch({"scale": [1.0]}).points(0)))
