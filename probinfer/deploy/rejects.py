"""Rows that cannot be predicted: found one by one, and written with the reason to a file of their own."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from probinfer.deploy.chunk import Fault, Position
from probinfer.deploy.jsonlines import finite
from probinfer.deploy.outputs import close_safely
from probinfer.errors import DataError, PredictionError
from probinfer.files import sync_folder


def sift(
    check: Callable[[pa.RecordBatch, int], object], rows: pa.RecordBatch, numbers: np.ndarray
) -> tuple[pa.RecordBatch, np.ndarray, list[Fault]]:
    """The rows that `check(rows, number of the first)` passes, their numbers, and a fault for each of the others.

    By halving: one check where all are good, about 2 log2(n) more for each bad row.
    """
    good: list[tuple[int, int]] = []
    faults: list[Fault] = []
    waiting = [(0, rows.num_rows)] if rows.num_rows else []
    while waiting:
        start, stop = waiting.pop()
        piece = rows.slice(start, stop - start)
        try:
            check(piece, int(numbers[start]))
            good.append((start, stop))
        except (PredictionError, DataError) as error:
            if stop - start == 1:
                faults.append(Fault(int(numbers[start]), str(error), piece.to_pylist()[0]))
            else:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]
    if not faults:
        return rows, numbers, []
    kept = np.concatenate([np.zeros(0, int), *(np.arange(start, stop) for start, stop in good)])
    return rows.take(pa.array(kept)), numbers[kept], faults


class Rejects:
    """A file of JSON lines, `row`, `reason` and what the row `held`, that appears with the predictions.

    Until then it is `<path>.partial`; a run that goes on drops from it what belongs to rows that it reads again.
    """

    def __init__(self, path: Path, start: Position, lasting: bool) -> None:
        self.path, self._lasting = path, lasting
        self.partial = path.with_name(path.name + ".partial")
        if start.rejects_bytes and not self.partial.exists() and path.exists():
            os.replace(path, self.partial)  # the earlier run died after its last rejects, before its last predictions
        there = self.partial.stat().st_size if start.rejects_bytes and self.partial.exists() else 0
        if there < start.rejects_bytes:
            raise DataError(
                f"{self.partial} has {there} bytes; an earlier run wrote {start.rejects_bytes}. Remove what that run "
                "left to begin anew."
            )
        self._file = open(self.partial, "r+b" if start.rejects_bytes else "wb")
        self._file.truncate(start.rejects_bytes)
        self._file.seek(start.rejects_bytes)

    def write(self, faults: Sequence[Fault]) -> None:
        """Append faults."""
        for fault in faults:
            record = {"row": fault.row, "reason": fault.reason, "held": finite(fault.held)}
            self._file.write(json.dumps(record, default=str, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def sync(self) -> int:
        """Have what was written on the disk itself; how many bytes it is."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def finish(self) -> None:
        """Give the file its name."""
        close_safely(self._file)
        os.replace(self.partial, self.path)
        sync_folder(self.path.absolute().parent)

    def abandon(self) -> None:
        """The run failed: remove the file, unless it is to last."""
        try:
            with contextlib.suppress(OSError):
                self._file.close()
        finally:
            if not self._lasting:
                self.partial.unlink(missing_ok=True)
