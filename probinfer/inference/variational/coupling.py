"""Affine coupling layers: maps of R^d that are cheap both ways and whose Jacobian is a sum. Imports jax only.

A layer bends all coordinates with skewness ε and tail weight exp(τ), then half of them scale and move the others:

    u = sinh((asinh(x) + ε) exp(τ)),   y = u exp(s(m u)) + t(m u) where the mask m is 0, y = u where it is 1

s and t come from a network of one hidden layer. All numbers zero but its first weights: the identity.
Dinh, Sohl-Dickstein & Bengio (2017), ICLR; the bend: Jones & Pewsey (2009), Biometrika 96(4).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Layers = Mapping[str, jax.Array]  # every array with a leading axis of layers

WIDE, WIDE_SHARE = 1.5, 0.1  # scale and share of the wide part of the base law


def identity(
    generator: np.random.Generator, d: int, layers: int, width: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Masks (layers, d), each random one followed by its complement, and the numbers of layers that do nothing yet."""
    masks = []
    for _ in range((layers + 1) // 2):
        half = np.zeros(d)
        half[generator.permutation(d)[: d // 2]] = 1.0
        masks += [half, 1 - half]
    return np.array(masks[:layers]), {
        "inner": generator.standard_normal((layers, d, width)) / np.sqrt(max(1, d // 2)),
        "inner_bias": generator.standard_normal((layers, width)) / 2,
        "outer": np.zeros((layers, width, 2 * d)),
        "outer_bias": np.zeros((layers, 2 * d)),
        "skew": np.zeros((layers, d)),
        "tail": np.zeros((layers, d)),
    }


def log_base(e: jax.Array) -> jax.Array:
    """Log density (n,) of the base law at e (n, d): a mixture of N(0, I) and, with a tenth of the mass, N(0, 1.5² I).

    The bound hardly asks for tails, the weights p / q do: a base with some mass outside keeps them bounded there.
    Hesterberg (1995), Technometrics 37(2).
    """
    d, square = e.shape[1], jnp.sum(e**2, axis=1)
    narrow = jnp.log1p(-WIDE_SHARE) - square / 2
    wide = jnp.log(WIDE_SHARE) - square / (2 * WIDE**2) - d * jnp.log(WIDE)
    return jnp.logaddexp(narrow, wide) - d / 2 * jnp.log(2 * jnp.pi)


def forward(layers: Layers, masks: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images (n, d) of points (n, d), and log |det| of the Jacobian (n,)."""

    def one(carry: tuple, layer: tuple) -> tuple:
        (x, log_det), (own, mask) = carry, _upright(layer)
        bent = (jnp.arcsinh(x) + own["skew"]) * jnp.exp(own["tail"])
        u = jnp.sinh(bent)
        stretch, shift = _network(own, mask, u)
        log_det += _log_bend(x, bent, own["tail"]) + stretch
        return (u * jnp.exp(stretch) + shift, log_det), None

    image, log_det = lax.scan(one, (x.T, jnp.zeros_like(x.T)), (layers, masks))[0]
    return image.T, log_det.sum(axis=0)


def inverse(layers: Layers, masks: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The points (n, d) whose images are y (n, d), and log |det| of the Jacobian of that way back (n,)."""

    def one(carry: tuple, layer: tuple) -> tuple:
        (y, log_det), (own, mask) = carry, _upright(layer)
        stretch, shift = _network(own, mask, y)  # of what the layer left alone
        bent = jnp.arcsinh((y - shift) * jnp.exp(-stretch))
        x = jnp.sinh(bent * jnp.exp(-own["tail"]) - own["skew"])
        log_det -= _log_bend(x, bent, own["tail"]) + stretch
        return (x, log_det), None

    point, log_det = lax.scan(one, (y.T, jnp.zeros_like(y.T)), (layers, masks), reverse=True)[0]
    return point.T, log_det.sum(axis=0)


# Within the layers coordinates come first and points last, (d, n): XLA's loops on a CPU are as fast as the last axis is
# long.


def _upright(layer: tuple[Layers, jax.Array]) -> tuple[Layers, jax.Array]:
    own, mask = layer
    return {name: values.T if values.ndim == 2 else values[:, None] for name, values in own.items()}, mask[:, None]


def _network(own: Layers, mask: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log stretch and shift (d, n) each, zero where the mask is one, from the coordinates where it is."""
    hidden = jnp.tanh(own["inner"] @ (u * mask) + own["inner_bias"])
    stretch, shift = jnp.split(own["outer"] @ hidden + own["outer_bias"], 2)
    return stretch * (1 - mask), shift * (1 - mask)


def _log_bend(x: jax.Array, bent: jax.Array, tail: jax.Array) -> jax.Array:
    """log of d sinh((asinh(x) + ε) exp(τ)) / dx for each coordinate (d, n), `bent` being the argument of sinh."""
    size = jnp.abs(bent)
    log_cosh = size + jnp.log1p(jnp.exp(-2.0 * size)) - jnp.log(2.0)
    return log_cosh + tail - jnp.log1p(x * x) / 2
