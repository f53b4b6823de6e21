"""Chains side by side: blocks of draws on threads, with a pause between them for progress, Ctrl-C and adaptation."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import numpy as np

from probinfer.inference.mcmc.block import ROWS, BlockControl, BlockResult, ChainState, Row, one, restart
from probinfer.inference.mcmc.drawn import Drawn
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import Record
from probinfer.inference.progress import Progress
from probinfer.inference.turns import Turns
from probinfer.model.target import Target

_PAUSE = 0.25  # seconds that a block may take: how long Ctrl-C waits, and how often the progress line moves
_PATIENCE = 100  # gradients in the very first block, before the speed of the model is known


class Chains(Turns):
    """Several chains of one compiled block function, and where each is: `states`, stacked.

    What a chain draws depends on its key and on the adaptation it is given, never on where blocks begin and end or on
    which thread ran first: so the same seed gives the same draws on any machine load.
    """

    def __init__(
        self,
        pool: Executor,
        block: Any,
        target: Target,
        states: ChainState,
        target_accept: float | np.ndarray,
        limit: int,
        record: Record,
        deadline: float = np.inf,
    ) -> None:
        # programs of several devices wait for one another on each: two at once would wait for ever
        super().__init__(pool, 1 if target.devices else workers(len(states.iteration)), deadline)
        self._block = block
        self._target = target
        self._record = record
        self.target_accept = target_accept
        self._limit = limit
        self._budget = self._least()
        self._gradients = 0
        self._metrics: Any = None
        self._at_hand: dict[int, tuple[Metric, Metric]] = {}  # by id, with the metric, so that the id stays its own
        self.states = jax.tree.map(np.array, states)

    def __len__(self) -> int:
        return len(self.states.iteration)

    @property
    def target(self) -> Target:
        """What they are drawn from."""
        return self._target

    def others(self, states: ChainState) -> "Chains":
        """Chains of the same program and record from other states; their phases must be others."""
        rest = (self.target_accept, self._limit, self._record, self._deadline)
        made = type(self)(self._pool, self._block, self._target, states, *rest)
        made._budget = self._budget
        return made

    def advance(
        self,
        count: int,
        metrics: list[Metric],
        drawn: Drawn,
        *,
        phase: int,
        progress: Progress,
        label: Callable[[], str],
        done: int,
        total: int,
        adapt: bool = False,
        limit: int | None = None,
        hurry: bool = False,
    ) -> None:
        """Add `count` more draws of every chain, each with its metric, to what is `drawn`.

        Blocks of this `phase` that the record holds are taken from there, and new ones added to it. On Ctrl-C, and
        with `hurry` after the deadline, the blocks under way are finished and what there is is kept; Ctrl-C sets
        `interrupted` as well. `limit` limits trajectories further than the method does. `label` makes the start of the
        progress line.
        """
        self._prepare(metrics)
        drawn.expect(count)
        limit = self._limit if limit is None else min(limit, self._limit)
        left = np.full(len(self), count)
        diverged = 0

        def take_in(chains: range, made: Made) -> None:
            nonlocal diverged
            rows = made.rows
            drawn.add(chains, made.done, rows)
            for own, new in zip(jax.tree.leaves(self.states), jax.tree.leaves(made.states), strict=True):
                own[chains.start : chains.stop] = new
            filled = np.arange(rows.q.shape[1]) < made.done[:, None]
            self._gradients += int(rows.info.steps[filled].sum())
            diverged += int(rows.info.diverging[filled].sum())
            left[chains.start : chains.stop] -= made.done

        for chain in range(len(self)):
            while left[chain] > 0 and (known := self._record.take(phase, chain, int(left[chain]))) is not None:
                take_in(range(chain, chain + 1), _alone(*known))
        groups = self._groups()

        def work(group: int) -> Made:
            return self._run(groups[group], left, adapt, limit)

        def finish(group: int, made: Made) -> bool:
            chains = groups[group]
            self._budget = int(np.clip(made.gradients * _PAUSE / max(made.seconds, 1e-6), self._least(), 10**8))
            take_in(chains, made)
            self._record.keep_all(phase, chains, made.states, made.done, made.rows)
            numbers = f"step size {made.step_size:.2g}, {diverged} divergent, {self._gradients} gradients"
            so_far = (done + count) * len(self) - int(left.sum())
            progress.update(so_far, total * len(self), lambda: f"{label()}, {numbers}")
            return wants(chains)

        def wants(chains: range) -> bool:
            return bool((left[chains.start : chains.stop] > 0).any())

        wanting = (number for number, chains in enumerate(groups) if wants(chains))
        self.take_turns(wanting, work, finish, hurry=hurry)

    def restart(self, log_steps: np.ndarray) -> None:
        """Forget the acceptances seen so far, and begin each chain at its step size."""
        self.states = jax.tree.map(np.array, restart(self.states, log_steps))  # written to: no array is there twice

    def go_on(self, target: Target, states: ChainState) -> None:
        """Go on with other inputs of the program, from these states."""
        self._target, self._block = target, self._block.on(target)
        self.states = jax.tree.map(np.array, states)

    def put(self, which: np.ndarray, states: ChainState) -> None:
        """Let those chains (chain,), a mask, go on from these states (stacked, of them alone)."""

        def put(own: np.ndarray, new: np.ndarray) -> np.ndarray:
            own = np.array(own)
            own[which] = new
            return own

        self.states = jax.tree.map(put, self.states, states)

    def keep(self, chosen: np.ndarray) -> None:
        """Go on with these chains alone."""
        self.states = jax.tree.map(lambda column: column[chosen], self.states)

    def _prepare(self, metrics: list[Metric]) -> None:
        """What the blocks to come have in common."""
        known, self._at_hand = self._at_hand, {}
        for metric in metrics:  # carried over once, and not in every call or for every chain
            if id(metric) not in self._at_hand:
                self._at_hand[id(metric)] = known.get(id(metric)) or (metric, self._put(metric))
        self._metrics = [self._at_hand[id(metric)][1] for metric in metrics]

    def _put(self, metric: Metric) -> Metric:
        metric = jax.tree.map(lambda part: np.asarray(part, self._target.dtype), metric)
        if self._target.devices:
            return metric
        with self._target.precision():
            return jax.device_put(metric)

    def _groups(self) -> list[range]:
        """The chains that one call of a program advances."""
        return [range(chain, chain + 1) for chain in range(len(self))]

    def _least(self) -> int:
        """Gradients of a block, at least."""
        return _PATIENCE

    def _run(self, group: range, left: np.ndarray, adapt: bool, limit: int) -> "Made":
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
        state, made = self._block(one(self.states, chain), control, accept, self._metrics[chain])
        return _alone(state, made, time.perf_counter() - began)


class Made(NamedTuple):
    """A block of n chains: their states after it and the draws made, stacked, of which each chain has `done` (n,);
    gradients that the program took, one after the other; a step size in use; seconds."""

    states: ChainState
    done: np.ndarray
    rows: Row
    gradients: int
    step_size: float
    seconds: float


def _alone(state: ChainState, result: BlockResult, seconds: float = 0.0) -> Made:
    """The block of one chain."""
    done, *columns = result
    states, rows = jax.tree.map(lambda a: np.asarray(a)[None], (state, Row(*columns)))
    size = float(np.ravel(result.step_size[-1])[0])
    return Made(states, np.array([int(done)]), rows, int(result.info.steps.sum()), size, seconds)


def workers(chains: int) -> int:
    """Threads for so many chains: no more than there are cores."""
    return max(1, min(chains, _cores()))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
