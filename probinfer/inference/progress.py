"""One live line of progress, in a terminal or a notebook; silent elsewhere. Knows nothing of inference."""

import sys
import time
from collections.abc import Callable
from typing import Protocol

_INTERVAL = 0.2  # seconds between updates: often enough for the eye, rare enough to cost nothing


class Progress(Protocol):
    """Where a method says how far it is."""

    def update(self, done: int, total: int, note: str | Callable[[], str]) -> None:
        """`done` of `total` units of work are behind us; a total of 0 is one that nobody knows. A note that is a
        function is called only when it will be shown."""
        ...

    def close(self) -> None:
        """The work has ended."""
        ...


class Silent:
    """Shows nothing."""

    def update(self, done: int, total: int, note: str | Callable[[], str]) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Nothing to end."""


class Line:
    """A bar with percentage, note and time left, rewritten in place."""

    def __init__(self, write: "TerminalLine | NotebookLine") -> None:
        self._write = write
        self._began = time.monotonic()
        self._shown = 0.0

    def update(self, done: int, total: int, note: str | Callable[[], str]) -> None:
        """Show `done` of `total`, unless the line was rewritten a moment ago."""
        now = time.monotonic()
        if now - self._shown < _INTERVAL:
            return
        self._shown = now
        note = note if isinstance(note, str) else note()
        if not total:
            self._write.show(note)
            return
        share = done / total
        left = (now - self._began) * (1 - share) / share if share > 0 else float("nan")
        bar = "━" * int(24 * share) + "╌" * (24 - int(24 * share))
        remaining = f"{left:.0f} s left" if left == left else "…"
        self._write.show(f"{bar} {share:4.0%}  {note}  {remaining}")

    def close(self) -> None:
        """Take the line away: what is worth keeping is in the report."""
        if self._shown:
            self._write.clear()


class TerminalLine:
    """Writes to standard error, so that piped output stays clean."""

    def show(self, text: str) -> None:
        """Rewrite the line."""
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Erase the line."""
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


class NotebookLine:
    """Updates one output of a Jupyter cell."""

    def __init__(self) -> None:
        self._handle = None

    def show(self, text: str) -> None:
        """Rewrite the output."""
        from IPython.display import HTML, display

        content = HTML(f"<pre style='margin:0'>{text}</pre>")
        if self._handle is None:
            self._handle = display(content, display_id=True)
        else:
            self._handle.update(content)

    def clear(self) -> None:
        """Empty the output."""
        from IPython.display import HTML

        if self._handle is not None:
            self._handle.update(HTML(""))


def make_progress(wanted: bool) -> Progress:
    """The line that fits where we run: notebook, terminal, or none."""
    if not wanted:
        return Silent()
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
        return Line(NotebookLine())
    return Line(TerminalLine()) if sys.stderr is not None and sys.stderr.isatty() else Silent()
