"""The benchmark models as NumPyro functions; models_pymc.py has the same densities."""

import jax
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
    """The log variances from standard normal steps, one after the other."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    phi = numpyro.sample("phi", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))

    def step(deviation, shock):
        deviation = phi * deviation + sigma * shock
        return deviation, deviation

    first = sigma * z[0] / jnp.sqrt(1 - phi**2)
    _, later = jax.lax.scan(step, first, z[1:])
    h = mu + jnp.append(first, later)
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)


def volatility_centred(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    phi = numpyro.sample("phi", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    h = numpyro.sample("h", dist.ImproperUniform(dist.constraints.real_vector, (), (len(y),)))
    numpyro.factor("first", dist.Normal(mu, sigma / jnp.sqrt(1 - phi**2)).log_prob(h[0]))
    numpyro.factor("steps", dist.Normal(mu + phi * (h[:-1] - mu), sigma).log_prob(h[1:]).sum())
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)


def gp(x, y=None):
    """sigma is the variance of the noise."""
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    kernel = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x[None, :]) / rho) ** 2)
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), kernel + sigma * jnp.eye(len(x))), obs=y)


def ode(y_init=None, y=None):
    """Predator and prey, in logarithms, by ten steps a year of the classical Runge-Kutta method."""
    prior = dist.TruncatedNormal(jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]), low=0.0)
    theta = numpyro.sample("theta", prior.to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
    start = numpyro.sample("start", dist.LogNormal(jnp.log(10.0), 1.0).expand([2]).to_event(1))

    def slope(log_z):
        prey, predators = jnp.exp(log_z)
        return jnp.stack([theta[0] - theta[1] * predators, theta[3] * prey - theta[2]])

    def step(log_z, _):
        k1 = slope(log_z)
        k2 = slope(log_z + 0.05 * k1)
        k3 = slope(log_z + 0.05 * k2)
        k4 = slope(log_z + 0.1 * k3)
        log_z = log_z + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return log_z, log_z

    _, path = jax.lax.scan(step, jnp.log(start), length=10 * len(y))
    numpyro.sample("y_init", dist.LogNormal(jnp.log(start), sigma).to_event(1), obs=y_init)
    numpyro.sample("y", dist.LogNormal(path[9::10], sigma), obs=y)


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
    "ar1_1000": ar1,
    "gp": gp,
    "ode": ode,
    "volatility": volatility,
    "volatility_centred": volatility_centred,
    "mixture": mixture,
    "clusters": clusters,
    "groups": groups,
}
