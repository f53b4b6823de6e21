"""Files that are there whole or not at all, and names that are on the disk itself. Standard library only."""

import contextlib
import os
import secrets
from pathlib import Path


def beside(path: Path, suffix: str) -> Path:
    """A hidden name that nobody has, in the folder of `path`: what is made there can be renamed to it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{suffix}")


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file to one beside it and rename that when it is complete.

    durable: and not before every byte is on the disk, so that a power cut leaves the old file or the new one; which one
        is certain after `sync_folder`.

    Raises OSError if it cannot be written; an older file is then as it was, and no other is left behind.
    """
    temporary = beside(path, ".partial")
    try:
        write_new(temporary, content, durable=durable)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has its final name by now
            temporary.unlink()


def write_new(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file that must not exist yet."""
    with open(path, "xb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk itself. Windows cannot open a folder, and needs not."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
