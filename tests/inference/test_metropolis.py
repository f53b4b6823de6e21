"""Metropolis-Hastings with discrete sites and with proposals of the user, against exact answers; twins that must fail.

Each assertion has a false-alarm rate of 1e-6, shared by its comparisons (Bonferroni).
"""

import dataclasses
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax
from scipy import special, stats

import probinfer as pi
from probinfer.inference.choose import choose
from probinfer.inference.mcmc import plan, proposed
from probinfer.inference.mcmc.kernel import Draw
from probinfer.model import target as target_module
from probinfer.model.target import Target
from tests.inference.statistics import assert_law, assert_moments, assert_within_mcse


def infer(model, data, method, **rest):
    return pi.infer(model, data, method, progress=False, **rest)


def draws_of(posterior, name):
    return np.asarray(posterior.tree["posterior"][name], float)


# discrete sites -------------------------------------------------------------------------------------------------------

SEEN = np.array([2, 3, 1])


def animals(y):
    """An N-mixture: how many there are, and the share of them that is seen on a visit."""
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))
    n = numpyro.sample("n", dist.Geometric(0.2))
    numpyro.sample("y", dist.Binomial(n, p).expand([len(y)]), obs=y)


def animals_exactly():
    """Mean and standard deviation of n and p: p integrates to a beta function, n is summed."""
    n = np.arange(SEEN.max(), 2000)
    a, b = 2 + SEEN.sum(), 2 + len(SEEN) * n - SEEN.sum()
    logs = stats.geom.logpmf(n + 1, 0.2) + special.betaln(a, b)
    for y in SEEN:
        logs += special.gammaln(n + 1) - special.gammaln(n - y + 1)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    means = {"n": weights @ n, "p": weights @ (a / (a + b))}
    squares = {"n": weights @ n**2, "p": weights @ (a * (a + 1) / ((a + b) * (a + b + 1)))}
    return {name: (means[name], np.sqrt(squares[name] - means[name] ** 2)) for name in means}


def assert_animals(posterior, resolution=0.4):
    for name, (mean, sd) in animals_exactly().items():
        assert_moments(draws_of(posterior, name), mean, sd, resolution=resolution, names=name)


@pytest.mark.long
def test_counts_without_end_and_a_share():
    assert_animals(infer(animals, {"y": SEEN}, pi.Metropolis(draws=4000)))


def test_counts_without_end_and_a_share_in_short():
    posterior = infer(animals, {"y": SEEN}, pi.Metropolis(draws=500, warmup=200))
    assert posterior.tree.attrs["plan"] == "p: a random walk; n: a walk on the whole numbers, all entries at once"
    assert posterior.tree["posterior"]["n"].dtype.kind == "i"
    assert_animals(posterior, resolution=1.0)
    sizes = np.asarray(posterior.tree["sample_stats"]["step_size"])
    assert np.ptp(sizes) == 0  # nothing adapts while draws are kept


@pytest.mark.long
def test_a_walk_that_prefers_up_is_noticed(monkeypatch):
    right = plan._Conditionals._metropolis

    def upwards(self, name, apart, proposals, propose):
        def preferring(x, scale, key):
            there = propose(x, scale, key)
            return jnp.where((there < x) & jax.random.bernoulli(jax.random.fold_in(key, 9), 0.3, x.shape), x, there)

        return right(self, name, apart, proposals, preferring)

    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    monkeypatch.setattr(plan._Conditionals, "_metropolis", upwards)
    with pytest.raises(AssertionError, match="out of tolerance"):
        assert_animals(infer(animals, {"y": SEEN}, pi.Metropolis(draws=4000)))


RATES, SHARES = (1.0, 4.0, 9.0), (0.2, 0.5, 0.3)


def classes(y):
    z = numpyro.sample("z", dist.Categorical(jnp.array(SHARES)))
    n = numpyro.sample("n", dist.Poisson(jnp.array(RATES)[z]))
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(n + a, 1.0), obs=y)


def assert_classes(posterior):
    """P(z, n | y) by summing over a table: a integrates out of a normal law, and is half of what n leaves of y."""
    n = np.arange(100)
    table = np.array(SHARES)[:, None] * stats.poisson.pmf(n, np.array(RATES)[:, None]) * stats.norm.pdf(5, n, 2**0.5)
    table /= table.sum()
    z = draws_of(posterior, "z")
    assert_within_mcse(np.stack([z == k for k in range(3)], axis=-1), table.sum(axis=1), resolution=0.4, names="z")
    assert_within_mcse(draws_of(posterior, "n"), table.sum(axis=0) @ n, resolution=0.4, names="n")
    assert_within_mcse(draws_of(posterior, "a"), table.sum(axis=0) @ (5 - n) / 2, resolution=0.4, names="a")


@pytest.mark.long
def test_classes_counts_and_numbers_together():
    posterior = infer(classes, {"y": np.array(5.0)}, pi.Metropolis(draws=3000))
    assert posterior.tree.attrs["plan"].startswith("z: another of its values proposed, all entries at once; n: a walk")
    assert_classes(posterior)


@pytest.mark.long
def test_the_same_by_a_proposal_for_all_of_them():
    given = {"z": dist.Categorical(jnp.ones(3) / 3), "n": dist.Poisson(5.0), "a": dist.Normal(0.0, 1.5)}
    assert_classes(infer(classes, {"y": np.array(5.0)}, pi.Metropolis(draws=3000, proposal=given)))


@pytest.mark.long
def test_large_counts():
    """n ~ Poisson(1e5), seen with an error of 200: steps as long as the law is wide, learned in the warm-up."""

    def model(y):
        n = numpyro.sample("n", dist.Poisson(1e5))
        numpyro.sample("y", dist.Normal(n, 200.0), obs=y)

    n = np.arange(95_000, 105_000)
    weights = stats.poisson.pmf(n, 1e5) * stats.norm.pdf(100_300, n, 200)
    mean = weights @ n / weights.sum()
    sd = np.sqrt(weights @ (n - mean) ** 2 / weights.sum())
    posterior = infer(model, {"y": np.array(100_300.0)}, pi.Metropolis(draws=2000))
    assert_moments(draws_of(posterior, "n"), mean, sd, resolution=0.4)


@pytest.mark.long
def test_only_discrete_sites_are_drawn_too():
    """Values of several entries with bounds of their own: by summing over each."""

    def model(y):
        n = numpyro.sample("n", dist.DiscreteUniform(jnp.array([0, 2, 1]), jnp.array([3, 4, 6])))
        numpyro.sample("y", dist.Normal(n, 2.0), obs=y)

    y = np.array([5.0, 0.0, 3.0])
    exact = []
    for low, high, seen in zip((0, 2, 1), (3, 4, 6), y, strict=True):
        n = np.arange(low, high + 1)
        weights = stats.norm.pdf(seen, n, 2)
        exact.append(weights @ n / weights.sum())
    posterior = infer(model, {"y": y}, pi.Metropolis(draws=1000))
    assert_within_mcse(draws_of(posterior, "n"), np.array(exact), resolution=0.4)
    assert set(posterior.tree["sample_stats"].data_vars) == {"lp", "n_steps"}  # no walk: no step size, no acceptance


def test_classes_in_a_plate_are_known_as_such():
    def model(y):
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            n = numpyro.sample("n", dist.Binomial(5, 0.4))
            numpyro.sample("y", dist.Normal(z + n, 1.0), obs=y)

    sites = plan._Conditionals(Target(pi.Model(model).bind({"y": np.zeros(3)}), gradient=False), conjugate=False)
    assert [name for name in ("z", "n") if sites.unordered(name)] == ["z"]


# proposals of the user ------------------------------------------------------------------------------------------------

TOSSES = {"y": np.array([1, 0, 1, 1])}
LAW = stats.beta(5, 3)


def coin(y=None):
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))
    numpyro.sample("y", dist.Bernoulli(p), obs=y)


def drifting(current):
    """Far from symmetric: the law at p is not that from where it leads."""
    return {"p": dist.Kumaraswamy(1.0 + 6.0 * current["p"], 1.5)}


def near(current):
    """May leave the support, where proposals are rejected; symmetric otherwise."""
    return {"p": dist.Normal(current["p"], 0.3)}


PROPOSALS = {
    "independent": dist.Kumaraswamy(1.5, 1.0),
    "independent, wider than the support": {"p": dist.Normal(0.5, 0.5)},
    "drifting": drifting,
    "near": near,
}


def steps_from_exact_draws(given, chains=8000, proposals=4) -> np.ndarray:
    """Ends of chains that begin at exact draws of the posterior, in the site's own values."""
    target = Target(pi.Model(coin).bind(TOSSES), gradient=False)
    with target.precision():
        kernel = proposed.Proposed(target, given)
        z = special.logit(LAW.rvs(chains, random_state=np.random.default_rng(3)))[:, None]
        keys = np.random.default_rng(4).integers(0, 2**32, (chains, 2), dtype=np.uint32)

        def run(q, words):
            density = target.log_density(q, target.inputs)
            end, info = proposed.transition(
                lambda f: f(target.inputs),
                None,
                Draw(q, jnp.zeros_like(q), density),
                jnp.ones(()),
                (words[0], words[1]),
                jnp.int32(0),
                proposed=kernel,
                proposals=proposals,
                accept=0.234,
            )
            return end.q, end.log_density - target.log_density(end.q, target.inputs), info.acceptance

        ends, off, acceptance = map(np.asarray, jax.jit(jax.vmap(run))(z, keys))
    assert np.abs(off).max() < 1e-9
    assert 0.1 < acceptance.mean() < 0.95
    ends = ends[:, 0]
    assert np.mean(ends == z[:, 0]) < 0.3
    return special.expit(ends)


@pytest.mark.parametrize(
    "name", [name if name == "drifting" else pytest.param(name, marks=pytest.mark.long) for name in PROPOSALS]
)
def test_proposals_leave_the_law_where_it_is(name):
    assert_law(steps_from_exact_draws(PROPOSALS[name]), LAW.cdf, names=name)


@pytest.mark.long
@pytest.mark.parametrize("name", ["drifting", "independent"])
def test_the_ratio_of_hastings_left_out_is_noticed(name, monkeypatch):
    monkeypatch.setattr(target_module, "_programs", OrderedDict())
    monkeypatch.setattr(proposed, "_log_prob", lambda laws, values: jnp.zeros(()))
    with pytest.raises(AssertionError, match="the law is off"):
        assert_law(steps_from_exact_draws(PROPOSALS[name]), LAW.cdf, names=name)


@pytest.mark.long
def test_a_density_with_respect_to_the_wrong_values_is_noticed(monkeypatch):
    """The twin takes the density of the unconstrained space with proposals in the site's own values."""
    right = proposed.Proposed.at
    monkeypatch.setattr(
        proposed.Proposed, "at", lambda self, z, inputs: (p := right(self, z, inputs))._replace(own=p.log_density)
    )
    with pytest.raises(AssertionError, match="the law is off"):
        assert_law(steps_from_exact_draws(drifting), LAW.cdf)


def test_a_run_with_a_proposal_and_its_checkpoint(tmp_path):
    method = pi.Metropolis(draws=500, warmup=20, thin=2, proposal={"p": dist.Kumaraswamy(jnp.array(2.0), 1.0)})
    posterior = infer(coin, TOSSES, method, checkpoint=tmp_path / "run")
    assert_moments(draws_of(posterior, "p"), LAW.mean(), LAW.std(), quantile=LAW.ppf, resolution=0.7)
    again = infer(coin, TOSSES, method, checkpoint=tmp_path / "run")
    assert np.array_equal(draws_of(posterior, "p"), draws_of(again, "p"))
    posterior.save(tmp_path / "kept")
    kept = pi.load_posterior(tmp_path / "kept")
    assert '"distribution": "Kumaraswamy"' in kept.tree.attrs["settings"]
    other = dataclasses.replace(method, proposal={"p": dist.Beta(2.0, 2.0)})
    with pytest.raises(pi.CheckpointError, match=r"Metropolis\.proposal"):
        infer(coin, TOSSES, other, checkpoint=tmp_path / "run")


def pairs(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(a + 3.0 * z, 1.0), obs=y)


@pytest.mark.long
def test_discrete_sites_that_the_proposal_leaves_out_are_summed_out():
    y = np.array([0.2, 2.9, 3.5, -0.4])
    grid = np.linspace(-6, 6, 4001)
    weights = stats.norm.pdf(grid)
    for each in y:
        weights = weights * (0.7 * stats.norm.pdf(each, grid) + 0.3 * stats.norm.pdf(each, grid + 3))
    weights /= weights.sum()
    posterior = infer(pairs, {"y": y}, pi.Metropolis(proposal=lambda now: {"a": dist.Normal(now["a"], 0.8)}))
    assert posterior.tree.attrs["summed_out"].startswith("z: 2 values")
    assert_within_mcse(draws_of(posterior, "a"), weights @ grid, resolution=0.4)
    assert draws_of(posterior, "z").shape[-1] == 4


# wrong calls ----------------------------------------------------------------------------------------------------------


def two(y=None):
    m = numpyro.sample("m", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(m.sum(), s), obs=y)


GOOD = {"m": dist.Normal(jnp.zeros(2), 2.0), "s": dist.HalfNormal(2.0)}
REFUSED = {
    "no such site": ({"q": dist.Normal(0, 1)}, "came as a dict of q; wanted a NumPyro distribution for each of m, s"),
    "missing site": ({"m": GOOD["m"]}, "came as a dict of m; wanted a NumPyro distribution for each of m, s"),
    "shape": ({**GOOD, "m": dist.Normal(0.0, 1.0)}, r"proposal for m has shape \(\), the site \(2,\)"),
    "discrete": ({**GOOD, "s": dist.Poisson(2.0)}, "proposal for s is Poisson.*, discrete, and the site is not"),
    "one for two sites": (dist.Normal(0, 1), "proposal came as Normal; wanted"),
    "support": (
        {**GOOD, "s": dist.Uniform(0.0, 0.2)},
        "proposal for s has no mass at .*, where the posterior has some",
    ),
    "number": (lambda now: 3.0, "proposal returned float; wanted a NumPyro distribution for each of m, s"),
    "number for a site": (lambda now: {**GOOD, "s": 1.0}, "proposal for s came as float"),
    "shape of a function's": (lambda now: {**GOOD, "m": dist.Normal(now["s"], 1.0)}, "proposal for m has shape"),
    "unknown site": (lambda now: {"m": dist.Normal(now["mu"], 1.0)}, "proposal raised KeyError: 'mu'. It takes a dict"),
    "values": (lambda now: GOOD if now["s"] > 1 else {}, "cannot be traced by JAX"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_proposals_that_do_not_fit_are_refused(case):
    given, text = REFUSED[case]
    with pytest.raises(pi.MethodError, match=text):
        infer(two, {"y": np.array(1.0)}, pi.Metropolis(proposal=given))


@pytest.mark.parametrize("given", [3, "prior", {"p": 1.0}, dist.Normal])
def test_what_is_no_proposal_is_refused_at_once(given):
    with pytest.raises(pi.MethodError, match=r"Metropolis: proposal is .*; wanted a NumPyro distribution"):
        pi.Metropolis(proposal=given)


def test_vectors_for_values_are_refused():
    def model(y):
        counts = numpyro.sample("counts", dist.Multinomial(4, jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("y", dist.Normal(counts.sum(), 1.0), obs=y)

    with pytest.raises(pi.MethodError, match=r"Metropolis: the discrete site counts .* has vectors for values"):
        infer(model, {"y": np.array([1.0])}, pi.Metropolis())


def looped(x):
    """x, through a loop that has no gradient."""
    return 8 * lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] / 2), (0, x))[1]


def test_counts_without_end_beside_a_loop_get_a_method():
    def model(y=None):
        k = numpyro.sample("k", dist.Poisson(3.0))
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(looped(a) + k, 1.0), obs=y)

    method, target, reason = choose(pi.Model(model).bind({"y": np.array(2.0)}), steered=False)
    assert method == pi.Gibbs()
    assert not target.has_gradient
    assert "cannot be summed out" in reason
    assert "no gradient" in reason
