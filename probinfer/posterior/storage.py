"""A posterior as one NetCDF file: written whole or not at all, read without running anything.

The file is an ordinary tree of ArviZ's schema: `az.from_netcdf(path)` and `xarray.open_datatree(path)` read it too.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probinfer.errors import ArtifactError
from probinfer.files import sync_folder, write_whole
from probinfer.inference.draws import Outcome
from probinfer.posterior.datatree import FORMAT

if TYPE_CHECKING:
    import xarray as xr


def write_tree(tree: "xr.DataTree", path: str | os.PathLike[str]) -> None:
    """Write a tree to `path`, replacing what is there only when every byte of the new file is on the disk.

    Raises OSError if it cannot be written; the old file, if any, is then as it was, and no other is left behind.
    """
    path = Path(os.path.realpath(path))  # a link stays a link: what it points to is replaced
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save to {path}: there is no folder {path.parent}. Make it first.")
    tree = tree.copy()
    tree.attrs = {**tree.attrs, "probinfer_format": FORMAT, "draws_sha256": draws_hash(tree)}
    # Serialised in memory: where HDF5 itself meets a full disk it raises, and then crashes the process at its exit.
    buffer = io.BytesIO()
    tree.to_netcdf(buffer, engine="h5netcdf")
    content = buffer.getvalue()
    try:
        write_whole(path, content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not save the posterior ({len(content) / 1e6:.3g} MB): {error.strerror}. "
            f"{'The file that was there is unchanged.' if path.exists() else 'Nothing was written.'}",
            str(path),
        ) from error
    sync_folder(path.parent)


def read_tree(path: str | os.PathLike[str]) -> "xr.DataTree":
    """Read a tree that `write_tree` wrote, wholly into memory. Raises ArtifactError, whose text says what is wrong."""
    import xarray as xr

    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ArtifactError(f"{path} {what}; wanted a file written by posterior.save(path).")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as stored:
            tree = stored.load().copy(deep=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged HDF5 file surfaces as any error at all, depending on the byte
        raise ArtifactError(
            f"{path} is not a NetCDF file, or a damaged one ({error}). "
            "Wanted a file written by posterior.save(path): save it again, or copy it again in binary mode."
        ) from error
    _check(tree, path)
    return tree


def draws_hash(tree: "xr.DataTree") -> str:
    """SHA-256 of what a verdict rests on, all variables and coordinates of the groups posterior and sample_stats, and
    of the draws themselves, where these are summaries."""
    digest = hashlib.sha256()
    for group in ("posterior", "sample_stats", "topics", "documents"):
        if group in tree.children:
            for name, array in sorted(tree[group].to_dataset().variables.items()):
                values = np.ascontiguousarray(array.to_numpy())
                digest.update(json.dumps([group, name, values.dtype.str, values.shape]).encode())
                digest.update(values.tobytes())
    return digest.hexdigest()


def _check(tree: "xr.DataTree", path: Path) -> None:
    found = tree.attrs.get("probinfer_format")
    if found is None:
        raise ArtifactError(
            f"{path} is a NetCDF file, but not a posterior of probinfer: it has no attribute 'probinfer_format'. "
            "ArviZ reads other files: az.from_netcdf(path)."
        )
    if not 1 <= int(found) <= FORMAT:
        raise ArtifactError(
            f"{path} has format version {found}, this probinfer reads 1 to {FORMAT}. Written by probinfer "
            f"{tree.attrs.get('inference_library_version', '(unknown)')}: install that version or a later one."
        )
    if "posterior" not in tree.children:
        raise ArtifactError(f"{path} has no group 'posterior': it is damaged or was changed. Save it again.")
    if tree.attrs.get("draws_sha256") != draws_hash(tree):
        raise ArtifactError(
            f"{path}: the draws in it are not those that were saved (their SHA-256 differs), so the file is damaged or "
            "was changed. Save it again; to read it all the same: xarray.open_datatree(path)."
        )
    for name in ("settings", "seconds", "versions"):
        try:
            json.loads(tree.attrs.get(name, "{}"))
        except (TypeError, json.JSONDecodeError) as error:
            raise ArtifactError(f"{path}: the attribute '{name}' is not JSON ({error}). Save it again.") from error
    outcomes = [outcome.value for outcome in Outcome]
    if tree.attrs.get("outcome", Outcome.COMPLETED.value) not in outcomes:
        raise ArtifactError(
            f"{path}: the attribute 'outcome' is {tree.attrs['outcome']!r}, wanted one of {', '.join(outcomes)}. "
            "Save it again."
        )
