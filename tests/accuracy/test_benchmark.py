"""The accuracy benchmark's own arithmetic, and how it writes its section of RESULTS.md."""

import numpy as np
import pytest

from benchmarks.accuracy import Result, compare, summary
from benchmarks.reference.registry import scalars
from benchmarks.results import write_section

TRUSTED = {"mu": {"mean": 0.0, "sd": 1.0, "q05": -1.645, "q95": 1.645, "mcse_mean": 0.01}}


def result(draws, verdict="GOOD"):
    columns = compare({"mu": draws}, TRUSTED)
    return Result("toy", 0, verdict, (), **columns, divergences=0, leapfrogs=1000, seconds={})


def test_right_draws_match():
    right = result(np.random.default_rng(0).normal(size=(4, 1000)))
    assert right.succeeds
    assert right.ess[0] > 3000


@pytest.mark.parametrize(("shift", "scale"), [(0.2, 1.0), (0.0, 1.3), (0.0, 0.7), (np.nan, 1.0)])
def test_wrong_draws_do_not_match(shift, scale):
    draws = shift + scale * np.random.default_rng(0).normal(size=(4, 1000))
    assert not result(draws).matches


def test_summary_counts_what_is_wrong_but_called_good():
    rng = np.random.default_rng(0)
    right, wrong = rng.normal(size=(4, 1000)), rng.normal(1.0, size=(4, 1000))
    assert "Wrong but called GOOD: 0" in summary([[result(right)], [result(wrong, "BAD")]])
    text = summary([[result(right), result(wrong)]])
    assert "Wrong but called GOOD: 1" in text
    assert "- toy, seed 0: does not match, verdict GOOD" in text


def test_scalars_are_named_as_the_references_are():
    named = scalars({"beta": np.zeros((4, 10, 2)), "sigma": np.ones((4, 10))}, sample_axes=2)
    assert list(named) == ["beta[1]", "beta[2]", "sigma"]
    assert named["beta[2]"].shape == (4, 10)


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_section("Speed", "fast", path)
    write_section("Accuracy", "first", path)
    write_section("Speed", "faster", path)
    text = path.read_text()
    assert text.startswith("# Results\n")
    assert text.index("## Speed\n\nfaster") < text.index("## Accuracy\n\nfirst")
    assert "fast\n" not in text
