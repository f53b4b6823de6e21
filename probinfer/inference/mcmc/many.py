"""Hundreds of short Markov chains in step: settings, warm-up, draws."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws, Outcome
from probinfer.inference.mcmc import chees
from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.compiled import compiled_density, value_at
from probinfer.inference.mcmc.ensemble import Ensemble, Places, State, Step, StepControl
from probinfer.inference.mcmc.metric import Metric, fit
from probinfer.inference.mcmc.nearby import undefined_nearby
from probinfer.inference.mcmc.nuts import FIRST_STEP, metric_rank
from probinfer.inference.mcmc.start import RADII, find_start
from probinfer.inference.method import Control, Need, Run, check_start
from probinfer.inference.settings import check_fraction, check_whole, settings_of
from probinfer.model.target import Target

_FITS = (0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8)  # of warm-up, after which the metric is fitted anew
_FIRST_LENGTH = np.pi / 2
_PAUSE = 0.25  # seconds that a call may take: how long Ctrl-C waits, and how often the progress line moves
_FAR = 10.0  # spreads of the log density below its median at which a chain is still on its way


@dataclass(frozen=True)
class ManyChains:
    """Hamiltonian Monte Carlo in hundreds of short chains side by side, with trajectories of one shared length.

        u T / step_size leapfrogs for all chains,   u from van der Corput's sequence,
        T maximises E[(|x' - E x'|² - |x - E x|²)²] / 4   (ChEES)

    All chains adapt together: the metric by Fisher divergence from every draw of each; the step size by dual averaging
    and T by stochastic ascent, on a CPU in groups of 32 chains or more, which agree whenever the metric is fitted.
    A few hundred steps in time make ten thousand draws, and steps follow one another inside of a compiled program,
    which suits GPUs, and CPUs with cheap densities.

    Args:
        chains: how many; a multiple of `superchains`.
        draws: draws kept, per chain.
        warmup: draws spent on adaptation, per chain.
        superchains: groups of chains that begin at one point. R-hat compares the groups.
        target_accept: mean acceptance that the step size aims at, in (0, 1).
        low_rank: directions in which the metric may be far from diagonal; None takes all up to 32 dimensions, 16 above.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range, or `chains` is no multiple of `superchains`.

    `infer` returns draws (chain, draw) and stores `superchains`, `trajectory_length` (T) and `step_size`. The report
    reads R-hat as the nested one, sqrt(1 + between superchains / within them), which a chain of one draw has too; the
    effective draws wanted are those of four long chains.

    Fails where NUTS fails (funnels, several modes far apart: the superchains disagree), and where the posterior's shape
    wants short trajectories here and long ones there. Each chain must forget its start within the warm-up.

    Hoffman, Radul & Sountsov (2021); Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman (2024), nested R-hat.

    >>> ManyChains(chains=256).superchains
    16
    """

    chains: int = 128
    draws: int = 100
    warmup: int = 200
    superchains: int = 16
    target_accept: float = 0.8
    low_rank: int | None = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        check_whole("ManyChains", "superchains", self.superchains, 2)
        check_whole("ManyChains", "chains", self.chains, 2)
        check_whole("ManyChains", "draws", self.draws, 1)
        check_whole("ManyChains", "warmup", self.warmup, 50)
        check_fraction("ManyChains", "target_accept", self.target_accept, "0.8")
        if self.low_rank is not None:
            check_whole("ManyChains", "low_rank", self.low_rank, 0)
        if self.chains % self.superchains or self.chains < 2 * self.superchains:
            raise MethodError(
                f"ManyChains: {self.chains} chains do not make {self.superchains} superchains of two chains or more "
                f"and of one size; take for example chains={8 * self.superchains}."
            )

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        clock = time.perf_counter
        began = clock()
        generator = np.random.default_rng(run.key)
        rank = metric_rank(target.dim, self.low_rank)
        groups = 1 if jax.default_backend() != "cpu" else _groups(self.chains, self.superchains)
        ensemble = Ensemble(target, self.chains // groups, rank)
        places, scale = _starts(target, self.superchains, self.chains, generator)
        key = generator.integers(0, 2**32, (self.chains, 2), dtype=np.uint32)
        crowd = _Crowd(ensemble, target, self, _states(places, key, groups, target))
        compiled = clock()
        tuned = self._warm_up(crowd, Metric(scale, np.zeros((target.dim, rank)), np.zeros(rank)), run)
        warm = clock()
        made, outcome = self._sample(crowd, tuned, run)
        positions = made.places.z
        seen = {
            "lp": made.places.log_density,
            "acceptance_rate": made.acceptance,
            "n_steps": made.leapfrogs,
            "diverging": made.diverging,
        }
        return Draws(
            positions=positions,
            stats=seen,
            method="ManyChains",
            settings=settings_of(self),
            outcome=outcome,
            seconds={"compile": compiled - began, "warmup": warm - compiled, "sampling": clock() - warm},
            facts={
                "superchains": self.superchains,
                "trajectory_length": tuned.length,
                "step_size": tuned.step,
                **undefined_nearby(value_at(target), target, positions, seen, run.key),
            },
        )

    def _warm_up(self, crowd: "_Crowd", metric: Metric, run: Run) -> "_Tuned":
        """Windows of steps, at whose ends the metric is fitted anew, and the groups agree on step size and length."""
        ends = sorted({max(2, round(share * self.warmup)) for share in _FITS} | {self.warmup})
        history: list[Places] = []
        tuned = _Tuned(metric, FIRST_STEP, _FIRST_LENGTH)
        for before, end in itertools.pairwise([0, *ends]):
            window = crowd.advance(range(before, end), tuned, run, 0, adapt=True, learns=ends[0])
            history += [made.places for made in window]
            if end < self.warmup:
                seen = joined(history)
                metric = _fit(
                    jax.tree.map(lambda column, end=end: column[:, end // 2 :], seen), metric.stretch.shape[-1]
                )
            tuned = crowd.agree(metric, restart=end < self.warmup)
        return tuned

    def _sample(self, crowd: "_Crowd", tuned: "_Tuned", run: Run) -> tuple[Step, Outcome]:
        kept: list[Step] = []
        outcome = Outcome.COMPLETED
        try:
            for made in crowd.advance(range(self.draws), tuned, run, self.warmup, adapt=False, learns=0):
                none = np.empty((*made.places.g.shape[:2], 0), made.places.g.dtype)
                kept.append(made._replace(places=made.places._replace(g=none)))
        except KeyboardInterrupt:
            if not kept:
                raise
            outcome = Outcome.INTERRUPTED
        return joined(kept), outcome


class _Tuned(NamedTuple):
    """What warm-up found."""

    metric: Metric
    step: float
    length: float


class _Crowd:
    """The chains of a run, in groups that adapt by themselves in a window, on a core each."""

    def __init__(self, ensemble: Ensemble, target: Target, method: ManyChains, states: list[State]) -> None:
        self._ensemble, self._target, self._method, self._states = ensemble, target, method, states
        self._count = 1  # steps of a call, until it is known how long one takes

    def advance(
        self, wanted: range, tuned: _Tuned, run: Run, before: int, *, adapt: bool, learns: int
    ) -> Iterator[Step]:
        """Make these steps of a phase, before which there were others: those of each call, (chains, steps, ...)."""
        total = self._method.warmup + self._method.draws
        made = wanted.start
        while made < wanted.stop:
            count = min(self._count, wanted.stop - made)
            shares = [chees.halton(i) for i in range(made, made + count)]
            control = StepControl(count, shares, adapt, learns, self._method.target_accept)
            began = time.perf_counter()
            with self._target.precision():
                # JAX begins with all groups before it waits for the first
                begun = [self._ensemble.begin(state, control, tuned.metric) for state in self._states]
                parts = [self._ensemble.steps(table, count) for _, table in begun]
            self._states = [state for state, _ in begun]
            together = jax.tree.map(lambda *columns: np.concatenate(columns, axis=1).swapaxes(0, 1), *parts)
            each = (time.perf_counter() - began) / count
            self._count = int(np.clip(_PAUSE / each, 1, min(2 * self._count, self._ensemble.rows)))
            made += count
            what = f"warm-up, step size {tuned.step:.2g}" if adapt else "sampling"
            run.progress.update(before + made, total, what)
            yield together

    def agree(self, metric: Metric, *, restart: bool) -> _Tuned:
        """Give all groups the mean step size and length, in logs; with `restart` what they saw of step sizes is
        forgotten, as it was seen with another metric."""
        sizes, lengths = ([getattr(state, name) for state in self._states] for name in ("step", "length"))
        log_step = np.mean([np.asarray(each.log_average) for each in sizes]).astype(self._target.dtype)
        log, average = (
            np.mean([np.asarray(getattr(each, name)) for each in lengths]).astype(self._target.dtype)
            for name in ("log", "average")
        )
        fresh = steps.afresh(log_step)
        self._states = [
            state._replace(
                step=fresh if restart else state.step._replace(log_average=log_step),
                length=state.length._replace(log=log, average=average),
            )
            for state in self._states
        ]
        return _Tuned(metric, float(np.exp(log_step)), float(np.exp(average)))


def joined[T](made: list[T]) -> T:
    """Steps of several calls, or their places, one after the other."""
    return jax.tree.map(lambda *columns: np.ascontiguousarray(np.concatenate(columns, axis=1)), *made)


def _groups(chains: int, superchains: int) -> int:
    """Groups of whole superchains with enough chains to adapt by: the same on any CPU, so that the draws are."""
    return max(count for count in (1, 2, 4, 8) if superchains % count == 0 and (count == 1 or chains >= 32 * count))


def _states(places: Places, key: np.ndarray, groups: int, target: Target) -> list[State]:
    """The chains at their starts, in so many groups."""
    with target.precision():
        first = jax.tree.map(np.asarray, steps.start(FIRST_STEP, target.dtype))
    length = chees.start(_FIRST_LENGTH, target.dtype)
    return [
        State(Places(*part), word, np.uint32(0), first, length)
        for *part, word in zip(*(np.split(column, groups) for column in (*places, key)), strict=True)
    ]


def _fit(seen: Places, rank: int) -> Metric:
    """The metric from the draws (chains, steps, ...) of all chains together, but for those still on their way."""
    z, g, log_density = (np.asarray(part, float) for part in seen)
    low, middle, high = np.quantile(log_density[np.isfinite(log_density)], [0.25, 0.5, 0.75])
    here = log_density >= middle - _FAR * (high - low + np.sqrt(z.shape[-1] / 2))
    flat = (z.reshape(1, -1, z.shape[-1]), g.reshape(1, -1, z.shape[-1]), here.reshape(1, -1))
    return fit(*flat, rank)


def _starts(target: Target, superchains: int, chains: int, generator: np.random.Generator) -> tuple[Places, np.ndarray]:
    """A start for every superchain, given to all of its chains, and the middle of the scales that fit there."""
    density = compiled_density(target)

    def evaluate(position: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = density(position.astype(target.dtype), target.inputs)
        return float(value), np.asarray(gradient, float)

    starts = []
    with target.precision():
        for _ in range(superchains):
            start, last = find_start(
                evaluate, lambda radius: generator.uniform(-radius, radius, target.dim), target.dim, 0
            )
            if start is None:
                raise check_start(target, last, len(RADII))
            starts.append(start)
    columns = ([s.position for s in starts], [s.gradient for s in starts], [s.log_density for s in starts])
    each = chains // superchains
    places = Places(*(np.repeat(np.asarray(column, target.dtype), each, axis=0) for column in columns))
    return places, np.exp(np.median(np.log([s.metric.scale for s in starts]), axis=0))
