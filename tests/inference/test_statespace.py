"""Filters and smoothers against the dense joint Gaussian and against Kalman; broken twins; bad inputs by text.

Each assertion has a false-alarm rate of 1e-6, shared by its comparisons (Bonferroni).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.inference.exact.kalman import kalman
from probinfer.inference.montecarlo import particle_pass, resampling
from probinfer.inference.montecarlo.particle import passes
from probinfer.inference.montecarlo.particle_pass import Keep
from tests.inference.statistics import assert_moments

FALSE_ALARM = 1e-6
T = 12
M, P = np.array([0.5, -0.2]), np.array([[1.0, 0.2], [0.2, 0.5]])
F, Q = np.array([[0.9, 0.3], [-0.2, 0.7]]), np.array([[0.3, 0.1], [0.1, 0.4]])
H, R = np.array([[1.0, 0.5]]), np.array([[0.5]])
MODEL = pi.StateSpace.linear_gaussian(M, P, F, Q, H, R)
Y = np.random.default_rng(5).normal(0, 1.5, T)
Y[[3, 7]] = np.nan
SMALL = pi.ParticleFilter(particles=200, runs=400)


def conditional(seen):
    """Mean (T, 2), cov (T, 2, 2) of the states and the log likelihood, given y at the times seen: dense algebra."""
    mean, cov = np.zeros((T, 2)), np.zeros((T, 2, T, 2))
    mean[0], cov[0, :, 0] = M, P
    for t in range(1, T):
        mean[t] = F @ mean[t - 1]
        cov[t, :, :t] = np.einsum("ij,jsk->isk", F, cov[t - 1, :, :t])
        cov[:t, :, t] = np.moveaxis(cov[t, :, :t], 0, -1)
        cov[t, :, t] = F @ cov[t - 1, :, t - 1] @ F.T + Q
    seen = [t for t in seen if not np.isnan(Y[t])]
    big, h = cov.reshape(2 * T, 2 * T), np.zeros((len(seen), 2 * T))
    for row, t in enumerate(seen):
        h[row, 2 * t : 2 * t + 2] = H
    s = h @ big @ h.T + R[0, 0] * np.eye(len(seen))
    gain = np.linalg.solve(s, h @ big).T
    after = (big - gain @ h @ big).reshape(T, 2, T, 2)
    moved = (mean.ravel() + gain @ (Y[seen] - h @ mean.ravel())).reshape(T, 2)
    law = stats.multivariate_normal(h @ mean.ravel(), s)
    return moved, np.stack([after[t, :, t] for t in range(T)]), law.logpdf(Y[seen])


def agrees(values, exact, error, dof):
    bound = stats.t.isf(FALSE_ALARM / 2 / np.size(exact), dof)
    return bool((np.abs(values - exact) <= bound * error).all())


def unbiased(method, model=MODEL):
    """Whether E[Z_t] = p(y_0..t) and E[Z_t m_t] = p(y_0..t) E[x_t | y_0..t] at every t, over independent runs.

    Z_t is the product of the estimates up to t, m_t the mean of the particles: without a bias for any number of them,
    while m_t itself has one of order 1/N. No tolerance but the Monte Carlo error, of 3% of p at most.
    """
    series = MODEL.series(Y)
    exact = kalman(MODEL, series, {}, smooth=False)
    found = passes(model, method, series, {}, np.array([1, 2], np.uint32), keep=Keep.LAST)
    ratio = np.exp(np.cumsum(found.log_density, axis=1) - np.cumsum(exact.log_density, axis=1))
    excess = ratio[..., None] * (found.mean - exact.mean) / np.sqrt(np.diagonal(exact.cov, axis1=2, axis2=3))
    values = np.concatenate([ratio[..., None] - 1, excess], axis=2)
    error = values.std(axis=0, ddof=1) / np.sqrt(method.runs)
    assert error[:, 0].max() < 0.03, "too coarse to say anything"
    return agrees(values.mean(axis=0), 0.0, error, method.runs - 1)


def test_kalman_against_the_dense_joint_law():
    filtered, smoothed = pi.filter(MODEL, Y), pi.smooth(MODEL, Y)
    mean, cov, log_likelihood = conditional(range(T))
    np.testing.assert_allclose(smoothed.mean, mean, atol=1e-10)
    np.testing.assert_allclose(smoothed.sd**2, np.diagonal(cov, axis1=1, axis2=2), atol=1e-10)
    np.testing.assert_allclose([filtered.log_likelihood, smoothed.log_likelihood], log_likelihood, atol=1e-10)
    for t in range(T):
        np.testing.assert_allclose(filtered.mean[t], conditional(range(t + 1))[0][t], atol=1e-10)
    lower, upper = filtered.interval(0.9)
    np.testing.assert_allclose(upper - lower, 2 * stats.norm.isf(0.05) * filtered.sd)


def guide(x, t, params, y):
    """The optimal proposal of this model, but twice as wide."""
    mean = F @ x
    gain = Q @ H.T / (H @ Q @ H.T + R)
    seen = jnp.isin(t, jnp.array([3, 7]), invert=True)
    moved = mean + jnp.where(seen, gain @ (y - H @ mean), 0.0)
    return dist.MultivariateNormal(moved, 2 * (Q - jnp.where(seen, 1.0, 0.0) * gain @ H @ Q))


METHODS = {
    **{each.name: pi.ParticleFilter(particles=200, runs=400, resampling=each) for each in pi.Resampling},
    "every step": pi.ParticleFilter(particles=200, runs=400, resample_below=1),
    "guided": pi.ParticleFilter(particles=200, runs=400, proposal=guide),
    # many more particles: its weights have a heavy tail
    "auxiliary": pi.ParticleFilter(particles=1000, runs=200, kind=pi.FilterKind.AUXILIARY, resample_below=1),
}


QUICK = ("SYSTEMATIC", "guided")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in METHODS])
def test_the_likelihood_is_unbiased_and_the_means_are_right(name):
    assert unbiased(METHODS[name])


TWINS = {
    "weights to the power of 1.1": (particle_pass, "weighed", lambda right: lambda logs: right(1.1 * logs)),
    # 20% over the ten observations
    "every log density too high by 0.02": (particle_pass, "weighed", lambda right: lambda logs: right(logs + 0.02)),
    "resampled by other weights": (resampling, "systematic", lambda right: lambda words, w: right(words, w**1.5)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TWINS)
def test_twins_are_caught(name, monkeypatch):
    module, function, wrong = TWINS[name]
    monkeypatch.setattr(module, function, wrong(getattr(module, function)))
    assert not unbiased(SMALL, pi.StateSpace.linear_gaussian(M, P, F, Q, H, R))


def test_smoothing_by_particles_agrees_with_kalman():
    states = pi.smooth(MODEL, Y, pi.ParticleFilter(particles=200, runs=20), draws=40)
    exact = pi.smooth(MODEL, Y)
    assert agrees(states.mean, exact.mean, states.mcse + exact.sd / 200, 19)
    assert not agrees(states.mean, pi.filter(MODEL, Y).mean, states.mcse + exact.sd / 200, 19)
    np.testing.assert_allclose(states.sd, exact.sd, rtol=0.1)


@pytest.mark.parametrize("each", pi.Resampling, ids=lambda each: each.name)
def test_resampling_draws_every_particle_its_share(each):
    weights = np.random.default_rng(1).dirichlet(np.full(7, 0.6))
    weights[2] = 0.0
    weights /= weights.sum()
    with jax.enable_x64(True):
        words = np.random.default_rng(2).integers(0, 2**32, (20_000, 2), dtype=np.uint32)
        chosen = jax.jit(jax.vmap(lambda w: each.scheme((w[0], w[1]), jnp.asarray(3 * weights))))(words)
    counts = np.stack([(np.asarray(chosen) == i).sum(axis=1) for i in range(7)], axis=1)
    error = counts.std(axis=0) / np.sqrt(len(counts)) + 1e-9
    assert agrees(counts.mean(axis=0), 7 * weights, error, len(counts) - 1)
    assert not agrees(counts.mean(axis=0), np.ones(7), error, len(counts) - 1)
    assert (counts[:, 2] == 0).all()


@pytest.mark.long
def test_forecasts_agree():
    exact = pi.filter(MODEL, Y).forecast(3)
    drawn = pi.filter(MODEL, Y, pi.ParticleFilter(particles=5000)).forecast(3)
    last, spread = pi.filter(MODEL, Y).mean[-1], exact.sd / np.sqrt(5000)
    np.testing.assert_allclose(exact.mean[0], H @ F @ last)
    assert agrees(drawn.mean, exact.mean, spread, 5000)
    assert list(exact.to_frame().columns) == ["time", "entry", "mean", "sd", "eti90_lb", "eti90_ub"]
    assert exact.times.tolist() == [T, T + 1, T + 2]


@functools.cache
def scalar(sd=0.1):
    """One object, whose programs serve every test."""
    return pi.StateSpace(
        lambda params: dist.Normal(0.0, 1.0),
        lambda x, t, params: dist.Normal(x, 0.1),
        lambda x, t, params: dist.Normal(x, sd),
    )


def test_a_collapse_is_told_with_its_time():
    y = np.zeros(10)
    y[6] = 1.5
    states = pi.filter(scalar(), y)
    assert states.report.verdict is pi.Verdict.BAD
    assert states.report.findings[0].where.startswith("time 6")
    assert "at time 6" in states._repr_html_()
    assert pi.filter(scalar(), np.zeros(10)).report.verdict is pi.Verdict.GOOD


def test_the_same_seed_gives_the_same_numbers():
    first, second, other = (pi.filter(scalar(), np.zeros(10), seed=seed).mean for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def noisy():
    """MODEL with the scale of its observation noise unknown."""
    return pi.StateSpace.linear_gaussian(
        M, P, F, Q, H, lambda t, params: jnp.exp(2 * params["log_sd"])[None, None], prior={"log_sd": dist.Normal(0, 1)}
    )


@pytest.mark.long
def test_parameters_of_a_linear_model_agree_with_a_grid():
    model, grid = noisy(), np.linspace(-5, 4, 181)
    draws = np.asarray(pi.infer(model, Y, pi.NUTS(draws=2000), progress=False).tree["posterior"]["log_sd"])
    log_density = np.array([pi.filter(model, Y, parameters={"log_sd": s}).log_likelihood for s in grid])

    def moments(log_density):
        weights = np.exp(log_density - log_density.max())
        mean = weights @ grid / weights.sum()
        return mean, np.sqrt(weights @ (grid - mean) ** 2 / weights.sum())

    assert_moments(draws, *moments(log_density - grid**2 / 2))
    with pytest.raises(AssertionError):
        assert_moments(draws, *moments(0.5 * log_density - grid**2 / 2))


def looks(x, t, params):
    return dist.Normal(x if t > 3 else 0.0, 1.0)


NORMAL = lambda *a: dist.Normal(0.0, 1.0)  # noqa: E731
BAD = {
    "text": (lambda: pi.filter(scalar(), ["a"]), pi.DataError, "hold text; wanted an array of numbers"),
    "infinite": (lambda: pi.filter(scalar(), [0.0, np.inf]), pi.DataError, "infinite at time 1"),
    "all missing": (lambda: pi.filter(scalar(), [np.nan]), pi.DataError, "all NaN"),
    "shape": (lambda: pi.filter(scalar(), np.zeros((4, 2))), pi.DataError, r"wanted \(4,\)"),
    "not a model": (lambda: pi.filter(NORMAL, [0.0]), pi.ModelError, "pi.StateSpace"),
    "not a method": (lambda: pi.filter(scalar(), [0.0], pi.NUTS()), pi.MethodError, r"pi\.Kalman\(\)"),
    "not linear": (lambda: pi.filter(scalar(), [0.0], pi.Kalman()), pi.MethodError, "Fits: ParticleFilter"),
    "value": (lambda: pi.filter(pi.StateSpace(NORMAL, looks, NORMAL), [0.0]), pi.ModelError, "jnp.where"),
    "no law": (lambda: pi.filter(pi.StateSpace(NORMAL, lambda *a: 1, NORMAL), [0.0]), pi.ModelError, "returned int"),
    "covariance": (
        lambda: pi.StateSpace.linear_gaussian([0.0], [[-1.0]], [[1.0]], [[1.0]], [[1.0]], [[1.0]]),
        pi.ModelError,
        "eigenvalue",
    ),
    "scheme": (lambda: pi.ParticleFilter(resampling="systematic"), pi.MethodError, "Resampling.SYSTEMATIC"),
    "guided": (lambda: pi.ParticleFilter(kind=pi.FilterKind.GUIDED), pi.MethodError, "without proposal="),
    "level": (lambda: pi.filter(scalar(), [0.0], level=2), pi.MethodError, "level is 2"),
    "prior": (lambda: pi.StateSpace(NORMAL, NORMAL, NORMAL, prior={"a": 1}), pi.ModelError, "wanted a NumPyro"),
    "no prior": (lambda: pi.infer(MODEL, Y), pi.ModelError, "no prior"),
    "keys": (lambda: pi.infer(MODEL, {"y": Y}), pi.DataError, "observations"),
    "lacking": (lambda: pi.filter(noisy(), Y), pi.DataError, "parameters lack log_sd"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, text = BAD[name]
    with pytest.raises(error, match=text):
        call()


def test_a_first_state_that_is_not_normal():
    """The mean of the first state by quadrature; that of a normal law of the same mean and variance is another one."""
    y = np.array([4.0, 3.0])

    def model(first):
        return pi.StateSpace(
            initial=lambda params: first,
            transition=lambda x, t, params: dist.Normal(0.0, 1.0),
            observation=lambda x, t, params: dist.Normal(x, 2.0),
        )

    grid = np.linspace(-30, 30, 60_001)

    def exact(law):
        density = law.pdf(grid) * stats.norm(grid, 2.0).pdf(y[0])
        return float(grid @ density / density.sum())

    method = pi.ParticleFilter(particles=2000, runs=30)
    logistic = model(dist.Logistic(0.0, 1.0))
    found = passes(logistic, method, logistic.series(y), {}, np.array([1, 2], np.uint32), keep=Keep.LAST)
    means = found.mean[:, 0]
    error = means.std(ddof=1) / np.sqrt(method.runs) + 1 / method.particles
    assert agrees(means.mean(), exact(stats.logistic), error, method.runs - 1)
    assert not agrees(means.mean(), exact(stats.norm(0, np.pi / 3**0.5)), error, method.runs - 1)
