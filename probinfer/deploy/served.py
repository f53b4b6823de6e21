"""A predictor as a server holds it: loaded, known by name and version, ready for questions. Imports numpy."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probinfer.deploy.answerer import Answerer, PointAnswers, PosteriorAnswers
from probinfer.deploy.fields import Field, fields_of, group_name, refuse_nested
from probinfer.deploy.named_outputs import Form, Output, offered
from probinfer.errors import ArtifactError, PredictionError
from probinfer.predict.artifact import MANIFEST, card
from probinfer.predict.interval import Answered, probability, take_groups
from probinfer.predict.joint import JointPredictor
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor
from probinfer.predict.predictor import load_row_predictor as load_predictor
from probinfer.predict.rows import content_hashes, read_outcomes, read_rows
from probinfer.predict.together import Question


@dataclass(frozen=True, eq=False)
class Served:
    """One version of one model.

    version  beginning of the SHA-256 of the manifest, which holds that of every other file
    answers  what computes
    fields   what every row must bring, its group included
    group    name under which requests bring each row's group; None if the predictor needs none
    form     what its outcome is
    outputs  what it can answer
    card     what `probinfer inspect` prints
    """

    name: str
    path: Path
    version: str
    predictor: Predictor | PointPredictor
    answers: Answerer
    fields: tuple[Field, ...]
    group: str | None
    form: Form
    outputs: tuple[Output, ...]
    card: str

    @property
    def outcome(self) -> str:
        """What records call the outcome: with a pipeline the raw column."""
        prepared = self.predictor.program.prepared
        return prepared.outcome.column.name if prepared and prepared.outcome else self.predictor.outcome

    @functools.cached_property
    def _single(self) -> tuple[str, ...]:
        """Fields of which a row has a single value, whatever it may be."""
        raw = self.predictor.program.prepared is not None
        return tuple(field.name for field in self.fields if raw or field.dtype == "text")

    def question(
        self, rows: Mapping[str, Any], count: int, level: float = 0.9, quantiles: Sequence[float] = ()
    ) -> Question:
        """A checked question about `count` rows. Raises PredictionError for rows, a level or quantiles that do not
        fit."""
        program, calibration = self.predictor.program, self.predictor.calibration
        if self._single:
            refuse_nested({name: rows[name] for name in self._single if name in rows})
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
        plain = program.family is not None or self.form.point
        hashes = np.zeros(count, np.uint32) if plain else content_hashes(columns, count)
        asked = tuple(probability("quantiles", q) for q in quantiles)
        return Question(columns, hashes, labels, probability("level", level), asked)

    def answer(self, questions: Sequence[Question]) -> list[Answered | PredictionError]:
        """All of them in one call."""
        return self.answers.answer(questions)

    def join(self, parts: Sequence[Answered], question: Question) -> Answered:
        """One answer from those of the question's parts, in their order."""
        return self.answers.join(parts, question)

    def outcomes(self, came: Any, count: int) -> np.ndarray:
        """Outcomes that came, as `lower` and `upper` count them, (count, *event): of labels the codes. Raises
        PredictionError where they do not fit."""
        if isinstance(self.predictor, PointPredictor):
            return self.predictor.outcomes(came, count)
        return read_outcomes(came, self.predictor.program, count)

    def example(self, rows: int = 1) -> dict[str, np.ndarray]:
        """Inputs that fit: zeros, of integers that pick a level the lowest, of raw columns a usual value."""
        return {field.name: field.examples(rows) for field in self.fields}


def load(name: str, path: Path) -> Served:
    """Load a predictor from its folder; of several outcomes the one that the name ends in, as in `persons.height`.

    Raises ArtifactError as `load_predictor` does, also where the folder changes meanwhile, for a point model of numbers
    that is not calibrated, and for several outcomes under a name that ends in none of them.
    """
    version = version_of(path)
    predictor = load_predictor(path)
    one_of_several = None
    if isinstance(predictor, JointPredictor):
        one_of_several = _named_outcome(name, path, predictor)
        predictor = predictor[one_of_several]
    if isinstance(predictor, PointPredictor) and predictor.classes is None and predictor.calibration is None:
        raise ArtifactError(
            f"The predictor in {path} is a point model that is not calibrated: it has no interval to answer with. "
            "Calibrate it with rows that it was not trained on, predictor.calibrate(rows, y), and save it again."
        )
    text = card(path)
    if version_of(path) != version:
        raise ArtifactError(f"{path} changed while it was read; read it again.")
    form = Form.of(predictor)
    point = isinstance(predictor, PointPredictor)
    answers = PointAnswers(predictor) if point else PosteriorAnswers(predictor, one_of_several)
    fields, group = fields_of(predictor), group_name(predictor)
    return Served(name, path, version, predictor, answers, fields, group, form, offered(form), text)


def _named_outcome(name: str, path: Path, predictor: JointPredictor) -> str:
    """The outcome that a model of this name serves: what its name ends in. Raises ArtifactError if it ends in none."""
    found = [outcome for outcome in predictor.outcomes if name.endswith(f".{outcome}")]
    if not found:
        models = " ".join(f"{name}.{outcome}={path}" for outcome in predictor.outcomes)
        raise ArtifactError(
            f"The predictor in {path} has the outcomes {', '.join(predictor.outcomes)}, and a served model has one, "
            f"that its name ends in. Serve each of them from the same folder: probinfer serve {models}."
        )
    return max(found, key=len)


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
