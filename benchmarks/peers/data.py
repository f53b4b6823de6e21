"""The data of each benchmark model: hard numbers, or drawn by NumPy from a fixed seed. Imports NumPy only."""

from pathlib import Path

import numpy as np


def eight_schools():
    return {
        "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
        "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    }


def logistic(n, d):
    rng = np.random.default_rng(n + d)
    x = rng.normal(size=(n, d))
    probability = 1 / (1 + np.exp(-(0.3 + x @ rng.normal(scale=0.7, size=d))))
    return {"x": x, "y": (rng.uniform(size=n) < probability).astype(int)}


def radon():
    """919 houses in 85 counties: the table of probinfer's demo."""
    path = Path(__file__).parents[2] / "probinfer" / "demo" / "radon_mn.csv"
    table = np.genfromtxt(path, delimiter=",", names=True, encoding="utf-8")
    data = {name: table[name] for name in ("floor", "log_uranium", "log_radon")}
    return {"county": table["county"].astype(int), **data}


def ar1():
    return {"n": 200}


def volatility():
    rng = np.random.default_rng(500)
    mu, phi, sigma, steps = -1.0, 0.95, 0.25, 500
    h = np.empty(steps)
    h[0] = rng.normal(mu, sigma / np.sqrt(1 - phi**2))
    for t in range(1, steps):
        h[t] = rng.normal(mu + phi * (h[t - 1] - mu), sigma)
    return {"y": rng.normal(size=steps) * np.exp(h / 2)}


def mixture():
    rng = np.random.default_rng(2)
    first = rng.uniform(size=500) < 0.35
    return {"y": np.where(first, rng.normal(-1.0, 0.7, size=500), rng.normal(1.8, 1.1, size=500))}


def clusters():
    """200 numbers of two kinds, whose kind is a latent site of its own for each."""
    rng = np.random.default_rng(3)
    return {
        "y": np.where(rng.uniform(size=200) < 0.35, rng.normal(-1.5, 1.0, size=200), rng.normal(2.0, 1.0, size=200))
    }


def groups():
    """30 groups of 10 numbers."""
    rng = np.random.default_rng(4)
    means = rng.normal(1.0, 0.8, size=30)
    return {"group": np.repeat(np.arange(30), 10), "y": rng.normal(np.repeat(means, 10), 1.5)}


# name: what makes the data, and the latent sites whose draws are compared
MODELS = {
    "eight_schools": (eight_schools, ("mu", "tau", "z")),
    "eight_schools_centred": (eight_schools, ("mu", "tau", "theta")),
    "logistic_1k": (lambda: logistic(1000, 20), ("alpha", "beta")),
    "logistic_100k": (lambda: logistic(100_000, 10), ("alpha", "beta")),
    "radon": (radon, ("intercept", "uranium_effect", "floor_effect", "county_sd", "sigma", "z")),
    "ar1_200": (ar1, ("x",)),
    "volatility": (volatility, ("mu", "phi", "sigma", "h")),
    "mixture": (mixture, ("low", "gap", "sigma", "weight")),
    "clusters": (clusters, ("low", "gap", "share")),
    "groups": (groups, ("mu", "between", "within", "means")),
}
