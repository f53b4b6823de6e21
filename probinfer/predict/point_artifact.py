"""A point model as a folder: its ONNX file, or those of several, its inputs or what prepares them, and its calibration,
of the same form as any predictor."""

import datetime
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

from probinfer.errors import ArtifactError, ModelError, PredictionError
from probinfer.model.pipeline.prepared import Prepared, input_lines
from probinfer.predict import artifact
from probinfer.predict.conformal import calibration_lines
from probinfer.predict.onnx_model import OnnxModel
from probinfer.predict.plain_files import check_path, write_plain_files
from probinfer.predict.point import PointPredictor
from probinfer.predict.point_conversion import as_onnx
from probinfer.predict.point_folds import FoldModels
from probinfer.predict.point_model import PointModel

MODEL = "model.onnx"
_POINT_VERSION = 5


def write_point(predictor: PointPredictor, path: str | os.PathLike[str]) -> None:
    """Write the predictor to `path`; see `write_plain_files`. Raises ModelError and MissingExtra as `as_onnx`
    does."""
    check_path(path)
    write_plain_files(partial(contents, as_onnx(predictor)), path)


def contents(predictor: PointPredictor) -> dict[str, bytes]:
    """The files of a predictor, by name."""
    asked, places = predictor.asked, {}
    names = [MODEL.replace(".", f"-{number}.") for number in range(len(asked.parts))]
    if isinstance(asked, FoldModels):
        places["folds"] = [{"model": name, "rows": n} for name, n in zip(names, asked.counts, strict=True)]
    else:
        names = [MODEL]
    files: dict[str, bytes] = {name: part.model.content for name, part in zip(names, asked.parts, strict=True)}
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
        "format_version": _version_of(predictor),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": names[0],
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
    """The point model at `path`. Raises ArtifactError for anything out of order."""
    manifest, files = artifact._checked(path)
    with artifact._malformed(path):
        names, classes = list(map(str, manifest["inputs"])), manifest["outcome"]["classes"]
        prepared = artifact._prepared(path, manifest)
        if prepared is not None and (list(prepared.columns) != names or prepared.outcome is not None):
            raise ArtifactError(f"{path}: the preprocessing is not that of the inputs that the manifest lists.")
        outcome = str(manifest["outcome"]["name"])
        try:
            if "folds" in manifest:
                folds = _folds(manifest, files, prepared if prepared is not None else names, outcome)
                predictor = PointPredictor.of_folds(folds, outcome, classes)
            else:
                inputs = prepared if prepared is not None else names
                predictor = PointPredictor(files[manifest["model"]], inputs=inputs, outcome=outcome, classes=classes)
        except (ModelError, PredictionError) as error:
            raise ArtifactError(f"{path}: {error}") from None
        predictor.about = dict(manifest["about"])
        calibration = artifact._calibration(path, manifest, files, predictor.program)
        plus = calibration.folds if calibration is not None and calibration.models is not None else None
        if plus != (len(manifest["folds"]) if "folds" in manifest else None):
            raise ArtifactError(f"{path}: the calibration is not that of the models that the manifest lists.")
        return predictor.with_calibration(calibration)


def _version_of(predictor: PointPredictor) -> int:
    if isinstance(predictor.asked, FoldModels):
        return artifact.FOLDS_VERSION
    return _POINT_VERSION if predictor.program.prepared is None else artifact.RAW_POINT_VERSION


def _folds(manifest: Mapping[str, Any], files: Mapping[str, bytes], inputs: Any, outcome: str) -> FoldModels:
    """The models that the manifest lists. Raises ModelError for what are none, and what its reader takes for damage."""
    entries, parts = manifest["folds"], []
    counts = [entry["rows"] for entry in entries]
    if len(entries) < 2 or not all(type(count) is int and count > 0 for count in counts):
        raise ModelError(f"the folds have the rows {counts}.")
    if isinstance(inputs, Prepared) and [each.argument for each in inputs.inputs] != [
        f"X{number}" for number in range(len(entries))
    ]:
        raise ModelError("the preprocessing is not that of each of its models.")
    for number, entry in enumerate(entries):
        own = replace(inputs, inputs=inputs.inputs[number : number + 1]) if isinstance(inputs, Prepared) else inputs
        parts.append(PointModel.of(OnnxModel.read(files[entry["model"]], threads=1), own, outcome))
    return FoldModels(tuple(parts), tuple(counts))


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
            f"  model     {_models(manifest)}, run by ONNX Runtime",
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


def _models(manifest: Mapping[str, Any]) -> str:
    folds = manifest.get("folds")
    return f"{len(folds)} of them, one without each fold of the rows" if folds else manifest["model"]
