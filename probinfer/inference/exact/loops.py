"""`lax.scan` with its body run, or followed, for all steps at once. Imports JAX only.

What the body hands on at step t comes in at step t + 1. So where what is handed on depends on entry t of an array
alone, what comes in depends on entry t - 1: a chain. What is counted along (a step's number) is computed, so that
`states[t]` in the body is seen to be entry t. And where nothing is handed on but what a step makes of its own entries,
no step has to wait for another.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal, jaxpr_as_fun

from probinfer.inference.exact.few import Few, after_first, spread
from probinfer.inference.exact.rules import Dependence, Value, joined, moved

_MOST_AXES = 64  # of an array, NumPy's limit
_FEWER = 4  # steps, in a loop of more of which it pays to tell those apart that differ
_ROUNDS = 10  # until what comes in is known; each makes it depend on more

Follow = Callable[[Any, Sequence[Any], Sequence[Value]], list[Value]]
Run = Callable[[Any, Sequence[Any], Sequence[Any]], list[Any]]


class _Loop(NamedTuple):
    """The parts of a scan. many: its body for all steps at once, a ClosedJaxpr."""

    body: Callable
    many: Any
    length: int
    reverse: bool
    constants: list[Value]
    first: list[Value]
    slices: list[Value]
    avals: list[Any]

    def inputs(self, carried: Sequence[Value]) -> list[Value]:
        return [*self.constants, *carried, *self.slices]


def through_scan(step: Any, inputs: Sequence[Value], follow: Follow) -> list[Value] | None:
    """The outputs of a scan, an operation of a traced program. `follow` does this for the operations of its body."""
    loop = _parts(step, inputs)
    if loop is None:
        return None
    count = len(loop.first)
    known, counted = _counted(loop, follow)
    spread = [moved(value.depends, {i: i + 1 for i in range(_MOST_AXES)}) for value in loop.first]
    carried = list(spread)
    for _ in range(_ROUNDS):
        values = [_from(counted, i) if known[i] else Value(carried[i]) for i in range(count)]
        found = follow(loop.many.jaxpr, loop.many.consts, loop.inputs(values))
        handed_on = [joined([spread[i], _next(found[i].depends, loop)]) for i in range(count)]
        if all(_same(before, after) for before, after in zip(carried, handed_on, strict=True)):
            last = [moved(value.depends, {i: i - 1 for i in range(1, _MOST_AXES)}) for value in found[:count]]
            return [*map(Value, last), *found[count:]]
        carried = handed_on
    return None


def all_at_once(step: Any, inputs: Sequence[Any], asked: Sequence[bool], follow: Follow, run: Run) -> list[Any] | None:
    """The outputs of a scan without a loop, or None where a step needs what an earlier one made of what it got.

    inputs: may have the size one along axes, as for `run`, which runs a jaxpr on constants and arguments.
    asked: which outputs anybody needs, such as not the random key that NumPyro's scan hands on; others may be wrong.
    """
    known = [Value({}, lambda v=v: v.val) if isinstance(v, Literal) else Value({}) for v in step.invars]
    loop = _parts(step, known)
    if loop is None or loop.length == 0:
        return None
    begin, count = len(loop.constants), len(loop.first)
    ready, counted = _counted(loop, follow)
    reach = _reach(step.params["jaxpr"].jaxpr, range(begin, begin + count))
    needed = set().union(*(seen for seen, here in zip(reach, asked, strict=True) if here))
    first = [spread(value) for value in inputs[begin : begin + count]]
    carried = [
        counted()[i] if ready[i] else jnp.broadcast_to(_nothing(aval), (loop.length, *aval.shape))
        for i, aval in enumerate(loop.avals[begin : begin + count])
    ]
    while True:
        found = run(loop.many.jaxpr, loop.many.consts, [*inputs[:begin], *carried, *inputs[begin + count :]])
        if all(ready[i] for i in needed):
            break
        more = [i for i in range(count) if not ready[i] and all(ready[other] for other in reach[i])]
        if not more:
            return None
        for i in more:
            carried[i], ready[i] = _brought(first[i], found[i], loop), True
    last = 0 if loop.reverse else loop.length - 1
    return [*(_one(value, last) for value in found[:count]), *found[count:]]


def _one(handed_on: Any, step: int) -> Any:
    """What one step handed on."""
    if isinstance(handed_on, Few) and handed_on.axis == 0:
        return handed_on.at(step)
    handed_on = spread(handed_on)
    return handed_on[min(step, len(handed_on) - 1)]


def _brought(first: Any, handed_on: Any, loop: _Loop) -> Any:
    """What comes in at each step: at the first of them `first`, then what the one before handed on."""
    few = handed_on if isinstance(handed_on, Few) and handed_on.axis == 0 else None
    if few is None:
        handed_on = spread(handed_on)
        few = Few(handed_on, np.zeros(loop.length, int), 0) if len(handed_on) == 1 else None
    if few is not None:
        found = after_first(first, few, reverse=loop.reverse)
        return found if loop.length > _FEWER else found.spread()
    rest = jnp.broadcast_shapes(jnp.shape(first), handed_on.shape[1:])
    first = jnp.broadcast_to(first, (1, *rest)).astype(handed_on.dtype)
    kept = jnp.broadcast_to(handed_on[1:] if loop.reverse else handed_on[:-1], (loop.length - 1, *rest))
    return jnp.concatenate([kept, first] if loop.reverse else [first, kept])


def _reach(jaxpr: Any, asked: range) -> list[set[int]]:
    """For each output of a jaxpr, which of these inputs it may depend on, by number among them."""
    seen: dict[Any, set[int]] = {jaxpr.invars[at]: {number} for number, at in enumerate(asked)}

    def look_up(variable: Any) -> set[int]:
        return set() if isinstance(variable, Literal) else seen.get(variable, set())

    for step in jaxpr.eqns:
        found = set().union(*map(look_up, step.invars))
        seen.update(dict.fromkeys(step.outvars, found))
    return [look_up(variable) for variable in jaxpr.outvars]


def _parts(step: Any, inputs: Sequence[Value]) -> _Loop | None:
    about = step.params
    if "ft_in" in about:
        sizes = [len(list(part)) for part in about["ft_in"].update(range(len(inputs))).unpack()]
    elif "num_consts" in about:
        sizes = [about["num_consts"], about["num_carry"]]
    else:
        return None
    begin, end = sizes[0], sizes[0] + sizes[1]
    avals = [variable.aval for variable in step.invars]
    body = jaxpr_as_fun(about["jaxpr"])
    length = about["length"]
    stacked = [jax.ShapeDtypeStruct((length, *aval.shape), aval.dtype) for aval in avals[begin:end]]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    axes = [*[None] * begin, *[0] * (len(avals) - begin)]
    many = jax.make_jaxpr(jax.vmap(body, in_axes=axes, axis_size=length))(*shapes[:begin], *stacked, *shapes[end:])
    parts = list(inputs[:begin]), list(inputs[begin:end]), list(inputs[end:])
    return _Loop(body, many, length, about["reverse"], *parts, avals)


def _counted(loop: _Loop, follow: Follow) -> tuple[list[bool], Callable[[], list[Any]]]:
    """Which of what comes in data alone determine, and what gives all that comes in at each step: right for these."""
    given = [*loop.constants, *loop.first, *loop.slices]
    begin, count = len(loop.constants), len(loop.first)

    @cache
    def run() -> list[Any]:
        with jax.ensure_compile_time_eval():
            values = [
                value.known() if value.known else _nothing(aval) for value, aval in zip(given, loop.avals, strict=True)
            ]

            def one(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
                return list(loop.body(*values[:begin], *carry, *slices))[:count], carry

            first = [jnp.asarray(value) for value in values[begin : begin + count]]
            return lax.scan(one, first, values[begin + count :], loop.length, loop.reverse)[1]

    known = [value.known is not None for value in loop.first]
    while any(known):
        values = [_from(run, i) if known[i] else Value({}) for i in range(count)]
        found = follow(loop.many.jaxpr, loop.many.consts, loop.inputs(values))
        still = [here and value.known is not None for here, value in zip(known, found[:count], strict=True)]
        if still == known:
            break
        known = still
    return known, run


def _from(counted: Callable[[], list[Any]], number: int) -> Value:
    return Value({}, lambda: counted()[number])


def _nothing(aval: Any) -> Any:
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), aval.shape)
    return jnp.zeros(aval.shape, aval.dtype)


def _next(depends: Dependence, loop: _Loop) -> Dependence:
    """What comes in at each step, of what was handed on at each: at the first there is none."""
    steps = np.arange(loop.length)
    before = np.append(steps[1:], -1) if loop.reverse else np.append(-1, steps[:-1])
    return {
        name: {i: along if along.axis else along._replace(index=along.take(before)) for i, along in axes.items()}
        for name, axes in depends.items()
    }


def _same(one: Dependence, other: Dependence) -> bool:
    return set(one) == set(other) and all(
        set(axes) == set(other[name]) and all(along.same(other[name][i]) for i, along in axes.items())
        for name, axes in one.items()
    )
