"""Where the seconds of a whole process go, from its start to a posterior that has been judged: cold and warm.

    python -m benchmarks.process [--only MODEL ...] [--repeat 3] [--dry]

Each process is a fresh one; cold ones find an empty cache, warm ones what the cold one before left. Medians. Writes a
section of RESULTS.md unless --dry or --only.
"""

import json
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.nuts import PEERS, WHOLE, environment
from benchmarks.results import measure_table

TITLE = "Where a process's seconds go"
PARTS = ["python", "jax", "numpyro", "probinfer", "data", "trace", "compile", "warm-up", "sampling", "report", "whole"]
HEADER = f"| model | cache | {' | '.join(PARTS)} |\n|---|---|{'---|' * len(PARTS)}"
SCRIPT = """
import json, sys, time
def passed(since=[time.time()]):
    since.append(time.time())
    return since[-1] - since[-2]
parts = {"python": time.time() - float(sys.argv[3])}
passed()
import jax
parts["jax"] = passed()
import numpyro
parts["numpyro"] = passed()
import probinfer as pi
pi.infer, pi.NUTS
parts["probinfer"] = passed()
sys.path.insert(0, sys.argv[1])
import data, models_numpyro
arrays = data.MODELS[sys.argv[2]][0]()
parts["data"] = passed()
posterior = pi.infer(models_numpyro.MODELS[sys.argv[2]], arrays, pi.NUTS(), seed=1, progress=False)
spent = passed()
seconds = json.loads(posterior.tree.attrs["seconds"])
names = {"trace": "trace", "compile": "compile", "warm-up": "warmup", "sampling": "sampling"}
parts |= {part: seconds[name] for part, name in names.items()}
posterior.report.verdict
parts["report"] = spent - sum(seconds[name] for name in names.values()) + passed()
parts["whole"] = time.time() - float(sys.argv[3])
print(json.dumps(parts))
"""


def process(model: str, caches: str) -> list[float]:
    """Seconds of each part."""
    began = time.time()
    command = [sys.executable, "-c", SCRIPT, str(PEERS), model, repr(began)]
    done = subprocess.run(command, env=environment(caches), capture_output=True, text=True, check=True)
    parts = json.loads(done.stdout.splitlines()[-1])
    return [parts[part] for part in PARTS]


def rows(model: str, repeat: int) -> list[str]:
    cold, warm = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as caches:
            cold.append(process(model, caches))
            warm.append(process(model, caches))
    lines = []
    for name, runs in (("cold", cold), ("warm", warm)):
        cells = " | ".join(f"{value:.2f}" for value in np.median(runs, axis=0))
        lines.append(f"| {model} | {name} | {cells} |")
    return lines


def main(arguments: list[str] | None = None) -> None:
    words = (
        "Seconds by the clock, four chains of NUTS with its defaults. python: until the first line of the script. jax,"
        " numpyro, probinfer: importing them, one after the other. compile: also finding where chains begin; part of it"
        " goes on beside. report: the verdict and the data tree, which needs xarray and pandas imported; the verdict"
        " and `posterior.latents` need neither (see the whole processes of `benchmarks.nuts`)."
    )
    measure_table("benchmarks.process", TITLE, HEADER, WHOLE, rows, words, repeat=3, arguments=arguments)


if __name__ == "__main__":
    main()
