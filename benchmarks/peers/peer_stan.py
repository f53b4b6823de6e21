"""Stan's NUTS through PyStan with its defaults: 4 chains, 1000 + 1000 draws.

PyStan hands draws through a server of its own process and JSON: that is part of its call.
"""

import logging
import os
import tempfile

import models_stan
import numpy as np
import stan
from worker import serve

logging.getLogger("httpstan").setLevel(logging.ERROR)
os.chdir(tempfile.mkdtemp())  # compiling leaves a folder `build` behind
WARMUP, DRAWS = 1000, 1000


def make(name, data):
    program, data = models_stan.program_and_data(name, data)

    def call(seed):
        model = stan.build(program, data=data, random_seed=seed + 1)
        fit = model.sample(num_chains=4, num_samples=DRAWS, num_warmup=WARMUP, save_warmup=True)

        def by_chain(name):
            # (…, draws × chains), the chains next to each other within a draw
            values = np.asarray(fit[name])
            values = values.reshape(*values.shape[:-1], WARMUP + DRAWS, 4)
            return np.moveaxis(values, (-1, -2), (0, 1))

        steps = by_chain("n_leapfrog__").squeeze(-1).sum(0)
        draws = {site: by_chain(site)[:, WARMUP:] for site in fit.param_names}
        return draws, {"steps": int(steps[WARMUP:].sum()), "warmup_steps": int(steps[:WARMUP].sum())}

    return call


if __name__ == "__main__":
    serve(make)
