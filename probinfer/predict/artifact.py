"""A predictor as plain files (`plain_files`), in a folder or one zip: checked whole before use, running no code of
its own.

    manifest.json        format, schema of inputs and outcome, verdict, provenance, versions; size and SHA-256 of
                         every other file, and SHA-256 of all this
    draws-0.npy, …       posterior draws of the sites that the outcome depends on; of a rounded predictor in float32
    fixed-0.npy, …       data of the model that are the same for every row
    calibration-*.npy    conformity scores, of a calibrated predictor or forecaster
    weights.npy          what each draw counts, of a compressed predictor
    population*          the law of levels that training never saw, of a predictor that answers them: a program, and the
                         draws that it needs besides
    <role>.jaxexport     the outcome's law as a portable program (StableHLO, by jax.export), any number of rows and
                         draws
    0-…, 1-…             of several outcomes (`joint_artifact`), the files of each; what they share is there once
    states-*.npy         of a forecaster (`series_artifact`), where its states are and what each draw counts

The hashes guard against damage and against files that do not belong together. They do not say who wrote the folder:
whoever may write to it may write a manifest that fits. Loading reads arrays without pickle and a program of array
operations; neither can run code.
"""

import contextlib
import datetime
import hashlib
import io
import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.errors import ArtifactError, ModelError
from probinfer.model.forks import before_jax
from probinfer.model.pipeline.change import Change
from probinfer.model.pipeline.prepared import Prepared, input_lines, outcome_lines
from probinfer.predict import population_file, traced
from probinfer.predict.agreement import check_outcome, check_programs, read_input
from probinfer.predict.changed import changed, changed_programs
from probinfer.predict.conformal import Calibration, calibration_lines
from probinfer.predict.families import FAMILIES
from probinfer.predict.family import Family
from probinfer.predict.plain_files import FORMAT, MANIFEST, Place, is_file_name, open_place, write_plain_files
from probinfer.predict.program import CDF, DENSITY, LOG_DENSITY, MOMENTS, PARAMETERS, SAMPLE, Program
from probinfer.predict.weights import Weights

if TYPE_CHECKING:
    from probinfer.predict.predictor import Predictor

FORMAT_VERSION = 11
# The least that holds a predictor, so that earlier releases read what they understand, and answer the same.
_PLAIN_VERSION, _CALIBRATED_VERSION, _WEIGHTED_VERSION, _PREPARED_VERSION = 1, 2, 3, 4  # 5: a point model
_ROUNDED_VERSION = 6  # draws in float32, or a calibration by cross-validation
JOINT_VERSION = 7  # several outcomes
SERIES_VERSION = 8  # a forecaster
RAW_POINT_VERSION = 9  # a point model of raw rows
CALIBRATED_SERIES_VERSION = 10  # a forecaster with calibrated intervals
FOLDS_VERSION = 11  # several point models, calibrated by CV+
SEAL = "manifest_sha256"  # the latter in every manifest since 0.1; none has to have it
_CALLED = re.compile(r'custom_call @"?([^\s"(]+)')
# What a program may call by name: the linear algebra, Fourier transforms and random bits of JAX's own libraries. Not
# callbacks into Python, which take an address from the program.
_OPERATION = re.compile(
    r"(lapack|cusolver|hipsolver|cublas|hipblas|cu|hip|cusparse|hipsparse|ducc|dynamic_ducc)_\w+|Eigh|Qr|LuDecomposition|"
    r"ProductOfElementaryHouseholderReflectors|Cholesky|TopK|ApproxTopK|shape_assertion|Sharding|"
    r"(stablehlo|mhlo|chlo)\.[\w.]+"
)
_ROLES = (PARAMETERS, SAMPLE, MOMENTS, LOG_DENSITY, CDF, DENSITY)
_TRACED = "own law"  # a family that no table has
_SECTIONS = {
    "outcome": dict, "inputs": list, "constants": dict, "row_counts": list, "unread": list, "draws": dict,
    "fixed": dict, "programs": dict, "about": dict, "versions": dict, "files": dict,
}  # fmt: skip
_JOINT_SECTIONS = {"parts": list, "about": dict, "versions": dict, "files": dict}  # each part has the others
_GROUPS = ("draws", "fixed", "programs", "calibration", "weights", "states")  # of files


# writing -------------------------------------------------------------------------------------------------------------


def write(predictor: "Predictor", path: str | os.PathLike[str]) -> None:
    """Write `predictor` to `path`; see `write_plain_files`."""
    write_plain_files(partial(contents, predictor), path)


def contents(predictor: "Predictor") -> dict[str, bytes]:
    """The files of a predictor, by name."""
    files: dict[str, bytes] = {}

    def keep(name: str, content: bytes) -> str:
        files[name] = content
        return name

    manifest = {
        "format": FORMAT,
        "format_version": _version_of(predictor),
        **made(),
        **description(predictor, keep),
        "about": predictor.about,
    }
    return with_manifest(manifest, files)


def made() -> dict[str, Any]:
    """When a predictor is written, and by what."""
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("probinfer", "jax", "jaxlib", "numpyro", "numpy")},
    }


def description(predictor: "Predictor", keep: Callable[[str, bytes], str]) -> dict[str, Any]:
    """A predictor in the manifest's words. keep: takes the name and content of a file, and says what it is called."""
    program = predictor.program
    places: dict[str, dict[str, Any]] = {"draws": {}, "fixed": {}, "programs": {}}
    for group, arrays in (("draws", program.draws), ("fixed", program.fixed)):
        for number, (name, values) in enumerate(arrays.items()):
            content = _stored(predictor, values) if group == "draws" else _npy(values)
            places[group][name] = keep(f"{group}-{number}.npy", content)
    for role, exported in program.programs.items():
        places["programs"][role] = keep(f"{role}.jaxexport", bytes(exported.serialize()))
    calibration = predictor.calibration
    if calibration is not None:
        arrays, words = calibration.pack()
        places["calibration"] = {name: keep(f"calibration-{name}.npy", _npy(values)) for name, values in arrays.items()}
        places["calibration_of"] = words
    if program.prepared is not None:
        places["prepared"] = program.prepared.pack()
    if program.weights is not None:
        places["weights"] = {"weights": keep("weights.npy", _npy(program.weights.values))}
        places["weights_of"] = {"mean_error": program.weights.mean_error}
    if program.population is not None:
        places["population"] = population_file.pack(program.population, keep, partial(_stored, predictor))
    return {
        "outcome": {
            "name": program.outcome,
            "family": _family_name(program.family),
            "event": list(program.event),
            "discrete": program.discrete,
            "probabilities": program.probabilities,
            **({"law": traced.pack(program.family)} if program.family and program.family.traced else {}),
        },
        "inputs": [
            {"name": i.name, "dtype": i.dtype, "shape": list(i.shape), "low": i.low, "high": i.high}
            for i in program.inputs
        ],
        "constants": dict(program.constants),
        "row_counts": list(program.row_counts),
        "unread": list(program.unread),
        "size": program.size,
        "chains": program.chains,
        **places,
    }


def _stored(predictor: "Predictor", values: np.ndarray) -> bytes:
    """Draws as a file, in half the space if they are rounded."""
    single = predictor.rounding is not None and values.dtype.kind == "f"
    return _npy(values.astype(np.float32) if single else values)


def with_manifest(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files, and the manifest with the size and hash of each."""
    hashes = {name: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()}
    return {**files, MANIFEST: sealed(in_words({**manifest, "files": hashes}))}


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as a file, with the hash of what it says."""
    text = json.dumps({**manifest, SEAL: seal_of(manifest)}, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def seal_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content, however it is laid out: its JSON without the hash itself, keys in order, no
    spaces, in ASCII."""
    said = {name: value for name, value in manifest.items() if name != SEAL}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _version_of(predictor: "Predictor") -> int:
    """The earliest format that says all of it."""
    crossed = predictor.calibration is not None and predictor.calibration.folds is not None
    if predictor.rounding is not None or crossed:
        return _ROUNDED_VERSION
    if predictor.program.prepared is not None:
        return _PREPARED_VERSION
    if predictor.program.weights is not None:
        return _WEIGHTED_VERSION
    return _PLAIN_VERSION if predictor.calibration is None else _CALIBRATED_VERSION


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def in_words(value: Any) -> Any:
    """`value` in JSON's types; what JSON has no number for (nan, inf) becomes text."""
    if isinstance(value, Mapping):
        return {str(key): in_words(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [in_words(entry) for entry in value]
    if isinstance(value, np.generic):
        return in_words(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


# reading -------------------------------------------------------------------------------------------------------------


def read(path: Any) -> tuple[Program, dict[str, Any], Calibration | None]:
    """The program in the artifact at `path`, what is known about it, and its calibration. Raises ArtifactError for
    anything out of order."""
    manifest, files = _checked(path)
    return described(path, manifest, files)


def described(
    path: Any, manifest: Mapping[str, Any], files: Mapping[str, bytes]
) -> tuple[Program, dict[str, Any], Calibration | None]:
    """The predictor that a manifest describes, or a part of one."""
    with _malformed(path):
        outcome = manifest["outcome"]
        family = outcome["family"]
        if family is not None and family not in (*FAMILIES, _TRACED):
            raise ArtifactError(
                f"{path}: the outcome's family is {family!r}; this version knows {', '.join(FAMILIES)}."
            )
        size, chains = manifest["size"], manifest["chains"]
        check_outcome(path, outcome, size, chains)
        draws = {name: _in_double(_array(path, file, files)) for name, file in manifest["draws"].items()}
        if (
            not draws
            or any(values.ndim == 0 or len(values) != size for values in draws.values())
            or size % (chains or 1)
        ):
            raise ArtifactError(f"{path}: the arrays of draws do not have the {size} draws that the manifest says.")
        prepared = _prepared(path, manifest)
        change = prepared.outcome.change if prepared and prepared.outcome else None
        programs = {role: _exported(path, files[file], manifest) for role, file in manifest["programs"].items()}
        program = Program(
            outcome=outcome["name"],
            family=_family(path, outcome, programs, change) if family is not None else None,
            inputs=tuple(read_input(path, words) for words in manifest["inputs"]),
            draws=draws,
            chains=chains,
            fixed={name: _array(path, file, files) for name, file in manifest["fixed"].items()},
            constants=manifest["constants"],
            row_counts=tuple(manifest["row_counts"]),
            unread=tuple(manifest["unread"]),
            event=tuple(outcome["event"]),
            discrete=outcome["discrete"],
            probabilities=outcome["probabilities"],
            programs=programs if family is not None else changed_programs(programs, change),
            prepared=prepared,
            weights=_weights(path, manifest, files),
        )
        program = _with_population(path, manifest, files, program)
        wanted = {PARAMETERS} if family is not None else {SAMPLE, LOG_DENSITY}
        wanted |= {SAMPLE, CDF, DENSITY} if family == _TRACED else set()
        if not wanted <= set(program.programs) <= set(_ROLES):
            raise ArtifactError(f"{path}: it has the programs {sorted(program.programs)}; wanted {sorted(wanted)}.")
        check_programs(path, program)
        _check_prepared(path, program)
        if program.weights is not None and (family is None or len(program.weights.values) != size):
            raise ArtifactError(f"{path}: the weights do not fit the {size} draws.")
        calibration = _calibration(path, manifest, files, program)
    return program, manifest["about"], calibration


def _prepared(path: Any, manifest: Mapping) -> Prepared | None:
    if not manifest.get("prepared"):
        return None
    try:
        return Prepared.unpack(manifest["prepared"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: the preprocessing is no such description: {error}.") from None


def _check_prepared(path: Any, program: Program) -> None:
    """The columns that the preprocessing makes are those that the program reads."""
    if program.prepared is None:
        return
    made = {each.argument: (len(each.names),) if each.matrix else () for each in program.prepared.inputs}
    for entry in program.inputs:
        if made.get(entry.name) != entry.shape:
            raise ArtifactError(
                f"{path}: the preprocessing does not make the input {entry.name!r} as the program reads it."
            )
    labels = program.labels
    if labels is not None and len(labels) != program.probabilities:
        raise ArtifactError(f"{path}: the outcome has {len(labels)} labels for {program.probabilities} classes.")


def _family_name(family: Family | None) -> str | None:
    if family is None:
        return None
    return _TRACED if family.traced else (family.of or family).name


def _family(path: Any, outcome: Mapping[str, Any], programs: Mapping[str, Any], change: Change | None) -> Family:
    try:
        if outcome["family"] == _TRACED:
            return changed(traced.unpack(outcome.get("law"), programs), change)
        return changed(FAMILIES[outcome["family"]], change)
    except ModelError as error:
        raise ArtifactError(f"{path}: the outcome's transform does not go with its law: {error}") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: the outcome's law does not fit its programs: {error}.") from None


def _weights(path: Any, manifest: Mapping, files: Mapping[str, bytes]) -> Weights | None:
    if not manifest.get("weights"):
        return None
    values = _array(path, manifest["weights"]["weights"], files)
    try:
        return Weights(np.asarray(values, float), float(manifest["weights_of"]["mean_error"]))
    except ValueError as error:
        raise ArtifactError(f"{path}: the weights are damaged: {error}.") from None


def _with_population(path: Any, manifest: Mapping, files: Mapping[str, bytes], program: Program) -> Program:
    words = manifest.get("population")
    if not words:
        return program
    draws = {name: _in_double(_array(path, file, files)) for name, file in words["draws"].items()}
    exported = _exported(path, files[words["program"]], manifest)
    try:
        return replace(program, population=population_file.unpack(words, draws, exported, program))
    except ValueError as error:
        raise ArtifactError(f"{path}: the law of new levels does not fit the predictor: {error}.") from None


def _calibration(path: Any, manifest: Mapping, files: Mapping[str, bytes], program: Program) -> Calibration | None:
    if not manifest.get("calibration"):
        return None
    arrays = {name: _array(path, file, files) for name, file in manifest["calibration"].items()}
    try:
        return Calibration.unpack(arrays, manifest["calibration_of"], program)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: the calibration does not fit the predictor: {error}.") from None


def card(path: str | os.PathLike[str]) -> str:
    """What the predictor at `path` is, in words: outcome, inputs, verdict, provenance, files. Checks every file."""
    path = open_place(path)  # read once, so that it is the same throughout
    manifest, _ = _checked(path)
    if "model" in manifest:
        from probinfer.predict.point_artifact import point_card

        return point_card(path, manifest)
    if "parts" in manifest:
        from probinfer.predict.joint_artifact import joint_card

        return joint_card(path, manifest)
    if "series" in manifest:
        from probinfer.predict.series_artifact import forecaster_card

        return forecaster_card(path, manifest)
    with _malformed(path):
        about = manifest["about"]
        lines = [
            f"Predictor {path}",
            f"  outcome   {law_words(manifest)}",
            draws_line(manifest),
            *cost_lines(about),
            *verdict_lines(about),
            *calibration_lines(manifest.get("calibration_of")),
            *population_file.lines(manifest.get("population")),
            *outcome_lines(_prepared(path, manifest)),
            *made_lines(manifest),
            "",
            *row_lines(path, manifest),
            *fixed_lines([manifest]),
            *origin_lines(manifest),
        ]
    return "\n".join(lines)


def law_words(words: Mapping[str, Any]) -> str:
    """An outcome and its law."""
    outcome = words["outcome"]
    event = f", {outcome['event']} numbers a row" if outcome["event"] else ""
    law = outcome["family"] or "a law without closed form, answered from predictive draws"
    return f"{outcome['name']} ~ {law}{event}"


def draws_line(words: Mapping[str, Any]) -> str:
    """How many draws there are, of what kind."""
    chains = f"{words['chains']} chains" if words["chains"] else "independent draws"
    return f"  draws     {words['size']} ({'weighted' if words.get('weights') else chains})"


def cost_lines(about: Mapping[str, Any]) -> list[str]:
    """What compressing and rounding cost."""
    from probinfer.predict.compress import compression_lines
    from probinfer.predict.single import rounding_lines

    return [*compression_lines(about.get("compression")), *rounding_lines(about.get("rounding"))]


def verdict_lines(about: Mapping[str, Any]) -> list[str]:
    """How far to trust the posterior."""
    return [
        f"  verdict   {about.get('verdict', 'unknown')} (accepted: {about.get('accepted', 'unknown')})",
        *(f"            {f['severity']}: {f['what']} ({f['where']})" for f in about.get("findings", [])),
    ]


def made_lines(manifest: Mapping[str, Any]) -> list[str]:
    """When it was written, and by what."""
    return [
        f"  created   {manifest.get('created', 'unknown')}",
        f"  versions  {', '.join(f'{name} {number}' for name, number in manifest['versions'].items())}",
    ]


def row_lines(path: Any, words: Mapping[str, Any]) -> list[str]:
    """What rows must bring."""
    prepared = _prepared(path, words)
    lines = ["Every row needs" if words["inputs"] else "Rows need no inputs.", *input_lines(prepared)]
    for i in words["inputs"] if prepared is None else ():
        known = f", {i['low']} to {i['high']}" if i["low"] is not None else ""
        columns = f" as {i['name']}[0], …" if i["shape"] else ""
        lines.append(f"  {i['name']}: {i['dtype']}{i['shape'] or ''}{columns}{known}")
    return lines


def fixed_lines(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What rows cannot change."""
    fixed: dict[str, Any] = {}
    for words in parts:
        fixed |= {**words["constants"], **dict.fromkeys(words["fixed"], "an array")}
    return ["", "Fixed in training", *(f"  {name}: {value}" for name, value in fixed.items())] if fixed else []


def origin_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Where the posterior came from, and the files."""
    origin = manifest["about"].get("provenance", {})
    return [
        "",
        "Provenance",
        *(f"  {name}: {value}" for name, value in origin.items()),
        "",
        "Files",
        *(f"  {n}: {f['size']} bytes, sha-256 {f['sha256']}" for n, f in manifest["files"].items()),
    ]


def sections(path: Any) -> set[str]:
    """What the manifest has: "model" for a point model, "parts" for several outcomes, "series" for a forecaster. Reads
    the manifest only."""
    return set(_manifest(open_place(path)))


def _checked(path: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest, and every file it declares with its content, after all checks."""
    place = open_place(path)
    manifest = _manifest(place)
    files: dict[str, bytes] = {}
    for name, declared in manifest["files"].items():
        if not is_file_name(name):
            raise ArtifactError(f"{path}: the manifest declares {name!r}, which is no name of a file in this folder.")
        with _malformed(path):
            size, digest = declared["size"], declared["sha256"]
        content = place.content(name, size)
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise ArtifactError(
                f"{Path(path) / name} is damaged or was changed: {len(content)} bytes, declared {size}, and SHA-256 "
                f"{'differs' if len(content) == size else 'is not compared'}. Copy the folder again, or save it again."
            )
        files[name] = content
    strangers = sorted(name for name in place.names() if name not in files and name != MANIFEST)
    if strangers:
        raise ArtifactError(
            f"{path} holds {', '.join(strangers)}, which its manifest does not declare; remove what was added."
        )
    with _malformed(path):
        parts = manifest.get("parts", [manifest])
        used = [file for part in parts for group in _GROUPS for file in part.get(group, {}).values()]
        used += [manifest["model"]] if "model" in manifest else []
        used += [file for part in parts for file in population_file.names(part.get("population"))]
        missing = sorted(str(file) for file in used if file not in files)
    if missing:
        raise ArtifactError(f"{path}: the manifest refers to {', '.join(missing)}, which are not among its files.")
    return manifest, files


def _manifest(path: Place) -> dict[str, Any]:
    content = path.content(MANIFEST, None)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{Path(path) / MANIFEST} is no JSON ({error}); the folder is damaged or no predictor."
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path} is no saved predictor: its manifest does not say {FORMAT!r}.")
    number = manifest.get("format_version")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ArtifactError(
            f"{path} has the format version {number!r}; versions begin at 1, so its manifest was altered or damaged. "
            "Copy the folder again, or save the predictor again."
        )
    if number > FORMAT_VERSION:
        versions = manifest.get("versions")
        writer = versions.get("probinfer", "unknown") if isinstance(versions, dict) else "unknown"
        raise ArtifactError(
            f"{path} has the format version {number!r}; this probinfer ({version('probinfer')}) reads up to "
            f"{FORMAT_VERSION}. It was written by probinfer {writer}: install that version or a later one."
        )
    if SEAL in manifest and manifest[SEAL] != seal_of(manifest):
        raise ArtifactError(
            f"{Path(path) / MANIFEST} is damaged or was changed: its content has another SHA-256 than it declares. "
            "Copy the folder again, or save the predictor again."
        )
    _check_sections(path, manifest, _JOINT_SECTIONS if "parts" in manifest else _SECTIONS)
    if manifest.get("parts") == []:
        raise ArtifactError(f"{path}: the manifest describes no outcome.")
    for part in manifest.get("parts", ()):
        if not isinstance(part, dict):
            raise ArtifactError(f"{Path(path) / MANIFEST} is malformed: a part of it is {part!r}.")
        _check_sections(
            path, part, {name: kind for name, kind in _SECTIONS.items() if name not in ("versions", "files")}
        )
    return manifest


def _check_sections(path: Any, words: Mapping[str, Any], sections: Mapping[str, type]) -> None:
    for name, kind in sections.items():
        if not isinstance(words.get(name), kind):
            raise ArtifactError(f"{Path(path) / MANIFEST} is incomplete: {name!r} is missing or no {kind.__name__}.")


def _array(path: Any, name: str, files: Mapping[str, bytes]) -> np.ndarray:
    try:
        _check_length(files[name])
        values = np.load(io.BytesIO(files[name]), allow_pickle=False)
    except (ValueError, EOFError, OverflowError) as error:
        raise ArtifactError(f"{path}: {name} holds no array ({error}).") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise ArtifactError(f"{path}: {name} holds no array of numbers.")
    return values


def _in_double(values: np.ndarray) -> np.ndarray:
    """Draws stored in single precision, as the programs take them."""
    return values.astype(float) if values.dtype == np.float32 else values


def _check_length(content: bytes) -> None:
    """Raise ValueError for an array whose header declares another size than the file has: NumPy would make room for it
    first, however large."""
    file = io.BytesIO(content)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    number = np.lib.format.read_magic(file)
    if number not in read:
        raise ValueError(f"its format is {number}")
    try:
        shape, _, dtype = read[number](file)
    except Exception as error:  # noqa: BLE001 - Python's own tokenizer and parser read it, and have errors of their own
        raise ValueError(f"its header is none: {type(error).__name__} {error}") from None
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"it declares the shape {shape}, which its size does not fit")


def _exported(path: Any, content: bytes, manifest: Mapping[str, Any]) -> Any:
    import jax
    import jax.export

    before_jax()
    try:
        exported = jax.export.deserialize(bytearray(content))
        foreign = sorted(set(_CALLED.findall(exported.mlir_module())) - {""})
    except ValueError as error:
        raise ArtifactError(
            f"{path}: this JAX ({jax.__version__}) no longer reads the program, which JAX "
            f"{manifest['versions'].get('jax')} wrote; JAX keeps exports readable for about half a year ({error}). "
            "Make the predictor again from the saved posterior, Predictor(load_posterior(…, model, data)).save(…), or "
            f"install jax=={manifest['versions'].get('jax')}."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever its reader runs into in other bytes, parsers of its own included
        raise ArtifactError(
            f"{path}: a file holds no program ({type(error).__name__} {error}). Copy the folder again, or save the "
            "predictor again."
        ) from None
    foreign = [name for name in foreign if not _OPERATION.fullmatch(name)]
    if foreign:
        raise ArtifactError(
            f"{path}: a program calls {', '.join(foreign)}, which is no array operation. Programs of predictors that "
            "probinfer saved call nothing outside; do not use this one."
        )
    return exported


@contextlib.contextmanager
def _malformed(path: Any) -> Any:
    """A manifest whose parts are not of the form that they should be is the folder's fault."""
    try:
        yield
    except ArtifactError:
        raise
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        AssertionError,
        struct.error,
    ) as error:
        raise ArtifactError(f"{Path(path) / MANIFEST} is malformed: {type(error).__name__} {error}.") from None
