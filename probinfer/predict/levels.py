"""Which inputs a traced function reads at all, and which integers pick a level. Works on jaxprs; imports jax and
numpy."""

from typing import Any

import numpy as np
from jax.extend.core import Literal


def read_inputs(jaxpr: Any) -> set[int]:
    """Numbers of the inputs that some output depends on. What happens inside a called function is not looked at."""
    live = {variable for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    for equation in reversed(jaxpr.eqns):
        if live.intersection(equation.outvars):
            live.update(variable for variable in equation.invars if not isinstance(variable, Literal))
    return {number for number, variable in enumerate(jaxpr.invars) if variable in live}


def picking_inputs(jaxpr: Any) -> set[int]:
    """Numbers of the integer inputs that are used as an index, or compared for equality (a one-hot code is made so).

    For those whose valid range cannot be followed through the program (`theta[2 * g]`, `one_hot(g, 5) @ theta`): a
    value that never occurred in training would be clamped to the last level, or be answered as no level at all.
    """
    origins: dict[Any, set[int]] = {}
    for number, variable in enumerate(jaxpr.invars):
        if _whole(variable):
            origins[variable] = {number}
    found: set[int] = set()
    _follow(jaxpr, origins, found)
    return found


def _whole(variable: Any) -> bool:
    return np.issubdtype(variable.aval.dtype, np.integer)


def _follow(jaxpr: Any, origins: dict[Any, set[int]], found: set[int]) -> None:
    for equation in jaxpr.eqns:
        sources = [set() if isinstance(v, Literal) else origins.get(v, set()) for v in equation.invars]
        together = set().union(*sources)
        if not together:
            continue
        name = equation.primitive.name
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        if name in ("eq", "ne"):
            found |= together
        elif name in ("gather", "dynamic_slice") or name.startswith("scatter"):
            found |= set().union(*sources[1:])
        elif inner is not None and hasattr(inner, "eqns"):
            if len(inner.invars) != len(sources):
                found |= together
                continue
            within = {variable: source for variable, source in zip(inner.invars, sources, strict=True) if source}
            _follow(inner, within, found)
        for variable in equation.outvars:
            if _whole(variable):
                origins[variable] = together
