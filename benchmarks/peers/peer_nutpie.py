"""PyMC models with nutpie's NUTS and its defaults: 4 chains, 400 + 1000 draws."""

import os

import models_pymc
import nutpie
import pymc as pm
from worker import serve


def make(name, data):
    compiled = []

    def call(seed):
        if not compiled:
            with pm.Model() as model:
                models_pymc.MODELS[name](**data)
            compiled.append(nutpie.compile_pymc_model(model))
        tree = nutpie.sample(compiled[0], draws=1000, chains=4, cores=os.cpu_count(), seed=seed, progress_bar=False)
        draws = {site: values.values for site, values in tree["posterior"].data_vars.items()}
        return draws, {
            "steps": int(tree["sample_stats"]["n_steps"].sum()),
            "warmup_steps": int(tree["warmup_sample_stats"]["n_steps"].sum()),
            "tune": int(tree["warmup_sample_stats"]["n_steps"].sizes["draw"]),
        }

    return call


if __name__ == "__main__":
    serve(make)
