"""The application: routes to models, errors to statuses, and everything counted. ASGI, on Starlette.

The routes that answer questions are looked up in a dict and read their body themselves; everything else goes through
Starlette's router. The layer knows no statistics: it reads, asks the batcher, and writes.
"""

import asyncio
import codecs
import contextlib
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple, cast

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from probinfer.deploy import open_inference, page, records
from probinfer.deploy.asking import Ask, AskSeveral, Limits, Reply, ReplySeveral
from probinfer.deploy.batcher import Batcher
from probinfer.deploy.calls import Calls
from probinfer.deploy.cors import Origins
from probinfer.deploy.forecasts import MOST_TIMES, ServedForecaster
from probinfer.deploy.meter import Meter, labels, level_label
from probinfer.deploy.models import Models, Slot
from probinfer.deploy.openapi import document
from probinfer.deploy.readers import reader_of
from probinfer.deploy.refusals import INTERNAL, Crowded, Malformed, NotReady, Refusal, Unauthorised, status_of
from probinfer.deploy.served import load
from probinfer.deploy.settings import ServeSettings
from probinfer.deploy.several import Answers
from probinfer.deploy.transfer import (
    CLOSE,
    CROWDED,
    JSON,
    Gone,
    Headers,
    Made,
    Receive,
    Scope,
    Send,
    check_body,
    header,
    read_body,
    reply,
)
from probinfer.deploy.watch import Watch
from probinfer.deploy.worker import Lane, Worker
from probinfer.errors import ProbinferError
from probinfer.predict.together import Question

logger = logging.getLogger("probinfer.serve")

_LARGE = 32_768  # bytes; a larger body is read and its answer written beside the event loop
_MOST_LANE = 64
_LOOK = 1.0  # seconds between looks of the monitors
_MOST_TEXT = 2_000  # characters of an error
_MOST_DIGITS = 16  # of milliseconds; more are longer than any server waits
_PROBES = ("/v2/health/live", "/v2/health/ready", "/health/live", "/health/ready")
_OPEN = (*_PROBES, *page.ASSETS)  # need no key
_ALWAYS = (*_PROBES, "/metrics")  # answered on a connection too many: who watches must see why others are refused


class _Route(NamedTuple):
    """What has a body: the model's name, the route's, what reads the body, and of a question what writes the answer."""

    model: str
    name: str
    read: Callable[..., Any]
    write: Callable[[Any, Any], bytes] | None = None
    version: str | None = None  # that has to answer


_OTHER = "", "other"  # what is counted of all other requests


class _Request:
    """What is counted of a request and told of it in the log. status: of its answer."""

    __slots__ = ("began", "headers", "method", "path", "route", "status", "told")

    def __init__(self, method: str, path: str, headers: Headers, route: _Route | None) -> None:
        self.began = time.perf_counter()
        self.method, self.path, self.headers, self.route = method, path, headers, route
        self.status = INTERNAL
        self.told: dict[str, Any] = {}


class Service:
    """One process's server of the models in `settings`, an ASGI application.

    Making it loads the predictors, so that a folder that cannot be read stops the server before it listens. Compiling
    them begins with the event loop; until then `/v2/health/ready` says 503. Then `compiled` is called.
    """

    def __init__(self, settings: ServeSettings, compiled: Callable[[], None] = lambda: None) -> None:
        self.settings, self._compiled = settings, compiled
        self.limits = Limits(settings.max_rows, settings.max_samples)
        self.draining = False
        models = {name: load(name, path) for name, path in settings.models}
        self.meter = Meter([*models], settings.counts, {name: [*served.parts] for name, served in models.items()})
        self._batch_worker, self._draw_worker = Worker("probinfer-batches"), Worker("probinfer-draws")
        self._forecast_worker = Worker("probinfer-forecasts")  # a step of one may take as long as many rows
        self._lane, self._forecast_lane = (Lane(w, _MOST_LANE) for w in (self._draw_worker, self._forecast_worker))
        self._origins = Origins(settings.cors_origin) if settings.cors_origin else None
        self._key = None if settings.api_key is None else hashlib.sha256(settings.api_key.encode()).digest()
        slots, self._watches = {}, {}
        for name, served in models.items():
            watches = {outcome: Watch(self.meter, name, settings.workers, outcome) for outcome in served.parts}
            forecasts = isinstance(served, ServedForecaster)
            batcher = Batcher(
                self._forecast_worker if forecasts else self._batch_worker,
                max_batch=min(settings.max_batch, MOST_TIMES) if forecasts else settings.max_batch,
                max_wait=settings.max_wait_ms / 1000.0,
                max_queue=settings.max_queue,
                observe=Calls(self.meter, name, watches),
            )
            slots[name], self._watches[name] = Slot(served, batcher), watches
            for outcome, watch in watches.items():
                watch.begin(served.parts[outcome])
        self.models = Models(slots, self.meter, settings.max_batch)
        self.routes = self._questions()
        self._rest = self._starlette()
        self._documents: dict[tuple[str, ...], bytes] = {}
        self._tasks: set[asyncio.Task] = set()  # held, as the event loop does not hold them

    # asgi ------------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        path, headers = scope["path"], scope["headers"]
        route = self.routes.get(path) or self._versioned(path) if scope["method"] == "POST" else None
        request = _Request(scope["method"], path, headers, route)
        try:
            crowded = CROWDED in scope.get("extensions", ())
            made = self._origins.preflight(request.method, headers) if self._origins and not crowded else None
            if made is None:  # a preflight has no key, and shows nothing
                self._admit(path, headers, crowded=crowded)
                if route is not None:
                    body = await read_body(headers, receive, self.settings.max_body, self.settings.body_timeout)
                    deadline = self._deadline(headers, asyncio.get_running_loop().time())
                    made = self._made(request, await self._work(route, body.removeprefix(codecs.BOM_UTF8), deadline))
            if made is None:
                request.status = await self._through_starlette(request, scope, receive, send)
            else:
                request.status = made.status
                await reply(send, made)
        except Gone:
            return
        except Exception as error:  # noqa: BLE001 - the last line of defence: every error has an answer
            await reply(send, self._refusal(request, error))
        self._count(request)

    def at_once(self, path: str, headers: Headers, body: bytes, then: Callable[[Made], None]) -> None:
        """Answer a POST to one of `routes` that is there as a whole, without the way through ASGI, which takes as long
        as all the rest: `then` is called with the answer, in the event loop's thread. Raises nothing."""
        route = self.routes[path]
        request = _Request("POST", path, headers, route)
        try:
            self._admit(path, headers)
            check_body(headers, self.settings.max_body, len(body))
            deadline = self._deadline(headers, asyncio.get_running_loop().time())
            content = body.removeprefix(codecs.BOM_UTF8)
            if route.write is None or len(content) >= _LARGE:
                self._later(request, self._work(route, content, deadline), then)
                return
            slot = self.models.answering(route.model)
            asked = route.read(slot.served, content, self.limits)
            if asked.draws:
                self._later(request, self._written(route, slot, asked, deadline), then)
            else:
                slot.batcher.put(asked.served, asked.question, deadline, partial(self._found, request, asked, then))
        except Exception as error:  # noqa: BLE001 - the last line of defence: every error has an answer
            self._tell(request, self._refusal(request, error), then)

    def _found(self, request: _Request, asked: Ask | AskSeveral, then: Callable[[Made], None], found: Any) -> None:
        """What the batcher has found for a question that came at once, or why it has nothing."""
        try:
            if isinstance(found, Exception):
                raise found
            write = cast(_Route, request.route).write
            assert write is not None
            made = self._made(request, write(asked, _replied(asked, found, None)))
        except Exception as error:  # noqa: BLE001 - as above
            made = self._refusal(request, error)
        self._tell(request, made, then)

    def _later(self, request: _Request, work: Coroutine[Any, Any, bytes], then: Callable[[Made], None]) -> None:
        """What takes more than a question to the batcher."""

        async def answer() -> None:
            try:
                made = self._made(request, await work)
            except Exception as error:  # noqa: BLE001 - as above
                made = self._refusal(request, error)
            self._tell(request, made, then)

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, request: _Request, made: Made, then: Callable[[Made], None]) -> None:
        try:
            then(made)
        except Exception:  # the connection's own; others of the same call have their answers to come
            logger.exception("an answer could not be written")
        self._count(request)

    def _made(self, request: _Request, content: bytes) -> Made:
        request.status = 200
        return Made(200, self._headers(request, JSON), content)

    def _count(self, request: _Request) -> None:
        """An answer, in the metrics, and in the log if it is a refusal or all are wanted there."""
        seconds = time.perf_counter() - request.began
        model, route = request.route[:2] if request.route is not None else _OTHER
        self.meter.answered(model, route, request.status, seconds)
        if self.settings.log_requests or (request.status >= 400 and request.path not in _PROBES):
            extra = {"method": request.method, "path": request.path[:200], "seconds": round(seconds, 6)}
            extra |= {"status": request.status, **request.told}
            logger.log(logging.ERROR if request.status == INTERNAL else logging.INFO, "request", extra=extra)

    def unread(self, status: int) -> None:
        """Count and log a request that could not be read, and was answered by the connection itself."""
        self.meter.add("probinfer_requests_total", "", "other", str(status))
        logger.info("request", extra={"status": status, "error": "unreadable"})

    def _admit(self, path: str, headers: Headers, *, crowded: bool = False) -> None:
        """Raises Crowded on a connection too many, and Unauthorised without the right key. Keys are compared in
        constant time, as digests."""
        if crowded and path not in _ALWAYS:
            most = self.settings.connections
            raise Crowded(f"More than {most} connections are open; close those that you do not use.", retry_after=1)
        if self._key is None or path in _OPEN:
            return
        came = header(headers, b"x-api-key")
        if came is None:
            scheme, _, came = (header(headers, b"authorization") or b"").partition(b" ")
            came = came.strip() if scheme.lower() == b"bearer" else b""
        if not hmac.compare_digest(hashlib.sha256(came).digest(), self._key):
            raise Unauthorised("The API key is missing or wrong; send `Authorization: Bearer KEY` or `X-API-Key: KEY`.")

    def _deadline(self, headers: Headers, now: float) -> float:
        """When the answer must be there: the server's limit, or less as `X-Timeout-Ms` says."""
        asked = header(headers, b"x-timeout-ms")
        if asked is None:
            return now + self.settings.timeout
        digits = asked.lstrip(b"0")
        if not digits.isdigit():
            raise Malformed(f"X-Timeout-Ms is {asked[:20].decode('latin-1')!r}; wanted a whole number above 0.")
        seconds = int(digits) / 1000.0 if len(digits) < _MOST_DIGITS else math.inf
        return now + min(self.settings.timeout, seconds)

    def _refusal(self, request: _Request, error: Exception) -> Made:
        status, headers, text = status_of(error), self._headers(request, JSON), str(error)
        request.status, request.told = status, {"error": type(error).__name__}
        if status == INTERNAL:
            request.told["id"] = secrets.token_hex(8)
            text = f"Something went wrong in the server, not in the request. The log has it as {request.told['id']}."
            logger.error("internal error", exc_info=error, extra={"id": request.told["id"]})
        if isinstance(error, Refusal) and error.retry_after is not None:
            headers = [*headers, (b"retry-after", str(error.retry_after).encode())]
        if status == 401:
            headers = [*headers, (b"www-authenticate", b"Bearer")]
        if status == 408 or isinstance(error, Crowded):
            headers = [*headers, CLOSE]
        return Made(status, headers, open_inference.encode({"error": _cut(text)}))

    def _headers(self, request: _Request, *headers: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        found = [*headers, CLOSE] if self.draining else [*headers]
        return found + self._origins.headers(request.headers) if self._origins else found

    async def _through_starlette(self, request: _Request, scope: Scope, receive: Receive, send: Send) -> int:
        status = INTERNAL

        async def noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": self._headers(request, *message.get("headers", []))}
            await send(message)

        await self._rest(scope, receive, noting)
        return status

    # questions -------------------------------------------------------------------------------------------------------

    def _questions(self) -> Mapping[str, _Route]:
        routes: dict[str, _Route] = {}
        for name in reversed(self.models.slots):  # the first comes last: it has the routes without a name
            reader = reader_of(self.models.slots[name].served)
            infer = _Route(name, "infer", reader.infer, open_inference.write_infer)
            routes[f"/v2/models/{name}/infer"] = infer
            for path in ("/predict", f"/predict/{name}"):
                routes[path] = _Route(name, "predict", reader.predict, records.write_predictions)
            for path in ("/feedback", f"/feedback/{name}"):
                routes[path] = _Route(name, "feedback", reader.feedback)
        return routes

    def _versioned(self, path: str) -> _Route | None:
        """The route of `/v2/models/NAME/versions/VERSION/infer`."""
        parts = path.split("/")
        if len(parts) != 7 or parts[1:3] != ["v2", "models"] or parts[4] != "versions" or parts[6] != "infer":
            return None
        route = self.routes.get(f"/v2/models/{parts[3]}/infer")
        return route._replace(version=parts[5]) if route is not None else None

    async def _work(self, route: _Route, body: bytes, deadline: float) -> bytes:
        slot = self.models.answering(route.model, route.version)
        read = await self._beside(len(body), route.read, slot.served, body, self.limits)
        if route.write is None:
            return await self._covered(route.model, slot, read, deadline)
        return await self._written(route, slot, read, deadline, len(body))

    async def _written(
        self, route: _Route, slot: Slot, asked: Ask | AskSeveral, deadline: float, size: int = 0
    ) -> bytes:
        assert route.write is not None
        return await self._beside(size, route.write, asked, await self._reply(slot, asked, deadline))

    async def _covered(self, model: str, slot: Slot, came: Sequence[records.Came], deadline: float) -> bytes:
        """Outcomes that came: compare them with the intervals of the version that answers now."""
        served, insides = slot.served, []
        answers = [await slot.batcher.ask(served, each.batched, deadline) for each in came]
        for each, answer in zip(came, answers, strict=True):
            found = (answer.parts[each.outcome] if isinstance(answer, Answers) else answer).own
            again = each.question._replace(again=True)
            if isinstance(again, Question):  # monitors are of rows
                self._watches[model][each.outcome].came(again, found, each.values)
            inside = (found.lower <= each.values) & (each.values <= found.upper)  # not of what did not come
            level, size = each.question.level, int(np.isfinite(each.values).sum())
            counts = {"total": size, "covered_total": inside.sum(), "expected_total": size * level}
            for name, value in counts.items():
                of = labels(model, each.outcome)
                self.meter.add(f"probinfer_feedback_{name}", *of, level_label(level), by=float(value))
            insides.append(inside)
        return records.write_covered(served, came, insides)

    async def _beside(self, size: int, work: Callable[..., Any], *arguments: Any) -> Any:
        """Small bodies at once; large ones in a thread, since reading them takes longer than the loop may wait."""
        return work(*arguments) if size < _LARGE else await asyncio.to_thread(work, *arguments)

    async def _reply(self, slot: Slot, asked: Ask | AskSeveral, deadline: float) -> Reply | ReplySeveral:
        samples = found = None
        if asked.summarises:
            found = await slot.batcher.ask(asked.served, asked.question, deadline)
        if asked.draws:
            sample = cast(Callable[..., Any], asked.served.answers.sample)
            lane = self._forecast_lane if isinstance(asked.served, ServedForecaster) else self._lane
            samples = await lane.run(partial(sample, asked.drawn, asked.draws, asked.seed), deadline)
        return _replied(asked, found, samples)

    # everything else -------------------------------------------------------------------------------------------------

    def _starlette(self) -> Starlette:
        routes = [
            *(Route(path, page.asset) for path in page.ASSETS),
            Route("/models", self._cards),
            Route("/openapi.json", self._openapi),
            Route("/metrics", self._metrics),
            Route("/health/live", self._live),
            Route("/health/ready", self._health),
            Route("/v2", self._server),
            Route("/v2/", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._health),
            Route("/v2/models/{model}", self._model),
            Route("/v2/models/{model}/ready", self._model_ready),
            Route("/v2/models/{model}/versions/{version}", self._model),
            Route("/v2/models/{model}/versions/{version}/ready", self._model_ready),
            Route("/v2/models/{model}/infer", self._nobody, methods=["POST"]),
            Route("/v2/models/{model}/versions/{version}/infer", self._nobody, methods=["POST"]),
            *(Route(path, self._nobody, methods=["POST"]) for path in ("/predict", "/feedback")),
            Route("/predict/{model}", self._nobody, methods=["POST"]),
            Route("/feedback/{model}", self._nobody, methods=["POST"]),
        ]
        handlers: Any = {HTTPException: self._not_found, ProbinferError: self._refused}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False  # a POST that is sent elsewhere loses its body with many clients
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        self._batch_worker.start(loop)
        self._draw_worker.start(loop)
        self._forecast_worker.start(loop)
        tasks = [asyncio.create_task(self._began()), asyncio.create_task(self._watching())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self._batch_worker.stop)
            await asyncio.to_thread(self._draw_worker.stop)
            await asyncio.to_thread(self._forecast_worker.stop)

    async def _began(self) -> None:
        try:
            await self.models.warm()
        except Exception:
            logger.exception("could not be compiled")
            raise
        self._compiled()
        if self.settings.reload:
            await self.models.watch(self.settings.reload)

    async def _watching(self) -> None:
        """Let the monitors look at what has come, once a second, beside the event loop."""
        while True:
            await asyncio.sleep(_LOOK)
            for name, slot in self.models.slots.items():
                for outcome, served in slot.served.parts.items():
                    watch = self._watches[name][outcome]
                    if slot.ready and (watch.waiting or not watch.of(served)):
                        await asyncio.to_thread(watch.look, served)

    async def _nobody(self, request: Request) -> Response:
        self.models.slot(request.path_params.get("model"))
        raise AssertionError("a model that is there has a route of its own")

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _health(self, request: Request) -> Response:
        """Ready to be asked. A model whose folder holds something that cannot be served is ready with its old version,
        and says so."""
        models = {}
        for name, slot in self.models.slots.items():
            models[name] = {"ready": slot.ready, "version": slot.served.version}
            if slot.problem is not None:
                models[name]["problem"] = "what the path holds now was refused; the version before it answers"
        ready = self.models.ready and not self.draining
        told = {"ready": ready, "draining": self.draining, "models": models}
        return _json(told, 200 if ready else 503, {} if ready else {"retry-after": "1"})

    async def _server(self, request: Request) -> Response:
        return _json(open_inference.server_metadata(version("probinfer")))

    async def _model(self, request: Request) -> Response:
        return _json(open_inference.model_metadata(self._named(request).served))

    async def _model_ready(self, request: Request) -> Response:
        slot = self._named(request)
        if not slot.ready or self.draining:
            raise NotReady(f"{slot.served.name} is not ready; try again in a second.", retry_after=1)
        return _json({"name": slot.served.name, "ready": True})

    def _named(self, request: Request) -> Slot:
        slot, wanted = self.models.slot(request.path_params["model"]), request.path_params.get("version")
        if wanted is not None and wanted != slot.served.version:
            self.models.answering(slot.served.name, wanted)
        return slot

    async def _cards(self, request: Request) -> Response:
        return _json({"models": [page.described(slot.served, slot.problem) for slot in self.models.slots.values()]})

    async def _openapi(self, request: Request) -> Response:
        versions = tuple(slot.served.version for slot in self.models.slots.values())
        if versions not in self._documents:
            if not self.models.ready:
                raise NotReady("The examples are answered by the models, which are being compiled.", retry_after=1)
            served = [slot.served for slot in self.models.slots.values()]
            keyed = self._key is not None
            made = await asyncio.to_thread(document, served, version("probinfer"), self.limits, keyed)
            self._documents = {versions: open_inference.encode(made)}
        return Response(self._documents[versions], media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        facts = []
        for name, slot in self.models.slots.items():
            self.meter.put("probinfer_queue_rows", name, value=slot.batcher.rows)
            labels = f'model="{name}",version="{slot.served.version}"'
            facts.append(("probinfer_model_ready", "The version that answers is compiled.", labels, float(slot.ready)))
        for name, slot in self.models.slots.items():
            text = "1 while the artifact's folder holds something that was refused."
            facts.append(("probinfer_artifact_refused", text, f'model="{name}"', float(slot.problem is not None)))
        text = await asyncio.to_thread(self.meter.text, facts)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _not_found(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path[:200]} is nothing that this server does; see /openapi.json."
        if error.status_code == 405:
            text += f" It takes {(error.headers or {}).get('Allow', 'another method')}."
        return _json({"error": text}, error.status_code, dict(error.headers or {}))

    async def _refused(self, request: Request, error: Exception) -> Response:
        retry = {"retry-after": str(error.retry_after)} if isinstance(error, Refusal) and error.retry_after else {}
        return _json({"error": _cut(str(error))}, status_of(error), retry)


def _replied(asked: Ask | AskSeveral, found: Any, samples: Any) -> Reply | ReplySeveral:
    return (ReplySeveral if isinstance(asked, AskSeveral) else Reply)(found, samples)


def _cut(text: str) -> str:
    """An error's text, which may hold what a client sent, at a length that is no burden."""
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(open_inference.encode(content), status, dict(headers or {}), "application/json")
