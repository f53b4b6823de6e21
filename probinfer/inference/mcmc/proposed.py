"""Metropolis-Hastings with proposals of the user: laws of the sites, which may depend on where the chain is."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import distributions as dist

from probinfer.errors import MethodError, ProbinferError
from probinfer.inference.exact.summed import Summed
from probinfer.inference.mcmc.counter_random import threefry, uniform
from probinfer.inference.mcmc.kernel import Ask, Draw, Info
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.plan import place_discrete
from probinfer.inference.montecarlo.sites import by_site
from probinfer.inference.undefined import short
from probinfer.model.target import Target, fingerprint_of
from probinfer.model.trace import VALUE_NEEDED, jacobian_name, log_densities, site_transform

_POINTS = 512  # at which it is looked whether a proposal has mass where the posterior has
_BOXES = (2.0, 8.0)  # half widths of the boxes, unconstrained, in which half of them lie each
_NEGLIGIBLE = 20.0  # log density below the highest met, from which on it does not matter
_OWNER = "Metropolis"

Named = Mapping[str, jax.Array]


class Place(NamedTuple):
    """A point z (d,): log_density with respect to z, `own` with respect to the sites' own values."""

    z: jax.Array
    values: dict[str, jax.Array]
    log_density: jax.Array
    own: jax.Array


def names_discrete(given: Any, target: Target) -> bool:
    """Whether a proposal has laws for discrete sites, which are then drawn and not summed out. target: of all sites."""
    discrete = target.bound.discrete
    if isinstance(given, dist.Distribution):
        return bool(discrete) and len(target.latents) == 1
    laws = given if isinstance(given, Mapping) else _called_abstractly(target, given)
    return isinstance(laws, Mapping) and any(name in laws for name in discrete)


class Proposed:
    """Proposals for all latent sites of a target, with everything that a step needs.

        accept x' with probability min(1, p(x') q(x | x') / (p(x) q(x' | x)))

    in the sites' own values: p is the density with respect to them, without the Jacobian of the unconstrained space.

    Args:
        target: of all sites, or of the continuous ones with the discrete ones summed out.
        given: distributions by site (a distribution, for a model of one site), or a function from a dict of the sites'
            current values to them.

    Raises:
        MethodError: the laws do not fit the sites, or leave out what the posterior has mass at.
    """

    def __init__(self, target: Target, given: Any) -> None:
        self.target = target
        self._states = target.extreme_states[0] if isinstance(target, Summed) else {}
        self._discrete = [name for name in target.layout_names if name in target.bound.discrete]
        self._given = given
        self.independent = isinstance(given, Mapping | dist.Distribution)
        with target.precision():
            laws = given if self.independent else _called_abstractly(target, given)
            self._check(laws)
            point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
            key = tuple(jax.ShapeDtypeStruct((), np.uint32) for _ in range(2))
            step = jax.make_jaxpr(lambda z, key, inputs: self.step(self.at(z, inputs), key, inputs))
            self.name = fingerprint_of(step(point, key, target.inputs))
        self._place_discrete = (
            place_discrete(target, _OWNER) if self._discrete else lambda position, generator: position
        )
        if self.independent:
            self._check_cover()

    def at(self, z: jax.Array, inputs: Named) -> Place:
        """What a step wants to know of a point."""
        bound, names = self.target.bound, self.target.layout_names
        trace = bound.simulate_unconstrained({**self.target.split(z), **self._states}, inputs)
        terms = log_densities(trace)
        changes = [terms[jacobian_name(name)] for name in names if jacobian_name(name) in terms]
        value = self.target.log_density(z, inputs)
        own = value - sum(changes, start=jnp.zeros((), z.dtype))
        return Place(z, {name: trace[name]["value"] for name in names}, value, own.astype(z.dtype))

    def step(self, here: Place, key: tuple[jax.Array, jax.Array], inputs: Named) -> tuple[Place, jax.Array]:
        """Where a proposal leads, and the log of the ratio that it is accepted by."""
        laws = self._laws(here.values)
        drawn = _drawn(laws, key)
        z, inside = self._unconstrained(drawn, inputs)
        there = self.at(z, inputs)
        back, forth = _log_prob(self._laws(there.values), here.values), _log_prob(laws, drawn)
        gain = there.own - here.own + back - forth
        return there, jnp.where(inside & ~jnp.isnan(gain), gain, -jnp.inf)

    def place(self, position: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A point for a chain to begin at: a draw of laws that do not depend on where the chain is, or the random
        position with its discrete coordinates inside their supports."""
        if not self.independent:
            return self._place_discrete(position, generator)
        points, own = self._first(generator)
        usable = np.flatnonzero(np.isfinite(own))
        return points[generator.choice(usable)] if len(usable) else points[0]

    def _laws(self, values: Named) -> dict[str, Any]:
        laws = self._given if self.independent else self._given(dict(values))
        return by_site(self.target, laws, _OWNER, "came as" if self.independent else "returned")

    def _unconstrained(self, values: Named, inputs: Named) -> tuple[jax.Array, jax.Array]:
        """z of the sites' own values, and whether all are inside their supports."""
        trace = self.target.bound.simulate({**values, **self._states}, inputs)
        parts, inside = [], []
        for name in self.target.layout_names:
            support, value = trace[name]["fn"].support, values[name]
            inside.append(jnp.all(support(value)))
            parts.append(jnp.ravel(value if name in self._discrete else site_transform(trace[name])._inverse(value)))
        z = jnp.concatenate([part.astype(self.target.dtype) for part in parts])
        finite = jnp.isfinite(z)
        return jnp.where(finite, z, 0.0), jnp.all(jnp.stack(inside)) & jnp.all(finite)

    def _check(self, laws: Any) -> None:
        laws = by_site(self.target, laws, _OWNER, "came as" if self.independent else "returned")
        for name, law in laws.items():
            if bool(law.is_discrete) != (name in self._discrete):
                raise MethodError(
                    f"{_OWNER}: proposal for {name} is {type(law).__name__}, "
                    f"{'discrete' if law.is_discrete else 'continuous'}, and the site is not; wanted a distribution on "
                    f"{'whole numbers' if name in self._discrete else 'the real line or a part of it'}."
                )

    def _first(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws (n, d) of laws that do not depend on where the chain is, and the log density `own` there."""

        def draw(words: jax.Array, inputs: Named) -> tuple[jax.Array, jax.Array]:
            z, inside = self._unconstrained(_drawn(self._laws({}), (words[0], words[1])), inputs)
            return z, jnp.where(inside, self.at(z, inputs).own, -jnp.inf)

        words = generator.integers(0, 2**32, (_POINTS, 2), dtype=np.uint32)
        with self.target.precision():
            program = self.target.compile(
                f"first proposals {self.name}", jax.vmap(draw, in_axes=(0, None)), words, self.target.inputs
            )
            points, own = program(words, self.target.inputs)
        own = np.asarray(own, float)
        return np.asarray(points, float), np.where(np.isnan(own), -np.inf, own)

    def _check_cover(self) -> None:
        """MethodError where a law has no mass at a point that the posterior has: the chain could not go there."""
        generator = np.random.default_rng(0)
        half = [generator.uniform(-width, width, (_POINTS // 2, self.target.dim)) for width in _BOXES]
        points = np.stack([self._place_discrete(z, generator) for z in np.concatenate(half)])
        _, best = self._first(generator)

        def look(z: jax.Array, inputs: Named) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
            place = self.at(z, inputs)
            found = {name: _log_prob({name: law}, place.values) for name, law in self._laws({}).items()}
            return place.own, found, place.values

        with self.target.precision():
            program = self.target.compile(
                f"cover of proposals {self.name}", jax.vmap(look, in_axes=(0, None)), points, self.target.inputs
            )
            own, found, values = jax.tree.map(np.asarray, program(points.astype(self.target.dtype), self.target.inputs))
        highest = np.max(np.concatenate([best, np.where(np.isfinite(own), own, -np.inf)]))
        for name, log_q in found.items():
            missed = np.flatnonzero((own > highest - _NEGLIGIBLE) & np.isneginf(log_q))
            if len(missed):
                at = short(values[name][missed[0]])
                raise MethodError(
                    f"{_OWNER}: proposal for {name} has no mass at {at}, where the posterior has some, so that the "
                    "chain would never go there. Give a distribution whose support covers that of the posterior."
                )


def transition(
    ask: Ask,
    metric: Metric,
    start: Draw,
    step_size: jax.Array,
    key: tuple[jax.Array, jax.Array],
    limit: jax.Array,
    *,
    proposed: Proposed,
    proposals: int,
    accept: float,
) -> tuple[Draw, Info]:
    """`proposals` times: propose, and accept by the ratio. No step size adapts; `accept`, its target, says so."""
    del metric, step_size, limit
    dtype = start.q.dtype
    zero = jnp.zeros((), dtype)

    def propose(state: tuple) -> tuple:
        here, acceptance, _, n = state
        words = threefry(key, n.astype(jnp.uint32), jnp.uint32(3))
        bits, _ = threefry(key, n.astype(jnp.uint32), jnp.uint32(4))
        there, gain = ask(functools.partial(proposed.step, here, words))
        gain = gain.astype(dtype)
        take = jnp.log(uniform(bits, dtype)) <= gain
        moved = jax.tree.map(lambda new, old: jnp.where(take, new, old), there, here)
        return moved, acceptance + jnp.exp(jnp.minimum(gain, 0.0)), -gain, n + 1

    first = ask(functools.partial(proposed.at, start.q))
    end, acceptance, error, _ = lax.while_loop(
        lambda state: state[3] < proposals, propose, (first, zero, zero, jnp.int32(0))
    )
    mean, never = acceptance / proposals, jnp.zeros((), bool)
    constant = jnp.asarray(accept, dtype)
    info = Info(mean, constant, jnp.int32(proposals), jnp.int32(0), never, never, -end.log_density, error)
    return Draw(end.z, start.g, end.log_density), info


def _drawn(laws: Mapping[str, Any], key: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.wrap_key_data(jnp.stack(key)), len(laws))
    return {name: law.sample(k) for (name, law), k in zip(laws.items(), keys, strict=True)}


def _log_prob(laws: Mapping[str, Any], values: Named) -> jax.Array:
    """Log density of values under independent laws, -inf outside of their supports."""
    terms = [
        jnp.where(jnp.all(law.support(values[name])), jnp.sum(law.log_prob(values[name])), -jnp.inf)
        for name, law in laws.items()
    ]
    return sum(terms[1:], start=terms[0])


def _called_abstractly(target: Target, given: Callable) -> Any:
    """What a proposal returns for the sites' values, which are not looked at; MethodError if it cannot be called so."""
    seen: list[Any] = []
    states = target.extreme_states[0] if isinstance(target, Summed) else {}

    def look(z: jax.Array, inputs: Named) -> list:
        trace = target.bound.simulate_unconstrained({**target.split(z), **states}, inputs)
        values = {name: trace[name]["value"] for name in target.layout_names}
        try:
            seen.append(given(values))
        except VALUE_NEEDED:
            raise MethodError(
                f"{_OWNER}: proposal needs the numbers themselves and cannot be traced by JAX. Write it with "
                "jax.numpy, for example jnp.where in the place of if."
            ) from None
        except ProbinferError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises is told in its own terms
            said = str(error).splitlines()[0] if str(error) else ""
            raise MethodError(
                f"{_OWNER}: proposal raised {type(error).__name__}: {said}. "
                f"It takes a dict with the current values of {', '.join(values)}."
            ) from None
        return []

    with target.precision():
        jax.eval_shape(look, jax.ShapeDtypeStruct((target.dim,), target.dtype), target.inputs)
    return seen[0]
