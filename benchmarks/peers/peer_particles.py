"""The package `particles` on the models of benchmarks/particle.py.

Reads lines "model particles times seed" and answers with JSON lines; the file of the series is its argument.

Imports NumPy and particles only. It draws from NumPy's global generator.
"""

import json
import sys
import time

import numpy as np
import particles
from particles import distributions as dists
from particles import state_space_models as ssm


class Volatility(ssm.StateSpaceModel):
    def PX0(self):
        return dists.Normal(loc=-1.0, scale=0.3 / np.sqrt(1 - 0.9**2))

    def PX(self, t, xp):
        return dists.Normal(loc=-1.0 + 0.9 * (xp + 1.0), scale=0.3)

    def PY(self, t, xp, x):
        return dists.Normal(loc=0.0, scale=np.exp(0.5 * x))


class Level(ssm.StateSpaceModel):
    def PX0(self):
        return dists.Normal(loc=0.0, scale=1.0)

    def PX(self, t, xp):
        return dists.Normal(loc=0.9 * xp, scale=0.5)

    def PY(self, t, xp, x):
        return dists.Normal(loc=x, scale=0.7)


MODELS = {"volatility": Volatility, "level": Level}


def main() -> None:
    series = {name: np.loadtxt(sys.argv[1])[row] for row, name in enumerate(MODELS)}
    for line in sys.stdin:
        name, count, times, seed = line.split()
        np.random.seed(int(seed))  # noqa: NPY002
        feynman_kac = ssm.Bootstrap(ssm=MODELS[name](), data=series[name][: int(times)])
        filter_ = particles.SMC(fk=feynman_kac, N=int(count), resampling="systematic", ESSrmin=0.5)
        began, cpu = time.perf_counter(), time.process_time()
        filter_.run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(json.dumps({"log_likelihood": float(filter_.logLt), "seconds": seconds, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
