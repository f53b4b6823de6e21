"""Scoring a table, Parquet to Parquet, next to the bare compute of the same predictions; and its memory.

    python -m benchmarks.score [--rows 2000000] [--features 20] [--draws 400] [--repeat 3] [--dry]

The bare compute is `Predictor.predict` on chunks that are in memory already, whose answers are thrown away. Both run in
turns, each in a process of its own, which first answers one chunk that is not counted; the share is of medians. Memory
is the largest that a scoring process had, at a tenth of the rows and at all of them. Writes a section of RESULTS.md
unless --dry.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.results import circumstances, write_section

TITLE = "Scoring Parquet to Parquet next to the bare compute"

MAKE = """
import sys, numpy as np, numpyro, numpyro.distributions as dist, pyarrow as pa, pyarrow.parquet as pq
import probinfer as pi
folder, rows, features, draws = sys.argv[1], *map(int, sys.argv[2:5])

def model(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([features]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

rng = np.random.default_rng(0)
X = rng.normal(size=(500, features))
data = {"X": X, "y": X.sum(axis=1) + rng.normal(size=500)}
pi.Predictor(pi.infer(model, data, pi.Exact(draws=draws), progress=False)).save(f"{folder}/predictor")
names = [f"X[{i}]" for i in range(features)]
for name, count in (("small", rows // 10), ("large", rows)):
    schema = pa.schema([("id", pa.int64()), *((n, pa.float64()) for n in names)])
    with pq.ParquetWriter(f"{folder}/{name}.parquet", schema) as writer:
        for start in range(0, count, 100_000):
            size = min(100_000, count - start)
            columns = {"id": np.arange(start, start + size), **{n: rng.normal(size=size) for n in names}}
            writer.write_table(pa.table(columns, schema=schema))
"""

BARE = """
import sys, time, numpy as np
from probinfer.predict.predictor import load_predictor
folder, rows, features = sys.argv[1], *map(int, sys.argv[2:4])
from probinfer.deploy.score import CHUNK_ROWS
predictor = load_predictor(f"{folder}/predictor")
chunks = [np.random.default_rng(i).normal(size=(CHUNK_ROWS, features)) for i in range(4)]
predictor.predict({"X": chunks[0]})
began, done = time.perf_counter(), 0
while done < rows:
    predictor.predict({"X": chunks[done // CHUNK_ROWS % 4][: rows - done]})
    done += CHUNK_ROWS
print(time.perf_counter() - began)
"""

SCORE = """
import json, resource, sys
from probinfer.deploy import score as scoring
folder, name = sys.argv[1:3]
loaded = scoring.load_predictor(f"{folder}/predictor")
import numpy as np
loaded.predict({"X": np.zeros((scoring.CHUNK_ROWS, loaded.inputs[0].shape[0]))})  # compiled before the clock runs
scoring.load_predictor = lambda path: loaded
done = scoring.score(f"{folder}/predictor", f"{folder}/{name}.parquet", f"{folder}/out.parquet", keep=["id"])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": done.seconds, "rows": done.rows, "peak": peak}))
"""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print, do not write RESULTS.md")
    options = parser.parse_args()
    bare, scored, large = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        run(MAKE, folder, options.rows, options.features, options.draws)
        size = Path(folder, "large.parquet").stat().st_size / 2**20
        for _ in range(options.repeat):
            bare.append(float(run(BARE, folder, options.rows, options.features)))
            found = json.loads(run(SCORE, folder, "large"))
            assert found["rows"] == options.rows
            scored.append(found["seconds"])
            large.append(found["peak"])
        small = json.loads(run(SCORE, folder, "small"))["peak"]
    first, second = statistics.median(bare), statistics.median(scored)
    lines = [
        f"`python -m benchmarks.score --rows {options.rows}`. {circumstances('jax', 'pyarrow', 'probinfer')}",
        "",
        f"{options.rows:,} rows of {options.features} features ({size:.0f} MB of Parquet), {options.draws} posterior "
        f"draws; medians of {options.repeat} runs in turns.",
        "",
        "| | seconds | rows/s | share of the bare speed |",
        "|---|---|---|---|",
        f"| bare compute, rows in memory | {first:.1f} | {options.rows / first:,.0f} | |",
        f"| `score`, Parquet to Parquet | {second:.1f} | {options.rows / second:,.0f} | {first / second:.0%} |",
        "",
        f"Largest memory of the scoring process: {small:.0f} MB for {options.rows // 10:,} rows, "
        f"{statistics.median(large):.0f} MB for {options.rows:,}.",
    ]
    body = "\n".join(lines)
    print(body)
    if not options.dry:
        write_section(TITLE, body)


if __name__ == "__main__":
    main()
