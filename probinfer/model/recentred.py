"""A target in coordinates in which the latents of a hierarchy are centred, not centred, or anything in between."""

import copy
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.model.location_scale import LocationScale, location_scale
from probinfer.model.target import Seen, Target
from probinfer.model.trace import constrain_with_jacobian, placeholder, site_transform

_CENTRING = "centring of the latents"  # among the inputs of a program; no argument of a function has such a name
_MANY = 500  # points of one call of the program that moves them, at most
_CALL_BYTES = 32 * 2**20  # of its arguments and results


class Moved(NamedTuple):
    """Points (n, d) moved to the coordinates of another centring, and what is known of them.

    to: (n, d) in the other coordinates.
    gradient: (n, d) here, of the log density whose gradients in the other coordinates were given.
    surplus: (n,) log density here less that there.
    loc, log_scale: (n, d) of the entries that can be moved; 0 for others. loc counts `Recentred.share` of a centring.
    """

    to: Any
    gradient: Any
    surplus: Any
    loc: Any
    log_scale: Any


class Recentred(Target):
    """The law of a target in coordinates z that hang on a centring c (d,), each entry in [0, 1].

    A latent x whose law has a location or a scale that depends on other latents is, before any map to its support,

        x = loc + scale^(1 - c) (z - c loc)

    so that z has the same law but for its location c loc and its scale scale^c: c = 1 is the latent as the model has
    it (centred), c = 0 the noise that makes it (non-centred). Noise that the model says it multiplies by a scale
    (`UNIT_OF`) is the other way round: c = 0 is the effect. Where it multiplies by a root R, so that effects are
    correlated, and adds a mean b (`ROOT_OF`),

        z_j = R_jj^(1 - c_j) e_j + (1 - c_j) (b_j + sum over i < j of R_ji e_i)

    Other entries of c are 1 and stay so. c is among the `inputs` of a program, which serves all of them.

    Args:
        plain: the target; its coordinates are those of c = 1. It has a gradient and `hierarchical` sites.

    Papaspiliopoulos, Roberts & Sköld (2007), a general framework for the parametrization of hierarchical models.
    """

    def __init__(self, plain: Target) -> None:
        self.__dict__.update(plain.__dict__)
        self.__dict__.pop("inputs", None)
        self._plain = plain
        self.centring = np.ones(self.dim)
        self._many = int(np.clip(_CALL_BYTES // (7 * 8 * self.dim), 1, _MANY))
        self._noise: tuple[str, ...] = ()  # sites that are the noise itself where the model has them
        self.movable = np.isin(self.coordinate_names(), plain.hierarchical)
        kept = plain._results  # copies of a target have it in common, and nothing is traced anew for them
        if "recentred" not in kept:
            with self.precision():
                kept["recentred"] = self._trace(gradient=True), {}, self._noise
        self._all, self._results, self._noise = kept["recentred"]
        self._flipped = np.isin(self.coordinate_names(), self._noise).astype(float)
        self.fingerprint = self._all.fingerprint

    @functools.cached_property
    def inputs(self) -> dict[str, jax.Array]:
        """The data, and the centring."""
        with self.precision():
            return {**self._plain.inputs, _CENTRING: jnp.asarray(self.centring, self.dtype)}

    def centred(self, centring: np.ndarray) -> "Recentred":
        """The same law in the coordinates of another centring (d,)."""
        other = copy.copy(self)
        other.__dict__.pop("inputs", None)
        other.centring = np.where(self.movable, centring, 1.0)
        return other

    def share(self, centring: Any) -> Any:
        """The part of its location that each entry (d,) has at a centring: that, or of noise what is left of it."""
        return self._flipped + (1 - 2 * self._flipped) * centring

    def move(self, z: np.ndarray, centring: np.ndarray, gradients: np.ndarray | None = None) -> Moved:
        """Points (n, d) in the coordinates of another centring (d,), where the log density has these gradients."""
        gradients = np.zeros_like(z) if gradients is None else gradients
        program = self.compile_move()
        parts = []
        with self.precision():
            other = np.asarray(centring, self.dtype)
            for start in range(0, len(z), self._many):
                count = min(self._many, len(z) - start)
                rows = [_filled(of[start : start + count], self._many, self.dtype) for of in (z, gradients)]
                moved = program(*rows, other, np.int32(count), self.inputs)
                parts.append(jax.tree.map(lambda column, count=count: np.asarray(column)[:count], moved))
        return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)

    def compile_move(self) -> Any:
        """The program that `move` calls, made once; it serves every centring."""
        point, whole = jax.ShapeDtypeStruct((self.dim,), self.dtype), jax.ShapeDtypeStruct((), jnp.int32)
        points = jax.ShapeDtypeStruct((self._many, self.dim), self.dtype)
        return self.compile(f"move {self._many}", self._move_many, points, points, point, whole, self.inputs)

    def _move_many(
        self, z: jax.Array, gradients: jax.Array, other: jax.Array, count: jax.Array, inputs: Mapping[str, jax.Array]
    ) -> Moved:
        """Move the first `count` of so many points. On a CPU one after the other: what becomes of a point does not
        depend on its place."""
        if jax.default_backend() != "cpu":
            return jax.vmap(self._move, in_axes=(0, 0, None, None))(z, gradients, other, inputs)
        none = jnp.zeros_like(z)

        def step(i: jax.Array, table: Moved) -> Moved:
            moved = self._move(z[i], gradients[i], other, inputs)
            return jax.tree.map(lambda column, row: column.at[i].set(row), table, moved)

        return lax.fori_loop(0, count, step, Moved(none, none, none[:, 0], none, none))

    def _move(self, z: jax.Array, gradient: jax.Array, other: jax.Array, inputs: Mapping[str, jax.Array]) -> Moved:
        here = inputs[_CENTRING]

        def moved(z: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
            laws = self._locate(z, inputs)
            loc, log_scale = (jnp.where(other == here, 0, part) for part in laws)
            to = self.share(other) * loc + jnp.exp((other - here) * log_scale) * (z - self.share(here) * loc)
            return (to, jnp.sum((other - here) * log_scale)), laws

        (to, surplus), back, laws = jax.vjp(moved, z, has_aux=True)
        return Moved(to, *back((gradient, jnp.ones_like(surplus))), surplus, *laws)

    def _shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {**super()._shapes(), _CENTRING: jax.ShapeDtypeStruct((self.dim,), self.dtype)}

    def _simulate(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, Seen]:
        trace, laws = self._run(z, inputs)
        return self._shown(trace, z.dtype, {name: law.log_density for name, law in laws.items()})

    def _locate(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Locations and log scales (d,) at z; 0 for entries that have none."""
        _, laws = self._run(z, inputs)
        none = {name: jnp.zeros_like(value) for name, value in self.split(z).items()}
        locs = {**none, **{name: law.loc for name, law in laws.items()}}
        log_scales = {**none, **{name: law.log_scale for name, law in laws.items()}}
        loc, log_scale = (jnp.concatenate([jnp.ravel(part) for part in of.values()]) for of in (locs, log_scales))
        return loc, log_scale

    def _run(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[dict[str, Any], dict[str, "_Law"]]:
        """The trace of the model at z, and the laws of the sites that are moved."""
        data = {name: value for name, value in inputs.items() if name != _CENTRING}
        values, centring = self.split(z), self.split(inputs[_CENTRING])
        laws, noise = {}, []

        def fix(site: Mapping[str, Any]) -> Any:
            name = site["name"]
            if name not in values:
                return placeholder(site)
            if name not in self._plain.hierarchical:
                return constrain_with_jacobian(site, values[name])
            law = location_scale(site)
            assert law is not None
            noise.extend([name] if law.unit else [])
            laws[name], x = _recentre(values[name], centring[name], law)
            return site_transform(site)(x)

        trace = self.bound.simulate_by(fix, data)
        self._noise = tuple(noise)
        return trace, laws


class _Law(NamedTuple):
    """Location and log scale of a site as the model has it, and its log density at z, each of the site's shape."""

    loc: jax.Array
    log_scale: jax.Array
    log_density: jax.Array


def _recentre(z: jax.Array, c: jax.Array, law: LocationScale) -> tuple[_Law, jax.Array]:
    """The law at z, and the latent x before any map to its support, which for c = 1 is z exactly.

    The density is that of the noise, and not that of x times the Jacobian: where the scale is tiny, x - loc lost it.
    """
    loc, log_scale = (jnp.broadcast_to(part, z.shape) for part in (law.loc, jnp.log(law.scale)))
    if law.root is not None:
        return _mixed(z, c, law, loc, log_scale)
    if law.unit:
        x = jnp.where(c == 1, z, z * jnp.exp((1 - c) * log_scale))
        return _Law(loc, log_scale, jnp.asarray(law.noise.log_prob(x)) + (1 - c) * log_scale), x
    noise = (z - c * loc) * jnp.exp(-c * log_scale)
    x = jnp.where(c == 1, z, loc + law.scale * noise)
    return _Law(loc, log_scale, jnp.asarray(law.noise.log_prob(noise)) - c * log_scale), x


def _mixed(
    z: jax.Array, c: jax.Array, law: LocationScale, mean: jax.Array, log_scale: jax.Array
) -> tuple[_Law, jax.Array]:
    """As `_recentre`, of noise whose last axis is multiplied by a root: one entry of it after the other."""
    entries: list[jax.Array] = []
    locs: list[jax.Array] = []
    for j in range(z.shape[-1]):
        moved = 1 - c[..., j]
        loc = sum((law.root[j, i] * entries[i] for i in range(j)), start=mean[..., j])
        x = (z[..., j] - moved * loc) * jnp.exp(moved * log_scale[..., j])
        entries.append(jnp.where(moved == 0, z[..., j], x))
        locs.append(loc)
    x = jnp.stack(entries, axis=-1)
    log_density = jnp.asarray(law.noise.log_prob(x)) + (1 - c) * log_scale
    return _Law(jnp.stack(locs, axis=-1), log_scale, log_density), x


def _filled(rows: np.ndarray, many: int, dtype: np.dtype) -> np.ndarray:
    """The rows, and zeros, as a table of so many."""
    table = np.zeros((many, rows.shape[1]), dtype)
    table[: len(rows)] = rows
    return table
