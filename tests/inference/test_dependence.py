"""What a traced program's values depend on: never less than what changes when an entry is changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from probinfer.inference.exact.dependence import Along, dependence
from probinfer.inference.exact.few import Few
from probinfer.inference.exact.short_axes import evaluate

N, K = 5, 3
GROUP = np.array([2, 0, 1, 1, 4, 3, 0])
M = jnp.array([0.5, -1.0, 2.0])
T = jnp.arange(9.0).reshape(3, 3) ** 1.5

BEFORE = np.c_[:N, np.r_[-1, -1, : N - 2]]

# name: (function of z (5,) with values 0, 1, 2; how its first axis goes along with z, None if it does not)
PROGRAMS = {
    "lookup": (lambda z: M[z], Along(0)),
    "lookup twice": (lambda z: T[z, z] + M[z], Along(0)),
    "row of a table": (lambda z: T[z], Along(0)),
    "through an index": (lambda z: M[z[GROUP]], Along(0, GROUP)),
    "through an index, after": (lambda z: M[z][GROUP], Along(0, GROUP)),
    "through a table and an index": (lambda z: T[jnp.array([0, 1, 2, 0, 1, 2, 0]), z[GROUP]], Along(0, GROUP)),
    "through two indices": (lambda z: z[GROUP][np.array([3, 1, 0])], Along(0, GROUP[[3, 1, 0]])),
    "axes added": (lambda z: M[z][:, None] * M, Along(0)),
    "axes added in front": (lambda z: (M[z] * jnp.ones((2, N))).T, Along(0)),
    "reshaped": (lambda z: (M[z].reshape(N, 1) + T[0]).reshape(N, 3, 1), Along(0)),
    "reshaped to one": (lambda z: (M[z].reshape(N, 1) * M).reshape(-1), None),
    "summed over the rest": (lambda z: (M[z][:, None] * T[0]).sum(1), Along(0)),
    "logsumexp over the rest": (lambda z: jax.nn.logsumexp(M[z][:, None] + T[0], axis=1), Along(0)),
    "softmax of itself": (lambda z: jax.nn.softmax(M[z]), None),
    "sum": (lambda z: jnp.sum(M[z]), None),
    "neighbours": (lambda z: M[z[1:]] * M[z[:-1]], Along(0, np.c_[1:N, : N - 1])),
    "three neighbours": (lambda z: M[z[2:]] * M[z[1:-1]] * M[z[:-2]], None),
    "neighbours, and the first alone": (
        lambda z: T[z, jnp.concatenate([jnp.ones(1, int), z[:-1]])],
        Along(0, np.c_[:N, -1 : N - 1]),
    ),
    "the later ones": (lambda z: M[z[1:]], Along(0, np.arange(1, N))),
    "with a constant before": (lambda z: jnp.concatenate([jnp.zeros(1), M[z[1:]]]), Along(0, np.r_[-1, 1:N])),
    "turned round": (lambda z: M[z[::-1]], None),
    "rolled": (lambda z: M[jnp.roll(z, 1)], Along(0, np.r_[N - 1, : N - 1])),
    "cumulated": (lambda z: jnp.cumsum(M[z]), None),
    "cumulated along the rest": (lambda z: jnp.cumsum(M[z][:, None] * M, axis=1), Along(0)),
    "sorted": (lambda z: jnp.sort(M[z]), None),
    "times a matrix": (lambda z: (M[z][:, None] * M) @ T, Along(0)),
    "times a matrix of its size": (lambda z: jnp.ones((N, N)) @ M[z], None),
    "chosen by it": (lambda z: jnp.where(z[:, None] == jnp.arange(K), T[0], 0.0).sum(1), Along(0)),
    "one hot": (lambda z: jax.nn.one_hot(z, K) @ M, Along(0)),
    "one entry": (lambda z: M[z[2]], None),
    "sums by group": (lambda z: jax.ops.segment_sum(M[z][GROUP], GROUP, num_segments=N), None),
    "an index that depends on it": (lambda z: M[z[z]], None),
    "in a loop": (lambda z: lax.scan(lambda c, x: (0.5 * c + x, c + x), 0.0, M[z])[1], None),
    "handed on in a loop": (lambda z: lax.scan(lambda c, x: (x, T[c, x]), 0, z)[1], Along(0, np.c_[:N, -1 : N - 1])),
    "handed on backwards": (
        lambda z: lax.scan(lambda c, x: (x, T[c, x]), 0, z, reverse=True)[1],
        Along(0, np.c_[np.r_[1:N, N - 1], np.r_[: N - 1, -1]]),
    ),
    "counted in a loop": (
        lambda z: lax.scan(lambda c, x: ((c[0] + 1, z[c[0]]), M[x] * M[c[1]]), (0, 0), z)[1],
        Along(0, np.c_[:N, -1 : N - 1]),
    ),
    "handed on twice": (lambda z: lax.scan(lambda c, x: ((x, c[0]), M[x] * M[c[1]]), (0, 0), z)[1], Along(0, BEFORE)),
    "the last of a loop": (lambda z: lax.scan(lambda c, x: (M[x], c), 0.0, z)[0] * jnp.ones(N), None),
    "what was there, in a loop": (lambda z: lax.scan(lambda c, x: (jnp.maximum(c, x), x), z[0], z)[1], Along(0)),
    "cumulated in a loop": (lambda z: lax.scan(lambda c, x: (jnp.maximum(c, x), c * x), z[0], z)[1], None),
    "two counts in a loop": (
        lambda z: lax.scan(lambda c, x: ((c[0] + c[1], c[1]), M[z[c[0]]]), (0, 1), z)[1],
        Along(0, np.arange(N)),
    ),
    "in a condition": (lambda z: lax.cond(z[0] > 0, lambda: M[z], lambda: M[z] * 0), None),
    "in a function": (lambda z: jax.jit(lambda z: M[z] * 2)(z), Along(0)),
    "with its own gradient": (lambda z: jax.nn.relu(M[z]) + jax.scipy.special.xlogy(2.0, 3.0 + M[z]), Along(0)),
    "repeated": (lambda z: jnp.tile(M[z], 2), None),
    "stacked": (lambda z: jnp.stack([M[z], M[z] ** 2], axis=1), Along(0)),
}


def everything(z):
    return [function(z) for function, _ in PROGRAMS.values()]


@pytest.fixture(scope="module")
def program():
    return jax.make_jaxpr(everything)(jax.ShapeDtypeStruct((N,), np.int32))


@pytest.fixture(scope="module")
def found(program):
    return dict(zip(PROGRAMS, dependence(program, ["z"]), strict=True))


@pytest.fixture(scope="module")
def changes():
    """Which entries of each output change when one entry of z does, as (entry, output), at random values."""
    run, generator, seen = jax.jit(everything), np.random.default_rng(0), []
    for _ in range(3):
        z = generator.integers(0, K, N)
        for entry in range(N):
            other = z.copy()
            other[entry] = (other[entry] + 1) % K
            seen.append((entry, dict(zip(PROGRAMS, map(np.not_equal, run(z), run(other)), strict=True))))
    return seen


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_found_is_what_changes_or_more(name, found, changes):
    along, expected = found[name]["z"].get(0), PROGRAMS[name][1]
    assert along is expected or along.same(expected)
    if along is None:
        return
    for entry, changed in changes:
        rows = np.moveaxis(changed[name], along.axis, 0)
        index = np.arange(N) if along.index is None else along.index
        others = (index.reshape(len(index), -1) != entry).all(axis=1)
        assert not rows.reshape(len(index), -1).any(axis=1)[others].any()


def test_short_axes_change_no_number(program):
    """All entries alike, given as one."""
    run, short = jax.jit(everything), jax.jit(lambda z: evaluate(program, [z]))
    for value in range(K):
        pairs = zip(PROGRAMS, short(jnp.full(1, value)), run(jnp.full(N, value)), strict=True)
        for name, one, all_of_them in pairs:
            np.testing.assert_allclose(one, all_of_them, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "index",
    [[0, 1, 0, 1, 0], *(pytest.param(index, marks=pytest.mark.long) for index in ([1, 1, 0, 0, 0], [0, 0, 0, 0, 0]))],
)
def test_few_slices_change_no_number(program, index):
    run, few = jax.jit(everything), jax.jit(lambda z: evaluate(program, [Few(z, np.array(index), 0)]))
    for pair in ([0, 1], [2, 0], [1, 1]):
        z = np.array(pair)
        for name, found, plain in zip(PROGRAMS, few(z), run(z[index]), strict=True):
            np.testing.assert_allclose(found, plain, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_that_hands_on_a_key_and_a_state_is_none(reverse):
    """As NumPyro's scan does it: what it hands on at last is not asked for."""

    def chained(z):
        def body(carry, _):
            number, key, before = carry
            key, _ = jax.random.split(key)
            return (number + 1, key, z[number]), T[before, z[number]]

        begin = (jnp.zeros((), int), jax.random.key(0), jnp.zeros((), z.dtype))
        return lax.scan(body, begin, jnp.arange(N), reverse=reverse)[1]

    program = jax.make_jaxpr(chained)(jax.ShapeDtypeStruct((N,), np.int32))
    index = np.arange(N) % 2

    def summed(z):
        return evaluate(program, [Few(z, index, 0)])[0]

    z = np.array([2, 1])
    np.testing.assert_allclose(summed(z), chained(jnp.asarray(z[index])), rtol=1e-6)
    traced = jax.make_jaxpr(summed)(z)
    assert "scan" not in str(traced)
    looked_up = [step.outvars[0].aval.shape for step in traced.jaxpr.eqns if step.primitive.name == "gather"]
    assert looked_up[-1] == (3, 1, 1)  # the first state, and both pairs of neighbours; those before serve for nothing


def test_two_arrays_and_data():
    def both(z, w, data):
        return M[z] + M[w[data]], T[z, w], (z[:, None] + w).sum(1)

    shape = jax.ShapeDtypeStruct((N,), np.int32)
    program = jax.make_jaxpr(both)(shape, shape, GROUP[:5])
    found = dependence(program, ["z", "w", GROUP[:5]])
    assert found[0]["z"] == {0: Along(0)}
    assert found[0]["w"][0].same(Along(0, GROUP[:5]))
    assert found[1] == {"z": {0: Along(0)}, "w": {0: Along(0)}}
    assert found[2] == {"z": {0: Along(0)}, "w": {}}
