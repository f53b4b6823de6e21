"""Variational inference with normal laws: mean-field and full-rank."""

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from probinfer.inference.draws import Draws
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_whole
from probinfer.inference.variational.approximation import weighted_draws
from probinfer.inference.variational.elbo import SETTLED, fit_normal
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
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range.

    `infer` returns draws with the dims ("sample",) and stores `pareto_khat`, `elbo` with `elbo_mcse`, `log_evidence`
    with `log_evidence_mcse` (from the weights), `importance_ess`, and `unsettled` (the last change).

    Fails where parameters are correlated: for a normal posterior with precision matrix Λ it gives the variance
    1 / Λ_jj, below the posterior's. The Pareto shape of the weights is then above 0.5, and the verdict DOUBTFUL or BAD.
    It covers one mode of several, which no weight shows. Costs some tens of thousands of gradients, in parallel.

    Kucukelbir et al. (2017), JMLR 18(14); Giordano, Ingram, Broderick (2024), JMLR 25(18); Yao et al. (2018), ICML.

    >>> MeanField(draws=1000).points
    256
    """

    draws: int = 4000
    points: int = 256
    rounds: int = 6
    resample: bool = False
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        _check(self)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        return _run(self, target, run, full=False)


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
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range.

    `infer` returns and stores what it does for `MeanField`.

    Fails where the posterior is skewed, heavy-tailed or has several modes; the Pareto shape shows the first two.

    Kucukelbir et al. (2017), JMLR 18(14); Giordano, Ingram, Broderick (2024), JMLR 25(18); Yao et al. (2018), ICML.

    >>> FullRank(resample=True).rounds
    6
    """

    draws: int = 4000
    points: int = 256
    rounds: int = 6
    resample: bool = False
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        _check(self)

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        return _run(self, target, run, full=True)


def _check(method: MeanField | FullRank) -> None:
    name = type(method).__name__
    check_whole(name, "draws", method.draws, 100)
    check_whole(name, "points", method.points, 16)
    check_whole(name, "rounds", method.rounds, 1, 12)


def _run(method: MeanField | FullRank, target: Target, run: Run, *, full: bool) -> Draws:
    began = time.perf_counter()
    generator = np.random.default_rng(run.key)
    fitted = fit_normal(
        target,
        generator,
        full=full,
        points=method.points,
        rounds=method.rounds,
        progress=lambda done: run.progress.update(done, method.rounds, "fitting"),
    )
    found = time.perf_counter() - began
    settings: dict[str, Any] = {
        name: getattr(method, name) for name in ("draws", "points", "rounds", "resample", "float64")
    }
    draws = weighted_draws(
        fitted.normal,
        target,
        generator,
        method=type(method).__name__,
        settings=settings,
        facts={
            "elbo": fitted.elbo,
            "elbo_mcse": fitted.elbo_mcse,
            "unsettled": fitted.change,
            "settled_below": SETTLED,
            "points": fitted.points,
        },
    )
    return replace(draws, seconds={"fit": found, "sampling": time.perf_counter() - began - found})
