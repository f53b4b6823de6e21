"""Sequential Monte Carlo: particles led from the prior to the posterior, with the log evidence."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.special import logsumexp

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.montecarlo.pareto import khat, log_tail_shape
from probinfer.inference.montecarlo.sites import SiteProposal
from probinfer.inference.montecarlo.tempering import Beginning, Moves, preconditioner
from probinfer.inference.montecarlo.weights import systematic
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.model.target import Target

_LENGTH = np.pi / 2  # of a trajectory, in standard deviations: a quarter turn forgets where it began
_LEAPFROGS = 64  # at most, of one trajectory
_ACCEPT = 0.8  # share of proposals that the step size aims at
_FORGOTTEN = 0.2  # correlation with the positions before the moves, at which they may end
_STALLED, _LOOK_BACK = 0.98, 3  # ratio of that correlation to the one so many moves ago, above which more do not help
_LEVELS = 500  # at most
BEFORE = "posterior before"  # name of the beginning of an update


class Widened(NamedTuple):
    """How much wider the last moves made the particles, which were weighted for the target already, in the worst
    coordinate: the factor of its interquartile range, the standard error of its log, and the coordinate.

    About 1, as the moves leave the target in place. More where the particles did not reach as far as it does: then the
    weights, and the evidence, left that part out. rest: the step in β that was left before the last level.
    """

    factor: float
    error: float
    coordinate: int
    rest: float


class Led(NamedTuple):
    """Particles at the end (chains, n, d), their log densities, each chain's log evidence, and what was seen."""

    z: np.ndarray
    log_density: np.ndarray
    log_evidence: np.ndarray
    acceptance: float
    levels: int
    moves: int
    widened: Widened
    shape: float  # of the tail of the weights of the last step; NaN where they have none
    moved_shape: float  # of the same weights at the moved particles


@dataclass(frozen=True)
class SMC:
    """Sequential Monte Carlo by tempering: p_β(θ) ∝ p(θ) p(y | θ)^β from the prior, β = 0, to the posterior, β = 1.

        log p(y) ≈ Σ_t log (1/n) Σ_i p(y | θ_i)^(β_t - β_{t-1})

    At every level the particles are weighted with the likelihood to the power of the step in β, resampled
    (systematically), and moved by Hamiltonian Monte Carlo under p_β until they have forgotten where they were. The step
    in β leaves `target_ess` of the particles effective in every chain; step size and covariance come from the
    particles. The chains are independent but for these, so that they tell the error of the evidence, and R-hat.

    Args:
        particles: particles n in each chain.
        chains: populations; the error of the log evidence has chains - 1 degrees of freedom.
        target_ess: share of the particles that stays effective from one level to the next.
        max_moves: most moves at a level.
        proposal: where to begin instead of the prior: a NumPyro distribution for each site in a dict, which makes the
            path q(θ)^(1 - β) p(θ, y)^β. Needed where there is no prior to draw from.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: no prior to draw from; a density of zero at nearly all
            particles of a chain at the start.

    `infer` returns all particles as draws (chain, draw), in the order of their ancestors, so that what relatives still
    have in common lowers the effective sample size. Stores `log_evidence`, `log_evidence_mcse`, `levels`, `moves`,
    `acceptance`; `last_khat`, the tail shape of the last step's weights, and `moved_khat`, that of the same weights
    at the moved particles, which reach further: above 0.5 and above 0.7 the posterior has heavier tails than the
    beginning, and the evidence is too small, which is DOUBTFUL by the second; and `widened`, the factor by which
    the last moves widened the particles: far above 1 where the posterior has no integral, or is far wider than the
    beginning, and BAD then.

    Discrete sites with finitely many values are summed out of prior and likelihood, and drawn afterwards from their
    exact law (`docs/exact.md`); the log evidence is that of the whole model.

    Finds several modes where the prior covers them. Fails with modes narrower than the gaps between particles of the
    prior, in hundreds of dimensions, and under priors so wide that few particles meet the likelihood: the chains then
    disagree (R-hat, and the error of the evidence). Costs levels times moves times leapfrogs gradients for each
    particle; memory for `particles` evaluations of the density at once, on each core.

    Del Moral, Doucet & Jasra (2006), JRSS B 68; Chopin & Papaspiliopoulos (2020), ch. 17.

    >>> SMC(particles=1000).chains
    8
    """

    particles: int = 500
    chains: int = 8
    target_ess: float = 0.5
    max_moves: int = 20
    proposal: Any = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        check_whole("SMC", "particles", self.particles, 50)
        check_whole("SMC", "chains", self.chains, 2)
        check_fraction("SMC", "target_ess", self.target_ess, "0.5")
        check_whole("SMC", "max_moves", self.max_moves, 1)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        name = "prior" if self.proposal is None else repr(self.proposal)
        return self.lead(SiteProposal(target, self.proposal, "SMC"), name, run)

    def lead(self, proposal: Beginning, name: str, run: Run) -> Draws:
        """Lead particles from a beginning, called `name` in the settings, to its target."""
        clock = time.perf_counter
        began = clock()
        generator = np.random.default_rng(run.key)
        with ThreadPoolExecutor(workers(self.chains), thread_name_prefix="probinfer") as pool:
            moves = Moves(proposal, self.particles, pool)
            compiled = clock()
            led = self._lead(proposal, name, moves, generator, run)
        evidence = float(logsumexp(led.log_evidence) - np.log(self.chains))
        relative = np.exp(led.log_evidence - evidence)
        names = ("particles", "chains", "target_ess", "max_moves", "float64")
        return Draws(
            positions=led.z,
            stats={"lp": led.log_density},
            method="SMC",
            settings={
                **{name: getattr(self, name) for name in names},
                "proposal": name,
            },
            seconds={"compile": compiled - began, "sampling": clock() - compiled},
            facts={
                "log_evidence": evidence,
                "log_evidence_mcse": float(relative.std(ddof=1) / np.sqrt(self.chains)),
                "levels": led.levels,
                "moves": led.moves,
                "acceptance": led.acceptance,
                **({} if np.isnan(led.shape) else {"last_khat": led.shape}),
                "moved_khat": led.moved_shape,
                **proposal.undefined.facts,
                **_widened_facts(led.widened, proposal.target),
            },
        )

    def _lead(self, proposal: Beginning, name: str, moves: Moves, generator: np.random.Generator, run: Run) -> Led:
        drawn = [proposal.draw(generator, self.particles) for _ in range(self.chains)]
        z, log_weights = np.stack([z for z, _ in drawn]), np.stack([weights for _, weights in drawn])
        _check_alive(log_weights, name)
        log_evidence = np.zeros(self.chains)
        log_density, acceptance = np.zeros(log_weights.shape), 0.0
        beta, step, levels, total = 0.0, proposal.target.dim**-0.25, 0, 0
        rest, rise, before, shape = 1.0, 1.0, z, np.nan
        while beta < 1.0:
            if levels == _LEVELS:
                raise MethodError(
                    f"SMC: after {levels} levels the temperature is {beta:.3g}, not yet 1: the posterior is too narrow "
                    f"for this beginning, or too far from it. {_advice(name)}"
                )
            rest = 1.0 - beta
            rise = _rise(log_weights, rest, self.target_ess)
            increments = _increments(log_weights, rise)
            shape = khat(np.exp(increments - increments.max()).ravel())
            log_evidence += logsumexp(increments, axis=1) - np.log(self.particles)
            beta = 1.0 if rise >= rest else beta + rise
            for k, row in enumerate(increments):
                z[k] = z[k][systematic(np.exp(row - logsumexp(row)), self.particles, generator)]
            root, before, correlations = preconditioner(z), z.copy(), []
            while len(correlations) < self.max_moves and not _moved_enough(correlations):
                leapfrogs = int(np.clip(np.ceil(generator.uniform(0.5, 1.5) * _LENGTH / step), 1, _LEAPFROGS))
                words = generator.integers(0, 2**32, (self.chains, self.particles, 2), dtype=np.uint32)
                z, log_weights, log_density, acceptance = moves(z, words, beta, step, root, leapfrogs)
                step *= float(np.exp(acceptance - _ACCEPT))
                correlations.append(_correlation(before, z))
            log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
            levels, total = levels + 1, total + len(correlations)
            run.progress.update(int(100 * beta), 100, "tempering, per cent")
        widened = _widened(before, z, rest, self.target_ess)
        moved_shape = log_tail_shape(min(rise, rest) * log_weights.ravel())
        return Led(z, log_density, log_evidence, acceptance, levels, total, widened, shape, moved_shape)


def _widened(before: np.ndarray, after: np.ndarray, rest: float, share: float) -> Widened:
    """before: resampled for the last level, `share` of them effective; after: moved. Both (chains, n, d)."""
    flat = [z.reshape(-1, z.shape[-1]) for z in (before, after)]
    ranges = [np.subtract(*np.quantile(z, [0.75, 0.25], axis=0)) for z in flat]
    with np.errstate(all="ignore"):
        factors = np.where(ranges[0] > 0, ranges[1] / ranges[0], 1.0)
    worst = int(np.argmax(factors))
    # 1.17 / sqrt(n): of the log of the interquartile range of n normal numbers
    error = 1.17 * np.sqrt((1 + 1 / share) / len(flat[0]))
    return Widened(float(factors[worst]), float(error), worst, rest)


def _widened_facts(widened: Widened, target: Target) -> dict[str, Any]:
    return {
        "widened": widened.factor,
        "widened_error": widened.error,
        "widened_site": target.coordinate_names()[widened.coordinate],
        "last_rest": widened.rest,
    }


def _increments(log_weights: np.ndarray, rise: float) -> np.ndarray:
    """Log weights of the particles for a step in β."""
    return rise * log_weights


def _rise(log_weights: np.ndarray, rest: float, share: float) -> float:
    """The step in β that leaves this share of the particles effective in every chain, of those with any weight."""
    alive = np.isfinite(log_weights).mean(axis=1)

    def enough(rise: float) -> bool:
        increments = _increments(log_weights, rise)
        weights = np.exp(increments - increments.max(axis=1, keepdims=True))
        effective = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1) / weights.shape[1]
        return bool((effective >= share * alive).all())

    if enough(rest):
        return rest
    low, high = rest * 1e-15, rest
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if enough(middle) else (low, middle)
    return float(low)


def _correlation(before: np.ndarray, after: np.ndarray) -> float:
    """The largest correlation of a coordinate with what it was before."""
    x, y = (part.reshape(-1, part.shape[-1]) for part in (before, after))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return float(np.max((x * y).sum(axis=0) / np.where(size > 0, size, 1.0)))


def _moved_enough(correlations: list[float]) -> bool:
    if not correlations or correlations[-1] <= _FORGOTTEN:
        return bool(correlations)
    return len(correlations) > _LOOK_BACK and correlations[-1] > _STALLED * correlations[-1 - _LOOK_BACK]


def _advice(name: str) -> str:
    """What to do where the beginning called `name` does not reach the target."""
    if name == BEFORE:
        return "The new data do not go with the old, or move the posterior too far: use pi.infer with all the data."
    return "Use a tighter prior, a proposal nearer to the posterior, or pi.NUTS()."


def _check_alive(log_weights: np.ndarray, name: str) -> None:
    alive = np.isfinite(log_weights).sum(axis=1)
    if alive.min() < 2:
        raise MethodError(
            f"SMC: the density is zero at {log_weights.size - alive.sum()} of {log_weights.size} particles at the "
            f"start, in one chain at all but one or more. {_advice(name)}"
        )
