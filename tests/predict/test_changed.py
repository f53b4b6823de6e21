"""A transformed outcome in units of its own: against quadrature, scipy's laws, and twins that forget something."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probinfer.errors import ModelError
from probinfer.model.pipeline.change import Change
from probinfer.model.pipeline.fitted import Affine, BoxCoxPower, Logarithm, YeoJohnsonPower
from probinfer.predict import mixture
from probinfer.predict.changed import changed
from probinfer.predict.families import FAMILIES

LAWS = {
    "Normal": (stats.norm, (0.4, 0.6)),
    "StudentT": (lambda df, loc, scale: stats.t(df, loc, scale), (9.0, 0.4, 0.6)),
    "Laplace": (stats.laplace, (0.4, 0.3)),
    "Logistic": (stats.logistic, (0.4, 0.3)),
    "Gumbel": (stats.gumbel_r, (0.4, 0.3)),
}
CHANGES = {
    "linear": Change.of([Affine(3.0, 2.0)]),
    "log": Change.of([Logarithm(), Affine(2.0, 0.7)]),
    "shifted log": Change.of([Logarithm(5.0)]),
    "box-cox": Change.of([BoxCoxPower(0.4), Affine(4.0, 1.5)]),
    "square": Change.of([BoxCoxPower(2.0), Affine(0.1, 0.5)]),  # a fifth of the law is where the power ends
    "root": Change.of([BoxCoxPower(0.5), Affine(-3.0, 1.5)]),
    "yeo-johnson": Change.of([Affine(1.0, 3.0), YeoJohnsonPower(0.3), Affine(0.2, 0.8)]),
    "yeo-johnson 1.8": Change.of([YeoJohnsonPower(1.8)]),
}
PAIRS = [
    (law, change)
    for law in LAWS
    for change in CHANGES
    if not (law == "Laplace" and CHANGES[change].curve.value in ("box_cox", "yeo_johnson"))
]
SOME = [("Normal", change) for change in CHANGES] + [
    ("Logistic", "log"),
    ("StudentT", "root"),
    ("Gumbel", "yeo-johnson"),
]
CHOSEN = [pytest.param(*pair, marks=[] if pair in SOME else pytest.mark.long) for pair in PAIRS]


def family_of(law, change):
    return changed(FAMILIES[law], CHANGES[change])


def call(functions, *arguments):
    """Values of several functions of the same arguments, compiled together."""
    with jax.enable_x64(True):
        values = jax.jit(lambda *a: tuple(f(*a) for f in functions))(*(jnp.asarray(a, float) for a in arguments))
        return [np.asarray(value) for value in values]


def by_quadrature(frozen, change):
    """Mean and variance of back(Z) from the cdf, by Gauss and Legendre's rule between its quantiles:

    E Y = integral of P(Y > y) above 0 less that of P(Y < y) below,  E (Y - m)^2 = 2 times that of |y - m| times them.
    """
    small = [*10.0 ** -np.arange(280, 1, -3.0), *np.linspace(0.02, 0.5, 15)]
    ends = change.back(np.array([*frozen.ppf(small), *frozen.isf(small[:-1][::-1])]))
    nodes, weights = np.polynomial.legendre.leggauss(30)

    def tails(about, power):
        edges = [*ends, about, change.before.shift]
        if np.isfinite(change.bottom):  # where the density may grow as a power
            edges += [change.bottom + 10.0**-k for k in range(20)]
        edges = np.unique(edges)
        half = np.diff(edges)[:, None] / 2
        y = (edges[:-1, None] + half) + half * nodes
        tail = np.where(y > about, frozen.sf(change.forward(y)), -frozen.cdf(change.forward(y)))
        return float((np.abs(y - about) ** power * tail * half * weights * np.where(y > about, 1, (-1) ** power)).sum())

    middle = float(change.back(frozen.median()))
    mean = middle + tails(middle, 0)
    return mean, 2 * tails(mean, 1)


def infinite(law, change):
    """Whether mean and variance are infinite: of Student's t where y grows faster than z^9 (or z^4.5)."""
    change = CHANGES[change]
    if law != "StudentT":
        return False, False
    if change.curve.value in ("none", "log"):
        power = 1.0 if change.curve.value == "none" else np.inf
    elif change.curve.value == "box_cox":
        power = 1 / change.lmbda
    else:
        power = max(1 / change.lmbda, 1 / (2 - change.lmbda))
    return power >= 9.0, 2 * power >= 9.0


@pytest.mark.parametrize(("law", "change"), CHOSEN)
def test_moments_are_those_of_the_own_units(law, change):
    make, parameters = LAWS[law]
    family = family_of(law, change)
    mean, variance = map(float, call([family.mean, family.variance], *parameters))
    no_mean, no_variance = infinite(law, change)
    if no_mean or no_variance:
        assert np.isinf(mean) == no_mean
        assert not np.isfinite(variance)
        return
    expected = by_quadrature(make(*parameters), CHANGES[change])
    assert mean == pytest.approx(expected[0], rel=1e-8)
    assert variance == pytest.approx(expected[1], rel=1e-6)
    if change != "linear":  # the twin that maps the mean alone
        naive = float(CHANGES[change].back(np.asarray(make(*parameters).mean())))
        assert abs(naive - expected[0]) > 1e-3 * abs(expected[0])


def test_moments_hold_however_near_the_kink_is():
    """Centres from 40 spreads above the kink to 6 below; on both sides of where the kink stops to count."""
    change = Change.of([BoxCoxPower(0.5)])
    family = changed(FAMILIES["Normal"], change)
    near = np.array([11.5, 3.0, 0.0, -2.0, -6.0])
    for where in (near, np.array([12.5, 40.0])):
        loc = -2.0 + 0.3 * where
        mean, variance = call([family.mean, family.variance], loc, np.full(len(loc), 0.3))
        for i in range(len(loc)):
            expected = by_quadrature(stats.norm(loc[i], 0.3), change)
            assert mean[i] == pytest.approx(expected[0], rel=1e-8)
            assert variance[i] == pytest.approx(expected[1], rel=1e-6)


@pytest.mark.parametrize(("law", "change"), CHOSEN)
def test_cdf_and_density_are_one_law(law, change):
    family, parameters, c = family_of(law, change), LAWS[law][1], CHANGES[change]
    frozen, levels = LAWS[law][0](*parameters), np.array([0.001, 0.05, 0.3, 0.5, 0.9, 0.999])
    y = c.back(frozen.ppf(levels))
    levels, y = levels[y > c.bottom], y[y > c.bottom]
    step = np.minimum(1e-5 * (1 + np.abs(y)), 1e-3 * (y - c.bottom))
    outside = c.bottom - 1.0 if np.isfinite(c.bottom) else y[0]
    cdf, density = call(
        [family.cdf, family.log_density], np.stack([y, y + step, y - step, 0 * y + outside]), *parameters
    )
    assert np.allclose(cdf[0], levels, rtol=1e-9)
    assert np.allclose(np.exp(density[0]), (cdf[1] - cdf[2]) / (2 * step), rtol=1e-4)
    if np.isfinite(c.bottom):
        assert (density[3] == -np.inf).all()
        assert (cdf[3] == 0.0).all()


@pytest.mark.parametrize("change", ["square", pytest.param("yeo-johnson", marks=pytest.mark.long)])
def test_quantiles_are_mapped_back(change):
    family, parameters = family_of("Normal", change), LAWS["Normal"][1]
    levels = np.array([0.001, 0.05, 0.3, 0.5, 0.9, 0.999])
    (found,) = call([lambda q: mixture.quantiles(family, [jnp.asarray([[p]]) for p in parameters], q)], levels)
    assert np.allclose(found[0], CHANGES[change].back(stats.norm(*parameters).ppf(levels)), rtol=1e-9, atol=1e-9)


def test_the_log_of_a_normal_is_the_log_normal():
    family, known = changed(FAMILIES["Normal"], Change.of([Logarithm()])), FAMILIES["LogNormal"]
    y, parameters = np.array([0.01, 1.0, 7.0]), (0.3, 0.8)
    ours, theirs = (call([f.cdf, f.log_density], y, *parameters) for f in (family, known))
    assert np.allclose(ours, theirs)
    ours, theirs = (call([f.mean, f.variance], *parameters) for f in (family, known))
    assert np.allclose(ours, theirs)
    assert family.support is known.support


def test_tails_too_heavy_for_a_mean_say_so():
    log, root = Change.of([Logarithm()]), Change.of([YeoJohnsonPower(0.2)])

    def moments(law, change, *parameters):
        family = changed(FAMILIES[law], change)
        return call([family.mean, family.variance], *parameters)

    assert moments("StudentT", log, 30.0, 0.0, 0.1)[0] == np.inf
    assert moments("Laplace", log, 0.0, 1.5)[0] == np.inf
    mean, variance = moments("Logistic", log, 0.0, 0.7)
    assert np.isfinite(mean)
    assert variance == np.inf
    mean, variance = moments("StudentT", root, np.array([4.0, 6.0, 11.0]), 0.0, 0.1)  # y grows as z^5
    assert (mean == np.inf).tolist() == [True, False, False]
    assert np.isfinite(variance).tolist() == [False, False, True]


def test_laws_that_cannot_be_transformed_are_named():
    with pytest.raises(ModelError, match="its law Gamma is one of numbers above zero"):
        changed(FAMILIES["Gamma"], Change.of([Logarithm()]))
    with pytest.raises(ModelError, match="its law is Laplace; its mean is known here for Normal"):
        changed(FAMILIES["Laplace"], Change.of([BoxCoxPower(0.5)]))


@pytest.mark.parametrize(
    "change", ["square", *(pytest.param(change, marks=pytest.mark.long) for change in ("log", "yeo-johnson"))]
)
def test_draws_follow_the_cdf(change):
    """Kolmogorov and Smirnov at a false alarm rate of 1e-6; a change by another step is found out."""
    family, parameters = family_of("Normal", change), LAWS["Normal"][1]
    keys = jax.random.split(jax.random.key(5), 4000)
    with jax.enable_x64(True):
        draws = np.asarray(jax.vmap(lambda key: family.sample(key, *map(jnp.asarray, parameters)))(keys))
    inside = draws > CHANGES[change].bottom
    law = LAWS["Normal"][0](*parameters)
    kept = law.sf(CHANGES[change].kink) if change == "square" else 1.0
    assert stats.binomtest(int(inside.sum()), len(draws), kept).pvalue > 1e-6
    (levels,) = call([family.cdf], draws[inside], *parameters)
    assert stats.kstest((levels - (1 - kept)) / kept, "uniform").pvalue > 1e-6
    other = changed(FAMILIES["Normal"], Change.of([Affine(0.3, 1.0)]))
    assert stats.kstest(call([other.cdf], draws, *parameters)[0], "uniform").pvalue < 1e-6
