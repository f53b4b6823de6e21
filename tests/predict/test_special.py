"""The distribution functions against SciPy, and against 40-digit values where SciPy's own are off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaincc
from scipy import special, stats

from probinfer.predict.special import (
    half_gamma_ratio,
    log1pmx,
    log_gamma,
    log_poisson,
    lower_beta,
    student_t_cdf,
    upper_gamma,
)

N = 4000


def worst(function, expected, *arguments) -> float:
    with jax.enable_x64(True):
        return float(np.abs(np.asarray(jax.jit(function)(*arguments)) - expected).max())


def test_upper_gamma():
    rng = np.random.default_rng(20)
    a = 10 ** rng.uniform(-3, 5, N)
    x = a * np.exp(rng.normal(size=N) * rng.choice([0.01, 0.3, 2.0], N))
    assert worst(upper_gamma, special.gammaincc(a, x), a, x) < 3e-14


# Q(a, a + z sqrt(a)) by numerical integration with 40 digits; SciPy 1.16's gammaincc is off by 1e-7 at z = -5.
LARGE_GAMMA = [
    (1e6, -5.0, 0.9999997250419641),
    (1e8, -5.0, 0.999999714535786),
    (1e8, 0.0, 0.49998670192398587),
    (1e10, 3.0, 0.0013500162166919065),
    (1e12, -1e-3, 0.5003988092333503),
]


@pytest.mark.parametrize(("a", "z", "expected"), LARGE_GAMMA)
def test_upper_gamma_of_large_arguments(a, z, expected):
    assert worst(upper_gamma, expected, a, a + z * np.sqrt(a)) < 1e-13


def test_jax_alone_would_fail_at_large_arguments():
    assert worst(gammaincc, 0.49998670192398587, 1e8, 1e8) > 1e-7


def test_student_t():
    rng = np.random.default_rng(20)
    df = 10 ** rng.uniform(-2, 6, N)
    z = rng.standard_cauchy(N) * rng.choice([1e-5, 1.0, 10.0], N)
    assert worst(student_t_cdf, stats.t.cdf(z, df), z, df) < 1e-14
    ends = np.array([-np.inf, -1e200, 0.0, 1e200, np.inf])
    assert worst(student_t_cdf, np.array([0.0, 0.0, 0.5, 1.0, 1.0]), ends, np.full(5, 3.0)) < 1e-200
    assert worst(student_t_cdf, stats.norm.cdf(z), z, np.full(N, np.inf)) < 1e-14


def test_lower_beta():
    rng = np.random.default_rng(20)
    a, b = 10 ** rng.uniform(-2, 6, (2, N))
    mean = a / (a + b)
    x = np.clip(mean + rng.normal(0, 2, N) * np.sqrt(mean * (1 - mean) / (a + b + 1)), 0, 1)
    assert worst(lower_beta, special.betainc(a, b, x), a, b, x, 1 - x) < 1e-8


# 1 - I_p(k + 1, n - k), the binomial cdf, by numerical integration with 40 digits.
LARGE_BINOMIAL = [
    (1.1e6, 0.5, 1.0, 0.8413888427014697),
    (1.1e6, 0.001, -0.5, 0.31066624449108965),
    (1e8, 0.001, -0.5, 0.3081581711584827),
    (1e12, 0.001, 1.0, 0.84134121487193),
]


@pytest.mark.parametrize(("n", "p", "z", "expected"), LARGE_BINOMIAL)
def test_lower_beta_of_large_arguments(n, p, z, expected):
    k = np.floor(n * p + z * np.sqrt(n * p * (1 - p)))
    assert worst(lower_beta, expected, n - k, k + 1, 1 - p, p) < 1e-8


def test_logarithms_without_cancellation():
    rng = np.random.default_rng(20)
    x = np.array([-0.9, -1e-3, 1e-9, 1e-3, 0.29, 0.31, 10.0])
    series = np.where(np.abs(x) < 1e-2, -(x**2) / 2 + x**3 / 3 - x**4 / 4 + x**5 / 5, np.log1p(x) - x)
    assert worst(lambda v: log1pmx(v) / series, 1.0, x) < 1e-12
    k = np.array([0.0, 1.0, 50.0, 199.0, 200.0, 1e4])
    assert worst(log_poisson, stats.poisson.logpmf(k, k + 1.5), k, k + 1.5) < 1e-11
    # P(Y = k) at its mode k = rate is 1 / sqrt(2 pi k) up to 1 / (12 k); SciPy has no digit left at 1e15
    assert worst(log_poisson, -0.5 * np.log(2 * np.pi * 1e15), 1e15, 1e15) < 1e-12
    a = 10 ** rng.uniform(-3, 8, N)
    exact = special.gammaln(a)
    assert worst(lambda v: (log_gamma(v) - exact) / np.maximum(1.0, np.abs(exact)), 0.0, a) < 1e-13
    exact = np.exp(special.gammaln(a + 0.5) - special.gammaln(a))
    assert worst(lambda v: half_gamma_ratio(v) / exact, 1.0, a) < 1e-6  # SciPy's difference loses digits at 1e8
    small = a[a < 20]
    assert (
        worst(lambda v: half_gamma_ratio(v) / (special.gamma(small + 0.5) / special.gamma(small)), 1.0, small) < 1e-13
    )


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (upper_gamma, (3.0, 2.5), special.gammaincc(3.0, 2.5)),
        (upper_gamma, (1e5, 1.001e5), special.gammaincc(1e5, 1.001e5)),
        (student_t_cdf, (-2.0, 4.0), stats.t.cdf(-2.0, 4.0)),
        (student_t_cdf, (3.0, 1e6), stats.t.cdf(3.0, 1e6)),
        (lower_beta, (2.0, 3.0, 0.4, 0.6), special.betainc(2.0, 3.0, 0.4)),
    ],
)
def test_float32(function, arguments, expected):
    value = jax.jit(function)(*(jnp.float32(a) for a in arguments))
    assert value.dtype == jnp.float32
    assert abs(float(value) - expected) < 3e-4
