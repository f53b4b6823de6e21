"""Scoring times instead of rows: what was observed since comes as a table, and what is forecast goes to one.

A series is short next to a table of rows, and each time depends on those before: it is read whole, not in chunks.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from probinfer.deploy.chunk import Chunk, Position, plain_columns
from probinfer.deploy.endpoints import check_sink, open_sink, open_source
from probinfer.deploy.sources import Source
from probinfer.deploy.table_sink import IfExists
from probinfer.errors import ArtifactError, DataError
from probinfer.predict.artifact import sections
from probinfer.predict.forecaster import Forecaster
from probinfer.predict.outlook import fingerprint
from probinfer.predict.plain_files import check_path, is_artifact
from probinfer.predict.predictor import load_predictor
from probinfer.predict.program import Input
from probinfer.predict.rows import locate_columns
from probinfer.predict.series_answer import OUTCOME

TIME = "time"
_READ = 16_384  # rows at a time
_MOST_TIMES = 1_000_000  # after the forecaster's next; dates are no numbers of times
_ONE = ""  # name of the only series, which has none


def holds_series(path: str | os.PathLike[str]) -> bool:
    """Whether a forecaster is saved at `path`, or a folder with one for each of several series."""
    check_path(path)
    if is_artifact(Path(path)):
        return "series" in sections(path)
    if not Path(path).is_dir():
        return False
    return any("series" in sections(inside) for inside in _inside(Path(path)).values())


def score_series(
    path: str | os.PathLike[str],
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    steps: int | None,
    series: str | None = None,
    level: float = 0.9,
    quantiles: Sequence[float] | None = None,
    query: str | None = None,
    table: str | None = None,
    if_exists: IfExists = IfExists.FAIL,
) -> tuple[int, Path | str]:
    """What `score` does with a forecaster: how many rows it wrote, and where. Arguments and errors are those of
    `score`."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        came = "steps is missing" if steps is None else f"steps is {steps!r}"
        raise DataError(f"{path} holds a forecaster, and {came}; wanted how many times to forecast, such as 12.")
    forecasters = _loaded(Path(path), series)
    event = _event(forecasters, path)
    with ExitStack() as stack:
        source = open_source(input, output, query, None)
        stack.callback(source.close)
        check_sink(output, table, (), if_exists)
        seen = _read(source, event, series)
        if strangers := sorted(set(seen) - set(forecasters)):
            raise DataError(
                f"{source.label} has observations of the series {_some(strangers)}, and {path} holds no forecaster of "
                f"that name; it has {_some(sorted(forecasters))}."
            )
        made = []
        for name, forecaster in forecasters.items():
            y = _in_time(*seen[name], forecaster, source.label, name) if name in seen else np.zeros((0, *event))
            now = forecaster.observe(y) if len(y) else forecaster
            made.append(_table(name, series, now, now.predict(steps, level, quantiles).columns(), steps))
        forecasts = pa.concat_tables(made)
        asked = {"probinfer": version("probinfer"), "steps": steps, "level": level}
        words = {"probinfer": f"forecasts by {path}, {steps} steps, level {level:.10g}"}
        sink = open_sink(output, table, if_exists=if_exists, asked=asked, lasting=False, metadata=words)
        sink.open()
        try:
            sink.write(forecasts)
            sink.finish(Position(forecasts.num_rows, forecasts.num_rows))
        except BaseException:
            sink.abandon()
            raise
    return forecasts.num_rows, sink.label


def _inside(path: Path) -> dict[str, Path]:
    """Folders and zips in a folder that hold something saved, by name; a zip's is without its ending."""
    found: dict[str, Path] = {}
    for each in filter(is_artifact, sorted(path.iterdir())):
        name = each.name if each.is_dir() else each.stem
        if name in found:
            raise ArtifactError(f"{each} and {found[name]} would both be called {name!r}; keep one of them.")
        found[name] = each
    return found


def _loaded(path: Path, series: str | None) -> dict[str, Forecaster]:
    """The forecasters, by the name of their series. What one has compiled serves all that are alike."""
    if is_artifact(path):
        if series is not None:
            raise DataError(
                f"series came as {series!r}, and {path} holds one forecaster, which is of one series. Leave it out, or "
                "name a folder that has a folder with a forecaster for each series."
            )
        return {_ONE: load_predictor(path)}
    found: dict[str, Forecaster] = {}
    compiled: dict[str, Forecaster] = {}
    if series is None:
        raise DataError(f"{path} holds several forecasters; say which column of the input names the series: series=.")
    for name, place in _inside(path).items():
        forecaster = load_predictor(place)
        if not isinstance(forecaster, Forecaster):
            raise ArtifactError(f"{place} holds no forecaster; a folder of series holds nothing else.")
        found[name] = forecaster.lent(compiled.setdefault(fingerprint(forecaster.motion), forecaster))
    return found


def _event(forecasters: Mapping[str, Forecaster], path: Any) -> tuple[int, ...]:
    shapes = {forecaster.motion.event for forecaster in forecasters.values()}
    if len(shapes) > 1:
        raise DataError(f"The series of {path} have observations of different shapes, {shapes}; score them apart.")
    return shapes.pop()


def _read(source: Source, event: tuple[int, ...], series: str | None) -> dict[str, tuple[np.ndarray, Any]]:
    """What was observed of each series in the order of the rows, NaN where nothing was, and the times if they are
    there."""
    entry = Input(OUTCOME, "float64", event)
    available = source.columns()
    if available is None:  # no rows, so no names
        return {}
    located = locate_columns(available, [entry])[OUTCOME]
    types: dict[str, pa.DataType | None] = {
        name: pa.list_(pa.float64()) if event and located == [OUTCOME] else pa.float64() for name in located
    }
    if TIME in available:
        types[TIME] = pa.int64()
    if series is not None:
        if series not in available:
            raise DataError(f"{source.label} has no column {series!r}; it has {', '.join(available)}.")
        types[series] = pa.string()
    values: dict[str, list[Any]] = {}
    times: dict[str, list[Any]] = {}
    for chunk in source.chunks(types, _READ, Position(), False):
        for row, (name, y, at) in enumerate(_rows(chunk, entry, types, series)):
            if name is None:
                raise DataError(f"{series} is missing in row {chunk.first + row} of {source.label}.")
            if TIME in types and at is None:
                raise DataError(f"{TIME} is missing in row {chunk.first + row} of {source.label}.")
            values.setdefault(name, []).append(y)
            times.setdefault(name, []).append(at)
    return {
        name: (np.array(each, float).reshape(-1, *event), times[name] if TIME in types else None)
        for name, each in values.items()
    }


def _rows(
    chunk: Chunk, entry: Input, types: Mapping[str, Any], series: str | None
) -> Iterator[tuple[str | None, np.ndarray, int | None]]:
    """The series of each row, what was observed, and the time."""
    plain = plain_columns(chunk.rows, [entry], types, chunk.text, chunk.first)
    count = plain.num_rows
    names = plain.column(series).cast(pa.string()).to_pylist() if series is not None else [_ONE] * count
    times = plain.column(TIME).cast(pa.int64()).to_pylist() if TIME in types else [None] * count
    located = locate_columns(plain.schema.names, [entry])[entry.name]
    columns = [plain.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in located]
    return zip(names, np.stack(columns, axis=1), times, strict=True)


def _in_time(values: np.ndarray, times: list[int] | None, forecaster: Forecaster, label: str, name: str) -> np.ndarray:
    """The observations from the forecaster's next time on, NaN where nothing came. Rows with times are put in their
    order, and those that it has seen already are left out."""
    if times is None:
        return values
    first, whose = forecaster.time, f" of the series {name!r}" if name != _ONE else ""
    if len(set(times)) < len(times):
        twice = next(at for at in sorted(times) if times.count(at) > 1)
        raise DataError(f"{label} has more than one row of the time {twice}{whose}; wanted one for each time.")
    later = [(at - first, row) for row, at in enumerate(times) if at >= first]
    last = max((place for place, _ in later), default=-1)
    if last >= _MOST_TIMES:
        raise DataError(
            f"{label} has the time {first + last}{whose}, and the forecaster's next is {first}. Times are counted from "
            "the first observation that the parameters were inferred from, 0; number them so, or leave the column out."
        )
    found = np.full((last + 1, *values.shape[1:]), np.nan)
    for place, row in later:
        found[place] = values[row]
    return found


def _table(name: str, series: str | None, now: Forecaster, columns: Mapping[str, np.ndarray], steps: int) -> pa.Table:
    """The forecast of one series: its name, the time, how many steps ahead, the prediction, and the verdict on it."""
    said: dict[str, Any] = {series: np.full(steps, name, object)} if series is not None else {}
    said |= {TIME: columns[TIME], "ahead": np.arange(1, steps + 1)}
    said |= {**columns, "verdict": np.full(steps, now.report.verdict.name, object)}
    return pa.table({column: pa.array(values) for column, values in said.items()})


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
