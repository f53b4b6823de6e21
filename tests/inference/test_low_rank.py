"""Low-rank normal laws against normal posteriors of their own form, and where they must say that they fail.

Each assertion about random numbers has a false-alarm rate of 1e-6.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import optimize, stats

import probinfer as pi
from probinfer.inference.variational.approximation import Normal
from probinfer.inference.variational.families import Diagonal, FewDirections, LowRankRoot, Triangular, standard_points
from tests.inference.statistics import assert_moments

D = 24
GENERATOR = np.random.default_rng(31)
SCALES = np.exp(GENERATOR.normal(size=D))
DIRECTIONS = np.linalg.qr(GENERATOR.normal(size=(D, 3)))[0]
BASIS = np.linalg.qr(np.concatenate([DIRECTIONS, GENERATOR.normal(size=(D, D - 3))], axis=1))[0]
ROOT = SCALES[:, None] * (np.eye(D) + (DIRECTIONS * np.array([-0.9, 5.0, 9.0])) @ DIRECTIONS.T)  # one narrow, two wide
COVARIANCE = ROOT @ ROOT.T
MEAN = GENERATOR.normal(size=D)
LOG_MASS = 1.7
SD = np.sqrt(np.diag(COVARIANCE))


def spread(precision, mean):
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (D,)))
    constant = LOG_MASS + jnp.linalg.slogdet(precision)[1] / 2 - D / 2 * jnp.log(2 * jnp.pi)
    numpyro.factor("normal", constant - (x - mean) @ precision @ (x - mean) / 2)


DATA = {"precision": np.linalg.inv(COVARIANCE), "mean": MEAN}


def infer(method, **keywords):
    return pi.infer(spread, DATA, method, progress=False, **keywords)


@pytest.fixture(scope="module")
def posterior():
    return infer(pi.LowRank(rank=3))


def projected(draws: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Draws along the directions, and across them, in white coordinates: what is wrong shows as a variance not one."""
    return (np.linalg.solve(root, (draws - MEAN).T).T @ BASIS)[None]


def test_a_posterior_of_its_form_is_met_exactly(posterior):
    draws = np.asarray(posterior.tree["posterior"]["x"])
    assert_moments(draws[None], MEAN, SD)
    assert_moments(projected(draws, ROOT), 0.0, 1.0)
    attrs = posterior.tree.attrs
    assert attrs["log_evidence"] == pytest.approx(LOG_MASS, abs=1e-2)
    assert attrs["rank"] == 3
    assert posterior.report.verdict is pi.Verdict.GOOD


@pytest.mark.parametrize(
    "twin", [pi.LowRank(rank=1), pytest.param(pi.MeanField(), marks=pytest.mark.long)], ids=["rank 1", "mean-field"]
)
def test_too_few_directions_are_told(twin):
    posterior = infer(twin)
    with pytest.raises(AssertionError, match="tolerance"):
        assert_moments(projected(np.asarray(posterior.tree["posterior"]["x"]), ROOT), 0.0, 1.0)
    assert posterior.report.verdict is not pi.Verdict.GOOD


@pytest.mark.long
def test_more_directions_than_needed_do_no_harm():
    posterior = infer(pi.LowRank(rank=D))
    assert_moments(projected(np.asarray(posterior.tree["posterior"]["x"]), ROOT), 0.0, 1.0)


def test_the_same_seed_gives_the_same_draws(posterior):
    again, other = infer(pi.LowRank(rank=3)), infer(pi.LowRank(rank=3), seed=1)
    first = np.asarray(posterior.tree["posterior"]["x"])
    assert np.array_equal(first, np.asarray(again.tree["posterior"]["x"]))
    assert not np.array_equal(first, np.asarray(other.tree["posterior"]["x"]))


def low_rank_root(generator: np.random.Generator, d: int, k: int) -> LowRankRoot:
    left, right = 0.3 * generator.normal(size=(2, d, k))
    return LowRankRoot(generator.normal(size=d), np.exp(generator.normal(size=d)), left, right)


def test_density_and_moments_of_the_law():
    law = low_rank_root(np.random.default_rng(0), 5, 2)
    root = law.scale[:, None] * (np.eye(5) + law.left @ law.right.T)
    z = np.random.default_rng(1).normal(size=(10, 5))
    exact = stats.multivariate_normal(law.mean, root @ root.T)
    assert np.allclose(law.log_density(z), exact.logpdf(z), rtol=1e-10)
    assert np.allclose(law.sd, np.sqrt(np.diag(root @ root.T)))
    assert law.log_scale == pytest.approx(np.linalg.slogdet(root)[1])
    assert np.allclose(law.at(z), law.mean + z @ root.T)
    assert not np.allclose(law._replace(right=law.left).log_density(z), exact.logpdf(z), rtol=1e-2)


@pytest.mark.parametrize("family", [Diagonal(), Triangular(), FewDirections(2)], ids=lambda f: type(f).__name__)
def test_the_slope_of_the_bound_is_its_derivative(family):
    generator, d = np.random.default_rng(2), 4
    curvature = np.eye(d) + 0.3

    def gradients(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -np.cosh(z).sum(axis=1) - np.einsum("ni,ij,nj->n", z, curvature, z) / 2, -np.sinh(z) - z @ curvature

    frame = {
        "Diagonal": Normal(generator.normal(size=d), np.exp(generator.normal(size=d) / 2)),
        "Triangular": Normal(generator.normal(size=d), np.tril(generator.normal(size=(d, d))) + 2 * np.eye(d)),
        "FewDirections": low_rank_root(generator, d, 2),
    }[type(family).__name__]
    white = standard_points(generator, 40, d)

    def bound(x: np.ndarray) -> float:
        law = family.law(frame, x)
        return float(gradients(law.at(white))[0].mean() + law.log_scale)

    x = 0.1 * generator.normal(size=family.count(d))
    law = family.law(frame, x)
    slopes = family.slopes(frame, x, law, white, gradients(law.at(white))[1])
    differences = optimize.approx_fprime(x, bound, 1e-6)
    assert np.allclose(slopes, differences, rtol=1e-3, atol=1e-4)
    assert not np.allclose(slopes + 1e-2, differences, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: pi.LowRank(rank=0), "rank is 0; wanted a whole number, 1 or more"),
        (lambda: pi.LowRank(rank=2.5), "rank"),
        (lambda: pi.LowRank(points=1), "points"),
    ],
)
def test_settings_out_of_range(make, text):
    with pytest.raises(pi.MethodError, match=text):
        make()
