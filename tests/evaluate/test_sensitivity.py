"""Power scaling against a normal posterior whose scaled laws are known."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import probinfer as pi

Y = np.array([1.8, 2.4, 2.1, 1.2])


def model(y, prior_sd, z=None):
    mu = numpyro.sample("mu", dist.Normal(0, prior_sd))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def law(prior_sd, prior_power=1.0, likelihood_power=1.0):
    precision = prior_power / prior_sd**2 + likelihood_power * len(Y)
    return stats.norm(likelihood_power * Y.sum() / precision, precision**-0.5)


def exact(prior_sd, ends, which):
    """Change per doubling of a power, in cumulative Jensen-Shannon distance over the range of the draws, by quadrature.

    Kallioinen et al. (2024), eq. 12; its bound is that of the range, which is why `ends` matter.
    """
    x = np.linspace(*ends, 20_001)

    def distance(power):
        p, q = law(prior_sd), law(prior_sd, **{which: power})
        sides = []
        for a, b in ((p.cdf(x), q.cdf(x)), (p.sf(x), q.sf(x))):
            middle = (a + b) / 2
            term = a * np.log2(a / middle) + b * np.log2(b / middle)
            sides.append(np.sqrt(integrate.trapezoid(term, x) / integrate.trapezoid(a + b, x)))
        return max(sides)

    return (distance(1.01) / np.log2(1.01) - distance(0.99) / np.log2(0.99)) / 2


@pytest.mark.parametrize("prior_sd", [0.5, pytest.param(10.0, marks=pytest.mark.long)])
def test_against_the_closed_form(prior_sd):
    """Of six runs, the mean error is within nine of its standard errors: t with 5 degrees, one false alarm in 3000."""
    data = {"y": Y, "prior_sd": prior_sd}
    runs = [pi.infer(model, data, pi.Exact(draws=2000), seed=seed, progress=False) for seed in range(6)]
    found = [pi.prior_sensitivity(run) for run in runs]
    ends = [(run.latents["mu"].min(), run.latents["mu"].max()) for run in runs]
    for values, which in (
        (np.array([one.prior[0] for one in found]), "prior_power"),
        (np.array([one.likelihood[0] for one in found]), "likelihood_power"),
    ):
        expected = np.array([exact(prior_sd, end, which) for end in ends])
        error = 9 * (values - expected).std(ddof=1) / np.sqrt(6)
        assert abs((values - expected).mean()) < error
        assert abs((values - 2 * expected).mean()) > error  # broken twin: twice the change
    assert found[0].diagnosis == (("prior and data disagree, perhaps" if prior_sd < 1 else ""),)


def test_levels_of_a_hierarchy_are_not_scaled():
    def grouped(y=None):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 3):
            level = numpyro.sample("level", dist.Normal(0, tau))
        with numpyro.plate("rows", 12):
            numpyro.sample("y", dist.Normal(level[np.repeat([0, 1, 2], 4)], 1), obs=y)

    y = np.random.default_rng(0).normal(size=12)
    posterior = pi.infer(grouped, {"y": y}, pi.Laplace(), progress=False)
    found = pi.prior_sensitivity(posterior)
    assert found.sites == ("tau",)
    assert len(found.labels) == 4
    assert found.to_frame().shape == (4, 3)
    assert "<table" in found._repr_html_()
    with pytest.raises(pi.PredictionError, match="priors has 'mu'; there are tau, level"):
        pi.prior_sensitivity(posterior, priors=["mu"])


def test_a_flat_prior_and_a_parameter_that_never_changes():
    def flat(y=None):
        mu = numpyro.sample("mu", dist.Uniform(-20, 20))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    found = pi.prior_sensitivity(pi.infer(flat, {"y": Y}, pi.Laplace(draws=400), progress=False))
    assert abs(found.prior[0]) < 1e-4  # a power of a constant is a constant
    assert found.likelihood[0] > 0.05

    def silent(y=None):
        sign = numpyro.sample("sign", dist.Categorical(np.array([0.5, 0.5])))
        numpyro.sample("y", dist.Normal(100.0 * sign, 1), obs=y)

    assert np.isnan(pi.prior_sensitivity(pi.infer(silent, {"y": Y}, pi.Exact(draws=50), progress=False)).prior[0])
    with pytest.raises(pi.PredictionError, match="has 20 draws, too few to weight; wanted 25 or more"):
        pi.prior_sensitivity(pi.infer(silent, {"y": Y}, pi.Exact(draws=20), progress=False))
