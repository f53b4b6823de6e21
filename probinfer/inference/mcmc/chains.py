"""Chains side by side: blocks of draws on threads, with a pause between them for progress, Ctrl-C and adaptation."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import numpy as np

from probinfer.inference.mcmc.block import ROWS, BlockControl, BlockResult, ChainState
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import Block, Record
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
        block: Any,
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
        self._budget = self._least()
        self._gradients = 0
        self._metrics: Any = None
        self.states = states

    def others(self, states: list[ChainState]) -> "Chains":
        """Chains of the same program and record from other states; their phases must be others."""
        rest = (self.target_accept, self._limit, self._record, self._deadline)
        made = type(self)(self._pool, self._block, self._target, states, *rest)
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
        self._prepare(metrics)
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
        groups = self._groups()

        def work(group: int) -> Made:
            return self._run(groups[group], left, adapt, limit)

        def finish(group: int, made: Made) -> bool:
            nonlocal diverged
            self._budget = int(np.clip(made.gradients * _PAUSE / max(made.seconds, 1e-6), self._least(), 10**8))
            for chain, state, result in made.draws:
                self.states[chain] = state
                self._gradients += int(result.info.steps.sum())
                self._record.keep(phase, chain, Block(state, result))
                blocks[chain].append(result)
                left[chain] -= int(result.done)
                diverged += int(result.info.diverging.sum())
            drawn = count * len(left) - sum(left)
            step = made.step_size
            numbers = f"step size {step:.2g}, {diverged} divergent, {self._gradients} gradients"
            progress.update(done * len(left) + drawn, total * len(left), lambda: f"{label(blocks)}, {numbers}")
            return any(left[chain] > 0 for chain in groups[group])

        wanting = (number for number, group in enumerate(groups) if any(left[chain] > 0 for chain in group))
        self.take_turns(wanting, work, finish, hurry=hurry)
        return blocks

    def _prepare(self, metrics: list[Metric]) -> None:
        """What the blocks to come have in common."""
        self._metrics = jax.tree.map(lambda a: np.asarray(a, self._target.dtype), metrics)
        if not self._target.devices:  # carried over once, and not in every call
            with self._target.precision():
                self._metrics = jax.device_put(self._metrics)

    def _groups(self) -> list[range]:
        """The chains that one call of a program advances."""
        return [range(chain, chain + 1) for chain in range(len(self.states))]

    def _least(self) -> int:
        """Gradients of a block, at least."""
        return _PATIENCE

    def _run(self, group: range, left: list[int], adapt: bool, limit: int) -> "Made":
        """A block of the chains of a group, which want so many draws more each."""
        (chain,) = group
        control = BlockControl(
            count=np.int32(min(left[chain], ROWS)),
            budget=np.int32(self._budget),
            adapt=np.bool_(adapt),
            limit=np.int32(limit),
        )
        accept = np.asarray(self.target_accept, self._target.dtype)
        began = time.perf_counter()
        state, made = self._block(self.states[chain], control, accept, self._metrics[chain])
        seconds = time.perf_counter() - began
        step_size = float(np.ravel(made.step_size[-1])[0])
        return Made([(chain, state, made)], int(made.info.steps.sum()), step_size, seconds)


class Made(NamedTuple):
    """A block: for each chain that drew, its state and the draws; gradients that the program took, one after the
    other; a step size in use; seconds."""

    draws: list[tuple[int, ChainState, BlockResult]]
    gradients: int
    step_size: float
    seconds: float


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
