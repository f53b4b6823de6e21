"""Metropolis-Hastings: settings. A random walk with an adapted covariance, steps of discrete sites, own proposals."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpyro import distributions as dist

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.exact.summed import CannotSum, Summed
from probinfer.inference.mcmc import proposed, turn, walk
from probinfer.inference.mcmc.kernel import Kernel, asks_of_data
from probinfer.inference.mcmc.metric import identity
from probinfer.inference.mcmc.plan import Wish, make_plan
from probinfer.inference.mcmc.run import run_chains
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.model.model import BoundModel
from probinfer.model.target import Target

WALK_WARMUP = 1000
_PER_DIMENSION, _LEAST = 2, 10  # proposals between draws: a random walk forgets in a number of steps that grows with d
_FULL_RANK = 64  # dimensions up to which the whole covariance is learned; above, its 16 most extreme directions


@dataclass(frozen=True)
class Metropolis:
    """Metropolis-Hastings: propose x' from q(· | x), accept it with probability

        min(1, p(x') q(x | x') / (p(x) q(x' | x)))

    Uses values of the log density only, no gradients: for densities that have none, such as simulators and densities
    with conditions or loops. With gradients `NUTS` needs far fewer evaluations, the more so the more parameters.

    Without a proposal: a random walk on the unconstrained space, whose covariance and step size are learned in the
    warm-up and fixed afterwards,

        z' = z + s A ξ,   ξ ~ Normal(0, I),   A A' = covariance of the draws so far

    Discrete sites are summed out where that can be done. Where it cannot, or nothing else is left, they take symmetric
    steps in turns with the walk: classes to another class, each as likely; numbers k up or down, k from 1 to four
    standard deviations (32 at least), even in log k.

    With `proposal=` all sites move together, in their own values, and nothing adapts:

    - a NumPyro distribution for each site in a dict (or one, for a model of one site): an independence sampler. It is
      looked whether it has mass where the posterior has;
    - a function from a dict of the sites' current values to such a dict, written with `jax.numpy`. It need not be
      symmetric: the ratio of q is computed. Proposals outside of a site's support are rejected.

    A proposal with a law for the discrete sites draws them; if it leaves all of them out, they are summed out.

    Args:
        chains: independent chains, each from its own initial point.
        draws: draws kept, per chain.
        warmup: draws spent on adaptation, per chain; None takes 1000.
        thin: proposals from one draw to the next; None takes 2 per dimension, 10 at least.
        target_accept: share of proposals accepted that the step size aims at; 0.234 is best in many dimensions.
        float64: compute in double precision.
        proposal: None, distributions by site, or a function that gives them.

    Raises:
        MethodError: a setting is out of range; `infer`: the proposal lacks a site, has another shape or no mass where
            the posterior has, returns something else; a discrete site has vectors for values.

    Fails by slow mixing (few effective draws, R-hat) in some tens of dimensions and on curved posteriors; with several
    modes far apart (chains disagree). An independence sampler stays long at points where q is small next to p: give q
    heavier tails than the posterior's. `acceptance_rate` is that of the walk, or of the proposals.

    Metropolis et al. (1953); Hastings (1970); Tierney (1994); Roberts, Gelman & Gilks (1997); Haario, Saksman &
    Tamminen (2001).

    >>> Metropolis(draws=500).target_accept
    0.234
    >>> near = Metropolis(proposal=lambda current: {"mu": dist.Normal(current["mu"], 0.5)})
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    thin: int | None = None
    target_accept: float = 0.234
    float64: bool = True
    proposal: Any = None

    needs: ClassVar[frozenset[Need]] = frozenset({Need.DENSITY})
    controls: ClassVar[frozenset[Control]] = frozenset({Control.UNTIL, Control.CHECKPOINT})

    def __post_init__(self) -> None:
        check_whole("Metropolis", "chains", self.chains, 1)
        check_whole("Metropolis", "draws", self.draws, 1)
        if self.warmup is not None:
            check_whole("Metropolis", "warmup", self.warmup, 0)
        if self.thin is not None:
            check_whole("Metropolis", "thin", self.thin, 1)
        check_fraction("Metropolis", "target_accept", self.target_accept, "0.234")
        given = self.proposal
        laws = list(given.values()) if isinstance(given, Mapping) else []
        if (given is not None and not isinstance(given, Mapping) and not callable(given)) or (
            isinstance(given, type) or not all(isinstance(law, dist.Distribution) for law in laws)
        ):
            raise MethodError(
                f"Metropolis: proposal is {given!r}; wanted a NumPyro distribution for each site in a dict, a function "
                "from a dict of the sites' current values to such a dict, or None."
            )

    def target_of(self, bound: BoundModel) -> Target:
        """The target that is drawn from: without the discrete sites where these are summed out."""
        whole = Target(bound, float64=self.float64, gradient=False)
        if not bound.discrete or (self.proposal is not None and proposed.names_discrete(self.proposal, whole)):
            return whole
        try:
            summed = Summed(bound, float64=self.float64, gradient=False)
        except CannotSum:
            return whole
        return summed if summed.dim else whole

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        warmup = WALK_WARMUP if self.warmup is None else self.warmup
        thin = self.thin if self.thin is not None else _thin(target.dim)
        if self.proposal is not None:
            return run_chains(self, self._proposing(target, thin), target, run, rank=0, warmup=warmup)
        if set(target.layout_names) & set(target.bound.discrete):
            return self._in_turns(target, run, thin, warmup)
        by = steps_of_walk(self, target.dim)
        kernel = Kernel(
            name=f"metropolis {thin}",
            transition=functools.partial(walk.transition, proposals=thin),
            gradient=False,
            first_step=by.first_step,
            fit=walk.fit_covariance,
            limit=0,
            stats={"acceptance_rate": "acceptance", "n_steps": "steps"},
        )
        return run_chains(self, kernel, target, run, rank=by.rank, warmup=warmup)

    def _in_turns(self, target: Target, run: Run, thin: int, warmup: int) -> Draws:
        """Discrete sites and the walk of the others, a proposal for each, `thin` times."""
        rest = Wish((), lambda dim: steps_of_walk(self, dim)._replace(proposals=1), "a random walk")
        plan = make_plan(target, np.random.default_rng(0), rest=rest, owner="Metropolis", walks=1, conditionals=False)
        moved = len(plan.moves) > 0
        kernel = Kernel(
            name=f"metropolis {thin} {plan.text}",
            transition=functools.partial(turn.transition, plan=plan, target=target, turns=thin),
            gradient=False,
            first_step=turn.first_steps(plan),
            fit=functools.partial(turn.fit_plan, plan=plan),
            limit=0,
            stats={**({"acceptance_rate": "acceptance"} if moved else {}), "n_steps": "steps"},
            given=asks_of_data,
            place=plan.place,
            sized=moved,
        )
        draws = run_chains(self, kernel, target, run, rank=turn.rank_of(plan), warmup=warmup)
        return replace(draws, facts={**draws.facts, "plan": plan.text})

    def _proposing(self, target: Target, thin: int) -> Kernel:
        given = proposed.Proposed(target, self.proposal)
        return Kernel(
            name=f"metropolis proposed {thin} {given.name}",
            transition=functools.partial(
                proposed.transition, proposed=given, proposals=thin, accept=self.target_accept
            ),
            gradient=False,
            first_step=1.0,
            fit=lambda draws, gradients, use, rank: identity(draws.shape[-1], rank),
            limit=0,
            stats={"acceptance_rate": "acceptance", "n_steps": "steps"},
            given=asks_of_data,
            place=given.place,
            sized=False,
        )


def steps_of_walk(method: Metropolis, dim: int) -> turn.Walk:
    """The random walk of so many coordinates by the settings of a method."""
    thin = method.thin if method.thin is not None else _thin(dim)
    return turn.Walk(thin, method.target_accept, 2.38 / max(dim, 1) ** 0.5, dim if dim <= _FULL_RANK else 16)


def _thin(dim: int) -> int:
    return max(_LEAST, _PER_DIMENSION * dim)
