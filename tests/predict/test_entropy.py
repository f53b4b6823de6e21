"""Entropy of classes and its two parts: against sums over the draws by NumPy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probinfer as pi
from probinfer.predict import mixture
from probinfer.predict.families import FAMILIES
from tests.predict import models as m
from tests.predict.fits import fitted

ROWS = {"X": np.vstack([m.X[:4], [[0.0, 0.0, 0.0], [40.0, 40.0, 40.0]]])}
NAMES = ("entropy", "expected_entropy", "mutual_information")


def entropy(p):
    """-sum p log p over the last axis, in nats."""
    return -np.sum(np.where(p > 0.0, p * np.log(np.where(p > 0.0, p, 1.0)), 0.0), axis=-1)


def chances_of(logits):
    """Softmax, so that small chances keep their digits."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def binary():
    return fitted(m.logistic, {"X": m.X, "y": m.x > 0}, {"beta": m.draws(3)})


@pytest.fixture(scope="module")
def several():
    return fitted(m.categorical, {"X": m.X, "y": m.classes}, {"W": m.draws(3, 4)})


def by_hand(predictor, X):
    """p (rows, draws, classes)."""
    draws = predictor.program.draws
    if "beta" in draws:
        logits = X @ draws["beta"].T
        return chances_of(np.stack([np.zeros_like(logits), logits], axis=-1))
    return chances_of(np.einsum("ni,sik->nsk", X, draws["W"]))


@pytest.mark.parametrize("name", ["binary", "several"])
def test_entropy_and_its_parts_are_those_of_the_draws(name, request):
    predictor = request.getfixturevalue(name)
    found, p = predictor.predict(ROWS), by_hand(predictor, ROWS["X"])
    whole, apart = entropy(p.mean(axis=1)), entropy(p).mean(axis=1)
    np.testing.assert_allclose(found.entropy, whole, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.expected_entropy, apart, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.mutual_information, whole - apart, rtol=1e-9, atol=1e-14)
    size = p.shape[-1]
    assert 0.0 <= found.mutual_information[4] < 1e-14  # coefficients times zero: every draw is a toss-up
    assert found.entropy[4] == pytest.approx(np.log(size), rel=1e-14)
    assert found.mutual_information[5] > 0.9 * found.entropy[5]  # each draw is sure, and they disagree
    # The broken twins: bits for nats, and the entropy of the mean for the mean of the entropies.
    assert not np.allclose(found.entropy, whole / np.log(2.0), rtol=1e-2)
    assert not np.allclose(found.expected_entropy, whole, rtol=1e-2)


def test_the_row_alone_and_a_saved_predictor_say_the_same(several, tmp_path):
    together = several.predict(ROWS)
    several.save(tmp_path / "p")
    alone = pi.load_predictor(tmp_path / "p").predict({"X": ROWS["X"][1:2]})
    for name in NAMES:
        np.testing.assert_allclose(getattr(alone, name)[0], getattr(together, name)[1], rtol=1e-12)
        assert name in together.to_frame()


def test_what_may_stand_in_a_gap_is_doubt_that_remains(binary):
    """The chance given the parameters is the mean over the values; its entropy is that of the mean."""
    standing = np.array([[0.4, -3.0, 1.0], [0.4, 3.0, 1.0]])
    rows, missing = {"X": np.array([[0.4, np.nan, 1.0]])}, {"X": standing}
    found, p = binary.predict(rows, missing=missing), by_hand(binary, standing).mean(axis=0)
    assert found.entropy[0] == pytest.approx(entropy(p.mean(axis=0)), rel=1e-12)
    assert found.expected_entropy[0] == pytest.approx(entropy(p).mean(), rel=1e-12)
    assert abs(entropy(by_hand(binary, standing)).mean() - entropy(p).mean()) > 0.01  # the twin


def test_weighted_draws_count_as_they_weigh():
    rng = np.random.default_rng(3)
    weights = mixture.Weights(np.array([0.7, 0.2, 0.1]), 0.1)
    logits, logs = rng.normal(0, 3, (5, 3)), np.log(chances_of(rng.normal(0, 3, (5, 3, 4))))
    both = np.stack([np.zeros_like(logits), logits], axis=-1)
    for name, given, p in (("Bernoulli", logits, chances_of(both)), ("Categorical", logs, np.exp(logs))):
        with jax.enable_x64(True):
            found = np.asarray(mixture.entropies(FAMILIES[name], [jnp.asarray(given)], weights))
        np.testing.assert_allclose(found[:, 0], entropy(np.einsum("s,nsk->nk", weights.values, p)), rtol=1e-12)
        np.testing.assert_allclose(found[:, 1], entropy(p) @ weights.values, rtol=1e-12)
        assert not np.allclose(found[:, 1], entropy(p).mean(axis=1), rtol=1e-3)


@pytest.mark.parametrize("draws", [511, 512, 513, 1300])
def test_the_entropies_of_many_draws_are_those_of_each(draws):
    """Their logarithms are of products of 512: of all factors, 2 each, the product would be infinite."""
    logits = np.random.default_rng(draws).normal(0, 2, (3, draws))
    logits[2] = 0.0
    apart = entropy(chances_of(np.stack([np.zeros_like(logits), logits], axis=-1)))
    with jax.enable_x64(True):
        found = np.asarray(mixture.entropies(FAMILIES["Bernoulli"], [jnp.asarray(logits)]))
    np.testing.assert_allclose(found[:, 1], apart.mean(axis=1), rtol=1e-14)


def test_sure_draws_have_none():
    with jax.enable_x64(True):
        sure = mixture.entropies(FAMILIES["Bernoulli"], [jnp.array([[np.inf, -np.inf], [900.0, 900.0]])])
        classes = mixture.entropies(FAMILIES["Categorical"], [jnp.log(jnp.array([[[1.0, 0.0], [0.0, 1.0]]]))])
        p = np.concatenate([np.logspace(-300, -1, 500), np.linspace(0.1, 1.0, 501), 1.0 - np.logspace(-16, -1, 50)])
        error = np.max(np.abs(np.asarray(mixture._entropy_of_two(jnp.asarray(p))) - entropy(np.stack([p, 1 - p], 1))))
    np.testing.assert_allclose(sure, [[np.log(2.0), 0.0, np.log(2.0)], [0.0] * 3], atol=1e-14)
    np.testing.assert_allclose(classes, [[np.log(2.0), 0.0, np.log(2.0)]], atol=1e-15)
    assert error < 1e-14


def test_numbers_have_none_and_a_point_model_knows_the_whole_only():
    line = fitted(m.line, {"x": m.x, "y": m.y}, m.LINE).predict({"x": [0.0]})
    assert line.entropy is line.expected_entropy is line.mutual_information is None
    p = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    point = pi.PointPredictor(lambda X: p[: len(X)], inputs=["x"], classes=["a", "b", "c"]).predict({"x": [1.0, 2.0]})
    np.testing.assert_allclose(point.entropy, entropy(p), rtol=1e-14)
    assert np.isnan([point.expected_entropy, point.mutual_information]).all()


def test_the_server_gives_them_by_name(binary):
    from probinfer.deploy import named_outputs as named

    form = named.Form.of(binary)
    assert {output.value for output in named.offered(form)} >= set(NAMES)
    engine = binary._engine
    answer = engine.summarise(ROWS, np.zeros(6, np.uint32), np.array([0.05, 0.95]))
    found = named.Answered(answer, answer.mean, answer.mean, answer.quantiles)
    expected = binary.predict(ROWS)
    for name in NAMES:
        output = named.Output(name)
        np.testing.assert_array_equal(named.values(output, form, found, None), getattr(expected, name))
        assert (named.datatype(output, form), named.shape(output, form)) == ("FP64", [-1])
        assert json.dumps(named.MEANING[output])
    numbers = named.Form.of(fitted(m.line, {"x": m.x, "y": m.y}, m.LINE))
    assert not {output.value for output in named.offered(numbers)} & set(NAMES)
