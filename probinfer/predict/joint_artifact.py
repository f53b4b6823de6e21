"""A predictor of several outcomes as one folder: what the outcomes share is stored once."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from probinfer.errors import ArtifactError, PredictionError
from probinfer.model.pipeline.prepared import outcome_lines
from probinfer.predict import artifact, population_file
from probinfer.predict.conformal import calibration_lines
from probinfer.predict.joint import OWN, JointPredictor
from probinfer.predict.plain_files import write_plain_files
from probinfer.predict.predictor import Predictor


def write_joint(predictor: JointPredictor, path: str | os.PathLike[str]) -> None:
    """Write the predictor to `path`; see `write_plain_files`."""
    write_plain_files(partial(contents, predictor), path)


def contents(predictor: JointPredictor) -> dict[str, bytes]:
    """The files of a predictor, by name."""
    files: dict[str, bytes] = {}
    names: dict[bytes, str] = {}

    def keep(number: int, name: str, content: bytes) -> str:
        known = names.setdefault(content, f"{number}-{name}")
        files[known] = content
        return known

    parts = [
        {
            **artifact.description(part, partial(keep, number)),
            "about": {name: part.about[name] for name in OWN if name in part.about},
        }
        for number, part in enumerate(predictor.parts.values())
    ]
    manifest = {
        "format": artifact.FORMAT,
        "format_version": artifact.JOINT_VERSION,
        **artifact.made(),
        "parts": parts,
        "about": predictor.about,
    }
    return artifact.with_manifest(manifest, files)


def read_joint(path: str | os.PathLike[str]) -> JointPredictor:
    """The predictor at `path`. Raises ArtifactError for anything out of order."""
    manifest, files = artifact._checked(path)
    parts: dict[str, Predictor] = {}
    for words in manifest["parts"]:
        part = {**words, "versions": manifest["versions"], "about": {**manifest["about"], **words["about"]}}
        made = Predictor.from_program(*artifact.described(path, part, files)).of_file()
        if made.outcome in parts:
            raise ArtifactError(f"{path}: the manifest describes the outcome {made.outcome!r} twice.")
        parts[made.outcome] = made
    try:
        return JointPredictor.of(parts)
    except PredictionError as error:
        raise ArtifactError(f"{path}: {error}") from None


def joint_card(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> str:
    """What it is, in words."""
    with artifact._malformed(path):
        parts, about = manifest["parts"], manifest["about"]
        lines = [
            f"Predictor {path}",
            f"  outcomes  {len(parts)}, from the same posterior draws",
            artifact.draws_line(parts[0]),
            *artifact.verdict_lines(about),
            *artifact.made_lines(manifest),
        ]
        for words in parts:
            lines += [
                "",
                artifact.law_words(words),
                *artifact.cost_lines(words["about"]),
                *calibration_lines(words.get("calibration_of")),
                *population_file.lines(words.get("population")),
                *outcome_lines(artifact._prepared(path, words)),
                *artifact.row_lines(path, words),
            ]
        lines += [*artifact.fixed_lines(parts), *artifact.origin_lines(manifest)]
    return "\n".join(lines)
