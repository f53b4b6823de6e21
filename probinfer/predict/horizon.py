"""How many times a state-space model's functions know: what they read by the time, and how far it reaches. Imports jax
only.

JAX takes the last entry of an array for every index beyond it, without a word: a forecast would go on with what drove
the series last. So the functions are traced, and each read whose index depends on the time is looked at (a `gather`,
which x[i] and jnp.take are, or a `dynamic_slice`). That index is computed for the times to come, whatever it is made
of: t, t // 7, 2 * t, t % 12, jnp.minimum(t, 9), entries of another array. An index that depends on states or parameters
too has to stay inside of the array for any of them.
"""

from collections.abc import Callable, Sequence
from enum import Flag
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from probinfer.errors import ModelError

_TIME = jax.ShapeDtypeStruct((), np.int64)
_BLOCK, _BLOCKS = 2**12, 32  # times that are looked at one by one
_DOUBLINGS = 13  # and so often twice as far, to 2**30 times ahead
_STEPS = 4096  # of a loop whose length is not known, at most: one that is longer counts as going beyond
_FAR = 2**31 - 1  # of states and parameters, for an index that depends on them
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call"}


class _On(Flag):
    """What a value depends on."""

    NOTHING = 0
    TIME = 1
    OTHER = 2  # states, parameters


class _Value(NamedTuple):
    """A value, and what it depends on. parts: of each entry along the last axis, where they are known apart."""

    value: Any
    on: _On = _On.NOTHING
    parts: tuple[_On, ...] | None = None


class _Reads:
    """Whether what was read by the time is outside of its array: by the time alone, and by others too."""

    def __init__(self) -> None:
        self.plain: list[Any] = []
        self.mixed: list[Any] = []
        self.sizes: list[int] = []  # of the arrays of `mixed`

    def look(self, index: Any, size: int, most: int, on: _On) -> None:
        """At a read from `index` on, of which the last that is inside is `most`."""
        if _On.TIME in on:
            outside = jnp.any((index < 0) | (index > most))
            if _On.OTHER in on:
                self.mixed.append(outside)
                self.sizes.append(size)
            else:
                self.plain.append(outside)

    def both(self) -> tuple[Any, Any]:
        """Whether any is outside, of either kind."""
        plain, mixed = (jnp.any(jnp.stack([jnp.array(False), *each])) for each in (self.plain, self.mixed))
        return plain, mixed

    def add(self, inner: "_Reads", both: Sequence[Any]) -> None:
        """Those of a part of the program, of which `both` are outside."""
        self.plain += [jnp.any(both[0])] if inner.plain else []
        self.mixed += [jnp.any(both[1])] if inner.mixed else []
        self.sizes += inner.sizes


def horizon(look: Callable[[Any, Any], Any], first: int, others: Any) -> int | None:
    """The time, from `first` on, at which `look(time, others)` reads beyond the end of an array; None if there is none.

    Times are looked at one by one for 131,072 times, then in doublings: where an array ends among these, the times
    before them are those that are known. others: a state and parameters, arrays, of the values that are usual. Reads
    inside of loops and conditions are seen, those inside of JAX's solvers are not.

    Raises:
        ModelError: an index depends on the time and on `others` too, and is outside of its array for some of these.

    >>> driver = jnp.arange(8.0)
    >>> def known(index):
    ...     return horizon(lambda time, _: driver[index(time)], first=6, others=())
    >>> known(lambda time: time), known(lambda time: time // 7), known(lambda time: time % 8)
    (8, 56, None)
    """
    with jax.enable_x64(True):
        return _horizon(jax.make_jaxpr(look)(_TIME, others), first, others)


def _horizon(program: Any, first: int, others: Any) -> int | None:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(others)]
    reads = _Reads()

    def outside(time: Any, leaves: Sequence[Any]) -> tuple[Any, Any]:
        nonlocal reads
        reads = _Reads()
        inputs = [_Value(time, _On.TIME), *(_Value(leaf, _On.OTHER) for leaf in leaves)]
        _run(program.jaxpr, program.consts, inputs, reads)
        return reads.both()

    jax.eval_shape(outside, _TIME, leaves)
    if not reads.plain and not reads.mixed:
        return None
    far = [[np.full(leaf.shape, value).astype(leaf.dtype) for leaf in leaves] for value in (0, _FAR, -_FAR)]
    many = jax.jit(jax.vmap(outside, (0, None)))
    near = first + np.arange(_BLOCKS * _BLOCK)
    beyond = np.resize(first + len(near) * 2 ** np.arange(_DOUBLINGS + 1), _BLOCK)
    found = None
    for times in (*np.split(near, _BLOCKS), beyond):
        plain, mixed = map(np.asarray, many(times, leaves))
        if found is None and plain.any():
            found = int(times[0] if times is beyond else times[plain.argmax()])
        if mixed.any() or (reads.mixed and any(np.any(many(times, values)[1]) for values in far)):
            sizes = " or ".join(map(str, sorted({*reads.sizes})))
            raise ModelError(
                f"The model reads an array of {sizes} entries by an index that "
                "depends on the time and on states or parameters, and is beyond its ends for some of these: JAX would "
                "take the last entry, and how many times are known cannot be told. Read by the time first, "
                "array[t][i]; or keep the index inside, jnp.clip(i, 0, n - 1), where the last entry is meant to go on."
            )
        if found is not None and not reads.mixed:
            break
    return found


def _run(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[_Value], reads: _Reads) -> list[_Value]:
    """The outputs of a program, whose reads by the time are added to `reads`."""
    known: dict[Any, _Value] = dict(zip(jaxpr.constvars, map(_Value, constants), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def look_up(variable: Any) -> _Value:
        return _Value(variable.val) if isinstance(variable, Literal) else known[variable]

    for step in jaxpr.eqns:
        given = [look_up(variable) for variable in step.invars]
        with step.ctx.manager:
            found = _step(step, given, reads)
        known.update(zip(step.outvars, found, strict=True))
    return [look_up(variable) for variable in jaxpr.outvars]


def _step(step: Any, given: list[_Value], reads: _Reads) -> list[_Value]:
    name, params = step.primitive.name, step.params
    if not step.outvars:  # a message to the user, who wants it once
        return []
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
    if name in _CALLS and inner is not None:
        return _inside(inner, given, reads)
    if name == "while" or (name in _LOOPS and any(_On.TIME in each.on for each in given)):
        return _LOOPS[name](step, given, reads)
    if name in ("gather", "dynamic_slice") and not _fills(step):
        _read(step, given, reads)
    values = [each.value for each in given]
    found = step.primitive.bind(*values, **step.primitive.get_bind_params(params))
    on, parts = _together(given), None
    if name == "concatenate" and params["dimension"] == step.outvars[0].aval.ndim - 1:
        parts = tuple(part for each in given for part in each.parts or (each.on,) * np.shape(each.value)[-1])
    return [_Value(value, on, parts) for value in (found if step.primitive.multiple_results else [found])]


def _inside(inner: Any, given: Sequence[_Value], reads: _Reads) -> list[_Value]:
    closed = hasattr(inner, "consts")
    return _run(inner.jaxpr if closed else inner, inner.consts if closed else (), given, reads)


def _together(given: Sequence[_Value]) -> _On:
    on = _On.NOTHING
    for each in given:
        on |= each.on
    return on


def _fills(step: Any) -> bool:
    """Whether a read says what is to be had beyond the ends."""
    value = step.params.get("fill_value")
    filling = step.params.get("mode") == jax.lax.GatherScatterMode.FILL_OR_DROP
    return filling and value is not None and bool(np.isfinite(value))


def _read(step: Any, given: Sequence[_Value], reads: _Reads) -> None:
    shape, sizes = step.invars[0].aval.shape, step.params["slice_sizes"]
    if step.primitive.name == "dynamic_slice":
        starts = [(axis, each.value, each.on) for axis, each in enumerate(given[1:])]
    else:
        index, axes = given[1], step.params["dimension_numbers"].start_index_map
        parts = index.parts or (index.on,) * len(axes)
        starts = [(axis, index.value[..., i], on) for i, (axis, on) in enumerate(zip(axes, parts, strict=True))]
    for axis, start, on in starts:
        reads.look(start, shape[axis], shape[axis] - sizes[axis], on)


def _scan(step: Any, given: list[_Value], reads: _Reads) -> list[_Value]:
    params, within = step.params, _Reads()
    begin, end = _sizes(params, len(given))
    end += begin
    values = [each.value for each in given]

    def once(carry: Any, row: Any, on: Sequence[_On], reads: _Reads) -> list[_Value]:
        rows = [_Value(value, each.on) for value, each in zip(row, given[end:], strict=True)]
        return _inside(params["jaxpr"], [*given[:begin], *map(_Value, carry, on), *rows], reads)

    first = [jax.ShapeDtypeStruct(one.aval.shape[1:], one.aval.dtype) for one in step.invars[end:]]
    on, found = _settled(lambda carry, row, on: once(carry, row, on, _Reads()), given[begin:end], first)

    def body(carry: Any, row: Any) -> Any:
        nonlocal within
        within = _Reads()
        after = [each.value for each in once(carry, row, on, within)]
        return after[: end - begin], (after[end - begin :], within.both())

    carry, (stacked, both) = jax.lax.scan(
        body, values[begin:end], values[end:], length=params["length"], reverse=params["reverse"]
    )
    reads.add(within, both)
    return [*map(_Value, carry, on), *map(_Value, stacked, found[end - begin :])]


def _sizes(params: Any, count: int) -> tuple[int, int]:
    """How many of what a scan is given are constants, and how many it carries along: as JAX from 0.12 on says it, or
    before."""
    if "ft_in" in params:
        consts, carried, _ = (len(list(part)) for part in params["ft_in"].update(range(count)).unpack())
        return consts, carried
    return params["num_consts"], params["num_carry"]


def _settled(once: Callable, begin: Sequence[_Value], row: Sequence[Any]) -> tuple[list[_On], list[_On]]:
    """What the values that a loop carries along depend on, after any number of steps; and what a step gives does."""
    on, found = [each.on for each in begin], []
    while True:

        def traced(carry: Any, row: Any, on: Sequence[_On] = tuple(on)) -> list[Any]:
            results = once(carry, row, on)
            found[:] = [each.on for each in results]
            return [each.value for each in results]

        jax.eval_shape(traced, [each.value for each in begin], row)
        wider = [before | after for before, after in zip(on, found, strict=False)]
        if wider == on:
            return on, found
        on = wider


def _while(step: Any, given: list[_Value], reads: _Reads) -> list[_Value]:
    params, within = step.params, _Reads()
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    tests, fixed, begin = given[:first], given[first:second], given[second:]

    def goes_on(carry: Any, on: Sequence[_On]) -> _Value:
        return _inside(params["cond_jaxpr"], [*tests, *map(_Value, carry, on)], _Reads())[0]

    def once(carry: Any, on: Sequence[_On], reads: _Reads) -> list[_Value]:
        return _inside(params["body_jaxpr"], [*fixed, *map(_Value, carry, on)], reads)

    def widened(carry: Any, _: Any, on: Sequence[_On]) -> list[_Value]:
        test = goes_on(carry, on)
        return [each._replace(on=each.on | test.on) for each in once(carry, on, _Reads())]

    on, _ = _settled(widened, begin, [])

    def body(carry: Any) -> Any:
        nonlocal within
        within = _Reads()
        after = [each.value for each in once(carry[0], on, within)]
        return after, [a | b for a, b in zip(carry[1], within.both(), strict=True)], carry[2] + 1

    start = [each.value for each in begin], [jnp.array(False), jnp.array(False)], 0
    values, both, _ = jax.lax.while_loop(lambda carry: goes_on(carry[0], on).value & (carry[2] < _STEPS), body, start)
    cut = goes_on(values, on).value
    reads.add(within, [outside | cut for outside in both])
    return [*map(_Value, values, on)]


def _cond(step: Any, given: list[_Value], reads: _Reads) -> list[_Value]:
    which, *rest = given
    for number, branch in enumerate(step.params["branches"]):
        within = _Reads()
        _inside(branch, rest, within)
        taken = jnp.asarray(which.value).astype(int) == number
        sure = _On.OTHER not in which.on
        reads.add(within, [outside & taken if sure else outside for outside in within.both()])
    found = step.primitive.bind(*(each.value for each in given), **step.primitive.get_bind_params(step.params))
    return [_Value(value, _together(given)) for value in found]


_LOOPS = {"scan": _scan, "while": _while, "cond": _cond}
