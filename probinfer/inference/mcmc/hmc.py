"""Hamiltonian Monte Carlo with trajectories of a given length: settings."""

import functools
from dataclasses import dataclass
from typing import ClassVar

from probinfer.inference.draws import Draws
from probinfer.inference.mcmc import trajectory
from probinfer.inference.mcmc.kernel import Kernel
from probinfer.inference.mcmc.metric import fit
from probinfer.inference.mcmc.nuts import FIRST_STEP, metric_rank
from probinfer.inference.mcmc.run import run_chains
from probinfer.inference.mcmc.warmup import DEFAULT_WARMUP
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_above, check_fraction, check_whole, check_within
from probinfer.model.target import Target

_DOUBLINGS = 20  # no limit beyond max_steps


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: each draw is the end of a trajectory whose length is given, or refused.

        accept with probability min(1, exp(-energy error)),   length ~ Uniform(L (1 - jitter), L (1 + jitter))

    The length L is measured where the metric has made the posterior round: a quarter of a turn, pi / 2, takes a normal
    posterior to an independent draw. Warm-up is that of `NUTS`. A draw costs L / step_size gradients, the same for all,
    which suits targets whose scales the metric gets right; `NUTS` finds the length by itself.

    Args:
        chains: independent chains, each from its own initial point.
        draws: draws kept, per chain.
        warmup: draws spent on adaptation, per chain; None takes 400.
        path_length: L, above 0.
        jitter: in [0, 1). 0 keeps the length fixed, and some directions may then come back to where they began.
        target_accept: mean acceptance that the step size aims at, in (0, 1).
        max_steps: the most steps of a trajectory.
        low_rank: directions in which the metric may be far from diagonal; None takes all up to 32 dimensions, 16 above.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range.

    Fails where NUTS fails (funnels, several modes, discrete sites), and by slow mixing (few effective draws) where the
    posterior is much longer in some direction than the metric knows.

    Duane, Kennedy, Pendleton & Roweth (1987); Neal (2011).

    >>> HMC(path_length=2.0).jitter
    0.5
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    path_length: float = 1.57
    jitter: float = 0.5
    target_accept: float = 0.8
    max_steps: int = 1024
    low_rank: int | None = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset(Control)

    def __post_init__(self) -> None:
        check_whole("HMC", "chains", self.chains, 1)
        check_whole("HMC", "draws", self.draws, 1)
        if self.warmup is not None:
            check_whole("HMC", "warmup", self.warmup, 0)
        check_above("HMC", "path_length", self.path_length, 0, "1.57")
        check_within("HMC", "jitter", self.jitter, 0, 1, "0.5")
        check_fraction("HMC", "target_accept", self.target_accept, "0.8")
        check_whole("HMC", "max_steps", self.max_steps, 1, 2**_DOUBLINGS)
        if self.low_rank is not None:
            check_whole("HMC", "low_rank", self.low_rank, 0)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        shape = {"length": float(self.path_length), "jitter": float(self.jitter), "max_steps": int(self.max_steps)}
        kernel = Kernel(
            name=f"hmc {shape}",
            transition=functools.partial(trajectory.transition, **shape),
            gradient=True,
            first_step=FIRST_STEP,
            fit=fit,
            limit=_DOUBLINGS,
            stats={
                "acceptance_rate": "acceptance",
                "n_steps": "steps",
                "diverging": "diverging",
                "energy": "energy",
                "energy_error": "energy_error",
            },
        )
        warmup = DEFAULT_WARMUP if self.warmup is None else self.warmup
        rank = metric_rank(target.dim, self.low_rank)
        return run_chains(self, kernel, target, run, rank=rank, warmup=warmup, scouted=True)
