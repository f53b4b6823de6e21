"""python -m benchmarks.peers.run_nutpie MODEL OUT SEED: nutpie's defaults on a PyMC model; the second call counts."""

import json
import sys
import time

import numpy as np
import nutpie
import pymc as pm
import pytensor
import pytensor.tensor as pt

from benchmarks.peers.data import DATA


def eight_schools(sigma, y):
    mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
    z = pm.Normal("z", 0, 1, shape=8)
    pm.Normal("y", mu + tau * z, sigma, observed=y)


def eight_schools_centred(sigma, y):
    mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
    theta = pm.Normal("theta", mu, tau, shape=8)
    pm.Normal("y", theta, sigma, observed=y)


def hierarchical(county, floor, uranium, y):
    mu, spread, noise = pm.Normal("mu", 0, 5), pm.HalfNormal("spread", 1), pm.HalfNormal("noise", 1)
    b_floor, b_uranium = pm.Normal("b_floor", 0, 1), pm.Normal("b_uranium", 0, 1)
    z = pm.Normal("z", 0, 1, shape=85)
    pm.Normal("y", mu + b_uranium * uranium + b_floor * floor + spread * z[county], noise, observed=y)


def logistic(X, y):
    a, b = pm.Normal("a", 0, 5), pm.Normal("b", 0, 2, shape=X.shape[1])
    pm.Bernoulli("y", logit_p=a + X @ b, observed=y)


def mixture(y):
    weight, low, gap = pm.Beta("weight", 2, 2), pm.Normal("low", -1, 2), pm.HalfNormal("gap", 5)
    scale = pm.HalfNormal("scale", 2, shape=2)
    pm.NormalMixture("y", pt.stack([weight, 1 - weight]), pt.stack([low, low + gap]), sigma=scale, observed=y)


def autoregressive():
    x, rho = pm.Flat("x", shape=1000), 0.9
    pm.Potential("x0", -0.5 * x[0] ** 2)
    pm.Potential("steps", -0.5 * pt.sum((x[1:] - rho * x[:-1]) ** 2) / (1 - rho**2))


def volatility(y):
    persistence, spread = pm.Beta("persistence", 20, 1.5), pm.HalfNormal("spread", 0.5)
    level = pm.Normal("level", -9, 2)
    z = pm.Normal("z", 0, 1, shape=500)
    h = pytensor.scan(
        lambda e, h, rho, s: rho * h + s * e,
        sequences=[z],
        outputs_info=[pt.zeros(())],
        non_sequences=[persistence, spread],
        return_updates=False,
    )
    pm.Normal("y", 0, pt.exp((level + h) / 2), observed=y)


MODELS = {
    "eight schools": eight_schools,
    "eight schools, centred": eight_schools_centred,
    "hierarchical, 90 parameters": hierarchical,
    "logistic, 1,000 x 20": logistic,
    "logistic, 100,000 x 10": logistic,
    "mixture of two normals": mixture,
    "AR(1) Gaussian, 1,000 dimensions": autoregressive,
    "stochastic volatility, T = 500": volatility,
}


def main(name: str, out: str, seed: int) -> None:
    with pm.Model() as model:
        MODELS[name](**DATA[name])
        latent = [variable.name for variable in model.free_RVs]
    compiled = nutpie.compile_pymc_model(model)
    nutpie.sample(compiled, seed=seed, progress_bar=False)
    print(json.dumps({"ready": time.time()}), flush=True)
    if out == "-":
        return
    began = time.perf_counter()
    trace = nutpie.sample(compiled, seed=seed + 1, progress_bar=False)
    seconds = time.perf_counter() - began
    posterior, stats = trace["posterior"], trace["sample_stats"]
    np.savez(out, **{name: np.asarray(posterior[name]) for name in latent})
    print(json.dumps({"seconds": seconds, "leapfrogs": int(np.asarray(stats["n_steps"]).sum())}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
