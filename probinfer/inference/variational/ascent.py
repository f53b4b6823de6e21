"""Raising the bound of a flow by stochastic gradients, until it no longer rises: how long that takes is not set before.

Gradients are those of the path alone (the law's own density is differentiated through the points only), which are exact
where law and target agree: the noise dies out as the bound is reached. Roeder, Wu & Duvenaud (2017), NeurIPS.
The layers are trained in single precision, in half the time; the target keeps its own. What is trained are numbers like
others, and the law that they make is computed in double precision wherever its density matters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from probinfer.inference.variational.coupling import WIDE, WIDE_SHARE, forward, inverse, log_base
from probinfer.inference.variational.sampled_rows import SampledRows, estimate
from probinfer.model.rows import Rows
from probinfer.model.target import Target

RISE = 0.01  # nats from one window to the next, below which the bound has stopped rising at this rate
BATCH = 256  # points of a step
_BLOCK = 100  # steps of a call of the compiled program
_WINDOW = 3  # blocks whose bounds are compared with those of as many before
_RATES = (1e-2, 2.5e-3, 6e-4, 1.5e-4)  # of Adam, each until the bound has stopped rising
_DTYPE = np.float32  # of layers in training
_CLIP = 100.0  # norm of a gradient, above which it is shortened: far points early on


class Ascended(NamedTuple):
    """Layers, averaged over the last blocks; steps; what the bound rose by at the end; whether that was too little."""

    layers: dict[str, np.ndarray]
    steps: int
    rise: float
    arrived: bool


_ADAM = optax.scale_by_adam(b2=0.99)


def ascend(
    program: Callable,
    target: Target,
    mean: np.ndarray,
    root: np.ndarray,
    masks: np.ndarray,
    layers: dict[str, np.ndarray],
    generator: np.random.Generator,
    max_steps: int,
    progress: Callable[[int, float], None],
    seen: SampledRows | None = None,
) -> Ascended:
    """Train layers on top of z = mean + root x by the `program`, from where they are; `seen`: from rows of it, others
    for each step."""
    with target.precision():
        known = () if seen is None else seen.known_at(mean)
        params, state, seed, _, masks, place, inputs = _arguments(target, mean, root, masks, layers, known)
        bounds: list[float] = []
        errors: list[float] = []
        rise, done, arrived = np.inf, 0, False
        average = layers
        for step, rate in enumerate(_RATES):
            if done >= max_steps:
                break  # what was averaged at the rate before is the answer
            begun = len(bounds)
            while done < max_steps:
                seed = generator.integers(0, 2**32, seed.shape, seed.dtype)
                params, state, block_mean, bound, variance = program(
                    params, state, seed, _DTYPE(rate), masks, place, inputs
                )
                bounds.append(float(bound))
                errors.append(float(np.sqrt(variance)))
                count = len(bounds) - begun
                share = 1 / min(count, 2 * _WINDOW)  # a step goes on being averaged as long as bounds are compared
                average = {
                    name: (1 - share) * average[name] + share * np.asarray(new, float)
                    for name, new in block_mean.items()
                }
                done += _BLOCK
                progress(done, bounds[-1])
                if count >= 2 * _WINDOW:
                    with np.errstate(invalid="ignore"):  # bounds that are not finite yet: not arrived
                        rise = float(np.mean(bounds[-_WINDOW:]) - np.mean(bounds[-2 * _WINDOW : -_WINDOW]))
                        noise = float(np.sqrt(np.sum(np.square(errors[-2 * _WINDOW :])))) / _WINDOW
                    if rise < max(RISE, 2 * noise):
                        arrived = step == len(_RATES) - 1
                        break
        return Ascended(average, done, rise, arrived)


def steps_program(
    target: Target, masks: np.ndarray, layers: dict[str, np.ndarray], seen: SampledRows | None = None
) -> Callable:
    """The compiled program of `ascend` for layers of this kind, wherever they begin."""
    rows = None if seen is None else seen.rows
    with target.precision():
        somewhere, known = (np.zeros(target.dim), np.eye(target.dim)), () if seen is None else seen.nothing_known()
        arguments = _arguments(target, *somewhere, masks, layers, known)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
        size = " ".join(map(str, layers["inner"].shape))
        of = "" if rows is None else f" rows {rows.batch} of {rows.count}"
        return target.compile(f"flow {size} {BATCH} {_BLOCK}{of}", _steps(target, rows), *shapes)


def _arguments(
    target: Target, mean: np.ndarray, root: np.ndarray, masks: np.ndarray, layers: dict[str, np.ndarray], known: Any
) -> tuple:
    """What the program begins with: layers, state, seed, rate, masks, place, inputs. All but the inputs of NumPy: an
    operation of JAX by itself is a program to compile."""
    place = (mean, root, np.linalg.slogdet(root)[1], known)
    place = jax.tree.map(lambda a: np.asarray(a, target.dtype), place)
    params, masks = jax.tree.map(lambda a: np.asarray(a, _DTYPE), (layers, masks))
    state = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(_ADAM.init, params))
    return params, state, np.zeros(2, np.uint32), _DTYPE(_RATES[0]), masks, place, target.inputs


def _steps(target: Target, rows: Rows | None) -> Callable:
    """The function to compile: steps of Adam, the mean of the layers over them, the mean bound and its variance."""
    clip = optax.clip_by_global_norm(_CLIP)

    def at(z: jax.Array, inputs: Any, known: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        if rows is None:
            return jax.vmap(target.value_and_grad, (0, None))(z, inputs)
        chosen = jax.random.randint(key, (rows.batch,), 0, rows.count)
        taken = {name: inputs[name][chosen] for name in rows.by_row}
        return estimate(rows, z, taken, {name: inputs[name] for name in inputs if name not in taken}, known)

    def loss(
        layers: Any, masks: jax.Array, white: jax.Array, place: tuple, inputs: Any, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        mean, root, scale, known = place
        x, log_det = forward(layers, masks, white)
        z = mean + x.astype(mean.dtype) @ root.T
        value, slope = at(lax.stop_gradient(z), inputs, known, key)
        usable = jnp.isfinite(value) & jnp.isfinite(slope).all(axis=1)
        back, log_back = inverse(lax.stop_gradient(layers), masks, x)
        log_law = log_base(back) + log_back
        uphill = jnp.sum(z * jnp.where(usable[:, None], slope, 0.0), axis=1)
        bound = value - log_base(white) + log_det + scale
        return jnp.mean(jnp.where(usable, log_law - uphill, 0.0)), jnp.where(usable, bound, jnp.nan)

    def steps(
        layers: Any,
        state: Any,
        seed: jax.Array,
        rate: jax.Array,
        masks: jax.Array,
        place: tuple,
        inputs: Any,
    ) -> tuple:
        d = masks.shape[1]

        def one(carry: tuple, key: jax.Array) -> tuple:
            layers, state, total = carry
            for_size, for_points, for_rows = (*jax.random.split(key), jax.random.fold_in(key, 2))
            wide = jax.random.bernoulli(for_size, WIDE_SHARE, (BATCH // 2, 1))
            half = jnp.where(wide, _DTYPE(WIDE), _DTYPE(1.0)) * jax.random.normal(for_points, (d, BATCH // 2), _DTYPE).T
            (_, bounds), slopes = jax.value_and_grad(loss, has_aux=True)(
                layers, masks, jnp.concatenate([half, -half]), place, inputs, for_rows
            )
            slopes = jax.tree.map(lambda a: jnp.where(jnp.isfinite(a), a, 0.0).astype(place[0].dtype), slopes)
            slopes = clip.update(slopes, clip.init(layers))[0]  # whose squares would overflow in single precision
            change, state = _ADAM.update(jax.tree.map(lambda a: a.astype(_DTYPE), slopes), state, layers)
            layers = jax.tree.map(lambda a, b: a - rate * b, layers, change)
            total = jax.tree.map(jnp.add, total, layers)
            return (layers, state, total), (jnp.nanmean(bounds), jnp.nanvar(bounds) / BATCH)

        zeros = jax.tree.map(jnp.zeros_like, layers)
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        (layers, state, total), (bounds, variances) = lax.scan(
            one, (layers, state, zeros), jax.random.split(key, _BLOCK)
        )
        return (
            layers,
            state,
            jax.tree.map(lambda a: a / _BLOCK, total),
            jnp.nanmean(bounds),
            (jnp.nanmean(variances) if rows is None else jnp.nanvar(bounds)) / _BLOCK,  # a step's points share its rows
        )

    return steps
