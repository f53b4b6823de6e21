"""The commands `probinfer demo | inspect | score | serve | export`: arguments in, exit status out. Imports as it needs.

Exit status: 0 done; 1 the operating system refused (a file that cannot be read or written); 2 a wrong call or one of
probinfer's own errors, said in one line; 3 scored, but some rows were rejected; 130 interrupted; 143 ended by SIGTERM.
"""

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from probinfer.errors import ProbinferError

DONE, REFUSED, WRONG, REJECTED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

_ROWS = 20  # parameters that `inspect` shows of a posterior


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; `None` means the process's own) and return its exit status."""
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        status = command(options)
        sys.stdout.flush()
    except ProbinferError as error:
        return _fail(str(error), WRONG)
    except _Terminated:
        return _fail("terminated", TERMINATED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output closed it, as `| head` does: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit needs somewhere to go
        return REFUSED
    except OSError as error:
        return _fail(_of_system(error), REFUSED)
    return status or DONE


def _of_system(error: OSError) -> str:
    """What the system refused, and of which file."""
    if error.strerror is None or error.filename is None:
        return str(error)
    text = f"{error.filename}: {error.strerror}."
    if isinstance(error, FileNotFoundError) and set("*?[") & set(str(error.filename)):
        text += " The name is taken as it stands: give a folder to have all of its files read."
    return text


def _fail(text: str, status: int) -> int:
    line = " ".join(text.split())
    print(f"probinfer: {line}", file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """The command line; `command` of the parsed arguments is the function that runs the command."""
    program = argparse.ArgumentParser(
        prog="probinfer", description="Posteriors that can be trusted, predictors that can be deployed."
    )
    program.add_argument("--version", action="version", version=f"probinfer {version('probinfer')}")
    commands = program.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="fit, check, save and score a real example, and draw it",
        description="Radon in 919 Minnesota houses: fit a hierarchical regression, print its verdict, save the "
        "predictor, score the houses held out, and draw the predictions.",
    )
    demo.add_argument(
        "--output", type=Path, default=Path("probinfer-demo"), metavar="DIR", help="folder to write to (%(default)s)"
    )
    demo.set_defaults(command=_demo)

    inspect = commands.add_parser(
        "inspect",
        help="say what a saved predictor or posterior holds",
        description="Print what a saved predictor (a folder or zip) or posterior (.nc) holds and how far to trust it.",
    )
    inspect.add_argument("path", type=Path, metavar="PATH", help="predictor folder or .zip, or posterior .nc file")
    inspect.set_defaults(command=_inspect)

    score = commands.add_parser(
        "score",
        help="predict every row of a table, a folder, a query or a pipe",
        description="Read rows in chunks, predict every one, and write mean, sd, interval and Monte Carlo error. Rows "
        "come from and go to files (.csv, .parquet, .arrow, .jsonl), folders of them, databases (postgresql://…, "
        "sqlite:///FILE, duckdb:///FILE), or JSON lines on standard input and output (-). Messages of a Redis stream "
        "(redis://HOST:PORT/STREAM) are answered in another one, as they come.",
    )
    score.add_argument("path", type=Path, metavar="PATH", help="predictor folder or .zip")
    score.add_argument("input", metavar="INPUT", help="file, folder, database, or - for standard input")
    score.add_argument(
        "output", metavar="OUTPUT", help="file, folder (ending in a slash), database, or - for standard output"
    )
    score.add_argument("--level", type=_level, metavar="P", help="probability of the interval (0.9)")
    score.add_argument("--quantiles", type=_levels, metavar="P,P", help="further quantiles, such as 0.05,0.5,0.95")
    score.add_argument("--keep", type=_names, metavar="NAME,NAME", help="columns of INPUT to copy, such as an id")
    score.add_argument(
        "--partition-by",
        type=_names,
        metavar="NAME,NAME",
        help="columns whose values are subfolders of OUTPUT",
    )
    score.add_argument("--chunk-rows", type=_positive, metavar="N", help="most rows in a chunk (32768)")
    score.add_argument(
        "--query", metavar="SQL", help="rows to read from a database, or by DuckDB from a file, which it calls input"
    )
    score.add_argument("--table", metavar="NAME", help="table of a database to write")
    score.add_argument("--steps", type=_positive, metavar="N", help="of a forecaster: how many times to forecast")
    score.add_argument(
        "--series", metavar="NAME", help="column that names the series, of a folder of forecasters, one for each"
    )
    score.add_argument(
        "--if-exists", choices=("fail", "append", "replace"), help="what to do if that table is there already (fail)"
    )
    score.add_argument("--key", metavar="NAME", help="column that orders a query's rows; --resume needs it")
    score.add_argument(
        "--rejects", type=Path, metavar="FILE", help="write rows that cannot be predicted here as JSON lines, and go on"
    )
    score.add_argument(
        "--resume",
        action="store_true",
        help="keep what is done if the run dies, and go on from what an earlier one did",
    )
    score.add_argument(
        "--scheduler", metavar="URL", help="spread the files of a folder over the workers of Dask at tcp://HOST:PORT"
    )
    score.add_argument("--group", metavar="NAME", help="consumer group of a stream (probinfer)")
    score.add_argument("--consumer", metavar="NAME", help="name in the group (machine and process)")
    score.add_argument(
        "--until-empty", action="store_true", default=None, help="stop once every message of a stream is answered"
    )
    score.set_defaults(command=_score)

    export = commands.add_parser(
        "export",
        help="write a saved predictor as one ONNX file",
        description="Write a saved predictor in another format, for runtimes that know nothing of probinfer.",
    )
    export.add_argument("path", type=Path, metavar="PATH", help="predictor folder or .zip")
    export.add_argument("--onnx", type=Path, metavar="FILE", required=True, help="ONNX file to write")
    export.add_argument("--level", type=_level, metavar="P", help="probability of the interval (0.9)")
    export.add_argument("--quantiles", type=_levels, metavar="P,P", help="further quantiles, such as 0.05,0.5,0.95")
    export.set_defaults(command=_export)
    _add_serve(commands)
    return program


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="answer requests over HTTP",
        description="Put saved predictors behind HTTP: Open Inference Protocol v2, plain JSON records, a web page, "
        "OpenAPI and Prometheus metrics. The API key is read from a file or from PROBINFER_API_KEY.",
    )
    serve.add_argument("path", nargs="+", metavar="PATH", help="predictor folder or .zip, or NAME=PATH")
    for option, kind, metavar, text in (
        ("--host", str, "HOST", "address to listen on (127.0.0.1)"),
        ("--port", _natural, "N", "port; 0 takes a free one (8000)"),
        ("--workers", _positive, "N", "processes (1)"),
        ("--max-batch", _positive, "ROWS", "most rows in one call (512)"),
        ("--max-wait-ms", float, "MS", "how long a call waits for more rows (0)"),
        ("--max-queue", _positive, "ROWS", "most rows waiting; more are refused with 429 (16384)"),
        ("--max-body", _positive, "BYTES", "most bytes of a request (1048576)"),
        ("--max-rows", _positive, "ROWS", "most rows of a request (10000)"),
        ("--max-samples", _positive, "N", "most predictive draws of each row (1000)"),
        ("--timeout", float, "S", "seconds until a request is given up with 504 (30)"),
        ("--body-timeout", float, "S", "seconds in which a request must have arrived (10)"),
        ("--drain", float, "S", "seconds after SIGTERM in which requests are still taken (1)"),
        ("--shutdown-timeout", float, "S", "seconds that requests in work may take after that (30)"),
        ("--reload", float, "S", "seconds between looks for a new version, 0 for none (1)"),
        ("--connections", _positive, "N", "most open connections of a process (1000)"),
        ("--certificate", Path, "FILE", "TLS certificate, PEM"),
        ("--key", Path, "FILE", "its private key, PEM"),
    ):
        serve.add_argument(option, type=kind, metavar=metavar, help=text)
    serve.add_argument("--api-key-file", type=Path, metavar="FILE", help="file whose first line is the API key")
    serve.add_argument(
        "--cors-origin", action="append", metavar="ORIGIN", help="whose web pages may ask, may be repeated; '*' for all"
    )
    serve.add_argument("--log-requests", action="store_true", default=None, help="log every request, not only refused")
    serve.set_defaults(command=_serve)


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not 0 < level < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability between 0 and 1, such as 0.9")
    return level


def _levels(text: str) -> tuple[float, ...]:
    return tuple(_level(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _demo(options: argparse.Namespace) -> None:
    from probinfer.demo.run import run

    run(options.output)


def _inspect(options: argparse.Namespace) -> None:
    if options.path.is_file() and options.path.suffix == ".nc":
        print(_posterior_card(options.path))
        return
    from probinfer.predict.artifact import card

    print(card(options.path))


def _posterior_card(path: Path) -> str:
    from probinfer.posterior.posterior import load_posterior

    posterior = load_posterior(path)
    summary = posterior.summary()
    more = f"\n… and {len(summary) - _ROWS} more" if len(summary) > _ROWS else ""
    table = summary.head(_ROWS).to_string(float_format="{:.4g}".format)
    provenance = "\n".join(f"{name}: {value}" for name, value in posterior.tree.attrs.items())
    return f"Posterior {path}\n\n{posterior.report}\n\n{table}{more}\n\n{provenance}"


def _export(options: argparse.Namespace) -> None:
    from probinfer.predict.predictor import load_row_predictor as load_predictor

    given = {name: getattr(options, name) for name in ("level", "quantiles") if getattr(options, name) is not None}
    load_predictor(options.path).export_onnx(options.onnx, **given)
    print(f"{options.onnx}: {options.onnx.stat().st_size} bytes")


_OF_STREAMS = ("group", "consumer", "until_empty")
_OF_TABLES = ("partition_by", "query", "table", "if_exists", "key", "rejects", "resume", "scheduler", "steps", "series")


def _score_stream(options: argparse.Namespace) -> int:
    import signal
    import threading

    from probinfer.deploy.stream import score_stream

    _refuse_options(options, _OF_TABLES, "a stream")
    named = ("level", "quantiles", "keep", "chunk_rows", *_OF_STREAMS)
    given = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    stop = threading.Event()
    before = {sig: signal.signal(sig, lambda *_: stop.set()) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        done = score_stream(options.path, options.input, options.output, stop=stop, **given)
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
    again = f", {done.again} read again" if done.again else ""
    print(f"{done.rows} messages in {done.seconds:.1f} s{again}: {options.output.rpartition('/')[2]}")
    if done.rejected:
        print(f"probinfer: {done.rejected} messages were rejected", file=sys.stderr)
    return REJECTED if done.rejected else DONE


def _refuse_options(options: argparse.Namespace, names: Sequence[str], what: str) -> None:
    from probinfer.errors import DataError

    given = [name for name in names if getattr(options, name) not in (None, False)]
    if given:
        raise DataError(f"--{given[0].replace('_', '-')} is nothing for {what}; leave it out.")


def _score(options: argparse.Namespace) -> int:
    from probinfer.deploy.broker import is_stream

    if is_stream(options.input) or is_stream(options.output):
        return _score_stream(options)
    _refuse_options(options, _OF_STREAMS, "a table")
    from probinfer.deploy.database import scheme_of
    from probinfer.deploy.score import score
    from probinfer.deploy.table_sink import IfExists

    if options.if_exists is not None and scheme_of(options.output) is None:
        _refuse_options(options, ("if_exists",), "a file, which is replaced once the new one is complete")
    named = ("level", "quantiles", "keep", "partition_by", "chunk_rows", "query", "table", "key", "rejects", "resume")
    named += ("steps", "series")
    given = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    if options.if_exists is not None:
        given["if_exists"] = IfExists(options.if_exists)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ending_in_order())
        if options.scheduler is not None:
            given["executor"] = stack.enter_context(_workers(options.scheduler))
        done = score(options.path, options.input, options.output, **given)
    said_to = sys.stderr if options.output == "-" else sys.stdout
    resumed = f", {done.resumed} of them by an earlier run" if done.resumed else ""
    print(f"{done.rows} rows in {done.seconds:.1f} s{resumed}: {done.output}", file=said_to)
    if done.rejected:
        print(f"probinfer: {done.rejected} rows were rejected: {options.rejects}", file=sys.stderr)
    return REJECTED if done.rejected else DONE


@contextlib.contextmanager
def _ending_in_order() -> Generator[None]:
    """SIGTERM as Ctrl-C: what is half written is removed, and what is to last is kept. Without a handler the first
    process of a container would not even be ended by it."""
    import signal

    came: list[int] = []

    def end(number: int, frame: object) -> None:
        came.append(number)
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        if came:  # a database's driver may have put its own error in the place of ours
            raise _Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextlib.contextmanager
def _workers(scheduler: str) -> Generator[Any]:
    """Dask's workers as an executor."""
    from probinfer.errors import DataError, MissingExtra

    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingExtra("distributed is not installed: pip install 'probinfer[cluster]'.") from error
    try:
        client = distributed.Client(scheduler, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise DataError(f"Nothing answers at {scheduler} as Dask's scheduler does: {error}.") from None
    with client:
        yield client.get_executor()


def _serve(options: argparse.Namespace) -> None:
    from probinfer.deploy.serve import serve
    from probinfer.deploy.settings import ServeSettings, named

    left_out = ("command", "path", "api_key_file", "cors_origin")
    given = {name: value for name, value in vars(options).items() if name not in left_out and value is not None}
    key = os.environ.get("PROBINFER_API_KEY")
    if options.api_key_file is not None:
        key = _first_line(options.api_key_file)
    origins = tuple(options.cors_origin or ())
    serve(ServeSettings(named(options.path), api_key=key, cors_origin=origins, **given))


def _first_line(path: Path) -> str:
    from probinfer.errors import DataError

    try:
        return path.read_text("utf-8").partition("\n")[0].strip()
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; wanted a file whose first line is the API key.") from None
