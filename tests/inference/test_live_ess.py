"""The ESS in the progress line: that of the slowest coordinate, and no dearer than it may be."""

from types import SimpleNamespace

import numpy as np
import pytest

from probinfer.inference.convergence import convergence
from probinfer.inference.mcmc import live_ess
from probinfer.inference.mcmc.live_ess import LiveESS
from probinfer.inference.until import look_at, slowest

DIM, SLOW = 200, 137


@pytest.fixture
def positions():
    """Draws (chain, draw, d) of independent coordinates, of which one is a slow autoregression."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 500, DIM))
    for t in range(1, 500):
        draws[:, t, SLOW] = 0.9 * draws[:, t - 1, SLOW] + 0.19**0.5 * draws[:, t, SLOW]
    return draws


def blocks_of(positions):
    return [[SimpleNamespace(done=len(chain), q=chain)] for chain in positions]


def test_slowest_has_the_slow_coordinate_and_so_many(positions):
    found = slowest(positions, 8)
    assert SLOW in found
    assert len(set(found)) == 8


def test_shows_the_smallest_ess_of_all(positions, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(live_ess.time, "monotonic", lambda: clock[0])
    live = LiveESS([[] for _ in positions])
    clock[0] = 1e6
    numbers = convergence(np.moveaxis(positions, -1, 0))
    smallest = min(numbers.ess_bulk.min(), numbers.ess_tail.min())
    text = live(blocks_of(positions))
    assert f"ESS {smallest:.0f}, R-hat " in text
    # The slow coordinate is what is shown: without it the number is another.
    others = np.delete(positions, SLOW, axis=-1)
    assert f"ESS {smallest:.0f}," not in LiveESS([[] for _ in positions])(blocks_of(others))


def test_looks_only_when_it_costs_little(positions, monkeypatch):
    clock, looks = [0.0], []
    monkeypatch.setattr(live_ess.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(live_ess, "look_at", lambda draws: looks.append(draws.size) or look_at(draws))
    live = LiveESS([[] for _ in positions])
    assert live(blocks_of(positions)) == "sampling"
    clock[0] = 1e4
    for _ in range(3):
        live(blocks_of(positions))
    assert len(looks) == 3
    clock[0] = 0.0
    live(blocks_of(positions))
    assert len(looks) == 3
