"""Which levels may be new, and the law of their effects: found by looking at the model, and exported.

A new level is like those of training where nothing tells levels apart but the effects that they have, and where effects
are independent of one another given the other parameters, with the same law for every level. What a function does
cannot be read from its text, so this is looked at on draws and rows of training:

- with the effects of other levels exchanged for those of another draw, the outcome's law is the same;
- with levels renamed in rows and effects alike, it is the same;
- renamed, the effects have the same log density each, and one level's does not depend on another's effects.

Imports numpyro, so a loaded predictor never comes here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from probinfer.model.trace import is_factor, placeholder, pointwise_log_density, scan_aware
from probinfer.predict.levels import read_inputs
from probinfer.predict.program import Input, Population, Program

_LOOKS = 64  # draws and rows looked at in one call
_MOST_LEVELS = 1024  # that are looked at each
_RTOL = 1e-8
_WHOLE = -1  # instead of an axis: all entries of a site
_TOGETHER = 3  # inputs that pick from the same effects

Axes = dict[str, tuple[int, ...]]  # of a site: where its levels are


@dataclass(frozen=True)
class Asked:
    """The model as `outcome.py` runs it for one row.

    said      (draw, row) -> arrays that the outcome's law consists of; a draw has every latent site, a row every input
    simulate  `fix(site)` -> the trace for one row
    rows      the training rows, inputs by name
    """

    said: Callable[[Mapping, Mapping], Sequence[jax.Array]]
    simulate: Callable[[Callable[[Mapping], Any]], Mapping[str, Any]]
    rows: Mapping[str, np.ndarray]


class _Told(Exception):
    """Why the levels of an input may not be new."""


@dataclass(frozen=True)
class _Factor:
    """Inputs that pick from the same effects. axes: of each site that a level has an entry of. whole: sites of another
    grouping that all entries are drawn anew of, as the law of the effects depends on them through fixed data."""

    inputs: tuple[str, ...]
    axes: Axes
    whole: tuple[str, ...]


def population_of(
    asked: Asked, program: Program, latents: Mapping[str, np.ndarray], wanted: Sequence[str], platforms: Sequence[str]
) -> tuple[Population | None, dict[str, str]]:
    """How new levels of the `wanted` inputs are answered, and why those of others cannot be."""
    look = _Look(asked, program, latents)
    factors, refused = [], {}
    left = [entry for entry in program.inputs if entry.name in wanted]
    while left:
        entry = left.pop(0)
        try:
            factor = _factor(look, entry, [other for other in left if _range(other) == _range(entry)])
        except _Told as reason:
            refused[entry.name] = str(reason)
            continue
        factors.append(factor)
        left = [other for other in left if other.name not in factor.inputs]
    if not factors:
        return None, refused
    used, exported = _export(asked, program, latents, factors, platforms)
    return Population(
        levels=tuple(name for factor in factors for name in factor.inputs),
        together=tuple(number for number, factor in enumerate(factors) for _ in factor.inputs),
        sites=tuple(tuple(factor.axes) for factor in factors),
        refused=refused,
        draws={name: latents[name] for name in used if name not in program.draws},
        program=exported,
    ), refused


def _range(entry: Input) -> tuple[int | None, int | None]:
    return entry.low, entry.high


def _factor(look: "_Look", entry: Input, others: Sequence[Input]) -> _Factor:
    """The factor of an input, with those of the `others` that pick from the same effects."""
    if entry.low is None or entry.high is None:
        raise _Told("it picks no level: any number will do")
    if entry.shape:
        raise _Told("a row has several levels of it")
    size = entry.high - entry.low + 1
    if size < 2 or look.size < 2:
        raise _Told("there are no two levels, or no two draws, to compare")
    others = [other for other in others if not other.shape]
    why = (
        f"no parameter has an entry for each of its {size} levels that the level alone picks; it may select from fixed "
        "data, from sums over levels, or together with another input"
    )
    for more in (c for k in range(_TOGETHER) for c in combinations(others, k)):
        inputs = (entry.name, *(other.name for other in more))
        axes = look.picked(inputs, entry.low, size)
        if not axes:
            continue
        if size < len(inputs):
            raise _Told(f"{len(inputs)} inputs pick from {size} levels")
        if look.renamed(inputs, axes, entry.low, size):
            return _Factor(inputs, *look.law(axes, size))
        if not more:
            why = (
                f"its levels differ by more than {', '.join(axes)}: it selects from fixed data too, which new ones lack"
            )
    raise _Told(why)


class _Look:
    """The model's functions of many draws at once, and what they tell."""

    def __init__(self, asked: Asked, program: Program, latents: Mapping[str, np.ndarray]) -> None:
        self._program, self._latents = program, {name: np.asarray(v) for name, v in latents.items()}
        self._rows = asked.rows
        self._rng = np.random.default_rng(0)
        self.size = len(next(iter(self._latents.values())))
        self._said = jax.jit(jax.vmap(lambda draw, row: [jnp.ravel(a) for a in asked.said(draw, row)]))
        self._prior = jax.jit(jax.vmap(partial(_densities, asked)))

    # the outcome -----------------------------------------------------------------------------------------------------

    def picked(self, inputs: Sequence[str], low: int, size: int) -> Axes:
        """The axes of sites of which the outcome reads what these inputs pick and nothing else; none where one of them
        picks nothing."""
        found: Axes = {}
        picking: set[int] = set()
        draws, rows, levels = self._looks(inputs, low, size, _LOOKS)
        plain = self._said(draws, rows)
        own = np.zeros((_LOOKS, size), bool)
        for level in levels:
            np.put_along_axis(own, level[:, None], True, axis=1)
        for name in self._program.draws:
            for axis in np.flatnonzero(np.array(draws[name].shape[1:]) == size):
                changed = self._exchanged(draws, {name: (int(axis),)}, ~own)
                if not _same(self._said(changed, rows), plain):
                    continue
                for number, level in enumerate(levels):
                    here = self._exchanged(draws, {name: (int(axis),)}, np.arange(size) == level[:, None])
                    if not _same(self._said(here, rows), plain):
                        picking.add(number)
                        found[name] = tuple(sorted({*found.get(name, ()), int(axis)}))
        return found if len(picking) == len(inputs) else {}

    def renamed(self, inputs: Sequence[str], axes: Axes, low: int, size: int) -> bool:
        """Whether the outcome's law is the same with the levels renamed, in rows and draws alike."""
        for start in range(0, min(size, _MOST_LEVELS), _LOOKS):
            draws, rows, levels = self._looks(inputs, low, size, _LOOKS, start)
            names = self._names(size)
            moved = {**draws, **{name: _moved(draws[name], axes[name], names) for name in axes}}
            # the effect of level l is now at the place names[l]
            sent = {
                **rows,
                **{
                    name: low + np.take_along_axis(names, level[:, None], axis=1)[:, 0]
                    for name, level in zip(inputs, levels, strict=True)
                },
            }
            if not _same(self._said(moved, sent), self._said(draws, rows)):
                return False
        return True

    def _looks(
        self, inputs: Sequence[str], low: int, size: int, count: int, start: int = 0
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[np.ndarray]]:
        """Draws, rows, and the places that each of `inputs` picks in them: one level after the other from `start`, with
        all others at random."""
        draws = self._some(count)
        length = len(next(iter(self._rows.values())))
        rows = {name: v[self._rng.integers(0, length, count)].copy() for name, v in self._rows.items()}
        levels = [self._rng.integers(0, size, count) for _ in inputs]
        levels[0] = (start + np.arange(count)) % size
        for name, level in zip(inputs, levels, strict=True):
            rows[name] = (low + level).astype(self._rows[name].dtype)
        return draws, rows, levels

    def _some(self, count: int) -> dict[str, np.ndarray]:
        which = self._rng.integers(0, self.size, count)
        return {name: values[which] for name, values in self._latents.items()}

    def _names(self, size: int) -> np.ndarray:
        return np.argsort(self._rng.random((_LOOKS, size)), axis=1)

    def _exchanged(
        self, draws: Mapping[str, np.ndarray], axes: Mapping[str, tuple[int, ...]], places: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Draws with the effects at `places` (looks, size) along the axes exchanged for those of another draw."""
        other = self._some(_LOOKS)
        changed = dict(draws)
        for name, along in axes.items():
            mask = np.zeros(draws[name].shape, bool)
            for axis in along:
                mask |= _along(places, axis, draws[name].ndim)
            changed[name] = np.where(mask, other[name], draws[name])
        return changed

    # the law of the effects ------------------------------------------------------------------------------------------

    def law(self, axes: Axes, size: int) -> tuple[Axes, tuple[str, ...]]:
        """All sites with an entry for each level, those that the outcome does not read among them, and sites that are
        drawn anew as a whole. Raises _Told where effects have no law of their own that is the same for all levels."""
        draws = self._some(_LOOKS)
        while not self._alike(draws, axes, size):
            more = next(self._further(draws, axes, size), None)
            if more is None:
                whole = self._whole(draws, axes, size)
                break
            axes = {**axes, **more}
        else:
            whole = ()
        level = np.arange(_LOOKS) % size
        fixed = self._constant(draws, whole)
        changed = self._exchanged(fixed, axes, np.arange(size) != level[:, None])
        before, after = self._prior(fixed), self._prior(changed)
        for name, along in axes.items():  # the entries of this level are as they were
            if len(along) == 1 and not _same([_at(before[name], level, *along)], [_at(after[name], level, *along)]):
                raise _Told(f"the law of {name} for one level depends on the effects of others")
        everywhere = self._exchanged(draws, axes, np.ones((_LOOKS, size), bool))
        if not _same([self._prior(everywhere)[""]], [self._prior(draws)[""]]):
            raise _Told(f"a numpyro.factor of the model weighs {', '.join(axes)}, so a new level's effects have no law")
        return axes, whole

    def _alike(self, draws: Mapping[str, np.ndarray], axes: Axes, size: int, whole: Sequence[str] = ()) -> bool:
        """Whether each effect has the density, with levels renamed, that it had."""
        draws = self._constant(draws, whole)
        names = self._names(size)
        before = self._prior(draws)
        after = self._prior({**draws, **{name: _moved(draws[name], axes[name], names) for name in axes}})
        for name, along in axes.items():
            self._check_batch(name, along, before)
            if not _same([_moved(np.asarray(before[name]), along, names)], [after[name]]):
                return False
        return True

    def _check_batch(self, name: str, along: tuple[int, ...], densities: Mapping[str, Any]) -> None:
        if name not in densities:
            raise _Told(f"the law of {name} cannot be looked at")
        if any(axis >= np.ndim(densities[name]) - 1 for axis in along):
            raise _Told(
                f"{name} has one law over all levels together, such as a multivariate, zero-sum or random-walk law, "
                "which says nothing of one level more"
            )

    def _further(self, draws: Mapping[str, np.ndarray], axes: Axes, size: int) -> Iterator[Axes]:
        """Sites with an entry for each level on which the law of an effect depends: of its own level only."""
        level = np.arange(_LOOKS) % size
        own = np.arange(size) == level[:, None]
        before = self._prior(draws)
        for name, values in draws.items():
            for axis in np.flatnonzero(np.array(values.shape[1:]) == size):
                if name in axes:
                    continue
                further: Axes = {name: (int(axis),)}
                away, here = (self._prior(self._exchanged(draws, further, places)) for places in (~own, own))
                for site, along in axes.items():
                    same, other, changed = (_at(d[site], level, along[0]) for d in (before, away, here))
                    if _same([same], [other]) and not _same([same], [changed]):
                        yield further
                        break

    def _whole(self, draws: Mapping[str, np.ndarray], axes: Axes, size: int) -> tuple[str, ...]:
        """The sites of another grouping that make the laws of effects differ between levels."""
        groupings = [name for name, values in draws.items() if values.ndim > 1 and name not in axes]
        differ = ", ".join(axes)
        if not groupings or not self._alike(draws, axes, size, groupings):
            raise _Told(
                f"the law of {differ} differs between levels by fixed data, such as a predictor of the group, which a "
                "new level has not"
            )
        needed = [g for g in groupings if not self._alike(draws, axes, size, [o for o in groupings if o != g])]
        for name in needed:
            if name in self._program.draws:
                raise _Told(
                    f"the law of {differ} depends on {name} through fixed data, and rows bring which of its entries "
                    "they have: which one a new level belongs to is not known to the model"
                )
            if not self._alike(draws, {name: (0,)}, draws[name].shape[1]):
                raise _Told(
                    f"the law of {differ} depends on {name}, whose entries have no law that is the same for all"
                )
        return tuple(needed)

    def _constant(self, draws: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Draws where every entry of these sites is the first one."""
        return {**draws, **{name: np.broadcast_to(draws[name][:, :1], draws[name].shape) for name in names}}


def _densities(asked: Asked, draw: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Log density of each latent site, an entry for each element that is independent given the others; under "" that
    of all factors."""
    trace = asked.simulate(partial(_given, draw))
    found = {"": jnp.zeros(())}
    for name, site in trace.items():
        if site["type"] == "sample" and site["is_observed"] and is_factor(site):
            found[""] += jnp.sum(pointwise_log_density(site))
        elif name in draw:
            law, value = site["fn"], jnp.asarray(site["value"])
            while isinstance(law, dist.Independent):
                law = law.base_dist
            if value.shape == draw[name].shape:
                found[name] = jnp.broadcast_to(law.log_prob(value), value.shape[: value.ndim - law.event_dim])
    return found


def _given(draw: Mapping[str, Any], site: Mapping[str, Any]) -> Any:
    return scan_aware(site, site["fn"].shape(), draw[site["name"]]) if site["name"] in draw else placeholder(site)


# exporting -----------------------------------------------------------------------------------------------------------


def _export(
    asked: Asked,
    program: Program,
    latents: Mapping[str, np.ndarray],
    factors: Sequence[_Factor],
    platforms: Sequence[str],
) -> tuple[list[str], jax.export.Exported]:
    """The latent sites that are read, and the program of `Population`."""
    changing = tuple(n for n in program.draws if any(n in factor.axes for factor in factors))
    number_of = {name: number for number, name in enumerate(latents)}

    def renewed(draw: Mapping[str, Any], slots: jax.Array, words: jax.Array) -> dict[str, jax.Array]:
        def fix(site: Mapping[str, Any]) -> Any:
            name = site["name"]
            value = draw.get(name)
            if value is None:
                return _given(draw, site)
            for key, mask in _anew(name, value.shape, factors, slots, words):
                fresh = site["fn"].sample(jax.random.fold_in(key, number_of[name]))
                value = jnp.where(mask, jnp.asarray(fresh, value.dtype), value)
            return _given({name: value}, site)

        trace = asked.simulate(fix)
        return {name: jnp.asarray(trace[name]["value"]) for name in changing}

    levels = sum(len(factor.inputs) for factor in factors)
    first = {name: values[0] for name, values in latents.items()}
    jaxpr = jax.make_jaxpr(renewed)(first, jnp.zeros(levels, int), jnp.zeros((levels, 2), jnp.uint32))
    read = read_inputs(jaxpr.jaxpr)
    used = [name for number, name in enumerate(sorted(latents)) if number in read]
    kept = {name: first[name] for name in [*program.draws, *used]}
    idle = {name: jnp.asarray(value) for name, value in first.items() if name not in kept}
    one = jax.jit(lambda draw, slots, words: renewed({**idle, **draw}, slots, words), inline=True)
    (s,) = jax.export.symbolic_shape("s")
    function = jax.jit(jax.vmap(one, (0, None, 0)))
    exported = jax.export.export(function, platforms=tuple(platforms))(
        {name: jax.ShapeDtypeStruct((s, *value.shape), value.dtype) for name, value in kept.items()},
        jax.ShapeDtypeStruct((levels,), np.int64),
        jax.ShapeDtypeStruct((s, levels, 2), np.uint32),
    )
    return used, exported


def _anew(
    name: str, shape: tuple[int, ...], factors: Sequence[_Factor], slots: jax.Array, words: jax.Array
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The entries of a site that are drawn anew, those of each combination of new levels by a key of their own.

    The key is made of the words of these levels alone. So an effect is the same in every row that has its levels,
    whatever else is new there, and in every outcome that reads it.
    """
    places: list[tuple[int, list[tuple[int, jax.Array]]]] = []  # axis, and of its inputs which entries are theirs
    start = 0
    for factor in factors:
        numbers = range(start, start := start + len(factor.inputs))
        for axis in (*factor.axes.get(name, ()), *((_WHOLE,) if name in factor.whole else ())):
            own, taken = [], jnp.zeros((), bool)
            for number in numbers:
                at = slots[number] >= 0 if axis == _WHOLE else jnp.arange(shape[axis]) == slots[number]
                own.append((number, at & ~taken))
                taken = taken | at
            places.append((axis, own))
    places.sort(key=lambda place: place[0])  # whatever the order of an outcome's inputs
    for chosen in product(*([None, *own] for _, own in places)):
        key, mask = None, jnp.ones(shape, bool)
        for (axis, own), one in zip(places, chosen, strict=True):
            theirs = one[1] if one is not None else ~jnp.any(jnp.stack([at for _, at in own]), axis=0)
            mask &= theirs if axis == _WHOLE else theirs.reshape(-1, *[1] * (len(shape) - 1 - axis))
            if one is not None:
                word = words[one[0]]
                start_of = jax.random.wrap_key_data(word, impl="threefry2x32")
                key = start_of if key is None else jax.random.fold_in(jax.random.fold_in(key, word[0]), word[1])
                key = jax.random.fold_in(key, axis + 1)
        if key is not None:
            yield key, mask


# arrays --------------------------------------------------------------------------------------------------------------


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """(looks, size) as an array whose axis `axis` after the first is the second one."""
    return values.reshape(len(values), *[1] * axis, values.shape[1], *[1] * (ndim - 2 - axis))


def _at(values: Any, level: np.ndarray, axis: int) -> np.ndarray:
    """Of each look what is at its level of the axis."""
    values = np.asarray(values)
    return np.take_along_axis(values, level.reshape(-1, *[1] * (values.ndim - 1)), axis + 1)


def _moved(values: np.ndarray, axes: tuple[int, ...], names: np.ndarray) -> np.ndarray:
    """What was at place l of the axes at names[l], for each look."""
    back = np.argsort(names, axis=1)
    for axis in axes:
        values = np.take_along_axis(values, _along(back, axis, values.ndim), axis + 1)
    return values


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether arrays agree, but for rounding."""
    for a, b in zip(one, other, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = np.max(np.abs(a), initial=0.0, where=np.isfinite(a))
        if not np.allclose(a, b, rtol=_RTOL, atol=1e-11 * scale, equal_nan=True):
            return False
    return True
