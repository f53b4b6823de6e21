"""Redis streams: records read by a consumer group, answers written once for each. Imports redis where used.

What was read is pending until it is acknowledged, which happens after its answer is written. A message may be read
again: its consumer died, or the broker went away between the two. The answer's key, the message's own, is remembered by
the broker for a day in the same step that adds the answer, so it is not added a second time.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from probinfer.errors import DataError, MissingExtra

SCHEMES = ("redis", "rediss")
_DAY = 24 * 3600  # for which a key is remembered
_WAIT = 5.0  # seconds until a broker that does not answer counts as gone
_PORT = 6379  # where an address names none

# KEYS: the stream, then the memory of each answer's key. ARGV: seconds, most entries (0: any), then for each answer its
# message's key, the number of its fields and values, and these.
_ADD = """
local at, added = 3, 0
for place = 2, #KEYS do
  local size = tonumber(ARGV[at + 1])
  if redis.call('EXISTS', KEYS[place]) == 0 then
    local entry = {'XADD', KEYS[1]}
    if ARGV[2] ~= '0' then
      for _, word in ipairs({'MAXLEN', '~', ARGV[2]}) do entry[#entry + 1] = word end
    end
    for _, word in ipairs({'*', 'key', ARGV[at]}) do entry[#entry + 1] = word end
    for i = at + 2, at + 1 + size do entry[#entry + 1] = ARGV[i] end
    redis.call(unpack(entry))
    redis.call('SET', KEYS[place], 1, 'EX', ARGV[1])
    added = added + 1
  end
  at = at + 2 + size
end
return added
"""


@dataclass(frozen=True)
class StreamAddress:
    """A stream's URL, `redis://user@host:6379/STREAM?db=0`; `rediss://` with TLS. The password may stand in the
    environment instead, as REDISCLI_AUTH."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in SCHEMES or not parts.hostname or not self.stream:
            raise DataError(f"{self.shown} names no stream; wanted redis://HOST:PORT/STREAM, perhaps with ?db=N.")
        try:
            _ = parts.port
        except ValueError as error:
            raise DataError(f"{self.shown} names no port: {error}.") from None
        unknown = [name for name, value in parse_qsl(parts.query) if name != "db" or not value.isdecimal()]
        if unknown:
            raise DataError(f"{self.shown} has {unknown[0]}; wanted db=N with the number of a database, or nothing.")

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return unquote(urlsplit(self.url).path.lstrip("/"))

    @property
    def server(self) -> str:
        """The URL without the stream, as Redis's client takes it."""
        parts = urlsplit(self.url)
        number = dict(parse_qsl(parts.query)).get("db", "0")
        return urlunsplit((parts.scheme, parts.netloc, "", urlencode({"db": number}), ""))

    @property
    def place(self) -> str:
        """Host and port."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or _PORT}"

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return re.sub(r"://([^:@/]*):[^@/]*@", r"://\1:***@", self.url)


def is_stream(text: str) -> bool:
    """Whether a place is a stream."""
    return text.partition("://")[0] in SCHEMES


class Message(NamedTuple):
    """One entry of a stream. deliveries: how often it was read, this time included."""

    key: str
    fields: Mapping[str, str]
    deliveries: int = 1


class Reader:
    """One consumer of a group. Methods raise `gone()`'s errors while the broker does not answer."""

    def __init__(self, address: StreamAddress, group: str, consumer: str) -> None:
        self._client = _client(address)
        self._stream, self._group, self._consumer = address.stream, group, consumer
        self.place = address.place

    def greet(self) -> None:
        """Have the broker answer anything."""
        _greet(self._client)

    def join(self) -> None:
        """Have the group there, at the beginning of the stream if it is new."""
        try:
            self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except gone():  # a full broker refuses too, and may not always be full
            raise
        except refused() as error:
            if "BUSYGROUP" not in str(error):
                raise DataError(f"{self._stream} is no stream that can be read: {error}.") from None

    def fresh(self, count: int, wait: float) -> list[Message]:
        """Messages that nobody has read, within `wait` seconds."""
        found = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: ">"}, count=count, block=max(1, int(wait * 1000))
        )
        return [_message(key, fields) for _, entries in found or () for key, fields in entries]

    def left(self, count: int, idle: float) -> list[Message]:
        """Messages that were read at least `idle` seconds ago and not answered since: whoever read them is gone."""
        quiet = int(idle * 1000)
        pending = self._client.xpending_range(self._stream, self._group, "-", "+", count, idle=quiet)
        if not pending:
            return []
        counts = {entry["message_id"]: entry["times_delivered"] + 1 for entry in pending}
        claimed = self._client.xclaim(self._stream, self._group, self._consumer, quiet, list(counts))
        return [_message(key, fields, counts[key]) for key, fields in claimed if key is not None]

    def waiting(self) -> bool:
        """Whether any message is unread or unanswered."""
        for group in self._client.xinfo_groups(self._stream):
            if group["name"].decode() == self._group:
                return bool(group["pending"] or group.get("lag"))  # which may be unknown
        return True

    def acknowledge(self, keys: Sequence[str]) -> None:
        """These are answered."""
        if keys:
            self._client.xack(self._stream, self._group, *keys)

    def leave(self) -> None:
        """Take the consumer out of the group, unless something that it read is unanswered."""
        mine = self._client.xpending_range(self._stream, self._group, "-", "+", 1, consumername=self._consumer)
        if not mine:
            self._client.xgroup_delconsumer(self._stream, self._group, self._consumer)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Writer:
    """A stream of answers, each added once for each key that a group's messages have.

    most: entries that the stream keeps, about; older ones are dropped. 0 keeps all.
    """

    def __init__(self, address: StreamAddress, source: str, most: int = 0) -> None:
        self._client = _client(address)
        self._stream, self._source, self._most = address.stream, source, most
        self._add = self._client.register_script(_ADD)
        self.place = address.place

    def greet(self) -> None:
        """Have the broker answer anything."""
        _greet(self._client)

    def add(self, answers: Mapping[str, Mapping[str, Any]], *, to: str = "") -> int:
        """Add the fields of each key's answer, all in one step; how many of them were not there yet.

        to: what the stream's name ends in besides, as that of what is rejected.
        """
        if not answers:
            return 0
        stream = self._stream + to
        keys: list[str] = [stream]
        words: list[Any] = [_DAY, self._most]
        for key, fields in answers.items():
            flat = [word for field in fields.items() for word in field]
            keys.append(f"{stream}:answered:{self._source}:{key}")
            words += [key, len(flat), *flat]
        return int(self._add(keys=keys, args=words))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def gone() -> tuple[type[Exception], ...]:
    """Errors of a broker that is away or not ready, and may come back: also one that is full, or starting. Those of
    `denied()`, which are among them for Redis's client, have to be caught first."""
    found = _redis().exceptions
    return (found.ConnectionError, found.TimeoutError, found.BusyLoadingError, found.OutOfMemoryError)


def denied() -> tuple[type[Exception], ...]:
    """Errors of a broker that knows no such user or password: waiting changes nothing."""
    found = _redis().exceptions
    return (found.AuthenticationError, found.AuthorizationError)


def lost_group(error: Exception) -> bool:
    """Whether a broker came back without the group: what it kept in memory is gone."""
    return str(error).startswith("NOGROUP")


def refused() -> type[Exception]:
    """What the broker itself says no with."""
    return _redis().exceptions.ResponseError


def _greet(client: Any) -> None:
    found = _redis().exceptions
    try:
        client.ping()
    except (found.BusyLoadingError, found.OutOfMemoryError):
        pass  # it is there, and will be ready
    except found.ResponseError as error:  # as of a user who may not ask this; what is asked next tells
        if isinstance(error, denied()):
            raise


def _message(key: bytes, fields: Mapping[bytes, bytes] | None, deliveries: int = 1) -> Message:
    text = {n.decode("utf-8", "replace"): v.decode("utf-8", "replace") for n, v in (fields or {}).items()}
    return Message(key.decode(), text, deliveries)


def _client(address: StreamAddress) -> Any:
    redis = _redis()
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    given = {"password": os.environ["REDISCLI_AUTH"]} if "REDISCLI_AUTH" in os.environ else {}
    once = Retry(NoBackoff(), 0)  # whoever calls decides what to do again
    return redis.Redis.from_url(address.server, socket_timeout=_WAIT, socket_connect_timeout=_WAIT, retry=once, **given)


def _redis() -> Any:
    try:
        import redis
    except ModuleNotFoundError as error:
        raise MissingExtra("redis is not installed: pip install 'probinfer[stream]'.") from error
    return redis


def pause(seconds: float) -> float:
    """Wait before the next try; how long to wait after that, at most five seconds."""
    time.sleep(seconds)
    return min(5.0, 2.0 * seconds)
