"""State-space models: a hidden state that moves by a law, seen through noise; and the series they are fitted to."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from probinfer.errors import DataError, ModelError
from probinfer.model.conditioning import condition
from probinfer.model.linear_gaussian import LinearGaussian, Parameters
from probinfer.model.model import BoundModel, Model
from probinfer.model.series import Series as Series
from probinfer.model.series import read_series
from probinfer.model.trace import VALUE_NEEDED, placeholder, user_error
from probinfer.model.trajectory import STATES, TIME, Trajectory

_TIME = jax.ShapeDtypeStruct((), jnp.int32)


class StateSpace(Model):
    """A hidden Markov state and its observations, each law a NumPyro distribution.

        x_0 ~ initial(params)
        x_t ~ transition(x_{t-1}, t, params)      t = 1, ..., T-1
        y_t ~ observation(x_t, t, params)         t = 0, ..., T-1

    `pi.filter` and `pi.smooth` find the states at given parameters, `pi.infer` the parameters too. Write the functions
    for one state, with `jax.numpy`; they are vectorised over particles.

    Args:
        initial: function of the parameters; its distribution's shape is that of a state, () or (d,), ….
        transition: function of the last state, the time t arrived at, and the parameters: law of the next state.
        observation: function of a state, its time and the parameters: law of the observation.
        prior: a NumPyro distribution for each unknown parameter, by name; `params` is the dict of their values. None:
            nothing is unknown, and `params` is what the caller of `filter` gives.
        coords, dims: names of the parameters' axes, as for `Model`.

    Raises:
        ModelError: an argument is not a function, a prior is not a distribution; later, a function does not return a
            distribution, looks at values with Python's `if`, or the shapes of the states differ.

    What drives the state from outside (regressors, calendars) is an array of the function's own, indexed by t.

    >>> import numpyro.distributions as dist
    >>> counts = StateSpace(
    ...     initial=lambda params: dist.Normal(0.0, 1.0),
    ...     transition=lambda x, t, params: dist.Normal(x, params["sd"]),
    ...     observation=lambda x, t, params: dist.Poisson(jax.numpy.exp(x)),
    ...     prior={"sd": dist.HalfNormal(1.0)},
    ... )
    >>> counts
    StateSpace(sd)
    """

    def __init__(
        self,
        initial: Callable[..., Any],
        transition: Callable[..., Any],
        observation: Callable[..., Any],
        *,
        prior: Mapping[str, Any] | None = None,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Any] | None = None,
    ) -> None:
        for name, given in (("initial", initial), ("transition", transition), ("observation", observation)):
            if not callable(given):
                raise ModelError(
                    f"StateSpace: {name} came as {type(given).__name__}; wanted a function that returns a NumPyro "
                    "distribution."
                )
        self.initial, self.transition, self.observation = initial, transition, observation
        self.linear: LinearGaussian | None = None
        self.prior = _check_prior(prior)
        self.programs: dict[Any, Any] = {}  # compiled ones of this model, by method and shapes
        self._kept_shapes: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct] | None = None

        def state_space(observations: Any, observed: Any) -> None:
            params = self.sample_parameters()
            if self.linear is not None:
                moments = self.linear.forward(observations, observed, params)
                numpyro.factor("log_likelihood", jnp.sum(moments.log_density))
                return
            states = numpyro.sample(STATES, Trajectory(self, params, len(observations)))
            seen = jax.vmap(lambda x, t, y, o: self.log_observation(x, t, params, y, o))(
                states, jnp.arange(len(observations)), observations, observed
            )
            numpyro.factor("log_likelihood", jnp.sum(seen))

        super().__init__(state_space, coords=coords, dims={STATES: (TIME,), **(dims or {})})

    @classmethod
    def linear_gaussian(
        cls,
        initial_mean: Any,
        initial_cov: Any,
        transition_matrix: Any,
        transition_cov: Any,
        observation_matrix: Any,
        observation_cov: Any,
        transition_offset: Any = None,
        observation_offset: Any = None,
        *,
        prior: Mapping[str, Any] | None = None,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Any] | None = None,
    ) -> Self:
        """A model that is linear with Gaussian noise, whose filter, smoother and likelihood are exact: `pi.Kalman()`.

            x_0 ~ N(m, P),   x_t = F_t x_{t-1} + b_t + N(0, Q_t),   y_t = H_t x_t + c_t + N(0, R_t)

        States are vectors (d,), observations (k,); a series (T,) is taken as (T, 1). Covariances may be singular.
        `pi.infer(model, data)` runs NUTS, or any other method, on the parameters, the states integrated out.

        Args:
            initial_mean, initial_cov: m (d,) and P (d, d), or functions of (params).
            transition_matrix, transition_cov, transition_offset: F (d, d), Q (d, d), b (d,); each may have a first
                axis of time, or be a function of (t, params). None is no offset.
            observation_matrix, observation_cov, observation_offset: H (k, d), R (k, k), c (k,), in the same ways.
            prior, coords, dims: as for StateSpace.

        Raises:
            ModelError: shapes do not fit each other, a matrix is not finite, or a covariance is none.

        Kalman (1960); Durbin & Koopman (2012), ch. 4.

        >>> StateSpace.linear_gaussian([0.0], [[1.0]], [[1.0]], [[0.1]], [[1.0]], [[0.5]])
        StateSpace(no parameters, linear Gaussian)
        """
        linear = LinearGaussian(
            initial_mean=initial_mean,
            initial_cov=initial_cov,
            transition_matrix=transition_matrix,
            transition_cov=transition_cov,
            transition_offset=transition_offset,
            observation_matrix=observation_matrix,
            observation_cov=observation_cov,
            observation_offset=observation_offset,
        )
        model = cls(linear.initial, linear.transition, linear.observation, prior=prior, coords=coords, dims=dims)
        model.linear = linear
        return model

    def __repr__(self) -> str:
        return f"StateSpace({', '.join(self.prior) or 'no parameters'}{', linear Gaussian' if self.linear else ''})"

    def sample_parameters(self) -> dict[str, Any]:
        """The parameters by name, inside a NumPyro model."""
        return {name: numpyro.sample(name, law) for name, law in self.prior.items()}

    def take(self, data: Any) -> dict[str, np.ndarray]:
        """The series, {"observations": y} or y alone, NaN where missing, with what of it was observed."""
        series = read_series(_observations(data), column=self.linear is not None, missing=True)
        return {"observations": series.values, "observed": series.observed}

    def bind(self, data: Any = None) -> BoundModel:
        """Check the series, {"observations": y} or y alone, NaN where missing, and trace the prior."""
        series = self.series(data)
        if not self.prior:
            raise ModelError(
                "The StateSpace has no prior: there is nothing to infer. Give it prior={name: distribution}; for the "
                "states alone use pi.filter or pi.smooth."
            )
        with jax.enable_x64(True):
            inside = {
                name: np.asarray(placeholder({"type": "sample", "is_observed": False, "fn": law}))
                for name, law in self.prior.items()
            }
            self.check(inside, series)
        return super().bind({"observations": series.values, "observed": series.observed})

    def series(self, observations: Any) -> Series:
        """Checked arrays, of a series or {"observations": series}. DataError for text, infinities, or no rows."""
        return read_series(_observations(observations), column=self.linear is not None)

    def check(self, params: Parameters, series: Series) -> tuple[int, ...]:
        """The state's shape, once the three laws fit each other and the series."""
        if self.linear is not None:
            self.linear.check(params, len(series.values))
        state, seen = self._shapes(params)
        if seen.shape != series.values.shape[1:]:
            raise DataError(
                f"observations have the shape {series.values.shape}, one row for each time; the observation's "
                f"distribution has the shape {seen.shape}, so wanted {(len(series.values), *seen.shape)}."
            )
        parts = series.observed.reshape(len(series.observed), -1)
        partly = parts.any(axis=1) & ~parts.all(axis=1)
        if partly.any() and self.linear is None:
            scored = jax.eval_shape(
                lambda x, t: self.observation(x, t, params).log_prob(series.values[0]), state, _TIME
            ).shape
            if scored != seen.shape:
                raise DataError(
                    f"observations are partly NaN at time {int(np.argmax(partly))}, but the entries of one "
                    "observation are not independent given the state. Make the whole row NaN, or use "
                    "pi.StateSpace.linear_gaussian, which integrates missing entries out."
                )
        return state.shape

    def log_observation(
        self,
        x: Any,
        t: Any,
        params: Parameters,
        y: Any,
        observed: Any,
        log_prob: Callable[[Any, Any], jax.Array] = lambda law, y: law.log_prob(y),
    ) -> jax.Array:
        """log p(y_t | x_t), of the entries observed; 0 where there are none.

        log_prob: (law, y) -> log density, in the place of the law's own.
        """
        if self.linear is not None:
            nothing = jnp.zeros((len(x), len(x)))
            return condition(x, nothing, self.linear.step(t, params), y, observed).log_density
        density = log_prob(self.observation(x, t, params), y)
        if jnp.shape(density) == jnp.shape(y):
            return jnp.sum(jnp.where(observed, density, 0.0))
        return jnp.where(jnp.all(observed), jnp.sum(density), 0.0)

    def _shapes(self, params: Parameters) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Of a state and of an observation. Without parameters nothing can change them, and they are kept."""
        if not params and self._kept_shapes is not None:
            return self._kept_shapes
        state = self._shape("initial", params)
        moved = self._shape("transition", params, state, _TIME)
        if (moved.shape, moved.dtype) != (state.shape, state.dtype):
            raise ModelError(
                f"The transition draws states of shape {moved.shape} and type {moved.dtype}, initial ones of "
                f"{state.shape} and {state.dtype}; wanted the same."
            )
        found = state, self._shape("observation", params, state, _TIME)
        if not params:
            self._kept_shapes = found
        return found

    def _shape(self, name: str, params: Parameters, *arguments: Any) -> jax.ShapeDtypeStruct:
        """Shape and type of a draw of one of the three laws."""
        law = getattr(self, name)

        def draw(key: Any, *arguments: Any) -> Any:
            found = law(*arguments, params)
            if not (hasattr(found, "log_prob") and hasattr(found, "sample")):
                raise ModelError(
                    f"{name} returned {type(found).__name__}; wanted a NumPyro distribution, such as "
                    "dist.Normal(x, 1.0)."
                )
            return found.sample(key)

        try:
            with user_error(law, {}):
                return jax.eval_shape(draw, jax.ShapeDtypeStruct((2,), jnp.uint32), *arguments)
        except VALUE_NEEDED:
            raise ModelError(
                f"{name} looks at the value of a state, a time or an observation, with `if`, float() or NumPy; these "
                "are known only when the compiled program runs. Use jax.numpy, with jnp.where in the place of `if`."
            ) from None


def _observations(data: Any) -> Any:
    """The series in what `infer` takes as data, NaN where a mask says that nothing was observed."""
    if not isinstance(data, Mapping):
        return data
    if "observations" not in data or set(data) - {"observations", "observed"}:
        raise DataError(
            f"data came with the keys {sorted(map(str, data))}; a state-space model takes "
            '{"observations": array}, or the array alone.'
        )
    y, seen = data["observations"], np.asarray(data.get("observed", True))
    return y if seen.all() else np.where(seen, y, np.nan)


def _check_prior(prior: Any) -> dict[str, Any]:
    if prior is None:
        return {}
    if not isinstance(prior, Mapping):
        raise ModelError(
            f"StateSpace: prior came as {type(prior).__name__}; wanted a dict, "
            '{"sd": numpyro.distributions.HalfNormal(1.0)}, or None.'
        )
    for name, law in prior.items():
        if not (hasattr(law, "log_prob") and hasattr(law, "support")):
            raise ModelError(
                f"StateSpace: the prior of {name!r} is {law!r}; wanted a NumPyro distribution. Known values go to "
                "pi.filter(..., parameters=...)."
            )
    if STATES in prior:
        raise ModelError(f"StateSpace: a parameter is called {STATES!r}, which is the name of the states; rename it.")
    return dict(prior)
