"""A bound model as a log density on R^d, in one flat vector, with the way back to its named sites."""

import copy
import dataclasses
import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from probinfer.errors import NoGradient
from probinfer.model.forks import before_jax
from probinfer.model.location_scale import dependent_sites
from probinfer.model.loop_products import MOST_BYTES, turnable
from probinfer.model.loop_sums import with_loop_sums
from probinfer.model.model import BoundModel, Site
from probinfer.model.program_cache import kept_programs
from probinfer.model.shared_rows import SharedRows
from probinfer.model.trace import log_densities, pointwise_log_densities, user_error

_KEPT = 64  # programs of all targets in this process, each a few hundred kB
_programs: OrderedDict[tuple, Any] = OrderedDict()
_CHUNK_BYTES = 64 * 2**20  # of back-transformed draws computed at once: bounds memory, and is enough to keep XLA busy


class Target:
    """log p(z | data) on R^d, where z stacks the latent sites, each mapped to the real line by NumPyro's `biject_to`.

    Discrete sites stand there as they are, rounded to whole numbers, and the gradient in them is zero.

        log p(z) = sum over sites of log density at theta(z), plus log |d theta / d z|

    The functions of jax arrays (`log_density`, `value_and_grad`) take `inputs`, the data on the device, as an argument:
    so a compiled program serves other data of the same shapes. `fingerprint` names the program.

    Args:
        bound: a model bound to its data.
        float64: compute in double precision. Posteriors with Gaussian processes, differential equations or nearly
            collinear predictors need it.
        gradient: whether it will be wanted; without it, the density may have loops and conditions that have none.
        without: latent sites that are no coordinates of z; for a target that sums them out.
    """

    def __init__(
        self, bound: BoundModel, *, float64: bool = True, gradient: bool = True, without: tuple[str, ...] = ()
    ) -> None:
        self.bound = bound
        self.float64 = float64
        self.has_gradient = gradient
        self.latents = tuple(site for site in bound.latents if site.name not in without)
        self.deterministics, self.coords = bound.deterministics, bound.coords
        self._layout = _Layout({site.name: bound.unconstrained[site.name] for site in self.latents})
        self.dim = self._layout.dim
        self._shared: SharedRows | None = None
        self._results: dict[str, Any] = {}  # shapes of what a function of this target gives; its copies share them
        self._depending: tuple[str, ...] = ()  # sites that the last trace found to hang on others
        with self.precision():
            self.dtype = np.dtype(jnp.result_type(float))
            with user_error(bound.model.fn, {**bound.constants, **bound.arrays}):
                self._all = self._trace(gradient)
        self.hierarchical: tuple[str, ...] = self._depending if gradient else ()
        self.fingerprint = self._all.fingerprint

    @functools.cached_property
    def inputs(self) -> dict[str, jax.Array]:
        """The data on the device, or shared by several; placed there when first wanted."""
        return {name: self._placed(value) for name, value in self.bound.arrays.items()}

    def _placed(self, value: np.ndarray) -> jax.Array:
        with self.precision():
            return jnp.asarray(value) if self._shared is None else self._shared.place(value)

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """Those that share the rows of the data; empty where JAX's default device holds all of them."""
        return self._shared.devices if self._shared is not None else ()

    def over(self, devices: Sequence[jax.Device]) -> "Target":
        """The same target with the rows of its data shared by devices (see shared_rows.py): the same numbers up to
        rounding. Raises MethodError where there are no such rows, or they cannot be shared evenly."""
        with self.precision():
            point = jax.ShapeDtypeStruct((self.dim,), self.dtype)
            (_, seen), _ = jax.eval_shape(self._all, point, self._shapes())
        other = copy.copy(self)
        for cached in ("inputs", "_turned"):
            other.__dict__.pop(cached, None)
        other._shared = SharedRows(
            devices, {site.name: seen.pointwise[site.name].shape for site in self.bound.observed}
        )
        return other

    def precision(self) -> Any:
        """Context in which every use of this target's functions belongs: sets JAX's precision for this thread only."""
        before_jax()
        return jax.enable_x64(self.float64)

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Target":
        """The same program for other data of the same names, shapes and types, which nothing is traced anew for."""
        known = {name: (value.shape, value.dtype) for name, value in self.bound.arrays.items()}
        came = {name: (value.shape, value.dtype) for name, value in arrays.items()}
        assert came == known, f"{came} where the program wants {known}"
        other = copy.copy(self)
        other.bound = dataclasses.replace(self.bound, arrays=dict(arrays))
        for cached in ("inputs", "_turned"):
            other.__dict__.pop(cached, None)
        return other

    def log_density(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Log density at one point z (d,), up to the constant that the model leaves out."""
        return self._simulate(z, inputs)[0]

    def log_density_seen(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, "Seen"]:
        """Log density at one point z (d,), and what else the same run of the model shows."""
        return self._simulate(z, inputs)

    def value_and_grad(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Log density and its gradient at one point z (d,)."""
        (value, _), gradient = self._all(z, inputs)
        return value, gradient

    @property
    def loop_inputs(self) -> "LoopInputs":
        """What `value_and_grad_in_loop` takes: the inputs, and some of them a second time."""
        return LoopInputs(self.inputs, self._turned)

    @functools.cached_property
    def _turned(self) -> dict[str, jax.Array]:
        arrays = {name: self.bound.arrays[name] for name in self._all.turnable if self._in_loop}
        few = {name: values for name, values in arrays.items() if values.nbytes <= MOST_BYTES}
        return {name: self._placed(np.ascontiguousarray(values.T)) for name, values in few.items()}

    def value_and_grad_in_loop(self, z: jax.Array, given: "LoopInputs") -> tuple[jax.Array, jax.Array]:
        """As `value_and_grad`, for the body of a loop that handles one point at a time (see loop_sums.py)."""
        if not self._in_loop:
            return self.value_and_grad(z, given.inputs)
        (value, _), gradient = self._all.in_loop(z, given)
        return value, gradient

    @property
    def _in_loop(self) -> bool:
        return jax.default_backend() == "cpu" and self._shared is None

    def split(self, z: jax.Array) -> dict[str, jax.Array]:
        """One point (d,) by site, each of its unconstrained shape."""
        return self._layout.split(z)

    @property
    def layout_names(self) -> list[str]:
        """The latent sites in the order in which the flat vector holds them."""
        return list(self._layout.shapes)

    def constrain(self, positions: np.ndarray, *, deterministics: bool = True) -> dict[str, np.ndarray]:
        """Named values at many points: (..., d) to one (..., *shape) array for each latent and deterministic site.

        Computed in chunks of bounded size, so that memory beyond the result does not grow with the number of draws.
        """
        wanted = [site.name for site in (*self.latents, *(self.deterministics if deterministics else ()))]

        def at(z: jax.Array, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            (_, seen), _ = self._all(z, inputs)
            return {name: seen.values[name] for name in wanted}

        values = self._map(f"constrain {deterministics}", at, positions)
        return {name: values[name] for name in wanted}

    def named(self, position: np.ndarray) -> dict[str, np.ndarray]:
        """The continuous latent sites at one point (d,), by name."""
        return {name: values[0] for name, values in self.constrain(position[None], deterministics=False).items()}

    def pointwise_log_likelihood(self, positions: np.ndarray) -> dict[str, np.ndarray] | None:
        """log p(y_n | z) at many points, for each observed site: (..., d) to (..., *batch shape). None without one."""
        if not self.bound.observed:
            return None

        def at(z: jax.Array, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            (_, seen), _ = self._all(z, inputs)
            return seen.pointwise

        return self._map("log likelihood", at, positions)

    def site_log_densities(self, z: np.ndarray) -> dict[str, float]:
        """Log density of each site at one point, for telling which of them is not finite."""

        def at(z: jax.Array, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            (_, seen), _ = self._all(z, inputs)
            return seen.terms

        return {name: float(value) for name, value in self._map("sites", at, z).items()}

    def gradient_at(self, z: np.ndarray) -> np.ndarray:
        """Gradient of the log density at one point (d,)."""
        return self._map("gradient", lambda z, inputs: {"g": self.value_and_grad(z, inputs)[1]}, z)["g"]

    def compile(self, name: str, function: Callable, *shapes: Any) -> Any:
        """The executable of a function of this target for arguments of these shapes, made once in a process.

        `name` tells the functions of a target apart: what differs in two programs beyond the target must be in it.
        """
        key = (self.fingerprint, name, self._shared.name if self._shared is not None else jax.default_backend())
        if key not in _programs:
            shapes = self._shared.arguments(shapes) if self._shared is not None else shapes
            with self.precision(), kept_programs():
                _programs[key] = jax.jit(function).lower(*shapes).compile(compiler_options=self._options())
        _programs.move_to_end(key)
        while len(_programs) > _KEPT:
            _programs.popitem(last=False)
        return _programs[key]

    def coordinate_names(self) -> list[str]:
        """For each unconstrained coordinate, the site that it belongs to."""
        return [name for name, shape in self._layout.shapes.items() for _ in range(int(np.prod(shape)))]

    @property
    def observed_data(self) -> dict[str, np.ndarray]:
        """Observed values by site name, where the data hold them."""
        fed_by = {site.name: self.bound.observed_arguments[site.name] for site in self.bound.observed}
        return {name: self.bound.arrays[data] for name, data in fed_by.items() if data in self.bound.arrays}

    @property
    def constant_data(self) -> dict[str, np.ndarray]:
        """All other data by name."""
        outcomes = set(self.bound.observed_arguments.values())
        numbers = {k: np.asarray(v) for k, v in self.bound.constants.items() if v is not None}
        return {name: value for name, value in {**self.bound.arrays, **numbers}.items() if name not in outcomes}

    def dims_of(self, name: str) -> tuple[str, ...]:
        """Names of the axes of a site or of data; empty where they have none."""
        sites = (*self.latents, *self.deterministics, *self.bound.observed)
        return next((site.dims for site in sites if site.name == name), self.bound.model.dims.get(name, ()))

    def _simulate(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, "Seen"]:
        """Log density at z, and what the model says there."""
        trace = self.bound.simulate_unconstrained(self._layout.split(z), inputs)
        self._depending = dependent_sites(z, trace, [site.name for site in self.latents])
        return self._shown(trace, z.dtype)

    def _shown(
        self, trace: Mapping[str, Any], dtype: Any, known: Mapping[str, jax.Array] | None = None
    ) -> tuple[jax.Array, "Seen"]:
        """Log density of a trace of the model, and what it says; of some sites the log densities may be `known`."""
        known = known or {}
        pointwise = pointwise_log_densities({name: site for name, site in trace.items() if name not in known})
        pointwise |= known
        terms = log_densities(trace, pointwise)
        total = sum(terms.values(), start=jnp.zeros((), dtype)).astype(dtype)
        named = {site.name: trace[site.name]["value"] for site in (*self.latents, *self.deterministics)}
        observed = {site.name: pointwise[site.name] for site in self.bound.observed}
        return total, Seen(named, observed, terms)

    def _shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the inputs."""
        return {
            name: jax.ShapeDtypeStruct(value.shape, jax.dtypes.canonicalize_dtype(value.dtype))
            for name, value in self.bound.arrays.items()
        }

    def _trace(self, gradient: bool) -> "_Traced":
        point, inputs = jax.ShapeDtypeStruct((self.dim,), self.dtype), self._shapes()
        if not gradient:
            return _Traced(self._simulate_alone, point, inputs)
        try:
            return _Traced(jax.value_and_grad(self._simulate, has_aux=True), point, inputs)
        except ValueError as error:
            if "everse-mode differentiation" not in str(error):
                raise
            self._trace(gradient=False)  # raises its own error if there is no value either
            raise NoGradient(
                "The log density has a value but no gradient: it holds a loop whose length is not fixed, such as "
                "lax.while_loop. Use lax.scan or a loop of fixed length, or a method that needs no gradient, such as "
                "pi.Metropolis(), pi.Gibbs(), pi.Importance(proposal=...), pi.Rejection(log_bound=...)."
            ) from None

    def _simulate_alone(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[tuple, jax.Array]:
        return self._simulate(z, inputs), jnp.full_like(z, jnp.nan)

    def _map(self, name: str, function: Callable, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Apply a function of one point to many, compiled once, in chunks."""
        positions = np.asarray(positions)
        lead = positions.shape[:-1]
        flat = positions.reshape(math.prod(lead), self.dim)
        with self.precision():
            if name not in self._results:
                point = jax.ShapeDtypeStruct((self.dim,), self.dtype)
                self._results[name] = jax.eval_shape(function, point, self._shapes())
            shapes = self._results[name]
            per_point = 8 * max(1, sum(int(np.prod(s.shape)) for s in shapes.values()))
            chunk = max(1, min(len(flat), _CHUNK_BYTES // per_point))
            points = jax.ShapeDtypeStruct((chunk, self.dim), self.dtype)
            program = self.compile(f"{name} {chunk}", jax.vmap(function, in_axes=(0, None)), points, self.inputs)
            out = {key: np.empty((len(flat), *s.shape), s.dtype) for key, s in shapes.items()}
            for start in range(0, len(flat), chunk):
                part = flat[start : start + chunk]
                padded = np.concatenate([part, np.broadcast_to(part[:1], (chunk - len(part), self.dim))])
                computed = program(padded.astype(self.dtype), self.inputs)
                for key, values in computed.items():
                    out[key][start : start + len(part)] = np.asarray(values)[: len(part)]
        return {key: value.reshape((*lead, *value.shape[1:])) for key, value in out.items()}

    def _options(self) -> dict[str, str]:
        """On a CPU, XLA splits every sum into two levels, for the accuracy of long sums in single precision. In double
        precision that buys nothing, and the terms are computed anew for each of the sums they are in."""
        plain_sums = self.float64 and jax.default_backend() == "cpu"
        return {"xla_disable_hlo_passes": "tree_reduction_rewriter"} if plain_sums else {}


class LoopInputs(NamedTuple):
    """The data on the device; and again, transposed, tables that are multiplied by vectors (see loop_products.py)."""

    inputs: dict[str, jax.Array]
    turned: dict[str, jax.Array]


class Seen(NamedTuple):
    """What a run of the model shows besides its log density, each by site."""

    values: dict[str, jax.Array]
    pointwise: dict[str, jax.Array]
    terms: dict[str, jax.Array]


class _Traced:
    """The model, traced once: ((log density, what else it shows), gradient) as a function of (z, inputs).

    Every program of a target is made from it, so that the user's function runs once and not for each of them; what a
    program does not use, the compiler drops.
    """

    def __init__(self, function: Callable, z: jax.ShapeDtypeStruct, inputs: Mapping[str, Any]) -> None:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(z, inputs)
        self._run = jaxpr_as_fun(program)
        self._run_in_loop = with_loop_sums(program)
        self._places = {name: 1 + place for place, name in enumerate(sorted(inputs))}  # z is the first
        named = {place: name for name, place in self._places.items()}
        self.turnable = tuple(named[place] for place in turnable(program) if place in named)
        self._structure = jax.tree.structure(shapes)
        self.fingerprint = fingerprint_of(program)

    def __call__(self, z: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[tuple[jax.Array, Seen], jax.Array]:
        return jax.tree.unflatten(self._structure, self._run(z, *jax.tree.leaves(inputs)))

    def in_loop(self, z: jax.Array, given: LoopInputs) -> tuple[tuple[jax.Array, Seen], jax.Array]:
        """The same, for the body of a loop on a CPU."""
        turned = {self._places[name]: table for name, table in given.turned.items()}
        return jax.tree.unflatten(self._structure, self._run_in_loop(z, *jax.tree.leaves(given.inputs), turned=turned))


class _Layout:
    """Where each latent site lies in the flat vector."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.dim = sum(int(np.prod(shape)) for shape in shapes.values())

    def split(self, z: jax.Array) -> dict[str, jax.Array]:
        values, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            values[name] = z[start : start + size].reshape(shape)
            start += size
        return values


def fingerprint_of(program: Any) -> str:
    """Hash of a traced program: its operations and the values of its constants, but not its arguments."""
    digest = hashlib.sha256(str(program).encode())
    for constant in program.consts:
        digest.update(np.asarray(constant).tobytes())
    return digest.hexdigest()


__all__ = ["Seen", "Site", "Target"]
