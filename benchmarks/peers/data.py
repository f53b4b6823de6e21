"""Data of the models that every sampler is given; NumPy only."""

import numpy as np


def eight_schools() -> dict:
    return {
        "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
        "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    }


def logistic(rows: int, columns: int) -> dict:
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, columns))
    b = rng.normal(size=columns) * 0.5
    return {"X": X, "y": (rng.random(rows) < 1 / (1 + np.exp(-X @ b))).astype(int)}


def hierarchical() -> dict:
    """As the radon data: 919 houses in 85 counties of very different sizes."""
    rng = np.random.default_rng(85)
    county = np.concatenate([np.arange(85), rng.choice(85, 834, p=rng.dirichlet(np.ones(85)))])
    floor, uranium = rng.integers(0, 2, 919), rng.normal(size=85)[county]
    effect = 0.3 * rng.normal(size=85)[county]
    y = 1.4 + 0.7 * uranium - 0.6 * floor + effect + 0.7 * rng.normal(size=919)
    return {"county": county, "floor": floor.astype(float), "uranium": uranium, "y": y}


def volatility() -> dict:
    rng = np.random.default_rng(500)
    h = np.zeros(500)
    for t in range(1, 500):
        h[t] = 0.95 * h[t - 1] + 0.25 * rng.normal()
    return {"y": 0.01 * np.exp(h / 2) * rng.normal(size=500)}


def mixture() -> dict:
    rng = np.random.default_rng(2)
    return {"y": np.where(rng.random(1000) < 0.35, rng.normal(-2, 1, 1000), rng.normal(1.5, 0.8, 1000))}


DATA = {
    "eight schools": eight_schools(),
    "eight schools, centred": eight_schools(),
    "hierarchical, 90 parameters": hierarchical(),
    "logistic, 1,000 x 20": logistic(1_000, 20),
    "logistic, 100,000 x 10": logistic(100_000, 10),
    "mixture of two normals": mixture(),
    "AR(1) Gaussian, 1,000 dimensions": {},
    "stochastic volatility, T = 500": volatility(),
}
