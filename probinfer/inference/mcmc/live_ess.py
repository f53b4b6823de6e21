"""The effective sample size so far, for the progress line, without costing what it is about."""

import time
from typing import Any

import numpy as np

from probinfer.inference.convergence import MIN_DRAWS
from probinfer.inference.until import Look, look_at, slowest

_COST = 0.005  # of the time that sampling has taken: what the looks may cost together
_GROWTH = 1.1  # of that time from one look to the next
_COORDINATES, _FEW = 32, 4  # that it is the smallest ESS of, at most, and at least before draws are left out
_ENOUGH = 50  # draws of a chain: no look at fewer of more
_PER_SEEN, _PER_LOOKED_AT = 2e-8, 3e-7  # seconds of a processor that a draw of a coordinate costs


class LiveESS:
    """The start of the progress line: the smallest ESS and the largest R-hat, of those coordinates that seem to move
    slowest. Looks come at times that grow geometrically, and each takes as many coordinates and draws as may be had
    for its share of the time; of fewer draws the ESS is at least what is found."""

    def __init__(self, before: list[list[Any]], superchains: int = 0) -> None:
        self._before = before
        self._superchains = superchains
        self._began = time.monotonic()
        self._next = 0.0
        self._text = "sampling"

    def show(self, look: Look, every: int = 1) -> None:
        """Show what was found in every so many-th draw."""
        found = f", ESS {'at least ' * (every > 1)}{look.ess:.0f}, R-hat {look.rhat:.3f}"
        self._text = f"sampling{found}" if np.isfinite(look.ess) else "sampling"

    def __call__(self, newest: list[list[Any]]) -> str:
        """The text, with `newest` the blocks of each chain that came after those before."""
        elapsed = time.monotonic() - self._began
        if elapsed >= self._next:
            blocks = [[*before, *new] for before, new in zip(self._before, newest, strict=True)]
            draws = min(sum(int(block.done) for block in chain) for chain in blocks)
            # Looks at 1, 1 / growth, 1 / growth^2, … of the time: together 1 / (1 - 1 / growth) times the last one.
            share = _COST * (1 - 1 / _GROWTH) * elapsed / len(blocks) / 2
            if draws >= MIN_DRAWS and self._look(blocks, draws, share):
                self._next = _GROWTH * elapsed
        return self._text

    def _look(self, blocks: list[list[Any]], draws: int, share: float) -> bool:
        """Find the slowest coordinates, and then look at them, for a share of a chain's time each; False if that is too
        little for either."""
        dim = blocks[0][0].q.shape[-1]
        few = min(dim, _COORDINATES, max(_FEW, int(share / (_PER_LOOKED_AT * draws))))
        rows = min(share / (_PER_SEEN * dim), share / (_PER_LOOKED_AT * few))
        if rows < min(draws, _ENOUGH):
            return False
        ranked, every = (max(1, int(np.ceil(draws * cost / share))) for cost in (_PER_SEEN * dim, _PER_LOOKED_AT * few))
        chosen = slowest(_positions(blocks, ranked), few)
        self.show(look_at(_positions(blocks, every, chosen), self._superchains), every)
        return True


def _positions(blocks: list[list[Any]], every: int, coordinates: Any = slice(None)) -> np.ndarray:
    """Every so many-th draw (chain, draw, coordinate), of those that every chain has."""
    chains = []
    for chain in blocks:
        kept, skipped = [], 0
        for block in chain:
            kept.append(block.q[skipped::every, coordinates])
            skipped = (skipped - len(block.q)) % every
        chains.append(np.concatenate(kept))
    shortest = min(len(chain) for chain in chains)
    return np.stack([chain[:shortest] for chain in chains])
