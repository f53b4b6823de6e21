"""Expectations against exact integrals: values, coverage of the stated errors, rates, and twins that must fail.

Each assertion has a false-alarm rate of 1e-6, shared by its comparisons (Bonferroni).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from numpyro.distributions import constraints
from scipy import special, stats

import probinfer as pi
from probinfer.inference.montecarlo import adapt, rejection
from probinfer.inference.montecarlo.pareto import khat, smooth, worst_khat

FALSE_ALARM = 1e-6


def assert_close(estimate: pi.Estimate, exact, *, resolution: float) -> None:
    """Within the t quantile of the stated error, which is itself below `resolution` of the exact value's size."""
    value, mcse, exact = (np.atleast_1d(np.asarray(x, float)) for x in (estimate.value, estimate.mcse, exact))
    bound = stats.t.isf(FALSE_ALARM / exact.size / 2, min(estimate.dof, 1000)) * mcse
    assert (mcse <= resolution * np.maximum(np.abs(exact), 1e-300)).all(), f"too coarse: {mcse} for {exact}"
    assert (np.abs(value - exact) <= bound).all(), f"{value} is not {exact} within {bound}"


def coverage(f, over, method, exact: float, runs: int, **more) -> tuple[int, list[pi.Estimate]]:
    """How many of the runs' 80% intervals hold the exact value."""
    estimates = [pi.expect(f, over, method, seed=seed, level=0.8, **more) for seed in range(runs)]
    inside = sum(low <= exact <= high for low, high in (estimate.interval() for estimate in estimates))
    return inside, estimates


def assert_coverage(inside: int, runs: int, level: float = 0.8) -> None:
    assert stats.binomtest(inside, runs, level).pvalue > FALSE_ALARM, f"{inside} of {runs} intervals of level {level}"


# closed forms -------------------------------------------------------------------------------------------------------

NORMAL3 = dist.MultivariateNormal(jnp.array([1.0, 0.0, -1.0]), jnp.diag(jnp.array([1.0, 4.0, 0.25])))


def polynomial(x):
    return {"square": x**2, "product": x[0] ** 2 * x[1] ** 2 * x[2]}


POLYNOMIAL = {"square": np.array([2.0, 4.0, 1.25]), "product": -2.0 * 4.0}


@pytest.mark.parametrize(
    "method",
    [
        pi.MonteCarlo(),
        pytest.param(pi.MonteCarlo(antithetic=True), marks=pytest.mark.long),
        pi.QuasiMonteCarlo(),
        pytest.param(pi.Importance(), marks=pytest.mark.long),
        None,
    ],
    ids=["plain", "antithetic", "quasi", "importance", "chosen"],
)
def test_polynomials_of_a_normal_vector(method):
    estimate = pi.expect(polynomial, NORMAL3, method)
    for name, exact in POLYNOMIAL.items():
        part = pi.expect(lambda x, name=name: polynomial(x)[name], NORMAL3, method)
        assert_close(part, exact, resolution=0.06)
        assert np.shape(estimate.value[name]) == np.shape(exact)
        if not isinstance(method, pi.Importance):  # which is fitted to what is asked for
            np.testing.assert_allclose(part.value, estimate.value[name], rtol=1e-9)
    assert estimate.verdict is pi.Verdict.GOOD


A, U = np.array([1.0, 0.7, 0.5, 0.3, 0.2]), np.array([0.3, 0.6, 0.5, 0.2, 0.8])
GENZ = {  # Genz (1984): f on the unit cube, and its integral
    "oscillatory": (
        lambda x: jnp.cos(2 * np.pi * U[0] + A @ x),
        np.cos(2 * np.pi * U[0] + A.sum() / 2) * np.prod(2 * np.sin(A / 2) / A),
    ),
    "product peak": (
        lambda x: jnp.prod(1 / (A**-2 + (x - U) ** 2)),
        np.prod(A * (np.arctan(A * (1 - U)) + np.arctan(A * U))),
    ),
    "gaussian": (
        lambda x: jnp.exp(-jnp.sum((A * (x - U)) ** 2)),
        np.prod(np.sqrt(np.pi) / (2 * A) * (special.erf(A * (1 - U)) + special.erf(A * U))),
    ),
    "continuous": (
        lambda x: jnp.exp(-jnp.sum(A * jnp.abs(x - U))),
        np.prod((2 - np.exp(-A * U) - np.exp(-A * (1 - U))) / A),
    ),
    "discontinuous": (
        lambda x: jnp.where((x[0] > U[0]) | (x[1] > U[1]), 0.0, jnp.exp(A @ x)),
        np.prod(np.expm1(A[:2] * U[:2]) / A[:2]) * np.prod(np.expm1(A[2:]) / A[2:]),
    ),
}
CUBE = dist.Uniform(jnp.zeros(5), jnp.ones(5))


@pytest.mark.parametrize("name", GENZ)
@pytest.mark.parametrize("method", [pi.MonteCarlo(), pi.QuasiMonteCarlo()], ids=["plain", "quasi"])
def test_genz_functions(name, method):
    f, exact = GENZ[name]
    assert_close(pi.expect(f, CUBE, method), exact, resolution=0.02)


def test_a_wrong_exact_value_is_noticed():
    f, exact = GENZ["gaussian"]
    with pytest.raises(AssertionError, match="is not"):
        assert_close(pi.expect(f, CUBE, pi.QuasiMonteCarlo()), exact * (1 + 1e-3), resolution=0.02)


@pytest.mark.parametrize(
    ("law", "mean"),
    [
        (stats.gamma(3.0, scale=2.0), 6.0),
        (stats.poisson(4.0), 4.0),
        (stats.multivariate_normal([1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]]), [1.0, 2.0]),
        (stats.dirichlet([1.0, 2.0, 3.0]), [1 / 6, 2 / 6, 3 / 6]),
        (dist.Beta(2.0, 3.0), 0.4),
        pytest.param(dist.LogNormal(0.0, 0.5), np.exp(0.125), marks=pytest.mark.long),
        (dist.StudentT(9.0, 2.0, 1.0), 2.0),
        (dist.InverseGamma(9.0, 16.0), 2.0),
        (dist.Gamma(jnp.array([1.0, 4.0])).to_event(1), [1.0, 4.0]),
        (dist.Exponential(2.0).expand([2]), [0.5, 0.5]),
        pytest.param(
            dist.LowRankMultivariateNormal(jnp.ones(2), jnp.ones((2, 1)), jnp.ones(2)),
            [1.0, 1.0],
            marks=pytest.mark.long,
        ),
        pytest.param(dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])), [1 / 6, 2 / 6, 3 / 6], marks=pytest.mark.long),
    ],
    ids=lambda value: type(value).__name__,
)
def test_mean_of_a_distribution(law, mean):
    assert_close(pi.expect(lambda x: x, law), mean, resolution=0.02)


@pytest.mark.parametrize("edge", [3.0, 6.0])
def test_a_nearly_certain_event_is_one_less_its_contrary(edge):
    """Most values are the same: weights that vary do not make noise of them."""
    estimate = pi.expect(lambda x: x < edge, stats.norm(), pi.Importance())
    rare = stats.norm.sf(edge)
    assert estimate.verdict is pi.Verdict.GOOD
    assert abs(estimate.value - (1 - rare)) < 6 * estimate.mcse + 1e-15
    assert estimate.mcse < 0.1 * rare, "the error is that of the contrary event"


@pytest.mark.long
def test_importance_over_a_law_with_a_bounded_support():
    for law in (stats.beta(2.0, 5.0), dist.Beta(2.0, 5.0)):
        assert_close(pi.expect(lambda x: x**2, law, pi.Importance()), stats.beta(2, 5).moment(2), resolution=0.02)


def test_a_given_proposal():
    exact = stats.norm.sf(6)
    assert_close(
        pi.expect(lambda x: x > 6, stats.norm(), pi.Importance(proposal=stats.norm(6, 1))), exact, resolution=0.1
    )


def test_rejection_from_a_density():
    method = pi.Rejection(draws=4000, proposal=dist.Uniform(0.0, 1.0))
    estimate = pi.expect(lambda x: x, dist.Beta(3.0, 2.0), method)
    assert_close(estimate, 0.6, resolution=0.01)
    exact, m = 1 / stats.beta(3, 2).pdf(2 / 3), 4000
    assert abs(estimate.acceptance - exact) < stats.norm.isf(FALSE_ALARM / 2) * exact * np.sqrt((1 - exact) / m) + 1e-3


@pytest.mark.parametrize(
    ("f", "bounds"),
    [
        pytest.param(lambda x: x**2, 2.0, id="f counts there"),
        pytest.param(lambda x: jnp.abs(x) < 1, 2.0, id="f is zero there", marks=pytest.mark.long),
    ],
)
def test_a_proposal_that_cuts_the_distribution_off_is_bad(f, bounds):
    cut = pi.expect(f, dist.Normal(0.0, 1.0), pi.Rejection(proposal=dist.Uniform(-bounds, bounds)))
    assert cut.verdict is pi.Verdict.BAD
    assert "The proposal has no mass at" in cut.reason
    whole = pi.expect(f, dist.Normal(0.0, 1.0), pi.Rejection(proposal=dist.Normal(0.0, 2.0)))
    assert whole.verdict is pi.Verdict.GOOD


def test_batched_numpy_functions():
    estimate = pi.expect(lambda x: np.exp(x), stats.norm(), batched=True)
    assert_close(estimate, np.exp(0.5), resolution=0.01)


def test_a_discrete_uniform_law():
    """NumPyro's quantiles of it are no whole numbers, and too low by a half."""
    estimate = pi.expect(lambda x: {"mean": x, "square": x**2}, dist.DiscreteUniform(2, 7))
    assert abs(estimate.value["mean"] - 4.5) < 1e-3
    assert abs(estimate.value["square"] - 139 / 6) < 1e-2


def test_quantiles_that_are_searched_for_are_not_used():
    estimate = pi.expect(lambda x: x, stats.vonmises(2.0))
    assert estimate.method == "MonteCarlo"
    assert "no closed form" in estimate.reason


# rare events --------------------------------------------------------------------------------------------------------


def test_tail_probabilities_to_a_billionth():
    for law, c in ((stats.norm(), 6.0), (stats.gamma(2.0), 24.0), (stats.t(3), 600.0)):
        estimate = pi.expect(lambda x, c=c: x > c, law, pi.Importance(draws=5000))
        assert_close(estimate, law.sf(c), resolution=0.02)
        assert estimate.verdict is pi.Verdict.GOOD
    assert_close(
        pi.expect(lambda x: jnp.abs(x) > 6, stats.norm(), pi.Importance()), 2 * stats.norm.sf(6), resolution=0.02
    )


def test_tail_probability_in_five_dimensions_by_a_score():
    law = dist.Normal(0, 1).expand([5])
    estimate = pi.expect(lambda x: x.sum() > 6 * 5**0.5, law, pi.Importance(score=jnp.sum, round_draws=1000))
    assert_close(estimate, stats.norm.sf(6), resolution=0.03)


def test_a_score_that_goes_on_beyond_the_event():
    """Levels end where they pass it: the band above 6 has about a tenth of the tail's probability."""
    law, method = stats.norm(), pi.Importance(draws=5000, score=lambda x: x)
    estimate = pi.expect(lambda x: (x > 6) & (x < 6.02), law, method)
    assert_close(estimate, law.sf(6) - law.sf(6.02), resolution=0.05)


def test_a_score_that_leads_away_ends(monkeypatch):
    monkeypatch.setattr(adapt, "_LEVELS", 20)
    with pytest.raises(pi.MethodError, match=r"leads away from the event.* the sign may be wrong"):
        pi.expect(lambda x: x > 1e6, stats.norm(), pi.Importance(score=lambda x: -x))


def test_a_score_that_leads_away_from_what_was_met_is_left():
    """The first proposals meet the event; levels of the wrong sign would never end."""
    estimate = pi.expect(lambda x: x > 6, stats.norm(), pi.Importance(draws=5000, score=lambda x: -x))
    assert_close(estimate, stats.norm.sf(6), resolution=0.05)


@pytest.mark.long
def test_the_relative_error_of_a_tail_probability_holds():
    method = pi.Importance(draws=1000, rounds=4, round_draws=500)
    inside, estimates = coverage(lambda x: x > 6, stats.norm(), method, stats.norm.sf(6), runs=60)
    assert_coverage(inside, 60)
    assert all(estimate.relative_error < 0.05 for estimate in estimates)


def test_a_rare_event_that_no_draw_met_is_doubtful():
    for method in (pi.MonteCarlo(), pi.QuasiMonteCarlo()):
        estimate = pi.expect(lambda x: x > 6, stats.norm(), method)
        assert estimate.value == 0
        assert estimate.verdict is not pi.Verdict.GOOD
        assert "are the same" in estimate.reason


def test_a_rare_event_that_few_draws_met_is_not_good():
    estimate = pi.expect(lambda x: x > 4, stats.norm(), pi.MonteCarlo(draws=50_000))
    assert estimate.verdict is not pi.Verdict.GOOD
    assert "few large terms" in estimate.reason


# errors and rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        pi.MonteCarlo(draws=2000),
        pytest.param(pi.MonteCarlo(draws=2000, antithetic=True), marks=pytest.mark.long),
        pytest.param(pi.MonteCarlo(draws=2000, control=lambda x: x, control_mean=0.0), marks=pytest.mark.long),
        pi.QuasiMonteCarlo(points=64, randomisations=8),
    ],
    ids=["plain", "antithetic", "control", "quasi"],
)
def test_intervals_have_their_level(method):
    inside, estimates = coverage(np.exp, stats.norm(0, 0.5), method, np.exp(0.125), runs=200, batched=True)
    assert_coverage(inside, 200)
    assert len({estimate.value for estimate in estimates}) == 200


def test_an_error_that_is_stated_too_small_is_noticed():
    runs = 200
    estimates = [
        pi.expect(np.exp, stats.norm(0, 0.5), pi.MonteCarlo(draws=500), seed=s, batched=True) for s in range(runs)
    ]
    t = stats.norm.isf(0.1)
    inside = sum(abs(e.value - np.exp(0.125)) <= t * e.mcse / 2 for e in estimates)
    with pytest.raises(AssertionError, match="intervals of level"):
        assert_coverage(inside, runs)


def slope(method_of, sizes) -> float:
    """Of log root mean square error against log size, for a smooth integrand in three dimensions."""
    law, exact, errors = stats.multivariate_normal(np.zeros(3)), np.exp(0.06), []

    def f(x):
        return np.exp(0.2 * x.sum(axis=1))

    for size in sizes:
        estimates = [pi.expect(f, law, method_of(size), seed=s, batched=True) for s in range(40)]
        errors.append(np.sqrt(np.mean([(estimate.value - exact) ** 2 for estimate in estimates])))
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def test_rates():
    """40 runs each: the log of a root mean square error has a standard deviation of 0.11, and over a factor of 64 in
    three sizes the slope has 0.11 * sqrt(2) / log(64) = 0.038; the band is five of these."""
    sizes = (64, 512, 4096)
    plain = slope(lambda n: pi.MonteCarlo(draws=n), sizes)
    assert abs(plain + 0.5) < 0.19
    assert slope(lambda n: pi.QuasiMonteCarlo(points=n, randomisations=4), sizes) < -0.8


def test_antithetic_and_control_variates_lower_the_error():
    def error(**settings):
        return pi.expect(np.exp, stats.norm(0, 0.5), pi.MonteCarlo(**settings), batched=True).mcse

    plain = error()
    assert error(antithetic=True) < 0.5 * plain
    assert error(control=lambda x: x, control_mean=0.0) < 0.5 * plain


def test_a_wrong_control_mean_biases_and_is_noticed():
    method = pi.MonteCarlo(control=lambda x: x, control_mean=0.1)
    with pytest.raises(AssertionError, match="is not"):
        assert_close(pi.expect(jnp.exp, stats.norm(), method), np.exp(0.5), resolution=0.02)


def test_means_that_do_not_exist_are_found():
    assert pi.expect(lambda x: x, stats.cauchy(), pi.MonteCarlo()).verdict is pi.Verdict.BAD
    estimate = pi.expect(lambda x: x**2, stats.norm(0, 2), pi.Importance(proposal=stats.norm(0, 0.8)))
    assert estimate.verdict is pi.Verdict.BAD
    assert estimate.pareto_khat > 0.7


def test_psis_agrees_with_arviz():
    """The same method, written twice: fits are equal but for rounding."""
    for shape in (0.2, 0.5, 0.9):
        lw = np.log(stats.genpareto(shape).rvs(4000, random_state=np.random.default_rng(0)) + 1)
        smoothed = smooth(lw)
        theirs, k = array_stats.psislw(-lw)
        assert smoothed.khat == pytest.approx(float(k), abs=1e-6)
        np.testing.assert_allclose(smoothed.log_weights, theirs, atol=1e-6)
    assert np.isnan(khat(np.ones(1000)))


@pytest.mark.parametrize(
    ("law", "f", "exact"),
    [
        (dist.HalfNormal(2.0), lambda x: x, 4 / np.sqrt(2 * np.pi)),
        (stats.beta(1.5, 3.5), lambda x: x, 0.3),
        (dist.Normal(0.0, 1.0), jnp.exp, np.exp(0.5)),
    ],
)
def test_terms_that_pile_up_at_zero_have_no_tail(law, f, exact):
    """A proposal fitted to f p makes most terms E f, and some 0 where only the distribution itself goes."""
    estimate = pi.expect(f, law, pi.Importance())
    assert_close(estimate, exact, resolution=0.01)
    assert estimate.verdict is pi.Verdict.GOOD


def test_shapes_see_tails_on_either_side_and_no_others():
    heavy = stats.pareto(1.5).rvs(10_000, random_state=np.random.default_rng(0))
    for term in (heavy, -heavy, 1e6 - heavy):
        assert 0.5 < worst_khat(term[:, None]) < 0.9
    piled = np.where(np.arange(10_000) % 10, 1 + stats.norm.cdf(heavy - 3) / 10, 0.0)
    assert worst_khat(piled[:, None]) is None


def test_weights_within_a_factor_of_two_have_no_tail():
    """Of a posterior with an edge in the middle of its proposal: 98% are effective."""
    generator = np.random.default_rng(0)
    log_weights = np.log(generator.uniform(1.0, 1.9, 10_000))
    smoothed = smooth(log_weights)
    assert np.isnan(smoothed.khat)
    np.testing.assert_allclose(smoothed.log_weights, log_weights - special.logsumexp(log_weights))


# models -------------------------------------------------------------------------------------------------------------

Y = np.array([1.0, 2.0, 0.0, 1.5, 0.3])
PRECISION = 5 + 1 / 4
MEAN, SD = Y.sum() / PRECISION, PRECISION**-0.5
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(5), np.eye(5) + 4).logpdf(Y)


def normal(y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    with numpyro.plate("n", 5):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


@pytest.mark.parametrize(
    "method",
    [
        None,
        pytest.param(pi.Importance(proposal=dist.StudentT(5.0, 1.0, 1.0)), marks=pytest.mark.long),
        pi.Rejection(draws=5000),
    ],
    ids=["adapted", "given", "rejection"],
)
def test_conjugate_model(method):
    estimate = pi.expect(lambda s: jnp.array([s["mu"], s["mu"] ** 2]), normal, method, data={"y": Y})
    assert_close(estimate, [MEAN, MEAN**2 + SD**2], resolution=0.02)
    assert estimate.verdict is pi.Verdict.GOOD
    z = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(estimate.log_evidence - LOG_EVIDENCE) < z * estimate.log_evidence_mcse
    assert estimate.log_evidence_mcse < 0.03


@pytest.mark.parametrize("method", [pi.Importance(), pi.Rejection(draws=2000)], ids=lambda m: type(m).__name__)
def test_infer_draws_the_posterior(method):
    posterior = pi.infer(normal, {"y": Y}, method, progress=False)
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert posterior.tree["posterior"]["mu"].dims == ("sample",)
    mu = posterior.latents["mu"]
    assert stats.kstest(mu, stats.norm(MEAN, SD).cdf).pvalue > FALSE_ALARM
    assert stats.kstest(mu, stats.norm(MEAN, 1.3 * SD).cdf).pvalue < FALSE_ALARM  # that it could tell
    attrs = posterior.tree.attrs
    assert abs(attrs["log_evidence"] - LOG_EVIDENCE) < 5 * attrs["log_evidence_mcse"]
    again = pi.infer(normal, {"y": Y}, method, progress=False).latents["mu"]
    np.testing.assert_array_equal(mu, again)
    assert not np.array_equal(mu, pi.infer(normal, {"y": Y}, method, seed=1, progress=False).latents["mu"])


def gamma_poisson(y=None):
    rate = numpyro.sample("rate", dist.Gamma(3.0, 0.5))
    with numpyro.plate("n", 6):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


@pytest.mark.parametrize(
    "method",
    [
        pi.Importance(),
        pytest.param(pi.Importance(proposal=dist.Gamma(2.0, 1.0)), marks=pytest.mark.long),
        pytest.param(pi.Rejection(draws=4000), marks=pytest.mark.long),
    ],
    ids=["adapted", "given", "rejection"],
)
def test_a_positive_site(method):
    y = np.array([2, 0, 3, 1, 1, 4])
    a, b = 3 + y.sum(), 0.5 + 6
    r, p = 3.0, 0.5
    evidence = r * np.log(p) - special.gammaln(r) + special.gammaln(a) - a * np.log(b) - special.gammaln(y + 1).sum()
    estimate = pi.expect(lambda s: s["rate"], gamma_poisson, method, data={"y": y})
    assert_close(estimate, a / b, resolution=0.02)
    assert abs(estimate.log_evidence - evidence) < 5 * estimate.log_evidence_mcse


def test_both_modes_are_found():
    target = pi.LogDensity(lambda x: jnp.logaddexp(-0.5 * jnp.sum((x - 4) ** 2), -0.5 * jnp.sum((x + 4) ** 2)), dim=3)
    estimate = pi.expect(lambda s: jnp.array([s["x"][0] > 0, s["x"][0] ** 2]), target)
    assert_close(estimate, [0.5, 17.0], resolution=0.05)
    exact = np.log(2) + 1.5 * np.log(2 * np.pi)
    assert abs(estimate.log_evidence - exact) < 5 * estimate.log_evidence_mcse


def test_a_light_proposal_is_bad_and_says_so():
    posterior = pi.infer(normal, {"y": Y}, pi.Importance(proposal=dist.Normal(1.9, 0.1)), progress=False)
    assert posterior.report.verdict is pi.Verdict.BAD
    assert posterior.tree.attrs["pareto_khat"] > 0.7


def test_wrong_bounds_are_found():
    with pytest.raises(
        pi.MethodError, match=r"Rejection: the bound is too low: .* at mu = .*Raise it, or leave it out"
    ):
        pi.infer(normal, {"y": Y}, pi.Rejection(log_bound=-8.0), progress=False)
    with pytest.raises(pi.MethodError, match="the bound is too low"):
        pi.expect(lambda x: x, stats.beta(3, 2), pi.Rejection(proposal=stats.uniform(), log_bound=0.3))


def test_a_found_bound_that_is_too_low_is_raised_and_doubtful(monkeypatch):
    """A finder that stops e^2 below the top: half of what it would keep is too flat, and the draws are exact still."""
    found = rejection._found
    monkeypatch.setattr(rejection, "_found", lambda *arguments: found(*arguments) - 2)
    posterior = pi.infer(normal, {"y": Y}, pi.Rejection(draws=4000), progress=False)
    assert posterior.tree.attrs["bound_raised"] >= 1
    assert posterior.report.verdict is pi.Verdict.DOUBTFUL
    assert "exceeded and raised" in str(posterior.report)
    assert stats.kstest(posterior.latents["mu"], stats.norm(MEAN, SD).cdf).pvalue > FALSE_ALARM
    estimate = pi.expect(lambda s: s["mu"], normal, pi.Rejection(), data={"y": Y})
    assert estimate.verdict is pi.Verdict.DOUBTFUL


def test_draws_under_a_bound_that_is_too_low_are_biased_by_so_much_that_the_law_test_sees_it():
    """The twin: the same rejection without the check, at e^2 below the top."""
    generator = np.random.default_rng(0)
    mu = generator.normal(0, 2, 200_000)
    log_likelihood = stats.norm(mu[:, None], 1).logpdf(Y).sum(axis=1)
    kept = mu[np.log(generator.random(len(mu))) <= log_likelihood - (log_likelihood.max() - 2)]
    assert stats.kstest(kept[:4000], stats.norm(MEAN, SD).cdf).pvalue < FALSE_ALARM


def test_a_run_out_of_proposals_is_said():
    posterior = pi.infer(normal, {"y": Y}, pi.Rejection(draws=1000, max_proposals=2000), progress=False)
    assert posterior.report.outcome is pi.Outcome.OUT_OF_BUDGET
    assert posterior.report.verdict is pi.Verdict.DOUBTFUL
    assert "draws were accepted" in str(posterior.report)


# posteriors ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chains():
    return pi.infer(normal, {"y": Y}, pi.NUTS(chains=4, draws=1000), progress=False)


def test_functions_of_a_posterior(chains):
    estimate = pi.expect(lambda s: jnp.array([s["mu"], s["mu"] > 1.0]), chains)
    assert_close(estimate, [MEAN, stats.norm(MEAN, SD).sf(1.0)], resolution=0.1)
    row = chains.summary().loc["mu"]
    assert estimate.value[0] == pytest.approx(row["mean"])
    assert estimate.mcse[0] == pytest.approx(row["mcse_mean"])
    assert estimate.verdict is pi.Verdict.GOOD


def test_a_doubtful_posterior_gives_a_doubtful_estimate():
    one = pi.infer(normal, {"y": Y}, pi.NUTS(chains=1, draws=500), progress=False)
    estimate = pi.expect(lambda s: s["mu"], one)
    assert estimate.verdict is pi.Verdict.DOUBTFUL
    assert "There is one chain" in estimate.reason


# what is refused ----------------------------------------------------------------------------------------------------


def test_estimates_show_themselves():
    estimate = pi.expect(lambda x: {"<a>": x}, dist.Normal(1.0, 1.0), pi.MonteCarlo(draws=1000), level=0.95)
    low, high = estimate.interval()
    assert low["<a>"] < estimate.value["<a>"] < high["<a>"]
    assert "95% interval" in estimate._repr_html_()
    assert "<a>" not in estimate._repr_html_()
    assert str(estimate).startswith("✓ GOOD: <a> = ")
    with pytest.raises(pi.MethodError, match="level is 2; an interval's level"):
        estimate.interval(2)
    with pytest.raises(AttributeError):
        estimate.value = 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: pi.expect(3, stats.norm()), "f came as int; wanted a function"),
        (lambda: pi.expect(jnp.exp, 3), "over came as int; wanted a NumPyro distribution"),
        (lambda: pi.expect(jnp.exp, stats.norm), "over came as norm_gen; wanted .* such as stats.norm"),
        (lambda: pi.expect(jnp.exp, dist.Normal), "over came as Normal; wanted a NumPyro distribution"),
        (lambda: pi.expect(jnp.exp, stats.norm(), "mc"), r"method came as 'mc'; wanted one of pi.MonteCarlo\(\)"),
        (lambda: pi.expect(jnp.exp, stats.norm(), pi.MonteCarlo), r"did you mean MonteCarlo\(\)"),
        (lambda: pi.expect(jnp.exp, stats.norm(), data={}), "data came along with a rv_continuous_frozen"),
        (lambda: pi.expect(lambda x: float(x), stats.norm()), "cannot be traced by JAX. Write it with jax.numpy"),
        (lambda: pi.expect(lambda x: "a", stats.norm(), batched=True), "f returned str; wanted real numbers"),
        (lambda: pi.expect(np.sum, stats.norm(), batched=True), "one entry for each point"),
        (
            lambda: pi.expect(lambda x: jnp.exp(1j * x), stats.norm()),
            "f returned complex numbers; wanted real .* parts",
        ),
        (lambda: pi.expect(lambda x: jnp.zeros(0), stats.norm()), "f returned an array without entries"),
        (lambda: pi.expect(jnp.sum, stats.special_ortho_group(3)), "density scipy.stats does not know"),
        (
            lambda: pi.expect(jnp.sum, dist.ImproperUniform(dist.constraints.real, (), ())),
            "ImproperUniform, which has no integral",
        ),
        (lambda: pi.expect(jnp.sum, dist.Dirichlet(jnp.ones(3)), pi.QuasiMonteCarlo()), "Dirichlet has none"),
        (lambda: pi.expect(jnp.exp, stats.poisson(3), pi.Importance()), "is discrete: a proposal cannot be adapted"),
        (lambda: pi.expect(jnp.exp, stats.norm(), pi.Rejection()), "Rejection needs a proposal for"),
        (lambda: pi.expect(lambda s: 0.0, normal, pi.MonteCarlo(), data={"y": Y}), "nobody can draw directly. Fits"),
        (lambda: pi.expect(lambda x: "a", stats.norm()), "f returned what is no number; wanted real numbers"),
        (
            lambda: pi.expect(jnp.exp, stats.norm(), pi.MonteCarlo(control=jnp.log, control_mean=0.0)),
            r"control is not finite at \d+ of 100000 points",
        ),
        (
            lambda: pi.expect(
                lambda x: 1.0 * (x.sum() > 20),
                dist.Normal(jnp.zeros(3), 1).to_event(1),
                pi.Importance(score=lambda x: x),
            ),
            "score returned 3 numbers for a point; wanted one",
        ),
        (lambda: pi.MonteCarlo(draws=0), "MonteCarlo: draws is 0"),
        (lambda: pi.MonteCarlo(control=jnp.exp), "control and control_mean go together"),
        (lambda: pi.QuasiMonteCarlo(points=1000), "points is 1000; wanted a power of two, such as 1024"),
        (lambda: pi.Importance(draws=2), "Importance: draws is 2"),
        (lambda: pi.Importance(score=3), "score is 3; wanted a function"),
        (lambda: pi.Rejection(log_bound=np.inf), "log_bound is inf; wanted a finite number"),
        (
            lambda: pi.infer(normal, {"y": Y}, pi.Importance(proposal={"nu": dist.Normal(0, 1)}), progress=False),
            "proposal came as a dict of nu; wanted a NumPyro distribution for each of mu",
        ),
        (
            lambda: pi.infer(normal, {"y": Y}, pi.Importance(proposal=dist.Normal(jnp.zeros(2), 1)), progress=False),
            r"proposal for mu has shape \(2,\), the site \(\)",
        ),
        (
            lambda: pi.infer(pi.LogDensity(lambda x: -jnp.sum(x**2), dim=1), {}, pi.Rejection(), progress=False),
            "Rejection draws from the prior, and a site of this model has none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, text):
    with pytest.raises(pi.MethodError, match=text):
        call()


def test_a_site_without_bound_is_refused():
    def unbounded(y=None):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(0.0, scale), obs=y)

    with pytest.raises(pi.MethodError, match="it has no bound, or hardly a proposal"):
        pi.infer(unbounded, {"y": np.array(0.0)}, pi.Rejection(), progress=False)


def test_values_that_are_not_numbers_are_bad():
    estimate = pi.expect(lambda x: jnp.log(x), stats.norm())
    assert estimate.verdict is pi.Verdict.BAD
    assert "not finite" in estimate.reason


def test_a_support_with_an_edge():
    target = pi.LogDensity(lambda s: -s["r"], shapes={"r": ()}, supports={"r": constraints.positive})
    assert_close(pi.expect(lambda s: s["r"], target), 1.0, resolution=0.02)


def looped(y):
    """A normal mean, through a loop that has no gradient and leaves it as it is."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    same = 8 * jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] / 2), (0, mu))[1]
    numpyro.sample("y", dist.Normal(same, 1.0), obs=y)


@pytest.mark.parametrize(
    "method",
    [pi.Rejection(log_bound=-0.9, draws=4000), pi.Importance(proposal=dist.Normal(0.5, 1.5), draws=20_000)],
    ids=["rejection", "importance"],
)
def test_no_gradient_is_needed_where_nothing_is_climbed(method):
    """mu | y = 2 ~ Normal(1, 1/2), and y ~ Normal(0, 2): by infer and by expect."""
    data = {"y": np.array(2.0)}
    posterior = pi.infer(looped, data, method, progress=False)
    evidence, error = (posterior.tree.attrs[name] for name in ("log_evidence", "log_evidence_mcse"))
    assert abs(evidence - stats.norm(0, 2**0.5).logpdf(2.0)) < 5 * error
    estimate = pi.expect(lambda s: s["mu"], looped, method, data=data)
    assert abs(estimate.value - 1.0) < 5 * estimate.mcse < 0.1
    without = dataclasses.replace(method, **{"log_bound" if isinstance(method, pi.Rejection) else "proposal": None})
    for call in (
        lambda: pi.infer(looped, data, without, progress=False),
        lambda: pi.expect(jnp.exp, looped, without, data=data),
    ):
        with pytest.raises(pi.ModelError, match=r"no gradient.*pi.Importance\(proposal=...\), pi.Rejection\(log_bound"):
            call()
