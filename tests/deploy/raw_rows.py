"""Predictors that take raw rows, and point models, saved: what the server, streams and other engines are tested on."""

import functools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

import probinfer as pi
from tests.predict.fits import Fit
from tests.predict.test_point import graph, helper

DRAWS, ROWS = 60, 60
_rng = np.random.default_rng(7)
HOUSES = pd.DataFrame(
    {
        "size": _rng.lognormal(4, 0.5, ROWS),
        "town": np.resize(["Aix", "Ulm", "Řím"], ROWS),
        "county": np.resize(["X", "Y"], ROWS),
        "day": pd.date_range("2024-01-01", periods=ROWS, freq="D"),
        "income": np.where(np.arange(ROWS) % 6 == 0, np.nan, _rng.normal(50, 9, ROWS)),
    }
)
HOUSES["price"] = np.exp(2 + 0.5 * np.log(HOUSES["size"]) + 0.3 * _rng.normal(size=ROWS))
HOUSES["fate"] = np.where(HOUSES["size"] > 50, "sold", "kept")

INPUTS = [
    pi.Column("size", pi.Log(), pi.Standardise()),
    pi.Column("town", pi.OneHot(drop_first=True)),
    pi.Column("income", pi.Impute(indicator=True), pi.Standardise()),
    pi.Column("day", pi.DateParts([pi.DatePart.DAY_OF_WEEK], cyclic=True)),
]
RECORDS = [
    {"size": 50.0, "town": "Ulm", "county": "X", "day": "2024-02-03", "income": 41.5},
    {"size": 80, "town": "Řím", "county": "unheard of", "day": "2024-02-05T17:30", "income": None},
]


def _price(X, county, J, y=None):
    level = numpyro.sample("level", dist.Normal(0, 1).expand([J]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(level[county] + X @ beta, 0.3), obs=y)


def _fate(X, county, J, y=None):
    level = numpyro.sample("level", dist.Normal(0, 1).expand([J]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=level[county] + X @ beta), obs=y)


def _pipeline(model, outcome):
    county = pi.Column("county", pi.Ordinal(unseen=pi.Unseen.RESERVE))
    return pi.Pipeline(model, inputs={"X": INPUTS, "county": county}, sizes={"J": "county"}, outcome={"y": outcome})


def _predictor(pipeline):
    rng = np.random.default_rng(3)
    latents = {"level": rng.normal(2, 0.1, (DRAWS, 3)), "beta": 0.3 * rng.normal(size=(DRAWS, 7))}
    return pi.Predictor(Fit(pipeline, HOUSES, latents))


@functools.cache
def prices():
    """A number whose logarithm is modelled, from a size, a town, a date and an income that may be missing."""
    return _predictor(_pipeline(_price, pi.Column("price", pi.Log())))


@functools.cache
def fates():
    """A class with labels, of the same columns."""
    return _predictor(_pipeline(_fate, pi.Column("fate", pi.Ordinal())))


@functools.cache
def points():
    """A point model of raw rows, calibrated for each town: an ONNX file that is given what a pipeline prepares."""
    houses = HOUSES.assign(pool=np.resize([True, False, False], ROWS))
    columns = [*INPUTS, pi.Column("pool", pi.OneHot(drop_first=True))]
    prepared = pi.Pipeline(lambda X: None, inputs={"X": columns}).settle(houses)
    weights = np.array([[20.0], [3.0], [-2.0], [1.0], [0.5], [0.3], [0.2], [5.0]])
    line = graph([helper.make_node("MatMul", ["X", "W"], ["y"])], [("y", ["n", 1])], ("W", weights), width=8)
    predictor = pi.PointPredictor(line.SerializeToString(), inputs=prepared, outcome="price")
    return predictor.calibrate(houses, houses.price, groups="town")
