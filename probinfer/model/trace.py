"""Running a NumPyro function under handlers: placeholders, transforms, log densities, errors. No data checks here."""

import contextlib
import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import AffineTransform, ComposeTransform, biject_to

from probinfer.errors import DataError, ModelError, ProbinferError
from probinfer.model.index_bounds import index_bounds

Site = Mapping[str, Any]

# What JAX raises when a function asks for the values of its data while it is traced.
VALUE_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


# What `infer` of a latent site calls the unit of its unconstrained coordinates: (middle, size), so that the point z
# stands for middle + size * z on the real line. Samplers begin within ±2 of zero and take steps of about one; numbers
# of the size 1e-6 or 1e9 are out of their reach otherwise.
UNITS = "units"

# NumPyro keeps one stack of handlers for all threads: two models running at once would see each other's sites.
one_model_at_a_time = threading.RLock()


def run_handlers(fn: Callable, data: Mapping[str, Any], substitute_fn: Callable[[Site], Any]) -> dict[str, Any]:
    """One run of a NumPyro function, with `substitute_fn` deciding the value of each unobserved site."""
    with one_model_at_a_time, handlers.seed(rng_seed=0), handlers.substitute(substitute_fn=substitute_fn):
        return handlers.trace(fn).get_trace(**data)


def log_densities(trace: Mapping[str, Any], pointwise: Mapping[str, jax.Array] | None = None) -> dict[str, jax.Array]:
    """Log density of every sample site of a trace, summed over its entries; Jacobian factors are among them.

    `pointwise`: what `pointwise_log_densities` gives, where that is wanted as well.
    """
    totals = {}
    for name, values in (pointwise_log_densities(trace) if pointwise is None else pointwise).items():
        scale = trace[name]["scale"]
        totals[name] = jnp.sum(values) if scale is None else jnp.sum(values) * scale
    return totals


def pointwise_log_densities(trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Log density of every sample site, one entry for each element of its batch shape."""
    return {name: pointwise_log_density(site) for name, site in trace.items() if site["type"] == "sample"}


def pointwise_log_density(site: Site) -> jax.Array:
    """Log density of one sample site, one entry for each element of its batch shape."""
    intermediates = site["intermediates"]
    # a number of NumPy would be compared with traced bounds of the support by NumPy
    return site["fn"].log_prob(jnp.asarray(site["value"]), *([intermediates] if intermediates else []))


def is_latent(site: Site) -> bool:
    """A sample site whose value is unknown."""
    return site["type"] == "sample" and not site["is_observed"]


def is_factor(site: Site) -> bool:
    """A numpyro.factor, or another observed site that is no data."""
    return isinstance(site["fn"], dist.Unit) or bool(site["infer"].get("is_auxiliary", False))


def is_discrete(site: Site) -> bool:
    """A latent site on a countable set."""
    return bool(site["fn"].is_discrete)


def placeholder(site: Site) -> Any:
    """A value inside the support of a latent site, at no cost: the image of zero. None leaves other sites alone."""
    if not is_latent(site):
        return None
    fn = site["fn"]
    if is_discrete(site):
        return jnp.zeros(fn.shape(), dtype=jnp.result_type(int))
    transform = site_transform(site)
    return transform(jnp.zeros(transform.inverse_shape(fn.shape())))


def unconstrained_shape(site: Site) -> tuple[int, ...]:
    """Shape of a latent site in unconstrained space; a simplex of three entries has two."""
    if is_discrete(site):
        return tuple(jnp.shape(site["value"]))
    return tuple(site_transform(site).inverse_shape(jnp.shape(site["value"])))


def constrain_with_jacobian(site: Site, unconstrained: Any) -> Any:
    """The site's value at an unconstrained point; log |d value / d point| is added to the model as a factor.

    Goes inside the model because a support may depend on other sites, and because numpyro's scan hides its sites.
    """
    fn = site["fn"]
    if is_discrete(site):
        return jnp.rint(scan_aware(site, fn.shape(), unconstrained)).astype(jnp.result_type(int))
    transform = site_transform(site)
    z = scan_aware(site, transform.inverse_shape(fn.shape()), unconstrained)
    value = transform(z)
    if fn.support is dist.constraints.real and UNITS not in site["infer"]:
        return value
    log_jacobian = transform.log_abs_det_jacobian(z, value)
    surplus = jnp.ndim(log_jacobian) - (jnp.ndim(value) - len(fn.event_shape))
    if surplus > 0:
        log_jacobian = jnp.sum(log_jacobian, axis=tuple(range(-surplus, 0)))
    numpyro.factor(jacobian_name(site["name"]), log_jacobian)
    return value


def jacobian_name(site: str) -> str:
    """The factor with the log Jacobian of a site's transform, in a trace at unconstrained values."""
    return f"_{site}_log_jacobian"


def scan_aware(site: Site, shape: tuple[int, ...], value: Any) -> Any:
    """Inside numpyro's scan the substituted value carries the time axis: take the step at hand."""
    step = site["infer"].get("_scan_current_index", None)
    return value[step] if step is not None and jnp.ndim(value) > len(shape) else value


def trace_index_bounds(run: Callable[[dict], dict], arrays: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Valid range of every integer array that indexes something in a traced model (see index_bounds.py)."""

    def everything(named: dict[str, Any]) -> Any:
        trace = run(named)
        computed = [site["value"] for site in trace.values() if site["type"] in ("sample", "deterministic")]
        return computed, log_densities(trace)

    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in arrays.items()}
    return index_bounds(jax.make_jaxpr(everything)(shapes), sorted(arrays))


@contextlib.contextmanager
def user_error(fn: Callable, data: Mapping[str, Any]) -> Generator[None]:
    """Turn what the user's function raises into one sentence with its line and the shapes of the data."""
    try:
        yield
    except (ProbinferError, *VALUE_NEEDED):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises is told in its own terms
        shapes = {name: jnp.shape(value) for name, value in data.items()}
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        if empty := [name for name, shape in shapes.items() if 0 in shape]:
            raise DataError(
                f"There are no rows in {', '.join(empty)}, and this model needs some. Shapes of the data: {listed}."
            ) from None
        lengths = {shape[0] for shape in shapes.values() if shape}
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        text = f"The model raised {reason.rstrip('.')}{_line_of(error, fn)}. Shapes of the data: {listed or 'no data'}."
        if len(lengths) > 1 and isinstance(error, TypeError | ValueError):
            raise DataError(
                f"{text} Row counts differ ({', '.join(map(str, sorted(lengths)))}): entries that describe the same "
                "observations need one row for each. Were missing values dropped in one only?"
            ) from None
        raise ModelError(text) from None


def _line_of(error: BaseException, fn: Callable) -> str:
    """Where in the user's own file it happened: the last frame of the file that holds the function."""
    code = getattr(fn, "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    return f" at line {frames[-1].lineno}, `{frames[-1].line}`" if frames else ""


def site_transform(site: Site) -> Any:
    """The map from the unconstrained coordinates of a latent site to its value: NumPyro's, after the site's units."""
    units = site.get("infer", {}).get(UNITS)
    to_support = _bijection(site)
    return to_support if units is None else ComposeTransform([AffineTransform(*units), to_support])


def _bijection(site: Site) -> Any:
    try:
        return biject_to(site["fn"].support)
    except NotImplementedError:
        raise ModelError(
            f"Site {site['name']!r} ({type(site['fn']).__name__}) has the support {site['fn'].support}, which has no "
            "transform to the real line. Reparameterise it."
        ) from None
