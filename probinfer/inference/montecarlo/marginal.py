"""The posterior density of a state-space model's parameters, with the likelihood that a particle filter estimates."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.transforms import biject_to

from probinfer.inference.mcmc.counter_random import threefry
from probinfer.inference.montecarlo.particle import ParticleFilter
from probinfer.inference.montecarlo.particle_pass import Doubt, Keep, one_pass, trace_back
from probinfer.model.statespace import Series, StateSpace
from probinfer.model.target import Target, fingerprint_of
from probinfer.model.trajectory import STATES, support_of_states


class Marginal:
    """log p(θ) + log p^(y | θ) in unconstrained z, p^ the estimate of a particle filter.

    Points are those of the target, (d,): the parameters first, the states (if they are a site of it) after them and
    not looked at. The estimate is a function of the point and of random words (blocks, 2): each block has the words of
    as many times as the others.

    Args:
        target: of a bound `StateSpace`.
        method: the kind of filter; its number of particles is not heeded.
        blocks: of the series.
        sort: keep the particles in order, see `one_pass`.
    """

    def __init__(self, target: Target, method: ParticleFilter, blocks: int = 1, *, sort: bool = False) -> None:
        model = target.bound.model
        assert isinstance(model, StateSpace)
        self.target, self.model, self.method, self.sort = target, model, method, sort
        names = np.array(target.coordinate_names())
        self.dim = int((names != STATES).sum())
        self.has_states = self.dim < len(names)
        self.times = len(target.bound.arrays["observations"])
        self.blocks = min(blocks, self.times)
        self.name = f"{self._settings()} {self.blocks} {sort}"

    def parameters(self, z: jax.Array) -> dict[str, jax.Array]:
        """Values of the parameters at a point."""
        parts = self.target.split(z)
        return {name: biject_to(law.support)(parts[name]) for name, law in self.model.prior.items()}

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the parameters' prior in unconstrained space."""
        parts, total = self.target.split(z), jnp.zeros((), z.dtype)
        for name, law in self.model.prior.items():
            transform = biject_to(law.support)
            value = transform(parts[name])
            jacobian = transform.log_abs_det_jacobian(parts[name], value)
            total = total + jnp.sum(law.log_prob(value)) + jnp.sum(jacobian)
        return total

    def log_density(self, z: jax.Array, words: jax.Array, inputs: Mapping[str, Any], particles: int) -> jax.Array:
        """log p(θ) + log p^(y | θ) at one point."""
        passed = self._pass(z, words, inputs, particles, Keep.LIKELIHOOD)
        value = self.log_prior(z) + jnp.sum(passed.log_density)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    def doubt(self, z: jax.Array, words: jax.Array, inputs: Mapping[str, Any], particles: int) -> Doubt:
        """Where the laws are no laws, or densities no numbers; each part has a first axis of times."""
        return self._pass(z, words, inputs, particles, Keep.DOUBT).doubt

    def with_states(
        self, z: jax.Array, words: jax.Array, choice: jax.Array, inputs: Mapping[str, Any], particles: int
    ) -> jax.Array:
        """The point with a trajectory of the same pass in the place of its states; `choice` (2,) words draw it."""
        if not self.has_states:
            return z
        passed = self._pass(z, words, inputs, particles, Keep.ALL)
        return self.put_states(z, trace_back(passed, choice))

    def put_states(self, z: jax.Array, path: jax.Array) -> jax.Array:
        """The point with these states (T, *state)."""
        if jnp.issubdtype(path.dtype, jnp.integer):
            flat = path.astype(z.dtype)
        else:
            flat = self._transform(z).inv(path)
        return z.at[self.dim :].set(jnp.ravel(flat))

    def states(self, z: jax.Array, dtype: Any) -> jax.Array:
        """The states (T, *state) of a point."""
        flat = self.target.split(z)[STATES]
        return jnp.rint(flat).astype(dtype) if jnp.issubdtype(dtype, jnp.integer) else self._transform(z)(flat)

    def fresh(self, key: tuple[jax.Array, jax.Array], counter: jax.Array, tag: int) -> jax.Array:
        """New words (blocks, 2)."""
        first = threefry(key, counter, jnp.uint32(tag))
        block = jnp.arange(self.blocks, dtype=jnp.uint32)
        return jnp.stack(threefry(first, block, jnp.zeros_like(block)), axis=1)

    def _transform(self, z: jax.Array) -> Any:
        return biject_to(support_of_states(self.model.initial(self.parameters(z))))

    def _pass(self, z: jax.Array, words: jax.Array, inputs: Mapping[str, Any], particles: int, keep: Keep) -> Any:
        series = Series(inputs["observations"], inputs["observed"])
        each = words[np.arange(self.times) * self.blocks // self.times]
        return one_pass(
            self.model,
            self.method,
            self.parameters(z),
            series,
            each,
            keep=keep,
            particles=particles,
            sort=self.sort,
        )

    def _settings(self) -> str:
        """Names the filter, its functions by what they compute."""
        method = self.method
        text = f"{method.kind} {method.resampling} {method.resample_below}"
        if method.proposal is None and method.initial_proposal is None and method.look_ahead is None:
            return text
        point = jax.ShapeDtypeStruct((self.target.dim,), self.target.dtype)
        words = jax.ShapeDtypeStruct((self.blocks, 2), jnp.uint32)
        with self.target.precision():
            program = jax.make_jaxpr(lambda z, w, i: self.log_density(z, w, i, 2))(point, words, self.target.inputs)
        return f"{text} {fingerprint_of(program)}"
