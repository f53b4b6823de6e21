"""What a server can say about a row, by name. Imports numpy.

Every output has the rows on its first axis, whatever it is called in Python: `samples` is (rows, draws, *event).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from probinfer.predict.interval import Answered, entropy_parts, is_classes
from probinfer.predict.point import PointPredictor
from probinfer.predict.predictor import Predictor

QUANTILES_IF_NONE_NAMED = (0.05, 0.25, 0.5, 0.75, 0.95)


class Output(Enum):
    """Named outputs, as a request's `outputs` lists them."""

    __hash__ = object.__hash__  # that of Enum is a function in Python, and of every answer

    MEAN = "mean"
    SD = "sd"
    LOWER = "lower"
    UPPER = "upper"
    EPISTEMIC_SD = "epistemic_sd"
    ALEATORIC_SD = "aleatoric_sd"
    MCSE = "mcse"
    QUANTILES = "quantiles"
    PROBABILITIES = "probabilities"
    MOST_PROBABLE = "most_probable"
    ENTROPY = "entropy"
    EXPECTED_ENTROPY = "expected_entropy"
    MUTUAL_INFORMATION = "mutual_information"
    IN_SET = "in_set"
    CALIBRATION_ROWS = "calibration_rows"
    TIME = "time"
    SAMPLES = "samples"


MEANING = {
    Output.MEAN: "mean of the predictive distribution; of a binary outcome the probability of 1",
    Output.SD: "standard deviation of the predictive distribution",
    Output.LOWER: "lower end of the interval that holds the outcome with probability `level`",
    Output.UPPER: "upper end of the interval",
    Output.EPISTEMIC_SD: "part of sd that comes from not knowing the parameters",
    Output.ALEATORIC_SD: "part of sd that would remain if they were known",
    Output.MCSE: "Monte Carlo standard error of the mean",
    Output.QUANTILES: "quantiles of the predictive distribution",
    Output.PROBABILITIES: "probability of each class, or of the first few counts",
    Output.MOST_PROBABLE: "the most probable class: its label, or its code where it has none",
    Output.ENTROPY: "doubt about the class: entropy of `probabilities` in nats",
    Output.EXPECTED_ENTROPY: "part of entropy that would remain if the parameters were known",
    Output.MUTUAL_INFORMATION: "part of entropy that comes from not knowing the parameters",
    Output.IN_SET: "whether each class is in the set that holds the outcome with probability `level`",
    Output.CALIBRATION_ROWS: "how many calibration rows stand behind the interval",
    Output.TIME: "number of the time that is forecast; the first that was ever observed is 0",
    Output.SAMPLES: "draws from the predictive distribution",
}
_POINT = (Output.MEAN, Output.SD, Output.LOWER, Output.UPPER)
_ALWAYS = (Output.MEAN, Output.SD, Output.LOWER, Output.UPPER, Output.EPISTEMIC_SD, Output.ALEATORIC_SD, Output.MCSE)
_TIMES = (Output.TIME, *_ALWAYS)
_UNASKED = (Output.MEAN, Output.SD, Output.LOWER, Output.UPPER, Output.EPISTEMIC_SD, Output.MCSE)


@dataclass(frozen=True)
class Form:
    """What a model's outcome is, as far as its outputs depend on it.

    event          shape of one row's outcome; () for a number
    discrete       it takes whole numbers
    probabilities  how many of them an answer has; 0 for none
    classes        the outcome is a class
    labels         of the classes, where they have any but 0, 1, …
    point          the model gives one number or class and knows no distribution
    calibrated     its intervals or sets are
    times          its rows are times to come
    """

    event: tuple[int, ...] = ()
    discrete: bool = False
    probabilities: int = 0
    classes: bool = False
    labels: tuple[str, ...] | None = None
    point: bool = False
    calibrated: bool = False
    times: bool = False

    @classmethod
    def of(cls, predictor: Predictor | PointPredictor) -> "Form":
        """The form of a predictor's outcome."""
        program, calibrated = predictor.program, predictor.calibration is not None
        if isinstance(predictor, PointPredictor):
            known = predictor.classes or ()
            labels = known if known and list(known) != [str(code) for code in range(len(known))] else None
            return cls((), bool(known), len(known), bool(known), labels, True, calibrated)
        labels, classes = program.labels, is_classes(program)
        return cls(program.event, program.discrete, program.probabilities, classes, labels, False, calibrated)


def offered(form: Form) -> tuple[Output, ...]:
    """The outputs that a predictor has."""
    found = [*(_POINT if form.point else _TIMES if form.times else _ALWAYS)]
    if not (form.point and form.classes):
        found.append(Output.QUANTILES)
    if form.probabilities:
        found.append(Output.PROBABILITIES)
    if form.classes:
        found += [Output.MOST_PROBABLE, Output.IN_SET, Output.ENTROPY]
        found += () if form.point else (Output.EXPECTED_ENTROPY, Output.MUTUAL_INFORMATION)
    if form.calibrated:
        found.append(Output.CALIBRATION_ROWS)
    return (*found,) if form.point else (*found, Output.SAMPLES)


def unasked(form: Form) -> tuple[Output, ...]:
    """What is answered when a request names no outputs."""
    found = _POINT if form.point else _TIMES if form.times else _UNASKED
    return (*found, Output.PROBABILITIES, Output.MOST_PROBABLE) if form.classes else found


def datatype(output: Output, form: Form) -> str:
    """Of the Open Inference Protocol."""
    if output is Output.MOST_PROBABLE and form.labels:
        return "BYTES"
    if output in (Output.MOST_PROBABLE, Output.CALIBRATION_ROWS, Output.TIME):
        return "INT64"
    if output is Output.IN_SET:
        return "BOOL"
    return "INT64" if output is Output.SAMPLES and form.discrete else "FP64"


def shape(output: Output, form: Form) -> list[int]:
    """Shape with -1 for what the request decides."""
    event = list(form.event)
    if output is Output.SAMPLES:
        return [-1, -1, *event]
    if output is Output.QUANTILES:
        return [-1, *event, -1]
    if output in (Output.PROBABILITIES, Output.IN_SET):
        return [-1, *event, form.probabilities]
    return [-1] if output in (Output.CALIBRATION_ROWS, Output.TIME) else [-1, *event]


_READ: Mapping[Output, Callable[[Answered], np.ndarray | None]] = {
    Output.MEAN: lambda found: found.answer.mean,
    Output.SD: lambda found: found.answer.sd,
    Output.LOWER: lambda found: found.lower,
    Output.UPPER: lambda found: found.upper,
    Output.EPISTEMIC_SD: lambda found: found.answer.epistemic_sd,
    Output.ALEATORIC_SD: lambda found: found.answer.aleatoric_sd,
    Output.MCSE: lambda found: found.answer.mcse,
    Output.QUANTILES: lambda found: found.quantiles,
    Output.PROBABILITIES: lambda found: found.answer.probabilities,
    Output.IN_SET: lambda found: found.sets,
    Output.CALIBRATION_ROWS: lambda found: found.calibration_rows,
    Output.TIME: lambda found: found.times,
}


def values(output: Output, form: Form, found: Answered | None, samples: np.ndarray | None) -> np.ndarray:
    """The output's numbers, rows first; of the most probable class the label, where classes have any."""
    if output is Output.SAMPLES:
        assert samples is not None
        return np.moveaxis(samples, 0, 1)
    assert found is not None
    answer = found.answer
    if output is Output.MOST_PROBABLE:
        codes = np.argmax(answer.probabilities, axis=-1)
        return np.array(form.labels, object)[codes] if form.labels else codes
    parts = entropy_parts(answer)
    if output.value in parts:
        return parts[output.value]
    chosen = _READ[output](found)
    assert chosen is not None
    return chosen
