# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From posterior to service
#
# A posterior becomes a predictor, the predictor a folder, the folder an HTTP server: `probinfer serve`, in a process of its own, as it would run in
# a container. The notebook asks it over the loopback as any client would, reports outcomes, reads the metrics, and ends it. It needs
# `pip install 'probinfer[serve]'`.

# %%
import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import probinfer as pi

draws = int(os.environ.get("PROBINFER_NOTEBOOK_DRAWS", "4000"))  # fewer when the notebook is only tested
rng = np.random.default_rng(7)


def journeys(n):
    distance = rng.uniform(1.0, 20.0, n)
    rush = rng.integers(0, 2, n)
    minutes = 4.0 + np.where(rush == 1, 3.2, 2.1) * distance + rng.normal(0.0, 5.0, n)
    return {"distance": distance, "rush": rush}, minutes


def travel(distance, rush, minutes=None):
    start = numpyro.sample("start", dist.Normal(5.0, 5.0))
    pace = numpyro.sample("pace", dist.Normal(2.0, 2.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    numpyro.sample("minutes", dist.Normal(start + pace[rush] * distance, sigma), obs=minutes)


rows, minutes = journeys(80)
posterior = pi.infer(travel, {**rows, "minutes": minutes}, pi.NUTS(draws=max(150, draws // 8)), seed=1)
predictor = pi.Predictor(posterior)
predictor

# %% [markdown]
# ## A folder
#
# The saved predictor is data: a compiled program, the draws, and a manifest with the hash of every file. Loading it executes nothing of yours.

# %%
workplace = tempfile.TemporaryDirectory()
folder = Path(workplace.name) / "travel"
predictor.save(folder)
{file.name: f"{file.stat().st_size / 1000:.1f} kB" for file in sorted(folder.iterdir())}

# %% [markdown]
# ## A server
#
# `--port 0` takes a free port. The log, lines of JSON, says which, and `ready` once everything is compiled.

# %%
log = Path(workplace.name) / "log"
with log.open("w") as file:
    command = [sys.executable, "-m", "probinfer", "serve", str(folder), "--port", "0", "--drain", "0"]
    server = subprocess.Popen(command, stderr=file)
atexit.register(server.kill)  # should the notebook end before its last cell


def said(event):
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return next((line for line in lines if line["event"] == event), None)


until = time.monotonic() + 240
while said("ready") is None:
    if server.poll() is not None or time.monotonic() > until:
        raise RuntimeError(log.read_text())
    time.sleep(0.1)
address = said("listening")["address"]
print(log.read_text())

# %% [markdown]
# ## Records
#
# `POST /predict` takes a row as an object. The numbers are the predictor's own.


# %%
def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(address + path, data, timeout=60) as response:
        text = response.read().decode()
    return json.loads(text) if response.headers["content-type"] == "application/json" else text


answer = ask("/predict", {"records": [{"distance": 12.0, "rush": 1}], "level": 0.8})
mine = predictor.predict({"distance": np.array([12.0]), "rush": np.array([1])}, level=0.8)
assert np.isclose(answer["predictions"][0]["upper"], mine.upper[0], rtol=1e-9)
answer

# %% [markdown]
# ## Tensors
#
# The Open Inference Protocol, as KServe, Triton and MLServer speak it: a whole grid in one request, and only the outputs that are asked for.

# %%
grid = np.tile(np.linspace(1.0, 20.0, 40), 2)
hour = np.repeat([0, 1], 40)
request = {
    "inputs": [
        {"name": "distance", "datatype": "FP64", "shape": [80], "data": grid.tolist()},
        {"name": "rush", "datatype": "INT64", "shape": [80], "data": hour.tolist()},
    ],
    "outputs": [{"name": name} for name in ("mean", "lower", "upper")],
    "parameters": {"level": 0.9},
}
reply = ask("/v2/models/travel/infer", request)
found = {output["name"]: np.array(output["data"]) for output in reply["outputs"]}

# %%
figure, axis = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
for code, name, color in ((0, "quiet", "C0"), (1, "rush hour", "C3")):
    here, seen = hour == code, rows["rush"] == code
    axis.plot(rows["distance"][seen], minutes[seen], ".", color=color, markersize=4)
    axis.plot(grid[here], found["mean"][here], color=color, label=name)
    axis.fill_between(grid[here], found["lower"][here], found["upper"][here], color=color, alpha=0.2)
axis.set(xlabel="distance, km", ylabel="minutes", title="answered by the server: mean and 90% interval")
axis.legend()
plt.show()

# %% [markdown]
# ## What is wrong is said
#
# A level that training never saw is refused, with a text that names it, and not answered with a guess.

# %%
try:
    ask("/predict", {"records": [{"distance": 12.0, "rush": 7}]})
except urllib.error.HTTPError as error:
    status, refusal = error.code, json.loads(error.read())["error"]
assert status == 422
print(status, refusal)

# %% [markdown]
# ## Outcomes, and what the server knows of them
#
# Outcomes reported to `/feedback` are counted as covered by their interval or not. `/metrics` is what Prometheus reads:
# `deploy/prometheus/alerts.yaml` has the alerts, among them one for intervals that do not hold.

# %%
new, came = journeys(200)
records = [
    {"distance": float(distance), "rush": int(rush), "minutes": float(each)}
    for distance, rush, each in zip(new["distance"], new["rush"], came, strict=True)
]
covered = ask("/feedback", {"records": records, "level": 0.9})["covered"]
print(f"{np.mean(covered):.3f} of {len(covered)} outcomes were in their 90% interval")

# %%
metrics = ask("/metrics").splitlines()
wanted = ("probinfer_requests_total", "probinfer_feedback", "probinfer_epistemic_share_count", "probinfer_model_ready")
counted = [line for line in metrics if line.startswith(wanted) and not line.endswith(" 0")]
assert f'probinfer_feedback_total{{model="travel",level="0.9"}} {len(covered)}' in counted
print("\n".join(counted))

# %% [markdown]
# ## The end
#
# On SIGTERM the server finishes what it has begun and ends with status 0.

# %%
server.terminate()
status = server.wait(60)
workplace.cleanup()
assert status == 0
status
