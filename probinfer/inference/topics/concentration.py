"""The log joint density of words and topics from histograms of counts, and draws of the concentrations from it."""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

_WIDTH = 1.0  # of the first interval on the log scale: about the posterior's width in the smallest of corpora


class Counts(NamedTuple):
    """Values that occur and how often each does: of a Dirichlet-multinomial's cells, and of its totals."""

    cells: tuple[np.ndarray, np.ndarray]  # values n > 0, times; cells that are 0 add nothing
    totals: tuple[np.ndarray, np.ndarray]
    size: int  # number of cells to a total

    def log_density(self, concentration: float) -> float:
        """Σ over totals m of log Γ(A) - log Γ(A + m), A = size × concentration, plus Σ over cells n of
        log Γ(concentration + n) - log Γ(concentration)."""
        whole = self.size * concentration
        (n, times), (m, often) = self.cells, self.totals
        inside = times @ (gammaln(concentration + n) - gammaln(concentration))
        return float(inside + often @ (gammaln(whole) - gammaln(whole + m)))


def counts_of(cells: np.ndarray, totals: np.ndarray, size: int) -> Counts:
    """From histograms: entry n is how often n occurs."""
    n, m = np.flatnonzero(cells[1:]) + 1, np.flatnonzero(totals)
    return Counts((n.astype(float), cells[n].astype(float)), (m.astype(float), totals[m].astype(float)), size)


def draw_concentration(counts: Counts, now: float, generator: np.random.Generator) -> float:
    """A slice-sampling step of a concentration with the prior Exponential(1), on the log scale. Neal (2003)."""

    def log_density(x: float) -> float:
        return counts.log_density(np.exp(x)) - np.exp(x) + x

    x = np.log(now)
    level = log_density(x) - generator.exponential()
    low = x - _WIDTH * generator.random()
    high = low + _WIDTH
    while log_density(low) > level:
        low -= _WIDTH
    while log_density(high) > level:
        high += _WIDTH
    while True:
        proposal = generator.uniform(low, high)
        if log_density(proposal) > level:
            return float(np.exp(proposal))
        low, high = (proposal, high) if proposal < x else (low, proposal)
