"""The Open Inference Protocol, version 2: tensors in, tensors out, and what a model says of itself. Imports msgspec.

https://github.com/kserve/open-inference-protocol (inference_rest.md). JSON has no NaN and no infinity: they are
refused in requests; in answers a number that is not finite is null, and the parameter `not_finite` of its tensor counts
them.
"""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec
import numpy as np

from probinfer.deploy.asking import Ask, AskSeveral, Limits, Reply, ReplySeveral, Wishes, ask, named, said
from probinfer.deploy.fields import Field, has_booleans
from probinfer.deploy.named_outputs import Form, Output, datatype, shape, values
from probinfer.deploy.refusals import Malformed
from probinfer.deploy.served import Model, Served, Several

DATATYPES = {"float64": "FP64", "int64": "INT64", "bool": "BOOL", "text": "BYTES", "date": "BYTES"}
_WHOLE = {f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_READ = {*_WHOLE, *_FLOATS, "BOOL", "BYTES"}
_OURS = ("level", "num_samples", "seed", "quantiles")
_NEARLY = 0.75  # of difflib's likeness: such a name is a slip of the pen, where others are other servers' and proxies'


class Tensor(msgspec.Struct):
    """An input, as it comes."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None  # absent where it follows in binary, which is refused in words of its own
    parameters: dict[str, Any] | None = None


class RequestedOutput(msgspec.Struct):
    """An output, as it is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct):
    """The body of an inference request."""

    inputs: list[Tensor]
    outputs: list[RequestedOutput] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None


_decoder = msgspec.json.Decoder(InferRequest)
encode = msgspec.json.Encoder().encode


def decode(decoder: msgspec.json.Decoder[Any], body: bytes | bytearray) -> Any:
    """The body as the decoder's type. Raises Malformed, saying where."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Malformed(f"The body does not have the form that is wanted: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = " JSON has no NaN and no Infinity." if b"NaN" in body or b"Infinity" in body else ""
        if b"binary_data_size" in body:  # the tensors follow the JSON
            hint = " Tensors came as binary data; wanted JSON alone, each input with its `data` (binary_data=False)."
        raise Malformed(f"The body cannot be read as JSON: {error}.{hint}") from None
    except RecursionError:
        raise Malformed("The body is nested too deeply; wanted an object with lists of numbers.") from None


def read_infer(served: Served | Several, body: bytes | bytearray, limits: Limits) -> Ask | AskSeveral:
    """The request in a body. Raises Malformed, TooLarge and PredictionError."""
    request, wishes = read_request(body)
    fields = {field.name: field for field in served.fields}
    rows = {tensor.name: array_of(tensor, fields.get(tensor.name)) for tensor in request.inputs}
    counts = {name: len(tensor) for name, tensor in rows.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise Malformed(f"The inputs disagree about the number of rows: {listed}. Each needs one entry for every row.")
    return ask(served, rows, next(iter(counts.values()), 1), wishes, limits, request.id)


def read_request(body: bytes | bytearray) -> tuple[InferRequest, Wishes]:
    """What a body says, before it is compared with a model. Raises Malformed."""
    request = decode(_decoder, body)
    wishes = _wishes(request)
    names = [tensor.name for tensor in request.inputs]
    if len(set(names)) < len(names):
        raise Malformed(f"An input came twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}.")
    return request, wishes


def _wishes(request: InferRequest) -> Wishes:
    found: dict[str, Any] = {}
    listed = [request.parameters, *(output.parameters for output in request.outputs or ())]
    for parameters in listed:
        for name, value in (parameters or {}).items():
            if name in _OURS:
                if name in found and found[name] != value:
                    raise Malformed(f"The parameter {name} came twice, as {found[name]!r} and {value!r}.")
                found[name] = value
            elif meant := get_close_matches(name.lower(), _OURS, 1, _NEARLY):
                raise Malformed(
                    f"There is no parameter {name[:40]!r}; did you mean {meant[0]}? There are {', '.join(_OURS)}; "
                    "names that are like none of these are passed over."
                )
    return Wishes([output.name for output in request.outputs] if request.outputs is not None else None, **found)


def array_of(tensor: Tensor, field: Field | None) -> Any:
    """The tensor's data as an array (rows, *shape); text, and what may be missing, stays a list."""
    if tensor.datatype not in _READ:
        raise Malformed(
            f"{tensor.name} has the datatype {tensor.datatype!r}; wanted one of {', '.join(sorted(_READ))}."
        )
    if tensor.parameters and tensor.parameters.get("binary_data_size"):
        raise Malformed(
            f"{tensor.name} came as binary data; wanted JSON: send `data` with the numbers (binary_data=False)."
        )
    size = math.prod(tensor.shape)
    if not tensor.shape or min(tensor.shape) < 0:
        raise Malformed(f"{tensor.name} has the shape {tensor.shape}; wanted the number of rows first.")
    if not isinstance(tensor.data, list):
        raise Malformed(f"The data of {tensor.name} are no list; wanted its numbers in row-major order.")
    missing = field is not None and field.missing
    if tensor.datatype == "BYTES":
        texts = all(isinstance(value, str) or (missing and value is None) for value in tensor.data)
        if len(tensor.data) != size or not texts:
            raise Malformed(f"{tensor.name} holds texts; wanted a flat list of {size} of them.")
        return tensor.data
    if missing and None in tensor.data:
        if len(tensor.data) != size or not all(isinstance(value, int | float | None) for value in tensor.data):
            raise Malformed(f"{tensor.name} holds numbers and null; wanted a flat list of {size} of them.")
        there = [value for value in tensor.data if value is not None]
        _check_values(tensor, np.asarray(there, None if there else float))
        return tensor.data
    try:
        array = np.asarray(tensor.data)
    except ValueError:
        raise Malformed(f"The data of {tensor.name} are nested unevenly; wanted {size} numbers.") from None
    if array.size != size:
        raise Malformed(f"{tensor.name} holds {array.size} numbers; its shape {tensor.shape} needs {size}.")
    if array.dtype.kind not in "fiubO" or (array.dtype.kind == "O" and size):
        raise Malformed(f"{tensor.name} holds something else than numbers; wanted {size} of {tensor.datatype}.")
    if tensor.datatype in _WHOLE and array.dtype.kind == "f" and size:
        raise Malformed(f"{tensor.name} is {tensor.datatype} and holds fractions; wanted whole numbers, or FP64.")
    _check_values(tensor, array)
    array = array.reshape(tensor.shape)
    wanted = field.shape if field is not None else None
    if wanted == () and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]  # a column
    if wanted is not None and array.shape[1:] != wanted:
        shown = [-1, *wanted]
        raise Malformed(f"{tensor.name} has the shape {list(array.shape)}; wanted {shown}, with any number of rows.")
    return array


def _check_values(tensor: Tensor, array: np.ndarray) -> None:
    """Raises Malformed for a value that the tensor's datatype does not have."""
    kind = tensor.datatype
    if not array.size:
        return
    if kind == "BOOL":
        if array.dtype.kind not in "biu" or (array.dtype.kind != "b" and not np.isin(array, (0, 1)).all()):
            raise Malformed(f"{tensor.name} is BOOL and holds something else than true and false.")
        return
    if has_booleans(tensor.data):
        raise Malformed(f"{tensor.name} is {kind} and holds true or false; wanted numbers, or the datatype BOOL.")
    if kind in _WHOLE:
        bounds = np.iinfo(_WHOLE[kind])
        low, high, least, most = array.min(), array.max(), bounds.min, bounds.max
        outside = low if int(low) < least else high if int(high) > most else None
        if outside is not None:
            raise Malformed(f"{tensor.name} is {kind} and holds {outside}; wanted {least} to {most}.")
    elif kind != "FP64":
        with np.errstate(over="ignore"):
            outside = array[~np.isfinite(array.astype(_FLOATS[kind]))]
        if outside.size:
            most = np.finfo(_FLOATS[kind]).max
            raise Malformed(f"{tensor.name} is {kind} and holds {outside.flat[0]}; its largest number is {most}.")


def write_infer(asked: Ask | AskSeveral, reply: Reply | ReplySeveral) -> bytes:
    """The answer as a body."""
    outputs, told, level = [], {}, 0.9
    for outcome, output, one, its in said(asked, reply):
        level, form = one.question.level, one.served.form
        numbers = values(output, form, its.found, its.samples)
        entry: dict[str, Any] = {
            "name": named(outcome, output.value),
            "shape": list(numbers.shape),
            "datatype": datatype(output, form),
            "data": numbers.ravel().tolist(),
        }
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            entry["parameters"] = {"not_finite": int(np.sum(~np.isfinite(numbers)))}
        outputs.append(entry)
        if one.question.quantiles:
            told["quantiles"] = ",".join(f"{q:.10g}" for q in one.question.quantiles)
        if its.found is not None and its.found.guarantee:
            told[named(outcome, "guarantee")] = its.found.guarantee
    if isinstance(reply, Reply):
        told |= reply.trust
    parameters = {"level": level, "interval": "equal-tailed", **told}
    if asked.draws:
        parameters |= {"num_samples": asked.draws, "seed": asked.seed}
    body: dict[str, Any] = {"model_name": asked.served.name, "model_version": asked.served.version}
    if asked.id is not None:
        body["id"] = asked.id
    return encode({**body, "parameters": parameters, "outputs": outputs})


def server_metadata(version: str) -> Mapping[str, Any]:
    """`GET /v2`."""
    return {"name": "probinfer", "version": version, "extensions": []}


def model_metadata(served: Model) -> Mapping[str, Any]:
    """`GET /v2/models/NAME`."""
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": "probinfer",
        "inputs": [tensor_metadata(field) for field in served.fields],
        "outputs": [
            _output_metadata(named(outcome, output.value), output, part.form)
            for outcome, part in served.parts.items()
            for output in part.outputs
        ],
    }


def _output_metadata(name: str, output: Output, form: Form) -> dict[str, Any]:
    """An output; of what has an entry for each class also the labels, in the order of the entries."""
    found = {"name": name, "datatype": datatype(output, form), "shape": shape(output, form)}
    per_class = output in (Output.PROBABILITIES, Output.IN_SET)
    return {**found, "labels": list(form.labels)} if form.labels and per_class else found


def tensor_metadata(field: Field) -> dict[str, Any]:
    """An input; of an integer that picks a level also the range, of a label those that training knew."""
    found: dict[str, Any] = {"name": field.name, "datatype": DATATYPES[field.dtype]}
    found["shape"] = [1 if field.once else -1, *field.shape]
    if field.low is not None:
        found["parameters"] = {"minimum": field.low, **({"maximum": field.high} if field.high is not None else {})}
    if field.choices:
        found["labels"] = list(field.choices)
    if field.missing:
        found["parameters"] = {"missing": True}
    return found


def example_request(served: Served | Several, outputs: Sequence[Output] = ()) -> dict[str, Any]:
    """A request that the model answers, for these outputs of each outcome."""
    inputs = []
    for tensor in model_metadata(served)["inputs"]:
        numbers = served.example()[tensor["name"]]
        inputs.append(
            {
                "name": tensor["name"],
                "shape": list(numbers.shape),
                "datatype": tensor["datatype"],
                "data": numbers.ravel().tolist(),
            }
        )
    names = [{"name": named(outcome, output.value)} for outcome in served.parts for output in outputs]
    return {"id": "42", "inputs": inputs, **({"outputs": names} if names else {}), "parameters": {"level": 0.9}}
