"""Models and draws that several tests share."""

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

DRAWS, ROWS, GROUPS = 200, 40, 5
rng = np.random.default_rng(0)
x = rng.normal(size=ROWS)
X = rng.normal(size=(ROWS, 3))
group = np.resize(np.arange(GROUPS), ROWS)
y = rng.normal(size=ROWS)
wide = rng.normal(size=(ROWS, 3))
counts = rng.poisson(3.0, ROWS)
classes = rng.integers(0, 4, ROWS)


def draws(*shape):
    return np.random.default_rng(len(shape)).normal(size=(DRAWS, *shape))


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(slope * x, sigma), obs=y)


LINE = {"slope": draws(), "sigma": np.exp(0.1 * draws())}


def grouped(x, group, n_groups, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("groups", n_groups):
        level = numpyro.sample("level", dist.Normal(mu, tau))
    expected = numpyro.deterministic("expected", level[group] + x)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(expected, 1.0), obs=y)


GROUPED = {"mu": draws(), "tau": np.abs(draws()), "level": draws(GROUPS)}
GROUPED_DATA = {"x": x, "group": group, "n_groups": GROUPS, "y": y}


def logistic(X, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)


def categorical(X, y=None):
    W = numpyro.sample("W", dist.Normal(0, 1).expand([3, 4]).to_event(2))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=X @ W), obs=y)


def poisson(x, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Poisson(rate * jnp.exp(x)), obs=y)


class UnknownGeometric(dist.GeometricProbs):
    """A law that is answered from draws: a class of its own, without a cdf."""


def geometric(x, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", UnknownGeometric(1 / (1 + rate * jnp.exp(x))), obs=y)


def multivariate(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([3]).to_event(1))
    root = numpyro.sample("root", dist.LKJCholesky(3, 2.0))
    covariance = root @ root.T + 0.1 * jnp.eye(3)  # so that the program has a Cholesky decomposition of its own
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(a * x[:, None], covariance_matrix=covariance), obs=y)


def correlations():
    """Cholesky factors of correlation matrices."""
    rows = np.tril(np.abs(draws(3, 3)) + 0.1)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


MULTIVARIATE = {"a": draws(3), "root": correlations()}
