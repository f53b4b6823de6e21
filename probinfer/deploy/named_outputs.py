"""What a server can say about a row, by name. Imports numpy.

Every output has the rows on its first axis, whatever it is called in Python: `samples` is (rows, draws, *event).
"""

from enum import Enum

import numpy as np

from probinfer.predict.conformal import Calibration
from probinfer.predict.family import Support
from probinfer.predict.interval import Answered
from probinfer.predict.program import Program

QUANTILES_IF_NONE_NAMED = (0.05, 0.25, 0.5, 0.75, 0.95)


class Output(Enum):
    """Named outputs, as a request's `outputs` lists them."""

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
    IN_SET = "in_set"
    CALIBRATION_ROWS = "calibration_rows"
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
    Output.MOST_PROBABLE: "code of the most probable class",
    Output.IN_SET: "whether each class is in the set that holds the outcome with probability `level`",
    Output.CALIBRATION_ROWS: "how many calibration rows stand behind the interval",
    Output.SAMPLES: "draws from the predictive distribution",
}
_ALWAYS = (Output.MEAN, Output.SD, Output.LOWER, Output.UPPER, Output.EPISTEMIC_SD, Output.ALEATORIC_SD, Output.MCSE)
_UNASKED = (Output.MEAN, Output.SD, Output.LOWER, Output.UPPER, Output.EPISTEMIC_SD, Output.MCSE)


def offered(program: Program, calibration: Calibration | None) -> tuple[Output, ...]:
    """The outputs that a predictor has."""
    found = [*_ALWAYS, Output.QUANTILES]
    if program.probabilities:
        found.append(Output.PROBABILITIES)
    if classes(program):
        found += [Output.MOST_PROBABLE, Output.IN_SET]
    if calibration is not None:
        found.append(Output.CALIBRATION_ROWS)
    return (*found, Output.SAMPLES)


def unasked(program: Program) -> tuple[Output, ...]:
    """What is answered when a request names no outputs."""
    return (*_UNASKED, Output.PROBABILITIES, Output.MOST_PROBABLE) if classes(program) else _UNASKED


def classes(program: Program) -> bool:
    """The outcome is a class."""
    return program.family is not None and program.family.support in (Support.BINARY, Support.CLASSES)


def datatype(output: Output, program: Program) -> str:
    """Of the Open Inference Protocol."""
    if output in (Output.MOST_PROBABLE, Output.CALIBRATION_ROWS):
        return "INT64"
    if output is Output.IN_SET:
        return "BOOL"
    return "INT64" if output is Output.SAMPLES and program.discrete else "FP64"


def shape(output: Output, program: Program) -> list[int]:
    """Shape with -1 for what the request decides."""
    event = list(program.event)
    if output is Output.SAMPLES:
        return [-1, -1, *event]
    if output is Output.QUANTILES:
        return [-1, *event, -1]
    if output in (Output.PROBABILITIES, Output.IN_SET):
        return [-1, *event, program.probabilities]
    return [-1] if output is Output.CALIBRATION_ROWS else [-1, *event]


def values(output: Output, found: Answered | None, samples: np.ndarray | None) -> np.ndarray:
    """The output's numbers, rows first."""
    if output is Output.SAMPLES:
        assert samples is not None
        return np.moveaxis(samples, 0, 1)
    assert found is not None
    answer = found.answer
    if output is Output.SD:
        return np.sqrt(answer.aleatoric_variance + answer.epistemic_variance)
    if output is Output.MOST_PROBABLE:
        return np.argmax(answer.probabilities, axis=-1)
    of_answer = {
        Output.MEAN: answer.mean,
        Output.LOWER: found.lower,
        Output.UPPER: found.upper,
        Output.MCSE: answer.mcse,
        Output.QUANTILES: found.quantiles,
        Output.PROBABILITIES: answer.probabilities,
        Output.IN_SET: found.sets,
        Output.CALIBRATION_ROWS: found.calibration_rows,
    }
    if output in of_answer:
        chosen = of_answer[output]
        assert chosen is not None
        return chosen
    return np.sqrt(answer.epistemic_variance if output is Output.EPISTEMIC_SD else answer.aleatoric_variance)
