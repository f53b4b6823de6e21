"""What a forecaster computes from: how the states of each posterior draw move and are seen. Imports jax only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from probinfer.model.forks import before_jax
from probinfer.model.program_cache import kept_programs
from probinfer.predict.family import Family

MATRICES, MOVE, WEIGH = "matrices", "move", "weigh"  # besides PARAMETERS and SAMPLE


@dataclass(frozen=True, eq=False)
class Motion:
    """Laws of the next state and of an observation, for every posterior draw, as exported functions.

    programs     of s draws and n states of each. Of a linear Gaussian model MATRICES (draws, time) -> the six matrices
                 of a time, (s, …) each. Of any other MOVE (draws, states, time, words (s, n, 2)) -> states of that
                 time; WEIGH (draws, states, time, y, observed) -> log density (s, n) of the observed entries; SAMPLE
                 (draws, states, time, words) -> an observation of each; and, with a family, PARAMETERS (draws, states,
                 time) -> the family's parameters (s, n, *event) of an observation. States are (s, n, *state)
    draws        sites of the prior, each (S, *shape), chain after chain
    chains       how many chains they are; None for independent draws
    family       of every entry of an observation; None where it has none
    event, state shapes of an observation and of a state
    kinds        types of an observation and of a state, "float64" or "int64"
    discrete     observations are whole numbers
    probabilities  how many of P(Y = 0), P(Y = 1), … a prediction holds; 0 for none
    apart        entries of an observation are independent given the state, so some of them may be missing
    horizon      how many times the model knows, where it looks into arrays by the time; None where it knows any
    """

    programs: Mapping[str, jax.export.Exported]
    draws: Mapping[str, np.ndarray]
    chains: int | None
    family: Family | None
    event: tuple[int, ...]
    state: tuple[int, ...]
    kinds: tuple[str, str]
    discrete: bool
    probabilities: int
    apart: bool
    horizon: int | None
    _compiled: dict[Any, Any] = field(default_factory=dict, repr=False)
    _turns: dict[Any, Lock] = field(default_factory=dict, repr=False)

    @property
    def linear(self) -> bool:
        """The states' law is Gaussian, and known exactly."""
        return MATRICES in self.programs

    @property
    def size(self) -> int:
        """Number of posterior draws."""
        return len(next(iter(self.draws.values())))

    @cached_property
    def there(self) -> dict[str, jax.Array]:
        """The draws where programs run."""
        with jax.enable_x64(True):
            return {name: jax.device_put(values) for name, values in self.draws.items()}

    def lent(self, other: "Motion") -> "Motion":
        """The same, but it uses what `other`, of the same `outlook.fingerprint`, has compiled and will compile."""
        return replace(self, _compiled=other._compiled, _turns=other._turns)

    def call(self, function: Callable, *arguments: Any, **fixed: Any) -> Any:
        """`function(self, *arguments, **fixed)` compiled for arguments of these shapes and kept, in double precision.
        NumPy arrays in, NumPy arrays out. fixed: whole numbers that shapes come from."""
        before_jax()
        with jax.enable_x64(True):
            arguments = jax.tree.map(jax.numpy.asarray, arguments)
            leaves, structure = jax.tree.flatten(arguments)
            key = (function, *fixed.items(), structure, *((leaf.shape, leaf.dtype.name) for leaf in leaves))
            if key not in self._compiled:
                with self._turns.setdefault(key, Lock()), kept_programs():
                    if key not in self._compiled:
                        lowered = jax.jit(lambda *given: function(self, *given, **fixed)).lower(*arguments)
                        self._compiled[key] = lowered.compile()
            return jax.tree.map(np.asarray, self._compiled[key](*arguments))


class Seen(NamedTuple):
    """What an observation did."""

    state: tuple[np.ndarray, ...]
    log_density: np.ndarray  # (S,) log p(y_t | y_0, ..., y_t-1) of every draw
    ess: np.ndarray | None  # (S,) effective particles of every draw; None where exact


class Outcomes(NamedTuple):
    """The observation to come, for M possible states of every draw."""

    parameters: tuple[np.ndarray, ...]  # of the family, (S, M, *event, …)
    drawn: np.ndarray | None  # (S, M, *event), where there is no family


class Mover(Protocol):
    """The states of all draws in time; `time` is that of the observation, `words` (2,) uint32 are new at each."""

    def observe(
        self, motion: Motion, state: tuple, time: int, y: np.ndarray, observed: np.ndarray, words: np.ndarray
    ) -> Seen:
        """The states of `time`, from those of the time before."""
        ...

    def scatter(self, motion: Motion, state: tuple, words: np.ndarray) -> tuple:
        """The states that a forecast starts from."""
        ...

    def ahead(self, motion: Motion, state: tuple, time: int, words: np.ndarray) -> tuple[tuple, Outcomes]:
        """Those of `time`, nothing observed, and the observation's law."""
        ...

    def pick(self, motion: Motion, state: tuple, chosen: np.ndarray, words: np.ndarray) -> np.ndarray:
        """One state at random of each of the draws `chosen` (P,): (P, *state)."""
        ...

    def simulate(
        self, motion: Motion, states: np.ndarray, chosen: np.ndarray, time: int, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """States of `time` and observations, (P, *state) and (P, *event), from states of the time before."""
        ...
