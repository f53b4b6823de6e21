"""Chains in one program: as `Chains`, but that a call advances many, each in its own place of its own trajectory."""

import time

import jax
import numpy as np

from probinfer.inference.mcmc.batch import BatchControl, Machine, machine_of
from probinfer.inference.mcmc.block import BlockResult, ChainState
from probinfer.inference.mcmc.chains import Chains, Made
from probinfer.inference.mcmc.compiled import Batch
from probinfer.inference.mcmc.kernel import Info
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.step_size import DualAveraging

_LEAST = 10  # gradients of a block: no more are needed, as trajectories go on in the next


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
        with self._target.precision():
            if self._block.shares(alike=alike):
                self._metrics = [self._placed(metrics[0])] * len(self._groups())
            else:
                self._metrics = [
                    self._placed(Metric(*(np.stack(column) for column in zip(*part, strict=True))))
                    for part in (self._padded(metrics, group) for group in self._groups())
                ]

    def _placed(self, metric: Metric) -> Metric:
        return jax.tree.map(lambda a: jax.numpy.asarray(a, self._target.dtype), metric)

    def _groups(self) -> list[range]:
        width = self._block.width
        return [range(first, min(first + width, len(self.states))) for first in range(0, len(self.states), width)]

    def _padded[T](self, values: list[T], group: range) -> list[T]:
        """What belongs to the chains of a group, and the last of it again up to the width of the batch."""
        return [values[min(chain, group[-1])] for chain in range(group[0], group[0] + self._block.width)]

    def _least(self) -> int:
        return _LEAST

    def _run(self, group: range, left: list[int], adapt: bool, limit: int) -> Made:
        dtype, wanted = self._target.dtype, np.zeros(self._block.width, np.int32)
        wanted[: len(group)] = [left[chain] for chain in group]
        control = BatchControl(
            wanted=wanted,
            budget=np.int32(self._budget),
            adapt=np.bool_(adapt),
            target_accept=np.asarray(self.target_accept, dtype),
            limit=np.int32(limit),
        )
        number = group[0] // self._block.width
        if number not in self._machines:
            states = jax.tree.map(lambda *rows: np.stack(rows), *self._padded(self.states, group))
            self._machines[number] = machine_of(states, self._block.max_depth)
        began = time.perf_counter()
        with self._target.precision():
            machine, result, taken = self._program(
                self._machines[number], control, self._metrics[number], self._target.inputs
            )
            after = (machine.key, machine.iteration, machine.step)
            (*after, step), result, taken = jax.tree.map(np.asarray, (after, result, taken))
        seconds = time.perf_counter() - began
        self._machines[number] = machine
        step_size = float(np.exp(step.log_step[0] if adapt else step.log_average[0]))
        return Made(_split(group, *after, step, result), int(taken), step_size, seconds)


def _split(
    group: range, key: np.ndarray, iteration: np.ndarray, step: DualAveraging, result: BlockResult
) -> list[tuple[int, ChainState, BlockResult]]:
    """The chains of a batch that drew, each by itself."""
    most = int(result.done.max())
    # copied, so that the rows which nobody filled are not kept
    q, g, log_density, step_size = (
        column[:, :most].copy() for column in (result.q, result.g, result.log_density, result.step_size)
    )
    info = [column[:, :most].copy() for column in result.info]
    found = []
    for row, chain in enumerate(group):
        done = int(result.done[row])
        if done:
            last = (column[row, done - 1] for column in (q, g, log_density))
            here = dict(zip(("q", "g", "log_density"), last, strict=True))
            own = DualAveraging(*(column[row] for column in step))
            state = ChainState(key=key[row], iteration=iteration[row], step=own, **here)
            columns = (column[row, :done] for column in (q, g, log_density, step_size))
            made = BlockResult(np.int32(done), *columns, Info(*(column[row, :done] for column in info)))
            found.append((chain, state, made))
    return found
