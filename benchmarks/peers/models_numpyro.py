"""The benchmark models as NumPyro functions; models_pymc.py has the same densities."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def eight_schools_centred(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def logistic(x, y=None):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 2.5))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=alpha + x @ beta), obs=y)


def radon(county, floor, log_uranium, log_radon=None):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    uranium_effect = numpyro.sample("uranium_effect", dist.Normal(0.0, 2.0))
    floor_effect = numpyro.sample("floor_effect", dist.Normal(0.0, 2.0))
    county_sd = numpyro.sample("county_sd", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("counties", 85):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    level = intercept + uranium_effect * log_uranium + county_sd * z[county]
    numpyro.sample("log_radon", dist.Normal(level + floor_effect * floor, sigma), obs=log_radon)


def ar1(n):
    """Stationary, standard deviation 1, correlation 0.9 between neighbours; a step's variance is 1 - 0.9**2."""
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (n,)))
    numpyro.factor("first", dist.Normal(0.0, 1.0).log_prob(x[0]))
    numpyro.factor("steps", dist.Normal(0.9 * x[:-1], 0.19**0.5).log_prob(x[1:]).sum())


def volatility(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    phi = numpyro.sample("phi", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    h = numpyro.sample("h", dist.ImproperUniform(dist.constraints.real_vector, (), (len(y),)))
    numpyro.factor("first", dist.Normal(mu, sigma / jnp.sqrt(1 - phi**2)).log_prob(h[0]))
    numpyro.factor("steps", dist.Normal(mu + phi * (h[:-1] - mu), sigma).log_prob(h[1:]).sum())
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)


def mixture(y=None):
    low = numpyro.sample("low", dist.Normal(0.0, 5.0))
    gap = numpyro.sample("gap", dist.HalfNormal(5.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    first = jnp.log(weight) + dist.Normal(low, sigma[0]).log_prob(y)
    second = jnp.log1p(-weight) + dist.Normal(low + gap, sigma[1]).log_prob(y)
    numpyro.factor("y", jnp.logaddexp(first, second).sum())


def clusters(y=None):
    low = numpyro.sample("low", dist.Normal(0.0, 3.0))
    gap = numpyro.sample("gap", dist.HalfNormal(4.0))
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("rows", len(y)):
        second = numpyro.sample("second", dist.Bernoulli(share))
        numpyro.sample("y", dist.Normal(low + gap * second, 1.0), obs=y)


def groups(group, y=None):
    """Precisions with gamma priors, so that every conditional law is known."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    between = numpyro.sample("between", dist.Gamma(2.0, 1.0))
    within = numpyro.sample("within", dist.Gamma(2.0, 1.0))
    with numpyro.plate("groups", 30):
        means = numpyro.sample("means", dist.Normal(mu, between**-0.5))
    numpyro.sample("y", dist.Normal(means[group], within**-0.5), obs=y)


MODELS = {
    "eight_schools": eight_schools,
    "eight_schools_centred": eight_schools_centred,
    "logistic_1k": logistic,
    "logistic_100k": logistic,
    "radon": radon,
    "ar1_200": ar1,
    "volatility": volatility,
    "mixture": mixture,
    "clusters": clusters,
    "groups": groups,
}
