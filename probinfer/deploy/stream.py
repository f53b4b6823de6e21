"""A stream answered as it comes: messages of one Redis stream in, predictions in another. Knows no Redis."""

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from probinfer.deploy.broker import Message, Reader, StreamAddress, Writer, denied, gone, lost_group, pause, refused
from probinfer.deploy.job import Job
from probinfer.deploy.jsonlines import read_record, to_chunk, to_lines
from probinfer.errors import DataError
from probinfer.predict.predictor import load_row_predictor as load_predictor
from probinfer.predict.rows import column_names

logger = logging.getLogger("probinfer.stream")

RECORD = "record"  # the field that holds a whole row as JSON
REJECTS = ".rejects"  # what the name of the stream of rejected messages ends in
_LOOK = 0.5  # seconds that a wait for messages lasts, after which the stop is looked at
_FIRST = 30.0  # seconds in which a broker must have answered once


@dataclass(frozen=True)
class Streamed:
    """What was done: messages answered and rejected, answers that an earlier reading had written, and seconds."""

    rows: int
    rejected: int
    again: int
    seconds: float


def score_stream(
    path: str | os.PathLike[str],
    input: str,
    output: str,
    *,
    group: str = "probinfer",
    consumer: str | None = None,
    level: float = 0.9,
    quantiles: Sequence[float] | None = None,
    keep: Sequence[str] = (),
    chunk_rows: int = 512,
    idle: float = 60.0,
    most_deliveries: int = 5,
    most_entries: int = 0,
    until_empty: bool = False,
    stop: threading.Event | None = None,
) -> Streamed:
    """Predict every message of a Redis stream, and write the answers to another, until told to stop.

    A message is a row: its fields are the columns as text (an empty one is missing), or its only field `record` holds
    the row as JSON. An answer has the fields `key`, the message's own, and `record`, the prediction's columns as JSON.
    Messages that cannot be predicted go to the stream called `OUTPUT.rejects`, with `reason` and what they `held`.

    Every message is answered at least once: it is acknowledged after its answer is written. Its answer is written once,
    as long as the two are not a day apart: the broker remembers the keys. Any number of processes may share a group.
    A broker has to answer within 30 seconds at first; when it goes away later they wait for it.

    Args:
        path: predictor folder.
        input: `redis://host:6379/STREAM`, perhaps with `?db=N`; `rediss://` with TLS.
        output: the same, of the stream to write; it may be on another server.
        group: consumer group; a new one begins with the first message of the stream.
        consumer: name in the group; by default made of machine and process.
        level: probability of the interval.
        quantiles: further quantiles.
        keep: columns to copy in front of the predictions.
        chunk_rows: most messages in one call.
        idle: seconds after which a message that was read and not answered is taken over from its consumer. More than
            a call takes.
        most_deliveries: a message that was read so often without an answer is rejected: it may be what kills consumers.
        most_entries: entries that the output keeps, about; 0 keeps all.
        until_empty: stop once every message is answered.
        stop: event after which it finishes what it has read and returns.

    Raises:
        ArtifactError: the predictor cannot be loaded.
        DataError: a URL names no stream, or the key of that name is none; the broker refuses the user or password.
        ConnectionError: no broker answered at the beginning.
        PredictionError: level or quantiles are no probabilities.
        MissingExtra: redis is not installed.
    """
    began = time.perf_counter()
    wanted = {"chunk_rows": chunk_rows, "most_deliveries": most_deliveries}
    for name, value in wanted.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError(f"{name} is {value!r}; wanted a whole number, 1 or more.")
    if isinstance(idle, bool) or not isinstance(idle, int | float) or not idle > 0:
        raise DataError(f"idle is {idle!r}; wanted seconds, more than one call takes.")
    source, sink = StreamAddress(input), StreamAddress(output)
    if (source.server, source.stream) == (sink.server, sink.stream):
        raise DataError(f"{sink.shown} is both input and output; write the predictions to another stream.")
    job = Job.of(load_predictor(path), _Columns(source.shown), level, quantiles, keep, True)  # ty: ignore[invalid-argument-type]
    job.none()  # an error in the call is one before any message is read
    reader = Reader(source, group, consumer or f"{socket.gethostname()}-{os.getpid()}")
    writer = Writer(sink, f"{group}:{source.stream}", most_entries)
    run = _Run(job, reader, writer, most_deliveries)
    try:
        run.until(stop or threading.Event(), chunk_rows, idle, until_empty)
    finally:
        reader.close()
        writer.close()
    return Streamed(run.answered, run.rejected, run.again, time.perf_counter() - began)


class _Columns:
    """A source as far as a job asks for it: nobody knows the columns of messages that are to come."""

    def __init__(self, label: str) -> None:
        self.label = label

    def columns(self) -> list[str] | None:
        return None


class _Run:
    """Reads, predicts, writes, acknowledges, in this order."""

    def __init__(self, job: Job, reader: Reader, writer: Writer, most_deliveries: int) -> None:
        self._job, self._reader, self._writer, self._most = job, reader, writer, most_deliveries
        self.answered = self.rejected = self.again = 0

    def until(self, stop: threading.Event, count: int, idle: float, until_empty: bool) -> None:
        """Answer messages until `stop`, or until there are none."""
        for end in (self._reader, self._writer):
            self._reach(end, stop)
        self._surely(self._reader.join, stop)
        due = 0.0
        while not stop.is_set():
            messages: list[Message] = []
            if time.monotonic() >= due:
                messages = self._surely(lambda: self._reader.left(count, idle), stop) or []
                due = 0.0 if len(messages) == count else time.monotonic() + min(idle, 5.0) / 2.0
            messages = messages or self._surely(lambda: self._reader.fresh(count, _LOOK), stop) or []
            if messages:
                self._answer(messages, stop)
            elif until_empty and self._surely(self._reader.waiting, stop) is False:
                break
        self._surely(self._reader.leave, stop, patient=False)

    def _answer(self, messages: Sequence[Message], stop: threading.Event) -> None:
        whole = [message for message in messages if message.deliveries <= self._most]
        faults = {m.key: _fault(m, _too_often(m)) for m in messages if m.deliveries > self._most}
        answers: dict[str, dict[str, Any]] = {}
        lines: list[bytes] = []
        for message in list(whole):
            try:
                lines.append(_line(message, self._job))
            except DataError as error:
                faults[message.key] = _fault(message, str(error))
                whole.remove(message)
        if whole:
            chunk = to_chunk(lines, self._job.types, 0)
            table, found = self._job.predicted(chunk)
            bad = {fault.row: fault.reason for fault in found}
            faults |= {message.key: _fault(message, bad[row]) for row, message in enumerate(whole) if row in bad}
            good = [message.key for row, message in enumerate(whole) if row not in bad]
            answers = {key: {RECORD: line} for key, line in zip(good, _lines(table), strict=True)}

        def written() -> tuple[int, int]:
            return self._writer.add(answers), self._writer.add(faults, to=REJECTS)

        done = self._surely(written, stop)
        if done is None:
            return  # told to stop while the broker was away: the messages stay pending
        self._surely(lambda: self._reader.acknowledge([message.key for message in messages]), stop)
        self.answered += done[0]
        self.rejected += done[1]
        self.again += len(answers) + len(faults) - sum(done)

    def _reach(self, end: Reader | Writer, stop: threading.Event) -> None:
        """Have a broker answer once. Raises ConnectionError if it does not in time: an address that is wrong would be
        waited for without end."""
        until, seconds = time.monotonic() + _FIRST, 0.05
        while True:
            try:
                end.greet()
            except denied() as error:
                raise _shut(error) from None
            except gone() as error:
                if stop.is_set() or time.monotonic() + seconds > until:
                    text = f"No broker answers at {end.place}: {error}. Is it running, and are host and port right?"
                    raise ConnectionError(text) from None
                seconds = pause(seconds)
            else:
                return

    def _surely[T](self, work: Callable[[], T], stop: threading.Event, *, patient: bool = True) -> T | None:
        """What `work` gives, tried again while the broker is away; None if told to stop meanwhile."""
        seconds, away = 0.05, False
        while True:
            try:
                found = work()
            except denied() as error:
                raise _shut(error) from None
            except gone() as error:
                if not patient or stop.is_set():
                    return None
                if not away:
                    logger.warning("broker away", extra={"error": type(error).__name__})
                away, seconds = True, pause(seconds)
            except refused() as error:
                if not lost_group(error):
                    raise DataError(f"The broker refuses: {error}.") from None
                if not patient:
                    return None
                logger.warning("group lost", extra={"error": type(error).__name__})
                self._surely(self._reader.join, stop)
                seconds = pause(seconds)
            else:
                if away:
                    logger.warning("broker back")
                return found


def _shut(error: Exception) -> DataError:
    return DataError(
        f"The broker refuses the user or password: {error}. Give them in the address, redis://USER:PASSWORD@HOST/…, or "
        "the password in REDISCLI_AUTH."
    )


def _too_often(message: Message) -> str:
    return f"It was read {message.deliveries - 1} times without an answer; it may be what ends the consumers."


def _line(message: Message, job: Job) -> bytes:
    """The message's row as a line of JSON. Raises DataError for a list of another length than its input has."""
    shaped = {entry.name: entry for entry in job.predictor.inputs if entry.shape}
    if set(message.fields) != {RECORD}:
        kinds = {**job.types, **{name: pa.list_(pa.float64()) for name in shaped}}
        record = {name: _value(text, kinds.get(name)) for name, text in message.fields.items()}
    else:
        line = message.fields[RECORD].encode()
        if not shaped:
            return line
        found = read_record(line)
        if isinstance(found, str):
            return line  # a fault, like every line that is none
        record = found
    for name, entry in shaped.items():
        if isinstance(record.get(name), list):
            names, cells = column_names(entry), list(_flat(record.pop(name)))
            if len(names) != len(cells):
                raise DataError(f"{name} has {len(cells)} entries; wanted {len(names)}.")
            record |= zip(names, cells, strict=True)
    return json.dumps(record).encode()


def _flat(cells: list[Any]) -> Iterator[Any]:
    """The entries of lists in lists, in row-major order."""
    for cell in cells:
        if isinstance(cell, list):
            yield from _flat(cell)
        else:
            yield cell


def _value(text: str, kind: pa.DataType | None) -> Any:
    """A field's text as what its column holds; left as it is where it is none, for the check to name."""
    if text == "":
        return None
    if kind in (None, pa.string()):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = float(text)  # takes .5, +1 and 007
        except ValueError:
            return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


def _lines(table: pa.Table) -> list[str]:
    return to_lines(table).decode().splitlines() if table.num_rows else []


def _fault(message: Message, reason: str) -> Mapping[str, Any]:
    return {"reason": reason, "held": json.dumps(dict(message.fields))}
