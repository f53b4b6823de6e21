"""Leave for web pages of other origins to ask a server: the headers that browsers look for.

Fetch standard, https://fetch.spec.whatwg.org/#http-cors-protocol. Cookies are not part of it: a key comes in a header.
"""

from collections.abc import Sequence

from probinfer.deploy.transfer import Headers, Made, header

ANY = "*"
_VARY = (b"vary", b"Origin")
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-API-Key, X-Timeout-Ms"),
    (b"access-control-max-age", b"600"),
]
_READABLE = (b"access-control-expose-headers", b"Retry-After")


class Origins:
    """The origins whose pages may ask: each as a browser names it, such as https://example.org, or all by `*`."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = ANY in allowed
        self._allowed = frozenset(origin.encode() for origin in allowed)

    def headers(self, asked: Headers) -> list[tuple[bytes, bytes]]:
        """What an answer says besides, by the headers of its request."""
        if self._any:
            return [(b"access-control-allow-origin", b"*"), _READABLE]
        origin = header(asked, b"origin")
        if origin not in self._allowed:
            return [_VARY]  # the answer to another origin would be another one
        return [(b"access-control-allow-origin", origin), _READABLE, _VARY]

    def preflight(self, method: str, asked: Headers) -> Made | None:
        """The answer to a browser that asks whether it may ask; None for what is none of these questions."""
        if method != "OPTIONS" or header(asked, b"access-control-request-method") is None:
            return None
        return Made(200, [*self.headers(asked), *_PREFLIGHT], b"")
