"""Particle marginal Metropolis-Hastings: settings, and its transition."""

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.counter_random import normal, threefry, uniform
from probinfer.inference.mcmc.kernel import Ask, Draw, Info, Kernel, asks_of_data
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.run import run_chains
from probinfer.inference.mcmc.start import Start
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.montecarlo.doubtful_laws import undefined_nearby
from probinfer.inference.montecarlo.marginal import Marginal
from probinfer.inference.montecarlo.particle import ParticleFilter
from probinfer.inference.montecarlo.pilot import Pilot, estimates, find_pilot
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.model.target import Target

_WARMUP = 300
_PER_DIMENSION, _LEAST = 2, 10  # proposals between draws
_CHECKED, _REPEATS = 16, 10  # draws at which the spread of the estimate is measured after the run, and how often
_TRIES = 50
_SCALE = 2.56  # proposals' sd, in those of the posterior times 1/√d: Sherlock, Thiery, Roberts & Rosenthal (2015)


@dataclass(frozen=True)
class PMMH:
    """Particle marginal Metropolis-Hastings: random-walk Metropolis on the parameters of a `StateSpace`, with the
    likelihood that a particle filter estimates. Exact, whatever the number of particles.

        θ' = θ + 2.56 / √d A z,   z ~ Normal(0, I),   A A' = covariance of the draws so far, fixed after warm-up
        accept with probability min(1, p(θ') p^(y | θ') / (p(θ) p^(y | θ)))

    p^ has no bias, and the estimate of the current point is kept, not renewed: so θ has the posterior as its law. A
    draw holds the states too, one trajectory of the filter that was accepted, of the law p(x | y, θ).

    Args:
        chains: independent chains.
        draws: draws kept, per chain.
        warmup: draws spent on adaptation, per chain; None takes 300.
        thin: proposals from one draw to the next; None takes 2 per parameter, 10 at least.
        particles: of the filter; None takes as many as give the log likelihood a variance of about 1.5 at a pilot
            point, which is about the most efficient.
        filter: its kind, resampling and proposals, as a `ParticleFilter`, whose own `particles` and `runs` are not
            heeded; None is the bootstrap filter.
        refresh: share of the filter's random numbers that a proposal renews. Below 1 the estimates at both points are
            correlated (times are renewed in blocks, particles resampled in order), so that fewer particles do; for
            states of one number only.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: the model is no `StateSpace`.
        ModelError: `infer`: the estimate is zero wherever the prior puts points.

    `infer` stores `particles`, `log_likelihood_sd` (of an estimate, over draws of the posterior) and `longest_stay`
    (draws in a row at one point). Fails by chains that stick to a lucky estimate, where its variance is large: the
    report says so, with the number of particles wanted. Costs `thin` + 1 passes of the filter a draw.

    Andrieu, Doucet & Holenstein (2010); Doucet, Pitt, Deligiannidis & Kohn (2015), number of particles;
    Deligiannidis, Doucet & Pitt (2018) and Tran, Kohn, Quiroz & Villani (2016), correlated estimates.

    >>> PMMH(particles=200).refresh
    1.0
    """

    chains: int = 4
    draws: int = 1000
    warmup: int | None = None
    thin: int | None = None
    particles: int | None = None
    filter: ParticleFilter | None = None
    refresh: float = 1.0
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.STATES})
    controls: ClassVar[frozenset[Control]] = frozenset({Control.UNTIL, Control.CHECKPOINT})
    target_accept: ClassVar[float] = 0.234  # of the step size that the warm-up adapts and proposals do not heed

    def __post_init__(self) -> None:
        check_whole("PMMH", "chains", self.chains, 1)
        check_whole("PMMH", "draws", self.draws, 1)
        for name, least in (("warmup", 0), ("thin", 1), ("particles", 2)):
            if getattr(self, name) is not None:
                check_whole("PMMH", name, getattr(self, name), least)
        check_filter("PMMH", self.filter)
        if self.refresh != 1:
            check_fraction("PMMH", "refresh", self.refresh, "0.05, or 1")

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        correlated = self.refresh < 1
        marginal = Marginal(
            target,
            self.filter or ParticleFilter(),
            max(1, round(1 / self.refresh)),
            sort=correlated,
        )
        if correlated:
            _check_scalar_state(marginal)
        thin = self.thin if self.thin is not None else max(_LEAST, _PER_DIMENSION * marginal.dim)
        # its own generator, so that the chains' words do not depend on the work of the pilot
        generator = np.random.default_rng(np.random.SeedSequence([*run.key.tolist(), 1]))
        pilot = find_pilot(marginal, generator, self.particles)
        kernel = Kernel(
            name=f"pmmh {thin} {pilot.particles} {marginal.name}",
            transition=functools.partial(transition, marginal=marginal, particles=pilot.particles, proposals=thin),
            gradient=False,
            first_step=1.0,
            fit=functools.partial(fit_parameters, pilot=pilot),
            limit=0,
            stats={"acceptance_rate": "acceptance", "n_steps": "steps"},
            given=asks_of_data,
            begin=functools.partial(begin, marginal, pilot),
            words=marginal.blocks,
        )
        warmup = _WARMUP if self.warmup is None else self.warmup
        draws = run_chains(self, kernel, target, run, rank=marginal.dim, warmup=warmup)
        step = np.full_like(draws.stats["step_size"], _SCALE / marginal.dim**0.5)
        facts = _facts(marginal, pilot, draws, generator) | undefined_nearby(marginal, draws.positions, run.key)
        return replace(draws, stats={**draws.stats, "step_size": step}, facts=facts)


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
    proposals: int,
) -> tuple[Draw, Info]:
    """`proposals` proposals, then a trajectory of the filter accepted last; `ask(f)` is f of the data.

    The step has the length that is best for a normal posterior: one adapted to a share of acceptances would shrink
    where a chain sticks for the noise of its estimate, and then stick for good.
    """
    del step_size, limit
    inputs = ask(lambda inputs: inputs)
    dtype, dim = start.q.dtype, marginal.dim
    own = Metric(metric.scale[:dim], metric.directions[:dim], metric.stretch)
    zero = jnp.zeros((), dtype)

    def propose(state: tuple) -> tuple:
        here, acceptance, _, n = state
        counter = n.astype(jnp.uint32)
        z = normal(threefry(key, counter, jnp.uint32(3)), dim, dtype)
        bits, which = threefry(key, counter, jnp.uint32(4))
        q = here.q.at[:dim].add(_SCALE / dim**0.5 * own.displacement(z))
        words = marginal.fresh(key, counter, 5)
        if marginal.blocks > 1:
            renewed = jnp.arange(marginal.blocks) == which % marginal.blocks
            words = jnp.where(renewed[:, None], words, here.words)
        value = marginal.log_density(q, words, inputs, particles)
        gain = jnp.where(value > -jnp.inf, value - here.log_density, -jnp.inf)
        take = jnp.log(uniform(bits, dtype)) <= gain
        moved = Draw(
            jnp.where(take, q, here.q),
            here.g,
            jnp.where(take, value, here.log_density),
            jnp.where(take, words, here.words),
        )
        return moved, acceptance + jnp.exp(jnp.minimum(gain, 0.0)), -gain, n + 1

    end, acceptance, error, _ = lax.while_loop(
        lambda state: state[3] < proposals, propose, (start, zero, zero, jnp.int32(0))
    )
    choice = jnp.stack(threefry(key, jnp.uint32(0), jnp.uint32(6)))
    end = end._replace(q=marginal.with_states(end.q, end.words, choice, inputs, particles))
    mean, never = acceptance / proposals, jnp.zeros((), bool)
    steps = jnp.int32((proposals + 1) * marginal.times)
    return end, Info(mean, mean, steps, jnp.int32(0), never, never, -end.log_density, error)


def fit_parameters(draws: np.ndarray, gradients: np.ndarray, use: np.ndarray, rank: int, *, pilot: Pilot) -> Metric:
    """The covariance of the parameters over all chains, blended with the pilot's by as much as 20 d moves would weigh.

    Chains that stand still say nothing of the covariance, so draws count by the moves among them.
    """
    del gradients, use, rank
    dim, size = len(pilot.mean), draws.shape[-1]
    x = draws[..., :dim]
    moves = int((np.diff(x[..., 0], axis=1) != 0).sum())
    share = moves / (moves + 20 * dim)
    found = np.cov(x.reshape(-1, dim).T).reshape(dim, dim) if moves > dim else pilot.cov
    return metric_of(share * found + (1 - share) * pilot.cov, size)


def metric_of(cov: np.ndarray, size: int) -> Metric:
    """The metric whose A A' is this covariance of the first coordinates of `size`."""
    sd = np.sqrt(np.diag(cov))
    values, vectors = np.linalg.eigh(cov / np.outer(sd, sd))
    metric = Metric(np.ones(size), np.zeros((size, len(cov))), np.sqrt(np.maximum(values, 1e-10)) - 1.0)
    metric.scale[: len(cov)] = sd
    metric.directions[: len(cov)] = vectors
    return metric


def begin(marginal: Marginal, pilot: Pilot, chain: int, generator: np.random.Generator) -> tuple[Start, np.ndarray]:
    """A point from about twice the width that the pilot found, with its trajectory, and the pilot's covariance."""
    del chain
    target, dim = marginal.target, marginal.dim
    root = np.linalg.cholesky(pilot.cov)
    size = target.dim
    metric = metric_of(pilot.cov, size)

    def program(z: jax.Array, words: jax.Array, choice: jax.Array, inputs: Any) -> tuple:
        value = marginal.log_density(z, words, inputs, pilot.particles)
        return value, marginal.with_states(z, words, choice, inputs, pilot.particles)

    point = jax.ShapeDtypeStruct((size,), target.dtype)
    two, many = (jax.ShapeDtypeStruct(shape, jnp.uint32) for shape in ((2,), (marginal.blocks, 2)))
    name = f"begin {pilot.particles} {marginal.name}"
    compiled = target.compile(name, program, point, many, two, target.inputs)
    for attempt in range(_TRIES):
        width = 2.0 * 0.9**attempt  # nearer and nearer, should the estimate be zero away from the middle
        z = np.zeros(size, target.dtype)
        z[:dim] = pilot.mean + width * root @ generator.normal(size=dim)
        words = generator.integers(0, 2**32, (marginal.blocks, 2), dtype=np.uint32)
        choice = generator.integers(0, 2**32, 2, dtype=np.uint32)
        value, full = compiled(z, words, choice, target.inputs)
        if np.isfinite(value):
            return Start(np.asarray(full), float(value), np.zeros(size), metric), words
    raise MethodError(
        f"The estimate of the likelihood is zero near the best point found, with {pilot.particles} particles. Use more "
        "particles, or a proposal= that sees the observation."
    )


def check_filter(owner: str, given: Any) -> None:
    """MethodError unless it is a particle filter or None."""
    if given is not None and not isinstance(given, ParticleFilter):
        raise MethodError(f"{owner}: filter is {given!r}; wanted a pi.ParticleFilter(...), or None.")


def _check_scalar_state(marginal: Marginal) -> None:
    with marginal.target.precision():
        point = jax.ShapeDtypeStruct((marginal.target.dim,), marginal.target.dtype)
        shape = jax.eval_shape(lambda z: jnp.zeros(marginal.model.initial(marginal.parameters(z)).shape()), point).shape
    if int(np.prod(shape, dtype=int)) != 1:
        raise MethodError(
            "PMMH: refresh below 1 needs states of one number, which can be put in order; these have the shape "
            f"{shape}. Leave refresh at 1."
        )


def _facts(marginal: Marginal, pilot: Pilot, draws: Draws, generator: np.random.Generator) -> dict[str, Any]:
    """What the run says of its estimator: how it spreads over the posterior, and how long a chain stood still."""
    positions, lp = draws.positions, draws.stats["lp"]
    flat = positions.reshape(-1, positions.shape[-1])[:, : marginal.dim]
    chosen = flat[np.linspace(0, len(flat) - 1, min(_CHECKED, len(flat))).astype(int)]
    values = estimates(marginal, pilot.particles, np.repeat(chosen, _REPEATS, axis=0), generator)
    variances = values.reshape(len(chosen), _REPEATS).var(axis=1, ddof=1) if np.isfinite(values).all() else [np.inf]
    return {
        "particles": pilot.particles,
        "refresh": 1 / marginal.blocks,
        "log_likelihood_sd": float(np.sqrt(np.mean(variances))),
        "longest_stay": longest_stay(lp),
    }


def longest_stay(lp: np.ndarray) -> int:
    """The most draws in a row with the same log density, in any chain: lp (chain, draw)."""
    longest = 1
    for chain in lp:
        moves = np.flatnonzero(np.diff(chain) != 0)
        ends = np.concatenate([[-1], moves, [len(chain) - 1]])
        longest = max(longest, int(np.diff(ends).max()))
    return longest
