"""The ESS in the progress line: that of the slowest coordinate, and no dearer than it may be."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from probinfer.inference.convergence import convergence
from probinfer.inference.mcmc import live_ess
from probinfer.inference.mcmc.live_ess import LiveESS
from probinfer.inference.until import Look, slowest

DIM, SLOW = 200, 137


@pytest.fixture
def positions():
    """Draws (chain, draw, d) of independent coordinates, of which one is a slow autoregression."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 500, DIM))
    for t in range(1, 500):
        draws[:, t, SLOW] = 0.9 * draws[:, t - 1, SLOW] + 0.19**0.5 * draws[:, t, SLOW]
    return draws


def drawn_of(positions):
    """What was drawn (chain, draw, d), as it is looked at."""
    return SimpleNamespace(
        counts=np.full(len(positions), positions.shape[1]),
        dim=positions.shape[-1],
        positions=lambda every=1, coordinates=slice(None): positions[:, ::every, coordinates],
    )


def test_slowest_has_the_slow_coordinate_and_so_many(positions):
    found = slowest(positions, 8)
    assert SLOW in found
    assert len(set(found)) == 8


def test_shows_the_smallest_ess_of_all(positions, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(live_ess.time, "monotonic", lambda: clock[0])
    live = LiveESS(drawn_of(positions))
    clock[0] = 1e6
    numbers = convergence(np.moveaxis(positions, -1, 0))
    smallest = min(numbers.ess_bulk.min(), numbers.ess_tail.min())
    assert f"ESS {smallest:.0f}, R-hat " in live()
    # The slow coordinate is what is shown: without it the number is another.
    others = np.delete(positions, SLOW, axis=-1)
    assert f"ESS {smallest:.0f}," not in LiveESS(drawn_of(others))()


@pytest.mark.parametrize(("dim", "rate"), [(10, 500), (90, 150), (300, 100), (1000, 100), (10, 10_000)])
def test_at_a_steady_rate_it_is_shown_and_costs_little(dim, rate, monkeypatch):
    """Ten minutes of draws, in blocks of half a second; the cost is counted by the constants that looks go by."""
    clock, spent, when = [0.0], [0.0], []
    monkeypatch.setattr(live_ess.time, "monotonic", lambda: clock[0])

    def ranked(positions, count):
        spent[0] += (positions.size - 4 * dim) * live_ess._PER_SEEN  # one draw more by rounding
        return np.arange(min(count, positions.shape[-1]))

    def looked(positions, superchains):
        assert superchains == 0
        assert positions.shape[1] >= min(live_ess._ENOUGH, rate // 2)
        spent[0] += (positions.size - 4 * positions.shape[-1]) * live_ess._PER_LOOKED_AT
        when.append(clock[0])
        return Look(positions.shape[1], 400.0, 1.0)

    monkeypatch.setattr(live_ess, "slowest", ranked)
    monkeypatch.setattr(live_ess, "look_at", looked)
    drawn = drawn_of(np.broadcast_to(np.float64(0), (4, 0, dim)))
    live = LiveESS(drawn)
    for half in range(1200):
        clock[0] = (half + 1) / 2
        vars(drawn).update(vars(drawn_of(np.broadcast_to(np.float64(0), (4, (half + 1) * (rate // 2), dim)))))
        text = live()
        assert spent[0] <= live_ess._COST * clock[0]
    assert "ESS" in text
    assert when[0] <= 60
    assert max(later / sooner for sooner, later in itertools.pairwise(when)) < 1.5


def test_says_when_it_left_draws_out(positions, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(live_ess.time, "monotonic", lambda: clock[0])
    live = LiveESS(drawn_of(positions))
    assert live() == "sampling"
    clock[0] = 10.0
    assert ", ESS at least " in live()
