"""The effective sample size so far, for the progress line, without costing what it is about."""

import time
from typing import Any

import numpy as np

from probinfer.inference.convergence import MIN_DRAWS
from probinfer.inference.mcmc.chains import stack
from probinfer.inference.until import Look, look_at, slowest

_COST = 0.005  # of the time that sampling has taken: what the looks may cost together
_COORDINATES = 32  # that it is the smallest ESS of
_PER_SEEN, _PER_LOOKED_AT = 2e-8, 3e-7  # seconds of a processor that a draw of a coordinate costs


class LiveESS:
    """The start of the progress line: the smallest ESS and the largest R-hat, of those coordinates that seem to move
    slowest, looked at anew when all looks together will have cost little of the time since sampling began."""

    def __init__(self, before: list[list[Any]]) -> None:
        self._before = before
        self._began = time.monotonic()
        self._spent = 0.0
        self._text = "sampling"

    def show(self, look: Look) -> None:
        """Show what was found."""
        found = np.isfinite(look.ess)
        self._text = f"sampling, ESS {look.ess:.0f}, R-hat {look.rhat:.3f}" if found else "sampling"

    def __call__(self, newest: list[list[Any]]) -> str:
        """The text, with `newest` the blocks of each chain that came after those before."""
        blocks = [[*before, *new] for before, new in zip(self._before, newest, strict=True)]
        draws = min(sum(int(block.done) for block in chain) for chain in blocks)
        if draws >= MIN_DRAWS:
            dim = blocks[0][0].q.shape[-1]
            cost = draws * len(blocks) * (_PER_SEEN * dim + _PER_LOOKED_AT * min(dim, _COORDINATES))
            if self._spent + cost <= _COST * (time.monotonic() - self._began):
                self._spent += cost
                positions = stack(blocks, lambda block: block.q)
                self.show(look_at(positions[..., slowest(positions, _COORDINATES)]))
        return self._text
