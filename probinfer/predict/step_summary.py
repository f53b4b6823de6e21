"""The predictive distribution of one time, in numbers: a mixture over posterior draws and their states. Imports jax.

Shapes: S draws, M states of each, E entries of an observation, Q levels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.predict import mixture
from probinfer.predict.family import Support
from probinfer.predict.motion import Motion, Outcomes
from probinfer.predict.shortest import shortest
from probinfer.predict.weights import Weights, average

MOMENTS = ("mean", "sd", "epistemic_sd", "aleatoric_sd", "mcse")  # of a summary, one number for each entry
WIDTHS = (4, 8)  # so many quantiles are computed at once: few shapes, as each is compiled


class Summary(NamedTuple):
    """What is said of every entry: (E,) each; quantiles (E, Q), probabilities (E, k), entropies (E, 3), the `ends`
    (E, 2) of the shortest interval, and `sets` (E, k) of classes."""

    mean: Any
    sd: Any
    epistemic_sd: Any
    aleatoric_sd: Any
    mcse: Any
    quantiles: Any
    defined: Any
    probabilities: Any = None
    entropies: Any = None
    ends: Any = None
    sets: Any = None


@dataclass(frozen=True, eq=False)
class _Inside(Weights):
    """Weights within a compiled program, where their values are not known yet; they were checked before."""

    def __post_init__(self) -> None:
        pass

    def copied(self, copies: int) -> Weights:
        """As `Weights.copied`."""
        values: Any = jnp.tile(self.values, copies) / copies
        return _Inside(values, self.mean_error)


def summarise(
    motion: Motion, outcomes: Outcomes, weights: np.ndarray, levels: np.ndarray, shortest_of: float | None
) -> Summary:
    """Summaries of the observations of one time. weights (S,), of the draws; levels (Q,), or (E, Q) where every entry
    has its own. shortest_of: level of that interval."""
    levels = np.broadcast_to(levels, (entries_of(motion), levels.shape[-1]))
    if outcomes.drawn is not None:
        return _of_draws(motion, outcomes.drawn, weights, levels)
    parts = []
    for start in range(0, levels.shape[1], WIDTHS[-1]):
        piece = levels[:, start : start + WIDTHS[-1]]
        width = next(width for width in WIDTHS if piece.shape[1] <= width)
        wider = np.concatenate([piece, np.full((len(piece), width - piece.shape[1]), 0.5)], axis=1)
        found = _in_shape(motion, outcomes, weights, wider, shortest_of)
        parts.append(found._replace(quantiles=found.quantiles[:, : piece.shape[1]]))
    return parts[0]._replace(quantiles=np.concatenate([part.quantiles for part in parts], axis=1))


def _in_shape(
    motion: Motion, outcomes: Outcomes, weights: np.ndarray, levels: np.ndarray, shortest_of: float | None
) -> Summary:
    level = 0.0 if shortest_of is None else shortest_of
    kind = {"hdi": int(shortest_of is not None)}
    found = motion.call(_of_family, outcomes.parameters, weights, levels, level, search=0, **kind)
    if motion.discrete and np.any(found.quantiles < 0):  # counts beyond the sums
        found = motion.call(_of_family, outcomes.parameters, weights, levels, level, search=1, **kind)
    return found


def cdf(motion: Motion, outcomes: Outcomes, weights: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(Y <= y) and P(Y < y) of the observation of one time, (*event, 2), by its law. weights (S,), of the draws."""
    if outcomes.drawn is None:
        return motion.call(_cdf, outcomes.parameters, weights, y.astype(float)).reshape(*y.shape, 2)
    x = outcomes.drawn.reshape(*outcomes.drawn.shape[:2], -1)  # (S, M, E)
    both = [np.mean(below, axis=1).T @ weights for below in (x <= y.reshape(-1), x < y.reshape(-1))]
    return np.stack(both, axis=-1).reshape(*y.shape, 2)


def _cdf(motion: Motion, parameters: tuple, weights: Any, y: Any) -> jax.Array:
    flat, at = y.reshape(-1), cdf_at(motion, parameters, weights)
    upto = at(flat)
    if not motion.discrete:
        return jnp.stack([upto, upto], axis=-1)
    return jnp.stack([upto, jnp.where(flat >= 1.0, at(jnp.maximum(flat - 1.0, 0.0)), 0.0)], axis=-1)


def cdf_at(motion: Motion, parameters: tuple, weights: Any) -> Callable[[jax.Array], jax.Array]:
    """The cdf of every entry at a point of each (E,), within a compiled program."""
    family = motion.family
    assert family is not None
    inside = _Inside(weights, 0.0).copied(parameters[0].shape[1])
    own = [_flat(p, entries_of(motion), len(motion.event)) for p in parameters]
    return lambda points: average(family.cdf(points[:, None], *own), inside)


def log_density(motion: Motion, outcomes: Outcomes, weights: np.ndarray, y: np.ndarray) -> float:
    """log p of the observation of one time, one number, by a law with a closed form."""
    return float(motion.call(_log_density, outcomes.parameters, weights, y.astype(float))[0])


def _log_density(motion: Motion, parameters: tuple, weights: Any, y: Any) -> jax.Array:
    family = motion.family
    assert family is not None
    inside = _Inside(weights, 0.0).copied(parameters[0].shape[1])
    own = [_flat(p, entries_of(motion), len(motion.event)) for p in parameters]
    return mixture.log_predictive_density(family, own, y.reshape(-1), inside)


def entries_of(motion: Motion) -> int:
    """How many numbers an observation has."""
    return int(np.prod(motion.event, dtype=int))


def compile_summaries(motion: Motion, outcomes: Outcomes, weights: np.ndarray) -> None:
    """Compile what `summarise` needs for outcomes of these shapes, but for the shortest interval."""
    if outcomes.drawn is not None:
        _of_draws(motion, outcomes.drawn, weights, np.full((entries_of(motion), 1), 0.5))
        return
    counts = motion.family is not None and motion.family.support is Support.COUNT
    for width in WIDTHS:
        for search in (0, 1) if counts else (0,):
            levels = np.full((entries_of(motion), width), 0.5)
            motion.call(_of_family, outcomes.parameters, weights, levels, 0.0, search=search, hdi=0)


def _of_family(
    motion: Motion, parameters: tuple, weights: Any, levels: Any, level: Any, *, search: int, hdi: int
) -> Summary:
    family = motion.family
    assert family is not None
    draws, states = parameters[0].shape[:2]
    entries = entries_of(motion)
    flat = [_flat(p, entries, len(motion.event)) for p in parameters]
    inside = _Inside(weights, 0.0)
    found = mixture.summarise(family, flat, levels, None, inside, search_counts=bool(search), copies=states)
    apart = family.mean(*flat).reshape(entries, states, draws)
    means = jnp.mean(apart, axis=1)
    # the mean over a draw's M states is off by Var / M, which is no doubt about the parameters
    noise = weights * (1 - weights) * jnp.var(apart, axis=1, ddof=1) / states if states > 1 else jnp.zeros_like(means)
    epistemic = jnp.maximum(found.epistemic_variance - jnp.sum(noise, axis=1), 0.0)
    every = inside.copied(states)
    some = mixture.probabilities(family, flat, motion.probabilities, every) if motion.probabilities else None
    aleatoric = found.aleatoric_variance + (found.epistemic_variance - epistemic)
    return Summary(
        found.mean,
        *mixture.both_sds(epistemic, aleatoric),
        mcse=_mcse(means, found.mean, weights, motion.chains),
        quantiles=found.quantiles,
        defined=found.defined,
        probabilities=some,
        entropies=mixture.entropies(family, flat, inside, states),
        ends=shortest(family, flat, jnp.broadcast_to(level, entries), every) if hdi else None,
    )


def _flat(parameter: jax.Array, entries: int, axes: int) -> jax.Array:
    """(S, M, *event, …) as (E, M S, …): all draws' first states, then their second ones, and so on."""
    draws, states = parameter.shape[:2]
    classes = parameter.shape[2 + axes :]
    moved = parameter.reshape(draws, states, entries, *classes)
    return jnp.moveaxis(moved, (2, 1, 0), (0, 1, 2)).reshape(entries, states * draws, *classes)


def _mcse(means: jax.Array, mean: jax.Array, weights: jax.Array, chains: int | None) -> jax.Array:
    """Monte Carlo error of the weighted mean over draws, by how much each of them moves it: S w_s (mean_s - mean). The
    noise of a draw's particles is its own, and so is within."""
    return mixture.mean_mcse(weights * means.shape[1] * (means - mean[:, None]), chains)


def _error(motion: Motion, means: Any, mean: Any, weights: Any) -> jax.Array:
    return _mcse(means, mean, weights, motion.chains)


def _of_draws(motion: Motion, drawn: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> Summary:
    """Of observations (S, M, *event) that were drawn, one of each state."""
    draws, states = drawn.shape[:2]
    x = np.moveaxis(drawn.reshape(draws, states, -1), 2, 0)  # (E, S, M)
    means = x.mean(axis=2)
    mean = means @ weights
    total = ((x - mean[:, None, None]) ** 2).mean(axis=2) @ weights
    noise = weights * (1 - weights) * x.var(axis=2, ddof=1) / states if states > 1 else np.zeros_like(means)
    epistemic = np.maximum((means - mean[:, None]) ** 2 @ weights - noise.sum(axis=1), 0.0)
    each = np.repeat(weights / states, states)
    return Summary(
        mean=mean,
        sd=np.sqrt(total),
        epistemic_sd=np.sqrt(epistemic),
        aleatoric_sd=np.sqrt(total - epistemic),
        mcse=motion.call(_error, means, mean, weights),
        quantiles=np.stack([_quantiles(row.ravel(), each, own) for row, own in zip(x, levels, strict=True)]),
        defined=np.isfinite(x).all(axis=(1, 2)),
    )


def _quantiles(x: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The smallest value whose cumulated weight reaches the level."""
    order = np.argsort(x)
    ends = np.cumsum(weights[order])
    return x[order[np.minimum(np.searchsorted(ends, levels * ends[-1] - 1e-12), len(x) - 1)]]
