"""Hundreds of short Markov chains in step: settings, warm-up, draws."""

import time
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws, Outcome
from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.chees import Length, halton
from probinfer.inference.mcmc.compiled import compiled_density, value_at
from probinfer.inference.mcmc.ensemble import Ensemble, Places, Trajectories, whitened
from probinfer.inference.mcmc.metric import Metric, fit
from probinfer.inference.mcmc.nearby import undefined_nearby
from probinfer.inference.mcmc.nuts import FIRST_STEP, metric_rank
from probinfer.inference.mcmc.start import RADII, find_start
from probinfer.inference.method import Control, Need, Run, check_start
from probinfer.inference.settings import check_fraction, check_whole, settings_of
from probinfer.model.target import Target

_FITS = (0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8)  # of warm-up, after which the metric is fitted anew
_FIRST_LENGTH = np.pi / 2
_LEAPFROGS = 1000  # of a trajectory, at most
_FAR = 10.0  # spreads of the log density below its median at which a chain is still on its way


@dataclass(frozen=True)
class ManyChains:
    """Hamiltonian Monte Carlo in hundreds of short chains side by side, with trajectories of one shared length.

        u T / step_size leapfrogs for all chains,   u from van der Corput's sequence,
        T maximises E[(|x' - E x'|² - |x - E x|²)²] / 4   (ChEES)

    All chains adapt together, from every draw of each: the metric by Fisher divergence, the step size by dual
    averaging, T by stochastic ascent. No chain waits for another, which suits GPUs, and CPUs with cheap densities; and
    a few hundred steps in time make ten thousand draws.

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
        ensemble = Ensemble(target, self.chains, rank)
        places, scale = _starts(target, self.superchains, self.chains, generator)
        compiled = clock()
        tuned, places = self._warm_up(ensemble, places, scale, rank, target, generator, run)
        warm = clock()
        kept, outcome = self._sample(ensemble, places, tuned, generator, run)
        seen = {name: np.stack([row[name] for row in kept], axis=1) for name in kept[0]}
        positions = seen.pop("z")
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

    def _warm_up(
        self,
        ensemble: Ensemble,
        places: Places,
        scale: np.ndarray,
        rank: int,
        target: Target,
        generator: np.random.Generator,
        run: Run,
    ) -> tuple["_Tuned", Places]:
        metric = Metric(scale, np.zeros((target.dim, rank)), np.zeros(rank))
        with target.precision():
            averaging = jax.tree.map(float, steps.start(FIRST_STEP, target.dtype))
        length = Length(_FIRST_LENGTH)
        history: list[Places] = []
        fits = {max(2, round(share * self.warmup)) for share in _FITS}
        for i in range(self.warmup):
            share = halton(i)
            step = float(np.exp(averaging.log_step))
            before = places
            places, paths = self._move(ensemble, before, metric, step, share * length.now, generator)
            acceptance = float(paths.acceptance.mean())
            averaging = steps.update(averaging, acceptance, self.target_accept)
            if i >= min(fits):
                length.learn(
                    *(whitened(metric, part) for part in (before.z, paths.end, paths.velocity)), paths.acceptance, share
                )
            history.append(places)
            if i + 1 in fits:
                metric = _fit(history[len(history) // 2 :], rank)
                step = float(np.exp(averaging.log_average))
                averaging = steps.DualAveraging(np.log(step), np.log(step), 0.0, 0.0, np.log(2 * step))
            run.progress.update(i + 1, self.warmup + self.draws, f"warm-up, step size {step:.2g}")
        return _Tuned(metric, float(np.exp(averaging.log_average)), length.settled), places

    def _sample(
        self, ensemble: Ensemble, places: Places, tuned: "_Tuned", generator: np.random.Generator, run: Run
    ) -> tuple[list[dict[str, np.ndarray]], Outcome]:
        kept: list[dict[str, np.ndarray]] = []
        try:
            for i in range(self.draws):
                length = halton(i) * tuned.length
                places, paths = self._move(ensemble, places, tuned.metric, tuned.step, length, generator)
                count = np.full(self.chains, _leapfrogs(length, tuned.step), np.int32)
                kept.append(
                    {
                        "z": places.z,
                        "lp": places.log_density,
                        "acceptance_rate": paths.acceptance,
                        "n_steps": count,
                        "diverging": paths.diverging,
                    }
                )
                run.progress.update(self.warmup + i + 1, self.warmup + self.draws, "sampling")
        except KeyboardInterrupt:
            if not kept:
                raise
            return kept, Outcome.INTERRUPTED
        return kept, Outcome.COMPLETED

    def _move(
        self,
        ensemble: Ensemble,
        places: Places,
        metric: Metric,
        step: float,
        length: float,
        generator: np.random.Generator,
    ) -> tuple[Places, Trajectories]:
        words = generator.integers(0, 2**32, (self.chains, 2), dtype=np.uint32)
        return ensemble.move(places, words, metric, step, _leapfrogs(length, step))


class _Tuned(NamedTuple):
    """What warm-up found."""

    metric: Metric
    step: float
    length: float


def _leapfrogs(length: float, step: float) -> int:
    return int(np.clip(np.ceil(length / step), 1, _LEAPFROGS))


def _fit(history: list[Places], rank: int) -> Metric:
    """The metric from the draws of all chains together, but for those that are still on their way."""
    z, g, log_density = (np.stack(part, axis=1).astype(float) for part in zip(*history, strict=True))
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
