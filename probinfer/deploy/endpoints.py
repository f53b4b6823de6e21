"""What `score` is given as input and output, told apart: files, folders, standard input and output, databases."""

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probinfer.deploy.database import Address, scheme_of
from probinfer.deploy.outputs import Output, Sink, StandardOutput
from probinfer.deploy.parts import Parts
from probinfer.deploy.queries import Query, Spooled
from probinfer.deploy.sources import File, Folder, Source, StandardInput
from probinfer.deploy.table_sink import IfExists, TableSink
from probinfer.deploy.tables import written_format
from probinfer.errors import DataError

type Place = str | os.PathLike[str]


def open_source(given: Place, output: Place, query: str | None, key: str | None) -> Source:
    """The source that `given` names. Raises DataError for a name that is none, and for a query too few or too many."""
    text = os.fspath(given)
    if scheme_of(text) is not None:
        address = Address(text)
        if query is None:
            raise DataError(f"{address.shown} is a database; say which rows: --query 'SELECT * FROM houses'.")
        if address.file is not None and not Path(address.file).exists():  # a driver would make it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address.file)
        source = Query(address, query, key)
        return Spooled(source) if address.scheme == "sqlite" and _same_database(address, output) else source
    if text != "-" and samefile(text, output):
        raise DataError(f"{output} is both input and output; write the predictions to another file.")
    refuse_inside(text, output)
    if query is not None and text != "-":
        return Query(Address("duckdb://"), query, key, Path(text))
    if query is not None or key is not None:
        raise DataError("A query and its key belong to a database, a file or a folder as input; leave them out here.")
    if text == "-":
        return StandardInput(sys.stdin)
    path = Path(text)
    if path.is_dir():
        return Folder(path)
    return File(path)


def check_sink(given: Place, table: str | None, by: Sequence[str] = (), if_exists: IfExists = IfExists.FAIL) -> None:
    """Raises DataError for an output that cannot be written here, before anything is opened."""
    text = os.fspath(given)
    if if_exists is not IfExists.FAIL and scheme_of(text) is None:
        raise DataError(
            f"What to do if a table exists ({if_exists.value}) is a question of databases, and {text} is none: a file "
            "is replaced once the new one is complete. Leave it out."
        )
    if by and (scheme_of(text) is not None or not _is_folder(text)):
        raise DataError(f"Only a folder has partitions, and {text} is none; name one, with a slash at the end.")
    if scheme_of(text) is not None:
        address = Address(text)
        if not table:
            raise DataError(f"{address.shown} is a database; say which table to write: --table predictions.")
        if address.scheme == "duckdb" and address.file is None:
            raise DataError("duckdb:// is in memory, where predictions would be lost; wanted duckdb:///FILE.")
        return
    if table is not None:
        raise DataError(f"A table belongs to a database as output; {text} is none. Leave it out.")
    if text == "-" or _is_folder(text):
        return
    if Path(text).is_dir():
        raise DataError(
            f"{text} is a folder. To write a folder of parts, name one that is not there: {text}/predictions/."
        )
    written_format(Path(text))


def open_sink(
    given: Place,
    table: str | None,
    *,
    if_exists: IfExists,
    asked: Mapping[str, Any],
    lasting: bool,
    metadata: Mapping[str, str],
    by: Sequence[str] = (),
) -> Sink:
    """The sink that `given` names; nothing is written before it is opened."""
    text = os.fspath(given)
    if scheme_of(text) is not None:
        return TableSink(Address(text), str(table), if_exists=if_exists, asked=asked, lasting=lasting)
    if text == "-":
        if lasting:
            raise DataError("What went to standard output cannot be resumed; leave out --resume, or name a file.")
        return StandardOutput(sys.stdout.buffer)
    folder = _is_folder(text)
    if folder or lasting:
        return Parts(Path(text), folder=folder, asked=asked, lasting=lasting, metadata=metadata, by=by)
    return Output(Path(text), metadata)


def path_text(name: str, given: Any) -> str:
    """A path or URL as text. Raises DataError for something else, such as a table in memory."""
    if not isinstance(given, str | os.PathLike):
        raise DataError(
            f"{name} is {type(given).__name__}; wanted the path of a file or folder, or a URL. A table in memory is "
            "answered by load_predictor(path).predict(table)."
        )
    text = os.fspath(given)
    if not text:
        raise DataError(f"{name} is an empty text; wanted the path of a file or folder, or a URL.")
    return text


def refuse_inside(given: Place, output: Place) -> None:
    """Raises DataError for an output in the folder that is the input."""
    folder, text = Path(given), os.fspath(output)
    if scheme_of(text) is not None or text == "-" or not folder.is_dir():
        return
    if Path(text).resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{text} lies in {folder}, whose files are the input: the next run, or one that goes on, would read the "
            "predictions too. Write them elsewhere."
        )


def samefile(one: Place, other: Place) -> bool:
    """Whether both name one file, which may not be there yet."""
    first, second = Path(one), Path(other)
    if first.exists() and second.exists():
        return first.samefile(second)
    return first.resolve() == second.resolve()


def _is_folder(text: str) -> bool:
    return text.endswith(("/", os.sep))


def _same_database(address: Address, output: Place) -> bool:
    text = os.fspath(output)
    if scheme_of(text) is None:
        return False
    other = Address(text)
    return other.scheme == address.scheme and samefile(str(address.file), str(other.file))
