"""A program at work: rows in padded blocks through compiled functions, whatever their number. Imports jax.

Blocks have one of a few sizes, so that few shapes are ever compiled, and never more than a budget of memory. Rows
know nothing of one another, so a row's answer does not depend on how it is blocked. All in float64, without touching
JAX's global setting.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.model.program_cache import kept_programs
from probinfer.predict import mixture
from probinfer.predict.family import Family
from probinfer.predict.program import LOG_DENSITY, MOMENTS, NO_INPUT, PARAMETERS, SAMPLE, Program

BLOCK_ROWS = (1, 8, 64, 512)
BLOCK_BYTES = 64 * 2**20  # of one array rows × draws × outcome; a block holds a handful of them
_MOST_THREADS = 8
_LEAST_DRAWS = 4000  # predictive draws behind the quantiles of a law that has no cdf


class Answer(NamedTuple):
    """Summaries of every row, numpy, (rows, *event); quantiles (rows, *event, levels). `defined`: False where the
    model's parameters are nan."""

    mean: Any  # an array of JAX inside the compiled program, of NumPy outside; so are the others
    aleatoric_variance: Any
    epistemic_variance: Any
    mcse: Any
    quantiles: Any
    probabilities: Any
    defined: Any


class _Block(NamedTuple):
    """Padded rows, one more array along them, and how many of them are real."""

    rows: dict[str, np.ndarray]
    along: np.ndarray
    count: int


class Engine:
    """Compiled functions of one program. Thread-safe."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._compiled: dict[Any, Any] = {}
        self._lock = threading.Lock()

    @cached_property
    def _draws(self) -> dict[str, jax.Array]:
        with jax.enable_x64(True):
            return {name: jnp.asarray(values) for name, values in self.program.draws.items()}

    @cached_property
    def _fixed(self) -> dict[str, jax.Array]:
        with jax.enable_x64(True):
            return {name: jnp.asarray(values) for name, values in self.program.fixed.items()}

    def summarise(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray) -> Answer:
        """Summaries of every row; quantiles at `levels`. `hashes`: content of each row, for laws answered from
        draws."""
        program = self.program
        shape = (0, *program.event)
        empty = np.zeros(shape)
        chances = np.zeros((*shape, program.probabilities))
        parts = [Answer(empty, empty, empty, empty, np.zeros((*shape, len(levels))), chances, np.zeros(shape, bool))]
        work: Any = partial(_family_summary if program.family else _sampled_summary, program)

        def summarise(block: _Block) -> Answer:
            arguments = (self._draws, self._fixed, block.rows, block.along, levels)
            answer = self._call(work, *arguments)
            if program.family and program.discrete and np.any(answer.quantiles < 0.0):
                searched = self._call(partial(work, search_counts=True), *arguments, variant="search")
                answer = answer._replace(
                    quantiles=np.where(answer.quantiles < 0.0, searched.quantiles, answer.quantiles)
                )
            return Answer(*(part[: block.count] for part in answer))

        parts += self._each_block(summarise, columns, hashes, program.size)
        answer = Answer(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        return answer._replace(defined=answer.defined.all(axis=tuple(range(1, 1 + len(program.event)))))

    def sample(self, columns: Mapping[str, np.ndarray], keys: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """One outcome for each row and each of the `picked` posterior draws, (draws, rows, *event).

        keys (rows, 2): each row's own randomness; draw i of a row uses the row's key folded with i.
        """
        parts = [np.zeros((0, len(picked), *self.program.event))]
        draws = {name: values[picked] for name, values in self.program.draws.items()}

        def sample(block: _Block) -> np.ndarray:
            return self._call(partial(_sample, self.program), draws, self._fixed, block.rows, block.along)[
                : block.count
            ]

        parts += self._each_block(sample, columns, keys, len(picked))
        return np.moveaxis(np.concatenate(parts), 1, 0)

    def log_score(self, columns: Mapping[str, np.ndarray], y: np.ndarray) -> np.ndarray:
        """log of the predictive density of each row's outcome, (rows,)."""

        return self.of_outcomes(_log_score, columns, y)

    def of_outcomes(self, work: Callable, columns: Mapping[str, np.ndarray], along: np.ndarray) -> np.ndarray:
        """One number, or array of numbers, for each row: `work(program, draws, fixed, rows, along)`, compiled under its
        own name. `along` (rows, …) is what each row brings besides its inputs, such as its outcome."""

        def score(block: _Block) -> np.ndarray:
            arguments = (self._draws, self._fixed, block.rows, block.along)
            return self._call(partial(work, self.program), *arguments)[: block.count]

        parts = self._each_block(score, columns, along, self.program.size)
        return np.concatenate(parts) if parts else np.zeros(0)

    def _each_block(
        self, work: Callable[["_Block"], Any], columns: Mapping[str, np.ndarray], along: np.ndarray, draws: int
    ) -> list[Any]:
        """`work` on every block, several at a time on a CPU: a block hardly uses more than one core."""

        def in_float64(block: _Block) -> Any:
            with jax.enable_x64(True):
                return work(block)

        blocks = self._blocks(columns, along, draws)
        first = [in_float64(block) for block in itertools.islice(blocks, 1)]  # one thread compiles
        threads = min(os.cpu_count() or 1, _MOST_THREADS) if jax.default_backend() == "cpu" else 1
        if threads == 1 or len(along) <= BLOCK_ROWS[-1]:
            return first + [in_float64(block) for block in blocks]
        with ThreadPoolExecutor(threads) as pool:
            return first + list(pool.map(in_float64, blocks))

    def _blocks(self, columns: Mapping[str, np.ndarray], along: np.ndarray, draws: int) -> Iterator["_Block"]:
        """The rows in blocks of a few sizes; the last is padded by repeating its first row, never to twice as many."""
        entries = draws * max(1, int(np.prod(self.program.event))) * self._classes
        sizes = [size for size in BLOCK_ROWS if size * entries * 8 <= BLOCK_BYTES] or [1]
        columns = dict(columns) or {NO_INPUT: np.zeros(len(along))}
        start = 0
        while start < len(along):
            left = len(along) - start
            size = max(size for size in sizes if size < 2 * left)
            stop = min(start + size, len(along))
            rows = {name: _padded(values[start:stop], size) for name, values in columns.items()}
            yield _Block(rows, _padded(along[start:stop], size), stop - start)
            start = stop

    @property
    def _classes(self) -> int:
        family = self.program.family
        return self.program.probabilities if family and family.support is mixture.Support.CLASSES else 1

    def _call(self, function: Callable, *arguments: Any, variant: str = "") -> Any:
        leaves = jax.tree.leaves(arguments)
        name = getattr(getattr(function, "func", function), "__name__", "")
        key = (name, variant, *(leaf.shape for leaf in leaves))
        compiled = self._compiled.get(key)
        if compiled is None:
            with self._lock, kept_programs():
                compiled = self._compiled.get(key) or jax.jit(function).lower(*arguments).compile()
                self._compiled[key] = compiled
        return jax.tree.map(np.asarray, compiled(*arguments))


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    if len(values) == size:
        return values
    return np.concatenate([values, np.broadcast_to(values[:1], (size - len(values), *values.shape[1:]))])


# what is compiled ----------------------------------------------------------------------------------------------------


def _family_summary(
    program: Program,
    draws: dict,
    fixed: dict,
    rows: dict,
    hashes: jax.Array,
    levels: jax.Array,
    *,
    search_counts: bool = False,
) -> Answer:
    family = cast(Family, program.family)
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    shape = parameters[0].shape[:1] + program.event
    flat = tuple(_draws_second(p, program.event) for p in parameters)
    summary = mixture.summarise(family, flat, levels, program.chains, search_counts=search_counts)
    chances = mixture.probabilities(family, flat, program.probabilities)
    if chances is None:
        chances = jnp.zeros((summary.mean.shape[0], 0))
    return _shaped(summary, chances, shape)


def _draws_second(values: jax.Array, event: tuple[int, ...]) -> jax.Array:
    """(n, s, *event, …) -> (n * event, s, …): every number of an outcome is a mixture of its own."""
    moved = jnp.moveaxis(values, 1, 1 + len(event))
    return moved.reshape(-1, *moved.shape[1 + len(event) :])


def _shaped(summary: mixture.Summary, chances: jax.Array, shape: tuple[int, ...]) -> Answer:
    one = [value.reshape(shape) for value in summary[:4]]
    return Answer(
        *one,
        summary.quantiles.reshape(*shape, -1),
        chances.reshape(*shape, chances.shape[-1]),
        summary.defined.reshape(shape),
    )


def _sampled_summary(
    program: Program, draws: dict, fixed: dict, rows: dict, hashes: jax.Array, levels: jax.Array
) -> Answer:
    """For a law without cdf: quantiles from predictive draws, R of them for each posterior draw, with keys of each
    row's own.

    Moments are the law's where it has them. Else the R >= 2 replicates split the variance: within posterior draws
    (aleatoric) and between their means, less the noise of R replicates (epistemic).
    """
    count = max(2, -(-_LEAST_DRAWS // program.size))
    root = jax.random.key(0, impl="threefry2x32")
    keys = jax.vmap(lambda h: jax.random.fold_in(root, h))(hashes)

    def replicate(number: jax.Array) -> jax.Array:
        row_keys = jax.vmap(lambda key: jax.random.key_data(jax.random.fold_in(key, number)))(keys)
        return _draws_second(program.programs[SAMPLE].call(draws, fixed, rows, row_keys), program.event)

    outcomes = jnp.moveaxis(lax.map(replicate, jnp.arange(count, dtype=jnp.uint32)), 0, -1)  # (m, s, r)
    if MOMENTS in program.programs:
        means, variances = (_draws_second(m, program.event) for m in program.programs[MOMENTS].call(draws, fixed, rows))
        aleatoric = jnp.mean(variances, axis=1)
        epistemic = jnp.var(means, axis=1)
    else:
        means = jnp.mean(outcomes, axis=2)
        aleatoric = jnp.mean(jnp.var(outcomes, axis=2, ddof=1), axis=1)
        epistemic = jnp.maximum(jnp.var(means, axis=1, ddof=min(1, program.size - 1)) - aleatoric / count, 0.0)
    pooled = jnp.sort(outcomes.reshape(outcomes.shape[0], -1), axis=1)
    summary = mixture.Summary(
        mean=jnp.mean(means, axis=1),
        aleatoric_variance=aleatoric,
        epistemic_variance=epistemic,
        mcse=mixture.mean_mcse(means, program.chains),
        quantiles=_sorted_quantiles(pooled, levels, program.discrete),
        defined=~jnp.isnan(pooled).any(axis=1),
    )
    return _shaped(summary, jnp.zeros((pooled.shape[0], 0)), (hashes.shape[0], *program.event))


def _sorted_quantiles(pooled: jax.Array, levels: jax.Array, discrete: bool) -> jax.Array:
    size = pooled.shape[1]
    if discrete:
        return pooled[:, jnp.clip(jnp.ceil(levels * size - 1e-9).astype(int) - 1, 0, size - 1)]
    place = levels * (size - 1)
    below = jnp.clip(jnp.floor(place).astype(int), 0, size - 2)
    low, high = pooled[:, below], pooled[:, below + 1]
    return low + (place - below) * (high - low)


def _sample(program: Program, draws: dict, fixed: dict, rows: dict, keys: jax.Array) -> jax.Array:
    if program.family is None:
        return program.programs[SAMPLE].call(draws, fixed, rows, keys)
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    numbers, family = jnp.arange(parameters[0].shape[1]), program.family

    def one(key: jax.Array, number: jax.Array, *parameters: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), number)
        return family.sample(own, *parameters)

    spread = [0] * len(parameters)
    return jax.vmap(jax.vmap(one, (None, 0, *spread)), (0, None, *spread))(keys, numbers, *parameters)


def _log_score(program: Program, draws: dict, fixed: dict, rows: dict, y: jax.Array) -> jax.Array:
    if program.family is None:
        return mixture.log_mean_exp(program.programs[LOG_DENSITY].call(draws, fixed, rows, y))
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    density = program.family.log_density(y[:, None], *parameters)
    return mixture.log_mean_exp(density.reshape(*density.shape[:2], -1).sum(axis=2))
