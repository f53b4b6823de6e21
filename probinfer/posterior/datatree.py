"""Draws become a tree, once: an xarray.DataTree by the schema of ArviZ 1.x, with its provenance.

https://python.arviz.org/en/latest/schema/schema.html. Written out here rather than through arviz_base because sites,
dimensions and attributes need care that its converter has no place for; `az.summary` and the rest work on the result.
"""

import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.posterior.evidence import Evidence, evidence_of_draws
from probinfer.posterior.layout import Variable, lay_out

if TYPE_CHECKING:
    import xarray as xr

    from probinfer.inference.draws import Draws
    from probinfer.model.target import Target

# Largest number of pointwise log likelihoods (draws x observations) that a tree carries. They are doubles: 2e7 are
# 160 MB in memory and on disk, and a second or two of computing. LOO needs them; nothing else does.
MAX_LOG_LIKELIHOODS = 20_000_000

# Version of the layout that `Posterior.save` writes; raised when an older probinfer would misread it.
FORMAT = 1


def to_datatree(draws: "Draws", target: "Target", attrs: Mapping[str, Any]) -> "xr.DataTree":
    """The tree of a run.

    draws    Draws: positions (chain, draw, dim) or (sample, dim), statistics, how the run went
    target   what the draws are from: constrains positions, names dimensions, knows the data
    attrs    further provenance: seed, data_hash, versions, model_fingerprint, …; anything but text and numbers is
             written as JSON. What is here wins over what the draws say. A method whose draws are independent says
             how good they are: `exact=True`, or `pareto_khat=<number>`.

    Groups: posterior (parameters, then deterministic sites; the attribute `kind` tells which), sample_stats,
    log_likelihood (one variable for each observed site; left out beyond MAX_LOG_LIKELIHOODS, and then the attribute
    `log_likelihood` of the tree says so), observed_data, constant_data. A group without variables is left out.
    """
    attrs = run_attrs(draws, attrs)
    return build_tree(evidence_of_draws(draws, target, attrs), draws, target)


def build_tree(evidence: Evidence, draws: "Draws", target: "Target") -> "xr.DataTree":
    """`to_datatree` for draws that have been given their names already."""
    import xarray as xr

    root = {
        **_schema_attrs(draws.sample_dims, str(evidence.attrs["created_at"])),
        "probinfer_format": FORMAT,
        **evidence.attrs,
    }
    groups = {
        "posterior": list(evidence.variables),
        "sample_stats": _arrays(draws.stats, draws.sample_dims),
    }
    observations = _observations(target)
    if draws.summaries is not None:
        root["log_likelihood"] = "left out: the draws are kept as summaries only"
    elif observations * int(np.prod(draws.positions.shape[:-1])) <= MAX_LOG_LIKELIHOODS:
        groups["log_likelihood"] = lay_out(
            target.pointwise_log_likelihood(draws.positions) or {},
            sample_dims=draws.sample_dims,
            dims_of=target.dims_of,
            coords=target.coords,
        )
    else:
        root["log_likelihood"] = (
            f"left out: {observations} observations for each draw are more than {MAX_LOG_LIKELIHOODS} numbers"
        )
    groups["observed_data"] = _data(target.observed_data, target.dims_of, target.coords)
    named = target.bound.model.dims if target.bound is not None else {}
    groups["constant_data"] = _data(target.constant_data, lambda name: named.get(name, ()), target.coords)

    tree = {"/": xr.Dataset(attrs=root)}
    for name, variables in groups.items():
        if variables:
            dims = () if name.endswith("_data") else draws.sample_dims
            tree[name] = _dataset(variables, dims, kinds=name == "posterior", created=str(root["created_at"]))
    for name, further in draws.groups.items():
        tree[name] = xr.Dataset(dict(further))
    return xr.DataTree.from_dict(tree)


def run_attrs(draws: "Draws", attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run, as text and numbers: all that NetCDF can hold in an attribute. None is left out."""
    known = {
        "method": draws.method,
        "settings": dict(draws.settings),
        "outcome": draws.outcome,
        "seconds": {stage: float(spent) for stage, spent in draws.seconds.items()},
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
    }
    return {name: _attribute(value) for name, value in {**known, **attrs}.items() if value is not None}


@functools.cache
def _version() -> str:
    try:
        return metadata.version("probinfer")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _schema_attrs(sample_dims: tuple[str, ...], created: str) -> dict[str, Any]:
    library = _version()
    return {
        "created_at": created,
        "creation_library": "probinfer",
        "creation_library_version": library,
        "creation_library_language": "Python",
        "inference_library": "probinfer",
        "inference_library_version": library,
        **({"sample_dims": list(sample_dims)} if sample_dims else {}),
    }


def _attribute(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    return json.dumps(value, default=_in_json)


def _in_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value.value if isinstance(value, Enum) else repr(value)


def _observations(target: "Target") -> int:
    """Numbers observed, over all observed sites; at least as many as there are pointwise log likelihoods."""
    if target.bound is None:
        return sum(np.size(values) for values in target.observed_data.values())
    return sum(int(np.prod(site.shape, dtype=int)) for site in target.bound.observed)


def _data(
    data: Mapping[str, Any], dims_of: Callable[[str], Sequence[str]], coords: Mapping[str, np.ndarray]
) -> list[Variable]:
    return lay_out(
        {name: np.asarray(values) for name, values in data.items() if values is not None},
        sample_dims=(),
        dims_of=dims_of,
        coords=coords,
    )


def _arrays(stats: Mapping[str, np.ndarray], sample_dims: tuple[str, ...]) -> list[Variable]:
    return lay_out(stats, sample_dims=sample_dims, dims_of=lambda _: (), coords={})


def _dataset(variables: list[Variable], sample_dims: tuple[str, ...], *, kinds: bool, created: str) -> "xr.Dataset":
    import xarray as xr

    arrays, coords = {}, {}
    for variable in variables:
        about = {"site": variable.site} if variable.site != variable.name else {}
        if kinds:
            about["kind"] = "latent" if variable.latent else "deterministic"
        arrays[variable.name] = xr.Variable((*sample_dims, *variable.dims), variable.values, about)
        coords |= dict(zip(variable.dims, variable.coords, strict=True))
        lengths = variable.values.shape[: len(sample_dims)]
        coords |= {dim: np.arange(length) for dim, length in zip(sample_dims, lengths, strict=True)}
    return xr.Dataset(arrays, coords, _schema_attrs(sample_dims, created))
