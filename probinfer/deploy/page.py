"""The web page at `/`: a form made from the models' schemas, the interval drawn, the model's card. Imports starlette.

The page is three files of ours and nothing from elsewhere; it asks the server as any client does.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from probinfer.deploy.named_outputs import classes
from probinfer.deploy.open_inference import model_metadata, tensor_metadata
from probinfer.deploy.records import example_records
from probinfer.deploy.served import Served

ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


async def asset(request: Request) -> Response:
    """One of the page's files."""
    name, kind = ASSETS[request.url.path]
    content, tag = _content(name)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={**_SAFE, "etag": tag})
    return Response(content, media_type=kind, headers={**_SAFE, "etag": tag})


def described(served: Served, problem: str | None) -> dict[str, Any]:
    """What the page, or another client, needs to know of a model to ask it."""
    program, calibration = served.predictor.program, served.predictor.calibration
    inputs = [{**tensor_metadata(entry), "shape": list(entry.shape)} for entry in served.inputs]
    if served.group is not None and calibration is not None and served.group not in {i["name"] for i in inputs}:
        inputs.append({"name": served.group, "datatype": "BYTES", "shape": [], "choices": list(calibration.labels)})
    return {
        "name": served.name,
        "version": served.version,
        "outcome": served.predictor.outcome,
        "event": list(program.event),
        "classes": program.probabilities if classes(program) else 0,
        "inputs": inputs,
        "outputs": [output["name"] for output in model_metadata(served)["outputs"]],
        "example": example_records(served)["records"][0],
        "verdict": str(served.predictor.about.get("verdict", "unknown")),
        "card": served.card,
        "refused": problem is not None,
    }


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (files("probinfer.deploy") / "static" / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
