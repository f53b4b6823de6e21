"""NumPyro's topic model with the topics of the words summed out, by SVI with a normal guide.

    python peer_topics.py FOLDER SECONDS ...

Reads FOLDER/counts.npz; for each budget of seconds, compilation left out, writes the topics to FOLDER/SECONDS.npy, and
at the end prints the seconds really spent, as JSON. Imports numpyro.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

folder, budgets = sys.argv[1], [int(text) for text in sys.argv[2:]]
given = np.load(f"{folder}/counts.npz")
document, word, count = (jnp.asarray(given[name]) for name in ("document", "word", "count"))
(documents, vocabulary), topics = given["shape"], int(given["topics"])
alpha, beta = float(given["alpha"]), float(given["beta"])


def model():
    with numpyro.plate("documents", documents):
        theta = numpyro.sample("theta", dist.Dirichlet(alpha * jnp.ones(topics)))
    with numpyro.plate("topics", topics):
        phi = numpyro.sample("phi", dist.Dirichlet(beta * jnp.ones(vocabulary)))
    seen = jnp.sum(theta[document] * phi[:, word].T, axis=-1)
    numpyro.factor("likelihood", jnp.sum(count * jnp.log(seen + 1e-30)))


numpyro.enable_x64()  # in single precision the small concentrations end in NaN
guide = AutoNormal(model, init_scale=0.1)
svi = SVI(model, guide, numpyro.optim.Adam(0.02), Trace_ELBO())
state = svi.init(jax.random.key(0))
step = jax.jit(svi.update)
step(state)[1].block_until_ready()  # compiles
spent, began = [], time.perf_counter()
for budget in budgets:
    while time.perf_counter() - began < budget:
        state, loss = step(state)
        loss.block_until_ready()
    spent.append(time.perf_counter() - began)
    np.save(f"{folder}/{budget}.npy", np.asarray(guide.median(svi.get_params(state))["phi"]))
print(json.dumps(spent))
