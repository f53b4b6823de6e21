"""A NumPyro function and its data, traced abstractly into sites, shapes, dims and coordinates. Nothing is run here."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

from probinfer.errors import DataError, ModelError
from probinfer.model.data import check_data, entry_names
from probinfer.model.forks import before_jax
from probinfer.model.tables import as_table
from probinfer.model.trace import (
    VALUE_NEEDED,
    constrain_with_jacobian,
    is_discrete,
    is_factor,
    is_latent,
    placeholder,
    run_handlers,
    scan_aware,
    trace_index_bounds,
    unconstrained_shape,
    user_error,
)

if TYPE_CHECKING:
    from probinfer.model.pipeline.pipeline import FittedPipeline


class Site(NamedTuple):
    """One named variable of a model: its shape, its dims (names of the axes) and its dtype."""

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype


class Model:
    """A NumPyro model, unchanged, with names for its axes.

    Args:
        fn: a NumPyro function. Its keyword arguments are the data; sites given `obs=` are the outcomes.
        coords: labels of dims, for example `{"county": ["AITKIN", "ANOKA", ...]}`. Plates are dims of their own name.
        dims: names for axes that no plate names, for example `{"beta": ["predictor"]}`.

    Raises:
        ModelError: `fn` is not a function.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> def coin(y=None):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     with numpyro.plate("toss", 3):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> bound = Model(coin).bind({"y": np.array([1, 0, 1])})
    >>> [site.name for site in bound.latents], bound.observed[0].dims
    (['p'], ('toss',))
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if not callable(fn):
            formula = f" Of a formula it is made by pi.formula({fn!r})." if isinstance(fn, str) and "~" in fn else ""
            raise ModelError(
                f"model came as {type(fn).__name__}; wanted a NumPyro function whose keyword arguments are the data."
                f"{formula}"
            )
        self.fn = fn
        self.coords = {name: np.asarray(labels) for name, labels in (coords or {}).items()}
        self.dims = {name: tuple(names) for name, names in (dims or {}).items()}

    def __repr__(self) -> str:
        return f"Model({getattr(self.fn, '__name__', self.fn)!s})"

    def bind(self, data: Any = None) -> "BoundModel":
        """Check `data` (a mapping or a table) against the model and trace it.

        Raises DataError for data that do not fit the function's arguments, or whose shapes disagree inside it, and
        ModelError for a model that cannot be used (no latent site, a subsampling plate, a `numpyro.param` site).
        """
        data = as_table(data)
        self._check_names(entry_names(data))
        checked = check_data(data)
        try:
            return _bind(self, checked.arrays, checked.constants)
        except VALUE_NEEDED:
            # The function looks at the values of its data (np.unique(group), int(y.max()), ...): they become constants.
            return _bind(self, {}, {**checked.constants, **checked.arrays})

    def settle(self, data: Any) -> "Model":
        """The model as it is once it has seen data: itself, unless it has preprocessing that is fitted to them."""
        return self

    def with_order_of(self, data: Any) -> "Model":
        """The same model, told what the types of the data's columns say: itself, unless it has an outcome in order."""
        return self

    def take(self, data: Any) -> Any:
        """What the model knows of rows; of a model without preprocessing, the rows as they are."""
        return data

    def with_classes(self, outcome: str, labels: Sequence[str]) -> "Model":
        """The same model for rows in which not every class of an outcome may come, such as those of a fold: itself,
        unless it makes the classes of labels."""
        return self

    def _check_names(self, names: list[str]) -> None:
        try:
            parameters = inspect.signature(self.fn).parameters.values()
        except (TypeError, ValueError):
            return
        accepted = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        required = [p.name for p in parameters if p.name in accepted and p.default is p.empty]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        missing = [name for name in required if name not in names]
        unknown = [] if open_ended else [name for name in names if name not in accepted]
        if not missing and not unknown:
            return
        parts = []
        for name in unknown:
            close = difflib.get_close_matches(name, missing or accepted, n=1)
            parts.append(f"it has no argument {name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
        if missing:
            parts.append("data lack " + ", ".join(repr(name) for name in missing))
        raise DataError(
            f"The data do not fit the model {getattr(self.fn, '__name__', '')}({', '.join(accepted)}): "
            f"{'; '.join(parts)}. The keys of data are the model's arguments."
        )


class LogDensity(Model):
    """A log density written as a plain JAX function, made into a model.

    With `dim=d` the function takes one vector `x` on R^d: `fn(x, **data)`. With `shapes` it takes a dict of named
    arrays: `fn({"mu": ..., "tau": ...}, **data)`. `supports` gives the domain of those that are not real, as NumPyro
    constraints; the density is then with respect to the constrained value, and the Jacobian is added for you.

    Args:
        fn: log density up to a constant, written with `jax.numpy`.
        dim: length of the vector.
        shapes: shape of each named array; `()` for a scalar.
        supports: for example `{"tau": numpyro.distributions.constraints.positive}`.
        coords, dims: names of the axes, as for `Model`.

    Raises:
        ModelError: neither or both of `dim` and `shapes` are given, or `supports` names an unknown array.

    >>> target = LogDensity(lambda x: -0.5 * (x**2).sum(), dim=3)
    >>> target.bind().latents[0].shape
    (3,)
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        dim: int | None = None,
        *,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        supports: Mapping[str, Any] | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if (dim is None) == (shapes is None):
            raise ModelError(
                "LogDensity needs either dim=, the length of its vector, or shapes=, a shape for each named array; "
                f"came dim={dim!r}, shapes={shapes!r}."
            )
        if dim is not None and (not isinstance(dim, int) or dim < 1):
            raise ModelError(f"LogDensity: dim is {dim!r}; wanted a whole number, 1 or more.")
        named = dict(shapes) if shapes is not None else {"x": (dim,)}
        domains = dict(supports or {})
        unknown = sorted(set(domains) - set(named))
        if unknown:
            raise ModelError(f"LogDensity: supports names {unknown}, shapes has {sorted(named)}.")
        super().__init__(fn, coords=coords, dims=dims)

        def as_numpyro(**data: Any) -> None:
            values = {}
            for name, shape in named.items():
                support = domains.get(name, dist.constraints.real)
                batch = tuple(shape)[: len(shape) - support.event_dim]
                improper = dist.ImproperUniform(support, batch, tuple(shape)[len(batch) :])
                values[name] = numpyro.sample(name, improper)
            value = fn(values["x"] if dim is not None else values, **data)
            if jnp.shape(value) != ():
                raise ModelError(
                    f"The log density returned an array of shape {jnp.shape(value)}; wanted one number. "
                    "Sum over the observations."
                )
            numpyro.factor("log_density", value)

        self.fn = as_numpyro


@dataclass(frozen=True)
class BoundModel:
    """A model with its data, traced: what its sites are called, what shapes they have, what the axes mean.

    unconstrained: shapes of the latents on the real line, by site.
    improper: latents whose prior is flat, and has no integral: ImproperUniform, and those of a `LogDensity`.
    raw, pipeline: of a model with preprocessing, the rows as they came and the fitted steps.
    derived: arguments that the function makes of the others where they are None; here they are made beforehand, so that
        no gradient makes them again.
    """

    model: Model
    arrays: dict[str, np.ndarray]
    constants: dict[str, Any]
    latents: tuple[Site, ...]
    deterministics: tuple[Site, ...]
    observed: tuple[Site, ...]
    discrete: tuple[str, ...]
    coords: dict[str, np.ndarray]
    observed_arguments: dict[str, str | None]
    index_bounds: dict[str, tuple[int, int]]
    unconstrained: dict[str, tuple[int, ...]]
    raw: Mapping[str, np.ndarray] | None = None
    pipeline: "FittedPipeline | None" = None
    improper: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()

    @property
    def data(self) -> dict[str, Any]:
        """The data as the model can be bound to them again."""
        return dict(self.raw) if self.raw is not None else {**self.arrays, **self.constants}

    def simulate(
        self,
        values: Mapping[str, Any],
        arrays: Mapping[str, Any] | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The trace of the model with its latent sites fixed at the constrained `values`. Usable under jit and vmap.

        `arrays` and `constants` replace the data of the same kind. A site that is then neither fixed nor observed
        holds a placeholder, never a random draw; its distribution is `trace[name]["fn"]`. Deterministic sites are
        computed from the data given here.
        """

        def fix(site: Mapping[str, Any]) -> Any:
            if site["name"] in values:
                return scan_aware(site, site["fn"].shape(), values[site["name"]])
            return placeholder(site)

        return self._trace(fix, arrays, constants)

    def simulate_by(
        self,
        fix: Callable[[Mapping[str, Any]], Any],
        arrays: Mapping[str, Any] | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As `simulate`, with `fix(site)` giving the value of each unobserved site when its distribution is known."""
        return self._trace(fix, arrays, constants)

    def simulate_unconstrained(
        self, values: Mapping[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The trace at the unconstrained `values` of the latents; each transform adds its log Jacobian as a factor."""

        def fix(site: Mapping[str, Any]) -> Any:
            if site["name"] in values:
                return constrain_with_jacobian(site, values[site["name"]])
            return placeholder(site)

        return self._trace(fix, arrays, None)

    def index_bounds_of(
        self, arrays: Mapping[str, np.ndarray], constants: Mapping[str, Any]
    ) -> dict[str, tuple[int, int]]:
        """Valid range of every integer array that indexes something in the model, for other data than its own."""
        return trace_index_bounds(lambda named: self._trace(placeholder, named, constants), dict(arrays))

    def _trace(self, substitute_fn: Callable, arrays: Any, constants: Any) -> dict[str, Any]:
        data = {**(self.constants if constants is None else constants), **(self.arrays if arrays is None else arrays)}
        return run_handlers(self.model.fn, data, substitute_fn)


def _bind(model: Model, arrays: dict[str, np.ndarray], constants: dict[str, Any]) -> BoundModel:
    before_jax()
    seen: dict[str, Any] = {}
    unconstrained: dict[str, tuple[int, ...]] = {}
    fed_by: dict[str, str | None] = {}

    def run(named: dict[str, Any]) -> dict[str, Any]:
        seen.clear()
        trace = run_handlers(model.fn, {**constants, **named}, placeholder)
        for name, site in trace.items():
            seen[name] = site
            if is_latent(site):
                unconstrained[name] = unconstrained_shape(site)
            for argument, value in named.items():
                if site["type"] == "sample" and site["is_observed"] and site["value"] is value:
                    fed_by[name] = argument
        return trace

    with jax.enable_x64(True), user_error(model.fn, {**constants, **arrays}):
        bounds = trace_index_bounds(run, arrays)
    plates = _check_sites(model, seen)

    latent = [site for site in seen.values() if is_latent(site)]
    observed = [
        site for site in seen.values() if site["type"] == "sample" and site["is_observed"] and not is_factor(site)
    ]
    deterministic = [site for site in seen.values() if site["type"] == "deterministic"]
    coords = dict(model.coords)
    described = [
        tuple(_site(site, model, coords, plates) for site in group) for group in (latent, deterministic, observed)
    ]
    for site in observed:
        argument = fed_by.get(site["name"]) or _argument_by_name(model, site["name"], arrays)
        fed_by[site["name"]] = argument
        if argument in arrays:
            _check_outcome_shape(site, argument)
    _check_indices(arrays, bounds)
    return BoundModel(
        model=model,
        arrays=arrays,
        constants=constants,
        latents=described[0],
        deterministics=described[1],
        observed=described[2],
        discrete=tuple(site["name"] for site in latent if is_discrete(site)),
        coords=coords,
        observed_arguments=dict(fed_by),
        index_bounds=bounds,
        unconstrained=unconstrained,
        improper=tuple(site["name"] for site in latent if _has_no_prior(site["fn"])),
    )


def _has_no_prior(law: Any) -> bool:
    while not isinstance(law, dist.ImproperUniform) and hasattr(law, "base_dist"):
        law = law.base_dist
    return isinstance(law, dist.ImproperUniform)


def _argument_by_name(model: Model, site: str, arrays: Mapping[str, np.ndarray]) -> str | None:
    """The data behind a site whose value is not one of them as it came (`obs=jnp.log(y)`): of the same name, or the
    only one that the function can do without."""
    if site in arrays:
        return site
    parameters = inspect.signature(model.fn).parameters
    optional = [name for name in arrays if name in parameters and parameters[name].default is None]
    return optional[0] if len(optional) == 1 else None


def _check_sites(model: Model, seen: Mapping[str, Any]) -> dict[str, int]:
    """Refuse sites that no inference here can use; the sizes of the plates otherwise."""
    plates = {}
    for name, site in seen.items():
        if site["type"] == "plate":
            size, subsample = site["args"]
            if subsample is not None and subsample != size:
                raise ModelError(
                    f"plate {name!r} subsamples {subsample} of {size} rows; this needs all of them. "
                    "Drop subsample_size from the plate."
                )
            plates[name] = size
        elif site["type"] in ("param", "mutable"):
            raise ModelError(
                f"{name!r} is a numpyro.{site['type']} site, which has no prior. Make it a numpyro.sample site: "
                "ImproperUniform(support, (), ()) is the flat prior."
            )
    if not any(is_latent(site) for site in seen.values()):
        names = ", ".join(seen) or "none at all"
        raise ModelError(
            f"The model has no latent site (its sites: {names}): there is nothing to infer. "
            "Write numpyro.sample(name, prior) for what is unknown, and give obs= only to the outcome."
        )
    return plates


def _site(site: Mapping[str, Any], model: Model, coords: dict[str, np.ndarray], plates: Mapping[str, int]) -> Site:
    """Name the axes of a site: by the user, else by its plates, else as ArviZ does."""
    name, value = site["name"], site["value"]
    shape = tuple(jnp.shape(value))
    dims = [f"{name}_dim_{i}" for i in range(len(shape))]
    event = site["fn"].event_dim if site["type"] == "sample" else 0
    for frame in site["cond_indep_stack"]:
        axis = len(shape) - event + frame.dim
        if axis >= 0 and shape[axis] == plates.get(frame.name):
            dims[axis] = frame.name
    if name in model.dims:
        if len(model.dims[name]) > len(shape):
            raise ModelError(f"dims names {len(model.dims[name])} axes of {name!r}, which has shape {shape}.")
        dims[: len(model.dims[name])] = model.dims[name]
    for dim, size in zip(dims, shape, strict=True):
        if dim not in coords and dim in plates:
            coords[dim] = np.arange(size)
        if dim in coords and len(coords[dim]) != size:
            raise ModelError(
                f"coords has {len(coords[dim])} labels for {dim!r}, but {name!r} has {size} entries along it "
                f"(shape {shape})."
            )
    return Site(name, shape, tuple(dims), np.dtype(jnp.result_type(value)))


def _check_outcome_shape(site: Mapping[str, Any], argument: str) -> None:
    fn, shape = site["fn"], tuple(jnp.shape(site["value"]))
    batch = shape[: len(shape) - len(fn.event_shape)]
    if jnp.broadcast_shapes(tuple(fn.batch_shape), batch) != batch:
        raise DataError(
            f"The outcome {site['name']!r} (data {argument!r}) has shape {shape}, its distribution "
            f"{tuple(fn.shape())}: these broadcast to a larger table, in which each row would be compared with others "
            "than its own. Give both one entry for each observation."
        )


def _check_indices(arrays: Mapping[str, np.ndarray], bounds: Mapping[str, tuple[int, int]]) -> None:
    for name, (low, high) in bounds.items():
        values = arrays[name]
        outside = (values < low) | (values > high)
        if outside.any():
            first = tuple(int(i) for i in np.argwhere(outside)[0])
            raise DataError(
                f"{name} is an index, valid from {low} to {high}, but {int(outside.sum())} of {values.size} entries "
                f"lie outside, the first {name}{list(first)} = {values[first]}. Count levels from {low}, or enlarge "
                "what it indexes."
            )
