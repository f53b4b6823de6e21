"""The matrices of a linear Gaussian state-space model, and the Kalman recursion, which integrates its states out."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import distributions as dist

from probinfer.errors import ModelError
from probinfer.model.conditioning import Moments, Step, condition, factor, masked
from probinfer.model.trace import user_error

Parameters = Mapping[str, Any]

_AXES = {
    "initial_mean": 1,
    "initial_cov": 2,
    "transition_matrix": 2,
    "transition_cov": 2,
    "transition_offset": 1,
    "observation_matrix": 2,
    "observation_cov": 2,
    "observation_offset": 1,
}


class LinearGaussian:
    """Matrices by name: arrays, with a first axis of time or without, or functions of (t, params); None is zero."""

    def __init__(self, **given: Any) -> None:
        self._given = {
            name: value if callable(value) or value is None else _matrix(name, value) for name, value in given.items()
        }

    def start(self, params: Parameters) -> tuple[jax.Array, jax.Array]:
        """Mean and covariance of the first state."""
        return self._at("initial_mean", None, params), self._at("initial_cov", None, params)

    def step(self, t: Any, params: Parameters) -> Step:
        """The matrices at time t."""
        f, q = self._at("transition_matrix", t, params), self._at("transition_cov", t, params)
        h, r = self._at("observation_matrix", t, params), self._at("observation_cov", t, params)
        b, c = self._at("transition_offset", t, params), self._at("observation_offset", t, params)
        return Step(f, q, jnp.zeros(f.shape[0]) if b is None else b, h, r, jnp.zeros(h.shape[0]) if c is None else c)

    def initial(self, params: Parameters) -> Any:
        """Law of the first state."""
        mean, cov = self.start(params)
        return dist.MultivariateNormal(mean, scale_tril=factor(cov))

    def transition(self, x: Any, t: Any, params: Parameters) -> Any:
        """Law of the state at time t."""
        step = self.step(t, params)
        return dist.MultivariateNormal(
            step.transition @ x + step.transition_offset, scale_tril=factor(step.transition_cov)
        )

    def observation(self, x: Any, t: Any, params: Parameters) -> Any:
        """Law of the observation at time t."""
        step = self.step(t, params)
        return dist.MultivariateNormal(
            step.observation @ x + step.observation_offset, scale_tril=factor(step.observation_cov)
        )

    def check(self, params: Parameters, times: int) -> None:
        """ModelError unless all matrices fit each other, and those with an axis of time cover it."""
        shapes: dict[str, tuple[int, ...]] = {}

        def look(t: Any) -> int:
            mean, cov = self.start(params)
            step = self.step(t, params)
            names = ("transition_matrix", "transition_cov", "transition_offset")
            names += ("observation_matrix", "observation_cov", "observation_offset")
            shapes.update({"initial_mean": mean.shape, "initial_cov": cov.shape})
            shapes.update({name: part.shape for name, part in zip(names, step, strict=True)})
            return 0

        first = next((value for value in self._given.values() if callable(value)), self.check)
        with user_error(first, {}):
            jax.eval_shape(look, jax.ShapeDtypeStruct((), jnp.int32))
        d = shapes["initial_mean"][0] if len(shapes["initial_mean"]) == 1 else 0
        k = shapes["observation_matrix"][0] if len(shapes["observation_matrix"]) == 2 else 0
        sizes = {"initial": (d, d), "transition": (d, d), "observation": (k, k)}
        wanted = {name: sizes[name.split("_")[0]][: _AXES[name]] for name in shapes} | {"observation_matrix": (k, d)}
        for name, shape in wanted.items():
            if shapes[name] != shape or not d or not k:
                raise ModelError(
                    f"StateSpace: {name} has the shape {shapes[name]} at one time; wanted {shape}, from a state of "
                    f"{d} (initial_mean) and an observation of {k} (rows of observation_matrix)."
                )
            array = self._given[name]
            if isinstance(array, np.ndarray) and array.ndim > _AXES[name] and len(array) < times:
                raise ModelError(
                    f"StateSpace: {name} has {len(array)} times, but {times} are needed; give a matrix for each time, "
                    "or a function of (t, params)."
                )

    def forward(self, values: Any, observed: Any, params: Parameters) -> Moments:
        """The Kalman filter over a series: every field with a first axis of time."""

        def advance(carry: tuple, at: tuple) -> tuple[tuple, Moments]:
            t, y, seen = at
            mean, cov = carry
            step = self.step(t, params)
            moved = step.transition @ mean + step.transition_offset
            spread = step.transition @ cov @ step.transition.T + step.transition_cov
            now = condition(jnp.where(t == 0, mean, moved), jnp.where(t == 0, cov, spread), step, y, seen)
            return (now.mean, now.cov), now

        start = jax.tree.map(lambda part: jnp.asarray(part, float), self.start(params))
        steps = (jnp.arange(len(values)), jnp.asarray(values, float), jnp.asarray(observed))
        return lax.scan(advance, start, steps)[1]

    def backward(self, moments: Moments, values: Any, observed: Any, params: Parameters) -> tuple[jax.Array, jax.Array]:
        """Smoothed means (T, d) and covariances (T, d, d), by adjoints l, L of what later observations say:

        mean_t - cov_t l, cov_t - cov_t L cov_t. The same as Rauch, Tung & Striebel's, and needs no inverse of a cov.
        """

        def retreat(carry: tuple, at: tuple) -> tuple:
            adjoint, precision = carry
            t, y, seen, now = at
            step = self.step(t, params)
            mean = now.mean - now.cov @ adjoint
            cov = now.cov - now.cov @ precision @ now.cov
            h, r, residual = masked(step, now.predicted_mean, y, seen)
            root = (jnp.linalg.cholesky(h @ now.predicted_cov @ h.T + r), True)
            left = jnp.eye(len(mean)) - now.predicted_cov @ h.T @ jax.scipy.linalg.cho_solve(root, h)
            adjoint = left.T @ adjoint - h.T @ jax.scipy.linalg.cho_solve(root, residual)
            precision = left.T @ precision @ left + h.T @ jax.scipy.linalg.cho_solve(root, h)
            carry = (step.transition.T @ adjoint, step.transition.T @ precision @ step.transition)
            return carry, (mean, (cov + cov.T) / 2)

        d = moments.mean.shape[-1]
        steps = (jnp.arange(len(values)), jnp.asarray(values, float), jnp.asarray(observed), moments)
        return lax.scan(retreat, (jnp.zeros(d), jnp.zeros((d, d))), steps, reverse=True)[1]

    def _at(self, name: str, t: Any, params: Parameters) -> Any:
        given = self._given[name]
        if given is None:
            return None
        if callable(given):
            return jnp.asarray(given(params) if name.startswith("initial") else given(t, params), dtype=float)
        return jnp.asarray(given)[t] if given.ndim > _AXES[name] else jnp.asarray(given)


def _matrix(name: str, given: Any) -> np.ndarray:
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise ModelError(
            f"StateSpace: {name} came as {type(given).__name__}; wanted an array of numbers, or a function of the "
            "parameters."
        ) from None
    axes = _AXES[name]
    most = axes if name.startswith("initial") else axes + 1
    if not axes <= array.ndim <= most:
        raise ModelError(
            f"StateSpace: {name} has the shape {array.shape}; wanted {axes} axes"
            f"{'' if most == axes else f', or {most} with time first'}."
        )
    if not np.isfinite(array).all():
        raise ModelError(f"StateSpace: {name} is not finite: it holds NaN or infinity.")
    if name.endswith("_cov"):
        _check_covariance(name, array)
    return array


def _check_covariance(name: str, array: np.ndarray) -> None:
    square = array.shape[-1] == array.shape[-2]
    size = max(np.abs(array).max(initial=0), 1e-300)
    if not square or np.abs(array - np.swapaxes(array, -1, -2)).max(initial=0) > 1e-8 * size:
        raise ModelError(f"StateSpace: {name} is not symmetric; wanted a covariance matrix.")
    values = np.linalg.eigvalsh(array)
    if values.size and values.min() < -1e-10 * max(values.max(), 1e-300):
        raise ModelError(
            f"StateSpace: {name} has the eigenvalue {values.min():.3g}; wanted a covariance matrix, whose eigenvalues "
            "are 0 or more."
        )
