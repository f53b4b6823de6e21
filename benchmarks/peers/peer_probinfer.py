"""probinfer's NUTS with its defaults. Its seconds are those of warm-up and sampling."""

import json
import sys

import models_numpyro
from worker import serve

import probinfer as pi
from probinfer.inference.mcmc.chains import Chains


def count_steps():
    """A list to which whatever is drawn from now on, in the warm-up too, adds its number of leapfrogs."""
    counted = []
    advance = Chains.advance

    def counting(self, count, metrics, drawn, **settings):
        before = drawn.shortest
        advance(self, count, metrics, drawn, **settings)
        counted.append(int(drawn.rows(before).info.steps.sum()))

    Chains.advance = counting
    return counted


def make(name, data):
    counted = count_steps()

    def once(seed):
        posterior = pi.infer(models_numpyro.MODELS[name], data, pi.NUTS(), seed=seed, progress=False)
        return posterior.latents, {"verdict": posterior.report.verdict.name}

    def call(seed):
        counted.clear()
        model = models_numpyro.MODELS[name]
        posterior = pi.infer(model, data, pi.NUTS(), seed=seed, progress=False)
        seconds = json.loads(posterior.tree.attrs["seconds"])
        steps = int(posterior.tree["sample_stats"]["n_steps"].sum())
        draws = {name: values.values for name, values in posterior.tree["posterior"].data_vars.items()}
        return draws, {
            "seconds": seconds["warmup"] + seconds["sampling"],
            "steps": steps,
            "warmup_steps": sum(counted) - steps,
            "verdict": posterior.report.verdict.name,
        }

    return once if "--once" in sys.argv else call


if __name__ == "__main__":
    serve(make)
