"""A small model of houses in groups, and rows for it."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

LEVELS = 4  # of `group` in training


def houses(x, group, J, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([J]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(a[group] + b * x, 0.5), obs=y)


def rows(count: int) -> pd.DataFrame:
    """Rows with an id that neither counts from 0 nor by 1, a name, and the inputs."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "id": np.arange(count) * 3 + 100,
            "name": [f"house {i}, “new”" for i in range(count)],
            "group": rng.integers(0, LEVELS, count),
            "x": rng.normal(size=count),
        }
    )
