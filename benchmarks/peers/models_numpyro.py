"""The models as NumPyro functions, for probinfer and NumPyro alike."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def eight_schools_centred(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def hierarchical(county, floor, uranium, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    spread = numpyro.sample("spread", dist.HalfNormal(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    b_floor = numpyro.sample("b_floor", dist.Normal(0, 1))
    b_uranium = numpyro.sample("b_uranium", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([85]))
    mean = mu + b_uranium * uranium + b_floor * floor + spread * z[county]
    numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def logistic(X, y=None):
    a = numpyro.sample("a", dist.Normal(0, 5))
    b = numpyro.sample("b", dist.Normal(0, 2).expand([X.shape[1]]))
    numpyro.sample("y", dist.Bernoulli(logits=a + X @ b), obs=y)


def mixture(y=None):
    weight = numpyro.sample("weight", dist.Beta(2, 2))
    low = numpyro.sample("low", dist.Normal(-1, 2))
    gap = numpyro.sample("gap", dist.HalfNormal(5))
    scale = numpyro.sample("scale", dist.HalfNormal(2).expand([2]))
    normal = dist.Normal(jnp.stack([low, low + gap]), scale)
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(jnp.stack([weight, 1 - weight])), normal), obs=y)


def autoregressive():
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (1000,)))
    rho = 0.9
    numpyro.factor("x0", -0.5 * x[0] ** 2)
    numpyro.factor("steps", -0.5 * jnp.sum((x[1:] - rho * x[:-1]) ** 2) / (1 - rho**2))


def volatility(y=None):
    persistence = numpyro.sample("persistence", dist.Beta(20, 1.5))
    spread = numpyro.sample("spread", dist.HalfNormal(0.5))
    level = numpyro.sample("level", dist.Normal(-9, 2))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([500]))

    def step(h, e):
        h = persistence * h + spread * e
        return h, h

    _, h = jax.lax.scan(step, jnp.zeros(()), z)
    numpyro.sample("y", dist.Normal(0, jnp.exp((level + h) / 2)), obs=y)


MODELS = {
    "eight schools": eight_schools,
    "eight schools, centred": eight_schools_centred,
    "hierarchical, 90 parameters": hierarchical,
    "logistic, 1,000 x 20": logistic,
    "logistic, 100,000 x 10": logistic,
    "mixture of two normals": mixture,
    "AR(1) Gaussian, 1,000 dimensions": autoregressive,
    "stochastic volatility, T = 500": volatility,
}
