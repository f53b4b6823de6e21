"""The reference posteriors that are regressions: linear, logistic, Poisson, autoregressive. Imports numpyro only.

Each function is a NumPyro model whose keyword arguments are the data; the mathematics is the one stated in
posteriordb's programs, with the design matrix built beforehand (see registry.py).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def flat(name, shape=()):
    """A parameter with density 1 on R^shape."""
    return numpyro.sample(name, dist.ImproperUniform(constraints.real, (), shape))


def flat_positive(name):
    """A parameter with density 1 on (0, inf), with respect to the parameter itself (not its logarithm)."""
    return numpyro.sample(name, dist.ImproperUniform(constraints.positive, (), ()))


def linear_flat(X, y=None):
    """y ~ Normal(X beta, sigma); beta and sigma flat."""
    beta = flat("beta", (X.shape[1],))
    sigma = flat_positive("sigma")
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def linear_half_cauchy(X, y=None):
    """y ~ Normal(X beta, sigma); beta flat, sigma ~ HalfCauchy(2.5)."""
    beta = flat("beta", (X.shape[1],))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def sblri(X, y=None):
    """y ~ Normal(X beta, sigma); beta ~ Normal(0, 10), sigma ~ HalfNormal(10)."""
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def kilpisjarvi(x, pmualpha, psalpha, pmubeta, psbeta, y=None):
    """Summer temperature on uncentred years: alpha and beta are correlated at about 0.99999."""
    alpha = numpyro.sample("alpha", dist.Normal(pmualpha, psalpha))
    beta = numpyro.sample("beta", dist.Normal(pmubeta, psbeta))
    sigma = flat_positive("sigma")
    numpyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def diamonds(X_centred, y=None):
    """Log price of diamonds on 24 strongly correlated, centred predictors."""
    b = numpyro.sample("b", dist.Normal(0, 1).expand([X_centred.shape[1]]).to_event(1))
    intercept = numpyro.sample("Intercept", dist.StudentT(3, 8, 10))
    # StudentT(3, 0, 10) cut off at 0: the factor 2 that makes it proper is a constant.
    sigma = flat_positive("sigma")
    numpyro.factor("sigma_prior", dist.StudentT(3, 0, 10).log_prob(sigma))
    numpyro.sample("y", dist.Normal(intercept + X_centred @ b, sigma), obs=y)


def wells_daae(X, switched=None):
    """Logistic regression of 3020 households that did or did not switch to a safer well."""
    alpha = flat("alpha")
    beta = flat("beta", (X.shape[1],))
    numpyro.sample("switched", dist.Bernoulli(logits=alpha + X @ beta), obs=switched)


def glm_poisson(year, C=None):
    """Poisson regression of counts with a cubic trend."""
    alpha = numpyro.sample("alpha", dist.Uniform(-20, 20))
    beta1 = numpyro.sample("beta1", dist.Uniform(-10, 10))
    beta2 = numpyro.sample("beta2", dist.Uniform(-10, 10))
    beta3 = numpyro.sample("beta3", dist.Uniform(-10, 10))
    numpyro.sample("C", dist.Poisson(jnp.exp(alpha + beta1 * year + beta2 * year**2 + beta3 * year**3)), obs=C)


def arK(lags, y=None):
    """Autoregression; column k of lags holds y[t-k], one row for each t that has all its lags."""
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([lags.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def dugongs(x, Y=None):
    """Growth of dugongs: length alpha - beta lambda^age, with a precision tau."""
    alpha = numpyro.sample("alpha", dist.Normal(0, 1000))
    beta = numpyro.sample("beta", dist.Normal(0, 1000))
    decay = numpyro.sample("lambda", dist.Uniform(0.5, 1.0))
    tau = numpyro.sample("tau", dist.Gamma(1e-4, 1e-4))
    sigma = numpyro.deterministic("sigma", 1 / jnp.sqrt(tau))
    numpyro.sample("Y", dist.Normal(alpha - beta * decay**x, sigma), obs=Y)


def gp_regr(x, y=None):
    """Gaussian process with a squared exponential kernel; sigma is the noise VARIANCE, as in the reference."""
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    kernel = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x[None, :]) / rho) ** 2)
    covariance = kernel + sigma * jnp.eye(x.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(x.shape[0]), covariance), obs=y)
