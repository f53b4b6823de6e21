"""How far arrays that are read by the time reach: counted by hand, for every way of reading them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import probinfer as pi
from probinfer.predict.horizon import horizon

FIRST, LENGTH = 6, 20
DRIVER, ZERO = jnp.arange(float(LENGTH)), jnp.float32(0.0)
TABLE = jnp.zeros((LENGTH, 3))
WEEKS = jnp.zeros((3, 7))
PLACES = jnp.arange(8) * 2
OTHERS = (np.zeros((), np.int64), {"lag": np.array(1.0)})


def summed(t, count):
    """Of `count` entries from t on, in a loop of a length that is known."""
    return lax.fori_loop(0, count, lambda i, total: total + DRIVER[t + i], ZERO)


def weighed(t, count, weight):
    """The same, weighed: which entries are read does not depend on the weight."""
    return lax.fori_loop(0, count, lambda i, total: total + weight * DRIVER[t + i], 0.0 * weight)


def searched(t):
    """The same as DRIVER[t], in a loop of a length that is not."""
    return lax.while_loop(lambda at: at[0] < 1, lambda at: (at[0] + 1, DRIVER[t]), (0, ZERO))[1]


def counted(t, x, p):
    """t + x, if that is more, in steps of one."""
    return lax.while_loop(lambda at: at < jnp.minimum(t + x, t + 50), lambda at: at + 1, t)


def cumulated(t, place):
    """The sum of the entries at place(0), …, place(t - 1)."""
    return lax.fori_loop(0, t, lambda i, total: total + DRIVER[place(i)], ZERO)


KNOWN = {
    "itself": (lambda t, x, p: DRIVER[t], 20),
    "a lag": (lambda t, x, p: DRIVER[t - 3], 23),
    "weeks": (lambda t, x, p: DRIVER[t // 7], 140),
    "every second": (lambda t, x, p: DRIVER[2 * t], 10),
    "from the end": (lambda t, x, p: DRIVER[-1 - t], 20),
    "a fraction": (lambda t, x, p: DRIVER[(1.5 * t).astype(int)], 14),
    "dynamic index": (lambda t, x, p: lax.dynamic_index_in_dim(DRIVER, t), 20),
    "dynamic slice": (lambda t, x, p: lax.dynamic_slice(DRIVER, (t,), (3,)), 18),
    "take": (lambda t, x, p: jnp.take(DRIVER, t), 20),
    "a window": (lambda t, x, p: DRIVER[t + jnp.arange(3)], 18),
    "week and day": (lambda t, x, p: WEEKS[t // 7, t % 7], 21),
    "time and state": (lambda t, x, p: TABLE[t, x], 20),
    "time, then state": (lambda t, x, p: TABLE[t][x], 20),
    "entries of another array": (lambda t, x, p: DRIVER[PLACES[t]], 8),
    "the shorter of two": (lambda t, x, p: DRIVER[t] + PLACES[t], 8),
    "a loop": (lambda t, x, p: summed(t, 3), 18),
    "a loop with a parameter": (lambda t, x, p: weighed(t, 3, p["lag"]), 18),
    "a search": (lambda t, x, p: searched(t), 20),
    "each of several": (lambda t, x, p: jax.vmap(lambda i: TABLE[t, i])(jnp.arange(3)), 20),
    "some states": (lambda t, x, p: lax.cond(x > 0, lambda: DRIVER[t], lambda: ZERO), 20),
    "too early, by no index": (lambda t, x, p: lax.dynamic_slice(DRIVER, (t - 8,), (1,)), 28),
    "long ago": (lambda t, x, p: DRIVER[t // 100_000], FIRST + 2**17),  # no later than what was looked at one by one
    "a season": (lambda t, x, p: DRIVER[t % 12], None),
    "the last goes on": (lambda t, x, p: DRIVER[jnp.minimum(t, LENGTH - 1)], None),
    "the first beyond": (lambda t, x, p: DRIVER[jnp.where(t < LENGTH, t, 0)], None),
    "kept inside": (lambda t, x, p: DRIVER[jnp.clip(t - p["lag"].astype(int) + x, 0, LENGTH - 1)], None),
    "a condition": (lambda t, x, p: lax.cond(t < LENGTH, lambda: DRIVER[t], lambda: ZERO), None),
    "between points": (lambda t, x, p: jnp.interp(t, DRIVER, DRIVER), None),
    "a state": (lambda t, x, p: DRIVER[x] * t, None),
    "filled beyond": (lambda t, x, p: DRIVER.at[t].get(mode="fill", fill_value=0.0), None),
    "a lag, filled beyond": (lambda t, x, p: jnp.take(DRIVER, t - x, mode="fill", fill_value=0.0), None),
    "filled with no number": (lambda t, x, p: jnp.take(DRIVER, t, mode="fill"), 20),
    "all up to it": (lambda t, x, p: cumulated(t, lambda i: i), 21),
    "seasons up to it, in a long loop": (lambda t, x, p: cumulated(t, lambda i: i % 12), 4097),
    "a loop up to a state": (lambda t, x, p: lax.while_loop(lambda i: i < x, lambda i: i + 1, 0) + TABLE[t, x], 20),
    "nothing": (lambda t, x, p: jnp.sin(t) + x, None),
}


def found(read):
    with jax.enable_x64(True):
        return horizon(lambda t, others: read(t, *others), FIRST, OTHERS)


@pytest.mark.parametrize("name", KNOWN)
def test_as_far_as_the_array_reaches(name):
    read, expected = KNOWN[name]
    assert found(read) == expected


@pytest.mark.parametrize(
    "index",
    [lambda t, x, p: t + x, lambda t, x, p: t - p["lag"].astype(int), lambda t, x, p: t % 12 + x, counted],
    ids=["state", "parameter", "season", "as many steps as a state"],
)
def test_an_index_of_time_and_state_is_refused_where_it_leaves_the_array(index):
    with pytest.raises(
        pi.ModelError, match="an array of 20 entries by an index that depends on the time and on states"
    ):
        found(lambda t, x, p: DRIVER[index(t, x, p)])
