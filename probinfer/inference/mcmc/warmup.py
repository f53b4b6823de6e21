"""Warm-up: windows of draws, after each of which the metric is fitted from all chains; then the step size settles."""

from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.block import BlockResult, ChainState
from probinfer.inference.mcmc.chains import Chains, stack
from probinfer.inference.mcmc.metric import Metric, fit
from probinfer.inference.progress import Progress

DEFAULT_WARMUP = 400
_WINDOWS = (0.025, 0.05, 0.10, 0.17, 0.27, 0.40, 0.60, 0.85)  # of the warm-up after which the metric is fitted anew
_MEMORY = 0.5  # each fit looks back over this part of the warm-up so far: the way to the typical set is forgotten
_FAR = 10.0  # standard deviations of the log density below the bulk, beyond which a draw is still on that way


def warm_up(chains: Chains, metric: Metric, warmup: int, total: int, progress: Progress) -> Metric:
    """Advance the chains by `warmup` draws, adapting; returns the metric to sample with.

    The chains' states then hold the step size: one for all, the geometric mean, so that no chain is slow by bad luck.
    """
    ends = [*sorted({round(warmup * part) for part in _WINDOWS} - {0, warmup}), warmup]
    history = _History()
    before = 0
    for end in ends if warmup else []:
        blocks = chains.advance(
            end - before, metric, adapt=True, progress=progress, label="warm-up", done=before, total=total
        )
        if chains.interrupted:
            return metric
        if end < warmup:
            history.add(blocks, metric)
            metric = history.fit(int(np.ceil(end * _MEMORY)), metric.stretch.shape[-1])
            chains.states = [_restart(state, state.step.log_average) for state in chains.states]
        before = end
    shared = np.mean([state.step.log_average for state in chains.states])
    if warmup:
        tried = np.concatenate([block.step_size for chain in blocks for block in chain])
        accepted = np.concatenate([block.info.symmetric_acceptance for chain in blocks for block in chain])
        found = steps.calibrate(tried, accepted, chains.target_accept)
        shared = np.log(found) if found is not None else shared
    shared = np.asarray(shared, chains.states[0].q.dtype)
    chains.states = [_restart(state, shared) for state in chains.states]
    return metric


class _History:
    """Draws, gradients and log densities (chain, draw, ...) of the windows so far, in the target's coordinates."""

    def __init__(self) -> None:
        self._windows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        # Matrices this small are slower on many threads, by a hundred times when other processes want the cores too.
        self._threads = ThreadpoolController()

    def add(self, blocks: list[list[BlockResult]], metric: Metric) -> None:
        gradients = in_target_space(stack(blocks, lambda block: block.g), metric)
        self._windows.append(
            (stack(blocks, lambda block: block.q), gradients, stack(blocks, lambda block: block.log_density))
        )

    def fit(self, recent: int, rank: int) -> Metric:
        """The metric from the most recent draws of each chain, without those still on their way to the bulk."""
        draws, gradients, log_density = (
            np.concatenate(part, axis=1)[:, -recent:] for part in zip(*self._windows, strict=True)
        )
        newest = self._windows[-1][2]
        middle = np.median(newest)
        spread = np.sqrt(draws.shape[-1] / 2) + 1.5 * (middle - np.quantile(newest, 0.25))
        arrived = log_density > middle - _FAR * spread
        with self._threads.limit(limits=1):
            return fit(draws, gradients, arrived, rank)


def in_target_space(gradients: np.ndarray, metric: Metric) -> np.ndarray:
    """Gradients with respect to the target's coordinates from those along the metric: solves A' g = h."""
    inverse = 1.0 / (1.0 + metric.stretch) - 1.0
    along = (gradients @ metric.directions) * inverse
    return (gradients + along @ metric.directions.T) / metric.scale


def _restart(state: ChainState, log_step: Any) -> ChainState:
    """Forget the acceptance seen so far, and begin at this step size."""
    zero = np.zeros_like(log_step)
    centre = log_step + np.log(2.0).astype(log_step.dtype)
    return state._replace(step=steps.DualAveraging(log_step, log_step, zero, zero, centre))
