"""Records in, records out: a row as an object of names and values. Imports msgspec.

In answers a number that is not finite is null. Of several outcomes a row's answer has an object for each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from probinfer.deploy.asking import Ask, AskSeveral, Limits, Reply, ReplySeveral, Wishes, ask
from probinfer.deploy.fields import refuse_booleans, refuse_nested
from probinfer.deploy.forecasts import TimesQuestion
from probinfer.deploy.named_outputs import Output, values
from probinfer.deploy.open_inference import decode, encode
from probinfer.deploy.refusals import Malformed
from probinfer.deploy.served import Model, Served, Several
from probinfer.deploy.several import Asked, Questions
from probinfer.errors import PredictionError
from probinfer.predict.interval import Answered, Share
from probinfer.predict.rows import plain_numbers
from probinfer.predict.together import Question

_MOST_KEPT = 4  # choices of outputs for which all rows of a call are made at once: each takes the time of all rows


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


class Came(NamedTuple):
    """What came of one outcome: whose it is ("" where there is one alone), in which of the rows, what is asked of them,
    and what came, (rows, *event), NaN where nothing did."""

    outcome: str
    rows: Sequence[int]
    question: Question | TimesQuestion
    values: np.ndarray

    @property
    def batched(self) -> Asked:
        """The question as the batcher takes it, asked again."""
        again = self.question._replace(again=True)
        return Questions({self.outcome: again}) if self.outcome and isinstance(again, Question) else again


_LONGEST_EXAMPLE = 400  # characters, in an error
_predict = msgspec.json.Decoder(PredictRequest)
_feedback = msgspec.json.Decoder(FeedbackRequest)


def read_predict(served: Served | Several, body: bytes | bytearray, limits: Limits) -> Ask | AskSeveral:
    """The request in a body. Raises Malformed, TooLarge and PredictionError."""
    try:
        request = decode(_predict, body)
    except Malformed as error:
        raise Malformed(f"{error} {_wanted(served)}") from None
    wishes = Wishes(request.outputs, request.level, request.quantiles, request.num_samples, request.seed)
    columns = _columns(request.records)
    _refuse_booleans(served, columns, body)
    return ask(served, columns, len(request.records), wishes, limits)


def _wanted(served: Served | Several) -> str:
    example = encode(example_records(served)).decode()
    return f"Wanted {example}." if len(example) <= _LONGEST_EXAMPLE else "/openapi.json has an example."


def read_feedback(served: Served | Several, body: bytes | bytearray, limits: Limits) -> list[Came]:
    """The rows in a body, and what came of each outcome. Of several a record has those that are known by then."""
    request = decode(_feedback, body)
    if not request.records:
        raise Malformed("No records came; wanted rows with their outcome.")
    names = {part.outcome: outcome for outcome, part in served.parts.items()}
    rows = _columns([{n: value for n, value in record.items() if n not in names} for record in request.records])
    bare = next((number for number, record in enumerate(request.records) if names.keys().isdisjoint(record)), None)
    if bare is not None:
        one = f"{next(iter(names))}, the outcome that came" if len(names) == 1 else f"all of {', '.join(names)}"
        raise Malformed(f"Record {bare} (the first is record 0) lacks {one}.")
    _refuse_booleans(served, rows, body)
    found, wishes = [], Wishes(None, request.level)
    for name, outcome in names.items():
        having = [number for number, record in enumerate(request.records) if name in record]
        if not having:
            continue
        came = _outcomes(served.parts[outcome], [request.records[number][name] for number in having])
        own = served.rows_of(outcome, rows) if isinstance(served, Several) else rows
        if len(having) < len(request.records):
            own = {n: [values[number] for number in having] for n, values in own.items()}
        asked = ask(served.parts[outcome], own, len(having), wishes, limits)
        assert isinstance(asked, Ask)
        found.append(Came(outcome, having, asked.question, came))
    return found


def _outcomes(served: Served, values: list[Any]) -> np.ndarray:
    """What came, (rows, *event)."""
    if served.form.labels is not None or served.raw:
        refuse_nested({served.outcome: values})
        came = served.outcomes(values, len(values))
    else:
        came = plain_numbers(served.outcome, values).astype(float)
    if came.shape != (len(values), *served.form.event) or not np.isfinite(came).all():
        raise PredictionError(
            f"{served.outcome} has the shape {came.shape[1:]} in a record, or is not finite; wanted "
            f"{served.form.event}."
        )
    return came


def write_covered(served: Model, found: Sequence[Came], inside: Sequence[np.ndarray]) -> bytes:
    """The answer as a body: whether each outcome lay in its interval, in the order of the records; null for one that
    did not come."""
    body = {"model": served.name, "version": served.version, "level": found[0].question.level}
    if isinstance(served, Several):
        covered: list[dict[str, Any]] = [{} for _ in range(1 + max(came.rows[-1] for came in found))]
        for came, within in zip(found, inside, strict=True):
            for number, value in zip(came.rows, within.tolist(), strict=True):
                covered[number][came.outcome] = value
        return encode({**body, "covered": covered})
    each = inside[0].astype(object)
    each[~np.isfinite(found[0].values)] = None
    return encode({**body, "covered": each.tolist()})


def _refuse_booleans(served: Served | Several, columns: Mapping[str, Any], body: bytes | bytearray) -> None:
    if not served.raw and (b"true" in body or b"false" in body):
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


def write_predictions(asked: Ask | AskSeveral, reply: Reply | ReplySeveral) -> bytes:
    """The answer as a body: one object for each row."""
    served = asked.served
    body: dict[str, Any] = {"model": served.name, "version": served.version}
    if isinstance(asked, Ask):
        assert isinstance(reply, Reply)
        body |= {"outcome": asked.served.outcome, "level": asked.question.level, "interval": "equal-tailed"}
        told, rows = _told(asked, reply), _rows(asked, reply)
    else:
        assert isinstance(reply, ReplySeveral)
        level = next(iter(asked.parts.values())).question.level
        body |= {"outcomes": list(asked.parts), "level": level, "interval": "equal-tailed"}
        told, each = {}, {}
        for outcome, part in asked.parts.items():
            each[outcome] = _rows(part, reply.of(outcome))
            for name, value in _told(part, reply.of(outcome)).items():
                told.setdefault(name, {})[outcome] = value
        rows = [dict(zip(each, row, strict=True)) for row in zip(*each.values(), strict=True)]
    if asked.draws:
        body |= {"num_samples": asked.draws, "seed": asked.seed}
    return encode({**body, **told, "predictions": rows})


def _told(asked: Ask, reply: Reply) -> dict[str, Any]:
    """What is said of the outcome besides its numbers."""
    told: dict[str, Any] = {}
    if asked.served.form.labels and any(output in (Output.PROBABILITIES, Output.IN_SET) for output in asked.outputs):
        told["classes"] = list(asked.served.form.labels)
    if isinstance(reply.given, Answered) and reply.given.guarantee:
        told["guarantee"] = reply.given.guarantee
    return told | reply.trust


def _rows(asked: Ask, reply: Reply) -> list[dict[str, Any]]:
    """An object for each row. Of answers made in one call those of all rows are made at once: to list the numbers of
    one row takes as long as to list those of a hundred."""
    share = reply.given
    if not isinstance(share, Share) or Output.QUANTILES in asked.outputs or Output.SAMPLES in asked.outputs:
        return _objects(asked, reply)
    rows = share.kept.get(asked.outputs)
    if rows is None:
        if len(share.kept) == _MOST_KEPT:
            return _objects(asked, reply)
        rows = share.kept[asked.outputs] = _objects(asked, Reply(share.whole, None))
    return rows[share.start : share.stop]


def _objects(asked: Ask, reply: Reply) -> list[dict[str, Any]]:
    lists: dict[str, list[Any]] = {}
    for output in asked.outputs:
        numbers = values(output, asked.served.form, reply.found, reply.samples)
        if output is Output.QUANTILES:
            names = [f"{q:.10g}" for q in asked.question.quantiles]
            by_level = [np.moveaxis(numbers, -1, 0)[i].tolist() for i in range(len(names))]
            lists[output.value] = [dict(zip(names, row, strict=True)) for row in zip(*by_level, strict=True)]
        else:
            lists[output.value] = numbers.tolist()
    names = list(lists)
    return [dict(zip(names, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def example_records(served: Served | Several, rows: int = 1) -> dict[str, Any]:
    """A request that the model answers."""
    columns = {name: numbers.tolist() for name, numbers in served.example(rows).items()}
    return {"records": [{name: column[i] for name, column in columns.items()} for i in range(rows)], "level": 0.9}
