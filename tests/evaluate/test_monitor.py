"""Monitoring: exact uniformity and fairness of the bets, false alarms over many seeds, power, state and errors."""

import itertools
import json

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import probinfer as pi
from probinfer.evaluate.betting import UNIFORM, Capital, misses
from probinfer.evaluate.exchange import Reference, uniform
from probinfer.evaluate.monitor import confidence_sequence
from tests.predict.fits import Fit, fitted

ALPHA = 0.1


def ranks(draw, reference, new, seed, bins=8):
    rng = np.random.default_rng(seed)
    known = Reference.of(draw(rng, reference), bins, rng.random(reference))
    return known.rank(draw(rng, new), rng.random((new, 2)))[0]


LAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "ties": lambda rng, n: (rng.random(n) < 0.3).astype(float),
    "counts": lambda rng, n: rng.poisson(2.0, n).astype(float),
}


@pytest.mark.parametrize("name", ["normal", "ties"])
def test_ranks_are_uniform_and_independent_even_with_few_reference_rows(name):
    found = np.array([ranks(LAWS[name], 6, 12, seed, bins=4) for seed in range(2000)])
    for column in (0, 5, 11):
        assert stats.kstest(found[:, column], "uniform").pvalue > 1e-6 / 6
    correlation = np.corrcoef(found.T)[np.triu_indices(12, 1)]
    assert np.abs(correlation).max() < stats.norm.isf(1e-6 / 66 / 2) / np.sqrt(2000)


def test_broken_twin_ranks_among_the_reference_rows_alone_are_caught():
    """Bins that do not learn from new rows: uniform one by one, but dependent, and in the long run far from uniform."""
    found = []
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        edges = np.sort(rng.normal(size=6))
        place = np.searchsorted(edges, rng.normal(size=12))
        found.append((place + rng.random(12)) / 7)
    correlation = np.corrcoef(np.array(found).T)[np.triu_indices(12, 1)]
    assert np.abs(correlation).max() > stats.norm.isf(1e-6 / 66 / 2) / np.sqrt(2000)


def test_bets_are_fair():
    for bet in UNIFORM:
        assert integrate.quad(bet, 0, 1)[0] == pytest.approx(1, abs=1e-9)
        assert bet(np.linspace(0, 1, 1001)).min() > 0
    for level in (0.5, 0.9, 0.99):
        for bet in misses(level):
            assert (1 - level) * bet(np.array(1.0)) + level * bet(np.array(0.0)) == pytest.approx(1)
            assert bet(np.array(1.0)) > 1  # against more misses, never fewer


def test_expected_capital_is_one_exactly():
    """Over all sequences of seven hits and misses, with their probabilities."""
    level, length = 0.8, 7
    total = 0.0
    for sequence in itertools.product([0.0, 1.0], repeat=length):
        capital = Capital.begin(1, 3).after(np.array(sequence)[:, None], misses(level), np.inf)
        chance = np.prod([1 - level if miss else level for miss in sequence])
        total += chance * np.exp(capital.log_capital[0])
    assert total == pytest.approx(1, rel=1e-12)


def test_capital_is_the_mixture_over_starts_and_does_not_depend_on_batches():
    values = np.random.default_rng(0).beta(1, 2, size=(30, 2))
    gains = np.stack([bet(values) for bet in UNIFORM], axis=-1)
    naive = 1 / 31 + sum(
        np.mean(np.prod(gains[start:], axis=0), axis=-1) / ((start + 1) * (start + 2)) for start in range(30)
    )
    at_once = Capital.begin(2, len(UNIFORM)).after(values, UNIFORM, 0.5)
    np.testing.assert_allclose(np.exp(at_once.log_capital), naive, rtol=1e-10)
    pieces = Capital.begin(2, len(UNIFORM))
    for part in (values[:1], values[1:1], values[1:17], values[17:]):
        pieces = pieces.after(part, UNIFORM, 0.5)
    np.testing.assert_allclose(pieces.log_sums, at_once.log_sums)
    np.testing.assert_array_equal(pieces.crossed, at_once.crossed)
    assert pieces.crossed.max() > 0
    again = Capital.from_plain(json.loads(json.dumps(pieces.to_plain())), 2, len(UNIFORM))
    np.testing.assert_array_equal(again.log_sums, pieces.log_sums)


def alarmed(draw, reference, new, seed, change=lambda values: values):
    """Whether the capital ever reaches 1 / ALPHA, and when."""
    rng = np.random.default_rng(seed)
    known = Reference.of(draw(rng, reference), 16, rng.random(reference))
    p, _ = known.rank(change(draw(rng, new)), rng.random((new, 2)))
    return Capital.begin(1, len(UNIFORM)).after(p[:, None], UNIFORM, np.log(1 / ALPHA)).crossed[0]


def most(runs):
    return stats.binom.ppf(1 - 1e-6, runs, ALPHA)


def test_false_alarms_are_as_rare_as_promised():
    for law in LAWS.values():
        assert sum(alarmed(law, 40, 400, seed) >= 0 for seed in range(100)) <= most(100)


@pytest.mark.long
def test_false_alarms_over_many_seeds_and_rows():
    for law in LAWS.values():
        assert sum(alarmed(law, 50, 5000, seed) >= 0 for seed in range(2000)) <= most(2000)


@pytest.mark.parametrize(
    "change",
    [lambda x: x + 1.0, lambda x: 2 * x, lambda x: 0.4 * x, lambda x: np.where(np.arange(len(x)) < 400, x, x - 1.0)],
    ids=["shift", "wider", "narrower", "late"],
)
def test_a_planted_drift_is_found(change):
    """Each of twenty runs finds it within 400 rows of its beginning."""
    found = [alarmed(LAWS["normal"], 1000, 800, seed, change) for seed in range(20)]
    assert all(0 <= when < 800 for when in found)


def test_uniform_numbers_do_not_depend_on_how_they_are_asked_for():
    whole = uniform(5, 7, 0, 50)
    np.testing.assert_array_equal(
        np.concatenate([uniform(5, 7, 0, 3), uniform(5, 7, 3, 30), uniform(5, 7, 33, 17)]), whole
    )
    assert stats.kstest(uniform(1, 2, 10**12, 5000), "uniform").pvalue > 1e-6
    assert not np.isin(uniform(5, 8, 0, 50), whole).any()


def test_the_confidence_sequence_holds_at_all_times():
    lower, upper = confidence_sequence(90, 100, 0.05)
    assert lower < 0.9 < upper
    assert confidence_sequence(0, 0, 0.05) == (0.0, 1.0)
    assert confidence_sequence(0, 50, 0.05)[0] == 0.0
    assert confidence_sequence(50, 50, 0.05)[1] == 1.0
    rng = np.random.default_rng(0)
    outside, pointwise = 0, 0
    for _ in range(100):
        hits = np.cumsum(rng.random(400) < 0.9)
        looks = np.array([20, 30, 45, 70, 100, 150, 250, 400])
        ends = np.array([confidence_sequence(hits[n - 1], n, ALPHA) for n in looks])
        outside += np.any((ends[:, 0] > 0.9) | (ends[:, 1] < 0.9))
        pointwise += any(stats.binomtest(int(hits[n - 1]), int(n), 0.9).pvalue < ALPHA for n in looks)
    assert outside <= stats.binom.ppf(1 - 1e-6, 100, ALPHA)
    assert pointwise > stats.binom.ppf(1 - 1e-6, 100, ALPHA)  # broken twin: a test for one look, looked at often


# the whole monitor ---------------------------------------------------------------------------------------------------


def line(x, z, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(slope * x + 0 * z[:, 0], 0.5), obs=y)


def rows(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    inputs = {"x": rng.normal(size=n) + shift, "z": rng.integers(0, 3, size=(n, 2)).astype(float)}
    return inputs, inputs["x"] + 0.5 * rng.normal(size=n)


KNOWN, KNOWN_Y = rows(600, 0)


@pytest.fixture(scope="module")
def predictor():
    draws = 1 + 0.01 * np.random.default_rng(9).normal(size=200)
    return fitted(line, {**KNOWN, "y": KNOWN_Y}, {"slope": draws})


def test_no_alarm_without_a_change(predictor):
    monitor = pi.Monitor(predictor, KNOWN, false_alarm=1e-3)
    status = monitor.update(*rows(500, 1))
    assert status.alarms == ()
    assert (status.rows, status.outcomes) == (500, 500)
    assert status.coverage_lower < 0.9 < status.coverage_upper
    assert [one.name for one in status.watched] == ["x", "z[0]", "z[1]", "epistemic share", "calibration", "coverage"]
    assert status["x"].threshold == pytest.approx(4 * 3 / 1e-3)
    assert "no alarm" in repr(status)
    assert "<table" in status._repr_html_()
    json.dumps(status.to_plain(), allow_nan=False)


def test_what_changed_is_named(predictor):
    monitor = pi.Monitor(predictor, KNOWN)
    inputs, y = rows(400, 2, shift=1.5)
    status = monitor.update(inputs, y)
    assert {alarm.name for alarm in status.alarms} == {"x", "epistemic share"}  # the line goes on: still calibrated
    assert 0 <= status["x"].since < 100
    outcomes = pi.Monitor(predictor, KNOWN)
    inputs, y = rows(400, 3)
    status = outcomes.update(inputs, inputs["x"] + 2 * (y - inputs["x"]))  # twice the noise
    assert {alarm.name for alarm in status.alarms} == {"calibration", "coverage"}
    assert status.coverage_upper < 0.9
    with pytest.raises(KeyError, match="'w' is not watched"):
        status["w"]


def test_state_goes_through_json_and_batches_do_not_matter(predictor):
    inputs, y = rows(90, 4, shift=0.5)
    whole = pi.Monitor(predictor, KNOWN, seed=7)
    whole.update(inputs, y)
    monitor = pi.Monitor(predictor, KNOWN, seed=7)
    for part in (slice(0, 1), slice(1, 40), slice(40, 90)):
        some = {name: values[part] for name, values in inputs.items()}
        said = predictor.predict(some)
        monitor.update(some, prediction=said)
        monitor.update_outcomes(some, y[part])
        monitor = pi.Monitor.from_state(predictor, json.dumps(monitor.state(), allow_nan=False))
    one, two = whole.status, monitor.status
    for a, b in zip(one.watched, two.watched, strict=True):
        assert (a.name, a.since, a.threshold) == (b.name, b.since, b.threshold)
        np.testing.assert_allclose([a.evidence, a.largest], [b.evidence, b.largest], rtol=1e-9)
    assert one.coverage == two.coverage


@pytest.mark.long
def test_classes():
    def coin(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)

    rng = np.random.default_rng(5)
    x = rng.normal(size=800)
    y = (rng.random(800) < 1 / (1 + np.exp(-2 * x))).astype(int)
    binary = fitted(coin, {"x": x, "y": y}, {"slope": np.full(50, 2.0)})
    monitor = pi.Monitor(binary, {"x": x[:400]}, false_alarm=1e-3)
    assert monitor.update({"x": x[400:]}, y[400:]).alarms == ()
    assert "calibration" in {alarm.name for alarm in monitor.update({"x": x[400:]}, 1 - y[400:]).alarms}


def test_no_rows_change_nothing(predictor):
    monitor = pi.Monitor(predictor, {"x": np.linspace(-1.0, 1.0, 40), "z": np.ones((40, 2))})
    monitor.update({"x": [0.1, 0.2], "z": np.ones((2, 2))}, [0.1, 0.3])
    before = json.dumps(monitor.state())
    none = {"x": [], "z": np.ones((0, 2))}
    assert not monitor.update(none, []).alarms
    assert not monitor.update(none).alarms
    assert json.dumps(monitor.state()) == before


def test_a_monitor_shows_what_it_found(predictor):
    monitor = pi.Monitor(predictor, KNOWN)
    assert repr(monitor) == repr(monitor.status)
    assert "<table" in monitor._repr_html_()


def test_bad_input(predictor):
    for call, text in [
        ({"level": 1.0}, "level is 1.0"),
        ({"false_alarm": 0}, "false_alarm is 0"),
    ]:
        with pytest.raises(pi.PredictionError, match=text):
            pi.Monitor(predictor, KNOWN, **call)
    with pytest.raises(pi.PredictionError, match="There are 5 reference rows"):
        pi.Monitor(predictor, {name: values[:5] for name, values in KNOWN.items()})
    monitor = pi.Monitor(predictor, KNOWN)
    before = monitor.state()
    inputs, y = rows(10, 6)
    for wrong_rows, wrong_y in [
        ({"x": inputs["x"]}, None),
        (inputs, y[:-1]),
        ({**inputs, "x": inputs["x"] * np.nan}, y),
    ]:
        with pytest.raises(pi.PredictionError):
            monitor.update(wrong_rows, wrong_y)
    with pytest.raises(pi.PredictionError, match=r"with level 0\.5"):
        monitor.update(inputs, prediction=predictor.predict(inputs, 0.5))
    assert monitor.state() == before  # nothing has changed
    for spoil, text in [
        ({"probinfer_monitor": 2}, "version 2"),
        ({"inputs": {}}, "no state of a monitor"),
        ({"outcome": "w"}, "a predictor of w"),
        ({"seed": None}, "no state of a monitor"),
        ({"columns": {"x": {"edges": [2, 1], "ties": [0, 0], "counts": [1, 1, 1]}}}, "not sorted"),
    ]:
        with pytest.raises(pi.ArtifactError, match=text):
            pi.Monitor.from_state(predictor, {**before, **spoil})
    with pytest.raises(pi.ArtifactError, match=r"no state of a monitor .*; wanted what monitor\.state\(\) gave"):
        pi.Monitor.from_state(predictor, "not json")


def test_the_state_of_another_predictor_is_refused(predictor, tmp_path):
    """One of the same outcome and inputs, but of other draws or another calibration."""
    monitor = pi.Monitor(predictor, KNOWN)
    state = monitor.state()
    predictor.save(tmp_path / "one")
    assert pi.Monitor.from_state(pi.load_predictor(tmp_path / "one"), state).state() == state
    inputs, y = rows(60, 8)
    program = predictor.program
    moved = program.with_draws(lambda name, values: values + 1e-9)
    for other in (predictor.calibrate(inputs, y), predictor.from_program(moved, predictor.about)):
        with pytest.raises(pi.ArtifactError, match=r"another predictor of the same outcome .* Watch it anew"):
            pi.Monitor.from_state(other, state)
        other = other.from_program(other.program, {**other.about, "monitor": state}, other.calibration)
        with pytest.raises(pi.ArtifactError, match="another predictor"):
            pi.Monitor.of(other)
    del state["predictor"]  # as an earlier release wrote it
    assert pi.Monitor.from_state(predictor.calibrate(inputs, y), state).status.rows == 0


@pytest.mark.long
def test_of_a_predictor_with_preprocessing_the_models_inputs_are_watched():
    def model(z, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(slope * z, 1.0), obs=y)

    rng = np.random.default_rng(3)
    raw = {"size": np.exp(rng.normal(size=60)), "price": rng.normal(size=60)}
    inputs = {"z": pi.Column("size", pi.Log(), pi.Standardise())}
    pipeline = pi.Pipeline(model, inputs=inputs, outcome={"y": pi.Column("price")})
    predictor = pi.Predictor(Fit(pipeline, raw, {"slope": rng.normal(size=200)}))
    monitor = pi.Monitor(predictor, {"size": raw["size"]})
    monitor = pi.Monitor.from_state(predictor, monitor.state())
    assert monitor.update({"size": raw["size"]}).alarms == ()
    assert "z" in [alarm.name for alarm in monitor.update({"size": 20 * raw["size"]}).alarms]
