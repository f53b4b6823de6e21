"""The law of new levels in an artifact: written as a program and draws, checked when it is read. Imports jax."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from probinfer.predict.program import Population, Program

_FILE = "population"


def pack(
    population: Population, keep: Callable[[str, bytes], str], stored: Callable[[np.ndarray], bytes]
) -> dict[str, Any]:
    """What the manifest says of it. keep: takes the name and content of a file, and says what it is called; arrays are
    written as `stored` makes them."""
    places = {
        name: keep(f"{_FILE}-{number}.npy", stored(values))
        for number, (name, values) in enumerate(population.draws.items())
    }
    program = keep(f"{_FILE}.jaxexport", bytes(population.program.serialize()))
    return {
        "levels": list(population.levels), "together": list(population.together),
        "sites": [list(names) for names in population.sites], "refused": dict(population.refused),
        "draws": places, "program": program,
    }  # fmt: skip


def names(words: Any) -> list[str]:
    """The files that the manifest's words name."""
    return [*words["draws"].values(), words["program"]] if words else []


def unpack(words: Mapping[str, Any], draws: Mapping[str, np.ndarray], exported: Any, program: Program) -> Population:
    """The reverse of `pack`. Raises ValueError where it does not fit the program of the outcome."""
    levels, together = tuple(words["levels"]), tuple(words["together"])
    picking = {entry.name for entry in program.inputs if entry.low is not None and entry.high is not None}
    if not levels or not set(levels) <= picking or len(set(levels)) < len(levels):
        raise ValueError(f"its levels are {words['levels']!r}; wanted inputs that pick a level")
    if len(together) != len(levels) or any(isinstance(n, bool) or not isinstance(n, int) for n in together):
        raise ValueError(f"its factors are {words['together']!r}; wanted a number for each of {len(levels)} levels")
    sites = tuple(tuple(map(str, names)) for names in words["sites"])
    if {*range(len(sites))} != {*together}:
        raise ValueError(f"its sites are of {len(sites)} factors, and its levels of {sorted({*together})}")
    refused = {str(name): str(why) for name, why in dict(words["refused"]).items()}
    if set(draws) & set(program.draws) or any(v.ndim == 0 or len(v) != program.size for v in draws.values()):
        raise ValueError("its draws are not those of other sites, as many as the outcome's")
    arguments, _ = jax.tree.unflatten(exported.in_tree, list(exported.in_avals))
    results = jax.tree.unflatten(exported.out_tree, list(exported.out_avals))
    of_draws, slots, keys = arguments
    known = {name: (values.shape[1:], str(values.dtype)) for name, values in {**program.draws, **draws}.items()}
    if known != _kinds(of_draws):
        raise ValueError("its program takes other draws")
    size = len(levels)
    if (slots.shape, str(slots.dtype), keys.shape[1:], str(keys.dtype)) != ((size,), "int64", (size, 2), "uint32"):
        raise ValueError("its program takes something else than places and keys")
    changed = _kinds(results)
    if not changed or any(program.draws.keys().isdisjoint([n]) or known[n] != kind for n, kind in changed.items()):
        raise ValueError("its program gives something else than draws of the outcome")
    return Population(levels, together, sites, refused, dict(draws), exported)


def lines(words: Any) -> list[str]:
    """What `inspect` says."""
    return (
        [f"  unseen    new levels of {', '.join(words['levels'])} are answered from their population"] if words else []
    )


def _kinds(avals: Mapping[str, Any]) -> dict[str, tuple]:
    return {name: (aval.shape[1:], str(aval.dtype)) for name, aval in avals.items()}
