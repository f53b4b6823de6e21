"""A target in other coordinates: the same density, exactly, whatever the centring; and which sites it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from probinfer.inference.mcmc.compiled import compiled_density
from probinfer.model.location_scale import ROOT_OF, UNIT_OF
from probinfer.model.model import LogDensity, Model
from probinfer.model.recentred import Recentred
from probinfer.model.target import Target

Y = np.array([1.0, -0.5, 2.0, 0.3])
LAWS = {
    "Normal": lambda loc, scale: dist.Normal(loc, scale),
    "StudentT": lambda loc, scale: dist.StudentT(4.0, loc, scale),
    "Laplace": lambda loc, scale: dist.Laplace(loc, scale),
    "Logistic": lambda loc, scale: dist.Logistic(loc, scale),
    "Cauchy": lambda loc, scale: dist.Cauchy(loc, scale),
    "Gumbel": lambda loc, scale: dist.Gumbel(loc, scale),
    "LogNormal": lambda loc, scale: dist.LogNormal(loc, scale),
    "event": lambda loc, scale: dist.Normal(loc, scale).expand([4]).to_event(1),
}
QUICK = ("StudentT", "LogNormal", "event")


def groups(law):
    """Groups under a law with unknown location and scale; of four entries however the law is written."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        made = LAWS[law](mu, tau)
        theta = numpyro.sample("theta", made if made.shape() else made.expand([4]))
        numpyro.sample("y", dist.Normal(theta, 1), obs=y)

    return model


def nested(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    tau = numpyro.sample("tau", dist.HalfNormal(1).expand([2]).to_event(1))
    region = numpyro.sample("region", dist.Normal(mu, tau[0]).expand([2]))
    theta = numpyro.sample("theta", dist.Normal(region[jnp.array([0, 0, 1, 1])], tau[1]))
    numpyro.sample("y", dist.Normal(theta, 1), obs=y)


def in_units(y):
    """Groups in units of their scale, which the model says of them."""
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    unit = numpyro.sample("unit", dist.Normal(0, 1).expand([4]), infer={UNIT_OF: tau})
    numpyro.sample("y", dist.Normal(tau * unit, 1), obs=y)


def mixed(y):
    """Pairs of correlated effects around means, in units of the root of their covariance."""
    mean = numpyro.sample("mean", dist.Normal(0, 2).expand([2]))
    sd = numpyro.sample("sd", dist.HalfNormal(1).expand([2]))
    r = numpyro.sample("r", dist.Uniform(-1, 1))
    root = sd[:, None] * jnp.stack([jnp.stack([1.0, 0 * r]), jnp.stack([r, jnp.sqrt(1 - r**2)])])
    unit = numpyro.sample("unit", dist.Normal(0, 1).expand([2, 2]), infer={ROOT_OF: (root, mean)})
    numpyro.sample("y", dist.Normal(jnp.ravel(mean + unit @ root.T), 1), obs=y)


def target_of(model, data=None):
    return Target(Model(model).bind({"y": Y} if data is None else data))


def density(target, points):
    program = compiled_density(target)
    with target.precision():
        found = [program(z, target.inputs) for z in points]
    return np.array([float(value) for value, _ in found]), np.stack([np.asarray(slope) for _, slope in found])


def points_of(target, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(5, target.dim)), generator.uniform(size=target.dim)


@pytest.mark.parametrize(
    "model",
    [
        *(pytest.param(groups(law), id=law, marks=() if law in QUICK else pytest.mark.long) for law in LAWS),
        nested,
        in_units,
        mixed,
    ],
)
def test_the_density_is_that_of_the_model_less_the_jacobian(model):
    """log p(z) = log p(x(z)) + log |dx / dz|, with the determinant of the whole map by differentiation."""
    plain = target_of(model)
    moved = Recentred(plain)
    z, centring = points_of(plain)
    moved = moved.centred(centring)
    inputs = moved.inputs

    @jax.jit
    def to_model(z):
        return moved._move(z, jnp.zeros_like(z), jnp.ones_like(z), inputs).to

    with plain.precision():
        x = np.stack([np.asarray(to_model(jnp.asarray(point))) for point in z])
        jacobians = np.stack([np.asarray(jax.jit(jax.jacfwd(to_model))(jnp.asarray(point))) for point in z])
    assert np.abs(x - z).max() > 0.01
    determinants = np.linalg.slogdet(jacobians)[1]
    there, slopes = density(plain, x)
    here, own = density(moved, z)
    np.testing.assert_allclose(here, there + determinants, rtol=0, atol=1e-10)
    # the gradient too: carried over from there by `move`, and of the density itself
    to = moved.move(z, np.ones(plain.dim), slopes)
    np.testing.assert_allclose(to.to, x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(to.gradient, own, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(to.surplus, determinants, rtol=0, atol=1e-10)


def test_mixed_units_become_the_correlated_effects_with_their_means():
    """At c = 0; and with the root's mixing left out, that would be seen."""
    plain = target_of(mixed)
    effects = Recentred(plain).centred(np.zeros(plain.dim))
    z, _ = points_of(plain)
    to = effects.move(z, np.ones(plain.dim)).to
    values = plain.constrain(to)
    own = np.array(plain.coordinate_names()) == "unit"
    seen = z[:, own].reshape(-1, 2, 2)
    sd, r, mean, unit = (values[name] for name in ("sd", "r", "mean", "unit"))
    second = r[:, None] * unit[..., 0] + np.sqrt(1 - r[:, None] ** 2) * unit[..., 1]
    made = mean[:, None] + sd[:, None] * np.stack([unit[..., 0], second], axis=-1)
    np.testing.assert_allclose(seen, made, atol=1e-10)
    assert np.abs(seen - (mean[:, None] + sd[:, None] * unit)).max() > 0.01


def test_units_become_the_effects_that_they_are_of():
    plain = target_of(in_units)
    assert plain.hierarchical == ("unit",)
    z, _ = points_of(plain)
    effects = Recentred(plain).move(z, np.zeros(plain.dim)).to
    np.testing.assert_allclose(effects[:, 1:], np.exp(z[:, :1]) * z[:, 1:], rtol=1e-12)
    assert plain.coordinate_names()[0] == "tau"


def test_from_one_centring_to_another_and_back():
    plain = target_of(nested)
    z, first = points_of(plain, 1)
    second = points_of(plain, 2)[1]
    one, other = Recentred(plain).centred(first), Recentred(plain).centred(second)
    there = one.move(z, second).to
    np.testing.assert_allclose(other.move(there, first).to, z, rtol=0, atol=1e-12)
    values = plain.constrain(one.move(z, np.ones(plain.dim)).to)
    for name, value in other.constrain(there).items():
        np.testing.assert_allclose(value, values[name], rtol=1e-10, atol=1e-12)


def test_the_centring_of_the_model_is_the_model_exactly():
    plain = target_of(nested)
    z, _ = points_of(plain)
    np.testing.assert_array_equal(Recentred(plain).move(z, np.ones(plain.dim)).to, z)
    for one, other in zip(density(Recentred(plain), z), density(plain, z), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-14)


def test_a_tiny_scale_does_not_lose_the_noise():
    """x - loc is zero in floating point where the scale is 1e-20 of the location, and z is not."""
    plain = target_of(groups("Normal"))
    moved = Recentred(plain).centred(np.zeros(plain.dim))
    noise = np.array([0.3, -1.2, 0.8, 0.1])
    z = np.array([[1.5, -46.0, *noise], [1.5, -46.0, *(2 * noise)]])
    assert moved.coordinate_names()[:2] == ["mu", "tau"]
    values, slopes = density(moved, z)
    np.testing.assert_allclose(values[1] - values[0], -0.5 * (3 * noise**2).sum(), rtol=1e-10)
    np.testing.assert_allclose(slopes[:, 2:], -z[:, 2:], rtol=1e-10)


def test_a_point_moves_alike_wherever_it_is_in_the_table():
    moved = Recentred(target_of(nested)).centred(np.full(9, 0.3))
    z = np.random.default_rng(0).normal(size=(1203, moved.dim))
    all_at_once = moved.move(z, np.ones(moved.dim)).to
    one_by_one = np.concatenate([moved.move(row[None], np.ones(moved.dim)).to for row in z[495:510]])
    np.testing.assert_array_equal(all_at_once[495:510], one_by_one)


def test_many_points_at_once_move_alike(monkeypatch):
    """As they do on a GPU; and in tables of another size."""
    plain = target_of(nested)
    z, centring = points_of(plain)
    one_by_one = Recentred(plain).move(z, centring, z)
    monkeypatch.setattr("probinfer.model.recentred._MANY", 2)
    in_twos = Recentred(plain).move(z, centring, z)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    at_once = Recentred(plain).move(z, centring, z)
    for part, same, near in zip(one_by_one, in_twos, at_once, strict=True):
        np.testing.assert_array_equal(part, same)
        np.testing.assert_allclose(part, near, rtol=1e-12, atol=1e-12)


def test_the_program_in_a_loop_sees_the_centring_and_the_tables():
    """It takes inputs of its own, made once, with tables of data transposed."""

    def model(X, y):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        slopes = numpyro.sample("slopes", dist.Normal(0, tau).expand([X.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ slopes, 1), obs=y)

    generator = np.random.default_rng(0)
    plain = target_of(model, {"X": generator.normal(size=(40, 3)), "y": generator.normal(size=40)})
    z, centring = points_of(plain)
    first = Recentred(plain)
    assert set(first.loop_inputs.turned) == {"X"}
    other = first.centred(centring)
    assert other.loop_inputs.turned["X"] is first.loop_inputs.turned["X"]
    for moved in (first, other, other.centred(np.zeros(plain.dim))):
        with plain.precision():
            value, slope = jax.jit(moved.value_and_grad_in_loop)(z[0], moved.loop_inputs)
        values, slopes = density(moved, z[:1])
        np.testing.assert_allclose(float(value), values[0], rtol=1e-12)
        np.testing.assert_allclose(slope, slopes[0], rtol=1e-9, atol=1e-12)


def test_which_sites_are_moved():
    def model(X, group, y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        numpyro.sample("of_data", dist.Normal(X[0], 1))
        numpyro.sample("of_numbers", dist.Normal(jnp.zeros(2), 1))
        numpyro.sample("other_law", dist.Gamma(2.0, 1 / tau))
        numpyro.sample("masked", dist.Normal(mu, 1).mask(False))
        with numpyro.handlers.scale(scale=0.5):
            numpyro.sample("scaled", dist.Normal(mu, 1))
        theta = numpyro.sample("theta", dist.Normal(mu, 1).expand([3]))
        numpyro.sample("of_scale", dist.LogNormal(0, tau))
        scan(lambda carry, _: (numpyro.sample("steps", dist.Normal(carry, tau)), None), mu, None, length=3)
        numpyro.sample("y", dist.Normal(theta[group], 1), obs=y)

    target = target_of(model, {"X": np.ones((2, 3)), "group": np.array([0, 1, 2]), "y": np.zeros(3)})
    assert target.hierarchical == ("theta", "of_scale")
    moved = Recentred(target).centred(np.zeros(target.dim))
    assert {name for name, c in zip(target.coordinate_names(), moved.centring, strict=True) if c == 0} == {
        "theta",
        "of_scale",
    }


def test_nothing_is_moved_where_nothing_is_observed():
    def funnel():
        v = numpyro.sample("v", dist.Normal(0, 3))
        numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]))

    def with_factor():
        funnel()
        numpyro.factor("data", 0.0)

    def positive():
        tau = numpyro.sample("tau", dist.HalfNormal(1))  # its Jacobian is a factor, and none of the model's
        numpyro.sample("x", dist.Normal(0, tau))

    assert target_of(funnel, {}).hierarchical == ()
    assert target_of(positive, {}).hierarchical == ()
    assert target_of(with_factor, {}).hierarchical == ("x",)
    assert Target(LogDensity(lambda x: -(x**2).sum(), 2).bind()).hierarchical == ()
    assert Target(Model(groups("Normal")).bind({"y": Y}), gradient=False).hierarchical == ()


def test_copies_for_other_data_trace_nothing_anew(monkeypatch):
    plain = target_of(nested)
    first = Recentred(plain)
    other = plain.with_arrays({"y": Y + 1})
    monkeypatch.setattr(Target, "_trace", lambda *_, **__: pytest.fail("traced"))
    again = Recentred(other)
    assert again.fingerprint == first.fingerprint
    z, _ = points_of(plain)
    np.testing.assert_allclose(density(again, z)[0], density(other, z)[0], rtol=1e-13)
