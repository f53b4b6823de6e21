"""The fewest weighted draws that give a predictor's answers, and the proof that they do. Imports jax and numpy.

What a posterior draw has to say about some rows is a long vector: the mean and variance of each row's outcome, and its
cdf at each row's quantiles. Every summary of a prediction is a smooth function of the average of these vectors over
the draws. So a few draws with weights whose average is the same give the same predictions. They are found by
`nearest_combinations`, and judged on rows that had no part in it, by the predictions themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.errors import PredictionError
from probinfer.model.one_thread import one_blas_thread
from probinfer.predict import mixture
from probinfer.predict.engine import Answer, Engine
from probinfer.predict.family import Family, Support
from probinfer.predict.nearest import nearest_combinations
from probinfer.predict.program import PARAMETERS, Program
from probinfer.predict.weights import Weights, average

LEVELS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.975, 0.995)
_BETWEEN = (0.01, 0.035, 0.07, 0.15, 0.27, 0.42, 0.58, 0.73, 0.85, 0.93, 0.965, 0.99)  # looked at only to judge
LEAST_ROWS = 30
_MOST_REFERENCE, _MOST_HELD_OUT, _MOST_WATCHED = 1024, 1000, 192  # numbers: rows × entries of an outcome
_SKETCH = 512
_SUMMARIES = 5  # mean, sd, its two parts; the law itself
_ROUNDS = 4
_CHUNK = 8  # rows whose vectors are in memory together
_MARGIN = 0.8  # of the tolerance, where the linear forecast of the errors must be before they are measured
_GROWTH = 1.15  # after a measurement that failed


@dataclass(frozen=True)
class Compression:
    """What compressing a predictor cost, measured on rows that had no part in choosing the draws.

    before, after     draws
    tolerance         largest error allowed
    errors            the largest error of each summary: `mean`, `sd`, `epistemic_sd`, `aleatoric_sd` and, of continuous
                      outcomes, `quantiles` in units of the row's predictive sd; of whole numbers `cdf` and
                      `probabilities` as probabilities
    reference_rows    rows by which the draws were chosen
    held_out_rows     rows on which the errors were measured
    """

    before: int
    after: int
    tolerance: float
    errors: Mapping[str, float]
    reference_rows: int
    held_out_rows: int

    @property
    def error(self) -> float:
        """The largest of all errors."""
        return max(self.errors.values())

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
        return (
            f"{self.after} weighted draws for {self.before}; on {self.held_out_rows} rows held out within "
            f"{self.error:.2g} ({worst}), {self.tolerance:g} allowed"
        )

    def words(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compression_lines(words: Any) -> list[str]:
    """What `inspect` says, from the manifest."""
    return [f"  compressed {Compression(**words)}"] if words else []


class Asked(NamedTuple):
    """A program, and rows for which it is to keep its answers."""

    program: Program
    columns: Mapping[str, np.ndarray]
    count: int


def compress(
    program: Program, columns: Mapping[str, np.ndarray], count: int, tolerance: float
) -> tuple[Program, Compression]:
    """The program with the fewest draws that were found. See `Predictor.compress`."""
    return compress_together([Asked(program, columns, count)], tolerance)[0]


def compress_together(asked: Sequence[Asked], tolerance: float) -> list[tuple[Program, Compression]]:
    """Programs of the same posterior draws with the fewest of them, the same and of the same weights for all."""
    distinct = []
    for program, columns, count in asked:
        if program.family is None:
            raise PredictionError(
                f"{program.outcome} has a law without a closed form, which is answered from predictive draws; fewer "
                "posterior draws would not make it cheaper. Only predictors with a law of a family can be compressed."
            )
        if program.weights is not None:
            raise PredictionError("The predictor is compressed already; compress the one it was made from.")
        columns, count = _distinct(columns, count)
        if count < LEAST_ROWS and program.inputs:
            raise PredictionError(
                f"There are {count} different rows; wanted {LEAST_ROWS} or more, like those to be predicted: a third "
                "of them is held out to measure the errors."
            )
        distinct.append(Asked(program, columns, count))
    with one_blas_thread():  # the matrices are small: more threads only wait for each other
        return _compress([_Part.of(*one) for one in distinct], tolerance)


@dataclass(frozen=True, eq=False)
class _Part:
    """A program to compress: what its draws say about the rows of reference, who judges it on those held out, and how
    many rows these are."""

    program: Program
    said: "_Said"
    judge: "Judge"
    sizes: tuple[int, int]

    @classmethod
    def of(cls, program: Program, columns: Mapping[str, np.ndarray], count: int) -> "_Part":
        full = Engine(program)
        entries = int(np.prod(program.event, dtype=int))
        order = np.random.default_rng(0).permutation(count)
        third = max(1, count // 3)
        held_out = _some(columns, order[:third][: max(1, _MOST_HELD_OUT // entries)]) if program.inputs else columns
        reference = _some(columns, order[third:][: max(1, _MOST_REFERENCE // entries)]) if program.inputs else columns
        sizes = (_length(reference, count), _length(held_out, count))
        judge = Judge(full, held_out, sizes[1])
        return cls(program, _vectors(full, reference, *_places(full, reference, sizes[0])), judge, sizes)


def _compress(parts: Sequence[_Part], tolerance: float) -> list[tuple[Program, Compression]]:
    said = _AllSaid([part.said for part in parts])
    corners = said.balanced(_MARGIN * tolerance)
    size, next_size = parts[0].program.size, 1
    for weights in nearest_combinations(corners):
        chosen = np.flatnonzero(weights)
        if 2 * len(chosen) > size:
            break
        if len(chosen) < next_size or said.worst(weights).max() > _MARGIN * tolerance:
            continue
        smaller = [_subset(part.program, chosen, weights[chosen], said.mean_error) for part in parts]
        errors = [part.judge.errors(program) for part, program in zip(parts, smaller, strict=True)]
        if max(max(each.values()) for each in errors) <= tolerance:
            return [
                (program, Compression(size, program.size, tolerance, each, *part.sizes))
                for part, program, each in zip(parts, smaller, errors, strict=True)
            ]
        next_size = int(np.ceil(_GROWTH * len(chosen)))
    raise PredictionError(
        f"No half of the {size} draws was found to keep every summary within {tolerance:g}. Give more rows "
        f"({sum(map(sum, (part.sizes for part in parts)))} were looked at, and what they have in common with those "
        "held out was not enough), or a larger tolerance."
    )


def _subset(program: Program, chosen: np.ndarray, weights: np.ndarray, mean_error: float) -> Program:
    draws = {name: values[chosen] for name, values in program.draws.items()}
    return replace(program, draws=draws, chains=None, weights=Weights(weights / weights.sum(), mean_error))


# rows ----------------------------------------------------------------------------------------------------------------


def _distinct(columns: Mapping[str, np.ndarray], count: int) -> tuple[dict[str, np.ndarray], int]:
    """The rows without repetitions: a row held out must not be one that was looked at."""
    if not columns or not count:
        return dict(columns), count
    flat = np.concatenate([values.reshape(count, -1).astype(float) for values in columns.values()], axis=1)
    _, first = np.unique(flat, axis=0, return_index=True)
    return _some(columns, np.sort(first)), len(first)


def _some(columns: Mapping[str, np.ndarray], which: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[which] for name, values in columns.items()}


def _length(columns: Mapping[str, np.ndarray], count: int) -> int:
    return len(next(iter(columns.values()))) if columns else count


# what a draw says about rows -----------------------------------------------------------------------------------------


def _places(engine: Engine, columns: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each row's cdf is looked at, (rows, *event, levels), and the scale of its errors, (rows, *event)."""
    answer = _answer(engine, columns, count, LEVELS)
    return answer.quantiles, answer.sd


def _answer(engine: Engine, columns: Mapping[str, np.ndarray], count: int, levels: tuple[float, ...]) -> Answer:
    answer = engine.summarise(columns, np.zeros(count, np.uint32), np.array(levels))
    if not (answer.defined.all() and np.isfinite(answer.sd).all() and np.all(answer.sd > 0.0)):
        raise PredictionError(
            f"{engine.program.outcome} has no finite standard deviation above zero in some row, so a tolerance has no "
            "scale there. Leave such rows out, or keep all the draws."
        )
    return answer


@dataclass(frozen=True, eq=False)
class _Said:
    """What each draw says, less what all say, summary by summary: errors in units of the tolerance's scale.

    sketches    (summaries, k, S): random projections, so that |sum_s w_s sketch_s|^2 is the mean squared error of the
                weights w within some per cent, as far as errors are linear. Woodruff (2014), "Sketching as a tool"
    watched     (numbers, entries, S): a part of it as it is; entry i is of the summary min(i, summaries - 1)
    mean_error  the largest Monte Carlo error of a mean in units of its epistemic sd
    """

    sketches: np.ndarray
    watched: np.ndarray
    mean_error: float

    def worst(self, weights: np.ndarray) -> np.ndarray:
        """The largest error of each summary, (summaries,), on what is watched."""
        chosen = np.flatnonzero(weights)
        errors = np.abs(self.watched[..., chosen] @ weights[chosen].astype(np.float32)).max(axis=0)
        last = len(self.sketches) - 1
        return np.array([*errors[:last], errors[last:].max(initial=0.0)])


class _AllSaid:
    """What each draw says about the outcomes of all programs: `sketches` and errors are those of one after another."""

    def __init__(self, parts: Sequence[_Said]) -> None:
        self._parts = parts
        self.sketches = parts[0].sketches if len(parts) == 1 else np.concatenate([part.sketches for part in parts])
        self.mean_error = max(part.mean_error for part in parts)

    def worst(self, weights: np.ndarray) -> np.ndarray:
        """The largest error of each summary of each program."""
        return np.concatenate([part.worst(weights) for part in self._parts])

    def balanced(self, close: float) -> np.ndarray:
        """One projection of all, (k, S), with the summaries weighted so that few draws bring every error to `close`.

        What is far below the others where the largest comes to `close` counts less in the next round.
        """
        factors, best = np.ones(len(self.sketches)), None
        for _ in range(_ROUNDS):
            corners = np.tensordot(factors, self.sketches, 1)
            weights, worst = np.zeros(corners.shape[1]), np.ones(len(factors))
            for weights in nearest_combinations(corners):
                worst = self.worst(weights)
                if worst.max() <= close or 2 * np.count_nonzero(weights) > len(weights):
                    break
            count = np.count_nonzero(weights) if worst.max() <= close else len(weights)
            if best is None or count < best[0]:
                best = count, corners
            factors = factors * np.sqrt(np.maximum(worst / worst.max(), 1e-2))
            factors = factors / factors.max()
        return best[1] if best is not None else np.tensordot(factors, self.sketches, 1)


def _vectors(engine: Engine, columns: Mapping[str, np.ndarray], points: np.ndarray, scales: np.ndarray) -> _Said:
    rng = np.random.default_rng(1)
    program = engine.program
    sketches, watched, mean_error = np.zeros((_SUMMARIES, _SKETCH, program.size)), [], 0.0
    seen, numbers = 0, points.reshape(len(points), -1)
    along = np.concatenate([scales.reshape(len(points), -1), numbers], axis=1)
    for begin in range(0, len(points), _CHUNK):
        part = _some(columns, np.arange(begin, min(begin + _CHUNK, len(points))))
        found = engine.of_outcomes(_says, part, along[begin : begin + _CHUNK])
        found = found.reshape(-1, *found.shape[-2:])
        errors, vectors = found[:, 0, 0], found[:, 1:].astype(np.float32)
        mean_error = max(mean_error, float(np.max(errors, initial=0.0)))
        for number, sketch in enumerate(sketches):
            own = vectors[:, number] if number < _SUMMARIES - 1 else vectors[:, number:].reshape(-1, program.size)
            sketch += rng.standard_normal((_SKETCH, len(own)), np.float32) @ own
        if seen < _MOST_WATCHED:
            watched.append(vectors)
        seen += len(errors)
    return _Said(sketches / np.sqrt(_SKETCH * max(seen, 1)), np.concatenate(watched), mean_error)


def _says(program: Program, draws: dict, fixed: dict, rows: dict, along: jax.Array) -> jax.Array:
    """(rows, numbers, 1 + entries, S): the relative Monte Carlo error of the mean, then the vector of each draw."""
    family = cast(Family, program.family)
    event = program.event
    flat = [_each_number(p, event) for p in program.programs[PARAMETERS].call(draws, fixed, rows)]
    size = int(np.prod(event, dtype=int))
    scale = along[:, :size].reshape(-1, 1)
    points = along[:, size:].reshape(scale.shape[0], -1)
    means, variances = family.mean(*flat), family.variance(*flat)
    mean, aleatoric = average(means, None)[:, None], average(variances, None)[:, None]
    epistemic = average((means - mean) ** 2, None)[:, None]
    floor = (0.1 * scale) ** 2  # the square root is steep at zero
    gaps, extra = (means - mean) ** 2 - epistemic, variances - aleatoric
    parts = [
        (means - mean) / scale,
        (gaps + extra) / (2.0 * scale * scale),
        gaps / (2.0 * jnp.sqrt(jnp.maximum(epistemic, floor)) * scale),
        extra / (2.0 * jnp.sqrt(jnp.maximum(aleatoric, floor)) * scale),
    ]
    error = mixture.mean_mcse(means, program.chains)[:, None]
    relative = jnp.where(epistemic > 1e-20 * scale * scale, error / jnp.sqrt(epistemic), 0.0)
    if family.support is Support.CLASSES:  # of two classes the mean says it all
        parts += [
            (jnp.exp(flat[0][..., k]) - average(jnp.exp(flat[0][..., k]), None)[:, None])
            for k in range(flat[0].shape[-1])
        ]
    elif family.support is not Support.BINARY:
        parts += list(lax.map(lambda at: _cdf_says(family, flat, at[:, None], scale), points.T))
    entries = jnp.stack([jnp.broadcast_to(part, means.shape) for part in (relative, *parts)], axis=1)
    return entries.reshape(len(along), size, *entries.shape[1:])


def _cdf_says(family: Family, flat: list[jax.Array], at: jax.Array, scale: jax.Array) -> jax.Array:
    below = family.cdf(at, *flat)
    gap = below - average(below, None)[:, None]
    if family.support.discrete:
        return gap
    density = average(jnp.exp(family.log_density(at, *flat)), None)[:, None]
    return gap / (density * scale)


def _each_number(values: jax.Array, event: tuple[int, ...]) -> jax.Array:
    moved = jnp.moveaxis(values, 1, 1 + len(event))
    return moved.reshape(-1, *moved.shape[1 + len(event) :])


# judging -------------------------------------------------------------------------------------------------------------


class Judge:
    """The largest differences between the predictions of a cheaper program and those of the full one.

    Raises PredictionError for rows whose outcome has no finite sd above zero."""

    def __init__(self, full: Engine, columns: Mapping[str, np.ndarray], count: int) -> None:
        self._columns, self._count = columns, count
        self._expected = _answer(full, columns, count, LEVELS + _BETWEEN)
        self._below = self._cdf(full)

    def _cdf(self, engine: Engine) -> np.ndarray | None:
        """P(Y <= q) and P(Y < q) at the full program's quantiles of counts."""
        family = engine.program.family
        if family is None or family.support is not Support.COUNT:
            return None
        hashes, quantiles = np.zeros(self._count, np.uint32), self._expected.quantiles
        return np.stack(
            [engine.cdf(self._columns, hashes, quantiles[..., i]) for i in range(quantiles.shape[-1])], axis=-1
        )

    def errors(self, program: Program) -> dict[str, float]:
        """By name of the summary, as in `Compression`."""
        engine, full = Engine(program), self._expected
        levels = np.array(LEVELS + _BETWEEN)
        found = engine.summarise(self._columns, np.zeros(self._count, np.uint32), levels)
        moments = ("mean", "sd", "epistemic_sd", "aleatoric_sd")
        errors = {name: np.max(np.abs(getattr(found, name) - getattr(full, name)) / full.sd) for name in moments}
        if not program.discrete:
            errors["quantiles"] = np.max(np.abs(found.quantiles - full.quantiles) / full.sd[..., None])
        if self._below is not None:
            errors["cdf"] = np.max(np.abs(cast(np.ndarray, self._cdf(engine)) - self._below))
        if program.probabilities:
            errors["probabilities"] = np.max(np.abs(found.probabilities - full.probabilities))
        return {name: float(value) if np.isfinite(value) else float("inf") for name, value in errors.items()}
