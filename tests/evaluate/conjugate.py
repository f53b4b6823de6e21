"""Models whose predictive laws without some rows are known in closed form."""

from typing import NamedTuple

import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

SIGMA = 0.8


def line(x, y=None):
    """Known noise, normal prior: the posterior is normal."""
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, SIGMA), obs=y)


def level(x, y=None):
    """Without the slope."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(mu * x[:, 0], SIGMA), obs=y)


class Posterior(NamedTuple):
    mean: np.ndarray
    covariance: np.ndarray


def posterior(x, y) -> Posterior:
    covariance = np.linalg.inv(np.eye(x.shape[1]) + x.T @ x / SIGMA**2)
    return Posterior(covariance @ x.T @ y / SIGMA**2, covariance)


def log_predictive(x, y, train, test) -> np.ndarray:
    """log p(y_n | y_train) of each row of `test`, exactly."""
    mean, covariance = posterior(x[train], y[train])
    spread = np.sqrt(SIGMA**2 + np.einsum("ni,ij,nj->n", x[test], covariance, x[test]))
    return stats.norm.logpdf(y[test], x[test] @ mean, spread)


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    x = np.stack([np.ones(n), rng.normal(size=n)], axis=1)
    return x, x @ np.array([0.5, 1.0]) + SIGMA * rng.normal(size=n)


def log_mean_error(beta, x, y) -> np.ndarray:
    """Standard error of log mean_s p(y_n | beta_s), by the delta method: sd / mean / sqrt(S)."""
    density = stats.norm.pdf(y, beta @ x.T, SIGMA)
    return density.std(axis=0) / density.mean(axis=0) / np.sqrt(len(beta))
