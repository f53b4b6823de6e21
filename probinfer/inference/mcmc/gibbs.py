"""Gibbs sampling: settings, and the transition that goes through the plan of a model."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.draws import Draws
from probinfer.inference.mcmc import tree
from probinfer.inference.mcmc.kernel import Draw, Info, Kernel
from probinfer.inference.mcmc.metric import Metric, fit
from probinfer.inference.mcmc.nuts import FIRST_STEP, metric_rank
from probinfer.inference.mcmc.plan import Plan, make_plan
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
    - all other continuous sites together: a step of NUTS, adapted as `NUTS` is.

    Of a `TopicModel` the mixtures are integrated out and the topic of every token is drawn given all others (extra
    `topics`); target_accept, max_tree_depth and float64 have no meaning there.

    Args:
        chains: independent chains, each from its own initial point.
        draws: draws kept, per chain; each is a turn through all sites.
        warmup: turns spent on adaptation, per chain; None takes 400.
        target_accept: of the NUTS step, mean acceptance that the step size aims at, in (0, 1).
        max_tree_depth: of the NUTS step, a trajectory has at most 2**max_tree_depth steps.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: a discrete site has vectors for values.

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

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PARTIAL_GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset({Control.UNTIL, Control.CHECKPOINT})

    def __post_init__(self) -> None:
        check_whole("Gibbs", "chains", self.chains, 1)
        check_whole("Gibbs", "draws", self.draws, 1)
        if self.warmup is not None:
            check_whole("Gibbs", "warmup", self.warmup, 0)
        check_fraction("Gibbs", "target_accept", self.target_accept, "0.8")
        check_whole("Gibbs", "max_tree_depth", self.max_tree_depth, 1, 20)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        if isinstance(target.bound.model, TopicModel):
            return run_collapsed(target.bound.model, target.bound, run, self.chains, self.draws, self.warmup)
        # the plan is looked for at points of its own, so that it does not depend on the seed
        plan = make_plan(target, np.random.default_rng(0))
        moved = len(plan.rest) > 0
        kernel = Kernel(
            name=f"gibbs {self.max_tree_depth} {plan.text}",
            transition=functools.partial(_transition, plan=plan, target=target, max_depth=self.max_tree_depth),
            gradient=True,
            first_step=FIRST_STEP,
            fit=functools.partial(fit_rest, rest=plan.rest),
            limit=self.max_tree_depth,
            stats={
                "acceptance_rate": "acceptance",
                "n_steps": "steps",
                **({"diverging": "diverging", "tree_depth": "depth"} if moved else {}),
            },
            given=lambda target: lambda ask, inputs: ask(inputs),
            place=plan.place,
        )
        warmup = DEFAULT_WARMUP if self.warmup is None else self.warmup
        rank = metric_rank(len(plan.rest), None)
        draws = run_chains(self, kernel, target, run, rank=rank, warmup=warmup)
        return replace(draws, facts={**draws.facts, "plan": plan.text})


def _transition(
    ask: Callable[[Callable[[Any], Any]], Any],
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: tuple[jax.Array, jax.Array],
    limit: jax.Array,
    *,
    plan: Plan,
    target: Target,
    max_depth: int,
) -> tuple[Draw, Info]:
    """A turn through the plan, then a NUTS step of the rest given it; `ask(f)` is f of the data."""
    words, z = jax.random.wrap_key_data(jnp.stack(key)), start.q
    for i, update in enumerate(plan.updates):
        z = ask(functools.partial(update, z, key=jax.random.fold_in(words, i)))
    if not len(plan.rest):
        value, _ = ask(lambda inputs: target.value_and_grad(z, inputs))
        one, none = jnp.ones((), z.dtype), jnp.zeros((), z.dtype)
        never, whole = jnp.zeros((), bool), jnp.int32(0)
        return Draw(z, jnp.zeros_like(z), value), Info(one, one, whole + 1, whole, never, never, -value, none)
    return nuts_of_rest(ask, metric, z, step_size, key, limit, rest=plan.rest, target=target, max_depth=max_depth)


def nuts_of_rest(
    ask: Callable[[Callable[[Any], Any]], Any],
    metric: Metric,
    z: jax.Array,
    step_size: jax.Array,
    key: tuple[jax.Array, jax.Array],
    limit: jax.Array,
    *,
    rest: np.ndarray,
    target: Target,
    max_depth: int,
) -> tuple[Draw, Info]:
    """A step of NUTS in the coordinates `rest`, given the others."""
    value, gradient = ask(lambda inputs: target.value_and_grad(z, inputs))

    def density(q: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = ask(lambda inputs: target.value_and_grad(z.at[rest].set(q), inputs))
        return value, gradient[rest]

    own = Metric(metric.scale[rest], metric.directions[rest], metric.stretch)
    draw, info = tree.transition(
        density, own, Draw(z[rest], gradient[rest], value), step_size, key, limit, max_depth=max_depth
    )
    moved = Draw(z.at[rest].set(draw.q), jnp.zeros_like(z).at[rest].set(draw.g), draw.log_density)
    return moved, info


def fit_rest(draws: np.ndarray, gradients: np.ndarray, use: np.ndarray, rank: int, *, rest: np.ndarray) -> Metric:
    """The metric of the coordinates that NUTS moves; the identity for the others."""
    dim = draws.shape[-1]
    metric = Metric(np.ones(dim), np.zeros((dim, rank)), np.zeros(rank))
    if not len(rest):
        return metric
    found = fit(draws[..., rest], gradients[..., rest], use, rank)
    metric.scale[rest] = found.scale
    metric.directions[rest] = found.directions
    return metric._replace(stretch=found.stretch)
