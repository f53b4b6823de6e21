"""Discrete sites summed out of a model one after the other: what depends on what, in which order, at what cost.

With the terms t of a log density (one number for each entry of each site), summing out a site z whose entries no term
sees two of leaves

    L_e = log Σ_k exp Σ_{t that depend on z_e} t(z_e = k)

for each entry e; then the next site is summed out of L and the terms that are left. As no term sees two entries, all
entries may be set to k at once, and that costs one run of the model for each k, whatever the number of entries. Axes
along which entries do meet in a term are summed over all combinations of their values; but where an entry meets none
but the next one, even entries at one value and odd ones at another show all there is to know: chain.py.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.inference.exact import chain
from probinfer.inference.exact.chain import log_sum_exp
from probinfer.inference.exact.dependence import data_values, dependence
from probinfer.inference.exact.few import Few
from probinfer.inference.exact.rules import Along, Dependence
from probinfer.inference.exact.short_axes import evaluate
from probinfer.inference.latent_sites import describe
from probinfer.model.target import Target
from probinfer.model.trace import is_discrete, jacobian_name, pointwise_log_densities

MOST_STATES = 1024  # joint states of entries that depend on one another
MOST_CELLS = 20_000_000  # numbers in an array of all states of all entries: 160 MB
_MOST_TRIES = 30  # sites looked at in other orders, where entries meet in the first
_PROBES, _SPREAD = 8, 2.0  # random points at which it is seen whether states have probability zero
_ZERO = -1e30  # log densities below count as those of an impossible state
_NOTHING = -800.0  # log of a share that is zero in double precision

_IN_TIME = (
    "States that follow one another in time are summed where each meets the one before it alone, in numpyro's scan "
    "(docs/exact.md shows it), or drawn with pi.StateSpace."
)

Named = Mapping[str, jax.Array]
Terms = Callable[[Named, Named, Named], dict[str, jax.Array]]  # (continuous unconstrained, discrete, data) -> by site


class CannotSum(Exception):
    """Why the discrete sites of a model cannot be summed out, in a sentence."""


class Step(NamedTuple):
    """One site summed out.

    choices     values or combinations of values (c, *shape), axes whose entries are apart having the size one
    free        those axes
    along       the axis along which entries meet their neighbours alone: the choices are then alternating states
    places      the terms that depend on the site, and how their axes go along with its axes
    careful     some states have probability zero somewhere: their gradients may not be numbers
    """

    name: str
    shape: tuple[int, ...]
    values: int
    choices: np.ndarray
    free: tuple[int, ...]
    places: Mapping[str, Mapping[int, Along]]
    along: int | None = None
    careful: bool = False

    @property
    def meeting(self) -> tuple[int, ...]:
        """Axes along which entries meet in a term."""
        return tuple(axis for axis, size in enumerate(self.shape) if size > 1 and axis not in self.told)

    @property
    def told(self) -> tuple[int, ...]:
        """Axes of which it is told which entries a term depends on: those that are apart, and then that of a chain."""
        return self.free if self.along is None else (*self.free, self.along)

    @property
    def words(self) -> str:
        """What is summed, for the report."""
        apart = math.prod(self.shape[axis] for axis in self.free)
        joint = f"{self.values} values"
        if self.along is not None:
            joint = f"{joint} at each of {self.shape[self.along]} steps of a chain"
            return f"{self.name}: {joint}" + (f", {apart} chains" if apart > 1 else "")
        if len(self.choices) > self.values:
            joint = f"{len(self.choices)} combinations of {self.values} values"
        return f"{self.name}: {joint}" + (f" for each of {apart} entries" if apart > 1 else "")


class _Order(NamedTuple):
    """A way of summing all sites out. states: the most that are looked at jointly."""

    steps: list[Step]
    levels: list[Terms]
    states: float


def eliminate(target: Target, *, prior: bool = False) -> tuple[list[Step], list[Terms]]:
    """The steps in their order, and the terms before each of them and after the last.

    prior: of the latent sites alone, without outcomes and factors.

    Raises CannotSum for sites with vectors for values or values without end, and where too many states would have to be
    summed together.
    """
    values, tries = values_of(target), iter(range(_MOST_TRIES))
    refusals: list[CannotSum] = []

    def orders(steps: list[Step], levels: list[Terms], left: list[str], weight: dict[str, float]) -> Iterator[_Order]:
        if not left:
            yield _Order(steps, levels, max(weight.values()))
            return
        seen = _dependences(target, levels[-1], left)
        options = [_step(target, name, values[name], seen) for name in reversed(left)]
        # first the sites whose entries are apart, and of these the one sampled last: it may tie those before it
        for step, states in sorted(options, key=lambda option: option[1] if option[0].meeting else 0):
            if next(tries, None) is None:
                return
            joint = states * max((weight.get(name, 1) for name in step.places), default=1)
            try:
                _check_size(step, joint)
            except CannotSum as refusal:
                refusals.append(refusal)
                continue
            step = step._replace(choices=_combinations(step, values[step.name]))
            others = [name for name in left if name != step.name]
            yield from orders([*steps, step], [*levels, _after(step, levels[-1])], others, {**weight, step.name: joint})

    best = None
    for order in orders([], [_base(target, prior)], list(target.bound.discrete), {}):
        best = order if best is None or order.states < best.states else best
        if not any(step.meeting for step in order.steps):
            break
    if best is None:
        raise refusals[0]
    return _with_care(target, best.steps, best.levels, values)


# the terms of a model ------------------------------------------------------------------------------------------------


def _base(target: Target, prior: bool = False) -> Terms:
    """The log densities of all sites, traced once. Arrays of discrete values may have the size one along an axis."""
    bound = target.bound
    own = {site.name for site in target.latents} | {jacobian_name(site.name) for site in target.latents}

    def terms(u: Named, z: Named, inputs: Named) -> dict[str, jax.Array]:
        trace = bound.simulate_unconstrained({**u, **z}, inputs)
        found = {}
        for name, values in pointwise_log_densities(trace).items():
            site = trace[name]
            bounded = site["is_observed"] or is_discrete(site)  # others are where their transform put them
            inside = _inside(site["fn"], site["value"]) if bounded else None
            values = values if inside is None else jnp.where(inside, values, -jnp.inf)
            if name in own or not prior:
                found[name] = values if site["scale"] is None else values * site["scale"]
        return found

    arguments = _shapes(target)
    with target.precision():
        program, shapes = jax.make_jaxpr(terms, return_shape=True)(*arguments)
    structure = jax.tree.structure(shapes)
    return lambda *given: jax.tree.unflatten(structure, evaluate(program, jax.tree.leaves(given)))


def _shapes(target: Target) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The arguments of the terms, as shapes and types."""
    discrete = target.bound.discrete
    with target.precision():
        whole = jax.eval_shape(target.split, jax.ShapeDtypeStruct((target.dim,), target.dtype))
        kind = jnp.result_type(int)
        u = {name: value for name, value in whole.items() if name not in discrete}
        z = {name: jax.ShapeDtypeStruct(whole[name].shape, kind) for name in discrete}
        return u, z, jax.eval_shape(lambda x: x, target.inputs)


def _inside(fn: Any, value: Any) -> jax.Array | None:
    """Whether a value is in the support, where that is bounded and NumPyro's validation, which looks, is off."""
    mask, base = None, fn
    while hasattr(base, "base_dist") and type(base).__name__ in _WRAPPERS:
        if type(base).__name__ == "MaskedDistribution":
            if base is not fn:
                return None
            mask = base._mask
        base = base.base_dist
    support = getattr(fn, "support", None)
    if getattr(base, "_validate_args", False) or support is None:
        return None
    if type(support).__name__.lstrip("_") in _UNBOUNDED or type(base).__name__ == "Unit":
        return None
    if type(getattr(support, "base_constraint", support)).__name__.lstrip("_") in _UNBOUNDED:
        return None
    inside = support(value)
    return inside if mask is None else inside | ~jnp.asarray(mask, bool)


_WRAPPERS = {"Independent", "ExpandedDistribution", "MaskedDistribution"}
_UNBOUNDED = {"Real", "RealVector", "RealMatrix"}


def values_of(target: Target) -> dict[str, np.ndarray]:
    """The values that each discrete site may have: of all entries together, where they differ."""
    found = {}
    for name, about in describe(target).items():
        if name not in target.bound.discrete:
            continue
        if about.vectors:
            raise CannotSum(f"{name} ({about.law}) has vectors for values.")
        values = about.values
        if values is None and (bounds := bounds_of(target, name)) is not None:
            values = values_within(bounds)
        if values is None:
            raise CannotSum(
                f"the values of {name} ({about.law}) are without end, more than 1000, or not known before other sites "
                "have theirs."
            )
        found[name] = values.astype(int)
    return found


def bounds_of(target: Target, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The least and the greatest value of each entry of a discrete site, if data alone determine them, and if they are
    no more than 1000 in all."""

    def bounds(inputs: Named) -> list[Any]:
        support = target.bound.simulate({}, inputs)[name]["fn"].support
        ends = [getattr(support, f"{end}_bound", None) for end in ("lower", "upper")]
        return [jnp.asarray(end) for end in ends] if None not in ends else []

    def from_parameters(u: Named, z: Named, inputs: Named) -> list[Any]:
        support = target.bound.simulate_unconstrained({**u, **z}, inputs)[name]["fn"].support
        return [jnp.asarray(getattr(support, f"{end}_bound")) for end in ("lower", "upper")]

    with target.precision():
        if not jax.eval_shape(bounds, target.inputs):
            return None
        program = jax.make_jaxpr(from_parameters)(*_shapes(target))
        low, high = data_values(program, _data_only(target))
    if low is None or high is None or np.max(high) - np.min(low) >= 1000:
        return None
    shape = next(site.shape for site in target.latents if site.name == name)
    return np.broadcast_to(np.asarray(low, int), shape), np.broadcast_to(np.asarray(high, int), shape)


def values_within(bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The values of all entries together, from `bounds_of`."""
    least, greatest = bounds
    return np.arange(least.min(), greatest.max() + 1)


def _data_only(target: Target) -> list[Any]:
    u, z, inputs = _shapes(target)
    return [*[None] * (len(u) + len(z)), *(np.asarray(target.inputs[name]) for name in sorted(inputs))]


# what depends on what ------------------------------------------------------------------------------------------------


def dependences(target: Target) -> dict[str, Dependence]:
    """For each term of a model, which discrete sites it depends on, and how."""
    return _dependences(target, _base(target), list(target.bound.discrete))


def _dependences(target: Target, terms: Terms, left: list[str]) -> dict[str, Dependence]:
    u, z, inputs = _shapes(target)
    z = {name: z[name] for name in left}
    with target.precision():
        program, shapes = jax.make_jaxpr(terms, return_shape=True)(u, z, inputs)
        data = [np.asarray(target.inputs[name]) for name in sorted(inputs)]
        found = dependence(program, [*[None] * len(u), *sorted(z), *data])
    return dict(zip(sorted(shapes), found, strict=True))


def _step(target: Target, name: str, values: np.ndarray, seen: Mapping[str, Dependence]) -> tuple[Step, float]:
    """How a site would be summed out now, and the number of its joint states."""
    places = {term: depends[name] for term, depends in seen.items() if name in depends}
    shape = next(site.shape for site in target.latents if site.name == name)
    free: list[int] = []
    for axis, size in enumerate(shape):
        if size > 1 and all(axis in place and not place[axis].several for place in places.values()):
            taken = [(place[axis].axis, {place[other].axis for other in free}) for place in places.values()]
            if not any(here in others for here, others in taken):  # as of z[i, i]
                free.append(axis)
    step = Step(name, shape, len(values), np.empty(0), tuple(free), places)
    if len(step.meeting) == 1 and _in_chain(step, step.meeting[0]):
        return step._replace(along=step.meeting[0]), float(len(values)) ** 2
    entries = math.prod(size for axis, size in enumerate(shape) if axis not in free)
    return step, float(len(values)) ** entries if entries * math.log(len(values)) < 700 else math.inf


def _in_chain(step: Step, axis: int) -> bool:
    """Whether entries meet their neighbours alone along an axis, in every term."""
    for place in step.places.values():
        if axis not in place or place[axis].axis in {place[other].axis for other in step.free}:
            return False
        index = place[axis].index
        if index is not None and index.ndim == 2 and not chain.neighbours(index):
            return False
    return True


def _check_size(step: Step, states: float) -> None:
    meeting = step.meeting
    if states > MOST_STATES:
        entries = math.prod(step.shape[axis] for axis in meeting)
        if meeting:
            where = [term for term, place in step.places.items() if any(axis not in place for axis in meeting)]
            shown = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
            raise CannotSum(
                f"entries of {step.name} (shape {step.shape}, {step.values} values each) depend on one another in "
                f"{shown}, so that {step.values}**{entries} joint states would have to be summed; at most "
                f"{MOST_STATES} are. {_IN_TIME}"
            )
        raise CannotSum(
            f"{step.name} ({step.values} values) depends on other discrete sites, so that {states:.0f} joint states "
            f"would have to be summed; at most {MOST_STATES} are. {_IN_TIME}"
        )
    cells = states * math.prod(step.shape[axis] for axis in step.told)
    if cells > MOST_CELLS:
        raise CannotSum(
            f"{step.name} has {states:.0f} states for each of {math.prod(step.shape)} entries, {cells:.2g} numbers "
            f"at once; at most {MOST_CELLS:.2g} are computed."
        )


def _combinations(step: Step, values: np.ndarray) -> np.ndarray:
    if step.along is not None:
        return chain.alternating(values, step.shape, step.along)
    sizes = [1 if axis in step.free else size for axis, size in enumerate(step.shape)]
    rows = list(itertools.product(values.tolist(), repeat=math.prod(sizes)))
    return np.array(rows, int).reshape(-1, *sizes)


def own_rows(steps: list[Step], outcomes: Mapping[str, tuple[int, ...]], discrete: tuple[str, ...]) -> dict[str, str]:
    """Outcomes of which every entry has discrete sites of its own, with the term that is left of it in the end: then
    that is the outcome's log density given the continuous sites. outcomes: their shapes."""
    holds: dict[str, set[str]] = {}  # the terms of the model that are in each term that is left
    apart: dict[str, bool] = {}
    for step in steps:
        own = {axis: Along(axis) for axis, size in enumerate(step.shape) if size > 1}
        inside: set[str] = set()
        whole = not step.meeting and step.along is None
        for name, place in step.places.items():
            inside |= holds.pop(name, {name})
            same = set(own) == set(place) & set(own) and all(own[axis].same(place[axis]) for axis in own)
            whole &= same and outcomes.get(name, step.shape) == step.shape and apart.pop(name, True)
        holds[step.name], apart[step.name] = inside, whole
    found = {}
    for term, inside in holds.items():
        seen = [name for name in inside if name not in discrete]
        if apart[term] and len(seen) == 1 and seen[0] in outcomes:
            found[seen[0]] = term
    return found


# the sum itself ------------------------------------------------------------------------------------------------------


def _own(step: Step, terms: Named) -> dict[str, jax.Array]:
    """The terms that depend on a site, each summed over what its entries have no part in: axes that are apart, and
    then that of a chain."""
    found = {}
    for name, place in step.places.items():
        value, axes = jnp.asarray(terms[name]), [place[axis].axis for axis in step.told]
        value = jnp.sum(value, axis=tuple(i for i in range(value.ndim) if i not in axes))
        found[name] = jnp.transpose(value, [sorted(axes).index(axis) for axis in axes])
    return found


def _by_entry(step: Step, own: Named) -> jax.Array:
    """Those terms (c, …) for all choices, added up for each entry that is apart: (c, *sizes of the free axes)."""
    total: Any = jnp.zeros(())
    for name, value in own.items():
        total = total + _at_entries(step, name, value)
    return jnp.broadcast_to(total, (len(step.choices), *(step.shape[axis] for axis in step.free)))


def _at_entries(step: Step, name: str, value: jax.Array) -> jax.Array:
    """A term (c, …) with its axes after the first those of the site's entries that are apart."""
    for at, axis in enumerate(step.free, start=1):
        index = step.places[name][axis].index
        if index is not None:  # an entry that depends on none adds the same in every state, wherever it is put
            rows = jnp.moveaxis(value, at, 0)
            sums = jax.ops.segment_sum(rows, jnp.asarray(np.maximum(index, 0)), num_segments=step.shape[axis])
            value = jnp.moveaxis(sums, 0, at)
    return value


def _potentials(step: Step, own: Named, alike: Named) -> chain.Potentials:
    """Of a chain: from its terms at alternating states (c, …), and at states that are all alike (values, …), which is
    enough for terms that see one entry at a time."""
    assert step.along is not None
    single, pair = [], []
    for name, place in step.places.items():
        index, several = place[step.along].index, place[step.along].several
        value = _at_entries(step, name, own[name] if several else alike[name])
        if index is not None and several:
            found = chain.potentials(value, index, step.shape[step.along])
            single, pair = [*single, found.single], [*pair, found.pair]
        else:
            single.append(chain.single(value, index, step.shape[step.along]))
    return chain.Potentials(sum(single[1:], single[0]), sum(pair[1:], pair[0]))


def _values(step: Step) -> jax.Array:
    """The values of an entry of a chain."""
    return jnp.asarray(step.choices.reshape(step.values, step.values, 2)[:, 0, 0])


def scores(step: Step, before: Terms, u: Named, z: Named, inputs: Named) -> tuple[Any, dict[str, jax.Array]]:
    """Log density of each choice for each entry that is apart (c, *free), or the potentials of a chain; and the terms
    that do not depend on the site."""

    def at(choice: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        terms = before(u, {**z, step.name: choice}, inputs)
        return _own(step, terms), {name: term for name, term in terms.items() if name not in step.places}

    choices = jnp.asarray(step.choices)
    if step.along is not None:
        along, parity = step.along, np.arange(step.shape[step.along]) % 2
        own, rest = jax.vmap(lambda choice: at(Few(choice, parity, along)), out_axes=(0, None))(choices)
        alike, _ = jax.vmap(at, out_axes=(0, None))(_values(step).reshape(-1, *[1] * len(step.shape)))
        found = _potentials(step, own, alike)
        return jax.tree.map(_or_nothing, found) if step.careful else found, rest
    if not step.careful:
        own, rest = jax.vmap(at, out_axes=(0, None))(choices)
        return _by_entry(step, own), rest

    # A state of probability zero adds nothing to the sum, but the gradient there may be no number, and zero times that
    # is none either. So its place is taken by the likeliest state, and its share is set to zero afterwards.
    first = lax.stop_gradient(_zeros_first(step, before, u, z, inputs))
    top = jnp.max(first, axis=0)
    possible = ~(first - jnp.where(jnp.isfinite(top), top, 0.0) < _NOTHING)
    best = entries_of(step, jnp.argmax(jnp.where(jnp.isnan(first), -jnp.inf, first), axis=0))
    wide = [1 if axis not in step.free else size for axis, size in enumerate(step.shape)]
    own, rest = jax.vmap(lambda choice, here: at(jnp.where(here.reshape(wide), choice, best)), out_axes=(0, None))(
        choices, possible
    )
    return jnp.where(possible, _by_entry(step, own), -jnp.inf), rest


def _or_nothing(logs: jax.Array) -> jax.Array:
    return jnp.where(logs > _ZERO, logs, -jnp.inf)


def _zeros_first(step: Step, before: Terms, u: Named, z: Named, inputs: Named) -> jax.Array:
    """The log densities of all choices, minus infinity where one of the terms is, whatever the others are."""

    def at(choice: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        terms = before(u, {**z, step.name: choice}, inputs)
        zero = {name: jnp.where(jnp.asarray(terms[name]) < _ZERO, 1.0, 0.0) for name in step.places}
        return _own(step, terms), _own(step, zero)

    own, zero = jax.vmap(at)(jnp.asarray(step.choices))
    return jnp.where(_by_entry(step, zero) > 0, -jnp.inf, _by_entry(step, own))


def drawn(step: Step, key: jax.Array, found: Any) -> jax.Array:
    """The site's values, drawn from their law given what `scores` found."""
    if step.along is None:
        return entries_of(step, chain.pick(key, found))
    picked = chain.draw(key, found)  # (steps, *free)
    order = (step.along, *step.free)
    sizes = [size if axis in order else 1 for axis, size in enumerate(step.shape)]
    return jnp.reshape(jnp.transpose(_values(step)[picked], np.argsort(order).tolist()), sizes)


def entries_of(step: Step, picked: jax.Array) -> jax.Array:
    """The site's values where each entry that is apart has the choice of this number: picked (*free) -> (*shape)."""
    joint = tuple(axis for axis in range(len(step.shape)) if axis not in step.free)
    flat = jnp.asarray(step.choices).reshape(len(step.choices), *(step.choices.shape[1 + axis] for axis in joint))
    taken = flat[picked]  # (*free, *joint)
    order = (*step.free, *joint)
    return jnp.transpose(taken, [order.index(axis) for axis in range(len(step.shape))])


def _after(step: Step, before: Terms) -> Terms:
    def terms(u: Named, z: Named, inputs: Named) -> dict[str, jax.Array]:
        found, rest = scores(step, before, u, z, inputs)
        return {**rest, step.name: log_sum_exp(found) if step.along is None else chain.total(found)}

    return terms


def _with_care(
    target: Target, steps: list[Step], levels: list[Terms], values: Mapping[str, np.ndarray]
) -> tuple[list[Step], list[Terms]]:
    """The same steps, those with states of probability zero marked as such, by what is seen at random points."""
    u, z, _ = _shapes(target)
    generator = np.random.default_rng(0)

    def look(u: Named, z: Named, inputs: Named) -> jax.Array:
        seen = []
        for i, step in enumerate(steps):
            rest = {name: z[name] for name in z if name not in [done.name for done in steps[: i + 1]]}
            found, _ = scores(step, levels[i], u, rest, inputs)
            seen.append(jnp.all(jnp.stack([jnp.all(jnp.isfinite(x) & (x > _ZERO)) for x in jax.tree.leaves(found)])))
        return jnp.stack(seen)

    sound = np.ones(len(steps), bool)
    with target.precision():
        program = jax.jit(look)
        for _ in range(_PROBES):
            point = {
                name: generator.uniform(-_SPREAD, _SPREAD, value.shape).astype(value.dtype) for name, value in u.items()
            }
            states = {name: generator.choice(values[name], size=value.shape) for name, value in z.items()}
            sound &= np.asarray(program(point, states, target.inputs))
    if sound.all():
        return steps, levels
    steps = [step._replace(careful=not good) for step, good in zip(steps, sound, strict=True)]
    levels = levels[:1]
    for step in steps:
        levels.append(_after(step, levels[-1]))
    return steps, levels
