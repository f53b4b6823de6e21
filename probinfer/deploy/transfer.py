"""Bodies in and out of a server, bounded in bytes and time. Imports the standard library."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, NamedTuple

from probinfer.deploy.refusals import Malformed, TooLarge, TooSlow, Unsupported

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")
CROWDED = "probinfer.crowded"  # the ASGI extension of a request that came on a connection too many


class Gone(Exception):
    """The client closed the connection before its request was complete."""


class Made(NamedTuple):
    """A whole answer; its length is no header yet."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


def header(headers: Headers, wanted: bytes) -> bytes | None:
    """The first header of a name, in lower case; blanks around its value are none of it, and the parser leaves some."""
    for name, value in headers:
        if name == wanted:
            return value.strip()
    return None


def check_body(headers: Headers, most: int, size: int = 0) -> None:
    """Raises Unsupported, Malformed for a length that is none, and TooLarge for a body of `size` bytes, or of as many
    as the headers say."""
    encoding = header(headers, b"content-encoding")
    if encoding not in (None, b"identity"):
        text = encoding.decode("latin-1")[:40] if encoding else ""
        raise Unsupported(f"The body is encoded as {text!r}; wanted plain JSON without Content-Encoding.")
    length = header(headers, b"content-length")
    if length is not None and not length.isdigit():
        raise Malformed("Content-Length is no number of bytes.")
    size = max(size, int(length or 0))
    if size > most:
        raise TooLarge(_too_large(f"{size} bytes", most))


async def read_body(headers: Headers, receive: Receive, most: int, seconds: float) -> bytes:
    """The whole body. Raises what `check_body` does, TooLarge as soon as it is, TooSlow, and Gone."""
    check_body(headers, most)
    message = await _within(receive, seconds)
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > most:
            raise TooLarge(_too_large(f"{len(body)} bytes", most))
        return body
    parts = [message.get("body", b"")]
    size = len(parts[0])
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while message.get("more_body"):
        if size > most:
            raise TooLarge(_too_large(f"More than {size} bytes", most))
        message = await _within(receive, until - loop.time())
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > most:
        raise TooLarge(_too_large(f"{size} bytes", most))
    return b"".join(parts)


async def _within(receive: Receive, seconds: float) -> MutableMapping[str, Any]:
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
    except TimeoutError:
        raise TooSlow("The body did not arrive in time; send it at once.") from None
    if message["type"] == "http.disconnect":
        raise Gone
    return message


def _too_large(came: str, most: int) -> str:
    return f"{came} came; a body may have {most}. Send the rows in pieces, or use `probinfer score` for a table."


async def reply(send: Send, made: Made) -> None:
    """Send a whole answer."""
    length = (b"content-length", str(len(made.body)).encode())
    await send({"type": "http.response.start", "status": made.status, "headers": [*made.headers, length]})
    await send({"type": "http.response.body", "body": made.body})
