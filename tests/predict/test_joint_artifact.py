"""Several outcomes in one folder: the same numbers in another process, and nothing used that is not of one piece."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist

import probinfer as pi
from probinfer.predict import artifact
from tests.predict import models as m
from tests.predict.fits import Fit
from tests.predict.test_artifact import replace_file, rewrite

ROWS = {"x": m.x[:4]}
NAMES = ["height", "ill"]


def persons(x, height=None, ill=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    shift = numpyro.sample("shift", dist.Normal(0, 1))
    numpyro.sample("height", dist.Normal(slope * x, 1.0), obs=height)
    numpyro.sample("ill", dist.Bernoulli(logits=slope * x + shift), obs=ill)


def fit(**more):
    latents = {"slope": m.LINE["slope"], "shift": m.draws(2)[:, 1]}
    data = {"x": m.x, "height": m.y, "ill": (m.y > 0).astype(int)}
    return Fit(pi.Model(persons), data, latents, chains=4, attrs={"seed": 7}, **more)


@pytest.fixture(scope="module")
def joint():
    findings = (pi.posterior.verdict.Finding("few draws", "slope", pi.Verdict.GOOD, "nothing", float("nan")),)
    joint = pi.Predictor(fit(findings=findings), outcome=NAMES)
    return joint.calibrate({"x": m.x + 9.0}, {"height": m.y})


@pytest.fixture(scope="module")
def saved(joint, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "predictor"
    joint.save(path)
    return path


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "predictor"))


def refused(folder, match):
    with pytest.raises(pi.ArtifactError, match=match):
        pi.load_predictor(folder)


# the same numbers ----------------------------------------------------------------------------------------------------

IN_A_NEW_PROCESS = """
import sys, numpy as np, probinfer
predictor = probinfer.load_predictor(sys.argv[1])
rows = {"x": np.load(sys.argv[2])}
columns = predictor.predict(rows).columns()
np.savez(sys.argv[3], **columns, **{f"draws of {name}": values for name, values in predictor.sample(rows, 3).items()})
assert "numpyro" not in sys.modules
"""


def test_a_loaded_predictor_gives_the_same_numbers(joint, saved):
    here, there = (each.predict(ROWS).columns() for each in (joint, pi.load_predictor(saved)))
    assert set(there) == set(here)
    for name, values in here.items():
        np.testing.assert_array_equal(there[name], values)


@pytest.mark.long
def test_a_loaded_predictor_gives_the_same_numbers_in_a_new_process(joint, saved, tmp_path):
    np.save(tmp_path / "x.npy", ROWS["x"])
    files = [str(saved), str(tmp_path / "x.npy"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, *files], check=True, timeout=300)
    expected = {**joint.predict(ROWS).columns(), **{f"draws of {n}": v for n, v in joint.sample(ROWS, 3).items()}}
    with np.load(files[2]) as there:
        assert set(there) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(there[name], values)


def test_what_outcomes_share_is_stored_once(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["format_version"] == 7
    height, ill = manifest["parts"]
    assert height["draws"] == {"slope": "0-draws-0.npy"}
    assert ill["draws"] == {"slope": "0-draws-0.npy", "shift": "1-draws-1.npy"}
    assert "calibration" in height
    assert "calibration" not in ill
    assert pi.load_predictor(saved).about == manifest["about"]
    assert "training" in height["about"]


def test_a_part_from_a_file_goes_with_one_that_never_was_in_one(joint, saved):
    """A file has words for numbers that are none."""
    both = pi.JointPredictor.of({"height": joint["height"], "ill": pi.load_predictor(saved)["ill"]})
    assert both.outcomes == tuple(NAMES)


def test_one_outcome_is_saved_as_ever(joint, tmp_path):
    joint["ill"].save(tmp_path / "predictor")
    assert json.loads((tmp_path / "predictor" / "manifest.json").read_text())["format_version"] == 1
    assert isinstance(pi.load_predictor(tmp_path / "predictor"), pi.Predictor)


def test_the_card(saved):
    text = artifact.card(saved)
    for part in ("outcomes  2, from the same posterior draws", "200 (4 chains)", "GOOD", "few draws", "seed: 7"):
        assert part in text
    for part in ("height ~ Normal", "ill ~ Bernoulli", "calibrated", "x: float64", "1-parameters.jaxexport", "sha-256"):
        assert part in text


# not what was saved --------------------------------------------------------------------------------------------------


def test_a_changed_file(folder):
    (folder / "0-draws-0.npy").write_bytes(b"x" * (folder / "0-draws-0.npy").stat().st_size)
    refused(folder, "0-draws-0.npy is damaged or was changed")


def test_a_changed_manifest(folder):
    rewrite(folder, lambda manifest: manifest["parts"].reverse(), seal=False)
    refused(folder, "is damaged or was changed: its content has another SHA-256")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda manifest: manifest["parts"][0].pop("inputs"), "'inputs' is missing or no list"),
        (lambda manifest: manifest["parts"].append(7), "a part of it is 7"),
        (lambda manifest: manifest["parts"].append(manifest["parts"][0]), "describes the outcome 'height' twice"),
        (lambda manifest: manifest["parts"].clear(), "describes no outcome"),
        (lambda manifest: manifest.update(parts={}), "'parts' is missing or no list"),
        (lambda manifest: manifest.update(format_version=99), "format version 99; this probinfer .* reads up to "),
        (lambda manifest: manifest["parts"][1].update(size=100), "do not have the 100 draws"),
        (lambda manifest: manifest["parts"][1].update(chains=2), "do not have the same posterior draws"),
        (
            lambda manifest: manifest["parts"][1]["draws"].update(slope="1-draws-1.npy"),
            "do not have the same posterior",
        ),
        (
            lambda manifest: manifest["parts"][1]["draws"].update(slope="other.npy"),
            "refers to other.npy, which are not",
        ),
        (lambda manifest: manifest["parts"][1]["programs"].update(parameters="0-parameters.jaxexport"), "parameters"),
        (lambda manifest: manifest["parts"][0].update(outcome={}), "is malformed: KeyError"),
        (lambda manifest: manifest["parts"][1]["draws"].update(slope=["0-draws-0.npy"]), "is malformed: TypeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_that_are_not_of_one_piece(folder, change, match):
    rewrite(folder, change)
    refused(folder, match)


def test_a_manifest_without_parts_has_no_card(folder):
    rewrite(folder, lambda manifest: manifest["parts"].clear())
    with pytest.raises(pi.ArtifactError, match="describes no outcome"):
        artifact.card(folder)


def test_a_file_that_holds_no_program(folder):
    replace_file(folder, "1-parameters.jaxexport", b"")
    refused(folder, "a file holds no program")


def test_a_joint_predictor_replaces_a_single_one_and_the_other_way_round(joint, saved, tmp_path):
    path = tmp_path / "predictor"
    for predictor, kind in ((joint, pi.JointPredictor), (joint["ill"], pi.Predictor), (joint, pi.JointPredictor)):
        predictor.save(path)
        assert type(pi.load_predictor(path)) is kind


# compressed ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_all_outcomes_are_compressed_to_the_same_draws(tmp_path):
    joint = pi.Predictor(fit(), outcome=NAMES)
    rows = {"x": np.linspace(-2.0, 2.0, 91)}
    small = joint.compress(rows, 0.05)
    height, ill = (small[name].program for name in NAMES)
    assert height.size == ill.size < 100
    np.testing.assert_array_equal(height.weights.values, ill.weights.values)
    np.testing.assert_array_equal(height.draws["slope"], ill.draws["slope"])
    full, few = joint.predict(rows), small.predict(rows)
    for name in NAMES:
        assert small[name].compression.error <= 0.05
        np.testing.assert_allclose(few[name].mean, full[name].mean, atol=0.05 * full[name].sd.max())
    small.save(tmp_path / "small")
    loaded = pi.load_predictor(tmp_path / "small")
    np.testing.assert_array_equal(loaded.sample(ROWS, 9)["ill"], small.sample(ROWS, 9)["ill"])
    assert (tmp_path / "small" / "0-weights.npy").exists()
    assert not (tmp_path / "small" / "1-weights.npy").exists()
    with pytest.raises(pi.PredictionError, match="compressed already"):
        small.compress(rows)
    # each for itself would not share its draws: the broken twin
    apart = {name: joint[name].compress(rows, 0.05) for name in NAMES}
    with pytest.raises(pi.PredictionError, match="do not have the same posterior draws"):
        pi.JointPredictor.of(apart)
