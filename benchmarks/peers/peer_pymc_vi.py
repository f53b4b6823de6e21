"""PyMC's ADVI until its bound is near a wanted one: python peer_pymc_vi.py MODEL meanfield|fullrank.

A line `seed wanted near most` on the standard input, an answer in JSON on the standard output: seconds, bound, steps.
Adam with step 0.01 in blocks of 500 steps; measuring the bound, from 1,000 draws in the unconstrained space, does not
count. The approximation is built and compiled anew in every call, as `pm.fit` does.
"""

import json
import os
import sys
import time

import models_pymc
import numpy as np
import pymc as pm
from data import MODELS

BLOCK, DRAWS = 500, 1000


class Bound:
    """Mean of log p - log q over draws of the approximation."""

    def __init__(self, model: pm.Model) -> None:
        point = model.initial_point()
        self.shapes = {name: np.shape(value) for name, value in point.items()}
        self.log_density = model.compile_logp(jacobian=True)

    def __call__(self, approximation) -> float:
        mean, cov = approximation.mean.eval(), approximation.cov.eval()
        root = np.linalg.cholesky(cov)
        noise = np.random.default_rng(0).normal(size=(DRAWS, len(mean)))
        entropy = np.log(np.diag(root)).sum() + 0.5 * len(mean) * (1 + np.log(2 * np.pi))
        return float(
            np.mean([self.log_density(self._named(approximation, z)) for z in mean + noise @ root.T]) + entropy
        )

    def _named(self, approximation, z: np.ndarray) -> dict[str, np.ndarray]:
        ordering = approximation.groups[0].ordering
        return {name: z[place[1]].reshape(self.shapes[name]) for name, place in ordering.items()}


def main() -> None:
    name, family = sys.argv[1:3]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with pm.Model() as model:
        models_pymc.MODELS[name](**MODELS[name][0]())
    bound_of = Bound(model)
    for line in sys.stdin:
        seed, wanted, near, most = (float(word) for word in line.split())
        began, measuring, steps, bound = time.perf_counter(), 0.0, 0, -np.inf
        with model:
            kind = pm.ADVI if family == "meanfield" else pm.FullRankADVI
            inference = kind(random_seed=int(seed))
            inference.fit(BLOCK, obj_optimizer=pm.adam(learning_rate=0.01), progressbar=False)
            while True:
                steps += BLOCK
                paused = time.perf_counter()
                bound = bound_of(inference.approx)
                measuring += time.perf_counter() - paused
                if bound >= wanted - near or steps >= most:
                    break
                inference.refine(BLOCK, progressbar=False)
        seconds = time.perf_counter() - began - measuring
        answers.write(json.dumps({"seconds": seconds, "bound": bound, "steps": steps}) + "\n")


if __name__ == "__main__":
    main()
