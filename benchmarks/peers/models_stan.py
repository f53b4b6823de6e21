"""The benchmark models as Stan programs of the densities of models_numpyro.py, up to a constant, and their data."""

import numpy as np

EIGHT_SCHOOLS = """
data { vector[8] y; vector[8] sigma; }
parameters { real mu; real<lower=0> tau; vector[8] z; }
model { mu ~ normal(0, 5); tau ~ cauchy(0, 5); z ~ std_normal(); y ~ normal(mu + tau * z, sigma); }
"""

EIGHT_SCHOOLS_CENTRED = """
data { vector[8] y; vector[8] sigma; }
parameters { real mu; real<lower=0> tau; vector[8] theta; }
model { mu ~ normal(0, 5); tau ~ cauchy(0, 5); theta ~ normal(mu, tau); y ~ normal(theta, sigma); }
"""

LOGISTIC = """
data { int n; int d; matrix[n, d] x; array[n] int<lower=0, upper=1> y; }
parameters { real alpha; vector[d] beta; }
model { alpha ~ normal(0, 2.5); beta ~ std_normal(); y ~ bernoulli_logit_glm(x, alpha, beta); }
"""

RADON = """
data { int n; array[n] int county; vector[n] floor_of; vector[n] log_uranium; vector[n] log_radon; }
parameters {
  real intercept; real uranium_effect; real floor_effect; real<lower=0> county_sd; real<lower=0> sigma; vector[85] z;
}
model {
  intercept ~ normal(0, 5);
  uranium_effect ~ normal(0, 2);
  floor_effect ~ normal(0, 2);
  county_sd ~ normal(0, 1);
  sigma ~ normal(0, 2);
  z ~ std_normal();
  log_radon ~ normal(intercept + uranium_effect * log_uranium + county_sd * z[county] + floor_effect * floor_of, sigma);
}
"""

AR1 = """
data { int n; }
parameters { vector[n] x; }
model { x[1] ~ std_normal(); x[2:n] ~ normal(0.9 * x[1:(n - 1)], sqrt(0.19)); }
"""

GP = """
data { int n; array[n] real x; vector[n] y; }
parameters { real<lower=0> rho; real<lower=0> alpha; real<lower=0> sigma; }
model {
  matrix[n, n] covariance = add_diag(gp_exp_quad_cov(x, alpha, rho), sigma);
  rho ~ gamma(25, 4);
  alpha ~ normal(0, 2);
  sigma ~ normal(0, 1);
  y ~ multi_normal_cholesky(rep_vector(0, n), cholesky_decompose(covariance));
}
"""

ODE = """
functions {
  vector slope(vector log_z, vector theta) {
    return [theta[1] - theta[2] * exp(log_z[2]), theta[4] * exp(log_z[1]) - theta[3]]';
  }
}
data { int n; array[2] real y_init; array[n, 2] real y; }
parameters { vector<lower=0>[4] theta; vector<lower=0>[2] sigma; vector<lower=0>[2] start; }
model {
  vector[2] log_z = log(start);
  theta ~ normal([1, 0.05, 1, 0.05]', [0.5, 0.05, 0.5, 0.05]');
  sigma ~ lognormal(-1, 1);
  start ~ lognormal(log(10), 1);
  y_init ~ lognormal(log(start), sigma);
  for (t in 1:n) {
    for (part in 1:10) {
      vector[2] k1 = slope(log_z, theta);
      vector[2] k2 = slope(log_z + 0.05 * k1, theta);
      vector[2] k3 = slope(log_z + 0.05 * k2, theta);
      vector[2] k4 = slope(log_z + 0.1 * k3, theta);
      log_z += 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4);
    }
    y[t] ~ lognormal(log_z, sigma);
  }
}
"""

VOLATILITY = """
data { int n; vector[n] y; }
parameters { real mu; real<lower=0, upper=1> phi; real<lower=0> sigma; vector[n] z; }
model {
  vector[n] h = sigma * z;
  h[1] /= sqrt(1 - square(phi));
  for (t in 2:n) h[t] += phi * h[t - 1];
  mu ~ normal(0, 2);
  phi ~ beta(20, 1.5);
  sigma ~ normal(0, 0.5);
  z ~ std_normal();
  y ~ normal(0, exp((mu + h) / 2));
}
"""

VOLATILITY_CENTRED = """
data { int n; vector[n] y; }
parameters { real mu; real<lower=0, upper=1> phi; real<lower=0> sigma; vector[n] h; }
model {
  mu ~ normal(0, 2);
  phi ~ beta(20, 1.5);
  sigma ~ normal(0, 0.5);
  h[1] ~ normal(mu, sigma / sqrt(1 - square(phi)));
  h[2:n] ~ normal(mu + phi * (h[1:(n - 1)] - mu), sigma);
  y ~ normal(0, exp(h / 2));
}
"""

MIXTURE = """
data { int n; vector[n] y; }
parameters { real low; real<lower=0> gap; vector<lower=0>[2] sigma; real<lower=0, upper=1> weight; }
model {
  low ~ normal(0, 5);
  gap ~ normal(0, 5);
  sigma ~ normal(0, 2);
  weight ~ beta(2, 2);
  for (i in 1:n)
    target += log_mix(weight, normal_lpdf(y[i] | low, sigma[1]), normal_lpdf(y[i] | low + gap, sigma[2]));
}
"""


def plain(data):
    """The data with the number of rows."""
    return {"n": len(data["y"]), **data}


def design(data):
    return {"n": data["x"].shape[0], "d": data["x"].shape[1], **data}


def houses(data):
    """Stan counts from 1, and `floor` is one of its functions."""
    columns = {name: data[name] for name in ("log_uranium", "log_radon")}
    return {"n": len(data["county"]), "county": data["county"] + 1, "floor_of": data["floor"], **columns}


MODELS = {
    "eight_schools": (EIGHT_SCHOOLS, dict),
    "eight_schools_centred": (EIGHT_SCHOOLS_CENTRED, dict),
    "logistic_1k": (LOGISTIC, design),
    "logistic_100k": (LOGISTIC, design),
    "radon": (RADON, houses),
    "ar1_200": (AR1, dict),
    "ar1_1000": (AR1, dict),
    "gp": (GP, plain),
    "ode": (ODE, plain),
    "volatility": (VOLATILITY, plain),
    "volatility_centred": (VOLATILITY_CENTRED, plain),
    "mixture": (MIXTURE, plain),
}


def program_and_data(name, data):
    program, arrange = MODELS[name]
    return program, {
        key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in arrange(data).items()
    }
