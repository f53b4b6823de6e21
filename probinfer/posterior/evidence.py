"""What a diagnosis looks at: named draws, sampler statistics, provenance. Made from fresh draws or from a stored tree.

Fresh draws need no xarray to be judged: importing it takes longer than many a run, and the verdict comes first.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import ArtifactError
from probinfer.inference.convergence import Convergence, convergence_of_blocks
from probinfer.posterior.layout import Variable, lay_out

if TYPE_CHECKING:
    import xarray as xr

    from probinfer.inference.draws import Draws
    from probinfer.model.target import Target

CHAINS = ("chain", "draw")
SAMPLE = ("sample",)

# Deterministic sites are judged along with the parameters, unless a draw holds more numbers than this: a model that
# records the mean of each of 100,000 rows would be diagnosed for minutes, and they are functions of parameters which
# are judged anyway.
MAX_DETERMINISTIC_ENTRIES = 2_000


# Parameters named in a finding; the table has the rest.
NAMED = 3


def listed(words: Sequence[str], count: int) -> str:
    """The first few of `count` words, and how many more there are."""
    shown = ", ".join(words[:NAMED])
    return shown if count <= NAMED else f"{shown} and {count - NAMED} more"


@dataclass(frozen=True)
class Evidence:
    """Everything that bears on the verdict.

    variables     parameters, then deterministic sites; values (chain, draw, *shape) or, for a method without chains,
                  (sample, *shape)
    sample_dims   ("chain", "draw") or ("sample",)
    stats         sampler statistics by ArviZ's names, each over sample_dims
    attrs         provenance as it stands in a tree: text and numbers
    """

    variables: tuple[Variable, ...]
    sample_dims: tuple[str, ...]
    stats: Mapping[str, np.ndarray]
    attrs: Mapping[str, Any]
    offsets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *(variable.entries for variable in self.variables)])
        object.__setattr__(self, "offsets", ends)

    @property
    def chained(self) -> bool:
        """The draws form Markov chains; otherwise they are independent of one another."""
        return self.sample_dims == CHAINS

    @property
    def entries(self) -> int:
        """Number of scalar parameters, over all variables."""
        return int(self.offsets[-1])

    @property
    def chains(self) -> int:
        """Number of chains; 1 for independent draws."""
        return self.variables[0].values.shape[0] if self.chained and self.variables else 1

    @property
    def superchains(self) -> int:
        """Groups of chains from one starting point each; 0 where every chain has its own."""
        return int(self.attrs.get("superchains", 0))

    @property
    def draws(self) -> int:
        """Draws per chain."""
        return self.variables[0].values.shape[len(self.sample_dims) - 1] if self.variables else 0

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings."""
        return json.loads(self.attrs.get("settings", "{}"))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent in each stage, and perhaps `total`."""
        return json.loads(self.attrs.get("seconds", "{}"))

    def numbers_of(self, name: str) -> np.ndarray:
        """An attribute that is a list of numbers; empty where there is none."""
        return np.array(json.loads(str(self.attrs.get(name, "[]"))), float)

    def of(self, variables: Sequence[Variable]) -> "Evidence":
        """The same run, looked at in some of its variables only."""
        return dataclasses.replace(self, variables=tuple(variables))

    def judged(self) -> "Evidence":
        """The part that a verdict rests on: all parameters, and the deterministic sites if they are few numbers."""
        extra = sum(variable.entries for variable in self.variables if not variable.latent)
        return self.of([v for v in self.variables if v.latent or extra <= MAX_DETERMINISTIC_ENTRIES])

    def label(self, entry: int) -> str:
        """Name of a scalar parameter, such as `alpha[county=HENNEPIN]`."""
        variable, within = self._locate(entry)
        return self.variables[variable].label(within)

    def names(self, entries: Sequence[int] | np.ndarray) -> str:
        """Labels of the first few scalars, and how many more there are."""
        return listed([self.label(int(entry)) for entry in entries[:NAMED]], len(entries))

    def variable_of(self, entry: int) -> Variable:
        """The variable a scalar belongs to."""
        return self.variables[self._locate(entry)[0]]

    def block(self, start: int, stop: int) -> np.ndarray:
        """Draws of the scalars start, …, stop - 1 as one array (stop - start, chains, draws)."""
        out = np.empty((stop - start, self.chains, self.draws))
        low = start
        while low < stop:
            which, within = self._locate(low)
            variable = self.variables[which]
            high = min(stop, low + variable.entries - within)
            flat = variable.values.reshape(self.chains, self.draws, variable.entries)
            out[low - start : high - start] = np.moveaxis(flat[:, :, within : within + high - low], -1, 0)
            low = high
        return out

    def convergence(self) -> Convergence:
        """Convergence statistics of every scalar."""
        kinds = [v.values.dtype for v in self.variables if v.values.dtype.kind == "f"]
        precision = max((float(np.finfo(kind).eps) for kind in kinds), default=float(np.finfo(float).eps))
        return convergence_of_blocks(
            self.block,
            self.entries,
            independent=not self.chained,
            superchains=self.superchains,
            precision=precision,
        )

    def _locate(self, entry: int) -> tuple[int, int]:
        variable = int(np.searchsorted(self.offsets, entry, side="right")) - 1
        return variable, entry - int(self.offsets[variable])


def evidence_of_draws(
    draws: "Draws", target: "Target", attrs: Mapping[str, Any], *, deterministics: bool = True
) -> Evidence:
    """Evidence from a run, with or without its deterministic sites. `attrs` are those a tree of the run would have."""
    if draws.summaries is not None:
        named = lay_out(draws.summaries, sample_dims=draws.sample_dims, dims_of=lambda _: (), coords={})
        return Evidence(tuple(named), tuple(draws.sample_dims), draws.stats, attrs)
    variables = lay_out(
        target.constrain(draws.positions, deterministics=deterministics),
        sample_dims=draws.sample_dims,
        dims_of=target.dims_of,
        coords=target.coords,
        latents=[site.name for site in target.latents],
    )
    return Evidence(tuple(variables), tuple(draws.sample_dims), draws.stats, attrs)


def judged_of_draws(draws: "Draws", target: "Target", attrs: Mapping[str, Any]) -> Evidence:
    """What the verdict on a run rests on, without computing anything else."""
    extra = sum(int(np.prod(site.shape, dtype=int)) for site in target.deterministics)
    return evidence_of_draws(draws, target, attrs, deterministics=extra <= MAX_DETERMINISTIC_ENTRIES)


def evidence_of_tree(tree: "xr.DataTree") -> Evidence:
    """Evidence from a tree of ArviZ's schema, ours or not."""
    if "posterior" not in tree.children:
        raise ArtifactError(
            f"the tree has no group 'posterior', only {', '.join(tree.children) or 'no groups at all'}: "
            "there are no draws to diagnose."
        )
    posterior = tree["posterior"].to_dataset()
    sample_dims = CHAINS if set(CHAINS) <= set(posterior.dims) else SAMPLE
    if not set(sample_dims) <= set(posterior.dims):
        raise ArtifactError(
            f"the group 'posterior' has the dimensions {', '.join(map(str, posterior.dims))}; "
            "draws need ('chain', 'draw') or ('sample',)."
        )
    variables = [_variable(array.transpose(*sample_dims, ...)) for array in posterior.data_vars.values()]
    stats = {}
    if "sample_stats" in tree.children:
        for name, array in tree["sample_stats"].to_dataset().data_vars.items():
            if set(array.dims) == set(sample_dims):
                stats[str(name)] = array.transpose(*sample_dims).to_numpy()
    return Evidence(tuple(variables), sample_dims, stats, {str(k): v for k, v in tree.attrs.items()})


def _variable(array: "xr.DataArray") -> Variable:
    """A variable of a tree, its sample dimensions leading."""
    dims = tuple(str(dim) for dim in array.dims if dim not in (*CHAINS, *SAMPLE))
    coords = tuple(array.coords[dim].to_numpy() if dim in array.coords else np.arange(array.sizes[dim]) for dim in dims)
    name, attrs = str(array.name), array.attrs
    latent = attrs.get("kind", "latent") == "latent"
    return Variable(name, str(attrs.get("site", name)), array.to_numpy(), dims, coords, latent)
