"""A point model as a folder: its ONNX file, its inputs or what prepares them, and its calibration, of the same form as
any predictor."""

import datetime
import os
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from probinfer.errors import ArtifactError, ModelError, PredictionError
from probinfer.model.pipeline.prepared import input_lines
from probinfer.predict import artifact
from probinfer.predict.conformal import calibration_lines
from probinfer.predict.point import PointPredictor
from probinfer.predict.point_conversion import as_onnx

MODEL = "model.onnx"
_POINT_VERSION = 5


def write_point(predictor: PointPredictor, path: str | os.PathLike[str]) -> None:
    """Write the predictor to the folder `path`; see `artifact.write`. Raises ModelError and MissingExtra as `as_onnx`
    does."""
    artifact.check_path(path)
    artifact.write_folder(partial(_contents, as_onnx(predictor)), path)


def _contents(predictor: PointPredictor) -> dict[str, bytes]:
    files = {MODEL: predictor.model.content}
    places: dict[str, Any] = {}
    prepared = predictor.program.prepared
    if prepared is not None:
        places["prepared"] = prepared.pack()
    if predictor.calibration is not None:
        arrays, words = predictor.calibration.pack()
        places["calibration"] = {name: f"calibration-{name}.npy" for name in arrays}
        files |= {places["calibration"][name]: artifact._npy(values) for name, values in arrays.items()}
        places["calibration_of"] = words
    manifest = {
        "format": artifact.FORMAT,
        "format_version": _POINT_VERSION if prepared is None else artifact.RAW_POINT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": MODEL,
        "outcome": {"name": predictor.outcome, "classes": predictor.classes},
        "inputs": [entry.name for entry in predictor.inputs],
        **{name: {} for name in ("constants", "draws", "fixed", "programs")},
        **{name: [] for name in ("row_counts", "unread")},
        **places,
        "about": predictor.about,
        "versions": {name: version(name) for name in ("probinfer", "onnxruntime", "numpy")},
    }
    return artifact.with_manifest(manifest, files)


def read_point(path: str | os.PathLike[str]) -> PointPredictor:
    """The point model in the folder `path`. Raises ArtifactError for anything out of order."""
    manifest, files = artifact._checked(Path(path))
    with artifact._malformed(path):
        names, classes = list(map(str, manifest["inputs"])), manifest["outcome"]["classes"]
        prepared = artifact._prepared(path, manifest)
        if prepared is not None and (list(prepared.columns) != names or prepared.outcome is not None):
            raise ArtifactError(f"{path}: the preprocessing is not that of the inputs that the manifest lists.")
        try:
            predictor = PointPredictor(
                files[manifest["model"]],
                inputs=prepared if prepared is not None else names,
                outcome=str(manifest["outcome"]["name"]),
                classes=classes,
            )
        except (ModelError, PredictionError) as error:
            raise ArtifactError(f"{path}: {error}") from None
        predictor.about = dict(manifest["about"])
        return predictor.with_calibration(artifact._calibration(path, manifest, files, predictor.program))


def point_card(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> str:
    """What it is, in words."""
    with artifact._malformed(path):
        classes = manifest["outcome"]["classes"]
        kind = f"one of {', '.join(classes)}" if classes else "a number"
        prepared = artifact._prepared(path, manifest)
        needs = input_lines(prepared) or [f"  {name}: float64" for name in manifest["inputs"]]
        calibrated = calibration_lines(manifest.get("calibration_of")) or ["  not calibrated: no intervals"]
        lines = [
            f"Point predictor {path}",
            f"  outcome   {manifest['outcome']['name']}: {kind}",
            f"  model     {manifest['model']}, run by ONNX Runtime",
            *calibrated,
            f"  created   {manifest.get('created', 'unknown')}",
            f"  versions  {', '.join(f'{name} {number}' for name, number in manifest['versions'].items())}",
            "",
            "Every row needs",
            *needs,
            "",
            "Files",
            *(f"  {n}: {f['size']} bytes, sha-256 {f['sha256']}" for n, f in manifest["files"].items()),
        ]
    return "\n".join(lines)
