"""Chains side by side: blocks of draws on threads, with a pause between them for progress, Ctrl-C and adaptation."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np

from probinfer.inference.mcmc.block import ROWS, BlockControl, BlockResult, ChainState
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import Block, Record, rows
from probinfer.inference.progress import Progress
from probinfer.inference.turns import Turns
from probinfer.model.target import Target

_PAUSE = 0.25  # seconds that a block may take: how long Ctrl-C waits, and how often the progress line moves
_PATIENCE = 100  # gradients in the very first block, before the speed of the model is known


class Chains(Turns):
    """Several chains of one compiled block function, and everything they have drawn.

    What a chain draws depends on its key and on the adaptation it is given, never on where blocks begin and end or on
    which thread ran first: so the same seed gives the same draws on any machine load.
    """

    def __init__(
        self,
        pool: Executor,
        block: Callable,
        target: Target,
        states: list[ChainState],
        target_accept: float | np.ndarray,
        limit: int,
        record: Record,
        deadline: float = np.inf,
    ) -> None:
        # programs of several devices wait for one another on each: two at once would wait for ever
        super().__init__(pool, 1 if target.devices else workers(len(states)), deadline)
        self._block = block
        self._target = target
        self._record = record
        self.target_accept = target_accept
        self._limit = limit
        self._budget = _PATIENCE
        self._gradients = 0
        self.states = states

    def others(self, states: list[ChainState]) -> "Chains":
        """Chains of the same program and record from other states; their phases must be others."""
        rest = (self.target_accept, self._limit, self._record, self._deadline)
        made = Chains(self._pool, self._block, self._target, states, *rest)
        made._budget = self._budget
        return made

    def advance(
        self,
        count: int,
        metrics: list[Metric],
        *,
        phase: int,
        progress: Progress,
        label: Callable[[list[list[BlockResult]]], str],
        done: int,
        total: int,
        adapt: bool = False,
        limit: int | None = None,
        hurry: bool = False,
    ) -> list[list[BlockResult]]:
        """Draw `count` more from every chain, each with its metric; for each chain the blocks that make them up.

        Blocks of this `phase` that the record holds are taken from there, and new ones added to it. On Ctrl-C, and
        with `hurry` after the deadline, the blocks under way are finished and what there is comes back; Ctrl-C sets
        `interrupted` as well. `limit` limits trajectories further than the method does. `label` makes the start of the
        progress line from the blocks so far.
        """
        metrics = jax.tree.map(lambda a: np.asarray(a, self._target.dtype), metrics)
        blocks: list[list[BlockResult]] = [[] for _ in self.states]
        limit = self._limit if limit is None else min(limit, self._limit)
        left = [count] * len(self.states)
        for chain in range(len(self.states)):
            while left[chain] > 0 and (known := self._record.take(phase, chain, left[chain])) is not None:
                self.states[chain] = known.state
                blocks[chain].append(known.result)
                left[chain] -= int(known.result.done)
                self._gradients += int(known.result.info.steps.sum())
        diverged = sum(int(block.info.diverging.sum()) for chain in blocks for block in chain)

        def work(chain: int) -> tuple[ChainState, BlockResult, float]:
            return self._run(self.states[chain], left[chain], adapt, limit, metrics[chain])

        def finish(chain: int, made: tuple[ChainState, BlockResult, float]) -> bool:
            nonlocal diverged
            self.states[chain], result, seconds = made
            steps = int(result.info.steps.sum())
            self._gradients += steps
            self._budget = int(np.clip(steps * _PAUSE / max(seconds, 1e-6), _PATIENCE, 10**8))
            self._record.keep(phase, chain, Block(self.states[chain], result))
            blocks[chain].append(result)
            left[chain] -= int(result.done)
            diverged += int(result.info.diverging.sum())
            step = float(np.ravel(result.step_size[int(result.done) - 1])[0])
            drawn = count * len(left) - sum(left)
            numbers = f"step size {step:.2g}, {diverged} divergent, {self._gradients} gradients"
            progress.update(done * len(left) + drawn, total * len(left), lambda: f"{label(blocks)}, {numbers}")
            return left[chain] > 0

        self.take_turns((chain for chain, wanted in enumerate(left) if wanted > 0), work, finish, hurry=hurry)
        return blocks

    def _run(
        self, state: ChainState, count: int, adapt: bool, limit: int, metric: Metric
    ) -> tuple[ChainState, BlockResult, float]:
        control = BlockControl(
            count=np.int32(min(count, ROWS)),
            budget=np.int32(self._budget),
            adapt=np.bool_(adapt),
            target_accept=np.asarray(self.target_accept, self._target.dtype),
            limit=np.int32(limit),
        )
        began = time.perf_counter()
        with self._target.precision():
            state, result = self._block(state, control, metric, self._target.inputs)
            host_state, host_result = jax.tree.map(np.asarray, (state, result))
        return host_state, rows(host_result, 0, int(host_result.done)), time.perf_counter() - began


def stack(blocks: list[list[BlockResult]], column: Callable[[BlockResult], Any]) -> np.ndarray:
    """One column of all blocks as an array (chain, draw, ...), cut to the draws that every chain has."""
    if not all(blocks):
        return np.empty((len(blocks), 0))
    chains = [np.concatenate([column(block) for block in chain]) for chain in blocks]
    shortest = min(len(chain) for chain in chains)
    return np.stack([chain[:shortest] for chain in chains])


def workers(chains: int) -> int:
    """Threads for so many chains: no more than there are cores."""
    return max(1, min(chains, _cores()))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
