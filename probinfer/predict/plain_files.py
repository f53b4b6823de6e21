"""The plain files of an artifact, in a folder or in one zip: read with all checks, written whole or not at all. Imports
the standard library.

A zip holds the files as they are, uncompressed and without folders. What is odd about it is refused as it is about a
folder: links, other names, names that are there twice, more than was declared.
"""

import contextlib
import io
import json
import os
import re
import reprlib
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from probinfer.errors import ArtifactError
from probinfer.files import beside, sync_folder, write_new, write_whole

FORMAT, MANIFEST = "probinfer-predictor", "manifest.json"
SUFFIX = ".zip"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LONGEST_MANIFEST = 64 * 2**20
_OF_DESKTOPS = (".DS_Store", "Thumbs.db", "desktop.ini")  # which they leave in every folder that is looked at
_MAGIC = b"PK\x03\x04"
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # of a zip's entry


def is_file_name(name: str) -> bool:
    """Whether a file of an artifact may be called so, besides the manifest."""
    return _FILE_NAME.fullmatch(name) is not None and name != MANIFEST


def is_of_desktop(name: str) -> bool:
    """Whether a file of this name is left by macOS or Windows: it is never read, and is no reason to refuse."""
    return name in _OF_DESKTOPS or name.startswith("._")


def check_path(path: Any) -> None:
    """Raise ArtifactError for what is no path."""
    if not isinstance(path, str | os.PathLike):
        raise ArtifactError(
            f"path is {reprlib.repr(path)}; wanted the name of a folder, such as 'predictor', or of a zip."
        )


# reading -------------------------------------------------------------------------------------------------------------


class Folder:
    """The files in a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        """What is there, but for what desktops leave."""
        return [entry.name for entry in self._path.iterdir() if not is_of_desktop(entry.name)]

    def content(self, name: str, size: Any) -> bytes:
        """A file's content, of the size that was declared; None for the manifest, of which nothing is. Raises
        ArtifactError before it reads what is longer."""
        file = self._path / name
        try:
            found = file.lstat()
            if not stat.S_ISREG(found.st_mode):
                raise ArtifactError(f"{file} is a link or no file; a predictor is a folder of plain files.")
            _check_size(file, found.st_size, size)
            return file.read_bytes()
        except FileNotFoundError:
            hint = self._others() if name == MANIFEST else ""
            raise ArtifactError(
                f"{file} is missing; the copy is incomplete, or {self._path} is no saved predictor.{hint}"
            ) from None

    def _others(self) -> str:
        """The predictors in a folder that is none, for an error."""
        inside: list[str] = []
        with contextlib.suppress(OSError):  # the folder itself may be gone, between the two renames of a save
            inside = sorted(entry.name for entry in self._path.iterdir() if is_artifact(entry))[:5]
        return f" There are predictors in it: {', '.join(inside)}." if inside else ""


class OneFile:
    """The files in a zip that is in memory, so that nothing changes while it is read. `name`: where it came from."""

    def __init__(self, content: bytes, name: str) -> None:
        self._name = name
        with _damaged(name):
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        entries = self._zip.infolist()
        for entry in entries:
            self._check(entry)
        if len(self._entries) < len(entries):
            raise ArtifactError(f"{name} has two files of one name; a predictor's zip has each once.")
        before = min((entry.header_offset for entry in entries), default=0)
        if before or sum(entry.file_size for entry in entries) > len(content):
            raise ArtifactError(f"{name} is damaged or was changed: its files are not all that it holds. {_AGAIN}")

    def __fspath__(self) -> str:
        return self._name

    def __str__(self) -> str:
        return self._name

    def _check(self, entry: zipfile.ZipInfo) -> None:
        mode = entry.external_attr >> 16
        plain = is_file_name(entry.filename) or entry.filename == MANIFEST or is_of_desktop(entry.filename)
        if not plain or "/" in entry.filename or entry.orig_filename != entry.filename:
            raise ArtifactError(
                f"{self} holds {entry.filename!r}; a predictor's zip holds plain files, {MANIFEST} for one, in no "
                "folder. Save it with predictor.save('name.zip')."
            )
        if entry.create_system == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ArtifactError(f"{self}: {entry.filename} is a link or no file; a predictor's zip holds plain files.")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise ArtifactError(
                f"{self}: {entry.filename} is compressed or encrypted; a predictor's zip holds its files as they are. "
                "Save it with predictor.save('name.zip')."
            )

    def names(self) -> list[str]:
        """As `Folder.names`."""
        return [name for name in self._entries if not is_of_desktop(name)]

    def content(self, name: str, size: Any) -> bytes:
        """As `Folder.content`."""
        file = Path(self._name) / name
        if name not in self._entries:
            raise ArtifactError(f"{file} is missing; the copy is incomplete, or {self} is no saved predictor.")
        _check_size(file, self._entries[name].file_size, size)
        with _damaged(self._name):
            return self._zip.read(name)


type Place = Folder | OneFile

_AGAIN = "Copy it again, or save the predictor again."


def open_place(path: Any) -> Place:
    """The files at `path`. Raises ArtifactError where there is neither a folder nor a zip; what they hold is checked as
    it is read."""
    if isinstance(path, Folder | OneFile):
        return path
    check_path(path)
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise ArtifactError(f"{path} is no folder and no zip; a saved predictor is one of them.")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            hint = " A posterior is loaded by pi.load_posterior(path, model, data)." if path.suffix == ".nc" else ""
            raise ArtifactError(f"{path} is a file and no zip; a saved predictor is a folder, or a zip of one.{hint}")
        return OneFile(_MAGIC + file.read(), str(path))


def is_artifact(path: Path) -> bool:
    """Whether a predictor seems to be saved there, judged without reading it."""
    return (path / MANIFEST).is_file() or (path.suffix.lower() == SUFFIX and path.is_file())


def manifest_bytes(path: Any) -> bytes:
    """The manifest as it was written: another one for every save. Raises ArtifactError where there is none."""
    return open_place(path).content(MANIFEST, None)


def _check_size(file: Path, found: int, size: Any) -> None:
    if size is None and found > _LONGEST_MANIFEST:
        raise ArtifactError(f"{file} has {found} bytes; a manifest has at most {_LONGEST_MANIFEST}.")
    if size is not None and found != size:
        raise ArtifactError(
            f"{file} is damaged or was changed: {found} bytes, declared {size}. "
            "Copy the folder again, or save it again."
        )


@contextlib.contextmanager
def _damaged(name: str) -> Generator[None]:
    """What the reader of zips runs into in other bytes is the file's fault."""
    try:
        yield
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError, ArithmeticError, struct.error) as error:
        raise ArtifactError(f"{name} is no zip, or a damaged one ({error}). {_AGAIN}") from None


# writing -------------------------------------------------------------------------------------------------------------


def write_plain_files(make: Callable[[], Mapping[str, bytes]], path: str | os.PathLike[str]) -> None:
    """Write the files that `make` gives, all or none, to the folder `path`, or to one zip where that ends in .zip,
    replacing an older predictor there.

    All is written beside it and renamed when it is complete and on disk, so an interrupted save leaves the older
    predictor, or nothing. Raises ArtifactError for a `path` that holds something else, OSError if it cannot be written.
    """
    check_path(path)
    path = Path(path)
    single = path.suffix.lower() == SUFFIX
    _refuse_other_things(path, single)
    contents = make()
    there = path.exists()
    try:
        if single:
            write_whole(path, as_zip(contents))
            sync_folder(path.parent)
        else:
            _write_folder(contents, path)
    except OSError as error:
        size = sum(map(len, contents.values()))
        raise OSError(
            error.errno,
            f"could not save the predictor ({size / 1e6:.3g} MB): {error.strerror}. "
            f"{'The one that was there is unchanged.' if there else 'Nothing was written.'}",
            str(path),
        ) from error


def as_zip(contents: Mapping[str, bytes]) -> bytes:
    """The files as one zip, uncompressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _write_folder(contents: Mapping[str, bytes], path: Path) -> None:
    temporary = beside(path, ".partial")
    temporary.mkdir()
    try:
        for name, content in contents.items():
            write_new(temporary / name, content)
        sync_folder(temporary)
        _put_in_place(temporary, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_other_things(path: Path, single: bool) -> None:
    if not path.parent.is_dir():
        hint = " A path with ~ is made one of your home by Path(path).expanduser()." if path.parts[0] == "~" else ""
        raise ArtifactError(f"{path.parent} is no folder; make it first.{hint}")
    if path.is_symlink() or (path.exists() and path.is_dir() is single):
        kind, other = ("file", "folder") if single else ("folder", "file")
        raise ArtifactError(
            f"{path} exists and is no {kind}; a predictor is saved as a {kind} of its own here, as its name "
            f"{'ends' if single else 'does not end'} in {SUFFIX}. Take another name, or remove the {other}."
        )
    if path.exists() and (single or any(not is_of_desktop(entry.name) for entry in path.iterdir())):
        try:
            known = json.loads(manifest_bytes(path)).get("format") == FORMAT
        except (OSError, ValueError, AttributeError):
            known = False
        if not known:
            raise ArtifactError(
                f"{path} holds something else than a predictor, and is left as it is. Save under a new name."
            )


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.rename(temporary, path)
        return
    older = beside(path, ".older")
    os.rename(path, older)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(older, path)
        raise
    shutil.rmtree(older, ignore_errors=True)
