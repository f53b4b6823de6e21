"""Counts and histograms in one array of numbers, told as Prometheus text. Imports the standard library.

The array may be a file that is mapped into memory: each worker process has its own, in one folder, and whichever is
asked adds them all up. Counters of a process that died stay; its gauges do not.
"""

import bisect
import functools
import itertools
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probinfer.deploy.refusals import HEADERS_TOO_LARGE, INTERNAL, STATUS

ROUTES = ("infer", "predict", "feedback", "other")
STATUSES = (*map(str, sorted({200, 304, *STATUS.values(), 405, HEADERS_TOO_LARGE, INTERNAL})), "other")
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)  # others are counted together: any number may be asked for
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)

WATCHED = ("inputs", "epistemic share", "calibration", "coverage")
_LARGEST = ("probinfer_monitor_evidence", "probinfer_monitor_alarm")  # of processes, where others are added up

_HELP = {
    "probinfer_requests_total": ("counter", "Requests answered, by model, route and HTTP status."),
    "probinfer_request_seconds": ("histogram", "From the request's headers to the last byte of its answer."),
    "probinfer_batch_seconds": ("histogram", "Duration of one call for a batch."),
    "probinfer_batch_rows": ("histogram", "Rows in one call."),
    "probinfer_batch_requests": ("histogram", "Requests answered by one call."),
    "probinfer_queue_rows": ("gauge", "Rows waiting for a call."),
    "probinfer_epistemic_share": (
        "histogram",
        "Share of a row's predictive variance that comes from not knowing the parameters; it rises where rows are "
        "unlike those of training.",
    ),
    "probinfer_interval_width": ("summary", "Width of the intervals answered, by level."),
    "probinfer_feedback_total": ("counter", "Outcomes reported to /feedback, by level."),
    "probinfer_feedback_covered_total": ("counter", "Reported outcomes that lay in their interval."),
    "probinfer_feedback_expected_total": ("counter", "Outcomes that should have: the sum of the levels."),
    "probinfer_monitor_rows_total": ("counter", "Rows that the artifact's monitor has looked at."),
    "probinfer_monitor_skipped_total": ("counter", "Rows that it has not, as too many came at once."),
    "probinfer_monitor_outcomes_total": ("counter", "Outcomes that the artifact's monitor has looked at."),
    "probinfer_monitor_evidence": (
        "gauge",
        "Evidence of a change, of the strongest column, now, over that at which there is an alarm.",
    ),
    "probinfer_monitor_alarm": ("gauge", "1 once there was an alarm, until a new version or a new process."),
    "probinfer_reloads_total": ("counter", "New versions of an artifact, loaded or refused."),
}


@dataclass(frozen=True)
class _Series:
    """Where one series has its numbers: a counter or gauge one; a summary its sum and count; a histogram its buckets,
    then sum and count."""

    metric: str
    labels: tuple[tuple[str, str], ...]
    first: int
    bounds: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        if self.bounds:
            return len(self.bounds) + 3
        return 2 if _HELP[self.metric][0] == "summary" else 1


class Histogram:
    """Places of one histogram in the array: its buckets, not yet cumulated, their sum and count."""

    def __init__(self, meter: "Meter", first: int, bounds: Sequence[float]) -> None:
        self._meter, self._first, self._bounds = meter, first, bounds

    def observe(self, value: float) -> None:
        """Count a value. What is no number is not counted."""
        self.observe_all((value,))

    def observe_all(self, values: Sequence[float]) -> None:
        """Count each of them."""
        cells, first, bounds = self._meter.cells, self._first, self._bounds
        total, count = 0.0, 0
        for value in values:
            if value == value:
                cells[first + bisect.bisect_left(bounds, value)] += 1.0
                total += value
                count += 1
        last = first + len(bounds) + 1
        cells[last] += total
        cells[last + 1] += count


class Meter:
    """All counts of one process, for the models named.

    Args:
        models: their names; every place in the array follows from them, so all workers agree about it.
        folder: where processes keep their arrays as files; None keeps it in memory.
        outcomes: of models of several, whose doubt is counted for each, with the label `outcome`.
    """

    def __init__(
        self, models: Sequence[str], folder: Path | None = None, outcomes: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._series: list[_Series] = []
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        self._histograms: dict[tuple[str, tuple[str, ...]], Histogram] = {}
        self._size, self._folder = 0, folder
        self._answered: dict[tuple[str, str], dict[int, int]] = {}  # places of requests by status, 0 for the others
        for model in (*models, ""):
            for route in ROUTES:
                places = self._answered[model, route] = {}
                for status in STATUSES:
                    places[int(status) if status.isdigit() else 0] = self._size
                    self._plan("probinfer_requests_total", model=model, route=route, status=status)
                self._plan("probinfer_request_seconds", SECONDS, model=model, route=route)
        for model in models:
            self._plan("probinfer_batch_seconds", SECONDS, model=model)
            self._plan("probinfer_batch_rows", ROWS, model=model)
            self._plan("probinfer_batch_requests", ROWS, model=model)
            self._plan("probinfer_queue_rows", model=model)
            for each in (outcomes or {}).get(model, ("",)):
                of: dict[str, Any] = {"model": model, "outcome": each} if each else {"model": model}
                self._plan("probinfer_epistemic_share", SHARES, **of)
                for level in (*map(str, LEVELS), "other"):
                    self._plan("probinfer_interval_width", **of, level=level)
                    for name in ("total", "covered_total", "expected_total"):
                        self._plan(f"probinfer_feedback_{name}", **of, level=level)
                for name in ("rows", "skipped", "outcomes"):
                    self._plan(f"probinfer_monitor_{name}_total", **of)
                for watched in WATCHED:
                    for metric in _LARGEST:
                        self._plan(metric, **of, watched=watched)
            for outcome in ("loaded", "refused"):
                self._plan("probinfer_reloads_total", model=model, outcome=outcome)
        self.cells = self._array(folder)

    def _plan(self, metric: str, bounds: tuple[float, ...] = (), **labels: str) -> None:
        series = _Series(metric, tuple(labels.items()), self._size, bounds)
        key = metric, tuple(labels.values())
        self._places[key] = self._size
        if bounds:
            self._histograms[key] = Histogram(self, self._size, bounds)
        self._series.append(series)
        self._size += series.size

    def _array(self, folder: Path | None) -> "memoryview[float]":
        size = 8 * self._size
        if folder is None:
            return memoryview(bytearray(size)).cast("d")
        with open(folder / f"{os.getpid()}.counts", "w+b") as file:
            file.truncate(size)
            return memoryview(mmap.mmap(file.fileno(), size)).cast("d")

    def add(self, metric: str, *labels: str, by: float = 1.0) -> None:
        """Count up."""
        self.cells[self._places[metric, labels]] += by

    def answered(self, model: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        places = self._answered[model, route]
        self.cells[places.get(status, places[0])] += 1.0
        self._histograms["probinfer_request_seconds", (model, route)].observe(seconds)

    def put(self, metric: str, *labels: str, value: float) -> None:
        """Set a gauge."""
        self.cells[self._places[metric, labels]] = value

    def histogram(self, metric: str, *labels: str) -> Histogram:
        """To observe values with."""
        return self._histograms[metric, labels]

    def width(self, of: tuple[str, ...], level: float, total: float, count: int) -> None:
        """Interval widths of `count` rows."""
        first = self._places["probinfer_interval_width", (*of, level_label(level))]
        self.cells[first] += total
        self.cells[first + 1] += count

    def text(self, facts: Sequence[tuple[str, str, str, float]] = ()) -> str:
        """Everything, added up over the processes, in Prometheus' text format. `facts`: further gauges, each a name,
        its help, its labels as text, and its value. Requests that never came have no lines."""
        cells = self._together()
        lines: list[str] = []
        for metric, (kind, text) in _HELP.items():
            lines += [f"# HELP {metric} {text}", f"# TYPE {metric} {kind}"]
            for series in self._series:
                if series.metric == metric:
                    lines += _lines(series, kind, cells[series.first : series.first + series.size])
        told = ""
        for name, help_text, labels, value in facts:
            lines += [] if name == told else [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
            told = name
            lines.append(f"{name}{{{labels}}} {_text(value)}")
        return "\n".join(lines) + "\n"

    def _together(self) -> list[float]:
        total = list(self.cells)
        if self._folder is None:
            return total
        gauges = {series.first for series in self._series if _HELP[series.metric][0] == "gauge"}
        largest = {series.first for series in self._series if series.metric in _LARGEST}
        for file in self._folder.glob("*.counts"):
            if file.stem == str(os.getpid()):
                continue
            content = file.read_bytes()
            if len(content) != 8 * len(total):
                continue  # another worker is just making it
            alive = _alive(int(file.stem))
            for number, value in enumerate(struct.unpack(f"{len(total)}d", content)):
                if alive and number in largest:
                    total[number] = max(total[number], value)
                elif alive or number not in gauges:
                    total[number] += value
        return total


def labels(model: str, outcome: str = "") -> tuple[str, ...]:
    """The labels of what is counted of a model's outcome; "" where it has one alone."""
    return (model, outcome) if outcome else (model,)


@functools.lru_cache(1024)  # of every answer
def level_label(level: float) -> str:
    """Under which level an interval is counted.

    >>> level_label(0.9), level_label(0.873)
    ('0.9', 'other')
    """
    return next((str(known) for known in LEVELS if abs(known - level) < 1e-9), "other")


def _lines(series: _Series, kind: str, cells: Sequence[float]) -> Iterator[str]:
    metric, labels = series.metric, series.labels
    if metric.startswith("probinfer_request") and not cells[-1]:
        return
    if kind == "histogram":
        counts = itertools.accumulate(cells[:-2])  # buckets are told cumulated
        for bound, count in zip((*series.bounds, float("inf")), counts, strict=True):
            yield f"{metric}_bucket{_braced((*labels, ('le', _text(bound))))} {_text(count)}"
    if kind in ("histogram", "summary"):
        yield f"{metric}_sum{_braced(labels)} {_text(cells[-2])}"
        yield f"{metric}_count{_braced(labels)} {_text(cells[-1])}"
    else:
        yield f"{metric}{_braced(labels)} {_text(cells[0])}"


def _braced(labels: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(word)}"' for name, word in labels) + "}"


def _text(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
