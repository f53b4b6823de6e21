"""Chains in one program: as `Chains`, but that a call advances many, each in its own place of its own trajectory."""

import time

import jax
import numpy as np

from probinfer.inference.mcmc.batch import BatchControl, Machine, machine_of
from probinfer.inference.mcmc.block import ChainState, Row
from probinfer.inference.mcmc.chains import Chains, Made
from probinfer.inference.mcmc.compiled import Batch
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.step_size import DualAveraging

_LEAST = 10  # gradients of a block: no more are needed, as trajectories go on in the next
_CUTS = (8, 32, 128)  # rows of a table that are carried over from another device, where they are enough


class BatchedChains(Chains):
    """Chains that a compiled `Batch` advances.

    What is kept between two calls are chains after whole draws. A trajectory that the end of a call cut goes on in the
    next from where it is; one that Ctrl-C, a deadline or a crash cut begins anew, with the same random numbers. However
    few chains there are, they cost as much as a whole batch.
    """

    _block: Batch

    def _prepare(self, metrics: list[Metric]) -> None:
        self._machines: dict[int, Machine] = {}
        alike = all(metric is metrics[0] for metric in metrics)
        self._program = self._block.program(alike=alike)
        groups = self._groups()
        with self._target.precision():
            if self._block.shares(alike=alike):
                self._metrics = [self._put(metrics[0])] * len(groups)
            elif alike:
                width = self._block.width
                self._metrics = [
                    self._put(Metric(*(np.broadcast_to(part, (width, *part.shape)) for part in metrics[0])))
                ] * len(groups)
            else:
                every = Metric(*(np.stack(column) for column in zip(*metrics, strict=True)))
                self._metrics = [self._put(self._padded(every, group)) for group in groups]

    def _groups(self) -> list[range]:
        width = self._block.width
        return [range(first, min(first + width, len(self))) for first in range(0, len(self), width)]

    def _padded[T](self, columns: T, group: range) -> T:
        """The rows of the chains of a group, and the last of them again up to the width of the batch."""
        chosen = np.minimum(np.arange(group.start, group.start + self._block.width), group[-1])
        return jax.tree.map(lambda column: column[chosen], columns)

    def _least(self) -> int:
        return _LEAST

    def _run(self, group: range, left: np.ndarray, adapt: bool, limit: int) -> Made:
        dtype, wanted = self._target.dtype, np.zeros(self._block.width, np.int32)
        wanted[: len(group)] = left[group.start : group.stop]
        control = BatchControl(
            wanted=wanted,
            budget=np.int32(self._budget),
            adapt=np.bool_(adapt),
            target_accept=np.asarray(self.target_accept, dtype),
            limit=np.int32(limit),
        )
        number = group[0] // self._block.width
        if number not in self._machines:
            self._machines[number] = machine_of(self._padded(self.states, group), self._block.max_depth)
        began = time.perf_counter()
        with self._target.precision():
            machine, table, done, taken = self._program(
                self._machines[number], control, self._metrics[number], self._target.inputs
            )
            after = (machine.key, machine.iteration, machine.step, done)
            *after, done = jax.tree.map(lambda column: np.asarray(column)[: len(group)], after)
            rows = self._block.packing.unpack(_carried(table, int(done.max()))[: len(group)])
        seconds = time.perf_counter() - began
        self._machines[number] = machine
        step_size = float(np.exp(after[2].log_step[0] if adapt else after[2].log_average[0]))
        states = jax.tree.map(lambda column: column[group.start : group.stop], self.states)
        return Made(_moved(states, *after, done, rows), done, rows, int(taken), step_size, seconds)


def _carried(table: jax.Array, most: int) -> np.ndarray:
    """The first rows (chain, row, number), `most` at least, carried over to the host, whose memory a CPU's are in
    already. A program cuts them out, so there are few different cuts."""
    if jax.default_backend() != "cpu":
        table = table[:, : next((cut for cut in _CUTS if cut >= most), None)]
    return np.asarray(table)[:, :most]


def _moved(
    before: ChainState, key: np.ndarray, iteration: np.ndarray, step: DualAveraging, done: np.ndarray, rows: Row
) -> ChainState:
    """The states of chains after a block; those that made no draw are where they were."""
    state = before._replace(key=key, iteration=iteration, step=step)
    drew = np.flatnonzero(done)
    last = drew, done[drew] - 1
    for name in ("q", "g", "log_density"):
        column = getattr(before, name).copy()
        column[drew] = getattr(rows, name)[last]
        state = state._replace(**{name: column})
    return state
