"""Radon in Minnesota houses: the model, its data, and which houses are held out. Copy this file to start your own.

Houses in one county are alike, and most counties have few: a hierarchical regression lets each county have its own
level and learns from all counties how far levels differ, so that a county with two houses leans on the others and one
with a hundred speaks for itself. Gelman and Hill (2006), chapter 12. Imports numpyro and pandas only.
"""

from importlib.resources import files

import numpyro
import numpyro.distributions as dist
import pandas as pd

OUTCOME = "log_radon"
PREDICTORS = ["county", "floor", "log_uranium"]


def radon(county, floor, log_uranium, n_counties, log_radon=None):
    """log_radon ~ Normal(level of the county + floor_effect · floor, sigma); floor is 0 for a basement, 1 above it.

    The level of county j is intercept + uranium_effect · log_uranium + county_sd · z_j with z_j ~ Normal(0, 1):
    non-centred, which samples well when most counties have few houses. `county` counts from 0 to n_counties - 1.
    """
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    uranium_effect = numpyro.sample("uranium_effect", dist.Normal(0.0, 2.0))
    floor_effect = numpyro.sample("floor_effect", dist.Normal(0.0, 2.0))
    county_sd = numpyro.sample("county_sd", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("counties", n_counties):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    level = intercept + uranium_effect * log_uranium + county_sd * z[county]
    numpyro.sample("log_radon", dist.Normal(level + floor_effect * floor, sigma), obs=log_radon)


def read_houses() -> pd.DataFrame:
    """The 919 houses, one row each: county (0 to 84), floor, log_uranium, log_radon. Source: README.md."""
    with files("probinfer.demo").joinpath("radon_mn.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def split(houses: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Houses to learn from, and houses held out: every fifth, but never the first of a county, so none is new."""
    held_out = (houses.index % 5 == 4) & houses.duplicated("county")
    return houses[~held_out], houses[held_out]


def as_data(houses: pd.DataFrame) -> dict:
    """The model's keyword arguments for these houses."""
    return {name: houses[name].to_numpy() for name in [*PREDICTORS, OUTCOME]} | {"n_counties": 85}
