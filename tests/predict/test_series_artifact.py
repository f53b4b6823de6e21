"""A forecaster's folder: nothing is used that is damaged, or not of one piece."""

import io
import shutil

import numpy as np
import numpyro.distributions as dist
import pytest

import probinfer as pi
from tests.predict.fits import Fit
from tests.predict.test_artifact import replace_file, rewrite


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = pi.StateSpace(
        initial=lambda params: dist.Normal(0.0, 1.0),
        transition=lambda x, t, params: dist.Normal(x, params["sd"]),
        observation=lambda x, t, params: dist.Normal(x, 1.0),
        prior={"sd": dist.HalfNormal(1.0)},
    )
    folder = tmp_path_factory.mktemp("forecaster") / "f"
    pi.Forecaster(Fit(model, np.array([0.3, -0.2, 1.0]), {"sd": np.linspace(0.5, 1.0, 6)}), particles=10).save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(saved, tmp_path / "f")


def refused(folder, text):
    with pytest.raises(pi.ArtifactError, match=text):
        pi.load_predictor(folder)


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_as_it_was_saved_it_is_read(folder):
    assert pi.load_predictor(folder).time == 3


@pytest.mark.parametrize("name", ["states-particles.npy", "states-draws.npy", "move.jaxexport", "draws-0.npy"])
def test_a_changed_byte(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    refused(folder, f"{name} is damaged or was changed")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time", 0),
        ("time", True),
        ("fitted", 0),
        ("fitted", 4),
        ("state", [0]),
        ("kinds", ["float64"]),
        ("kinds", ["float64", "object"]),
        ("apart", 1),
        ("horizon", 0),
        ("words", [1, 2**32]),
        ("words", [1, -1]),
        ("ess", "many"),
        ("worst", -1),
    ],
)
def test_a_series_of_another_form(folder, key, value):
    rewrite(folder, lambda manifest: manifest["series"].update({key: value}))
    refused(folder, f"{key} is ")


CHANGES = [
    (lambda m: m["series"].pop("time"), "malformed"),
    (lambda m: m.update(format_version=99), "format version 99; this probinfer .* reads up to "),
    (lambda m: m.update(size=5), "not those of 5 draws"),
    (lambda m: m["series"].update(state=[2]), "not those of 6 draws"),
    (lambda m: m["series"].update(kinds=["float64", "int64"]), "not those of 6 draws"),
    (lambda m: m["series"].update(kinds=["int64", "float64"]), "'weigh' do not belong together"),
    (lambda m: m["outcome"].update(event=[2]), "do not belong together"),
    (lambda m: m["outcome"].update(family="Gumbel", discrete=False), None),
    (lambda m: m["outcome"].update(family="Exponential"), "'parameters' do not belong together"),
    (lambda m: m["outcome"].update(family="none such"), "the family of the observations is 'none such'"),
    (lambda m: m["outcome"].update(family="Poisson"), "does not go with Poisson"),
    (lambda m: m["programs"].pop("weigh"), "wanted move, parameters, sample, weigh"),
    (lambda m: m["programs"].update(move="weigh.jaxexport"), "do not belong together"),
    (lambda m: m["states"].pop("log_weights"), "not those of 6 draws"),
    (lambda m: m["states"].update(particles="other.npy"), "refers to other.npy"),
    (lambda m: m["draws"].update({"other": m["draws"]["sd"]}), "do not belong together"),
    (lambda m: m.update(chains=4), "6 draws are not those of 4 chains"),
    (lambda m: m["draws"].update(sd=["draws-0.npy"]), "malformed: TypeError"),
    (lambda m: m["states"].update(particles=[]), "malformed: TypeError"),
]


@pytest.mark.parametrize(("change", "text"), CHANGES, ids=map(str, range(len(CHANGES))))
def test_a_manifest_that_does_not_fit(folder, change, text):
    rewrite(folder, change)
    if text is None:  # two numbers as well: what is not of another form is the writer's to know
        assert pi.load_predictor(folder).motion.family.name == "Gumbel"
    else:
        refused(folder, text)


ARRAYS = [
    ("states-draws.npy", np.full(6, np.nan), "no weights"),
    ("states-draws.npy", np.full(6, -np.inf), "no weights"),
    ("states-draws.npy", np.zeros(5), "not those of 6 draws"),
    ("states-log_weights.npy", np.full((6, 10), np.inf), "no weights"),
    ("states-particles.npy", np.zeros((6, 11)), "not those of 6 draws"),
    ("states-particles.npy", np.zeros((6, 10), np.float32), "not those of 6 draws"),
    ("draws-0.npy", np.zeros(7), "not those of 6 draws"),
]


@pytest.mark.parametrize(("name", "values", "text"), ARRAYS, ids=map(str, range(len(ARRAYS))))
def test_arrays_that_do_not_fit(folder, name, values, text):
    replace_file(folder, name, npy(values))
    refused(folder, text)


def test_draws_without_particles(folder):
    for name in ("states-particles.npy", "states-log_weights.npy"):
        replace_file(folder, name, npy(np.zeros((6, 0))))
    refused(folder, "not those of 6 draws")


@pytest.mark.parametrize("content", [b"", bytes(100), b"\xff" * 100], ids=["nothing", "zeros", "ones"])
def test_a_file_that_holds_no_program(folder, content):
    replace_file(folder, "move.jaxexport", content)
    refused(folder, "holds no program|no longer reads the program")


def test_arrays_are_never_unpickled(folder):
    replace_file(folder, "states-particles.npy", npy(np.array([{}], object)))
    refused(folder, "holds no array")


def test_what_is_no_forecaster_is_left_alone(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("text")
    with pytest.raises(pi.ArtifactError, match="something else than a predictor"):
        pi.load_predictor(folder).save(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "text"
