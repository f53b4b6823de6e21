"""Integrals over the unit cube with known values: name -> (f of points (n, d), d, exact value). NumPy and math only."""

import math

import numpy as np


def _gaussian_peak(dim: int, sharpness: float):
    exact = (math.sqrt(math.pi) / sharpness * math.erf(sharpness / 2)) ** dim
    return (lambda x: np.exp(-(sharpness**2) * ((x - 0.5) ** 2).sum(axis=1))), dim, exact


def _smooth(dim: int):
    return (lambda x: np.exp(x.sum(axis=1) / dim)), dim, (dim * math.expm1(1 / dim)) ** dim


def _kink(dim: int):
    exact = (2 * (1 - math.exp(-0.5))) ** dim
    return (lambda x: np.exp(-np.abs(x - 0.5).sum(axis=1))), dim, exact


INTEGRALS = {
    "smooth, 5 dimensions": _smooth(5),
    "smooth, 20 dimensions": _smooth(20),
    "kink, 5 dimensions": _kink(5),
    "peak, 5 dimensions": _gaussian_peak(5, 8.0),
}
