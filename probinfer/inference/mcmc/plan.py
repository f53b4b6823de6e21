"""How each site of a model is updated in turn: found from the model, and verified at random points first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.errors import MethodError
from probinfer.inference.exact.elimination import bounds_of, values_within
from probinfer.inference.latent_sites import describe
from probinfer.inference.mcmc.conditionals import Family, disagreement, families
from probinfer.model.target import Target
from probinfer.model.trace import log_densities, pointwise_log_densities, site_transform

_CHECKS, _TRIES = 3, 50  # random points at which a plan must hold, and that are tried to find so many
_AGREES, _AGREES_SINGLE = 1e-6, 1e-3  # relative differences up to which a way of updating is taken for right
_WALKS = 4  # proposals of a walk on the whole numbers, for each update
_LONGEST, _SPREADS = 32, 4.0  # its longest step: so many, or so many standard deviations of the draws if that is more

Update = Callable[..., jax.Array]  # (z, inputs, key, scale) -> z; `scale` (d,): standard deviations of the draws so far


class Move(NamedTuple):
    """Coordinates that take a step together, and how: see turn.py."""

    where: np.ndarray
    by: Any


class Plan(NamedTuple):
    """updates: of single sites, in turn. moves: of the other coordinates, afterwards. walked: coordinates of discrete
    sites that walk, with steps as long as their draws are wide. text: in words.
    place: (position, generator) -> the position with discrete coordinates inside their supports."""

    updates: tuple[Update, ...]
    moves: tuple[Move, ...]
    walked: np.ndarray
    text: str
    place: Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Wish(NamedTuple):
    """Sites that are to be moved together. by: (number of coordinates) -> how. words: the same for the plan's text."""

    sites: tuple[str, ...]
    by: Callable[[int], Any]
    words: str


def make_plan(
    target: Target,
    generator: np.random.Generator,
    *,
    rest: Wish,
    wishes: Sequence[Wish] = (),
    owner: str = "Gibbs",
    walks: int = _WALKS,
    conditionals: bool = True,
) -> Plan:
    """Enumeration for finite discrete sites, a walk for countable ones, conjugate laws where they hold.

    Args:
        target: a target of all sites.
        generator: of the points at which a plan must hold.
        rest: by which method the continuous sites are moved that nothing else updates; its sites are not read.
        wishes: sites that are moved as the user wants; discrete ones of them by Metropolis steps.
        owner: the method, for texts.
        walks: proposals of a walk on the whole numbers for each update.
        conditionals: whether sites may be drawn from their law given the rest; else Metropolis steps throughout.
    """
    model = _Conditionals(target, conjugate=conditionals and target.has_gradient)
    supports = {name: model.support(name, owner) for name in target.bound.discrete}
    wished = {name: wish for wish in wishes for name in wish.sites}
    place = _placed(model, supports)
    found = _checks(model, supports, target, place, generator)
    updates: list[Update] = []
    words: list[str] = []
    left: list[str] = []
    walked: list[int] = []
    for name in target.layout_names:
        if name in supports:
            apart, values = name in found, supports[name]
            weighed = conditionals and name not in wished
            if values is not None and weighed:
                updates.append(model.enumerate(name, values, apart))
                how = f"enumeration of {len(values)} values"
            elif values is not None and model.unordered(name):
                updates.append(model.switch(name, len(values), apart, walks))
                how = "another of its values proposed"
            else:
                updates.append(model.walk(name, apart, walks))
                walked += model.where[name].tolist()
                how = "a walk on the whole numbers"
            words.append(f"{name}: {how}, {'all entries at once' if apart else 'entry by entry'}")
        elif name in wished:
            words.append(f"{name}: {wished[name].words}")
        elif name in found:
            family = model.families[name][found[name]]
            updates.append(model.conjugate(name, family))
            words.append(f"{name}: {family.name}")
        else:
            left.append(name)
            words.append(f"{name}: {rest.words}")
    moves = []
    for wish in (*wishes, rest._replace(sites=tuple(left))):
        sites = tuple(name for name in wish.sites if name not in supports)
        if sites:
            where = np.concatenate([model.where[name] for name in sites])
            moves.append(Move(where, wish.by(len(where))))
    return Plan(tuple(updates), tuple(moves), np.array(walked, int), "; ".join(words), place)


def place_discrete(target: Target, owner: str) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """The `place` of a plan for a target of all sites; MethodError where a discrete site has vectors for values."""
    model = _Conditionals(target, conjugate=False)
    return _placed(model, {name: model.support(name, owner) for name in target.bound.discrete})


def _placed(
    model: "_Conditionals", supports: Mapping[str, Any]
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def place(position: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        position = position.copy()
        for name, values in supports.items():
            where = model.where[name]
            if values is None:  # of some size, for all entries alike: some will be large enough
                size = int(2 ** generator.uniform(0, 10))
                position[where] = model.least(name) + generator.integers(size, 2 * size, len(where))
            elif name in model.bounds:  # of each entry its own: all low, all high, or as high as one another
                low, high = (ends.ravel() for ends in model.bounds[name])
                level = np.clip(generator.uniform(-0.5, 1.5), 0.0, 1.0)
                position[where] = low + np.rint(level * (high - low))
            else:
                position[where] = generator.choice(values, size=len(where))
        return position

    return place


def _checks(
    model: "_Conditionals",
    supports: Mapping[str, Any],
    target: Target,
    place: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    generator: np.random.Generator,
) -> dict[str, int]:
    """For each site, which of the ways that it may be updated in is right, the first if several; not there if none is:
    for a discrete site 0, all entries at once, for a continuous one the number of its family."""
    if not supports and not model.families:
        return {}

    def check(z: Any, other: Any, points: Any, inputs: Any) -> dict[str, list]:
        found = {name: [model.dependence(name, z, other, inputs)] for name in supports}
        values = model.values(z, inputs)
        for name, tried in points.items():
            gradient = model.gradient(name, values, inputs)
            families = model.families[name]
            found[name] = [
                jnp.where(model.cut(name, x, values, inputs), jnp.inf, disagreement(family, gradient, x))
                for family, x in zip(families, tried, strict=True)
            ]
        return found

    def arguments() -> tuple:
        z = place(generator.uniform(-1, 1, target.dim), generator)
        other = place(z, generator)
        points = {
            name: [
                np.stack([family.point(generator, model.shape(name)) for _ in range(3)]).astype(target.dtype)
                for family in families
            ]
            for name, families in model.families.items()
        }
        return z.astype(target.dtype), other.astype(target.dtype), points

    first = arguments()
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), first)
    program = target.compile("gibbs plan", check, *shapes, target.inputs)
    tolerance = _AGREES if target.float64 else _AGREES_SINGLE
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*supports, *model.families)}
    for i in range(_TRIES):
        z, other, points = arguments() if i else first
        with target.precision():
            seen = program(z, other, points, target.inputs)
        for name, sizes in seen.items():
            row = np.array([float(size) for size in sizes])
            if not np.isnan(row).all():  # or the density was zero there, which tells nothing
                found[name].append(row)
        if min(map(len, found.values())) >= _CHECKS:
            break
    chosen = {}
    for name, rows in found.items():
        holds = (np.array(rows) <= tolerance).all(axis=0) if len(rows) >= _CHECKS else np.zeros(1, bool)
        if holds.any():
            chosen[name] = int(np.argmax(holds))
    return chosen


class _Conditionals:
    """Log densities of a target's sites given all the others, at their own values instead of the unconstrained ones."""

    def __init__(self, target: Target, *, conjugate: bool = True) -> None:
        self._target, self._bound = target, target.bound
        names = np.array(target.coordinate_names())
        self.where = {name: np.flatnonzero(names == name) for name in target.layout_names}
        self._about = describe(target)
        unlike = [name for name in self._bound.discrete if self._about[name].values is None]
        found = {name: bounds_of(target, name) for name in unlike if not self._about[name].vectors}
        self.bounds = {name: bounds for name, bounds in found.items() if bounds is not None}
        continuous = [name for name in target.layout_names if conjugate and name not in self._bound.discrete]
        tried = {name: families(self._about[name].support, int(np.prod(self.shape(name)))) for name in continuous}
        self.families = {name: some for name, some in tried.items() if some}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._about[name].shape

    def values(self, z: jax.Array, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        trace = self._bound.simulate_unconstrained(self._target.split(z), inputs)
        return {name: trace[name]["value"] for name in self.where}

    def total(self, values: Mapping[str, jax.Array], inputs: Mapping[str, Any]) -> jax.Array:
        return sum(log_densities(self._bound.simulate(values, inputs)).values(), start=jnp.zeros(()))

    def local(self, name: str, values: Mapping[str, jax.Array], inputs: Mapping[str, Any]) -> jax.Array:
        """The terms that each entry of a site is in, summed; of the site's shape. Right if `is_apart`."""
        trace = self._bound.simulate(values, inputs)
        shape = jnp.shape(values[name])
        out = jnp.zeros(shape)
        for site, terms in pointwise_log_densities(trace).items():
            scale = trace[site]["scale"]
            out += _reduced(terms if scale is None else terms * scale, shape)
        return out

    def dependence(self, name: str, z: jax.Array, other: jax.Array, inputs: Mapping[str, Any]) -> jax.Array:
        """How far the entries of a discrete site are from independent given the rest, as two points tell."""
        values = self.values(z, inputs)
        changed = {**values, name: self.values(other, inputs)[name]}
        before, parts = self.total(values, inputs), self.local(name, changed, inputs) - self.local(name, values, inputs)
        half = jnp.arange(parts.size).reshape(parts.shape) % 2 == 0
        worst = jnp.zeros(())
        for which in (jnp.ones(parts.shape, bool), half):
            mixed = {**values, name: jnp.where(which, changed[name], values[name])}
            apart = self.total(mixed, inputs) - before - jnp.where(which, parts, 0.0).sum()
            worst = jnp.maximum(worst, jnp.abs(apart) / (1 + jnp.abs(parts).sum()))
        return jnp.where(jnp.isfinite(before), worst, jnp.nan)

    def unordered(self, name: str) -> bool:
        """Whether the values of a site are names of classes."""
        return self._about[name].law.startswith(("Bernoulli", "Categorical"))

    def support(self, name: str, owner: str) -> np.ndarray | None:
        """The values of a discrete site, of all entries together where they differ; None if they are without end."""
        about = self._about[name]
        if about.vectors:
            raise MethodError(
                f"{owner}: the discrete site {name} ({about.law}) has vectors for values; wanted single numbers. "
                "Write it as several sites, or sum it out of the model."
            )
        return values_within(self.bounds[name]).astype(float) if name in self.bounds else about.values

    def least(self, name: str) -> int:
        return self._about[name].least

    def conjugate(self, name: str, family: Family) -> Update:
        def update(z: jax.Array, inputs: Mapping[str, Any], key: jax.Array, scale: jax.Array) -> jax.Array:
            del scale
            values = self.values(z, inputs)
            x = values[name]
            drawn = family.sample(family.fit(self.gradient(name, values, inputs), x), key, x.shape)
            # gradients do not tell where the density is cut off: a draw from there is refused, which keeps the law
            there = self.total({**values, name: drawn}, inputs)
            drawn = jnp.where(jnp.isfinite(there), drawn, x)
            return self._with(z, name, drawn.astype(z.dtype), values, inputs)

        return update

    def enumerate(self, name: str, support: np.ndarray, apart: bool) -> Update:
        def update(z: jax.Array, inputs: Mapping[str, Any], key: jax.Array, scale: jax.Array) -> jax.Array:
            del scale
            values = self.values(z, inputs)
            x = values[name]
            choices = jnp.asarray(support, x.dtype)
            if apart:

                def terms(value: jax.Array) -> jax.Array:
                    return self.local(name, {**values, name: jnp.full_like(x, value)}, inputs)

                logits = _no_nan(jax.vmap(terms)(choices))
                return z.at[self.where[name]].set(
                    choices[jax.random.categorical(key, logits, axis=0)].ravel().astype(z.dtype)
                )

            def one(i: jax.Array, flat: jax.Array) -> jax.Array:
                def whole(value: jax.Array) -> jax.Array:
                    return self.total({**values, name: flat.at[i].set(value).reshape(x.shape)}, inputs)

                logits = _no_nan(jax.vmap(whole)(choices))
                return flat.at[i].set(choices[jax.random.categorical(jax.random.fold_in(key, i), logits)])

            flat = lax.fori_loop(0, x.size, one, x.ravel())
            return z.at[self.where[name]].set(flat.astype(z.dtype))

        return update

    def walk(self, name: str, apart: bool, proposals: int) -> Update:
        """Metropolis steps up and down, of lengths from 1 on that are even in the logarithm: symmetric, at x and in the
        size. So both the next value and the far end are met, whatever the width of the law."""

        def jump(x: jax.Array, scale: jax.Array, key: jax.Array) -> jax.Array:
            sign, size = jax.random.split(key)
            longest = jnp.maximum(_LONGEST, _SPREADS * scale) + 1.0
            length = jnp.floor(longest ** jax.random.uniform(size, x.shape, longest.dtype)).astype(x.dtype)
            return x + jnp.where(jax.random.bernoulli(sign, 0.5, x.shape), length, -length)

        return self._metropolis(name, apart, proposals, jump)

    def switch(self, name: str, count: int, apart: bool, proposals: int) -> Update:
        """Metropolis steps to another of the values 0, 1, …, count - 1, each as likely as the others."""

        def other(x: jax.Array, scale: jax.Array, key: jax.Array) -> jax.Array:
            del scale
            return (x + jax.random.randint(key, x.shape, 1, count).astype(x.dtype)) % count

        return self._metropolis(name, apart, proposals, other)

    def _metropolis(self, name: str, apart: bool, proposals: int, propose_entries: Callable) -> Update:
        """Metropolis steps of a discrete site, by proposals for its entries (x, scale, key) -> x that are symmetric."""

        def log_density(x: jax.Array, values: Mapping, inputs: Mapping) -> jax.Array:
            fixed = {**values, name: x}
            inside = self._bound.simulate(fixed, inputs)[name]["fn"].support(x)
            if apart:
                return jnp.where(inside, _no_nan(self.local(name, fixed, inputs)), -jnp.inf)
            return jnp.where(jnp.all(inside), _no_nan(self.total(fixed, inputs)), -jnp.inf)

        def update(z: jax.Array, inputs: Mapping[str, Any], key: jax.Array, scale: jax.Array) -> jax.Array:
            values = self.values(z, inputs)
            x = values[name]
            spread = scale[self.where[name]].reshape(x.shape)

            def propose(i: jax.Array, x: jax.Array) -> jax.Array:
                step, accept, which = jax.random.split(jax.random.fold_in(key, i), 3)
                there = propose_entries(x, spread, step)
                if not apart:  # one entry at a time
                    one = jnp.arange(x.size).reshape(x.shape) == jax.random.randint(which, (), 0, x.size)
                    there = jnp.where(one, there, x)
                gain = log_density(there, values, inputs) - log_density(x, values, inputs)
                return jnp.where(jnp.log(jax.random.uniform(accept, gain.shape)) < gain, there, x)

            steps = proposals if apart else proposals * x.size
            x = lax.fori_loop(0, steps, propose, x)
            return z.at[self.where[name]].set(x.ravel().astype(z.dtype))

        return update

    def cut(self, name: str, points: jax.Array, values: Mapping, inputs: Mapping[str, Any]) -> jax.Array:
        """Whether the density is zero or no number at some of the points (n, ...) of a site, and is not at others."""
        there = jnp.isfinite(jax.vmap(lambda x: self.total({**values, name: x}, inputs))(points))
        return ~jnp.all(there) & (jnp.any(there) | jnp.isfinite(self.total(values, inputs)))

    def gradient(self, name: str, values: Mapping[str, jax.Array], inputs: Mapping[str, Any]) -> Callable:
        return jax.grad(lambda x: self.total({**values, name: x}, inputs))

    def _with(self, z: jax.Array, name: str, x: jax.Array, values: Mapping, inputs: Mapping) -> jax.Array:
        """z with this site at x; as it was where x is not a number, the law being improper there."""
        site = self._bound.simulate(values, inputs)[name]
        there = site_transform(site)._inverse(x).ravel()
        here = self.where[name]
        return z.at[here].set(jnp.where(jnp.all(jnp.isfinite(there)), there, z[here]))


def _no_nan(values: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def _reduced(terms: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Terms of a site summed to the shape of another that they may be about; zero where the shapes do not fit."""
    extra = terms.ndim - len(shape)
    if extra < 0:
        return jnp.zeros(shape)
    terms = terms.sum(axis=tuple(range(extra)))
    for axis, length in enumerate(shape):
        if length == 1:
            terms = terms.sum(axis=axis, keepdims=True)
        elif terms.shape[axis] != length:
            return jnp.zeros(shape)
    return terms
