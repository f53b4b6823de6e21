"""Any method of probinfer, with its defaults but for what SETTINGS says: python methods_probinfer.py MODEL METHOD.

Seconds are those of the method's work; in_hand, those until all sites' draws are there, the model being traced anew in
every call; gradients, for NUTS, those of warm-up and draws.
"""

import json
import sys
import time

import models_numpyro
import numpy as np
from peer_probinfer import count_steps
from worker import serve

import probinfer as pi

SETTINGS = {
    "Pathfinder": {"resample": True},  # by weight, as the peer's draws are
    "Reference": {"draws": 20_000},
}


def make(name, data):
    method = sys.argv[2]
    chosen = getattr(pi, "NUTS" if method == "Reference" else method)(**SETTINGS.get(method, {}))
    model = models_numpyro.MODELS[name]
    if method == "Rejection":
        chosen = pi.Rejection(draws=1000)
    counted = count_steps() if method == "NUTS" else []

    def call(seed):
        counted.clear()
        began = time.perf_counter()
        posterior = pi.infer(model, data, chosen, seed=seed, progress=False)
        sites = posterior.sites()
        call = time.perf_counter() - began
        spent = json.loads(posterior.sites().attrs["seconds"])
        seconds = sum(value for name, value in spent.items() if name not in ("trace", "compile", "total"))
        chains = (sites.chains, sites.draws)
        draws = {v.site: np.asarray(v.values).reshape(*chains, *v.shape) for v in sites.variables}
        figures = {"seconds": seconds, "in_hand": call, "verdict": posterior.report.verdict.name}
        return draws, {**figures, "gradients": sum(counted)} if counted else figures

    return call


if __name__ == "__main__":
    serve(make)
