"""The web page at `/`: a form made from the models' schemas, the interval drawn, the model's card. Imports starlette.

The page is three files of ours and nothing from elsewhere; it asks the server as any client does.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from probinfer.deploy.fields import Field
from probinfer.deploy.forecasts import ServedForecaster
from probinfer.deploy.open_inference import tensor_metadata
from probinfer.deploy.readers import reader_of
from probinfer.deploy.served import Model, One, Several

_STEPS = 12  # of a forecast, at first
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


def described(served: Model, problem: str | None) -> dict[str, Any]:
    """What the page, or another client, needs to know of a model to ask it."""
    example, verdict = reader_of(served).example(served, _STEPS), served.predictor.about.get("verdict", "unknown")
    said: dict[str, Any]
    if isinstance(served, ServedForecaster):
        verdict = served.predictor.report.verdict.name
        said = {**_said(served), "time": served.predictor.time, "report": str(served.predictor.report)}
    elif isinstance(served, Several):
        said = {"outcomes": [{"name": outcome, **_said(part)} for outcome, part in served.parts.items()]}
    else:
        said = _said(served)
    return {
        "name": served.name,
        "version": served.version,
        **said,
        "inputs": [_described(field) for field in served.fields],
        "example": example if isinstance(served, ServedForecaster) else example["records"][0],
        "verdict": str(verdict),
        "card": served.card,
        "refused": problem is not None,
    }


def _said(served: One) -> dict[str, Any]:
    return {
        "outcome": served.outcome,
        "event": list(served.form.event),
        "classes": served.form.probabilities if served.form.classes else 0,
        "labels": list(served.form.labels or ()),
        "outputs": [output.value for output in served.outputs],
    }


def _described(field: Field) -> dict[str, Any]:
    found = {**tensor_metadata(field), "shape": list(field.shape), "dtype": field.dtype}
    return {**found, "choices": list(field.choices), "closed": field.closed, "missing": field.missing}


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (files("probinfer.deploy") / "static" / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
