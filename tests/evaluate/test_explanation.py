"""Explanations of predictors whose mean and sd are known functions of their inputs."""

import importlib
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import stats

import probinfer as pi
from probinfer.evaluate import explanation
from probinfer.predict.families import FAMILIES
from tests.predict import models as m
from tests.predict.fits import fitted

rng = np.random.default_rng(8)
N, DRAWS = 60, 400
u, v = rng.normal(size=N), rng.normal(2.0, 0.5, size=N)
A, SPREAD = rng.normal(1.5, 0.2, DRAWS), rng.normal(0.5, 0.02, DRAWS)


def law(u, v, a, spread):
    return a * u, jnp.exp(spread * v)


def model(u, v, y=None):
    """The mean is a u, the noise's sd exp(spread v): u drives the mean, v drives sd and width."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", u.shape[0]):
        numpyro.sample("y", dist.Normal(*law(u, v, a, spread)), obs=y)


@pytest.fixture(scope="module")
def predictor():
    return fitted(model, {"u": u, "v": v, "y": u}, {"a": A, "spread": SPREAD})


ROWS = {"u": u, "v": v}


def sd_of(u, v):
    return np.sqrt(np.mean(np.exp(2 * SPREAD * v)) + A.var() * u**2)


def pick(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table.reset_index(drop=True)


def test_permutation_importance(predictor):
    """A random permutation moves x by 2 var(x) in mean square, so that the mean moves by sqrt(2) |E a| sd(x)."""
    found = pi.permutation_importance(predictor, ROWS, u, repeats=12)
    table = found.table
    mean_u = pick(table, quantity="mean", input="u").iloc[0]
    assert abs(mean_u["value"] - np.sqrt(2) * A.mean() * u.std()) < 5 * mean_u["se"]  # false alarms: 1 in 4,000 (t, 11)
    assert mean_u["se"] < 0.1 * mean_u["value"]
    wrong = np.sqrt(2) * A.mean() * v.std()  # twin: of the other input
    assert abs(mean_u["value"] - wrong) > 5 * mean_u["se"]
    assert pick(table, quantity="mean", input="v")["value"][0] < 1e-9
    for quantity in ("sd", "width"):
        assert (
            pick(table, quantity=quantity, input="v")["value"][0]
            > pick(table, quantity=quantity, input="u")["value"][0]
        )
    loss = pick(table, quantity="log_score")
    assert pick(loss, input="u")["value"][0] > 4 * pick(loss, input="u")["se"][0]
    assert len(table) == 8
    assert repr(found).startswith("permutation importance of y, 90% intervals\n")


def test_partial_dependence_and_its_errors(predictor):
    found = pi.partial_dependence(predictor, ROWS, "u", at=[-1.0, 0.0, 2.0], ice=True)
    mean = pick(found.table, quantity="mean")
    np.testing.assert_allclose(mean["value"], A.mean() * np.array([-1.0, 0.0, 2.0]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mean["se"], 0.0, atol=1e-12)  # the same for every row
    wanted = A.std() * 2.0 / np.sqrt(DRAWS)
    low, high = np.sqrt(stats.chi2.ppf([5e-5, 1 - 5e-5], explanation.BATCHES - 1) / (explanation.BATCHES - 1))
    assert low < mean["mcse"][2] / wanted < high  # false alarms: one in ten thousand
    sd = pick(found.table, quantity="sd")
    np.testing.assert_allclose(sd["value"], [np.mean([sd_of(at, one) for one in v]) for at in (-1, 0, 2)], rtol=1e-9)
    curve = pick(found.curves, quantity="sd", row=3)
    np.testing.assert_allclose(curve["value"], [sd_of(at, v[3]) for at in (-1.0, 0.0, 2.0)], rtol=1e-9)
    each = np.array([sd_of(2.0, one) for one in v])
    assert sd["se"][2] == pytest.approx(each.std(ddof=1) / np.sqrt(N))
    width = pick(found.table, quantity="width")
    assert (width["value"] > 2 * 1.5 * sd["value"]).all()


def test_shap_values_add_up_and_are_exact_for_a_line(predictor):
    some = {"u": u[:3], "v": v[:3]}
    found = pi.shap_values(predictor, some, ROWS).table
    mean = pick(found, quantity="mean", input="u")
    np.testing.assert_allclose(mean["value"], A.mean() * (u[:3] - u.mean()), rtol=1e-8)
    np.testing.assert_allclose(pick(found, quantity="mean", input="v")["value"], 0.0, atol=1e-9)
    prediction = predictor.predict(some)
    for quantity, answer in (("sd", prediction.sd), ("width", prediction.upper - prediction.lower)):
        part = pick(found, quantity=quantity)
        total = part.groupby("row")["value"].sum() + part.groupby("row")["base"].first()
        np.testing.assert_allclose(total, answer, rtol=1e-8)
    assert (found["se"] == 0.0).all()


@pytest.mark.long
def test_random_orders_agree_with_all_coalitions(predictor):
    some = {"u": u[:3], "v": v[:3]}
    exact = pi.shap_values(predictor, some, ROWS, of=pi.Quantity.SD).table
    sampled = pi.shap_values(predictor, some, ROWS, of=pi.Quantity.SD, permutations=8).table
    assert (np.abs(sampled["value"] - exact["value"]) <= 8 * sampled["se"] + 1e-9).all()


@pytest.mark.long
def test_lime_finds_the_slopes(predictor):
    found = pi.lime_weights(
        predictor, {"u": u[:1], "v": v[:1]}, ROWS, of=pi.Quantity.MEAN, samples=500, repeats=4
    ).table
    slope, flat = (pick(found, input=name).iloc[0] for name in ("u", "v"))
    wanted = A.mean() * u.std()
    assert abs(slope["value"] - wanted) < 0.03 * wanted + 12 * slope["se"]  # 3%: its ridge; 12: t with 3 degrees, 1e-3
    assert abs(flat["value"]) < 0.03 * wanted + 12 * flat["se"]
    assert abs(slope["value"]) > 0.03 * wanted + 12 * flat["se"]  # twin: the other input
    assert slope["r2"] > 0.95


def test_a_surrogate_tree_of_a_step(predictor):
    found = pi.surrogate_tree(predictor, ROWS, max_depth=2).table
    mean = pick(found, quantity="mean")
    assert mean["rule"].str.startswith("u ").all()
    assert mean["share"].sum() == pytest.approx(1.0)
    assert (mean["fidelity"] > 0.6).all()
    rows = predictor.predict(ROWS).mean
    assert (mean["value"] * mean["share"]).sum() == pytest.approx(rows.mean())
    assert pick(found, quantity="sd")["rule"].iloc[0].startswith("v ")


@pytest.mark.long
def test_a_tree_of_what_does_not_vary_has_no_fidelity(predictor):
    table = pi.surrogate_tree(predictor, {name: np.full(50, 0.3) for name in ("u", "v")}).table
    assert set(table.rule) == {"always"}
    assert table.fidelity.isna().all()


def test_vectors_whole_numbers_and_pictures(predictor):
    def mixed(X, group, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        level = numpyro.sample("level", dist.Normal(0, 1).expand([5]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=X @ b + level[group]), obs=y)

    draws = {"b": m.draws(3), "level": m.draws(5)}
    rows = {"X": m.X, "group": m.group}
    grouped = fitted(mixed, {**rows, "y": (m.y > 0).astype(int)}, draws)
    found = pi.partial_dependence(grouped, rows, "group", of=[pi.Quantity.MEAN])
    assert found.table["at"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    chance = 1 / (1 + np.exp(-(m.X @ draws["b"].T)[:, :, None] - draws["level"]))
    np.testing.assert_allclose(found.table["value"], chance.mean(axis=(0, 1)), rtol=1e-9)
    table = pi.permutation_importance(grouped, rows, of=pi.Quantity.MEAN, repeats=1).table
    assert table["input"].tolist() == ["X[0]", "X[1]", "X[2]", "group"]
    assert table["se"].isna().all()
    for explained in (
        found,
        pi.partial_dependence(predictor, ROWS, "v", grid=4, ice=True),
        pi.surrogate_tree(predictor, ROWS, max_depth=1),
        pi.permutation_importance(predictor, ROWS, repeats=2),
    ):
        figure = explained.plot()
        assert len(figure.axes) == explained.table["quantity"].nunique()
        assert figure.axes[0].get_title(loc="left").startswith("mean of y")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: pi.partial_dependence(p, ROWS, "w"), "There is no input 'w'; there are u, v"),
        (lambda p: pi.partial_dependence(p, ROWS, "u", at=[np.inf]), "wanted a list of finite numbers"),
        (lambda p: pi.partial_dependence(p, {"u": u}, "u"), "The rows lack v"),
        (lambda p: pi.permutation_importance("p", ROWS), "predictor came as str; wanted a Predictor"),
        (lambda p: pi.permutation_importance(p, ROWS, of="sd"), "of is 'sd'; wanted a Quantity"),
        (lambda p: pi.permutation_importance(p, ROWS, u[:5]), "wanted"),
        (lambda p: pi.permutation_importance(p, ROWS, repeats=0), "repeats is 0"),
        (lambda p: pi.shap_values(p, ROWS, {"u": [], "v": []}), "The background has no rows"),
        (lambda p: pi.shap_values(p, ROWS, ROWS, permutations=1), "permutations is 1; wanted 2 or more"),
        (lambda p: pi.lime_weights(p, ROWS, {"u": u[:1], "v": v[:1]}), "wanted two or more"),
        (lambda p: pi.lime_weights(p, ROWS, ROWS, repeats=1), "repeats is 1; wanted 2 or more"),
        (lambda p: pi.surrogate_tree(p, {"u": u[:5], "v": v[:5]}), "ten rows or more; came 5"),
    ],
)
def test_wrong_calls(predictor, call, text):
    with pytest.raises((pi.PredictionError, pi.MethodError), match=text):
        call(predictor)


def test_outcomes_that_have_no_mean_are_refused(predictor):
    def pretend(**change):
        return pi.Predictor.from_program(replace(predictor.program, **change), {})

    with pytest.raises(pi.PredictionError, match="one of 4 classes, whose code has no mean"):
        pi.permutation_importance(pretend(family=FAMILIES["Categorical"], probabilities=4), ROWS)
    with pytest.raises(pi.PredictionError, match=r"has \(3,\) numbers per row"):
        pi.surrogate_tree(pretend(event=(3,)), ROWS)
    with pytest.raises(pi.PredictionError, match="depends on no input"):
        pi.surrogate_tree(pretend(inputs=()), {})


def test_a_missing_library_names_the_extra(predictor, monkeypatch):
    real = importlib.import_module

    def absent(name, *rest):
        if name.startswith(("shap", "lime")):
            raise ModuleNotFoundError(name=name.partition(".")[0])
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(pi.MissingExtra, match=r"needs shap, .* pip install 'probinfer\[explain\]'"):
        pi.shap_values(predictor, ROWS, ROWS)
    with pytest.raises(pi.MissingExtra, match="needs lime"):
        pi.lime_weights(predictor, ROWS, ROWS)


def test_a_model_of_whole_numbers_alone_has_partial_dependence():
    def levels(group, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1).expand([5]).to_event(1))
        with numpyro.plate("rows", group.shape[0]):
            numpyro.sample("y", dist.Normal(level[group], 1.0), obs=y)

    draws = {"level": m.draws(5)}
    found = pi.partial_dependence(
        fitted(levels, {"group": m.group, "y": m.y}, draws), {"group": m.group}, "group", of=pi.Quantity.MEAN
    )
    np.testing.assert_allclose(found.table["value"], draws["level"].mean(axis=0), rtol=1e-9)


def test_the_rules_of_a_picture_can_be_read():
    """Long rules are broken into lines, and the picture is as wide as they need."""
    rule = (
        "the size of the house > 47.8 and the size of the house <= 73.53 and the kind of building is a detached house"
    )
    table = pd.DataFrame(
        {"quantity": "mean", "rule": [rule, "always"], "share": 0.5, "value": [1.0, 2.0], "se": 0.1, "mcse": 0.1}
    )
    figure = explanation.Explanation(explanation.Kind.SURROGATE, "price", 0.9, table).plot()
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    assert any("\n" in label.get_text() for label in labels)
    assert min(label.get_window_extent().x0 for label in labels) >= 0
    assert figure.axes[0].get_xlabel() == "mean where the rule holds"
