"""NUTS with its defaults agrees with trusted long runs: ten small models always, all 26 when asked for.

The ten references lie in reference/ with their data (posteriordb, BSD 3-clause); the 26 lie beside the repository.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import probinfer as pi
from benchmarks.accuracy import run
from benchmarks.reference.registry import REGISTRY, folder, scalars
from tests.inference.statistics import assert_within_mcse

FALSE_ALARM = 1e-6
SMALL = sorted((Path(__file__).parent / "reference").glob("*.json"))
QUICK = ("eight_schools_noncentered", "garch11")


def assert_agrees(draws, reference, *, total):
    """Mean, and the shares below the reference's 5% and 95% points, of every scalar; draws (chain, draw) by scalar."""
    assert set(reference) <= set(draws)
    for name, trusted in reference.items():
        shared = {"checks": 3 * total, "false_alarm": FALSE_ALARM, "names": name}
        assert_within_mcse(draws[name], trusted["mean"], error=trusted["mcse_mean"], **shared)
        for level, key in ((0.05, "q05"), (0.95, "q95")):
            error = np.sqrt(level * (1 - level) / trusted["ess_bulk"])
            below = (draws[name] <= trusted[key]).astype(float)
            assert_within_mcse(below, level, error=error, **shared)


TOTAL = sum(len(json.loads(path.read_text())["parameters"]) for path in SMALL)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.long, id=path.stem) for path in SMALL],
)
def test_small_reference(path):
    stored = json.loads(path.read_text())
    entry = REGISTRY[stored["name"]]
    model = pi.Model(entry.model, coords=entry.coords, dims=entry.dims)
    posterior = pi.infer(model, entry.prepare(stored["data"]), pi.NUTS(), seed=0, progress=False)
    variables = posterior.tree["posterior"].data_vars
    parameters = {name.split("[")[0] for name in stored["parameters"]}
    draws = scalars({name: variables[name].values for name in parameters}, sample_axes=2)
    assert_agrees(draws, stored["parameters"], total=TOTAL)
    # Not "is GOOD": with some seeds a few divergences make eight schools DOUBTFUL, and a test must not need luck.
    assert posterior.report.verdict is not pi.Verdict.BAD


def test_a_reference_half_a_standard_deviation_off_is_noticed():
    rng = np.random.default_rng(0)
    trusted = {"mean": 0.0, "q05": -1.645, "q95": 1.645, "mcse_mean": 0.01, "ess_bulk": 10_000.0}
    draws = rng.normal(size=(4, 1000))
    assert_agrees({"mu": draws}, {"mu": trusted}, total=TOTAL)
    for wrong in (draws + 0.2, draws * 1.25, draws / 1.25):
        with pytest.raises(AssertionError, match="tolerance"):
            assert_agrees({"mu": wrong}, {"mu": trusted}, total=TOTAL)


@pytest.mark.long
@pytest.mark.skipif(not folder().is_dir(), reason=f"the reference posteriors are not at {folder()}")
@pytest.mark.parametrize("name", REGISTRY)
def test_every_reference_is_matched_or_not_called_good(name):
    result = run(REGISTRY[name], seed=0)
    assert result.matches or result.verdict != "GOOD"
