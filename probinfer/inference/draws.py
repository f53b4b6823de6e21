"""What every method returns: points in the target's space, what was seen on the way, and how the run ended."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Outcome(enum.Enum):
    """How a run ended."""

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    OUT_OF_BUDGET = "out of budget"  # a stop rule's seconds or draws were spent before its goal was reached


@dataclass(frozen=True)
class Draws:
    """Draws from (an approximation of) the posterior, unconstrained.

    positions: (chain, draw, d) for Markov chains, (sample, d) for methods whose draws are independent.
    stats: one array over `sample_dims` for each statistic, under ArviZ's names (lp, diverging, tree_depth, ...).
    seconds: wall time of each stage.
    settings: the method's settings, ready for JSON.
    facts: what the method found out besides, text and numbers, such as `pareto_khat`: attributes of the tree to be.
    stopping: of a run with a stop rule, the rule and what it saw when the run ended, ready for JSON.
    summaries: functions of each draw by name, (sample dims, shape), of a method whose draws are too large to keep:
    in the place of positions, which then have no columns.
    groups: further groups of the tree to be, of values that no verdict rests on: name, then variable, then its dims and
    its values; a variable with its own name for its only dim is a coordinate.
    """

    positions: np.ndarray
    stats: Mapping[str, np.ndarray]
    method: str
    settings: Mapping[str, Any]
    outcome: Outcome = Outcome.COMPLETED
    sample_dims: tuple[str, ...] = ("chain", "draw")
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    stopping: Mapping[str, Any] | None = None
    summaries: Mapping[str, np.ndarray] | None = None
    groups: Mapping[str, Mapping[str, tuple[tuple[str, ...], np.ndarray]]] = field(default_factory=dict)
