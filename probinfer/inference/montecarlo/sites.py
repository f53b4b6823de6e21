"""Proposals for the sites of a model: its prior, or distributions that are given, with the weights of their draws."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist
from numpyro import handlers

from probinfer.errors import MethodError
from probinfer.inference.exact.summed import Summed
from probinfer.inference.montecarlo.coverage import check_covered
from probinfer.inference.montecarlo.space import compiled, space_of_target
from probinfer.inference.undefined import Undefined
from probinfer.model.program_cache import kept_programs
from probinfer.model.target import Target
from probinfer.model.trace import (
    jacobian_name,
    log_densities,
    one_model_at_a_time,
    pointwise_log_density,
    site_transform,
)

_CHUNK = 1024


class SiteProposal:
    """Draws of all latent sites, with log p(x, y) - log q(x): under the prior q that is the log likelihood.

    Of a target whose discrete sites d are summed out, draws of the others: log Σ_d p(x, d, y) - log q(x), under the
    prior with q(x) = Σ_d p(x, d).

    Args:
        target: what the draws are weighted for.
        given: None for the prior; a NumPyro distribution for a model of one site; a dict with one for each site.
        owner: name of the method, for errors.
        undefined: counts the weights that are no numbers, with others; by default its own.

    Raises:
        MethodError: `given` does not fit the sites, or there is no prior that can be drawn from.
    """

    def __init__(self, target: Target, given: Any, owner: str, undefined: Undefined | None = None) -> None:
        self.target, self.undefined = target, undefined or Undefined(target)
        self.laws = None if given is None else by_site(target, given, owner)
        self._summed = target if isinstance(target, Summed) else None
        self._log_prior = target.log_prior() if isinstance(target, Summed) and given is None else None
        if self._summed is not None and given is not None:
            _check_supports(self._summed, owner)
        try:
            words = jax.ShapeDtypeStruct((_CHUNK, 2), np.uint32)
            many = jax.vmap(self.propose, in_axes=(0, None))
            if self.laws is None:
                self._program = target.compile("prior draws", many, words, target.inputs)
            else:
                with target.precision(), kept_programs():
                    self._program = jax.jit(many).lower(words, target.inputs).compile()
        except NotImplementedError:
            raise MethodError(
                f"{owner} draws from the prior, and a site of this model has none to draw from (a log density, or "
                f"an improper prior). Give a distribution for each site: pi.{owner}(proposal={{name: "
                "dist.Normal(0, 3), ...})."
            ) from None

    def draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Points z (n, d) and their log weights (n,); a weight that is not a number counts as zero, and is counted."""
        points, weights = [], []
        with self.target.precision():
            for start in range(0, n, _CHUNK):
                words = generator.integers(0, 2**32, (_CHUNK, 2), dtype=np.uint32)
                z, log_weight = self._program(words, self.target.inputs)
                points.append(np.asarray(z, float)[: n - start])
                weights.append(np.asarray(log_weight, float)[: n - start])
        z, log_weight = np.concatenate(points), np.concatenate(weights)
        usable = np.isfinite(z).all(axis=1)
        z, log_weight = np.where(np.isfinite(z), z, 0.0), np.where(usable, log_weight, -np.inf)
        return z, self.undefined.without(z, log_weight)

    def check_covers(self, generator: np.random.Generator, owner: str) -> None:
        """MethodError where a proposal that was given has no mass at places where the target has. The prior has."""
        if self.laws is None:
            return
        z, _ = self.draw(generator, _CHUNK)
        check_covered(z, space_of_target(self.target).log_density, self._inside, generator, owner)

    def _inside(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Whether each site of points (n, d) is in the support of its proposal, (n,) each."""

        def at(z: jax.Array, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            trace = self.target.bound.simulate_unconstrained({**self.target.split(z), **self._states()}, inputs)
            return {name: jnp.all(law.support(trace[name]["value"])) for name, law in (self.laws or {}).items()}

        with self.target.precision():
            found = jax.jit(jax.vmap(at, in_axes=(0, None)))(z.astype(self.target.dtype), self.target.inputs)
        return {name: np.asarray(within) for name, within in found.items()}

    def weight_and_grad(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Log weight and its gradient at one point, for climbing to the largest."""
        target = self.target
        function = jax.value_and_grad(self.log_weight)
        if self.laws is None:
            program = compiled(target, "log likelihood and gradient", function)
        else:
            if not hasattr(self, "_climber"):
                self._climber = jax.jit(function)
            program = self._climber
        with target.precision():
            value, gradient = program(jnp.asarray(z, target.dtype), target.inputs)
        return float(value), np.asarray(gradient, float)

    def densities(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Log density of the target and log weight at one point z (d,), for use inside compiled functions: from one run
        of the model, since a compiler computes a loop that stands there twice twice."""
        if self._summed is not None:
            return self.target.log_density(z, inputs), self.log_weight(z, inputs)
        whole, seen = self.target.log_density_seen(z, inputs)
        latents = [site.name for site in self.target.latents]
        left_out = {jacobian_name(name) for name in latents} | (set(latents) if self.laws is None else set())
        terms = [term for name, term in seen.terms.items() if name not in left_out]
        return whole, sum(terms, start=jnp.zeros((), z.dtype)) - self._log_proposal(seen.values)

    def log_weight(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Log weight at one point z (d,), for use inside compiled functions."""
        if self._summed is None:
            return self.densities(z, inputs)[1]
        if self._log_prior is not None:
            return self.target.log_density(z, inputs) - self._log_prior(z, inputs)
        trace = self.target.bound.simulate_unconstrained({**self.target.split(z), **self._states()}, inputs)
        terms = log_densities(trace)
        jacobians = [jacobian_name(site.name) for site in self.target.latents]
        change = sum((terms[name] for name in jacobians if name in terms), start=jnp.zeros((), z.dtype))
        return self.target.log_density(z, inputs) - change - self._log_proposal(_values(trace))

    def _log_proposal(self, values: Mapping[str, Any]) -> Any:
        return sum(jnp.sum(law.log_prob(values[name])) for name, law in (self.laws or {}).items())

    def propose(self, words: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """One point (d,) and its log weight, from two words of 32 bits, for use inside compiled functions."""
        key = jax.random.wrap_key_data(words)
        bound = self.target.bound
        latents = [site.name for site in self.target.latents]
        if self.laws is None:
            seeded = handlers.seed(bound.model.fn, key)
            with one_model_at_a_time:
                trace = handlers.trace(seeded).get_trace(**{**bound.constants, **inputs})
            terms = [term for name, term in log_densities(trace).items() if name not in latents]
        else:
            keys = jax.random.split(key, len(self.laws))
            values = {name: law.sample(k) for (name, law), k in zip(self.laws.items(), keys, strict=True)}
            trace = bound.simulate({**values, **self._states()}, inputs)
            inside = [jnp.all(trace[name]["fn"].support(trace[name]["value"])) for name in latents]
            terms = [
                jnp.where(
                    jnp.array(inside).all(), sum(jnp.sum(pointwise_log_density(trace[n])) for n in latents), -jnp.inf
                ),
                *(term for name, term in log_densities(trace).items() if name not in latents),
            ]
        parts = [
            jnp.ravel(site_transform(trace[name])._inverse(trace[name]["value"])) for name in self.target.layout_names
        ]
        z = jnp.concatenate(parts)
        if self._summed is not None:
            weight = self.log_weight(z, inputs)
            return z, weight if self.laws is None else jnp.where(jnp.array(inside).all(), weight, -jnp.inf)
        return z, sum(terms, start=jnp.zeros(())) - self._log_proposal(_values(trace))

    def _states(self) -> dict[str, np.ndarray]:
        """Values for the discrete sites, where these are summed out."""
        return self._summed.extreme_states[0] if self._summed is not None else {}


def _values(trace: Mapping[str, Any]) -> dict[str, Any]:
    return {name: site["value"] for name, site in trace.items()}


def _check_supports(target: Summed, owner: str) -> None:
    """A law for a site says nothing where the site's support is another for every state of a discrete one."""
    with target.precision():
        z = target.split(jnp.full(target.dim, 0.3))
        seen = [target.bound.simulate_unconstrained({**z, **states}) for states in target.extreme_states]
    for site in target.latents:
        low, high = (np.asarray(trace[site.name]["value"]) for trace in seen)
        if not np.array_equal(low, high):
            raise MethodError(
                f"{owner}: the support of {site.name} depends on a discrete site, so that no proposal fits it; leave "
                "proposal= out, which begins at the prior."
            )


def by_site(target: Target, given: Any, owner: str, verb: str = "came as") -> dict[str, Any]:
    """A distribution for each latent site of a target; MethodError unless `given` is that. verb: how it came."""
    names = [site.name for site in target.latents]
    laws = given if isinstance(given, Mapping) else {names[0]: given} if len(names) == 1 else {}
    wanted = f"wanted a NumPyro distribution for each of {', '.join(names)}, as a dict"
    if set(laws) != set(names):
        came = f"a dict of {', '.join(map(str, laws))}" if isinstance(given, Mapping) else type(given).__name__
        raise MethodError(f"{owner}: proposal {verb} {came}; {wanted}.")
    for site in target.latents:
        law = laws[site.name]
        if not isinstance(law, dist.Distribution):
            raise MethodError(f"{owner}: proposal for {site.name} came as {type(law).__name__}; {wanted}.")
        shape = tuple(law.batch_shape) + tuple(law.event_shape)
        if shape != site.shape:
            raise MethodError(
                f"{owner}: proposal for {site.name} has shape {shape}, the site {site.shape}; wanted the same shape."
            )
    return dict(laws)
