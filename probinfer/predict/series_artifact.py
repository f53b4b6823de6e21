"""A forecaster as a folder: its draws, its programs, and the states from which it goes on. Imports jax."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from probinfer.errors import ArtifactError
from probinfer.predict import artifact
from probinfer.predict.agreement import check_law, check_outcome
from probinfer.predict.families import FAMILIES
from probinfer.predict.family import Support
from probinfer.predict.forecaster import Forecaster
from probinfer.predict.motion import MATRICES, MOVE, WEIGH, Motion
from probinfer.predict.plain_files import write_plain_files
from probinfer.predict.program import PARAMETERS, SAMPLE
from probinfer.predict.series_answer import OUTCOME
from probinfer.predict.series_calibration import SeriesCalibration, series_calibration_lines
from probinfer.predict.standing import Standing

_EXACT, _PARTICLES, _WEIGHTS = ("mean", "covariance"), ("particles", "log_weights"), "draws"
_KINDS = ("float64", "int64")


def write_forecaster(forecaster: Forecaster, path: str | os.PathLike[str]) -> None:
    """Write the forecaster to `path`; see `write_plain_files`."""
    write_plain_files(partial(contents, forecaster), path)


def contents(forecaster: Forecaster) -> dict[str, bytes]:
    """The files of a forecaster, by name."""
    motion, standing = forecaster.motion, forecaster.standing
    files: dict[str, bytes] = {}

    def keep(name: str, content: bytes) -> str:
        files[name] = content
        return name

    states = dict(zip(_EXACT if motion.linear else _PARTICLES, standing.state, strict=True))
    states[_WEIGHTS] = standing.log_weights
    manifest = {
        "format": artifact.FORMAT,
        "format_version": artifact.SERIES_VERSION
        if forecaster.calibration is None
        else artifact.CALIBRATED_SERIES_VERSION,
        **artifact.made(),
        "outcome": {
            "name": OUTCOME,
            "family": motion.family.name if motion.family else None,
            "event": list(motion.event),
            "discrete": motion.discrete,
            "probabilities": motion.probabilities,
        },
        **{name: {} for name in ("constants", "fixed")},
        **{name: [] for name in ("inputs", "row_counts", "unread")},
        "size": motion.size,
        "chains": motion.chains,
        "draws": {
            name: keep(f"draws-{number}.npy", artifact._npy(values))
            for number, (name, values) in enumerate(motion.draws.items())
        },
        "programs": {
            role: keep(f"{role}.jaxexport", bytes(exported.serialize())) for role, exported in motion.programs.items()
        },
        "states": {name: keep(f"states-{name}.npy", artifact._npy(values)) for name, values in states.items()},
        "series": {
            "time": standing.time,
            "fitted": standing.fitted,
            "state": list(motion.state),
            "kinds": list(motion.kinds),
            "apart": motion.apart,
            "horizon": motion.horizon,
            "words": [int(word) for word in standing.words],
            "ess": standing.ess,
            "worst": standing.worst,
        },
        "about": forecaster.about,
    }
    if forecaster.calibration is not None:
        arrays, words = forecaster.calibration.pack()
        kept = {name: keep(f"calibration-{name}.npy", artifact._npy(values)) for name, values in arrays.items()}
        manifest |= {"calibration": kept, "calibration_of": words}
    return artifact.with_manifest(manifest, files)


def read_forecaster(path: str | os.PathLike[str]) -> Forecaster:
    """The forecaster at `path`. Raises ArtifactError for anything out of order."""
    manifest, files = artifact._checked(path)
    with artifact._malformed(path):
        outcome, words, size = manifest["outcome"], manifest["series"], manifest["size"]
        check_outcome(path, outcome, size, manifest["chains"])
        if outcome["family"] is not None and outcome["family"] not in FAMILIES:
            raise ArtifactError(
                f"{path}: the family of the observations is {outcome['family']!r}; this version knows "
                f"{', '.join(FAMILIES)}."
            )
        _check_series(path, words)
        motion = Motion(
            programs={role: artifact._exported(path, files[f], manifest) for role, f in manifest["programs"].items()},
            draws={name: artifact._array(path, file, files) for name, file in manifest["draws"].items()},
            chains=manifest["chains"],
            family=FAMILIES[outcome["family"]] if outcome["family"] is not None else None,
            event=tuple(outcome["event"]),
            state=tuple(words["state"]),
            kinds=tuple(words["kinds"]),
            discrete=outcome["discrete"],
            probabilities=outcome["probabilities"],
            apart=words["apart"],
            horizon=words["horizon"],
        )
        check_law(path, motion)
        arrays = {name: artifact._array(path, file, files) for name, file in manifest["states"].items()}
        _check_arrays(path, motion, arrays, size)
        _check_programs(path, motion)
        standing = Standing(
            time=words["time"],
            fitted=words["fitted"],
            log_weights=arrays[_WEIGHTS],
            state=tuple(arrays[name] for name in (_EXACT if motion.linear else _PARTICLES)),
            words=np.array(words["words"], np.uint32),
            ess=words["ess"],
            worst=words["worst"],
        )
        calibration = _calibration(path, manifest, files, motion)
    return Forecaster.from_standing(motion, standing, manifest["about"], calibration)


def _calibration(
    path: Any, manifest: Mapping[str, Any], files: Mapping[str, bytes], motion: Motion
) -> SeriesCalibration | None:
    if "calibration" not in manifest and "calibration_of" not in manifest:
        return None
    arrays = {name: artifact._array(path, file, files) for name, file in manifest["calibration"].items()}
    try:
        return SeriesCalibration.unpack(arrays, manifest["calibration_of"], motion)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: the calibration does not fit the forecaster: {error}.") from None


def _check_series(path: Any, words: Mapping[str, Any]) -> None:
    """Raise ArtifactError where what the manifest says of the series is none."""

    def whole(value: Any, least: int, most: float = np.inf) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    time, fitted, random, ess = words["time"], words["fitted"], words["words"], words["ess"]
    right = {
        "time": whole(time, 1),
        "fitted": whole(fitted, 1, time if whole(time, 1) else 0),
        "state": isinstance(words["state"], list) and all(whole(size, 1) for size in words["state"]),
        "kinds": isinstance(words["kinds"], list) and len(words["kinds"]) == 2 and set(words["kinds"]) <= set(_KINDS),
        "apart": isinstance(words["apart"], bool),
        "horizon": words["horizon"] is None or whole(words["horizon"], 1),
        "words": isinstance(random, list) and len(random) == 2 and all(whole(word, 0, 2**32 - 1) for word in random),
        "ess": ess is None or (isinstance(ess, int | float) and not isinstance(ess, bool) and ess >= 0),
        "worst": whole(words["worst"], 0),
    }
    if wrong := [f"{name} is {words[name]!r}" for name, holds in right.items() if not holds]:
        raise ArtifactError(f"{path}: what the manifest says of the series does not hold: {', '.join(wrong)}.")


def _check_arrays(path: Any, motion: Motion, arrays: Mapping[str, np.ndarray], size: int) -> None:
    """Raise ArtifactError where the arrays are not those of so many draws, or not numbers."""
    if size % (motion.chains or 1):
        raise ArtifactError(f"{path}: {size} draws are not those of {motion.chains} chains, which are of one length.")
    entries = motion.state[0] if motion.linear and len(motion.state) == 1 else 0
    particles = arrays["particles"].shape[1:2] if "particles" in arrays and arrays["particles"].ndim > 1 else (1,)
    wanted: dict[str, tuple] = {_WEIGHTS: ((size,), "float64")}
    if motion.linear:
        wanted |= {"mean": ((size, entries), "float64"), "covariance": ((size, entries, entries), "float64")}
    else:
        wanted |= {"particles": ((size, *particles, *motion.state), motion.kinds[1])}
        wanted |= {"log_weights": ((size, *particles), "float64")}
    found = {name: (values.shape, values.dtype.name) for name, values in arrays.items()}
    draws = {values.shape[:1] for values in motion.draws.values()} | {
        values.dtype.name for values in motion.draws.values()
    }
    if found != wanted or draws != {(size,), "float64"} or 0 in particles:
        raise ArtifactError(
            f"{path}: the arrays are not those of {size} draws with the states that the manifest describes: {found}."
        )
    logs = [values for name, values in arrays.items() if name in (_WEIGHTS, "log_weights")]
    if (
        any(np.isnan(values).any() or (values == np.inf).any() for values in logs)
        or not np.exp(arrays[_WEIGHTS]).sum() > 0
    ):
        raise ArtifactError(f"{path}: the weights of draws or particles are no weights.")


def _check_programs(path: Any, motion: Motion) -> None:
    """Raise ArtifactError where the programs are not those of such a model, by the shapes and types they take and
    give."""
    states, words = (motion.state, motion.kinds[1]), ((2,), "uint32")
    now = ((), "int64")
    y, numbers = (motion.event, motion.kinds[0]), (motion.event, "float64")
    taken: dict[str, tuple] = {MOVE: (states, now, words), SAMPLE: (states, now, words)}
    taken |= {WEIGH: (states, now, y, (motion.event, "bool"))}
    given: dict[str, list] = {MOVE: [states], SAMPLE: [numbers], WEIGH: [((), "float64")]}
    if motion.family is not None:
        classes = (motion.probabilities,) if motion.family.support is Support.CLASSES else ()
        taken[PARAMETERS] = (states, now)
        given[PARAMETERS] = [((*motion.event, *classes), "float64")] * len(motion.family.parameters)
    if motion.linear:
        d, k = motion.state[0], int(np.prod(motion.event, dtype=int))
        taken = {MATRICES: (now,)}
        given = {MATRICES: [(shape, "float64") for shape in ((d, d), (d, d), (d,), (k, d), (k, k), (k,))]}
    if set(motion.programs) != set(taken):
        raise ArtifactError(
            f"{path}: it has the programs {', '.join(sorted(motion.programs))}; wanted {', '.join(sorted(taken))}."
        )
    draws = {name: (values.shape[1:], values.dtype.name) for name, values in motion.draws.items()}
    for role, exported in motion.programs.items():
        (own, *more), _ = jax.tree.unflatten(exported.in_tree, list(exported.in_avals))
        # what belongs to a state has axes for draws and states before it; what belongs to a draw the first of them
        lead = [2 if kind in (states, words) and role != MATRICES else 0 for kind in taken[role]]
        lead += [0] * (len(more) - len(lead))
        found = [(aval.shape[skip:], str(aval.dtype)) for aval, skip in zip(more, lead, strict=False)]
        of_draws = {name: (aval.shape[1:], str(aval.dtype)) for name, aval in own.items()}
        skip = 1 if role == MATRICES else 2
        results = [(aval.shape[skip:], str(aval.dtype)) for aval in exported.out_avals]
        if (of_draws, found, results) != (draws, list(taken[role]), given[role]):
            raise ArtifactError(
                f"{path}: the manifest and the program {role!r} do not belong together. The manifest was altered or "
                "damaged; copy the folder again, or save the forecaster again."
            )


def forecaster_card(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> str:
    """What it is, in words."""
    forecaster = read_forecaster(path)
    motion, standing = forecaster.motion, forecaster.standing
    kind = "exact, linear Gaussian" if motion.linear else f"{standing.state[1].shape[1]} particles for every draw"
    known = "" if motion.horizon is None else f", and the model knows times up to {motion.horizon - 1}"
    with artifact._malformed(path):
        lines = [
            f"Forecaster {path}",
            f"  outcome   {artifact.law_words(manifest)}",
            artifact.draws_line(manifest),
            f"  states    {kind}; state of the shape {list(motion.state)}",
            f"  time      {standing.time} is next, the parameters were inferred from {standing.fitted} times{known}",
            f"  report    {forecaster.report}",
            *artifact.verdict_lines(manifest["about"]),
            *series_calibration_lines(manifest.get("calibration_of")),
            *artifact.made_lines(manifest),
            *artifact.origin_lines(manifest),
        ]
    return "\n".join(lines)
