"""The draws that are kept: a number of them, or as many as a stop rule wants."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from probinfer.inference.convergence import MIN_DRAWS, convergence
from probinfer.inference.draws import Outcome
from probinfer.inference.mcmc.block import BlockResult
from probinfer.inference.mcmc.chains import Chains, stack
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.warmup import SAMPLING
from probinfer.inference.progress import Progress
from probinfer.inference.until import Look, Until

_LIVE_COST = 0.005  # of the time that sampling has taken: what the ESS in the progress line may cost
_LIVE_COORDINATES = 32  # that it is the smallest of
_PER_SEEN, _PER_LOOKED_AT = 2e-8, 3e-7  # seconds of a processor that a draw of a coordinate costs there


class Ending(NamedTuple):
    """How sampling ended; `stopping` is the rule and what it saw, None without a rule."""

    outcome: Outcome
    stopping: Mapping[str, Any] | None


def sample(
    chains: Chains, metrics: list[Metric], draws: int, until: Until | None, progress: Progress, done: int
) -> tuple[list[list[BlockResult]], Ending]:
    """Draw from every chain with its metric held fixed; the blocks of each chain, and how it ended.

    draws: per chain, without a rule; with one they are its budget unless it names its own. done: draws of the warm-up.
    """
    blocks: list[list[BlockResult]] = [[] for _ in metrics]
    budget = draws if until is None else until.budget(draws)
    live = LiveESS(blocks)
    look = None
    drawn = 0
    while drawn < budget and not chains.interrupted:
        wanted = budget if until is None else until.next_look(look, budget)
        hurry = until is not None and drawn >= until.min_draws
        if until is not None and until.seconds is not None and not hurry:
            wanted = min(wanted, until.min_draws)
        more = chains.advance(
            wanted - drawn,
            metrics,
            phase=SAMPLING,
            progress=progress,
            label=live,
            done=done + drawn,
            total=done + budget,
            hurry=hurry,
        )
        for chain, new in zip(blocks, more, strict=True):
            chain += new
        drawn = min(sum(int(block.done) for block in chain) for chain in blocks)
        if until is None:
            continue
        if until.has_goal and drawn and not chains.interrupted:
            look = until.look(stack(blocks, lambda block: block.q))
            live.show(look.ess, look.rhat)
            if until.met(look):
                break
        if chains.late and drawn >= min(until.min_draws, budget):
            break
    return blocks, _ending(chains, until, look, drawn, budget)


class LiveESS:
    """The start of the progress line: the smallest ESS and the largest R-hat, of those coordinates that seem to move
    slowest, looked at anew when all looks together will have cost little of the time since sampling began."""

    def __init__(self, before: list[list[BlockResult]]) -> None:
        self._before = before
        self._began = time.monotonic()
        self._spent = 0.0
        self._text = "sampling"

    def show(self, ess: float, rhat: float) -> None:
        """Show what was found."""
        self._text = f"sampling, ESS {ess:.0f}, R-hat {rhat:.3f}" if np.isfinite(ess) else "sampling"

    def __call__(self, newest: list[list[BlockResult]]) -> str:
        """The text, with `newest` the blocks of each chain that came after those before."""
        blocks = [[*before, *new] for before, new in zip(self._before, newest, strict=True)]
        draws = min(sum(int(block.done) for block in chain) for chain in blocks)
        if draws >= MIN_DRAWS:
            dim = blocks[0][0].q.shape[-1]
            cost = draws * len(blocks) * (_PER_SEEN * dim + _PER_LOOKED_AT * min(dim, _LIVE_COORDINATES))
            if self._spent + cost <= _LIVE_COST * (time.monotonic() - self._began):
                self._spent += cost
                positions = stack(blocks, lambda block: block.q)
                numbers = convergence(np.moveaxis(positions[..., slowest(positions, _LIVE_COORDINATES)], -1, 0))
                with np.errstate(invalid="ignore"):
                    ess = float(np.min(np.minimum(numbers.ess_bulk, numbers.ess_tail)))
                self.show(ess, float(np.max(numbers.r_hat)))
        return self._text


def slowest(positions: np.ndarray, count: int) -> np.ndarray:
    """The `count` coordinates of draws (chain, draw, d) whose means of batches vary most, compared with the draws: by
    batch means these have the smallest effective sample sizes."""
    if positions.shape[-1] <= count:
        return np.arange(positions.shape[-1])
    length = int(np.sqrt(positions.shape[1]))
    batches = positions[:, -(positions.shape[1] // length) * length :]
    means = batches.reshape(len(batches), -1, length, batches.shape[-1]).mean(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        slow = means.var((0, 1)) / batches.var((0, 1))
    return np.argsort(np.nan_to_num(slow, nan=np.inf))[-count:]


def _ending(chains: Chains, until: Until | None, look: Look | None, drawn: int, budget: int) -> Ending:
    if until is None:
        return Ending(Outcome.INTERRUPTED if chains.interrupted else Outcome.COMPLETED, None)
    missed = until.missed(look)
    seen = "" if look is None else f"ESS {look.ess:.0f}, R-hat {look.rhat:.3f} after {look.draws} draws per chain"
    spent = f"all {budget} draws per chain were made" if drawn >= budget else f"the {until.seconds} seconds were over"
    if chains.interrupted:
        outcome, reason = Outcome.INTERRUPTED, f"interrupted after {drawn} draws per chain"
    elif missed:
        outcome, reason = Outcome.OUT_OF_BUDGET, f"{missed}, when {spent}"
    else:
        outcome, reason = Outcome.COMPLETED, seen if until.has_goal else spent
    stopping = {
        "rule": asdict(until),
        "reason": reason,
        "met": not missed and not chains.interrupted,
        "draws": drawn,
        **({"ess": _number(look.ess), "rhat": _number(look.rhat)} if look is not None else {}),
    }
    return Ending(outcome, stopping)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
