"""NumPyro's distributions as families: NumPyro's own mean, variance and log density must come out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist

from probinfer.predict.laws import family_of, parameters_of

RNG = np.random.default_rng(0)
REAL = np.array([-1.3, 0.2, 2.5])
POSITIVE = np.array([0.4, 1.0, 2.7])
UNIT = np.array([0.1, 0.5, 0.97])
SIMPLEX = RNG.dirichlet(np.ones(4), 3)

LAWS = {
    "Normal": (dist.Normal(REAL, POSITIVE), REAL),
    "StudentT": (dist.StudentT(POSITIVE + 2.5, REAL, POSITIVE), REAL),
    "Laplace": (dist.Laplace(REAL, POSITIVE), REAL),
    "Logistic": (dist.Logistic(REAL, POSITIVE), REAL),
    "Gumbel": (dist.Gumbel(REAL, POSITIVE), REAL),
    "LogNormal": (dist.LogNormal(REAL, POSITIVE), POSITIVE),
    "Gamma": (dist.Gamma(POSITIVE, POSITIVE), POSITIVE),
    "Chi2": (dist.Chi2(POSITIVE), POSITIVE),
    "Exponential": (dist.Exponential(POSITIVE), POSITIVE),
    "Weibull": (dist.Weibull(POSITIVE, POSITIVE), POSITIVE),
    "HalfNormal": (dist.HalfNormal(POSITIVE), POSITIVE),
    "Beta": (dist.Beta(POSITIVE, POSITIVE), UNIT),
    "BetaProportion": (dist.BetaProportion(UNIT, 3.0), UNIT),
    "BernoulliLogits": (dist.Bernoulli(logits=REAL), np.array([0, 1, 1])),
    "BernoulliProbs": (dist.Bernoulli(probs=UNIT), np.array([0, 1, 1])),
    "BinomialLogits": (dist.Binomial(7, logits=REAL), np.array([0, 3, 7])),
    "BinomialProbs": (dist.Binomial(np.array([3, 5, 7]), probs=UNIT), np.array([0, 3, 7])),
    "Poisson": (dist.Poisson(POSITIVE), np.array([0, 3, 7])),
    "GammaPoisson": (dist.GammaPoisson(POSITIVE, POSITIVE), np.array([0, 3, 7])),
    "NegativeBinomial2": (dist.NegativeBinomial2(POSITIVE, POSITIVE), np.array([0, 3, 7])),
    "NegativeBinomialProbs": (dist.NegativeBinomialProbs(POSITIVE, UNIT), np.array([0, 3, 7])),
    "NegativeBinomialLogits": (dist.NegativeBinomialLogits(POSITIVE, REAL), np.array([0, 3, 7])),
    "Geometric": (dist.Geometric(UNIT), np.array([0, 3, 7])),
    "Geometric by logits": (dist.Geometric(logits=REAL), np.array([0, 3, 7])),
    "ZeroInflatedPoisson": (dist.ZeroInflatedPoisson(UNIT, POSITIVE), np.array([0, 3, 7])),
    "zero-inflated by logits": (
        dist.ZeroInflatedDistribution(dist.NegativeBinomial2(POSITIVE, 2.0), gate_logits=REAL),
        np.array([0, 3, 7]),
    ),
    "truncated from both sides": (dist.TruncatedNormal(REAL, POSITIVE, low=-2.0, high=3.0), REAL),
    "truncated from the left": (dist.TruncatedNormal(REAL, POSITIVE, low=0.0), POSITIVE),
    "truncated from the right": (dist.TruncatedNormal(REAL, POSITIVE, high=4.0), REAL),
    "expanded": (dist.Normal(REAL[:1], 2.0).expand([3]), REAL),
    "masked": (dist.Normal(REAL, 2.0).mask(True), REAL),
    "to_event": (dist.Normal(REAL, 2.0).to_event(1), None),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", list(LAWS))
def test_laws(name):
    law, y = LAWS[name]
    family, parameters = family_of(law), parameters_of(law, (3,))
    assert all(p.shape == (3,) for p in parameters)
    np.testing.assert_allclose(family.mean(*parameters), law.mean, rtol=1e-6)
    np.testing.assert_allclose(family.variance(*parameters), law.variance, rtol=1e-6)
    if y is not None:
        np.testing.assert_allclose(
            family.log_density(jnp.asarray(y, float), *parameters), law.log_prob(y), rtol=2e-5, atol=2e-6
        )


def test_cauchy_is_students_t():
    law = dist.Cauchy(REAL, POSITIVE)
    parameters = parameters_of(law, (3,))
    np.testing.assert_allclose(family_of(law).log_density(jnp.asarray(REAL + 1), *parameters), law.log_prob(REAL + 1))


@pytest.mark.parametrize(
    "law",
    [
        dist.Categorical(probs=SIMPLEX),
        dist.Categorical(logits=np.log(SIMPLEX) + 3.0),
        dist.OrderedLogistic(REAL, np.array([-1.0, 0.0, 1.5])),
    ],
)
def test_classes(law):
    family, (log_p,) = family_of(law), parameters_of(law, (3,))
    assert log_p.shape == (3, 4)
    for k in range(4):
        np.testing.assert_allclose(
            family.log_density(jnp.full(3, float(k)), log_p), law.log_prob(np.full(3, k)), rtol=1e-5
        )


def test_ordered_logistic_whose_probabilities_round_below_zero():
    law = dist.OrderedLogistic(np.array([40.0]), np.array([-1.0, 0.0, 1.5]))
    assert not np.isnan(parameters_of(law, (1,))[0]).any()


@pytest.mark.parametrize("censored", [dist.LeftCensoredDistribution, dist.RightCensoredDistribution])
def test_a_censored_outcome_is_predicted_as_it_is(censored):
    law = censored(dist.Weibull(POSITIVE, 2.0), np.array([0, 1, 0]))
    assert family_of(law).name == "Weibull"
    np.testing.assert_allclose(parameters_of(law, (3,)), [POSITIVE, np.full(3, 2.0)])


def test_a_subclass_is_no_known_law():
    class Shifted(dist.Normal):
        @property
        def mean(self):
            return self.loc + 1.0

    assert family_of(Shifted(0.0, 1.0)) is None
    assert family_of(dist.TruncatedDistribution(dist.StudentT(3.0), low=0.0)) is None
    assert family_of(dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))) is None
    assert family_of(dist.ZeroInflatedDistribution(dist.BetaBinomial(1.0, 2.0, 5), gate=0.2)) is None
