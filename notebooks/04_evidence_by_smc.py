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
# # The evidence by sequential Monte Carlo
#
# Which of several models do the data speak for? The answer is in $p(y) = \int p(y \mid \theta)\, p(\theta)\, d\theta$, the evidence: how
# probable the data were before anything was learned from them. `pi.SMC` leads particles from the prior to the posterior and
# multiplies up the evidence on the way.

# %%
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

import probinfer as pi

draws = int(os.environ.get("PROBINFER_NOTEBOOK_DRAWS", "4000"))  # fewer when the notebook is only tested
smc = pi.SMC(particles=max(100, draws // 8), chains=8)

# %% [markdown]
# ## Polynomials of three degrees
#
# The data are from a parabola. The prior of each coefficient is normal, the noise known, so the evidence has a closed form to compare with:
# $y \sim N(0,\; \sigma^2 I + s^2 \Phi\Phi^\top)$.

# %%
rng = np.random.default_rng(3)
x = np.linspace(-1, 1, 30)
y = 0.5 + x - 1.5 * x**2 + 0.4 * rng.normal(size=30)


def polynomial(x, scale, degree, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, scale).expand([degree + 1]).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.vander(x, degree + 1) @ b, 0.4), obs=y)


def closed_form(scale, degree):
    powers = np.vander(x, degree + 1)
    return stats.multivariate_normal(np.zeros(30), 0.16 * np.eye(30) + scale**2 * powers @ powers.T).logpdf(y)


# %%
degrees, found = (1, 2, 4), {}
for degree in degrees:
    posterior = pi.infer(polynomial, {"x": x, "y": y, "scale": 2.0, "degree": degree}, smc, seed=1)
    attrs = posterior.tree.attrs
    found[degree] = attrs["log_evidence"], attrs["log_evidence_mcse"]
    print(
        f"degree {degree}: log evidence {found[degree][0]:.3f} ± {found[degree][1]:.3f}, "
        f"exact {closed_form(2.0, degree):.3f}, verdict {posterior.report.verdict.name}"
    )

# %% [markdown]
# The error is told by eight independent groups of particles. With equal prior odds the evidences are the odds of the models. The line
# cannot follow the data; the polynomial of degree four can, but spreads its bets over curves that did not come.

# %%
values = np.array([found[degree][0] for degree in degrees])
odds = np.exp(values - values.max())
for degree, probability in zip(degrees, odds / odds.sum(), strict=True):
    print(f"degree {degree}: {probability:.3f}")
distance = [(found[degree][0] - closed_form(2.0, degree)) / found[degree][1] for degree in degrees]
assert np.abs(distance).max() < 6  # in standard errors, with seven degrees of freedom

# %% [markdown]
# ## The prior matters
#
# An evidence is that of a model *with its prior*. A prior ten times as wide hardly changes the posterior of the parabola, but its evidence:
# it had promised less to the curve that came. So do not take evidences with priors that were chosen to be vague.

# %%
scales = np.array([0.3, 1.0, 3.0, 30.0])
runs = []
for scale in scales:
    posterior = pi.infer(polynomial, {"x": x, "y": y, "scale": float(scale), "degree": 2}, smc, seed=2)
    runs.append((posterior.tree.attrs["log_evidence"], posterior.tree.attrs["log_evidence_mcse"]))
estimate, error = np.array(runs).T

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
wide = np.geomspace(0.2, 50, 60)
axes.plot(wide, [closed_form(scale, 2) for scale in wide], color="#6b7280", label="exact")
axes.errorbar(scales, estimate, yerr=2 * error, fmt="o", color="#2f6690", capsize=3, label="SMC, ± 2 standard errors")
axes.set(xscale="log", xlabel="prior sd of the coefficients", ylabel="log evidence of degree 2")
_ = axes.legend(frameon=False)

# %% [markdown]
# ## When to believe it
#
# `posterior.report` looks at the groups of particles: if they disagree, so do their evidences, and the verdict says so. Modes that no
# particle of the prior ever met are not missed by any of them. More in [Sequential Monte Carlo and the evidence](../docs/evidence.md).
# For choosing by predictions instead, see [Evaluate](../docs/evaluate.md) and [Tune](../docs/tuning.md).
