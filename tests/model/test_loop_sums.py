"""Sums written for loops: the same sums, whatever the indices and lengths, and nothing else changed."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probinfer.model import loop_sums
from probinfer.model.loop_products import turnable
from probinfer.model.loop_sums import with_loop_sums
from probinfer.model.model import Model
from probinfer.model.target import Target

GROUPS = 7


def rewritten(function, *arguments):
    program = jax.make_jaxpr(function)(*arguments)
    return program, jax.make_jaxpr(with_loop_sums(program))(*arguments), jax.jit(with_loop_sums(program))(*arguments)


def primitives(program) -> set[str]:
    return {step.primitive.name for step in program.jaxpr.eqns}


def indices(n: int, low: int = 0, high: int = GROUPS) -> np.ndarray:
    return np.random.default_rng(n).integers(low, high, size=n)


@pytest.mark.parametrize("row", [(), (3,), (2, 4)])
@pytest.mark.parametrize("n", [1, 50])
def test_gradient_of_a_gather(row, n):
    level = jnp.asarray(np.random.default_rng(0).normal(size=(GROUPS, *row)))
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(n, *row)))
    group = indices(n)
    before, after, (sums,) = rewritten(jax.grad(lambda level: (weight * level[group] ** 2).sum()), level)
    exact = np.zeros(level.shape)
    np.add.at(exact, group, 2 * np.asarray(weight) * np.asarray(level)[group])
    np.testing.assert_allclose(sums, exact, rtol=1e-5, atol=1e-6)
    assert "scatter-add" in primitives(before)
    assert "scatter-add" not in primitives(after)


@pytest.mark.parametrize("mode", ["drop", "clip"])
def test_indices_out_of_range(mode):
    rows = jnp.asarray(np.random.default_rng(2).normal(size=40))
    group = jnp.asarray(indices(40, -3, GROUPS + 3))
    scatter = lambda rows: jnp.zeros(GROUPS).at[group].add(rows, mode=mode, wrap_negative_indices=False)  # noqa: E731
    before, after, (sums,) = rewritten(scatter, rows)
    np.testing.assert_allclose(sums, scatter(rows), rtol=1e-5, atol=1e-6)
    assert "scatter-add" in primitives(before)
    assert "scatter-add" not in primitives(after)


def test_other_scatters_are_left(monkeypatch):
    x = jnp.ones((5, 4))
    columns = lambda x: jnp.zeros((5, GROUPS)).at[:, jnp.array([1, 1, 2, 0])].add(x)  # noqa: E731
    _, after, (sums,) = rewritten(columns, x)
    np.testing.assert_allclose(sums, columns(x))
    assert "scatter-add" in primitives(after)
    monkeypatch.setattr(loop_sums, "MOST_ROWS", 3)
    _, after, _ = rewritten(lambda x: jnp.zeros(GROUPS).at[jnp.array([1, 1, 2, 0])].add(x), jnp.ones(4))
    assert "scatter-add" in primitives(after)


def test_more_groups_than_rows():
    rows = jnp.asarray(np.random.default_rng(4).normal(size=10))
    group = jnp.asarray(indices(10, 0, 500))
    scatter = lambda rows: jnp.ones(500).at[group].add(rows)  # noqa: E731
    _, _, (sums,) = rewritten(scatter, rows)
    np.testing.assert_allclose(sums, scatter(rows), rtol=1e-5)


@pytest.mark.parametrize("shape", [(64,), (67,), (1001,), (9, 8), (5, 3, 7)])
def test_sum_of_all(shape):
    x = np.random.default_rng(5).normal(size=shape)
    before, after, (total,) = rewritten(lambda x: x.sum(), jnp.asarray(x))
    assert abs(float(total) - x.sum()) < 1e-5 * np.abs(x).sum()
    # The new program is another one: eight sums side by side, then these and what is left over.
    assert len(after.jaxpr.eqns) > len(before.jaxpr.eqns)


def test_other_sums_are_left():
    for function, x in [
        (lambda x: x.sum(0), jnp.ones((100, 3))),
        (lambda x: x.sum(), jnp.ones(63)),
        (lambda x: x.sum(), jnp.ones(100, int)),
    ]:
        before, after, (total,) = rewritten(function, x)
        assert str(after) == str(before)
        np.testing.assert_array_equal(total, function(x))


def grouped(group, y=None):
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("groups", GROUPS):
        level = numpyro.sample("level", dist.Normal(0.0, spread))
    numpyro.sample("y", dist.Normal(level[group], 1.0), obs=y)


def test_gradient_of_a_model_in_a_loop():
    """It is the gradient, and on a CPU the loop that holds it is free of scatters, which would break it up."""
    group = indices(60)
    target = Target(Model(grouped).bind({"group": group, "y": np.random.default_rng(3).normal(size=60)}))
    with target.precision():
        z = jnp.linspace(-1.0, 1.0, target.dim)
        value, gradient = jax.jit(target.value_and_grad)(z, target.inputs)
        looped_value, looped_gradient = jax.jit(target.value_and_grad_in_loop)(z, target.loop_inputs)
        np.testing.assert_allclose(looped_value, value, rtol=1e-12)
        np.testing.assert_allclose(looped_gradient, gradient, rtol=1e-10)
        if jax.default_backend() == "cpu":
            assert "scatter" in str(jax.make_jaxpr(target.value_and_grad)(z, target.inputs))
            assert "scatter" not in str(jax.make_jaxpr(target.value_and_grad_in_loop)(z, target.loop_inputs))


@pytest.mark.parametrize("shape", [(50, 1), (50, 2), (6, 7, 8)])
def test_sums_of_few_numbers(shape):
    x = np.random.default_rng(6).normal(size=shape)
    before, after, (sums,) = rewritten(lambda x: x.sum(-1), jnp.asarray(x))
    np.testing.assert_allclose(sums, x.sum(-1), rtol=1e-5, atol=1e-6)
    assert "reduce_sum" in primitives(before)
    assert "reduce_sum" not in primitives(after)


def test_sums_of_more_are_left():
    before, after, (sums,) = rewritten(lambda x: x.sum(-1), jnp.ones((50, 9)))
    assert str(after) == str(before)
    np.testing.assert_array_equal(sums, 9.0)


ROWS, COLUMNS = 40, 3


@pytest.mark.parametrize(
    "product",
    [lambda x, b: x @ b, lambda x, b: b @ x.T, lambda x, b: jnp.dot(x, b), lambda x, b: jnp.einsum("nk,k->n", x, b)],
    ids=["matmul", "transposed by the user", "dot", "einsum"],
)
def test_products_with_the_table_turned(product):
    """Value and gradient are those without; a table that is not that of the argument turned shows."""
    generator = np.random.default_rng(7)
    x, b = (jnp.asarray(generator.normal(size=size)) for size in ((ROWS, COLUMNS), COLUMNS))
    program = jax.make_jaxpr(jax.value_and_grad(lambda b, x: jnp.sin(product(x, b)).sum()))(b, x)
    value, gradient = jax.value_and_grad(lambda b, x: jnp.sin(product(x, b)).sum())(b, x)
    run = with_loop_sums(program)
    for places in ((), turnable(program)):
        found = run(b, x, turned=dict.fromkeys(places, x.T))
        np.testing.assert_allclose(found[0], value, rtol=1e-5)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-5, atol=1e-6)
    if turnable(program):
        other, _ = run(b, x, turned={1: 2.0 * x.T})
        assert abs(float(other - value)) > 0.1


def test_which_tables_can_be_turned():
    b, x = jnp.zeros(COLUMNS), jnp.zeros((ROWS, COLUMNS))

    def places(function, *arguments):
        return turnable(jax.make_jaxpr(function)(*arguments))

    assert places(lambda b, x: x @ b, b, x) == (1,)
    assert places(lambda x, b: (x @ b, x), x, b) == (0,)
    assert places(lambda b, x: jax.jit(lambda c, y: y @ c)(2 * b, x), b, x) == (1,)
    assert places(lambda b, x: (x + 1.0) @ b, b, x) == ()  # what is multiplied is made in the program
    assert places(lambda b, x: x @ b, b.astype(int), x.astype(int)) == ()
    assert places(lambda b, x: x @ b, jnp.zeros((COLUMNS, 2)), x) == ()
    assert places(lambda b, x: b[:, None] * x.T, b, x) == ()


def regression(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([COLUMNS]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)


@pytest.mark.parametrize("float64", [True, False])
def test_tables_of_a_model_are_turned(float64, monkeypatch):
    generator = np.random.default_rng(8)
    x, y = generator.normal(size=(ROWS, COLUMNS)), generator.normal(size=ROWS)
    target = Target(Model(regression).bind({"x": x, "y": y}), float64=float64)
    other = target.with_arrays({"x": 3.0 * x, "y": y})
    for each in (target, other):
        with each.precision():
            z = jnp.linspace(-1.0, 1.0, each.dim)
            value, gradient = each.value_and_grad(z, each.inputs)
            looped_value, looped_gradient = each.value_and_grad_in_loop(z, each.loop_inputs)
            np.testing.assert_allclose(looped_value, value, rtol=1e-5)
            np.testing.assert_allclose(looped_gradient, gradient, rtol=1e-5)
    if jax.default_backend() == "cpu":
        assert target.loop_inputs.turned["x"].dtype == target.dtype
        np.testing.assert_allclose(other.loop_inputs.turned["x"], 3.0 * x.T, rtol=1e-6)
        monkeypatch.setattr("probinfer.model.target.MOST_BYTES", 8 * ROWS * COLUMNS - 1)
        assert not Target(Model(regression).bind({"x": x, "y": y})).loop_inputs.turned
