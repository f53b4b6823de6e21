"""Models of several outcomes: scores of each where that is possible, and else what to call, before anything is done."""

import numpy as np
import pytest

import probinfer as pi
from probinfer.evaluate import refits, tuning
from tests.predict import models as m
from tests.predict.test_joint_artifact import NAMES, fit, persons

LISTED = r"outcome came as \['height', 'ill'\]; wanted the name of one. Each has an answer of its own: \{name: pi\."
rng = np.random.default_rng(4)
X, HEIGHT, ILL = rng.normal(size=30), rng.normal(size=30), rng.integers(0, 2, 30)
DATA = {"x": m.x, "height": m.y, "ill": (m.y > 0).astype(int)}


@pytest.fixture(scope="module")
def joint():
    return pi.Predictor(fit(), outcome=NAMES)


@pytest.fixture
def nothing_is_fitted(monkeypatch):
    """Any fit fails the test."""

    def fitted(*args, **more):
        raise AssertionError("something was fitted before the call was refused")

    for module in (refits, tuning):
        monkeypatch.setattr(module, "infer", fitted)


def test_scores_are_those_of_each_outcome_alone(joint):
    rows, y = {"x": X}, {"height": HEIGHT, "ill": ILL}
    prediction = joint.predict(rows)
    found = pi.metrics(prediction, None, y)
    assert list(found) == NAMES
    for name in NAMES:
        assert found[name].outcome == name
        assert found[name].to_frame().equals(pi.metrics(prediction[name], None, y[name]).to_frame())
    assert list(pi.metrics(prediction, None, {"ill": ILL})) == ["ill"]
    for source in (joint, prediction):
        with pytest.raises(pi.PredictionError, match=r"y came as ndarray; wanted a dict .*: \{'height': values, …\}"):
            pi.metrics(source, rows, HEIGHT)
        with pytest.raises(pi.PredictionError, match="'weight' is no outcome; there are 'height', 'ill'"):
            pi.metrics(source, rows, {"weight": HEIGHT})


@pytest.mark.long
def test_scores_of_a_predictor_are_those_of_each_outcome_alone(joint):
    rows, y = {"x": X}, {"height": HEIGHT, "ill": ILL}
    for name, scores in pi.metrics(joint, rows, y, level=0.8).items():
        assert scores.to_frame().equals(pi.metrics(joint[name], rows, y[name], level=0.8).to_frame())


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda: pi.cross_validate(persons, DATA, outcome=NAMES), r"cross_validate\(source, data, outcome=name\)"),
        (lambda: pi.prior_check(persons, DATA, outcome=NAMES), r"prior_check\(model, data, outcome=name\)"),
        (lambda: pi.posterior_check(fit(), outcome=NAMES), r"posterior_check\(posterior, outcome=name\)"),
        (lambda: pi.loo(fit(), NAMES), r"loo\(posterior, name\)"),
        (
            lambda: pi.tune(persons, DATA, pi.GridSearch({"scale": [1.0]}), outcome=NAMES),
            r"tune\(model, data, search, outcome=name\) for name in \['height', 'ill'\]\}",
        ),
    ],
    ids=["cross_validate", "prior_check", "posterior_check", "loo", "tune"],
)
def test_a_list_of_outcomes_is_refused_before_anything_is_fitted(nothing_is_fitted, call, advice):
    with pytest.raises(pi.PredictionError, match=LISTED + advice):
        call()


def test_comparing_takes_one_outcome_too():
    found = pi.LOO("y", np.zeros(3), np.zeros(3), 0.7, np.zeros(3, bool), 0.0, pi.Verdict.GOOD)
    with pytest.raises(pi.PredictionError, match=LISTED + r"compare\(models, name\)"):
        pi.compare({"one": found, "other": found}, NAMES)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [(None, "has 2 outcomes; name one of them: outcome='height' | 'ill'"), ("weight", "no observed site 'weight'")],
)
def test_which_outcome_is_meant_is_asked_before_anything_is_fitted(nothing_is_fitted, outcome, text):
    with pytest.raises(pi.ModelError, match=text.replace("|", r"\|")):
        pi.cross_validate(persons, DATA, outcome=outcome, progress=False)


EXPLAINED = {
    "permutation_importance": lambda joint: pi.permutation_importance(joint, {"x": X}),
    "partial_dependence": lambda joint: pi.partial_dependence(joint, {"x": X}, "x"),
    "shap_values": lambda joint: pi.shap_values(joint, {"x": X}, {"x": X}),
    "lime_weights": lambda joint: pi.lime_weights(joint, {"x": X}, {"x": X}),
    "surrogate_tree": lambda joint: pi.surrogate_tree(joint, {"x": X}),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_one_outcome_is_explained_at_a_time(joint, name):
    with pytest.raises(pi.PredictionError, match=r"JointPredictor of height, ill, .*: pass predictor\['height'\]"):
        EXPLAINED[name](joint)


def test_one_outcome_is_watched_at_a_time(joint):
    with pytest.raises(pi.PredictionError, match=r"one outcome is watched at a time: pass predictor\['height'\]"):
        pi.Monitor(joint, {"x": X})


def test_the_sensitivity_to_priors_is_of_a_posterior_with_all_its_outcomes(joint):
    with pytest.raises(pi.PredictionError, match="posterior came as JointPredictor; wanted the Posterior"):
        pi.prior_sensitivity(joint)
