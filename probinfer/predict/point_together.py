"""Several questions to a point model answered by one call of it. Imports numpy."""

from collections.abc import Sequence

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.engine import Answer
from probinfer.predict.interval import Answered
from probinfer.predict.point import PointPredictor
from probinfer.predict.together import Question


def answer_points(predictor: PointPredictor, questions: Sequence[Question]) -> list[Answered | PredictionError]:
    """Each question's answer, or the error of its own, in the order of the questions.

    All variance stands as aleatoric, and the epistemic one is nan: a point model does not tell them apart.
    """
    results: list[Answered | PredictionError] = []
    for question, values in zip(questions, _values(predictor, questions), strict=True):
        try:
            results.append(values if isinstance(values, PredictionError) else _answered(predictor, question, values))
        except PredictionError as error:
            results.append(error)
    return results


def _values(predictor: PointPredictor, questions: Sequence[Question]) -> list[np.ndarray | PredictionError]:
    """What the model says to each question, asked once for all of them; where it fails in some row, of each alone."""
    columns = {
        entry.name: np.concatenate([question.columns[entry.name] for question in questions])
        for entry in predictor.program.inputs
    }
    try:
        values = predictor.values(columns, questions[0].first_row)
    except PredictionError as error:
        if len(questions) == 1:
            return [error]
        return [alone for question in questions for alone in _values(predictor, [question])]
    return [*np.split(values, np.cumsum([len(question.hashes) for question in questions])[:-1])]


def _answered(predictor: PointPredictor, question: Question, values: np.ndarray) -> Answered:
    quantiles = question.quantiles or None
    found = predictor.said(values, question.groups, question.level, quantiles)
    none, unknown = np.zeros((len(values), 0)), np.full(len(values), np.nan)
    answer = Answer(
        mean=found.mean,
        sd=found.sd,
        epistemic_sd=found.epistemic_sd,
        aleatoric_sd=found.aleatoric_sd,
        mcse=found.mcse,
        quantiles=none,
        probabilities=found.probabilities if found.probabilities is not None else none,
        defined=np.ones(len(values), bool),
        entropies=none if found.entropy is None else np.stack([found.entropy, unknown, unknown], axis=-1),
    )
    return Answered(
        answer,
        found.lower,
        found.upper,
        found.quantiles if found.quantiles is not None else none,
        found.sets,
        found.calibration_rows,
        found.guarantee,
    )
