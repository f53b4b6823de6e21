"""Gibbs sampling: settings, and the plan that the user names in part."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc import turn
from probinfer.inference.mcmc.kernel import Kernel, asks_of_data
from probinfer.inference.mcmc.metropolis import WALK_WARMUP, Metropolis, steps_of_walk
from probinfer.inference.mcmc.nuts import FIRST_STEP, NUTS, metric_rank
from probinfer.inference.mcmc.plan import Wish, make_plan
from probinfer.inference.mcmc.run import run_chains
from probinfer.inference.mcmc.warmup import DEFAULT_WARMUP
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.inference.topics.collapsed import run_collapsed
from probinfer.model.target import Target
from probinfer.model.topics import TopicModel


@dataclass(frozen=True)
class Gibbs:
    """Gibbs sampling: each site in turn is drawn from its law given all the others. Takes discrete sites.

        θ_s ~ p(θ_s | θ_others, y),   s = 1, …, S

    A plan is made from the model, and verified at random points:

    - a discrete site with finitely many values: all of them are weighed; all entries at once where they are independent
      given the rest, as in a mixture, and one after the other where they are not, as in a Markov chain;
    - a discrete site without end (Poisson): Metropolis steps of 1, 2, 4, … up and down;
    - a continuous site whose law given the rest is normal, gamma, inverse gamma, beta or Dirichlet: a draw from it. It
      is recognised by the gradient of the log density, however the model is written;
    - all other continuous sites together: a step of NUTS, adapted as `NUTS` is; where the log density has no gradient,
      proposals of a random walk, adapted as `Metropolis` is, also for sites whose law given the rest is of such a form.

    `plan=` says otherwise for some sites: `{"tau": pi.Metropolis(), ("a", "b"): pi.NUTS(target_accept=0.9)}` moves tau
    by a random walk, a and b together by NUTS, each block with a step size and a metric of its own, and the rest as
    above. A discrete site with `Metropolis` takes its symmetric steps instead of being enumerated.

    Of a `TopicModel` the mixtures are integrated out and the topic of every token is drawn given all others (extra
    `topics`); target_accept, max_tree_depth and float64 have no meaning there.

    Args:
        chains: independent chains, each from its own initial point.
        draws: draws kept, per chain; each is a turn through all sites.
        warmup: turns spent on adaptation, per chain; None takes 400, or 1000 where there is a random walk.
        target_accept: of the NUTS step, mean acceptance that the step size aims at, in (0, 1).
        max_tree_depth: of the NUTS step, a trajectory has at most 2**max_tree_depth steps.
        float64: compute in double precision.
        plan: for a site's name, or a tuple of names that are moved together, `NUTS` or `Metropolis`. Of these only
            target_accept and max_tree_depth, or thin, are heeded; others must be left as they are.

    Raises:
        MethodError: a setting is out of range; `infer`: a discrete site has vectors for values; the plan names a site
            that the model has not, a discrete one with NUTS, or NUTS where there is no gradient.

    `infer` stores the plan in words as `plan`. Fails by slow mixing where sites depend strongly on one another (few
    effective draws, R-hat): sum discrete sites out where you can. Labels of a mixture that can be exchanged show as
    chains that disagree. A turn costs, for each discrete site, an evaluation of the model for each value (for each
    entry too, where entries are not independent), and for each conjugate site two gradients.

    Geman & Geman (1984); Gelfand & Smith (1990).

    >>> Gibbs(draws=500).chains
    4
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    target_accept: float = 0.8
    max_tree_depth: int = 8
    float64: bool = True
    plan: Mapping[str | tuple[str, ...], Any] | None = None

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT_IF_ANY})
    controls: ClassVar[frozenset[Control]] = frozenset({Control.UNTIL, Control.CHECKPOINT})

    def __post_init__(self) -> None:
        check_whole("Gibbs", "chains", self.chains, 1)
        check_whole("Gibbs", "draws", self.draws, 1)
        if self.warmup is not None:
            check_whole("Gibbs", "warmup", self.warmup, 0)
        check_fraction("Gibbs", "target_accept", self.target_accept, "0.8")
        check_whole("Gibbs", "max_tree_depth", self.max_tree_depth, 1, 20)
        if self.plan is not None:
            _check_plan(self.plan)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        if isinstance(target.bound.model, TopicModel):
            if self.plan is not None:
                raise MethodError("Gibbs: a topic model has a plan of its own; leave plan= out.")
            return run_collapsed(target.bound.model, target.bound, run, self.chains, self.draws, self.warmup)
        wishes = [_wish(_names(key), method) for key, method in (self.plan or {}).items()]
        _check_sites(self.plan or {}, target)
        by = NUTS(target_accept=self.target_accept, max_tree_depth=self.max_tree_depth)
        rest = _wish((), by if target.has_gradient else Metropolis())
        # the plan is looked for at points of its own, so that it does not depend on the seed
        plan = make_plan(target, np.random.default_rng(0), rest=rest, wishes=wishes)
        moves = [move.by for move in plan.moves]
        depths = [by.max_depth for by in moves if isinstance(by, turn.Nuts)]
        kernel = Kernel(
            name=f"gibbs {moves} {[move.where.tolist() for move in plan.moves]} {plan.text}",
            transition=functools.partial(turn.transition, plan=plan, target=target),
            gradient=target.has_gradient,
            first_step=turn.first_steps(plan),
            fit=functools.partial(turn.fit_plan, plan=plan),
            limit=max(depths, default=0),
            stats={
                "acceptance_rate": "acceptance",
                "n_steps": "steps",
                **({"diverging": "diverging", "tree_depth": "depth"} if depths else {}),
            },
            given=asks_of_data,
            place=plan.place,
            targets=turn.targets(plan),
            sized=len(moves) > 0,
        )
        default = DEFAULT_WARMUP if len(depths) == len(moves) else WALK_WARMUP
        warmup = default if self.warmup is None else self.warmup
        draws = run_chains(self, kernel, target, run, rank=turn.rank_of(plan), warmup=warmup)
        return replace(draws, facts={**draws.facts, "plan": plan.text})


_HEEDED = {NUTS: {"target_accept", "max_tree_depth"}, Metropolis: {"target_accept", "thin"}}


def _names(key: Any) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _check_plan(plan: Any) -> None:
    """MethodError unless it is a dict of site names, or tuples of them, with a method each that moves a block."""
    wanted = 'wanted a dict such as {"tau": pi.Metropolis(), ("a", "b"): pi.NUTS()}'
    if not isinstance(plan, Mapping) or not plan:
        raise MethodError(f"Gibbs: plan is {plan!r}; {wanted}, or None.")
    for key, method in plan.items():
        names = _names(key)
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise MethodError(f"Gibbs: plan has the key {key!r}; {wanted}.")
        if type(method) not in _HEEDED:
            came = f"{method.__name__}, a class" if isinstance(method, type) else repr(method)
            raise MethodError(f"Gibbs: plan moves {', '.join(names)} by {came}; {wanted}.")
        changed = {f.name for f in fields(method) if getattr(method, f.name) != f.default} - _HEEDED[type(method)]
        if changed:
            raise MethodError(
                f"Gibbs: plan moves {', '.join(names)} by {type(method).__name__} with {', '.join(sorted(changed))}; "
                f"of a block {' and '.join(sorted(_HEEDED[type(method)]))} are heeded, the rest is set in Gibbs itself."
            )
    named = [name for key in plan for name in _names(key)]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise MethodError(f"Gibbs: plan names {', '.join(twice)} twice; wanted each site once.")


def _check_sites(plan: Mapping[Any, Any], target: Target) -> None:
    """MethodError where a plan does not fit the sites of a model."""
    for key, method in plan.items():
        unknown = [name for name in _names(key) if name not in target.layout_names]
        if unknown:
            raise MethodError(
                f"Gibbs: plan names {', '.join(unknown)}, and the model's latent sites are "
                f"{', '.join(target.layout_names)}."
            )
        if not isinstance(method, NUTS):
            continue
        discrete = [name for name in _names(key) if name in target.bound.discrete]
        if discrete:
            raise MethodError(
                f"Gibbs: plan moves {', '.join(discrete)} by NUTS, which takes no discrete sites; leave it out of the "
                "plan, or use pi.Metropolis()."
            )
        if not target.has_gradient:
            raise MethodError(
                f"Gibbs: plan moves {', '.join(_names(key))} by NUTS, and the log density has no gradient; use "
                "pi.Metropolis()."
            )


def _wish(sites: tuple[str, ...], method: Any) -> Wish:
    if isinstance(method, NUTS):

        def by(dim: int) -> turn.Nuts:
            return turn.Nuts(method.max_tree_depth, method.accept, FIRST_STEP, metric_rank(dim, None))

    else:

        def by(dim: int) -> turn.Walk:
            return steps_of_walk(method, dim)

    words = "NUTS" if isinstance(method, NUTS) else "a random walk"
    return Wish(sites, by, f"{words} of {', '.join(sites)} together" if len(sites) > 1 else words)
