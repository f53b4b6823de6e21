"""A predictor as a server holds it: loaded, known by name and version, ready for questions. Imports numpy.

`Served` answers about one outcome, `Several` about all outcomes of a `JointPredictor`; a forecaster is a
`ServedForecaster` (`forecasts`). `parts` are the outcomes of each, by name, and of one outcome that name is "".
"""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from probinfer.deploy.answerer import Answerer, PointAnswers, PosteriorAnswers
from probinfer.deploy.fields import Field, fields_of, fields_together, group_name, refuse_nested
from probinfer.deploy.forecasts import ServedForecaster, served_forecaster
from probinfer.deploy.named_outputs import Form, Output, offered, unasked
from probinfer.deploy.several import Answers, Questions, SeveralAnswers
from probinfer.errors import ArtifactError, PredictionError
from probinfer.predict.artifact import MANIFEST, card
from probinfer.predict.forecaster import Forecaster
from probinfer.predict.interval import Answered, Given, probability, take_groups
from probinfer.predict.joint import JointPredictor
from probinfer.predict.plain_files import manifest_bytes
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor, load_predictor
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

    @functools.cached_property
    def parts(self) -> "Mapping[str, Served]":
        """The model by its outcomes: itself."""
        return {"": self}

    @functools.cached_property
    def usual(self) -> tuple[tuple[str, Output], ...]:
        """What is answered when a request names no outputs: whose output ("" where there is one outcome), and which."""
        return tuple(("", output) for output in unasked(self.form))

    @property
    def raw(self) -> bool:
        """Rows are raw columns, of a pipeline."""
        return self.predictor.program.prepared is not None

    @property
    def outcome(self) -> str:
        """What records call the outcome: with a pipeline the raw column."""
        prepared = self.predictor.program.prepared
        return prepared.outcome.column.name if prepared and prepared.outcome else self.predictor.outcome

    @functools.cached_property
    def _single(self) -> tuple[str, ...]:
        """Fields of which a row has a single value, whatever it may be."""
        return tuple(field.name for field in self.fields if self.raw or field.dtype == "text")

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

    def answer(self, questions: Sequence[Question]) -> Sequence[Given | PredictionError]:
        """All of them in one call."""
        return self.answers.answer(questions)

    def join(self, parts: Sequence[Given], question: Question) -> Answered:
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


@dataclass(frozen=True, eq=False)
class Several:
    """One version of one model of several outcomes.

    parts    each outcome as it would be served alone, by its name
    answers  what computes, for all of them
    fields   what every row must bring for all outcomes together
    """

    name: str
    path: Path
    version: str
    predictor: JointPredictor
    parts: Mapping[str, Served]
    answers: SeveralAnswers
    fields: tuple[Field, ...]
    card: str

    @functools.cached_property
    def usual(self) -> tuple[tuple[str, Output], ...]:
        """What is answered when a request names no outputs, of every outcome."""
        return tuple((outcome, output) for outcome, part in self.parts.items() for output in unasked(part.form))

    @property
    def raw(self) -> bool:
        """Rows are raw columns, of a pipeline."""
        return any(part.raw for part in self.parts.values())

    def rows_of(self, outcome: str, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Those of all rows' values that this outcome takes. Raises PredictionError for a name too many or too few."""
        known = {field.name for field in self.fields}
        strangers, absent = [name for name in rows if name not in known], [name for name in known if name not in rows]
        if strangers:
            raise PredictionError(
                f"The model knows nothing called {', '.join(repr(name[:60]) for name in strangers[:10])}; rows need "
                f"{', '.join(field.name for field in self.fields) or 'nothing'}."
            )
        if absent:
            raise PredictionError(f"The rows lack {', '.join(sorted(absent))}.")
        return {field.name: rows[field.name] for field in self.parts[outcome].fields}

    def answer(self, questions: Sequence[Questions]) -> list[Answers | PredictionError]:
        """All of them in one call for each outcome."""
        return self.answers.answer(questions)

    def join(self, parts: Sequence[Answers], question: Questions) -> Answers:
        """One answer from those of the question's parts, in their order."""
        return self.answers.join(parts, question)

    def example(self, rows: int = 1) -> dict[str, np.ndarray]:
        """Inputs that fit, as `Served.example` has them."""
        return {field.name: field.examples(rows) for field in self.fields}


type One = Served | ServedForecaster
type Model = One | Several


def load(name: str, path: Path) -> Model:
    """Load a predictor or a forecaster that was saved: of several outcomes all, or the one that the name ends in, as
    in `persons.height`.

    Raises ArtifactError as `load_predictor` does, also where the folder changes meanwhile, for a point model of numbers
    that is not calibrated, for several outcomes that take different things under the same name, and for a name that
    ends in something close to the name of one.
    """
    version = version_of(path)
    predictor = load_predictor(path)
    text = card(path)
    if version_of(path) != version:
        raise ArtifactError(f"{path} changed while it was read; read it again.")
    if isinstance(predictor, Forecaster):
        return served_forecaster(name, path, version, predictor, text)
    if not isinstance(predictor, JointPredictor):
        return _one(name, path, version, predictor, text)
    named = [outcome for outcome in predictor.outcomes if name.endswith(f".{outcome}")]
    if named:
        outcome = max(named, key=len)
        return _one(name, path, version, predictor[outcome], text, outcome)
    head, dot, last = name.rpartition(".")
    meant = get_close_matches(last, list(predictor.outcomes), 1, 0.8) if dot else []
    if meant:
        raise ArtifactError(
            f"{path} has the outcomes {', '.join(predictor.outcomes)}, and none is what the name {name} ends in. Did "
            f"you mean {head}.{meant[0]}? A name without a dot serves all of them."
        )
    parts, answers = {}, {}
    for outcome, part in predictor.parts.items():
        answers[outcome] = PosteriorAnswers(part, outcome)
        parts[outcome] = _one(name, path, version, part, text, answers=answers[outcome])
    try:
        fields = fields_together([field for part in parts.values() for field in part.fields])
    except PredictionError as error:
        models = " ".join(f"{name}.{outcome}={path}" for outcome in parts)
        raise ArtifactError(f"{path}: {error} Serve each outcome under a name that ends in it: {models}.") from None
    return Several(name, path, version, predictor, parts, SeveralAnswers(answers), fields, text)


def _one(
    name: str,
    path: Path,
    version: str,
    predictor: Predictor | PointPredictor,
    text: str,
    noise_of: str | None = None,
    answers: Answerer | None = None,
) -> Served:
    """One outcome. noise_of: its name, where it is one of several; `answers`: what computes, where that is known."""
    if isinstance(predictor, PointPredictor) and predictor.classes is None and predictor.calibration is None:
        raise ArtifactError(
            f"The predictor in {path} is a point model that is not calibrated: it has no interval to answer with. "
            "Calibrate it with rows that it was not trained on, predictor.calibrate(rows, y), and save it again."
        )
    form = Form.of(predictor)
    if answers is None:
        point = isinstance(predictor, PointPredictor)
        answers = PointAnswers(predictor) if point else PosteriorAnswers(predictor, noise_of)
    fields, group = fields_of(predictor), group_name(predictor)
    return Served(name, path, version, predictor, answers, fields, group, form, offered(form), text)


def version_of(path: Path) -> str:
    """Name of the version in the folder or zip. Raises ArtifactError if there is none."""
    try:
        return hashlib.sha256(manifest_bytes(path)).hexdigest()[:16]
    except OSError as error:
        raise ArtifactError(f"{path / MANIFEST} cannot be read ({error}); is {path} a saved predictor?") from None


def signature(path: Path) -> tuple[int, int, int] | None:
    """What changes when the folder or zip is replaced; None while there is none, as between two renames."""
    try:
        found = os.stat(path / MANIFEST if path.is_dir() else path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
