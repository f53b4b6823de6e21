"""The assertions themselves: they keep their false-alarm rate, and planted errors set them off."""

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from tests.inference.statistics import (
    assert_law,
    assert_moments,
    assert_uniform_ranks,
    assert_within_mcse,
)


def autoregressive(rng, shape, rho):
    """Chains (…, draw) with stationary law Normal(0, 1) and autocorrelation rho."""
    start = rho * rng.normal(size=(*shape[:-1], 1))
    return lfilter([np.sqrt(1 - rho**2)], [1, -rho], rng.normal(size=shape), axis=-1, zi=start)[0]


def fails(assertion, *args, **kwargs):
    try:
        assertion(*args, **kwargs)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.5, 0.9, 0.97])
def test_false_alarm_rate_holds_for_correlated_chains(rho):
    rng = np.random.default_rng(1)
    replications, rate = 300, 0.02
    chains = autoregressive(rng, (replications, 4, 250), rho)
    alarms = sum(fails(assert_within_mcse, chain, 0.0, false_alarm=rate) for chain in chains)
    # More alarms than this have probability 1e-6 at the stated rate; fewer are fine (the bound is conservative).
    assert alarms <= stats.binom.isf(1e-6, replications, rate)


def test_bonferroni_holds_over_many_scalars():
    draws = np.moveaxis(autoregressive(np.random.default_rng(2), (400, 4, 500), 0.5), 0, -1)
    assert_within_mcse(draws, np.zeros(400), false_alarm=1e-3)
    with pytest.raises(AssertionError, match="1 of 400 out of tolerance"):
        assert_within_mcse(draws, np.eye(1, 400, 7)[0] * 0.4, false_alarm=1e-3)


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.9])
def test_planted_bias_is_caught(rho):
    draws = autoregressive(np.random.default_rng(3), (4, 4000), rho)
    ess = 16_000 * (1 - rho) / (1 + rho)
    assert_within_mcse(draws, 0.0)
    with pytest.raises(AssertionError, match="tolerance"):
        assert_within_mcse(draws + 8 / np.sqrt(min(ess, 16_000)), 0.0)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_planted_wrong_spread_is_caught(factor):
    draws = autoregressive(np.random.default_rng(4), (4, 5000), 0.3)
    assert_moments(draws, 0.0, 1.0, quantile=stats.norm.ppf)
    with pytest.raises(AssertionError, match="variance ratio"):
        assert_moments(factor * draws, 0.0, 1.0, quantile=stats.norm.ppf)


def test_planted_wrong_shape_is_caught_by_the_quantiles():
    rng = np.random.default_rng(5)
    draws = rng.uniform(-np.sqrt(3), np.sqrt(3), size=(4, 5000))
    with pytest.raises(AssertionError, match="probability below the 5% point"):
        assert_moments(draws, 0.0, 1.0, quantile=stats.norm.ppf)


def test_too_short_a_run_does_not_pass_for_want_of_evidence():
    draws = np.random.default_rng(6).normal(size=(4, 50))
    assert_within_mcse(draws, 0.0)
    with pytest.raises(AssertionError, match="too few effective draws"):
        assert_within_mcse(draws, 0.0, resolution=0.1)


def test_draws_that_never_moved_or_are_not_finite_fail():
    with pytest.raises(AssertionError, match="never moved"):
        assert_within_mcse(np.zeros((4, 100)), 0.0)
    with pytest.raises(AssertionError, match="not finite"):
        assert_within_mcse(np.full((4, 100), np.nan), 0.0)


def test_law_is_checked_by_kolmogorov_smirnov():
    sample = np.random.default_rng(7).normal(size=20_000)
    assert_law(sample, stats.norm.cdf)
    with pytest.raises(AssertionError, match="the law is off"):
        assert_law(sample + 0.05, stats.norm.cdf)


def ranks_of(rng, replications, largest, scale=1.0, shift=0.0):
    """Ranks of a Normal(0, 1) truth among draws of Normal(shift, scale)."""
    truth = rng.normal(size=(replications, 1))
    return np.sum(shift + scale * rng.normal(size=(replications, largest)) < truth, axis=1)


def test_ranks_of_a_right_posterior_are_uniform_and_of_a_wrong_one_are_not():
    rng = np.random.default_rng(8)
    assert_uniform_ranks(ranks_of(rng, 1000, 63), 63)
    with pytest.raises(AssertionError, match="bias"):
        assert_uniform_ranks(ranks_of(rng, 1000, 63, shift=0.3), 63, names="mu")
    with pytest.raises(AssertionError, match="spread"):
        assert_uniform_ranks(ranks_of(rng, 1000, 63, scale=1.3), 63, names="mu")


def test_rank_test_keeps_its_false_alarm_rate():
    rng = np.random.default_rng(9)
    replications, rate = 500, 0.03
    alarms = sum(
        fails(assert_uniform_ranks, rng.integers(0, 64, 320), 63, false_alarm=rate) for _ in range(replications)
    )
    assert alarms <= stats.binom.isf(1e-6, replications, rate)
