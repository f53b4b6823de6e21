"""A regression whose posterior is known, for methods that look at a few rows at a time, and models without rows."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

N, D, NOISE, WIDE = 3000, 4, 0.7, 3.0
GENERATOR = np.random.default_rng(40)
X = GENERATOR.normal(size=(N, D)) * np.array([1.0, 10.0, 0.1, 1.0])
X[:, 3] += 0.9 * X[:, 0]
DATA = {"x": X, "y": X @ np.array([1.0, 0.2, -3.0, 0.5]) + NOISE * GENERATOR.normal(size=N)}
PRECISION = X.T @ X / NOISE**2 + np.eye(D) / WIDE**2
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ DATA["y"] / NOISE**2
ROOT = np.linalg.cholesky(COVARIANCE)
LOG_EVIDENCE = (  # log p(mean, y) - log p(mean | y)
    stats.norm(X @ MEAN, NOISE).logpdf(DATA["y"]).sum()
    + stats.norm(0, WIDE).logpdf(MEAN).sum()
    + D / 2 * np.log(2 * np.pi)
    + np.linalg.slogdet(COVARIANCE)[1] / 2
)


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(D), WIDE).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ b, NOISE), obs=y)


def white(posterior) -> np.ndarray:
    """Draws of b (..., D) as standard normals, if they are of the posterior."""
    draws = np.asarray(posterior.tree["posterior"]["b"])
    return np.linalg.solve(ROOT, (draws - MEAN)[..., None])[..., 0]


def walk(y=None):
    step = numpyro.sample("step", dist.HalfNormal(1))
    with numpyro.plate("time", len(y)):
        numpyro.sample("y", dist.Normal(jnp.concatenate([jnp.zeros(1), y[:-1]]), step), obs=y)


def vector(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(D), WIDE).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, NOISE).to_event(1), obs=y)


def own_effects(y=None):
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)


def fixed_size(x, y=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(D), WIDE).to_event(1))
    with numpyro.plate("row", N):
        numpyro.sample("y", dist.Normal(x @ b, NOISE), obs=y)


def averaged(y=None):
    m = numpyro.sample("m", dist.Normal(jnp.mean(y), 1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(m, 1), obs=y)


REFUSED = [  # model, its data, rows of a step, what the error says
    (regression, ("x", "y"), N + 1, "is 3001, and there are 3000 rows"),
    (walk, ("y",), 10, "depends on which other rows"),
    (averaged, ("y",), 10, "depends on which other rows"),
    (vector, ("x", "y"), 10, "one vector"),
    (own_effects, ("y",), 10, "latent site z has an entry for each row"),
    (fixed_size, ("x", "y"), 10, "does not run on 10 of its 3000 rows"),
]
