"""Rows shared by several devices: the density and the posterior of one device, each device holding its part alone.

JAX settles how many devices a CPU is when it is first used: the tests run in a process of their own with two of them.
"""

import os
import subprocess
import sys

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.errors import MethodError
from probinfer.model.shared_rows import devices_of

SETUP = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
import probinfer as pi
from probinfer.model.target import Target
from tests.inference.test_devices import DATA, regression
"""

DENSITY = """
one = Target(pi.Model(regression).bind(DATA))
two = one.over(jax.devices())
shapes = {name: [shard.data.shape for shard in array.addressable_shards] for name, array in two.inputs.items()}
assert shapes == {"X": [(500, 2)] * 2, "g": [(500,)] * 2, "y": [(500,)] * 2, "w": [(2,)] * 2}, shapes
points = np.random.default_rng(0).normal(size=(20, one.dim))
found = []
for target in (one, two):
    with target.precision():
        point = jax.ShapeDtypeStruct((target.dim,), target.dtype)
        program = target.compile("density", target.value_and_grad, point, target.inputs)
        found.append([jax.tree.map(np.asarray, program(z, target.inputs)) for z in points])
for (value, gradient), (value_2, gradient_2) in zip(*found):
    np.testing.assert_allclose(value_2, value, rtol=1e-12)
    np.testing.assert_allclose(gradient_2, gradient, rtol=1e-10, atol=1e-10)
text = program.as_text()
assert "all-reduce" in text and "all-gather" not in text, "rows left their device"
assert "f64[1000" not in text and "f64[500" in text, "a device handles rows of the other"
np.testing.assert_allclose(
    two.pointwise_log_likelihood(points)["y"], one.pointwise_log_likelihood(points)["y"], rtol=1e-12
)
half = Target(pi.Model(regression).bind({**DATA, **{name: DATA[name][:500] for name in ("X", "g", "y")}}))
assert abs(half.gradient_at(points[0]) - one.gradient_at(points[0])).max() > 1  # what a lost part would look like
"""

POSTERIOR = """
from tests.inference.statistics import effective_size
settings = pi.NUTS(chains=2, draws=400, init=pi.Pathfinder())
one = pi.infer(regression, DATA, settings, progress=False)
two = pi.infer(regression, DATA, settings, devices=jax.devices(), checkpoint="run", progress=False)
assert two.tree.attrs["devices"] == 2 and two.report.verdict is pi.Verdict.GOOD
again = pi.infer(regression, DATA, settings, devices=2, checkpoint="run", progress=False)
for name in ("level", "beta", "sigma"):
    a, b, c = (np.asarray(each.tree["posterior"][name]) for each in (one, two, again))
    np.testing.assert_array_equal(b, c)
    variance = sum(draws.var(axis=(0, 1)) / effective_size(draws) for draws in (a, b))
    assert (abs(a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))) < 5.5 * np.sqrt(variance)).all()  # false alarm 1e-7 for 7
try:
    pi.infer(regression, DATA, settings, checkpoint="run", progress=False)
except pi.CheckpointError as error:
    assert "devices: 2 there, nothing now" in str(error)
else:
    raise AssertionError("a checkpoint of two devices went on with one")
"""

REFUSALS = """
def refused(text, model, data, **given):
    try:
        pi.infer(model, data, progress=False, **given)
    except pi.MethodError as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)

import jax.numpy as jnp, numpyro, numpyro.distributions as dist
odd = {**DATA, **{name: DATA[name][:999] for name in ("X", "g", "y")}}
text = "999 rows cannot be shared evenly by 2 devices: leave out 1 of them, or use devices=1"
refused(text, regression, odd, devices=2)
refused("devices is 3, and there are 2 (cpu:0, cpu:1). A CPU is as many as", regression, DATA, devices=3)
refused("names one of them twice", regression, DATA, devices=[jax.devices()[0]] * 2)
refused("Metropolis does not heed devices=", regression, DATA, method=pi.Metropolis(), devices=2)

def vector(y):
    numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1).expand([len(y)]).to_event(1), obs=y)

refused("y has one log density for all of them", vector, {"y": np.zeros(4)}, devices=2)
refused("the model has no outcome", pi.LogDensity(lambda x: -0.5 * jnp.sum(x**2), 2), None, devices=2)

def mixed(y):
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)) * z, 1), obs=y)

refused("devices= is for models without discrete sites", mixed, {"y": np.zeros(4)}, devices=2)
"""


def regression(X, g, w, y=None):
    """Levels by group, slopes, noise; `w`, two numbers, has no rows."""
    level = numpyro.sample("level", dist.Normal(0, 1).expand([4]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, w).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(level[g] + X @ beta, sigma), obs=y)


def _data():
    rng = np.random.default_rng(7)
    X, g = rng.normal(size=(1000, 2)), rng.integers(0, 4, 1000)
    y = 0.3 * g + X @ np.array([1.0, -0.5]) + rng.normal(size=1000)
    return {"X": X, "g": g, "w": np.array([1.0, 2.0]), "y": y}


DATA = _data()


def with_two_devices(code, folder):
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code], capture_output=True, text=True, timeout=400, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_density_and_gradient_are_those_of_one_device_and_rows_stay_where_they_are(tmp_path):
    with_two_devices(DENSITY + REFUSALS, tmp_path)


@pytest.mark.long
def test_the_posterior_is_that_of_one_device_and_goes_on_from_a_checkpoint(tmp_path):
    with_two_devices(POSTERIOR, tmp_path)


def test_devices_are_a_number_or_a_list():
    assert devices_of(1) == (jax.devices()[0],) == devices_of(jax.devices()[:1]) == devices_of(jax.devices()[0])
    for wrong, text in ((0, "devices is 0"), (True, "wanted a number"), ("gpu", "wanted a number"), ([], "wanted a")):
        with pytest.raises(MethodError, match=text):
            devices_of(wrong)
    with pytest.raises(pi.MethodError, match="devices is 9"):  # before the model runs
        pi.infer(lambda: 1 / 0, None, devices=9)
