"""RESULTS.md: what was measured, by which command, on what. Each benchmark owns one section and rewrites it whole.

Imports the standard library only.
"""

import argparse
import os
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "# Results\n\nMeasured, not promised. Each section names the command that writes it.\n"


def circumstances(*packages: str) -> str:
    """One line: date, cores, platform, versions."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}; {machine}; {versions}."


def write_section(title: str, body: str, path: Path = RESULTS) -> None:
    """Put `body` under `## title`, in the place of the section of that title or at the end."""
    text = path.read_text() if path.exists() else HEADING
    head, *sections = text.split("\n## ")
    bodies = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in sections}
    bodies[title] = body.strip()
    path.write_text("\n".join([head.rstrip(), *(f"\n## {name}\n\n{content}" for name, content in bodies.items()), ""]))


def measure_table(
    command: str,
    title: str,
    header: str,
    models: Iterable[str],
    rows: Callable[[str, int], list[str]],
    words: str,
    *,
    repeat: int,
    arguments: list[str] | None = None,
) -> None:
    """The command line of a benchmark that is one table: rows(model, repeat) for each model, printed as they come and
    written to the section `title` with the `words` about them, unless --dry or --only."""
    parser = argparse.ArgumentParser(prog=f"python -m {command}", description=title)
    parser.add_argument("--only", nargs="+", choices=list(models), metavar="MODEL", help="these models alone")
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    print(header)
    lines = []
    for model in options.only or models:
        new = rows(model, options.repeat)
        print("\n".join(new), flush=True)
        lines += new
    if not options.dry and not options.only:
        what = f"`python -m {command} --repeat {options.repeat}`"
        table = "\n".join([header, *lines])
        write_section(title, "\n\n".join([what, circumstances("probinfer", "jax", "numpyro"), words, table]))
