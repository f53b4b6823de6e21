"""Whether outcomes of one row are independent of one another given the parameters. Imports numpyro.

Laws of several outcomes at the same posterior draw make a joint law only then: p(y, z | θ) = p(y | θ) p(z | θ). Two
things stand against it: one outcome is computed from another's observed value, or both hang on a discrete site that
every row has for itself, over which each law is mixed.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from probinfer.errors import ModelError
from probinfer.inference.exact.elimination import CannotSum, dependences
from probinfer.model.target import Target
from probinfer.predict.levels import read_inputs
from probinfer.predict.program import Program

if TYPE_CHECKING:
    from probinfer.model.model import BoundModel


def refuse_dependent(bound: "BoundModel", programs: Mapping[str, Program]) -> None:
    """Raise ModelError if an outcome of `programs` depends on another one but through the parameters."""
    behind = {name: _data_behind(bound, name) for name in programs}
    for name, other in permutations(programs, 2):
        program = programs[name]
        used = behind[other] & {*(entry.name for entry in program.inputs), *program.fixed}
        if program.prepared is not None:
            used |= {each.column.name for each in _raw_outcomes(bound, behind[other])} & {*program.prepared.columns}
        if used:
            raise ModelError(
                f"The outcomes {name!r} and {other!r} cannot be predicted together: {name!r} is predicted from "
                f"{', '.join(sorted(used))}, which holds {other!r}, so new rows would have to bring what is to be "
                f"predicted. Make a predictor of {name!r} alone, outcome={name!r}: its rows bring {other!r}."
            )
    own = {name: _own_sites(bound, name, program) for name, program in programs.items()}
    for name, other in permutations(programs, 2):
        if own[name] & own[other]:
            raise ModelError(
                f"The outcomes {name!r} and {other!r} cannot be predicted together: in each row both depend on "
                f"{', '.join(sorted(own[name] & own[other]))}, which a new row draws anew, so that given the "
                "parameters one tells about the other. Make a predictor of each alone, whose answers are right for "
                f"that outcome: outcome={name!r}, outcome={other!r}."
            )


def _data_behind(bound: "BoundModel", name: str) -> set[str]:
    """The arguments of the model from which an outcome's observed value is made."""
    found = {argument for argument in (bound.observed_arguments.get(name),) if argument is not None}
    if bound.arrays:

        def observed(arrays: Mapping[str, Any]) -> Any:
            return bound.simulate({}, arrays)[name]["value"]

        with jax.enable_x64(True):
            read = read_inputs(jax.make_jaxpr(observed)(bound.arrays).jaxpr)
        return found | {argument for number, argument in enumerate(sorted(bound.arrays)) if number in read}
    with jax.enable_x64(True):  # the model looks at the values of its data, which cannot be traced then
        value = np.asarray(bound.simulate({})[name]["value"])
    found |= {argument for argument, given in bound.constants.items() if np.array_equal(np.asarray(given), value)}
    if not found:
        raise ModelError(
            f"The outcome {name!r} observes something that is computed from the data while the model looks at their "
            "values, so it cannot be told whether other outcomes depend on it. Compute it beforehand, and observe "
            f"obs=y with y passed as data; or make a predictor of one outcome alone, outcome={name!r}."
        )
    return found


def _raw_outcomes(bound: "BoundModel", arguments: set[str]) -> Sequence[Any]:
    pipeline = bound.pipeline
    return [each for each in pipeline.outcomes if each.argument in arguments] if pipeline is not None else []


def _own_sites(bound: "BoundModel", name: str, program: Program) -> set[str]:
    """The discrete sites over which the outcome's law is mixed: those it depends on without their draws."""
    if not set(bound.discrete) - set(program.draws):
        return set()
    try:
        seen = dependences(Target(bound, gradient=False))
    except CannotSum:  # then no law could be mixed over any
        return set()
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = set(seen.get(waiting.pop(), {})) - set(program.draws) - found
        found |= new
        waiting += new
    return found
