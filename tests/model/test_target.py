"""The flat log density: equal to NumPyro's own, with its Jacobian, in both precisions, for every kind of support."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import potential_energy

from probinfer import LogDensity, Model
from probinfer.model.target import Target


def supports(y=None):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("L", dist.LKJCholesky(3, 1.0))
    o = numpyro.sample(
        "o", dist.TransformedDistribution(dist.Normal(0, 1).expand([2]), dist.transforms.OrderedTransform())
    )
    c = numpyro.sample("c", dist.Uniform(0, 1))
    d = numpyro.sample("d", dist.Uniform(0, 1 - c))
    with numpyro.plate("p", 4):
        e = numpyro.sample("e", dist.Gamma(2.0, 1.0))
        numpyro.sample("f", dist.Dirichlet(jnp.ones(2)))
    numpyro.sample("y", dist.Normal(e.sum() + o.sum() + w[0] + d, 1.0), obs=y)
    numpyro.factor("extra", -0.1 * d**2)


def scanned(y):
    s = numpyro.sample("s", dist.HalfNormal(1))

    def step(x, y_t):
        x = numpyro.sample("x", dist.LogNormal(x, s))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, None

    scan(step, 0.0, y)


@pytest.mark.parametrize(
    ("model", "data"), [(supports, {"y": 1.5}), (scanned, {"y": np.arange(5.0)})], ids=["supports", "scan"]
)
def test_log_density_equals_numpyro(model, data):
    target = Target(Model(model).bind(data))
    points = np.random.default_rng(0).normal(size=(5, target.dim))
    with target.precision():
        arguments = {name: jnp.asarray(value) for name, value in data.items()}
        at = jax.jit(lambda z: -potential_energy(model, (), arguments, target._layout.split(z)))
        ours = jax.jit(target.log_density)
        for z in points:
            np.testing.assert_allclose(ours(jnp.asarray(z), target.inputs), at(jnp.asarray(z)), rtol=1e-12)


def test_a_density_without_its_jacobian_is_told_apart():
    """The broken twin of the test above: leaving out one log Jacobian changes the value by far more than rounding."""
    target = Target(Model(supports).bind({"y": 1.5}))
    z = np.random.default_rng(0).normal(size=target.dim)
    terms = target.site_log_densities(z)
    for name in ("w", "L", "o", "c", "d", "e", "f"):
        assert abs(terms[f"_{name}_log_jacobian"]) > 1e-6 * abs(sum(terms.values()))


def test_named_density_with_a_support_is_the_constrained_one():
    """Gamma(3, 2) written by hand: E = 3/2 needs the Jacobian; checked by quadrature over the unconstrained line."""
    density = LogDensity(
        lambda v: 2 * jnp.log(v["t"]) - 2 * v["t"], shapes={"t": ()}, supports={"t": dist.constraints.positive}
    )
    target = Target(density.bind())
    grid = np.linspace(-12, 6, 4001)[:, None]
    with target.precision():
        log_p = np.asarray(jax.vmap(lambda z: target.log_density(z, target.inputs))(jnp.asarray(grid)))
    weights = np.exp(log_p - log_p.max())
    mean = (weights * target.constrain(grid)["t"]).sum() / weights.sum()
    np.testing.assert_allclose(mean, 1.5, rtol=1e-6)


def normal_mean(y, scale=1.0):
    m = numpyro.sample("m", dist.Normal(0, 1))
    with numpyro.plate("row", len(y)):
        mu = numpyro.deterministic("mu", m * jnp.ones(len(y)))
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def test_constrain_and_pointwise_log_likelihood_in_any_number_of_leading_axes():
    target = Target(Model(normal_mean).bind({"y": np.arange(3.0)}))
    z = np.random.default_rng(1).normal(size=(2, 5, 1))
    values = target.constrain(z)
    np.testing.assert_allclose(values["m"], z[..., 0])
    assert values["mu"].shape == (2, 5, 3)
    expected = -0.5 * (np.arange(3.0) - z) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(target.pointwise_log_likelihood(z)["y"], expected, rtol=1e-12)
    assert list(target.constrain(z, deterministics=False)) == ["m"]


def test_chunks_do_not_change_the_answer(monkeypatch):
    target = Target(Model(normal_mean).bind({"y": np.arange(3.0)}))
    z = np.random.default_rng(2).normal(size=(101, 1))
    whole = target.constrain(z)
    monkeypatch.setattr("probinfer.model.target._CHUNK_BYTES", 8 * 4 * 10)
    np.testing.assert_array_equal(target.constrain(z)["mu"], whole["mu"])


def test_the_fingerprint_names_the_program_and_not_the_data():
    def fingerprint(model, **data):
        return Target(Model(model).bind(data)).fingerprint

    def same_name(y, scale=1.0):
        m = numpyro.sample("m", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(m, scale), obs=y)

    base = fingerprint(normal_mean, y=np.zeros(3))
    assert fingerprint(normal_mean, y=np.ones(3)) == base
    assert fingerprint(normal_mean, y=np.ones(4)) != base
    assert fingerprint(normal_mean, y=np.zeros(3), scale=2) != base
    assert fingerprint(same_name, y=np.zeros(3)) != base


def test_a_constant_that_the_function_closes_over_is_part_of_the_fingerprint():
    def with_constant(offset):
        def model(y):
            m = numpyro.sample("m", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(m + offset, 1), obs=y)

        return Target(Model(model).bind({"y": np.zeros(3)})).fingerprint

    assert with_constant(np.zeros(3)) != with_constant(np.array([0.0, 0.0, 1.0]))
    assert with_constant(np.zeros(3)) == with_constant(np.zeros(3))


def test_precision_is_set_for_the_call_and_not_for_the_process():
    before = jax.config.jax_enable_x64
    for float64 in (True, False):
        target = Target(Model(normal_mean).bind({"y": np.arange(3.0)}), float64=float64)
        assert target.dtype == (np.float64 if float64 else np.float32)
        assert target.constrain(np.zeros((2, 1)))["m"].dtype == target.dtype
    assert jax.config.jax_enable_x64 == before
    assert jnp.zeros(1).dtype == (jnp.float64 if before else jnp.float32)


def test_models_may_be_traced_on_several_threads_at_once():
    """NumPyro's handlers are one stack for all threads; a site that another thread's model saw would be a duplicate."""
    both_inside = threading.Barrier(2, timeout=0.5)

    def model(scale):
        x = numpyro.sample("x", dist.HalfNormal(scale))
        with contextlib.suppress(threading.BrokenBarrierError):
            both_inside.wait()
        numpyro.sample("y", dist.Normal(x, 1.0), obs=jnp.zeros(1))

    with ThreadPoolExecutor(2) as pool:
        targets = list(pool.map(lambda scale: Target(Model(model).bind({"scale": np.array([scale])})), [1.0, 2.0]))
    assert [target.dim for target in targets] == [1, 1]
