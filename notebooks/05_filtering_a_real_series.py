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
# # Filtering a real series: the Nile
#
# The flow of the Nile at Aswan was measured every year from 1871 to 1970, in 10⁸ m³. How high was the river's level really, when
# did it change, what comes next? A hidden level that drifts, seen through noise, answers; the states by Kalman's filter where the
# noise is normal, by particles where it is not.

# %%
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

import probinfer as pi

draws = int(os.environ.get("PROBINFER_NOTEBOOK_DRAWS", "2000"))  # fewer when the notebook is only tested

# %% [markdown]
# ## The data
#
# Cobb (1978), the table that every book on state-space models uses; here in hundreds of the unit.

# %%
text = """
1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100 1210 1150 1250 1260 1220 1030
1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824 702 1120 1100 832 764 821 768 845 864 862 698 845 744 796
1040 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890 744 749 838 1050 918 986 797 923 975
815 1020 906 901 1170 912 746 919 718 714 740
"""
flow = np.array(text.split(), float) / 100
years = np.arange(1871, 1971)
assert len(flow) == 100

# %% [markdown]
# ## A level that drifts
#
# $$x_t = x_{t-1} + \text{Normal}(0, q^2), \qquad y_t = x_t + \text{Normal}(0, r^2)$$
#
# The model is linear and Gaussian: the states are integrated out, and NUTS finds q and r.

# %%
level = pi.StateSpace.linear_gaussian(
    initial_mean=[10.0],
    initial_cov=[[25.0]],
    transition_matrix=[[1.0]],
    transition_cov=lambda t, params: params["q"][None, None] ** 2,
    observation_matrix=[[1.0]],
    observation_cov=lambda t, params: params["r"][None, None] ** 2,
    prior={"q": dist.HalfNormal(1.0), "r": dist.HalfNormal(3.0)},
)
posterior = pi.infer(level, flow, pi.NUTS(draws=draws), seed=1)
posterior.report

# %% [markdown]
# Durbin and Koopman (2012) give the maximum of the likelihood: q = 0.383, r = 1.229 in these units.

# %%
posterior.summary()

# %% [markdown]
# The level, with what is not known of q and r in it: a mixture over draws of the posterior.

# %%
smoothed = pi.smooth(level, flow, parameters=posterior)
lower, upper = smoothed.interval(0.9)
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
axes.axvline(1899, color="#6b7280", linewidth=1, linestyle="--")
axes.fill_between(years, lower[:, 0], upper[:, 0], alpha=0.25)
axes.plot(years, smoothed.mean[:, 0])
axes.scatter(years, flow, s=9, color="black")
_ = axes.set(xlabel="year", ylabel="flow", title="The level and its 90% interval")

# %% [markdown]
# The level fell around 1899, when work on the first dam at Aswan began, and has not come back.
#
# ## An outlier
#
# 1913 was the driest year of all. Did the level itself sink, or was it one bad year? A noise with heavy tails would let the model
# shrug. With Student's t for the noise the states have no closed form, and the likelihood is estimated by particles: `pi.infer` without
# a method chooses `pi.PMMH()`. Here with few draws, and the report says that they are few.

# %%
robust = pi.StateSpace(
    initial=lambda params: dist.Normal(10.0, 5.0),
    transition=lambda x, t, params: dist.Normal(x, params["q"]),
    observation=lambda x, t, params: dist.StudentT(4.0, x, params["r"]),
    prior={"q": dist.HalfNormal(1.0), "r": dist.HalfNormal(3.0)},
)
few = max(draws // 20, 50)  # a draw costs a dozen passes of a particle filter
heavy = pi.infer(robust, flow, pi.PMMH(particles=128, draws=few, warmup=100), seed=1)
heavy.report

# %%
heavy.summary(var_names=["q", "r"])

# %%
at = int(np.flatnonzero(years == 1913)[0])
states = heavy.latents["states"]
print(f"level of 1913, normal noise:    {smoothed.mean[at, 0]:.2f}")
print(f"level of 1913, Student's noise: {states[:, at].mean():.2f}")

# %% [markdown]
# The two agree: with years before and after it, a single one weighs little, whatever the law of the noise. What heavy tails do change is
# the scale of the noise, r, which no longer has to explain 1913: it falls, and the level may follow the ordinary years more closely.
#
# ## What comes next
#
# The forecast of both models, and the share of particles that a filter has left at every year: where it is low, an observation
# was hard to explain.

# %%
filtered = pi.filter(robust, flow, pi.ParticleFilter(particles=200), parameters=heavy)
print(pi.filter(level, flow, parameters=posterior).forecast(3).to_frame())
print(filtered.forecast(3).to_frame())
figure, axes = plt.subplots(figsize=(9, 2.5), layout="constrained")
axes.plot(years, filtered.ess)
_ = axes.set(xlabel="year", ylabel="effective particles", ylim=(0, None))
assert jnp.isfinite(filtered.mean).all()
