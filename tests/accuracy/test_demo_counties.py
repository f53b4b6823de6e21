"""The demo's county levels against a run twenty times as long, within Monte Carlo error."""

import numpy as np
import pytest
from scipy import stats

import probinfer as pi
from probinfer.demo.radon import as_data, radon, read_houses, split
from probinfer.demo.run import DRAWS
from probinfer.inference.convergence import convergence
from probinfer.inference.draw import draw

FALSE_ALARM = 1e-4


def county_levels(draws: int, seed: int):
    """Mean and Monte Carlo error of intercept + county_sd * z for each county."""
    train, _ = split(read_houses())
    run, target, _ = draw(radon, as_data(train), pi.NUTS(draws=draws), seed=seed, progress=False)
    values = target.constrain(run.positions, deterministics=False)
    levels = values["intercept"][..., None] + values["county_sd"][..., None] * values["z"]
    found = convergence(np.moveaxis(levels, -1, 0))
    return found.mean, found.mcse_mean, found.sd


@pytest.mark.long
def test_county_levels_agree_with_a_run_twenty_times_as_long():
    mean, mcse, sd = county_levels(DRAWS, seed=1)
    trusted, error, _ = county_levels(20 * DRAWS, seed=2)
    bound = stats.norm.isf(FALSE_ALARM / len(mean) / 2)
    z = (mean - trusted) / np.hypot(mcse, error)
    assert np.abs(z).max() < bound, np.abs(z).max()
    shifted = (mean + 0.25 * sd - trusted) / np.hypot(mcse, error)  # the broken twin: a quarter of a posterior sd off
    assert np.abs(shifted).max() > bound
