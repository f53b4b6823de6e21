"""Kalman filter and smoother of a linear Gaussian state-space model, compiled once for each shape."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.particle import compiled
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import Series, StateSpace


@dataclass(frozen=True)
class Kalman:
    """Exact filtering and smoothing of `StateSpace.linear_gaussian(...)`.

        K_t = P_t H' (H P_t H' + R)^-1,   m_t += K_t (y_t - H m_t - c),   P_t -= K_t H P_t (in Joseph's form)

    The smoother is the fixed-interval one of Rauch, Tung and Striebel (1965), computed by adjoints, which inverts no
    covariance of the state and so allows singular noise. In double precision; costs T (d³ + k³). Nothing to set.

    Raises, in `filter`: MethodError for a model that is not linear and Gaussian. Fails where R and H P H' are both
    singular, so that an observation is certain beforehand: the numbers are then not finite, and the report says when.

    Kalman (1960); Durbin & Koopman (2012), ch. 4.

    >>> Kalman()
    Kalman()
    """


class Smoothed(NamedTuple):
    """Moments of the states for every set of parameters (S sets)."""

    mean: np.ndarray  # (S, T, d)
    cov: np.ndarray  # (S, T, d, d)
    log_density: np.ndarray  # (S, T) log p(y_t | y_0..t-1)


def kalman(model: StateSpace, series: Series, params: Parameters, *, smooth: bool) -> Smoothed:
    """Filtered or smoothed moments. params: a first axis of sets on every array; none at all means one set."""
    linear = model.linear
    if linear is None:
        raise MethodError(
            "Kalman needs a linear Gaussian model, pi.StateSpace.linear_gaussian(...), which this one is not. Fits: "
            "ParticleFilter."
        )

    def one(params: Any, values: Any, observed: Any) -> tuple:
        moments = linear.forward(values, observed, params)
        mean, cov = moments.mean, moments.cov
        if smooth:
            mean, cov = linear.backward(moments, values, observed, params)
        return mean, cov, moments.log_density

    def every(params: Any, *series: Any) -> tuple:
        if params:
            return jax.vmap(one, in_axes=(0, None, None))(params, *series)
        return jax.tree.map(lambda part: part[None], one(params, *series))

    with jax.enable_x64(True):
        arguments = jax.tree.map(jnp.asarray, (dict(params), *series))
        return Smoothed(*map(np.asarray, compiled(model, ("kalman", smooth), every, *arguments)(*arguments)))
