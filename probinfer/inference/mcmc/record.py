"""Blocks of a chain as records of a journal, and back: the raw bytes of their arrays, in the order of their fields."""

import struct
from collections import deque
from typing import NamedTuple

import jax
import numpy as np

from probinfer.inference.checkpoint import Journal
from probinfer.inference.mcmc.block import BlockResult, ChainState, Row, one
from probinfer.inference.mcmc.kernel import Info
from probinfer.inference.mcmc.step_size import DualAveraging

# Numbers of phases; the windows of the warm-up count on from WARMUP, and scouts from SCOUTING by the draws before them.
SAMPLING, WARMUP, SCOUTING = 0, 1, 1000
_HEAD = struct.Struct("<III")  # phase, chain, draws


class Block(NamedTuple):
    """What a chain drew, and where it stood afterwards."""

    state: ChainState
    result: BlockResult


class Record:
    """The blocks of a run that its journal holds, given out again in their order, and the place for new ones.

    Args:
        journal: None keeps nothing.
        dim, dtype: of the target.
        words: pairs of random words in a chain's state.
        sizes: shape of the step sizes, () for one.
    """

    def __init__(
        self, journal: Journal | None, dim: int, dtype: np.dtype, words: int = 0, sizes: tuple[int, ...] = ()
    ) -> None:
        self._journal, self._dim, self._dtype, self._words, self._sizes = journal, dim, dtype, words, sizes
        self._kept: dict[tuple[int, int], deque[Block]] = {}
        for payload in journal.records if journal is not None else ():
            phase, chain, draws = _HEAD.unpack_from(payload)
            self._kept.setdefault((phase, chain), deque()).append(self._decode(payload[_HEAD.size :], phase, draws))

    def take(self, phase: int, chain: int, most: int) -> Block | None:
        """The next block of this chain in this phase, cut to `most` draws; None when there is no more."""
        kept = self._kept.get((phase, chain))
        if not kept:
            return None
        block = kept.popleft()
        if int(block.result.done) > most:
            kept.appendleft(Block(block.state, rows(block.result, most, None)))
            block = Block(block.state, rows(block.result, 0, most))
        return block

    def keep_all(self, phase: int, chains: range, states: ChainState, done: np.ndarray, made: Row) -> None:
        """Write new blocks to the journal, of each of these chains that drew: stacked states, and the first `done`
        (n,) of the draws (n, draw, ...); of the sampling without the gradients, which only a metric is fitted from."""
        if self._journal is None:
            return
        for place in np.flatnonzero(done).tolist():
            own = jax.tree.map(lambda column, place=place: column[place, : done[place]], made)
            own = own._replace(g=own.g[:0]) if phase == SAMPLING else own
            block = Block(one(states, place), BlockResult(np.int32(done[place]), *own))
            content = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(block))
            self._journal.append(_HEAD.pack(phase, chains[place], done[place]) + content)

    def _decode(self, content: bytes, phase: int, draws: int) -> Block:
        leaves, structure = jax.tree.flatten(self._template(phase, draws))
        values, at = [], 0
        for leaf in leaves:
            values.append(np.frombuffer(content, leaf.dtype, leaf.size, at).reshape(leaf.shape))
            at += leaf.nbytes
        return jax.tree.unflatten(structure, values)

    def _template(self, phase: int, draws: int) -> Block:
        def zeros(*shape: int, dtype: type | np.dtype = self._dtype) -> np.ndarray:
            return np.zeros(shape, dtype)

        column, whole, flag = zeros(draws), zeros(draws, dtype=np.int32), zeros(draws, dtype=bool)
        table = zeros(draws, self._dim)
        sizes = zeros(draws, *self._sizes)
        step = DualAveraging(*(zeros(*self._sizes) for _ in DualAveraging._fields))
        state = ChainState(
            q=zeros(self._dim),
            key=zeros(2, dtype=np.uint32),
            iteration=zeros(dtype=np.uint32),
            step=step,
            g=zeros(self._dim),
            log_density=zeros(),
            words=zeros(self._words, 2, dtype=np.uint32) if self._words else (),
        )
        info = Info(column, sizes, whole, whole, flag, flag, column, column)
        gradients = table[:0] if phase == SAMPLING else table
        result = BlockResult(zeros(dtype=np.int32), table, gradients, column, sizes, info)
        return Block(state, result)


def rows(result: BlockResult, first: int, last: int | None) -> BlockResult:
    """The draws from `first` up to `last` of a block."""
    span = slice(first, last)
    q = result.q[span]
    return result._replace(
        done=np.int32(len(q)),
        q=q,
        g=result.g[span],
        log_density=result.log_density[span],
        step_size=result.step_size[span],
        info=Info(*(column[span] for column in result.info)),
    )
