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
# # From a model to a predictor
#
# Radon was measured in 919 houses in 85 counties of Minnesota. We want to say how much radon to expect in a house that was not
# measured, and how sure we are. The way there: a model, its posterior, a look at how far to trust it, a predictor, a file.
#
# Open this file as a notebook with `uv run --with jupyterlab jupyter lab`, right click, *Open With*, *Notebook*.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import probinfer as pi
from probinfer.demo.radon import read_houses, split

draws = int(os.environ.get("PROBINFER_NOTEBOOK_DRAWS", "3000"))  # fewer when the notebook is only tested

# %% [markdown]
# ## The data
#
# One row a house: its county, the floor it was measured on (0 basement, 1 first floor), the logarithms of the uranium in the
# county's soil and of the radon. Every fifth house is held out, to be predicted at the end.

# %%
train, test = split(read_houses())
train.head()

# %% [markdown]
# Most counties have few houses, so their own means say little.

# %%
per_county = train.groupby("county")["log_radon"].agg(["size", "mean"])
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.scatter(per_county["size"], per_county["mean"], s=14)
axes.axhline(train["log_radon"].mean(), linewidth=1, linestyle="--")
_ = axes.set(
    xscale="log",
    xticks=[1, 10, 100],
    xticklabels=[1, 10, 100],
    xlabel="houses measured in the county",
    ylabel="mean log radon",
    title="Small counties scatter most",
)

# %% [markdown]
# ## The model
#
# Every county has its own level, drawn from a common law whose width `county_sd` is learnt too. A county with two houses is
# pulled to what its uranium predicts; a county with a hundred keeps its own mean. The level is written as
# `… + county_sd * z` with `z` standard normal (non-centred): this samples well when groups are small.


# %%
def radon(county, floor, log_uranium, n_counties, log_radon=None):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    uranium_effect = numpyro.sample("uranium_effect", dist.Normal(0.0, 2.0))
    floor_effect = numpyro.sample("floor_effect", dist.Normal(0.0, 2.0))
    county_sd = numpyro.sample("county_sd", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("counties", n_counties):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    level = intercept + uranium_effect * log_uranium + county_sd * z[county]
    numpyro.sample("log_radon", dist.Normal(level + floor_effect * floor, sigma), obs=log_radon)


# %% [markdown]
# ## The posterior
#
# Four chains of 3000 draws each: the data allow `county_sd` to be nearly zero, and that tail needs more draws than the default.

# %%
columns = ["county", "floor", "log_uranium", "log_radon"]
data = {name: train[name].to_numpy() for name in columns} | {"n_counties": 85}
posterior = pi.infer(radon, data, pi.NUTS(chains=4, draws=draws), seed=1)

# %% [markdown]
# Before any number is used: how far can it be trusted? The report has a verdict, and for every trouble what it is, where, and
# what to do.

# %%
posterior.report

# %%
posterior.summary().head(8)

# %% [markdown]
# `posterior.tree` is an xarray `DataTree` with ArviZ's names, so ArviZ's plots take it.

# %%
import arviz_plots as azp

_ = azp.plot_trace_dist(posterior.tree, var_names=["intercept", "uranium_effect", "floor_effect", "county_sd", "sigma"])
# %% [markdown]
# ## The predictor
#
# A predictor answers for new rows. It refuses to be made from a posterior whose verdict is not good.

# %%
predictor = pi.Predictor(posterior, outcome="log_radon")
rows = {name: test[name].to_numpy() for name in ["county", "floor", "log_uranium"]}
prediction = predictor.predict(rows, level=0.9)
prediction.to_frame().head()

# %% [markdown]
# The interval of a house is wide mostly because houses differ, not because the parameters are unknown:

# %%
print(f"spread if the parameters were known: {prediction.aleatoric_sd.mean():.3f}")
print(f"spread from not knowing them:        {prediction.epistemic_sd.mean():.3f}")

# %%
measured = test["log_radon"].to_numpy()
inside = (prediction.lower <= measured) & (measured <= prediction.upper)
order = np.argsort(prediction.mean)
place = np.arange(len(order))
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
axes.vlines(place, prediction.lower[order], prediction.upper[order], color="#c9d6df")
axes.plot(place, prediction.mean[order])
axes.scatter(place, measured[order], s=9, c=np.where(inside[order], "#2f6690", "#d1495b"))
_ = axes.set(
    xlabel="held-out houses, by prediction", ylabel="log radon", title=f"{inside.mean():.0%} inside their 90% interval"
)
# %% [markdown]
# ## Saved, loaded, scored
#
# The predictor is a folder of plain files. Loading it checks every file and runs no code from it. What it says is the same.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
predictor.save(folder / "predictor")
again = pi.load_predictor(folder / "predictor").predict(rows, level=0.9)
np.testing.assert_allclose(again.mean, prediction.mean)

# %% [markdown]
# A table is scored in chunks, so it can be longer than memory. The command `probinfer score` does the same.

# %%
import pandas as pd

from probinfer.deploy.score import score

test[["county", "floor", "log_uranium"]].to_csv(folder / "houses.csv", index=False)
score(folder / "predictor", folder / "houses.csv", folder / "predictions.csv", level=0.9)
pd.read_csv(folder / "predictions.csv").head()
