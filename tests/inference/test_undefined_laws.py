"""Laws that are none, or densities that are NaN, in places with mass: what keeps away from there says so.

Each broken model has a twin whose density is zero there on purpose, or which is a law everywhere: no alarm.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi

Y = np.random.default_rng(0).normal(0.0, 1.0, 8)
LOUD = "not a number"


def walk(observation, transition=lambda x: dist.Normal(0.8 * x, 0.6), prior=None):
    return pi.StateSpace(
        lambda params: dist.Normal(0.0, 1.0),
        lambda x, t, params: transition(x),
        lambda x, t, params: observation(x, params),
        prior=prior,
    )


class Positive(dist.Normal):
    """Normal(x, 1), its density zero, or NaN, where x is negative."""

    outside = -jnp.inf

    def log_prob(self, value):
        return jnp.where(self.loc < 0, self.outside, super().log_prob(value))


class Broken(Positive):
    outside = jnp.nan


MODELS = {
    "an observation": walk(lambda x, params: Broken(x, 1.0)),
    "a scale that can be negative": walk(lambda x, params: dist.Normal(0.0, 0.5 + x)),
    "a scale of the state's own": walk(lambda x, params: dist.Normal(x, 1.0), lambda x: dist.Normal(x, 0.5 + x)),
    "a root": walk(lambda x, params: dist.Normal(x, 1.0), lambda x: dist.Normal(jnp.sqrt(x), 1.0)),
}
TWINS = {
    "zero density": walk(lambda x, params: Positive(x, 1.0)),
    "a scale": walk(lambda x, params: dist.Normal(0.0, jnp.exp(x))),
    "no noise": walk(lambda x, params: dist.Normal(x, 1.0), lambda x: dist.Normal(0.9 * x, 0.0 * x)),
    "counts": walk(lambda x, params: dist.Normal(x, 1.0), lambda x: dist.Normal(jnp.abs(x), 1.0)),
}


def loud(report) -> list:
    return [finding for finding in report.findings if LOUD in finding.what]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if i else ()) for i, n in enumerate(MODELS)])
def test_filters_tell_where_a_law_is_none(name):
    report = pi.filter(MODELS[name], Y, pi.ParticleFilter(particles=500)).report
    assert report.verdict < pi.Verdict.GOOD
    (finding,) = loud(report)
    assert finding.severity is pi.Verdict.DOUBTFUL
    assert "time" in finding.where
    state = float(finding.where.split("state ")[1].split(",")[0])
    assert state < 0.0  # in all of them the fault is there alone


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if i else ()) for i, n in enumerate(TWINS)])
def test_a_density_of_zero_and_ordinary_laws_are_no_alarm(name):
    assert not loud(pi.filter(TWINS[name], Y, pi.ParticleFilter(particles=500)).report)


def test_the_share_is_that_of_the_particles():
    """At the first time half of Normal(0, 1) is negative: 8 runs of 256 particles, false alarm 6e-7."""
    report = pi.filter(MODELS["an observation"], Y[:1], pi.ParticleFilter(particles=500)).report
    assert abs(loud(report)[0].value - 0.5) < 5 * 0.5 / np.sqrt(8 * 256)


@pytest.mark.long
def test_smoothing_tells_too():
    report = pi.smooth(MODELS["an observation"], Y, pi.ParticleFilter(particles=100, runs=2), draws=5).report
    assert loud(report)


PARTICLES = {
    "PMMH": pi.PMMH(particles=64, draws=150, warmup=50, chains=2),
    "ParticleGibbs": pi.ParticleGibbs(particles=20, draws=100, warmup=50, chains=2),
}


@pytest.mark.long
@pytest.mark.parametrize("name", PARTICLES)
def test_chains_with_particles_tell_too(name):
    prior = {"sd": dist.LogNormal(0.0, 0.3)}
    broken = walk(lambda x, params: Broken(x, params["sd"]), prior=prior)
    twin = walk(lambda x, params: Positive(x, params["sd"]), prior=prior)
    report = pi.infer(broken, Y, PARTICLES[name], progress=False).report
    assert report.verdict < pi.Verdict.GOOD
    assert "sd = " in loud(report)[0].where
    assert "state -" in loud(report)[0].where
    assert not loud(pi.infer(twin, Y, PARTICLES[name], progress=False).report)


def blocks(outside):
    def model(y):
        kind = numpyro.sample("kind", dist.Categorical(jnp.ones(3) / 3))
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("place", jnp.where(mu > 0.5, outside, 0.0))
        numpyro.sample("y", dist.Normal(mu + 0.1 * kind, 1.0), obs=y)

    return model


def kinds(outside):
    def model(y):
        kind = numpyro.sample("kind", dist.Categorical(jnp.ones(3) / 3))
        numpyro.factor("place", jnp.where(kind == 2, outside, 0.0))
        numpyro.sample("y", dist.Normal(0.1 * kind, 1.0), obs=y)

    return model


@pytest.mark.parametrize("model", [pytest.param(blocks, marks=pytest.mark.long), kinds])
def test_gibbs_tells_of_continuous_and_discrete_places(model):
    method = pi.Gibbs(draws=300, warmup=100)
    for outside, expected in ((jnp.nan, True), (-jnp.inf, False)):
        report = pi.infer(model(outside), {"y": np.array([0.3])}, method, progress=False).report
        assert bool(loud(report)) is expected
        assert not expected or report.verdict < pi.Verdict.GOOD


@pytest.mark.parametrize(
    ("outside", "expected"), [(jnp.nan, True), pytest.param(-jnp.inf, False, marks=pytest.mark.long)]
)
def test_many_chains_tell(outside, expected):
    method = pi.ManyChains(chains=64, draws=40, warmup=100)
    density = pi.LogDensity(lambda x: jnp.where(x[0] > 0.5, outside, -0.5 * jnp.sum(x**2)), dim=2)
    assert bool(loud(pi.infer(density, None, method, progress=False).report)) is expected
