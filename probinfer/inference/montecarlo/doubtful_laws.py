"""Whether the laws of a state-space model are laws, and their densities numbers, at the states that particles come to.

Particles keep away from where they are not, without a word: a weight that is NaN counts as zero.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.inference.mcmc.nearby import points_near
from probinfer.inference.montecarlo.marginal import Marginal
from probinfer.inference.montecarlo.particle import ParticleFilter, passes
from probinfer.inference.montecarlo.particle_pass import Doubt, Keep
from probinfer.inference.undefined import short
from probinfer.model.linear_gaussian import Parameters
from probinfer.model.statespace import Series, StateSpace

PARTICLES = 256  # of a run, at most
_SETS = 8  # of parameters, at most
_POINTS = 32  # close to the draws of Markov chains


class Undefined(NamedTuple):
    """The time at which most of the particles have a weight that is no number."""

    share: float  # of the particles of that time
    time: int
    times: int  # how many times have such particles
    place: str  # one of the states, in words


def undefined_laws(
    model: StateSpace, method: ParticleFilter, series: Series, params: Parameters, key: np.ndarray
) -> Undefined | None:
    """Of a few particles, for sets of parameters (S, ...); None where everything is a number."""
    count = len(next(iter(params.values()))) if params else method.runs
    rows = np.linspace(0, count - 1, min(count, _SETS)).astype(int)
    few = {name: value[rows] for name, value in params.items()}
    found = passes(model, method, series, few, key, keep=Keep.DOUBT, particles=min(method.particles, PARTICLES))
    return worst_of(found.doubt)


def worst_of(doubt: Doubt) -> Undefined | None:
    """doubt: each part with first axes (S, T)."""
    shares = np.asarray(doubt.share, float)
    by_time = shares.mean(axis=0)
    if not by_time.any():
        return None
    t = int(np.argmax(by_time))
    s = int(np.argmax(shares[:, t]))
    state = short(doubt.state[s, t])
    if not doubt.moved[s, t]:
        place = f"the observation's law at time {t}, state {state}"
    else:
        place = f"the transition to time {t} from state {state}" if t else "the law of the first state"
    return Undefined(float(by_time[t]), t, int((by_time > 0).sum()), place)


def undefined_nearby(marginal: Marginal, positions: np.ndarray, key: np.ndarray) -> dict[str, Any]:
    """Facts for the tree, as those of `mcmc.nearby`: of particles at parameters close to draws (chain, draw, d)."""
    target, dim = marginal.target, marginal.dim
    flat = positions.reshape(-1, positions.shape[-1])[:, :dim]
    generator = np.random.default_rng([*np.asarray(key).tolist(), 2])
    points = np.zeros((_POINTS, target.dim))
    points[:, :dim] = points_near(flat, flat, _POINTS, generator)[1]
    words = generator.integers(0, 2**32, (_POINTS, marginal.blocks, 2), dtype=np.uint32)
    program = _program(marginal)
    with target.precision():
        found = [program(z.astype(target.dtype), w, target.inputs) for z, w in zip(points, words, strict=True)]
        values = target.constrain(points[None], deterministics=False)
    doubt, wrong = jax.tree.map(lambda *parts: np.stack(parts), *found)
    shares = np.maximum(np.asarray(doubt.share, float).max(axis=1), wrong)
    if not shares.any():
        return {}
    worst = int(np.argmax(shares))
    one = worst_of(jax.tree.map(lambda part: part[worst : worst + 1], doubt))
    where = ", ".join(f"{name} = {short(values[name][0, worst])}" for name in marginal.model.prior)
    place = f"{where}: {'the prior' if one is None else one.place}"
    return {"undefined": float(shares.mean()), "undefined_at": place}


def _program(marginal: Marginal) -> Any:
    target = marginal.target

    def look(z: jax.Array, words: jax.Array, inputs: Mapping[str, Any]) -> tuple[Doubt, jax.Array]:
        doubt = marginal.doubt(z, words, inputs, PARTICLES)
        return doubt, jnp.isnan(marginal.log_prior(z)).astype(float)

    point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
    words = jax.ShapeDtypeStruct((marginal.blocks, 2), jnp.uint32)
    return target.compile(f"doubtful laws {marginal.name}", look, point, words, target.inputs)
