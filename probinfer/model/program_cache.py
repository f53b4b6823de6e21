"""Compiled programs kept on disk, so that the next process does not compile them again. Ours only: JAX's settings for
everything else stay as they are.

The folder is `probinfer` in the user's cache folder, or what the environment variable PROBINFER_CACHE names; with
PROBINFER_CACHE=off nothing is kept. JAX writes and locks the files, and drops the least recently used beyond a limit.
"""

import contextlib
import hashlib
import os
import platform
import sys
import threading
from collections.abc import Generator, Mapping
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from probinfer.model.forks import before_jax

LIMIT = 256 * 2**20  # bytes; a program takes 10 to 300 kB

_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": LIMIT,
}
_lock = threading.Lock()
_users = 0  # threads that compile just now
_before: dict[str, object] = {}  # the settings that the last of them restores


@contextlib.contextmanager
def kept_programs() -> Generator[None]:
    """What is compiled inside is looked up in the cache first, and stored there.

    Does nothing when the cache is off, when its folder cannot be written, or when the user has set up JAX's own.
    """
    before_jax()
    folder = cache_folder()
    own = _users == 0 and jax.config.jax_compilation_cache_dir is not None
    if folder is None or own or not _writable(folder):
        yield
        return
    _enter(folder)
    try:
        yield
    finally:
        _leave()


def _enter(folder: Path) -> None:
    global _users
    with _lock:
        if _users == 0:
            wanted = {**_SETTINGS, "jax_compilation_cache_dir": str(folder)}
            _before.update({name: getattr(jax.config, name) for name in wanted})
            _apply(wanted)
        _users += 1


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _apply(_before)


def cache_folder() -> Path | None:
    """Where compiled programs are kept; None when they are not. Each kind of processor has a folder of its own."""
    named = os.environ.get("PROBINFER_CACHE", "")
    if named.lower() in ("off", "0", "no", "false"):
        return None
    return (Path(named).expanduser() if named else _user_cache() / "probinfer") / "programs" / _processor()


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _processor() -> str:
    """Name for the instructions that this processor has: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = ""
    return hashlib.sha256(f"{platform.machine()} {platform.processor()} {features}".encode()).hexdigest()[:12]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _apply(settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX reads its settings once; this makes it read them again
