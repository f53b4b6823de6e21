"""Quasi-Monte Carlo: scrambled Sobol points, with the error from independent scramblings."""

from dataclasses import dataclass

import numpy as np
import scipy

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.average import Average, average_of, skewness_of_mean
from probinfer.inference.montecarlo.integrand import Integrand
from probinfer.inference.montecarlo.law import Law
from probinfer.inference.montecarlo.pareto import worst_khat
from probinfer.inference.settings import check_whole

MAX_DIM = 21_201  # dimensions of scipy's direction numbers
_BITS = 52  # of a point's coordinates: finer than that a double cannot tell 1 - u from 1


@dataclass(frozen=True)
class QuasiMonteCarlo:
    """Mean of f over points that fill the space evenly: scrambled Sobol points, put in place by quantile functions.

        E f ≈ mean over R scramblings of (1/n) Σ f(F⁻¹(u_i)),   standard error = sd of the R means / √R

    Args:
        points: points n of one scrambling, a power of two: only then are they balanced.
        randomisations: independent scramblings R; the error has R - 1 degrees of freedom.

    Raises:
        MethodError: a setting is out of range.

    The error falls nearly like 1/n for smooth f (n^-3/2 when its mixed derivatives exist), and not slower than that of
    plain Monte Carlo as n grows. Gains fade with kinks, jumps and many dimensions that all matter; the result's `ess`
    says how many plain draws it is worth. Needs a distribution with a quantile function, and fails like plain Monte
    Carlo for rare events.

    Owen (1997), "Scrambled net variance for integrals of smooth functions"; L'Ecuyer, Nakayama, Owen, Tuffin (2023),
    "Confidence intervals for randomized quasi-Monte Carlo estimators".

    >>> QuasiMonteCarlo(points=1024).randomisations
    16
    """

    points: int = 4096
    randomisations: int = 16

    def __post_init__(self) -> None:
        check_whole("QuasiMonteCarlo", "points", self.points, 2, 2**30)
        check_whole("QuasiMonteCarlo", "randomisations", self.randomisations, 4)
        if self.points & (self.points - 1):
            near = 2 ** round(np.log2(self.points))
            raise MethodError(f"QuasiMonteCarlo: points is {self.points}; wanted a power of two, such as {near}.")

    def average(self, law: Law, f: Integrand, key: np.ndarray) -> Average:
        """Estimate E f under the law; see `probinfer.expect`."""
        if law.from_uniform is None or law.dim > MAX_DIM:
            raise MethodError(
                f"QuasiMonteCarlo needs a map from uniform numbers, by quantile functions, in at most {MAX_DIM} "
                f"dimensions; {type(law.origin).__name__} has none. Use pi.MonteCarlo()."
            )
        parts = []
        for seed in np.random.SeedSequence(key.tolist()).spawn(self.randomisations):
            sobol = scipy.stats.qmc.Sobol(law.dim, scramble=True, bits=_BITS, rng=np.random.default_rng(seed))
            u = sobol.random_base2(self.points.bit_length() - 1) + 2.0 ** -(_BITS + 1)
            parts.append(f(law.from_uniform(u)))
        values = np.array(parts)
        pooled = values.reshape(-1, values.shape[-1])
        with np.errstate(all="ignore"):
            result = average_of(values.mean(axis=1))
            constant = np.all(pooled == pooled[:1], axis=0)
            # scramblings that agree to rounding say that the error is that of rounding, not that there is none
            rounding = 4 * np.finfo(float).eps * np.max(np.abs(pooled), axis=0)
            mcse = np.where(constant, 0.0, np.maximum(result.mcse, rounding))
            ess = np.where(mcse > 0, pooled.var(axis=0) / mcse**2, len(pooled))
        return result._replace(
            mcse=mcse,
            ess=ess,
            draws=len(pooled),
            skewness=skewness_of_mean(pooled),
            constant=constant,
            non_finite=int(np.sum(~np.isfinite(pooled))),
            pareto_khat=worst_khat(pooled),
        )
