"""Particle Gibbs with ancestor sampling: settings, and its transition."""

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.mcmc.kernel import Ask, Draw, Info, Kernel, asks_of_data
from probinfer.inference.mcmc.metric import Metric, fit
from probinfer.inference.mcmc.nuts import FIRST_STEP, metric_rank
from probinfer.inference.mcmc.run import run_chains
from probinfer.inference.mcmc.start import Start
from probinfer.inference.mcmc.turn import nuts_of_rest
from probinfer.inference.mcmc.warmup import DEFAULT_WARMUP
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.montecarlo import pmmh
from probinfer.inference.montecarlo.conditional import conditional_pass
from probinfer.inference.montecarlo.doubtful_laws import undefined_nearby
from probinfer.inference.montecarlo.marginal import Marginal
from probinfer.inference.montecarlo.particle import ParticleFilter
from probinfer.inference.montecarlo.pilot import find_pilot
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.model.statespace import Series
from probinfer.model.target import Target


@dataclass(frozen=True)
class ParticleGibbs:
    """Particle Gibbs with ancestor sampling: the states and the parameters of a `StateSpace` in turns. Exact.

        x ~ conditional particle filter given θ, y and the last x;   θ ~ a step of NUTS given x and y

    The filter keeps one particle on the last trajectory and draws anew, at every time, which of the others it
    descends from; so a few tens of particles move trajectories of hundreds of times, where `PMMH` needs as many
    particles as there are times.

    Args:
        chains: independent chains.
        draws: draws kept, per chain; each is `turns` turns.
        warmup: draws spent on adaptation, per chain; None takes 400.
        turns: turns from one draw to the next.
        particles: of the filter.
        filter: with its proposals, as a `ParticleFilter`, of which nothing else is heeded; None moves by the
            transition.
        target_accept: of the NUTS step, mean acceptance that the step size aims at.
        max_tree_depth: of the NUTS step, a trajectory has at most 2**max_tree_depth steps.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: the model is no `StateSpace`, or is linear and Gaussian.

    Fails by slow mixing where parameters and states determine each other, such as the scale of a noise and its
    values: few effective draws, R-hat. `PMMH` is then better. Transitions need a density in every direction. Costs
    twice a filter's pass, and the gradients of the joint density.

    Andrieu, Doucet & Holenstein (2010); Lindsten, Jordan & Schön (2014).

    >>> ParticleGibbs(particles=50).chains
    4
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    turns: int = 2
    particles: int = 50
    filter: ParticleFilter | None = None
    target_accept: float = 0.8
    max_tree_depth: int = 6
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.STATES, Need.PARTIAL_GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset({Control.UNTIL, Control.CHECKPOINT})

    def __post_init__(self) -> None:
        check_whole("ParticleGibbs", "chains", self.chains, 1)
        check_whole("ParticleGibbs", "draws", self.draws, 1)
        if self.warmup is not None:
            check_whole("ParticleGibbs", "warmup", self.warmup, 0)
        check_whole("ParticleGibbs", "turns", self.turns, 1)
        check_whole("ParticleGibbs", "particles", self.particles, 2)
        pmmh.check_filter("ParticleGibbs", self.filter)
        check_fraction("ParticleGibbs", "target_accept", self.target_accept, "0.8")
        check_whole("ParticleGibbs", "max_tree_depth", self.max_tree_depth, 1, 20)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        marginal = Marginal(target, self.filter or ParticleFilter())
        if not marginal.has_states:
            raise MethodError(
                "ParticleGibbs draws the states, which are integrated out of a linear Gaussian model. Fits: NUTS, and "
                "pi.smooth for the states."
            )
        generator = np.random.default_rng(np.random.SeedSequence([*run.key.tolist(), 1]))
        pilot = find_pilot(marginal, generator, max(self.particles, 64))
        kernel = Kernel(
            name=f"particle gibbs {self.turns} {self.particles} {self.max_tree_depth} {marginal.name}",
            transition=functools.partial(
                transition,
                marginal=marginal,
                particles=self.particles,
                turns=self.turns,
                max_depth=self.max_tree_depth,
            ),
            gradient=True,
            first_step=FIRST_STEP,
            fit=fit,
            limit=self.max_tree_depth,
            stats={
                "acceptance_rate": "acceptance",
                "n_steps": "steps",
                "diverging": "diverging",
                "tree_depth": "depth",
            },
            given=asks_of_data,
            begin=functools.partial(_begin, marginal, pilot),
        )
        warmup = DEFAULT_WARMUP if self.warmup is None else self.warmup
        draws = run_chains(self, kernel, target, run, rank=metric_rank(marginal.dim, None), warmup=warmup)
        return replace(
            draws, facts={"particles": self.particles, **undefined_nearby(marginal, draws.positions, run.key)}
        )


def transition(
    ask: Ask,
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: tuple[jax.Array, jax.Array],
    limit: jax.Array,
    *,
    marginal: Marginal,
    particles: int,
    turns: int,
    max_depth: int,
) -> tuple[Draw, Info]:
    """`turns` times: new states given the parameters, then a NUTS step of the parameters given the states."""
    inputs = ask(lambda inputs: inputs)
    series = Series(inputs["observations"], inputs["observed"])
    kind = jax.eval_shape(lambda z: marginal.model.initial(marginal.parameters(z)).sample(jax.random.key(0)), start.q)

    def turn(q: jax.Array, n: jax.Array) -> tuple[jax.Array, tuple[Draw, Info]]:
        own = threefry(key, n, jnp.uint32(7))
        words = jnp.stack(threefry(own, jnp.uint32(0), jnp.uint32(8)))
        path = conditional_pass(
            marginal.model,
            marginal.method,
            marginal.parameters(q),
            series,
            marginal.states(q, kind.dtype),
            words,
            particles=particles,
        )
        drawn, info = nuts_of_rest(
            ask,
            metric,
            marginal.put_states(q, path),
            step_size,
            own,
            limit,
            rest=np.arange(marginal.dim),
            target=marginal.target,
            max_depth=max_depth,
        )
        return drawn.q, (drawn, info)

    _, (draws, infos) = jax.lax.scan(turn, start.q, jnp.arange(turns, dtype=jnp.uint32))
    last = jax.tree.map(lambda part: part[-1], draws)
    info = jax.tree.map(lambda part: part[-1], infos)
    return last, info._replace(
        acceptance=jnp.mean(infos.acceptance),
        symmetric_acceptance=jnp.mean(infos.symmetric_acceptance),
        steps=jnp.sum(infos.steps).astype(jnp.int32),
        diverging=jnp.any(infos.diverging),
    )


def _begin(marginal: Marginal, pilot: Any, chain: int, generator: np.random.Generator) -> tuple[Start, tuple]:
    """As PMMH begins, without random words, and with the diagonal of the covariance."""
    start, _ = pmmh.begin(marginal, pilot, chain, generator)
    rank = metric_rank(marginal.dim, None)
    size = len(start.position)
    return start._replace(metric=Metric(start.metric.scale, np.zeros((size, rank)), np.zeros(rank))), ()
