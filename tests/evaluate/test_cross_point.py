"""CV+ and jackknife+: the published formulas, coverage with all rows for both purposes, what is saved and refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, TimeSeriesSplit
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

import probinfer as pi
from probinfer.deploy.score import score
from probinfer.deploy.served import load
from probinfer.predict import artifact
from probinfer.predict.artifact import card
from tests.predict.test_point import band, data
from tests.predict.test_point_raw import OWN, RAW, houses, preparation

FEW, NEW = data(60, 10), data(300, 11)
HOUSES, LATER = houses(200, 20), houses(2000, 21)


def wide(count, seed, features=70):
    """A linear law with normal errors and so many inputs that a fit's own rows lie much nearer than new ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features))
    y = x @ np.linspace(-1, 1, features) + rng.normal(size=count)
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(features)]), y


def pipeline(model):
    return Pipeline([("prepare", preparation()), ("model", model)])


plus = pi.cross_calibrate


# the formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cv", [KFold(5, shuffle=True, random_state=1), LeaveOneOut()], ids=["CV+", "jackknife+"])
def test_the_law_of_a_row_is_each_fit_plus_the_errors_it_made(cv):
    x, y = FEW[["a", "b"]], FEW.y.to_numpy()
    predictor = pi.cross_calibrate(LinearRegression(), x, y, cv=cv)
    points, of_row = np.empty((len(y), len(NEW))), np.empty((len(y), len(NEW)))
    for train, test in cv.split(x):
        fit = LinearRegression().fit(x.iloc[train], y[train])
        of_row[test] = fit.predict(NEW[["a", "b"]])
        points[test] = of_row[test] + (y[test] - fit.predict(x.iloc[test]))[:, None]
    points = np.sort(points, axis=0)
    p = predictor.predict(NEW, level=0.8, quantiles=(0.25, 0.5))
    low, high = int(np.floor(61 * 0.1)), int(np.ceil(61 * 0.9))
    assert np.allclose(p.lower, points[low - 1], atol=1e-12)
    assert np.allclose(p.upper, points[high - 1], atol=1e-12)
    assert np.allclose(p.quantiles[:, 0], points[int(np.floor(61 * 0.25)) - 1], atol=1e-12)
    assert np.allclose(p.quantiles[:, 1], (points[29] + points[30]) / 2, atol=1e-12)
    assert np.allclose(p.mean, of_row.mean(axis=0), atol=1e-12)
    one_sided = predictor.predict(NEW, level=0.8, interval=pi.Interval.UPPER)
    assert np.allclose(one_sided.upper, points[int(np.ceil(61 * 0.8)) - 1], atol=1e-12)
    assert (one_sided.lower == -np.inf).all()
    cdf = predictor.cdf(NEW, NEW.y)
    assert np.allclose(cdf[:, 1] * 61, (points < NEW.y.to_numpy()).sum(axis=0))
    assert np.allclose(cdf[:, 0] * 61, (points <= NEW.y.to_numpy()).sum(axis=0) + 1)
    alone = predictor.predict(NEW.iloc[7:8], level=0.8)
    assert alone.lower == pytest.approx(p.lower[7:8], abs=1e-12)


def test_sets_are_those_of_romano_sesia_and_candes():
    x, names = FEW[["a", "b"]], np.array(["low", "mid", "top"])
    cv = list(KFold(4, shuffle=True, random_state=2).split(x))
    predictor = pi.cross_calibrate(LogisticRegression(), x, FEW.kind, cv=cv, outcome="kind")
    assert predictor.classes == ("low", "mid", "top")

    def scores(chances):
        more = (chances[:, :, None] < chances[:, None, :]).astype(float) @ chances[:, :, None]
        return more[..., 0] + chances / 2

    smaller, mean = np.zeros((len(NEW), 3)), np.zeros((len(NEW), 3))
    for train, test in cv:
        fit = LogisticRegression().fit(x.iloc[train], FEW.kind.iloc[train])
        own = scores(fit.predict_proba(x.iloc[test]))[np.arange(15), np.searchsorted(names, FEW.kind.iloc[test])]
        chances = fit.predict_proba(NEW[["a", "b"]])
        smaller += (own[:, None, None] < scores(chances)).sum(axis=0)
        mean += chances / 4
    p = predictor.predict(NEW, level=0.8)
    wanted = smaller < np.ceil(61 * 0.8)
    wanted[np.arange(len(NEW)), mean.argmax(axis=1)] = True
    assert (p.sets != wanted).mean() < 1e-3
    assert np.allclose(p.probabilities, mean)


def test_the_guarantee_says_what_is_proved_and_what_is_usual():
    x, y = wide(200, 1, 3)
    (ten,) = {pi.cross_calibrate(LinearRegression(), x, y, cv=10).predict(x.iloc[:2]).guarantee}
    assert ten.startswith("calibrated on 200 rows by CV+ in 10 folds: about 90% of new rows exchangeable with them are")
    assert "at least 63.7% for certain" in ten  # 1 - 2 * 2 (201 * 0.05 + 9) / 210
    all_rows = pi.cross_calibrate(LinearRegression(), x, y, cv=200).predict(x.iloc[:2], level=0.95).guarantee
    assert "at least 90% for certain" in all_rows  # jackknife+: 1 - 2 a


# coverage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cv", [10, 120], ids=["CV+", "jackknife+"])
def test_all_rows_train_and_calibrate_and_intervals_cover(cv):
    """The twin takes the errors of the rows of training."""
    x, y = wide(120, 5)
    new, new_y = wide(4000, 6)
    predictor = pi.cross_calibrate(LinearRegression(), x, y, cv=cv)
    twin = pi.PointPredictor(LinearRegression().fit(x, y)).calibrate(x, y)
    for found, fine in ((predictor, True), (twin, False)):
        p = found.predict(new, level=0.8)
        assert band(int(((p.lower <= new_y) & (new_y <= p.upper)).sum()), len(new), 120, 0.8) == fine


def test_over_many_sets_of_rows_the_coverage_is_the_level():
    """Exact for each set: the law of the errors is known. Errors of fits to fewer rows err to wider intervals."""
    covered, twins = [], []
    for seed in range(40):
        x, y = wide(90, 100 + seed, 12)
        new, _ = wide(200, 300 + seed, 12)
        truth = new.to_numpy() @ np.linspace(-1, 1, 12)
        for found, into in (
            (pi.cross_calibrate(LinearRegression(), x, y, cv=9), covered),
            (pi.PointPredictor(LinearRegression().fit(x, y)).calibrate(x, y), twins),
        ):
            p = found.predict(new, level=0.8)
            into.append(np.mean(stats.norm.cdf(p.upper - truth) - stats.norm.cdf(p.lower - truth)))
    error = 4.9 * np.std(covered) / np.sqrt(40)
    assert 0.8 - error < np.mean(covered) < 0.83 + error
    assert np.mean(twins) < 0.8 - error


def test_intervals_follow_where_the_fits_differ():
    """Far from the rows the fits of a tree or a line go apart; those of one model have the same width everywhere."""
    x, y = wide(60, 7, 20)
    p = pi.cross_calibrate(LinearRegression(), x, y, cv=6).predict(pd.concat([x, 4 * x]))
    width = p.upper - p.lower
    assert width[60:].mean() > 1.5 * width[:60].mean()
    table = pi.permutation_importance(pi.cross_calibrate(LinearRegression(), x, y, cv=6), x, y, repeats=2).table
    assert set(table["quantity"]) == {"mean", "width", "rmse"}


# raw rows ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw():
    return pi.cross_calibrate(pipeline(Ridge()), HOUSES[RAW], HOUSES.y, cv=5)


@pytest.fixture(scope="module")
def grouped():
    return pi.cross_calibrate(pipeline(GradientBoostingRegressor(n_estimators=10)), HOUSES, HOUSES.y, groups="town")


def test_each_fold_prepares_raw_rows_by_its_own(raw):
    assert len(raw.asked.parts) == 5
    p = raw.predict(LATER, level=0.8)
    assert band(int(((p.lower <= LATER.y) & (LATER.y <= p.upper)).sum()), len(LATER), 200, 0.8)
    assert {entry.name for entry in raw.inputs} == set(RAW)
    scales = [part.prepared.pack()["inputs"][0]["columns"][0] for part in raw.asked.parts]
    assert len({json.dumps(scale) for scale in scales}) == 5  # the mean of its rows


def test_the_mean_is_that_of_the_pipelines_themselves():
    cv = list(KFold(4, shuffle=True, random_state=3).split(HOUSES))
    predictor = pi.cross_calibrate(pipeline(Ridge()), HOUSES[RAW], HOUSES.y, cv=cv)
    fits = [clone(pipeline(Ridge())).fit(HOUSES[RAW].iloc[train], HOUSES.y.iloc[train]) for train, _ in cv]
    mean = np.mean([fit.predict(LATER[RAW]) for fit in fits], axis=0)
    assert np.allclose(predictor.predict(LATER).mean, mean, rtol=1e-12)


def test_groups_have_laws_of_their_own(grouped):
    p = grouped.predict(LATER, level=0.8)
    together = pi.cross_calibrate(pipeline(GradientBoostingRegressor(n_estimators=10)), HOUSES, HOUSES.y)
    other = together.predict(LATER, level=0.8)
    here, kept = (LATER.town == "York").to_numpy(), int((HOUSES.town == "York").sum())
    inside, twin = (((found.lower <= LATER.y) & (LATER.y <= found.upper))[here] for found in (p, other))
    law = stats.betabinom(int(here.sum()), 0.8 * (kept + 1), 0.2 * (kept + 1))
    assert min(law.cdf(inside.sum() + 8), law.sf(inside.sum() - 9)) > 0.5e-6  # ranks are rounded outward
    assert twin.mean() < inside.mean() - 0.1
    assert (p.upper - p.lower)[here].min() > (p.upper - p.lower)[~here].max()
    assert (p.calibration_rows[here] == kept).all()
    with pytest.raises(pi.PredictionError, match=r"the group 'Rome'|town is 'Rome'"):
        grouped.predict(LATER.assign(town="Rome"))


def test_a_pipeline_of_its_own_and_other_tables_are_taken():
    own = pi.cross_calibrate(OWN, HOUSES[RAW], HOUSES.y, cv=3)
    assert np.isfinite(own.predict(LATER).upper).all()
    assert pi.permutation_importance(own, LATER.iloc[:30], repeats=1).table["input"].tolist()[: len(RAW)] == RAW
    assert pi.Monitor(own, HOUSES).update(LATER[:50], LATER.y[:50]).outcomes == 50
    columns = {name: FEW[name].to_list() for name in ("a", "b")}
    frame = pi.cross_calibrate(Ridge(), FEW[["a", "b"]], FEW.y, seed=4)
    assert np.array_equal(pi.cross_calibrate(Ridge(), columns, FEW.y.tolist(), seed=4).predict(NEW).upper,
                          frame.predict(NEW).upper)  # fmt: skip
    named = pi.cross_calibrate(Ridge(), FEW.drop(columns="kind"), FEW.y, inputs=["a", "b"], seed=4, groups="site")
    assert [entry.name for entry in named.inputs] == ["a", "b"]
    assert named.calibration.by == "site"
    assert "10 times Ridge; calibrated on 60 rows" in repr(frame)


def test_rows_that_belong_together_stay_together():
    who = np.arange(60) // 3
    cv = list(GroupKFold(5).split(FEW, groups=who))
    predictor = pi.cross_calibrate(DecisionTreeRegressor(), FEW[["a", "b"]], FEW.y, cv=cv)
    assert [len(test) for _, test in cv] == list(predictor.asked.counts)


# on disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(raw, tmp_path_factory):
    path = tmp_path_factory.mktemp("plus") / "houses"
    raw.save(path)
    return path


def test_saved_loaded_scored_and_served_are_the_same(saved, raw, tmp_path):
    loaded, expected = pi.load_predictor(saved), raw.predict(LATER, quantiles=(0.1, 0.5))
    p = loaded.predict(LATER, quantiles=(0.1, 0.5))
    for name in ("mean", "lower", "upper", "quantiles", "sd"):
        assert np.allclose(getattr(p, name), getattr(expected, name), rtol=1e-6), name
    assert p.guarantee == expected.guarantee
    assert json.loads((saved / "manifest.json").read_text())["format_version"] == 11
    assert "5 of them, one without each fold of the rows" in card(saved)
    assert "calibrated on 200 rows (CV+ in 5 folds)" in card(saved)
    LATER.to_parquet(tmp_path / "in.parquet")
    score(saved, tmp_path / "in.parquet", tmp_path / "out.parquet", chunk_rows=700)
    assert np.allclose(pd.read_parquet(tmp_path / "out.parquet").upper, p.upper)
    served = load("houses", saved)
    rows = {field.name: LATER[field.name].to_numpy()[:20] for field in served.fields}
    (answer,) = served.answer([served.question(rows, 20)])
    assert np.allclose(answer.lower, p.lower[:20])
    loaded.save(tmp_path / "again")
    assert np.array_equal(pi.load_predictor(tmp_path / "again").predict(LATER).upper, p.upper)


def test_it_is_scored_and_watched_as_any_point_model(saved):
    loaded = pi.load_predictor(saved)
    scores = pi.metrics(loaded, LATER, LATER.y)
    assert 0.85 < scores["coverage"].value < 0.95
    assert scores["crps"].value < scores["mae"].value
    monitor = pi.Monitor(loaded, HOUSES)
    status = monitor.update(LATER[:300], LATER.y[:300])
    assert status.alarms == ()
    assert [one.name for one in status.watched][:4] == ["size", "income", "town=Aix", "town=Ulm"]
    again = pi.Monitor.from_state(loaded, json.dumps(monitor.state()))
    assert "town=Ulm" in {alarm.name for alarm in again.update(LATER.assign(town="Ulm")).alarms}


def test_groups_and_classes_are_saved(grouped, tmp_path):
    classes = pi.cross_calibrate(pipeline(LogisticRegression(C=0.1)), HOUSES[RAW], HOUSES.sold, outcome="sold", cv=4)
    p = classes.predict(LATER)
    covered = p.sets[np.arange(len(LATER)), (LATER.sold == "yes").to_numpy(int)].mean()
    assert covered > 0.9 - 5 * np.sqrt(0.09 * (1 / 200 + 1 / 2000))
    classes.save(tmp_path / "sold")
    assert (pi.load_predictor(tmp_path / "sold").predict(LATER).sets != p.sets).mean() < 1e-3
    grouped.save(tmp_path / "grouped")
    ours, theirs = grouped.predict(LATER), pi.load_predictor(tmp_path / "grouped").predict(LATER)
    assert np.allclose(ours.upper, theirs.upper, rtol=1e-6)
    numbers = pi.cross_calibrate(Ridge(), FEW[["a", "b"]], FEW.y, cv=3)
    numbers.save(tmp_path / "numbers")
    assert np.allclose(pi.load_predictor(tmp_path / "numbers").predict(NEW).upper, numbers.predict(NEW).upper)


def test_many_models_or_what_needs_pickle_are_not_saved(tmp_path):
    many = pi.cross_calibrate(LinearRegression(), *wide(70, 3, 3), cv=70)
    with pytest.raises(pi.ModelError, match=r"is 70 times LinearRegression, and no more than 64 .*cv=10"):
        many.save(tmp_path / "many")
    own = pi.cross_calibrate(OWN, HOUSES[RAW], HOUSES.y, cv=2)
    with pytest.raises(pi.ModelError, match="2 times Pipeline answers in this process, and cannot be saved"):
        own.save(tmp_path / "own")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(folds=m["folds"][:4]),
        lambda m: m.update(folds=[{**fold, "rows": 0} for fold in m["folds"]]),
        lambda m: m.update(folds=[{**fold, "model": "manifest.json"} for fold in m["folds"]]),
        lambda m: m.update(folds=3),
        lambda m: m.pop("folds"),
        lambda m: m["calibration_of"].update(folds=4),
        lambda m: m["calibration"].pop("models"),
    ],
    ids=["fewer folds", "no rows", "no model", "a number", "none", "another number of fits", "no fits"],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, tmp_path, change):
    folder = shutil.copytree(saved, tmp_path / "houses")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_bytes(artifact.sealed(manifest))
    with pytest.raises(pi.ArtifactError):
        pi.load_predictor(folder)


# what is refused -----------------------------------------------------------------------------------------------------


class Odd(BaseEstimator):
    def fit(self, X, y):
        raise ValueError("three is no number of rows")


RARE = HOUSES.assign(town=["Bonn", *HOUSES.town[1:]], sold=["maybe", *HOUSES.sold[1:]])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: plus(lambda X: X, FEW, FEW.y), pi.ModelError, "wanted an estimator of scikit-learn"),
        (lambda: plus(Ridge, FEW, FEW.y), pi.ModelError, "came as the class Ridge"),
        (lambda: plus(LinearSVC(), FEW, FEW.kind), pi.ModelError, "LinearSVC gives no probabilities"),
        (lambda: plus(Ridge(), FEW.to_numpy(), FEW.y), pi.DataError, "rows came as ndarray; wanted a table"),
        (lambda: plus(Ridge(), FEW, FEW.y), pi.DataError, "the Ridge cannot be fitted: could not convert"),
        (lambda: plus(Odd(), FEW, FEW.y), pi.DataError, r"\(6 of 60 rows\) the Odd cannot be fitted: thr"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.y[:5]), pi.DataError, r"y has the shape \(5,\); wanted \(60"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.kind), pi.DataError, "y is 'low', not a number|y holds tex"),
        (lambda: plus(Ridge(), FEW[["a"]], [np.nan] * 60), pi.DataError, "y is missing or infinite in row"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.y, cv=1), pi.DataError, "wanted from 2 to 60"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.y, cv=TimeSeriesSplit(5)), pi.DataError, "cv leaves out 50"),
        (lambda: plus(pipeline(Ridge()), RARE[RAW], RARE.y), pi.DataError,
         r"\(20 of 200 rows\) the Pipeline cannot predict all rows: town is 'Bonn' in row 0"),
        (lambda: plus(pipeline(LogisticRegression()), RARE[RAW], RARE.sold), pi.DataError,
         r"a class has no rows\. Join rare classes"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.y, groups="town"), pi.DataError, "The rows lack town"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.y, groups=[1, 2]), pi.DataError, "groups has 2 entries for"),
        (lambda: plus(Ridge(), FEW[["a"]].set_axis([0], axis=1), FEW.y), pi.DataError, "wanted their names"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.y).calibrate(FEW, FEW.y), pi.PredictionError,
         "calibrated with all rows that it was fitted to, by CV"),
        (lambda: plus(Ridge(), FEW[["a"]], FEW.y).predict(NEW, level=0.99), pi.PredictionError,
         "There are 60 calibration rows, too few"),
    ],
)  # fmt: skip
def test_wrong_calls_are_named(call, error, text):
    with pytest.raises(error, match=text):
        call()
