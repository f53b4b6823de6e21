"""The No-U-Turn sampler: settings, warm-up schedule, draws."""

import functools
from dataclasses import dataclass
from typing import ClassVar, get_args

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc import tree
from probinfer.inference.mcmc.kernel import Kernel
from probinfer.inference.mcmc.metric import fit, is_round
from probinfer.inference.mcmc.parallel import Parallel, superchains
from probinfer.inference.mcmc.run import run_chains
from probinfer.inference.mcmc.warmup import DEFAULT_WARMUP
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_choice, check_fraction, check_whole
from probinfer.inference.variational.flow import Flow
from probinfer.inference.variational.gaussian import FullRank, LowRank, MeanField
from probinfer.inference.variational.laplace import Laplace
from probinfer.inference.variational.pathfinder import Pathfinder
from probinfer.model.target import Target

FIRST_STEP = 0.1
_ACCEPT, _RAISED = 0.8, 0.95

Approximation = Laplace | MeanField | LowRank | FullRank | Pathfinder | Flow


@dataclass(frozen=True)
class NUTS:
    """No-U-Turn sampler: Hamiltonian Monte Carlo that chooses the length of its trajectories. The default method.

    Warm-up fits a metric by Fisher divergence (from draws and gradients, pooled over chains) and a step size by dual
    averaging; then every chain draws with both held fixed.

    Args:
        chains: independent chains, each from its own initial point; 4 let the report see whether they agree.
        draws: draws kept, per chain.
        warmup: draws spent on adaptation, per chain; None takes 400, or fewer once the metric fits new draws.
        target_accept: mean acceptance that the step size aims at, in (0, 1). None takes 0.8, and 0.95 from where draws
            of the warm-up diverge. Raise it (0.99) when draws diverge still.
        max_tree_depth: a trajectory has at most 2**max_tree_depth steps.
        init: a variational method, such as `Pathfinder()`, whose draws the chains begin at, with the metric that fits
            there; the warm-up may then be shorter. None starts at random points. If its draws are no places to begin
            at, chains start as without it, and the report says so. Draws of one mode let R-hat see one mode only.
        low_rank: directions in which the metric may be far from diagonal; None takes all up to 32 dimensions, 16 above.
        parallel: how chains run side by side: `Parallel.THREADS`, each by itself on a thread; `Parallel.BATCH`, all in
            one program, a gradient of each in every step, and none waits for the tree of another; `Parallel.AUTO`, the
            batch on a GPU, threads on a CPU. The draws are the same up to rounding.
        recentre: draw the latents of a hierarchy, such as theta ~ Normal(mu, tau), as they are or as the noise in them,
            whichever the draws of the warm-up show to be better for each (`docs/markov-chains.md`). The posterior is
            the same, and of the model as it is written.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range.

    With 64 chains or more, a multiple of 16, every 16th part of them begins at one point, and the report reads R-hat as
    the nested one, which chains of few draws have too; the effective draws wanted are then those of four long chains.

    Discrete latent sites with finitely many values are summed out, and drawn afterwards from their exact law; what
    cannot be summed is refused by name, before anything is compiled (`docs/exact.md`).

    Fails on posteriors whose curvature varies strongly (funnels: divergences) or with several modes far apart (chains
    disagree: R-hat; or all are in one mode, which short runs from other starting points then tell, if one of these
    began near another mode).

    Hoffman & Gelman (2014); Betancourt (2017).

    >>> NUTS(draws=500).chains
    4
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    target_accept: float | None = None
    max_tree_depth: int = 10
    init: Approximation | None = None
    low_rank: int | None = None
    parallel: Parallel = Parallel.AUTO
    recentre: bool = True
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
        if self.target_accept is not None:
            check_fraction("NUTS", "target_accept", self.target_accept, "0.8")
        check_choice("NUTS", "parallel", self.parallel, Parallel)
        if self.init is not None and not isinstance(self.init, Approximation):
            names = ", ".join(f"pi.{each.__name__}()" for each in get_args(Approximation))
            raise MethodError(f"NUTS: init is {self.init!r}; wanted one of {names}, or None.")

    @property
    def accept(self) -> float:
        """The mean acceptance that the step size aims at, at first."""
        return _ACCEPT if self.target_accept is None else self.target_accept

    def kernel(self) -> Kernel:
        """The transition of one chain, and what has to be known around it."""
        return Kernel(
            name=f"nuts {self.max_tree_depth}",
            transition=functools.partial(tree.transition, max_depth=self.max_tree_depth),
            gradient=True,
            first_step=FIRST_STEP,
            fit=fit,
            limit=self.max_tree_depth,
            batch=True,
            stats={
                "acceptance_rate": "acceptance",
                "tree_depth": "depth",
                "n_steps": "steps",
                "diverging": "diverging",
                "reached_max_treedepth": "saturated",
                "energy": "energy",
                "energy_error": "energy_error",
            },
        )

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        warmup = DEFAULT_WARMUP if self.warmup is None else self.warmup
        rank = metric_rank(target.dim, self.low_rank)
        settles = is_round if self.warmup is None else None
        return run_chains(
            self,
            self.kernel(),
            target,
            run,
            rank=rank,
            warmup=warmup,
            accept=self.accept,
            raised=_RAISED if self.target_accept is None else None,
            init=self.init,
            settles=settles,
            scouted=True,
            parallel=self.parallel,
            superchains=superchains(self.chains),
            recentre=self.recentre,
        )


def metric_rank(dim: int, wanted: int | None) -> int:
    """Directions of a metric fitted from gradients; `wanted` None takes all up to 32 dimensions, 16 above."""
    return min(dim, wanted if wanted is not None else (32 if dim <= 32 else 16))
