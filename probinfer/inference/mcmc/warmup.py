"""Warm-up: windows of draws, after each of which the metric is fitted from all chains; then the step size settles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.block import BlockResult, ChainState
from probinfer.inference.mcmc.chains import Chains, stack
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import WARMUP
from probinfer.inference.progress import Progress
from probinfer.model.one_thread import one_blas_thread

DEFAULT_WARMUP = 400
WARM_WARMUP = 100  # draws, of chains that start from draws of a posterior nearby, with a metric that fits
_WINDOWS = (0.025, 0.05, 0.10, 0.17, 0.27, 0.40, 0.60, 0.85)  # of the warm-up after which the metric is fitted anew
_FIRST_LIMIT = 6  # doublings in the first window, whose metric is a guess: long trajectories would cost and not help
_MEMORY = 0.5  # each fit looks back over this part of the warm-up so far: the way to the typical set is forgotten
_SETTLED_FROM = 0.4  # of the warm-up: the earliest that it may be cut short
_FAR = 10.0  # standard deviations of the log density below the bulk, beyond which a draw is still on that way


def warm_up(
    chains: Chains,
    metrics: list[Metric],
    fit: Callable[..., Metric],
    warmup: int,
    total: int,
    progress: Progress,
    *,
    keep: bool = False,
    settles: Callable[[np.ndarray, np.ndarray, Metric], bool] | None = None,
) -> tuple[list[Metric], int]:
    """Advance the chains by `warmup` draws, adapting; returns the metric of each chain to sample with, made by `fit`,
    and the draws of each chain that it took.

    Chains that have arrived where the others are share one metric and, at the end, one step size, fitted from all of
    them. A chain that is still on its way, or in a mode of its own, keeps those that fit where it is. With `keep` the
    metrics stay as they are, and only the step size adapts.

    Once all chains have arrived, and `settles`(draws, gradients, metric) says of a window that the metric with which it
    was made fits it, the windows left are skipped but the last, in which the step size settles.
    """
    parts = () if keep else _WINDOWS
    ends = [*sorted({round(warmup * part) for part in parts} - {0, warmup}), warmup]
    last = ends[-1] - ends[-2] if len(ends) > 1 else warmup
    history = _History(fit)
    before, window = 0, 0
    while before < warmup:
        end = ends[window]
        blocks = chains.advance(
            end - before,
            metrics,
            phase=WARMUP + window,
            adapt=True,
            limit=_FIRST_LIMIT if window == 0 and not keep else None,
            progress=progress,
            label=lambda blocks: "warm-up",
            done=before,
            total=total,
        )
        if chains.interrupted:
            return metrics, before
        history.add(blocks)
        if end < warmup:
            early = settles is not None and end >= _SETTLED_FROM * warmup and end + last < warmup
            if early and not _diverged(blocks) and history.settled(settles, metrics[0]):
                warmup = end + last
                ends = [*ends[: window + 1], warmup]
            metrics = history.fit(int(np.ceil(end * _MEMORY)), metrics[0].stretch.shape[-1])
            chains.states = [restart(state, state.step.log_average) for state in chains.states]
        else:
            _settle_step_sizes(chains, blocks, history.arrived())
        before, window = end, window + 1
    return metrics, before


def _diverged(blocks: list[list[BlockResult]]) -> bool:
    """Whether any transition did: the sign of a posterior that is not as easy as it looks."""
    return any(block.info.diverging.any() for chain in blocks for block in chain)


def _settle_step_sizes(chains: Chains, blocks: list[list[BlockResult]], arrived: np.ndarray) -> None:
    """One step size for the chains that have arrived; the others keep their own."""
    here = np.flatnonzero(arrived)
    tried = np.concatenate([block.step_size for i in here for block in blocks[i]])
    accepted = np.concatenate([block.info.symmetric_acceptance for i in here for block in blocks[i]])
    shared = np.array(np.mean([chains.states[i].step.log_average for i in here], axis=0))
    for j in np.ndindex(shared.shape):  # of several step sizes, each by itself
        found = steps.calibrate(tried[..., *j], accepted[..., *j], float(np.asarray(chains.target_accept)[j]))
        if found is not None:
            shared[j] = np.log(found)
    shared = np.asarray(shared, chains.states[0].q.dtype)
    chains.states = [
        restart(state, shared if arrived[i] else state.step.log_average) for i, state in enumerate(chains.states)
    ]


class _Window(NamedTuple):
    """Draws, gradients (chain, draw, d) and log densities (chain, draw)."""

    draws: np.ndarray
    gradients: np.ndarray
    log_density: np.ndarray


class _History:
    """The windows so far."""

    def __init__(self, fit: Callable[..., Metric]) -> None:
        self._fit = fit
        self._windows: list[_Window] = []

    def add(self, blocks: list[list[BlockResult]]) -> None:
        columns = (lambda block: block.q, lambda block: block.g, lambda block: block.log_density)
        self._windows.append(_Window(*(stack(blocks, column) for column in columns)))

    def arrived(self) -> np.ndarray:
        """Which chains are, in the last window, where the chain of the highest log density is."""
        return np.median(self._windows[-1].log_density, axis=1) >= self._threshold()

    def settled(self, settles: Callable[[np.ndarray, np.ndarray, Metric], bool], metric: Metric) -> bool:
        """Whether all chains have arrived, and the metric of the newest window fits it."""
        newest = self._windows[-1]
        with one_blas_thread():
            return bool(self.arrived().all()) and settles(newest.draws, newest.gradients, metric)

    def fit(self, recent: int, rank: int) -> list[Metric]:
        """One metric for all chains that have arrived, from their recent draws; for each other one its own."""
        draws, gradients, log_density = (np.concatenate(part, axis=1) for part in zip(*self._windows, strict=True))
        use = log_density[:, -recent:] >= self._threshold()
        arrived = self.arrived()
        last = self._windows[-1]
        with one_blas_thread():
            shared = self._fit(draws[arrived, -recent:], gradients[arrived, -recent:], use[arrived], rank)
            return [
                shared
                if arrived[i]
                else self._fit(
                    last.draws[i : i + 1],
                    last.gradients[i : i + 1],
                    np.ones(last.log_density[i : i + 1].shape, bool),
                    rank,
                )
                for i in range(len(arrived))
            ]

    def _threshold(self) -> float:
        """The log density below which a draw is still on its way."""
        newest = self._windows[-1].log_density
        middles = np.median(newest, axis=1)
        best = int(np.argmax(middles))
        below = middles[best] - np.quantile(newest[best], 0.25)
        spread = np.sqrt(self._windows[-1].draws.shape[-1] / 2) + 1.5 * below
        return float(middles[best] - _FAR * spread)


def restart(state: ChainState, log_step: Any) -> ChainState:
    """Forget the acceptance seen so far, and begin at this step size."""
    zero = np.zeros_like(log_step)
    centre = log_step + np.log(2.0).astype(log_step.dtype)
    return state._replace(step=steps.DualAveraging(log_step, log_step, zero, zero, centre))
