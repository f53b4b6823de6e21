"""Rows whose level training never saw, answered with effects drawn from the population of levels. Imports jax.

The model with one more level, which no row of training has: its posterior is that of the model as it is, and given the
parameters of a draw the new level's effects have the law that the model gives to those of every level. So one draw of
them for each posterior draw makes a draw from that posterior, and all that is said of rows is said as ever.

The outcome's program has a place for each level of training and none for one more. A row picks only its own level's
place, so the new effects are put where some level was that the row does not pick, and the row is sent there.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from probinfer.errors import ModelError, PredictionError
from probinfer.predict.engine import BLOCK_ROWS, LEAST_DRAWS, Answer, Engine
from probinfer.predict.program import Population, Program

_WHOLE_ROWS = 64  # up to here a block is answered whole for each kind of its rows: its shape is compiled already
_MOST_KINDS = 8  # draws with new effects that are kept
_NEW = 1  # the key that new effects come from


class _Kind(NamedTuple):
    """Rows that are answered from the same draws: `slots`, where their new effects stand, and which rows they are."""

    slots: tuple[int, ...]
    rows: np.ndarray


def engine_of(program: Program, block_rows: tuple[int, ...] = BLOCK_ROWS) -> Engine:
    """What answers rows of the program."""
    return Engine(program, block_rows) if program.population is None else PopulationEngine(program, block_rows)


def new_effects(program: Program) -> int:
    """How many new effects stand for each posterior draw: as many as make 4,000 in all, or one."""
    return -(-LEAST_DRAWS // program.size)


def refuse_mixed_levels(programs: Mapping[str, Program]) -> None:
    """Raise ModelError where draws of several outcomes would not give a new level the same effects for each.

    An effect is drawn by its level and by the place that it is put to: the first one, where an input alone picks from
    the effects. Where two do, the place depends on what the other picks, so the outcomes need the same inputs.
    """
    factors = {outcome: each.population.factors if each.population else [] for outcome, each in programs.items()}
    for one, other in combinations(programs, 2):
        for (inputs, sites), (others, theirs) in product(factors[one], factors[other]):
            shared = [site for site in sites if site in theirs]
            if shared and inputs != others and max(len(inputs), len(others)) > 1:
                raise ModelError(
                    f"The outcomes {one!r} and {other!r} cannot answer new levels together: both read "
                    f"{', '.join(shared)}, {one!r} by {' and '.join(inputs)}, {other!r} by {' and '.join(others)}, and "
                    "a new level's effects could not be the same for both in joint draws. Make a predictor of each "
                    f"alone, outcome={one!r} and outcome={other!r}, or leave unseen= out."
                )


class PopulationEngine(Engine):
    """An engine that knows what to do with levels beyond those of training. Thread-safe."""

    def __init__(self, program: Program, block_rows: tuple[int, ...] = BLOCK_ROWS) -> None:
        super().__init__(program, block_rows)
        self._population = cast(Population, program.population)
        self._kinds: OrderedDict[tuple[int, ...], Engine] = OrderedDict()
        self._making = threading.Lock()
        self._change = jax.jit(self._population.program.call)

    def sharing(self, program: Program) -> Engine:
        """As `Engine.sharing`."""
        return self.lend(engine_of(program, self.block_rows))

    def summarise(
        self, columns: Mapping[str, np.ndarray], hashes: np.ndarray, levels: np.ndarray, *, copies: int = 1
    ) -> Answer:
        """As `Engine.summarise`; what new effects differ by is epistemic."""
        slots = self._slots(columns, copies)
        if slots is None:
            return super().summarise(columns, hashes, levels, copies=copies)

        def answer(engine: Engine | None, columns: Mapping[str, np.ndarray], take: Callable) -> tuple[np.ndarray, ...]:
            own = take(levels) if levels.ndim > 1 else levels
            if engine is None:
                return super(PopulationEngine, self).summarise(columns, take(hashes), own, copies=copies)
            return engine.summarise(columns, take(hashes), own, copies=copies)

        return Answer(*self._merged(columns, slots, copies, answer))

    def of_outcomes(self, work: Callable, columns: Mapping[str, np.ndarray], along: np.ndarray) -> np.ndarray:
        """As `Engine.of_outcomes`."""
        slots = self._slots(columns)
        if slots is None:
            return super().of_outcomes(work, columns, along)

        def answer(engine: Engine | None, columns: Mapping[str, np.ndarray], take: Callable) -> tuple[np.ndarray, ...]:
            if engine is None:
                return (super(PopulationEngine, self).of_outcomes(work, columns, take(along)),)
            return (engine.of_outcomes(work, columns, take(along)),)

        return self._merged(columns, slots, 1, answer)[0]

    def sample(self, columns: Mapping[str, np.ndarray], keys: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """As `Engine.sample`, draws of all rows together: rows of the same new level share its effects, rows of
        different ones do not. Takes a call for each new level."""
        slots = self._slots(columns)
        if slots is None or not len(picked):
            return super().sample(self._known(columns, slots), keys, picked)
        low = {entry.name: entry.low or 0 for entry in self.program.inputs}
        codes = np.stack([columns[name] - low[name] for name in self._population.levels], axis=1)
        codes = np.where(slots >= 0, codes, 0)
        found = np.zeros((len(picked), len(keys), *self.program.event))
        for kind in _kinds(np.concatenate([slots, codes], axis=1)):
            where, level = kind.slots[: slots.shape[1]], kind.slots[slots.shape[1] :]
            part = {name: values[kind.rows] for name, values in self._known(columns, slots).items()}
            engine, chosen = super(), picked
            if max(where) >= 0:
                engine, chosen = self._of_level(where, level, picked), np.arange(len(picked))
            found[:, kind.rows] = engine.sample(part, keys[kind.rows], chosen)
        return found

    def compile_summary(self, rows: int, levels: int) -> None:
        """As `Engine.compile_summary`, for new levels too."""
        super().compile_summary(rows, levels)
        if new_effects(self.program) > 1:
            self._engine((0, *[-1] * (len(self._population.levels) - 1))).compile_summary(rows, levels)

    def _merged(
        self, columns: Mapping[str, np.ndarray], slots: np.ndarray, copies: int, answer: Callable
    ) -> tuple[np.ndarray, ...]:
        """What `answer(engine, columns, take)` gives for the rows of each kind, in the order of the rows."""
        sent, merged = self._known(columns, slots), None
        for kind in _kinds(slots):
            whole = len(slots) <= _WHOLE_ROWS and copies == 1
            place = np.arange(len(slots)) if whole else kind.rows
            engine = self._engine(kind.slots) if max(kind.slots) >= 0 else None
            part = answer(engine, {n: v[place] for n, v in sent.items()}, lambda values, place=place: values[place])
            if merged is None:
                merged = tuple(np.empty((len(slots), *values.shape[1:]), values.dtype) for values in part)
            for into, values in zip(merged, part, strict=True):
                into[kind.rows] = values[kind.rows] if whole else values
        return cast(tuple, merged)

    def _slots(self, columns: Mapping[str, np.ndarray], copies: int = 1) -> np.ndarray | None:
        """Where each row's new effects stand, (rows, levels), -1 for a level that is known; None if all are.

        The first place that no other input of the row's factor picks; two inputs with the same new level share it."""
        population = self._population
        ranges = {entry.name: (entry.low or 0, entry.high or 0) for entry in self.program.inputs}
        codes = [columns[name] for name in population.levels]
        new = [(v < ranges[n][0]) | (v > ranges[n][1]) for n, v in zip(population.levels, codes, strict=True)]
        if not any(mask.any() for mask in new):
            return None
        slots = np.full((codes[0].size, len(codes)), -1)
        for number, factor in enumerate(population.together):
            others = [other for other, same in enumerate(population.together) if same == factor and other != number]
            taken = [np.where(new[o], slots[:, o].reshape(new[o].shape), codes[o] - ranges[population.levels[o]][0])
                     for o in others]  # fmt: skip
            slot = np.zeros(new[number].shape, int)
            for _ in others:
                for place in taken:
                    slot += slot == place
            for other in (o for o in others if o < number):
                same = new[other] & (codes[other] == codes[number])
                slot = np.where(same, slots[:, other].reshape(slot.shape), slot)
            slots[:, number] = np.where(new[number], slot, -1).ravel()
        if copies > 1:
            apart = slots.reshape(-1, copies, len(codes))
            if np.any(apart != apart[:, :1]):
                raise PredictionError(
                    f"{', '.join(population.levels)}: what may stand for a missing level is either known or new; "
                    "wanted values that training has seen."
                )
            slots = apart[:, 0]
        return slots

    def _known(self, columns: Mapping[str, np.ndarray], slots: np.ndarray | None) -> dict[str, np.ndarray]:
        """The columns with every new level sent to the place of its effects."""
        sent = dict(columns)
        for number, name in enumerate(self._population.levels if slots is not None else ()):
            low = next(entry.low or 0 for entry in self.program.inputs if entry.name == name)
            slot = cast(np.ndarray, slots)[:, number].reshape(-1, *[1] * (sent[name].ndim - 1))
            sent[name] = np.where(slot >= 0, slot + low, sent[name])
        return sent

    def _engine(self, slots: tuple[int, ...]) -> Engine:
        """What answers rows with new effects at `slots`: the same ones for every row, whatever its level is called."""
        with self._making:
            engine = self._kinds.get(slots)
            if engine is None:
                repeats = new_effects(self.program)
                program = self.program
                if repeats > 1:
                    program = program.with_draws(lambda _, values: np.repeat(values, repeats, axis=0))
                    program = replace(program, repeats=repeats)
                engine = self._with_effects(program, slots, self._counters(program.size))
                self._kinds[slots] = engine
                if len(self._kinds) > _MOST_KINDS:
                    self._kinds.popitem(last=False)
            self._kinds.move_to_end(slots)
            return engine

    def _counters(self, size: int) -> np.ndarray:
        """The number of each draw, for every level: (s, levels, 1)."""
        return np.broadcast_to(np.arange(size)[:, None, None], (size, len(self._population.levels), 1))

    def _of_level(self, slots: tuple[int, ...], level: tuple[int, ...], picked: np.ndarray) -> Engine:
        """What draws for rows of one new level, or combination of such: from effects of its own for each draw."""
        again = np.zeros(len(picked), int)  # how often the same draw came before
        counts: dict[int, int] = {}
        for i, draw in enumerate(picked.tolist()):
            again[i] = counts[draw] = counts.get(draw, -1) + 1
        words = np.array(level, np.int64).view(np.uint32).reshape(1, -1, 2)
        drawn = np.stack([picked, again], axis=1)[:, None]  # of each draw; the words are of each level
        size = (len(picked), words.shape[1], 2)
        folded = np.concatenate([np.broadcast_to(words, size), np.broadcast_to(drawn, size)], axis=2)
        return self._with_effects(self.program.with_draws(lambda _, values: values[picked]), slots, folded)

    def _with_effects(self, program: Program, slots: tuple[int, ...], counters: np.ndarray) -> Engine:
        """An engine of the program with new effects in its draws, by keys folded with the counters of each draw and
        level, (s, levels, k)."""
        population = cast(Population, program.population)
        with jax.enable_x64(True):
            keys = _keys(jnp.asarray(counters.astype(np.uint32)))
            draws = {**program.draws, **population.draws}
            changed = self._change(draws, jnp.asarray(slots, jnp.int64), keys)
        draws = {name: np.asarray(changed.get(name, values)) for name, values in program.draws.items()}
        return self.lend(Engine(replace(program, draws=draws, population=None), self.block_rows))


@jax.jit
def _keys(counters: jax.Array) -> jax.Array:
    def one(words: jax.Array) -> jax.Array:
        key = jax.random.key(_NEW, impl="threefry2x32")
        for word in words:
            key = jax.random.fold_in(key, word)
        return jax.random.key_data(key)

    return jax.vmap(jax.vmap(one))(counters)


def _kinds(slots: np.ndarray) -> Iterator[_Kind]:
    """Rows with the same slots."""
    different, inverse = np.unique(slots, axis=0, return_inverse=True)
    for number, found in enumerate(different):
        yield _Kind(tuple(int(slot) for slot in found), np.flatnonzero(inverse.ravel() == number))
