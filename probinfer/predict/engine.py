"""A program at work: rows in padded blocks through compiled functions, whatever their number. Imports jax.

Blocks have one of a few sizes, so that few shapes are ever compiled, and never more than a budget of memory. Rows
know nothing of one another, so a row's answer does not depend on how it is blocked. Numbers of quantiles and of draws
to sample are rounded up to one of few sizes too. All in float64, without touching
JAX's global setting.
"""

import collections
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from probinfer.errors import PredictionError
from probinfer.model.forks import before_jax
from probinfer.model.program_cache import kept_programs
from probinfer.predict import mixture
from probinfer.predict.at_once import compile_at_once
from probinfer.predict.family import Family
from probinfer.predict.kept import fingerprint, lowered
from probinfer.predict.program import LOG_DENSITY, MOMENTS, NO_INPUT, PARAMETERS, SAMPLE, Program
from probinfer.predict.shortest import shortest, shortest_of_draws, shortest_run
from probinfer.predict.weights import average, log_average

BLOCK_ROWS = (1, 8, 64, 512)
BLOCK_BYTES = 64 * 2**20  # of one array rows × draws × outcome; a block holds a handful of them
_CACHE_BYTES = 2**20  # of one such array where blocks are worked through in parts
_THREADS = min(os.cpu_count() or 1, 8)
_QUESTIONS = 64  # kinds of questions whose way to their program is remembered
_MOST_NEIGHBOURS = 4096  # whole numbers among which the shortest interval is looked for
_MOMENT_REPLICATES = 32  # of each posterior draw, behind moments that a law does not have in closed form
LEAST_DRAWS = 4000  # predictive draws behind the quantiles of a law that has no cdf


class Answer(NamedTuple):
    """Summaries of every row, numpy, (rows, *event); quantiles (rows, *event, levels). `defined`: False where the
    model's parameters are nan or infinite, or an answer overflows. `entropies`: of classes (rows, *event, 3), see
    `mixture.entropies`; of numbers (rows, *event, 0).

    sd, epistemic_sd, aleatoric_sd: see `mixture.both_sds`."""

    mean: Any  # an array of JAX inside the compiled program, of NumPy outside; so are the others
    sd: Any
    epistemic_sd: Any
    aleatoric_sd: Any
    mcse: Any
    quantiles: Any
    probabilities: Any
    defined: Any
    entropies: Any


class Summariser(Protocol):
    """What answers rows: an engine, or something that shapes the calls to one."""

    program: Program

    def summarise(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray) -> Answer:
        """As `Engine.summarise`."""
        ...


class _Block(NamedTuple):
    """Padded rows, one more array along them, and how many of them are real."""

    rows: dict[str, np.ndarray]
    along: np.ndarray
    count: int


class _Asked(NamedTuple):
    """What answers a kind of question: the compiled program, its levels, and the `_Order` of its summary; and where the
    device has the levels and, where nobody reads them, the hashes: of a law of a family, unless levels of each row's
    own stand behind them."""

    compiled: Callable
    levels: np.ndarray
    order: "_Order"
    there: jax.Array
    hashes: jax.Array | None


class _Order(NamedTuple):
    """Where in a packed summary the numbers of an answer are: moments, the quantiles that were asked for up to
    `quantiles`, probabilities up to `probabilities`, and entropies."""

    places: np.ndarray
    quantiles: int
    probabilities: int


class Engine:
    """Compiled functions of one program. Thread-safe.

    block_rows: the sizes of blocks, in order, from 1.
    lasting: another process will ask the same program, so that what is traced for summaries is kept for it."""

    def __init__(self, program: Program, block_rows: tuple[int, ...] = BLOCK_ROWS) -> None:
        self.program, self.block_rows = program, block_rows
        self.lasting = False
        self._compiled: dict[Any, Any] = {}
        self._asked: dict[Any, _Asked] = {}
        self._turns: dict[Any, threading.Lock] = {}

    def sharing(self, program: Program) -> "Engine":
        """An engine of a program that differs from this one's in its draws only: what is compiled serves both."""
        return self.lend(Engine(program, self.block_rows))

    def lend(self, other: "Engine") -> "Engine":
        """`other`, whose program differs in its draws only, with what is compiled here."""
        if other.program.chains == self.program.chains:
            other._compiled, other._turns = self._compiled, self._turns
        return other

    @cached_property
    def identity(self) -> str:
        """The program's fingerprint."""
        return fingerprint(self.program)

    @cached_property
    def _draws(self) -> dict[str, jax.Array]:
        with jax.enable_x64(True):
            return {name: jax.device_put(values) for name, values in self.program.draws.items()}

    @cached_property
    def _fixed(self) -> dict[str, jax.Array]:
        with jax.enable_x64(True):
            return {name: jax.device_put(values) for name, values in self.program.fixed.items()}

    def summarise(
        self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray, *, copies: int = 1
    ) -> Answer:
        """Summaries of every row; quantiles at `levels`, (levels,) or every number's own, (rows, *event, levels).
        `hashes`: content of each row, for laws answered from draws. `copies`: of a law of a family, how many versions
        of every row there are, all equally probable; columns are (rows, copies, *shape) if there are several."""
        before_jax()
        program, event = self.program, self.program.event
        own = levels.ndim > 1
        question = (len(hashes), levels.shape if own else levels.tobytes()) if copies == 1 else None
        if own:
            along = np.empty((len(hashes), 1 + math.prod(levels.shape[1:])))
            along[:, 0], along[:, 1:] = hashes, levels.reshape(len(hashes), along.shape[1] - 1)
            hashes = along
        if question in self._asked:
            return self._answer_again(self._asked[question], columns, hashes)
        places = np.arange(levels.shape[-1])
        if own:
            levels = np.zeros(levels.shape[-1])
        elif levels.size:
            levels, places = _distinct(levels)
        order = self._order(len(levels), places)
        work: Any = partial(_packed_summary, program, **({"copies": copies} if copies > 1 else {}))

        def summarise(block: _Block) -> np.ndarray:
            arguments = (self._draws, self._fixed, block.rows, block.along, levels)
            return self._searched(self._call(work, *arguments), *arguments, copies=copies)[:, : block.count]

        parts = self._each_block(summarise, columns, hashes, program.size * copies)
        parts = parts or [np.zeros((_MOMENTS + len(levels) + program.probabilities + _entropies(program), 0, *event))]
        if question is not None and len(hashes) in self._sizes(program.size) and len(self._asked) < _QUESTIONS:
            arguments = (self._draws, self._fixed, dict(columns) or {NO_INPUT: np.zeros(len(hashes))}, hashes, levels)
            with jax.enable_x64(True):
                there = jnp.asarray(levels)
                unread = jnp.asarray(hashes) if program.family and not own else None
            self._asked[question] = _Asked(self._compile(work, arguments, ""), levels, order, there, unread)
        return self._unpacked(np.concatenate(parts, axis=1), order)

    def _answer_again(self, asked: "_Asked", columns: Mapping[str, np.ndarray], hashes: np.ndarray) -> Answer:
        """`summarise` of one block without padding, of a kind that was asked before: what leads to the same compiled
        program is not worked out again, which takes as long as the program for one row."""
        rows = dict(columns) if columns else {NO_INPUT: np.zeros(len(hashes))}
        along = hashes if asked.hashes is None else asked.hashes
        with jax.enable_x64(True):
            packed = np.asarray(asked.compiled(self._draws, self._fixed, rows, along, asked.there))
            packed = self._searched(packed, self._draws, self._fixed, rows, hashes, asked.levels)
        return self._unpacked(packed, asked.order)

    def _searched(self, packed: np.ndarray, *arguments: Any, copies: int = 1) -> np.ndarray:
        """A packed summary with those quantiles of counts searched for that summing did not reach."""
        program, levels = self.program, len(arguments[-1])
        counts = program.family is not None and program.family.support is mixture.Support.COUNT
        if not (counts and np.any(packed[_MOMENTS : _MOMENTS + levels] < 0.0)):
            return packed
        work = partial(_packed_summary, program, search_counts=True, copies=copies)
        return np.where(packed < 0.0, self._call(work, *arguments, variant="search"), packed)

    def _order(self, levels: int, places: np.ndarray) -> _Order:
        """Of a packed summary with so many quantiles, of which those at `places` are answered."""
        rest = np.arange(_MOMENTS + levels, _MOMENTS + levels + self.program.probabilities + _entropies(self.program))
        quantiles = _MOMENTS + len(places)
        together = np.concatenate([np.arange(_MOMENTS), _MOMENTS + places, rest])
        return _Order(together, quantiles, quantiles + self.program.probabilities)

    def _unpacked(self, packed: np.ndarray, order: _Order) -> Answer:
        """The answer in a packed summary; a copy, to write to."""
        packed = packed.take(order.places, 0)
        last = packed.T if packed.ndim == 2 else packed.transpose(*range(1, packed.ndim), 0)
        defined = packed[5].astype(bool)
        return Answer(
            packed[0],
            packed[1],
            packed[2],
            packed[3],
            packed[4],
            last[..., _MOMENTS : order.quantiles],
            last[..., order.quantiles : order.probabilities],
            defined if defined.ndim == 1 else defined.reshape(len(defined), math.prod(self.program.event)).all(axis=1),
            last[..., order.probabilities :],
        )

    def sample(self, columns: Mapping[str, np.ndarray], keys: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """One outcome for each row and each of the `picked` posterior draws, (draws, rows, *event).

        keys (rows, 2): each row's own randomness; draw i of a row uses the row's key folded with i.
        """
        parts = [np.zeros((0, len(picked), *self.program.event))]
        wanted, picked = len(picked), _padded(picked, bucket(len(picked))) if len(picked) else picked
        draws = {name: values[picked] for name, values in self.program.draws.items()}

        def sample(block: _Block) -> np.ndarray:
            found = self._call(partial(_sample, self.program), draws, self._fixed, block.rows, block.along)
            return found[: block.count, :wanted]

        parts += self._each_block(sample, columns, keys, len(picked))
        return np.moveaxis(np.concatenate(parts), 1, 0)

    def log_score(self, columns: Mapping[str, np.ndarray], y: np.ndarray) -> np.ndarray:
        """log of the predictive density of each row's outcome, (rows,)."""

        return self.of_outcomes(_log_score, columns, y)

    def cdf(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, y: np.ndarray) -> np.ndarray:
        """P(Y <= y) and P(Y < y) for each number of y (rows, *event), on a last axis of two.

        From the law's cdf, or from the same keyed draws that the quantiles come from.
        """
        along = np.concatenate([hashes[:, None].astype(float), y.reshape(len(y), math.prod(y.shape[1:]))], axis=1)
        return self.of_outcomes(_cdf, columns, along).reshape(*y.shape, 2)

    def shortest(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, level: float) -> np.ndarray:
        """Both ends of the shortest interval with the probability `level`, (rows, *event, 2)."""
        program, shape = self.program, (len(hashes), *self.program.event)
        if program.family and program.discrete:
            first, below = self._neighbours(columns, hashes)
            begin, end = shortest_run(below.reshape(-1, below.shape[-1]), level)
            return first[..., None] + np.stack([begin, end], axis=-1).reshape(*shape, 2)
        along = np.stack([hashes.astype(float), np.full(len(hashes), level)], axis=1)
        return self.of_outcomes(_shortest, columns, along).reshape(*shape, 2)

    def _neighbours(self, columns: Mapping[str, np.ndarray], hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of whole numbers: the first worth a look in each row, and P(Y < k) from there on (rows, *event, k)."""
        answer = self.summarise(columns, hashes, np.array([1e-10, 1.0 - 1e-10]))
        if self.program.family and self.program.family.support is not mixture.Support.COUNT:
            below = np.cumsum(answer.probabilities, axis=-1)
            return np.zeros(below.shape[:-1]), np.concatenate([np.zeros_like(below[..., :1]), below], axis=-1)
        low, high = np.moveaxis(answer.quantiles, -1, 0)
        many = int(np.max(high - low, initial=0.0)) + 1
        if many > _MOST_NEIGHBOURS:
            raise PredictionError(
                f"{self.program.outcome} spreads over {many} whole numbers in some row; the shortest interval is found "
                f"among up to {_MOST_NEIGHBOURS}. Ask for Interval.ETI."
            )
        steps = np.arange(2 ** int(np.ceil(np.log2(many + 1))))
        points = np.concatenate([low.reshape(len(hashes), -1)[:, :, None] + steps], axis=-1)
        below = self.of_outcomes(_below, columns, points)
        return low, below.reshape(*low.shape, len(steps))

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
        before_jax()

        def in_float64(block: _Block) -> Any:
            with jax.enable_x64(True):
                return work(block)

        blocks = self._blocks(columns, along, draws)
        if len(along) <= BLOCK_ROWS[-1] or _THREADS == 1 or jax.default_backend() != "cpu":
            return [in_float64(block) for block in blocks]
        with ThreadPoolExecutor(_THREADS) as pool:  # the first to need a program compiles it, the others wait for it
            return list(_in_order(pool, in_float64, blocks, 2 * _THREADS))

    def _blocks(self, columns: Mapping[str, np.ndarray], along: np.ndarray, draws: int) -> Iterator["_Block"]:
        """The rows in blocks of a few sizes; the last is padded by repeating its first row, never to twice as many."""
        sizes = self._sizes(draws)
        columns = dict(columns) or {NO_INPUT: np.zeros(len(along))}
        start = 0
        while start < len(along):
            left = len(along) - start
            size = max(size for size in sizes if size < 2 * left)
            stop = min(start + size, len(along))
            rows = {name: _padded(values[start:stop], size) for name, values in columns.items()}
            yield _Block(rows, _padded(along[start:stop], size), stop - start)
            start = stop

    def _sizes(self, draws: int) -> list[int]:
        entries = draws * max(1, math.prod(self.program.event)) * _classes(self.program)
        return [size for size in self.block_rows if size * entries * 8 <= BLOCK_BYTES] or [1]

    def compile_summary(self, rows: int, levels: int) -> None:
        """Compile what `summarise` needs for blocks of `rows` rows with `levels` quantiles of their own each, so that
        no call waits for it later. `rows` is one of `block_rows`; a size that is never used is passed over."""
        if rows not in self._sizes(self.program.size):
            return
        kinds = {"float64": np.float64, "int64": np.int64, "bool": np.bool_}
        columns = {i.name: np.zeros((rows, *i.shape), kinds[i.dtype]) for i in self.program.inputs}
        along = np.zeros((rows, 1 + levels * math.prod(self.program.event)))
        arguments = (self._draws, self._fixed, columns or {NO_INPUT: np.zeros(rows)}, along, np.zeros(levels))
        work: Any = partial(_packed_summary, self.program)
        with jax.enable_x64(True):
            self._compile(work, arguments, "", kept=True)
            if self.program.family and self.program.discrete:
                self._compile(partial(work, search_counts=True), arguments, "search", kept=True)

    def _call(self, function: Callable, *arguments: Any, variant: str = "") -> Any:
        kept = self.lasting and getattr(function, "func", None) is _packed_summary
        return np.asarray(self._compile(function, arguments, variant, kept=kept)(*arguments))

    def _compile(self, function: Any, arguments: tuple, variant: str, *, kept: bool = False) -> Callable:
        leaves = jax.tree.leaves(arguments)
        name = getattr(getattr(function, "func", function), "__name__", "")
        key = (name, variant, *(leaf.shape for leaf in leaves))
        compiled = self._compiled.get(key)
        if compiled is None:
            with self._turns.setdefault(key, threading.Lock()), kept_programs():
                compiled = self._compiled.get(key)
                if compiled is None:
                    traced = (
                        lowered(function, arguments, self.identity) if kept else jax.jit(function).lower(*arguments)
                    )
                    compiled = self._compiled[key] = compile_at_once(traced, _options(name))
        return compiled


def _options(name: str) -> dict[str, Any]:
    """How the program of this name is compiled for a CPU. Three of XLA's passes are left out: one splits every sum into
    two levels for the accuracy of single precision, which makes the search of quantiles a quarter slower, and its sums
    in single precision only say where the one in double precision begins; one hands loops of a few thousand numbers to
    several threads, which takes longer than to run them, and blocks are what runs side by side here; one has sums and
    products done by a library, which takes up to twice as long for them and fuses them with nothing. Steps are put in
    the order that needs least memory: in the usual one, those that could run side by side are handed to other threads
    and waited for, which took half the time of a row. Vectors are as long as the machine has them, where XLA takes half
    of it: a tenth to a third of the time of many rows.

    Sums of a summary may be taken in another order than written, in a vector's lanes side by side; one number after the
    other they took half the time of a row. (What is infinite or no number stays so: XLA honours these unless told
    otherwise.) Draws are the same to the last bit however many are made at once, and keep the order."""
    if jax.default_backend() != "cpu":
        return {}
    left_out = "tree_reduction_rewriter,cpu-parallel-task-assigner,dot-library-rewriter"
    fast = name == _packed_summary.__name__
    return {
        "xla_cpu_enable_fast_math": fast,
        "xla_disable_hlo_passes": left_out,
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "xla_cpu_prefer_vector_width": 512,
    }


def _distinct(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels in order and once each, as many as a bucket holds, and where each of `levels` is among them: an interval's
    ends are often asked for again."""
    numbers = {level: number for number, level in enumerate(sorted(set(levels.tolist())))}
    return _padded(np.array(list(numbers)), bucket(len(numbers))), np.array([numbers[q] for q in levels.tolist()])


def bucket(count: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, … that is `count` or more: shapes that are compiled, a third larger at
    most on average."""
    power = 1 << (max(count, 1) - 1).bit_length()
    return 3 * power // 4 if power >= 4 and 3 * power // 4 >= count else power


def _in_order(pool: ThreadPoolExecutor, work: Callable, items: Iterator, ahead: int) -> Iterator[Any]:
    """As `pool.map`, but with no more than `ahead` items taken and not finished: all at once would be a second copy
    of the rows."""
    waiting: collections.deque[Future] = collections.deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    if len(values) == size:
        return values
    return np.concatenate([values, np.broadcast_to(values[:1], (size - len(values), *values.shape[1:]))])


# what is compiled ----------------------------------------------------------------------------------------------------


_MOMENTS = 6  # rows of a packed summary that come before the quantiles


def _packed_summary(program: Program, *arguments: Any, **options: Any) -> jax.Array:
    """An `Answer` as one array (6 + levels + probabilities + entropies, rows, *event): handing one array over costs a
    fifth of handing seven over."""
    found = (_family_summary if program.family else _sampled_summary)(program, *arguments, **options)
    moments = [found.mean, found.sd, found.epistemic_sd, found.aleatoric_sd, found.mcse, found.defined * 1.0]
    several = [jnp.moveaxis(values, -1, 0) for values in (found.quantiles, found.probabilities, found.entropies)]
    return jnp.concatenate([jnp.stack(moments), *several])


def _family_summary(
    program: Program,
    draws: dict,
    fixed: dict,
    rows: dict,
    hashes: jax.Array,
    levels: jax.Array,
    *,
    search_counts: bool = False,
    copies: int = 1,
) -> Answer:
    few = max(1, _cached_rows(program) >> (copies - 1).bit_length())
    if hashes.shape[0] > few:
        of_rows = partial(_family_summary, program, draws, fixed, search_counts=search_counts, copies=copies)
        cut = jax.tree.map(lambda a: a.reshape(a.shape[0] // few, few, *a.shape[1:]), (rows, hashes))
        found = lax.map(lambda part: of_rows(*part, levels), cut)
        return jax.tree.map(lambda a: a.reshape(hashes.shape[0], *a.shape[2:]), found)
    family = cast(Family, program.family)
    if copies > 1:
        rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    if copies > 1:
        parameters = [p.reshape(hashes.shape[0], copies * p.shape[1], *p.shape[2:]) for p in parameters]
    _, levels = _own_levels(hashes, levels)
    shape = parameters[0].shape[:1] + program.event
    flat = tuple(_draws_second(p, program.event) for p in parameters)
    weights = program.weights
    summary = mixture.summarise(
        family, flat, levels, program.chains, weights, search_counts=search_counts, copies=copies,
        repeats=program.repeats,
    )  # fmt: skip
    chances = mixture.probabilities(family, flat, program.probabilities, weights and weights.copied(copies))
    doubts = mixture.entropies(family, flat, weights, copies)
    none = jnp.zeros((summary.mean.shape[0], 0))
    return _shaped(summary, none if chances is None else chances, none if doubts is None else doubts, shape)


def _cached_rows(program: Program) -> int:
    """How many rows of a block are summarised at once: as many as stay in a core's cache with all their draws."""
    entries = program.size * max(1, math.prod(program.event)) * _classes(program)
    return min(max(1, 1 << int(math.log2(max(_CACHE_BYTES / (8 * entries), 1.0)))), BLOCK_ROWS[-1])


def _classes(program: Program) -> int:
    return program.probabilities if program.family and program.family.support is mixture.Support.CLASSES else 1


def _own_levels(along: jax.Array, levels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hashes and levels: those of all rows, or each number's own, (m, levels), which then stand behind the hash."""
    if along.ndim == 1:
        return along, levels
    return along[:, 0].astype(jnp.uint32), along[:, 1:].reshape(-1, levels.shape[0])


def _draws_second(values: jax.Array, event: tuple[int, ...]) -> jax.Array:
    """(n, s, *event, …) -> (n * event, s, …): every number of an outcome is a mixture of its own."""
    moved = jnp.moveaxis(values, 1, 1 + len(event))
    return moved.reshape(-1, *moved.shape[1 + len(event) :])


def _entropies(program: Program) -> int:
    """How many entropies an answer holds."""
    return 3 if program.family and program.family.support in (mixture.Support.BINARY, mixture.Support.CLASSES) else 0


def _shaped(summary: mixture.Summary, chances: jax.Array, doubts: jax.Array, shape: tuple[int, ...]) -> Answer:
    sds = mixture.both_sds(summary.epistemic_variance, summary.aleatoric_variance)
    moments = summary.mean, *sds, summary.mcse
    return Answer(
        *[value.reshape(shape) for value in moments],
        summary.quantiles.reshape(*shape, -1),
        chances.reshape(*shape, chances.shape[-1]),
        summary.defined.reshape(shape),
        doubts.reshape(*shape, doubts.shape[-1]),
    )


def _sampled_summary(
    program: Program, draws: dict, fixed: dict, rows: dict, hashes: jax.Array, levels: jax.Array
) -> Answer:
    """For a law without cdf: quantiles from predictive draws, R of them for each posterior draw, with keys of each
    row's own.

    Moments are the law's where it has them, else those of more replicates: see `_moments_of_draws`.
    """
    hashes, levels = _own_levels(hashes, levels)
    outcomes = _outcomes(program, draws, fixed, rows, hashes)
    if MOMENTS in program.programs:
        means, variances = (_draws_second(m, program.event) for m in program.programs[MOMENTS].call(draws, fixed, rows))
        aleatoric = jnp.mean(variances, axis=1)
        epistemic = found = jnp.mean((means - jnp.mean(means, axis=1, keepdims=True)) ** 2, axis=1)
    else:
        means, aleatoric, found, noise = _moments_of_draws(program, draws, fixed, rows, hashes)
        epistemic = jnp.where(found > 4.0 * noise, found, jnp.nan)
    pooled = jnp.sort(outcomes.reshape(outcomes.shape[0], -1), axis=1)
    places = _sorted_quantiles(pooled, levels, program.discrete)
    overflowed = ~jnp.isfinite(found) & jnp.isfinite(means).all(axis=1)
    summary = mixture.Summary(
        mean=jnp.mean(means, axis=1),
        aleatoric_variance=aleatoric,
        epistemic_variance=epistemic,
        mcse=mixture.mean_mcse(means, program.chains, program.repeats),
        quantiles=places,
        defined=jnp.isfinite(pooled).all(axis=1) & ~overflowed,
    )
    none = jnp.zeros((pooled.shape[0], 0))
    return _shaped(summary, none, none, (hashes.shape[0], *program.event))


def _moments_of_draws(
    program: Program, draws: dict, fixed: dict, rows: dict, hashes: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Means (m, S), both parts of the variance (m,) and the noise of the epistemic one, from R replicates for each of
    the S posterior draws.

    With m_s the mean and v_s the variance (by R - 1) of draw s, aleatoric = mean of v_s, and without bias
        epistemic = mean of u_s,  u_s = (m_s - m)^2 S / (S - 1) - v_s / R.
    The noise of this is sd(u_s) / sqrt(S); an epistemic part below four times that cannot be told from zero. Above, it
    is within a quarter, its square root within an eighth, in two thirds of all cases.
    """
    size = program.size
    count = max(_MOMENT_REPLICATES, -(-LEAST_DRAWS // size))
    replicate = _replicate(program, draws, fixed, rows, hashes)
    start = replicate(jnp.asarray(0, jnp.uint32))  # what is summed are differences from it, so that nothing cancels

    def add(sums: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        gap = replicate(number) - start
        return (sums[0] + gap, sums[1] + gap * gap), None

    zero = jnp.zeros_like(start)
    (first, second), _ = lax.scan(add, (zero, zero), jnp.arange(1, count, dtype=jnp.uint32))
    means, variances = start + first / count, (second - first * first / count) / (count - 1)
    gaps = means - jnp.mean(means, axis=1, keepdims=True)
    each = gaps * gaps * (size / max(size - 1, 1)) - variances / count
    epistemic, noise = jnp.mean(each, axis=1), jnp.std(each, axis=1) * size**-0.5
    return means, jnp.mean(variances, axis=1), epistemic, noise


def _outcomes(program: Program, draws: dict, fixed: dict, rows: dict, hashes: jax.Array) -> jax.Array:
    """Predictive draws (m, s, r), each row's from keys of its own content."""
    count = max(2, -(-LEAST_DRAWS // program.size))
    replicate = _replicate(program, draws, fixed, rows, hashes)
    return jnp.moveaxis(lax.map(replicate, jnp.arange(count, dtype=jnp.uint32)), 0, -1)


def _replicate(
    program: Program, draws: dict, fixed: dict, rows: dict, hashes: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """Number of a replicate -> one outcome for each posterior draw, (m, s), the same whenever it is asked for."""
    root = jax.random.key(0, impl="threefry2x32")
    keys = jax.vmap(lambda h: jax.random.fold_in(root, h))(hashes)

    def replicate(number: jax.Array) -> jax.Array:
        row_keys = jax.vmap(lambda key: jax.random.key_data(jax.random.fold_in(key, number)))(keys)
        return _draws_second(program.programs[SAMPLE].call(draws, fixed, rows, row_keys), program.event)

    return replicate


def _sorted_quantiles(pooled: jax.Array, levels: jax.Array, discrete: bool) -> jax.Array:
    size = pooled.shape[1]
    levels = jnp.broadcast_to(levels, (pooled.shape[0], levels.shape[-1]))
    if discrete:
        places = jnp.clip(jnp.ceil(levels * size - 1e-9).astype(int) - 1, 0, size - 1)
        return jnp.take_along_axis(pooled, places, axis=1)
    place = levels * (size - 1)
    below = jnp.clip(jnp.floor(place).astype(int), 0, size - 2)
    low, high = jnp.take_along_axis(pooled, below, axis=1), jnp.take_along_axis(pooled, below + 1, axis=1)
    return low + (place - below) * (high - low)


def _cdf(program: Program, draws: dict, fixed: dict, rows: dict, along: jax.Array) -> jax.Array:
    """P(Y <= y) and P(Y < y), (n, 2 * event), of y that stands behind each row's hash."""
    hashes, y = along[:, 0].astype(jnp.uint32), along[:, 1:]
    flat = y.reshape(-1)
    if program.family is None:
        pooled = jnp.sort(_outcomes(program, draws, fixed, rows, hashes).reshape(flat.shape[0], -1), axis=1)
        both = _rank(pooled, flat, program.discrete)
    else:
        family = program.family
        parameters = [_draws_second(p, program.event) for p in program.programs[PARAMETERS].call(draws, fixed, rows)]
        upto = average(family.cdf(flat[:, None], *parameters), program.weights)
        if program.discrete:
            below = average(family.cdf(jnp.maximum(flat - 1.0, 0.0)[:, None], *parameters), program.weights)
            both = upto, jnp.where(flat >= 1.0, below, 0.0)
        else:
            both = upto, upto
    return jnp.stack(both, axis=-1).reshape(y.shape[0], -1)


def _shortest(program: Program, draws: dict, fixed: dict, rows: dict, along: jax.Array) -> jax.Array:
    hashes, levels = along[:, 0].astype(jnp.uint32), along[:, 1]
    each = jnp.repeat(levels, math.prod(program.event))
    if program.family is None:
        pooled = _outcomes(program, draws, fixed, rows, hashes).reshape(each.shape[0], -1)
        return shortest_of_draws(jnp.sort(pooled, axis=1), each).reshape(levels.shape[0], -1)
    parameters = [_draws_second(p, program.event) for p in program.programs[PARAMETERS].call(draws, fixed, rows)]
    return shortest(program.family, parameters, each, program.weights).reshape(levels.shape[0], -1)


def _below(program: Program, draws: dict, fixed: dict, rows: dict, points: jax.Array) -> jax.Array:
    """P(Y < k) for each k of points (n, event, m), one at a time so that memory stays that of rows x draws."""
    family = cast(Family, program.family)
    parameters = [_draws_second(p, program.event) for p in program.programs[PARAMETERS].call(draws, fixed, rows)]

    def at(k: jax.Array) -> jax.Array:
        upto = average(family.cdf(jnp.maximum(k - 1.0, 0.0)[:, None], *parameters), program.weights)
        return jnp.where(k >= 1.0, upto, 0.0)

    flat = points.reshape(-1, points.shape[-1])
    return lax.map(at, flat.T).T.reshape(points.shape)


def _rank(pooled: jax.Array, y: jax.Array, discrete: bool) -> tuple[jax.Array, jax.Array]:
    """Inverse of `_sorted_quantiles`."""
    size = pooled.shape[1]
    if discrete:
        upto, below = (pooled <= y[:, None]).astype(float), (pooled < y[:, None]).astype(float)
        return jnp.mean(upto, axis=1), jnp.mean(below, axis=1)
    after = jnp.clip(jax.vmap(lambda row, value: jnp.searchsorted(row, value))(pooled, y), 1, size - 1)
    low, high = (jnp.take_along_axis(pooled, at[:, None], axis=1)[:, 0] for at in (after - 1, after))
    part = jnp.where(high > low, (y - low) / jnp.where(high > low, high - low, 1.0), 0.0)
    place = jnp.clip((after - 1 + part) / (size - 1), 0.0, 1.0)
    return place, place


def _sample(program: Program, draws: dict, fixed: dict, rows: dict, keys: jax.Array) -> jax.Array:
    if program.family is None:
        return program.programs[SAMPLE].call(draws, fixed, rows, keys)
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    if program.family.traced:
        return mixture.of_laws(program.family, parameters, program.programs[SAMPLE].call(draws, fixed, rows, keys))
    numbers, family = jnp.arange(parameters[0].shape[1]), program.family

    def one(key: jax.Array, number: jax.Array, *parameters: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), number)
        return family.sample(own, *parameters)

    spread = [0] * len(parameters)
    drawn = jax.vmap(jax.vmap(one, (None, 0, *spread)), (0, None, *spread))(keys, numbers, *parameters)
    return mixture.of_laws(family, parameters, drawn)


def _log_score(program: Program, draws: dict, fixed: dict, rows: dict, y: jax.Array) -> jax.Array:
    if program.family is None:
        return log_average(program.programs[LOG_DENSITY].call(draws, fixed, rows, y), None)
    parameters = program.programs[PARAMETERS].call(draws, fixed, rows)
    density = program.family.log_density(y[:, None], *parameters)
    return log_average(density.reshape(*density.shape[:2], -1).sum(axis=2), program.weights)
