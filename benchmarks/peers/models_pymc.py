"""The benchmark models as PyMC models of the densities of models_numpyro.py."""

import pymc as pm
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
    h = pm.Flat("h", shape=len(y))
    pm.Potential("first", pm.logp(pm.Normal.dist(mu, sigma / pt.sqrt(1 - phi**2)), h[0]))
    pm.Potential("steps", pm.logp(pm.Normal.dist(mu + phi * (h[:-1] - mu), sigma), h[1:]).sum())
    pm.Normal("y", 0.0, pt.exp(h / 2), observed=y)


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
    "volatility": volatility,
    "mixture": mixture,
}
