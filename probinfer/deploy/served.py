"""A predictor as a server holds it: loaded, known by name and version, ready for questions. Imports numpy."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probinfer.deploy.named_outputs import Output, offered
from probinfer.errors import ArtifactError, PredictionError
from probinfer.predict.artifact import MANIFEST, card
from probinfer.predict.interval import Answered, probability, take_groups
from probinfer.predict.predictor import Predictor, load_predictor
from probinfer.predict.program import Input
from probinfer.predict.rows import content_hashes, read_rows
from probinfer.predict.sampling import sample_rows
from probinfer.predict.together import FewShapes, Question, answer_together

_KINDS = {"float64": np.float64, "int64": np.int64, "bool": np.bool_}
_DRAWS = (16, 128, 1024)  # draws are made in these numbers and cut to what was asked: few programs are compiled
GROUPS = "groups"  # what groups are called that were no column when the predictor was calibrated


@dataclass(frozen=True, eq=False)
class Served:
    """One version of one model.

    version  beginning of the SHA-256 of the manifest, which holds that of every other file
    group    name under which requests bring each row's group; None if the predictor needs none
    outputs  what it can answer
    card     what `probinfer inspect` prints
    """

    name: str
    path: Path
    version: str
    predictor: Predictor
    few: FewShapes
    group: str | None
    outputs: tuple[Output, ...]
    card: str

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What every row must bring, without its group."""
        return self.predictor.inputs

    def question(
        self, rows: Mapping[str, Any], count: int, level: float = 0.9, quantiles: Sequence[float] = ()
    ) -> Question:
        """A checked question about `count` rows. Raises PredictionError for rows, a level or quantiles that do not
        fit."""
        program, calibration = self.predictor.program, self.predictor.calibration
        groups = None
        if self.group is not None and calibration is not None and calibration.by is None:
            if self.group not in rows:
                raise PredictionError(f"The rows lack {self.group}, the group that each of them is of.")
            groups = rows[self.group]
            rows = {name: values for name, values in rows.items() if name != self.group}
        rows, labels = take_groups(rows, groups, calibration, program)
        columns, found = read_rows(rows, program)
        if columns and found != count:
            raise PredictionError(f"The inputs have {found} rows where {count} came.")
        hashes = np.zeros(count, np.uint32) if program.family else content_hashes(columns, count)
        asked = tuple(probability("quantiles", q) for q in quantiles)
        return Question(columns, hashes, labels, probability("level", level), asked)

    def answer(self, questions: Sequence[Question]) -> list[Answered | PredictionError]:
        """All of them in one call."""
        return answer_together(self.few, self.predictor.calibration, questions)

    def sample(self, question: Question, draws: int, seed: int) -> np.ndarray:
        """Predictive draws, (draws, rows, *event): those of `Predictor.sample`."""
        program, count = self.predictor.program, len(question.hashes)
        hashes = content_hashes(question.columns, count) if program.family else question.hashes
        made = next((size for size in _DRAWS if draws <= size), draws)
        return sample_rows(self.few.engine, question.columns, hashes, made, seed)[:draws]

    def example(self, rows: int = 1) -> dict[str, np.ndarray]:
        """Inputs that fit: zeros, and of integers that pick a level the lowest."""
        columns: dict[str, np.ndarray] = {
            i.name: np.full((rows, *i.shape), i.low or 0, _KINDS[i.dtype]) for i in self.inputs
        }
        calibration = self.predictor.calibration
        if self.group is not None and calibration is not None:
            columns[self.group] = np.full(rows, calibration.labels[0], object)
        return columns


def load(name: str, path: Path) -> Served:
    """Load a predictor from its folder. Raises ArtifactError as `load_predictor` does, also where the folder changes
    meanwhile."""
    version = version_of(path)
    predictor = load_predictor(path)
    if not isinstance(predictor, Predictor) or predictor.program.prepared is not None:
        what = "prepares its rows (pi.Pipeline)" if isinstance(predictor, Predictor) else "is a point model"
        raise ArtifactError(
            f"The predictor in {path} {what}, which the server does not do yet: it serves predictors whose inputs are "
            "numbers. `probinfer score` and pi.load_predictor answer for it."
        )
    text = card(path)
    if version_of(path) != version:
        raise ArtifactError(f"{path} changed while it was read; read it again.")
    calibration = predictor.calibration
    group = (calibration.by or GROUPS) if calibration is not None and calibration.grouped else None
    few = FewShapes(predictor._engine)
    outputs = offered(predictor.program, calibration)
    return Served(name, path, version, predictor, few, group, outputs, text)


def version_of(path: Path) -> str:
    """Name of the version in the folder. Raises ArtifactError if there is none."""
    try:
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ArtifactError(f"{path / MANIFEST} cannot be read ({error}); is {path} a saved predictor?") from None


def signature(path: Path) -> tuple[int, int, int] | None:
    """What changes when the folder is replaced; None while there is none, as between two renames."""
    try:
        found = os.stat(path / MANIFEST)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
