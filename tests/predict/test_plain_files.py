"""An artifact as one zip: what a folder is, and no more. What desktops leave in folders; why a save failed."""

import errno
import io
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probinfer as pi
from probinfer.cli import main
from probinfer.predict import artifact
from tests.predict import models as m
from tests.predict.fits import fitted
from tests.predict.test_joint_artifact import NAMES, fit

STORED = Path(__file__).parent / "stored"
ROWS = {"x": [0.0, 1.5]}


@pytest.fixture(scope="module")
def line():
    return fitted(m.line, {"x": m.x, "y": m.y}, m.LINE)


@pytest.fixture(scope="module")
def saved(line, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "line.zip"
    line.save(path)
    return path


@pytest.fixture(scope="module")
def files(saved):
    """Name and content of each file in the zip."""
    with zipfile.ZipFile(saved) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_zip_holds_what_a_folder_holds(line, saved, files, tmp_path):
    line.save(tmp_path / "line")
    assert set(files) == {entry.name for entry in (tmp_path / "line").iterdir()}
    with zipfile.ZipFile(saved) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(tmp_path / "out")
    assert pi.load_predictor(tmp_path / "out").predict(ROWS).mean.tolist() == line.predict(ROWS).mean.tolist()
    assert [entry.name for entry in saved.parent.iterdir()] == ["line.zip"]  # nothing is left beside it


def test_a_loaded_zip_gives_the_same_numbers(line, saved):
    loaded = pi.load_predictor(saved)
    for one, two in zip(line.predict(ROWS).columns().values(), loaded.predict(ROWS).columns().values(), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("name", ["v7-several", "v8-forecaster", "v5-point", "v11-folds", "v2-calibrated"])
def test_every_kind_of_predictor(name, tmp_path):
    path = tmp_path / "one.zip"
    predictor = pi.load_predictor(STORED / name)
    predictor.save(path)
    assert repr(pi.load_predictor(path)) == repr(predictor)
    assert str(path) in artifact.card(path)


def test_the_older_one_is_replaced_and_anything_else_left_alone(line, saved, tmp_path):
    path = Path(shutil.copy(saved, tmp_path / "line.zip"))
    line.calibrate({"x": m.x[:20] + 0.01}, m.y[:20]).save(path)
    assert pi.load_predictor(path).calibration is not None
    for name, content in (("text.zip", b"words"), ("other.zip", zipped({"a.txt": b"words"}))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(pi.ArtifactError, match="something else than a predictor"):
            line.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(pi.ArtifactError, match=r"is no file; .* ends in \.zip.*remove the folder"):
        line.save(tmp_path / "folder.zip")


def test_commands_take_a_zip(saved, tmp_path, capsys):
    assert main(["inspect", str(saved)]) == 0
    assert "y ~ Normal" in capsys.readouterr().out
    (tmp_path / "rows.csv").write_text("x\n0.0\n1.5\n")
    assert main(["score", str(saved), str(tmp_path / "rows.csv"), str(tmp_path / "out.csv")]) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_a_series_may_be_a_zip_among_folders(tmp_path):
    forecaster = pi.load_predictor(STORED / "v8-forecaster")
    (tmp_path / "all").mkdir()
    forecaster.save(tmp_path / "all" / "north.zip")
    forecaster.save(tmp_path / "all" / "south")
    table = tmp_path / "in.csv"
    table.write_text(f"shop,time,observations\nnorth,{forecaster.time},1.0\n")
    paths = [str(tmp_path / "all"), str(table), str(tmp_path / "out.csv")]
    command = ["score", *paths, "--steps", "2", "--series", "shop"]
    assert main(command) == 0
    assert set(pd.read_csv(tmp_path / "out.csv")["shop"]) == {"north", "south"}
    forecaster.save(tmp_path / "all" / "north")
    assert main(command) == 2


# what is odd about a zip ---------------------------------------------------------------------------------------------


def zipped(files, **changes):
    """A zip of these files, pairs or a dict. changes: attributes of each entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = zipfile.ZipInfo(name)
            for attribute, value in changes.items():
                setattr(entry, attribute, value)
            archive.writestr(entry, content)
    return buffer.getvalue()


def refused(tmp_path, content, text):
    path = tmp_path / "odd.zip"
    path.write_bytes(content)
    with pytest.raises(pi.ArtifactError, match=text):
        pi.load_predictor(path)
    with pytest.raises(pi.ArtifactError, match=text):
        artifact.card(path)


@pytest.mark.parametrize("name", ["../up.npy", "/etc/up.npy", "a/b.npy", "a\\b.npy", "-x", "", "x\x00.npy", "folder/"])
def test_names_that_are_none(files, tmp_path, name):
    content = zipped({**files, name.replace("\0", "0"): b""}).replace(b"x0.npy", b"x\x00.npy")
    refused(tmp_path, content, r"plain files, manifest.json for one, in no folder")


def test_files_in_a_folder_of_the_zip(files, tmp_path):
    inside = {f"line/{name}": content for name, content in files.items()}
    refused(tmp_path, zipped(inside), r"Save it with predictor.save\('name.zip'\)")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice(files, tmp_path):
    refused(tmp_path, zipped([*files.items(), ("draws-0.npy", b"other")]), "two files of one name")


def test_a_file_that_the_manifest_does_not_declare(files, tmp_path):
    refused(tmp_path, zipped({**files, "more.npy": b""}), "holds more.npy, which its manifest does not declare")


def test_a_missing_file(files, tmp_path):
    fewer = {name: content for name, content in files.items() if name != "draws-0.npy"}
    refused(tmp_path, zipped(fewer), r"draws-0\.npy is missing")
    refused(tmp_path, zipped({"draws-0.npy": files["draws-0.npy"]}), r"manifest\.json is missing")


def test_more_bytes_than_declared(files, tmp_path):
    more = {**files, "draws-0.npy": files["draws-0.npy"] + b"\0"}
    refused(tmp_path, zipped(more), "is damaged or was changed: [0-9]+ bytes, declared")


def test_compressed_files_are_not_unpacked(files, tmp_path):
    refused(tmp_path, zipped(files, compress_type=zipfile.ZIP_DEFLATED), "compressed or encrypted")


def test_a_link(files, tmp_path):
    refused(tmp_path, zipped(files, create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16), "is a link")


def test_a_changed_byte(saved, tmp_path):
    """Anywhere, names and directory included: damage shows, or nothing that is used has changed."""
    content = saved.read_bytes()
    numbers = pi.load_predictor(saved).predict(ROWS).mean
    for place in [0, *np.random.default_rng(1).choice(len(content), 40, replace=False).tolist(), len(content) - 1]:
        (tmp_path / "line.zip").write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            loaded = pi.load_predictor(tmp_path / "line.zip")
        except pi.ArtifactError:
            continue
        assert np.array_equal(loaded.predict(ROWS).mean, numbers)


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
def test_a_part_of_a_zip(saved, tmp_path, kept):
    content = saved.read_bytes()
    refused(tmp_path, content[: int(kept * len(content)) if isinstance(kept, float) else kept], "zip")


def test_something_before_the_zip(files, saved, tmp_path):
    refused(tmp_path, zipped({"a.npy": b""}) + saved.read_bytes(), "its files are not all that it holds")


def test_what_is_neither(tmp_path):
    (tmp_path / "file").write_text("words")
    for path, text in ((tmp_path / "file", "is a file and no zip"), (tmp_path / "none", "is no folder and no zip")):
        with pytest.raises(pi.ArtifactError, match=text):
            pi.load_predictor(path)


# folders -------------------------------------------------------------------------------------------------------------


def test_what_desktops_leave_in_a_folder(line, saved, files, tmp_path):
    line.save(tmp_path / "line")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._manifest.json"):
        (tmp_path / "line" / name).write_bytes(b"\0")
    assert pi.load_predictor(tmp_path / "line").predict(ROWS).mean.shape == (2,)
    (tmp_path / "again.zip").write_bytes(zipped({**files, ".DS_Store": b""}))
    assert pi.load_predictor(tmp_path / "again.zip").predict(ROWS).mean.shape == (2,)
    line.save(tmp_path / "line")
    (tmp_path / "line" / ".ds_store").write_bytes(b"\0")
    with pytest.raises(pi.ArtifactError, match=r"holds \.ds_store, which its manifest does not declare"):
        pi.load_predictor(tmp_path / "line")


@pytest.mark.parametrize("name", ["line", "line.zip"])
def test_a_path_that_cannot_be_written(line, tmp_path, monkeypatch, name):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", ".line.0123.partial")

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr("probinfer.files.open", refuse, raising=False)
    with pytest.raises(PermissionError, match=r"could not save .* Permission denied\. Nothing was") as found:
        line.save(tmp_path / name)
    assert found.value.filename == str(tmp_path / name)
    monkeypatch.undo()
    line.save(tmp_path / name)
    before = pi.load_predictor(tmp_path / name).about
    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr("probinfer.files.open", refuse, raising=False)
    with pytest.raises(PermissionError, match="The one that was there is unchanged"):
        line.save(tmp_path / name)
    assert pi.load_predictor(tmp_path / name).about == before


def test_several_outcomes_in_one_zip(tmp_path):
    joint = pi.Predictor(fit(), outcome=NAMES)
    joint.save(tmp_path / "joint.zip")
    assert pi.load_predictor(tmp_path / "joint.zip").outcomes == joint.outcomes
    assert json.loads(zipfile.ZipFile(tmp_path / "joint.zip").read("manifest.json"))["format_version"] == 7
