"""The states of a state-space model as one NumPyro distribution, and log densities that know their support."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from numpyro import distributions as dist

if TYPE_CHECKING:
    from probinfer.model.linear_gaussian import Parameters
    from probinfer.model.statespace import StateSpace

STATES = "states"  # the site of a trajectory, and the first of its dims
TIME = "time"


class Trajectory(dist.Distribution):
    """Law of x_0, …, x_T-1: p(x_0) Π f(x_t | x_t-1).

    Args:
        model: with the laws of its states.
        params: values of its parameters.
        times: T.

    The support is that of the first state, at every time.
    """

    def __init__(self, model: "StateSpace", params: "Parameters", times: int) -> None:
        self._model, self._params, self._times = model, params, times
        first = model.initial(params)
        self._support = support_of_states(first)
        super().__init__((), (times, *first.shape()), validate_args=False)

    @property
    def support(self) -> Any:
        """That of a state, at every time."""
        return self._support

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Trajectories (*sample_shape, T, *state)."""

        def one(key: Any) -> jax.Array:
            keys = jax.random.split(key, self._times)
            first = self._model.initial(self._params).sample(keys[0])

            def move(x: Any, at: tuple) -> tuple:
                key, t = at
                x = self._model.transition(x, t, self._params).sample(key)
                return x, x

            _, rest = lax.scan(move, first, (keys[1:], jnp.arange(1, self._times)))
            return jnp.concatenate([first[None], rest])

        if not sample_shape:
            return one(key)
        count = 1
        for size in sample_shape:
            count *= size
        return jax.vmap(one)(jax.random.split(key, count)).reshape(*sample_shape, *self.event_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """Log density of trajectories (..., T, *state)."""
        del intermediates

        def one(x: Any) -> jax.Array:
            first = log_density(self._model.initial(self._params), x[0])
            moved = jax.vmap(
                lambda after, before, t: log_density(self._model.transition(before, t, self._params), after)
            )(x[1:], x[:-1], jnp.arange(1, self._times))
            return first + jnp.sum(moved)

        lead = jnp.shape(value)[: jnp.ndim(value) - len(self.event_shape)]
        if not lead:
            return one(value)
        return jax.vmap(one)(jnp.reshape(value, (-1, *self.event_shape))).reshape(lead)


def support_of_states(first: Any) -> Any:
    """The support of a trajectory whose first state has this law."""
    return dist.constraints.independent(first.support, 1 + len(first.batch_shape))


def log_density(law: Any, x: Any) -> jax.Array:
    """log p(x), summed over its entries; minus infinity outside the support, where NumPyro's own may be any number."""
    density = jnp.sum(law.log_prob(x))
    if law.support in (dist.constraints.real, dist.constraints.real_vector):
        return density
    return jnp.where(jnp.all(law.support(x)), density, -jnp.inf)
