"""PIT and CRPS of each row: from the mixture's own cdf where it has one, else from predictive draws. Imports jax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.predict.engine import Engine
from probinfer.predict.family import Support
from probinfer.predict.population import engine_of
from probinfer.predict.predictor import Predictor
from probinfer.predict.program import PARAMETERS, Program
from probinfer.predict.rows import read_rows
from probinfer.predict.weights import average

# Ends of the panels between which the cdf is integrated, as quantiles; each holds a Gauss-Legendre rule.
_TAIL = (1e-8, 1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.08)
PANELS = (*_TAIL, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, *(1 - u for u in reversed(_TAIL)))
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
MOST_COUNTS = 512  # between the quantiles 1e-8 and 1 - 1e-8 of a count, for the exact sum
DRAWS = 1000  # predictive draws where there is no cdf


class Transform(NamedTuple):
    """For each row: `pit`, uniform if the prediction is right; `crps`; `how` the latter was found."""

    pit: np.ndarray
    crps: np.ndarray
    how: str


def transform(predictor: Predictor, rows: Any, y: np.ndarray, seed: int = 0) -> Transform:
    """PIT and CRPS of outcomes y (rows,), one number per row.

        PIT = F(y),  of whole numbers F(y - 1) + v P(Y = y) with v uniform (from `seed`)
        CRPS = integral of (F(x) - 1{x >= y})^2 dx,  of whole numbers the sum over k

    F is the mixture's exact cdf; the integral is taken by Gauss and Legendre's rule between its quantiles, y among
    them. Without a cdf: rank among predictive draws, and mean |X - y| - mean |X - X'| / 2 without bias.
    Gneiting & Raftery (2007), JASA 102; Czado, Gneiting & Held (2009), Biometrics 65.
    """
    program, family = predictor.program, predictor.program.family
    v = np.random.default_rng(seed).random(len(y))
    if family is None or family.support is Support.CLASSES:
        return _from_draws(predictor, rows, y, v, seed)
    columns, _ = read_rows(rows, program)
    engine = engine_of(program)
    if not family.support.discrete:
        edges = _quantiles(engine, columns, len(y), PANELS)
        both = engine.of_outcomes(_continuous, columns, np.concatenate([y[:, None], edges], axis=1))
        return Transform(both[:, 0], both[:, 1], "exact")
    low, high = _quantiles(engine, columns, len(y), (1e-8, 1 - 1e-8)).T
    low, high = np.minimum(low, y), np.maximum(high, y)
    if np.max(high - low, initial=0) > MOST_COUNTS:
        answer = engine.of_outcomes(_steps, columns, y)
        crps = crps_of_draws(predictor.sample(rows, DRAWS, seed), y)
        return Transform(answer[:, 0] + v * (answer[:, 1] - answer[:, 0]), crps, f"{DRAWS} draws")
    answer = engine.of_outcomes(_counts, columns, np.stack([y, low, high], axis=1))
    return Transform(answer[:, 0] + v * (answer[:, 1] - answer[:, 0]), answer[:, 2], "exact")


def crps_of_draws(draws: np.ndarray, y: np.ndarray) -> np.ndarray:
    """CRPS of each row from draws (draws, rows), without the bias of few draws:

    1/m sum |x_i - y| - 1/(2 m (m - 1)) sum over i, j of |x_i - x_j|, the second sum by sorting.
    """
    count = len(draws)
    ordered = np.sort(draws.astype(float), axis=0)
    weights = 2 * np.arange(1, count + 1) - count - 1
    spread = weights @ ordered / (count * max(count - 1, 1))
    return np.abs(ordered - y).mean(axis=0) - spread


def _from_draws(predictor: Predictor, rows: Any, y: np.ndarray, v: np.ndarray, seed: int) -> Transform:
    draws = predictor.sample(rows, DRAWS, seed)
    below, equal = (draws < y).sum(axis=0), (draws == y).sum(axis=0)
    return Transform((below + v * (equal + 1)) / (DRAWS + 1), crps_of_draws(draws, y), f"{DRAWS} draws")


def _quantiles(engine: Engine, columns: Any, count: int, levels: tuple[float, ...]) -> np.ndarray:
    return engine.summarise(columns, np.zeros(count, np.uint32), np.array(levels)).quantiles


# what is compiled ----------------------------------------------------------------------------------------------------


def _mixture_cdf(program: Program, draws: dict, fixed: dict, rows: dict) -> Any:
    """F of every row at points (n, m), one column at a time so that memory stays that of rows x draws."""
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    family = program.family
    assert family is not None

    def at(points: jax.Array) -> jax.Array:
        one = lambda column: average(family.cdf(column[:, None], *parameters), program.weights)  # noqa: E731
        return lax.map(one, points.T).T

    return at


def _continuous(program: Program, draws: dict, fixed: dict, rows: dict, along: jax.Array) -> jax.Array:
    return integrated(_mixture_cdf(program, draws, fixed, rows), along)


def integrated(cdf: Callable[[jax.Array], jax.Array], along: jax.Array) -> jax.Array:
    """F(y) and CRPS (n, 2), from the cdf of every row at points (n, m); along (n, …): y, then the panels' ends."""
    y, ends = along[:, :1], jnp.sort(along, axis=1)
    half = (ends[:, 1:] - ends[:, :-1]) / 2
    points = (ends[:, 1:] - half)[:, :, None] + half[:, :, None] * _NODES
    flat = points.reshape(len(points), -1)
    values = cdf(jnp.concatenate([y, flat], axis=1))
    apart = (values[:, 1:] - (flat >= y)) ** 2
    crps = (apart.reshape(points.shape) * (half[:, :, None] * _WEIGHTS)).sum(axis=(1, 2))
    return jnp.stack([values[:, 0], crps], axis=1)


def _steps(program: Program, draws: dict, fixed: dict, rows: dict, y: jax.Array) -> jax.Array:
    return _before(_mixture_cdf(program, draws, fixed, rows), y)


def _before(cdf: Any, y: jax.Array) -> jax.Array:
    values = cdf(jnp.stack([jnp.maximum(y - 1, 0), y], axis=1))
    return jnp.where((y >= 1)[:, None], values, values * jnp.array([0.0, 1.0]))


def _counts(program: Program, draws: dict, fixed: dict, rows: dict, along: jax.Array) -> jax.Array:
    return summed(_mixture_cdf(program, draws, fixed, rows), along)


def summed(cdf: Callable[[jax.Array], jax.Array], along: jax.Array) -> jax.Array:
    """F(y - 1), F(y) and CRPS (n, 3) of whole numbers, from their cdf; along (n, 3): y, and the first and last number
    that matter."""
    y, low, high = along.T
    steps = jnp.arange(MOST_COUNTS + 1)

    def add(total: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
        k = low + step
        term = (cdf(k[:, None])[:, 0] - (k >= y)) ** 2
        return total + jnp.where(k < high, term, 0.0), None

    def body(state: tuple) -> tuple:
        step, total = state
        return step + 1, add(total, step)[0]

    longest = jnp.max(high - low)
    _, crps = lax.while_loop(lambda s: s[0] < jnp.minimum(longest, steps[-1]), body, (0, jnp.zeros_like(y)))
    return jnp.concatenate([_before(cdf, y), crps[:, None]], axis=1)
