"""The server's OpenAPI document, made from the schemas of its models, with requests and answers that are real: every
example request was answered by the model. Imports numpy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from probinfer.deploy.asking import Limits, Reply, ReplySeveral, named
from probinfer.deploy.fields import Field
from probinfer.deploy.forecasts import OBSERVED, STEPS, ServedForecaster
from probinfer.deploy.named_outputs import MEANING, Output
from probinfer.deploy.open_inference import encode, model_metadata, write_infer
from probinfer.deploy.readers import reader_of
from probinfer.deploy.records import write_predictions
from probinfer.deploy.refusals import status_of
from probinfer.deploy.served import Model, One, Served, Several
from probinfer.deploy.several import Answers
from probinfer.errors import PredictionError
from probinfer.posterior.verdict import Verdict
from probinfer.predict.interval import Answered

_REFUSED = {
    400: "the body is no JSON, or not of the form that is wanted",
    401: "the API key is missing or wrong",
    404: "there is no such model, version or route",
    408: "the body did not arrive in time",
    413: "too many bytes, rows or draws",
    415: "a content encoding that is not read",
    422: "the rows do not fit the model; the text names the first that does not",
    429: "the queue is full; see Retry-After",
    500: "an error in the server",
    503: "starting, stopping, or too many connections; see Retry-After",
    504: "the deadline passed before the answer was there",
}
_NUMBER = {"type": ["number", "boolean"]}  # where true and false are 1 and 0, as in tables
_LEVEL = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "what came, what was wanted, what to do"}},
}
_DATATYPES = ["BOOL", "BYTES", "FP16", "FP32", "FP64", *(f"{s}INT{b}" for s in ("", "U") for b in (8, 16, 32, 64))]


def document(models: Sequence[Model], version: str, limits: Limits, keyed: bool) -> dict[str, Any]:
    """The document, OpenAPI 3.1. The models are asked for the examples, so they have to be compiled."""
    paths: dict[str, Any] = {
        "/v2": {"get": _get("The server", {"type": "object"})},
        "/v2/health/live": {"get": _get("Whether the process runs", {"type": "object"}, keyed=False)},
        "/v2/health/ready": {"get": _get("Whether every model can be asked", {"type": "object"}, keyed=False)},
        "/models": {"get": _get("Schemas and cards of the models", {"type": "object"})},
        "/metrics": {"get": _get("Counts and histograms for Prometheus", {"type": "string"}, kind="text/plain")},
    }
    schemas: dict[str, Any] = {"Error": _ERROR}
    for number, served in enumerate(models):
        asked, takes = _examples(served, limits), "steps" if isinstance(served, ServedForecaster) else "records"
        schemas |= _schemas(served, limits)
        name = served.name
        metadata = model_metadata(served)
        paths[f"/v2/models/{name}"] = {"get": _get(f"Metadata of {name}", {"type": "object"}, example=metadata)}
        paths[f"/v2/models/{name}/ready"] = {"get": _get(f"Whether {name} can be asked", {"type": "object"})}
        one = f"/v2/models/{name}/versions/{served.version}"
        paths[one] = {"get": _get(f"Metadata of this version of {name}", {"type": "object"})}
        paths[f"{one}/ready"] = {"get": _get(f"Whether this version of {name} can be asked", {"type": "object"})}
        infer = _post(
            f"Ask {name}, tensors in and out", f"{name}.InferRequest", f"{name}.InferResponse", asked["infer"]
        )
        paths[f"/v2/models/{name}/infer"] = {"post": infer}
        paths[f"{one}/infer"] = {"post": infer}
        predict = _post(
            f"Ask {name}, {takes} in and records out", f"{name}.PredictRequest", f"{name}.Predictions", asked["predict"]
        )
        feedback = _post(
            f"Report outcomes of {name}: coverage is counted in /metrics", f"{name}.Feedback", f"{name}.Covered", None
        )
        for path in (f"/predict/{name}", *(["/predict"] if number == 0 else [])):
            paths[path] = {"post": predict}
        for path in (f"/feedback/{name}", *(["/feedback"] if number == 0 else [])):
            paths[path] = {"post": feedback}
    security = {"components": {}, "security": []}
    if keyed:
        schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        security = {"components": {"securitySchemes": schemes}, "security": [{"bearer": []}, {"header": []}]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "probinfer",
            "version": version,
            "description": "Predictions with their doubt: mean, interval, and what part comes from the parameters.",
        },
        "paths": paths,
        "components": {"schemas": schemas, **security["components"]},
        "security": security["security"],
    }


def _examples(served: Model, limits: Limits) -> dict[str, tuple[Any, Any]]:
    """Requests and their answers; None where the model has none for zeros, or knows no time to come."""
    reader = reader_of(served)
    records = reader.example(served, limits.rows)
    tensors = reader.tensors(served, limits.rows, (Output.MEAN, Output.LOWER, Output.UPPER))
    found: dict[str, tuple[Any, Any]] = {}
    for name, request, read, write in (
        ("predict", records, reader.predict, write_predictions),
        ("infer", tensors, reader.infer, write_infer),
    ):
        try:
            asked: Any = read(served, encode(request), limits)
            answer: Any = served.answer([asked.question])[0]
        except PredictionError as error:
            answer = error
        if isinstance(answer, Answered | Answers):
            reply = ReplySeveral(answer, None) if isinstance(answer, Answers) else Reply(answer, None)
            found[name] = (request, msgspec.json.decode(write(asked, reply)))
        else:
            assert status_of(answer) == status_of(PredictionError())
            found[name] = (request, None)
    return found


class _Asked(NamedTuple):
    """How a model is asked: properties of bodies, each of which needs its first; the least and most tensors; schemas
    that are used there."""

    predict: dict[str, Any]
    feedback: dict[str, Any]
    tensors: tuple[int, int]
    schemas: dict[str, Any]


def _rows_asked(served: Served | Several, limits: Limits) -> _Asked:
    properties: dict[str, Any] = {field.name: _input(field, served.raw) for field in served.fields}
    record = {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }
    rows = {"type": "array", "minItems": 1, "maxItems": limits.rows}
    came = {part.outcome: _outcome(part) for part in served.parts.values()}
    labelled: dict[str, Any] = {**record, "properties": {**properties, **came}}
    if isinstance(served, Several):
        labelled["minProperties"] = len(properties) + 1
        labelled["description"] = "a row with those of its outcomes that are known"
    else:
        labelled["required"] = [*properties, *came]
    return _Asked(
        predict={"records": {**rows, "items": {"$ref": f"#/components/schemas/{served.name}.Record"}}},
        feedback={"records": {**rows, "items": labelled}},
        tensors=(len(properties), len(properties)),
        schemas={"Record": record},
    )


def _times_asked(served: ServedForecaster, limits: Limits) -> _Asked:
    most = limits.rows if served.most_steps is None else min(limits.rows, served.most_steps)
    steps = {"type": "integer", "minimum": 1, "maximum": max(most, 1), "description": "how many times to predict"}
    motion = served.predictor.motion
    number: dict[str, Any] = {"type": "integer" if motion.discrete else "number"}
    if motion.discrete and motion.family is not None:
        number |= {"minimum": 0, **({"maximum": motion.probabilities - 1} if served.form.classes else {})}
    inside = _or_null(number) if motion.apart else number
    event = _or_null(_nested(inside, served.form.event)) if served.form.event else _or_null(number)
    series = {"type": "array", "items": event, "maxItems": limits.rows}
    observed = {**series, "description": "what came after what the artifact has seen; null where nothing came"}
    y = {**series, "minItems": 1, "maxItems": max(most, 1), "description": "what came after that"}
    return _Asked(
        predict={STEPS: steps, OBSERVED: _or_null(observed)},
        feedback={"y": y, OBSERVED: _or_null(observed)},
        tensors=(1, 2),
        schemas={},
    )


def _schemas(served: Model, limits: Limits) -> dict[str, Any]:
    name, parts = served.name, served.parts
    asked = _times_asked(served, limits) if isinstance(served, ServedForecaster) else _rows_asked(served, limits)
    names = [named(outcome, output.value) for outcome, part in parts.items() for output in part.outputs]
    outputs = {"type": "string", "enum": names}
    quantiles = {"type": "array", "minItems": 1, "maxItems": 100, "items": _LEVEL}
    draws = {"type": "integer", "minimum": 1, "maximum": limits.samples}
    seed = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    predict = {
        "type": "object",
        "required": [next(iter(asked.predict))],
        "additionalProperties": False,
        "properties": {
            **asked.predict,
            "level": _or_null({**_LEVEL, "default": 0.9}),
            "quantiles": _or_null(quantiles),
            "outputs": _or_null({"type": "array", "minItems": 1, "items": outputs}),
            "num_samples": _or_null(draws),
            "seed": _or_null({**seed, "default": 0}),
        },
    }
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
            "datatype": {"enum": _DATATYPES},
            "data": {"type": "array", "description": "row-major, flat or nested"},
            "parameters": {"type": ["object", "null"]},
        },
    }
    parameters = {
        "type": "object",
        "properties": {
            "level": _or_null(_LEVEL),
            "num_samples": _or_null(draws),
            "seed": _or_null(seed),
            "quantiles": {
                "description": "probabilities, as 0.05,0.5,0.95, or one, or a list",
                "anyOf": [{"type": "string"}, _LEVEL, quantiles, {"type": "null"}],
            },
        },
    }
    wanted: dict[str, Any] = {"type": "object", "required": ["name"]}
    wanted["properties"] = {"name": outputs, "parameters": _or_null(parameters)}
    least, most = asked.tensors
    infer = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "inputs": {"type": "array", "minItems": least, "maxItems": most, "items": tensor},
            "outputs": _or_null({"type": "array", "minItems": 1, "items": wanted}),
            "parameters": _or_null(parameters),
        },
    }
    answer = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": tensor},
        },
    }
    told: dict[str, Any] = {"outcome": {"type": "string"}, "guarantee": {"type": "string"}}
    told["classes"] = {"type": "array", "items": {"type": "string"}}
    each = "time" if isinstance(served, ServedForecaster) else "record"
    if isinstance(served, ServedForecaster):
        told["verdict"] = {"enum": [verdict.name for verdict in Verdict]}
        told["report"] = {"type": "string", "description": "how far the forecast can be trusted, and what to do"}
    row: dict[str, Any] = {}
    inside: dict[str, Any] = {"type": "array"}
    if isinstance(served, Several):
        row = {"type": "object", "properties": {outcome: _numbers(part) for outcome, part in parts.items()}}
        told = {"outcomes": {"type": "array", "items": {"enum": list(parts)}}}
        told |= {"guarantee": {"type": "object"}, "classes": {"type": "object"}}
        inside["items"] = {"type": "object", "properties": {outcome: {} for outcome in parts}}
    else:
        row = _numbers(served)
    predictions = {
        "type": "object",
        "required": ["model", "version", next(iter(told)), "level", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "string"},
            "level": _LEVEL,
            "interval": {"type": "string"},
            **told,
            "predictions": {
                "type": "array",
                "items": row,
                "description": f"one object for each {each}; a number that is not finite is null",
            },
        },
    }
    covered = {
        "type": "object",
        "required": ["model", "level", "covered"],
        "properties": {"model": {"type": "string"}, "level": _LEVEL, "covered": inside},
    }
    feedback = {
        "type": "object",
        "required": [next(iter(asked.feedback))],
        "additionalProperties": False,
        "properties": {**asked.feedback, "level": _or_null({**_LEVEL, "default": 0.9})},
    }
    made = {
        **asked.schemas, "PredictRequest": predict, "Predictions": predictions, "Feedback": feedback,
        "Covered": covered, "InferRequest": infer, "InferResponse": answer,
    }  # fmt: skip
    return {f"{name}.{key}": schema for key, schema in made.items()}


def _outcome(served: One) -> dict[str, Any]:
    """What came of it, as records report it."""
    return {"enum": list(served.form.labels)} if served.form.labels else _nested(_NUMBER, served.form.event)


def _numbers(served: One) -> dict[str, Any]:
    """What is answered about it."""
    numbers = {output.value: {"description": MEANING[output]} for output in served.outputs}
    return {"type": "object", "properties": numbers}


def _input(field: Field, raw: bool) -> dict[str, Any]:
    kind: dict[str, Any]
    if field.dtype == "bool":
        kind = {"enum": [False, True, 0, 1]}
    elif field.dtype == "int64":
        low, high = (field.low, field.high) if field.low is not None else (-(2**53), 2**53)
        kind = {"type": "integer", "minimum": low, "maximum": high}
    elif field.dtype == "date":
        kind = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?$"}
        kind |= {"description": "a date such as 2026-01-31, or with the time of day 2026-01-31T17:30; no time zone"}
    elif field.closed:
        kind = {"type": "string", "enum": list(field.choices)}
    elif field.dtype == "text":
        kind = {"type": ["string", "number", "boolean"]}
        kind |= {"description": f"a label; training knew {', '.join(field.choices[:20])}"} if field.choices else {}
    else:
        kind = dict(_NUMBER) if raw else {"type": "number"}
    return _or_null(kind) if field.missing else _nested(kind, field.shape)


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What may be left out may be null too."""
    return {"anyOf": [dict(schema), {"type": "null"}]}


def _nested(kind: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    schema = dict(kind)
    for size in reversed(shape):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    return schema


def _get(
    summary: str, schema: Mapping[str, Any], kind: str = "application/json", example: Any = None, keyed: bool = True
) -> dict[str, Any]:
    content = {kind: {"schema": schema, **({"example": example} if example is not None else {})}}
    found = {
        "summary": summary,
        "responses": {"200": {"description": "OK", "content": content}, **_errors(401, 404, 503)},
    }
    return found if keyed else {**found, "security": []}


def _post(summary: str, request: str, response: str, example: tuple[Any, Any] | None) -> dict[str, Any]:
    sent, answered = example or (None, None)

    def content(schema: str, example: Any) -> dict[str, Any]:
        shown = {"example": example} if example is not None else {}
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, **shown}}

    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content(request, sent)},
        "responses": {"200": {"description": "OK", "content": content(response, answered)}, **_errors(*_REFUSED)},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": _REFUSED[status], "content": content} for status in statuses}
