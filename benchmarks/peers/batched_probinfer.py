"""NUTS with many chains: python batched_probinfer.py MODEL CHAINS THREADS|BATCH. 200 + 100 steps of each."""

import sys

import models_numpyro
import numpy as np
from worker import serve

import probinfer as pi

WARMUP, DRAWS = 200, 100


def make(name, data):
    method = pi.NUTS(chains=int(sys.argv[2]), draws=DRAWS, warmup=WARMUP, parallel=pi.Parallel[sys.argv[3]])

    def call(seed):
        posterior = pi.infer(models_numpyro.MODELS[name], data, method, seed=seed, progress=False)
        group, steps = posterior.tree["posterior"], np.asarray(posterior.tree["sample_stats"]["n_steps"])
        draws = {site: np.asarray(values) for site, values in group.data_vars.items()}
        return draws, {"trees": float(steps.sum(axis=1).max() / steps.max(axis=0).sum())}

    return call


if __name__ == "__main__":
    serve(make)
