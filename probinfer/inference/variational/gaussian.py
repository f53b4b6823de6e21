"""Variational inference with normal laws: mean-field, low-rank and full-rank."""

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from probinfer.inference.draws import Draws
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_whole, settings_of
from probinfer.inference.variational.approximation import weighted_draws
from probinfer.inference.variational.elbo import SETTLED, fit_normal
from probinfer.inference.variational.families import Diagonal, Family, FewDirections, Triangular
from probinfer.inference.variational.minibatch import fit_from_rows
from probinfer.inference.variational.other_modes import mass_elsewhere
from probinfer.inference.variational.sampled_rows import SampledRows
from probinfer.model.rows import Rows
from probinfer.model.target import Target


@dataclass(frozen=True)
class MeanField:
    """Mean-field variational inference: q(z) = Π N(z_j | m_j, s_j²), with the largest evidence lower bound.

        ELBO(q) = E_q[log p(z, data) - log q(z)] = log p(data) - KL(q || p)

    On the unconstrained space. The bound is maximised by L-BFGS over fixed standard normal points, again with fresh
    points, and with twice as many until two sets agree to a tenth of a standard deviation.

    Args:
        draws: draws from q, each weighted with p / q.
        points: standard normal points of the first rounds.
        rounds: most rounds; two are needed to tell that the optimum is settled.
        resample: keep one draw for five effective ones, chosen by weight, instead of all draws of q as they are.
        minibatch: rows of the data that a step looks at, drawn with replacement; None looks at all of them.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`, with `minibatch`: it is larger than the data, or the model's
            rows are not independent given parameters that all of them share.

    `infer` returns draws with the dims ("sample",) and stores `pareto_khat`, `elbo` with `elbo_mcse`, `log_evidence`
    with `log_evidence_mcse` (from the weights), `importance_ess`, `unsettled` (the last change) and `mass_elsewhere`
    (share of other modes that were found; with `minibatch`, of what some rows say). With `minibatch`, q is found by
    steps of Adam on unbiased slopes, until two runs of them agree (see `docs/minibatches.md`), and `steps` and `passes`
    over all rows are stored too: one for each draw, because its weight takes all rows.

    Fails where parameters are correlated: for a normal posterior with precision matrix Λ it gives the variance
    1 / Λ_jj, below the posterior's. The Pareto shape of the weights is then above 0.5, and the verdict DOUBTFUL or BAD.
    It covers one mode of several, which no weight shows: the verdict is BAD where a climb from eight other places found
    one with a tenth of the mass, and a mode that none of them led to is not seen. Costs some tens of thousands of
    gradients, in parallel.

    Kucukelbir et al. (2017), JMLR 18(14); Giordano, Ingram, Broderick (2024), JMLR 25(18); Yao et al. (2018), ICML.

    >>> MeanField(draws=1000).points
    256
    """

    draws: int = 4000
    points: int = 256
    rounds: int = 6
    resample: bool = False
    minibatch: int | None = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        _check(self)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        return _run(self, target, run, Diagonal())


@dataclass(frozen=True)
class FullRank:
    """Full-rank variational inference: q(z) = N(m, R R'), R lower triangular, with the largest evidence lower bound.

    As `MeanField`, with correlations: for a normal posterior it is exact. There are d (d + 3) / 2 numbers to find, and
    at least 4 d points to find them with: up to some two hundred parameters.

    Args:
        draws: draws from q, each weighted with p / q.
        points: standard normal points of the first rounds, at least 4 d.
        rounds: most rounds; two are needed to tell that the optimum is settled.
        resample: keep one draw for five effective ones, chosen by weight, instead of all draws of q as they are.
        minibatch: rows of the data that a step looks at, drawn with replacement; None looks at all of them.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`, with `minibatch`: it is larger than the data, or the model's
            rows are not independent given parameters that all of them share.

    `infer` returns and stores what it does for `MeanField`.

    Fails where the posterior is skewed, heavy-tailed or has several modes; the Pareto shape shows the first two, a look
    from other places the third, as for `MeanField`.

    Kucukelbir et al. (2017), JMLR 18(14); Giordano, Ingram, Broderick (2024), JMLR 25(18); Yao et al. (2018), ICML.

    >>> FullRank(resample=True).rounds
    6
    """

    draws: int = 4000
    points: int = 256
    rounds: int = 6
    resample: bool = False
    minibatch: int | None = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        _check(self)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        return _run(self, target, run, Triangular())


@dataclass(frozen=True)
class LowRank:
    """Low-rank variational inference: q(z) = N(m, R R'), R = D (I + B C'), with the largest evidence lower bound.

    D is diagonal, B and C have `rank` columns: every coordinate has its own scale, and in some 2 rank directions the
    law may be wider or narrower than that. Between `MeanField` (rank 0) and `FullRank`, 2 d (1 + rank) numbers to
    find: for hundreds of parameters of which few combinations are strongly correlated. For a normal posterior whose
    covariance is of this form it is exact. The directions begin at those of the least Fisher divergence between draws
    and gradients, as do those of the metric of `NUTS`.

    Args:
        rank: columns of B and C, cut to d; None takes the square root of d.
        draws: draws from q, each weighted with p / q.
        points: standard normal points of the first rounds, at least 4 d.
        rounds: most rounds; two are needed to tell that the optimum is settled.
        resample: keep one draw for five effective ones, chosen by weight, instead of all draws of q as they are.
        minibatch: rows of the data that a step looks at, drawn with replacement; None looks at all of them.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`, with `minibatch`: it is larger than the data, or the model's
            rows are not independent given parameters that all of them share.

    `infer` returns and stores what it does for `MeanField`, and `rank`.

    Fails where more directions are correlated than it has, and where `FullRank` fails; the Pareto shape shows it. A
    round costs some tens of gradients at each of its points.

    Ong, Nott & Smith (2018), JCGS 27(3), for D² + B B', which has no room for narrow directions; Giordano, Ingram,
    Broderick (2024), JMLR 25(18); Yao et al. (2018), ICML.

    >>> LowRank(rank=5).points
    256
    """

    rank: int | None = None
    draws: int = 4000
    points: int = 256
    rounds: int = 6
    resample: bool = False
    minibatch: int | None = None
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        _check(self)
        if self.rank is not None:
            check_whole("LowRank", "rank", self.rank, 1)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        rank = min(target.dim, round(np.sqrt(target.dim)) if self.rank is None else self.rank)
        draws = _run(self, target, run, FewDirections(rank))
        return replace(draws, facts={**draws.facts, "rank": rank})


def _check(method: MeanField | FullRank | LowRank) -> None:
    name = type(method).__name__
    check_whole(name, "draws", method.draws, 100)
    check_whole(name, "points", method.points, 16)
    check_whole(name, "rounds", method.rounds, 1, 12)
    if method.minibatch is not None:
        check_whole(name, "minibatch", method.minibatch, 1)


def _run(method: MeanField | FullRank | LowRank, target: Target, run: Run, family: Family) -> Draws:
    began = time.perf_counter()
    generator = np.random.default_rng(run.key)
    settings: dict[str, Any] = {
        "points": method.points,
        "rounds": method.rounds,
        "progress": lambda done: run.progress.update(done, method.rounds, "fitting"),
    }
    known: dict[str, Any] = {"settled_below": SETTLED}
    if method.minibatch is None:
        seen = None
        fitted = fit_normal(target, generator, family, **settings)
        known |= {"elbo": fitted.elbo, "elbo_mcse": fitted.elbo_mcse, "points": fitted.points}
        elbo = fitted.elbo
    else:
        seen = SampledRows(Rows(target, method.minibatch, type(method).__name__, "minibatch"), target, generator)
        fitted = fit_from_rows(seen, generator, family, **settings)
        known["steps"] = fitted.steps
        elbo = fitted.elbo_of_rows
    known["mass_elsewhere"] = mass_elsewhere(fitted.law, elbo, fitted.others, generator.spawn(1)[0])
    found = time.perf_counter() - began
    draws = weighted_draws(
        fitted.law,
        target,
        generator,
        method=type(method).__name__,
        settings=settings_of(method),
        facts={**known, "unsettled": fitted.change},
        log_density=None if seen is None else seen.log_density,
    )
    facts = draws.facts if seen is None else {**draws.facts, "passes": seen.passes}
    return replace(draws, facts=facts, seconds={"fit": found, "sampling": time.perf_counter() - began - found})
