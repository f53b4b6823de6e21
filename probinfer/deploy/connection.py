"""One connection of the server, guarded: headers of bounded size, a request that arrives in bounded time, and not more
connections than wanted. A question that arrives in one piece is answered past ASGI.

uvicorn bounds neither of the first two; a client that sends a byte a second would hold a connection for ever, and one
that sends headers without end would fill the memory. Its limit of connections answers past the application, probes
too, so that a flood would have the server restarted. Its way through ASGI (a scope, a cycle of messages, two of them
for the answer) takes two thirds of the time between the socket and the question; all that is not a small question goes
that way. Imports uvicorn.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from probinfer.deploy.transfer import CLOSE, CROWDED, Headers, Made

MOST_HEADERS, MOST_HEADER_BYTES = 100, 32_768
_SECONDS_IF_CROWDED = 1.0  # in which a connection too many has to bring its request
_SECONDS_OF_GOODBYE = 1.0


class _TooManyHeaders(Exception):
    pass


class _Whole:
    """A request that is answered past ASGI, in the place of uvicorn's cycle of messages."""

    __slots__ = ("body", "disconnected", "keep_alive", "path", "response_complete")
    message_event = asyncio.Event()  # nobody waits for it

    def __init__(self, path: str) -> None:
        self.path = path
        self.body = b""
        self.keep_alive, self.disconnected, self.response_complete = True, False, False


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's connection with limits.

    A request that is not there `seconds` after its beginning is given as long again, in which the application may
    answer 408; then the connection is closed. A request on a connection beyond `most` has the extension `CROWDED`; the
    application refuses it. What cannot be read is refused here, and told to `refused` with its status.

    A POST to one of `routes`, which has paths by what they are on the wire, is answered by `at_once(path, headers,
    body)` if all of it came in one piece and nothing before it on its connection waits for an answer.
    """

    seconds = 10.0
    most: int | None = None
    refused: Callable[[int], None] = staticmethod(lambda status: None)
    routes: Mapping[bytes, str] = {}
    at_once: Callable[[str, Headers, bytes], Coroutine[Any, Any, Made]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard: asyncio.TimerHandle | None = None
        self._head_bytes, self._head_count = 0, 0
        self._in_head, self._in_message, self._flooded, self._again = True, True, False, False
        self._extra = False
        self._whole: _Whole | None = None  # whose body is being read

    @property
    def asked(self) -> bool:
        """A whole request came, and no further one has begun."""
        return self.cycle is not None and not self._in_message

    @property
    def _crowded(self) -> bool:
        return self.most is not None and len(self.connections) > self.most

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._extra = self._crowded
        seconds = min(self.seconds, _SECONDS_IF_CROWDED) if self._extra else self.seconds
        self._guard = self.loop.call_later(seconds, self._overdue)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._unguard()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: let go of a connection on which nothing is asked. TLS would wait half a minute for a client
        that does not look at its idle connections to say goodbye as well."""
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.loop.call_later(_SECONDS_OF_GOODBYE, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Read on, within the limits."""
        self._in_message = True
        super().data_received(data)
        if self._whole is not None:  # not all of it is here
            self._through_asgi()
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEADER_BYTES and not self._flooded:
                self._flooded = True
                self.send_400_response("")
        if not self._in_message:
            self._unguard()
        elif self._guard is None and not self.transport.is_closing():
            self._again = False
            self._guard = self.loop.call_later(self.seconds, self._overdue)

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_head, self._in_message = True, True
        self._head_bytes, self._head_count = 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count."""
        self._head_count += 1
        if self._head_count > MOST_HEADERS or len(value) > MOST_HEADER_BYTES:
            self._flooded = True
            raise _TooManyHeaders
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Bodies are bounded by the application."""
        self._in_head = False
        path = self.routes.get(self.url)
        if path is not None and self.parser is not None and self._free and self.parser.get_method() == b"POST":
            self._whole = _Whole(path)
        else:
            self._through_asgi()

    @property
    def _free(self) -> bool:
        """What is read now may be answered past ASGI."""
        if self.parser is None or self._extra or self.parser.should_upgrade() or self.transport.is_closing():
            return False
        return self.cycle is None or self.cycle.response_complete

    def _through_asgi(self) -> None:
        """What was read so far, as uvicorn would have had it."""
        whole, self._whole = self._whole, None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        if self._extra and self._crowded:
            self.scope["extensions"] = {CROWDED: {}}
        super().on_headers_complete()
        if whole is not None and whole.body:
            super().on_body(whole.body)

    def on_body(self, body: bytes) -> None:
        """Part of a body, or all of it."""
        if self._whole is None:
            super().on_body(body)
        else:
            self._whole.body += body

    def on_message_complete(self) -> None:
        """The request is there."""
        self._in_message = False
        whole, self._whole = self._whole, None
        if whole is None:
            super().on_message_complete()
            return
        parser = self.parser
        whole.keep_alive = parser is not None and parser.should_keep_alive() and parser.get_http_version() != "1.0"
        self.cycle = cast(Any, whole)
        answering = self._answer(whole, self.headers)
        task = asyncio.Task(answering, loop=self.loop, eager_start=True)  # begun now, not when the loop comes round
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _answer(self, whole: _Whole, headers: Headers) -> None:
        try:
            made = await self.at_once(whole.path, headers, whole.body)
            if self.flow.write_paused and not whole.disconnected:
                await self.flow.drain()
        except BaseException:  # the server is told to stop waiting
            self.transport.close()
            raise
        if whole.disconnected:
            return
        close = not whole.keep_alive or CLOSE in made.headers
        parts = [STATUS_LINE[made.status]]
        for name, value in (*self.server_state.default_headers, *made.headers):
            parts += (name, b": ", value, b"\r\n")
        if close and CLOSE not in made.headers:
            parts.append(b"connection: close\r\n")
        parts.append(b"content-length: %d\r\n\r\n" % len(made.body))
        parts.append(made.body)
        self.transport.write(b"".join(parts))
        whole.response_complete = True
        if close:
            self.transport.close()
        self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """In JSON, and 431 if it is the headers that are too many."""
        if not self._flooded:
            self._refuse(400, "This is no HTTP request that can be read. Is it HTTPS on a port for HTTP?")
        else:
            text = f"Too many or too long headers; a request may have {MOST_HEADERS}, {MOST_HEADER_BYTES} bytes in all."
            self._refuse(431, text)

    def _refuse(self, status: int, text: str) -> None:
        body = b'{"error":"' + text.encode("ascii") + b'"}'
        head = [b"content-type: application/json\r\n", b"content-length: %d\r\n" % len(body), b"connection: close\r\n"]
        if not self.transport.is_closing():
            self.refused(status)
            self.transport.write(b"".join([STATUS_LINE[status], *head, b"\r\n", body]))
            self.transport.close()

    def _overdue(self) -> None:
        self._guard = None
        if self.transport.is_closing():
            return
        if not self._in_head and not self._again:
            self._again = True
            self._guard = self.loop.call_later(self.seconds, self._overdue)
        else:
            self.transport.close()

    def _unguard(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None
