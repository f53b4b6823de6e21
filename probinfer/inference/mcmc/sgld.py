"""Stochastic gradient Langevin dynamics: chains that look at a few rows of the data for each step."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.minibatch_chains import Scheme, run_scheme
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.model.target import Target

_LONGEST = 1.0  # step size, in units of the posterior's variance


@dataclass(frozen=True)
class SGLD:
    """Stochastic gradient Langevin dynamics with control variates, for data too large to go through for every step.

        x <- x + (h / 2) L' g(z) + sqrt(h) ξ,   z = ẑ + L x,   ξ ~ N(0, I)

    g(z) is an unbiased gradient of log p(z | data) from a minibatch of rows, exact at the mode ẑ and corrected by what
    the rows say elsewhere (control variates); L L' is the inverse curvature at ẑ, so that one step size h fits all
    directions. ẑ and L cost some tens of passes over the data and 4 d for the curvature; after that, a step costs two
    minibatches, however many rows there are.

    There is no acceptance step: the draws are from a law that is somewhat too wide. In stationarity

        E[x_j (L'g)_j] = -1 - (h / 4) E[(L'g)_j²]   where the posterior has E[x_j ∂_j log p] = -1,

    and for a normal posterior the excess is that of the variance, relatively. h is chosen so that it is `bias`, from
    the noise of g at points around ẑ; what it was in the end is measured along the chains and reported.

    Args:
        minibatch: rows of a step, drawn with replacement; None takes 256, or all if there are fewer.
        chains: independent chains, each from its own point of the normal law at the mode.
        draws: draws kept, per chain; between them lie 2 / h steps.
        bias: share by which the step may make variances too large, in (0, 1): cost goes with 1 / bias.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: a minibatch empty or larger than the data, or a model whose
            rows are not independent given parameters that all of them share.

    `infer` stores `step_bias` (measured, the largest of all directions), `step_size`, `steps_between_draws`,
    `gradient_noise` (variance of L'g, 1 being that of its mean) and `passes` over all data.

    Fails where the posterior is far from normal: the curvature at the mode is then no measure elsewhere, the noise
    grows away from ẑ, and the excess is no longer one of variances alone. NUTS is exact.

    Welling & Teh (2011), ICML; Baker, Fearnhead, Fox & Nemeth (2019), Statistics and Computing 29; the bias of a step:
    Vollmer, Zygalakis & Teh (2016), JMLR 17(159).

    >>> SGLD(minibatch=500).draws
    1000
    """

    minibatch: int | None = None
    chains: int = 4
    draws: int = 1000
    bias: float = 0.02
    float64: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT, Need.NO_DISCRETE})
    controls: ClassVar[frozenset[Control]] = frozenset()

    def __post_init__(self) -> None:
        if self.minibatch is not None:
            check_whole("SGLD", "minibatch", self.minibatch, 1)
        check_whole("SGLD", "chains", self.chains, 1)
        check_whole("SGLD", "draws", self.draws, 1)
        check_fraction("SGLD", "bias", self.bias, "0.02")

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        scheme = Scheme("sgld", 1, step, bias_of, lambda noise: min(_LONGEST, 4 * self.bias / (1 + noise)))
        return run_scheme(self, scheme, target, run)


def step(state: jax.Array, gradient: jax.Array, pushed: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x + (h / 2) L'g + sqrt(h) ξ, and (L'g)²."""
    return state + size / 2 * gradient + jnp.sqrt(size) * pushed, gradient**2


def bias_of(square: np.ndarray, size: float) -> np.ndarray:
    """(h / 4) E[(L'g)²], by direction."""
    return square.mean(axis=(0, 1)) * size / 4
