"""Stop rules: they stop where they say, at the same draw on every machine, and say what they did not reach."""

import json
import re

import numpy as np
import pytest

import probinfer as pi
from probinfer.inference import until as until_module
from probinfer.inference.convergence import convergence
from probinfer.inference.mcmc import chains
from probinfer.inference.until import Look, look_at
from tests.inference.models import EIGHT_SCHOOLS, eight_schools

METHOD = pi.NUTS(chains=2, draws=200, warmup=200)


def run(until, method=METHOD, **options):
    return pi.infer(eight_schools, EIGHT_SCHOOLS, method, until=until, progress=False, **options)


def stopping(posterior):
    return json.loads(posterior.tree.attrs["until"])


def unconstrained(posterior):
    draws = posterior.tree["posterior"].dataset
    columns = [draws["mu"].values, np.log(draws["tau"].values), *np.moveaxis(draws["z"].values, -1, 0)]
    return np.stack(columns)


def test_stops_when_the_draws_are_good_enough_and_not_a_look_later():
    until = pi.Until(ess=300, rhat=1.02)
    posterior = run(until)
    numbers = convergence(unconstrained(posterior))
    ess = np.minimum(numbers.ess_bulk, numbers.ess_tail).min()
    assert ess >= 300
    assert numbers.r_hat.max() <= 1.02
    seen = stopping(posterior)
    assert seen["met"]
    assert seen["draws"] == posterior.tree["posterior"].sizes["draw"] < 2000
    np.testing.assert_allclose(seen["ess"], ess, rtol=1e-9)
    np.testing.assert_allclose(seen["rhat"], numbers.r_hat.max(), rtol=1e-9)
    assert posterior.report.outcome is pi.Outcome.COMPLETED


def test_draws_are_the_first_ones_of_a_run_without_a_rule():
    stopped = run(pi.Until(ess=300)).tree["posterior"]["z"].values
    longer = run(None, pi.NUTS(chains=2, draws=1000, warmup=200)).tree["posterior"]["z"].values
    np.testing.assert_array_equal(stopped, longer[:, : stopped.shape[1]])


def test_the_machine_does_not_decide_where_to_stop(monkeypatch):
    expected = run(pi.Until(ess=300, rhat=1.05)).tree["posterior"]["z"].values
    monkeypatch.setattr(chains, "_cores", lambda: 1)
    monkeypatch.setattr(chains, "_PAUSE", 1e-9)
    monkeypatch.setattr(chains, "_PATIENCE", 7)
    np.testing.assert_array_equal(run(pi.Until(ess=300, rhat=1.05)).tree["posterior"]["z"].values, expected)


@pytest.mark.parametrize(
    ("until", "draws", "reason"),
    [
        (pi.Until(ess=1e9), 2000, "wanted 1e+09, when all 2000 draws per chain were made"),
        (pi.Until(rhat=1.0000001, draws=150), 150, "wanted 1, when all 150 draws per chain were made"),
        (pi.Until(ess=1e9, seconds=1e-6), 100, "wanted 1e+09, when the 1e-06 seconds were over"),
    ],
)
def test_a_goal_out_of_reach_ends_at_the_budget_and_the_verdict_says_so(until, draws, reason):
    posterior = run(until)
    assert posterior.tree["posterior"].sizes["draw"] == draws
    assert posterior.report.outcome is pi.Outcome.OUT_OF_BUDGET
    assert posterior.report.verdict is not pi.Verdict.GOOD
    assert not stopping(posterior)["met"]
    assert reason in stopping(posterior)["reason"]
    assert reason in str(posterior.report)


@pytest.mark.parametrize(("until", "draws"), [(pi.Until(ess=1, min_draws=300), 300), (pi.Until(ess=1), 100)])
def test_the_least_number_of_draws_is_made_in_any_case(until, draws):
    posterior = run(until, pi.NUTS(chains=2, draws=5, warmup=200))
    assert posterior.tree["posterior"].sizes["draw"] == draws


def test_numbers_of_numpy_are_kept_with_the_posterior():
    rule = stopping(run(pi.Until(ess=np.float32(1), draws=np.int64(150))))["rule"]
    assert (rule["ess"], rule["draws"]) == (1.0, 150)


def test_a_budget_without_a_goal_is_spent_and_nothing_is_missed():
    posterior = run(pi.Until(draws=120))
    assert posterior.tree["posterior"].sizes["draw"] == 120
    assert posterior.report.outcome is pi.Outcome.COMPLETED
    seconds = run(pi.Until(seconds=1e-6))
    assert seconds.tree["posterior"].sizes["draw"] == 100
    assert seconds.report.outcome is pi.Outcome.COMPLETED


def test_time_ends_a_run_between_looks():
    posterior = run(pi.Until(ess=1e12, seconds=0.3, draws=10**8))
    assert posterior.report.outcome is pi.Outcome.OUT_OF_BUDGET
    assert 100 <= posterior.tree["posterior"].sizes["draw"] < 10**8


def test_the_rule_is_kept_with_the_posterior(tmp_path):
    posterior = run(pi.Until(ess=1e9, draws=150))
    posterior.save(tmp_path / "posterior.nc")
    again = pi.load_posterior(tmp_path / "posterior.nc")
    assert stopping(again) == stopping(posterior)
    assert again.report.outcome is pi.Outcome.OUT_OF_BUDGET
    assert str(again.report) == str(posterior.report)


def test_a_coordinate_that_never_moves_reaches_no_goal():
    until = pi.Until(ess=10, rhat=1.5)
    look = look_at(np.stack([np.ones((2, 200)), np.random.default_rng(0).normal(size=(2, 200))], axis=-1))
    assert not until.met(look)
    assert until.next_look(look, 10_000, chains=2) > 200
    assert until.missed(look) == "ESS nan, wanted 10 and R-hat nan, wanted 1.5"


def test_a_look_is_no_longer_than_it_takes(monkeypatch):
    """At the slowest coordinate alone where that misses, without the ESS where the rule has none; whole at the end."""
    draws = np.random.default_rng(1).normal(size=(4, 200, 30))
    draws[..., 7] = draws[..., 7].cumsum(axis=1)
    seen = []

    def watched(positions, superchains, **settings):
        seen.append((positions.shape[-1], settings.get("sizes", True)))
        return look_at(positions, superchains, **settings)

    monkeypatch.setattr(until_module, "look_at", watched)
    whole = look_at(draws)
    for rule, last, kinds in (
        (pi.Until(ess=400), False, [(1, True)]),
        (pi.Until(rhat=1.01), False, [(1, False)]),
        (pi.Until(rhat=1.01), True, [(4, True)]),
        (pi.Until(ess=1, rhat=9), False, [(1, True), (4, True), (30, True)]),
    ):
        seen.clear()
        look = rule.look(draws, last=last)
        assert seen == kinds
        assert look.short == (len(kinds) == 1)
        assert look.rhat == whole.rhat
        assert look.ess == pytest.approx(whole.ess) or not kinds[-1][1]


def test_a_look_comes_when_the_goal_may_be_near():
    seen = Look(draws=200, ess=200.0, rhat=1.02)
    assert pi.Until(ess=400).next_look(seen, 10_000, chains=4) in (440, 441)  # 1.1 times what it promises
    assert pi.Until(rhat=1.01).next_look(seen, 10_000, chains=4) in (440, 441)
    assert pi.Until(ess=400, rhat=1.005).next_look(seen, 10_000, chains=4) == 600  # three times as many at most
    assert pi.Until(ess=190, rhat=1.03).next_look(seen, 10_000, chains=4) == 240  # and not at once
    assert pi.Until(ess=400).next_look(seen, 300, chains=4) == 300


@pytest.mark.parametrize("goal", [400, 4_000, 50_000])
def test_no_look_is_left_out_that_could_have_met_the_goal(goal):
    first = pi.Until(ess=goal).next_look(None, 10**9, chains=4)
    fewer = 4 * (first - 1)
    assert first == 100 or fewer * np.log10(fewer) < goal  # the largest ESS that is ever said of so many draws
    assert first > 100 or goal < 4_000


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "nothing to stop at; wanted ess, rhat, seconds or draws"),
        ({"ess": 0}, "ess is 0; wanted a number above 0, such as 400"),
        ({"ess": float("nan")}, "ess is nan; wanted a number above 0"),
        ({"rhat": 1}, "rhat is 1; wanted a number above 1, such as 1.01"),
        ({"seconds": -3}, "seconds is -3; wanted a number above 0"),
        ({"seconds": "60"}, "seconds is '60'; wanted"),
        ({"draws": 0}, "draws is 0; wanted a whole number, 1 or more"),
        ({"draws": 1.5}, "draws is 1.5; wanted a whole number"),
        ({"ess": 400, "min_draws": 3}, "min_draws is 3; wanted a whole number, 4 or more"),
        ({"ess": 400, "min_draws": None}, "min_draws is None; wanted"),
        ({"ess": 400, "draws": 50}, "draws is 50, less than min_draws, 100"),
    ],
)
def test_rules_are_checked_at_construction(settings, text):
    with pytest.raises(pi.MethodError, match=re.escape(text)):
        pi.Until(**settings)


def test_what_is_no_rule():
    with pytest.raises(pi.MethodError, match="until came as 400; wanted a rule such as"):
        run(400)
