"""What a monitor watches of a point model: its columns as numbers, and where outcomes lie among those of the
calibration rows. Imports numpy.

A calibration set covers somewhat more or less than it says, as it is one of many, and in the long run any test of its
level would notice. But a new outcome falls into any of the n + 1 gaps between n calibration rows with the same chance,
and later ones as in Polya's urn (see `exchange`): tests of that are exact for as long as one watches, where errors have
no ties; equal ones are told apart at random.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probinfer.evaluate.betting import miss_gains
from probinfer.evaluate.exchange import Reference
from probinfer.predict.conformal import Calibration, rank
from probinfer.predict.interval import Answered
from probinfer.predict.point import PointPredictor
from probinfer.predict.prediction import Prediction
from probinfer.predict.rows import column_names

_MISSING = np.finfo(float).max  # what stands for a missing value: it comes last


@dataclass
class _Group:
    """The urn of one group of n calibration rows.

    reference    its places
    rows         n
    low, high    ranks of the calibration rows at the ends of the interval; low 0 where it has none
    seen, missed outcomes so far
    """

    reference: Reference
    rows: int
    low: int
    high: int
    seen: int = 0
    missed: int = 0


class OutcomePlaces:
    """Where outcomes lie among those of the calibration rows, group by group."""

    def __init__(self, groups: Mapping[str, _Group]) -> None:
        self._groups = dict(groups)

    @classmethod
    def of(cls, predictor: PointPredictor, level: float, bins: int) -> "OutcomePlaces | None":
        """Nothing seen yet; None for a predictor that is not calibrated."""
        known = predictor.calibration
        if known is None:
            return None
        ends = (0.0, level) if predictor.classes is not None else ((1.0 - level) / 2.0, (1.0 + level) / 2.0)
        groups = {}
        for label, count in zip(known.labels, known.counts, strict=True):
            grid = np.arange(1, count + 1) / (count + 1.0)
            low, high = rank(count, ends[0], upper=False), rank(count, ends[1], upper=True)
            groups[label] = _Group(Reference.of(grid, bins, np.zeros(count)), count, low, high)
        return cls(groups)

    def fits(self, known: Calibration | None) -> bool:
        """Whether they are of this calibration."""
        counts = {} if known is None else dict(zip(known.labels, known.counts, strict=True))
        return counts == {label: group.rows for label, group in self._groups.items()}

    def add(
        self, pit: np.ndarray, below: np.ndarray, upto: np.ndarray, labels: np.ndarray | None, random: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Look at further outcomes: numbers that are uniform and independent, (outcomes,), and what bets against misses
        have gained, (outcomes, bets). pit: a place from `below` to `upto`; random: a uniform number for each."""
        ranks, gains = np.empty(len(pit)), np.empty((len(pit), 0))
        for label, group in self._groups.items():
            here = np.ones(len(pit), bool) if labels is None else labels == label
            if not here.any():
                continue
            pairs = np.stack([np.zeros(here.sum()), random[here]], axis=1)
            ranks[here], group.reference.counts = group.reference.rank(pit[here], pairs)
            size = group.rows + 1
            under, over = np.rint(upto[here] * size) - 1 < group.low, np.rint(below[here] * size) >= group.high
            missed = under | over
            before = group.missed + np.cumsum(missed) - missed
            chance = (size - (group.high - group.low) + before) / (size + group.seen + np.arange(len(missed)))
            found = miss_gains(missed, chance)
            gains = np.empty((len(pit), found.shape[1])) if not gains.shape[1] else gains
            gains[here] = found
            group.seen, group.missed = group.seen + len(missed), group.missed + int(missed.sum())
        return ranks, gains

    def to_plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            label: {**vars(group), "reference": group.reference.to_plain()} for label, group in self._groups.items()
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "OutcomePlaces":
        """Raises ValueError, KeyError or TypeError for what is none."""
        groups = {}
        for label, words in plain.items():
            counts = [int(words[name]) for name in ("rows", "low", "high", "seen", "missed")]
            rows, low, high, seen, missed = counts
            if not (0 <= low < high <= rows and 0 <= missed <= seen):
                raise ValueError("places that there are not")
            groups[str(label)] = _Group(Reference.from_plain(words["reference"]), *counts)
        return cls(groups)


def outcome_places(
    predictor: PointPredictor, values: np.ndarray, groups: np.ndarray | None, came: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where outcomes lie, from where to where: among those of the calibration rows, or of classes of a predictor that
    is not calibrated in the model's own probabilities."""
    if predictor.calibration is not None:
        return predictor.places(values, groups, came)
    number, codes = np.arange(len(came)), came.astype(int)
    upto = np.cumsum(values, axis=1)[number, codes]
    return upto - values[number, codes], upto


def inside_of(said: Prediction | Answered, came: np.ndarray) -> np.ndarray:
    """Whether outcomes are inside of their interval or set."""
    if said.sets is not None:
        return said.sets[np.arange(len(came)), came.astype(int)]
    return (said.lower <= came) & (came <= said.upper)


def columns_of(predictor: PointPredictor, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of what the model is given, (rows,) each, by names that say where they come from."""
    found: dict[str, np.ndarray] = {}
    for entry in predictor.asked.watched:
        flat = inputs[entry.name].reshape(len(inputs[entry.name]), -1).astype(float)
        found |= dict(zip(names_of(predictor)[entry.name], flat.T, strict=True))
    return found


def names_of(predictor: PointPredictor) -> dict[str, list[str]]:
    """Names of each input's columns: those that prepare them, where they differ."""
    names = {entry.name: column_names(entry) for entry in predictor.asked.watched}
    prepared = predictor.program.prepared
    for each in prepared.inputs if prepared else ():
        if each.argument in names and len(set(each.names)) == len(each.names):
            names[each.argument] = each.names
    return names


def frame_columns(frame: Any) -> dict[str, np.ndarray]:
    """A data frame's columns as numbers, (rows,) each: of a text some number of its own."""
    found = {}
    for name in frame:
        values, gone = frame[name].to_numpy(), frame[name].isna().to_numpy()
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]").astype(np.int64)
        if values.dtype.kind not in "fiub":
            values = np.array([zlib.crc32(str(value).encode()) for value in values])
        found[str(name)] = np.where(gone, _MISSING, values.astype(float))
    return found
