"""A journal of a run on disk: what was asked, and every piece of work that was done, in the order in which it ended.

Records are only ever appended, each with its length and a checksum: whatever moment the process dies at, all but the
record being written is there, and a torn one at the end is recognised and dropped. Knows nothing of samplers.

    file    = MAGIC record*
    record  = length (8 bytes) crc32 (4 bytes) payload;    the first payload is the JSON of what was asked
"""

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from probinfer.errors import CheckpointError

MAGIC = b"probinfer checkpoint 2\n"
_HEAD = struct.Struct("<QI")
_SYNC = 5.0  # seconds between flushes to the disk itself: what a power cut may cost; a killed process loses nothing


class Journal:
    """An open checkpoint. `records` are those found on opening, without the first.

    Args:
        path: file to continue, or to begin where there is none.
        asked: what the run is of, by name, ready for JSON. A file of another run is refused.

    Raises:
        CheckpointError: the file belongs to another run (the text says what differs), is no checkpoint, is in use by
            another process, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike, asked: Mapping[str, Any]) -> None:
        self.path = _path_of(path)
        asked = json.loads(json.dumps(asked))
        self._lock = FileLock(f"{self.path}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"checkpoint {self.path} is in use by another process; wait for it, or name another file."
            ) from None
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path} cannot be written: {error.strerror}.") from None
        try:
            self._open(asked)
        except BaseException:
            self._unlock()
            raise

    def _open(self, asked: dict[str, Any]) -> None:
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path} cannot be read: {error.strerror}.") from None
        payloads, good = _intact(content, self.path)
        self.records: list[bytes] = []
        if payloads:
            _check_same(_asked_then(payloads[0], self.path), asked, self.path)
            self.records = payloads[1:]
        try:
            self._file = open(self.path, "r+b" if content else "w+b", buffering=0)
            self._file.truncate(good)
            self._file.seek(good)
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path} cannot be written: {error.strerror}.") from None
        self._synced = time.monotonic()
        self._end = good
        if not payloads:
            self._write(MAGIC if not good else b"")
            self.append(json.dumps(asked).encode())
            os.fsync(self._file.fileno())

    def append(self, payload: bytes) -> None:
        """Add one record. On a full disk the file is left as it was before, and can be continued when there is room."""
        self._write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self._file.truncate(self._end)
            raise CheckpointError(
                f"checkpoint {self.path} could not be written after {self._end} bytes: {error.strerror}. What it holds "
                "is intact: make room and run again with the same arguments to go on from there."
            ) from None
        self._end += len(content)

    def close(self) -> None:
        """Flush to the disk, and let others have the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
        self._unlock()

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):  # Windows removes it by itself
            Path(self._lock.lock_file).unlink()
        self._lock.release()


def _path_of(path: Any) -> Path:
    """The path, if a file can be there."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or "\0" in os.fspath(path):
        raise CheckpointError(f"checkpoint came as {path!r}; wanted the path of a file, such as 'run.checkpoint'.")
    path = Path(path)
    try:
        if path.is_dir():
            raise CheckpointError(f"checkpoint {path} is a folder; wanted the path of a file.")
        if not path.absolute().parent.is_dir():
            raise CheckpointError(f"checkpoint {path}: the folder {path.parent} does not exist; make it first.")
        path.with_name(f"{path.name}.lock").exists()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be written: {error.strerror}.") from None
    return path


def _asked_then(payload: bytes, path: Path) -> dict[str, Any]:
    try:
        then = json.loads(payload)
    except ValueError:
        then = None
    if not isinstance(then, dict):
        raise _damaged(path)
    return then


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is damaged in its first record, which says what run it is of. Name another file, or remove "
        "it to begin anew."
    )


def _intact(content: bytes, path: Path) -> tuple[list[bytes], int]:
    """The payloads of the whole records, and where the last of them ends."""
    if not content.startswith(MAGIC):
        if MAGIC.startswith(content):  # died in the first write
            return [], 0
        raise CheckpointError(
            f"{path} is no checkpoint that this version can read: it does not begin with {MAGIC[:-1].decode()!r}. "
            "Name another file, or remove it."
        )
    payloads, end = [], len(MAGIC)
    while end + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, end)
        payload = content[end + _HEAD.size : end + _HEAD.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            if not payloads and len(payload) == length:  # not torn: every byte is there, and one is another
                raise _damaged(path)
            break
        payloads.append(payload)
        end += _HEAD.size + length
    return payloads, end


def _check_same(there: dict[str, Any], asked: dict[str, Any], path: Path) -> None:
    different = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
    if different:
        listed = "; ".join(
            f"{name}: {_brief(there.get(name))} there, {_brief(asked.get(name))} now" for name in different
        )
        raise CheckpointError(
            f"checkpoint {path} is of another run. {listed}. Run with the arguments of then, name another file, or "
            "remove this one to begin anew."
        )


def _brief(value: object) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}…"
