"""The predictor as a user meets it: exact, the same whatever the batch, and unwilling where it should be."""

import re
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinfer as pi
from probinfer.posterior.verdict import Finding
from probinfer.predict import engine
from probinfer.predict.sampling import _row_keys
from tests.predict import models as m
from tests.predict.fits import Fit, fitted


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4)


@pytest.fixture(scope="module")
def geometric():
    return fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(m.draws())}, chains=4)


def assert_equal(left, right, rtol=0.0):
    for name, values in left.columns().items():
        np.testing.assert_allclose(values, right.columns()[name], rtol=rtol, err_msg=name)


# what a prediction says ----------------------------------------------------------------------------------------------


def test_normal(line):
    rows = np.array([-2.0, 0.0, 3.0])
    prediction = line.predict({"x": rows}, level=0.8, quantiles=(0.5,))
    means = m.LINE["slope"] * rows[:, None]
    np.testing.assert_allclose(prediction.mean, means.mean(1), rtol=1e-12)
    np.testing.assert_allclose(prediction.epistemic_sd, means.std(1), rtol=1e-12)
    np.testing.assert_allclose(prediction.aleatoric_sd, np.sqrt(np.mean(m.LINE["sigma"] ** 2)), rtol=1e-12)
    np.testing.assert_allclose(prediction.sd**2, prediction.epistemic_sd**2 + prediction.aleatoric_sd**2, rtol=1e-12)
    for ends, level in ((prediction.lower, 0.1), (prediction.quantiles[:, 0], 0.5), (prediction.upper, 0.9)):
        below = stats.norm.cdf(ends[:, None], means, m.LINE["sigma"]).mean(1)
        np.testing.assert_allclose(below, level, rtol=1e-9)
    assert prediction.level == 0.8
    assert prediction.quantile_levels == (0.5,)
    assert prediction.probabilities is None


def test_bernoulli():
    beta = m.draws(3)
    predictor = fitted(m.logistic, {"X": m.X, "y": m.counts > 2}, {"beta": beta})
    prediction = predictor.predict({"X": m.X[:5]})
    p = 1 / (1 + np.exp(-(m.X[:5] @ beta.T)))
    np.testing.assert_allclose(prediction.mean, p.mean(1), rtol=1e-12)
    np.testing.assert_allclose(prediction.probabilities, np.stack([1 - p.mean(1), p.mean(1)], 1), rtol=1e-12)
    np.testing.assert_array_equal(prediction.most_probable, p.mean(1) > 0.5)
    np.testing.assert_allclose(prediction.mcse, p.std(1, ddof=1) / np.sqrt(m.DRAWS), rtol=1e-9)
    np.testing.assert_allclose(predictor.log_score({"X": m.X[:2]}, [1, 0]), np.log([p[0].mean(), 1 - p[1].mean()]))
    assert predictor.log_score({"X": m.X[0]}, 2)[0] == -np.inf
    one = predictor.predict({"X": m.X[0]})
    assert len(one) == 1
    assert one.mean[0] == pytest.approx(prediction.mean[0], rel=1e-12)


def test_categorical():
    W = m.draws(3, 4)
    predictor = fitted(m.categorical, {"X": m.X, "y": m.classes}, {"W": W})
    prediction = predictor.predict({"X": m.X[:5]})
    scores = np.exp(np.einsum("nk,skc->snc", m.X[:5], W))
    p = (scores / scores.sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(prediction.probabilities, p, rtol=1e-10)
    np.testing.assert_array_equal(prediction.most_probable, p.argmax(1))
    np.testing.assert_allclose(prediction.mean, p @ np.arange(4), rtol=1e-10)
    inside = [p[i, int(prediction.lower[i]) : int(prediction.upper[i]) + 1].sum() for i in range(5)]
    assert np.all(np.array(inside) >= 0.9)


def test_counts():
    rate = np.exp(m.draws())
    predictor = fitted(m.poisson, {"x": m.x, "y": m.counts}, {"rate": rate})
    prediction = predictor.predict({"x": [0.0, 1.0]}, level=0.9)
    law = stats.poisson(rate * np.exp([[0.0], [1.0]]))
    cover = law.cdf(prediction.upper[:, None]).mean(1) - law.cdf(prediction.lower[:, None] - 1).mean(1)
    assert np.all(cover >= 0.9)
    size = max(m.counts.max(), 10) + 1
    assert prediction.probabilities.shape == (2, size)
    np.testing.assert_allclose(prediction.probabilities[:, 4], law.pmf(4).mean(1), rtol=1e-9)
    large = predictor.predict({"x": [10.0]}).upper[0]  # rates of many thousands: another algorithm
    assert stats.poisson(rate * np.exp(10.0)).cdf(large).mean() >= 0.95 - 1e-9
    assert stats.poisson(rate * np.exp(10.0)).cdf(large - 1).mean() < 0.95


def test_a_law_without_cdf(geometric):
    """Moments are exact, quantiles those of 4000 keyed draws: within 5.6 binomial standard errors, false alarm 2e-8."""
    rows, rate = np.array([0.0, 0.7]), np.exp(m.draws())
    prediction = geometric.predict({"x": rows}, level=0.8)
    rates = rate * np.exp(rows)[:, None]
    np.testing.assert_allclose(prediction.mean, rates.mean(1), rtol=1e-6)
    np.testing.assert_allclose(prediction.aleatoric_sd**2, np.mean(rates * (1 + rates), axis=1), rtol=1e-5)
    law = stats.nbinom(1, 1 / (1 + rates))
    slack = 5.6 * np.sqrt(0.1 * 0.9 / 4000)
    for ends, level in ((prediction.lower, 0.1), (prediction.upper, 0.9)):
        assert np.all(law.cdf(ends[:, None]).mean(1) > level - slack)
        assert np.all(law.cdf(ends[:, None] - 1).mean(1) < level + slack)
    exact = np.log([law.pmf(0)[0].mean(), law.pmf(2)[1].mean()])
    np.testing.assert_allclose(geometric.log_score({"x": rows}, [0, 2]), exact, rtol=1e-5)


def test_several_numbers_with_a_joint_law():
    predictor = fitted(m.multivariate, {"x": m.x, "y": m.wide}, m.MULTIVARIATE)
    prediction = predictor.predict({"x": m.x[:2]}, quantiles=(0.25, 0.5))
    assert prediction.lower.shape == (2, 3)
    assert prediction.quantiles.shape == (2, 3, 2)
    np.testing.assert_allclose(prediction.mean, m.MULTIVARIATE["a"].mean(0) * m.x[:2, None], rtol=1e-9)
    np.testing.assert_allclose(prediction.aleatoric_sd, np.sqrt(1.1), rtol=1e-9)
    covariance = m.MULTIVARIATE["root"] @ np.swapaxes(m.MULTIVARIATE["root"], 1, 2) + 0.1 * np.eye(3)
    density = [
        stats.multivariate_normal.pdf(m.wide[0], a * m.x[0], c)
        for a, c in zip(m.MULTIVARIATE["a"], covariance, strict=True)
    ]
    np.testing.assert_allclose(predictor.log_score({"x": m.x[:1]}, m.wide[:1]), np.log(np.mean(density)), rtol=1e-9)
    assert predictor.sample({"x": m.x[:2]}, draws=7).shape == (7, 2, 3)


@pytest.mark.long
def test_mcse_of_chains_is_not_that_of_independent_draws():
    slope = np.repeat(m.draws()[:20], 10)  # each draw ten times: 10 times fewer
    latents = {"slope": slope, "sigma": m.LINE["sigma"]}
    apart = fitted(m.line, {"x": m.x, "y": m.y}, latents).predict({"x": [1.0]}).mcse[0]
    chains = fitted(m.line, {"x": m.x, "y": m.y}, latents, chains=2).predict({"x": [1.0]}).mcse[0]
    assert chains > 1.8 * apart


# the same answer, however it is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["line", pytest.param("geometric", marks=pytest.mark.long)])
def test_a_rows_answer_does_not_depend_on_its_batch(which, request):
    predictor = request.getfixturevalue(which)
    x = np.random.default_rng(1).normal(size=72)  # two blocks, of 64 and 8
    together = predictor.predict({"x": x}, quantiles=(0.3,))
    alone = [predictor.predict({"x": x[[i]]}, quantiles=(0.3,)) for i in (0, 9, 63, 64, 71)]
    for i, one in zip((0, 9, 63, 64, 71), alone, strict=True):
        for name, values in one.columns().items():
            np.testing.assert_allclose(values[0], together.columns()[name][i], rtol=1e-12, err_msg=name)
    shuffled = predictor.predict({"x": x[::-1]}, quantiles=(0.3,))
    np.testing.assert_allclose(shuffled.upper[::-1], together.upper, rtol=1e-12)


def test_a_small_budget_changes_nothing(line, monkeypatch):
    x = {"x": m.x}
    before = line.predict(x)
    monkeypatch.setattr(engine, "BLOCK_BYTES", 8 * m.DRAWS * 8)
    assert [block.count for block in line._engine._blocks({"x": m.x}, m.x, m.DRAWS)] == [8] * 5
    assert_equal(line.predict(x), before, rtol=1e-12)


def test_float64_is_used_and_left_alone(line):
    before = jax.config.jax_enable_x64
    assert line.predict({"x": [1e9]}).mean[0] == pytest.approx(1e9 * m.LINE["slope"].mean(), rel=1e-13)
    assert jax.config.jax_enable_x64 == before


def test_each_shape_is_compiled_once(line):
    predictor = pi.Predictor.from_program(line.program, line.about)
    for _ in range(3):
        predictor.predict({"x": m.x[:7]})
        predictor.predict({"x": m.x[:8]}, level=0.5)
        predictor.predict({"x": 0.1})
    assert len(predictor._engine._compiled) == 2  # 8 rows and 1


def test_no_size_of_a_request_compiles_anew(line):
    """All numbers of rows up to 600, of quantiles up to 6, of draws to sample up to 6: a few shapes each."""
    predictor = pi.Predictor.from_program(line.program, line.about)
    shapes, call = [], predictor._engine._call

    def seen(function, *arguments, variant=""):
        if function.func is _row_keys:
            return call(function, *arguments, variant=variant)
        shapes.append(tuple(leaf.shape for leaf in jax.tree.leaves(arguments)))
        raise KeyboardInterrupt

    predictor._engine._call = seen
    for count in (*range(1, 40), 63, 64, 65, 127, 128, 300, 512, 600):
        with pytest.raises(KeyboardInterrupt):
            predictor.predict({"x": np.zeros(count)})
    assert len(set(shapes)) == len(engine.BLOCK_ROWS)
    shapes.clear()
    for number in range(1, 7):
        with pytest.raises(KeyboardInterrupt):
            predictor.predict({"x": 0.0}, quantiles=np.linspace(0.1, 0.9, number))
    assert len(set(shapes)) == 4  # 3, 4, 6, 8 levels with the interval's two
    shapes.clear()
    for number in range(1, 7):
        with pytest.raises(KeyboardInterrupt):
            predictor.sample({"x": 0.0}, draws=number)
    assert len(set(shapes)) == 5  # 1, 2, 3, 4, 6


@pytest.mark.parametrize("count", [*range(1, 70), 1000])
def test_buckets_are_little_larger(count):
    size = engine.bucket(count)
    assert count <= size <= max(count + 1, 1.5 * count)
    assert engine.bucket(size) == size


def test_padding_draws_and_levels_changes_nothing(line):
    rows = {"x": [0.3, 1.0]}
    five = line.predict(rows, quantiles=(0.1, 0.2, 0.3, 0.4, 0.5)).quantiles
    assert five.shape == (2, 5)
    np.testing.assert_allclose(five[:, 4], line.predict(rows, quantiles=(0.5,)).quantiles[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(line.sample(rows, draws=5), line.sample(rows, draws=6)[:5])


def test_rows_are_not_all_taken_at_once(line):
    """Blocks are cut when a thread is free: of 100 waiting blocks no more than a few exist."""
    from concurrent.futures import ThreadPoolExecutor

    taken, finished, most = 0, 0, 0

    def blocks():
        nonlocal taken, most
        for number in range(100):
            taken += 1
            most = max(most, taken - finished)
            yield number

    with ThreadPoolExecutor(2) as pool:
        for number, answer in enumerate(engine._in_order(pool, lambda n: n + 1, blocks(), 4)):
            finished += 1
            assert answer == number + 1
    assert most <= 5
    assert finished == 100


def test_memory_stays_within_the_budget(line):
    """Whatever rows x draws: the largest array of a block has no more than the budget, or is a single row's."""
    for draws in (1, 200, 4000, 50_000, 10_000_000):
        sizes = {len(block.along) for block in line._engine._blocks({"x": np.zeros(2000)}, np.zeros(2000), draws)}
        assert all(size * draws * 8 <= engine.BLOCK_BYTES for size in sizes) or sizes == {1}
        assert sizes <= set(engine.BLOCK_ROWS)


def test_threads_get_the_same_answers(line):
    expected = line.predict({"x": m.x})
    predictor, results = pi.Predictor.from_program(line.program, line.about), []
    threads = [threading.Thread(target=lambda: results.append(predictor.predict({"x": m.x}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        assert_equal(result, expected)


def test_no_rows(line, geometric):
    for predictor in (line, geometric):
        prediction = predictor.predict({"x": []}, quantiles=(0.5,))
        assert len(prediction) == 0
        assert prediction.quantiles.shape == (0, 1)
        assert prediction.to_frame().empty
        assert predictor.sample({"x": []}, draws=3).shape == (3, 0)
        assert predictor.log_score({"x": []}, []).shape == (0,)


# draws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["line", "geometric"])
def test_samples_have_the_predictive_distribution(which, request):
    """Mean and sd of 20,000 draws, within 5.6 standard errors; all posterior draws are used equally often."""
    predictor = request.getfixturevalue(which)
    draws = predictor.sample({"x": [0.5, -1.0]}, draws=20_000, seed=3).astype(float)
    prediction = predictor.predict({"x": [0.5, -1.0]})
    noise = prediction.aleatoric_sd / np.sqrt(20_000)  # each posterior draw occurs 100 times: no other error
    assert np.all(np.abs(draws.mean(0) - prediction.mean) < 5.6 * noise)
    fourth = np.mean((draws - draws.mean(0)) ** 4, axis=0)
    assert np.all(np.abs(draws.var(0) - prediction.sd**2) < 5.6 * np.sqrt(fourth / 20_000))


def test_sample_noise_is_each_rows_and_each_draws_own(line):
    rows = {"x": np.array([0.0, 0.0, 1e-9])}  # slope has no say
    draws = line.sample(rows, draws=400, seed=1) / np.median(m.LINE["sigma"])
    correlation = np.corrcoef(draws.T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.3  # 6 standard errors; shared noise would give 1
    assert len(np.unique(draws)) == draws.size  # no noise draw is used for two posterior draws


def test_samples_are_joint_and_keyed(line):
    rows = {"x": np.array([100.0, -100.0])}  # noise is nothing next to the slope, which both rows share
    draws = line.sample(rows, draws=300, seed=1)
    assert np.corrcoef(draws.T)[0, 1] < -0.999
    np.testing.assert_array_equal(draws, line.sample(rows, draws=300, seed=1))
    np.testing.assert_array_equal(draws[:, ::-1], line.sample({"x": rows["x"][::-1]}, draws=300, seed=1))
    np.testing.assert_array_equal(draws[:, :1], line.sample({"x": rows["x"][:1]}, draws=300, seed=1))
    assert not np.any(draws == line.sample(rows, draws=300, seed=2))
    assert line.sample(rows, draws=2, seed=jax.random.key(0)).shape == (2, 2)


def test_samples_of_discrete_outcomes_are_whole_numbers(geometric):
    assert geometric.sample({"x": [0.0]}, draws=5).dtype == np.int64


# refusals ------------------------------------------------------------------------------------------------------------

FINDING = Finding("R-hat is 1.3", "slope", pi.Verdict.BAD, "run longer chains", 1.3)


def test_an_unreliable_posterior_does_not_become_a_predictor():
    fit = Fit(pi.Model(m.line), {"x": m.x, "y": m.y}, m.LINE, verdict=pi.Verdict.BAD, findings=(FINDING,) * 5)
    with pytest.raises(pi.UnreliablePosterior) as error:
        pi.Predictor(fit)
    text = str(error.value)
    assert "verdict is BAD, and only GOOD or better is accepted" in text
    assert "R-hat is 1.3" in text
    assert "run longer chains" in text
    assert "and 2 more in posterior.report" in text
    assert "Predictor(posterior, accept=Verdict.BAD)" in text
    with pytest.raises(pi.UnreliablePosterior, match="only DOUBTFUL or better"):
        pi.Predictor(fit, accept=pi.Verdict.DOUBTFUL)
    assert pi.Predictor(fit, accept=pi.Verdict.BAD).about["verdict"] == "BAD"
    with pytest.raises(pi.PredictionError, match="accept is 'GOOD'; wanted a Verdict"):
        pi.Predictor(fit, accept="GOOD")


@pytest.mark.parametrize("level", [0.0, 1.0, 90, "0.9", True, float("nan")])
def test_levels_are_probabilities(line, level):
    with pytest.raises(pi.PredictionError, match=f"level has {re.escape(repr(level))}; wanted probabilities"):
        line.predict({"x": [0.0]}, level=level)
    with pytest.raises(pi.PredictionError, match="quantiles has"):
        line.predict({"x": [0.0]}, quantiles=(0.5, level))


def test_draws_and_seeds_are_whole_numbers(line):
    for draws in (-1, 2.5, True):
        with pytest.raises(pi.PredictionError, match="draws is"):
            line.sample({"x": [0.0]}, draws=draws)
    for seed in (-1, "a", None):
        with pytest.raises(pi.PredictionError, match="seed is"):
            line.sample({"x": [0.0]}, seed=seed)


@pytest.mark.parametrize(
    ("y", "text"),
    [([1.0], r"y has the shape \(1,\); wanted \(2,\)"), ([1.0, np.nan], "not finite in row 1"), (["a", "b"], "text")],
)
def test_outcomes_to_score_are_numbers(line, y, text):
    with pytest.raises(pi.PredictionError, match=text):
        line.log_score({"x": [0.0, 1.0]}, y)


def test_parameters_that_are_no_numbers_are_named(line):
    latents = {"slope": np.where(np.arange(m.DRAWS) == 7, np.nan, 1.0), "sigma": np.ones(m.DRAWS)}
    broken = fitted(m.line, {"x": m.x, "y": m.y}, latents)
    with pytest.raises(pi.PredictionError, match=r"In row 100 .*parameters of y are not a number"):
        broken.predict({"x": [1.0]}, first_row=100)


def test_a_chance_that_is_no_number_for_one_draw_is_told():
    beta = np.where(np.arange(m.DRAWS)[:, None] == 7, np.nan, np.ones(2))
    broken = fitted(m.logistic, {"X": np.ones((4, 2)), "y": np.array([0, 1, 0, 1])}, {"beta": beta})
    with pytest.raises(pi.PredictionError, match=r"In row 0 .*parameters of y are not a number"):
        broken.predict({"X": np.ones((1, 2))})


def test_an_input_of_which_there_is_no_logarithm_is_named():
    def logs(dose, group, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(slope * jnp.log(dose) + 0 * group, sigma), obs=y)

    data = {"dose": np.exp(m.x), "group": np.zeros(len(m.x), int), "y": m.y}
    with pytest.raises(pi.PredictionError, match=r"In row 1 .* It has dose = 0: does the model take a logarithm"):
        fitted(logs, data, m.LINE).predict({"dose": [1.0, 0.0], "group": [0, 0]})


@pytest.mark.parametrize(("far", "told"), [(1e308, "1e[+]308"), (-1e200, "-1e[+]200")])
def test_numbers_that_overflow_are_refused_with_the_row_and_its_input(line, far, told):
    """1e308 * slope is infinite for some draws; -1e200 * slope is finite, and its variance is not."""
    rows = {"x": np.array([0.5, far])}
    with pytest.raises(pi.PredictionError, match=rf"In row 1 .*beyond 1e308.* farthest from zero is x = {told}"):
        line.predict(rows)
    answer = line._engine.summarise(rows, np.zeros(2, np.uint32), np.array([0.05, 0.95]))
    assert answer.defined.tolist() == [True, False]
    assert not np.isfinite([answer.mean[1], answer.epistemic_sd[1], *answer.quantiles[1]]).all()  # as it was
    assert np.isfinite(line.predict({"x": [1e100]}).sd[0])


def test_counts_that_overflow_are_refused():
    counts = fitted(m.poisson, {"x": m.x, "y": m.counts}, {"rate": np.exp(0.3 * m.draws())})
    for work in (counts.predict, counts.sample, lambda rows: counts.log_score(rows, [1.0, 1.0])):
        with pytest.raises(pi.PredictionError, match=r"In row 1 .* x = 800"):
            work({"x": [0.0, 800.0]})


def test_a_law_that_is_none_has_no_draws():
    """Of a rate that is no number, or is below 0, NumPyro's Poisson draws -1."""
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as dist

    def root(x, y=None):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Poisson(rate * jnp.sqrt(x)), obs=y)

    x = np.abs(m.x) + 0.1
    counts = fitted(root, {"x": x, "y": m.counts}, {"rate": np.exp(0.3 * m.draws())})
    for work in (counts.predict, counts.sample):
        with pytest.raises(pi.PredictionError, match="In row 1 "):
            work({"x": [4.0, -4.0]})
    assert (counts.sample({"x": [4.0, 1.0]}, 50) >= 0).all()

    def line(x, y=None):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Poisson(rate * x), obs=y)

    straight = fitted(line, {"x": x, "y": m.counts}, {"rate": np.exp(0.3 * m.draws())})
    for work in (straight.predict, straight.sample):
        with pytest.raises(pi.PredictionError, match=r"In row 1 .*a rate or scale below 0"):
            work({"x": [4.0, -0.01]})
    assert straight.predict({"x": [0.0]}).mean[0] == 0.0


@pytest.mark.long
def test_counts_without_a_cdf_that_overflow_are_refused_and_infinite_chances_are_not():
    sampled = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(0.3 * m.draws())})
    with pytest.raises(pi.PredictionError, match=r"In row 1 .* x = 800"):
        sampled.predict({"x": [0.0, 800.0]})
    sure = fitted(m.logistic, {"X": m.X, "y": m.x > 0}, {"beta": np.abs(m.draws(3))})
    assert sure.predict({"X": [[1e308, 1e308, 1e308]]}).mean[0] == 1.0  # logits are infinite, the chance is 1


# the whole way -------------------------------------------------------------------------------------------------------


def test_from_data_to_prediction():
    """A normal mean with known variance: the posterior predictive is Normal(posterior mean, posterior var + 1)."""
    import numpyro
    from numpyro import distributions as dist

    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    posterior = pi.infer(model, {"y": m.y}, seed=1, progress=False)
    prediction = pi.Predictor(posterior, "y").predict({}, level=0.9)
    variance = 1 / (1 + m.ROWS)
    mean = variance * m.y.sum()
    assert abs(prediction.mean[0] - mean) < 6 * prediction.mcse[0]
    assert prediction.mcse[0] < 0.1 * np.sqrt(variance)
    exact = stats.norm(mean, np.sqrt(variance + 1))
    assert prediction.sd[0] == pytest.approx(exact.std(), rel=0.01)
    assert [prediction.lower[0], prediction.upper[0]] == pytest.approx(exact.interval(0.9), abs=0.02)


def test_predicting_needs_no_numpyro():
    """Modules that a loaded predictor runs import no numpyro and no pandas."""
    code = """
import ast, pathlib, probinfer.predict
allowed = {"laws", "outcome", "population_law", "own_states", "own_law", "own_moments"}
allowed |= {"motion_programs", "first_standing"}
for path in pathlib.Path(probinfer.predict.__path__[0]).glob("*.py"):
    top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
    inner = {n.module for n in top if isinstance(n, ast.ImportFrom)}
    if path.stem not in allowed:
        assert not {"numpyro", "pandas"} & names, path
        assert not {f"probinfer.predict.{name}" for name in allowed} & inner, path
"""
    subprocess.run([sys.executable, "-c", code], check=True)
