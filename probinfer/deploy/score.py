"""Scoring: a saved predictor over rows from anywhere, in pieces, with an output that is complete or absent."""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from probinfer.deploy.ahead import ahead
from probinfer.deploy.chunk import Position
from probinfer.deploy.endpoints import check_sink, open_sink, open_source, path_text, refuse_inside, samefile
from probinfer.deploy.job import Job, names_of_columns
from probinfer.deploy.outputs import Output, Sink
from probinfer.deploy.rejects import Rejects
from probinfer.deploy.score_series import holds_series, score_series
from probinfer.deploy.sources import Folder, Source
from probinfer.deploy.spread import UNFINISHED, Wish, spread
from probinfer.deploy.table_sink import IfExists
from probinfer.errors import ArtifactError, DataError
from probinfer.files import sync_folder
from probinfer.inference.progress import Progress, make_progress
from probinfer.predict.plain_files import manifest_bytes
from probinfer.predict.predictor import load_row_predictor as load_predictor

CHUNK_ROWS = 32_768
PART_ROWS = 2**18  # of a part, after which it is committed
_PART_SECONDS = 30.0  # or after this long


@dataclass(frozen=True)
class Score:
    """What scoring did: rows written, seconds taken, and where the predictions are (a URL without its password).

    rejected: rows that could not be predicted.
    resumed: rows, of those written and rejected, that an earlier run had done.
    """

    rows: int
    seconds: float
    output: Path | str
    rejected: int = 0
    resumed: int = 0


def score(
    path: str | os.PathLike[str],
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    level: float = 0.9,
    quantiles: Sequence[float] | None = None,
    keep: Sequence[str] = (),
    partition_by: Sequence[str] = (),
    chunk_rows: int = CHUNK_ROWS,
    query: str | None = None,
    table: str | None = None,
    if_exists: IfExists = IfExists.FAIL,
    key: str | None = None,
    rejects: str | os.PathLike[str] | None = None,
    resume: bool = False,
    executor: Executor | None = None,
    steps: int | None = None,
    series: str | None = None,
    progress: bool = True,
) -> Score:
    """Predict every row of `input` with the predictor saved at `path`, and write the predictions to `output`.

    Rows are read, predicted and written in pieces of at most `chunk_rows` rows, each step in threads of its own, so
    memory does not grow with their number and nobody waits for a disk. Row order is kept.

    Args:
        path: predictor folder.
        input: a file (.csv, .parquet, .arrow, .jsonl), a folder of such files, "-" for JSON lines from standard input,
            or a database: postgresql://user@host/name, sqlite:///FILE, duckdb:///FILE, or duckdb:// for files named in
            the query. Its columns hold the predictor's inputs, in any order; further columns are ignored.
        output: a file or, with a slash at the end of its name, a folder of parts; "-" for JSON lines to standard
            output; or a database. It has the columns of `Prediction.columns`. A file or folder appears only once it is
            complete (until then it is `<output>.partial`), and the rows of a table are one transaction.
        level: probability of the interval; also a column of the output.
        quantiles: further quantiles, one column each.
        keep: columns of the input, such as an id, to copy in front of the predictions.
        partition_by: columns of the input whose values are subfolders of the output folder, `region=north/`, as Hive
            and Spark have them; the files are without them. For columns with few values.
        chunk_rows: rows in a piece.
        query: SELECT whose rows to predict; needed for a database. Of a file or folder, which the query calls `input`,
            it is answered by DuckDB.
        table: name of the table to write; needed for a database.
        if_exists: what to do if that table is there already. A file is replaced.
        key: column of a query that has a value in every row, no two of them equal; it is kept, and `resume` needs it.
        rejects: file for the rows that cannot be predicted, JSON lines with `row`, `reason` and what the row `held`.
            Without it such a row ends the run.
        resume: keep what is done when the run fails or is killed, in committed parts, and go on after the last of them
            when it is called again with the same arguments.
        executor: spread the files of a folder over its workers; `output` is then a folder with one part for each file.
            One of `concurrent.futures`, or what `distributed.Client(…).get_executor()` gives: workers on many machines,
            which see the same folders.
        steps: of a forecaster, how many times to forecast. `input` is then what was observed since it was saved: a row
            for each time, in its column `observations` (of several numbers a time `observations[0]`, … or a list),
            empty where nothing came. With a column `time`, whole numbers counted from the first observation of the
            inference, rows may be in any order, times that are left out are missing, and those that the forecaster has
            seen are passed over. The output has a row for each time to come: `time`, `ahead`, the columns of
            `SeriesPrediction.columns`, and `verdict`.
        series: of several series, the column of `input` that names them. `path` is then a folder with a folder for
            each, called as the series, that holds its forecaster; all of them are forecast, in the order of their
            names.
        progress: show rows, rows per second and time left, where there is a terminal or notebook.

    Raises:
        ArtifactError: the predictor cannot be loaded.
        DataError: a name has another ending, input and output are one file, the input cannot be read, a query is wrong,
            a table is there already, or resuming is not possible.
        PredictionError: columns are missing, or a row cannot be predicted; the text names it, counted from 0.
        CheckpointError: there are parts of another run, or another process writes them.
        MissingExtra: a database's driver is not installed.
        OSError: a file cannot be read or written, or a database does not answer. In every case `output` is as it was
            before; with `resume`, what is committed is kept.
    """
    began = time.perf_counter()
    path_text("input", input)
    path_text("output", output)
    keep, partition_by = names_of_columns("keep", keep), names_of_columns("partition_by", partition_by)
    forecasts = holds_series(path)
    if forecasts or steps is not None or series is not None:
        unfit = {"keep": keep, "partition_by": partition_by, "key": key, "rejects": rejects, "resume": resume}
        given = [name for name, value in {**unfit, "executor": executor}.items() if value]
        if given:
            raise DataError(f"{given[0]} is for rows, and a forecaster predicts times; leave it out.")
        if not forecasts:
            raise DataError(f"steps and series are for forecasters, and {path} holds none; leave them out.")
        more: dict[str, Any] = {"level": level, "quantiles": quantiles, "query": query, "table": table}
        done, place = score_series(path, input, output, steps=steps, series=series, if_exists=if_exists, **more)
        return Score(done, time.perf_counter() - began, place)
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int | np.integer) or chunk_rows < 1:
        raise DataError(f"chunk_rows is {chunk_rows!r}; wanted a whole number, 1 or more.")
    if not isinstance(if_exists, IfExists):
        raise DataError(f"if_exists is {if_exists!r}; wanted an IfExists, such as IfExists.APPEND.")
    if rejects is not None and (samefile(rejects, input) or samefile(rejects, output)):
        raise DataError(f"{rejects} is also input or output; write the rejects to another file.")
    if rejects is not None and Path(rejects).is_dir():
        raise DataError(f"{rejects} is a folder; wanted the name of a file for the rejects, such as rejects.jsonl.")
    if executor is not None:
        unfit = {"query": query, "table": table, "key": key, "rejects": rejects, "partition_by": partition_by or None}
        given = [name for name, value in unfit.items() if value is not None]
        if given:
            raise DataError(f"{given[0]} came with an executor, which spreads the files of a folder; leave one out.")
        return _spread(executor, path, input, output, level, quantiles, keep, chunk_rows, resume, progress, began)
    with ExitStack() as stack:
        source = open_source(input, output, query, key)
        stack.callback(source.close)
        check_sink(output, table, partition_by, if_exists)
        kept = [*([key] if key else []), *keep, *partition_by]
        job = Job.of(load_predictor(path), source, level, quantiles, kept, rejects is not None)
        asked = {"probinfer": version("probinfer"), "predictor": _fingerprint(path), **job.asked}
        asked |= {"partition_by": list(partition_by)} if partition_by else {}
        sink = open_sink(
            output,
            table,
            if_exists=if_exists,
            asked={**asked, "input": source.identity} if resume else asked,
            lasting=resume,
            metadata={"probinfer": f"predictions of {job.outcome} by {path}, level {job.level:.10g}"},
            by=partition_by,
        )
        line = make_progress(progress)
        stack.callback(line.close)
        start, end = _run(job, source, sink, None if rejects is None else Path(rejects), int(chunk_rows), line)
    return Score(end.written, time.perf_counter() - began, sink.label, end.rejected, start.written + start.rejected)


def _run(
    job: Job, source: Source, sink: Sink, rejects: Path | None, chunk_rows: int, line: Progress
) -> tuple[Position, Position]:
    """Read, predict, write: where the run began, and where it ended."""
    none = job.none()
    start = sink.open()
    refused: Rejects | None = None
    try:
        refused = None if rejects is None else Rejects(rejects, start, sink.lasting)
        columns = _Columns(sink.schema, sink.typed)
        pace = _Pace(source.about_rows(), start.rows, line)
        position = committed = start
        chunks = source.chunks(job.types, chunk_rows, start, job.lenient)
        with ahead(chunks, lambda chunk: (chunk, *job.predicted(chunk))) as predictions, ExitStack() as stack:
            stack.callback(source.stop)  # before the thread that reads is waited for
            for chunk, table, faults in predictions:
                if table.num_rows:
                    with _naming(sink):
                        sink.write(columns.fitted(table))
                else:
                    none = table  # has the columns' types, where the source knows them
                if refused is not None:
                    refused.write(faults)
                position = Position(
                    chunk.first + chunk.count,
                    position.written + table.num_rows,
                    position.rejected + len(faults),
                    position.rejects_bytes,
                    chunk.after,
                )
                if sink.lasting and pace.due(position.rows - committed.rows):
                    position = _counted(position, refused)
                    with _naming(sink):
                        sink.commit(position)
                    committed = position
                pace.show(position.rows)
        if position.written == 0:
            with _naming(sink):
                sink.write(columns.fitted(none))
        position = _counted(position, refused)
        if refused is not None and sink.lasting:
            refused.finish()
        with _naming(sink):
            sink.finish(position)
        if refused is not None and not sink.lasting:
            refused.finish()
    except BaseException:
        try:
            if refused is not None:
                refused.abandon()
        finally:  # Ctrl-C may come again meanwhile
            sink.abandon()
        raise
    return start, position


@contextmanager
def _naming(sink: Sink) -> Generator[None]:
    """Errors of the system say where it could not write; of a full disk it does not say so itself."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(sink.label)
        raise


def _counted(position: Position, refused: Rejects | None) -> Position:
    return position if refused is None else replace(position, rejects_bytes=refused.sync())


class _Columns:
    """The columns of the output: those of its first piece, to which the others are fitted where a column has a type."""

    def __init__(self, schema: pa.Schema | None, typed: bool) -> None:
        self._schema, self._typed = schema, typed

    def fitted(self, table: pa.Table) -> pa.Table:
        """`table` with the first piece's types. Raises DataError where that would change a value."""
        if not self._typed:
            return table
        if self._schema is None:
            kinds = [(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in table.schema]
            self._schema = pa.schema(kinds)
        if table.schema == self._schema:
            return table
        try:
            return table.cast(self._schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"The columns kept of the input change their types between its pieces: {str(error).splitlines()[0]}. "
                "Have them of one type, or leave them out."
            ) from None


class _Pace:
    """When to commit, and how fast it goes."""

    def __init__(self, total: int | None, before: int, line: Progress) -> None:
        self._total, self._before, self._line = total, before, line
        self._began = self._committed = time.monotonic()

    def due(self, rows: int) -> bool:
        """Whether a part of `rows` rows so far is to be committed."""
        now = time.monotonic()
        if rows < PART_ROWS and now - self._committed < _PART_SECONDS:
            return False
        self._committed = now
        return True

    def show(self, rows: int) -> None:
        """`rows` of all rows are behind us."""
        speed = (rows - self._before) / max(time.monotonic() - self._began, 1e-9)
        # Time left is reckoned from the rows of this run: those of an earlier one count neither as done nor as to do.
        total = max((self._total or 0) - self._before, 0)
        self._line.update(min(rows - self._before, total) if total else 0, total, f"{rows:,} rows, {speed:,.0f} rows/s")


def _fingerprint(path: str | os.PathLike[str]) -> str:
    """Of a saved predictor: its manifest names the sha-256 of every file."""
    return hashlib.sha256(manifest_bytes(path)).hexdigest()


def _spread(
    executor: Executor,
    path: str | os.PathLike[str],
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    level: float,
    quantiles: Sequence[float] | None,
    keep: Sequence[str],
    chunk_rows: int,
    resume: bool,
    progress: bool,
    began: float,
) -> Score:
    text = os.fspath(output)
    if not Path(input).is_dir() or not text.endswith(("/", os.sep)):
        raise DataError(
            f"{input} and {text} came with an executor, which spreads files; wanted a folder of them as input, and as "
            "output the name of a folder, with a slash at its end."
        )
    if not isinstance(getattr(executor, "submit", None), Callable):
        raise DataError(f"executor is {executor!r}; wanted one of concurrent.futures, or Client(…).get_executor().")
    refuse_inside(input, output)
    folder, place = Folder(Path(input).absolute()), Path(text).absolute()
    predictor = load_predictor(path)
    job = Job.of(predictor, folder, level, quantiles, keep, False)
    job.none()
    levels = None if job.quantiles is None else tuple(job.quantiles)
    wish = Wish(os.path.abspath(path), _fingerprint(path), job.level, levels, tuple(keep), int(chunk_rows))
    asked = {"probinfer": version("probinfer"), "predictor": wish.fingerprint, **job.asked}
    line = make_progress(progress)
    try:
        done, before = spread(executor, score_file, wish, folder, place, asked, resume=resume, line=line)
    finally:
        line.close()
    return Score(done, time.perf_counter() - began, place, 0, before)


def score_file(wish: Wish, folder: str, file: str, part: str) -> int:
    """What a worker does: predict one file of a folder, and write one part. The rows written."""
    predictor = loaded(wish.predictor, wish.fingerprint)
    source = Folder(Path(folder)).only(Path(file))
    job = Job.of(predictor, source, wish.level, wish.quantiles, wish.keep, False)
    # A task that is given to another worker, as its own seemed lost, may run twice: each writes a file of its own.
    own = Path(part).with_name(f"{UNFINISHED}{uuid.uuid4().hex}-{Path(part).name}")
    sink = Output(own, {"probinfer": f"predictions of {job.outcome}, level {wish.level:.10g}"})
    written = _run(job, source, sink, None, wish.chunk_rows, make_progress(False))[1].written
    os.replace(own, part)
    sync_folder(Path(part).parent)
    return written


@lru_cache(maxsize=2)
def loaded(path: str, fingerprint: str) -> Any:
    """The predictor of a worker, loaded and compiled once. Raises ArtifactError where it is another one than where the
    run began."""
    if _fingerprint(path) != fingerprint:
        raise ArtifactError(f"{path} is another predictor on this worker than where the run began.")
    return load_predictor(path)
