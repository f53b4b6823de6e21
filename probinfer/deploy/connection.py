"""One connection of the server, guarded: headers of bounded size, a request that arrives in bounded time, and not more
connections than wanted. A question that arrives in one piece is answered past ASGI.

uvicorn bounds neither of the first two; a client that sends a byte a second would hold a connection for ever, and one
that sends headers without end would fill the memory. Its limit of connections answers past the application, probes
too, so that a flood would have the server restarted. Its way through ASGI (a scope, a cycle of messages, two of them
for the answer) takes two thirds of the time between the socket and the question; all that is not a small question goes
that way. Imports httptools and uvicorn.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from probinfer.deploy.transfer import CLOSE, CROWDED, Headers, Made, header

MOST_HEADERS, MOST_HEADER_BYTES = 100, 32_768
_MOST_HEADS, _LONGEST_HEAD = 8, 2048  # that a connection remembers, and bytes of each
_END = b"\r\n\r\n"  # of a head
_SECONDS_IF_CROWDED = 1.0  # in which a connection too many has to bring its request
_SECONDS_OF_GOODBYE = 1.0


class _TooManyHeaders(Exception):
    pass


class _Whole:
    """A request that is answered past ASGI, in the place of uvicorn's cycle of messages."""

    __slots__ = ("body", "disconnected", "keep_alive", "path", "response_complete")
    message_event = asyncio.Event()  # nobody waits for it

    def __init__(self, path: str, body: bytes = b"") -> None:
        self.path, self.body = path, body
        self.keep_alive, self.disconnected, self.response_complete = True, False, False


class _Head(NamedTuple):
    """What was read in a request's head: of one that is the same to the last byte, it would be the same."""

    path: str
    headers: list[tuple[bytes, bytes]]
    length: int  # of the body


class _Start(NamedTuple):
    """How an answer begins, up to its length, and what it was made of."""

    status: int = 0
    default: Any = None
    headers: Any = None
    content: bytes = b""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's connection with limits.

    A request that is not there `seconds` after its beginning is given as long again, in which the application may
    answer 408; then the connection is closed. A request on a connection beyond `most` has the extension `CROWDED`; the
    application refuses it. What cannot be read is refused here, and told to `refused` with its status.

    A POST to one of `routes`, which has paths by what they are on the wire, is answered by `at_once(path, headers,
    body, then)` if all of it came in one piece and nothing before it on its connection waits for an answer. Clients
    send the same heads again and again, to the last byte; those of such requests are parsed once.
    """

    seconds = 10.0
    most: int | None = None
    refused: Callable[[int], None] = staticmethod(lambda status: None)
    routes: Mapping[bytes, str] = {}
    at_once: Callable[[str, Headers, bytes, Callable[[Made], None]], None]
    _start = _Start()  # the last one's, of all connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard: asyncio.TimerHandle | None = None
        self._head_bytes, self._head_count = 0, 0
        self._in_head, self._in_message, self._flooded, self._again = True, True, False, False
        self._offered = False  # another protocol, by the head just read
        self._late = False  # a head that ends the piece which is read began after something else in it
        self._extra = False
        self._whole: _Whole | None = None  # whose body is being read
        self._heads: dict[bytes, _Head] = {}
        self._piece = b""  # what is being read, if a message begins with it
        self._idle_since = 0.0

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
        if not self._in_message:
            if self._read_before(data):
                return
            self._piece = data
        self._late = self._in_message and not self._in_head
        self._in_message = True
        self._parse(data)
        self._piece = b""
        if self._whole is not None:  # not all of it is here
            self._through_asgi()
        if self._in_head and not self._late:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEADER_BYTES and not self._flooded:
                self._flooded = True
                self.send_400_response("")
        if not self._in_message:
            self._unguard()
        elif self._guard is None and not self.transport.is_closing():
            self._again = False
            self._guard = self.loop.call_later(self.seconds, self._overdue)

    def _parse(self, data: bytes) -> None:
        """As uvicorn does, but an offer to go on in another protocol is not taken. Java's client makes one with every
        request (`Upgrade: h2c`). The parser takes such a head for the whole request and leaves its body unread."""
        self._unset_keepalive_if_required()
        parser, rest = self.parser, memoryview(data)
        try:
            while parser is not None:
                try:
                    parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as ended:
                    if not self._offered:  # CONNECT
                        break
                    head, rest = self._without_offer(parser), rest[ended.args[0] :]
                    parser = self.parser = httptools.HttpRequestParser(self)
                    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
                    parser.feed_data(head)
        except httptools.HttpParserError:
            self.send_400_response("")

    def _without_offer(self, parser: httptools.HttpRequestParser) -> bytes:
        """The head just read, as if nothing had been offered."""
        self._offered = False
        first = b"%b %b HTTP/%b\r\n" % (parser.get_method(), self.url, parser.get_http_version().encode())
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([first, *lines, b"\r\n"])

    def _read_before(self, data: bytes) -> bool:
        """Whether it is a whole request with a head that was read before; then it is answered."""
        end = data.find(_END) + len(_END)
        head = self._heads.get(data[:end])
        if head is None or len(data) - end != head.length or not self._free:
            return False
        self._ask(_Whole(head.path, data[end:]), head.headers)
        return True

    def _remember(self, whole: _Whole) -> None:
        end = self._piece.find(_END) + len(_END)
        length = header(self.headers, b"content-length")
        in_one_piece = length is not None and int(length) == len(whole.body) == len(self._piece) - end
        if in_one_piece and whole.keep_alive and end <= _LONGEST_HEAD and len(self._heads) < _MOST_HEADS:
            self._heads[self._piece[:end]] = _Head(whole.path, self.headers, len(whole.body))

    def _ask(self, whole: _Whole, headers: Headers) -> None:
        self.cycle = cast(Any, whole)
        self.at_once(whole.path, headers, whole.body, partial(self._answer, whole))

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
        parser = self.parser
        self._offered = parser is not None and parser.should_upgrade() and parser.get_method() != b"CONNECT"
        if self._offered:  # it is read again, without that
            return
        path = self.routes.get(self.url)
        if path is not None and parser is not None and self._free and parser.get_method() == b"POST":
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
        if self._offered:
            return
        self._in_message, self._late = False, True
        whole, self._whole = self._whole, None
        if whole is None:
            super().on_message_complete()
            return
        parser = self.parser
        whole.keep_alive = parser is not None and parser.should_keep_alive() and parser.get_http_version() != "1.0"
        if self._piece:
            self._remember(whole)
        self._ask(whole, self.headers)

    def _answer(self, whole: _Whole, made: Made) -> None:
        if whole.disconnected or self.transport.is_closing():
            return
        if self.flow.write_paused:  # the client does not read what it was answered before
            task = self.loop.create_task(self._drained(whole, made))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self._write(whole, made)

    async def _drained(self, whole: _Whole, made: Made) -> None:
        try:
            await self.flow.drain()
        except BaseException:  # the server is told to stop waiting
            self.transport.close()
            raise
        self._answer(whole, made)

    def _write(self, whole: _Whole, made: Made) -> None:
        closes = CLOSE in made.headers
        last = b"connection: close\r\n" if not (whole.keep_alive or closes) else b""
        start = self._start
        if start[:3] != (made.status, self.server_state.default_headers, made.headers):
            start = type(self)._start = self._begun(made)
        self.transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (start.content, last, len(made.body), made.body))
        whole.response_complete = True
        if closes or not whole.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _begun(self, made: Made) -> _Start:
        default = self.server_state.default_headers
        lines = [b"%b: %b\r\n" % header for header in (*default, *made.headers)]
        return _Start(made.status, default, made.headers, b"".join([STATUS_LINE[made.status], *lines]))

    def on_response_complete(self) -> None:
        """Wait for the next request. A timer that runs goes on running: to stop and start one for each request takes as
        long as to read it."""
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None or self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection once nothing has come for so long."""
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if left > 0.0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

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
