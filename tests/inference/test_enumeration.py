"""Discrete sites summed out, against sums over all their joint states, and drawn afterwards, against the exact law."""

import itertools
import json
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import special, stats

import probinfer as pi
from probinfer.inference.choose import choose
from probinfer.inference.draw import draw, target_for
from probinfer.inference.exact import chain, elimination
from probinfer.inference.exact.summed import Summed
from probinfer.inference.montecarlo.sites import SiteProposal
from probinfer.model import target as target_module
from tests.inference.statistics import FALSE_ALARM, assert_uniform_ranks, assert_within_mcse
from tests.inference.test_gibbs import Y, assert_mixture, draws_of, mixture, mixture_exactly

GROUP = np.array([0, 2, 1, 1, 2, 0])
ROWS = np.array([-1.2, 0.4, 2.0, 1.1, -0.3, 0.9])


def rows(y):
    """A mixture of three with weights, centres and scales unknown."""
    share = numpyro.sample("share", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    centre = numpyro.sample("centre", dist.Normal(jnp.array([-1.0, 0.0, 1.0]), 1.0).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0).expand([3]).to_event(1))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(share))
        numpyro.sample("y", dist.Normal(centre[z], scale[z]), obs=y)


def groups(y, group):
    """A class for each group of rows."""
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    centre = numpyro.sample("centre", dist.Normal(jnp.array([-1.0, 1.0]), 1.0).to_event(1))
    with numpyro.plate("group", 3):
        z = numpyro.sample("z", dist.Bernoulli(share))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(centre[z[group]], 0.7), obs=y)


def nested(y, group):
    """A class for each group, which says how likely the components of its rows are."""
    share = numpyro.sample("share", dist.Beta(2.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("group", 3):
        kind = numpyro.sample("kind", dist.Categorical(jnp.array([0.3, 0.7])))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(share[kind[group]]))
        numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)


def crossed(y, group):
    """Sites that meet in the outcome, the one sampled last for groups: it must not be summed out first."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
    with numpyro.plate("group", 3):
        kind = numpyro.sample("kind", dist.Bernoulli(0.6))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(slope * z + kind[group], 1.0), obs=y)


def two_in_a_plate(y):
    """Two sites of a row, one seen by two outcomes, and one scalar site for all rows."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    level = numpyro.sample("level", dist.DiscreteUniform(-1, 1))
    with numpyro.plate("row", len(y)):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
        b = numpyro.sample("b", dist.Binomial(2, 0.4 + 0.2 * a))
        numpyro.sample("y", dist.Normal(slope * a + level, 1.0), obs=y)
        numpyro.sample("w", dist.Poisson(jnp.exp(0.3 * slope) + a * b), obs=jnp.array([1, 0, 3]))


def neighbours(y):
    """A vector of states tied by a factor, one number for all of them: summed over all combinations."""
    pull = numpyro.sample("pull", dist.HalfNormal(1.0))
    states = numpyro.sample("states", dist.Bernoulli(0.4).expand([4]))
    numpyro.factor("tied", pull * jnp.sum(states[1:] == states[:-1]))
    numpyro.sample("y", dist.Normal(states, 1.0), obs=y)


def handed_on(y):
    """A hidden Markov chain as numpyro's scan has it, its first state a site of its own; one of the rows is missing."""
    stay = numpyro.sample("stay", dist.Beta(2.0, 1.0))
    first = numpyro.sample("first", dist.Bernoulli(0.3))

    def step(carry, row):
        before, number = carry
        state = numpyro.sample("state", dist.Bernoulli(jnp.where(before == 1, stay, 0.2)))
        with numpyro.handlers.mask(mask=number != 2):
            numpyro.sample("y", dist.Normal(2.0 * state - before, 1.0), obs=row)
        return (state, number + 1), None

    scan(step, (first, 0), y)


def left_to_right(y):
    """States that never go back, three of them: most pairs have probability zero."""
    logits = numpyro.sample("logits", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    moves = jnp.tril(jnp.ones((3, 3))).T * jnp.exp(logits)
    moves = moves / moves.sum(1, keepdims=True)

    def step(before, row):
        state = numpyro.sample("state", dist.Categorical(moves[before]))
        numpyro.sample("y", dist.Normal(logits[state], 1.0), obs=row)
        return state, None

    scan(step, 0, y)


def side_by_side(y):
    """Two chains of three steps, from the last to the first, and a site that all of them see."""
    kind = numpyro.sample("kind", dist.Bernoulli(0.4))
    pull = numpyro.sample("pull", dist.Normal(0.0, 1.0))

    def step(before, row):
        with numpyro.plate("chain", 2):
            state = numpyro.sample("state", dist.Categorical(jnp.array([[0.7, 0.3], [0.4, 0.6]])[before]))
            numpyro.sample("y", dist.Normal(pull * state + kind, 1.0), obs=row)
        return state, None

    scan(step, jnp.zeros(2, int), y, reverse=True)


def half_apart(y):
    """Rows that are independent, columns that are not."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("column", 2, dim=-1), numpyro.plate("row", 3, dim=-2):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
    with numpyro.plate("rows", 3):
        numpyro.sample("y", dist.Normal(slope * z[:, 0] * z[:, 1] - z.sum(1), 1.0), obs=y)


def change(y):
    """A change point: one site with as many values as there are rows."""
    before = numpyro.sample("before", dist.Normal(0.0, 1.0))
    after = numpyro.sample("after", dist.Normal(1.0, 1.0))
    when = numpyro.sample("when", dist.DiscreteUniform(0, len(y)))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(jnp.where(jnp.arange(len(y)) < when, before, after), 1.0), obs=y)


def abundance(y, most):
    """Totals between 0 and a number of each row's own; those below what was seen are impossible."""
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))
    with numpyro.plate("row", len(y)):
        n = numpyro.sample("n", dist.Binomial(most, 0.6))
        numpyro.sample("y", dist.Binomial(n, p), obs=y)


def impossible(y):
    """States of probability zero, whose likelihood has no gradient, or no value at all, in places."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.0, 0.6])))
        # in state 1 the logarithm of a negative number, in state 2 an impossible outcome where y is above 1
        centre = jnp.where(z == 2, 0.0, jnp.log(scale * (1.0 - 2.0 * z * (2 - z))))
        numpyro.sample("y", dist.Normal(centre, scale), obs=y)
        numpyro.sample("low", dist.Uniform(-3.0, jnp.where(z == 2, 1.0, 9.0)), obs=y)


def support_that_depends(y):
    """The support of a continuous site depends on a discrete one."""
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    width = numpyro.sample("width", dist.Uniform(0.0, 1.0 + z))
    numpyro.sample("y", dist.Normal(width, 0.3), obs=y)


def masked(y):
    """Rows that are missing say nothing, whatever stands in their place; a scale weighs the likelihood."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        with numpyro.handlers.scale(scale=0.5):
            law = dist.LogNormal(slope * z, 1.0).mask(y > 0)
            numpyro.sample("y", law, obs=y)


MODELS = {
    rows: {"y": ROWS[:4]},
    groups: {"y": ROWS, "group": GROUP},
    nested: {"y": ROWS[:4], "group": GROUP[:4]},
    crossed: {"y": ROWS[:4], "group": GROUP[:4]},
    two_in_a_plate: {"y": ROWS[:3]},
    neighbours: {"y": ROWS[:4]},
    handed_on: {"y": ROWS[:4]},
    left_to_right: {"y": ROWS[:3]},
    side_by_side: {"y": ROWS.reshape(3, 2)},
    half_apart: {"y": ROWS[:3]},
    change: {"y": ROWS},
    abundance: {"y": np.array([1, 0, 3]), "most": np.array([2, 5, 3])},
    impossible: {"y": np.array([0.3, 2.0, -0.5])},
    support_that_depends: {"y": ROWS[:2]},
    masked: {"y": ROWS[:4]},
}


class AllStates:
    """A model's log density at every joint state of its discrete sites."""

    def __init__(self, summed):
        self.summed, whole = summed, summed.whole
        values = elimination.values_of(whole)
        names = np.array(whole.coordinate_names())
        self.where = np.flatnonzero(np.isin(names, whole.bound.discrete))
        self.states = np.array(list(itertools.product(*(values[name] for name in names[self.where]))), float)
        self.points = np.empty((len(self.states), whole.dim))
        self.points[:, self.where] = self.states
        self.rest = [i for i in range(whole.dim) if i not in self.where]
        self.program = jax.jit(jax.vmap(whole.log_density, in_axes=(0, None)))

    def at(self, z):
        """Log densities of all states at a continuous point, (states,)."""
        self.points[:, self.rest] = z
        with self.summed.precision():
            found = np.asarray(self.program(self.points, self.summed.inputs))
        return np.where(np.isnan(found), -np.inf, found)


QUICK = (groups, handed_on, impossible)  # one of each kind; the others take as long


@pytest.fixture(
    scope="module",
    params=[pytest.param(model, marks=() if model in QUICK else pytest.mark.long) for model in MODELS],
    ids=lambda model: model.__name__,
)
def case(request):
    bound = pi.Model(request.param).bind(MODELS[request.param])
    summed = Summed(bound)
    with summed.precision():
        density = jax.jit(summed.value_and_grad)
    return request.param, summed, AllStates(summed), density


def points(summed, count):
    return np.random.default_rng(1).uniform(-1.5, 1.5, (count, summed.dim))


def assert_sums(summed, states, density, count=4):
    for z in points(summed, count):
        with summed.precision():
            value, gradient = density(z, summed.inputs)
        assert np.isclose(value, special.logsumexp(states.at(z)), rtol=1e-10, atol=1e-10)
        for i in range(summed.dim):  # central differences, error of the order of 1e-9
            step = 1e-5 * np.eye(summed.dim)[i]
            ends = [special.logsumexp(states.at(z + sign * step)) for sign in (1, -1)]
            assert np.isclose(gradient[i], (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-5)


def test_the_density_is_the_sum_over_all_states(case):
    _, summed, states, density = case
    assert_sums(summed, states, density)


def test_discrete_sites_are_drawn_from_their_exact_law(case):
    """Frequencies of joint states at one point, by the largest deviation in standard errors (Bonferroni)."""
    _, summed, states, _ = case
    count = 4000
    z = points(summed, 1)
    drawn = summed.complete(np.repeat(z, count, axis=0), np.array([3, 4], np.uint32))
    np.testing.assert_array_equal(drawn[:, states.rest], np.repeat(z, count, axis=0))
    law = special.softmax(states.at(z[0]))
    found = {
        tuple(row): n for row, n in zip(*np.unique(drawn[:, states.where], axis=0, return_counts=True), strict=True)
    }
    seen = np.array([found.get(tuple(row), 0) for row in states.states])
    assert seen.sum() == count, "a state that the sites cannot have"
    assert seen[law == 0].sum() == 0
    alarm = FALSE_ALARM / len(law)
    low, high = stats.binom.ppf(alarm / 2, count, law), stats.binom.isf(alarm / 2, count, law)
    assert ((low <= seen) & (seen <= high)).all()


WORDS = {
    rows: "z: 3 values for each of 4 entries",
    groups: "z: 2 values for each of 3 entries",
    nested: "kind: 2 values for each of 3 entries; z: 2 values for each of 4 entries",
    crossed: "kind: 2 values for each of 3 entries; z: 2 values for each of 4 entries",
    neighbours: "states: 16 combinations of 2 values",
    handed_on: "first: 2 values; state: 2 values at each of 4 steps of a chain",
    side_by_side: "kind: 2 values; state: 2 values at each of 3 steps of a chain, 2 chains",
    half_apart: "z: 4 combinations of 2 values for each of 3 entries",
    change: "when: 7 values",
    abundance: "n: 6 values for each of 3 entries",
}


def test_what_is_summed_is_said(case):
    model, summed, *_ = case
    assert summed.words == WORDS.get(model, summed.words)
    assert [step.careful for step in summed._steps] == [model in (abundance, impossible, left_to_right)] * len(
        summed._steps
    )


def test_a_forgotten_prior_is_noticed(monkeypatch):
    """The twin sums over the values without their prior probabilities."""
    right = elimination._own
    monkeypatch.setattr(
        elimination, "_own", lambda step, terms: {**right(step, terms), step.name: 0 * right(step, terms)[step.name]}
    )
    summed = Summed(pi.Model(mixture).bind({"y": Y}))
    with pytest.raises(AssertionError), summed.precision():
        assert_sums(summed, AllStates(summed), jax.jit(summed.value_and_grad), 1)


@pytest.mark.long
def test_entries_taken_for_apart_that_are_not_are_noticed(monkeypatch):
    """The twin believes that every entry is on its own."""
    right = elimination.dependence

    def blind(*arguments):
        along = elimination.Along
        return [{name: {0: along(0), **axes} for name, axes in depends.items()} for depends in right(*arguments)]

    monkeypatch.setattr(elimination, "dependence", blind)
    summed = Summed(pi.Model(half_tied).bind({"y": ROWS[:4]}))
    with pytest.raises(AssertionError):
        assert_sums(summed, AllStates(summed), jax.jit(summed.value_and_grad), 1)


def half_tied(y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(slope * jnp.cumsum(z), 1.0), obs=y)


@pytest.mark.long
def test_a_draw_is_the_same_whatever_others_there_are():
    summed = Summed(pi.Model(rows).bind(MODELS[rows]))
    z, key = points(summed, 6).reshape(2, 3, summed.dim), np.array([5, 6], np.uint32)
    everything = summed.complete(z, key)
    np.testing.assert_array_equal(everything[:, :2], summed.complete(z[:, :2], key))
    assert not np.array_equal(everything, summed.complete(z, key + np.uint32(1)))
    np.testing.assert_array_equal(summed.part(everything), z)


def test_no_state_of_probability_zero_is_picked():
    scores = jnp.log(jnp.array([0.0, 0.3, 0.0, 0.7, 0.0]))[:, None].repeat(20_000, axis=1)
    seen = np.bincount(np.asarray(chain.pick(jax.random.key(0), scores.astype(jnp.float32))), minlength=5)
    assert seen[[0, 2, 4]].sum() == 0


# through infer -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return pi.infer(mixture, {"y": Y}, progress=False)


def test_nuts_is_chosen_and_agrees_with_the_exact_answer(fitted):
    assert_mixture(fitted)
    assert fitted.tree.attrs["method"] == "NUTS"
    assert "which is discrete and summed out exactly (which: 2 values for each of 5 entries)" in str(fitted.report)
    assert fitted.tree.attrs["summed_out"] == "which: 2 values for each of 5 entries"
    assert fitted.tree["posterior"]["which"].dtype.kind == "i"
    assert fitted.tree["posterior"]["which"].dims == ("chain", "draw", "point")
    assert fitted.report.verdict is pi.Verdict.GOOD


def test_the_log_likelihood_of_a_row_is_summed_over_its_own_states(fitted):
    """What LOO needs: log p(y_n | share). The twin, given the value drawn for the row, is far off."""
    share = fitted.latents["share"][:, None]
    each = np.stack([np.log1p(-share), np.log(share)]) + stats.norm.logpdf(Y, np.array([[[-1.0]], [[1.5]]]), 1.0)
    found = fitted.tree["log_likelihood"]["y"].to_numpy().reshape(4000, 5)
    np.testing.assert_allclose(found, special.logsumexp(each, axis=0), rtol=1e-9)
    given = np.take_along_axis(each, fitted.latents["which"][None], axis=0)[0]
    assert np.abs(found - given).max() > 0.1


ROW_TERMS = {rows: {"y": "z"}, groups: {}, half_apart: {}}


@pytest.mark.parametrize(
    "model", [rows, pytest.param(half_apart, marks=pytest.mark.long), groups], ids=lambda model: model.__name__
)
def test_only_states_of_the_row_alone_are_summed_out_of_its_log_likelihood(model):
    summed = Summed(pi.Model(model).bind(MODELS[model]))
    shapes = {site.name: site.shape for site in summed.bound.observed}
    assert elimination.own_rows(summed._steps, shapes, summed.bound.discrete) == ROW_TERMS[model]


@pytest.mark.long
@pytest.mark.parametrize("method", [pi.HMC(), pi.Metropolis(), pi.ManyChains(draws=100), pi.NUTS(float64=False)])
def test_other_chains_agree_with_the_exact_answer(method):
    assert_mixture(pi.infer(mixture, {"y": Y}, method, progress=False))


@pytest.mark.long
@pytest.mark.parametrize(
    "method", [pi.Laplace(), pi.MeanField(), pi.LowRank(), pi.FullRank(), pi.Pathfinder(), pi.Flow()]
)
def test_approximations_have_the_discrete_sites_too(method):
    posterior = pi.infer(mixture, {"y": Y}, method, progress=False)
    which, _ = mixture_exactly()
    assert np.abs(posterior.latents["which"].mean(axis=0) - which).max() < 0.08  # the approximation's own error


def test_discrete_sites_alone_are_drawn_exactly():
    """Change point with known levels: evidence and law by hand."""

    def model(y):
        when = numpyro.sample("when", dist.DiscreteUniform(0, len(y)))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(jnp.where(jnp.arange(len(y)) < when, 0.0, 1.0), 1.0), obs=y)

    posterior = pi.infer(model, {"y": ROWS}, progress=False)
    each = [stats.norm(np.where(np.arange(6) < when, 0, 1), 1).logpdf(ROWS).sum() for when in range(7)]
    assert posterior.tree.attrs["method"] == "Exact"
    assert np.isclose(posterior.tree.attrs["log_evidence"], special.logsumexp(each) - np.log(7))
    law, seen = special.softmax(each), np.bincount(posterior.latents["when"], minlength=7)
    assert (np.abs(seen - 4000 * law) < stats.norm.isf(FALSE_ALARM / 14) * np.sqrt(4000 * law * (1 - law))).all()
    with pytest.raises(
        pi.MethodError, match=r"NUTS has nothing left to draw once when .* Fits: Metropolis, Gibbs, Exact\.$"
    ):
        pi.infer(model, {"y": ROWS}, pi.NUTS(), progress=False)
    assert choose(pi.Model(model).bind({"y": ROWS}), steered=True)[0] == pi.Gibbs()


def test_exact_says_that_the_rest_has_no_closed_form():
    with pytest.raises(pi.MethodError, match="with which summed out, the law of share has no closed form"):
        pi.infer(mixture, {"y": Y}, pi.Exact(), progress=False)


def second_order(y):
    """A state depends on the two before it."""

    def step(carry, y):
        last, before = carry
        state = numpyro.sample("state", dist.Bernoulli(jnp.where(last == before, 0.8, 0.3)))
        numpyro.sample("y", dist.Normal(2.0 * state, stay), obs=y)
        return (state, last), None

    stay = numpyro.sample("stay", dist.HalfNormal(1.0))
    scan(step, (0, 0), y)


def endless(y):
    numpyro.sample(
        "y", dist.Normal(numpyro.sample("k", dist.Poisson(3.0)), numpyro.sample("s", dist.HalfNormal())), obs=y
    )


def vectors(y):
    counts = numpyro.sample("counts", dist.Multinomial(4, jnp.array([0.2, 0.8])))
    numpyro.sample("y", dist.Normal(counts[0], numpyro.sample("s", dist.HalfNormal())), obs=y)


def together(y):
    s = numpyro.sample("s", dist.HalfNormal())
    each = [numpyro.sample(name, dist.DiscreteUniform(0, 49)) for name in "ab"]
    numpyro.sample("y", dist.Normal(each[0] - each[1], s), obs=y)


def values_unknown(y):
    s = numpyro.sample("s", dist.HalfNormal())
    a = numpyro.sample("a", dist.DiscreteUniform(1, 3))
    numpyro.sample("y", dist.Normal(numpyro.sample("b", dist.Binomial(a, 0.5)), s), obs=y)


def large(y):
    s = numpyro.sample("s", dist.HalfNormal())
    z = numpyro.sample("z", dist.DiscreteUniform(0, 999).expand([30_000]))
    numpyro.sample("y", dist.Normal(z, s), obs=jnp.zeros(30_000))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            second_order,
            r"entries of state \(shape \(30,\), 2 values each\) .* 2\*\*30 joint states .* most 1024 are",
        ),
        (endless, r"the values of k \(Poisson\) are without end"),
        (vectors, r"counts \(Multinomial\w*\) has vectors for values"),
        (
            together,
            "a .* depends on other discrete sites, so that 2500 joint states .* at most 1024",
        ),
        (values_unknown, r"the values of b \(Binomial\w*\) are .* not known before other sites have theirs"),
        (large, "z has 1000 states for each of 30000 entries, 3e[+]07 numbers at once; at most 2e[+]07"),
    ],
)
def test_what_cannot_be_summed_is_refused_by_name(model, text):
    data = {"y": np.zeros(30)}
    with pytest.raises(pi.MethodError, match=rf"NUTS needs discrete sites summed out.*{text}") as refusal:
        pi.infer(model, data, pi.NUTS(), progress=False)
    vectors = "vectors" in text
    drawn = "No method of this version draws its discrete sites." if vectors else "Fits: Metropolis, Gibbs."
    assert str(refusal.value).endswith(drawn)


def test_gibbs_is_chosen_where_nothing_can_be_summed():
    method, _, reason = choose(pi.Model(endless).bind({"y": np.zeros(3)}), steered=False)
    assert method == pi.Gibbs()
    assert "k is discrete and cannot be summed out: the values of k" in reason


@pytest.fixture
def long_chain():
    """A chain of 200 steps, three values, and the sum over its states by the forward recursion, in NumPy."""
    y = np.random.default_rng(4).normal(size=200)
    summed = Summed(pi.Model(left_to_right).bind({"y": y}))

    def exactly(z):
        moves = np.triu(np.ones((3, 3))) * np.exp(z)
        moves /= moves.sum(1, keepdims=True)
        seen = stats.norm(z, 1.0).logpdf(y[:, None])
        with np.errstate(divide="ignore"):
            alpha, logs = seen[0] + np.log(moves[0]), np.log(moves)
        for row in seen[1:]:
            alpha = row + special.logsumexp(alpha[:, None] + logs, axis=0)
        return special.logsumexp(alpha) + stats.norm.logpdf(z).sum()

    return summed, exactly


@pytest.mark.long
def test_a_long_chain_costs_its_length(long_chain):
    summed, exactly = long_chain
    z = points(summed, 1)[0]
    with summed.precision():
        value, gradient = jax.jit(summed.value_and_grad)(z, summed.inputs)
    assert np.isclose(value, exactly(z), rtol=1e-10)
    steps = 1e-5 * np.eye(3)
    assert np.allclose(gradient, [(exactly(z + h) - exactly(z - h)) / 2e-5 for h in steps], rtol=1e-5, atol=1e-4)
    states = summed.complete(z[None], np.array([1, 2], np.uint32))[0, -200:]
    assert (np.diff(states) >= 0).all()


@pytest.mark.long
def test_a_chain_taken_the_wrong_way_round_is_noticed(monkeypatch):
    """The twin does not turn the pairs whose first entry is odd."""
    right = chain.potentials
    monkeypatch.setattr(chain, "potentials", lambda found, index, size: right(found, index // 2 * 2, size))
    summed = Summed(pi.Model(handed_on).bind(MODELS[handed_on]))
    with pytest.raises(AssertionError), summed.precision():
        assert_sums(summed, AllStates(summed), jax.jit(summed.value_and_grad), 1)


def test_methods_that_need_the_sites_one_by_one_refuse():
    """What is offered instead is neither another that refuses, nor one for closed forms."""
    for method in (pi.Importance(), pi.Rejection(), pi.SGLD(), pi.SGHMC()):
        with pytest.raises(
            pi.MethodError, match=r"needs every latent site continuous, but which is discrete. Fits: NUTS, "
        ) as refusal:
            pi.infer(mixture, {"y": Y}, method, progress=False)
        names = offered_instead(refusal)
        assert {"NUTS", "Gibbs", "Metropolis", "SMC"} <= names
        assert not {"SGLD", "SGHMC", "Importance", "Rejection", "Exact", "PMMH"} & names


def offered_instead(refusal):
    return set(str(refusal.value).partition("Fits: ")[2].rstrip(".").split(", "))


@pytest.mark.long
def test_what_is_offered_instead_takes_the_model():
    with pytest.raises(pi.MethodError, match="Fits: ") as refusal:
        pi.infer(mixture, {"y": Y}, pi.Importance(), progress=False)
    for name in sorted(offered_instead(refusal)):
        target_for(getattr(pi, name)(), pi.Model(mixture).bind({"y": Y}))


def test_what_fits_counts_without_end():
    def model(y):
        k = numpyro.sample("k", dist.Poisson(3.0))
        numpyro.sample("y", dist.Normal(k, 1.0), obs=y)

    for method in (pi.Importance(), pi.SMC(), pi.Exact(), pi.PMMH()):
        with pytest.raises(pi.MethodError, match=r"Fits: Metropolis, Gibbs\.$"):
            pi.infer(model, {"y": np.array(2.0)}, method, progress=False)


def slab(y):
    """A continuous site whose law depends on the discrete one: the prior is summed too."""
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    x = numpyro.sample("x", dist.Normal(3.0 * z, 1.0))
    numpyro.sample("y", dist.Normal(x, 0.5), obs=y)


def slab_exactly(y):
    """log p(y), P(z = 1 | y) and E[x | y]."""
    each = np.log([0.7, 0.3]) + stats.norm([0.0, 3.0], np.sqrt(1.25)).logpdf(y)
    law = special.softmax(each)
    return special.logsumexp(each), law[1], law @ ((y / 0.25 + np.array([0.0, 3.0])) / 5)


def assert_evidence(posterior, exact, name="log_evidence"):
    attrs, chains = posterior.tree.attrs, posterior.tree["posterior"].sizes["chain"]
    assert attrs[f"{name}_mcse"] < 0.05, "too coarse to say anything"
    assert abs(attrs[name] - exact) < stats.t.isf(FALSE_ALARM / 2, chains - 1) * attrs[f"{name}_mcse"]


LED = {"SMC": pi.SMC(chains=16, particles=200), "Tempering": pi.Tempering(chains=8, draws=400, warmup=300)}


def without_probabilities(self):
    """A prior of `slab` that forgets how likely the states are."""
    del self
    return lambda z, inputs: jnp.logaddexp(*dist.Normal(jnp.array([0.0, 3.0]), 1.0).log_prob(z[0]))


def mean_weight(summed):
    """Of draws of the prior, with its error."""
    weights = np.exp(SiteProposal(summed, None, "SMC").draw(np.random.default_rng(0), 4096)[1])
    return weights.mean(), weights.std() / 64


def test_weights_of_prior_draws_average_to_the_evidence(monkeypatch):
    summed, exact = Summed(pi.Model(slab).bind({"y": 1.4})), np.exp(slab_exactly(1.4)[0])
    found, error = mean_weight(summed)
    assert abs(found - exact) < stats.norm.isf(FALSE_ALARM / 2) * error < 0.2 * exact
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    monkeypatch.setattr(Summed, "log_prior", without_probabilities)
    found, error = mean_weight(summed)
    assert abs(found - exact) > stats.norm.isf(FALSE_ALARM / 2) * error


@pytest.mark.long
@pytest.mark.parametrize("name", LED)
def test_methods_that_begin_at_the_prior_sum_it_out_too(name, monkeypatch):
    exact, one, mean = slab_exactly(1.4)
    posterior = pi.infer(slab, {"y": 1.4}, LED[name], progress=False)
    assert_evidence(posterior, exact)
    assert_within_mcse(draws_of(posterior, "z"), one, resolution=0.3, names="z")
    assert_within_mcse(draws_of(posterior, "x"), mean, resolution=0.3, names="x")
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    monkeypatch.setattr(Summed, "log_prior", without_probabilities)
    with pytest.raises(AssertionError):
        assert_evidence(pi.infer(slab, {"y": 1.4}, LED[name], progress=False), exact)


@pytest.mark.long
def test_a_proposal_for_the_continuous_sites_gives_the_same_evidence():
    method = pi.SMC(chains=16, particles=200, proposal={"x": dist.Normal(1.0, 2.0)})
    posterior = pi.infer(slab, {"y": 1.4}, method, progress=False)
    assert_evidence(posterior, slab_exactly(1.4)[0])
    method = pi.SMC(proposal={"width": dist.Uniform(0.0, 1.0)})
    with pytest.raises(pi.MethodError, match="the support of width depends on a discrete site"):
        pi.infer(support_that_depends, {"y": ROWS[:2]}, method, progress=False)


def mixture_evidence(y):
    """log p(y) of `mixture`, by summing over all assignments."""
    terms = []
    for which in itertools.product([0, 1], repeat=len(y)):
        k = sum(which)
        prior = stats.betabinom(len(y), 2, 3).logpmf(k) - np.log(special.comb(len(y), k))
        terms.append(prior + stats.norm(np.array([-1.0, 1.5])[list(which)], 1).logpdf(y).sum())
    return special.logsumexp(terms)


@pytest.mark.long
def test_an_update_draws_the_states_of_new_rows_too():
    before = pi.infer(mixture, {"y": Y[:3]}, pi.NUTS(draws=2000), progress=False)
    after = before.update({"y": Y[3:]}, method=pi.SMC(chains=16, particles=250), progress=False)
    assert_mixture(after)
    assert_evidence(after, mixture_evidence(Y) - mixture_evidence(Y[:3]), "log_evidence_increment")
    assert after.tree["posterior"]["which"].sizes["point"] == len(Y)


@pytest.mark.long
def test_a_checkpoint_and_a_file_give_the_same_draws(tmp_path, fitted):
    first, again = (
        pi.infer(mixture, {"y": Y}, pi.NUTS(draws=200), checkpoint=tmp_path / "run", progress=False) for _ in range(2)
    )
    np.testing.assert_array_equal(draws_of(first, "which"), draws_of(again, "which"))
    fitted.save(tmp_path / "posterior.nc")
    loaded = pi.load_posterior(tmp_path / "posterior.nc", model=mixture, data={"y": Y})
    np.testing.assert_array_equal(draws_of(loaded, "which"), draws_of(fitted, "which"))


@pytest.mark.long
@pytest.mark.parametrize("model", [groups, nested, abundance, change, neighbours], ids=lambda model: model.__name__)
def test_it_agrees_with_gibbs(model):
    """Means of all sites, within the errors of both runs: 1e-6 shared by the scalars."""
    methods = (pi.NUTS(draws=2000), pi.Gibbs(draws=8000))
    runs = [pi.infer(model, MODELS[model], method, progress=False) for method in methods]
    names = list(runs[0].latents)
    for name in names:
        tables = [run.summary(var_names=name) for run in runs]
        error = np.hypot(*(table["mcse_mean"].fillna(0.0) for table in tables))
        apart = np.abs(tables[0]["mean"] - tables[1]["mean"])
        assert (apart <= stats.norm.isf(FALSE_ALARM / 2 / len(error) / len(names)) * error + 1e-12).all(), name


@pytest.mark.long
def test_the_whole_way_is_calibrated():
    """SBC of a mixture of two with known centres: ranks of the share and, of a discrete site, of a class's size."""
    thin, kept, count = 10, 63, 160
    share_ranks, size_ranks = [], []
    for replication in range(count):
        generator = np.random.default_rng([7, replication])
        share = generator.beta(2, 3)
        which = generator.random(12) < share
        y = generator.normal(np.where(which, 1.5, -1.0), 1.0)
        posterior_draws, target, _ = draw(
            pi.Model(mixture),
            {"y": y},
            pi.NUTS(chains=2, draws=(kept + 1) // 2 * thin),
            seed=replication,
            progress=False,
        )
        values = target.constrain(posterior_draws.positions[:, ::thin])
        shares, sizes = values["share"].ravel()[:kept], values["which"].sum(axis=-1).ravel()[:kept]
        share_ranks.append((shares < share).sum())
        below, ties = (sizes < which.sum()).sum(), (sizes == which.sum()).sum()
        size_ranks.append(below + generator.integers(0, ties + 1))  # ties are broken at random
    ranks = np.stack([share_ranks, size_ranks], axis=1)
    assert_uniform_ranks(ranks, kept, bins=8, names="share, size")


@pytest.mark.long
def test_programs_serve_other_data(monkeypatch):
    """What is compiled for one data set is used for another of the same shapes; an index is read anew."""
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    one = Summed(pi.Model(rows).bind({"y": ROWS}))
    assert one.fingerprint == Summed(pi.Model(rows).bind({"y": ROWS[::-1]})).fingerprint
    summed = Summed(pi.Model(groups).bind(MODELS[groups])).with_arrays({"y": ROWS, "group": GROUP[::-1].copy()})
    assert_sums(summed, AllStates(summed), jax.jit(summed.value_and_grad), 1)


def test_seconds_of_the_discrete_sites_are_told(fitted):
    assert json.loads(fitted.tree.attrs["seconds"])["discrete"] > 0
