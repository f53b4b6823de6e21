"""Names, dimensions and labels of variables: what an array needs before it can join a tree. Imports no xarray.

ArviZ's rules: sample dimensions first; an axis without a name of its own is called `beta_dim_0`; every dimension has
coordinates. What NetCDF and xarray cannot hold is renamed here, once, for all groups.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probinfer.errors import ModelError

# Dimension names that ArviZ reads a meaning into: a plate of that name would be taken for chains or draws.
RESERVED = ("chain", "draw", "sample", "pred_id", "ci_bound")


@dataclass(frozen=True)
class Variable:
    """An array with names: `values` (*sample dims, *shape), `dims` and `coords` of shape only.

    name     as in the tree; differs from `site`, the name in the model, where the site's name holds a slash
    latent   a parameter of the model; False for what is computed from parameters (deterministic sites)
    """

    name: str
    site: str
    values: np.ndarray
    dims: tuple[str, ...]
    coords: tuple[np.ndarray, ...]
    latent: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return self.values.shape[self.values.ndim - len(self.dims) :]

    @property
    def entries(self) -> int:
        """Number of scalars in one draw."""
        return int(np.prod(self.shape, dtype=int))

    def label(self, entry: int) -> str:
        """Name of one scalar, counted in C order: `tau`, `alpha[county=HENNEPIN]`, `L[1, 0]`."""
        if not self.shape:
            return self.name
        index = np.unravel_index(entry, self.shape)
        parts = []
        for axis, (dim, coord, i) in enumerate(zip(self.dims, self.coords, index, strict=True)):
            value = _plain(coord[i])
            parts.append(value if dim == default_dim(self.name, axis) else f"{dim}={value}")
        return f"{self.name}[{', '.join(parts)}]"


def default_dim(name: str, axis: int) -> str:
    """ArviZ's name for an axis that was given none."""
    return f"{name}_dim_{axis}"


def tree_name(site: str) -> str:
    """A site's name in a tree. NumPyro's `scope` writes `block/alpha`; a slash is a path there, so it becomes a dot."""
    return site.replace("/", ".")


def lay_out(
    arrays: Mapping[str, np.ndarray],
    *,
    sample_dims: Sequence[str],
    dims_of: Callable[[str], Sequence[str | None]],
    coords: Mapping[str, np.ndarray],
    latents: Iterable[str] = (),
) -> list[Variable]:
    """Give the arrays of one group their names, dimensions and coordinates.

    arrays       site -> array (*sample dims, *shape)
    dims_of      names of the axes of shape, possibly too few or None
    coords       dimension -> labels; used where the length fits, else 0, 1, 2, …
    latents      the sites that are parameters

    A dimension that is called like a variable of the group, like a reserved dimension, or that occurs twice in one
    variable is renamed to `<dim>_dim` or `<dim>_2`, and one that would have two lengths in the group falls back to
    ArviZ's default name: all of these are legal in a model and impossible in a Dataset.
    """
    latents = frozenset(latents)
    names = {site: tree_name(site) for site in arrays}
    if len(set(names.values())) < len(names):
        twice = sorted(site for site in names if list(names.values()).count(names[site]) > 1)
        raise ModelError(
            f"the sites {', '.join(twice)} would have one name in the posterior, where a slash is written as a dot. "
            "Rename one of them."
        )
    taken = {*names.values(), *RESERVED}
    lengths: dict[str, int] = {}
    variables = []
    for site, values in arrays.items():
        values = np.asarray(values)
        dims: list[str] = []
        labels: list[np.ndarray] = []
        given = tuple(dims_of(site))
        for axis, length in enumerate(values.shape[len(sample_dims) :]):
            wanted = given[axis] if axis < len(given) else None
            dim = _free_name(wanted, taken, dims) if wanted else default_dim(names[site], axis)
            if lengths.get(dim, length) != length:
                dim = default_dim(names[site], axis)
            lengths[dim] = length
            dims.append(dim)
            label = _labels(coords[wanted]) if wanted is not None and wanted in coords else None
            labels.append(label if label is not None and label.shape == (length,) else np.arange(length))
        variables.append(Variable(names[site], site, values, tuple(dims), tuple(labels), site in latents))
    return variables


def _free_name(dim: str, taken: set[str], used: list[str]) -> str:
    name = tree_name(dim)
    if name in taken:
        name += "_dim"
    count = 2
    unique = name
    while unique in used:
        unique, count = f"{name}_{count}", count + 1
    return unique


def _labels(values: np.ndarray) -> np.ndarray:
    """Labels in a type that a file can hold: text stays text, mixed objects become text."""
    values = np.asarray(values)
    return values.astype(str) if values.dtype.kind in "OT" else values


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
