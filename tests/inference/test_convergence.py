"""The numbers of a diagnosis: equal to ArviZ's, right where the exact value is known, defined where nothing is."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from probinfer.inference.convergence import MIN_DRAWS, bfmi, convergence, split_chains
from tests.posterior.runs import ar1

SHAPES = [(6, 4, 1000), (6, 4, 501), (6, 3, 4), (6, 2, 5), (6, 2, 6), (6, 2, 7), (6, 2, 37), (6, 1, 100), (20, 8, 64)]


def arviz(x, *, one_chain):
    def of(function, **settings):
        with np.errstate(all="ignore"):  # ArviZ divides by the variance of chains that stand still
            return getattr(array_stats, function)(x, chain_axis=-2, draw_axis=-1, **settings)

    numbers = {
        "ess_bulk": of("ess", method="bulk"),
        "ess_tail": of("ess", method="tail", prob=(0.05, 0.95)),
        "mcse_mean": of("mcse", method="mean"),
        "mcse_sd": of("mcse", method="sd"),
    }
    # of one chain ArviZ has no R-hat
    return numbers if one_chain else {**numbers, "r_hat": of("rhat", method="rank")}


KINDS = {
    "independent": lambda rng, shape: rng.normal(size=shape),
    "slow": lambda rng, shape: ar1(rng, shape, 0.9),
    "alternating": lambda rng, shape: ar1(rng, shape, -0.5),
    "counts": lambda rng, shape: rng.poisson(3, size=shape).astype(float),
    "rejections": lambda rng, shape: np.repeat(ar1(rng, shape, 0.3), 3, axis=-1)[..., : shape[-1]],
    "apart": lambda rng, shape: rng.normal(size=shape) + 3 * rng.normal(size=(*shape[:2], 1)),
    "far from zero": lambda rng, shape: 1e3 + rng.normal(size=shape),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_arviz(kind, shape):
    x = KINDS[kind](np.random.default_rng(1), shape)
    ours = convergence(x)
    x = x[~ours.constant]  # few counts may all be the same; see test_a_constant_has_no_convergence_statistics
    for name, theirs in arviz(x, one_chain=shape[1] == 1).items():
        np.testing.assert_allclose(getattr(ours, name)[~ours.constant], theirs, rtol=1e-10, err_msg=name)


def test_binary_draws_equal_arviz():
    x = (np.random.default_rng(2).random((10, 4, 200)) < 0.3).astype(float)
    ours = convergence(x)
    for name, theirs in arviz(x, one_chain=False).items():
        np.testing.assert_allclose(getattr(ours, name), theirs, rtol=1e-10, err_msg=name)


def test_many_entries_in_blocks_are_the_entries_one_by_one():
    x = ar1(np.random.default_rng(3), (50, 4, 60), 0.5)
    together, apart = convergence(x), [convergence(x[i : i + 1]) for i in range(50)]
    for column, name in zip(together, together._fields, strict=True):
        np.testing.assert_array_equal(column, np.concatenate([getattr(one, name) for one in apart]))


# Stationary Gaussian AR(1) chains of variance one: the mean of c n draws has the variance
# (1 + phi) / ((1 - phi) c n), up to terms of order 1 / n, so the effective size is c n (1 - phi) / (1 + phi).
PHIS = [0.0, 0.5, 0.9]
# Geyer's cut-off keeps what is positive by chance, and the end of a chain is missing: relative bias of the estimate.
ESS_BIAS = 0.03
Z = 5.0  # two-sided false-alarm rate 6e-7 for each comparison


@pytest.mark.parametrize("phi", PHIS)
def test_effective_size_of_ar1_is_the_exact_one(phi):
    entries, chains, draws = 200, 4, 2000
    exact = chains * draws * (1 - phi) / (1 + phi)
    ratio = convergence(ar1(np.random.default_rng(4), (entries, chains, draws), phi)).ess_bulk / exact
    assert abs(ratio.mean() - 1) < ESS_BIAS + Z * ratio.std() / np.sqrt(entries)


def squared_error_in_mcse(x, mcse):
    """Mean of (error / its standard error)^2: one if the standard errors are right."""
    return np.mean(np.square(x.mean(axis=(1, 2)) / mcse))


@pytest.mark.parametrize("phi", PHIS)
def test_monte_carlo_error_is_as_large_as_the_errors_made(phi):
    """The true mean is zero. The ratio's own sd is sqrt(2 / entries); the estimated size adds its relative error."""
    entries = 1500
    x = ar1(np.random.default_rng(5), (entries, 4, 500), phi)
    band = 0.1 + Z * np.sqrt(2 / entries)
    assert abs(squared_error_in_mcse(x, convergence(x).mcse_mean) - 1) < band
    naive = x.std(axis=(1, 2)) / np.sqrt(4 * 500)
    if phi:
        assert abs(squared_error_in_mcse(x, naive) - 1) > band, "the test cannot tell correlated draws from independent"


def test_independent_draws_count_in_full_and_have_no_r_hat():
    x = np.random.default_rng(6).normal(size=(3, 1, 500))
    numbers = convergence(x, independent=True)
    np.testing.assert_array_equal(numbers.ess_bulk, 500)
    np.testing.assert_array_equal(numbers.ess_tail, 500)
    np.testing.assert_allclose(numbers.mcse_mean, x.std(axis=(1, 2), ddof=1) / np.sqrt(500))
    # for a normal distribution the error of the sd is sd / sqrt(2 n); relative error of its estimate about 1 / sqrt(n)
    np.testing.assert_allclose(numbers.mcse_sd, 1 / np.sqrt(2 * 500), rtol=Z * np.sqrt(6 / 500))
    assert np.isnan(numbers.r_hat).all()


def test_one_chain_shows_drift():
    rng = np.random.default_rng(7)
    still, drifting = rng.normal(size=(1, 1, 1000)), rng.normal(size=(1, 1, 1000)) + np.linspace(0, 3, 1000)
    assert convergence(still).r_hat < 1.01
    assert convergence(drifting).r_hat > 1.05


def test_a_constant_has_no_convergence_statistics():
    x = np.zeros((2, 4, 50))
    x[1] = 0.1
    numbers = convergence(x)
    assert numbers.constant.all()
    assert numbers.stuck.all()
    assert numbers.finite.all()
    np.testing.assert_array_equal(numbers.mean, [0.0, 0.1])
    np.testing.assert_array_equal(numbers.sd, 0.0)
    for name in ("ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd"):
        assert np.isnan(getattr(numbers, name)).all()


def test_chains_that_each_stand_still_have_infinite_r_hat():
    x = np.broadcast_to(np.array([1.0, 2.0, 3.0, 4.0])[None, :, None], (1, 4, 50))
    numbers = convergence(x)
    assert numbers.r_hat == np.inf
    assert numbers.ess_bulk < 10
    assert numbers.stuck.all()
    assert not numbers.constant.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_draw_that_is_not_finite_spoils_its_own_entry_only(value):
    x = np.random.default_rng(8).normal(size=(3, 4, 100))
    x[1, 2, 7] = value
    numbers = convergence(x)
    assert numbers.finite.tolist() == [True, False, True]
    assert np.isnan(numbers.r_hat).tolist() == [False, True, False]


@pytest.mark.parametrize("draws", range(MIN_DRAWS))
def test_hardly_any_draws_give_no_statistics_and_no_error(draws):
    numbers = convergence(np.random.default_rng(9).normal(size=(2, 4, draws)))
    assert np.isnan(numbers.r_hat).all()
    assert np.isnan(numbers.ess_bulk).all()


def test_no_entries_at_all():
    assert convergence(np.zeros((0, 4, 100))).mean.shape == (0,)


def test_tiny_and_huge_scales_do_not_matter():
    x = ar1(np.random.default_rng(10), (1, 4, 300), 0.5)
    reference = convergence(x)
    for scale in (1e-30, 1e30):
        scaled = convergence(scale * x)
        for name in ("ess_bulk", "ess_tail", "r_hat"):
            np.testing.assert_allclose(getattr(scaled, name), getattr(reference, name), rtol=1e-9)
        np.testing.assert_allclose(scaled.mcse_mean, scale * reference.mcse_mean, rtol=1e-9)


def test_split_leaves_out_the_middle_draw():
    assert split_chains(np.arange(5.0)[None, None])[0].tolist() == [[0, 1], [3, 4]]


def test_bfmi_equals_arviz():
    energy = np.cumsum(np.random.default_rng(11).normal(size=(4, 300)), axis=1)
    np.testing.assert_allclose(bfmi(energy), array_stats.bfmi(energy), rtol=1e-12)


def test_bfmi_of_independent_energies_is_two():
    """E_t - E_(t-1) has twice the variance of E. Its estimate has the relative sd sqrt(2 / n) or so."""
    energy = np.random.default_rng(12).normal(size=(4, 4000))
    np.testing.assert_allclose(bfmi(energy), 2.0, rtol=Z * np.sqrt(2 / 4000))


def test_bfmi_of_a_chain_that_never_moved_is_not_a_number():
    assert np.isnan(bfmi(np.ones((2, 50)))).all()
    assert np.isnan(bfmi(np.ones((2, 2)))).all()
