"""The No-U-Turn sampler: settings, warm-up schedule, draws."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import ClassVar

import jax
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc import step_size as steps
from probinfer.inference.mcmc.block import ChainState
from probinfer.inference.mcmc.chains import Chains, stack
from probinfer.inference.mcmc.compiled import compiled_block, compiled_density
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import Record
from probinfer.inference.mcmc.sampling import sample
from probinfer.inference.mcmc.start import RADII, find_start
from probinfer.inference.mcmc.warmup import DEFAULT_WARMUP, warm_up
from probinfer.inference.method import Control, Need, Run, check_start
from probinfer.inference.settings import check_whole
from probinfer.model.target import Target

_FIRST_STEP = 0.1


@dataclass(frozen=True)
class NUTS:
    """No-U-Turn sampler: Hamiltonian Monte Carlo that chooses the length of its trajectories. The default method.

    Warm-up fits a metric by Fisher divergence (from draws and gradients, pooled over chains) and a step size by dual
    averaging; then every chain draws with both held fixed.

    Args:
        chains: independent chains, each from its own initial point; 4 let the report see whether they agree.
        draws: draws kept, per chain.
        warmup: draws spent on adaptation, per chain; None takes 400.
        target_accept: mean acceptance that the step size aims at, in (0, 1). Raise it (0.95, 0.99) when draws diverge.
        max_tree_depth: a trajectory has at most 2**max_tree_depth steps.
        low_rank: directions in which the metric may be far from diagonal; None takes all up to 32 dimensions, 16 above.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range.

    Fails on posteriors whose curvature varies strongly (funnels: divergences), with several modes far apart (chains
    disagree: R-hat), or with discrete latent sites (refused).

    Hoffman & Gelman (2014); Betancourt (2017).

    >>> NUTS(draws=500).chains
    4
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    target_accept: float = 0.8
    max_tree_depth: int = 10
    low_rank: int | None = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset(Control)

    def __post_init__(self) -> None:
        check_whole("NUTS", "chains", self.chains, 1)
        check_whole("NUTS", "draws", self.draws, 1)
        if self.warmup is not None:
            check_whole("NUTS", "warmup", self.warmup, 0)
        check_whole("NUTS", "max_tree_depth", self.max_tree_depth, 1, 20)
        if self.low_rank is not None:
            check_whole("NUTS", "low_rank", self.low_rank, 0)
        if not (isinstance(self.target_accept, int | float) and 0 < self.target_accept < 1):
            raise MethodError(f"NUTS: target_accept is {self.target_accept!r}; wanted a number in (0, 1), such as 0.8.")

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        clock = time.perf_counter
        began = clock()
        rank = min(target.dim, self.low_rank if self.low_rank is not None else (32 if target.dim <= 32 else 16))
        with ThreadPoolExecutor(1, thread_name_prefix="probinfer") as pool:
            compiling = pool.submit(compiled_block, target, rank, self.max_tree_depth)
            states, metrics = self._start(target, run, rank)
        record = Record(run.journal, target.dim, target.dtype)
        chains = Chains(
            compiling.result(), target, states, self.target_accept, self.max_tree_depth, record, run.deadline
        )
        compiled = clock()
        warmup = DEFAULT_WARMUP if self.warmup is None else self.warmup
        total = warmup + self.draws

        metrics = warm_up(chains, metrics, warmup, total, run.progress)
        if chains.interrupted:
            run.progress.close()
            raise KeyboardInterrupt("Interrupted during warm-up: there are no draws yet.")
        warm = clock()
        blocks, ending = sample(chains, metrics, self.draws, run.until, run.progress, warmup)
        run.progress.close()
        positions = stack(blocks, lambda block: block.q)
        if positions.shape[1] == 0:
            raise KeyboardInterrupt("Interrupted before every chain had its first draw.")
        return Draws(
            positions=positions,
            stats={
                "lp": stack(blocks, lambda block: block.log_density),
                "acceptance_rate": stack(blocks, lambda block: block.info.acceptance),
                "step_size": stack(blocks, lambda block: block.step_size),
                "tree_depth": stack(blocks, lambda block: block.info.depth),
                "n_steps": stack(blocks, lambda block: block.info.steps),
                "diverging": stack(blocks, lambda block: block.info.diverging),
                "reached_max_treedepth": stack(blocks, lambda block: block.info.saturated),
                "energy": stack(blocks, lambda block: block.info.energy),
                "energy_error": stack(blocks, lambda block: block.info.energy_error),
            },
            method="NUTS",
            settings={**asdict(self), "warmup": warmup},
            outcome=ending.outcome,
            seconds={"compile": compiled - began, "warmup": warm - compiled, "sampling": clock() - warm},
            stopping=ending.stopping,
        )

    def _start(self, target: Target, run: Run, rank: int) -> tuple[list[ChainState], list[Metric]]:
        """Chains at their starting points, and the metric that fits each there."""
        density, dtype = compiled_density(target), target.dtype.type
        states, metrics = [], []
        with target.precision():
            first_step = jax.tree.map(np.asarray, steps.start(_FIRST_STEP, target.dtype))
            for seed in np.random.SeedSequence(run.key.tolist()).spawn(self.chains):
                generator = np.random.default_rng(seed)
                key = generator.integers(0, 2**32, 2, dtype=np.uint32)

                def evaluate(position: np.ndarray) -> tuple[float, np.ndarray]:
                    value, gradient = density(position.astype(dtype), target.inputs)
                    return float(value), np.asarray(gradient, float)

                def propose(radius: float, generator: np.random.Generator = generator) -> np.ndarray:
                    return generator.uniform(-radius, radius, target.dim)

                start, last = find_start(evaluate, propose, target.dim, rank)
                if start is None:
                    raise check_start(target, last, len(RADII))
                q, g = start.position.astype(dtype), start.gradient.astype(dtype)
                states.append(ChainState(q, key, np.uint32(0), first_step, g, dtype(start.log_density)))
                metrics.append(start.metric)
        return states, metrics
