"""PyMC's sample_posterior_predictive and Bambi's predict from given draws: median seconds. Run by benchmarks.predict.

python peer_bambi.py GIVEN.npz linear|logistic ROWS …; prints [[peer, rows, seconds], …] as JSON on its last line.
"""

import json
import logging
import sys
import time

import arviz as az
import bambi
import numpy as np
import pandas as pd
import pymc as pm

LEVELS = (0.05, 0.5, 0.95)
CHAINS = 4


def summaries(drawn):
    flat = drawn.reshape(-1, drawn.shape[-1])
    return np.stack([flat.mean(0), flat.std(0), *np.quantile(flat, LEVELS, axis=0)])


def median(call, rows):
    call()
    seconds = []
    for _ in range(7 if rows == 1 else 3):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def tree(posterior):
    return az.from_dict({"posterior": posterior})


def by_pymc(name, X, y, draws):
    with pm.Model() as model:
        data = pm.Data("X", X)
        beta = pm.Normal("beta", 0, 1, shape=X.shape[1])
        mu = data @ beta
        if name == "logistic":
            pm.Bernoulli("y", logit_p=mu, observed=y, shape=mu.shape)
        else:
            pm.Normal("y", mu, pm.HalfNormal("sigma", 1), observed=y, shape=mu.shape)
    posterior = tree({k: v.reshape(CHAINS, -1, *v.shape[1:]) for k, v in draws.items()})

    def predict(new):
        with model:
            pm.set_data({"X": new})
            found = pm.sample_posterior_predictive(posterior, predictions=True, progressbar=False, random_seed=1)
        return summaries(found.predictions["y"].values)

    return predict


def by_bambi(name, X, y, draws):
    table = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]).assign(y=y)
    formula = "y ~ 0 + " + " + ".join(table.columns[:-1])
    model = bambi.Model(formula, table, family="bernoulli" if name == "logistic" else "gaussian")
    model.build()
    posterior = {f"x{i}": draws["beta"][:, i].reshape(CHAINS, -1) for i in range(X.shape[1])}
    if "sigma" in draws:
        posterior["sigma"] = draws["sigma"].reshape(CHAINS, -1)
    idata = tree(posterior)

    def predict(new):
        frame = pd.DataFrame(new, columns=table.columns[:-1])
        found = model.predict(idata, kind="response", data=frame, inplace=False, random_seed=1)
        return summaries(found.posterior_predictive["y"].values)

    return predict


def main(path, name, *sizes):
    logging.disable(logging.WARNING)
    given = np.load(path)
    draws = {k.removeprefix("draw "): given[k] for k in given if k.startswith("draw ")}
    X, y = given["X"], given["y"]
    found = []
    for label, make in (("PyMC", by_pymc), ("Bambi", by_bambi)):
        predict = make(name, X, y, draws)
        for size in map(int, sizes):
            new = np.random.default_rng(1).normal(size=(size, X.shape[1]))
            found.append([label, size, median(lambda new=new, predict=predict: predict(new), size)])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
