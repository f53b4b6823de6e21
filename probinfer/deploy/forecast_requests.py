"""Requests to a forecaster: how many steps, and what was observed since; as a body of our own, and as tensors. Imports
msgspec.

Where nothing was observed there is null, in both.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from probinfer.deploy.asking import Ask, Limits, Wishes, shown, wanted, whole
from probinfer.deploy.forecasts import OBSERVED, STEPS, ServedForecaster
from probinfer.deploy.named_outputs import Output
from probinfer.deploy.open_inference import Tensor, array_of, decode, read_request
from probinfer.deploy.records import Came
from probinfer.deploy.refusals import Malformed, TooLarge
from probinfer.errors import PredictionError
from probinfer.model.series import Series
from probinfer.predict.rows import plain_numbers
from probinfer.predict.series_rows import read_observations

_EXAMPLE = '{"steps": 12, "observed": [1.2, null, 3.4]}'
_FEEDBACK = '{"observed": [1.2, null], "y": [3.4]}'


class ForecastRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /predict`. records: of a client that takes the forecaster for a model of rows."""

    steps: Any = msgspec.UNSET
    observed: Any = None
    level: Any = None
    quantiles: Any = None
    outputs: list[str] | None = None
    num_samples: Any = None
    seed: Any = None
    records: Any = msgspec.UNSET


class OutcomesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /feedback`: what was observed when it was forecast, and what came then."""

    y: Any = msgspec.UNSET
    observed: Any = None
    level: Any = None
    records: Any = msgspec.UNSET


_predict = msgspec.json.Decoder(ForecastRequest)
_feedback = msgspec.json.Decoder(OutcomesRequest)


def read_predict(served: ServedForecaster, body: bytes | bytearray, limits: Limits) -> Ask:
    """The request in a body. Raises Malformed, TooLarge and PredictionError."""
    request = decode(_predict, body)
    _refuse_rows(served, request.records, _EXAMPLE)
    if request.steps is msgspec.UNSET:
        raise Malformed(f"The request lacks steps, how many times to predict, as in {_EXAMPLE}.")
    wishes = Wishes(request.outputs, request.level, request.quantiles, request.num_samples, request.seed)
    return _ask(served, request.steps, _series(served, OBSERVED, request.observed, limits), wishes, limits)


def read_infer(served: ServedForecaster, body: bytes | bytearray, limits: Limits) -> Ask:
    """The same in tensors."""
    request, wishes = read_request(body)
    tensors = {tensor.name: tensor for tensor in request.inputs}
    known = [field.name for field in served.fields]
    strangers = [name for name in tensors if name not in known]
    if strangers:
        raise PredictionError(
            f"{served.name} is a forecaster and takes no {', '.join(repr(name[:60]) for name in strangers[:10])}; its "
            f"inputs are {STEPS}, how many times to predict, and {OBSERVED}, what came since."
        )
    if STEPS not in tensors:
        raise PredictionError(f"The inputs lack {STEPS}, how many times to predict: INT64 of the shape [1].")
    steps = array_of(tensors[STEPS], None)
    if not isinstance(steps, np.ndarray) or steps.size != 1:
        raise Malformed(f"{STEPS} has the shape {tensors[STEPS].shape}; wanted one number, INT64 of the shape [1].")
    came = tensors.get(OBSERVED)
    series = _series(served, OBSERVED, _listed(came) if came is not None else None, limits)
    return _ask(served, steps.item(), series, wishes, limits, request.id)


def read_feedback(served: ServedForecaster, body: bytes | bytearray, limits: Limits) -> list[Came]:
    """What came of the times after those observed, and the question what had been forecast of them."""
    request = decode(_feedback, body)
    _refuse_rows(served, request.records, _FEEDBACK)
    y = None if request.y is msgspec.UNSET else _series(served, "y", request.y, limits)
    if y is None:
        raise Malformed(f"The request lacks y, what came after what had been observed, as in {_FEEDBACK}.")
    observed = _series(served, OBSERVED, request.observed, limits)
    asked = _ask(served, len(y.values), observed, Wishes(None, request.level), limits)
    values = np.where(y.observed, y.values, np.nan)
    return [Came("", range(len(values)), asked.question, values)]


def example_body(served: ServedForecaster, most_rows: int) -> dict[str, Any]:
    """A request that the forecaster answers."""
    return {STEPS: min(served.fields[0].example, most_rows), OBSERVED: [], "level": 0.9}


def example_infer(served: ServedForecaster, most_rows: int, outputs: Sequence[Output]) -> dict[str, Any]:
    """The same in tensors, for these outputs."""
    few = min(served.fields[0].example, most_rows)
    steps = {"name": STEPS, "shape": [1], "datatype": "INT64", "data": [few]}
    names = [{"name": output.value} for output in outputs]
    return {"id": "42", "inputs": [steps], "outputs": names, "parameters": {"level": 0.9}}


def _ask(
    served: ServedForecaster, steps: Any, series: Series | None, wishes: Wishes, limits: Limits, id: str | None = None
) -> Ask:
    steps = whole(STEPS, steps, 1)
    if steps > limits.rows:
        raise TooLarge(f"{STEPS} is {shown(steps)}; one request may have {limits.rows}.")
    found = wanted(served, wishes, steps, limits)
    outputs = tuple(output for _, output in found.outputs)
    summarised = any(output is not Output.SAMPLES for output in outputs)
    question = served.answers.question(series, steps, found.level, found.quantiles, found.seed, summarised=summarised)
    return Ask(served, question, outputs, found.draws, found.seed, id)


def _refuse_rows(served: ServedForecaster, records: Any, example: str) -> None:
    if records is not msgspec.UNSET:
        text = f"{served.name} is a forecaster: it predicts times, not rows. Send no records, but {example}."
        raise Malformed(text)


def _series(served: ServedForecaster, name: str, came: Any, limits: Limits) -> Series | None:
    """Observations that came; None for none. Raises Malformed, TooLarge and PredictionError."""
    if came is None or came == []:
        return None
    if not isinstance(came, list):
        raise Malformed(f"{name} is no list; wanted an observation for each time, as in {_EXAMPLE}.")
    if len(came) > limits.rows:
        raise TooLarge(f"{name} has {len(came)} times; one request may have {limits.rows}.")
    event = served.form.event
    nothing = np.full(event, math.nan).tolist()
    numbers = [nothing if each is None else _with_nan(name, each, max(len(event), 1)) for each in came]
    array = plain_numbers(name, numbers)
    try:
        return read_observations(array, served.predictor.motion)
    except PredictionError as error:
        raise PredictionError(f"{name}: {error}") from None


def _with_nan(name: str, value: Any, depth: int) -> Any:
    if isinstance(value, bool):
        raise PredictionError(f"{name} holds true or false; wanted numbers, and null where nothing came.")
    if not isinstance(value, list):
        return math.nan if value is None else value
    if not depth:
        raise PredictionError(f"{name} is nested too deeply; wanted an observation for each time, as in {_EXAMPLE}.")
    return [_with_nan(name, each, depth - 1) for each in value]


def _listed(tensor: Tensor) -> Any:
    """The tensor's observations as a nested list, null where nothing was observed."""
    flat = _flat(tensor.data) if isinstance(tensor.data, list) else tensor.data
    if not isinstance(flat, list) or None not in flat:
        array = array_of(tensor, None)
        return array.tolist() if isinstance(array, np.ndarray) else array
    there = [value for value in flat if value is not None]
    array_of(Tensor(tensor.name, [len(there)], tensor.datatype, there, tensor.parameters), None)
    size = math.prod(tensor.shape)
    if min(tensor.shape, default=-1) < 0 or size != len(flat):
        raise Malformed(f"{tensor.name} holds {len(flat)} numbers; its shape {tensor.shape} needs {size}.")
    return np.array(flat, object).reshape(tensor.shape).tolist()


def _flat(values: list[Any]) -> list[Any]:
    while any(isinstance(value, list) for value in values):
        values = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return values
