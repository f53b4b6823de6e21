"""Verdicts and findings on runs whose trouble is known because it was put there."""

import re

import numpy as np
import pytest
import xarray as xr

from probinfer.errors import ArtifactError
from probinfer.inference.draws import Outcome
from probinfer.posterior.diagnose import diagnose
from probinfer.posterior.verdict import Finding, Verdict
from tests.posterior.runs import FakeTarget, ar1, good_stats, make_posterior

CHAINS, DRAWS = 4, 1000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def good(rng):
    return rng.normal(size=(CHAINS, DRAWS, 3))


def found(report, pattern) -> Finding:
    """The one finding whose text matches."""
    matches = [finding for finding in report.findings if re.search(pattern, finding.what)]
    assert len(matches) == 1, f"{pattern!r} matches {len(matches)} of:\n{report}"
    return matches[0]


def test_verdicts_are_ordered():
    assert Verdict.GOOD > Verdict.DOUBTFUL > Verdict.BAD
    assert Verdict.GOOD >= Verdict.GOOD
    assert min(Verdict) is Verdict.BAD
    with pytest.raises(TypeError, match="not supported"):
        assert Verdict.GOOD > 1


def test_good_draws_are_good(good, rng):
    report = make_posterior(good, good_stats(rng, CHAINS, DRAWS)).report
    assert report.verdict is Verdict.GOOD
    assert report.findings == ()
    assert report.outcome is Outcome.COMPLETED
    assert str(report).startswith(
        "✓ GOOD: nothing speaks against using these draws\n"
        "NUTS, 4 chains × 1000 draws, 3 parameters, 0.875 s\n"
        "largest R-hat 1.00"
    )


@pytest.mark.long
def test_false_alarms_are_rare():
    """100 runs of 20 independent parameters each: the limits are far outside of what chance does to 4000 draws."""
    rng = np.random.default_rng(1)
    verdicts = [make_posterior(rng.normal(size=(CHAINS, DRAWS, 20))).report.verdict for _ in range(100)]
    assert set(verdicts) == {Verdict.GOOD}


def test_chains_in_different_modes_are_bad(good):
    good[2, :, 1] += 6
    report = make_posterior(good).report
    finding = found(report, "R-hat")
    assert report.verdict is finding.severity is Verdict.BAD
    near_zero, near_six = r"-?0\.\d+(e-\d+)?", r"[56]\.\d+"
    means = f"{near_zero}, {near_zero}, {near_six}, {near_zero}"
    assert re.match(rf"The chains disagree, x\[1\] has the means {means}: ", finding.what)
    assert "above 1.01 for 1 of 3 parameters" in finding.what
    assert finding.where == "x[1]"
    assert finding.value > 1.5
    assert "several modes" in finding.advice


def test_drifting_chains_are_told_from_disagreeing_ones(good):
    good[..., 0] += np.linspace(0, 2, DRAWS)
    finding = found(make_posterior(good).report, "R-hat")
    assert finding.severity is Verdict.BAD
    assert finding.what.startswith("The chains drift")


def test_chains_slightly_apart_are_doubtful(good):
    good[0, :, 0] += 0.6
    finding = found(make_posterior(good).report, "R-hat")
    assert finding.severity is Verdict.DOUBTFUL
    assert 1.01 < finding.value < 1.05
    assert finding.what.startswith("The chains have not quite mixed: R-hat is 1.0")
    assert finding.advice.startswith("Run longer")


@pytest.mark.parametrize(("phi", "severity"), [(0.95, Verdict.DOUBTFUL), (0.995, Verdict.BAD)])
def test_slow_chains_have_too_few_effective_draws(rng, phi, severity):
    """Exactly 4000 (1 - phi) / (1 + phi) effective draws: 103 and 10; 400 are needed, below 100 is BAD for a fact.

    The estimate at 103 has a relative sd of a fifth, so 2000 draws are taken there: 205 of 400.
    """
    draws = 2 * DRAWS if severity is Verdict.DOUBTFUL else DRAWS
    report = make_posterior(np.moveaxis(ar1(rng, (CHAINS, 1, draws), phi), 1, 2)).report
    finding = found(report, "too few effective draws")
    assert finding.severity is severity
    assert "400 are needed" in finding.what
    assert finding.where == "x[0]"


def test_advice_names_the_number_of_draws_that_would_do(rng):
    x = np.moveaxis(ar1(rng, (CHAINS, 1, 2 * DRAWS), 0.95), 1, 2)
    finding = found(make_posterior(x).report, "too few effective draws")
    advised = int(re.search(r"about (\d+) draws per chain", finding.advice).group(1))
    assert advised * finding.value / (2 * DRAWS) == pytest.approx(1.2 * 400, rel=0.05)


def test_a_tail_that_is_not_explored_is_found(rng):
    """Rare long excursions: the bulk mixes at once, the tail does not."""
    x = rng.normal(size=(CHAINS, DRAWS, 1))
    x[1, 400:480] = x[3, 700:780] = 5.0 + 0.1 * rng.normal(size=(80, 1))
    finding = found(make_posterior(x).report, "too few effective draws")
    assert "in the tail" in finding.what


def funnel(rng, chains=CHAINS, draws=DRAWS):
    tau = np.exp(rng.normal(size=(chains, draws)))
    return np.stack([rng.normal(size=(chains, draws)), tau, tau * rng.normal(size=(chains, draws))], axis=-1)


FUNNEL = FakeTarget({"mu": (), "tau": (), "theta": (1,)}, dims={"theta": ["school"]}, coords={"school": ["Choate"]})


def test_divergences_are_located(rng):
    x = funnel(rng)
    stats = good_stats(rng, CHAINS, DRAWS)
    low = np.argwhere(x[..., 1] < np.quantile(x[..., 1], 0.1))
    for chain, draw in rng.permutation(low)[:31]:
        stats["diverging"][chain, draw] = True
    report = make_posterior(x, stats, FUNNEL).report
    finding = found(report, "diverged")
    assert report.verdict is finding.severity is Verdict.DOUBTFUL
    assert re.match(r"31 of 4000 draws diverged, concentrated where tau < 0\.\d+ \(\d+% of the divergent", finding.what)
    assert finding.where.startswith("tau < 0.")
    threshold = float(finding.where.removeprefix("tau < "))
    assert np.max(x[..., 1][stats["diverging"]]) <= threshold * 1.01
    assert "target_accept from 0.8 to 0.95" in finding.advice
    assert finding.value == 31 / 4000


def test_divergences_on_the_upper_side_are_located_too(rng):
    x = funnel(rng)
    stats = good_stats(rng, CHAINS, DRAWS)
    stats["diverging"] = x[..., 2] > np.quantile(x[..., 2], 0.995)
    assert found(make_posterior(x, stats, FUNNEL).report, "diverged").where.startswith("theta[school=Choate] > ")


def test_divergences_at_random_are_not_given_a_place():
    """At p < 1e-4 over 3 parameters, 50 runs find a place that is not there with probability 0.005."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        x, stats = funnel(rng), good_stats(rng, CHAINS, DRAWS)
        stats["diverging"].flat[rng.permutation(CHAINS * DRAWS)[:31]] = True
        finding = found(make_posterior(x, stats, FUNNEL).report, "diverged")
        assert finding.what == "31 of 4000 draws diverged"
        assert finding.where.startswith("spread over the posterior")


@pytest.mark.parametrize(
    ("count", "severity"),
    [(1, Verdict.GOOD), (10, Verdict.GOOD), (11, Verdict.DOUBTFUL), (40, Verdict.DOUBTFUL), (41, Verdict.BAD)],
)
def test_any_divergence_is_reported_and_graded_by_its_share(good, rng, count, severity):
    stats = good_stats(rng, CHAINS, DRAWS)
    stats["diverging"].flat[rng.permutation(CHAINS * DRAWS)[:count]] = True
    report = make_posterior(good, stats).report
    assert found(report, "diverged").severity is severity
    assert report.verdict is severity


def test_saturated_trees_are_doubtful(good, rng):
    stats = good_stats(rng, CHAINS, DRAWS)
    stats["reached_max_treedepth"][2, :300] = True
    finding = found(make_posterior(good, stats).report, "tree depth")
    assert finding.severity is Verdict.DOUBTFUL
    assert finding.what == "8% of the trajectories were cut off by the tree depth limit of 10"
    assert finding.where == "chain 2"
    assert "max_tree_depth=12" in finding.advice
    stats["reached_max_treedepth"][2, 150:] = False
    assert make_posterior(good, stats).report.verdict is Verdict.GOOD


def test_slow_energy_is_doubtful(good, rng):
    stats = good_stats(rng, CHAINS, DRAWS)
    stats["energy"][1] = ar1(rng, (DRAWS,), 0.95)
    finding = found(make_posterior(good, stats).report, "E-BFMI")
    assert finding.severity is Verdict.DOUBTFUL
    assert re.fullmatch(r"chain 1 \(0\.\d\d\)", finding.where)
    assert finding.value < 0.3


def test_a_chain_that_never_moved_is_bad(good, rng):
    good[3] = good[3, 0]
    report = make_posterior(good, good_stats(rng, CHAINS, DRAWS)).report
    finding = found(report, "never moved")
    assert report.verdict is finding.severity is Verdict.BAD
    assert finding.what == "1 of 4 chains never moved: all their draws are the same"
    assert finding.where == "chain 3"


@pytest.mark.parametrize("chains", [1, 4])
def test_no_chain_moved_from_a_common_start(chains):
    report = make_posterior(np.full((chains, 50, 2), 0.5)).report
    assert report.verdict is Verdict.BAD
    assert found(report, "never moved").where == "chain " + ", ".join(map(str, range(chains)))


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("chains", [1, 4])
def test_entries_that_are_constant_by_nature_do_not_count(rng, chains, value):
    """The upper triangle of a Cholesky factor, the diagonal of a correlation matrix."""
    target = FakeTarget({"L": (2, 2)}, pinned={("L", 0, 1): value})
    report = make_posterior(rng.normal(size=(chains, DRAWS, 4)), target=target).report
    assert report.verdict is (Verdict.GOOD if chains == 4 else Verdict.DOUBTFUL)
    assert np.isnan(report.table.loc["L[0, 1]", "r_hat"])
    assert report.table.loc["L[0, 1]", "mean"] == value


def test_rounding_errors_of_a_constant_are_not_judged(rng):
    """L @ L.T has ones on its diagonal give or take an ulp; chains of such errors disagree as they like."""
    for dtype, eps in ((np.float64, 2.2e-16), (np.float32, 1.2e-7)):
        tree = make_posterior(rng.normal(size=(CHAINS, DRAWS, 2)), target=FakeTarget({"x": (2,)}, double=True)).tree
        rounding = np.where(rng.random((CHAINS, DRAWS, 2)) < np.array([0.1, 0.5, 0.9, 0.5])[:, None, None], eps, 0.0)
        tree["posterior"]["twice_x"] = tree["posterior"]["twice_x"].copy(data=(1 + rounding).astype(dtype))
        report = diagnose(tree)
        assert report.verdict is Verdict.GOOD
        assert np.isnan(report.table.loc["twice_x[0]", "r_hat"])


@pytest.mark.parametrize("pinned", [{("x", 1): 0.37}, {("tau",): 0.0}], ids=["entry", "scalar"])
def test_a_parameter_that_was_never_updated_is_bad(rng, pinned):
    target = FakeTarget({"x": (3,), "tau": ()}, pinned=pinned)
    report = make_posterior(rng.normal(size=(CHAINS, DRAWS, 4)), target=target).report
    finding = found(report, "the same value, for 1 parameter")
    assert report.verdict is finding.severity is Verdict.BAD
    assert finding.where == ("x[1]" if ("x", 1) in pinned else "tau")


def test_a_discrete_parameter_may_be_certain(rng):
    tree = make_posterior(rng.normal(size=(CHAINS, DRAWS, 2))).tree
    tree["posterior"]["z"] = xr.DataArray(np.full((CHAINS, DRAWS), 3), dims=("chain", "draw"))
    assert diagnose(tree).verdict is Verdict.GOOD


def test_a_constant_deterministic_site_is_no_trouble(rng):
    target = FakeTarget({"x": (2,)}, double=True, pinned={})
    tree = make_posterior(rng.normal(size=(CHAINS, DRAWS, 2)), target=target).tree
    tree["posterior"]["twice_x"][:] = 4.2
    assert diagnose(tree).verdict is Verdict.GOOD


def test_draws_that_are_not_finite_are_bad(good):
    good[0, 5:8, 2] = np.nan
    report = make_posterior(good).report
    finding = found(report, "not finite")
    assert report.verdict is finding.severity is Verdict.BAD
    assert finding.what == "3 draws or fewer are not finite numbers, in each of 1 parameter"
    assert finding.where == "x[2]"


def test_deterministic_values_that_are_not_finite_are_doubtful(good):
    tree = make_posterior(good, target=FakeTarget({"x": (3,)}, double=True)).tree
    tree["posterior"]["twice_x"][0, 0, 0] = np.inf
    report = diagnose(tree)
    assert report.verdict is Verdict.DOUBTFUL
    assert found(report, "not finite").where == "twice_x[0]"


def test_an_interrupted_run_with_enough_draws_is_good(good):
    report = make_posterior(good, outcome=Outcome.INTERRUPTED, settings={"draws": 5000}).report
    assert report.outcome is Outcome.INTERRUPTED
    assert report.verdict is Verdict.GOOD
    assert found(report, "interrupted").what == "The run was interrupted after 1000 of 5000 draws per chain"


def test_an_interrupted_run_with_too_few_draws_is_not_good(good):
    report = make_posterior(good[:, :60], outcome=Outcome.INTERRUPTED, settings={"draws": 5000}).report
    assert report.verdict < Verdict.GOOD
    assert found(report, "interrupted").what == "The run was interrupted after 60 of 5000 draws per chain"
    assert found(report, "too few effective draws").severity < Verdict.GOOD


@pytest.mark.parametrize("draws", range(4))
@pytest.mark.parametrize("chains", [1, 4])
def test_hardly_any_draws_are_bad(rng, chains, draws):
    stats = good_stats(rng, chains, draws)
    report = make_posterior(rng.normal(size=(chains, draws, 2)), stats, outcome=Outcome.INTERRUPTED).report
    assert report.verdict is Verdict.BAD
    assert found(report, "too few to say anything").what.startswith(f"There are {draws} draws per chain")
    assert "interrupted" in str(report)


def test_one_chain_cannot_be_good(good):
    report = make_posterior(good[:1]).report
    assert report.verdict is Verdict.DOUBTFUL
    assert "cannot show several modes" in found(report, "one chain").what
    assert report.table["r_hat"].max() < 1.01


def test_independent_draws_are_as_good_as_their_source(rng):
    x = rng.normal(size=(1000, 2))
    exact = make_posterior(x, attrs={"exact": True}).report
    assert exact.verdict is Verdict.GOOD
    assert (exact.table["ess_bulk"] == 1000).all()
    assert exact.table["r_hat"].isna().all()
    assert make_posterior(x, attrs={"pareto_khat": 0.3}).report.verdict is Verdict.GOOD
    assert make_posterior(x, attrs={"pareto_khat": 0.6}).report.verdict is Verdict.DOUBTFUL
    assert make_posterior(x, attrs={"pareto_khat": 0.9}).report.verdict is Verdict.BAD
    assert make_posterior(x, attrs={"pareto_khat": float("nan")}).report.verdict is Verdict.BAD
    unknown = make_posterior(x).report
    assert unknown.verdict is Verdict.DOUBTFUL
    assert "nothing tells how close" in str(unknown)
    assert make_posterior(x[:20], attrs={"exact": True}).report.verdict is Verdict.BAD


def test_findings_are_sorted_and_the_worst_decides(good, rng):
    good[2, :, 1] += 6
    stats = good_stats(rng, CHAINS, DRAWS)
    stats["diverging"][0, 0] = True
    stats["reached_max_treedepth"][:, :200] = True
    report = make_posterior(good, stats).report
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities)
    assert report.verdict is severities[0]
    text = str(report)
    assert text.startswith("✗ BAD: do not use these draws")
    assert text.count("  do:    ") == len(report.findings)


def test_labels_name_coordinates(good):
    target = FakeTarget({"alpha": (3,)}, dims={"alpha": ["county"]}, coords={"county": ["AITKIN", "ANOKA", "HENNEPIN"]})
    good[0, :, 2] += 6
    report = make_posterior(good, target=target).report
    assert found(report, "R-hat").where == "alpha[county=HENNEPIN]"
    assert report.table.index.tolist() == ["alpha[county=AITKIN]", "alpha[county=ANOKA]", "alpha[county=HENNEPIN]"]


def test_many_parameters_in_trouble_make_one_finding(rng):
    x = rng.normal(size=(CHAINS, 300, 90))
    x[1] += 3
    x[1, :, 17] += 3
    finding = found(make_posterior(x).report, "R-hat")
    assert finding.where.startswith("x[17], ")
    assert finding.where.endswith(" and 87 more")


def test_thousands_of_deterministic_values_are_left_out_of_the_verdict(rng):
    x = rng.normal(size=(2, 50, 2001))
    posterior = make_posterior(x, target=FakeTarget({"x": (2001,)}, double=True))
    assert posterior.report.evidence.entries == 2001
    assert diagnose(posterior.tree).evidence.entries == 2001
    assert "twice_x" in posterior.tree["posterior"].data_vars


def test_fresh_draws_and_their_tree_are_judged_alike(rng):
    x = funnel(rng)
    x[2, :, 0] += 1
    stats = good_stats(rng, CHAINS, DRAWS)
    stats["diverging"] = x[..., 1] < 0.1
    posterior = make_posterior(x, stats, FUNNEL)
    fresh, stored = posterior.report, diagnose(posterior.tree)
    assert str(fresh) == str(stored)
    assert fresh.findings == stored.findings
    assert fresh.table.equals(stored.table)


def test_a_tree_made_by_arviz_is_judged():
    import arviz_base

    x = np.random.default_rng(3).normal(size=(4, 500, 2))
    report = diagnose(arviz_base.from_dict({"posterior": {"theta": x}}))
    assert report.verdict is Verdict.GOOD
    assert report.table.index.tolist() == ["theta[0]", "theta[1]"]


def test_a_tree_without_draws_is_refused():
    with pytest.raises(ArtifactError, match="no group 'posterior', only prior"):
        diagnose(xr.DataTree.from_dict({"prior": xr.Dataset({"x": 1.0})}))
    with pytest.raises(ArtifactError, match="has the dimensions time; draws need"):
        diagnose(xr.DataTree.from_dict({"posterior": xr.Dataset({"x": ("time", [1.0])})}))


def test_the_table_has_the_numbers(good):
    table = make_posterior(good).report.table
    assert list(table.columns) == ["mean", "sd", "ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd"]
    np.testing.assert_allclose(table["mean"], good.mean(axis=(0, 1)))


def test_html_is_escaped_and_has_everything(good):
    good[0, :, 0] += 6
    target = FakeTarget({"x": (3,)}, dims={"x": ["<b>"]}, coords={"<b>": ["<script>", "&", "ok"]})
    html = make_posterior(good, target=target).report._repr_html_()
    assert "<script>" not in html
    assert "x[&lt;b&gt;=&lt;script&gt;]" in html
    assert "✗ BAD" in html
    assert "several modes" in html
