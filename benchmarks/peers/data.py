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


def process():
    """posteriordb's gp_regr: 11 points of a curve."""
    y = [4.75906, 1.59423, 2.99548, 5.27501, 1.66472, 2.24347, 2.8914, 4.08681, 4.60588, 0.802364, 3.92136]
    return {"x": np.arange(-10.0, 11.0, 2.0), "y": np.array(y)}


def hares():
    """posteriordb's lotka_volterra: pelts of hares and lynxes in thousands, 1900 to 1920, the first year apart."""
    prey = [47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6]
    predators = [6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7]
    return {"y_init": np.array([30.0, 4.0]), "y": np.array([[*prey, 16.2, 24.7], [*predators, 10.1, 8.6]]).T}


def ar1(n):
    return {"n": n}


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
    "ar1_200": (lambda: ar1(200), ("x",)),
    "ar1_1000": (lambda: ar1(1000), ("x",)),
    "gp": (process, ("rho", "alpha", "sigma")),
    "ode": (hares, ("theta", "sigma", "start")),
    "volatility": (volatility, ("mu", "phi", "sigma", "z")),
    "volatility_centred": (volatility, ("mu", "phi", "sigma", "h")),
    "mixture": (mixture, ("low", "gap", "sigma", "weight")),
    "clusters": (clusters, ("low", "gap", "share")),
    "groups": (groups, ("mu", "between", "within", "means")),
}
