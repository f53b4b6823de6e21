"""RESULTS.md: what was measured, by which command, on what. Each benchmark owns one section and rewrites it whole.

Imports the standard library only.
"""

import os
import platform
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
