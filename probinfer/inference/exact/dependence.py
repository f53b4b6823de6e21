"""Which entries of an array a computed value depends on, read from a traced program. Imports JAX only.

The program is followed operation by operation. Of every value it is known which axis goes along with an axis of the
array asked about: entry n of the one depends on entry n of the other alone, or on entry index[n], or on two of them.
What an operation does to that is a rule in rules.py; an operation without a rule counts as mixing everything. So what
is found may be more than there is, never less.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Literal

from probinfer.inference.exact.loops import through_scan
from probinfer.inference.exact.rules import RULES, Along, Dependence, Value

_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call"}


def data_values(program: Any, arguments: Sequence[Any | None]) -> list[Any | None]:
    """The outputs of a traced program that data alone determine, None for the others. `arguments` as below."""
    inputs = [_data(argument) if argument is not None else Value({}) for argument in arguments]
    return [value.known() if value.known else None for value in follow(program.jaxpr, program.consts, inputs)]


def dependence(program: Any, arguments: Sequence[str | Any | None]) -> list[Dependence]:
    """For each output of a traced program (a ClosedJaxpr), which of its arguments it depends on, and how.

    arguments: for each input, in order, its name if it is one that is asked about, its value if it is data, else None.

    >>> import jax.numpy as jnp
    >>> program = jax.make_jaxpr(lambda z, m: (m[z] + 1.0, m[z].sum()))(jnp.zeros(3, int), jnp.zeros(2))
    >>> dependence(program, ["z", None])
    [{'z': {0: Along(axis=0, index=None)}}, {'z': {}}]
    """
    inputs = []
    for variable, argument in zip(program.jaxpr.invars, arguments, strict=True):
        if isinstance(argument, str):
            axes = {i: Along(i) for i in range(len(variable.aval.shape))}
            inputs.append(Value({argument: axes}))
        else:
            inputs.append(_data(argument) if argument is not None else Value({}))
    return [value.depends for value in follow(program.jaxpr, program.consts, inputs)]


def _data(value: Any) -> Value:
    return Value({}, lambda: value)


def follow(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    """The outputs of a jaxpr."""
    seen: dict[Any, Value] = dict(zip(jaxpr.constvars, map(_data, constants), strict=True))
    seen.update(zip(jaxpr.invars, inputs, strict=True))

    def look_up(variable: Any) -> Value:
        return _data(variable.val) if isinstance(variable, Literal) else seen[variable]

    for step in jaxpr.eqns:
        seen.update(zip(step.outvars, _step(step, [look_up(variable) for variable in step.invars]), strict=True))
    return [look_up(variable) for variable in jaxpr.outvars]


def _step(step: Any, inputs: list[Value]) -> list[Value]:
    inner = next((step.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in step.params), None)
    if step.primitive.name in _CALLS and inner is not None:
        closed = hasattr(inner, "consts")
        return follow(inner.jaxpr if closed else inner, inner.consts if closed else (), inputs)
    count = len(step.outvars)
    if all(value.known for value in inputs):
        run = functools.cache(lambda: _run(step, [value.known() for value in inputs if value.known]))
        return [Value({}, functools.partial(lambda i: run()[i], i)) for i in range(count)]
    if not any(value.depends for value in inputs):
        return [Value({})] * count
    if step.primitive.name == "scan":
        found = through_scan(step, inputs, follow)
        if found is not None:
            return found
    rule = RULES.get(step.primitive.name)
    found = rule(step, inputs) if rule else None
    if found is None:  # no rule, or none for this use
        found = {name: {} for value in inputs for name in value.depends}
    return [Value(found)] * count


def _run(step: Any, values: list[Any]) -> list[Any]:
    with jax.ensure_compile_time_eval():
        found = step.primitive.bind(*values, **step.primitive.get_bind_params(step.params))
    return list(found) if step.primitive.multiple_results else [found]
