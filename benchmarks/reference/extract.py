"""Copy a few small reference posteriors into the repository, where the quick accuracy tests read them.

    python -m benchmarks.reference.extract

From posteriordb (see registry.py): the fields of the data that the model uses, to seven digits (some were written out
from single precision), and summaries of the reference draws.
Imports the registry and the standard library only.
"""

import json
from pathlib import Path

from benchmarks.reference.registry import REGISTRY, folder

SMALL = (
    "eight_schools_noncentered",
    "arK",
    "garch11",
    "gp_regr",
    "hmm_example",
    "kidscore_interaction",
    "wells_daae",
    "surgical",
    "glm_poisson",
    "radon_intercept",
)
LICENCE = "BSD 3-Clause, Copyright (c) 2011-2024, Stan Developers and their Assignees; see LICENSE.posteriordb.md"
SUMMARIES = ("mean", "sd", "q05", "q95", "mcse_mean", "ess_bulk")
TARGET = Path(__file__).resolve().parents[2] / "tests" / "accuracy" / "reference"


def rounded(value):
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


class Recorder(dict):
    """A dict that remembers which keys were read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


def extract(name: str) -> dict:
    entry = REGISTRY[name]
    raw = Recorder(json.loads((folder() / "data" / f"{entry.data_file}.json").read_text()))
    entry.prepare(raw)
    reference = json.loads((folder() / "reference" / f"{name}.json").read_text())
    return {
        "name": name,
        "source": reference["source"],
        "licence": LICENCE,
        "data": {key: rounded(value) for key, value in raw.items() if key in raw.read},
        "parameters": {
            scalar: {key: float(f"{summary[key]:.8g}") for key in SUMMARIES}
            for scalar, summary in reference["parameters"].items()
        },
    }


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    licence = "LICENSE.posteriordb.md"
    (TARGET / licence).write_text((folder() / licence).read_text())
    for name in SMALL:
        content = extract(name)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        path = TARGET / f"{name}.json"
        path.write_text("{\n" + lines + "\n}\n")
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
