"""Whether the parts of a stored predictor are of one piece: its description against its arrays and its programs.
Imports jax and numpy.

A program says itself what it takes and gives. A description that says otherwise was altered or damaged, and would
come out as a wrong answer, or as an error in the middle of a call.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from probinfer.errors import ArtifactError
from probinfer.predict.family import Support
from probinfer.predict.program import CDF, DENSITY, LOG_DENSITY, MOMENTS, NO_INPUT, PARAMETERS, SAMPLE, Input, Program

if TYPE_CHECKING:
    from probinfer.predict.motion import Motion

_TYPES = ("float64", "int64", "bool")
_MOST_PROBABILITIES = 100_000  # of counts; those of classes are what the program gives


def read_input(path: Any, words: Mapping[str, Any]) -> Input:
    """One input of the manifest. Raises ArtifactError for what is none."""
    name, dtype, shape, low, high = (words[key] for key in ("name", "dtype", "shape", "low", "high"))
    if not isinstance(name, str) or dtype not in _TYPES:
        raise ArtifactError(f"{path}: the input {name!r} is of the type {dtype!r}; wanted {', '.join(_TYPES)}.")
    if not isinstance(shape, list) or not all(_whole(size, 0) for size in shape):
        raise ArtifactError(f"{path}: the input {name!r} has the shape {shape!r}; wanted a list of sizes.")
    if (low, high) != (None, None) and not (_whole(low) and _whole(high) and low <= high):
        raise ArtifactError(f"{path}: the input {name!r} reaches from {low!r} to {high!r}; wanted two whole numbers.")
    return Input(name, dtype, tuple(shape), low, high)


def check_outcome(path: Any, outcome: Mapping[str, Any], size: Any, chains: Any) -> None:
    """Raise ArtifactError where the manifest's outcome or its numbers of draws are none."""
    name, event, discrete, many = (outcome[key] for key in ("name", "event", "discrete", "probabilities"))
    wrong = [
        f"{what} is {came!r}; wanted {wanted}"
        for what, came, right, wanted in (
            ("the outcome's name", name, isinstance(name, str), "text"),
            ("the outcome's event", event, isinstance(event, list) and all(_whole(e, 1) for e in event), "sizes"),
            ("discrete", discrete, isinstance(discrete, bool), "true or false"),
            ("probabilities", many, _whole(many, 0) and many <= _MOST_PROBABILITIES, "a whole number from 0"),
            ("size", size, _whole(size, 1), "a whole number from 1"),
            ("chains", chains, chains is None or _whole(chains, 1), "a whole number from 1, or null"),
        )
        if not right
    ]
    if wrong:
        raise ArtifactError(f"{path}: the manifest does not hold: {'; '.join(wrong)}.")


def check_programs(path: Any, program: Program) -> None:
    """Raise ArtifactError where a program takes or gives something else than the description says."""
    names = [entry.name for entry in program.inputs]
    if len(set(names)) < len(names):
        raise ArtifactError(f"{path}: the manifest lists an input twice: {', '.join(names)}.")
    check_law(path, program)
    for role, exported in program.programs.items():
        if role in (CDF, DENSITY):  # of the law's numbers alone
            continue
        within: Any = getattr(exported, "exported", exported)  # a transformed outcome wraps it
        (draws, fixed, rows, *more), _ = jax.tree.unflatten(within.in_tree, list(within.in_avals))
        inputs = {entry.name: (entry.shape, entry.dtype) for entry in program.inputs}
        rest = {name: (aval.shape[1:], str(aval.dtype)) for name, aval in rows.items() if name != NO_INPUT}
        _same(path, role, "inputs", inputs, rest)
        known = {name: (values.shape[1:], str(values.dtype)) for name, values in program.draws.items()}
        _same(path, role, "draws", known, {name: (aval.shape[1:], str(aval.dtype)) for name, aval in draws.items()})
        known = {name: (values.shape, str(values.dtype)) for name, values in program.fixed.items()}
        _same(path, role, "fixed data", known, {name: (aval.shape, str(aval.dtype)) for name, aval in fixed.items()})
        further = {SAMPLE: [((2,), "uint32")], LOG_DENSITY: [(program.event, "float64")]}.get(role, [])
        _same(path, role, "outcomes or keys", further, [(aval.shape[1:], str(aval.dtype)) for aval in more])
        _same(path, role, "results", _results(program, role), [aval.shape[2:] for aval in within.out_avals])


def _results(program: Program, role: str) -> list[tuple[int, ...]]:
    """The shapes of what a program gives for a row and a draw."""
    if role == PARAMETERS and program.family is not None:
        classes = (program.probabilities,) if program.family.support is Support.CLASSES else ()
        return [(*program.event, *classes)] * len(program.family.parameters)
    found: dict[str, list[tuple[int, ...]]] = {
        SAMPLE: [program.event], LOG_DENSITY: [()], MOMENTS: [program.event] * 2,
    }  # fmt: skip
    return found[role]


def check_law(path: Any, program: "Program | Motion") -> None:
    """Raise ArtifactError where the outcome is not of the kind that its family is."""
    family, many = program.family, program.probabilities
    if family is None:
        right, law = many == 0, "a law without closed form"
    else:
        least = {Support.BINARY: 2, Support.CLASSES: 1, Support.COUNT: 1}.get(family.support, 0)
        exact = family.support in (Support.CLASSES, Support.COUNT) or many == least
        right, law = many >= least and exact and program.discrete == family.support.discrete, family.name
    if not right:
        kind = "discrete" if program.discrete else "continuous"
        raise ArtifactError(
            f"{path}: the manifest says that the outcome is {kind} and has {many} probabilities, which does not go "
            f"with {law}; it was altered or damaged. Save the predictor again."
        )


def _same(path: Any, role: str, what: str, said: Mapping | Sequence, found: Mapping | Sequence) -> None:
    if said != found:
        raise ArtifactError(
            f"{path}: the manifest and the program {role!r} do not belong together: {what} are {_words(said)} by the "
            f"manifest and its arrays, {_words(found)} by the program. The manifest was altered or damaged; copy the "
            "folder again, or save the predictor again."
        )


def _words(entries: Mapping | Sequence) -> str:
    if isinstance(entries, Mapping):
        return ", ".join(f"{name} {dtype}{list(shape) or ''}" for name, (shape, dtype) in entries.items()) or "none"
    return ", ".join(map(str, entries)) or "none"


def _whole(value: Any, least: float = -np.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value
