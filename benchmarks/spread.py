"""Scoring a folder of Parquet files with two worker processes: Dask's as an executor, next to Ray Data.

    sh benchmarks/peers/install.sh ray
    python -m benchmarks.spread [--rows 400000] [--files 16] [--draws 400] [--repeat 3] [--dry]

Ray Data reads the folder, predicts with an actor class (`map_batches`, two actors, each loads the predictor once), and
writes a folder; it runs in an environment of its own. Dask runs `probinfer.deploy.score.score` with the executor of a
local cluster of two processes. Both first score a small folder that is not counted, and then take turns. One process
alone is there to compare. Writes a section of RESULTS.md unless --dry.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.results import circumstances, write_section

TITLE = "Scoring a folder with two workers: Dask and Ray Data"
RAY = Path(__file__).parent / "peers" / ".envs" / "ray" / "bin" / "python"

MAKE = """
import sys, numpy as np, numpyro, numpyro.distributions as dist, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
import probinfer as pi
folder, rows, files, draws = Path(sys.argv[1]), *map(int, sys.argv[2:5])

def model(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([20]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

rng = np.random.default_rng(0)
X = rng.normal(size=(500, 20))
data = {"X": X, "y": X.sum(axis=1) + rng.normal(size=500)}
pi.Predictor(pi.infer(model, data, pi.Exact(draws=draws), progress=False)).save(folder / "predictor")
for name, count, number in (("small", 4000, 2), ("large", rows, files)):
    (folder / name).mkdir()
    for file in range(number):
        X = rng.normal(size=(count // number, 20))
        pq.write_table(pa.table({f"X[{i}]": X[:, i] for i in range(20)}), folder / name / f"{file:03d}.parquet")
"""

ALONE = """
import sys, time, json
from probinfer.deploy.score import score
folder, repeat = sys.argv[1], int(sys.argv[2])
seconds = []
for run in range(-1, repeat):
    began = time.perf_counter()
    source = f"{folder}/{'large' if run >= 0 else 'small'}"
    score(f"{folder}/predictor", source, f"{folder}/alone{run}/", progress=False)
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds[1:]))
"""

DASK = """
import sys, time, json, distributed
from probinfer.deploy.score import score

def main():
    folder, repeat = sys.argv[1], int(sys.argv[2])
    seconds = []
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        for run in range(-1, repeat):
            began = time.perf_counter()
            source = f"{folder}/{'large' if run >= 0 else 'small'}"
            with client.get_executor() as executor:
                score(f"{folder}/predictor", source, f"{folder}/dask{run}/", executor=executor, progress=False)
            seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds[1:]))

if __name__ == "__main__":
    main()
"""

RAY_DATA = """
import sys, time, json, logging, ray, pyarrow as pa
folder, repeat = sys.argv[1], int(sys.argv[2])

class Scorer:
    def __init__(self):
        import probinfer
        self.predictor = probinfer.load_predictor(f"{folder}/predictor")

    def __call__(self, rows):
        return pa.table(self.predictor.predict(rows).columns())

ray.init(num_cpus=4, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
seconds = []
for run in range(-1, repeat):
    began = time.perf_counter()
    data = ray.data.read_parquet(f"{folder}/{'large' if run >= 0 else 'small'}")
    scored = data.map_batches(Scorer, batch_size=16384, batch_format="pyarrow", concurrency=2)
    scored.write_parquet(f"{folder}/ray{run}")
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds[1:]))
"""


def measured(python: str, code: str, folder: str, repeat: int) -> list[float]:
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        command = [python, script.name, folder, str(repeat)]
        patient = {**os.environ, "RAY_raylet_start_wait_time_s": "240"}
        found = subprocess.run(command, capture_output=True, text=True, timeout=900, env=patient)
    if found.returncode:
        raise SystemExit(found.stderr[-3000:])
    return json.loads(found.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ray", default=str(RAY), help="Python of the environment that has Ray")
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = [str(options.rows), str(options.files), str(options.draws)]
        subprocess.run([sys.executable, "-c", MAKE, folder, *numbers], check=True)
        ways = {
            "one process": (sys.executable, ALONE),
            "Dask, two workers": (sys.executable, DASK),
            "Ray Data, two actors": (options.ray, RAY_DATA),
        }
        seconds = {name: measured(*way, folder, options.repeat) for name, way in ways.items()}
    lines = ["| | seconds, median (all) | rows/s |", "|---|---|---|"]
    for name, times in seconds.items():
        middle = statistics.median(times)
        every = ", ".join(f"{t:.1f}" for t in times)
        lines.append(f"| {name} | {middle:.1f} ({every}) | {options.rows / middle:,.0f} |")
    command = f"`python -m benchmarks.spread --rows {options.rows} --files {options.files} --repeat {options.repeat}`"
    code = "from importlib.metadata import version; print(version('ray'))"
    ray = subprocess.run([RAY, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    about = (
        f"{options.rows:,} rows x 20 features in {options.files} files, {options.draws} draws; two workers that have "
        f"scored before. Ray Data {ray} in an environment of its own."
    )
    words = circumstances("probinfer", "jax", "distributed")
    text = "\n".join([command, "", words, "", about, "", *lines])
    print(text)
    if not options.dry:
        write_section(TITLE, text)


if __name__ == "__main__":
    main()
