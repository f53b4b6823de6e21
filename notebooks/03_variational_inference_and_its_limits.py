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
# # Variational inference and its limits
#
# Sampling asks for draws from the posterior. Variational inference asks for less: of a family of simple laws, the one that is closest. It is
# often much faster, and it always answers. Is the answer any good? Here are four posteriors that we know exactly, from easy to
# impossible, and what the verdict says of each.

# %%
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import probinfer as pi

draws = int(os.environ.get("PROBINFER_NOTEBOOK_DRAWS", "4000"))  # fewer when the notebook is only tested
BLUE, RED, GREY = "#2f6690", "#c1121f", "#6b7280"

# %% [markdown]
# The targets: a nearly round one; one with two parameters that only their sum determines; Neal's funnel, a scale and nine values of that
# scale, as in every hierarchical model, of which the pictures show the first value; and two hills far apart.


# %%
def log_normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd)


targets = {
    "round": lambda x: log_normal(x[0], 0.0, 1.0) + log_normal(x[1], 0.3 * x[0], 1.0),
    "correlated": lambda x: log_normal(x[0], 0.0, 1.0) + log_normal(x[1], 0.98 * x[0], 0.2),
    "funnel": lambda x: log_normal(x[0], 0.0, 3.0) + jnp.sum(log_normal(x[1:], 0.0, jnp.exp(x[0] / 2)), axis=0),
    "two hills": lambda x: jnp.logaddexp(
        jnp.log(0.6) + log_normal(x[0], -3.0, 0.7) + log_normal(x[1], 0.0, 0.7),
        jnp.log(0.4) + log_normal(x[0], 3.0, 0.7) + log_normal(x[1], 1.0, 0.7),
    ),
}
models = {name: pi.LogDensity(density, 10 if name == "funnel" else 2) for name, density in targets.items()}


# %%
def contours(axes, log_density, low, high):
    """Lines of equal density; the inner ones hold most of the mass."""
    x, y = np.meshgrid(np.linspace(low, high, 160), np.linspace(low, high, 160))
    height = np.asarray(log_density(jnp.stack([x, y])))
    height = height - height.max()
    axes.contour(x, y, height, levels=[-6, -4, -2.5, -1.2, -0.4], colors=GREY, linewidths=0.8, linestyles="solid")
    axes.set(xlim=(low, high), ylim=(low, high), xticks=[], yticks=[])


def show(results, low=-6, high=6):
    """Draws of each result over the contours of what they should be draws of."""
    figure = plt.figure(figsize=(2.8 * len(results), 3), layout="constrained")
    panels = figure.subplots(1, len(results))
    for panel, (title, (name, posterior)) in zip(panels, results.items(), strict=True):
        contours(panel, targets[name], low, high)
        x = posterior.latents["x"][:: max(1, len(posterior.latents["x"]) // 600)]
        good = posterior.report.verdict is pi.Verdict.GOOD
        panel.scatter(x[:, 0], x[:, 1], s=3, alpha=0.5, color=BLUE if good else RED)
        panel.set_title(f"{title.strip()}: {posterior.report.verdict.name}", fontsize=10)


def khat(posterior):
    return float(posterior.tree.attrs["pareto_khat"])


# %% [markdown]
# ## Mean field: every parameter on its own
#
# The fastest family has a normal law for each parameter and none for how they hang together.

# %%
mean_field = {name: (name, pi.infer(model, None, pi.MeanField(draws=draws), seed=1)) for name, model in models.items()}
show(mean_field)

# %% [markdown]
# Each picture has a number beside it. The k-hat of the importance weights, target over approximation, measures how badly the
# approximation misses the target's tails: below 0.5 it may be taken as it is, from 0.7 on nothing can mend it. So the fit that
# always answers also says when not to listen.

# %%
for name, (_, posterior) in mean_field.items():
    print(f"{name:11} k-hat {khat(posterior):6.2f}   {posterior.report.verdict.name}")

# %% [markdown]
# What goes wrong is always the same: the fit is *too narrow*. It maximises $E_q[\log p - \log q]$, which punishes an approximation for
# mass where the target has none, and not for leaving mass out. Along the ridge it sees only the ridge's width, and of the
# funnel only the part where all nine values are of a middling size:

# %%
_, ridge = mean_field["correlated"]
sd = ridge.latents["x"][:, 0].std()
print(f"sd of the first parameter of the ridge: {sd:.2f}, really 1")
print(f"sd of the funnel's log scale: {mean_field['funnel'][1].latents['x'][:, 0].std():.2f}, really 3")
assert sd < 0.5
print(ridge.report)

# %% [markdown]
# The k-hat is found from the law's own draws, so it judges only where these go. A milder funnel, of one value, is narrow in the same way
# and yet passes:

# %%
mild = pi.LogDensity(lambda x: log_normal(x[0], 0.0, 1.5) + log_normal(x[1], 0.0, jnp.exp(x[0] / 2)), 2)
passed = pi.infer(mild, None, pi.MeanField(draws=draws), seed=1)
print(
    f"k-hat {khat(passed):.2f}, {passed.report.verdict.name}; sd of the log scale {passed.latents['x'][:, 0].std():.2f}, really 1.5"
)

# %% [markdown]
# ## A richer family
#
# `FullRank` is a normal law with all correlations, `LowRank` one with a few directions of them, for many parameters. `Flow` bends a normal
# law with a neural network. The ridge is normal, so the first two have it exactly; the funnel needs the flow.

# %%
correlated, funnel = models["correlated"], models["funnel"]
richer = {
    "FullRank": ("correlated", pi.infer(correlated, None, pi.FullRank(draws=draws), seed=1)),
    "LowRank": ("correlated", pi.infer(correlated, None, pi.LowRank(rank=1, draws=draws), seed=1)),
    "FullRank ": ("funnel", pi.infer(funnel, None, pi.FullRank(draws=draws), seed=1)),
    "Flow": ("funnel", pi.infer(funnel, None, pi.Flow(draws=draws), seed=1)),
}
show(richer)
for title, (name, posterior) in richer.items():
    print(f"{title.strip():9} on {name:11} k-hat {khat(posterior):6.2f}   {posterior.report.verdict.name}")
print(f"sd of the funnel's log scale, by the flow: {richer['Flow'][1].latents['x'][:, 0].std():.2f}, really 3")
assert richer["FullRank"][1].report.verdict is pi.Verdict.GOOD

# %% [markdown]
# The flow follows the funnel to both ends. It is not free: it has thousands of numbers to fit, where mean field has twenty.
#
# ## Weights that mend a little
#
# An approximation that is nearly right can be corrected: each draw gets the weight $p / q$, smoothed in its tail, and fewer draws are
# taken again by their weights. Mean field on the round target has the right centre, but no correlation:

# %%
plain = mean_field["round"][1]
mended = pi.infer(models["round"], None, pi.MeanField(draws=draws, resample=True), seed=1)
for title, posterior in (("as fitted", plain), ("resampled", mended)):
    x = posterior.latents["x"]
    print(f"{title}, {len(x)} draws: correlation {np.corrcoef(x.T)[0, 1]:.3f}, really {0.3 / np.sqrt(1 + 0.3**2):.3f}")

# %% [markdown]
# ## The limit: what was never seen
#
# Now look at the two hills once more. A normal law fits one of them beautifully, and all its draws are there: the weights of draws that
# are in one hill know nothing of the other. k-hat is a measure of the draws that were made. No diagnostic sees a mode that no draw saw.

# %%
name, one_hill = mean_field["two hills"]
share = np.mean(one_hill.latents["x"][:, 0] < 0)
print(f"mass on the left hill: {share:.2f}, really 0.60; k-hat {khat(one_hill):.2f}, {one_hill.report.verdict.name}")
assert share in (0.0, 1.0)

# %% [markdown]
# Starting from other points shows it, if you think of it. Methods made for several modes need not be told: `pi.SMC` leads particles
# from everywhere to the posterior. Here the same hills as a likelihood, with a prior that covers both:


# %%
def hills():
    x = numpyro.sample("x", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    prior = dist.Normal(0.0, 10.0).log_prob(x).sum()
    numpyro.factor("likelihood", targets["two hills"](x) - prior)


both = pi.infer(hills, None, pi.SMC(particles=max(100, draws // 8), chains=8), seed=1)
show({"MeanField": ("two hills", one_hill), "SMC": ("two hills", both)})
print(f"mass on the left hill: {np.mean(both.latents['x'][:, 0] < 0):.2f}, really 0.60")

# %% [markdown]
# ## A good use: a running start
#
# Even an approximation that is no answer may be a place to begin at. `pi.NUTS(init=...)` starts its chains at draws of the fit, with the
# fit's scales, so that less warm-up is needed; and if the fit's k-hat is hopeless, the chains begin at random points and the report
# says so.


# %%
def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * theta, sigma), obs=y)


eight = {
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
}
fit = pi.infer(schools, eight, pi.MeanField(draws=draws), seed=1)
chains = pi.infer(schools, eight, pi.NUTS(draws=draws, init=pi.Pathfinder()), seed=1)
print(chains.report)

# %%
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
bins = np.linspace(0, 20, 50)
axes.hist(chains.latents["tau"], bins, density=True, color=BLUE, alpha=0.5, label="NUTS")
axes.hist(fit.latents["tau"], bins, density=True, histtype="step", color=RED, label="MeanField")
axes.set(xlabel="tau, the spread between schools", yticks=[])
_ = axes.legend(frameon=False)

# %% [markdown]
# ## When to take it
#
# - Take variational inference for a first look, for models too large to sample, for thousands of fits that are alike. Look at the
#   verdict: GOOD, and the numbers are about right; anything else, take a richer family, resample, or sample.
# - Means are often right where standard deviations are not. Intervals of a mean-field fit are too short.
# - Where several modes are possible, no fit of one hill will tell: use `pi.SMC` or `pi.Tempering`.
#
# More in [Variational inference](../docs/variational.md) and [How to choose](../docs/how-to-choose.md).
