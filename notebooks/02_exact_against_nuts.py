# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exact against NUTS
#
# How good are draws from a Markov chain? Where the posterior has a closed form we can look: the exact answer on one side, the sampler
# with its own statement of its error on the other. If the stated errors are honest here, there is reason to believe them where
# nobody knows the answer.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

import probinfer as pi

draws = int(os.environ.get("PROBINFER_NOTEBOOK_DRAWS", "4000"))  # fewer when the notebook is only tested

# %% [markdown]
# ## A model with a closed form
#
# A linear regression with known noise: $y = Xb + \varepsilon$, $\varepsilon_i \sim N(0, 1)$, $b_j \sim N(0, 2^2)$. Its posterior
# is normal with
#
# $$\Sigma = (X^\top X + I/4)^{-1}, \qquad m = \Sigma X^\top y.$$

# %%
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
X[:, 2] = 0.95 * X[:, 1] + 0.3 * X[:, 2]  # two predictors that say nearly the same
y = X @ np.array([1.0, 2.0, -1.0]) + rng.normal(size=40)


def regression(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


covariance = np.linalg.inv(X.T @ X + np.eye(3) / 4)
mean, sd = covariance @ X.T @ y, np.sqrt(np.diag(covariance))

# %% [markdown]
# `pi.Exact` finds the same from the model's log density, verifies that it is what it takes it for, and draws independently. It
# knows the evidence $p(y)$ too.

# %%
data = {"X": X, "y": y}
exact = pi.infer(regression, data, pi.Exact(draws=4 * draws), seed=1)
evidence = stats.multivariate_normal(np.zeros(40), np.eye(40) + 4 * X @ X.T).logpdf(y)
print(f"log evidence: {exact.tree.attrs['log_evidence']:.6f}, by hand {evidence:.6f}")
assert abs(exact.tree.attrs["log_evidence"] - evidence) < 1e-6

# %% [markdown]
# ## NUTS on the same model

# %%
nuts = pi.infer(regression, data, pi.NUTS(draws=draws), seed=2)
nuts.report

# %% [markdown]
# Each mean comes with its Monte Carlo error. The distance from the exact mean, in such errors, should look like a standard
# normal number, for three parameters mostly below 2.

# %%
table = nuts.summary()
table["exact"] = mean
table["distance in mcse"] = (table["mean"] - mean) / table["mcse_mean"]
table[["mean", "exact", "mcse_mean", "distance in mcse", "sd", "ess_bulk"]]

# %% [markdown]
# Not only the means: the whole law. The exact cdf at every draw is uniform if the draws are from the posterior.

# %%
b = nuts.latents["b"]
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained", sharey=True)
for j, panel in enumerate(axes):
    panel.hist(stats.norm.cdf(b[:, j], mean[j], sd[j]), bins=20, density=True, color="#2f6690")
    panel.axhline(1, color="#6b7280", linewidth=1, linestyle="--")
    panel.set(title=f"b[{j}]", xlabel="exact cdf at the draws")

# %% [markdown]
# ## Four times the draws, half the error
#
# The error of a mean falls with $1/\sqrt n$. NUTS' draws of one chain are not independent, but here those that follow each other lie on
# opposite sides more often than not, so that a mean is better than that of as many independent draws.

# %%
sizes = np.unique(np.geomspace(16, draws, 7).astype(int))
independent = exact.latents["b"].reshape(4, draws, 3)
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, values in {"NUTS": b.reshape(4, draws, 3), "independent": independent}.items():
    error = [np.sqrt(np.mean(((values[:, :n].mean(axis=1) - mean) / sd) ** 2)) for n in sizes]
    axes.loglog(sizes, error, marker="o", label=name)
axes.loglog(sizes, 1 / np.sqrt(sizes), color="#6b7280", linestyle="--", label="1 / √n")
axes.set(xlabel="draws of a chain", ylabel="error of the mean, in sd")
_ = axes.legend(frameon=False)

# %% [markdown]
# ## What it is good for
#
# Take `pi.Exact` where it fits: it is faster, has no error but rounding in its evidence, and needs no diagnosis. Where it does not,
# the comparison above is what `uv run pytest -m long` does for every method on dozens of posteriors, with a wrong sampler beside each
# that must be caught.
