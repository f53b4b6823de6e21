"""Levels that training never saw, of several outcomes: in joint draws a new level has the same effects for all that
read them. Against covariances in closed form, which hold whatever the engine does inside."""

import json

import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist

import probinfer as pi
from probinfer.predict.artifact import card, sealed
from tests.predict.fits import Fit

J, K, DRAWS, ROWS = 5, 4, 4000, 40
SIGMA = 0.5
FALSE_ALARM = 4.5  # standard errors: one run in 100,000 each
rng = np.random.default_rng(8)
group, site = np.resize(np.arange(J), ROWS), np.resize(np.arange(K), ROWS)
x, y = rng.normal(size=(2, ROWS))
s_a, s_b, s_c = (rng.gamma(9.0, scale, DRAWS) for scale in (0.1, 0.1, 0.05))
a = 3.0 + 0.1 * rng.normal(size=(DRAWS, J))  # what is known of levels is no population
b = rng.normal(size=(DRAWS, K))
c = a[:, :, None] + s_c[:, None, None] * rng.normal(size=(DRAWS, J, K))
LATENTS = {"s_a": s_a, "s_b": s_b, "s_c": s_c, "a": a, "b": b, "c": c}
DATA = {"x": x, "group": group, "site": site, "J": J, "K": K, "height": y, "weight": y}
NEW = pi.Unseen.POPULATION


def pupils(x, group, site, J, K, height=None, weight=None):
    """Heights read a group's effect; weights what it is at a site, around it, and the site's own."""
    s_a, s_b, s_c = (numpyro.sample(name, dist.HalfNormal(1)) for name in ("s_a", "s_b", "s_c"))
    with numpyro.plate("groups", J, dim=-1):
        a = numpyro.sample("a", dist.Normal(0, s_a))
    with numpyro.plate("sites", K, dim=-1):
        b = numpyro.sample("b", dist.Normal(0, s_b))
        with numpyro.plate("rooms", J, dim=-2):
            c = numpyro.sample("c", dist.Normal(a[:, None], s_c))
    numpyro.sample("height", dist.Normal(a[group] + x, SIGMA), obs=height)
    numpyro.sample("weight", dist.Normal(c[group, site] + b[site], SIGMA), obs=weight)


def joint(fn=pupils, data=DATA, latents=LATENTS, outcome=("height", "weight"), unseen=NEW):
    return pi.Predictor(Fit(pi.Model(fn), data, latents), outcome=list(outcome), unseen=unseen)


@pytest.fixture(scope="module")
def both():
    return joint()


ROWS_ASKED = {"x": np.zeros(4), "group": [J, J, J + 1, 2], "site": [1, K, K, K]}


def off(one, other, exact):
    """How many standard errors the covariance of draws is from the exact one."""
    products = (one - one.mean()) * (other - other.mean())
    return abs(products.mean() - exact) / (products.std() / np.sqrt(len(products)))


def test_a_new_level_has_the_same_effects_for_every_outcome_and_row(both):
    """height reads `group` alone, weight `group` and `site`: neither the outcome nor what else is new in a row may
    change the effect of a group or site."""
    assert both["height"].program.population.levels == ("group",)
    assert both["weight"].program.population.levels == ("group", "site")
    drawn = both.sample(ROWS_ASKED, draws=DRAWS)
    height, weight = drawn["height"], drawn["weight"]
    of_group, of_site = np.mean(s_a**2), np.mean(s_b**2)
    known = np.cov(c[:, 2, 0], a[:, 2])[0, 1]
    for row in (0, 1, 2):  # one row: the group's effect is in both outcomes, whether the site is new too or not
        assert off(height[:, row], weight[:, row], of_group) < FALSE_ALARM
        assert off(height[:, row], weight[:, row], 0.0) > FALSE_ALARM  # the twin: each outcome draws its own
    for one, other, exact in (
        (height[:, 0], weight[:, 1], of_group),  # the same new group in different rows
        (weight[:, 0], weight[:, 1], of_group),
        (height[:, 1], height[:, 2], 0.0),  # different new groups
        (weight[:, 1], weight[:, 2], of_site),  # the same new site, of different groups
        (weight[:, 2], weight[:, 3], of_site),  # … one of which is known
        (height[:, 3], weight[:, 3], known),
    ):
        assert off(one, other, exact) < FALSE_ALARM
    # Twins: a site drawn anew with each group, and what a group is at a site shared among groups.
    assert off(weight[:, 1], weight[:, 2], 0.0) > FALSE_ALARM
    assert off(weight[:, 1], weight[:, 2], of_site + np.mean(s_c**2)) > FALSE_ALARM
    total = np.mean(s_a**2 + s_c**2 + s_b**2) + SIGMA**2
    assert off(weight[:, 1], weight[:, 1], total) < FALSE_ALARM


@pytest.mark.long
def test_each_outcome_answers_as_alone(both):
    alone = pi.Predictor(Fit(pi.Model(pupils), DATA, LATENTS), outcome="height", unseen=NEW)
    found, expected = both.predict(ROWS_ASKED)["height"], alone.predict({n: ROWS_ASKED[n] for n in ("x", "group")})
    for name in ("mean", "sd", "lower", "upper", "epistemic_sd"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.epistemic_sd[0] > 3 * found.epistemic_sd[3]


@pytest.mark.long
def test_what_was_saved_answers_and_draws_the_same(both, tmp_path):
    both.save(tmp_path / "p")
    loaded = pi.load_predictor(tmp_path / "p")
    for name, expected in both.sample(ROWS_ASKED, 20, seed=3).items():
        np.testing.assert_array_equal(loaded.sample(ROWS_ASKED, 20, seed=3)[name], expected)
        np.testing.assert_array_equal(loaded.predict(ROWS_ASKED)[name].upper, both.predict(ROWS_ASKED)[name].upper)


def test_each_outcomes_law_of_new_levels_is_in_the_artifact(both, tmp_path):
    both.save(tmp_path / "p")
    loaded = pi.load_predictor(tmp_path / "p")
    for name, part in both.parts.items():
        assert loaded[name].program.population.factors == part.program.population.factors
    text = card(tmp_path / "p")
    assert "new levels of group are" in text
    assert "new levels of group, site are" in text
    path = tmp_path / "p" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for change in ({"sites": [["a"]] * 3}, {"sites": 7}, {"program": "elsewhere.jaxexport"}):
        altered = {**manifest["parts"][0], "population": {**manifest["parts"][0]["population"], **change}}
        path.write_bytes(sealed({**manifest, "parts": [altered, *manifest["parts"][1:]]}))
        with pytest.raises(pi.ArtifactError):
            pi.load_predictor(tmp_path / "p")


def test_what_levels_are_is_a_choice():
    with pytest.raises(pi.PredictionError, match=r"wanted Unseen.ERROR or Unseen.POPULATION"):
        joint(unseen="population")


def visits(x, school, day, ward, J, height=None, visits=None):
    """Pupils and visits with rows of their own, which pick from the same effects under different names."""
    tau = numpyro.sample("s_a", dist.HalfNormal(1))
    with numpyro.plate("schools", J):
        a = numpyro.sample("a", dist.Normal(0, tau))
    numpyro.sample("height", dist.Normal(a[school] + x, SIGMA), obs=height)
    numpyro.sample("visits", dist.Normal(a[ward] - day, SIGMA), obs=visits)


@pytest.mark.long
def test_outcomes_with_rows_of_their_own_share_a_level_by_its_number():
    data = {"x": x, "school": group, "day": x[:25], "ward": group[:25], "J": J, "height": y, "visits": y[:25]}
    latents = {name: LATENTS[name] for name in ("s_a", "a")}
    predictor = joint(visits, data, latents, ("height", "visits"))
    rows = {"x": [0.0], "school": [J + 1], "day": [0.0, 0.0], "ward": [J + 1, J]}
    drawn = predictor.sample(rows, draws=DRAWS)
    same, other = drawn["visits"].T
    assert off(drawn["height"][:, 0], same, np.mean(s_a**2)) < FALSE_ALARM
    assert off(drawn["height"][:, 0], other, 0.0) < FALSE_ALARM
    assert off(drawn["height"][:, 0], same, 0.0) > FALSE_ALARM  # the twin


def match(home, away, J, goals=None, cards=None):
    tau = numpyro.sample("s_a", dist.HalfNormal(1))
    with numpyro.plate("teams", J):
        a = numpyro.sample("a", dist.Normal(0, tau))
    numpyro.sample("goals", dist.Normal(a[home] - a[away], SIGMA), obs=goals)
    numpyro.sample("cards", dist.Normal(a[away], SIGMA), obs=cards)


@pytest.fixture(scope="module")
def teams():
    latents = {name: LATENTS[name][:200] for name in ("s_a", "a")}
    data = {"home": group, "away": np.resize([1, 2, 3, 4, 0, 2, 3], ROWS), "J": J, "goals": y, "cards": y}
    return Fit(pi.Model(match), data, latents)


@pytest.mark.long
def test_effects_whose_place_depends_on_another_input_are_refused(teams):
    reason = "both read a, 'goals' by home and away, 'cards' by away"
    with pytest.raises(pi.ModelError, match=reason):
        pi.Predictor(teams, outcome=["goals", "cards"], unseen=NEW)
    alone = {name: pi.Predictor(teams, outcome=name, unseen=NEW) for name in ("goals", "cards")}
    with pytest.raises(pi.PredictionError, match=reason):
        pi.JointPredictor.of(alone)


def apart(x, group, J, height=None, age=None):
    """The second outcome knows no groups."""
    tau = numpyro.sample("s_a", dist.HalfNormal(1))
    with numpyro.plate("groups", J):
        a = numpyro.sample("a", dist.Normal(0, tau))
    numpyro.sample("height", dist.Normal(a[group] + x, SIGMA), obs=height)
    numpyro.sample("age", dist.Normal(tau * x, SIGMA), obs=age)


APART = {name: LATENTS[name][:200] for name in ("s_a", "a")}


@pytest.mark.long
def test_levels_are_of_the_outcomes_that_pick_them():
    data = {"x": x, "group": group, "J": J, "height": y, "age": y}
    predictor = joint(apart, data, APART, ("height", "age"), {"group": NEW})
    found = predictor.predict({"x": [0.0, 0.0], "group": [J, 0]})
    assert found["height"].epistemic_sd[0] > 3 * found["height"].epistemic_sd[1]
    assert found["age"].sd[0] == found["age"].sd[1]
    with pytest.raises(pi.ModelError, match=r"unseen names county; the outcomes' inputs that pick a level are group"):
        joint(apart, data, APART, ("height", "age"), {"county": NEW})
    with pytest.raises(pi.ModelError, match="There are no levels to be new"):
        joint(apart, data, APART, ("age",))


@pytest.mark.long
def test_compressed_they_know_the_levels_of_training_only():
    predictor = joint(apart, {"x": x, "group": group, "J": J, "height": y, "age": y}, APART, ("height", "age"))
    some = {"x": rng.normal(size=80), "group": rng.integers(0, J, 80)}
    small = predictor.compress(some, tolerance=0.1)
    with pytest.raises(pi.PredictionError, match="a level that the model has never seen"):
        small.predict({"x": [0.0], "group": [J]})
