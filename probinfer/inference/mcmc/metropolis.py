"""Random-walk Metropolis with an adapted covariance: settings."""

import functools
from dataclasses import dataclass
from typing import ClassVar

from probinfer.inference.draws import Draws
from probinfer.inference.mcmc import walk
from probinfer.inference.mcmc.kernel import Kernel
from probinfer.inference.mcmc.run import run_chains
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.model.target import Target

_WARMUP = 1000
_PER_DIMENSION, _LEAST = 2, 10  # proposals between draws: a random walk forgets in a number of steps that grows with d
_FULL_RANK = 64  # dimensions up to which the whole covariance is learned; above, its 16 most extreme directions


@dataclass(frozen=True)
class Metropolis:
    """Random-walk Metropolis: propose a normal step, accept it with probability min(1, ratio of densities).

        q' = q + s A z,   z ~ Normal(0, I),   A A' = covariance of the draws so far;   s fixed after warm-up

    Uses values of the log density only, no gradients: for densities that have none, such as simulators and densities
    with conditions or loops. With gradients `NUTS` needs far fewer evaluations, the more so the more parameters.

    Args:
        chains: independent chains, each from its own initial point.
        draws: draws kept, per chain.
        warmup: draws spent on adaptation, per chain; None takes 1000.
        thin: proposals from one draw to the next; None takes 2 per dimension, 10 at least.
        target_accept: share of proposals accepted that the step size aims at; 0.234 is best in many dimensions.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range.

    Fails by slow mixing (few effective draws, R-hat) in some tens of dimensions and on curved posteriors; with several
    modes far apart (chains disagree). Discrete latent sites are refused.

    Metropolis et al. (1953); Roberts, Gelman & Gilks (1997); Haario, Saksman & Tamminen (2001).

    >>> Metropolis(draws=500).target_accept
    0.234
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    thin: int | None = None
    target_accept: float = 0.234
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CONTINUOUS})
    controls: ClassVar[frozenset[Control]] = frozenset({Control.UNTIL, Control.CHECKPOINT})

    def __post_init__(self) -> None:
        check_whole("Metropolis", "chains", self.chains, 1)
        check_whole("Metropolis", "draws", self.draws, 1)
        if self.warmup is not None:
            check_whole("Metropolis", "warmup", self.warmup, 0)
        if self.thin is not None:
            check_whole("Metropolis", "thin", self.thin, 1)
        check_fraction("Metropolis", "target_accept", self.target_accept, "0.234")

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        thin = self.thin if self.thin is not None else max(_LEAST, _PER_DIMENSION * target.dim)
        kernel = Kernel(
            name=f"metropolis {thin}",
            transition=functools.partial(walk.transition, proposals=thin),
            gradient=False,
            first_step=2.38 / target.dim**0.5,
            fit=walk.fit_covariance,
            limit=0,
            stats={"acceptance_rate": "acceptance", "n_steps": "steps"},
        )
        rank = target.dim if target.dim <= _FULL_RANK else 16
        warmup = _WARMUP if self.warmup is None else self.warmup
        return run_chains(self, kernel, target, run, rank=rank, warmup=warmup)
