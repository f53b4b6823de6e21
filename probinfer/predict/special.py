"""Distribution functions without inner loops, right for large arguments too. Imports jax only; used by the families.

JAX's `gammaincc` and `betainc` iterate until the slowest entry of an array has converged, and lose digits as their
arguments grow (float64: 1e-9 at 1e6, everything near 1e8 to 1e10). A mixture over thousands of draws calls them
thousands of times a row. Here recurrences lift small arguments to where an asymptotic expansion is exact to rounding;
the cost is fixed, and XLA fuses it all. Only the two-parameter beta function keeps `betainc`, for moderate arguments.
"""

import math
from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy import special

_LIFT = 20  # smaller shape parameters are lifted by so many unit steps before expanding


def log1pmx(x: Array) -> Array:
    """log(1 + x) - x without cancellation near zero. Loader (2000), "Fast and accurate computation of binomials"."""
    small = jnp.abs(x) < 0.3
    near = jnp.where(small, x, 0.0)
    s = near / (2.0 + near)
    square = s * s
    tail = jnp.zeros_like(s)
    for odd in range(21, 1, -2):
        tail = tail * square + 1.0 / odd
    return jnp.where(small, s * (2.0 * square * tail - near), jnp.log1p(x) - x)


def log_gamma(x: Array) -> Array:
    """log Gamma(x) for x > 0: Stirling's series, DLMF 5.11.1, x < 8 lifted by 8. Half the cost of JAX's, for any x."""
    small = x < 8.0
    low = jnp.where(small, x, 1.0)
    rising = low
    for step in range(1, 8):
        rising = rising * (low + step)
    y = jnp.where(small, x + 8.0, x)
    z = 1.0 / (y * y)
    series = 1.0 / 12.0 - z * (
        1.0 / 360.0 - z * (1.0 / 1260.0 - z * (1.0 / 1680.0 - z * (1.0 / 1188.0 - z * 691.0 / 360360.0)))
    )
    stirling = (y - 0.5) * jnp.log(y) - y + 0.9189385332046727 + series / y
    return stirling - jnp.where(small, jnp.log(rising), 0.0)


def log_poisson(k: Array, rate: Array) -> Array:
    """k log(rate) - rate - lgamma(k + 1), for real k >= 0, by Loader's saddle-point form when k is large.

    The plain formula subtracts numbers of size k log k; at k = 1e15 nothing would be left.
    """
    large = k >= 200.0
    plain_k = jnp.where(large, 1.0, k)
    plain = special.xlogy(plain_k, rate) - rate - log_gamma(plain_k + 1.0)
    k = jnp.where(large, k, 200.0)
    stirling = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * k * k)) / (k * k)) / k
    saddle = k * log1pmx((rate - k) / k) - stirling - 0.5 * jnp.log(2.0 * jnp.pi * k)
    return jnp.where(large, saddle, plain)


# the gamma law -------------------------------------------------------------------------------------------------------


@cache
def _temme_table() -> tuple[tuple[float, ...], ...]:
    """Taylor coefficients in eta of Temme's c_0, c_1, …, by exact recurrence. DLMF 8.12.10-11; degrees as in Boost."""
    degrees = (24, 20, 16, 13, 11, 9, 8, 7, 6, 5)
    size = 46
    mu = [Fraction(0), Fraction(1)]  # eta^2 / 2 = mu - log(1 + mu) inverted: mu mu' = eta (1 + mu)
    for n in range(2, size + 2):
        mu.append((mu[n - 1] - sum(mu[i] * (n + 1 - i) * mu[n + 1 - i] for i in range(2, n))) / (n + 1))
    inverse = [Fraction(1)]  # eta / mu
    for n in range(1, size + 1):
        inverse.append(-sum(mu[i + 1] * inverse[n - i] for i in range(1, n + 1)))
    table = [inverse[1:]]
    for _ in degrees[1:]:
        slope = [(n + 1) * c for n, c in enumerate(table[-1][1:])]
        table.append([slope[n] - slope[0] * inverse[n] for n in range(1, len(slope))])
    return tuple(tuple(float(c) for c in row[:degree]) for row, degree in zip(table, degrees, strict=True))


def upper_gamma(a: Array, x: Array) -> Array:
    """Q(a, x) = Gamma(a, x) / Gamma(a), the upper regularised incomplete gamma function, for a > 0, x >= 0.

    Temme's uniform expansion, DLMF 8.12.4, after lifting a < 20 by Q(a, x) = Q(a + 1, x) - x^a exp(-x) / Gamma(a + 1).
    Absolute error below 1e-14 in float64.
    """
    a, x = jnp.broadcast_arrays(a, x)
    small = a < _LIFT
    low_a, low_x = jnp.where(small, a, 1.0), jnp.where(small, jnp.minimum(x, 800.0), 1.0)  # beyond, Q is zero
    terms = jnp.ones_like(low_a)
    for step in range(_LIFT - 1, 0, -1):
        terms = 1.0 + terms * low_x / (low_a + step)
    lifted = jnp.where(small, jnp.exp(log_poisson(low_a, low_x)) * terms, 0.0)
    a = jnp.where(small, a + _LIFT, a)
    mu = (x - a) / a
    half_square = jnp.maximum(-log1pmx(mu), 0.0)  # eta^2 / 2
    eta = jnp.sign(mu) * jnp.sqrt(2.0 * half_square)
    near = jnp.clip(eta, -2.2, 2.2)  # beyond, the factor exp(-a eta^2 / 2) is below 1e-20
    series = jnp.zeros_like(eta)
    for row in reversed(_temme_table()):
        polynomial = jnp.zeros_like(eta)
        for c in reversed(row):
            polynomial = polynomial * near + c
        series = series / a + polynomial
    correction = jnp.exp(-a * half_square) / jnp.sqrt(2.0 * jnp.pi * a) * series
    return jnp.clip(0.5 * jax.lax.erfc(eta * jnp.sqrt(0.5 * a)) + correction - lifted, 0.0, 1.0)


# Student's t ---------------------------------------------------------------------------------------------------------


def half_gamma_ratio(a: Array) -> Array:
    """Gamma(a + 1/2) / Gamma(a) for a > 0, to rounding.

    Lifted by 20 if small; there log ratio = log(y)/2 - sum_k E_2k / (4k (4y)^2k), y = a - 1/4, E the Euler numbers.
    DLMF 5.11.8.
    """
    small = a < _LIFT
    low = jnp.where(small, a, 1.0)
    above, below = jnp.ones_like(low), jnp.ones_like(low)
    for step in range(_LIFT):
        above, below = above * (low + step), below * (low + step + 0.5)
    y = jnp.where(small, a + _LIFT, a) - 0.25
    z = 1.0 / (16.0 * y * y)
    series = z * (0.25 - z * (5.0 / 8.0 - z * (61.0 / 12.0 - z * (1385.0 / 16.0 - z * 50521.0 / 20.0))))
    return jnp.where(small, above / below, 1.0) * jnp.sqrt(y) * jnp.exp(series)


@cache
def _sinh_table(terms: int) -> tuple[float, ...]:
    """W_j = w_j Gamma(2j + 1/2) / Gamma(1/2) for (sinh(s/2) / (s/2))^(-1/2) = sum_j w_j s^2j."""
    base = [Fraction(1)]
    for j in range(1, terms):
        base.append(base[-1] / (4 * (2 * j) * (2 * j + 1)))  # sinh(s/2) / (s/2) in powers of s^2
    power = [Fraction(1)]  # J. C. P. Miller's recurrence for a power series to the power -1/2
    for n in range(1, terms):
        power.append(sum((Fraction(-1, 2) * k - (n - k)) * base[k] * power[n - k] for k in range(1, n + 1)) / n)
    weights, rising = [], Fraction(1)
    for j, w in enumerate(power):
        weights.append(float(w * rising))
        rising *= (2 * j + Fraction(1, 2)) * (2 * j + Fraction(3, 2))
    return tuple(weights)


def student_t_cdf(z: Array, df: Array) -> Array:
    """P(T <= z) for Student's t with df > 0 degrees of freedom; df = inf is the normal law.

    P(|T| > z) = I_x(a, 1/2), a = df/2, x = df / (df + z^2). Lifting a by 20 adds x^a (1 - x)^(1/2) / (a B(a, 1/2)) each
    time; the remainder, with 1 - x = 1 - exp(-s), is a sum of gamma laws of order 2j + 1/2 in u = (a - 1/4) log(1 +
    z^2/df). DiDonato & Morris (1992), TOMS 708, section 9. Absolute error below 1e-14 in float64.
    """
    z, df = jnp.broadcast_arrays(z, df)
    largest = jnp.finfo(z.dtype).max
    df = jnp.minimum(df, largest**0.25)
    square = jnp.minimum(z * z, largest**0.5)  # z = inf has the tail zero, not nan
    small = df < 2.0 * _LIFT
    a = jnp.where(small, 0.5 * df, 1.0)
    share, depth = df / (df + square), jnp.log1p(square / df)
    term = jnp.exp(-a * depth) * jnp.sqrt(square / (df + square)) * half_gamma_ratio(a) / (a * jnp.pi**0.5)
    series = jnp.ones_like(a)
    for step in range(_LIFT - 1, 0, -1):
        series = 1.0 + series * share * ((a + step - 0.5) / (a + step))
    lifted = jnp.where(small, term * series, 0.0)
    rate = jnp.where(small, a + _LIFT, 0.5 * df) - 0.25
    u = rate * depth
    weights = _sinh_table(6)
    # Q(j + 1/2, u) grows from erfc(sqrt u) by u^(i + 1/2) exp(-u) / Gamma(i + 3/2), i < j
    growth = jnp.exp(-u) * jnp.sqrt(u) * (2.0 / jnp.pi**0.5)
    upper, tail, total, scale = jax.lax.erfc(jnp.sqrt(u)), 0.0, 0.0, 1.0
    for j, weight in enumerate(weights):
        tail, total = tail + weight * scale * upper, total + weight * scale
        scale = scale / (rate * rate)
        for i in (2 * j, 2 * j + 1):
            upper = upper + growth
            growth = growth * u / (i + 1.5)
    tail = 0.5 * (lifted + tail / total)
    return jnp.where(z > 0.0, 1.0 - tail, tail)


# the beta law --------------------------------------------------------------------------------------------------------


def lower_beta(a: Array, b: Array, x: Array, complement: Array, *, skewed: bool = True) -> Array:
    """I_x(a, b), the regularised incomplete beta function; `complement` is 1 - x, given apart to keep its digits.

    One parameter small and the other large: the gamma limit (`_gamma_limit`). Both above 1e4: the normal limit with
    Temme's leading correction (1992, "Incomplete Laplace integrals"). Else JAX's continued fraction. Absolute error
    below 1e-8. `skewed=False` leaves the gamma limit out, which compiles in half the time: the continued fraction is
    good to 4e-7 until the larger parameter exceeds 1e8.
    """
    given = a, b, x, complement = jnp.broadcast_arrays(a, b, x, complement)
    small, big = jnp.minimum(a, b), jnp.maximum(a, b)
    uneven = (big > 1000.0) & (small**3 < 1e-3 * big**2) & skewed
    large = small > 1e4
    moderate = ~uneven & ~large
    exact = special.betainc(jnp.where(moderate, a, 1.0), jnp.where(moderate, b, 1.0), jnp.where(moderate, x, 0.5))
    # two large parameters
    a, b = jnp.where(large, a, 1e4), jnp.where(large, b, 1e4)
    total = a + b
    x0, y0 = a / total, b / total
    gap = (x * b - complement * a) / total  # x - x0, exact when x is close to x0
    half_square = jnp.maximum(-(x0 * log1pmx(gap / x0) + y0 * log1pmx(-gap / y0)), 0.0)
    eta = jnp.sign(gap) * jnp.sqrt(2.0 * half_square)
    width = jnp.sqrt(x0 * y0)
    central = jnp.abs(gap) < 1e-5 * width
    safe_eta, safe_gap = jnp.where(central, 1.0, eta), jnp.where(central, 1.0, gap)
    c0 = jnp.where(central, (1.0 - 2.0 * x0) / (3.0 * width), 1.0 / safe_eta - width / safe_gap)
    correction = jnp.exp(-total * half_square) / jnp.sqrt(2.0 * jnp.pi * total) * c0
    normal = 0.5 * jax.lax.erfc(-eta * jnp.sqrt(0.5 * total)) + correction
    value = jnp.where(large, jnp.clip(normal, 0.0, 1.0), exact)
    return jnp.where(uneven, _uneven_beta(*given), value) if skewed else value


def _uneven_beta(a: Array, b: Array, x: Array, complement: Array) -> Array:
    """I_x(a, b) with a small, or 1 - I_{1-x}(b, a) with b small."""
    swap = b < a
    near, far = jnp.where(swap, complement, x), jnp.where(swap, x, complement)
    depth = jnp.where(near < 0.5, -jnp.log1p(-jnp.minimum(near, 0.5)), -jnp.log(far))
    limit = jnp.clip(_gamma_limit(jnp.minimum(a, b), jnp.maximum(a, b), depth), 0.0, 1.0)
    return jnp.where(swap, 1.0 - limit, limit)


def _gamma_limit(small: Array, big: Array, depth: Array) -> Array:
    """I_x(small, big) for big >> small, depth = -log(1 - x).

    With t = 1 - exp(-s) the beta integrand is s^(a-1) exp(-N s) (1 + (a-1) s^2 / 24 + …), N = b + (a-1)/2: gamma laws;
    the next term is of order a^6 / N^4. DiDonato & Morris (1992), TOMS 708, section 9.
    """
    rate = big + 0.5 * (small - 1.0)
    u = rate * depth
    lower = 1.0 - upper_gamma(small, u)
    step = jnp.exp(log_poisson(small, u)) * (1.0 + u / (small + 1.0))  # P(a, u) - P(a + 2, u)
    weight = (small - 1.0) * small * (small + 1.0) / (24.0 * rate * rate)
    return lower - weight / (1.0 + weight) * step


_HART_TOP = (
    3.52624965998911e-02, 0.700383064443688, 6.37396220353165, 33.912866078383, 112.079291497871, 221.213596169931,
    220.206867912376,
)  # fmt: skip
_HART_BOTTOM = (
    8.83883476483184e-02, 1.75566716318264, 16.064177579207, 86.7807322029461, 296.564248779674, 637.333633378831,
    793.826512519948, 440.413735824752,
)  # fmt: skip
_FAR = 14.0
_SQUARINGS, _MIDDLE = 7, 0.39  # exp(-t), t <= 98: the 128th power of exp(-t / 128), whose exponent is within 0.39 of it


def standard_normal_cdf(z: Array) -> Array:
    """Phi(z) at half the cost of `erfc`: off by 2e-14 at most, and by 3e-7 of itself far below zero; z < -14 as -14."""
    return standard_normal_cdf_by_bell(z, bell(z))


def standard_normal_cdf_by_bell(z: Array, bell: Array) -> Array:
    """Phi(z) of z whose `bell` is known: times a quotient of polynomials.

    Hart et al. (1968), Computer Approximations, 5666, with the coefficients of West (2005), Wilmott Magazine.
    """
    a = jnp.minimum(jnp.abs(z), _FAR)
    below = bell * _polynomial(_HART_TOP, a) / _polynomial(_HART_BOTTOM, a)
    return jnp.where(z > 0.0, 1.0 - below, below)


def bell(z: Array) -> Array:
    """exp(-z^2 / 2) to 1e-13 of itself, |z| > 14 as 14: a polynomial squared again and again; in float32 by the
    exponential function, which is fast there."""
    t = 0.5 * jnp.minimum(jnp.abs(z), _FAR) ** 2
    if t.dtype == jnp.float32:
        return jnp.exp(-t)
    r = _MIDDLE - t / 2**_SQUARINGS
    power = jnp.full_like(r, math.exp(-_MIDDLE) / math.factorial(13))
    for k in range(12, -1, -1):
        power = power * r + math.exp(-_MIDDLE) / math.factorial(k)
    for _ in range(_SQUARINGS):
        power = power * power
    return power


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    total = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total
