"""Logarithms in a program of particles: of an exponential, what it is the exponential of; others in vector registers.

A scale is often written as an exponential, and a density takes its logarithm again. Imports jax only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.model.rewriting import evaluate

_LEAST = 2.0**-1022  # the least number with all its digits
_ROOT_HALF = np.float64(0.5**0.5).view(np.uint64)
_MANTISSA = np.uint64(2**52 - 1)
_LOG2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)  # products of the first with exponents are exact


def with_plain_logarithms(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays, of which `log(exp(z))` is z and logarithms in double precision are `logarithm`.

    >>> found = jax.make_jaxpr(with_plain_logarithms(lambda z: jnp.log(jnp.exp(2 * z))))(1.0)
    >>> [step.primitive.name for step in found.eqns]
    ['mul', 'exp']
    """

    def run(*arguments: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
        found = evaluate(program.jaxpr, program.consts, leaves, _rule())
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return run


def _rule() -> Callable[[Any, list[Any]], list[Any] | None]:
    exponents: dict[int, tuple[Any, Any]] = {}  # by the id of an exponential: itself, so that it lives, and the number

    def rule(step: Any, inputs: list[Any]) -> list[Any] | None:
        name = step.primitive.name
        if name == "exp":
            found = step.primitive.bind(*inputs, **step.params)
            exponents[id(found)] = (found, inputs[0])
            return [found]
        if name == "convert_element_type" and inputs[0].dtype == step.params["new_dtype"]:
            return inputs  # of the weak to the strong type
        if name == "log":
            if id(inputs[0]) in exponents:
                return [exponents[id(inputs[0])][1]]
            return [logarithm(inputs[0])] if inputs[0].dtype == jnp.float64 else None
        return None

    return rule


@jax.custom_jvp
def logarithm(x: jax.Array) -> jax.Array:
    """Natural logarithm in double precision, two units in the last place off at most; -inf below 2^-1022.

    XLA's calls a function for each number on a CPU; this one runs in vector registers.

    log x = e log 2 + 2 artanh((m - 1) / (m + 1)),   x = 2^e m,   1/√2 <= m < √2
    """
    bits = lax.bitcast_convert_type(x, jnp.uint64)
    above = bits - (_ROOT_HALF & _MANTISSA)  # borrows from the exponent where the mantissa is below that of 1/√2
    exponent = (above >> np.uint64(52)).astype(jnp.int32).astype(x.dtype) - 1022.0
    m = lax.bitcast_convert_type((above & _MANTISSA) + _ROOT_HALF, jnp.float64)
    s = (m - 1) / (m + 1)
    series = jnp.full_like(s, 1 / 21)
    for odd in range(19, 1, -2):
        series = series * s**2 + 1 / odd
    value = exponent * _LOG2[0] + (2 * s + (2 * s**3 * series + exponent * _LOG2[1]))
    value = jnp.where(x >= _LEAST, value, jnp.where(x >= 0, -jnp.inf, jnp.nan))
    return jnp.where(x == jnp.inf, jnp.inf, value)


@logarithm.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    return logarithm(primals[0]), tangents[0] / primals[0]
