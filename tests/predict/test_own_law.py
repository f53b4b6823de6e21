"""Laws in no table: by their own cdf where it is right, else from draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from scipy import integrate, stats

import probinfer as pi
from probinfer.errors import ExportError
from probinfer.predict.own_law import own_law
from tests.predict.fits import fitted

SIZE, X = 200, np.linspace(-1.0, 1.0, 24)
A = 0.3 * np.random.default_rng(0).normal(size=SIZE)
LEVELS = (0.01, 0.05, 0.5, 0.95, 0.99)
T = dist.transforms


def model_of(law):
    """law: positive numbers, any numbers -> the outcome's law."""

    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", law(jnp.exp(0.3 * x + a), 0.3 * x + a), obs=y)

    return model


def predictor_of(law, a=A, y=None):
    if y is None:
        y = np.full(len(X), 1.0)
    return fitted(model_of(law), {"x": X, "y": y}, {"a": a})


def at(x, a=A):
    return np.exp(0.3 * x + a), 0.3 * x + a


# law of NumPy arrays (positive p, any r), SciPy's of the same
LAWS = {
    "HalfCauchy": (lambda p, r: dist.HalfCauchy(p), lambda p, r: stats.halfcauchy(scale=p)),
    "InverseGamma": (lambda p, r: dist.InverseGamma(p + 2.1, 2.0), lambda p, r: stats.invgamma(p + 2.1, scale=2.0)),
    "AsymmetricLaplace": (
        lambda p, r: dist.AsymmetricLaplace(r, p, 0.7),
        lambda p, r: stats.laplace_asymmetric(0.7, r, p),
    ),
    "AsymmetricLaplaceQuantile": (
        lambda p, r: dist.AsymmetricLaplaceQuantile(r, p, 0.3),
        lambda p, r: stats.laplace_asymmetric((0.3 / 0.7) ** 0.5, r, p / (0.3 * 0.7) ** 0.5),
    ),
    "Dagum": (
        lambda p, r: dist.Dagum(p, 4.5, p),
        lambda p, r: stats.burr(4.5, p, scale=p),
    ),
    "Uniform": (lambda p, r: dist.Uniform(r, r + p), lambda p, r: stats.uniform(r, p)),
    "Pareto": (lambda p, r: dist.Pareto(p, 3.5), lambda p, r: stats.pareto(3.5, scale=p)),
    "LogUniform": (lambda p, r: dist.LogUniform(p, 4.0 * p), lambda p, r: stats.loguniform(p, 4.0 * p)),
    "Levy": (lambda p, r: dist.Levy(r, p), lambda p, r: stats.levy(r, p)),
    "Gompertz": (lambda p, r: dist.Gompertz(p, 1.5), lambda p, r: stats.gompertz(p, scale=1 / 1.5)),
    "exponential of a normal": (
        lambda p, r: dist.TransformedDistribution(dist.Normal(r, 0.5 * p), [T.ExpTransform()]),
        lambda p, r: stats.lognorm(0.5 * p, scale=np.exp(r)),
    ),
    "mirrored Laplace": (
        lambda p, r: dist.TransformedDistribution(dist.Laplace(r, p), [T.AffineTransform(1.0, -2.0)]),
        lambda p, r: stats.laplace(1 - 2 * r, 2 * p),
    ),
    "truncated gamma": (lambda p, r: dist.LeftTruncatedGamma(dist.Gamma(2.0, p), 0.5), None),
    "truncated Cauchy": (lambda p, r: dist.TruncatedDistribution(dist.Cauchy(r, p), low=-1.0, high=4.0), None),
    "truncated Laplace": (lambda p, r: dist.TruncatedDistribution(dist.Laplace(r, p), low=0.0), None),
    "truncated logistic": (lambda p, r: dist.TruncatedDistribution(dist.Logistic(r, p), high=2.0), None),
    "Kumaraswamy": (lambda p, r: dist.Kumaraswamy(1.0 + p, 2.0), None),
    "logistic of a normal": (
        lambda p, r: dist.TransformedDistribution(dist.Normal(r, p), [T.SigmoidTransform()]),
        None,
    ),
    "SoftLaplace": (lambda p, r: dist.SoftLaplace(r, p), lambda p, r: stats.hypsecant(r, p)),
    "mixture": (
        lambda p, r: dist.MixtureSameFamily(
            dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.stack([r, r + 3.0], -1), p[..., None])
        ),
        None,
    ),
    "DiscreteUniform": (
        lambda p, r: dist.DiscreteUniform(jnp.zeros_like(p), jnp.ceil(5 * p)),
        lambda p, r: stats.randint(0, np.ceil(5 * p) + 1),
    ),
    "HurdlePoisson": (lambda p, r: dist.HurdlePoisson(0.3, 3.0 * p), None),
    "power law": (lambda p, r: dist.DoublyTruncatedPowerLaw(-2.0, p, 5.0 * p), None),
}
QUICK = ("truncated Laplace",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in LAWS]
)
def test_a_law_by_its_own_functions(name):
    """cdf and moments are SciPy's, or of laws that SciPy lacks the integrals of the density."""
    numpyros, scipys = LAWS[name]

    def law_of(draw, fixed, row):
        return numpyros(jnp.exp(0.3 * row["x"] + draw["a"])[None], (0.3 * row["x"] + draw["a"])[None])

    with jax.enable_x64(True):
        found = own_law(law_of, {"a": A}, {}, {"x": X})
        assert found is not None
        mean, variance, *numbers = jax.jit(lambda a, x: found.moments(law_of({"a": a}, {}, {"x": x})))(A[0], X[5])
        cdf = jax.jit(jax.vmap(lambda y: found.cdf(y, *numbers)))
        density = jax.jit(jax.vmap(lambda y: jnp.exp(found.log_density(y, *numbers))))
        p, r = at(X[5], A[0])
        rtol = 1e-5
        if scipys is None:
            law, rtol = FromDensity(density, found.support.discrete), 3e-4
            points = np.linspace(0.02, 3.0, 9) if not found.support.discrete else np.arange(6.0)
        else:
            law = scipys(p, r)
            points = law.ppf(np.linspace(0.02, 0.98, 9))
        np.testing.assert_allclose(cdf(points), law.cdf(points), rtol=rtol, atol=1e-6)
        np.testing.assert_allclose(float(mean), law.mean(), rtol=rtol, atol=1e-6)
        np.testing.assert_allclose(float(variance), law.var(), rtol=10 * rtol)
        ends = np.array([-1e6, 1e6])
        with np.errstate(over="ignore"):  # SciPy computes both branches of a law
            assert np.allclose(cdf(ends), [0.0, 1.0] if scipys is None else law.cdf(ends), atol=1e-5)


class FromDensity:
    """Integrals of a density on a grid, whose step of 2e-4 is the error where the density ends at once."""

    def __init__(self, density, discrete):
        half = np.geomspace(1e-9, 200.0, 120001)
        self.points = np.arange(400.0) if discrete else np.concatenate([-half[::-1], half])
        height = np.nan_to_num(np.asarray(density(self.points)))
        self.height, self.discrete = height, discrete

    def _integral(self, values):
        return np.sum(values) if self.discrete else integrate.trapezoid(values, self.points)

    def cdf(self, at):
        if self.discrete:
            return np.cumsum(self.height)[np.asarray(at, int)]
        return np.interp(at, self.points, integrate.cumulative_trapezoid(self.height, self.points, initial=0.0))

    def mean(self):
        return self._integral(self.height * self.points)

    def var(self):
        return self._integral(self.height * (self.points - self.mean()) ** 2)


@pytest.fixture(scope="module")
def half_cauchy():
    return predictor_of(LAWS["HalfCauchy"][0])


def test_an_infinite_mean_is_told(half_cauchy):
    """And quantiles are the mixture's."""
    rows = {"x": [-0.5, 0.5]}
    found = half_cauchy.predict(rows, quantiles=LEVELS)
    assert np.isinf(found.mean).all()
    assert np.isinf(found.sd).all()
    assert np.isnan(found.epistemic_sd).all()
    for x, quantiles in zip(rows["x"], found.quantiles, strict=True):
        below = stats.halfcauchy(scale=at(x)[0]).cdf(quantiles[:, None]).mean(1)
        np.testing.assert_allclose(below, LEVELS, rtol=1e-9)


def test_the_law_travels_in_the_artifact(half_cauchy, tmp_path):
    half_cauchy.save(tmp_path / "p")
    loaded = pi.load_predictor(tmp_path / "p")
    rows = {"x": [0.5]}
    for found, expected in zip(
        loaded.predict(rows).columns().values(), half_cauchy.predict(rows).columns().values(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        loaded.log_score(rows, [1.2]), np.log(stats.halfcauchy(scale=at(0.5)[0]).pdf(1.2).mean()), rtol=1e-9
    )


def test_onnx_refuses_it_by_name(half_cauchy, tmp_path):
    with pytest.raises(ExportError, match="y is HalfCauchy, a law that is computed by its own functions"):
        half_cauchy.export_onnx(tmp_path / "y.onnx")


@pytest.mark.long
def test_an_infinite_variance_is_told_in_any_order():
    """Of the half-Cauchy law in all draws; of the inverse gamma law, with concentrations on both sides of 2, in some,
    first or last."""
    for a in (np.sort(A), np.sort(A)[::-1]):
        found = predictor_of(LAWS["HalfCauchy"][0], a).predict({"x": [0.0, 0.0]})
        assert np.isinf(found.mean).all()
        assert np.isinf(found.sd).all()
        found = predictor_of(lambda p, r: dist.InverseGamma(p + 1.0, 2.0), a).predict({"x": [0.0, 0.0]})
        assert np.isinf(found.sd).all()
        np.testing.assert_allclose(found.mean, (2.0 / at(0.0)[0]).mean(), rtol=1e-6)
        assert np.isfinite(found.epistemic_sd).all()


@pytest.mark.long
def test_fewer_and_rounded_draws_and_gaps():
    predictor = predictor_of(LAWS["SoftLaplace"][0])
    rows = {"x": np.linspace(-1, 1, 60)}
    assert predictor.compress(rows, tolerance=0.05).program.size < SIZE
    whole, rounded = (p.predict({"x": [0.3]}) for p in (predictor, predictor.round(rows)))
    np.testing.assert_allclose(rounded.mean, whole.mean, rtol=1e-5)
    drawn = predictor.sample({"x": [0.3]}, 1000, seed=1)[:, 0]
    assert stats.kstest(drawn, lambda y: predictor.cdf({"x": np.full(len(y), 0.3)}, y)[:, 0]).pvalue > 1e-6
    gappy = predictor.predict({"x": [np.nan]}, missing={"x": [0.0, 1.0]})
    np.testing.assert_allclose(gappy.mean, predictor.predict({"x": [0.0, 1.0]}).mean.mean(), rtol=1e-9)


@pytest.mark.long
def test_counts_are_searched():
    predictor = predictor_of(LAWS["HurdlePoisson"][0], y=np.ones(len(X), int))
    found = predictor.predict({"x": [0.5]}, quantiles=(0.2, 0.5, 0.9))
    rates = 3.0 * at(0.5)[0]
    k = np.arange(40)[:, None]
    mass = np.where(k == 0, 0.3, 0.7 * stats.poisson(rates).pmf(k) / -np.expm1(-rates)).mean(1)
    np.testing.assert_array_equal(found.quantiles[0], np.searchsorted(np.cumsum(mass), (0.2, 0.5, 0.9)))
    np.testing.assert_allclose(found.probabilities[0], mass[: found.probabilities.shape[1]], rtol=1e-5)


class Shifted(dist.Normal):
    """Its cdf is that of another normal law, by a tenth of its sd."""

    def cdf(self, value):
        return super().cdf(value - 0.1 * self.scale)


class Halved(dist.Normal):
    """Its cdf ends at 0.9."""

    def cdf(self, value):
        return 0.9 * super().cdf(value)


class Mine(dist.Normal):
    """Nothing is wrong with it."""


@pytest.mark.parametrize(
    ("kind", "right"), [(Mine, True), (Shifted, False), pytest.param(Halved, False, marks=pytest.mark.long)]
)
def test_a_wrong_cdf_is_not_used(kind, right):
    def law_of(draw, fixed, row):
        return kind(row["x"][None] + draw["a"], 1.0)

    with jax.enable_x64(True):
        assert (own_law(law_of, {"a": A}, {}, {"x": X}) is not None) is right


def test_an_outcome_known_to_lie_between_two_ends_is_predicted_as_it_is():
    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        none = jnp.zeros(x.shape[0], bool)
        numpyro.sample("y", dist.IntervalCensoredDistribution(dist.Normal(a * x, 2.0), none, none), obs=y)

    predictor = fitted(model, {"x": X, "y": np.stack([X - 1.0, X + 1.0], axis=1)}, {"a": A})
    found = predictor.predict({"x": [2.0]})
    np.testing.assert_allclose(found.mean, 2.0 * A.mean(), rtol=1e-9)
    np.testing.assert_allclose(found.sd, np.hypot(2.0, 2.0 * A.std()), rtol=1e-9)
    np.testing.assert_allclose(
        predictor.log_score({"x": [2.0]}, [0.5]), np.log(stats.norm(2.0 * A, 2.0).pdf(0.5).mean()), rtol=1e-9
    )


def test_several_outcomes_of_a_model_that_has_one():
    with pytest.raises(pi.ModelError, match=r"has no observed site 'z'; its outcomes are 'y'"):
        fitted(model_of(LAWS["Uniform"][0]), {"x": X, "y": X}, {"a": A}, outcome=["y", "z"])


# moments from draws --------------------------------------------------------------------------------------------------


class NoMoments(dist.Normal):
    """A law that can only be drawn from."""

    mean = property(lambda self: self._none())
    variance = property(lambda self: self._none())

    def _none(self):
        raise NotImplementedError

    def cdf(self, value):
        raise NotImplementedError


@pytest.mark.parametrize(("spread", "told"), [pytest.param(1.0, True, marks=pytest.mark.long), (0.01, False)])
def test_an_epistemic_part_is_a_number_that_can_be_trusted_or_nan(spread, told):
    """S = 200 draws, R = 32 replicates, aleatoric sd 1. The draws are given, so that at a spread of 1 the noise is that
    of 2 (m_s - m) e_s, e_s of variance 1 / R: 2.5% of the variance, 1.3% of the sd. Five of them are 7%."""
    a = spread * A / A.std()
    found = predictor_of(lambda p, r: NoMoments(r, 1.0), a).predict({"x": [0.0, 0.5]})
    if told:
        np.testing.assert_allclose(found.epistemic_sd, spread, rtol=0.07)
    else:
        assert np.isnan(found.epistemic_sd).all()
    np.testing.assert_allclose(found.aleatoric_sd, 1.0, atol=6 * (2 * 31 * SIZE) ** -0.5)
    np.testing.assert_allclose(found.sd, np.hypot(1.0, spread), rtol=0.08)


def test_moments_of_an_angle_are_those_of_the_number():
    """NumPyro's mean and variance of a von Mises law are those of points on a circle: here its root would be 0.55."""
    found = predictor_of(lambda p, r: dist.VonMises(r, 2.0)).predict({"x": [0.0]})
    at, weight = np.polynomial.legendre.leggauss(400)
    density = stats.vonmises(2.0, A[:, None]).pdf(np.pi * at) * np.pi * weight
    mean = (density @ (np.pi * at)).mean()
    sd = np.sqrt((density @ (np.pi * at) ** 2).mean() - mean**2)
    np.testing.assert_allclose(found.sd, sd, rtol=0.06)  # of 6,400 draws; four standard errors
    np.testing.assert_allclose(found.mean, mean, atol=4 * sd / np.sqrt(SIZE * 32))


def test_a_law_that_cannot_be_drawn_from_is_refused_in_words():
    with pytest.raises(pi.ModelError, match="has a law that cannot be drawn from here"):
        predictor_of(lambda p, r: dist.TruncatedDistribution(dist.StudentT(4.0, r, p), low=0.0))
