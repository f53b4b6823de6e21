"""What chains have drawn, side by side: tables that grow, of which each chain fills its row from the start."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from probinfer.inference.mcmc.block import Row

_ROOM = 1000  # draws that there is room for at first, if so many are expected


class Drawn:
    """The draws of so many chains, in their order; without their gradients unless these are wanted. `place` gives the
    rows in the coordinates that they are kept in, where these are others.

    counts: draws of each chain (chain,).
    """

    def __init__(self, chains: int, *, gradients: bool = False, place: Callable[[Row], Row] | None = None) -> None:
        self.counts = np.zeros(chains, int)
        self._place = place
        self._gradients = gradients
        self._tables: Row | None = None
        self._room = self._expected = 0

    @property
    def shortest(self) -> int:
        """Draws that every chain has."""
        return int(self.counts.min())

    @property
    def dim(self) -> int:
        """Numbers of a draw; 0 before the first."""
        return 0 if self._tables is None else self._tables.q.shape[-1]

    def expect(self, count: int) -> None:
        """So many draws of each chain are to come, at least."""
        self._expected = max(self._expected, self.shortest + count)

    def add(self, chains: range, done: np.ndarray, rows: Row) -> None:
        """Further draws of chains whose numbers follow one another: of each the first `done` (n,) of rows (n, draw,
        ...)."""
        if self._place is not None:
            rows = self._place(rows)
        if not self._gradients:
            rows = rows._replace(g=np.empty((*rows.q.shape[:2], 0), rows.q.dtype))
        first, chosen = self.counts[chains.start : chains.stop], slice(chains.start, chains.stop)
        tables = self._with_room(int((first + done).max()), rows)
        if (done == done[0]).all() and (first == first[0]).all():
            target: Any = (chosen, slice(first[0], first[0] + done[0]))
            source: Any = (slice(None), slice(0, done[0]))
        else:
            source = np.nonzero(np.arange(done.max()) < done[:, None])
            target = (source[0] + chains.start, source[1] + first[source[0]])
        for table, column in zip(jax.tree.leaves(tables), jax.tree.leaves(rows), strict=True):
            table[target] = column[source]
        self.counts[chosen] += done

    def rows(self, first: int = 0) -> Row:
        """The draws that every chain has from the `first` on: columns (chain, draw, ...). There is one at least."""
        assert self._tables is not None
        return jax.tree.map(lambda table: table[:, first : self.shortest], self._tables)

    def move(self, first: int, q: np.ndarray, g: np.ndarray, log_density: np.ndarray) -> None:
        """Put these in the place of the draws from the `first` on that every chain has."""
        rows = self.rows(first)
        rows.q[...], rows.g[...], rows.log_density[...] = q, g, log_density

    def positions(self, every: int = 1, coordinates: Any = slice(None)) -> np.ndarray:
        """Every so many-th draw (chain, draw, coordinate) of those that every chain has."""
        assert self._tables is not None
        return self._tables.q[:, : self.shortest : every, coordinates]

    def _with_room(self, needed: int, like: Row) -> Row:
        """The tables, with room for so many draws of each chain, of the types and shapes of these rows."""
        if self._tables is None or needed > self._room:
            self._room = max(needed, min(self._expected, max(2 * self._room, _ROOM)))
            old = self._tables

            def table_of(column: np.ndarray) -> np.ndarray:
                return np.empty((len(self.counts), self._room, *column.shape[2:]), column.dtype)

            self._tables = jax.tree.map(table_of, like)
            if old is not None:
                most = int(self.counts.max())
                for table, before in zip(jax.tree.leaves(self._tables), jax.tree.leaves(old), strict=True):
                    table[:, :most] = before[:, :most]
        assert self._tables is not None
        return self._tables
