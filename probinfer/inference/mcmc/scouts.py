"""Scouts: short chains from starting points of their own that look, after the others, for a place where none has been.

Chains that all began in the basin of one mode agree, and nothing that compares them shows the other: with two modes
alike that is one run of four chains in eight. A scout has the metric and the step size of the chains, so where the
posterior is one piece it is among their draws within a few steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from probinfer.inference.mcmc.block import Row
from probinfer.inference.mcmc.chains import Chains
from probinfer.inference.mcmc.drawn import Drawn
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import SCOUTING
from probinfer.inference.progress import Progress

SCOUTS = 6
_WALK, _SEEN = 20, 10  # draws of a scout, and those of them that are looked at
_LONGER, _STAYED = 100, 50  # the same of one that seems to be elsewhere: most were only on their way
_DOUBLINGS = 6  # of a scout's trajectories, at most
_SHARE = np.log(1000)  # how much less log density than the chains have, at which a place still counts


class Elsewhere(NamedTuple):
    """A place (d,) where a scout stayed and no chain has been; its log density, less the chains' median; how many
    scouts stayed away."""

    position: np.ndarray
    gain: float
    scouts: int


def look_elsewhere(
    scouts: Chains,
    metric: Metric,
    positions: np.ndarray,
    log_density: np.ndarray,
    progress: Progress,
    done: int,
    place: Callable[[Row], Row] | None = None,
) -> Elsewhere | None:
    """Let the scouts walk; where the best of those ended that stayed outside of what the chains drew, with a log
    density that leaves it a share of the mass. None if there is none, or the time was up.

    positions (chain, draw, d), log_density (chain, draw): of the chains. done: draws that each made, for the progress.
    place: as for `Drawn`.
    """
    low, high = positions.min((0, 1)), positions.max((0, 1))
    middle = np.median(log_density)
    enough = middle - _SHARE - (middle - np.quantile(log_density, 0.05))
    for again, (walk, seen) in enumerate([(_WALK, _SEEN), (_LONGER, _STAYED)]):
        drawn = Drawn(len(scouts), place=place)
        scouts.advance(
            walk,
            [metric] * len(scouts),
            drawn,
            phase=SCOUTING + 2 * positions.shape[1] + again,
            progress=progress,
            label=lambda: "looking for other modes",
            done=done,
            total=done + walk,
            adapt=True,
            limit=_DOUBLINGS,
            hurry=True,
        )
        if scouts.interrupted or scouts.late:
            return None
        rows = drawn.rows(walk - seen)
        places, heights = rows.q, np.median(rows.log_density, axis=1)
        outside = ((places > high).all(1) | (places < low).all(1)).any(1)
        away = np.flatnonzero(outside & (heights >= enough))
        if not len(away):
            return None
        scouts.keep(away)
    best = away[np.argmax(heights[away])]
    return Elsewhere(places[best, -1], float(heights[best] - middle), len(away))
