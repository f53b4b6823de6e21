"""Scouts: short chains from starting points of their own that look, after the others, for a place where none has been.

Chains that all began in the basin of one mode agree, and nothing that compares them shows the other: with two modes
alike that is one run of four chains in eight. A scout has the metric and the step size of the chains, so where the
posterior is one piece it is among their draws within a few steps. It may linger where scales of groups are large, and
every effect is pinned down far more closely in their units than the metric of the chains expects: the density is high
there, and there is hardly any mass. So what is weighed is the mass.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from probinfer.inference.mcmc.block import Row
from probinfer.inference.mcmc.centring import from_the_model
from probinfer.inference.mcmc.chains import Chains
from probinfer.inference.mcmc.compiled import compiled_density
from probinfer.inference.mcmc.drawn import Drawn
from probinfer.inference.mcmc.metric import Metric
from probinfer.inference.mcmc.record import SCOUTING
from probinfer.inference.progress import Progress
from probinfer.model.target import Target

SCOUTS = 6
_WALK, _SEEN = 20, 10  # draws of a scout, and those of them that are looked at
_LONGER, _STAYED = 100, 50  # the same of one that seems to be elsewhere: most were only on their way
_DOUBLINGS = 6  # of a scout's trajectories, at most
_SHARE = np.log(1000)  # how much less log mass, and log density, than the chains have, at which a place still counts
_COMPARED = 200  # draws of the chains whose gradients say how narrow their law is


class Elsewhere(NamedTuple):
    """A place (d,) where a scout stayed and no chain has been; the logarithm of its mass, less that of where the chains
    are; how many scouts stayed away."""

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
    """Let the scouts walk; where the one with the most mass around it ended, of those that stayed outside of what the
    chains drew and have a share of the mass there. None if there is none, or the time was up.

    positions (chain, draw, d), log_density (chain, draw): of the chains. done: draws that each made, for the progress.
    place: as for `Drawn`; these two are in its coordinates.
    """
    low, high = positions.min((0, 1)), positions.max((0, 1))
    middle = np.median(log_density)
    enough = middle - _SHARE - (middle - np.quantile(log_density, 0.05))
    for again, (walk, seen) in enumerate([(_WALK, _SEEN), (_LONGER, _STAYED)]):
        drawn = Drawn(len(scouts), gradients=True)
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
        placed = rows if place is None else place(rows)
        places, heights = placed.q, np.median(placed.log_density, axis=1)
        outside = ((places > high).all(1) | (places < low).all(1)).any(1)
        away = np.flatnonzero(outside & (heights >= enough))
        if not len(away):
            return None
        scouts.keep(away)
    gains = log_masses(rows.log_density, rows.g) - _mass_of_chains(scouts.target, positions)
    away = away[gains[away] >= -_SHARE]
    if not len(away):
        return None
    best = away[np.argmax(gains[away])]
    return Elsewhere(places[best, -1], float(gains[best]), len(away))


def log_masses(log_density: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The logarithms of the masses around some draws (n, draw), whose gradients are (n, draw, d), but for what all
    normal laws have in common whose coordinates are correlated alike:

        median log density - sum over coordinates of E[log |gradient|]

    The gradient of a coordinate is of the size of one over its sd, the others fixed, so the sum is the logarithm of the
    volume; it is the same in whatever unit a coordinate is. Draws that are still on their way have gradients that are
    too large, and so too little mass.
    """
    sizes = np.maximum(np.abs(gradients), np.finfo(gradients.dtype).tiny)
    return np.median(log_density, axis=-1) - np.log(sizes).mean(axis=-2).sum(axis=-1)


def _mass_of_chains(target: Target, positions: np.ndarray) -> float:
    """As `log_masses`, of some of the chains' draws, which are as the model has them."""
    flat = positions.reshape(-1, target.dim)
    picked = from_the_model(target, flat[:: -(-len(flat) // _COMPARED)])
    density = compiled_density(target)
    with target.precision():
        found = [density(z, target.inputs) for z in picked]
    heights, slopes = (np.stack([np.asarray(each[k]) for each in found]) for k in (0, 1))
    return float(log_masses(heights[None], slopes[None])[0])
