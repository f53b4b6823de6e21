"""Benchmarks whose servers end with them, however they end: by SIGTERM, Ctrl-C, or because they or their parent are
killed. The last two on Linux only. Standard library."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """End this process when the one that started it ends. For a benchmark, and as `preexec_fn` of what it starts: also
    a process that is stopped ends (SIGKILL)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_in_order() -> None:
    """Turn SIGTERM, also that of a parent that has ended, into SystemExit: what was started is ended on the way out."""
    signal.signal(signal.SIGTERM, _left)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _left(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: ending takes a while
    sys.exit("ended from outside")
