"""The benchmark models as PyMC models of the densities of models_numpyro.py."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt


def eight_schools(sigma, y):
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    z = pm.Normal("z", 0.0, 1.0, shape=8)
    pm.Normal("y", mu + tau * z, sigma, observed=y)


def eight_schools_centred(sigma, y):
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    theta = pm.Normal("theta", mu, tau, shape=8)
    pm.Normal("y", theta, sigma, observed=y)


def logistic(x, y):
    alpha = pm.Normal("alpha", 0.0, 2.5)
    beta = pm.Normal("beta", 0.0, 1.0, shape=x.shape[1])
    pm.Bernoulli("y", logit_p=alpha + pt.dot(x, beta), observed=y)


def radon(county, floor, log_uranium, log_radon):
    intercept = pm.Normal("intercept", 0.0, 5.0)
    uranium_effect = pm.Normal("uranium_effect", 0.0, 2.0)
    floor_effect = pm.Normal("floor_effect", 0.0, 2.0)
    county_sd = pm.HalfNormal("county_sd", 1.0)
    sigma = pm.HalfNormal("sigma", 2.0)
    z = pm.Normal("z", 0.0, 1.0, shape=85)
    level = intercept + uranium_effect * log_uranium + county_sd * z[county]
    pm.Normal("log_radon", level + floor_effect * floor, sigma, observed=log_radon)


def ar1(n):
    x = pm.Flat("x", shape=n)
    pm.Potential("first", pm.logp(pm.Normal.dist(0.0, 1.0), x[0]))
    pm.Potential("steps", pm.logp(pm.Normal.dist(0.9 * x[:-1], 0.19**0.5), x[1:]).sum())


def volatility(y):
    mu = pm.Normal("mu", 0.0, 2.0)
    phi = pm.Beta("phi", 20.0, 1.5)
    sigma = pm.HalfNormal("sigma", 0.5)
    z = pm.Normal("z", 0.0, 1.0, shape=len(y))
    first = sigma * z[0] / pt.sqrt(1 - phi**2)
    later = pytensor.scan(
        lambda shock, deviation, phi, sigma: phi * deviation + sigma * shock,
        sequences=[z[1:]],
        outputs_info=[first],
        non_sequences=[phi, sigma],
        strict=True,
        return_updates=False,
    )
    pm.Normal("y", 0.0, pt.exp((mu + pt.concatenate([first[None], later])) / 2), observed=y)


def volatility_centred(y):
    mu = pm.Normal("mu", 0.0, 2.0)
    phi = pm.Beta("phi", 20.0, 1.5)
    sigma = pm.HalfNormal("sigma", 0.5)
    h = pm.Flat("h", shape=len(y))
    pm.Potential("first", pm.logp(pm.Normal.dist(mu, sigma / pt.sqrt(1 - phi**2)), h[0]))
    pm.Potential("steps", pm.logp(pm.Normal.dist(mu + phi * (h[:-1] - mu), sigma), h[1:]).sum())
    pm.Normal("y", 0.0, pt.exp(h / 2), observed=y)


def gp(x, y):
    rho = pm.Gamma("rho", 25.0, 4.0)
    alpha = pm.HalfNormal("alpha", 2.0)
    sigma = pm.HalfNormal("sigma", 1.0)
    kernel = alpha**2 * pt.exp(-0.5 * ((x[:, None] - x[None, :]) / rho) ** 2)
    pm.MvNormal("y", np.zeros(len(x)), cov=kernel + sigma * pt.eye(len(x)), observed=y)


def ode(y_init, y):
    theta = pm.TruncatedNormal("theta", [1.0, 0.05, 1.0, 0.05], [0.5, 0.05, 0.5, 0.05], lower=0.0, shape=4)
    sigma = pm.LogNormal("sigma", -1.0, 1.0, shape=2)
    start = pm.LogNormal("start", np.log(10.0), 1.0, shape=2)

    def step(log_z, theta):
        def slope(log_z):
            z = pt.exp(log_z)
            return pt.stack([theta[0] - theta[1] * z[1], theta[3] * z[0] - theta[2]])

        k1 = slope(log_z)
        k2 = slope(log_z + 0.05 * k1)
        k3 = slope(log_z + 0.05 * k2)
        k4 = slope(log_z + 0.1 * k3)
        return log_z + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    path = pytensor.scan(
        step,
        outputs_info=[pt.log(start)],
        non_sequences=[theta],
        n_steps=10 * len(y),
        strict=True,
        return_updates=False,
    )
    pm.LogNormal("y_init", pt.log(start), sigma, observed=y_init)
    pm.LogNormal("y", path[9::10], sigma, observed=y)


def mixture(y):
    low = pm.Normal("low", 0.0, 5.0)
    gap = pm.HalfNormal("gap", 5.0)
    sigma = pm.HalfNormal("sigma", 2.0, shape=2)
    weight = pm.Beta("weight", 2.0, 2.0)
    first = pt.log(weight) + pm.logp(pm.Normal.dist(low, sigma[0]), y)
    second = pt.log1p(-weight) + pm.logp(pm.Normal.dist(low + gap, sigma[1]), y)
    pm.Potential("y", pt.logaddexp(first, second).sum())


MODELS = {
    "eight_schools": eight_schools,
    "eight_schools_centred": eight_schools_centred,
    "logistic_1k": logistic,
    "logistic_100k": logistic,
    "radon": radon,
    "ar1_200": ar1,
    "ar1_1000": ar1,
    "gp": gp,
    "ode": ode,
    "volatility": volatility,
    "volatility_centred": volatility_centred,
    "mixture": mixture,
}
