"""Inputs on which a wrong answer looks right: proposals that miss a part, densities that are NaN in places, posteriors
without an integral. Each has its answer in closed form, and its ordinary neighbour that has to stay GOOD.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.errors import MethodError
from probinfer.inference.montecarlo import importance

NORMAL = dist.Normal(0, 1)
WIDE = {"x": dist.Normal(jnp.zeros(2), 2.0).to_event(1)}
COIN = {"y": np.array([1, 0, 1, 1])}


def coin(y=None):
    p = numpyro.sample("p", dist.Beta(1, 1))
    numpyro.sample("y", dist.Bernoulli(p), obs=y)


def below(y=None):
    top = numpyro.sample("top", dist.Uniform(0, 10))
    numpyro.sample("y", dist.Uniform(0, top).expand([3]).to_event(1), obs=y)


def infer(model, data=None, method=None, seed=0):
    return pi.infer(model, data, method, seed=seed, progress=False)


def words(report) -> str:
    return "; ".join(f"{finding.what} {finding.where}" for finding in report.findings)


MISSES = {
    "two sided": (lambda x: x**2 + 1, NORMAL, dist.Uniform(-1.0, 1.0)),  # 0.881 ± 0.0006 for 2
    "half": (lambda x: x, NORMAL, dist.HalfNormal(1.0)),  # 0.398 for 0
    "event": (lambda x: 1.0 * (x < -1), NORMAL, dist.HalfNormal(1.0)),  # 0 ± 0 for 0.159
    "disjoint": (lambda x: x, dist.Uniform(0, 1), dist.Uniform(2, 3)),
    "constant": (lambda x: 1.0 + 0 * x, NORMAL, dist.TruncatedNormal(0.0, 1.0, low=1.0)),
    "scipy": (lambda x: x, stats.norm(0, 1), stats.halfnorm()),
    "discrete": (lambda x: 1.0 * x, dist.Poisson(2.0), dist.Binomial(3, 0.5)),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("two sided", "event", "discrete") else pytest.param(name, marks=pytest.mark.long)
        for name in MISSES
    ],
)
def test_a_proposal_that_misses_a_part_is_bad(name, monkeypatch):
    f, over, proposal = MISSES[name]
    estimate = pi.expect(f, over, pi.Importance(proposal=proposal))
    assert estimate.verdict is pi.Verdict.BAD
    assert "no mass at" in estimate.findings[0].what
    # the twin: without the look at the distribution's own draws, all is well
    if name in ("two sided", "half", "scipy"):
        monkeypatch.setattr(importance, "left_out", lambda law, proposal, f, result, n, generator: result)
        assert pi.expect(f, over, pi.Importance(proposal=proposal)).verdict is pi.Verdict.GOOD


def test_a_proposal_that_hardly_goes_there_is_bad():
    """It has mass everywhere, but its draws do not show the distribution's."""
    narrow = pi.expect(lambda x: x**2, NORMAL, pi.Importance(proposal=dist.Normal(0.1, 0.3), draws=2000))
    assert narrow.verdict is pi.Verdict.BAD


@pytest.mark.parametrize(
    ("f", "proposal", "exact"),
    [
        (lambda x: x**2 + 1, dist.StudentT(4.0, 0.0, 2.0), 2.0),
        (lambda x: 1.0 * (x > 2), dist.TruncatedNormal(2.0, 1.0, low=2.0), stats.norm.sf(2)),
        (lambda x: 1.0 * (x > 6), dist.TruncatedNormal(6.0, 1.0, low=6.0), stats.norm.sf(6)),
    ],
)
def test_a_proposal_with_mass_wherever_f_is_not_zero_stays_good(f, proposal, exact):
    estimate = pi.expect(f, NORMAL, pi.Importance(proposal=proposal))
    assert estimate.verdict is pi.Verdict.GOOD
    assert abs(estimate.value - exact) < 5 * estimate.mcse  # false alarm 6e-7


@pytest.mark.parametrize("method", [pi.Importance, pi.Rejection])
def test_a_models_proposal_that_misses_a_part_is_refused_with_its_share(method):
    """Posterior Beta(4, 2): 81% of its mass is above 1/2."""
    with pytest.raises(
        MethodError, match=r"about 8[0-3]% of the posterior's mass is where the proposal for p has none"
    ):
        infer(coin, COIN, method(proposal={"p": dist.Uniform(0.0, 0.5)}))
    assert stats.beta.sf(0.5, 4, 2) == pytest.approx(0.8125)
    infer(coin, COIN, method(proposal={"p": dist.Uniform(0.0, 1.0)}))
    # narrower than the prior, but no mass of the posterior is outside: the data are below top
    fitted = infer(below, {"y": np.array([1.0, 3.0, 2.0])}, method(proposal={"top": dist.Uniform(3.0, 10.0)}))
    assert fitted.report.verdict is pi.Verdict.GOOD


def nan_above(x):
    return jnp.where(x[0] > 0.5, jnp.nan, -0.5 * jnp.sum(x**2))


NAN = pi.LogDensity(nan_above, dim=2)
CUT = pi.LogDensity(lambda x: jnp.where(x[0] > 0.5, -jnp.inf, -0.5 * jnp.sum(x**2)), dim=2)
LOOKING = [
    pi.Importance(),
    pytest.param(pi.Importance(proposal=WIDE), id="Importance given", marks=pytest.mark.long),
    pytest.param(pi.Rejection(proposal=WIDE), marks=pytest.mark.long),
    pi.SMC(particles=100, proposal=WIDE),
    pi.Laplace(resample=True),
    pytest.param(pi.Metropolis(draws=300), id="Metropolis", marks=pytest.mark.long),
    pytest.param(pi.NUTS(draws=200), id="NUTS"),
    pytest.param(pi.Tempering(draws=200, proposal=WIDE), id="Tempering", marks=pytest.mark.long),
]


@pytest.mark.parametrize("method", LOOKING, ids=lambda method: type(method).__name__)
def test_nan_in_places_is_told_with_a_place(method):
    report = infer(NAN, None, method).report
    assert report.verdict < pi.Verdict.GOOD
    finding = next(finding for finding in report.findings if "not a number" in finding.what)
    assert finding.severity is pi.Verdict.DOUBTFUL
    assert "site log_density" in finding.where
    first = float(finding.where.split("[")[1].split()[0])
    assert first > 0.5


@pytest.mark.parametrize(
    "method",
    [
        pi.Importance(),
        pytest.param(pi.Rejection(proposal=WIDE), marks=pytest.mark.long),
        pytest.param(pi.Metropolis(draws=300), marks=pytest.mark.long),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_density_that_is_zero_in_places_is_not_called_nan(method):
    report = infer(CUT, None, method).report
    assert "not a number" not in words(report)


def test_nan_in_an_expectation_is_told():
    estimate = pi.expect(lambda site: site["x"][0], NAN, pi.Rejection(proposal=WIDE))
    assert estimate.verdict is pi.Verdict.DOUBTFUL
    assert "not a number" in estimate.reason
    share = float(estimate.reason.split("number at ")[1].split("%")[0]) / 100
    proposals = estimate.draws / estimate.acceptance
    exact = stats.norm.sf(0.25)
    assert abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / proposals) + 5e-4  # rounded to 0.1%


FLAT = pi.LogDensity(lambda x: -0.5 * x[0] ** 2, dim=2)
SLOW = pi.LogDensity(lambda x: -0.5 * x[0] ** 2 - 0.25 * jnp.log1p(x[1] ** 2), dim=2)  # tail |x|^(-1/2)


@pytest.mark.parametrize(
    "improper", [pytest.param(FLAT, id="flat"), pytest.param(SLOW, id="slow tail", marks=pytest.mark.long)]
)
def test_particles_on_a_posterior_without_an_integral_are_bad(improper):
    report = infer(improper, None, pi.SMC(proposal=WIDE)).report
    assert report.verdict is pi.Verdict.BAD
    finding = next(finding for finding in report.findings if "still spread" in finding.what)
    assert "the posterior has no integral" in finding.advice
    assert finding.where == "x"


@pytest.mark.long
def test_particles_far_from_a_posterior_that_has_one_stay_good():
    """x[1] ~ N(0, 100), fifty times as wide as the beginning: log evidence log(2π 100)."""
    far = pi.LogDensity(lambda x: -0.5 * (x[0] ** 2 + (x[1] / 100) ** 2), dim=2)
    posterior = infer(far, None, pi.SMC(proposal=WIDE))
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert float(posterior.tree.posterior["x"][..., 1].std()) == pytest.approx(100, rel=0.15)


@pytest.mark.parametrize(
    "method",
    [pi.NUTS(draws=100), pytest.param(pi.LowRank(), marks=pytest.mark.long)],
    ids=lambda method: type(method).__name__,
)
def test_draws_that_run_away_without_a_prior_are_named(method):
    def model(y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    report = infer(model, {"y": np.array(1.0)}, method).report
    assert report.verdict < pi.Verdict.GOOD
    assert next(finding for finding in report.findings if "run away" in finding.what).where == "b"


def test_a_flat_prior_that_the_data_bound_stays_good():
    def model(y=None):
        b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(b, 1.0).expand([20]).to_event(1), obs=y)

    report = infer(model, {"y": np.linspace(-1, 1, 20)}, pi.NUTS(draws=500)).report
    assert report.verdict is pi.Verdict.GOOD
