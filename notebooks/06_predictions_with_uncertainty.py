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
# # Predictions with uncertainty that hold
#
# A posterior becomes a predictor; the predictor's intervals are checked, calibrated where the model is wrong, made small, stored, and
# watched in use. The same is done with a model that knows no uncertainty of its own.
#
# The data are made up, so that the truth is known: energy use of buildings by outdoor temperature, with noise that grows in the cold. The
# model believes that the noise is the same everywhere.

# %%
import os
import tempfile
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import probinfer as pi

draws = int(os.environ.get("PROBINFER_NOTEBOOK_DRAWS", "4000"))  # fewer when the notebook is only tested
rng = np.random.default_rng(6)


def buildings(n, shift=0.0):
    temperature = rng.uniform(-10.0, 25.0, n) + shift
    noise = 1.0 + 0.25 * np.maximum(15.0 - temperature, 0.0)
    return {"temperature": temperature}, 20.0 + 1.2 * np.maximum(15.0 - temperature, 0.0) + noise * rng.normal(size=n)


def heating(temperature, use=None):
    base = numpyro.sample("base", dist.Normal(20.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    cold = jnp.maximum(15.0 - temperature, 0.0)
    numpyro.sample("use", dist.Normal(base + slope * cold, sigma), obs=use)


rows, use = buildings(300)
posterior = pi.infer(heating, {**rows, "use": use}, pi.NUTS(draws=max(150, draws // 4)), seed=1)
predictor = pi.Predictor(posterior)
predictor

# %% [markdown]
# ## One call, all that can be said about a row
#
# Mean, sd and its two parts, interval and quantiles are summaries of the mixture of the outcome's law over all draws, exact and without
# random numbers.

# %%
predictor.predict({"temperature": np.array([-5.0, 10.0, 20.0])}, level=0.9, quantiles=(0.05, 0.5, 0.95)).to_frame()

# %% [markdown]
# ## Do the intervals hold?
#
# On fresh rows, overall they do. But cold days are covered too rarely and mild days too often: the model's noise is an average.

# %%
grid = {"temperature": np.linspace(-10.0, 25.0, 71)}
fresh, came = buildings(4000)
cold = np.where(fresh["temperature"] < 5.0, "cold", "mild")


def coverage(prediction):
    inside = (prediction.lower <= came) & (came <= prediction.upper)
    return {"all": inside.mean(), **{name: inside[cold == name].mean() for name in ("cold", "mild")}}


before = coverage(predictor.predict(fresh))
{name: f"{share:.3f}" for name, share in before.items()}

# %% [markdown]
# ## Calibration, in each group
#
# `calibrate` moves the intervals by rows that were not trained on, so that 90% means 90% whether the model is right or not; with `groups`
# in each group. The model stays as it is.

# %%
held_out, held_out_use = buildings(600)
warmth = np.where(held_out["temperature"] < 5.0, "cold", "mild")
calibrated = predictor.calibrate(held_out, held_out_use, groups=warmth)
after = coverage(calibrated.predict(fresh, groups=cold))
{name: f"{share:.3f}" for name, share in after.items()}

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True, sharey=True)
for axis, name, prediction in (
    (axes[0], "as the model says", predictor.predict(grid)),
    (
        axes[1],
        "calibrated in each group",
        calibrated.predict(grid, groups=np.where(grid["temperature"] < 5.0, "cold", "mild")),
    ),
):
    axis.plot(fresh["temperature"][:500], came[:500], ".", color="0.6", markersize=2)
    axis.plot(grid["temperature"], prediction.mean, color="C0", label="mean")
    axis.fill_between(
        grid["temperature"], prediction.lower, prediction.upper, color="C0", alpha=0.25, label="90% interval"
    )
    axis.set(title=name, xlabel="temperature, °C")
axes[0].set_ylabel("energy use")
axes[0].legend(loc="upper right")
plt.show()

# %%
figure, axis = plt.subplots(figsize=(5, 3), constrained_layout=True)
places = np.arange(3)
for number, (name, found) in enumerate((("model", before), ("calibrated", after))):
    axis.bar(places + 0.4 * number - 0.2, list(found.values()), width=0.36, label=name)
axis.axhline(0.9, color="k", linewidth=1)
axis.set(xticks=places, xticklabels=list(before), ylim=(0.7, 1.0), ylabel="coverage on fresh rows")
axis.legend()
plt.show()

# %% [markdown]
# ## Small, and stored
#
# A predictor needs far fewer draws to *say* what the posterior says than were needed to *know* it, and they may be numbers of single precision.
# What that costs is measured on rows held out.

# %%
small = predictor.compress(rows, tolerance=0.02).round(rows)
print(small.compression)
print(small.rounding)

# %%
with tempfile.TemporaryDirectory() as folder:
    sizes = {}
    for name, each in (("all draws", predictor), ("compressed", small)):
        each.save(Path(folder) / name)
        sizes[name] = sum(file.stat().st_size for file in (Path(folder) / name).iterdir())
    loaded = pi.load_predictor(Path(folder) / "compressed")
same = np.array_equal(loaded.predict(grid).upper, small.predict(grid).upper)
print({name: f"{size / 1000:.0f} kB" for name, size in sizes.items()}, "answers bit for bit the same:", same)

# %% [markdown]
# ## A model that has no uncertainty
#
# Any function can be a predictor: its intervals come from calibration alone. Here it is a table of means by temperature.

# %%
edges = np.linspace(-10.0, 25.0, 15)
cells = np.clip(np.digitize(rows["temperature"], edges) - 1, 0, 13)
means = np.array([use[cells == cell].mean() for cell in range(14)])


def table(X):
    return means[np.clip(np.digitize(X[:, 0], edges) - 1, 0, 13)]


point = pi.PointPredictor(table, inputs=["temperature"], outcome="use")
point = point.calibrate(held_out, held_out_use, groups=warmth)
{name: f"{share:.3f}" for name, share in coverage(point.predict(fresh, groups=cold)).items()}

# %% [markdown]
# ## In use: has the world changed?
#
# A monitor sees batches of rows, and outcomes when they come, and bets against each thing that should hold: inputs like those of training,
# outcomes where the predictive distribution puts them, intervals that cover. After 30 batches like the training rows winters become colder.
# What was wrong with the model from the start, noise that is not the same everywhere, it finds too.

# %%
monitor = pi.Monitor(predictor, rows)
status, seen = None, []
for batch in range(60):
    new, outcome = buildings(50, shift=0.0 if batch < 30 else -6.0)
    status = monitor.update(new, outcome)
    seen.append({alarm.name for alarm in status.alarms})
status

# %%
names = sorted(set().union(*seen))
figure, axis = plt.subplots(figsize=(7, 0.7 + 0.45 * len(names)), constrained_layout=True)
for place, name in enumerate(names):
    raised = [batch for batch in range(60) if name in seen[batch]]
    axis.barh(place, 60 - raised[0], left=raised[0], height=0.5, color="C3")
axis.axvline(30, color="k", linewidth=1, linestyle=":")
axis.set(
    yticks=range(len(names)), yticklabels=names, xlim=(0, 60), xlabel="batch of 50 rows; colder from the dotted line on"
)
axis.set_title("alarms")
plt.show()
