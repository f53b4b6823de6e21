"""Levels that training never saw: against closed forms and brute force, and what has no law of new levels."""

import json
import subprocess
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam, TransformReparam
from scipy import stats

import probinfer as pi
from probinfer.deploy.answerer import PosteriorAnswers
from probinfer.errors import ArtifactError, ModelError, PredictionError
from probinfer.predict.artifact import card, sealed
from probinfer.predict.mixture import mean_mcse
from probinfer.predict.rows import content_hashes, read_rows
from probinfer.predict.together import Question
from tests.predict import models as m
from tests.predict.fits import Fit

J, K, DRAWS, ROWS = 5, 4, 4000, 40
SIGMA = 0.7
rng = np.random.default_rng(3)
x = rng.normal(size=ROWS)
group, site = np.resize(np.arange(J), ROWS), np.resize(np.arange(K), ROWS)
y = rng.normal(size=ROWS)
mu, tau = rng.normal(1.0, 0.5, DRAWS), rng.gamma(4.0, 0.25, DRAWS)
z = np.linspace(-1.5, 1.5, J) + 0.2 * rng.normal(size=(DRAWS, J))  # what is known of levels is no population
FALSE_ALARM = 4.0  # standard errors: 6e-5 each


def new(fn, data, latents, unseen=pi.Unseen.POPULATION, **more):
    return pi.Predictor(Fit(pi.Model(fn), data, latents, **more), unseen=unseen)


def known(x, group, J, y=None):
    """Hyperparameters are numbers: all is closed form."""
    with numpyro.plate("groups", J):
        a = numpyro.sample("a", dist.Normal(2.0, 1.5))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(a[group] + x, SIGMA), obs=y)


def centred(x, group, J, y=None):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("groups", J):
        a = numpyro.sample("a", dist.Normal(mu, tau))
    numpyro.sample("y", dist.Normal(a[group] + x, SIGMA), obs=y)


def uncentred(x, group, J, y=None):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfNormal(2))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([J]).to_event(1))
    a = numpyro.deterministic("a", mu + tau * z)
    numpyro.sample("y", dist.Normal(a[group] + x, SIGMA), obs=y)


def reparametrised(x, group, J, y=None):
    with handlers.reparam(config={"a": LocScaleReparam(0.0)}):
        centred(x, group, J, y)


def transformed(x, group, J, y=None):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfNormal(2))
    law = dist.TransformedDistribution(dist.Normal(0, 1).expand([J]), dist.transforms.AffineTransform(mu, tau))
    with handlers.reparam(config={"a": TransformReparam()}):
        a = numpyro.sample("a", law)
    numpyro.sample("y", dist.Normal(a[group] + x, SIGMA), obs=y)


DATA = {"x": x, "group": group, "J": J, "y": y}
CENTRED = {"mu": mu, "tau": tau, "a": mu[:, None] + tau[:, None] * z}
WAYS = {
    "centred": (centred, CENTRED),
    "uncentred": (uncentred, {"mu": mu, "tau": tau, "z": z}),
    "reparametrised": (reparametrised, {"mu": mu, "tau": tau, "a_decentered": z}),
    "transformed": (transformed, {"mu": mu, "tau": tau, "a_base": z}),
}


@pytest.fixture(scope="module")
def predictor():
    return new(centred, DATA, CENTRED)


@pytest.fixture(scope="module")
def crossed():
    return new(both, BOTH_DATA, BOTH)


def far(found, exact, error):
    return np.max(np.abs(found - exact) / error)


# one factor ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_with_known_hyperparameters_it_is_the_closed_form():
    found = new(known, DATA, {"a": CENTRED["a"]}).predict({"x": [0.5], "group": [J]}, level=0.8)
    total = np.hypot(1.5, SIGMA)
    assert far(found.mean, 2.5, 1.5 / np.sqrt(DRAWS)) < FALSE_ALARM
    assert far(found.epistemic_sd, 1.5, 1.5 / np.sqrt(2 * DRAWS)) < FALSE_ALARM
    np.testing.assert_allclose(found.aleatoric_sd, SIGMA, rtol=1e-12)
    law = stats.norm(2.5, total)
    # an estimated cdf at the true quantile: each draw gives Phi((q - mean_s) / sigma), whose sd is below a half
    error = np.sqrt(0.1 * 0.9 / DRAWS) / law.pdf(law.ppf(0.1))
    assert far(np.r_[found.lower, found.upper], law.ppf([0.1, 0.9]), error) < FALSE_ALARM


@pytest.mark.parametrize(
    "name", ["centred", *(pytest.param(name, marks=pytest.mark.long) for name in WAYS if name != "centred")]
)
def test_however_the_effects_are_written_the_answer_is_the_mixture(name, predictor):
    fn, latents = WAYS[name]
    made = predictor if name == "centred" else new(fn, DATA, latents)
    found = made.predict({"x": [0.5], "group": [J + 3]}, quantiles=(0.05, 0.95))
    assert far(found.mean, mu.mean() + 0.5, np.sqrt(np.mean(tau**2) / DRAWS)) < FALSE_ALARM
    variance = np.var(mu) + np.mean(tau**2)  # of the new level's effect, over the draws
    kurtosis = 5.0 * np.mean(tau**4) / np.mean(tau**2) ** 2
    assert far(found.epistemic_sd**2, variance, variance * np.sqrt(kurtosis / DRAWS)) < FALSE_ALARM
    scales = np.hypot(tau, SIGMA)  # exact, with the effect integrated out
    at = stats.norm.cdf((found.quantiles[0][:, None] - mu - 0.5) / scales).mean(axis=1)
    assert far(at, [0.05, 0.95], np.sqrt(0.05 * 0.95 / DRAWS)) < FALSE_ALARM
    # Broken twins: the last level's effect, as an index that is clamped has it; and the mean effect without its spread.
    error = np.sqrt(0.05 * 0.95 / DRAWS)
    clamped = stats.norm.cdf((found.quantiles[0][1] - CENTRED["a"][:, -1] - 0.5) / SIGMA).mean()
    spreadless = stats.norm.cdf((found.quantiles[0][1] - mu - 0.5) / SIGMA).mean()
    assert min(abs(clamped - 0.95), abs(spreadless - 0.95)) > 2 * FALSE_ALARM * error


def test_known_levels_are_answered_as_without(predictor):
    rows = {"x": x, "group": group}
    plain = pi.Predictor.from_program(replace(predictor.program, population=None), predictor.about)
    mixed = predictor.predict({"x": np.r_[x, 0.1], "group": np.r_[group, -1]})
    for field in ("mean", "sd", "lower", "upper", "epistemic_sd", "mcse"):
        np.testing.assert_array_equal(getattr(predictor.predict(rows), field), getattr(plain.predict(rows), field))
        np.testing.assert_array_equal(getattr(mixed, field)[:-1], getattr(plain.predict(rows), field))


@pytest.mark.long
def test_an_answer_depends_neither_on_the_batch_nor_on_what_the_level_is_called(predictor):
    alone = predictor.predict({"x": [0.3], "group": [J]})
    several = predictor.predict({"x": np.full(150, 0.3), "group": np.r_[np.resize(group, 147), 99, -1, 10**12]})
    for field in ("mean", "sd", "lower", "upper", "mcse"):
        assert np.all(getattr(several, field)[-3:] == getattr(alone, field)[0])


def test_density_and_cdf_are_those_of_the_mixture(predictor):
    rows, seen = {"x": [0.0, 0.0], "group": [J, -5]}, np.array([2.0, -1.0])
    scales = np.hypot(tau, SIGMA)
    each = stats.norm.pdf((seen[:, None] - mu) / scales) / scales
    effects = CENTRED["mu"] + tau * np.random.default_rng(0).normal(size=DRAWS)  # another set of new effects
    noise = stats.norm.pdf((seen[:, None] - effects) / SIGMA).std(axis=1) / SIGMA / np.sqrt(DRAWS)
    assert far(np.exp(predictor.log_score(rows, seen)), each.mean(axis=1), noise) < FALSE_ALARM
    below = stats.norm.cdf((seen[:, None] - mu) / scales).mean(axis=1)
    assert far(predictor.cdf(rows, seen)[:, 0], below, 0.5 / np.sqrt(DRAWS)) < FALSE_ALARM


def test_draws_of_rows_of_one_new_level_share_its_effects_and_others_do_not(predictor):
    rows = {"x": np.zeros(4), "group": [J, J, J + 1, 0]}
    drawn = predictor.sample(rows, draws=DRAWS)
    effects = drawn - mu.mean()
    expected = np.var(mu) + np.mean(tau**2)
    same, other = (np.cov(effects[:, 0], effects[:, i])[0, 1] for i in (1, 2))
    error = 3.0 * expected / np.sqrt(DRAWS)  # of a covariance of variables with heavy tails, generously
    assert abs(same - expected) < FALSE_ALARM * error
    assert abs(other - np.var(mu)) < FALSE_ALARM * error
    assert expected - np.var(mu) > 2 * FALSE_ALARM * error  # the twin that shares effects among all levels is caught
    again = predictor.sample({"x": np.zeros(2), "group": [J + 1, J]}, draws=50)
    np.testing.assert_array_equal(again, drawn[:50, [2, 0]])


@pytest.mark.long
def test_few_draws_get_several_effects_each_and_the_error_of_the_mean_knows():
    few = {name: values[:50] for name, values in CENTRED.items()}
    found = new(centred, DATA, few).predict({"x": [0.0], "group": [J]})
    assert far(found.mean, mu[:50].mean(), np.sqrt(np.mean(tau[:50] ** 2) / 4000)) < FALSE_ALARM
    # 80 effects for each draw are no 4000 draws: the error is that of 50 means
    error = np.hypot(mu[:50].std(ddof=1), np.sqrt(np.mean(tau[:50] ** 2) / 80)) / np.sqrt(50)
    assert abs(found.mcse[0] / error - 1) < 0.15


def test_the_error_of_a_mean_counts_draws_not_effects():
    means = rng.normal(size=(3, 50))
    effects = means[:, :, None] + rng.normal(size=(3, 50, 80))
    found = mean_mcse(jnp.asarray(effects.reshape(3, -1)), None, 80)
    np.testing.assert_allclose(found, effects.mean(axis=2).std(axis=1, ddof=1) / np.sqrt(50), rtol=1e-5)
    assert np.all(np.asarray(found) > 5 * np.asarray(mean_mcse(jnp.asarray(effects.reshape(3, -1)), None)))  # the twin


@pytest.mark.long
def test_questions_of_a_server_are_answered_alike(predictor):
    rows = [
        {"x": np.array([0.3, 0.2, 0.1]), "group": np.array([J, 1, -1])},
        {"x": np.array([0.3]), "group": np.array([2])},
    ]
    questions = []
    for each in rows:
        columns, count = read_rows(each, predictor.program)
        questions.append(Question(columns, content_hashes(columns, count), level=0.8))
    for found, each in zip(PosteriorAnswers(predictor).answer(questions), rows, strict=True):
        plain = predictor.predict(each, level=0.8)
        np.testing.assert_allclose(found.own.answer.mean, plain.mean, rtol=1e-12)
        np.testing.assert_allclose(found.own.lower, plain.lower, rtol=1e-9)


# several factors -----------------------------------------------------------------------------------------------------


def both(x, group, site, J, K, y=None):
    s_a, s_b, s_c = (numpyro.sample(name, dist.HalfNormal(1)) for name in ("s_a", "s_b", "s_c"))
    with numpyro.plate("groups", J, dim=-2):
        a = numpyro.sample("a", dist.Normal(0, s_a))
    with numpyro.plate("sites", K, dim=-1):
        b = numpyro.sample("b", dist.Normal(0, s_b))
        with numpyro.plate("groups", J, dim=-2):
            c = numpyro.sample("c", dist.Normal(a, s_c))  # a site's own effect in a group, around the group's
    numpyro.sample("y", dist.Normal(c[group, site] + b[site], SIGMA), obs=y)


BOTH_DATA = {"x": x, "group": group, "site": site, "J": J, "K": K, "y": y}
S_A, S_B, S_C = (rng.gamma(9.0, scale, DRAWS) for scale in (0.1, 0.05, 0.05))
A = 1.0 + 0.1 * rng.normal(size=(DRAWS, J, 1))
BOTH = {
    "s_a": S_A, "s_b": S_B, "s_c": S_C, "a": A, "b": S_B[:, None] * rng.normal(size=(DRAWS, K)),
    "c": A + S_C[:, None, None] * rng.normal(size=(DRAWS, J, K)),
}  # fmt: skip


def test_of_several_factors_what_is_known_is_used(crossed):
    assert crossed.program.population.levels == ("group", "site")
    found = crossed.predict({"group": [1, J, 1, J], "site": [2, 2, K, K]}).epistemic_sd ** 2
    c, b = BOTH["c"][:, 1, 2], BOTH["b"][:, 2]
    new_c = S_A**2 + S_C**2
    exact = [
        np.var(c + b),
        np.mean(new_c) + np.var(b),
        np.var(BOTH["a"][:, 1, 0]) + np.mean(S_C**2) + np.mean(S_B**2),  # the group's own mean is known, and used
        np.mean(new_c) + np.mean(S_B**2),
    ]
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-9)
    error = 3.0 * np.array(exact) / np.sqrt(DRAWS)
    assert far(found[1:], exact[1:], error[1:]) < FALSE_ALARM
    # A twin that draws the group's mean anew with the site would have the third like the fourth.
    assert exact[3] - exact[2] > 2 * FALSE_ALARM * error[3]


@pytest.mark.long
def test_one_may_be_allowed_and_the_other_not(crossed):
    one = new(both, BOTH_DATA, BOTH, {"site": pi.Unseen.POPULATION})
    rows = {"group": [1], "site": [K]}
    assert one.predict(rows).epistemic_sd == pytest.approx(crossed.predict(rows).epistemic_sd, rel=0.1)
    with pytest.raises(PredictionError, match=r"group is 5 in row 0.*It knows 0 to 4"):
        one.predict({"group": [J], "site": [1]})


def match(home, away, J, y=None):
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("teams", J):
        a = numpyro.sample("a", dist.Normal(0, tau))
    numpyro.sample("y", dist.Normal(a[home] - a[away], SIGMA), obs=y)


@pytest.mark.long
def test_two_inputs_may_pick_from_the_same_effects():
    home, away = group, np.resize([1, 2, 3, 4, 0, 2, 3], ROWS)
    a = tau[:, None] * z + 3.0 * np.arange(J)
    predictor = new(match, {"home": home, "away": away, "J": J, "y": y}, {"tau": tau, "a": a})
    assert predictor.program.population.together == (0, 0)
    found = predictor.predict({"home": [J, J, J, 2, J, J], "away": [0, 1, J, J, J + 1, J]})
    variance, error = np.mean(tau**2), np.sqrt(np.mean(tau**2) / DRAWS)
    exact = [-a[:, 0].mean(), -a[:, 1].mean(), 0.0, a[:, 2].mean(), 0.0]
    assert far(found.mean[:5], exact, np.sqrt(2) * error) < FALSE_ALARM
    assert np.all(found.epistemic_sd[[2, 5]] == 0.0)  # the same new team against itself
    # two new teams differ by twice the variance; the twin with one place for both would say none
    assert far(found.epistemic_sd[4] ** 2, 2 * variance, 6 * variance * 3 / np.sqrt(DRAWS)) < FALSE_ALARM


def nested(school_of, classroom, J, K, y=None):
    tau, omega = numpyro.sample("tau", dist.HalfNormal(1)), numpyro.sample("omega", dist.HalfNormal(1))
    with numpyro.plate("schools", J):
        school = numpyro.sample("school", dist.Normal(0, tau))
    with numpyro.plate("classrooms", K):
        own = numpyro.sample("own", dist.Normal(school[school_of], omega))
    numpyro.sample("y", dist.Normal(own[classroom], SIGMA), obs=y)


@pytest.mark.long
def test_a_new_level_of_a_nested_site_is_of_a_new_one_above():
    rooms = 8
    data = {"school_of": np.arange(rooms) % J, "classroom": np.arange(ROWS) % rooms, "J": J, "K": rooms, "y": y}
    omega = 0.3 * tau
    schools = 2.0 + tau[:, None] * z
    own = schools[:, data["school_of"]] + omega[:, None] * rng.normal(size=(DRAWS, rooms))
    predictor = new(nested, data, {"tau": tau, "omega": omega, "school": schools, "own": own})
    found = predictor.predict({"classroom": [rooms]})
    assert far(found.mean, 0.0, np.sqrt(np.mean(tau**2 + omega**2) / DRAWS)) < FALSE_ALARM  # the schools' are about 2
    exact = np.mean(tau**2 + omega**2)
    assert far(found.epistemic_sd**2, exact, 3 * exact / np.sqrt(DRAWS)) < FALSE_ALARM


def slopes(x, group, J, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1).expand([2]).to_event(1))
    root = numpyro.sample("root", dist.LKJCholesky(2, 1.0))
    with numpyro.plate("groups", J):
        own = numpyro.sample("own", dist.HalfNormal(1.0))  # a level's own noise, which the effects do not know of
        ab = numpyro.sample("ab", dist.MultivariateNormal(jnp.zeros(2), scale_tril=scale[:, None] * root))
    numpyro.sample("y", dist.Normal(ab[group, 0] + ab[group, 1] * x, 0.1 + own[group]), obs=y)


@pytest.mark.long
def test_several_effects_of_a_level_keep_their_correlation():
    r = 0.8
    root = np.broadcast_to(np.array([[1.0, 0.0], [r, np.sqrt(1 - r**2)]]), (DRAWS, 2, 2))
    scale = np.broadcast_to([1.0, 0.5], (DRAWS, 2))
    latents = {
        "scale": scale, "root": root, "own": np.abs(rng.normal(size=(DRAWS, J))), "ab": rng.normal(size=(DRAWS, J, 2)),
    }  # fmt: skip
    found = new(slopes, DATA, latents).predict({"x": [2.0, -2.0], "group": [J, J]})
    exact = np.array([1 + 1 + 2 * r, 1 + 1 - 2 * r])  # var(a + b x), b of sd 1/2
    assert far(found.epistemic_sd**2, exact, np.sqrt(2 / DRAWS) * exact) < FALSE_ALARM
    noise = np.mean((0.1 + np.abs(stats.norm.ppf((np.arange(10**5) + 0.5) / 10**5))) ** 2)
    assert far(found.aleatoric_sd**2, noise, 2.0 * noise / np.sqrt(DRAWS)) < FALSE_ALARM


# what has no law -----------------------------------------------------------------------------------------------------


def table(x, group, J, u, y=None):
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("groups", J):
        a = numpyro.sample("a", dist.Normal(0, tau))
    numpyro.sample("y", dist.Normal(a[group] + jnp.asarray(u)[group], SIGMA), obs=y)


def predicted(x, group, J, u, y=None):
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("groups", J):
        a = numpyro.sample("a", dist.Normal(u, tau))
    numpyro.sample("y", dist.Normal(a[group], SIGMA), obs=y)


def walk(x, group, J, u, y=None):
    a = numpyro.sample("a", dist.GaussianRandomWalk(1.0, J))
    numpyro.sample("y", dist.Normal(a[group], SIGMA), obs=y)


def summing(x, group, J, u, y=None):
    with numpyro.plate("groups", J):
        a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal((a - a.mean())[group], SIGMA), obs=y)


def weighed(x, group, J, u, y=None):
    with numpyro.plate("groups", J):
        a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.factor("zero", -100.0 * jnp.sum(a) ** 2)
    numpyro.sample("y", dist.Normal(a[group], SIGMA), obs=y)


def only_data(x, group, J, u, y=None):
    slope = numpyro.sample("tau", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(slope * jnp.asarray(u)[group], SIGMA), obs=y)


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (table, "differ by more than a: it selects from fixed data"),
        (predicted, "law of a differs between levels by fixed data"),
        pytest.param(walk, "a has one law over all levels together", marks=pytest.mark.long),
        pytest.param(summing, "no parameter has an entry for each of its 5 levels", marks=pytest.mark.long),
        (weighed, "numpyro.factor"),
        (only_data, "no parameter has an entry for each of its 5 levels"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_where_the_model_has_no_law_of_new_levels_it_says_why(fn, reason):
    latents = {"tau": tau[:200], "a": CENTRED["a"][:200]}
    data = {**DATA, "u": np.array([0.1, 0.1, 0.1, 0.1, 2.0])}  # one level differs
    wanted = [site.name for site in pi.Model(fn).bind(data).latents]
    with pytest.raises(ModelError, match=reason):
        new(fn, data, {name: latents[name] for name in wanted})


@pytest.mark.long
def test_other_inputs_stay_closed_and_say_why():
    def model(x, group, site, J, u, y=None):
        centred(x + jnp.asarray(u)[site], group, J, y)

    data = {**DATA, "site": site, "u": rng.normal(size=K)}
    predictor = new(model, data, {name: values[:200] for name, values in CENTRED.items()})
    assert predictor.predict({"x": [0.0], "group": [J], "site": [1]}).sd[0] > SIGMA
    with pytest.raises(PredictionError, match=r"site is 4 .*It knows 0 to 3. No other is predicted: no parameter has"):
        predictor.predict({"x": [0.0], "group": [0], "site": [K]})


@pytest.mark.parametrize("bad", ["population", pi.Unseen.RESERVE, {"group": True}, None])
def test_unseen_takes_a_choice(bad):
    with pytest.raises(PredictionError, match=r"wanted Unseen.ERROR or Unseen.POPULATION"):
        new(centred, DATA, CENTRED, bad)


def test_names_and_models_that_do_not_fit():
    few = {name: values[:200] for name, values in CENTRED.items()}
    with pytest.raises(ModelError, match=r"unseen names county; .* are group"):
        new(centred, DATA, few, {"county": pi.Unseen.POPULATION})
    with pytest.raises(ModelError, match="There are no levels to be new"):
        new(m.line, {"x": m.x, "y": m.y}, m.LINE)


@pytest.mark.parametrize("value", [np.nan, 1.5, "north"])
def test_what_is_no_level_is_still_an_error(predictor, value):
    with pytest.raises(PredictionError, match="group"):
        predictor.predict({"x": [0.0], "group": [value]})


# kept ----------------------------------------------------------------------------------------------------------------


def test_what_was_saved_answers_the_same(predictor, tmp_path):
    predictor.save(tmp_path / "p")
    loaded = pi.load_predictor(tmp_path / "p")
    rows = {"x": [0.3, 0.1], "group": [J, 2]}
    for field in ("mean", "sd", "lower", "upper"):
        np.testing.assert_array_equal(getattr(loaded.predict(rows), field), getattr(predictor.predict(rows), field))
    assert "new levels of group" in card(tmp_path / "p")


@pytest.mark.long
def test_it_is_the_same_from_the_file_in_a_process_without_numpyro(predictor, tmp_path):
    predictor.save(tmp_path / "p")
    rows = {"x": [0.3, 0.1], "group": [J, 2]}
    code = (
        "import sys, json, probinfer as pi\n"
        f"p = pi.load_predictor({str(tmp_path / 'p')!r})\n"
        f"a = p.predict({rows!r}); s = p.sample({rows!r}, draws=3)\n"
        "assert 'numpyro' not in sys.modules\n"
        "print(json.dumps([a.mean.tolist(), a.upper.tolist(), s.tolist()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    here = predictor.predict(rows)
    expected = [here.mean.tolist(), here.upper.tolist(), predictor.sample(rows, draws=3).tolist()]
    assert json.loads(done.stdout) == expected


def test_an_artifact_whose_population_was_altered_is_refused(predictor, tmp_path):
    predictor.save(tmp_path / "p")
    path = tmp_path / "p" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for change in ({"levels": ["x"]}, {"together": [0, 0]}, {"draws": {}}, {"program": "parameters.jaxexport"}):
        path.write_bytes(sealed({**manifest, "population": {**manifest["population"], **change}}))
        with pytest.raises(ArtifactError):
            pi.load_predictor(tmp_path / "p")


def test_with_other_draws_it_draws_from_their_population(predictor):
    other = {**CENTRED, "mu": CENTRED["mu"] + 10.0}  # the levels of training stay
    moved = predictor.with_draws(other, predictor.about).predict({"x": [0.0, 0.0], "group": [J, 0]})
    plain = predictor.predict({"x": [0.0, 0.0], "group": [J, 0]})
    np.testing.assert_allclose(moved.mean - plain.mean, [10.0, 0.0], atol=1e-9)


@pytest.mark.long
def test_calibrated_and_rounded_it_still_knows_new_levels(predictor):
    rows = {"x": x, "group": group}
    new_row = {"x": [0.0], "group": [J]}
    assert predictor.round(rows).predict(new_row).sd == pytest.approx(predictor.predict(new_row).sd, rel=1e-5)
    calibrated = predictor.calibrate({"x": rng.normal(size=60), "group": np.full(60, J)}, rng.normal(size=60))
    assert np.isfinite(calibrated.predict(new_row).upper).all()


def test_what_is_measured_on_rows_takes_known_levels(predictor):
    for measure in (predictor.compress, predictor.round):
        with pytest.raises(PredictionError, match="a level that the model has never seen"):
            measure({"x": np.zeros(40), "group": np.full(40, J)})


@pytest.mark.long
def test_few_draws_say_little_of_a_population_so_compression_forgets_it(predictor):
    small = predictor.compress({"x": x, "group": group}, tolerance=0.05)
    with pytest.raises(PredictionError, match="a level that the model has never seen"):
        small.predict({"x": [0.0], "group": [J]})
