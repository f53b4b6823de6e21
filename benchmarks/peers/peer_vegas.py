"""vegas on the integrals of benchmarks/montecarlo.py: reads "name evaluations seed" lines, answers with JSON lines."""

import json
import sys
import time

import numpy as np
import vegas
from integrals import INTEGRALS


def main() -> None:
    for line in sys.stdin:
        name, evaluations, seed = line.split()
        name = name.replace("_", " ")
        f, dim, _ = INTEGRALS[name]
        np.random.seed(int(seed))  # noqa: NPY002 - vegas draws from the global generator
        began = time.perf_counter()
        integrator = vegas.Integrator([[0, 1]] * dim)
        each = int(evaluations) // 20
        batch = vegas.lbatchintegrand(f)
        integrator(batch, nitn=10, neval=each)
        result = integrator(batch, nitn=10, neval=each)
        seconds = time.perf_counter() - began
        print(json.dumps({"value": float(result.mean), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
