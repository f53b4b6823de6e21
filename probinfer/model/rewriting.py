"""A traced program run with some of its operations replaced. Imports JAX only."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import Literal

Rule = Callable[[Any, list[Any]], list[Any] | None]  # operation, its inputs -> its outputs; None: as it is


def evaluate(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], rule: Rule) -> list[Any]:
    """The outputs of a program. What is inside loops and conditions of it is left as it is.

    >>> import jax
    >>> program = jax.make_jaxpr(lambda x: 2 * jax.numpy.sin(x))(0.0)
    >>> evaluate(program.jaxpr, program.consts, [3.0], lambda step, x: x if step.primitive.name == "sin" else None)
    [Array(6., dtype=float32, weak_type=True)]
    """
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))
    for step in jaxpr.eqns:
        inputs = [one.val if isinstance(one, Literal) else known[one] for one in step.invars]
        with step.ctx.manager:
            found = rule(step, inputs)
            if found is None:
                found = _as_it_is(step, inputs, rule)
        known.update(zip(step.outvars, found, strict=True))
    return [one.val if isinstance(one, Literal) else known[one] for one in jaxpr.outvars]


def _as_it_is(step: Any, inputs: list[Any], rule: Rule) -> list[Any]:
    if step.primitive.name in ("jit", "pjit") and "jaxpr" in step.params:
        inner = step.params["jaxpr"]
        return evaluate(inner.jaxpr, inner.consts, inputs, rule)
    found = step.primitive.bind(*inputs, **step.primitive.get_bind_params(step.params))
    return list(found) if step.primitive.multiple_results else [found]
