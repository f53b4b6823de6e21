"""Plain Monte Carlo: the mean over independent draws, with antithetic pairs and control variates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.average import Average, average_of
from probinfer.inference.montecarlo.integrand import Integrand
from probinfer.inference.montecarlo.law import Law
from probinfer.inference.montecarlo.pareto import worst_khat
from probinfer.inference.settings import check_whole

_BLOCK = 2**16  # draws at a time


@dataclass(frozen=True)
class MonteCarlo:
    """Mean of f over independent draws: E f ≈ (1/n) Σ f(x_i), standard error sd(f) / √n. For `expect`.

    Args:
        draws: number of draws n. The values of f are kept, 8 n k bytes for k numbers.
        antithetic: draw in pairs x(u), x(1 - u) by the distribution's quantile function. The error is that of the n / 2
            means of pairs: less where f is monotone, nothing for odd f about the median, more where f is even.
        control: a function h of the same points whose expectation is known (`control_mean`); f - b (h - E h) is
            averaged instead, b fitted by least squares to the same draws. A variance less by the factor 1 - R².
        control_mean: E h, of the shape that h returns. It has to be exact: an error in it goes into the result.

    Raises:
        MethodError: a setting is out of range, or one of `control` and `control_mean` is missing.

    Fails for rare events (no draw, or few, where f is not zero: the estimate says so) and where f has no variance
    (heavy tails: the Pareto shape says so). The slope is -1/2 in n whatever the dimension.

    Owen (2013), "Monte Carlo theory, methods and examples", ch. 2 and 8.

    >>> MonteCarlo(draws=1000).antithetic
    False
    """

    draws: int = 100_000
    antithetic: bool = False
    control: Callable[..., Any] | None = None
    control_mean: Any = None

    def __post_init__(self) -> None:
        check_whole("MonteCarlo", "draws", self.draws, 4)
        if not isinstance(self.antithetic, bool):
            raise MethodError(f"MonteCarlo: antithetic is {self.antithetic!r}; wanted True or False.")
        if (self.control is None) != (self.control_mean is None):
            raise MethodError(
                "MonteCarlo: control and control_mean go together: a function, and its exactly known expectation."
            )

    def average(self, law: Law, f: Integrand, key: np.ndarray) -> Average:
        """Estimate E f under the law; see `probinfer.expect`."""
        if self.antithetic and law.from_uniform is None:
            raise MethodError(
                f"MonteCarlo: antithetic draws need the quantile function of {type(law.origin).__name__}, which is not "
                "known. Leave antithetic out."
            )
        generator = np.random.default_rng(key)
        h = None if self.control is None else Integrand(self.control, batched=f.batched, name="control")
        terms, controls = [], []
        total = (self.draws + 1) // 2 if self.antithetic else self.draws
        for start in range(0, total, _BLOCK):
            points = self._points(law, generator, min(_BLOCK, total - start))
            terms.append(sum(f(x) for x in points) / len(points))
            if h is not None:
                controls.append(sum(h(x) for x in points) / len(points))
        values = np.concatenate(terms)
        adjusted, parameters = (values, 1) if h is None else self._controlled(values, np.concatenate(controls), h)
        result = average_of(adjusted, parameters=parameters)
        with np.errstate(all="ignore"):
            ess = self._variance(values, law, f, key) / result.mcse**2
        ess = np.where(result.mcse > 0, ess, result.ess)
        return result._replace(ess=ess, draws=total * (2 if self.antithetic else 1), pareto_khat=worst_khat(values))

    def _points(self, law: Law, generator: np.random.Generator, n: int) -> list[np.ndarray]:
        if not self.antithetic:
            return [law.draw(generator, n)]
        u = (generator.integers(0, 2**52, (n, law.dim)) + 0.5) / 2**52
        return [law.from_uniform(u), law.from_uniform(1 - u)]  # ty: ignore[not-callable]

    def _variance(self, values: np.ndarray, law: Law, f: Integrand, key: np.ndarray) -> np.ndarray:
        """Variance of f over single draws."""
        if not self.antithetic:
            return values.var(axis=0, ddof=1)
        return f(law.draw(np.random.default_rng([*key.tolist(), 1]), 2**12)).var(axis=0, ddof=1)

    def _controlled(self, values: np.ndarray, controls: np.ndarray, h: Integrand) -> tuple[np.ndarray, int]:
        """f - (h - E h) b, b by least squares; the number of coefficients of each regression."""
        known = np.concatenate([np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(self.control_mean)])
        if known.shape != controls.shape[1:]:
            raise MethodError(
                f"MonteCarlo: control returns {controls.shape[1]} numbers, control_mean has {known.size}; wanted the "
                "expectation of each."
            )
        if len(values) < 2 * (len(known) + 1):
            raise MethodError(f"MonteCarlo: {len(values)} draws are too few to fit {len(known)} control variates.")
        bad = int(np.sum(~np.isfinite(controls).all(axis=1)))
        if bad:
            raise MethodError(
                f"MonteCarlo: control is not finite at {bad} of {len(controls)} points; wanted a function that has a "
                "number, and an expectation, everywhere that the distribution has mass."
            )
        centred = controls - controls.mean(axis=0)
        slope, *_ = np.linalg.lstsq(centred, values - values.mean(axis=0), rcond=None)
        return values - (controls - known) @ slope, 1 + len(known)
