"""Predictions for new rows of models whose rows have discrete sites of their own: mixed over their values, anew."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import optimize, special, stats

import probinfer as pi
from probinfer.predict import own_states
from tests.predict.fits import Fit

X_NEW = np.array([-2.0, 0.0, 0.7, 2.0])


def mixture(x, y=None):
    """Weights that depend on the row, components that do not."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    half = numpyro.sample("half", dist.HalfNormal(3.0))
    with numpyro.plate("row", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(logits=slope * x))
        numpyro.sample("y", dist.Normal(jnp.stack([-half, half])[z], 1.0), obs=y)


def infer(model, data, method=None):
    return pi.infer(model, data, method or pi.NUTS(draws=200, warmup=200), progress=False)


def rows_of(count):
    generator = np.random.default_rng(0)
    x = generator.normal(size=count)
    z = generator.random(count) < special.expit(1.5 * x)
    return {"x": x, "y": np.where(z, 3.0, -3.0) + generator.normal(size=count)}


DATA = rows_of(40)


@pytest.fixture(scope="module")
def posterior():
    """Draws as they might be: what is said of new rows is said given the draws."""
    generator = np.random.default_rng(1)
    latents = {"slope": generator.normal(1.5, 0.5, 800), "half": generator.normal(3.0, 0.2, 800)}
    return Fit(pi.Model(mixture), DATA, {**latents, "z": generator.integers(0, 2, (800, 40))})


@pytest.fixture(scope="module")
def predictor(posterior):
    return pi.Predictor(posterior, accept=pi.Verdict.BAD)


def parts(posterior):
    """Probability of z = 1 and half the distance of the centres, for each draw and new row."""
    half = posterior.latents["half"][:, None]
    return special.expit(posterior.latents["slope"][:, None] * X_NEW), half


def assert_mixed(posterior, predictor):
    p, half = parts(posterior)
    prediction = predictor.predict({"x": X_NEW}, level=0.8)
    mean, variance = half * (2 * p - 1), 1 + 4 * p * (1 - p) * half**2
    np.testing.assert_allclose(prediction.mean, mean.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(prediction.aleatoric_sd**2, variance.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(prediction.epistemic_sd**2, mean.var(axis=0), rtol=1e-9, atol=1e-12)
    y = np.array([-3.0, 0.1, 2.0, 4.0])
    density = (1 - p) * stats.norm.pdf(y, -half, 1) + p * stats.norm.pdf(y, half, 1)
    np.testing.assert_allclose(predictor.log_score({"x": X_NEW}, y), np.log(density.mean(axis=0)), rtol=1e-9)
    return prediction


def test_moments_and_scores_are_those_of_the_mixture(posterior, predictor):
    prediction = assert_mixed(posterior, predictor)
    p, half = parts(posterior)

    def cdf(y, row):
        each = (1 - p[:, row]) * stats.norm.cdf(y, -half[:, 0]) + p[:, row] * stats.norm.cdf(y, half[:, 0])
        return each.mean()

    for row in range(4):  # quantiles come from draws: 4,000 of them at least, and six standard errors
        assert abs(cdf(prediction.lower[row], row) - 0.1) < 6 * np.sqrt(0.09 / 4000)
        assert abs(cdf(prediction.upper[row], row) - 0.9) < 6 * np.sqrt(0.09 / 4000)
        assert optimize.brentq(lambda y, row=row: cdf(y, row) - 0.1, -20, 20) < prediction.upper[row]


def test_the_values_in_training_play_no_part(predictor):
    assert set(predictor.program.draws) == {"slope", "half"}


@pytest.mark.long
def test_weights_that_are_left_out_are_noticed(posterior, monkeypatch):
    """The twin mixes the components in equal shares."""
    monkeypatch.setattr(own_states, "pointwise_log_density", lambda site: jnp.zeros(()))
    with pytest.raises(AssertionError):
        assert_mixed(posterior, pi.Predictor(posterior, accept=pi.Verdict.BAD))


def test_it_is_saved_and_loaded(predictor, tmp_path):
    predictor.save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    one, two = (each.predict({"x": X_NEW}) for each in (predictor, loaded))
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-12)
    np.testing.assert_allclose(one.lower, two.lower, rtol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("method", [pi.NUTS(draws=200, warmup=200), pi.Gibbs(draws=200, warmup=200)])
def test_draws_of_chains_serve(method):
    posterior = infer(mixture, DATA, method)
    assert_mixed(posterior, pi.Predictor(posterior, accept=pi.Verdict.BAD))


@pytest.mark.long
def test_classes_and_counts():
    def classes(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(logits=slope * x))
            table = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
            numpyro.sample("y", dist.Categorical(table[z]), obs=y)

    posterior = infer(classes, {"x": DATA["x"], "y": (DATA["y"] > 0) * 2})
    p = special.expit(posterior.latents["slope"][:, None] * X_NEW).mean(axis=0)
    prediction = pi.Predictor(posterior, accept=pi.Verdict.BAD).predict({"x": X_NEW})
    np.testing.assert_allclose(prediction.probabilities[:, 0], 0.7 - 0.6 * p, rtol=1e-9)

    def counts(x, y=None):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Poisson(jnp.where(z == 1, 10.0, rate)), obs=y)

    posterior = infer(counts, {"x": np.arange(5.0), "y": np.array([1, 0, 11, 2, 9])})
    prediction = pi.Predictor(posterior, accept=pi.Verdict.BAD).predict({"x": X_NEW})
    np.testing.assert_allclose(prediction.mean, 3.0 + 0.7 * posterior.latents["rate"].mean(), rtol=1e-9)


@pytest.mark.long
def test_states_of_groups_are_those_of_the_posterior():
    """A group that was seen keeps its class: its draws are parameters like any others."""

    def model(group, count, y=None):
        with numpyro.plate("groups", count):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
        spread = numpyro.sample("spread", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(2.0 * z[group], spread), obs=y)

    group = np.repeat([0, 1, 2], 5)
    y = np.where(group == 1, 0.0, 2.0) + 0.3 * np.random.default_rng(1).normal(size=15)
    posterior = infer(model, {"group": group, "count": 3, "y": y})
    prediction = pi.Predictor(posterior, accept=pi.Verdict.BAD).predict({"group": np.array([1, 2])})
    np.testing.assert_allclose(prediction.mean, 2.0 * posterior.latents["z"].mean(axis=0)[[1, 2]], atol=1e-12)


def shifted(x, y=None):
    """An outcome that sees the state of the row before."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(logits=slope * x))
        numpyro.sample("y", dist.Normal(3.0 * jnp.roll(z, 1), 1.0), obs=y)


def two_numbers(x, y=None):
    numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(jnp.stack([z, 2 * z], axis=-1), 1.0).to_event(1), obs=y)


def own_effect(x, y=None):
    with numpyro.plate("row", len(x)):
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(effect * x, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "y", "text"),
    [
        (shifted, DATA["y"][:6], "a new row has no such parameter.*y of a row depends on z of other rows"),
        (two_numbers, np.zeros((6, 2)), "a new row has no such parameter.*several numbers for each row"),
        (own_effect, DATA["y"][:6], "effect .* changes its shape with the number of rows"),
    ],
    ids=["row before", "two numbers", "continuous"],
)
def test_what_is_no_mixture_is_refused_by_name(model, y, text):
    bound = pi.Model(model).bind({"x": DATA["x"][:6], "y": y})
    latents = {site.name: np.zeros((10, *site.shape), site.dtype) for site in bound.latents}
    with pytest.raises(pi.ModelError, match=text):
        pi.Predictor(Fit(bound.model, {"x": DATA["x"][:6], "y": y}, latents))
