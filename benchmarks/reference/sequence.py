"""The reference posteriors with hidden states or time: GARCH, hidden Markov models, Lotka-Volterra, mixtures.

Discrete states are summed out, and the ordinary differential equation is solved here. Imports jax and numpyro only.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def garch11(sigma1, y=None):
    """GARCH(1, 1) volatility of a series, with the first volatility given.

    (alpha1, beta1) is flat on the triangle alpha1, beta1 > 0, alpha1 + beta1 < 1: together with the remainder to 1 it
    is uniform on the simplex. (beta1 | alpha1 ~ Uniform(0, 1 - alpha1) would be another prior.)
    """
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = numpyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    alpha1 = numpyro.deterministic("alpha1", weights[0])
    beta1 = numpyro.deterministic("beta1", weights[1])

    def step(variance, deviation):
        variance = alpha0 + alpha1 * deviation**2 + beta1 * variance
        return variance, variance

    first = jnp.asarray(sigma1**2, dtype=mu.dtype)
    _, later = jax.lax.scan(step, first, y[:-1] - mu)
    numpyro.sample("y", dist.Normal(mu, jnp.sqrt(jnp.append(first, later))), obs=y)


def forward_log_likelihood(log_transition, log_emission):
    """log p(observations) of a hidden Markov model whose first state has weight 1 for every value (no initial law).

    log_transition: (K, K), row = from; log_emission: (T, K). The forward algorithm in logarithms.
    """

    def step(log_alpha, log_emission_t):
        log_alpha = jax.nn.logsumexp(log_alpha[:, None] + log_transition, axis=0) + log_emission_t
        return log_alpha, None

    log_alpha, _ = jax.lax.scan(step, log_emission[0], log_emission[1:])
    return jax.nn.logsumexp(log_alpha)


def positive_ordered(name, prior):
    """A vector 0 < v[1] < v[2] < … with density proportional to the prior's on that set; prior has batch shape (K,)."""
    v = numpyro.sample(name, dist.ImproperUniform(constraints.positive_ordered_vector, (), prior.batch_shape))
    numpyro.factor(f"{name}_prior", prior.log_prob(v).sum())
    return v


def hmm_example(y):
    """Two-state hidden Markov model with normal emissions of scale 1."""
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = positive_ordered("mu", dist.Normal(jnp.array([3.0, 10.0]), 1.0))
    log_emission = dist.Normal(mu, 1.0).log_prob(y[:, None])
    numpyro.factor("log_likelihood", forward_log_likelihood(jnp.log(jnp.stack([theta1, theta2])), log_emission))


def hmm_drive_0(alpha, u, v):
    """Two-state hidden Markov model of a basketball drive: 1 / speed and distance to the hoop, both exponential."""
    theta1 = numpyro.sample("theta1", dist.Dirichlet(alpha[0]))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(alpha[1]))
    phi = positive_ordered("phi", dist.Normal(jnp.array([0.0, 3.0]), 1.0))
    rate = positive_ordered("lambda", dist.Normal(jnp.array([0.0, 3.0]), 1.0))
    log_emission = dist.Exponential(phi).log_prob(u[:, None]) + dist.Exponential(rate).log_prob(v[:, None])
    numpyro.factor("log_likelihood", forward_log_likelihood(jnp.log(jnp.stack([theta1, theta2])), log_emission))


SUBSTEPS = 10


def lotka_volterra_path(theta, z_init, ts, substeps=SUBSTEPS):
    """log (prey, predator) at the times ts, started from z_init at time 0: (len(ts), 2).

    The equation is solved for the logarithms, d log u = theta1 - theta2 v, d log v = -theta3 + theta4 u, which stay
    positive and are what the likelihood needs, by the classical Runge-Kutta method with `substeps` steps an interval.
    """

    def slope(log_z):
        u, v = jnp.exp(log_z)
        return jnp.stack([theta[0] - theta[1] * v, theta[3] * u - theta[2]])

    def step(log_z, h):
        k1 = slope(log_z)
        k2 = slope(log_z + h / 2 * k1)
        k3 = slope(log_z + h / 2 * k2)
        k4 = slope(log_z + h * k3)
        log_z = log_z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return log_z, log_z

    steps = jnp.repeat(jnp.diff(ts, prepend=0.0) / substeps, substeps)
    _, path = jax.lax.scan(step, jnp.log(z_init), steps)
    return path.reshape(ts.shape[0], substeps, 2)[:, -1]


def lotka_volterra(ts, y_init=None, y=None):
    """Hares and lynxes: yearly counts around the path of the predator-prey equation."""
    positive_normal = dist.TruncatedNormal(
        jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]), low=0.0
    )
    theta = numpyro.sample("theta", positive_normal.to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([2]).to_event(1))
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1).expand([2]).to_event(1))
    numpyro.sample("y_init", dist.LogNormal(jnp.log(z_init), sigma).to_event(1), obs=y_init)
    numpyro.sample("y", dist.LogNormal(lotka_volterra_path(theta, z_init, ts), sigma), obs=y)


def low_dim_gauss_mix(y=None):
    """Mixture of two normals with ordered means."""
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("mu_prior", dist.Normal(0, 2).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    weights = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def M0(captures, T):
    """Capture-recapture with data augmentation: captures[i] of T occasions, the membership of each row summed out."""
    omega = numpyro.sample("omega", dist.Uniform(0, 1))
    p = numpyro.sample("p", dist.Uniform(0, 1))
    seen = jnp.log(omega) + dist.Binomial(T, probs=p).log_prob(captures)
    never_seen = jnp.log1p(-omega)
    log_likelihood = jnp.where(captures > 0, seen, jnp.logaddexp(seen, never_seen))
    numpyro.factor("log_likelihood", log_likelihood.sum())
