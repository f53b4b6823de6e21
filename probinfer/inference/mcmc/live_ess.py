"""The effective sample size so far, for the progress line, without costing what it is about."""

import time
from typing import Any, Protocol

import numpy as np

from probinfer.inference.convergence import MIN_DRAWS
from probinfer.inference.until import Look, look_at, slowest

_COST = 0.005  # of the time that sampling has taken: what the looks may cost together
_GROWTH = 1.1  # of that time from one look to the next
_COORDINATES, _FEW = 32, 4  # that it is the smallest ESS of, at most, and at least before draws are left out
_ENOUGH = 50  # draws of a chain: no look at fewer of more
_PER_SEEN, _PER_LOOKED_AT = 2e-8, 3e-7  # seconds of a processor that a draw of a coordinate costs


class Seen(Protocol):
    """Draws so far, as they are looked at: `probinfer.inference.mcmc.drawn.Drawn` says what each is."""

    @property
    def counts(self) -> np.ndarray:
        """Draws of each chain."""
        ...

    @property
    def dim(self) -> int:
        """Numbers of a draw."""
        ...

    def positions(self, every: int = 1, coordinates: Any = ...) -> np.ndarray:
        """Every so many-th draw (chain, draw, coordinate)."""
        ...


class LiveESS:
    """The start of the progress line: the smallest ESS and the largest R-hat, of those coordinates that seem to move
    slowest. Looks come at times that grow geometrically, and each takes as many coordinates and draws as may be had
    for its share of the time; of fewer draws the ESS is at least what is found."""

    def __init__(self, drawn: Seen, superchains: int = 0) -> None:
        self._drawn = drawn
        self._superchains = superchains
        self._began = time.monotonic()
        self._next = 0.0
        self._text = "sampling"

    def show(self, look: Look, every: int = 1) -> None:
        """Show what was found in every so many-th draw, if the ESS is known."""
        if np.isfinite(look.ess):
            self._text = f"sampling, ESS {'at least ' * (every > 1)}{look.ess:.0f}, R-hat {look.rhat:.3f}"

    def __call__(self) -> str:
        """The text."""
        elapsed = time.monotonic() - self._began
        if elapsed >= self._next:
            counts = self._drawn.counts
            # Looks at 1, 1 / growth, 1 / growth^2, … of the time: together 1 / (1 - 1 / growth) times the last one.
            share = _COST * (1 - 1 / _GROWTH) * elapsed / len(counts) / 2
            draws = int(counts.min())
            if draws >= MIN_DRAWS and self._look(draws, share):
                self._next = _GROWTH * elapsed
        return self._text

    def _look(self, draws: int, share: float) -> bool:
        """Find the slowest coordinates, and then look at them, for a share of a chain's time each; False if that is too
        little for either."""
        dim = self._drawn.dim
        few = min(dim, _COORDINATES, max(_FEW, int(share / (_PER_LOOKED_AT * draws))))
        rows = min(share / (_PER_SEEN * dim), share / (_PER_LOOKED_AT * few))
        if rows < min(draws, _ENOUGH):
            return False
        ranked, every = (max(1, int(np.ceil(draws * cost / share))) for cost in (_PER_SEEN * dim, _PER_LOOKED_AT * few))
        chosen = slowest(self._drawn.positions(ranked), few)
        self.show(look_at(self._drawn.positions(every, chosen), self._superchains), every)
        return True
