"""Scoring spread over workers: the files of a folder, each scored by whichever worker is free.

Workers belong to an executor of `concurrent.futures`, or to an engine that offers one: Dask's
`distributed.Client(…).get_executor()` has them on many machines. Each file is one task, which writes one part, whole or
not at all. A worker loads and compiles the predictor once. Folders are on a file system that all workers see.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probinfer.deploy.sources import Folder
from probinfer.deploy.tables import SUFFIXES
from probinfer.errors import DataError
from probinfer.files import sync_folder
from probinfer.inference.checkpoint import Journal
from probinfer.inference.progress import Progress

_JOURNAL = "_journal"
UNFINISHED = "_unfinished-"  # what a file's name begins with while a worker writes it


@dataclass(frozen=True)
class Wish:
    """What is asked of every file; travels to the workers. predictor: its folder; fingerprint: of what is in it."""

    predictor: str
    fingerprint: str
    level: float
    quantiles: tuple[float, ...] | None
    keep: tuple[str, ...]
    chunk_rows: int


type Task = Callable[[Wish, str, str, str], int]


def spread(
    executor: Executor,
    task: Task,
    wish: Wish,
    folder: Folder,
    output: Path,
    asked: Mapping[str, Any],
    *,
    resume: bool,
    line: Progress,
) -> tuple[int, int]:
    """Have every file of `folder` scored into the folder `output`: rows of all parts, and of those that were done.

    task: scores one file: (wish, folder, file, part). Importable by name, for executors in other processes.

    Raises what a task raised, once those under way have ended: with `resume` their parts are kept, and the next call
    goes on; else nothing is left.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} is there already; remove it, or write to another folder.")
    work = output.with_name(output.name + ".parts")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    suffix = SUFFIXES.get(output.suffix.lower(), ".parquet")
    files = [str(file) for file in folder.files]
    journal = Journal(work / _JOURNAL, {**asked, "files": folder.identity["files"]})
    try:
        done = {entry["part"]: entry["rows"] for entry in map(json.loads, journal.records)}
        done = {part: count for part, count in done.items() if (work / _part(part, suffix)).exists()}
        before = sum(done.values())
        waiting = [number for number in range(len(files)) if number not in done]
        running: dict[Future[int], int] = {}
        try:
            for number in waiting:
                part = str(work / _part(number, suffix))
                running[executor.submit(task, wish, str(folder.path), files[number], part)] = number
            for job in as_completed(running):
                _enter(journal, done, running[job], job.result())
                line.update(len(done), len(files), f"{sum(done.values()):,} rows")
        except BaseException:
            _end(running, journal, done)
            raise
    except BaseException:
        journal.close()
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
        raise
    journal.close()
    (work / _JOURNAL).unlink()
    for left in work.glob(f"{UNFINISHED}*"):  # by workers that were lost
        left.unlink(missing_ok=True)
    if output.exists():
        output.rmdir()  # it is empty: seen above
    os.rename(work, output)
    sync_folder(output.absolute().parent)
    return sum(done.values()), before


def _enter(journal: Journal, done: dict[int, int], number: int, count: int) -> None:
    done[number] = count
    journal.append(json.dumps({"part": number, "rows": count}).encode())


def _end(running: Mapping[Future[int], int], journal: Journal, done: dict[int, int]) -> None:
    """Let what is under way end, and enter it; what has not begun does not."""
    for job in running:
        job.cancel()
    for job, number in running.items():
        if number in done or job.cancelled():
            continue
        try:
            _enter(journal, done, number, job.result(timeout=600.0))
        except Exception:  # noqa: BLE001 - the error that brought us here is the one to tell
            continue


def _part(number: int, suffix: str) -> str:
    return f"part-{number:06d}{suffix}"
