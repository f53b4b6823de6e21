"""Whether new numbers come from where the reference numbers came from: ranks that are uniform and independent if so.

A new number falls between two neighbours of n sorted reference numbers with the chance 1 / (n + 1) each, whatever the
law, and later ones as in Polya's urn: in proportion to the places that a bin had at first and the new numbers that have
fallen there since. So with the bins' counts c the number

    p = (c of the bins below + v c of its own) / (sum of c),   v uniform

is uniform, and independent of all earlier ones, exactly, as long as reference and new numbers are exchangeable. Equal
numbers are told apart at random. Only the bins are kept, however many numbers come. Imports numpy.
Vovk, Gammerman & Shafer (2005), ch. 8 (conformal test martingales).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

_CHUNK = 1024


@dataclass
class Reference:
    """Bins of one column.

    edges    (bins - 1,) complex: a reference number, and as imaginary part what tells it from equal ones
    counts   (bins,) places at first, and new numbers since
    """

    edges: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, bins: int, random: np.ndarray) -> "Reference":
        """From the reference numbers (n,), and as many uniform ones."""
        ordered = np.sort(values + 1j * random)  # complex numbers are sorted by their real part first
        bins = max(2, min(bins, len(values) + 1))
        places = np.round(np.linspace(0, len(values) + 1, bins + 1)).astype(int)
        return cls(ordered[places[1:-1] - 1], np.diff(places).astype(float))

    def rank(self, values: np.ndarray, random: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The p of new numbers (n,) in their order, and the counts after them. random (n, 2): uniform numbers."""
        counts, found = self.counts.copy(), []
        for start in range(0, len(values), _CHUNK):
            span = slice(start, start + _CHUNK)
            bins = np.searchsorted(self.edges, values[span] + 1j * random[span, 0])
            fell = np.zeros((len(bins), len(counts)))
            fell[np.arange(len(bins)), bins] = 1.0
            before = counts + np.cumsum(fell, axis=0) - fell
            own = before[np.arange(len(bins)), bins]
            below = np.cumsum(before, axis=1)[np.arange(len(bins)), bins] - own
            found.append((below + random[span, 1] * own) / before.sum(axis=1))
            counts += fell.sum(axis=0)
        return np.concatenate([np.zeros(0), *found]), counts

    def to_plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"edges": self.edges.real.tolist(), "ties": self.edges.imag.tolist(), "counts": self.counts.tolist()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Reference":
        """Raises ValueError, KeyError or TypeError if these are no bins."""
        edges = np.array(plain["edges"], float) + 1j * np.array(plain["ties"], float)
        counts = np.array(plain["counts"], float)
        if edges.ndim != 1 or counts.shape != (len(edges) + 1,) or not (np.isfinite(counts) & (counts > 0)).all():
            raise ValueError("its bins do not fit together")
        if not np.isfinite(edges).all() or np.any(np.sort(edges) != edges):
            raise ValueError("its edges are not sorted")
        return cls(edges, counts)


def uniform(seed: int, stream: int, first: int, count: int) -> np.ndarray:
    """Numbers first, …, first + count - 1 of a stream of uniform ones: the same however they are asked for."""
    block, within = divmod(first, 4)  # Philox gives four at a time
    generator = np.random.Generator(np.random.Philox(key=[seed, stream], counter=[block, 0, 0, 0]))
    return generator.random(within + count)[within:]
