"""One chain of the collapsed Gibbs sampler: where it stands, what it keeps of its draws, its record in a journal."""

import io
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probinfer.inference.topics.concentration import Counts, counts_of, draw_concentration
from probinfer.model.topics import Corpus

_HOT = 2.0, 1.0  # concentrations, of documents and of words, that a warm-up begins with
_HEATED = 0.75  # of the warm-up
_ARRAYS = ("z", "random", "concentrations", "mixtures")  # what a chain needs to go on, besides its counts


@dataclass(frozen=True)
class Plan:
    """What all chains of a run share.

    learned    which of the two concentrations, document's and word's, are drawn
    warmup     sweeps before the draws that are kept
    states     most states, counts (V, K) of all words in all topics, that a chain keeps
    """

    corpus: Corpus
    topics: int
    loops: Any
    learned: tuple[bool, bool]
    warmup: int
    states: int
    lengths: np.ndarray = field(init=False)  # histogram of the documents' lengths
    most: int = field(init=False)  # tokens of the most frequent word

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", np.bincount(np.diff(self.corpus.starts)))
        object.__setattr__(self, "most", int(np.bincount(self.corpus.words).max()))


class Chain:
    """A chain's assignment of topics to tokens, moved by sweeps.

    `rows` has, for each draw kept, the log joint density, the effective number of topics, the concentrations; `shares`
    the topics' shares of the tokens, the largest first; `states` maps a draw's number to its counts and concentrations.
    Every so many draws are kept as states, twice as many apart whenever there are too many: so the choice depends on
    the number of draws alone.
    """

    def __init__(self, plan: Plan, number: int, key: np.ndarray, concentrations: tuple[float, float]) -> None:
        corpus, topics = plan.corpus, plan.topics
        self.plan, self.number = plan, number
        self.sweeps = 0
        self.concentrations = np.array(concentrations)
        self.rows: list[np.ndarray] = []
        self.shares: list[np.ndarray] = []
        self.states: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.stride = 1
        self.spent = self.written = 0.0  # seconds of sampling, all of them and those that the journal has
        self._unwritten = 0
        self._key = [int(word) for word in key]
        self.random = np.random.SeedSequence([*self._key, number, 0]).generate_state(1, np.uint64)
        generator = np.random.default_rng(np.random.SeedSequence([*self._key, number]))
        self.z = generator.integers(0, topics, len(corpus.words), dtype=np.int16)
        self.word_topic = np.zeros((corpus.vocabulary, topics), np.int32)
        self.total = np.zeros(topics, np.int64)
        plan.loops.count_tokens(corpus.words, self.z, self.word_topic, self.total)
        self._space = (
            np.empty((corpus.vocabulary, topics), np.int32),
            np.empty((corpus.vocabulary, topics), np.int32),
            np.empty(corpus.vocabulary, np.int32),
        )
        self._histogram = np.zeros(len(plan.lengths), np.int64)
        self._values = np.zeros(plan.most + 1, np.int64)
        self.mixtures = np.zeros((0, topics))

    def keep_mixtures(self) -> None:
        """Add up E[θ_d | z] over the draws to come."""
        self.mixtures = np.zeros((self.plan.corpus.documents, self.plan.topics))

    @property
    def drawn(self) -> int:
        """Draws kept so far."""
        return len(self.rows)

    def advance(self, sweeps: int, seconds: float) -> int:
        """Up to so many sweeps, and no further one after so many seconds. The number made."""
        until, made = time.monotonic() + seconds, 0
        while made < sweeps and (made == 0 or time.monotonic() < until):
            self._sweep()
            made += 1
        return made

    def _sweep(self) -> None:
        plan, corpus, loops = self.plan, self.plan.corpus, self.plan.loops
        kept = self.sweeps >= plan.warmup
        loops.sweep(
            corpus.starts,
            corpus.words,
            self.z,
            self.word_topic,
            self.total,
            *self._heated(),
            self.random,
            self._space,
            self._histogram,
            self.mixtures if kept else self.mixtures[:0],
        )
        self.sweeps += 1
        if kept or (any(plan.learned) and self.sweeps > _HEATED * plan.warmup):
            loops.count_values(self.word_topic, self._values)
            totals = np.bincount(self.total)
            factors = (
                counts_of(self._histogram, plan.lengths, plan.topics),
                counts_of(self._values, totals, corpus.vocabulary),
            )
            self._draw_concentrations(factors)
            if kept:
                self._keep(factors)

    def _heated(self) -> np.ndarray:
        """The concentrations of a sweep: larger ones to begin with, so that topics form together and do not stay where
        they first fell; the model's own for the last quarter of the warm-up and all draws."""
        share = 1 - self.sweeps / max(_HEATED * self.plan.warmup, 1e-9)
        if share <= 0:
            return self.concentrations
        return self.concentrations ** (1 - share) * np.maximum(self.concentrations, _HOT) ** share

    def _draw_concentrations(self, factors: tuple[Counts, Counts]) -> None:
        generator = np.random.default_rng(np.random.SeedSequence([*self._key, self.number, self.sweeps]))
        for i, learned in enumerate(self.plan.learned):
            if learned:
                self.concentrations[i] = draw_concentration(factors[i], self.concentrations[i], generator)

    def _keep(self, factors: tuple[Counts, Counts]) -> None:
        values = self.concentrations
        joint = sum(factor.log_density(value) for factor, value in zip(factors, values, strict=True))
        joint -= sum(values[i] for i, learned in enumerate(self.plan.learned) if learned)  # the prior Exponential(1)
        share = np.sort(self.total / self.total.sum())[::-1]
        draw = self.drawn
        self.rows.append(np.array([joint, 1 / np.sum(share**2), *values]))
        self.shares.append(share)
        if draw % self.stride == 0:
            self._add_state(draw, self.word_topic.copy(), values.copy())

    def _add_state(self, draw: int, counts: np.ndarray, concentrations: np.ndarray) -> None:
        self.states[draw] = counts, concentrations
        while len(self.states) > self.plan.states:
            self.stride *= 2
            self.states = {number: state for number, state in self.states.items() if number % self.stride == 0}

    def record(self) -> bytes:
        """Where the chain stands, and the draws kept since the last record."""
        new = {number: state for number, state in self.states.items() if number >= self._unwritten}
        shape = (0, *self.word_topic.shape)
        content = io.BytesIO()
        np.savez(
            content,
            place=np.array([self.number, self.sweeps]),
            **{name: getattr(self, name) for name in _ARRAYS},
            rows=np.array(self.rows[self._unwritten :]).reshape(-1, 4),
            shares=np.array(self.shares[self._unwritten :]).reshape(-1, self.plan.topics),
            numbers=np.array(list(new), np.int64),
            counts=np.array([state[0] for state in new.values()]).reshape(-1, *shape[1:]),
            values=np.array([state[1] for state in new.values()]).reshape(-1, 2),
        )
        self._unwritten = self.drawn
        return content.getvalue()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a record; those of a chain in their order."""
        self.sweeps = int(arrays["place"][1])
        for name in _ARRAYS:
            setattr(self, name, arrays[name].copy())
        self.rows += list(arrays["rows"])
        self.shares += list(arrays["shares"])
        for number, counts, values in zip(arrays["numbers"], arrays["counts"], arrays["values"], strict=True):
            if number % self.stride == 0:
                self._add_state(int(number), counts, values)
        self._unwritten = self.drawn
        self.word_topic[:], self.total[:] = 0, 0
        self.plan.loops.count_tokens(self.plan.corpus.words, self.z, self.word_topic, self.total)


def read_record(payload: bytes) -> dict[str, np.ndarray]:
    """The arrays of a record."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
