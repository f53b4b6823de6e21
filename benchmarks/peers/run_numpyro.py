"""python -m benchmarks.peers.run_numpyro MODEL OUT SEED: 4 chains of 1000 + 1000, twice; the second call counts."""

import json
import sys
import time

import jax
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS

from benchmarks.peers.data import DATA
from benchmarks.peers.models_numpyro import MODELS


def main(name: str, out: str, seed: int) -> None:
    numpyro.enable_x64()
    mcmc = MCMC(
        NUTS(MODELS[name]),
        num_warmup=1000,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    data = {k: jax.numpy.asarray(v) for k, v in DATA[name].items()}
    mcmc.run(jax.random.key(seed), extra_fields=("num_steps",), **data)
    jax.block_until_ready(mcmc.get_samples())
    print(json.dumps({"ready": time.time()}), flush=True)
    if out == "-":
        return
    began = time.perf_counter()
    mcmc.run(jax.random.key(seed + 1), extra_fields=("num_steps",), **data)
    draws = jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
    ended = time.perf_counter()
    np.savez(out, **{name: np.asarray(value) for name, value in draws.items()})
    steps = int(mcmc.get_extra_fields()["num_steps"].sum())
    print(json.dumps({"seconds": ended - began, "leapfrogs": steps}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
