"""PMMH and particle Gibbs: against a grid with Kalman's likelihood, from exact draws, broken twins, bad inputs by text.

Each assertion has a false-alarm rate of 1e-6, shared by its comparisons (Bonferroni).
"""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.inference.choose import choose
from probinfer.inference.draw import draw
from probinfer.inference.exact.kalman import kalman
from probinfer.inference.montecarlo import conditional, marginal, pmmh
from probinfer.inference.montecarlo.particle import ParticleFilter
from probinfer.model.statespace import Series
from tests.inference.statistics import assert_law, assert_moments, assert_uniform_ranks

T, F, SD = 12, 0.8, 0.7
Y = np.random.default_rng(3).normal(0.5, 1.2, T)
Y[4] = np.nan
GRID = np.linspace(-4, 3, 281)


def scale(params):
    return jnp.exp(params["log_q"])


def nonlinear():
    """A linear Gaussian model that does not say so; the scale of its transition is unknown."""
    return pi.StateSpace(
        lambda params: dist.Normal(0.0, 1.0),
        lambda x, t, params: dist.Normal(F * x, scale(params)),
        lambda x, t, params: dist.Normal(x, SD),
        prior={"log_q": dist.Normal(-0.5, 1.0)},
    )


def linear():
    return pi.StateSpace.linear_gaussian(
        [0.0],
        [[1.0]],
        [[F]],
        lambda t, params: scale(params)[None, None] ** 2,
        [[1.0]],
        [[SD**2]],
        prior={"log_q": dist.Normal(-0.5, 1.0)},
    )


@pytest.fixture(scope="module")
def exact():
    """Weights of the grid (281,), and the smoothed means and sds there (281, T)."""
    model = linear()
    found = kalman(model, model.series(Y), {"log_q": GRID}, smooth=True)
    log_density = stats.norm.logpdf(GRID, -0.5, 1) + found.log_density.sum(axis=1)
    weights = np.exp(log_density - log_density.max())
    return weights / weights.sum(), found.mean[..., 0], np.sqrt(found.cov[..., 0, 0])


def moments_on(weights, values, sds=0.0):
    mean = weights @ values
    return mean, np.sqrt(weights @ (sds**2 + (values - mean) ** 2))


METHODS = {
    "PMMH": pi.PMMH(particles=30, draws=600, warmup=100, thin=6),
    "correlated": pi.PMMH(particles=30, draws=600, warmup=100, thin=6, refresh=0.2),
    "ParticleGibbs": pi.ParticleGibbs(particles=15, draws=600, warmup=150),
}
QUICK = pi.PMMH(particles=10, chains=2, draws=40, warmup=10, thin=2)


@pytest.fixture(scope="module")
def model():
    return nonlinear()


SLOW = pytest.mark.long  # each compiles for some ten seconds


@pytest.mark.long
@pytest.mark.parametrize("name", ["PMMH", *(pytest.param(name, marks=SLOW) for name in list(METHODS)[1:])])
def test_parameters_and_states_agree_with_a_grid(name, model, exact):
    weights, means, sds = exact
    posterior = pi.infer(model, Y, METHODS[name], progress=False)
    draws = np.asarray(posterior.tree["posterior"]["log_q"])
    assert_moments(draws, *moments_on(weights, GRID))
    states = np.asarray(posterior.tree["posterior"]["states"])
    assert posterior.tree["posterior"]["states"].dims == ("chain", "draw", "time")
    assert_moments(states, *moments_on(weights, means, sds))
    with pytest.raises(AssertionError):
        assert_moments(draws, *moments_on(stats.norm.pdf(GRID, -0.5, 1) / 40, GRID))  # the prior


@SLOW
def test_a_biased_likelihood_is_caught(exact, monkeypatch):
    weights, *_ = exact
    right = marginal.one_pass

    def biased(*args, **kwargs):
        found = right(*args, **kwargs)
        return found._replace(log_density=0.5 * found.log_density)

    monkeypatch.setattr(marginal, "one_pass", biased)
    model = pi.StateSpace(
        lambda params: dist.Normal(0.0, 1.0 + 1e-12),  # another model, so that no compiled program is taken over
        nonlinear().transition,
        nonlinear().observation,
        prior={"log_q": dist.Normal(-0.5, 1.0)},
    )
    draws = np.asarray(pi.infer(model, Y, METHODS["PMMH"], progress=False).tree["posterior"]["log_q"])
    with pytest.raises(AssertionError):
        assert_moments(draws, *moments_on(weights, GRID))


def exact_paths(count, times):
    """Standard normals (count, times) and the map to draws of p(x | y), with its inverse, at log_q = log 0.8."""
    cov = np.zeros((times, times))
    for s in range(times):
        cov[s, s] = 1.0 if s == 0 else F**2 * cov[s - 1, s - 1] + 0.64
        for t in range(s + 1, times):
            cov[s, t] = cov[t, s] = F ** (t - s) * cov[s, s]
    seen = np.flatnonzero(~np.isnan(Y[:times]))
    gain = cov[:, seen] @ np.linalg.inv(cov[np.ix_(seen, seen)] + SD**2 * np.eye(len(seen)))
    mean, root = gain @ Y[seen], np.linalg.cholesky(cov - gain @ cov[seen])
    z = np.random.default_rng(0).normal(size=(count, times))
    return mean + z @ root.T, lambda x: np.linalg.solve(root, (x - mean).T).T


def move_paths(module, paths):
    """Each path by four steps of the conditional filter."""
    model, times = nonlinear(), paths.shape[1]
    params = {"log_q": np.log(0.8)}
    series = Series(jnp.nan_to_num(Y[:times]), ~np.isnan(Y[:times]))

    def chain(path, words):
        def step(path, i):
            own = jnp.array([words[0], i], jnp.uint32)
            return module["conditional_pass"](model, ParticleFilter(), params, series, path, own, particles=6), 0

        return jax.lax.scan(step, path, jnp.arange(4, dtype=jnp.uint32))[0]

    with jax.enable_x64(True):
        words = np.random.default_rng(1).integers(0, 2**32, (len(paths), 2), dtype=np.uint32)
        return np.asarray(jax.jit(jax.vmap(chain))(jnp.asarray(paths), words))


def assert_standard(z):
    for t in range(z.shape[1]):
        assert_law(z[:, t], stats.norm.cdf, checks=z.shape[1] + 1, names=f"coordinate {t}")
    assert_law((z**2).sum(axis=1), stats.chi2(z.shape[1]).cdf, checks=z.shape[1] + 1, names="squared length")


def changed(old, new):
    source = inspect.getsource(conditional)
    assert source.count(old) == 1
    namespace = {"__name__": "changed"}
    exec(source.replace(old, new), namespace)
    return namespace


def test_law_does_not_move_under_the_conditional_filter():
    paths, to_normals = exact_paths(5_000, 4)
    moved = move_paths(vars(conditional), paths)
    assert_standard(to_normals(moved))
    assert np.abs(np.corrcoef(paths[:, 0], moved[:, 0])[0, 1]) < 0.9


MUTANTS = {
    "the path's ancestor ignores the weights": ("behind = log_weights + jnp.where", "behind = jnp.where"),
    "the path's ancestor ignores the transition": (
        "behind = log_weights + jnp.where(jnp.isnan(behind), -jnp.inf, behind)",
        "behind = log_weights",
    ),
    "the path is not kept": ("jnp.where(last, reference, draw(", "jnp.where(False, reference, draw("),
}


@SLOW
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_conditional_filter_move_the_law(name):
    paths, to_normals = exact_paths(5_000, 4)
    with pytest.raises(AssertionError, match="the law is off"):
        assert_standard(to_normals(move_paths(changed(*MUTANTS[name]), paths)))


@SLOW
def test_the_pilot_chooses_the_particles(model):
    drawn, _, _ = draw(model, Y, pi.PMMH(draws=30, warmup=10, thin=2), progress=False)
    assert 0 < drawn.facts["log_likelihood_sd"] < 2
    assert drawn.facts["particles"] >= 64


def test_chosen_without_being_asked_for_and_the_reason_is_said(model):
    method, _, reason = choose(model.bind(Y), steered=False)
    assert isinstance(method, pi.PMMH)
    assert "cannot be integrated out" in reason


def test_a_run_goes_on_from_its_checkpoint(model, tmp_path):
    path = tmp_path / "run"
    whole = draw(model, Y, QUICK, progress=False, checkpoint=path)[0].positions
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    again = draw(model, Y, QUICK, progress=False, checkpoint=path)[0].positions
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(draw(model, Y, QUICK, progress=False)[0].positions, whole)


@SLOW
def test_sticking_chains_are_reported():
    precise = pi.StateSpace(
        lambda params: dist.Normal(0.0, 1.0),
        lambda x, t, params: dist.Normal(F * x, scale(params)),
        lambda x, t, params: dist.Normal(x, 0.05),
        prior={"log_q": dist.Normal(-0.5, 1.0)},
    )
    report = pi.infer(precise, Y, pi.PMMH(particles=20, draws=300, warmup=50, thin=2), progress=False).report
    finding = next(finding for finding in report.findings if "chains stick" in finding.what)
    assert report.verdict is pi.Verdict.BAD
    assert "particles" in finding.advice


def test_longest_stay():
    assert pmmh.longest_stay(np.array([[1.0, 1, 2, 2, 2, 3], [1, 2, 3, 4, 5, 6]])) == 3
    assert pmmh.longest_stay(np.zeros((1, 7))) == 7


@SLOW
def test_states_given_a_posterior_of_the_parameters(model, exact):
    weights, means, sds = exact
    posterior = pi.infer(linear(), Y, pi.NUTS(draws=500), progress=False)
    mean, sd = moments_on(weights, means, sds)
    kalman = pi.smooth(linear(), Y, parameters=posterior)
    bound = stats.norm.isf(1e-6 / (2 * T))
    assert (np.abs(kalman.mean[:, 0] - mean) < bound * kalman.mcse[:, 0]).all()
    np.testing.assert_allclose(kalman.sd[:, 0], sd, rtol=0.1)
    lower, upper = kalman.interval(0.9)
    assert ((upper - lower)[:, 0] > 3.2 * sds.min(axis=0)).all()
    particles = pi.smooth(model, Y, pi.ParticleFilter(particles=200), parameters=posterior)
    # a run of 200 particles has a bias of order 1/200
    assert (np.abs(particles.mean - mean) < bound * particles.mcse + sd / 200).all()
    near, far = (pi.filter(each, Y, parameters=posterior).forecast(2) for each in (linear(), model))
    np.testing.assert_allclose(near.sd, far.sd[:, None] if far.sd.ndim == 1 else far.sd, rtol=0.1)
    assert "100 draws" in str(kalman.report)
    with pytest.raises(pi.DataError, match="posterior of log_q"):
        pi.filter(pi.StateSpace(NORMAL, NORMAL, NORMAL, prior={"a": dist.Normal(0, 1)}), Y, parameters=posterior)


NORMAL = lambda *a: dist.Normal(0.0, 1.0)  # noqa: E731


def plane():
    law = lambda *a: dist.Normal(jnp.zeros(2), 1.0)  # noqa: E731
    return pi.StateSpace(law, law, NORMAL, prior={"a": dist.Normal(0, 1)})


def mean(y=None):
    numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), 1.0), obs=y)


BAD = {
    "no state space": (lambda: pi.infer(mean, {"y": 1.0}, pi.PMMH()), pi.MethodError, "needs a state-space model"),
    "linear": (lambda: pi.infer(linear(), Y, pi.ParticleGibbs()), pi.MethodError, "Fits: NUTS"),
    "refresh": (lambda: pi.infer(plane(), Y, pi.PMMH(refresh=0.1)), pi.MethodError, r"these have the shape \(2,\)"),
    "refresh zero": (lambda: pi.PMMH(refresh=0), pi.MethodError, "refresh is 0"),
    "particles": (lambda: pi.PMMH(particles=1), pi.MethodError, "particles is 1"),
    "filter": (lambda: pi.PMMH(filter="bootstrap"), pi.MethodError, "pi.ParticleFilter"),
    "turns": (lambda: pi.ParticleGibbs(turns=0), pi.MethodError, "turns is 0"),
    "name": (
        lambda: pi.StateSpace(NORMAL, NORMAL, NORMAL, prior={"states": dist.Normal(0, 1)}),
        pi.ModelError,
        "rename it",
    ),
    "flat": (
        lambda: pi.infer(
            pi.StateSpace(NORMAL, NORMAL, NORMAL, prior={"a": dist.ImproperUniform(dist.constraints.real, (), ())}),
            Y,
            pi.PMMH(),
        ),
        pi.ModelError,
        "cannot be drawn from",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, text = BAD[name]
    with pytest.raises(error, match=text):
        call()


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_calibration(name, model):
    found = []
    method = replace(METHODS[name], draws=1008)  # every 64th of each of the four chains: 64
    for replication in range(160):
        generator = np.random.default_rng([7, replication])
        log_q = generator.normal(-0.5, 1.0)
        x, y = generator.normal(), np.empty(T)
        for t in range(T):
            x = x if t == 0 else F * x + np.exp(log_q) * generator.normal()
            y[t] = x + SD * generator.normal()
        drawn, target, _ = draw(model, y, method, seed=replication, progress=False)
        thinned = target.constrain(drawn.positions[:, ::64])
        draws = {site: thinned[site].reshape(-1, *thinned[site].shape[2:])[:63] for site in ("log_q", "states")}
        found.append([(draws["log_q"] < log_q).sum(), (draws["states"][:, -1] < x).sum()])
    assert_uniform_ranks(np.array(found), 63, bins=16)
