"""Chains side by side: blocks of draws on threads, with a pause between them for progress, Ctrl-C and adaptation."""

import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np

from probinfer.inference.mcmc.block import ROWS, BlockControl, BlockResult, ChainState
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.tree import TreeInfo
from probinfer.inference.progress import Progress
from probinfer.model.target import Target

_PAUSE = 0.25  # seconds that a block may take: how long Ctrl-C waits, and how often the progress line moves
_PATIENCE = 100  # gradients in the very first block, before the speed of the model is known


class Chains:
    """Several chains of one compiled block function, and everything they have drawn.

    What a chain draws depends on its key and on the adaptation it is given, never on where blocks begin and end or on
    which thread ran first: so the same seed gives the same draws on any machine load.
    """

    def __init__(self, block: Callable, target: Target, states: list[ChainState], target_accept: float) -> None:
        self._block = block
        self._target = target
        self.target_accept = target_accept
        self._budget = _PATIENCE
        self._workers = max(1, min(len(states), _cores()))
        self._gradients = 0
        self.states = states
        self.interrupted = False

    def advance(
        self, count: int, metrics: list[Metric], *, adapt: bool, progress: Progress, label: str, done: int, total: int
    ) -> list[list[BlockResult]]:
        """Draw `count` more from every chain, each with its metric; for each chain the blocks that make them up.

        On Ctrl-C the blocks under way are finished, `interrupted` is set, and what there is comes back.
        """
        metrics = jax.tree.map(lambda a: np.asarray(a, self._target.dtype), metrics)
        blocks: list[list[BlockResult]] = [[] for _ in self.states]
        left = [count] * len(self.states)
        diverged = 0
        with ThreadPoolExecutor(self._workers, thread_name_prefix="probinfer") as pool:
            running: dict[Future, int] = {}
            waiting = list(range(len(self.states)))
            while waiting or running:
                try:
                    while waiting and not self.interrupted and len(running) < self._workers:
                        chain = waiting.pop(0)
                        job = pool.submit(self._run, self.states[chain], left[chain], adapt, metrics[chain])
                        running[job] = chain
                    if self.interrupted and not running:
                        break
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for job in finished:
                        chain = running.pop(job)
                        self.states[chain], result, seconds = job.result()
                        steps = int(result.info.steps.sum())
                        self._gradients += steps
                        self._budget = int(np.clip(steps * _PAUSE / max(seconds, 1e-6), _PATIENCE, 10**8))
                        blocks[chain].append(result)
                        left[chain] -= int(result.done)
                        diverged += int(result.info.diverging.sum())
                        if left[chain] > 0:
                            waiting.append(chain)
                        step = float(result.step_size[int(result.done) - 1])
                        drawn = count * len(left) - sum(left)
                        progress.update(
                            done * len(left) + drawn,
                            total * len(left),
                            f"{label}, step size {step:.2g}, {diverged} divergent, {self._gradients} gradients",
                        )
                except KeyboardInterrupt:
                    if self.interrupted:
                        raise
                    self.interrupted = True
        return blocks

    def _run(self, state: ChainState, count: int, adapt: bool, metric: Metric) -> tuple[ChainState, BlockResult, float]:
        target_accept = self._target.dtype.type(self.target_accept)
        control = BlockControl(np.int32(min(count, ROWS)), np.int32(self._budget), np.bool_(adapt), target_accept)
        began = time.perf_counter()
        with self._target.precision():
            state, result = self._block(state, control, metric, self._target.inputs)
            host_state, host_result = jax.device_get((state, result))
        rows = int(host_result.done)
        trimmed = host_result._replace(
            q=host_result.q[:rows],
            g=host_result.g[:rows],
            log_density=host_result.log_density[:rows],
            step_size=host_result.step_size[:rows],
            info=TreeInfo(*(column[:rows] for column in host_result.info)),
        )
        return host_state, trimmed, time.perf_counter() - began


def stack(blocks: list[list[BlockResult]], column: Callable[[BlockResult], Any]) -> np.ndarray:
    """One column of all blocks as an array (chain, draw, ...), cut to the draws that every chain has."""
    if not all(blocks):
        return np.empty((len(blocks), 0))
    chains = [np.concatenate([column(block) for block in chain]) for chain in blocks]
    shortest = min(len(chain) for chain in chains)
    return np.stack([chain[:shortest] for chain in chains])


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
