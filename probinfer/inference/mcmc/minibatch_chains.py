"""Chains that look at a few rows of the data for each step and never reject: their loop, whatever a step does."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.errors import MethodError
from probinfer.inference.draws import Draws
from probinfer.inference.mcmc.stochastic import AllRows, Anchor, find_anchor, gradient_from
from probinfer.inference.method import Run
from probinfer.inference.settings import settings_of
from probinfer.model.rows import Rows
from probinfer.model.target import Target

_USUAL_BATCH = 256
_POINTS, _BATCHES = 8, 32  # where, and from how many minibatches each, the noise of the gradient is measured
_BYTES = 2**25  # of the rows of one call
_TOGETHER = 20  # draws of one call, at most
_WARMUP = 100
_MOST_NOISE = 1e6  # variance of the gradient from a minibatch, over its own in the posterior: more is no noise of rows
_MOST_BETWEEN = 100_000  # steps between two draws: with more a run does not end


@dataclass(frozen=True)
class Scheme:
    """What a method does in a step, in coordinates x in which the posterior is about N(0, I).

    name: of the compiled program.
    vectors: of d numbers each that a chain's state has, standard normal at its start; the first is x.
    step: (state (vectors, d), gradient at x (d,), standard normals (d,), step size) -> state, and numbers (..., d) that
        tell the bias.
    bias: the means of those between draws (chain, draw, ..., d) and the step size -> by how much each variance is too
        large, relatively (d,).
    size: the variance of the gradient's noise -> the step size.
    """

    name: str
    vectors: int
    step: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    bias: Callable[[np.ndarray, float], np.ndarray]
    size: Callable[[float], float]


def run_scheme(method: Any, scheme: Scheme, target: Target, run: Run) -> Draws:
    """Draws of a method with the settings `minibatch`, `chains` and `draws`; 2 / step size steps lie between them."""
    began = time.perf_counter()
    name = type(method).__name__
    observed = target.bound.observed
    longest = observed[0].shape[0] if observed and observed[0].shape else 0
    rows = Rows(target, min(_USUAL_BATCH, longest) if method.minibatch is None else method.minibatch, name)
    seeds = np.random.SeedSequence(run.key.tolist()).spawn(method.chains + 1)
    generator = np.random.default_rng(seeds[-1])
    everything = AllRows(rows, target)
    anchor = find_anchor(everything, target, generator)
    found = time.perf_counter() - began
    noise = gradient_noise(rows, target, anchor, generator)
    size = float(scheme.size(noise))
    if not (noise <= _MOST_NOISE and size * _MOST_BETWEEN >= 2):
        raise MethodError(
            f"{name}: around the mode the gradient from {rows.batch} of {rows.count} rows has a noise of {noise:.2g} "
            f"times its own variance, for which no step is small enough: the posterior is no peak there, or the rows "
            "are too few to say what it is. Use pi.NUTS(), or tighter priors."
        )
    between = int(np.ceil(2 / size))
    place = _Place(rows, target, anchor, scheme, size, between)
    label = f"step size {size:.2g}"
    chains = []
    for chain, seed in enumerate(seeds[:-1]):

        def show(done: float, chain: int = chain) -> None:
            run.progress.update(chain * method.draws + int(done * method.draws), method.chains * method.draws, label)

        chains.append(_chain(place, method.draws, np.random.default_rng(seed), show))
    bias = scheme.bias(np.stack([each.told for each in chains]), size)
    return Draws(
        positions=np.stack([each.positions for each in chains]),
        stats={},
        method=name,
        settings={**settings_of(method), "minibatch": rows.batch},
        seconds={"mode": found, "sampling": time.perf_counter() - began - found},
        facts={
            "step_bias": float(np.max(bias)),
            "step_size": size,
            "steps_between_draws": between,
            "gradient_noise": noise,
            "passes": everything.passes,
        },
    )


def gradient_noise(rows: Rows, target: Target, anchor: Anchor, generator: np.random.Generator) -> float:
    """Variance of the gradient from a minibatch, in white coordinates: the largest of all directions, on average over
    points around the anchor."""
    whole, dtype = rows.whole, target.dtype
    with target.precision():
        place = (jnp.asarray(anchor.position, dtype), jnp.asarray(anchor.gradient, dtype))
        gradient = jax.jit(jax.vmap(lambda z, taken: gradient_from(rows, place)(z, taken, whole), in_axes=(None, 0)))
        variances = []
        for _ in range(_POINTS):
            z = anchor.position + anchor.root @ generator.standard_normal(target.dim)
            taken = rows.take(generator.integers(0, rows.count, (_BATCHES, rows.batch)))
            slopes = np.asarray(gradient(z.astype(dtype), taken), float) @ anchor.root
            variances.append(slopes.var(axis=0, ddof=1))
    return float(np.max(np.mean(variances, axis=0)))


class _Place(NamedTuple):
    """All that the chains of a run share."""

    rows: Rows
    target: Target
    anchor: Anchor
    scheme: Scheme
    size: float
    between: int


class _Chain(NamedTuple):
    """Draws (draw, d), and the means of what the steps up to each told of the bias (draw, ..., d)."""

    positions: np.ndarray
    told: np.ndarray


def _chain(place: _Place, draws: int, generator: np.random.Generator, show: Callable[[float], None]) -> _Chain:
    """One chain from a point of the normal law at the anchor; the first draws are left out."""
    rows, target, anchor, between = place.rows, place.target, place.anchor, place.between
    dtype, whole, d = target.dtype, rows.whole, target.dim
    each = sum(part.nbytes for part in rows.take(np.zeros((1, rows.batch), int)).values())
    together = int(np.clip(_BYTES // max(1, between * each), 1, _TOGETHER))
    with target.precision():
        fixed = jax.tree.map(
            lambda a: jnp.asarray(a, dtype), (anchor.position, anchor.gradient, anchor.root, place.size)
        )
        program = _program(place, together)
        state = generator.standard_normal((place.scheme.vectors, d)).astype(dtype)
        kept, told = [], []
        total = _WARMUP + draws
        for start in range(0, total, together):
            taken = rows.take(generator.integers(0, rows.count, (together, between, rows.batch)))
            push = generator.standard_normal((together, between, d)).astype(dtype)
            state, points, numbers = program(state, push, taken, whole, fixed)
            kept.append(np.asarray(points, float))
            told.append(np.asarray(numbers, float))
            show(min(start + together, total) / total)
    chosen = slice(_WARMUP, total)
    white = np.concatenate(kept)[chosen]
    return _Chain(anchor.position + white @ anchor.root.T, np.concatenate(told)[chosen])


def _program(place: _Place, together: int) -> Any:
    """The executable that makes `together` draws: (state, push, taken, whole, fixed) -> (state, points, told)."""
    rows, target, between, scheme = place.rows, place.target, place.between, place.scheme

    def several(state: jax.Array, push: jax.Array, taken: Any, whole: Any, fixed: Any) -> tuple:
        position, slope, root, size = fixed
        gradient = gradient_from(rows, (position, slope))

        def one(state: jax.Array, given: tuple) -> tuple:
            pushed, part = given
            return scheme.step(state, root.T @ gradient(position + root @ state[0], part, whole), pushed, size)

        def draw(state: jax.Array, given: tuple) -> tuple:
            state, told = lax.scan(one, state, given)
            return state, (state[0], told.mean(axis=0))

        state, (points, told) = lax.scan(draw, state, (push, taken))
        return state, points, told

    dtype, d = target.dtype, target.dim

    def shape(*size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype)

    taken = rows.shapes(together, between, rows.batch)
    fixed = (shape(d), shape(d), shape(d, d), shape())
    name = f"{scheme.name} {rows.batch} of {rows.count}, {together} x {between}"
    return target.compile(
        name, several, shape(scheme.vectors, d), shape(together, between, d), taken, rows.whole, fixed
    )
