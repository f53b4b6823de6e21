"""Draws from a posterior in closed form: settings."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.exact.conjugate import solve
from probinfer.inference.exact.summed import Summed
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_whole
from probinfer.model.target import Target


@dataclass(frozen=True)
class Exact:
    """Independent draws from a conjugate or a discrete posterior, and its log evidence in closed form.

        log p(θ, y) = c + Σ_k η_k t_k(θ),   t the sufficient statistics of a product of known laws
        log p(y) = c + log ∫ exp(Σ_k η_k t_k(θ)) dθ

    The product may hold one normal law of all real parameters together, a gamma or an inverse gamma law of each
    positive one, a beta law of each between 0 and 1, a Dirichlet law of each simplex: so linear regression and
    Gaussian hierarchies with known scales, Beta-Binomial, Gamma-Poisson, Gamma-Exponential, inverse gamma variances,
    Dirichlet-Multinomial, and independent parts of these in one model. η and c come from a linear fit to the log
    density at points around the mode, and are accepted only if they give it at other points to seven digits.

    A model that has discrete sites only, finitely many values each, is solved by summing over them (`docs/exact.md`).

    Args:
        draws: independent draws.

    Raises:
        MethodError: a setting is out of range; `infer`: the posterior is not of such a form, or improper.

    `infer` returns draws with the dims ("sample",) and stores `log_evidence`, `laws` and `exact`.

    Fails, with an error, where parameters of different kinds depend on one another, as do a mean and an unknown
    variance. Costs about d² evaluations of the log density for d real parameters, 75 at most.

    Bernardo & Smith (1994), Bayesian Theory, section 5.2.

    >>> Exact().draws
    4000
    """

    draws: int = 4000

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        check_whole("Exact", "draws", self.draws, 1)

    @property
    def float64(self) -> bool:
        """Always: single precision could not tell a closed form from something near it."""
        return True

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        began = time.perf_counter()
        if isinstance(target, Summed):
            return self._enumerated(target, began)
        generator = np.random.default_rng(run.key)
        solution = solve(target, generator)
        solved = time.perf_counter()
        laws = Counter(part.name for part in solution.parts)
        return Draws(
            positions=solution.draw(generator, self.draws),
            stats={},
            method="Exact",
            settings={"draws": self.draws},
            sample_dims=("sample",),
            seconds={"solve": solved - began, "sampling": time.perf_counter() - solved},
            facts={
                "exact": 1,
                "log_evidence": solution.log_evidence,
                "log_evidence_mcse": 0.0,
                "laws": ", ".join(f"{name} ({count})" if count > 1 else name for name, count in laws.items()),
            },
        )

    def _enumerated(self, target: Summed, began: float) -> Draws:
        """Of a model with discrete sites only: all of them follow from the sum over their values."""
        if target.dim:
            continuous = ", ".join(site.name for site in target.latents)
            raise MethodError(
                f"Exact: with {', '.join(target.bound.discrete)} summed out, the law of {continuous} has no closed "
                "form. Use pi.NUTS(), which sums them out too, or pi.Gibbs()."
            )
        evidence = target.log_total()
        return Draws(
            positions=np.empty((self.draws, 0)),
            stats={},
            method="Exact",
            settings={"draws": self.draws},
            sample_dims=("sample",),
            seconds={"solve": time.perf_counter() - began},
            facts={"exact": 1, "log_evidence": evidence, "log_evidence_mcse": 0.0, "laws": target.words},
        )
