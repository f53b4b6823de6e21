"""A transformed outcome in units of its own: against quadrature, scipy's laws, and twins that forget something."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

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


def family_of(law, change):
    return changed(FAMILIES[law], CHANGES[change])


def call(function, *arguments):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(function)(*(jnp.asarray(a, float) for a in arguments)))


def by_quadrature(law, change):
    """Mean and variance of back(Z), split at the kink and along the law's quantiles."""
    make, parameters = LAWS[law]
    frozen, ends = make(*parameters), [1e-300, *10.0 ** -np.arange(200, 1, -12.0), *np.linspace(0.02, 0.98, 25)]
    z = [*frozen.ppf(ends), *frozen.isf(ends)]
    z = sorted({*z, *([CHANGES[change].kink] if CHANGES[change].kink is not None else [])})

    def moment(f):
        return sum(
            integrate.quad(lambda t: f(CHANGES[change].back(np.array(t))) * frozen.pdf(t), a, b, epsabs=0, limit=200)[0]
            for a, b in zip(z[:-1], z[1:], strict=True)
            if b > a
        )

    mean = moment(lambda y: y)
    return mean, moment(lambda y: (y - mean) ** 2)


def infinite(law, change):
    """Whether mean and variance are infinite: of Student's t where y grows faster than z^9 (or z^4.5)."""
    change = CHANGES[change]
    if law != "StudentT":
        return False, False
    powers = {"log": [np.inf], "box_cox": [1 / change.lmbda], "none": [1.0]}
    power = max(powers.get(change.curve.value, [1 / change.lmbda, 1 / (2 - change.lmbda)]))
    return power >= 9.0, 2 * power >= 9.0


@pytest.mark.parametrize(("law", "change"), PAIRS)
def test_moments_are_those_of_the_own_units(law, change):
    family, parameters = family_of(law, change), LAWS[law][1]
    mean, variance = (float(call(f, *parameters)) for f in (family.mean, family.variance))
    no_mean, no_variance = infinite(law, change)
    if no_mean or no_variance:
        assert np.isinf(mean) == no_mean
        assert not np.isfinite(variance)
        return
    expected = by_quadrature(law, change)
    assert mean == pytest.approx(expected[0], rel=1e-7, abs=1e-7)
    assert variance == pytest.approx(expected[1], rel=2e-6)
    if change not in ("linear",):  # the twin that maps the mean alone
        naive = float(CHANGES[change].back(np.asarray(LAWS[law][0](*parameters).mean())))
        assert abs(naive - expected[0]) > 1e-3 * abs(expected[0])


@pytest.mark.parametrize("where", [40.0, 12.5, 11.5, 3.0, 0.0, -2.0, -6.0])
def test_moments_hold_however_near_the_kink_is(where):
    """Centre `where` spreads above the kink; on both sides of where the kink stops to count."""
    change = Change.of([BoxCoxPower(0.5)])
    family, loc, scale = changed(FAMILIES["Normal"], change), -2.0 + 0.3 * where, 0.3
    mean, variance = (float(call(f, [loc], [scale])[0]) for f in (family.mean, family.variance))
    edges = np.unique(np.maximum(loc + scale * np.linspace(-12, 12, 49), -2.0))
    law = stats.norm(loc, scale)

    def moment(power):
        return sum(
            integrate.quad(lambda z: (1 + z / 2) ** (2 * power) * law.pdf(z), a, b, epsabs=0)[0]
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        )

    assert mean == pytest.approx(moment(1), rel=1e-8)
    assert variance == pytest.approx(moment(2) - moment(1) ** 2, rel=1e-7)


@pytest.mark.parametrize(("law", "change"), PAIRS)
def test_cdf_density_and_quantiles_are_one_law(law, change):
    family, parameters, c = family_of(law, change), LAWS[law][1], CHANGES[change]
    frozen, levels = LAWS[law][0](*parameters), np.array([0.001, 0.05, 0.3, 0.5, 0.9, 0.999])
    y = c.back(frozen.ppf(levels))
    inside = y > c.bottom
    assert np.allclose(call(family.cdf, y, *parameters)[inside], levels[inside], rtol=1e-9)
    found = call(lambda q: mixture.quantiles(family, [jnp.asarray([[p]]) for p in parameters], q), levels)
    assert np.allclose(found[0], y, rtol=1e-8, atol=1e-9)
    points = y[inside]
    step = 1e-5 * (1 + np.abs(points - max(c.bottom, -1e9) if np.isfinite(c.bottom) else points))
    step = np.minimum(step, 1e-3 * (points - c.bottom))
    slope = (call(family.cdf, points + step, *parameters) - call(family.cdf, points - step, *parameters)) / (2 * step)
    assert np.allclose(np.exp(call(family.log_density, points, *parameters)), slope, rtol=1e-4)
    if np.isfinite(c.bottom):
        assert call(family.log_density, c.bottom - 1.0, *parameters) == -np.inf
        assert call(family.cdf, c.bottom - 1.0, *parameters) == 0.0


def test_the_log_of_a_normal_is_the_log_normal():
    family, known = changed(FAMILIES["Normal"], Change.of([Logarithm()])), FAMILIES["LogNormal"]
    y, parameters = np.array([0.01, 1.0, 7.0]), (0.3, 0.8)
    for name in ("cdf", "log_density"):
        assert np.allclose(call(getattr(family, name), y, *parameters), call(getattr(known, name), y, *parameters))
    for name in ("mean", "variance"):
        assert np.allclose(call(getattr(family, name), *parameters), call(getattr(known, name), *parameters))
    assert family.support is known.support


def test_tails_too_heavy_for_a_mean_say_so():
    log, far = Change.of([Logarithm()]), 1.5
    assert float(call(changed(FAMILIES["StudentT"], log).mean, 30.0, 0.0, 0.1)) == np.inf
    assert float(call(changed(FAMILIES["Laplace"], log).mean, 0.0, far)) == np.inf
    assert float(call(changed(FAMILIES["Logistic"], log).variance, 0.0, 0.7)) == np.inf
    assert np.isfinite(float(call(changed(FAMILIES["Logistic"], log).mean, 0.0, 0.7)))
    root = Change.of([YeoJohnsonPower(0.2)])  # above, y grows as z^5, below as z^0.6
    family = changed(FAMILIES["StudentT"], root)
    assert [float(call(family.mean, df, 0.0, 0.1)) == np.inf for df in (4.0, 6.0)] == [True, False]
    assert [np.isfinite(float(call(family.variance, df, 0.0, 0.1))) for df in (6.0, 11.0)] == [False, True]


def test_laws_that_cannot_be_transformed_are_named():
    with pytest.raises(ModelError, match="its law Gamma is one of numbers above zero"):
        changed(FAMILIES["Gamma"], Change.of([Logarithm()]))
    with pytest.raises(ModelError, match="its law is Laplace; its mean is known here for Normal"):
        changed(FAMILIES["Laplace"], Change.of([BoxCoxPower(0.5)]))


@pytest.mark.parametrize("change", ["log", "square", "yeo-johnson"])
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
    levels = call(family.cdf, draws[inside], *parameters)
    assert stats.kstest((levels - (1 - kept)) / kept, "uniform").pvalue > 1e-6
    other = changed(FAMILIES["Normal"], Change.of([Affine(0.3, 1.0)]))
    assert stats.kstest(call(other.cdf, draws, *parameters), "uniform").pvalue < 1e-6
