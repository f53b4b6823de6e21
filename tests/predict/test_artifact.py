"""A predictor on disk: the same numbers in another process, and no quiet use of a folder that is not what was saved."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tokenize
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import probinfer as pi
from probinfer.predict import artifact
from tests.predict import models as m
from tests.predict.fits import Fit, fitted


@pytest.fixture(scope="module")
def line():
    findings = (pi.posterior.verdict.Finding("few draws", "slope", pi.Verdict.GOOD, "nothing", float("nan")),)
    fit = Fit(
        pi.Model(m.line),
        {"x": m.x, "y": m.y},
        m.LINE,
        chains=4,
        findings=findings,
        attrs={"seed": np.int64(7), "ess": np.nan},
    )
    return pi.Predictor(fit)


@pytest.fixture(scope="module")
def saved(line, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "predictor"
    line.save(path)
    return path


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "predictor"))


def rewrite(folder, change, *, seal=True):
    """The manifest, changed, with a hash of its own that fits: by who means it. Or as it comes: damage."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    content = artifact.sealed(manifest) if seal else json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(content)


# the same numbers ----------------------------------------------------------------------------------------------------


def test_a_loaded_predictor_gives_the_same_numbers(line, saved):
    loaded = pi.load_predictor(saved)
    rows = {"x": m.x}
    for name, values in line.predict(rows, quantiles=(0.2,)).columns().items():
        np.testing.assert_array_equal(values, loaded.predict(rows, quantiles=(0.2,)).columns()[name])
    np.testing.assert_array_equal(line.sample(rows, 5), loaded.sample(rows, 5))
    np.testing.assert_array_equal(line.log_score(rows, m.y), loaded.log_score(rows, m.y))
    assert loaded.inputs == line.inputs
    assert loaded.about["verdict"] == "GOOD"


IN_A_NEW_PROCESS = """
import sys, numpy as np, probinfer
predictor = probinfer.load_predictor(sys.argv[1])
rows = {"x": np.load(sys.argv[2])}
prediction = predictor.predict(rows)
np.savez(sys.argv[3], mean=prediction.mean, upper=prediction.upper, draws=predictor.sample(rows, 3))
"""


@pytest.mark.long
def test_a_program_with_a_cholesky_decomposition_in_a_new_process(tmp_path):
    """Such a program once crashed a process that had not used JAX's linear algebra before (jax issue 29610)."""
    predictor = fitted(m.multivariate, {"x": m.x, "y": m.wide}, m.MULTIVARIATE)
    predictor.save(tmp_path / "predictor")
    np.save(tmp_path / "x.npy", m.x[:5])
    files = [str(tmp_path / name) for name in ("predictor", "x.npy", "out.npz")]
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, *files], check=True, timeout=300)
    here = predictor.predict({"x": m.x[:5]})
    with np.load(files[2]) as there:
        np.testing.assert_array_equal(there["mean"], here.mean)
        np.testing.assert_array_equal(there["upper"], here.upper)
        np.testing.assert_array_equal(there["draws"], predictor.sample({"x": m.x[:5]}, 3))


def test_fixed_data_and_constants_are_kept(tmp_path):
    import numpyro
    from numpyro import distributions as dist

    def model(x, knots, degree, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([4]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=(x[:, None] - knots) ** degree @ w), obs=y)

    data = {"x": m.x, "knots": np.linspace(-1, 1, 4), "degree": 2, "y": m.y > 0}
    predictor = fitted(model, data, {"w": m.draws(4)})
    predictor.save(tmp_path / "predictor")
    loaded = pi.load_predictor(tmp_path / "predictor")
    np.testing.assert_array_equal(loaded.predict({"x": m.x}).mean, predictor.predict({"x": m.x}).mean)
    with pytest.raises(pi.PredictionError, match="degree is part of the trained model, 2"):
        loaded.predict({"x": m.x, "degree": 3})


def test_the_card(saved):
    text = artifact.card(saved)
    for part in ("y ~ Normal", "200 (4 chains)", "GOOD", "few draws", "x: float64", "seed: 7", "ess: nan", "sha-256"):
        assert part in text
    assert f"jax {version('jax')}" in text


# not what was saved --------------------------------------------------------------------------------------------------


def refused(folder, text):
    with pytest.raises(pi.ArtifactError, match=text):
        pi.load_predictor(folder)
    with pytest.raises(pi.ArtifactError, match=text):
        artifact.card(folder)


@pytest.mark.parametrize("name", ["draws-0.npy", "draws-1.npy", "parameters.jaxexport"])
def test_a_changed_byte(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refused(folder, f"{name} is damaged or was changed")


def test_a_shorter_file(folder):
    content = (folder / "draws-0.npy").read_bytes()
    (folder / "draws-0.npy").write_bytes(content[:-8])
    refused(folder, r"draws-0.npy is damaged or was changed: \d+ bytes, declared \d+")


@pytest.mark.parametrize("name", ["draws-0.npy", "manifest.json"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    refused(folder, f"{name} is missing")


def test_an_added_file(folder):
    (folder / "setup.py").write_text("raise SystemExit")
    refused(folder, "holds setup.py, which its manifest does not declare")


@pytest.mark.parametrize("target", ["draws-1.npy", "/etc/hostname"])
def test_a_link(folder, target):
    content = (folder / "draws-0.npy").read_bytes()
    elsewhere = folder.parent / "elsewhere.npy"
    elsewhere.write_bytes(content)
    (folder / "draws-0.npy").unlink()
    (folder / "draws-0.npy").symlink_to(elsewhere if target == "draws-1.npy" else target)
    refused(folder, "draws-0.npy is a link or no file")


@pytest.mark.parametrize(
    "name",
    ["../outside.npy", "..\\outside.npy", "/tmp/outside.npy", "sub/inside.npy", "..", ".hidden", "manifest.json", ""],
)
def test_a_path_that_leaves_the_folder(folder, name):
    outside = folder.parent / "outside.npy"
    shutil.copy(folder / "draws-0.npy", outside)
    declared = {"size": outside.stat().st_size, "sha256": hashlib.sha256(outside.read_bytes()).hexdigest()}
    rewrite(folder, lambda manifest: manifest["files"].update({name: declared}))
    refused(folder, "no name of a file in this folder")


def test_a_reference_to_an_undeclared_file(folder):
    rewrite(folder, lambda manifest: manifest["draws"].update(slope="../outside.npy"))
    refused(folder, "refers to ../outside.npy, which are not among its files")


def test_a_reference_that_is_no_name(folder):
    rewrite(folder, lambda manifest: manifest["draws"].update(slope=["draws-0.npy"]))
    refused(folder, "manifest.json is malformed: TypeError")


def test_a_future_format(folder):
    def change(manifest):
        manifest["format_version"] = artifact.FORMAT_VERSION + 1
        manifest["versions"]["probinfer"] = "9.1.0"
        manifest["files"] = "another form"  # nothing else is looked at

    rewrite(folder, change)
    newest = artifact.FORMAT_VERSION
    refused(
        folder,
        rf"format version {newest + 1}; this probinfer .* reads up to {newest}. It was written by .* 9.1.0: install",
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.pop("inputs"), "incomplete: 'inputs' is missing or no list"),
        (lambda d: d.update(draws=[]), "incomplete: 'draws' is missing or no dict"),
        (lambda d: d["outcome"].pop("family"), "malformed: KeyError 'family'"),
        (lambda d: d["inputs"].append(7), "malformed: TypeError"),
        (lambda d: d.update(size=199), "do not have the 199 draws"),
        (lambda d: d["outcome"].update(family="Normall"), "family is 'Normall'; this version knows Normal"),
        (lambda d: d.update(programs={}), r"it has the programs \[\]; wanted \['parameters'\]"),
    ],
)
def test_a_manifest_of_another_form(folder, change, text):
    rewrite(folder, change)
    with pytest.raises(pi.ArtifactError, match=text):
        pi.load_predictor(folder)


ALTERED = [
    (lambda d: d.update(format_version=0), "format version 0; versions begin at 1"),
    (lambda d: d.update(format_version=-5), "format version -5; versions begin at 1"),
    (lambda d: d.update(format_version=True), "format version True; versions begin at 1"),
    (lambda d: d.update(size="abc"), "size is 'abc'; wanted a whole number from 1"),
    (lambda d: d.update(chains=0), "chains is 0; wanted"),
    (lambda d: d["outcome"].update(probabilities=-1), "probabilities is -1; wanted a whole number from 0"),
    (lambda d: d["outcome"].update(probabilities=7), "has 7 probabilities, which does not go with Normal"),
    (lambda d: d["outcome"].update(family="Poisson"), "is continuous and has 0 probabilities.* with Poisson"),
    (lambda d: d["outcome"].update(family="StudentT"), r"results are \(\), \(\), \(\) by the manifest"),
    (lambda d: d["outcome"].update(discrete=1), "discrete is 1; wanted true or false"),
    (lambda d: d["outcome"].update(event=[3]), r"results are \(3,\), \(3,\) by the manifest"),
    (lambda d: d["inputs"][0].update(name="q"), r"inputs are q float64 by the manifest.*x float64 by the program"),
    (lambda d: d["inputs"][0].update(dtype="int64"), "inputs are x int64 by the manifest"),
    (lambda d: d["inputs"][0].update(dtype="object"), "of the type 'object'; wanted float64, int64, bool"),
    (lambda d: d["inputs"][0].update(shape=[10**12]), "inputs are x float64\\[1000000000000\\] by the manifest"),
    (lambda d: d["inputs"][0].update(shape="a"), "has the shape 'a'; wanted a list of sizes"),
    (lambda d: d["inputs"][0].update(low=3, high=1), "from 3 to 1; wanted two whole numbers"),
    (lambda d: d["inputs"].append(d["inputs"][0]), "lists an input twice: x, x"),
    (lambda d: d["draws"].update(zz=d["draws"].pop("slope")), "draws are sigma float64, zz float64 by the manifest"),
    (lambda d: d["fixed"].update(k=d["draws"]["slope"]), "fixed data are k float64.*, none by the program"),
]


@pytest.mark.parametrize(("change", "text"), ALTERED)
def test_a_manifest_that_does_not_fit_its_programs(folder, change, text):
    """Also where the manifest's hash fits, or is missing as in artifacts of earlier releases."""
    rewrite(folder, change)
    with pytest.raises(pi.ArtifactError, match=text):
        pi.load_predictor(folder)
    rewrite(folder, lambda manifest: manifest.pop("manifest_sha256"), seal=False)
    with pytest.raises(pi.ArtifactError, match=text):
        pi.load_predictor(folder)


def test_any_change_of_the_manifest_shows(folder):
    """A family with as many parameters would load and answer nonsense; a changed bound or verdict would not be seen."""
    text = (folder / "manifest.json").read_text()
    for change in (
        lambda d: d["outcome"].update(family="Gamma"),
        lambda d: d["about"].update(verdict="BAD"),
        lambda d: d.pop("chains"),
        lambda d: d.update(manifest_sha256=None),
    ):
        (folder / "manifest.json").write_text(text)
        rewrite(folder, change, seal=False)
        refused(folder, "manifest.json is damaged or was changed: its content has another SHA-256")
    (folder / "manifest.json").write_text(json.dumps(json.loads(text), sort_keys=True))  # laid out in another way
    assert pi.load_predictor(folder).program.chains == 4
    rewrite(folder, lambda manifest: manifest.pop("manifest_sha256"), seal=False)  # as earlier releases wrote it
    assert pi.load_predictor(folder).program.chains == 4


def test_programs_that_draw_are_compared_too(tmp_path):
    fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(m.draws())}).save(tmp_path / "p")
    assert pi.load_predictor(tmp_path / "p").program.family is None
    rewrite(tmp_path / "p", lambda manifest: manifest["outcome"].update(event=[2]))
    with pytest.raises(pi.ArtifactError, match="do not belong together"):
        pi.load_predictor(tmp_path / "p")
    rewrite(tmp_path / "p", lambda manifest: manifest["outcome"].update(event=[], probabilities=3))
    with pytest.raises(pi.ArtifactError, match="3 probabilities, which does not go with a law without closed form"):
        pi.load_predictor(tmp_path / "p")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "zip"}', '{"format": null}'])
def test_a_manifest_that_is_none(folder, content):
    (folder / "manifest.json").write_text(content)
    refused(folder, "is no JSON|is no saved predictor")


def test_no_folder(tmp_path):
    refused(tmp_path / "nothing", "is no folder and no zip; a saved predictor is one of them")
    refused(tmp_path, "manifest.json is missing")


def replace_file(folder, name, content):
    """Another content, with a manifest that fits: an attacker's, or a bug's."""
    (folder / name).write_bytes(content)
    declared = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder, lambda manifest: manifest["files"].update({name: declared}))


def change_array(folder, name, change):
    """Other numbers in an array's file, with a manifest that fits."""
    written = io.BytesIO()
    np.save(written, change(np.load(folder / name)))
    replace_file(folder, name, written.getvalue())


class Bomb:
    def __reduce__(self):
        return os._exit, (3,)


def test_arrays_are_never_unpickled(folder):
    np.save(folder / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    content = (folder / "bomb.npy").read_bytes()
    (folder / "bomb.npy").unlink()
    replace_file(folder, "draws-0.npy", content)
    with pytest.raises(pi.ArtifactError, match=r"draws-0.npy holds no array"):
        pi.load_predictor(folder)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(100,)", "(2000, 10**9)", "(-1,)"])
def test_a_declared_shape_that_the_file_does_not_fit(folder, shape):
    """No room is made for what is not there."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    replace_file(
        folder, "draws-0.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(80)
    )
    with pytest.raises(pi.ArtifactError, match=r"draws-0.npy holds no array"):
        pi.load_predictor(folder)


@pytest.mark.parametrize(
    "header", ["(" * 500, "(1L", "{[]: 1}", "{'descr': 'f8,,', 'fortran_order': False, 'shape': (1,)}"]
)
def test_a_header_that_is_none(folder, header):
    """NumPy gives it to Python's parser, which has errors of its own."""
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(80)
    replace_file(folder, "draws-0.npy", content)
    with pytest.raises(pi.ArtifactError, match=r"draws-0.npy holds no array"):
        pi.load_predictor(folder)


def test_a_sparse_file_is_not_read(folder):
    """A file of a terabyte that takes no room on the disk."""
    with open(folder / "draws-0.npy", "r+b") as file:
        file.truncate(2**40)
    refused(folder, "draws-0.npy is damaged or was changed: 1099511627776 bytes, declared")
    with open(folder / "manifest.json", "r+b") as file:
        file.truncate(2**40)
    refused(folder, "a manifest has at most")


def test_a_manifest_that_is_nested_too_deeply(folder):
    (folder / "manifest.json").write_text("[" * 200_000)
    refused(folder, "is no JSON")


def test_a_pipe_is_not_waited_for(folder):
    (folder / "draws-0.npy").unlink()
    os.mkfifo(folder / "draws-0.npy")
    refused(folder, "draws-0.npy is a link or no file")


def test_a_program_that_calls_python_is_refused(folder):
    """Its address of a function is a number in the file. JAX would run it."""
    import jax

    def work(draws, fixed, rows):
        shape = jax.ShapeDtypeStruct((2,), np.float32)
        return jax.ffi.ffi_call("xla_ffi_python_cpu_callback", shape)(rows["x"])

    check = jax.export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")
    specs = ({}, {}, {"x": jax.ShapeDtypeStruct((2,), np.float32)})
    exported = jax.export.export(jax.jit(work), disabled_checks=[check], platforms=["cpu"])(*specs)
    replace_file(folder, "parameters.jaxexport", bytes(exported.serialize()))
    with pytest.raises(pi.ArtifactError, match="calls xla_ffi_python_cpu_callback, which is no array operation"):
        pi.load_predictor(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
def test_a_file_that_holds_no_program(folder, kept):
    """Nothing, or the beginning of one: a share of it, or so many bytes."""
    content = (folder / "parameters.jaxexport").read_bytes()
    size = kept if isinstance(kept, int) else int(kept * len(content))
    replace_file(folder, "parameters.jaxexport", content[:size])
    with pytest.raises(pi.ArtifactError, match=r"holds no program|no longer reads the program"):
        pi.load_predictor(folder)


def test_whatever_the_reader_of_programs_runs_into(folder, monkeypatch):
    """Its parser of shapes, for one, has errors of its own."""

    def lost(_):
        raise tokenize.TokenError("invalid character", (1, 1))

    monkeypatch.setattr("jax.export.deserialize", lost)
    with pytest.raises(pi.ArtifactError, match="a file holds no program"):
        pi.load_predictor(folder)


def test_a_program_that_jax_no_longer_reads(folder, monkeypatch):
    def expired(_):
        raise ValueError("Cannot deserialize: version too old")

    monkeypatch.setattr("jax.export.deserialize", expired)
    with pytest.raises(pi.ArtifactError) as error:
        pi.load_predictor(folder)
    assert f"install jax=={version('jax')}" in str(error.value)
    assert "Predictor(load_posterior" in str(error.value)


# saving --------------------------------------------------------------------------------------------------------------


def test_an_older_predictor_is_replaced(line, folder):
    rewrite(folder, lambda manifest: manifest.update(created="long ago"))
    line.save(folder)
    assert "long ago" not in (folder / "manifest.json").read_text()
    assert pi.load_predictor(folder).outcome == "y"
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_anything_else_is_left_alone(line, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name, text in (
        ("file", "is no folder"),
        ("folder", "something else than a predictor"),
        ("link", "is no folder"),
    ):
        with pytest.raises(pi.ArtifactError, match=text):
            line.save(tmp_path / name)
    with pytest.raises(pi.ArtifactError, match="make it first"):
        line.save(tmp_path / "no" / "predictor")
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder", "link"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_the_older_predictor(line, folder, monkeypatch, call):
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    real, calls = getattr(os, call), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the second file, or the new folder's way to its place
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        line.save(folder)
    monkeypatch.undo()
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_a_save_that_is_killed_leaves_the_older_predictor(folder):
    """The process ends in the middle of writing, as by kill -9: what stood there still loads."""
    code = f"""
import os, probinfer as pi
from probinfer.predict import plain_files
predictor = pi.load_predictor({str(folder)!r})
plain_files._put_in_place = lambda *_: os._exit(9)
predictor.save({str(folder)!r})
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 9
    assert pi.load_predictor(folder).predict({"x": [1.0]}).mean.shape == (1,)


def test_permissions_follow_the_umask(line, tmp_path):
    before = os.umask(0o027)
    try:
        line.save(tmp_path / "predictor")
    finally:
        os.umask(before)
    assert (tmp_path / "predictor").stat().st_mode & 0o777 == 0o750
