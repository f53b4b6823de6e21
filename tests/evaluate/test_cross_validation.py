"""Cross-validation against closed forms; folds share one program; nothing leaks from rows left out."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as known
from sklearn import model_selection

import probinfer as pi
from probinfer.evaluate import splits
from probinfer.evaluate.refits import Refits
from probinfer.inference.draw import draw_again
from probinfer.inference.method import Warm
from probinfer.model import kept_rows, target
from tests.evaluate import conjugate
from tests.inference.statistics import assert_moments

N = 45
x, y = conjugate.rows(N, seed=2)
DATA = {"x": x, "y": y}
METHOD = pi.Exact(draws=2000)
FALSE_ALARM = 1e-6


@pytest.fixture(scope="module")
def posterior():
    return pi.infer(conjugate.line, DATA, METHOD, progress=False)


@pytest.fixture(scope="module")
def found(posterior):
    return pi.cross_validate(posterior, cv=4, progress=False)  # folds of 11 and 12 rows


def off_by(result, leak=False):
    """How many times its tolerance each log score is away from the exact one, the largest."""
    worst = []
    limit = stats.norm.isf(FALSE_ALARM / N / 2)
    for fold in result.folds:
        train = np.arange(N) if leak else fold.train
        exact = conjugate.log_predictive(x, y, train, fold.test)
        error = conjugate.log_mean_error(fold.predictor.program.draws["beta"], x[fold.test], y[fold.test])
        worst.append(np.max(np.abs(result.log_score[fold.test] - exact) / (limit * error)))
    return max(worst)


def test_log_scores_against_the_closed_form(found):
    assert off_by(found) < 1
    assert off_by(found, leak=True) > 1  # broken twin: folds that have seen all rows
    assert sorted(np.concatenate([fold.test for fold in found.folds])) == list(range(N))
    np.testing.assert_allclose(found.elpd, found.log_score.sum())
    np.testing.assert_allclose(found.se, np.sqrt(N) * found.log_score.std(ddof=1))
    assert found.verdict is pi.Verdict.GOOD
    assert "4 folds, 45 of 45 rows" in repr(found)
    assert "<table" in found._repr_html_()


def test_predictions_are_those_of_the_fold_that_has_not_seen_the_row(found):
    fold = found.folds[1]
    own = fold.predictor.predict({"x": x[fold.test]}, quantiles=(0.05, 0.25, 0.5, 0.75, 0.95))
    np.testing.assert_allclose(found.prediction.mean[fold.test], own.mean)
    np.testing.assert_allclose(found.prediction.quantiles[fold.test], own.quantiles)


@pytest.mark.long
def test_scores_of_the_folds(found):
    np.testing.assert_allclose(
        found.scores["rmse"].value, known.root_mean_squared_error(y[found.rows], found.prediction.mean)
    )
    np.testing.assert_allclose(found.scores["log_score"].value, found.elpd / N)
    assert found.scores["crps"].how == "mean ± t se"


def test_a_mask_that_does_not_mask_is_caught(posterior, monkeypatch):
    monkeypatch.setattr(kept_rows._Masked, "process_message", lambda self, msg: None)
    with pytest.raises(pi.ModelError, match="depends on rows that are left out"):
        pi.cross_validate(posterior, cv=4, progress=False)


def test_folds_of_any_size_run_one_program(posterior, found):
    before = set(target._programs)
    again = pi.cross_validate(posterior, cv=model_selection.TimeSeriesSplit(3), progress=False)
    assert set(target._programs) == before
    assert [len(fold.train) for fold in again.folds] == [12, 23, 34]
    assert np.isnan(again.log_score[:12]).all()
    assert len(again.rows) == 33
    assert off_by(again) < 1


@pytest.mark.long
def test_a_warm_start_draws_from_the_fold_and_not_from_where_it_starts():
    """Two chains from draws of another posterior, far away: the law is the fold's, and the metric fits at once."""
    method = pi.NUTS(chains=2, draws=1500)
    whole = pi.infer(conjugate.line, DATA, method, progress=False)
    refits = Refits(whole)
    train = np.flatnonzero(x[:, 1] > 0.3)  # few rows, the slope hardly told from the level
    test = np.setdiff1d(np.arange(N), train)
    fold = refits.fit(train, test, seed=1)
    mean, covariance = conjugate.posterior(x[train], y[train])
    draws = fold.predictor.program.draws["beta"].reshape(2, 1500, 2)
    assert_moments(draws, mean, np.sqrt(np.diag(covariance)), false_alarm=FALSE_ALARM, resolution=0.4, names="warm")
    assert fold.warm
    assert fold.report.evidence.settings["warmup"] == 100
    exact, _ = conjugate.posterior(x, y)
    with pytest.raises(AssertionError):  # broken twin: draws of the fit to all rows
        assert_moments(draws - mean + exact, mean, np.sqrt(np.diag(covariance)), false_alarm=FALSE_ALARM)
    lost, *_ = draw_again(refits._target, method, warm=Warm(np.full((2, 2), np.nan)), seed=0, progress=False)
    assert np.isfinite(lost.positions).all()  # nowhere to start from: the usual start


def test_groups_stay_together_and_their_levels_come_from_the_population():
    groups = np.repeat(np.arange(5), 9)

    def grouped(group, n_groups, y=None):
        with numpyro.plate("groups", n_groups):
            level = numpyro.sample("level", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(level[group], 1.0), obs=y)

    rng = np.random.default_rng(4)
    outcome = rng.normal(size=5)[groups] + rng.normal(size=N)
    data = {"group": groups, "n_groups": 5, "y": outcome}
    result = pi.cross_validate(grouped, data, METHOD, cv=5, groups=groups, progress=False)
    for fold in result.folds:
        assert not np.isin(groups[fold.test], groups[fold.train]).any()
        draws = np.asarray(fold.predictor.program.draws["level"])[:, groups[fold.test[0]]]
        assert abs(draws.mean()) < 5 / np.sqrt(2000)  # false alarms: one in a million
    exact = stats.norm.logpdf(outcome, 0, np.sqrt(2))
    np.testing.assert_allclose(result.log_score, exact, atol=0.5)


@pytest.mark.long
def test_classes_are_stratified_and_scored():
    def binary(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)

    rng = np.random.default_rng(6)
    inputs = rng.normal(size=60)
    came = (rng.random(60) < 1 / (1 + np.exp(1.5 - 2 * inputs))).astype(int)
    result = pi.cross_validate(binary, {"x": inputs, "y": came}, pi.Laplace(), cv=3, progress=False)
    shares = [came[fold.test].sum() for fold in result.folds]
    assert max(shares) - min(shares) <= 1
    chance = result.prediction.probabilities[:, 1]
    np.testing.assert_allclose(result.scores["log_loss"].value, known.log_loss(came, chance))


def test_what_else_sees_the_rows_is_refused():
    def factor(x, y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("pull", -0.01 * jnp.sum((x - mu) ** 2))
        numpyro.sample("y", dist.Normal(mu + x, 1.0), obs=y)

    data = {"x": x[:, 1], "y": y}
    with pytest.raises(pi.ModelError, match="log density of pull depends on rows that are left out"):
        pi.cross_validate(factor, data, pi.Laplace(), progress=False)

    def each_row(x, y=None):
        with numpyro.plate("rows", x.shape[0]):
            effect = numpyro.sample("effect", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(effect + x, 1.0), obs=y)

    with pytest.raises(pi.ModelError, match="a new row has no such parameter"):
        pi.cross_validate(each_row, data, pi.Laplace(), progress=False)


def test_ctrl_c_keeps_the_folds_made_so_far(posterior, monkeypatch):
    fit = Refits.fit

    def interrupted(self, train, test, seed):
        if seed[-1] == 2:
            raise KeyboardInterrupt
        return fit(self, train, test, seed)

    monkeypatch.setattr(Refits, "fit", interrupted)
    result = pi.cross_validate(posterior, cv=4, progress=False)
    assert not result.complete
    assert 2 <= len(result.folds) < 4  # folds that run side by side may still end
    assert np.isnan(result.log_score).sum() == N - len(result.rows)
    assert "interrupted" in repr(result)


def test_bad_input(posterior):
    halves = [(np.arange(20), np.arange(20, N)), (np.arange(20, N), np.arange(20))]
    for kind, call, text in [
        (pi.DataError, {"cv": 1}, "wanted from 2 to 45 folds"),
        (pi.DataError, {"cv": "kfold"}, "cv came as 'kfold'"),
        (pi.DataError, {"cv": [(np.arange(30), np.arange(20, N))]}, "trains on rows that it leaves out, row 20"),
        (pi.DataError, {"cv": [*halves, halves[0]]}, "left out by 2 folds"),
        (pi.DataError, {"cv": [(np.arange(30), np.array([99]))]}, "whole numbers from 0 to 44"),
        (pi.DataError, {"groups": np.zeros(3)}, "wanted one label for each of 45 rows"),
        (pi.DataError, {"groups": np.array(["a", None, "b"] * 15)}, "groups has no label in row 1"),
        (
            pi.DataError,
            {"groups": pd.to_datetime(["2026-01-01", "2026-01-02", None] * 15)},
            "groups has no label in row 2",
        ),
        (pi.DataError, {"groups": np.zeros(N)}, "There is only one group, which cannot be trained on and left out"),
        (pi.DataError, {"groups": "where"}, r"no column of the data; .*: groups=frame\['where'\]"),
        (pi.DataError, {"cv": model_selection.KFold}, "cv came as the class KFold"),
        (pi.PredictionError, {"level": 90}, "level has 90"),
        (pi.DataError, {"data": DATA}, "data came with a Posterior"),
    ]:
        with pytest.raises(kind, match=text):
            pi.cross_validate(posterior, progress=False, **call)
    with pytest.raises(pi.PredictionError, match="source came as int"):
        pi.cross_validate(3, DATA)


def test_split():
    group = np.repeat(np.arange(10), 6)
    label = np.arange(60) % 4 == 0
    data = {"x": np.arange(60.0), "group": group, "n_groups": 10, "w": np.arange(3.0)}
    train, valid, test = pi.split(data, (0.5, 0.25, 0.25), rows="x", seed=1)
    assert [len(part["x"]) for part in (train, valid, test)] == [30, 15, 15]
    assert sorted(np.concatenate([train["x"], valid["x"], test["x"]])) == list(range(60))
    assert train["n_groups"] == 10
    assert len(train["w"]) == 3
    train, test = pi.split(data, rows="x", groups=group)
    assert not np.isin(train["group"], test["group"]).any()
    train, test = pi.split(pd.DataFrame({"x": np.arange(60), "label": label}), (0.7, 0.3), stratify=label)
    assert (len(train), len(test)) == (42, 18)
    assert abs(train["label"].mean() - 0.25) <= 1 / 42
    train, test = pi.split({"x": np.arange(60)}, (0.9, 0.1), ordered=True)
    assert train["x"].max() < test["x"].min()
    for call, text in [
        ({"parts": (0.5, 0.6)}, "together 1"),
        ({}, "It is not clear what counts the rows"),
        ({"rows": "z"}, "rows names 'z'"),
        ({"rows": "x", "parts": (0.999, 0.001)}, "leave one empty"),
        ({"rows": "x", "ordered": True, "groups": group}, "leave out groups"),
    ]:
        with pytest.raises(pi.DataError, match=text):
            pi.split(data, **call)


def test_missing_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.model_selection", None)
    with pytest.raises(pi.MissingExtra, match="evaluate"):
        splits.folds_of(3, y, None, False, 0)


# calibration ---------------------------------------------------------------------------------------------------------


def sure_of_itself(x, y=None):
    """Noise with the sd 1 taken for 0.3."""
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 0.3), obs=y)


@pytest.fixture(scope="module")
def crossed():
    rng = np.random.default_rng(11)
    x = np.stack([np.ones(400), rng.normal(size=400)], axis=1)
    noise = np.where(np.arange(400) % 2, 1.5, 0.5)
    y = x @ [0.5, 1.0] + noise * rng.normal(size=400)
    return pi.cross_validate(sure_of_itself, {"x": x, "y": y}, pi.Exact(draws=400), cv=5, progress=False)


def fresh(n=4000):
    rng = np.random.default_rng(12)
    x = np.stack([np.ones(n), rng.normal(size=n)], axis=1)
    side = np.arange(n) % 2
    return x, side, x @ [0.5, 1.0] + np.where(side, 1.5, 0.5) * rng.normal(size=n)


def band(calibration_rows, rows, level=0.9, false_alarm=1e-4):
    """Of the coverage on fresh rows: binomial given the calibration set, and Beta distributed over such sets."""
    sd = np.sqrt(level * (1 - level) * (1 / (calibration_rows + 2) + 1 / rows))
    return stats.norm.isf(false_alarm / 2) * sd


@pytest.mark.long
def test_calibrating_by_the_folds_covers_fresh_rows(crossed, tmp_path):
    x, side, y = fresh()
    calibrated = crossed.calibrate()
    prediction = calibrated.predict({"x": x})
    inside = (prediction.lower <= y) & (y <= prediction.upper)
    assert abs(inside.mean() - 0.9) < band(400, len(y))
    assert "by cross-validation in 5 folds: about 90%" in prediction.guarantee
    own = crossed.refits.predictor.predict({"x": x})  # twin: not calibrated
    assert np.mean((own.lower <= y) & (y <= own.upper)) < 0.9 - 5 * band(400, len(y))
    assert abs(inside[side == 0].mean() - 0.9) > band(200, 2000)  # overall, not in each group

    grouped = crossed.calibrate(groups=np.arange(400) % 2)
    prediction = grouped.predict({"x": x}, groups=side)
    inside = (prediction.lower <= y) & (y <= prediction.upper)
    for number in (0, 1):
        assert abs(inside[side == number].mean() - 0.9) < band(200, 2000)

    grouped.save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor").predict({"x": x[:9]}, groups=side[:9])
    np.testing.assert_allclose(loaded.upper, prediction.upper[:9], rtol=1e-12)  # of a smaller block: to rounding
    assert loaded.guarantee == grouped.predict({"x": x[:9]}, groups=side[:9]).guarantee


def test_calibrating_by_folds_takes_every_row_and_good_fits(found):
    with pytest.raises(pi.PredictionError, match="groups has 3 entries for 45 rows"):
        found.calibrate(groups=[0, 1, 1])
    with pytest.raises(pi.PredictionError, match="Only 34 of 45 rows were left out"):
        replace(found, folds=found.folds[:3]).calibrate()
    bad = replace(found.folds[0], report=SimpleNamespace(verdict=pi.Verdict.BAD))
    with pytest.raises(pi.UnreliablePosterior, match="The worst verdict of a fold is BAD"):
        replace(found, folds=(bad, *found.folds[1:])).calibrate()
