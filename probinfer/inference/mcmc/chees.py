"""The length of trajectories that moves many chains furthest: stochastic ascent of the ChEES criterion. NumPy only.

Hoffman, Radul & Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo.
"""

import numpy as np

_RATE, _MEMORY, _SQUARES = 0.05, 0.9, 0.95  # of Adam; the decay of its mean, and of its squares
_SHORTEST, _LONGEST = 0.05, 50.0  # of trajectories, in standard deviations
_CHANGE = 0.35  # of the log of the length in one step, at most


class Length:
    """The longest trajectory T; one has the length u T, u in (0, 1).

    Ascends E[(|x' - E x'|² - |x - E x|²)² / 4], x and x' the beginning and end of a trajectory where the metric has
    made the posterior round, by Adam in log T.
    """

    def __init__(self, first: float) -> None:
        self._log = self._average = np.log(first)
        self._mean = self._square = 0.0
        self._count = 0

    @property
    def now(self) -> float:
        """The length to use while it adapts."""
        return float(np.exp(self._log))

    @property
    def settled(self) -> float:
        """The average of the second half of the steps or so, in logs: the length to keep."""
        return float(np.exp(self._average))

    def learn(self, x: np.ndarray, y: np.ndarray, velocity: np.ndarray, acceptance: np.ndarray, share: float) -> None:
        """One step, from trajectories x -> y (chains, d) of length share * T with this velocity at the end."""
        gradient = self._gradient(x, y, velocity, acceptance, share)
        if not np.isfinite(gradient):
            return
        self._count += 1
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * gradient
        self._square = _SQUARES * self._square + (1 - _SQUARES) * gradient**2
        mean = self._mean / (1 - _MEMORY**self._count)
        square = self._square / (1 - _SQUARES**self._count)
        change = _RATE * mean / np.sqrt(square + 1e-20)
        limits = np.log([_SHORTEST, _LONGEST])
        self._log = float(np.clip(self._log + np.clip(change, -_CHANGE, _CHANGE), *limits))
        weight = min(1.0, 4.0 / (self._count + 3.0))
        self._average = (1 - weight) * self._average + weight * self._log

    def _gradient(
        self, x: np.ndarray, y: np.ndarray, velocity: np.ndarray, acceptance: np.ndarray, share: float
    ) -> float:
        """Of the criterion with respect to log T."""
        usable = (acceptance > 0) & np.isfinite(y).all(axis=1) & np.isfinite(velocity).all(axis=1)
        if usable.sum() < 2:
            return np.nan
        weights = acceptance[usable] / acceptance[usable].sum()
        before = x[usable] - x.mean(axis=0)
        after = y[usable] - weights @ y[usable]
        growth = (after**2).sum(axis=1) - (before**2).sum(axis=1)
        along = (after * velocity[usable]).sum(axis=1)
        return float(share * self.now * (weights @ (growth * along)))


def halton(index: int) -> float:
    """The index-th number (from 0) of van der Corput's sequence in base 2, in (0, 1)."""
    value, denominator, index = 0.0, 1.0, index + 1
    while index:
        denominator *= 2
        index, bit = divmod(index, 2)
        value += bit / denominator
    return value
