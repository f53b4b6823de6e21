"""Records in, records out: a row as an object of names and values. Imports msgspec.

In answers a number that is not finite is null.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from probinfer.deploy.asking import Ask, Limits, Reply, Wishes, ask
from probinfer.deploy.fields import refuse_booleans, refuse_nested
from probinfer.deploy.named_outputs import Output, values
from probinfer.deploy.open_inference import decode, encode
from probinfer.deploy.refusals import Malformed
from probinfer.deploy.served import Served
from probinfer.errors import PredictionError
from probinfer.predict.rows import plain_numbers


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /predict`."""

    records: list[dict[str, Any]]
    level: Any = None
    quantiles: Any = None
    outputs: list[str] | None = None
    num_samples: Any = None
    seed: Any = None


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /feedback`."""

    records: list[dict[str, Any]]
    level: Any = None


_predict = msgspec.json.Decoder(PredictRequest)
_feedback = msgspec.json.Decoder(FeedbackRequest)


def read_predict(served: Served, body: bytes | bytearray, limits: Limits) -> Ask:
    """The request in a body. Raises Malformed, TooLarge and PredictionError."""
    request = decode(_predict, body)
    wishes = Wishes(request.outputs, request.level, request.quantiles, request.num_samples, request.seed)
    columns = _columns(request.records)
    _refuse_booleans(served, columns, body)
    return ask(served, columns, len(request.records), wishes, limits)


def read_feedback(served: Served, body: bytes | bytearray, limits: Limits) -> tuple[Ask, np.ndarray]:
    """The rows in a body, and what came (rows, *event)."""
    request = decode(_feedback, body)
    if not request.records:
        raise Malformed("No records came; wanted rows with their outcome.")
    columns, count = dict(_columns(request.records)), len(request.records)
    if served.outcome not in columns:
        raise Malformed(f"The records lack {served.outcome}, the outcome that came.")
    outcomes = columns.pop(served.outcome)
    _refuse_booleans(served, columns, body)
    if served.form.labels is not None or served.predictor.program.prepared is not None:
        refuse_nested({served.outcome: outcomes})
        came = served.outcomes(outcomes, count)
    else:
        came = plain_numbers(served.outcome, outcomes).astype(float)
    if came.shape != (count, *served.form.event) or not np.isfinite(came).all():
        raise PredictionError(
            f"{served.outcome} has the shape {came.shape[1:]} in a record, or is not finite; wanted "
            f"{served.form.event}."
        )
    return ask(served, columns, count, Wishes(None, request.level), limits), came


def _refuse_booleans(served: Served, columns: Mapping[str, Any], body: bytes | bytearray) -> None:
    if served.predictor.program.prepared is None and (b"true" in body or b"false" in body):
        refuse_booleans(served.fields, columns)


def _columns(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The records' values by name. Raises PredictionError where a record lacks a name that others have."""
    if not records:
        return {}
    names = list(records[0])
    try:
        columns = {name: [record[name] for record in records] for name in names}
        if all(len(record) == len(names) for record in records):
            return columns
    except KeyError:
        pass
    every = list(dict.fromkeys(name for record in records for name in record))
    for number, record in enumerate(records):
        missing = [name for name in every if name not in record]
        if missing:
            raise PredictionError(
                f"Record {number} (the first is record 0) lacks {', '.join(missing[:10])}, which other records have."
            )
    raise AssertionError("records with the same names have the same number of them")


def write_predictions(asked: Ask, reply: Reply) -> bytes:
    """The answer as a body: one object for each row."""
    served, question = asked.served, asked.question
    lists: dict[str, list[Any]] = {}
    for output in asked.outputs:
        numbers = values(output, served.form, reply.found, reply.samples)
        if output is Output.QUANTILES:
            names = [f"{q:.10g}" for q in question.quantiles]
            by_level = [np.moveaxis(numbers, -1, 0)[i].tolist() for i in range(len(names))]
            lists[output.value] = [dict(zip(names, row, strict=True)) for row in zip(*by_level, strict=True)]
        else:
            lists[output.value] = numbers.tolist()
    names = list(lists)
    body: dict[str, Any] = {
        "model": served.name,
        "version": served.version,
        "outcome": served.outcome,
        "level": question.level,
        "interval": "equal-tailed",
    }
    if served.form.labels and any(output in (Output.PROBABILITIES, Output.IN_SET) for output in asked.outputs):
        body["classes"] = list(served.form.labels)
    if asked.draws:
        body |= {"num_samples": asked.draws, "seed": asked.seed}
    if reply.found is not None and reply.found.guarantee:
        body["guarantee"] = reply.found.guarantee
    body["predictions"] = [dict(zip(names, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return encode(body)


def example_records(served: Served, rows: int = 1) -> dict[str, Any]:
    """A request that the model answers."""
    columns = {name: numbers.tolist() for name, numbers in served.example(rows).items()}
    return {"records": [{name: column[i] for name, column in columns.items()} for i in range(rows)], "level": 0.9}
