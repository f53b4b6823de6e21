"""Draws that were weighted and kept all the same: what the report says about them, where the exact answer is known.

The numbers in a finding are compared with the exact ones within five standard errors: false alarms below 1e-6.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.posterior.diagnose import diagnose
from probinfer.posterior.verdict import Verdict
from probinfer.posterior.weighted import compare
from tests.posterior.runs import make_posterior


def weighed(q, p, *, n=4000, seed=0, resample=False):
    """A posterior of n draws from q, weighted for p; both are frozen distributions of one number."""
    x = q.rvs(n, random_state=np.random.default_rng(seed))
    with np.errstate(divide="ignore"):
        log_weight = p.logpdf(x) - q.logpdf(x)
    return make_posterior(
        x[:, None], {"log_weight": log_weight}, settings={"resample": resample}, attrs={"pareto_khat": 0.0}
    )


def found(posterior, text):
    return next((finding for finding in posterior.report.findings if text in finding.what), None)


@pytest.mark.parametrize(
    ("q", "verdict"),
    [
        (stats.norm(0, 1), Verdict.GOOD),
        (stats.norm(0.05, 1), Verdict.GOOD),
        (stats.norm(0, 1.03), Verdict.GOOD),
        (stats.norm(0.3, 1), Verdict.DOUBTFUL),
        (stats.norm(-0.3, 1), Verdict.DOUBTFUL),
        (stats.norm(0, 1.3), Verdict.DOUBTFUL),
        (stats.norm(0, 0.8), Verdict.DOUBTFUL),
        (stats.norm(0.8, 1), Verdict.BAD),
        (stats.norm(0, 2.0), Verdict.BAD),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_is_that_of_the_error(q, verdict, seed):
    posterior = weighed(q, stats.norm(0, 1), seed=seed)
    assert posterior.report.verdict is verdict
    if verdict < Verdict.GOOD:
        shift = q.mean() != 0
        value = posterior.report.findings[0].value
        assert value == pytest.approx(abs(q.mean()) if shift else q.std(), abs=0.2)
        assert ("too high" in str(posterior.report)) == (q.mean() > 0)
        assert ("too low" in str(posterior.report)) == (q.mean() < 0)
        assert ("too wide" in str(posterior.report)) == (q.std() > 1.1)
        assert "resample=True" in str(posterior.report)


def test_draws_that_were_chosen_by_their_weights_are_not_compared():
    assert weighed(stats.norm(0, 2), stats.norm(0, 1), resample=True).report.verdict is Verdict.GOOD
    assert weighed(stats.norm(0, 2), stats.norm(0, 1)).report.verdict is Verdict.BAD


def test_draws_without_mass_are_told():
    posterior = weighed(stats.norm(0, 1), stats.truncnorm(-np.inf, 0.5))
    assert posterior.report.verdict is Verdict.BAD
    share = found(posterior, "no mass").value
    assert abs(share - stats.norm.sf(0.5)) < 5 * np.sqrt(0.3085 * 0.6915 / 4000)
    few = weighed(stats.norm(0, 1), stats.truncnorm(-np.inf, 2.0))
    assert found(few, "no mass").severity is Verdict.DOUBTFUL  # 2.3%
    assert found(weighed(stats.norm(0, 1), stats.truncnorm(-np.inf, 3.0)), "no mass") is None


def test_weights_that_cannot_tell_are_told():
    posterior = weighed(stats.norm(0, 1), stats.norm(0, 0.01))
    assert found(posterior, "too uneven").severity is Verdict.DOUBTFUL


def test_a_stored_tree_is_judged_alike():
    posterior = weighed(stats.norm(0, 2), stats.norm(0, 1))
    assert str(diagnose(posterior.tree)) == str(posterior.report)


def test_the_stated_errors_are_those_of_repeated_runs():
    """z-scores of 400 comparisons with the exact shift and factor: their spread is 1 within its own error."""
    p, q = stats.norm(0, 1), stats.norm(0.2, 1.2)
    scores = []
    for seed in range(400):
        x = q.rvs(2000, random_state=np.random.default_rng(seed))
        weights = np.exp(p.logpdf(x) - q.logpdf(x))
        errors = compare(x[None], weights / weights.sum())
        scores.append(
            [(errors.shift - 0.2) / errors.shift_error, (errors.log_factor - np.log(1.2)) / errors.log_factor_error]
        )
    spread = np.std(np.array(scores)[..., 0], axis=0)
    # relative error of a standard deviation of 400 normal numbers 1/sqrt(800) = 3.5%: 5 of them, false alarm 1e-6
    assert (np.abs(np.log(spread)) < 5 * 0.0354).all()


def test_very_few_draws_of_an_approximation_are_bad_with_their_shape():
    report = make_posterior(np.zeros((2, 1)), attrs={"pareto_khat": 1.13}).report
    assert report.verdict is Verdict.BAD
    assert "Pareto shape of its importance weights is 1.13" in str(report)
    assert "too few to say anything" in str(report)


def two_sided(y=None):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x**2, 0.5), obs=y)


def test_laplace_that_is_twice_too_wide_is_bad():
    """Curvature at the saddle of exp(-x²/2 - 2 x⁴): N(0, 1), where the posterior's sd is 0.456."""
    posterior = pi.infer(two_sided, {"y": np.array(0.0)}, pi.Laplace(), progress=False)
    assert posterior.tree.attrs["pareto_khat"] < 0.5  # blind to it
    assert posterior.report.verdict is Verdict.BAD
    grid = np.linspace(-6, 6, 20001)
    density = np.exp(-(grid**2) / 2 - 2 * grid**4)
    sd = np.sqrt(np.sum(grid**2 * density) / np.sum(density))
    assert found(posterior, "too wide").value == pytest.approx(1 / sd, rel=0.1)
    kept = pi.infer(two_sided, {"y": np.array(0.0)}, pi.Laplace(resample=True), progress=False)
    assert kept.report.verdict is Verdict.GOOD
    n = kept.tree.posterior.sizes["sample"]
    assert abs(float(kept.tree.posterior["x"].std()) / sd - 1) < 5 / np.sqrt(2 * n)


CUT = pi.LogDensity(lambda x: jnp.where(x[0] > 0.5, -jnp.inf, -0.5 * jnp.sum(x**2)), dim=2)


@pytest.mark.parametrize("method", [pi.Laplace(), pi.MeanField()], ids=lambda m: type(m).__name__)
def test_a_cut_density_is_bad(method):
    """Normal, cut at 0.5: the draws have 30% of their mass where there is none, or all of it on one spot."""
    assert pi.infer(CUT, None, method, progress=False).report.verdict is Verdict.BAD


def test_a_law_that_is_cut_where_the_density_is_may_be_good():
    """Pathfinder's law has no mass where the density has none, which is here the posterior itself. Exact: SciPy."""
    posterior = pi.infer(CUT, None, pi.Pathfinder(), progress=False)
    draws = posterior.tree.posterior["x"].values[:, 0]
    exact = stats.truncnorm(-np.inf, 0.5)
    wrong = abs(draws.mean() - exact.mean()) > 5 * exact.std() / np.sqrt(len(draws))
    assert not (wrong and posterior.report.verdict is Verdict.GOOD)
    assert draws.max() <= 0.5


def test_an_entry_that_is_constant_is_not_off():
    """The first entry of a Cholesky factor of correlations is 1: with and without weights, but for rounding."""
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.ones(4000))
    errors = compare(np.stack([np.ones(4000), generator.normal(size=4000)]), weights)
    assert np.isnan(errors.shift[0])
    assert np.isnan(errors.log_factor[0])
    assert np.isfinite(errors.shift[1])

    def model(y=None):
        factor = numpyro.sample("factor", dist.LKJCholesky(2, 2.0))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor), obs=y)

    y = generator.multivariate_normal(np.zeros(2), [[1.0, 0.4], [0.4, 1.0]], 400)
    assert found(pi.infer(model, {"y": y}, pi.FullRank(), progress=False), "factor[0, 0]") is None
