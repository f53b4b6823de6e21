"""Replica exchange: chains at temperatures from the prior to the posterior trade places. Settings, ladder, draws."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy
from scipy.special import expit, logsumexp

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws, Outcome
from probinfer.inference.mcmc.chains import workers
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.montecarlo.exchange import ROWS, Exchange, Ladder, Replicas, Sweeps, exchange_log_ratio
from probinfer.inference.montecarlo.sites import SiteProposal
from probinfer.inference.montecarlo.tempering import preconditioner
from probinfer.inference.settings import check_whole
from probinfer.model.target import Target

_FIRST_LEVELS, _MOST_LEVELS = 12, 100
_LEAST_STEP = 1e-9  # from one temperature to the next
_ROUNDS = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of warm-up; after each but the last the ladder is set anew
_PIECE = 25  # sweeps of warm-up after which step sizes change
_ACCEPT = 0.8
_HALVINGS = 2000  # at most: log weights of a wide prior can be 1e300 apart
_SCOUTS = 2000  # draws of the prior that the first replicas are chosen from


@dataclass(frozen=True)
class Tempering:
    """Replica exchange (parallel tempering): chains under p_β(θ) ∝ p(θ) p(y | θ)^β, β from 0 to 1, that trade places.

        exchange levels k, k + 1 with probability min(1, exp((β_(k+1) - β_k) (log L(θ_k) - log L(θ_(k+1)))))

    At β = 0 every draw is a fresh one from the prior; at the others a Hamiltonian trajectory moves each replica; then
    even and odd pairs of neighbours exchange in turn, so that replicas keep their direction. Warm-up sets the
    temperatures such that all exchanges are accepted equally often, their number to twice the sum of the refusals,
    and step size and covariance at each. The log evidence is the sum of Bennett's acceptance ratios of the steps.

    Args:
        chains: independent ladders; they tell the error of the evidence, with chains - 1 degrees of freedom.
        draws: draws kept, per ladder.
        warmup: sweeps spent on adaptation.
        temperatures: levels of a ladder, both ends included; None finds a number.
        proposal: where to begin instead of the prior: a NumPyro distribution for each site in a dict.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: no prior to draw from; a density of zero at all prior draws.

    `infer` returns draws (chain, draw) and stores `log_evidence`, `log_evidence_mcse`, `temperatures` (the values
    of β), `exchange_acceptance` (the least of the pairs), `barrier` (sum of the refusals) and `restarts`: how often a
    replica came from the prior to the posterior.

    Finds modes that the prior covers, and their shares. Fails when replicas do not come through (few restarts, a
    finding), for modes much narrower than what the levels above show, and in many hundreds of dimensions, where
    the ladder is long. Costs levels times leapfrogs gradients a draw.

    Geyer (1991); Syed, Bouchard-Côté, Deligiannidis & Doucet (2022), JRSS B 84; Bennett (1976).

    >>> Tempering(draws=2000).chains
    4
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 800
    temperatures: int | None = None
    proposal: Any = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        check_whole("Tempering", "chains", self.chains, 2)
        check_whole("Tempering", "draws", self.draws, 1)
        check_whole("Tempering", "warmup", self.warmup, 160)
        if self.temperatures is not None:
            check_whole("Tempering", "temperatures", self.temperatures, 3, _MOST_LEVELS)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        clock = time.perf_counter
        began = clock()
        proposal = SiteProposal(target, self.proposal, "Tempering")
        with ThreadPoolExecutor(workers(self.chains), thread_name_prefix="probinfer") as pool:
            ladders = _Ladders(proposal, self.temperatures, self.chains, np.random.default_rng(run.key), pool)
            compiled = clock()
            ladders.adapt(self.warmup, self.warmup + self.draws, run)
            warm = clock()
            seen, outcome = self._sample(ladders, run)
        betas, log_weight = ladders.ladder.betas, seen.log_weight
        refusals = _refusals(betas, log_weight)
        evidence = np.array([_log_evidence(betas, own) for own in log_weight])
        return Draws(
            positions=seen.z[:, :, -1],
            stats={"lp": seen.log_density[:, :, -1], "acceptance_rate": seen.acceptance[:, :, -1]},
            method="Tempering",
            settings={
                **{name: getattr(self, name) for name in ("chains", "draws", "warmup", "temperatures", "float64")},
                "proposal": "prior" if self.proposal is None else repr(self.proposal),
            },
            outcome=outcome,
            seconds={"compile": compiled - began, "warmup": warm - compiled, "sampling": clock() - warm},
            facts={
                "log_evidence": float(evidence.mean()),
                "log_evidence_mcse": float(evidence.std(ddof=1) / np.sqrt(self.chains)),
                "temperatures": json.dumps([float(beta) for beta in betas]),
                "exchange_acceptance": float(1 - refusals.max()),
                "barrier": float(refusals.sum()),
                **proposal.undefined.facts,
                "restarts": sum(_restarts(names) for names in seen.name),
            },
        )

    def _sample(self, ladders: "_Ladders", run: Run) -> tuple[Sweeps, Outcome]:
        pieces: list[Sweeps] = []
        done, outcome = 0, Outcome.COMPLETED
        try:
            while done < self.draws:
                pieces.append(ladders.sweep(min(ROWS, self.draws - done)))
                done += pieces[-1].z.shape[1]
                run.progress.update(self.warmup + done, self.warmup + self.draws, "sampling")
        except KeyboardInterrupt:
            if not pieces:
                raise
            outcome = Outcome.INTERRUPTED
        return _joined(pieces), outcome


class _Ladders:
    """Several ladders with the same levels, and what they adapt together."""

    def __init__(
        self,
        proposal: SiteProposal,
        levels: int | None,
        chains: int,
        generator: np.random.Generator,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._proposal, self._fixed, self._pool = proposal, levels is not None, pool
        count, dim = levels or _FIRST_LEVELS, proposal.target.dim
        self._exchange = Exchange(proposal, count)
        self._keys = generator.integers(0, 2**32, (chains, 2), dtype=np.uint32)
        betas = np.linspace(0, 1, count) ** 5
        scouts, log_weights = proposal.draw(generator, _SCOUTS)
        _check_alive(log_weights)
        roots = np.broadcast_to(preconditioner(scouts), (count, dim, dim))
        self.ladder = Ladder(betas, np.full(count, 0.5 * dim**-0.25), roots)
        self._replicas = [_first(betas, scouts, log_weights, proposal, generator) for _ in range(chains)]

    def sweep(self, count: int) -> Sweeps:
        """So many sweeps of every ladder, at most ROWS: arrays (chain, sweep, level, ...)."""

        def one(k: int) -> tuple[Replicas, Sweeps]:
            return self._exchange(self._replicas[k], self._keys[k], self.ladder, count)

        found = list(self._pool.map(one, range(len(self._keys))))
        self._replicas = [after for after, _ in found]
        return Sweeps(*(np.stack(column) for column in zip(*(seen for _, seen in found), strict=True)))

    def adapt(self, warmup: int, total: int, run: Run) -> None:
        """Warm up: step sizes all along, temperatures and covariances after each round."""
        done = 0
        for i, share in enumerate(_ROUNDS):
            wanted, pieces = max(_PIECE, round(share * warmup)), []
            while sum(piece.z.shape[1] for piece in pieces) < wanted:
                pieces.append(self.sweep(_PIECE))
                acceptance = pieces[-1].acceptance.mean(axis=(0, 1))
                faster = self.ladder.steps * np.exp(acceptance - _ACCEPT)
                self.ladder = self.ladder._replace(steps=np.clip(faster, 1e-6, 2.0))
                done += _PIECE
                run.progress.update(done, total, f"warm-up, {len(self.ladder.betas)} temperatures")
            if i + 1 < len(_ROUNDS):
                self._reset(_joined(pieces))

    def _reset(self, seen: Sweeps) -> None:
        """Levels at equal refusals, as many as those ask for, with the covariance that was seen nearby."""
        betas = self.ladder.betas
        refusals = _refusals(betas, seen.log_weight)
        wanted = int(np.clip(np.ceil(2 * refusals.sum()) + 2, 4, _MOST_LEVELS))
        count = len(betas) if self._fixed else max(wanted, len(betas))
        barrier = np.concatenate([[0.0], np.cumsum(np.maximum(refusals, 1e-4))])
        even = np.linspace(0, barrier[-1], count)
        after = np.clip(scipy.interpolate.PchipInterpolator(barrier, betas)(even), 0, 1)
        after = np.maximum(after, _LEAST_STEP * np.arange(count))  # apart, also where a part of the prior has no weight
        after[0], after[-1] = 0.0, 1.0
        nearest = np.abs(even[:, None] - barrier).argmin(axis=1)
        nearest[1:] = np.maximum(nearest[1:], 1)  # of the prior's draws some have no density to move by
        half = seen.z.shape[1] // 2
        roots = np.stack([preconditioner(seen.z[:, half:, level]) for level in range(len(betas))])
        self.ladder = Ladder(after, self.ladder.steps[nearest], roots[nearest])
        names = np.arange(count, dtype=np.int32)
        taken = [_with_mass(nearest, one.log_weight) for one in self._replicas]
        self._replicas = [
            Replicas(one.z[at], one.log_weight[at], names, one.sweeps)
            for one, at in zip(self._replicas, taken, strict=True)
        ]
        if count != len(betas):
            self._exchange = Exchange(self._proposal, count)


def _first(
    betas: np.ndarray,
    scouts: np.ndarray,
    log_weights: np.ndarray,
    proposal: SiteProposal,
    generator: np.random.Generator,
) -> Replicas:
    """A replica for every level, chosen among draws of the prior by the level's weights."""
    alive = np.flatnonzero(np.isfinite(log_weights))
    at = []
    for beta in betas:
        scaled = beta * log_weights[alive]
        at.append(generator.choice(alive, p=np.exp(scaled - logsumexp(scaled))))
    dtype = proposal.target.dtype
    names = np.arange(len(betas), dtype=np.int32)
    return Replicas(scouts[at].astype(dtype), log_weights[at].astype(dtype), names, np.uint32(0))


def _with_mass(levels: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """The levels (k,), or the nearest to each whose replica has a weight: a draw of the prior may have none, and
    where the density is no number there is no way on from there."""
    alive = np.flatnonzero(np.isfinite(log_weight))
    if not len(alive):
        return levels
    return alive[np.abs(levels[:, None] - alive).argmin(axis=1)]


def _joined(pieces: list[Sweeps]) -> Sweeps:
    return Sweeps(*(np.concatenate(column, axis=1) for column in zip(*pieces, strict=True)))


def _refusals(betas: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Mean probability with which each pair of neighbours refuses to exchange; log_weight (chain, sweep, level)."""
    with np.errstate(invalid="ignore"):
        ratio = exchange_log_ratio(betas, log_weight)
    return 1 - np.exp(np.minimum(np.where(np.isnan(ratio), -np.inf, ratio), 0.0)).mean(axis=(0, 1))


def _log_evidence(betas: np.ndarray, log_weight: np.ndarray) -> float:
    """Sum over the pairs of levels of Bennett's estimate; log_weight (sweep, level)."""
    return sum(
        _bennett((betas[k + 1] - betas[k]) * log_weight[:, k], (betas[k + 1] - betas[k]) * log_weight[:, k + 1])
        for k in range(len(betas) - 1)
    )


def _bennett(below: np.ndarray, above: np.ndarray) -> float:
    """log(Z above / Z below) from log(q above / q below) at as many draws of both: where the two sums are equal."""
    finite = np.concatenate([below[np.isfinite(below)], above[np.isfinite(above)]])
    if not len(finite):
        return -np.inf

    def apart(shift: float) -> float:
        return float(expit(below - shift).sum() - expit(shift - above).sum())

    low, high = float(finite.min()) - 50, float(finite.max()) + 50
    if apart(low) <= 0 or apart(high) >= 0:
        return -np.inf  # no overlap: the weights below are zero all but everywhere
    return float(scipy.optimize.brentq(apart, low, high, xtol=1e-10, maxiter=_HALVINGS))


def _restarts(names: np.ndarray) -> int:
    """How often a replica came from the first to the last level; names (sweep, level)."""
    from_prior = np.zeros(names.shape[1], bool)
    count = 0
    for first, last in zip(names[:, 0], names[:, -1], strict=True):
        count += int(from_prior[last])
        from_prior[last] = False
        from_prior[first] = True
    return count


def _check_alive(log_weights: np.ndarray) -> None:
    alive = int(np.isfinite(log_weights).sum())
    if alive < 2:
        raise MethodError(
            f"Tempering: the density is zero at {len(log_weights) - alive} of {len(log_weights)} draws of the prior. "
            "Give a prior, or a proposal=, that meets the likelihood; or use pi.NUTS()."
        )
