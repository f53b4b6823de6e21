"""python -m benchmarks.peers.run_probinfer MODEL OUT SEED: pi.infer with defaults; the second call counts."""

import json
import sys
import time

import numpy as np

import probinfer as pi
from benchmarks.peers.data import DATA
from benchmarks.peers.models_numpyro import MODELS


def main(name: str, out: str, seed: int) -> None:
    data = DATA[name] or None
    model = pi.Model(MODELS[name])
    first = pi.infer(model, data, seed=seed, progress=False)
    print(json.dumps({"ready": time.time(), "verdict": first.report.verdict.name}), flush=True)
    if out == "-":
        return
    posterior = pi.infer(model, data, seed=seed + 1, progress=False)
    spent = json.loads(posterior.tree.attrs["seconds"])
    group = posterior.tree["posterior"].dataset
    np.savez(out, **{name: group[name].values for name in group.data_vars})
    print(
        json.dumps(
            {
                "seconds": spent["warmup"] + spent["sampling"],
                "sampling": spent["sampling"],
                "leapfrogs": int(posterior.tree["sample_stats"]["n_steps"].sum()),
                "verdict": posterior.report.verdict.name,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
