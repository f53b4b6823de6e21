"""From a state-space model and posterior draws to what a forecaster computes from. Imports numpyro, so a loaded
forecaster never comes here."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from probinfer.inference.montecarlo.particle_draws import draw
from probinfer.model.series import Series
from probinfer.model.statespace import StateSpace
from probinfer.predict.discrete import BINOMIAL
from probinfer.predict.families import NORMAL
from probinfer.predict.family import Family, Support
from probinfer.predict.horizon import horizon
from probinfer.predict.laws import family_of, parameters_of, unwrapped
from probinfer.predict.motion import MATRICES, MOVE, WEIGH, Motion
from probinfer.predict.program import PARAMETERS, SAMPLE

_PLATFORMS = ("cpu", "cuda", "tpu")
_TIME = jax.ShapeDtypeStruct((), np.int64)


def motion_of(model: StateSpace, series: Series, draws: Mapping[str, np.ndarray], chains: int | None) -> Motion:
    """What a forecaster of these draws, each (S, *shape), computes from. The series tells the observations' type."""
    with jax.enable_x64(True):
        first = {name: jnp.asarray(values[0]) for name, values in draws.items()}
        shape = model.check(first, series)
        state = jax.eval_shape(lambda key: model.initial(first).sample(key), jax.ShapeDtypeStruct((2,), jnp.uint32))
        y = jax.ShapeDtypeStruct(series.values.shape[1:], series.values.dtype)
        laws: list[Any] = []  # of which only the kind is looked at

        def seen(x: Any, t: Any, params: Any) -> Any:
            law = model.observation(x, t, params)
            laws.append(law)
            parameters = _parameters(law, y.shape) if _family(law) is not None else ()
            return law.log_prob(jnp.zeros(y.shape, y.dtype)), parameters

        scored, parameters = jax.eval_shape(seen, state, _TIME, first)
        law = laws[0]
        if not law.is_discrete:
            y = jax.ShapeDtypeStruct(y.shape, np.float64)
        of = _Exports(model, draws, state, y)
        family = _family(law) if model.linear is None else NORMAL
        programs = of.linear() if model.linear is not None else of.particles(family)
        event = () if model.linear is not None and y.shape == (1,) else y.shape
        return Motion(
            programs=programs,
            draws=draws,
            chains=chains,
            family=family,
            event=event,
            state=shape,
            kinds=(y.dtype.name, state.dtype.name),
            discrete=bool(law.is_discrete),
            probabilities=_probabilities(family, parameters, series.values),
            apart=model.linear is not None or scored.shape == y.shape,
            horizon=_horizon(model, state, first, len(series.values)),
        )


class _Exports:
    """Functions of one state and one draw, exported for any number of both."""

    def __init__(self, model: StateSpace, draws: Mapping[str, np.ndarray], state: Any, y: Any) -> None:
        self._model, self._y = model, y
        s, n = jax.export.symbolic_shape("s, n")
        self._draws = {k: jax.ShapeDtypeStruct((s, *v.shape[1:]), v.dtype) for k, v in draws.items()}
        self._states = jax.ShapeDtypeStruct((s, n, *state.shape), state.dtype)
        self._words = jax.ShapeDtypeStruct((s, n, 2), np.uint32)

    def linear(self) -> dict[str, Any]:
        """Of a linear Gaussian model."""
        linear = self._model.linear
        assert linear is not None

        @partial(jax.jit, inline=True)
        def matrices(params: Any, t: Any) -> tuple:
            return tuple(jnp.asarray(part, float) for part in linear.step(t, params))

        return {MATRICES: _exported(jax.vmap(matrices, (0, None)), self._draws, _TIME)}

    def particles(self, family: Family | None) -> dict[str, Any]:
        """Of any other."""
        model, y = self._model, self._y

        def move(params: Any, x: Any, t: Any, words: Any) -> Any:
            return jnp.asarray(draw(model.transition(x, t, params), words), x.dtype)

        def sample(params: Any, x: Any, t: Any, words: Any) -> Any:
            return jnp.broadcast_to(draw(model.observation(x, t, params), words), y.shape).astype(float)

        def weigh(params: Any, x: Any, t: Any, y: Any, observed: Any) -> Any:
            return model.log_observation(x, t, params, y, observed)

        def parameters(params: Any, x: Any, t: Any) -> Any:
            return _parameters(model.observation(x, t, params), y.shape)

        observed = jax.ShapeDtypeStruct(y.shape, bool)
        programs = {
            MOVE: self._each(move, (None, 0), self._words),
            SAMPLE: self._each(sample, (None, 0), self._words),
            WEIGH: self._each(weigh, (None, None, None), y, observed),
        }
        return {**programs, **({PARAMETERS: self._each(parameters, (None,))} if family is not None else {})}

    def _each(self, function: Callable, axes: tuple, *more: Any) -> Any:
        """`function` of (params, x, t, *more) for all draws and states. axes: of the time and what follows it."""
        # traced on its own, at sizes that are known, as outcome.py says why
        one = jax.jit(function, inline=True)
        states = jax.vmap(one, (None, 0, *axes))
        return _exported(jax.vmap(states, (0, 0, *axes)), self._draws, self._states, _TIME, *more)


def _exported(function: Callable, *specs: Any) -> Any:
    return jax.export.export(jax.jit(function), platforms=_PLATFORMS)(*specs)


def _family(law: Any) -> Family | None:
    return NORMAL if _is_joint_normal(law) else family_of(law)


def _parameters(law: Any, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Of the law of each entry."""
    if not _is_joint_normal(law):
        return parameters_of(law, shape)
    base = unwrapped(law)
    sd = jnp.sqrt(jnp.sum(base.scale_tril**2, axis=-1))
    return tuple(jnp.broadcast_to(jnp.asarray(each, float), shape) for each in (base.loc, sd))


def _is_joint_normal(law: Any) -> bool:
    return type(unwrapped(law)) is dist.MultivariateNormal


def _probabilities(family: Family | None, parameters: tuple, y: np.ndarray) -> int:
    support = family.support if family else None
    if support is Support.CLASSES:
        return int(parameters[0].shape[-1])
    if support is Support.COUNT:
        top = float(np.max(y))
        return int(min(top, 30) if family is BINOMIAL else min(max(top, 10), 30)) + 1
    return 2 if support is Support.BINARY else 0


def _horizon(model: StateSpace, state: Any, params: Mapping[str, Any], first: int) -> int | None:
    """How many times the model's functions know, where they look into an array by the time, and it ends; None where
    they know any. They know those of the series, and the first to come is `first`."""

    def look(t: Any, others: Any) -> Any:
        x, params = others
        if model.linear is not None:
            return model.linear.step(t, params)
        return [jax.tree.leaves(of(x, t, params)) for of in (model.transition, model.observation)]

    return horizon(look, first, (np.zeros(state.shape, state.dtype), dict(params)))
