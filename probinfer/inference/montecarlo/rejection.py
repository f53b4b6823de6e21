"""Rejection sampling: exact draws, from proposals under a bound that is checked at every one of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws, Outcome
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.montecarlo.average import Average, average_of
from probinfer.inference.montecarlo.coverage import cut_off
from probinfer.inference.montecarlo.integrand import Integrand
from probinfer.inference.montecarlo.law import Law, as_law
from probinfer.inference.montecarlo.pareto import worst_khat
from probinfer.inference.montecarlo.sites import SiteProposal
from probinfer.inference.settings import check_whole
from probinfer.inference.undefined import Undefined
from probinfer.model.target import Target

_BATCH = 1024, 2**16  # proposals at a time, from the first batch to the largest
_SLACK = 1e-3  # added to a bound that was found, as a climb ends a little below the top: costs as much acceptance
_ROUNDING = 1e-9  # relative, of a log ratio
_CLIMBS = 10
_WITHOUT_GRADIENT = frozenset({Need.GRADIENT_IF_ANY, Need.NO_DISCRETE})
_HOPELESS = 30.0  # log ratio above all that was drawn, at which no number of proposals helps


class Accepted(NamedTuple):
    """Accepted points (m, ...), and how they came about.

    proposals: made until the last point was accepted, or in all if there were too few. log_bound: in the end.
    raised: times a found bound was raised. complete: as many as wanted.
    """

    points: np.ndarray
    proposals: int
    log_bound: float
    raised: int
    complete: bool

    @property
    def acceptance(self) -> float:
        """Unbiased estimate of the probability of acceptance; for a wanted number of points (m - 1) / (n - 1)."""
        m, n = len(self.points), self.proposals
        return (m - 1) / (n - 1) if self.complete and n > 1 and m > 1 else m / n

    @property
    def evidence(self) -> dict[str, Any]:
        """Log of bound times acceptance, the integral of the target where the proposal is normalised, and its error."""
        a = self.acceptance
        error = np.sqrt((1 - a) / max(len(self.points), 1))
        return {"log_evidence": float(self.log_bound + np.log(a)), "log_evidence_mcse": float(error)}


@dataclass(frozen=True)
class Rejection:
    """Rejection sampling: x from q is kept with probability p(x) / (M q(x)); what is kept follows p exactly.

    For `expect` over a distribution or a density, and for `infer` with small models, where q is the prior and M the
    largest likelihood. For `expect`, f is averaged over the kept draws.

    Args:
        draws: draws to be kept.
        proposal: over a distribution, another one (wanted there); over a model None, which takes its prior, or a
            NumPyro distribution for each site in a dict.
        log_bound: log M, at least max of log p - log q (log likelihood, under the prior). None climbs to the maximum
            from several draws, which over a model takes a gradient; with a bound given the log density needs none. It
            is checked at every proposal: where a bound given is exceeded, an error says at which point; where one found
            is exceeded, it is raised, what was kept is thinned to the new one, and the verdict is DOUBTFUL.
        max_proposals: give up then, with what has been kept.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; the bound given is exceeded; nothing was kept; no bound exists; a
            proposal given over a model leaves out more than 1% of the posterior.

    With a normalised proposal, M times the acceptance is the evidence: `log_evidence`, with its error.

    Fails beyond a few parameters or with much data: acceptance is the evidence over the largest likelihood, and falls
    exponentially in the number of parameters. A bound that is too low where no proposal looked is not seen.

    von Neumann (1951); Owen (2013), sec. 4.7.

    >>> Rejection(draws=500).max_proposals
    1000000
    """

    draws: int = 1000
    proposal: Any = None
    log_bound: float | None = None
    max_proposals: int = 1_000_000
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT, Need.NO_DISCRETE})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        check_whole("Rejection", "draws", self.draws, 4)
        check_whole("Rejection", "max_proposals", self.max_proposals, self.draws)
        bound = self.log_bound
        if bound is not None and (
            isinstance(bound, bool) or not isinstance(bound, int | float | np.number) or not np.isfinite(bound)
        ):
            raise MethodError(f"Rejection: log_bound is {bound!r}; wanted a finite number, or None to find it.")
        if bound is not None:  # nothing is climbed then
            object.__setattr__(self, "needs", _WITHOUT_GRADIENT)

    def average(self, law: Law, f: Integrand, key: np.ndarray) -> Average:
        """Estimate E f under a distribution; see `probinfer.expect`."""
        if self.proposal is None:
            raise MethodError(
                f"Rejection needs a proposal for {type(law.origin).__name__}, such as "
                "pi.Rejection(proposal=dist.Normal(0, 2)); a distribution that can be drawn from needs pi.MonteCarlo()."
            )
        proposal = as_law(self.proposal, "Rejection: proposal")
        if proposal.shape != law.shape or proposal.discrete != law.discrete:
            raise MethodError(
                f"Rejection: proposal draws shape {proposal.shape}, over has shape {law.shape}; wanted the same."
            )

        def log_ratio(x: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):
                ratio = law.log_density(x) - proposal.log_density(x)
            return np.where(np.isnan(ratio), -np.inf, ratio)

        def propose(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
            x = proposal.draw(generator, n)
            return x, log_ratio(x)

        def climb(x: np.ndarray) -> float:
            if law.discrete:
                return float(log_ratio(x[None])[0])
            done = scipy.optimize.minimize(
                lambda flat: -max(float(log_ratio(flat.reshape(1, *law.shape))[0]), -1e100),
                np.ravel(x),
                method="Nelder-Mead",
            )
            return -float(done.fun)

        accepted = self._accept(propose, climb, str, key)
        average = self._averaged(accepted, f(accepted.points))
        return cut_off(law, proposal, f, average, np.random.default_rng([*key.tolist(), 1]))

    def average_over_target(self, target: Target, f: Integrand, key: np.ndarray) -> Average:
        """Estimate E f under an unnormalised density; see `probinfer.expect`."""
        undefined = Undefined(target)
        accepted = self._accept_from(target, key, undefined)
        average = self._averaged(accepted, f(target.constrain(accepted.points)))
        return average._replace(notes=(*average.notes, *undefined.notes))._replace(**accepted.evidence)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        began = time.perf_counter()
        undefined = Undefined(target)
        accepted = self._accept_from(
            target, run.key, undefined, lambda kept: run.progress.update(kept, self.draws, "accepting")
        )
        names = ("draws", "max_proposals", "float64")
        missed = f"{len(accepted.points)} of {self.draws} draws were accepted, out of {accepted.proposals} proposals"
        return Draws(
            positions=accepted.points,
            stats={},
            method="Rejection",
            settings={
                **{name: getattr(self, name) for name in names},
                "log_bound": accepted.log_bound,
                "proposal": "prior" if self.proposal is None else repr(self.proposal),
            },
            outcome=Outcome.COMPLETED if accepted.complete else Outcome.OUT_OF_BUDGET,
            sample_dims=("sample",),
            seconds={"sampling": time.perf_counter() - began},
            facts={
                "exact": 1,
                "acceptance": accepted.acceptance,
                "log_bound": accepted.log_bound,
                "bound_raised": accepted.raised,
                **accepted.evidence,
                **undefined.facts,
            },
            stopping=None if accepted.complete else {"reason": missed},
        )

    def _accept_from(
        self,
        target: Target,
        key: np.ndarray,
        undefined: Undefined,
        progress: Callable[[int], None] = lambda kept: None,
    ) -> Accepted:
        proposal = SiteProposal(target, self.proposal, "Rejection", undefined)
        proposal.check_covers(np.random.default_rng([*key.tolist(), 1]), "Rejection")

        def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = proposal.weight_and_grad(z)
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                return 1e100, np.zeros(target.dim)
            return -value, -gradient

        def climb(z: np.ndarray) -> float:
            return -float(
                scipy.optimize.minimize(negative, z, jac=True, method="L-BFGS-B", options={"maxiter": 200}).fun
            )

        def describe(z: np.ndarray) -> str:
            values = target.constrain(z[None], deterministics=False)
            return ", ".join(f"{name} = {np.array2string(value[0], precision=4)}" for name, value in values.items())

        return self._accept(proposal.draw, climb, describe, key, progress)

    def _accept(
        self,
        propose: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]],
        climb: Callable[[np.ndarray], float],
        describe: Callable[[np.ndarray], str],
        key: np.ndarray,
        progress: Callable[[int], None] = lambda kept: None,
    ) -> Accepted:
        generator = np.random.default_rng(key)
        bound = self.log_bound if self.log_bound is not None else _found(propose, climb, generator)
        points, ratios, chances, at = [], np.empty(0), np.empty(0), np.empty(0, int)
        made, raised, batch = 0, 0, _BATCH[0]
        while len(at) < self.draws and made < self.max_proposals:
            batch = min(batch, self.max_proposals - made)
            x, ratio = propose(generator, batch)
            chance = np.log1p(-generator.random(batch))  # log of a uniform number in (0, 1]
            top = int(np.argmax(ratio))
            if ratio[top] > bound + _ROUNDING * max(1.0, abs(bound)):
                if self.log_bound is not None:
                    raise MethodError(
                        f"Rejection: the bound is too low: log p - log q is {ratio[top]:.6g} at {describe(x[top])}, "
                        f"and log_bound is {bound:.6g}. Raise it, or leave it out to have it found."
                    )
                bound, raised = max(float(ratio[top]), climb(x[top])) + _SLACK, raised + 1
            kept = chance <= ratio - bound
            points.append(x[kept])
            ratios, chances = np.concatenate([ratios, ratio[kept]]), np.concatenate([chances, chance[kept]])
            at = np.concatenate([at, made + np.flatnonzero(kept)])
            if raised:  # under the higher bound some of what was kept would not have been
                still = chances <= ratios - bound
                points = [np.concatenate(points)[still]]
                ratios, chances, at = ratios[still], chances[still], at[still]
            made, batch = made + batch, min(2 * batch, _BATCH[1])
            progress(len(at))
        if not len(at):
            raise MethodError(
                f"Rejection: none of {made} proposals was accepted under the bound {bound:.6g}: it is far too high, or "
                "what is sampled far narrower than the proposal. Use a proposal that is nearer to it, or "
                "pi.Importance()."
            )
        complete = len(at) >= self.draws
        last = int(at[self.draws - 1]) + 1 if complete else made
        return Accepted(np.concatenate(points)[: self.draws], last, float(bound), raised, complete)

    def _averaged(self, accepted: Accepted, values: np.ndarray) -> Average:
        notes = []
        if accepted.raised:
            notes.append(f"The bound that was found was raised {accepted.raised} times: it may be too low still")
        if not accepted.complete:
            notes.append(f"Only {len(accepted.points)} of {self.draws} draws were accepted")
        return average_of(values)._replace(
            acceptance=accepted.acceptance, notes=tuple(notes), pareto_khat=worst_khat(values)
        )


def _found(propose: Callable, climb: Callable[[np.ndarray], float], generator: np.random.Generator) -> float:
    """The largest log ratio: of draws, and of climbs from the best of them."""
    x, ratio = propose(generator, _BATCH[0])
    if not np.isfinite(ratio).any():
        raise MethodError(
            f"Rejection: the density is zero at all of {len(ratio)} proposals. Give a proposal that covers it."
        )
    best = np.argsort(ratio)[::-1][:_CLIMBS]
    tops = [climb(x[i]) for i in best if np.isfinite(ratio[i])]
    highest = max(*tops, float(ratio[best[0]])) if tops else float(ratio[best[0]])
    if not np.isfinite(highest) or highest > ratio[best[0]] + _HOPELESS:
        raise MethodError(
            f"Rejection: log p - log q is {ratio[best[0]]:.4g} at the best of {len(ratio)} proposals, and "
            f"{highest:.4g} where a climb from there ends: it has no bound, or hardly a proposal would be accepted. "
            "Use a proposal that is nearer to the target, pi.Importance() or pi.NUTS()."
        )
    return highest + _SLACK
