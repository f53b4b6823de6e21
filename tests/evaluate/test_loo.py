"""Leave-one-out and comparison against closed forms, ArviZ and known optima."""

import warnings

import arviz_base
import arviz_stats
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.evaluate.loo import log_likelihoods
from probinfer.evaluate.stacking import stacking_weights
from probinfer.posterior import datatree
from tests.evaluate import conjugate

N = 40
x, y = conjugate.rows(N)
FAR = 7  # a row of high leverage, whose importance weights have no mean
x[FAR], y[FAR] = (1.0, 15.0), 9.0
EVERY = np.arange(N)
GROUPS = ("posterior", "log_likelihood")
exact = np.array([conjugate.log_predictive(x, y, np.delete(EVERY, i), [i])[0] for i in EVERY])
LIMIT = stats.norm.isf(1e-6 / N / 2)  # one false alarm in a million, over all points


@pytest.fixture(scope="module")
def posterior():
    return pi.infer(conjugate.line, {"x": x, "y": y}, pi.Exact(draws=4000), progress=False)


@pytest.fixture(scope="module")
def plain(posterior):
    return pi.loo(posterior, refit=False)


def tolerance(posterior):
    """Of -log mean_s 1 / p(y_i | theta_s), by the delta method; half as much again for what smoothing moves."""
    weights = 1 / stats.norm.pdf(y, posterior.latents["beta"] @ x.T, conjugate.SIGMA)
    return 1.5 * LIMIT * weights.std(axis=0) / weights.mean(axis=0) / np.sqrt(len(weights))


def test_against_the_closed_form(posterior, plain):
    usual = EVERY != FAR
    error = np.abs(plain.pointwise - exact)
    assert (error < tolerance(posterior))[usual].all()
    assert tolerance(posterior)[usual].max() < 0.1  # it says something
    in_sample = conjugate.log_predictive(x, y, EVERY, EVERY)
    assert (np.abs(in_sample - exact) > tolerance(posterior))[usual].any()  # broken twin: nothing left out
    np.testing.assert_allclose(plain.elpd, plain.pointwise.sum())
    np.testing.assert_allclose(plain.lppd, in_sample.sum(), atol=0.5)


def test_a_point_that_importance_sampling_cannot_leave_out_is_fitted_again(posterior, plain):
    assert plain.bad[FAR]
    assert plain.bad.sum() == 1
    assert "refit=False" in plain.note
    assert abs(plain.pointwise[FAR] - exact[FAR]) > 0.2  # as it should: this is what the shape warns of
    found = pi.loo(posterior, progress=False)
    assert found.refitted[FAR]
    assert not found.bad.any()
    mean, covariance = conjugate.posterior(np.delete(x, FAR, 0), np.delete(y, FAR))
    beta = np.random.default_rng(1).multivariate_normal(mean, covariance, 4000)
    assert abs(found.pointwise[FAR] - exact[FAR]) < LIMIT * conjugate.log_mean_error(beta, x[FAR:][:1], y[FAR])[0]
    np.testing.assert_array_equal(np.delete(found.pointwise, FAR), np.delete(plain.pointwise, FAR))
    assert "fits of their own" in repr(found)
    few = pi.loo(posterior, most_refits=0)
    assert "more than 0" in few.note


def test_agrees_with_arviz():
    usual = EVERY != FAR
    posterior = pi.infer(conjugate.line, {"x": x[usual], "y": y[usual]}, pi.Exact(draws=1000), progress=False)
    groups = {name: {k: v.to_numpy()[None] for k, v in posterior.tree[name].items()} for name in GROUPS}
    ours, theirs = pi.loo(posterior), arviz_stats.loo(arviz_base.from_dict(groups), pointwise=True)
    np.testing.assert_allclose(ours.pointwise, theirs.elpd_i.to_numpy(), rtol=1e-10)
    np.testing.assert_allclose([ours.elpd, ours.se, ours.p], [theirs.elpd, theirs.se, theirs.p], rtol=1e-10)
    assert ours.good_k == theirs.good_k


def test_log_likelihoods_that_are_too_many_to_keep_are_computed_in_blocks(monkeypatch):
    monkeypatch.setattr(datatree, "MAX_LOG_LIKELIHOODS", 0)
    monkeypatch.setattr("probinfer.evaluate.loo._BLOCK", 9000)  # blocks of nine points
    lean = pi.infer(conjugate.line, {"x": x, "y": y}, pi.Exact(draws=1000), progress=False)
    assert "log_likelihood" not in lean.tree.children
    blocks = list(log_likelihoods(lean, None))
    assert [block.shape for block in blocks] == [(1000, 9)] * 4 + [(1000, 4)]
    expected = stats.norm.logpdf(y, lean.latents["beta"] @ x.T, conjugate.SIGMA)
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), expected, rtol=1e-9)


def test_a_point_that_no_parameter_moves_has_no_tail():
    """A row of zeros: its density is the same at every draw, so that leaving it out changes nothing."""
    with_zeros = x.copy()
    with_zeros[3] = 0.0
    posterior = pi.infer(conjugate.line, {"x": with_zeros, "y": y}, pi.Exact(draws=400), progress=False)
    found = pi.loo(posterior, refit=False)
    np.testing.assert_allclose(found.pointwise[3], stats.norm.logpdf(y[3], 0, conjugate.SIGMA))
    assert found.khat[3] == 0.0
    assert np.count_nonzero(found.khat == 0.0) == 1  # the others are smoothed as ever
    nowhere = pi.infer(conjugate.line, {"x": np.zeros_like(x), "y": y}, pi.Exact(draws=100), progress=False)
    found = pi.loo(nowhere)
    np.testing.assert_allclose(found.pointwise, stats.norm.logpdf(y, 0, conjugate.SIGMA))
    assert found.p == pytest.approx(0.0, abs=1e-9)


def test_a_discrete_parameter_is_left_out_with_the_weights_as_they_are():
    def either(x, y=None):
        slope = numpyro.sample("slope", dist.Categorical(jnp.array([0.5, 0.5])))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    rng = np.random.default_rng(2)
    small = rng.uniform(0.2, 0.6, size=12)
    came = 0.5 * small + rng.normal(size=12)
    logs = stats.norm.logpdf(came, np.array([[0.0], [1.0]]) * small, 1.0)  # (2, rows), of both slopes
    others = logs.sum(axis=1, keepdims=True) - logs
    weight = np.exp(others - others.max(axis=0))
    expected = np.log((weight * np.exp(logs)).sum(axis=0) / weight.sum(axis=0))
    posterior = pi.infer(either, {"x": small, "y": came}, pi.Exact(draws=4000), progress=False)
    found = pi.loo(posterior)
    chance = np.mean(posterior.latents["slope"])
    assert 0.1 < chance < 0.9
    inverse = np.exp(-logs)  # of -log mean_s 1 / p: two values, of which each draw has one
    spread = np.sqrt(chance * (1 - chance)) * np.abs(inverse[1] - inverse[0])
    error = LIMIT * spread / ((1 - chance) * inverse[0] + chance * inverse[1]) / np.sqrt(4000)
    assert (np.abs(found.pointwise - expected) < error + 1e-12).all()
    in_sample = np.log((1 - chance) * np.exp(logs[0]) + chance * np.exp(logs[1]))
    assert (np.abs(in_sample - expected) > error).any()  # broken twin: nothing left out


def test_too_few_draws():
    few = pi.infer(conjugate.line, {"x": x, "y": y}, pi.Exact(draws=24), progress=False)
    with pytest.raises(pi.PredictionError, match="has 24 draws, too few for importance sampling; wanted 25 or more"):
        pi.loo(few)


def test_comparison(posterior):
    other = pi.infer(conjugate.level, {"x": x, "y": y}, pi.Exact(draws=1000), progress=False)
    found = pi.compare({"level": other, "line": posterior}, progress=False)
    assert [model.name for model in found.models] == ["line", "level"]
    apart = found.pointwise["level"] - found.pointwise["line"]
    np.testing.assert_allclose(found["level"].diff, apart.sum())
    np.testing.assert_allclose(found["level"].dse, np.sqrt(N) * apart.std(ddof=1))
    np.testing.assert_allclose(found["level"].p_worse, stats.norm.cdf(-apart.sum() / (np.sqrt(N) * apart.std(ddof=1))))
    np.testing.assert_allclose(sum(found.weights.values()), 1)
    assert found.best.how == "PSIS-LOO, 1 refits"
    assert any("40 points are few" in note for note in found.notes)
    assert "<table" in found._repr_html_()
    assert list(found.to_frame().columns[:8]) == ["rank", "elpd", "p", "elpd_diff", "dse", "p_worse", "weight", "se"]
    with pytest.raises(KeyError, match="no model 'x'"):
        found["x"]


@pytest.mark.long
def test_a_model_with_many_bad_points_is_cross_validated_with_the_others(posterior, monkeypatch):
    monkeypatch.setattr("probinfer.evaluate.compare.FOLDS", 3)
    other = pi.infer(conjugate.level, {"x": x, "y": y}, pi.Exact(draws=1000), progress=False)
    found = pi.compare({"level": other, "line": posterior}, most_refits=0, seed=3, progress=False)
    assert [model.how for model in found.models] == ["3 folds", "3 folds"]
    direct = pi.cross_validate(posterior, cv=3, seed=3, progress=False)
    np.testing.assert_allclose(found["line"].elpd, direct.elpd)
    with pytest.raises(pi.PredictionError, match="'cv' is cross-validated and 'post' is not"):
        pi.compare({"cv": direct, "post": posterior})


def test_stacking_has_the_known_optimum():
    # two coins, chances a and b of heads: the best mixture has the share of heads that came
    a, b, heads, count = 0.9, 0.2, 37, 80
    came = np.arange(count) < heads
    scores = np.log(np.stack([np.where(came, a, 1 - a), np.where(came, b, 1 - b)], axis=1))
    best = (heads / count - b) / (a - b)
    for shift in (0.0, -1000.0, 1000.0):
        np.testing.assert_allclose(stacking_weights(scores + shift), [best, 1 - best], atol=2e-3)
    # broken twin: weights by the models' own scores, as of pseudo-BMA, are not the best mixture
    own = np.exp(scores.sum(axis=0) - scores.sum(axis=0).max())
    assert abs(own[0] / own.sum() - best) > 0.1


def test_stacking_meets_the_conditions_of_an_optimum():
    scores = np.random.default_rng(5).normal(size=(300, 4)) + np.array([0, 0.2, -4, 0.1])
    weights = stacking_weights(scores)
    density = np.exp(scores)
    gains = (density / (density @ weights)[:, None]).mean(axis=0)
    assert gains.max() < 1 + 1e-6
    assert weights[2] < 1e-3
    equal = (density / density.mean(axis=1, keepdims=True)).mean(axis=0)
    assert equal.max() > 1.1  # broken twin
    assert stacking_weights(np.full((3, 2), -np.inf)).tolist() == [0.5, 0.5]


def test_bad_input(posterior):
    other = pi.infer(conjugate.line, {"x": x, "y": y + 1}, pi.Exact(draws=100), progress=False)
    for models, text in [
        ({"one": posterior}, "two or more"),
        ({"one": posterior, "two": 3}, "'two' came as int"),
        ({"one": posterior, "two": other}, "different outcomes"),
    ]:
        with pytest.raises(pi.PredictionError, match=text):
            pi.compare(models, refit=False)

    def logs(x, y=None):
        conjugate.line(x, jnp.log(y))

    data = {"x": x, "y": np.exp(y)}
    transformed, plain = (
        pi.infer(model, data, pi.Exact(draws=100), progress=False) for model in (logs, conjugate.line)
    )
    with pytest.raises(pi.PredictionError, match="or of transformed data, cannot be compared"):
        pi.compare({"logs": transformed, "plain": plain}, refit=False)
    with pytest.raises(pi.PredictionError, match="there is no outcome 'z'; the posterior has log likelihoods of y"):
        pi.loo(posterior, "z")
    two = {"one": posterior, "two": posterior}
    for call in (lambda: pi.loo(posterior, most_refits=-1), lambda: pi.compare(two, most_refits=None)):
        with pytest.raises(pi.MethodError, match=r"most_refits is (-1|None); wanted a whole number, 0 or more"):
            call()


def test_what_was_found_of_other_outcomes_or_rows_is_not_compared():
    method = pi.Exact(draws=100)
    one, other = (
        pi.infer(conjugate.line, {"x": x[:20], "y": values}, method, progress=False) for values in (y[:20], 9 * y[:20])
    )
    for pair in (
        {"one": pi.loo(one, refit=False), "other": pi.loo(other, refit=False)},
        {"one": one, "other": pi.loo(other, refit=False)},
        {"one": pi.cross_validate(one, cv=2, progress=False), "other": pi.cross_validate(other, cv=2, progress=False)},
    ):
        with pytest.raises(pi.PredictionError, match="'one' and 'other' have observed different outcomes"):
            pi.compare(pair, refit=False, progress=False)
    halves = np.split(np.arange(20), 2)
    first, last = (pi.cross_validate(one, cv=[pair], progress=False) for pair in (halves, halves[::-1]))
    with pytest.raises(pi.PredictionError, match=r"different rows \(10 and 10\); pass the same cv= to both"):
        pi.compare({"first": first, "last": last})
    numbered = pi.compare({1: first, 2: first})
    assert "2 and 1 predict about equally well" in repr(numbered)


def test_a_point_that_a_draw_thinks_impossible_is_reported():
    posterior = pi.infer(conjugate.line, {"x": x, "y": y}, pi.Exact(draws=100), progress=False)
    posterior.tree["log_likelihood"]["y"][3, 4] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pi.loo(posterior, refit=False)
    assert np.isinf(found.pointwise[4])
    assert found.bad[4]
