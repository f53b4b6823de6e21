"""Cross-validation of models with preprocessing: all that is fitted to rows is fitted to those of the fold alone."""

from dataclasses import replace

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import probinfer as pi
from probinfer.evaluate.loo import _refitted
from probinfer.inference.draw import key_words

ROWS = 60
rng = np.random.default_rng(8)
FRAME = pd.DataFrame({"x": rng.normal(5, 2, ROWS), "g": [f"g{k}" for k in np.arange(ROWS) // 20]})
FRAME["price"] = np.exp(0.3 * FRAME.x + rng.normal(0, 0.4, ROWS))
METHOD = pi.Laplace(draws=100)


def line(x, y=None):
    slope, sigma = numpyro.sample("slope", dist.Normal(0, 1)), numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(slope * x, sigma), obs=y)


PIPELINE = pi.Pipeline(
    line,
    inputs={"x": pi.Column("x", pi.Standardise())},
    outcome={"y": pi.Column("price", pi.Log(), pi.Standardise())},
)


@pytest.mark.long
@pytest.mark.parametrize("model", [PIPELINE, pi.formula("log(price) ~ scale(x)")], ids=["pipeline", "formula"])
def test_a_fold_is_what_its_rows_alone_give(model):
    columns = FRAME[["x", "price"]]
    found = pi.cross_validate(model, columns, METHOD, cv=2, progress=False)
    fold = found.folds[0]
    train, test = columns.iloc[fold.train], columns.iloc[fold.test]
    seed = np.array([*key_words(0), 0], np.uint32)
    alone = pi.Predictor(pi.infer(model, train, METHOD, seed=seed, progress=False), accept=pi.Verdict.BAD)
    expected = alone.log_score(test, test.price)
    assert np.allclose(found.log_score[fold.test], expected, rtol=1e-9)
    everything = found.refits.predictor  # the twin that has seen them
    assert not np.allclose(expected, everything.log_score(test, test.price), rtol=1e-3)


@pytest.mark.long
def test_a_group_left_out_is_answered_from_the_population():
    model = pi.formula("log(price) ~ x + (1 | g)")
    posterior = pi.infer(model, FRAME, pi.NUTS(chains=2, draws=200), progress=False)
    found = pi.cross_validate(posterior, cv=3, groups=FRAME.g.to_numpy(), progress=False)
    assert np.isfinite(found.log_score).all()


LABELLED = FRAME.assign(size=np.where(FRAME.price < 3, "small", np.where(FRAME.price < 9, "middling", "large")))
SIZES = {"size": ["small", "middling", "large"]}


def kind(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.sample("y", dist.Categorical(logits=x[:, None] * slope), obs=y)


LABELS = {
    "cumulative": pi.formula("size ~ x", pi.Family.CUMULATIVE, levels=SIZES),
    "categorical": pi.formula("size ~ x", pi.Family.CATEGORICAL),
    "pipeline": pi.Pipeline(
        kind, inputs={"x": pi.Column("x", pi.Standardise())}, outcome={"y": pi.Column("size", pi.Ordinal())}
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", LABELS)
def test_labels_as_outcomes_are_scored_as_labels(name):
    data = LABELLED[["x", "size"]]
    test = np.flatnonzero(data["size"] == "large")[:5]
    pairs = [(np.setdiff1d(np.arange(ROWS), test), test)]
    found = pi.cross_validate(LABELS[name], data, METHOD, cv=pairs, progress=False)
    seed = np.array([*key_words(0), 0], np.uint32)
    alone = pi.infer(LABELS[name], data.iloc[pairs[0][0]], METHOD, seed=seed, progress=False)
    expected = pi.Predictor(alone, accept=pi.Verdict.BAD).log_score(data.iloc[test], data["size"].iloc[test])
    assert np.allclose(found.log_score[test], expected, rtol=1e-9)
    codes = list(found.prediction.classes)
    assert found.outcomes.tolist() == [codes.index("large")] * 5
    came = found.prediction.probabilities[:, codes.index("large")]
    assert np.isclose(found.scores["log_loss"].value, -np.log(came).mean())


@pytest.mark.parametrize("name", ["cumulative", *(pytest.param(n, marks=pytest.mark.long) for n in list(LABELS)[1:])])
def test_a_class_that_only_the_rows_left_out_have_has_a_probability(name):
    data = LABELLED[["x", "size"]]
    test = np.flatnonzero(data["size"] == "large")
    pairs = [(np.setdiff1d(np.arange(ROWS), test), test)]
    found = pi.cross_validate(LABELS[name], data, METHOD, cv=pairs, progress=False)
    assert set(found.prediction.classes) == {"small", "middling", "large"}
    came = found.prediction.probabilities[:, list(found.prediction.classes).index("large")]
    assert np.allclose(found.log_score[test], np.log(came), rtol=1e-9)


@pytest.mark.long
def test_points_of_labels_are_left_out_by_fits_of_their_own():
    model, data, row = LABELS["cumulative"], LABELLED[["x", "size"]], 3
    posterior = pi.infer(model, data, METHOD, progress=False)
    found = replace(pi.loo(posterior, refit=False, progress=False), khat=np.where(np.arange(ROWS) == row, 2.0, 0.0))
    again = _refitted(found, posterior, True, 10, 0, False)
    assert np.flatnonzero(again.refitted).tolist() == [row]
    seed = np.array([*key_words(0), 0], np.uint32)
    alone = pi.infer(model, data.drop(index=row), METHOD, seed=seed, progress=False)
    expected = pi.Predictor(alone, accept=pi.Verdict.BAD).log_score(data.iloc[[row]], data["size"].iloc[[row]])
    assert again.pointwise[row] == pytest.approx(expected[0], rel=1e-9)


@pytest.mark.long
def test_folds_of_labels_calibrate():
    model = pi.formula("size ~ x", pi.Family.CUMULATIVE, levels=SIZES)
    found = pi.cross_validate(model, LABELLED[["x", "size"]], METHOD, cv=3, progress=False)
    sets = found.calibrate(accept=pi.Verdict.BAD).predict(LABELLED[["x"]]).sets
    assert sets.shape == (ROWS, 3)
    assert sets.any(axis=1).all()


@pytest.mark.long
def test_a_fold_that_lacks_a_declared_level_is_told_as_such():
    rare = FRAME.assign(kind=["odd"] + ["even", "other"] * 29 + ["even"])
    model = pi.formula("log(price) ~ x + kind", levels={"kind": ["even", "odd", "other"]})
    with pytest.raises(pi.DataError, match=r"does not fit a fold's 30 rows without the other 30: .*odd.* stratified"):
        pi.cross_validate(model, rare, METHOD, cv=2, progress=False)
