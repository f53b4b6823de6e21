"""Models that several tests of inference are about."""

import numpy as np
import numpyro
import numpyro.distributions as dist

EIGHT_SCHOOLS = {
    "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
}


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)
