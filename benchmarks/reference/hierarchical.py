"""The reference posteriors with groups: schools, counties, rats, hospitals, persons and items, cohorts.

Each is written in the parameterisation that samples well, which is said in its docstring; what the reference names
and the sampler does not move is a deterministic site. Imports numpyro only.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.nn import sigmoid

from benchmarks.reference.regression import flat_positive


def eight_schools(sigma, y=None):
    """Effects of coaching in eight schools; non-centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", sigma.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def radon_intercept(county, log_uppm, floor, J, log_radon=None):
    """Radon in 919 houses of 85 counties, one intercept a county; non-centred. county is 0-based."""
    sigma_alpha = numpyro.sample("sigma_alpha", dist.HalfNormal(1))
    sigma_y = numpyro.sample("sigma_y", dist.HalfNormal(1))
    mu_alpha = numpyro.sample("mu_alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([2]).to_event(1))
    with numpyro.plate("county", J):
        z = numpyro.sample("z", dist.Normal(0, 1))
        alpha = numpyro.deterministic("alpha", mu_alpha + sigma_alpha * z)
    mean = alpha[county] + beta[0] * log_uppm + beta[1] * floor
    numpyro.sample("log_radon", dist.Normal(mean, sigma_y), obs=log_radon)


def rats(rat, x, xbar, J, y=None):
    """Growth of 30 rats, five weighings each; centred, because the weighings pin each rat down. rat is 0-based."""
    mu_alpha = numpyro.sample("mu_alpha", dist.Normal(0, 100))
    mu_beta = numpyro.sample("mu_beta", dist.Normal(0, 100))
    sigma_y = flat_positive("sigma_y")
    sigma_alpha = flat_positive("sigma_alpha")
    sigma_beta = flat_positive("sigma_beta")
    with numpyro.plate("rat", J):
        alpha = numpyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        beta = numpyro.sample("beta", dist.Normal(mu_beta, sigma_beta))
    numpyro.deterministic("alpha0", mu_alpha - xbar * mu_beta)
    numpyro.sample("y", dist.Normal(alpha[rat] + beta[rat] * (x - xbar), sigma_y), obs=y)


def surgical(n, r=None):
    """Deaths after heart surgery in 12 hospitals; non-centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 1000))
    sigmasq = numpyro.sample("sigmasq", dist.InverseGamma(0.001, 0.001))
    sigma = numpyro.deterministic("sigma", jnp.sqrt(sigmasq))
    numpyro.deterministic("pop_mean", sigmoid(mu))
    with numpyro.plate("hospital", n.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        b = numpyro.deterministic("b", mu + sigma * z)
        numpyro.sample("r", dist.Binomial(n, logits=b), obs=r)


def irt_2pl(I, J, y=None):
    """Two-parameter logistic item response, y is items x persons; non-centred abilities and discriminations."""
    sigma_theta = numpyro.sample("sigma_theta", dist.HalfCauchy(2))
    sigma_a = numpyro.sample("sigma_a", dist.HalfCauchy(2))
    mu_b = numpyro.sample("mu_b", dist.Normal(0, 5))
    sigma_b = numpyro.sample("sigma_b", dist.HalfCauchy(2))
    with numpyro.plate("person", J):
        z_theta = numpyro.sample("z_theta", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", sigma_theta * z_theta)
    with numpyro.plate("item", I):
        z_a = numpyro.sample("z_a", dist.Normal(0, 1))
        a = numpyro.deterministic("a", jnp.exp(sigma_a * z_a))
        b = numpyro.sample("b", dist.Normal(mu_b, sigma_b))
    numpyro.sample("y", dist.Bernoulli(logits=a[:, None] * (theta - b[:, None])), obs=y)


def losscurve(cohort, t, premium, loss=None):
    """Insurance losses of ten cohorts growing along a Weibull curve; cohort is 0-based, t the age of each cell."""
    mu_LR = numpyro.sample("mu_LR", dist.Normal(0, 0.5))
    sd_LR = numpyro.sample("sd_LR", dist.LogNormal(0, 0.5))
    loss_sd = numpyro.sample("loss_sd", dist.LogNormal(0, 0.7))
    omega = numpyro.sample("omega", dist.LogNormal(0, 0.5))
    theta = numpyro.sample("theta", dist.LogNormal(0, 0.5))
    with numpyro.plate("cohort", premium.shape[0]):
        LR = numpyro.sample("LR", dist.LogNormal(mu_LR, sd_LR))
    growth = -jnp.expm1(-((t / theta) ** omega))
    numpyro.sample("loss", dist.Normal(LR[cohort] * premium[cohort] * growth, loss_sd * premium[cohort]), obs=loss)
