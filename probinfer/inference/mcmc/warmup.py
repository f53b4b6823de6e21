"""Warm-up: windows of draws, after each of which the metric is fitted from all chains; then the step size settles."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from probinfer.inference.mcmc import centring
from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.block import ChainState, Row
from probinfer.inference.mcmc.chains import Chains
from probinfer.inference.mcmc.drawn import Drawn
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import WARMUP
from probinfer.inference.progress import Progress
from probinfer.model.one_thread import one_blas_thread
from probinfer.model.recentred import Recentred

DEFAULT_WARMUP = 400
WARM_WARMUP = 100  # draws, of chains that start from draws of a posterior nearby, with a metric that fits
_WINDOWS = (0.025, 0.05, 0.10, 0.17, 0.27, 0.40, 0.60, 0.85)  # of the warm-up after which the metric is fitted anew
_FIRST_LIMIT = 6  # doublings in the first window, whose metric is a guess: long trajectories would cost and not help
_MEMORY = 0.5  # each fit looks back over this part of the warm-up so far: the way to the typical set is forgotten
_SETTLED_FROM = 0.4  # of the warm-up: the earliest that it may be cut short
_DIVERGENCES, _DIVERGENT = 4, 0.02  # so many, and such a share, that the step size aims at more acceptance
_LOST = 0.15, 0.65  # of the warm-up, between which chains may begin again elsewhere
_FAR = 10.0  # standard deviations of the log density below the bulk, beyond which a draw is still on that way


class Warmed(NamedTuple):
    """The metric of each chain to sample with, the draws of each that it took, and how often one began again."""

    metrics: list[Metric]
    draws: int
    restarted: int


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
    raised: float | None = None,
    another: Callable[[Chains, np.ndarray, int], ChainState | None] | None = None,
    recentred: Recentred | None = None,
) -> "Warmed":
    """Advance the chains by `warmup` draws, adapting, with metrics made by `fit`.

    Chains that have arrived where the others are share one metric and, at the end, one step size, fitted from all of
    them. A chain that is still on its way, or in a mode of its own, keeps those that fit where it is. With `keep` the
    metrics stay as they are, and only the step size adapts.

    Once all chains have arrived, and `settles`(draws, gradients, metric) says of a window that the metric with which it
    was made fits it, the windows left are skipped but the last, in which the step size settles.

    Where draws diverge although the metric should fit by then, the step size aims at the acceptance `raised` from there
    on. If only those of the last window show it, there is one more.

    A chain that stays far below most others is in a mode of no mass. `another`(chains, which, attempt) gives it another
    starting point, and it goes on from there with what fits the others.

    With `recentred`, the target of the chains as they begin, they go on in the coordinates that fit the draws so far,
    until a part of the warm-up is over (see centring.py); those draws go with them.
    """
    parts = () if keep else _WINDOWS
    ends = [*sorted({round(warmup * part) for part in parts} - {0, warmup}), warmup]
    last = ends[-1] - ends[-2] if len(ends) > 1 else warmup
    drawn = Drawn(len(chains), gradients=True)
    drawn.expect(warmup)
    history = _History(fit, drawn)
    before, window, diverged, looked_at, restarted = 0, 0, 0, 0, 0
    while before < warmup:
        end = ends[window]
        chains.advance(
            end - before,
            metrics,
            drawn,
            phase=WARMUP + window,
            adapt=True,
            limit=_FIRST_LIMIT if window == 0 and not keep else None,
            progress=progress,
            label=lambda: "warm-up",
            done=before,
            total=total,
        )
        if chains.interrupted:
            return Warmed(metrics, before, restarted)
        history.newest = drawn.rows(before)
        if raised is not None and end > _SETTLED_FROM * warmup:
            flags = history.late_divergences()
            diverged, looked_at = diverged + flags.sum(), looked_at + flags.size
            if diverged >= _DIVERGENCES and diverged >= _DIVERGENT * looked_at:
                chains.target_accept, raised = raised, None
                if end == warmup:
                    warmup += last
                    ends.append(warmup)
        if end < warmup:
            early = settles is not None and end >= _SETTLED_FROM * warmup and end + last < warmup
            if early and not history.newest.info.diverging.any() and history.settled(settles, metrics[0]):
                warmup = end + last
                ends = [*ends[: window + 1], warmup]
            first = end - int(np.ceil(end * _MEMORY))
            if recentred is not None and not keep and end <= centring.UNTIL * warmup:
                recentred = history.recentre(first, chains, recentred)
            metrics = history.fit(first, metrics[0].stretch.shape[-1])
            log_steps = chains.states.step.log_average
            if another is not None and _LOST[0] * warmup <= end <= _LOST[1] * warmup:
                lost = history.lost()
                states = another(chains, lost, window) if lost.any() else None
                if states is not None:
                    chains.put(lost, states)
                    found = int(np.flatnonzero(history.arrived())[0])
                    metrics = [metrics[found] if gone else own for gone, own in zip(lost, metrics, strict=True)]
                    log_steps = np.where(lost, log_steps[found], log_steps)
                    restarted += int(lost.sum())
            chains.restart(log_steps)
        else:
            _settle_step_sizes(chains, history.newest, history.arrived())
        before, window = end, window + 1
    return Warmed(metrics, before, restarted)


def _settle_step_sizes(chains: Chains, newest: Row, arrived: np.ndarray) -> None:
    """One step size for the chains that have arrived; the others keep their own."""
    log_steps = chains.states.step.log_average.copy()
    shared = np.array(log_steps[arrived].mean(axis=0))
    tried, accepted = newest.step_size[arrived], newest.info.symmetric_acceptance[arrived]
    for j in np.ndindex(shared.shape):  # of several step sizes, each by itself
        found = steps.calibrate(tried[..., *j], accepted[..., *j], float(np.asarray(chains.target_accept)[j]))
        if found is not None:
            shared[j] = np.log(found)
    log_steps[arrived] = shared
    chains.restart(log_steps)


class _History:
    """What was `drawn` so far, and the draws of the `newest` window."""

    newest: Row

    def __init__(self, fit: Callable[..., Metric], drawn: Drawn) -> None:
        self._fit, self._drawn = fit, drawn

    def arrived(self) -> np.ndarray:
        """Which chains are, in the last window, where the chain of the highest log density is."""
        return np.median(self.newest.log_density, axis=1) >= self._threshold()

    def late_divergences(self) -> np.ndarray:
        """Which draws of the second half of the newest window diverged, in the chains that have arrived; in the first
        half the step size is still looked for."""
        flags = self.newest.info.diverging
        return flags[self.arrived(), flags.shape[1] // 2 :]

    def lost(self) -> np.ndarray:
        """Which chains are not where the one of the highest log density is, with half of them, and come no nearer."""
        arrived, heights = self.arrived(), self.newest.log_density
        half = heights.shape[1] // 2
        if 2 * arrived.sum() < len(arrived) or half == 0:
            return np.zeros(len(arrived), bool)
        rise = np.median(heights[:, half:], axis=1) - np.median(heights[:, :half], axis=1)
        return ~arrived & (rise < self._spread())

    def settled(self, settles: Callable[[np.ndarray, np.ndarray, Metric], bool], metric: Metric) -> bool:
        """Whether all chains have arrived, and the metric of the newest window fits it."""
        with one_blas_thread():
            return bool(self.arrived().all()) and settles(self.newest.q, self.newest.g, metric)

    def fit(self, first: int, rank: int) -> list[Metric]:
        """One metric for all chains that have arrived, from their draws from the `first` on; for each other one its
        own."""
        rows, newest, arrived = self._drawn.rows(first), self.newest, self.arrived()
        use = rows.log_density >= self._threshold()
        with one_blas_thread():
            if arrived.all():
                return [self._fit(rows.q, rows.g, use, rank)] * len(arrived)
            shared = self._fit(rows.q[arrived], rows.g[arrived], use[arrived], rank)
            every = np.ones((1, newest.q.shape[1]), bool)
            return [
                shared if here else self._fit(newest.q[i : i + 1], newest.g[i : i + 1], every, rank)
                for i, here in enumerate(arrived)
            ]

    def recentre(self, first: int, chains: Chains, here: Recentred) -> Recentred:
        """Let chains and draws from the `first` on move to the coordinates that these draws show to be the best."""
        rows = self._drawn.rows(first)
        use = (rows.log_density >= self._threshold()) & self.arrived()[:, None]
        with one_blas_thread():
            there = here.centred(centring.best_centring(here, rows.q, rows.g, use))
        if np.array_equal(there.centring, here.centring):
            return here
        states = centring.moved_states(here, there, chains.states)
        if states is None:
            return here
        self._drawn.move(first, *centring.moved(here, there, rows.q, rows.g, rows.log_density))
        chains.go_on(there, states)
        return there

    def _threshold(self) -> float:
        """The log density below which a draw is still on its way."""
        return float(np.median(self.newest.log_density, axis=1).max() - _FAR * self._spread())

    def _spread(self) -> float:
        """What the log density varies by in the chain where it is highest."""
        heights = self.newest.log_density
        middles = np.median(heights, axis=1)
        best = int(np.argmax(middles))
        below = middles[best] - np.quantile(heights[best], 0.25)
        return float(np.sqrt(self.newest.q.shape[-1] / 2) + 1.5 * below)
