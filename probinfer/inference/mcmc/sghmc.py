"""Stochastic gradient Hamiltonian Monte Carlo: Langevin chains with a velocity, from a few rows of the data a step."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.minibatch_chains import Scheme, run_scheme
from probinfer.inference.method import Control, Need, Run
from probinfer.inference.settings import check_fraction, check_whole
from probinfer.model.target import Target

_LONGEST, _SHORTEST = 0.5, 1e-4  # step size, in units of the posterior's standard deviations
_STRETCH, _FEWEST = 20, 8  # draws of a stretch, and stretches from which on a regression takes more noise than it adds
_FRICTION = 2.0  # critical for a normal posterior: the positions forget soonest


@dataclass(frozen=True)
class SGHMC:
    """Stochastic gradient Hamiltonian Monte Carlo with control variates: `SGLD` with a velocity, fewer steps a draw.

        w = v + ε L' g(z),   x <- x + (ε / 2) w,   v <- a w + sqrt(1 - a²) ξ,   x <- x + (ε / 2) v
        z = ẑ + L x,   ξ ~ N(0, I),   a = exp(-2 ε)

    g(z) is the unbiased gradient of `SGLD`, exact at the mode ẑ and corrected by what a minibatch says elsewhere; L L'
    is the inverse curvature there. The order of the step is that of Leimkuhler and Matthews: for a normal posterior
    and exact gradients the positions have no bias, however long the step; what is left is the noise of the rows. So the
    steps may be long where minibatches are large, and where they are small it is no worse than `SGLD`.

    There is no acceptance step. In stationarity, whatever the posterior,

        E[x_j (L'g)_j] = -1 - ((1 + a)² / 4) (E[w_j²] - 1)   where the posterior has E[x_j ∂_j log p] = -1,

    and for a normal posterior the excess is that of the variance, relatively. ε is chosen so that it is `bias`, from
    the noise of g at points around ẑ, but 0.5 at most; what it was in the end is measured along the chains, at every
    step, and reported.

    Args:
        minibatch: rows of a step, drawn with replacement; None takes 256, or all if there are fewer.
        chains: independent chains, each from its own point of the normal law at the mode.
        draws: draws kept, per chain; between them lie 2 / ε steps.
        bias: share by which the noise may make variances too large, in (0, 1): cost goes with 1 / bias.
        float64: compute in double precision.

    Raises:
        MethodError: a setting is out of range; `infer`: a minibatch empty or larger than the data, or a model whose
            rows are not independent given parameters that all of them share.

    `infer` stores what it does for `SGLD`; `step_bias` is the largest deviation of all directions.

    Fails where the posterior is far from normal, as `SGLD` does. NUTS is exact.

    Chen, Fox & Guestrin (2014), ICML; Leimkuhler & Matthews (2013), AMRX 2013(1); Baker, Fearnhead, Fox & Nemeth
    (2019), Statistics and Computing 29.

    >>> SGHMC(minibatch=500).bias
    0.02
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
            check_whole("SGHMC", "minibatch", self.minibatch, 1)
        check_whole("SGHMC", "chains", self.chains, 1)
        check_whole("SGHMC", "draws", self.draws, 1)
        check_fraction("SGHMC", "bias", self.bias, "0.02")

    def run(self, target: Target, run: Run) -> Draws:
        """Draw from the target; see `probinfer.infer`."""
        scheme = Scheme("sghmc", 2, step, bias_of, lambda noise: size_of(noise, self.bias))
        return run_scheme(self, scheme, target, run)


def step(state: jax.Array, gradient: jax.Array, pushed: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Kick, half a drift, the velocity in part renewed, half a drift.

    Told of the bias: the square of the velocity after the kick, and what the random push did to the energies, whose
    expectation is zero (4, d).
    """
    x, v = state
    kept = jnp.exp(-_FRICTION * size)
    kicked = v + size * gradient
    renewed = kept * kicked + jnp.sqrt(1 - kept**2) * pushed
    return jnp.stack([x + size / 2 * (kicked + renewed), renewed]), jnp.stack(
        [kicked**2, pushed**2 - 1, kicked * pushed, x * pushed]
    )


def bias_of(told: np.ndarray, size: float) -> np.ndarray:
    """((1 + a)² / 4) |E[w²] - 1|, by direction.

    Most of the noise in the mean of w² comes from the pushes, and is taken out by regression on what these did, over
    stretches of the chains: they have the mean zero, so that this adds no bias.
    """
    chains, draws = told.shape[:2]
    many = draws // _STRETCH
    square = told[:, :, 0].mean(axis=(0, 1))
    if chains * many >= _FEWEST and np.isfinite(told).all():
        parts = told[:, : many * _STRETCH].reshape(chains * many, _STRETCH, *told.shape[2:]).mean(axis=1)
        for j in range(len(square)):
            design = np.column_stack([np.ones(len(parts)), parts[:, 1:, j]])
            square[j] = np.linalg.lstsq(design, parts[:, 0, j])[0][0]
    return (1 + np.exp(-_FRICTION * size)) ** 2 / 4 * np.abs(square - 1)


def excess(size: float, noise: float) -> float:
    """By how much the variance of a normal posterior is too large, relatively, for gradients with this noise.

    From the moments of (x, w) in stationarity: with δ = E[w²] - 1, the excess is (1 + a)² δ / 4, and
    δ (1 - a² + ε² a (1 + a) / 2) = ε² (noise + excess).
    """
    kept = np.exp(-_FRICTION * size)
    share = (1 + kept) ** 2 / 4
    own = 1 - kept**2 + size**2 * (kept * (1 + kept) / 2 - share)
    return float(share * size**2 * noise / own)


def size_of(noise: float, bias: float) -> float:
    """The step size at which the excess is `bias`; the longest, where it is smaller even there."""
    if excess(_LONGEST, noise) <= bias:
        return _LONGEST
    if excess(_SHORTEST, noise) >= bias:
        return _SHORTEST
    return float(scipy.optimize.brentq(lambda size: excess(size, noise) - bias, _SHORTEST, _LONGEST))
