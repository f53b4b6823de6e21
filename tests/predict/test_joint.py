"""Several outcomes at once: each as it is alone, their draws together, and nothing that depends on another outcome."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import pandas as pd
import pytest
from numpyro import distributions as dist
from scipy import stats

import probinfer as pi
from probinfer.predict.dependent import refuse_dependent
from probinfer.predict.joint import JointPredictor, _RowsOf
from probinfer.predict.rows import content_hashes, read_rows
from probinfer.predict.sampling import sample_rows
from tests.predict import models as m
from tests.predict.fits import Fit, fitted

DAYS = 25
A, B = np.random.default_rng(11).normal(size=(2, m.DRAWS))
LATENTS = {"a": A, "b": B}
day = np.random.default_rng(12).normal(size=DAYS)
DATA = {
    "x": m.x,
    "day": day,
    "height": m.y,
    "ill": (m.y > 0).astype(int),
    "visits": np.random.default_rng(13).poisson(2.0, DAYS),
}
NAMES = ["height", "ill", "visits"]
Z = 5.0  # a test of one number fails by chance once in two million


def persons(x, day, height=None, ill=None, visits=None):
    """Two outcomes of persons, one of days."""
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("height", dist.Normal(a + b * x, 1.0), obs=height)
    numpyro.sample("ill", dist.Bernoulli(logits=a + x), obs=ill)
    numpyro.sample("visits", dist.Poisson(jnp.exp(b * day / 4)), obs=visits)


@pytest.fixture(scope="module")
def joint():
    return fitted(persons, DATA, LATENTS, outcome=NAMES, chains=4)


ROWS = {"x": m.x[:4], "day": day[:3]}


# each outcome as it is alone -----------------------------------------------------------------------------------------


def test_each_outcome_is_predicted_as_alone(joint):
    assert isinstance(joint, pi.JointPredictor)
    assert joint.outcomes == tuple(NAMES)
    prediction = joint.predict(ROWS, level=0.8, quantiles=(0.5,))
    assert list(prediction) == NAMES
    alone = fitted(persons, DATA, LATENTS, outcome="visits", chains=4)
    assert isinstance(alone, pi.Predictor)
    for column, values in alone.predict(ROWS, level=0.8, quantiles=(0.5,)).columns().items():
        np.testing.assert_array_equal(prediction["visits"].columns()[column], values)
    np.testing.assert_allclose(prediction["ill"].mean, np.mean(1 / (1 + np.exp(-A[:, None] - ROWS["x"])), axis=0))
    np.testing.assert_allclose(prediction["height"].mean, A.mean() + B.mean() * ROWS["x"])
    assert [len(part) for part in prediction.values()] == [4, 4, 3]


def test_scores_of_those_outcomes_that_are_given(joint):
    y = {"ill": DATA["ill"][:4], "visits": DATA["visits"][:3]}
    found = joint.log_score(ROWS, y)
    assert list(found) == ["ill", "visits"]
    rates = np.exp(B[:, None] * ROWS["day"] / 4)
    np.testing.assert_allclose(found["visits"], np.log(stats.poisson(rates).pmf(y["visits"]).mean(0)))
    assert joint.cdf(ROWS, {"visits": y["visits"]})["visits"].shape == (3, 2)
    with pytest.raises(pi.PredictionError, match="'weight' is no outcome; there are 'height', 'ill', 'visits'"):
        joint.log_score(ROWS, {"weight": y["ill"]})
    with pytest.raises(pi.PredictionError, match=r"y came as ndarray; wanted a dict of what came for each outcome"):
        joint.log_score(ROWS, y["ill"])


def test_the_table_has_columns_of_each_outcome(joint):
    frame = pd.DataFrame({"x": m.x[:4], "day": day[:4], "other": "?"})
    prediction = joint.predict(frame, level=0.8, quantiles=(0.5,))
    columns = list(prediction.to_frame())
    assert columns[:3] == ["height.mean", "height.sd", "height.lower"]
    assert {"ill.probability_1", "visits.upper"} <= {*columns}
    np.testing.assert_array_equal(prediction.to_frame()["ill.mean"], prediction["ill"].mean)
    for text in (repr(prediction), prediction._repr_html_()):
        assert all(f"Prediction of {name}: 4 rows, 80% " in text for name in NAMES)
    with pytest.raises(KeyError, match=r"'weight' is no outcome; there are 'height'"):
        prediction["weight"]


def test_outcomes_with_rows_of_their_own_make_no_table(joint):
    with pytest.raises(pi.PredictionError, match=r"no one table: height has 4, ill has 4, visits has 3"):
        joint.predict(ROWS, level=0.8, quantiles=(0.5,)).to_frame()


def with_a_bare_outcome():
    def model(x, y=None, z=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a * x, 1.0), obs=y)
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("z", dist.Normal(a, 1.0), obs=z)

    return fitted(model, {"x": m.x, "y": m.y, "z": m.y}, {"a": A}, outcome=["y", "z"])


def test_an_outcome_without_inputs_has_as_many_rows_as_the_others():
    joint = with_a_bare_outcome()
    five = m.x[:5]
    for rows, count in (({"x": five}, 5), ({"x": [*five]}, 5), (pd.DataFrame({"x": five}), 5), ({"x": 0.5}, 1)):
        assert read_rows(_RowsOf(joint, rows)("z"), joint["z"].program) == ({}, count)


@pytest.mark.long
def test_an_outcome_without_inputs_is_predicted_and_drawn_for_every_row():
    joint = with_a_bare_outcome()
    assert len(joint.predict({"x": m.x[:5]}).to_frame()) == 5
    drawn = joint.sample({"x": m.x[:5]}, draws=7)["z"]
    assert drawn.shape == (7, 5)
    assert len(np.unique(drawn[0])) == 5  # each row has noise of its own


# draws of all outcomes together --------------------------------------------------------------------------------------

ONE = {"x": [0.5], "day": [4.0]}
MEANS = {"height": A + 0.5 * B, "ill": 1 / (1 + np.exp(-A - 0.5)), "visits": np.exp(B)}


def wrong_covariances(drawn):
    """Pairs of outcomes whose covariance over the draws is not that of their means over the posterior draws."""
    wrong = []
    for one, other in (("height", "ill"), ("height", "visits"), ("ill", "visits")):
        products = (drawn[one] - drawn[one].mean()) * (drawn[other] - drawn[other].mean())
        exact = np.cov(MEANS[one], MEANS[other], ddof=0)[0, 1]
        if abs(products.mean() - exact) > Z * products.std() / np.sqrt(len(products)):
            wrong.append((one, other))
    return wrong


def drawn_by(joint, draws, seed_of, noise_of):
    """What `sample` does, with another seed or other noise for an outcome."""
    found = {}
    for name, part in joint.parts.items():
        columns, count = read_rows(ONE, part.program)
        hashes = content_hashes(columns, count)
        found[name] = sample_rows(part._engine, columns, hashes, draws, seed_of(name), noise_of=noise_of(name))[:, 0]
    return found


def test_draws_of_all_outcomes_share_the_posterior_draws_and_nothing_else(joint):
    draws = 100 * m.DRAWS  # every posterior draw as often
    drawn = {name: values[:, 0] for name, values in joint.sample(ONE, draws=draws).items()}
    assert wrong_covariances(drawn) == []
    for name, values in drawn_by(joint, draws, lambda name: 0, lambda name: name).items():
        np.testing.assert_array_equal(values, drawn[name])
    # broken twins: posterior draws of their own; and the same noise, as outcomes that read the same inputs would have
    assert len(wrong_covariances(drawn_by(joint, draws, NAMES.index, lambda name: name))) > 1
    assert ("height", "ill") in wrong_covariances(drawn_by(joint, draws, lambda name: 0, lambda name: None))


@pytest.mark.long
def test_the_first_of_many_draws_are_those_of_fewer_in_any_order_of_outcomes(joint):
    few, many = joint.sample(ROWS, 3, seed=4), joint.sample(ROWS, 8, seed=4)
    turned = JointPredictor.of({name: joint[name] for name in NAMES[::-1]}).sample(ROWS, 3, seed=4)
    for name in NAMES:
        np.testing.assert_array_equal(few[name], many[name][:3])
        np.testing.assert_array_equal(few[name], turned[name])
    assert few["visits"].dtype == np.int64
    with pytest.raises(pi.PredictionError, match="draws is -1"):
        joint.sample(ROWS, -1)


# calibrated, rounded -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_each_outcome_is_calibrated_on_its_own(joint):
    rng = np.random.default_rng(14)
    new = {"x": rng.normal(size=200), "day": day[:3] + 0.01}
    calibrated = joint.calibrate(new, {"height": 10.0 * rng.normal(size=200)})
    prediction = calibrated.predict(ROWS)
    assert prediction["height"].upper[0] - prediction["height"].lower[0] > 20.0
    assert prediction["height"].guarantee is not None
    assert prediction["ill"].guarantee is None


@pytest.mark.long
def test_groups_go_to_the_outcomes_that_are_calibrated_with_them(joint):
    rng = np.random.default_rng(15)
    new = {"x": rng.normal(size=200), "day": day[:3] + 0.01}
    groups = np.resize(["a", "b"], 200)
    grouped = joint.calibrate(new, {"height": rng.normal(size=200)}, groups=groups)
    assert len(grouped.predict(ROWS, groups=["a"] * 4)["height"]) == 4  # not asked of those without groups
    with pytest.raises(pi.PredictionError, match="groups came, but the predictor is not calibrated"):
        joint.predict(ROWS, groups=["a"] * 4)


@pytest.mark.long
def test_missing_inputs_go_to_the_outcomes_that_have_them(joint):
    prediction = joint.predict({"x": [np.nan, 0.0], "day": [1.0, 2.0]}, missing={"x": m.x})
    assert prediction["height"].aleatoric_sd[0] > prediction["height"].aleatoric_sd[1]
    np.testing.assert_array_equal(prediction["visits"].mean, joint.predict({**ROWS, "day": [1.0, 2.0]})["visits"].mean)


@pytest.mark.long
def test_rounding_keeps_the_draws_the_same(joint, tmp_path):
    rounded = joint.round({"x": m.x, "day": day})
    assert rounded["height"].rounding.error < 1e-4
    rounded.save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    np.testing.assert_array_equal(loaded.predict(ROWS)["ill"].mean, rounded.predict(ROWS)["ill"].mean)


# outcomes that depend on one another are refused ---------------------------------------------------------------------


def refused(model, data, latents, names, match):
    with pytest.raises(pi.ModelError, match=match):
        fitted(model, data, latents, outcome=names)


def test_an_outcome_that_is_an_input_of_another():
    def model(x, z=None, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        z = numpyro.sample("z", dist.Normal(a * x, 1.0), obs=z)
        numpyro.sample("y", dist.Normal(a * z, 1.0), obs=y)

    data = {"x": m.x, "z": m.x + 1.0, "y": m.y}
    refused(
        model, data, {"a": A}, ["z", "y"], r"'y' and 'z' cannot be predicted together: 'y' is predicted from z, whi"
    )


def test_an_outcome_that_is_made_of_an_input_of_another():
    """Neither its name nor what it observes tells."""

    def model(x, w, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("z", dist.Normal(a * x, 1.0), obs=jnp.log(w))
        numpyro.sample("y", dist.Normal(a * w, 1.0), obs=y)

    data = {"x": m.x, "w": np.exp(m.y), "y": m.y}
    refused(model, data, {"a": A}, ["y", "z"], r"'y' is predicted from w, which holds 'z'")


def test_an_outcome_that_is_fixed_data_of_another():
    """Schools and pupils: the schools' own outcome is what pupils are predicted from."""

    def model(x, size, school, grade=None, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("score", dist.Normal(a * size, 1.0), obs=grade)
        numpyro.sample("y", dist.Normal(a * x + (0.0 if grade is None else jnp.asarray(grade)[school]), 1.0), obs=y)

    data = {"x": m.x, "size": m.x[:5], "school": m.group, "grade": m.y[:5], "y": m.y}
    refused(model, data, {"a": A}, ["score", "y"], r"'y' is predicted from grade, which holds 'score'")


def test_an_outcome_of_a_model_that_looks_at_its_data():
    def model(x, z, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([int(np.max(np.ones(2)))]))
        assert float(np.max(np.asarray(x))) < 1e9
        numpyro.sample("z", dist.Normal(a[0] * x, 1.0), obs=z)
        numpyro.sample("y", dist.Normal(a[0] * z, 1.0), obs=y)

    data = {"x": m.x, "z": m.x + 1.0, "y": m.y}
    with pytest.raises(pi.ModelError):
        fitted(model, data, {"a": A[:, None]}, outcome=["z", "y"])


@pytest.mark.long
def test_a_raw_column_that_is_outcome_and_input():
    def model(size, before, price=None, rent=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("price", dist.Normal(a * size, 1.0), obs=price)
        numpyro.sample("rent", dist.Normal(a * before, 1.0), obs=rent)

    inputs = {"size": pi.Column("size"), "before": pi.Column("price", pi.Standardise())}
    outcome = {"price": pi.Column("price", pi.Standardise()), "rent": pi.Column("rent")}
    frame = {"size": m.x, "price": m.y, "rent": m.x}
    posterior = pi.infer(pi.Pipeline(model, inputs=inputs, outcome=outcome), frame, pi.Exact(draws=400), progress=False)
    with pytest.raises(pi.ModelError, match="'rent' is predicted from price, which holds 'price'"):
        pi.Predictor(posterior, outcome=["price", "rent"])
    assert pi.Predictor(posterior, outcome="rent").inputs[0].name == "price"


def two_states(x, y=None, z=None):
    """Each row is of one of two kinds, which both outcomes show."""
    a = numpyro.sample("a", dist.Normal(0, 1))
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("rows", x.shape[0]):
        kind = numpyro.sample("kind", dist.Bernoulli(p))
        numpyro.sample("y", dist.Normal(a + 3.0 * kind, 1.0), obs=y)
        numpyro.sample("z", dist.Normal(a + 2.0 * kind + x, 1.0), obs=z)


STATES = {"x": m.x, "y": m.y, "z": m.y}


@pytest.mark.long
def test_outcomes_with_a_state_of_the_row_in_common():
    """Their marginals are right, and draws of both as if independent given the parameters would not be."""
    latents = {"a": A, "p": np.full(m.DRAWS, 0.4), "kind": np.zeros((m.DRAWS, m.ROWS), int)}
    refused(two_states, STATES, latents, ["y", "z"], r"in each row both depend on kind, which a new row draws anew")


def test_sites_that_the_law_is_mixed_over_are_those_without_draws():
    bound = pi.Model(two_states).bind(STATES)
    mixed: Any = SimpleNamespace(inputs=(), fixed={}, prepared=None, draws={"a": A, "p": A})
    drawn: Any = SimpleNamespace(inputs=(), fixed={}, prepared=None, draws={"a": A, "p": A, "kind": A})
    with pytest.raises(
        pi.ModelError, match=r"'y' and 'z' cannot be predicted together: in each row both depend on kin"
    ):
        refuse_dependent(bound, {"y": mixed, "z": mixed})
    refuse_dependent(bound, {"y": mixed, "z": drawn})


@pytest.mark.long
def test_a_state_of_the_row_that_one_outcome_alone_has():
    def model(x, y=None, z=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("rows", x.shape[0]):
            kind = numpyro.sample("kind", dist.Bernoulli(0.4))
            numpyro.sample("y", dist.Normal(a + 3.0 * kind, 1.0), obs=y)
            numpyro.sample("z", dist.Normal(a + x, 1.0), obs=z)

    latents = {"a": A, "kind": np.zeros((m.DRAWS, m.ROWS), int)}
    joint = fitted(model, {"x": m.x, "y": m.y, "z": m.y}, latents, outcome=["y", "z"])
    np.testing.assert_allclose(joint.predict({"x": [0.5]})["y"].mean, A.mean() + 1.2)


# wrong calls ---------------------------------------------------------------------------------------------------------


def test_names_that_are_none():
    fit = Fit(pi.Model(persons), DATA, LATENTS)
    for outcome, match in (
        ([], r"outcome came as \[\]; wanted names of observed sites: height, ill, visits"),
        (["height", 3], r"wanted names of observed sites"),
        (["height", "height"], "names an outcome twice"),
        (["height", "weight"], "has no observed site 'weight'; its outcomes are 'height', 'ill', 'visits'"),
        (None, r"name one of them: outcome='height' \| 'ill' \| 'visits', or all at once: outcome=\['height', 'ill'"),
    ):
        with pytest.raises(pi.ModelError, match=match):
            pi.Predictor(fit, outcome=outcome)
    assert pi.JointPredictor(fit).outcomes == tuple(NAMES)
    with pytest.raises(pi.UnreliablePosterior):
        pi.Predictor(Fit(pi.Model(persons), DATA, LATENTS, verdict=pi.Verdict.BAD), outcome=NAMES)


def test_rows_that_do_not_fit(joint):
    with pytest.raises(pi.PredictionError, match="The rows lack day"):
        joint.predict({"x": [1.0]})
    with pytest.raises(pi.PredictionError, match="The model knows nothing called 'age'"):
        joint.predict({**ROWS, "age": 1})
    with pytest.raises(pi.PredictionError, match="'weight' is no outcome"):
        joint["weight"]
    with pytest.raises(pi.ExportError, match=r"Write a file for each: predictor\['height'\]"):
        joint.export_onnx("predictor.onnx")


def test_predictors_of_other_draws_make_no_joint_one(joint):
    other = fitted(persons, DATA, {"a": A[::-1].copy(), "b": B}, outcome="ill", chains=4)
    with pytest.raises(pi.PredictionError, match="do not have the same posterior draws"):
        JointPredictor.of({"height": joint["height"], "ill": other})


def test_predictors_of_other_posteriors_make_no_joint_one(joint):
    """Also where they happen to share no site: the verdict of the one would stand for the other."""
    height, visits = joint["height"], joint["visits"]

    def told(**changes):
        other = pi.Predictor.from_program(visits.program, {**visits.about, **changes})
        with pytest.raises(pi.PredictionError, match="'height' and 'visits' are of different posteriors") as error:
            JointPredictor.of({"height": height, "visits": other})
        return str(error.value)

    assert "verdict is 'GOOD' and 'BAD'. Make both of one posterior" in told(verdict="BAD")
    assert "provenance seed is not there and 8" in told(provenance={"seed": 8})
    own = pi.Predictor.from_program(visits.program, {**visits.about, "training": "of its own rows"})
    assert JointPredictor.of({"height": height, "visits": own}).outcomes == ("height", "visits")


def test_what_are_no_predictors_by_outcome_is_refused_in_words(joint):
    for parts, match in (
        ({}, "parts came as none; wanted a dict of predictors by the names of their outcomes"),
        ([joint["ill"]], "parts came as list; wanted a dict"),
        ({"ill": joint}, r"parts\['ill'\] came as JointPredictor; wanted a Predictor of one outcome"),
        ({"sick": joint["ill"]}, r"parts\['sick'\] is the predictor of 'ill'; name it by that"),
    ):
        with pytest.raises(pi.PredictionError, match=match):
            JointPredictor.of(parts)
